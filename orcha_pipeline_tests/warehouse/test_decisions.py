"""Decisions with what they promise, and what came of them."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest

from orcha_pipeline.model import HOUR, ApplicationStatus, Gate, Verdict
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import (
    ApplicationRow,
    DecidedAllocation,
    DecisionRow,
    OutcomeRow,
    SwitchingRecord,
)

NOW = datetime(2026, 3, 5, 12, 5, tzinfo=UTC)
DAY = timedelta(days=1)


def a_line(node="golem-1", **changes):
    known = {
        "node": node,
        "yield_usd": 0.12,
        "share_now": 0.25,
        "share_planned": 0.5,
        "lever": "cpu_threads",
        "value_now": 4.0,
        "value_planned": 8.0,
        "reason": "earns most",
        "yield_p10": 0.1,
        "yield_p90": 0.15,
        "switching_cost_usd": 0.002,
        "curvature": 0.84,
        "curvature_deviation": 0.04,
        "changes_seen": 12,
        "share_seen_least": 0.2,
        "share_seen_most": 0.6,
    }
    return DecidedAllocation(**(known | changes))


def a_decision(decision_id="d-1", at=NOW, **changes):
    known = {
        "decision_id": decision_id,
        "host": "box",
        "decided_at": at,
        "verdict": Verdict.REALLOCATE,
        "gain_usd_per_hour": 0.01,
        "gain_percent": 8.0,
        "switching_cost_usd": 0.002,
        "confidence": 0.93,
        "gates": (Gate(name="gain", value=0.01, threshold=0.0, passed=True, explanation="it pays"),),
        "reason": "Moves golem-1.",
        "dagster_run_id": "run",
        "allocations": (a_line(), a_line("storj-1", lever=None)),
        "hours": 8.0,
        "gain_p10": 0.02,
        "gain_p90": 0.15,
        "roi": 40.0,
        "binding": ("bandwidth_mbps", "cpu_threads"),
        "shadow_prices": {"bandwidth_mbps": 0.012, "cpu_threads": 1.5},
        "runner_up": "Moves storj-1 alone.",
        "runner_up_usd_per_hour": 0.008,
        "preset": "balanced",
    }
    return DecisionRow(**(known | changes))


def applied(connection, decision_id, at, *, status=ApplicationStatus.APPLIED):
    row = ApplicationRow(
        application_id=f"a-{decision_id}",
        decision_id=decision_id,
        started_at=at,
        ended_at=at + timedelta(minutes=1),
        status=status,
        reason="",
        dagster_run_id="run",
    )
    assert decisions.begin_application(connection, row)
    return row


def an_outcome(decision_id="d-1", **changes):
    known = {
        "decision_id": decision_id,
        "host": "box",
        "applied_at": NOW,
        "measured_at": NOW + 8 * HOUR,
        "hours": 8.0,
        "promised_usd": 0.08,
        "promised_p10": 0.02,
        "promised_p90": 0.15,
        "earned_usd": 1.0,
        "unchanged_usd": 0.9,
        "gained_usd": 0.1,
        "wrong": False,
        "note": "",
    }
    return OutcomeRow(**(known | changes))


UNKNOWN = {"earned_usd": None, "unchanged_usd": None, "gained_usd": None, "wrong": None}


@pytest.fixture
def connection(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    with warehouse.write() as opened:
        yield opened


# --- the migration


def test_decisions_of_an_earlier_version_are_read_with_the_defaults(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    with warehouse.write() as connection:
        decisions.record_decision(connection, a_decision())
    with warehouse.write() as connection:  # as the schema stood before
        for table, cls, first in (
            ("decisions", DecisionRow, "hours"),
            ("decision_allocations", DecidedAllocation, "yield_p10"),
        ):
            names = [field.name for field in fields(cls)]
            for name in names[names.index(first) :]:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
        connection.execute("DROP TABLE outcomes")
        connection.execute("DELETE FROM schema_migrations WHERE name = '0005_decisions.sql'")
    assert warehouse.migrate() == ["0005_decisions.sql"]
    with warehouse.write() as connection:
        found = decisions.decision(connection, "d-1")
        assert found is not None
        assert (found.hours, found.binding, found.shadow_prices, found.runner_up) == (None, (), {}, None)
        assert (found.reason, found.gates) == ("Moves golem-1.", a_decision().gates)
        assert [(line.curvature, line.share_now) for line in found.allocations] == [(None, 0.25)] * 2
        decisions.record_decision(connection, a_decision("d-2"))
        assert decisions.decision(connection, "d-2") == a_decision("d-2")


# --- rows


def test_a_decision_is_read_back_as_it_was_written(connection):
    decisions.record_decision(connection, a_decision())
    assert decisions.decision(connection, "d-1") == a_decision()
    assert decisions.decision(connection, "d-2") is None


def test_a_decision_needs_none_of_the_new_fields(connection):
    old = {"hours", "gain_p10", "gain_p90", "roi", "binding", "shadow_prices", "runner_up"}
    old |= {"runner_up_usd_per_hour", "preset"}
    row = DecisionRow(**{f.name: getattr(a_decision(), f.name) for f in fields(DecisionRow) if f.name not in old})
    decisions.record_decision(connection, row)
    assert decisions.decision(connection, "d-1") == row


def test_the_decisions_between_two_moments_come_latest_first(connection):
    for number in range(4):
        decisions.record_decision(connection, a_decision(f"d-{number}", NOW + number * HOUR))
    decisions.record_decision(
        connection, a_decision("other", NOW + HOUR, host="attic", verdict=Verdict.HOLD, allocations=())
    )

    def ids(**changes):
        asked = {"hosts": ["box"], "since": NOW, "until": NOW + 3 * HOUR, "limit": 10}
        return [row.decision_id for row in decisions.decisions_between(connection, **(asked | changes))]

    assert ids() == ["d-2", "d-1", "d-0"]
    assert ids(limit=1) == ["d-2"]
    assert ids(since=NOW + 2 * HOUR, until=NOW + 4 * HOUR) == ["d-3", "d-2"]
    assert ids(hosts=None) == ["d-2", "other", "d-1", "d-0"]
    assert ids(hosts=[]) == []
    assert ids(hosts=["box", "attic"], verdict=Verdict.HOLD) == ["other"]
    counts = decisions.count_decisions(connection, hosts=None, since=NOW, until=NOW + 3 * HOUR)
    assert counts == {Verdict.REALLOCATE: 3, Verdict.HOLD: 1}


def test_a_decision_is_found_by_the_beginning_of_its_id(connection):
    for decision_id in ("abcd-1", "abcd-2", "ab%d-3"):
        decisions.record_decision(connection, a_decision(decision_id))
    found = decisions.decisions_beginning_with(connection, "abcd", limit=5)
    assert {row.decision_id for row in found} == {"abcd-1", "abcd-2"}
    assert [row.decision_id for row in decisions.decisions_beginning_with(connection, "ab%", limit=5)] == ["ab%d-3"]


def test_applications_and_their_steps_are_found(connection):
    decisions.record_decision(connection, a_decision())
    row = applied(connection, "d-1", NOW)
    assert decisions.applications_of(connection, ["d-1", "d-2"]) == {"d-1": row}
    assert decisions.applications_of(connection, []) == {}
    step = {
        "application_id": "a-d-1",
        "step": 2,
        "kind": "apply",
        "node": "golem-1",
        "lever": "cpu_threads",
        "previous": 4.0,
        "requested": 8.0,
        "read_back": None,
        "status": "failed",
        "error": "HTTP 500",
        "started_at": NOW,
        "ended_at": None,
    }
    decisions.record_step(connection, step)
    decisions.record_step(connection, {**step, "step": 1, "status": "done", "read_back": 8.0, "error": ""})
    found = decisions.steps_of(connection, "a-d-1")
    assert [(one.step, one.status, one.read_back) for one in found] == [(1, "done", 8.0), (2, "failed", None)]
    assert (found[1].started_at, found[1].ended_at) == (NOW, None)
    assert decisions.steps_of(connection, "none") == []


# --- outcomes


def due(connection, now):
    return [(one.decision.decision_id, one.until, one.cut_short) for one in decisions.unmeasured(connection, now=now)]


def test_an_applied_decision_is_due_when_its_hours_are_over_and_until_it_is_measured(connection):
    decisions.record_decision(connection, a_decision())
    assert due(connection, NOW + 9 * HOUR) == []
    applied(connection, "d-1", NOW)
    assert due(connection, NOW + 7 * HOUR) == []
    assert due(connection, NOW + 8 * HOUR) == [("d-1", NOW + 8 * HOUR, False)]
    (one,) = decisions.unmeasured(connection, now=NOW + 8 * HOUR)
    assert (one.decision, one.applied_at) == (a_decision(), NOW)
    decisions.record_outcome(connection, an_outcome())
    assert due(connection, NOW + 8 * HOUR) == []


@pytest.mark.parametrize(
    "status",
    [status for status in ApplicationStatus if status is not ApplicationStatus.APPLIED],
)
def test_what_was_not_applied_is_never_due(connection, status):
    decisions.record_decision(connection, a_decision())
    applied(connection, "d-1", NOW, status=status)
    assert due(connection, NOW + 9 * HOUR) == []


def test_a_decision_of_an_earlier_version_is_never_due(connection):
    decisions.record_decision(connection, a_decision(hours=None))
    applied(connection, "d-1", NOW)
    assert due(connection, NOW + 9 * DAY) == []


def test_the_next_application_of_the_same_host_cuts_it_short(connection):
    for name, host, hours, status in (
        ("d-1", "box", 0, ApplicationStatus.APPLIED),
        ("elsewhere", "attic", 1, ApplicationStatus.APPLIED),
        ("dropped", "box", 2, ApplicationStatus.DROPPED),
        ("undone", "box", 3, ApplicationStatus.ROLLED_BACK),
    ):
        decisions.record_decision(connection, a_decision(name, NOW + hours * HOUR, host=host))
        applied(connection, name, NOW + hours * HOUR, status=status)
    assert due(connection, NOW + 2 * HOUR) == []
    assert due(connection, NOW + 3 * HOUR) == [("d-1", NOW + 3 * HOUR, True)]
    assert due(connection, NOW + 9 * HOUR)[1:] == [("elsewhere", NOW + 9 * HOUR, False)]


def test_an_outcome_is_read_back_as_it_was_written_and_replaced_when_written_again(connection):
    decisions.record_outcome(connection, an_outcome())
    decisions.record_outcome(connection, an_outcome("d-2", **UNKNOWN, note="golem-1: unknown"))
    decisions.record_outcome(connection, an_outcome(gained_usd=-0.1, wrong=True))
    assert decisions.outcomes_of(connection, ["d-1", "d-2", "d-3"]) == {
        "d-1": an_outcome(gained_usd=-0.1, wrong=True),
        "d-2": an_outcome("d-2", **UNKNOWN, note="golem-1: unknown"),
    }


def test_the_record_counts_what_could_be_measured_and_keeps_the_rest_apart(connection):
    none = decisions.switching_record(connection, ["box"], NOW)
    assert none == SwitchingRecord(measured=0, unknown=0, wrong_share=None, promised_usd=0.0, gained_usd=0.0)
    good, bad = an_outcome(), an_outcome("d-2", gained_usd=-0.04, wrong=True)
    for row in (
        good,
        bad,
        an_outcome("d-3", **UNKNOWN),
        replace(good, decision_id="d-4", host="attic"),
        replace(good, decision_id="d-5", applied_at=NOW - DAY),
    ):
        decisions.record_outcome(connection, row)
    found = decisions.switching_record(connection, ["box"], NOW)
    assert (found.measured, found.unknown, found.wrong_share) == (2, 1, 0.5)
    assert (found.promised_usd, found.gained_usd) == (pytest.approx(0.16), pytest.approx(0.06))
    assert decisions.switching_record(connection, None, NOW - DAY).measured == 4


def test_simulated_hosts_are_known_by_their_nodes(connection):
    connection.execute(
        "INSERT INTO nodes VALUES ('a', 'storj', 'box', true, now()), ('b', 'storj', 'real', false, now())"
    )
    assert decisions.simulated_hosts(connection) == {"box"}
