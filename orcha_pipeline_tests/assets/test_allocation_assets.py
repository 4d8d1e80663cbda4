from dataclasses import asdict
from datetime import timedelta

import dagster as dg
import pytest

from orcha_pipeline.allocation.gates import decide, hold_without_plan
from orcha_pipeline.allocation.situation import Situation, read_situation, why_frozen
from orcha_pipeline.anomalies.catalogue import EARNINGS_DROP, EARNINGS_ZERO, NODE_AT_RISK, NODE_SLASHED
from orcha_pipeline.assets.allocation import (
    ALLOCATION_DECISION,
    ALLOCATION_PLAN,
    TO_APPLY,
    TOLD_IN_FULL,
    build_allocation,
    decision_row,
    first_levers,
)
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import NodeConnectionError
from orcha_pipeline.model import HOUR, SLOT, HealthState, Mode, Verdict, slot_of
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.settings import ApplySettings, PlannerSettings
from orcha_pipeline.warehouse import anomaly_rows
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import NodeState
from orcha_pipeline_tests.allocation.build import NOW, a_host, a_lever, a_node, planned
from orcha_pipeline_tests.rig import LEVER, FakeNode, read_now, value_of


def state(health=HealthState.HEALTHY, reason="", share=0.5, age=timedelta(0)):
    return NodeState(
        observed_at=NOW,
        state=health,
        reason=reason,
        share=share,
        share_observed_at=None if share is None else NOW - age,
    )


def frozen(node_state, lever, last_changed=None, steps=0):
    situation = Situation(
        now=NOW,
        states={} if node_state is None else {"n": node_state},
        forecasts={},
        last_changed={} if last_changed is None else {"n": last_changed},
        steps_this_month={"n": steps},
    )
    return why_frozen("n", lever, situation)


# --- why a node must keep what it has


def test_a_healthy_node_read_just_now_may_be_changed():
    assert frozen(state(), a_lever()) == ""
    assert frozen(state(), None, NOW) == ""


def freezing(tmp_path, *found):
    """Why nodes a and b keep what they have, after `found`, anomalies by the slots since, was recorded."""
    store = Warehouse(tmp_path / "warehouse.duckdb")
    store.migrate()
    read_now(store, [FakeNode(name, FixedClock(NOW)) for name in "ab"], NOW)
    with store.write() as connection:
        for slots, rule, subject in found:
            at = NOW - slots * SLOT
            row = asdict(rule.found(subject, "so it is", at=at))
            anomaly_rows.record_anomalies(connection, slot_of(at), [row])
    situation = read_situation(store, NOW, ApplySettings())
    return [why_frozen(name, LEVER, situation) for name in "ab"]


@pytest.mark.parametrize("slots", [0, 1])
def test_a_node_keeps_what_it_has_in_the_slot_of_an_anomaly_that_says_so_and_in_the_next(tmp_path, slots):
    assert freezing(tmp_path, (slots, NODE_SLASHED, "a")) == [f"{NODE_SLASHED.says}: so it is", ""]


@pytest.mark.parametrize(
    ("slots", "rule"),
    [(2, NODE_SLASHED), (-1, NODE_SLASHED), (0, EARNINGS_DROP), (0, NODE_AT_RISK), (0, EARNINGS_ZERO)],
)
def test_an_anomaly_that_is_over_or_says_nothing_of_changes_holds_nobody(tmp_path, slots, rule):
    assert freezing(tmp_path, (slots, rule, "a")) == ["", ""]


def test_a_node_that_was_not_read_keeps_what_it_has():
    assert frozen(None, a_lever()) == "it was not read in this cycle"


@pytest.mark.parametrize("health", [health for health in HealthState if health is not HealthState.HEALTHY])
def test_a_node_that_is_not_healthy_keeps_what_it_has_and_says_why(health):
    told = frozen(state(health, "audit score 0.94"), a_lever())
    assert told == f"it is {health.value.replace('_', ' ')}: audit score 0.94"


def test_a_node_cools_down_after_a_change():
    lever = a_lever(cooldown=timedelta(hours=6))
    assert "cool-down" in frozen(state(), lever, NOW - timedelta(hours=5))
    assert frozen(state(), lever, NOW - timedelta(hours=6)) == ""


def test_a_node_whose_restarts_are_used_up_rests_until_the_month_is_over():
    lever = a_lever(restarts_per_month=3)
    assert frozen(state(), lever, steps=2) == ""
    assert frozen(state(), lever, steps=3) == "its 3 restarts a month are used up"


def test_a_share_that_is_unknown_or_from_an_earlier_reading_is_not_moved():
    told = "its present allocation could not be read"
    assert frozen(state(share=None), a_lever()) == told
    assert frozen(state(age=timedelta(minutes=15)), a_lever()) == told


# --- levers


