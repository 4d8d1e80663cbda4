"""The asset that measures what decisions promised."""

from dataclasses import replace
from datetime import timedelta

import dagster as dg
import pytest

from orcha_pipeline.assets.outcomes import OUTCOMES, build_outcomes
from orcha_pipeline.automation.jobs import CYCLE
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.definitions import build_defs
from orcha_pipeline.model import HOUR, SLOT, Verdict, slot_of
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.settings import Settings
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.decisions import ApplicationRow, ApplicationStatus, DecidedAllocation, DecisionRow
from orcha_pipeline.warehouse.facts import insert
from orcha_pipeline_tests.rig import NOW, installation

LINE = DecidedAllocation(
    node="a",
    yield_usd=1.0,
    share_now=0.25,
    share_planned=1.0,
    lever="limit",
    value_now=25.0,
    value_planned=100.0,
    reason="",
    curvature=0.5,
)
"""Earns 0.5 USD an hour before and 1.0 after."""
REST = replace(LINE, node="b", share_planned=0.25, value_planned=25.0)


class Rig:
    def __init__(self, home, monkeypatch, instance):
        self.clock = FixedClock(NOW)
        self.installation = installation(home, self.clock, ["a", "b"])
        self.store = self.installation.warehouse
        self.instance = instance
        monkeypatch.setattr(NodesResource, "installation", lambda _self: self.installation)

    def change(self, decision_id="d-1", at=NOW, **changes):
        row = DecisionRow(
            decision_id=decision_id,
            host="box",
            decided_at=at,
            verdict=Verdict.REALLOCATE,
            gain_usd_per_hour=0.4,
            gain_percent=None,
            switching_cost_usd=0.1,
            confidence=None,
            gates=(),
            reason="",
            dagster_run_id="run",
            allocations=(LINE, REST),
            hours=2.0,
            gain_p10=0.3,
            gain_p90=1.5,
        )
        application = ApplicationRow(
            application_id=f"a-{decision_id}",
            decision_id=decision_id,
            started_at=at,
            ended_at=at,
            status=ApplicationStatus.APPLIED,
            reason="",
            dagster_run_id="run",
        )
        with self.store.write() as connection:
            decisions.record_decision(connection, replace(row, **changes))
            decisions.begin_application(connection, application)

    def earned(self, quarters, rate=1.0, *, share=1.0, first=0):
        """Quarters from the change's own on, of both nodes; the change's own is lost."""
        rows = [
            {
                "node": node,
                "started_at": slot_of(NOW) + number * SLOT,
                "usd_per_hour": 0.0 if number == 0 and node == "a" else rate,
                "share": None if number == 0 and node == "a" else share if node == "a" else 0.25,
            }
            for node in ("a", "b")
            for number in range(first, quarters)
        ]
        with self.store.write() as connection:
            insert(connection, "rates_quarterly", rows)

    def run(self, at):
        self.clock.set(at)
        result = dg.materialize(
            [build_outcomes()],
            selection=dg.AssetSelection.assets(OUTCOMES),
            resources={"nodes": NodesResource(), "warehouse": WarehouseResource(database=str(self.store.path))},
            instance=self.instance,
        )
        (event,) = result.asset_materializations_for_node("outcomes")
        return {name: found.value for name, found in event.metadata.items()}

    def outcome(self, decision_id="d-1"):
        with self.store.read() as connection:
            return decisions.outcomes_of(connection, [decision_id]).get(decision_id)


@pytest.fixture
def rig(tmp_path, monkeypatch):
    with dg.DagsterInstance.ephemeral() as instance:
        yield Rig(tmp_path, monkeypatch, instance)


def test_it_is_part_of_the_cycle_behind_the_decision():
    defs = build_defs(Settings())
    assert OUTCOMES in defs.resolve_job_def(CYCLE).asset_layer.selected_asset_keys
    node = defs.resolve_asset_graph().get(OUTCOMES)
    assert node.parent_keys == {dg.AssetKey(["allocation_decision"])}
    assert node.group_name == "decision"


