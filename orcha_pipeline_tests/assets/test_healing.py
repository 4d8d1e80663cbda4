"""The assets of self-healing: what they start, and what their pages show."""

from contextlib import contextmanager

import dagster as dg
import pytest

from orcha_pipeline.assets import healing as assets
from orcha_pipeline.assets.healing import HEALING, HEALING_PLAN, TO_HEAL, build_healing
from orcha_pipeline.healing import heal as healing_module
from orcha_pipeline.healing.heal import Waiting
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline_tests.healing.build import Rig


@pytest.fixture
def rig(tmp_path, monkeypatch):
    rig = Rig(tmp_path)

    @contextmanager
    def adapters(_self):
        yield rig.nodes

    monkeypatch.setattr(NodesResource, "installation", lambda _self: rig.installation)
    monkeypatch.setattr(NodesResource, "adapters", adapters)
    monkeypatch.setattr(assets, "open_adapters_of", rig.open_adapters)
    monkeypatch.setattr(healing_module, "Waiting", lambda: Waiting(rig.wait, lambda: rig.waited))
    rig.fall("a")
    rig.play(3)
    return rig


def run(rig, key, config=None):
    """Materialize one of the two; its metadata, and whether it succeeded."""
    asset = next(each for each in build_healing() if each.key == key)
    name = key.to_python_identifier()
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [asset],
            resources={"nodes": NodesResource(), "warehouse": WarehouseResource(database=str(rig.warehouse.path))},
            instance=instance,
            run_config={"ops": {name: {"config": config}}} if config else None,
            raise_on_error=False,
        )
    if not result.success:
        failure = result.failure_data_for_node(name).user_failure_data
        return {entry: value.value for entry, value in failure.metadata.items()}, False
    (event,) = result.asset_materializations_for_node(name)
    return {entry: getattr(value, "records", value.value) for entry, value in event.metadata.items()}, True


def test_the_plan_names_what_is_to_be_restarted_and_why_the_rest_is_not(rig):
    shown, _ = run(rig, HEALING_PLAN)
    assert shown[TO_HEAL] == {"a": "a:1:2026-03-05T12:45"}
    assert "not restarted" not in shown
    rig.configure(enabled=True, mode="advise")
    shown, _ = run(rig, HEALING_PLAN)
    assert shown[TO_HEAL] == {}
    (line,) = shown["not restarted"]
    assert line.data["node"] == "a"
    assert "mode advise" in line.data["why"]


def test_two_runs_for_one_restart_restart_once(rig):
    rig.nodes["a"].restarts.does = rig.nodes["a"].come_back
    shown, success = run(rig, HEALING, {"node": "a"})
    assert (success, shown["node"], shown["status"], shown["simulated"]) == (True, "a", "healed", False)
    assert "answers again" in shown["reason"]
    shown, success = run(rig, HEALING, {"node": "a"})
    assert (success, shown["status"], shown["reason"]) == (True, "nothing was done", "It answers again: healthy.")
    assert rig.restarted() == ["a"]


def test_a_restart_that_failed_is_a_run_that_failed_and_a_second_does_nothing(rig):
    shown, success = run(rig, HEALING, {"node": "a"})
    assert (success, shown["status"]) == (False, "failed")
    shown, success = run(rig, HEALING, {"node": "a"})
    assert (success, shown["status"]) == (True, "nothing was done")
    assert rig.restarted() == ["a"]