def test_a_node_whose_levers_cannot_be_read_stops_no_other():
    clock = FixedClock(NOW)
    sick, well = FakeNode("sick", clock), FakeNode("well", clock)
    sick.fails = lambda: NodeConnectionError("sick", "connection refused")
    levers, failures = first_levers({"sick": sick, "well": well})
    assert levers == {"sick": None, "well": LEVER}
    assert failures == {"sick": "connection refused"}


# --- rows


def a_decision(plan):
    return decide(
        plan,
        decision_id="d-1",
        now=NOW,
        settings=PlannerSettings(),
        changes=[],
        last_changed={},
        health={line.node.name: HealthState.HEALTHY for line in plan.nodes},
        readings_age=timedelta(0),
        forecast_age=timedelta(0),
        modes={line.node.name: Mode.AUTO for line in plan.nodes},
        approve_within=HOUR,
    )


def test_a_decision_is_kept_with_a_line_for_every_node_moved_or_not():
    plan = planned(
        a_host(cpu=10),
        a_node("rich", 0.10, 0.5, curvature=1.0),
        a_node("poor", 0.01, 0.4, curvature=1.0),
        a_node("silent", None, None, cpu=0.1, lever=None),
    )
    decision = a_decision(plan)
    row = decision_row(decision, "run-1")
    assert row.verdict is Verdict.REALLOCATE
    assert (row.decision_id, row.host, row.decided_at, row.dagster_run_id) == ("d-1", "box", NOW, "run-1")
    assert (row.gates, row.reason, row.gain_usd_per_hour) == (decision.gates, decision.reason, plan.gain_usd_per_hour)
    lines = {line.node: line for line in row.allocations}
    assert sorted(lines) == ["poor", "rich", "silent"]
    assert (lines["rich"].share_now, lines["rich"].value_now, lines["rich"].lever) == (0.5, 50, "limit")
    assert lines["rich"].share_planned > 0.5
    assert lines["rich"].value_planned == pytest.approx(100 * lines["rich"].share_planned)
    assert lines["rich"].yield_usd == pytest.approx(0.10)
    silent = lines["silent"]
    assert (silent.yield_usd, silent.share_now, silent.share_planned, silent.lever, silent.value_now) == (None,) * 5
    assert "silent" in silent.reason


def test_a_decision_without_a_plan_is_kept_with_its_reason_and_no_numbers():
    row = decision_row(hold_without_plan(decision_id="d-1", host="box", now=NOW, reason="no solver"), "run-1")
    assert row.verdict is Verdict.HOLD
    assert row.allocations == ()
    assert (row.gain_usd_per_hour, row.gain_percent, row.switching_cost_usd, row.confidence) == (None,) * 4
    assert "no solver" in row.reason


def test_a_decision_without_a_plan_of_its_own_run_fails_and_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Warehouse(tmp_path / "warehouse.duckdb").migrate()
    result = dg.materialize(
        build_allocation(),
        selection=dg.AssetSelection.assets(ALLOCATION_DECISION),
        resources={
            "nodes": NodesResource(),
            "warehouse": WarehouseResource(database=str(tmp_path / "warehouse.duckdb")),
        },
        raise_on_error=False,
    )
    assert not result.success
    (failed,) = result.get_step_failure_events()
    assert "materialize allocation_plan with it" in failed.step_failure_data.error_display_string


def test_of_a_fleet_the_pages_tell_a_part_and_the_warehouse_keeps_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hosts = [f"host-{number:02}" for number in range(TOLD_IN_FULL + 2)]
    capacity = "{cpu_threads = 8, memory_gib = 16, disk_gb = 1000, bandwidth_mbps = 100}"
    blocks = [f'[[hosts]]\nname = "{host}"\ncapacity = {capacity}\n' for host in hosts]
    node = 'name = "n"\nprotocol = "grass"\nhost = "host-00"\nurl = "http://127.0.0.1:1"\n'
    (tmp_path / "orcha.toml").write_text("".join(blocks) + f"[[nodes]]\n{node}demand = {capacity}\n", encoding="utf-8")
    database = tmp_path / "warehouse.duckdb"
    Warehouse(database).migrate()
    result = dg.materialize(
        build_allocation(),
        selection=dg.AssetSelection.assets(ALLOCATION_PLAN, ALLOCATION_DECISION),
        resources={"nodes": NodesResource(), "warehouse": WarehouseResource(database=str(database))},
    )
    plan, decision = (
        result.asset_materializations_for_node(key.path[-1])[0].metadata
        for key in (ALLOCATION_PLAN, ALLOCATION_DECISION)
    )
    assert plan["hosts"].value == decision["hosts"].value == len(hosts)
    assert sum(name.endswith(": plan beside today") for name in plan) == TOLD_IN_FULL
    assert sum(name.endswith(": verdict") for name in decision) == TOLD_IN_FULL
    assert decision["hosts to change"].value == 0
    assert decision[TO_APPLY].value == []
    for table in ("plans", "decisions"):
        assert value_of(Warehouse(database), f"SELECT count(DISTINCT host) FROM {table}") == len(hosts)
