from datetime import timedelta
from functools import partial

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from orcha_pipeline.assets.allocation import ALLOCATION_DECISION, TO_APPLY
from orcha_pipeline.automation.jobs import APPLY_ALLOCATION
from orcha_pipeline.automation.sensors import build_sensors
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.model import HOUR, ApplicationStatus, Mode
from orcha_pipeline.permission_commands import approve, pause, resume
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.decisions import ApplicationRow
from orcha_pipeline_tests.rig import NOW, decision_to_apply, installation


@pytest.fixture
def look(asked):
    """What the sensor answers, asked with a cursor."""
    return partial(asked, "apply_decision")


@pytest.fixture
def decide(instance):
    def report(*ids, metadata=None):
        found = {TO_APPLY: dg.MetadataValue.json(list(ids))} if metadata is None else metadata
        instance.report_runless_asset_event(dg.AssetMaterialization(ALLOCATION_DECISION, metadata=found))

    return report


def test_each_decision_to_apply_gets_one_run_under_its_id(look, decide, defs):
    decide("d-1", "d-2")
    requests = look().run_requests
    assert [request.run_key for request in requests] == ["d-1", "d-2"]
    job = defs.resolve_job_def(APPLY_ALLOCATION)
    for request in requests:
        config = dg.validate_run_config(job, request.run_config)
        assert config["ops"]["allocation_application"]["config"] == {"decision_id": request.run_key}
        assert request.tags["orcha/decision"] == request.run_key


def test_a_decision_seen_before_is_asked_for_no_second_time(look, decide):
    decide("d-1")
    first = look()
    assert look(first.cursor).run_requests == []
    decide("d-2")
    assert [request.run_key for request in look(first.cursor).run_requests] == ["d-2"]


def test_of_decisions_taken_between_two_looks_only_the_latest_counts(look, decide):
    decide("d-1")
    decide("d-2")
    assert [request.run_key for request in look().run_requests] == ["d-2"]


@pytest.mark.parametrize("metadata", [None, {}])
def test_a_decision_to_hold_starts_nothing_and_says_so(look, decide, metadata):
    decide(metadata=metadata)
    found = look()
    assert found.run_requests == []
    assert "holds" in found.skip_message


def test_before_the_first_decision_nothing_is_started(look):
    assert look().run_requests == []


# --- approved decisions


@pytest.fixture
def installed(tmp_path):
    return installation(tmp_path / "home", FixedClock(NOW), ["a"], mode="confirm")


@pytest.fixture
def look_with(instance, installed, monkeypatch):
    """What the sensor of that name answers in that installation."""
    monkeypatch.setattr(NodesResource, "installation", lambda _self: installed)
    sensors = build_sensors(NodesResource(), WarehouseResource(database=str(installed.settings.warehouse_path)))

    def evaluate(name):
        sensor = next(sensor for sensor in sensors if sensor.name == name)
        return sensor.evaluate_tick(dg.build_sensor_context(instance=instance))

    return evaluate


@pytest.fixture
def look_for_approved(look_with):
    return lambda: look_with("apply_approved")


def test_an_approved_decision_gets_a_run_until_it_is_carried_out_expires_or_is_paused(look_for_approved, installed):
    row = decision_to_apply("d-1", [], decided_at=NOW - timedelta(minutes=5), mode=Mode.CONFIRM, expires_at=NOW + HOUR)
    with installed.warehouse.write() as connection:
        decisions.record_decision(connection, row)
    assert look_for_approved().run_requests == []
    approve(installed, None, who="ada")
    (request,) = look_for_approved().run_requests
    assert (request.run_key, request.tags["orcha/decision"]) == ("d-1", "d-1")
    pause(installed, who="ada", why="")
    found = look_for_approved()
    assert found.run_requests == []
    assert "No approved decision" in found.skip_message


# --- decisions whose run died before it had begun


@pytest.fixture
def run_of(instance):
    def run_of(decision_id, status=dg.DagsterRunStatus.FAILURE):
        create_run_for_test(instance, job_name="apply", status=status, tags={"orcha/decision": decision_id})

    return run_of


@pytest.mark.parametrize("mode", [Mode.CONFIRM, Mode.AUTO])
def test_a_decision_whose_run_died_gets_two_more_and_then_no_other(look_with, installed, run_of, mode):
    expires = NOW + HOUR if mode is Mode.CONFIRM else None
    row = decision_to_apply("d-1", [], decided_at=NOW - timedelta(minutes=5), mode=mode, expires_at=expires)
    with installed.warehouse.write() as connection:
        decisions.record_decision(connection, row)
    if mode is Mode.CONFIRM:
        approve(installed, None, who="ada")
    assert look_with("apply_again").run_requests == []  # the other sensors start the first
    run_of("d-1")
    (request,) = look_with("apply_again").run_requests
    assert (request.run_key, request.tags["orcha/decision"]) == ("d-1:2", "d-1")
    pause(installed, who="ada", why="")
    assert look_with("apply_again").run_requests == []
    resume(installed, who="ada")
    run_of("d-1")
    assert [request.run_key for request in look_with("apply_again").run_requests] == ["d-1:3"]
    run_of("d-1")
    assert look_with("apply_again").run_requests == []


def test_a_decision_that_was_claimed_or_whose_run_goes_on_gets_no_other(look_with, installed, run_of):
    for decision_id, minutes in (("d-1", 10), ("d-2", 5)):
        row = decision_to_apply(decision_id, [], decided_at=NOW - timedelta(minutes=minutes), mode=Mode.AUTO)
        with installed.warehouse.write() as connection:
            decisions.record_decision(connection, row)
        run_of(decision_id)
    assert [request.run_key for request in look_with("apply_again").run_requests] == ["d-2:2"]  # the latest alone
    run_of("d-2", dg.DagsterRunStatus.STARTED)
    assert look_with("apply_again").run_requests == []
    claimed = ApplicationRow(
        application_id="a-1",
        decision_id="d-2",
        started_at=NOW,
        ended_at=None,
        status=ApplicationStatus.RUNNING,
        reason="",
        dagster_run_id="run",
    )
    with installed.warehouse.write() as connection:
        assert decisions.begin_application(connection, claimed)
    run_of("d-2")
    assert look_with("apply_again").run_requests == []
