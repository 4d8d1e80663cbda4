"""Each rule finds what is planted against it, and nothing in what Orcha itself has written."""

from contextlib import contextmanager
from datetime import timedelta

import pytest

from orcha_pipeline.allocation.apply import carry_out
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AllocationError
from orcha_pipeline.model import HOUR, Gate, Mode
from orcha_pipeline.warehouse import decisions, permissions
from orcha_pipeline.warehouse.consistency import RULES, breaches
from orcha_pipeline.warehouse.facts import naive
from orcha_pipeline.warehouse.permissions import ApprovalRow
from orcha_pipeline_tests.rig import NOW, FakeNode, decided_line, decision_to_apply, installation, read_now

GATE = Gate(name="gain", value=1.0, threshold=0.0, passed=True, explanation="it pays")
LATER = NOW + 2 * HOUR


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What Orcha wrote of an application that succeeded, one that was rolled back, and one that could not be."""
    home = tmp_path_factory.mktemp("written")
    clock = FixedClock(NOW)
    made = installation(home, clock, ["a", "b"])
    nodes = {"a": FakeNode("a", clock, value=60.0), "b": FakeNode("b", clock, value=20.0)}

    def apply(name, a, b, mode=None):
        read_now(made.warehouse, nodes.values(), clock.now())
        lines = [decided_line("a", nodes["a"].value, a), decided_line("b", nodes["b"].value, b)]
        row = decision_to_apply(
            name,
            lines,
            decided_at=clock.now(),
            gates=(GATE,),
            mode=mode,
            expires_at=clock.now() + HOUR if mode else None,
        )
        with made.warehouse.write() as connection:
            decisions.record_decision(connection, row)
            if mode is Mode.CONFIRM:
                approval = ApprovalRow(decision_id=name, approved_at=clock.now(), approved_by="ada")
                permissions.approve(connection, approval)
        carry_out(
            name,
            application_id=f"of-{name}",
            run_id="run",
            installation=made,
            warehouse=made.warehouse,
            adapters=nodes,
        )

    apply("d-1", 30.0, 50.0, Mode.CONFIRM)
    clock.set(LATER)
    nodes["b"].fails_to_apply = lambda: AllocationError("b", "refused") if nodes["b"].applied == [50.0] else None
    apply("d-2", 20.0, 60.0)
    clock.set(LATER + 2 * HOUR)
    refusals = iter([None, AllocationError("a", "stuck")])
    nodes["a"].fails_to_apply = lambda: next(refusals, None)
    nodes["b"].fails_to_apply = lambda: AllocationError("b", "refused")
    apply("d-3", 10.0, 60.0)
    with made.warehouse.read() as connection:
        found = connection.execute("SELECT status FROM applications ORDER BY started_at").fetchall()
    assert found == [("applied",), ("rolled_back",), ("rollback_failed",)]
    return made


def found(warehouse, now=LATER + 3 * HOUR):
    with warehouse.read() as connection:
        return {breach.rule.name: breach for breach in breaches(connection, now)}


@contextmanager
def planted(warehouse):
    """A transaction of which nothing stays."""

    class TakenBackError(Exception):
        pass

    with pytest.raises(TakenBackError), warehouse.write() as connection:
        yield connection
        raise TakenBackError


def test_what_orcha_writes_breaks_no_rule(written):
    assert found(written.warehouse) == {}


STEP = "INSERT INTO application_steps VALUES "
HEALTH = "INSERT INTO node_health SELECT * FROM node_health LIMIT 1"
STAMP = f"TIMESTAMP '{naive(NOW)}'"


def restarted(*, mode="auto", before=0, ended=f"{STAMP} + INTERVAL 5 MINUTE", alert="a-1"):
    """A restart of a node during its host's first application, of which the row is to tell a lie."""
    status = "intended" if ended == "NULL" else "healed"
    return (
        f"INSERT INTO healings VALUES ('h-1', 'a', 'box', '{alert}', '{mode}', {STAMP}, {before}, 4, "
        f"{STAMP} - INTERVAL 1 MINUTE, {STAMP} + INTERVAL 15 MINUTE, {ended}, '{status}', '', 'run')"
    )


