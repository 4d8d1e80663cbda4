"""What looked wrong, as rows: what stands, what was last told, which hours a training leaves out."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest

from orcha_pipeline.anomalies.catalogue import NODE_ERROR, NODE_FLAGGED, NODE_UNREACHABLE, PRICE_STALE
from orcha_pipeline.model import HOUR, SLOT, Window, slot_of
from orcha_pipeline.warehouse import anomaly_rows
from orcha_pipeline.warehouse.anomaly_rows import JudgedHour
from orcha_pipeline.warehouse.connection import Warehouse

NOON = datetime(2026, 3, 5, 12, tzinfo=UTC)
MASKING = [NODE_UNREACHABLE.id, NODE_ERROR.id]


@pytest.fixture
def warehouse(tmp_path):
    made = Warehouse(tmp_path / "warehouse.duckdb")
    made.migrate()
    return made


def told(warehouse, rule, subject, *moments, **more):
    """Write that `rule` told of `subject` at these moments, beside what stands there already."""
    for moment in moments:
        slot = slot_of(moment)
        with warehouse.write() as connection:
            standing = [asdict(row) for row in anomaly_rows.standing(connection, slot)]
            new = asdict(rule.found(subject, f"at {moment:%H:%M}", at=moment, **more))
            anomaly_rows.record_anomalies(connection, slot, [*standing, new])


def masked(warehouse, window, at_most=timedelta(hours=72)):
    with warehouse.read() as connection:
        return anomaly_rows.masked_hours(connection, MASKING, window, at_most=at_most)


def test_what_was_found_is_read_back_and_a_slot_run_twice_is_written_once(warehouse):
    at = NOON + timedelta(minutes=1)
    found = NODE_UNREACHABLE.found("a", "refused", at=at, host="box", score=2.0, since=NOON - HOUR)
    with warehouse.write() as connection:
        anomaly_rows.record_anomalies(connection, NOON, [asdict(PRICE_STALE.found("golem", "old", at=at))])
        assert anomaly_rows.record_anomalies(connection, NOON, [asdict(found)]) == 1
        assert anomaly_rows.standing(connection, NOON + SLOT) == []
        (row,) = anomaly_rows.standing(connection, NOON)
    assert (row.rule, row.scope, row.subject, row.node, row.host) == ("node-unreachable", "node", "a", "a", "box")
    assert (row.severity, row.score, row.evidence, row.since) == ("critical", 2.0, "refused", NOON - HOUR)
    assert (row.slot, row.detected_at) == (NOON, at)


def test_what_is_of_no_node_has_none(warehouse):
    told(warehouse, PRICE_STALE, "golem", NOON)
    with warehouse.read() as connection:
        (row,) = anomaly_rows.standing(connection, NOON)
    assert (row.scope, row.subject, row.node, row.host) == ("token", "golem", None, None)


def test_of_nodes_only_the_rules_and_slots_asked_for_are_found(warehouse):
    told(warehouse, NODE_FLAGGED, "a", NOON - SLOT, NOON)
    told(warehouse, NODE_FLAGGED, "b", NOON - 2 * SLOT)
    told(warehouse, NODE_ERROR, "c", NOON)
    told(warehouse, PRICE_STALE, "golem", NOON)
    with warehouse.read() as connection:
        found = anomaly_rows.of_nodes(connection, [NODE_FLAGGED.id, PRICE_STALE.id], since=NOON - SLOT, until=NOON)
    assert [(row.node, row.slot) for row in found] == [("a", NOON)]


# --- hours that a training leaves out


def test_the_hours_in_which_something_was_told_are_masked(warehouse):
    told(warehouse, NODE_UNREACHABLE, "a", NOON + SLOT, NOON + 3 * HOUR)
    told(warehouse, NODE_ERROR, "b", NOON)
    told(warehouse, NODE_FLAGGED, "c", NOON)
    day = Window(NOON - 12 * HOUR, NOON + 12 * HOUR)
    assert masked(warehouse, day) == {"a": {NOON, NOON + 3 * HOUR}, "b": {NOON}}
    assert masked(warehouse, Window(NOON + HOUR, NOON + 3 * HOUR)) == {}


def test_what_began_earlier_masks_from_then_on(warehouse):
    told(warehouse, NODE_UNREACHABLE, "a", NOON + SLOT, since=NOON - timedelta(minutes=100))
    day = Window(NOON - 12 * HOUR, NOON + 12 * HOUR)
    assert masked(warehouse, day) == {"a": {NOON - 2 * HOUR, NOON - HOUR, NOON}}


def test_what_lasts_is_masked_at_its_beginning_alone_and_so_is_what_comes_after_a_pause(warehouse):
    told(warehouse, NODE_UNREACHABLE, "a", *(NOON + hour * HOUR for hour in (0, 1, 2, 3, 4, 6)))
    day = Window(NOON, NOON + 12 * HOUR)
    assert masked(warehouse, day, timedelta(hours=3)) == {"a": {NOON + hour * HOUR for hour in (0, 1, 2, 6)}}
    # What had lasted so long before the window begins is not masked anew in it.
    assert masked(warehouse, Window(NOON + 3 * HOUR, NOON + 5 * HOUR), timedelta(hours=3)) == {}


# --- the migration


def test_rows_of_before_are_of_nodes(tmp_path):
    warehouse = Warehouse(tmp_path / "old.duckdb")
    warehouse.migrate()
    with warehouse.write() as connection:
        connection.execute("DROP TABLE anomalies")  # as the schema stood before
        connection.execute("ALTER TABLE balances DROP COLUMN oldest_at")
        connection.execute("DROP TABLE judged_hours")
        connection.execute(
            "CREATE TABLE anomalies (slot TIMESTAMP NOT NULL, detected_at TIMESTAMP NOT NULL, node VARCHAR NOT NULL, "
            "rule VARCHAR NOT NULL, severity VARCHAR NOT NULL, score DOUBLE, evidence VARCHAR NOT NULL, "
            "remedy VARCHAR NOT NULL)"
        )
        connection.execute("INSERT INTO nodes VALUES ('a', 'storj', 'box', false, TIMESTAMP '2026-03-01')")
        connection.execute(
            "INSERT INTO anomalies SELECT TIMESTAMP '2026-03-05 12:00', TIMESTAMP '2026-03-05 12:01', n, 'node-error', "
            "'warning', NULL, 'HTML', 'Read.' FROM (VALUES ('a'), ('gone')) v(n)"
        )
        connection.execute("DELETE FROM schema_migrations WHERE name = '0010_anomalies.sql'")
    assert warehouse.migrate() == ["0010_anomalies.sql"]
    with warehouse.read() as connection:
        rows = anomaly_rows.standing(connection, NOON)
    assert [(row.scope, row.subject, row.node, row.host, row.since) for row in rows] == [
        ("node", "a", "a", "box", None),
        ("node", "gone", "gone", None, None),
    ]


# --- hours that were judged


def test_the_last_judged_hour_of_each_node_is_found(warehouse):
    def judged(node, hour, evidence=""):
        return JudgedHour(node=node, hour=hour, score=0.6, threshold=0.7, evidence=evidence)

    with warehouse.write() as connection:
        anomaly_rows.record_judged(connection, [judged("a", NOON - HOUR), judged("a", NOON), judged("b", NOON - HOUR)])
        anomaly_rows.record_judged(connection, [judged("a", NOON, "strange"), judged("c", NOON - 9 * HOUR)])
    with warehouse.read() as connection:
        last = anomaly_rows.last_judged(connection, since=NOON - 2 * HOUR)
    assert last == {"a": judged("a", NOON, "strange"), "b": judged("b", NOON - HOUR)}