def test_before_a_change_is_over_there_is_nothing_to_measure(rig):
    told = rig.run(NOW)
    assert (told["measured now"], told["measured in 30 days"]) == (0, 0)
    assert "wrong switches in 30 days, share" not in told
    rig.change()
    rig.earned(4)
    assert rig.run(NOW + HOUR)["measured now"] == 0
    assert rig.outcome() is None


def test_a_change_is_measured_once_when_its_hours_are_over(rig):
    rig.change()
    rig.earned(8)
    told = rig.run(NOW + 2 * HOUR)
    found = rig.outcome()
    assert found.measured_at == NOW + 2 * HOUR
    assert (found.hours, found.promised_usd, found.promised_p10, found.promised_p90) == (2.0, 0.8, 0.3, 1.5)
    assert found.earned_usd == pytest.approx(1.75 + 2.0)
    assert found.unchanged_usd == pytest.approx(1.0 + 2.0)
    assert (found.gained_usd, found.wrong, found.note) == (pytest.approx(0.75), False, "")
    assert told["measured now"] == 1
    assert told["wrong switches in 30 days, share"] == 0
    assert told["promised in 30 days, USD"] == pytest.approx(0.8)
    assert told["gained in 30 days, USD"] == pytest.approx(0.75)
    again = rig.run(NOW + 3 * HOUR)
    assert (again["measured now"], again["measured in 30 days"]) == (0, 1)
    assert rig.run(NOW + timedelta(days=31))["measured in 30 days"] == 0


def test_a_change_that_lost_is_a_wrong_switch(rig):
    smaller = replace(LINE, share_now=1.0, share_planned=0.25, value_now=100.0, value_planned=25.0)
    rig.change(allocations=(smaller, REST))
    rig.earned(8, share=0.25)
    assert rig.run(NOW + 2 * HOUR)["wrong switches in 30 days, share"] == 1
    assert rig.outcome().wrong is True


def test_a_change_cut_short_is_held_against_its_part_of_the_promise(rig):
    rig.change()
    rig.change("d-2", NOW + HOUR)
    rig.earned(8)
    rig.run(NOW + HOUR)
    found = rig.outcome()
    assert found.hours == 1.0
    # 0.9 before the cost of 0.1: half of it, less the whole cost.
    assert found.promised_usd == pytest.approx(0.35)
    assert (found.promised_p10, found.promised_p90) == (pytest.approx(0.1), pytest.approx(0.7))
    assert found.gained_usd == pytest.approx(0.25)
    assert found.note == "cut short by the next change after 1 of 2 h"


def test_what_is_unknown_is_waited_for_and_then_told_as_unknown(rig):
    rig.change()
    rig.earned(3)
    assert rig.run(NOW + 2 * HOUR)["measured now"] == 0
    told = rig.run(NOW + 6 * HOUR)
    found = rig.outcome()
    assert (found.gained_usd, found.wrong, found.promised_usd) == (None, None, 0.8)
    assert found.note.startswith("a: 5 of 8 quarter-hours are unknown")
    assert (told["measured now"], told["measured in 30 days"]) == (1, 0)


def test_what_comes_late_is_measured_late(rig):
    rig.change()
    rig.earned(3)
    rig.run(NOW + 2 * HOUR)
    rig.earned(8, first=3)
    rig.run(NOW + 3 * HOUR)
    assert rig.outcome().gained_usd == pytest.approx(0.75)


def test_the_settings_curvature_stands_in_where_the_decision_tells_none(rig):
    rig.change(allocations=(replace(LINE, curvature=None), replace(REST, curvature=None)))
    rig.earned(8)
    rig.run(NOW + 2 * HOUR)
    assert rig.outcome().unchanged_usd == pytest.approx(2.0 * 0.25**0.9 + 2.0)
