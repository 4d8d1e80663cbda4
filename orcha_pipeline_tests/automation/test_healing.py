"""The sensor that starts restarts, and the job that makes them."""

from functools import partial

import dagster as dg
import pytest

from orcha_pipeline.assets.healing import HEALING, HEALING_PLAN, TO_HEAL
from orcha_pipeline.automation.healing import HEAL_NODE
from orcha_pipeline.automation.jobs import CYCLE


@pytest.fixture
def look(asked):
    """What the sensor answers, asked with a cursor."""
    return partial(asked, "heal_nodes")


@pytest.fixture
def plan(instance):
    def report(chosen, metadata=None):
        found = {TO_HEAL: dg.MetadataValue.json(chosen)} if metadata is None else metadata
        instance.report_runless_asset_event(dg.AssetMaterialization(HEALING_PLAN, metadata=found))

    return report


def test_each_node_to_restart_gets_one_run_however_often_the_sensor_looks(look, plan, defs):
    plan({"a": "a:1:2026-03-05T12:45", "b": "b:3:2026-03-05T12:45"})
    first, again = look(), look()
    requests = first.run_requests
    assert [request.run_key for request in requests] == ["a:1:2026-03-05T12:45", "b:3:2026-03-05T12:45"]
    # Dagster starts one run a key, whatever has become of the cursor.
    assert [request.run_key for request in again.run_requests] == [request.run_key for request in requests]
    assert look(first.cursor).run_requests == []
    job = defs.resolve_job_def(HEAL_NODE)
    for request, node in zip(requests, ("a", "b"), strict=True):
        config = dg.validate_run_config(job, request.run_config)
        assert config["ops"]["healing"]["config"] == {"node": node}
        assert request.tags["orcha/node"] == node


@pytest.mark.parametrize("metadata", [None, {}])
def test_without_a_node_to_restart_nothing_is_started(look, plan, metadata):
    plan({}, metadata)
    found = look()
    assert found.run_requests == []
    assert found.skip_message == "No node is to be restarted."


def test_a_cycle_plans_restarts_and_makes_none(defs):
    keys = defs.resolve_job_def(CYCLE).asset_layer.selected_asset_keys
    assert HEALING_PLAN in keys
    assert HEALING not in keys


def test_the_job_ends_what_hangs_and_repeats_nothing(defs):
    job = defs.resolve_job_def(HEAL_NODE)
    assert job.executor_def is dg.in_process_executor
    assert job.tags["dagster/max_retries"] == "0"
    assert int(job.tags["dagster/max_runtime"]) == 3600
    assert defs.resolve_sensor_def("heal_nodes").default_status is dg.DefaultSensorStatus.RUNNING
