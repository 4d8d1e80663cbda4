import subprocess
import sys
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from orcha_pipeline.automation import retraining
from orcha_pipeline.automation.jobs import TRAIN_MODELS
from orcha_pipeline.protocols.registry import protocol_names
from orcha_pipeline.resources import WarehouseResource
from orcha_pipeline.warehouse import forecast_rows
from orcha_pipeline.warehouse.connection import Warehouse

NOW = datetime(2026, 3, 5, 12, 5, tzinfo=UTC)


@pytest.fixture
def warehouse(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    return warehouse


@pytest.fixture
def look(defs, instance, warehouse):
    """What the sensor answers."""
    sensor = retraining.build_retraining_sensor(protocol_names(), WarehouseResource(database=str(warehouse.path)))

    def evaluate():
        context = dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def())
        return sensor.evaluate_tick(context)

    return evaluate


def request(warehouse, protocol):
    with warehouse.write() as connection:
        return forecast_rows.request_retraining(connection, protocol=protocol, at=NOW, reason="drift")


def test_the_sensor_is_on_by_default_and_looks_once_a_minute_at_most(defs):
    sensor = defs.resolve_sensor_def("retrain_on_drift")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds >= 60
    assert sensor.job_name == TRAIN_MODELS


def test_each_open_request_trains_its_protocols_model_alone_under_its_id(look, warehouse, defs):
    ids = {protocol: request(warehouse, protocol) for protocol in ("golem", "storj")}
    asked = look().run_requests
    assert {asked.run_key: [key.path for key in asked.asset_selection] for asked in asked} == {
        ids["golem"]: [["golem", "earnings_model"]],
        ids["storj"]: [["storj", "earnings_model"]],
    }
    models = defs.resolve_job_def(TRAIN_MODELS).asset_layer.selected_asset_keys
    assert all(set(one.asset_selection) <= set(models) for one in asked)


def test_looking_marks_nothing_and_a_request_that_was_taken_is_asked_for_no_more(look, warehouse):
    first = request(warehouse, "storj")
    assert [asked.run_key for asked in look().run_requests] == [first]
    # Not taken yet: asked for again under the same key, of which Dagster starts one run.
    assert [asked.run_key for asked in look().run_requests] == [first]
    with warehouse.write() as connection:
        forecast_rows.take_requests(connection, "storj", "run-1", NOW)
    found = look()
    assert found.run_requests == []
    assert found.skip_message == "No retraining is requested."


def test_while_a_training_runs_the_request_waits_for_it_may_be_about_to_take_it(look, warehouse, instance):
    request(warehouse, "storj")
    run = create_run_for_test(instance, job_name=TRAIN_MODELS, status=dg.DagsterRunStatus.STARTED)
    found = look()
    assert found.run_requests == []
    assert run.run_id in found.skip_message
    instance.delete_run(run.run_id)
    assert len(look().run_requests) == 1


def test_a_request_of_a_protocol_that_is_no_longer_there_starts_nothing(look, warehouse):
    request(warehouse, "gone")
    assert look().run_requests == []


def test_a_warehouse_that_is_in_use_is_looked_at_later(look, warehouse, monkeypatch):
    request(warehouse, "storj")
    monkeypatch.setattr(retraining, "LOCK_TIMEOUT_SECONDS", 0.2)
    holder = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(warehouse.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        found = look()
        child.communicate("")
    assert found.run_requests == []
    assert f"in use by process {child.pid}" in found.skip_message
    assert len(look().run_requests) == 1


def test_before_there_is_a_warehouse_nothing_is_started(look, warehouse):
    warehouse.path.unlink()
    found = look()
    assert found.run_requests == []
    assert "orcha up" in found.skip_message
