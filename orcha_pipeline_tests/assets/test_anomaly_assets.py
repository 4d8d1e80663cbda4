"""What is wrong, found before the plan that is to heed it, and no hindrance to it."""

import dagster as dg
import pytest

from orcha_pipeline.anomalies import detect
from orcha_pipeline.assets.allocation import ALLOCATION_DECISION, ALLOCATION_PLAN, build_allocation
from orcha_pipeline.assets.anomalies import ANOMALIES, build_anomalies
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.model import HealthState, slot_of
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.warehouse import anomaly_rows, decisions
from orcha_pipeline_tests.rig import NOW, FakeNode, installation, read_now


@pytest.fixture
def made(tmp_path, monkeypatch):
    """An installation with two nodes, of which b does not answer."""
    made = installation(tmp_path, FixedClock(NOW), ["a", "b"])
    monkeypatch.setattr(NodesResource, "installation", lambda _self: made)
    read_now(made.warehouse, [FakeNode("a", FixedClock(NOW))], NOW)
    read_now(made.warehouse, [FakeNode("b", FixedClock(NOW))], NOW, state=HealthState.UNREACHABLE)
    return made


def run(made):
    return dg.materialize(
        [build_anomalies(), *build_allocation()],
        selection=dg.AssetSelection.assets(ANOMALIES, ALLOCATION_PLAN, ALLOCATION_DECISION),
        resources={"nodes": NodesResource(), "warehouse": WarehouseResource(database=str(made.warehouse.path))},
        raise_on_error=False,
    )


def test_anomalies_are_looked_for_before_the_plan_and_told_on_their_page(made):
    result = run(made)
    assert result.success
    begun = [event.step_key for event in result.all_events if event.event_type_value == "STEP_START"]
    assert begun == ["anomalies", "allocation_plan", "allocation_decision"]
    (page,) = result.asset_materializations_for_node("anomalies")
    (line,) = page.metadata["found"].records
    assert (line.data["subject"], line.data["rule"], line.data["severity"]) == ("b", "node-unreachable", "critical")
    with made.warehouse.read() as connection:
        (row,) = anomaly_rows.standing(connection, slot_of(NOW))
    assert (row.rule, row.host) == ("node-unreachable", "box")


def test_where_nothing_can_be_found_plan_and_decision_go_on(made, monkeypatch):
    def fail(*_args, **_more):
        raise RuntimeError("a fault in looking for faults")

    monkeypatch.setattr(detect, "detect", fail)
    result = run(made)
    assert [event.step_key for event in result.get_step_failure_events()] == ["anomalies"]
    with made.warehouse.read() as connection:
        assert [row.host for row in decisions.latest_decisions(connection)] == ["box"]
