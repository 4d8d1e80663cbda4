from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import time_machine
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from orcha_pipeline.assets.earnings import FEATURES
from orcha_pipeline.automation.jobs import CYCLE, RECORD_HISTORY, TRAIN_MODELS
from orcha_pipeline.automation.schedules import ACTIVE

TICK = datetime(2026, 3, 5, 12, 45, tzinfo=UTC)
ORIGIN = RemoteJobOrigin(RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("127.0.0.1", 1), "__repository__"), CYCLE)
"""What a queued run must have; nothing is asked there."""


@pytest.fixture
def tick(defs, instance):
    """What the schedule answers to a tick, asked `late` after it."""

    def evaluate(*, scheduled=TICK, late=timedelta(seconds=2)):
        with time_machine.travel(TICK + late, tick=False):
            context = dg.build_schedule_context(instance=instance, scheduled_execution_time=scheduled)
            return defs.resolve_schedule_def("every_15_minutes")(context)

    return evaluate


@pytest.fixture
def history(instance):
    instance.report_runless_asset_event(dg.AssetMaterialization(FEATURES))


def test_without_history_there_is_no_cycle(tick):
    skipped = tick()
    assert isinstance(skipped, dg.SkipReason)
    assert "no history" in skipped.skip_message


@pytest.mark.usefixtures("history")
def test_a_tick_asks_for_the_partition_of_its_hour_under_a_key_of_its_own(tick, defs):
    asked = tick()
    assert isinstance(asked, dg.RunRequest)
    assert asked.partition_key == "2026-03-05-12:00"
    partitions = defs.resolve_job_def(CYCLE).partitions_def
    assert asked.partition_key in partitions.get_partition_keys(current_time=TICK)
    later = tick(scheduled=TICK + timedelta(minutes=15), late=timedelta(minutes=15))
    assert later.partition_key == "2026-03-05-13:00"
    assert later.partition_key in partitions.get_partition_keys(current_time=TICK + timedelta(minutes=15))
    assert later.run_key != asked.run_key
    # The same tick evaluated again has the same key, so that Dagster starts one run of it.
    assert tick(scheduled=TICK.astimezone(ZoneInfo("Asia/Kolkata"))).run_key == asked.run_key


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(("minutes", "skipped"), [(13.9, False), (14.1, True), (600, True)])
def test_a_tick_too_old_is_skipped(tick, minutes, skipped):
    assert isinstance(tick(late=timedelta(minutes=minutes)), dg.SkipReason) is skipped


@pytest.mark.usefixtures("history")
def test_a_tick_is_skipped_while_a_cycle_or_the_recording_of_history_runs(tick, instance):
    for job in (CYCLE, RECORD_HISTORY):
        for status in ACTIVE:
            run = create_run_for_test(instance, job_name=job, status=status, remote_job_origin=ORIGIN)
            skipped = tick()
            assert isinstance(skipped, dg.SkipReason)
            assert run.run_id in skipped.skip_message
            assert job in skipped.skip_message
            instance.delete_run(run.run_id)
    assert isinstance(tick(), dg.RunRequest)


@pytest.mark.usefixtures("history")
def test_ended_runs_and_other_jobs_stop_no_cycle(tick, instance):
    for status in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
        create_run_for_test(instance, job_name=CYCLE, status=status)
    create_run_for_test(instance, job_name=TRAIN_MODELS, status=dg.DagsterRunStatus.STARTED)
    assert isinstance(tick(), dg.RunRequest)