PLANTED = {
    "applied in full": "DELETE FROM application_steps WHERE application_id = 'of-d-1' AND node = 'b'",
    "rolled back in full": (
        "DELETE FROM application_steps WHERE application_id = 'of-d-2' AND kind = 'rollback' AND node = 'a'"
    ),
    "stuck nodes are frozen": "DELETE FROM freezes",
    "dropped before the first step": "UPDATE applications SET status = 'dropped' WHERE decision_id = 'd-1'",
    "steps have ended": (
        "UPDATE application_steps SET status = 'intended' WHERE application_id = 'of-d-2' AND step = 1"
    ),
    "one application at a time": (
        f"UPDATE applications SET ended_at = TIMESTAMP '{naive(LATER + HOUR)}' WHERE decision_id = 'd-1'"
    ),
    "verdicts follow their gates": "UPDATE decisions SET verdict = 'hold' WHERE decision_id = 'd-3'",
    "approved before it was applied": "DELETE FROM approvals",
    "advice changes nothing": "UPDATE decisions SET mode = 'advise' WHERE decision_id = 'd-3'",
    "one champion a protocol": (
        f"INSERT INTO models SELECT 'storj', v, 'blend', {STAMP}, '', '', {STAMP}, {STAMP}, '', '{{}}', '', true "
        "FROM (VALUES ('1'), ('2')) AS versions(v)"
    ),
    "quantiles in order": (
        f"INSERT INTO forecasts (issued_at, node, hour, p10, p50, p90, model, version, note, target) "
        f"VALUES ({STAMP}, 'a', {STAMP}, 2, 1, 3, '', '', '', 'yield_usd')"
    ),
    "shares are parts of 1": "UPDATE allocations_observed SET share = 1.2 WHERE node = 'a'",
    "unknown is no amount": (
        f"INSERT INTO earnings_hourly (node, started_at, ended_at, unit, net, provenance) "
        f"VALUES ('a', {STAMP}, {STAMP} + INTERVAL 1 HOUR, 'GLM', 0, 'unknown')"
    ),
    "hours do not overlap": (
        f"INSERT INTO earnings_hourly (node, started_at, ended_at, unit, net, provenance) "
        f"SELECT 'a', {STAMP} + to_hours(CAST(h AS BIGINT)), {STAMP} + INTERVAL 2 HOUR, 'GLM', 1, 'measured' "
        "FROM (VALUES (0), (1)) AS hours(h)"
    ),
    "one open alert of a kind": (
        f"INSERT INTO alerts (alert_id, raised_at, kind, severity, subject, message, evidence) "
        f"SELECT CAST(n AS VARCHAR), {STAMP}, 'low-gas', 'warning', 'a', '', '{{}}' FROM range(2) AS numbers(n)"
    ),
    "alerts stand under alerts": "UPDATE alerts SET group_id = 'gone'",
    "restarts have ended": restarted(ended="NULL"),
    "only in mode auto are nodes restarted": restarted(mode="advise"),
    "restarts keep to their budget": restarted(before=4),
    "nothing beside a restart": restarted(),
    "healings without alerts": restarted(alert="gone"),
    "alert_messages without alerts": (
        "INSERT INTO alert_messages VALUES "
        f"('m', 'gone', 'mail', 'raised', 'info', '', '', {STAMP}, {STAMP}, false, 0, '', NULL, NULL, NULL, NULL)"
    ),
    "applications without decisions": "UPDATE applications SET decision_id = 'gone' WHERE decision_id = 'd-3'",
    "application_steps without applications": (
        f"{STEP}('gone', 0, 'apply', 'a', 'limit', 1, 2, 2, 'done', '', {STAMP}, {STAMP})"
    ),
    "decision_allocations without decisions": (
        "UPDATE decision_allocations SET decision_id = 'gone' WHERE decision_id = 'd-3' AND node = 'a'"
    ),
    "approvals without decisions": f"INSERT INTO approvals VALUES ('gone', {STAMP}, 'ada')",
    "outcomes without applications": (
        f"INSERT INTO outcomes (decision_id, host, applied_at, measured_at, hours, note) "
        f"VALUES ('gone', 'box', {STAMP}, {STAMP}, 1, '')"
    ),
    "reversals without applications": f"INSERT INTO reversals VALUES ('gone', 'box', {STAMP}, 1, 1, 1)",
    "freezes without applications": f"INSERT INTO freezes VALUES ('a', {STAMP}, 'gone', '', {STAMP}, 'ada')",
    "node_health twice": HEALTH,
    "allocations_observed twice": "INSERT INTO allocations_observed SELECT * FROM allocations_observed LIMIT 1",
    "earnings twice": (
        f"INSERT INTO earnings (node, slot, observed_at, stream, kind, unit, provenance, source) "
        f"SELECT 'a', {STAMP}, {STAMP}, 'total', 'counter', 'GLM', 'measured', '' FROM range(2)"
    ),
    "forecasts twice": (
        f"INSERT INTO forecasts (issued_at, node, hour, p10, p50, p90, model, version, note, target) "
        f"SELECT {STAMP}, 'a', {STAMP}, 1, 1, 1, '', '', '', 'yield_usd' FROM range(2)"
    ),
    "node_health ahead of now": f"UPDATE node_health SET observed_at = {STAMP} + INTERVAL 3 DAY WHERE node = 'a'",
    "decisions ahead of now": f"UPDATE decisions SET decided_at = {STAMP} + INTERVAL 3 DAY WHERE decision_id = 'd-3'",
}


def test_there_is_something_to_plant_against_every_rule():
    assert sorted(PLANTED) == sorted(rule.name for rule in RULES)


@pytest.mark.parametrize("rule", PLANTED)
def test_each_planted_inconsistency_is_found(written, rule):
    with planted(written.warehouse) as connection:
        connection.execute(PLANTED[rule])
        names = {breach.rule.name: breach for breach in breaches(connection, LATER + 3 * HOUR)}
        assert rule in names
        assert names[rule].count >= 1
        assert all(names[rule].examples)
    assert found(written.warehouse) == {}


def test_many_breaches_are_counted_and_a_few_named(written):
    with planted(written.warehouse) as connection:
        for minutes in range(5):
            moment = naive(NOW + timedelta(minutes=minutes))
            connection.execute(f"INSERT INTO approvals VALUES ('gone-{minutes}', TIMESTAMP '{moment}', 'ada')")
        (breach,) = breaches(connection, LATER + 3 * HOUR)
        assert (breach.count, len(breach.examples)) == (5, 3)
