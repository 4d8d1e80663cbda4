"""Who is told what about an alert, and in which words."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orcha_pipeline.anomalies.alerts.announcing import announce
from orcha_pipeline.anomalies.alerts.wording import LONGEST_LINE, Occasion, body_of, digest_of, harmless, title_of
from orcha_pipeline.settings import AlertSettings
from orcha_pipeline_tests.anomalies.alerts.build import a_message, an_alert, ids
from orcha_pipeline_tests.rig import NOW

HOUR = timedelta(hours=1)
CHANNELS = [
    {"name": "mail", "url": "json://localhost"},
    {"name": "phone", "url": "json://localhost", "min_severity": "critical"},
    {"name": "boss", "url": "json://localhost", "escalation": True},
]


def announced(alerts, now=NOW, told=None, channels=CHANNELS, **changes):
    made = announce(
        alerts,
        now=now,
        settings=AlertSettings.model_validate({"channels": channels} | changes),
        told_channels=told or {},
        simulated=False,
        new_id=ids("message"),
    )
    return made.alerts, [(m.channel, m.occasion, m.alert_id, m.in_digest) for m in made.messages]


def test_a_new_alert_is_told_once_to_each_channel_that_wants_its_severity():
    (critical,), messages = announced([an_alert()])
    assert messages == [("mail", "raised", "alert-1", False), ("phone", "raised", "alert-1", False)]
    assert (critical.announced_at, critical.announced_severity) == (NOW, "critical")
    assert announced([critical]) == ((), [])
    _, messages = announced([an_alert(severity="warning")])
    assert [channel for channel, *_ in messages] == ["mail"]
    _, messages = announced([an_alert(severity="warning")], min_severity="critical")
    assert messages == []


def test_without_channels_nothing_is_queued_and_it_counts_as_told():
    (alert,), messages = announced([an_alert()], channels=[])
    assert (alert.announced_at, messages) == (NOW, [])


def test_a_member_of_a_group_and_an_acknowledged_alert_are_quiet():
    assert announced([an_alert(group_id="g"), an_alert(acknowledged_at=NOW)]) == ((), [])


def test_what_becomes_worse_is_told_again():
    _, messages = announced([an_alert(announced_at=NOW, announced_severity="warning")])
    assert [(channel, occasion) for channel, occasion, *_ in messages] == [("mail", "worse"), ("phone", "worse")]


def test_what_nobody_acknowledges_goes_to_the_channel_for_that_and_else_to_all():
    alert = an_alert(announced_at=NOW, announced_severity="critical", last_seen_at=NOW + HOUR)
    (escalated,), messages = announced([alert], NOW + HOUR)
    assert (escalated.escalated_at, messages) == (NOW + HOUR, [("boss", "escalated", "alert-1", False)])
    assert announced([escalated], NOW + 2 * HOUR) == ((), [])
    _, messages = announced([alert], NOW + HOUR, channels=CHANNELS[:2])
    assert [channel for channel, *_ in messages] == ["mail", "phone"]
    assert announced([alert], NOW + HOUR, escalate_after_minutes=0.0) == ((), [])


def test_its_end_is_told_once_to_those_who_were_told_of_it():
    over = an_alert(announced_at=NOW, announced_severity="critical", resolved_at=NOW + HOUR, resolved_why="gone")
    (told,), messages = announced([over], NOW + HOUR, told={"alert-1": {"mail", "boss"}})
    assert [(channel, occasion) for channel, occasion, *_ in messages] == [("mail", "resolved"), ("boss", "resolved")]
    assert announced([told], NOW + HOUR, told={"alert-1": {"mail"}}) == ((), [])
    never_told = replace(over, announced_at=None)
    assert announced([never_told], NOW + HOUR, told={"alert-1": {"mail"}}) == ((), [])


def test_who_was_told_of_it_by_itself_hears_of_its_end_although_another_came_to_stand_for_it():
    over = an_alert(announced_at=NOW, announced_severity="critical", group_id="g", resolved_at=NOW, resolved_why="gone")
    _, messages = announced([over], told={"alert-1": {"mail"}})
    assert [(channel, occasion) for channel, occasion, *_ in messages] == [("mail", "resolved")]
    assert announced([replace(over, announced_at=None)], told={"alert-1": {"mail"}}) == ((), [])


def test_the_end_of_what_was_only_information_is_not_told():
    over = an_alert(severity="info", announced_at=NOW, announced_severity="info", resolved_at=NOW)
    (told,), messages = announced([over], told={"alert-1": {"mail"}})
    assert (told.end_announced_at, messages) == (NOW, [])


def test_in_quiet_hours_it_waits_for_the_digest_and_is_escalated_only_after_it_was_told():
    night = datetime(2026, 3, 5, 23, 0, tzinfo=UTC)
    quiet = {"quiet_hours": [{"from": "22:00", "until": "07:00"}]}
    (alert,), messages = announced([an_alert(severity="warning")], night, **quiet)
    assert messages == [("mail", "raised", "alert-1", True)]
    morning = datetime(2026, 3, 6, 7, 0, tzinfo=UTC)
    assert alert.announced_at == morning
    alert = replace(alert, last_seen_at=morning + HOUR)
    assert announced([alert], morning + 59 * timedelta(minutes=1), **quiet) == ((), [])
    ((alert,), messages) = announced([alert], morning + HOUR, channels=CHANNELS[:1], **quiet)
    assert messages == [("mail", "escalated", "alert-1", False)]


def test_a_channel_is_not_asked_to_tell_that_it_fails():
    failing = an_alert(kind="channel-failing", subject="mail", severity="warning")
    phone = {"name": "phone", "url": "json://localhost"}
    _, messages = announced([failing], channels=[CHANNELS[0], phone])
    assert [channel for channel, *_ in messages] == ["phone"]


# --- words


def test_a_message_tells_what_is_wrong_what_to_do_and_where_to_read_on():
    assert title_of(an_alert(), Occasion.RAISED, simulated=False) == "[Orcha] critical: node-unreachable a (box)"
    assert body_of(an_alert(alert_id="0123456789"), Occasion.RAISED).splitlines() == [
        "a: does not answer.",
        "",
        "What to do: Look at it.",
        "Host: box",
        "Since: 2026-03-05 12:05 UTC",
        "About this rule: docs/alerts.md#node-unreachable",
        "Alert 01234567; `orcha alerts ack 01234567` keeps it quiet",
    ]


def test_its_end_tells_how_long_it_stood_and_why_it_is_over():
    over = an_alert(alert_id="0123456789", resolved_at=NOW + HOUR, resolved_why="its cause is gone")
    assert title_of(over, Occasion.RESOLVED, simulated=True) == "[Orcha, simulated] resolved: node-unreachable a (box)"
    text = body_of(over, Occasion.RESOLVED)
    assert "It stood from 2026-03-05 12:05 UTC to 2026-03-05 13:05 UTC: its cause is gone." in text
    assert "What to do" not in text
    assert "ack" not in text


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("a\nBcc: all@example.org\r\nb", "a Bcc: all@example.org b"),
        ("see @everyone and <!channel> and @here", "see everyone and !channel> and here"),
        ("\x1b[31mred\x00\u2028", "[31mred"),
        ("x" * 5000, "x" * (LONGEST_LINE - 4) + " ..."),
    ],
)
def test_what_a_node_says_steers_neither_a_mail_nor_a_chat_nor_a_terminal(said, told):
    assert harmless(said) == told
    assert told in body_of(an_alert(message=said), Occasion.RAISED)


def test_a_digest_tells_each_alert_once_as_it_stands_by_now():
    alerts = {
        "open": an_alert("open", severity="warning", message="a: is slow."),
        "over": an_alert("over", subject="b", resolved_at=NOW + HOUR, message="b: was away."),
    }
    messages = [a_message("1", alert_id="over"), a_message("2", alert_id="open"), a_message("3", alert_id="over")]
    title, body = digest_of(messages, alerts, simulated=False)
    assert title == "[Orcha] digest: 2 alerts, 1 of them open"
    first, second = body.split("\n\n")
    assert first.startswith("[open] warning: node-unreachable a (box), since 2026-03-05 12:05 UTC, open. a: is slow.")
    assert "What to do: Look at it." in first
    assert "until 2026-03-05 13:05 UTC. b: was away." in second


def test_a_digest_tells_what_is_in_it_because_nobody_has_acknowledged_it():
    alerts = {"a": an_alert("a"), "b": an_alert("b", subject="b")}
    messages = [a_message("1", alert_id="a", occasion="escalated"), a_message("2", alert_id="b")]
    first, second = digest_of(messages, alerts, simulated=False)[1].split("\n\n")
    assert "since 2026-03-05 12:05 UTC, still open, not acknowledged. a: does not answer." in first
    assert "since 2026-03-05 12:05 UTC, open. a: does not answer." in second


def test_a_long_digest_counts_what_it_does_not_tell():
    alerts = {f"{number}": an_alert(f"{number}") for number in range(75)}
    messages = [a_message(alert_id, alert_id=alert_id) for alert_id in alerts]
    _, body = digest_of(messages, alerts, simulated=False)
    assert body.count("does not answer") == 60
    assert body.endswith("and 15 more: `orcha alerts list --all`")
