from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orcha_pipeline.model import HOUR
from orcha_pipeline.warehouse import alert_rows as rows
from orcha_pipeline.warehouse import message_rows
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.facts import naive
from orcha_pipeline_tests.anomalies.alerts.build import a_message, an_alert

NOW = datetime(2026, 3, 5, 12, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def connection(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    with warehouse.write() as connection:
        yield connection


def raised(connection, *, kind="forecast_drift", subject="storj", at=NOW):
    return rows.raise_alert(
        connection,
        at=at,
        kind=kind,
        severity="warning",
        scope="protocol",
        subject=subject,
        message="told",
        evidence={"b": 1, "a": None},
    )


def test_an_open_alert_is_not_raised_twice_and_one_of_another_subject_or_kind_is(connection):
    first = raised(connection)
    assert raised(connection, at=NOW + HOUR) is None
    assert raised(connection, subject="golem") is not None
    assert raised(connection, kind="price_stale") is not None
    (found,) = [item for item in rows.open_alerts(connection) if item.alert_id == first]
    assert (found.raised_at, found.kind, found.severity, found.subject) == (NOW, "forecast_drift", "warning", "storj")
    assert (found.message, dict(found.evidence), found.resolved_at) == ("told", {"a": None, "b": 1}, None)
    assert (found.scope, found.last_seen_at, found.announced_at) == ("protocol", None, None)
    assert len(rows.open_alerts(connection)) == 3


def test_a_resolved_alert_keeps_its_row_and_may_be_raised_anew(connection):
    first = raised(connection)
    told = {"kind": "forecast_drift", "why": "well again"}
    assert rows.resolve_alert(connection, subject="golem", at=NOW + HOUR, **told) is False
    assert rows.resolve_alert(connection, subject="storj", at=NOW + HOUR, **told) is True
    assert rows.resolve_alert(connection, subject="storj", at=NOW + 2 * HOUR, **told) is False
    assert rows.open_alerts(connection) == []
    second = raised(connection, at=NOW + 3 * HOUR)
    assert second not in (None, first)
    kept = connection.execute("SELECT resolved_at, resolved_why FROM alerts ORDER BY raised_at").fetchall()
    assert kept == [(naive(NOW + HOUR), "well again"), (None, None)]


def test_an_alert_is_read_as_it_was_written_and_written_again_replaces_it(connection):
    alert = an_alert(group_id="g", acknowledged_at=NOW, acknowledged_by="ada", announced_severity="info")
    other = an_alert("other", subject="b")
    rows.write_alerts(connection, [alert, other])
    assert rows.open_alerts(connection) == [alert, other]
    over = replace(alert, resolved_at=NOW + HOUR, resolved_why="gone", end_announced_at=NOW + HOUR)
    rows.write_alerts(connection, [over])
    assert rows.open_alerts(connection) == [other]
    assert rows.alerts_since(connection, NOW + HOUR) == [over, other]
    assert rows.alerts_since(connection, NOW + 2 * HOUR) == [other]
    assert rows.alerts_by_id(connection, [alert.alert_id, "gone"]) == {alert.alert_id: over}
    assert [found.alert_id for found in rows.alerts_beginning_with(connection, "ot", limit=5)] == ["other"]
    assert rows.write_alerts(connection, []) == 0


def test_one_that_was_raised_in_the_same_transaction_can_be_written_again(connection):
    raised(connection)
    (alert,) = rows.open_alerts(connection)
    rows.write_alerts(connection, [replace(alert, announced_at=NOW)])
    (alert,) = rows.open_alerts(connection)
    assert alert.announced_at == NOW


def test_what_is_to_be_announced_is_open_or_ended_without_a_word(connection):
    told = {"announced_at": NOW, "announced_severity": "critical", "resolved_at": NOW}
    rows.write_alerts(
        connection,
        [
            an_alert("open"),
            an_alert("ended", **told),
            an_alert("told", **told, end_announced_at=NOW),
            an_alert("member", **told, group_id="open"),
            an_alert("never told", resolved_at=NOW),
        ],
    )
    assert {alert.alert_id for alert in rows.alerts_to_announce(connection)} == {"open", "ended", "member"}


# --- messages


def test_messages_wait_in_the_order_they_were_queued_until_they_are_sent(connection):
    first, second = a_message("1"), a_message("2", queued_at=NOW + MINUTE)
    message_rows.queue_messages(connection, [second, first])
    assert message_rows.waiting_messages(connection) == [first, second]
    message_rows.mark_sent(connection, ["1"], delivery_id="d", at=NOW + HOUR)
    assert [message.message_id for message in message_rows.waiting_messages(connection)] == ["2"]
    assert message_rows.told_channels(connection, ["alert-1", "gone"]) == {"alert-1": frozenset({"mail"})}


def test_what_went_out_together_counts_once_with_the_gravest(connection):
    messages = [a_message("1"), a_message("2", severity="critical"), a_message("3"), a_message("4", channel="phone")]
    message_rows.queue_messages(connection, messages)
    message_rows.mark_sent(connection, ["1", "2"], delivery_id="d1", at=NOW)
    message_rows.mark_sent(connection, ["3"], delivery_id="d2", at=NOW + MINUTE)
    message_rows.mark_sent(connection, ["4"], delivery_id="d3", at=NOW - HOUR)
    assert message_rows.sent_since(connection, NOW) == {"mail": [(NOW, "critical"), (NOW + MINUTE, "warning")]}


def test_the_end_of_what_was_critical_counts_with_the_others(connection):
    end = a_message("1", severity="critical", occasion="resolved")
    message_rows.queue_messages(connection, [end, a_message("2", severity="info")])
    message_rows.mark_sent(connection, ["1"], delivery_id="d1", at=NOW)
    message_rows.mark_sent(connection, ["2"], delivery_id="d2", at=NOW + MINUTE)
    assert message_rows.sent_since(connection, NOW) == {"mail": [(NOW, "warning"), (NOW + MINUTE, "info")]}


def test_escalations_that_are_moot_are_dropped_and_their_channel_counts_as_not_told(connection):
    late = a_message("1", occasion="escalated", channel="boss")
    message_rows.queue_messages(connection, [late, a_message("2"), a_message("3", alert_id="b", occasion="escalated")])
    assert message_rows.drop_escalations(connection, ["alert-1"], at=NOW) == 1
    assert [message.message_id for message in message_rows.waiting_messages(connection)] == ["2", "3"]
    assert message_rows.told_channels(connection, ["alert-1"]) == {"alert-1": frozenset({"mail"})}
    assert message_rows.drop_escalations(connection, [], at=NOW) == 0


def test_after_the_migration_nobody_hears_of_what_was_long_over_and_what_failed_is_held_since_it_was_queued(tmp_path):
    warehouse = Warehouse(tmp_path / "old.duckdb")
    warehouse.migrate()
    told = {"announced_at": NOW, "announced_severity": "critical", "group_id": "g"}
    alerts = [an_alert("over", **told, resolved_at=NOW + HOUR), an_alert("open", **told), an_alert("g", subject="box")]
    with warehouse.write() as connection:
        rows.write_alerts(connection, alerts)
        message_rows.queue_messages(connection, [a_message("failed", attempts=1), a_message("new")])
        connection.execute("ALTER TABLE alert_messages DROP COLUMN held_since")  # as the schema stood before
        connection.execute("DELETE FROM schema_migrations WHERE name = '0013_messages.sql'")
    assert warehouse.migrate() == ["0013_messages.sql"]
    with warehouse.read() as connection:
        assert {alert.alert_id for alert in rows.alerts_to_announce(connection)} == {"open", "g"}
        found = {message.message_id: message.held_since for message in message_rows.waiting_messages(connection)}
    assert found == {"failed": NOW, "new": None}


def test_a_failure_holds_back_all_that_is_due_of_its_channel_and_no_other(connection):
    messages = [a_message("1"), a_message("2"), a_message("3", due_at=NOW + HOUR), a_message("4", channel="phone")]
    message_rows.queue_messages(connection, messages)
    assert message_rows.backlogs(connection) == {}
    told = {"channel": "mail", "error": "it answered 500", "at": NOW, "again_at": NOW + MINUTE}
    told |= {"held_before": NOW - HOUR}
    message_rows.mark_failed(connection, ["1"], **told)
    found = {message.message_id: message for message in message_rows.waiting_messages(connection)}
    assert [found[name].due_at for name in "1234"] == [NOW + MINUTE, NOW + MINUTE, NOW + HOUR, NOW]
    assert [(found[name].attempts, found[name].last_error) for name in "12"] == [(1, "it answered 500"), (0, "")]
    assert [found[name].held_since for name in "1234"] == [NOW, NOW, None, None]
    (backlog,) = message_rows.backlogs(connection).values()
    assert (backlog.channel, backlog.waiting, backlog.attempts, backlog.since) == ("mail", 3, 1, NOW)
    assert backlog.error == "it answered 500"


def test_what_failed_in_a_digest_is_tried_again_with_it_although_it_could_have_waited(connection):
    message_rows.queue_messages(connection, [a_message("1", in_digest=True, due_at=NOW + 20 * MINUTE)])
    told = {"error": "no", "at": NOW, "again_at": NOW + MINUTE, "held_before": NOW - HOUR}
    message_rows.mark_failed(connection, ["1"], channel="mail", **told)
    (message,) = message_rows.waiting_messages(connection)
    assert message.due_at == NOW + MINUTE


def test_what_is_given_up_waits_no_longer_and_channels_that_are_gone_are_given_up(connection):
    queued = NOW - 90 * HOUR
    messages = [a_message("1", queued_at=queued), a_message("2", channel="phone"), a_message("3", queued_at=queued)]
    message_rows.queue_messages(connection, messages)
    told = {"channel": "mail", "error": "no", "again_at": NOW + MINUTE}
    message_rows.mark_failed(connection, ["1"], at=NOW, held_before=NOW - HOUR, **told)
    assert len(message_rows.waiting_messages(connection)) == 3, "how long they waited before is no matter"
    message_rows.mark_failed(connection, ["1"], at=NOW + 2 * HOUR, held_before=NOW + HOUR, **told)
    assert [message.message_id for message in message_rows.waiting_messages(connection)] == ["2"]
    assert message_rows.drop_channels_but(connection, ["mail"], at=NOW) == 1
    assert message_rows.waiting_messages(connection) == []
    assert message_rows.backlogs(connection) == {}
