"""Sensors look every few seconds for weeks: what each look opens must not add up."""

import dagster as dg
import pytest

from orcha_pipeline.assets.allocation import ALLOCATION_DECISION, TO_APPLY
from orcha_pipeline.automation import resident

SENSORS = ("apply_decision", "apply_approved", "apply_again", "heal_nodes", "retrain_on_drift")


@pytest.fixture
def opened(monkeypatch):
    """The references of the instances that were opened; those still open are closed at the end."""
    open_one, refs = dg.DagsterInstance.from_ref, []

    def counted(ref):
        refs.append(ref)
        return open_one(ref)

    monkeypatch.setattr(dg.DagsterInstance, "from_ref", counted)
    monkeypatch.setattr(resident, "_open", [])
    yield refs
    for each in resident._open:
        each.dispose()


def context_of(defs, instance, cursor=None):
    """As the code server makes it: with a reference to the instance."""
    return dg.SensorEvaluationContext(
        instance_ref=instance.get_ref(),
        last_tick_completion_time=None,
        last_run_key=None,
        cursor=cursor,
        repository_name=None,
        repository_def=defs.get_repository_def(),
    )


@pytest.fixture
def look(defs, instance):
    """What a sensor answers to the code server."""

    def look(name, cursor=None):
        with context_of(defs, instance, cursor) as context:
            return defs.resolve_sensor_def(name).evaluate_tick(context)

    return look


def test_all_looks_of_all_sensors_share_one_instance(defs, look, instance, opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metadata = {TO_APPLY: dg.MetadataValue.json(["d-1"])}
    instance.report_runless_asset_event(dg.AssetMaterialization(ALLOCATION_DECISION, metadata=metadata))
    assert {sensor.name for sensor in defs.sensors or ()} == set(SENSORS)
    found = look("apply_decision")
    assert [request.run_key for request in found.run_requests] == ["d-1"]
    for _ in range(3):
        assert look("apply_decision", found.cursor).run_requests == []
        assert look("heal_nodes").run_requests == []
    assert len(opened) == 1


def test_no_sensor_takes_a_resource_for_which_dagster_would_open_an_instance_at_each_look(defs):
    assert {name: defs.resolve_sensor_def(name).required_resource_keys for name in SENSORS} == {
        name: set() for name in SENSORS
    }


def test_another_instance_is_opened_beside_the_one_kept(look, instance, opened, tmp_path, defs):
    look("apply_decision")
    (tmp_path / "other").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "other")) as other:
        context = context_of(defs, other)
        assert resident.instance_of(context).get_ref() == other.get_ref()
    assert opened == [instance.get_ref(), other.get_ref()]
