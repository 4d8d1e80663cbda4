import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from orcha_pipeline.automation.jobs import APPLY_ALLOCATION, CYCLE, RECORD_HISTORY, TRAIN_MODELS
from orcha_pipeline.definitions import build_defs
from orcha_pipeline.protocols.registry import protocol_names
from orcha_pipeline.settings import Settings

PROJECT = Path(__file__).resolve().parents[1]
HEAVY = ("tensorflow", "keras", "mlflow", "cvxpy", "sklearn", "onnxruntime", "onnx", "tf2onnx", "matplotlib")


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return build_defs(Settings())


def test_importing_the_definitions_loads_no_heavy_library():
    probe = (
        "import sys, json; import orcha_pipeline.definitions as d; d.defs(); "
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=PROJECT, timeout=120
    )
    assert json.loads(found.stdout) == []


def test_every_protocol_has_a_lane_of_its_own(defs):
    graph = defs.resolve_asset_graph()
    for protocol in protocol_names():
        for fact in ("earnings", "balances", "resource_usage", "node_health", "allocations_observed"):
            assert graph.get(dg.AssetKey([protocol, fact])).group_name == protocol
        assert graph.get(dg.AssetKey([protocol, "earnings_model"])).group_name == "models"


def test_every_asset_tells_what_it_is_and_who_owns_it(defs):
    for spec in defs.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners, spec.key
        assert spec.kinds, spec.key


def test_the_cycle_decides_and_neither_trains_nor_applies(defs):
    keys = {key.to_user_string() for key in defs.resolve_job_def(CYCLE).asset_layer.selected_asset_keys}
    assert "allocation_decision" in keys
    assert "storj/earnings" in keys
    assert not {key for key in keys if key.endswith("earnings_model")}
    assert "allocation_application" not in keys


def test_a_run_is_one_process_in_every_job(defs):
    for name in (CYCLE, RECORD_HISTORY, TRAIN_MODELS, APPLY_ALLOCATION):
        assert defs.resolve_job_def(name).executor_def is dg.in_process_executor


def test_blocking_checks_guard_the_way_to_the_decision(defs):
    checks = {spec.name: spec for checks in defs.asset_checks or [] for spec in checks.check_specs}
    assert set(checks) == {"readings_complete_and_fresh", "forecast_in_range", "capacity_kept"}
    assert all(spec.blocking for spec in checks.values())


def test_schedules_and_sensors_are_on_by_default(defs):
    cycle = defs.resolve_schedule_def("every_15_minutes")
    assert cycle.cron_schedule == "*/15 * * * *"
    assert cycle.default_status is dg.DefaultScheduleStatus.RUNNING
    assert defs.resolve_schedule_def("weekly_training").default_status is dg.DefaultScheduleStatus.RUNNING
    for name in ("apply_decision", "apply_approved", "apply_again"):
        assert defs.resolve_sensor_def(name).default_status is dg.DefaultSensorStatus.RUNNING


def test_the_folder_mlflow_never_becomes_a_package():
    assert not (PROJECT / "mlflow" / "__init__.py").exists()


def test_the_instance_of_dagster_yaml_is_one_that_dagster_accepts(tmp_path):
    (tmp_path / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_monitoring_enabled
        assert instance.get_settings("concurrency")["pools"]["default_limit"] == 1


def test_the_workspace_names_the_code_server_that_orcha_starts():
    workspace = yaml.safe_load((PROJECT / "workspace.yaml").read_text())
    server = workspace["load_from"][0]["grpc_server"]
    assert server == {"host": "127.0.0.1", "port": {"env": "ORCHA_CODE_SERVER_PORT"}, "location_name": "orcha"}


@pytest.mark.slow
def test_dg_finds_nothing_wrong_with_the_project():
    dg_command = Path(sys.executable).with_name("dg")
    found = subprocess.run(
        [str(dg_command), "check", "defs"], capture_output=True, text=True, cwd=PROJECT, timeout=300, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
