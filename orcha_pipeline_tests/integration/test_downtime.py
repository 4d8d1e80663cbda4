"""Dagster's daemon was away for hours, or a cycle takes too long: one run catches up, none piles up or hangs."""

import logging
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import time_machine
from dagster._core.remote_representation.external import RemoteSchedule
from dagster._core.scheduler import DagsterDaemonScheduler
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.controller import create_daemon_grpc_server_registry
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs

from orcha_pipeline.assets.earnings import FEATURES
from orcha_pipeline.automation.jobs import CYCLE
from orcha_pipeline.dagster_api import LOCATION_NAME
from orcha_pipeline.model import HOUR, hour_of
from orcha_pipeline.warehouse.facts import naive
from orcha_pipeline_tests.integration.conftest import Rig
from orcha_pipeline_tests.integration.soundness import expect_sound

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).resolve().parents[2]
AWAY = timedelta(hours=6)
MINUTE = timedelta(minutes=1)
LOG = logging.getLogger(__name__)


class Daemon:
    """The daemon's own loops on an instance as `orcha up` makes it, with a code server of its own, turned by hand."""

    def __init__(self, instance: dg.DagsterInstance, workspace: WorkspaceProcessContext) -> None:
        self.instance, self.workspace = instance, workspace

    @property
    def schedule(self) -> RemoteSchedule:
        with self.workspace.create_request_context() as request:
            (repository,) = request.get_code_location(LOCATION_NAME).get_repositories().values()
            return repository.get_schedule("every_15_minutes")

    def turn(self, now: datetime) -> None:
        """One turn of the scheduler's loop."""
        scheduler = self.instance.scheduler
        assert isinstance(scheduler, DagsterDaemonScheduler)
        most = scheduler.max_catchup_runs
        list(launch_scheduled_runs(self.workspace, LOG, now, {}, max_catchup_runs=most))

    @property
    def ticks(self) -> list[InstigatorTick]:
        """The latest first."""
        schedule = self.schedule
        return list(self.instance.get_ticks(schedule.get_remote_origin_id(), schedule.selector_id))

    @property
    def runs(self) -> list[dg.DagsterRun]:
        return list(self.instance.get_runs(dg.RunsFilter(job_name=CYCLE)))


@pytest.fixture
def daemon(tmp_path, monkeypatch) -> Iterator[Daemon]:
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", home)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("ORCHA_HOME", str(tmp_path / ".orcha"))
    # A tick of every minute is never too old when it is looked at.
    monkeypatch.setenv("ORCHA_CYCLE_CRON", "* * * * *")
    target = ModuleTarget("orcha_pipeline.definitions", None, str(PROJECT), LOCATION_NAME)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        with (
            create_daemon_grpc_server_registry(instance) as servers,
            WorkspaceProcessContext(instance, target, grpc_server_registry=servers) as workspace,
        ):
            instance.report_runless_asset_event(dg.AssetMaterialization(FEATURES))
            yield Daemon(instance, workspace)
        servers.wait_for_processes()


def test_after_six_hours_without_a_daemon_one_cycle_is_started_and_the_next_waits_for_its_end(daemon):
    now = datetime.now(UTC)
    daemon.turn(now - AWAY)
    before = len(daemon.ticks)
    daemon.turn(now)
    assert len(daemon.ticks) == before + 1
    (run,) = daemon.runs
    assert run.status is dg.DagsterRunStatus.QUEUED
    assert datetime.fromtimestamp(daemon.ticks[0].timestamp, UTC) > now - MINUTE
    daemon.turn(now + timedelta(seconds=1))
    assert daemon.runs == [run]

    for minute in (1, 2):  # it takes longer than until the next tick
        daemon.turn(now + minute * MINUTE)
        assert daemon.ticks[0].status is TickStatus.SKIPPED
        assert run.run_id in daemon.ticks[0].skip_reason
        assert [each.run_id for each in daemon.runs] == [run.run_id]

    daemon.instance.report_run_canceled(run)
    daemon.turn(now + 3 * MINUTE)
    assert len(daemon.runs) == 2


def test_a_cycle_that_hangs_is_ended_before_the_next_tick(daemon):
    with daemon.workspace.create_request_context() as request:
        (repository,) = request.get_code_location(LOCATION_NAME).get_repositories().values()
        job = repository.get_full_job(CYCLE)
        limit = float(job.tags["dagster/max_runtime"])
        assert limit < 15 * 60
        now = datetime.now(UTC)
        with time_machine.travel(now - timedelta(seconds=limit + 1), tick=False):
            run = create_run_for_test(
                daemon.instance,
                job_name=CYCLE,
                status=dg.DagsterRunStatus.STARTING,
                tags=dict(job.tags),
                remote_job_origin=job.get_remote_origin(),
            )
            began = dg.DagsterEvent(dg.DagsterEventType.PIPELINE_START.value, CYCLE)
            daemon.instance.report_dagster_event(began, run.run_id)
    list(execute_run_monitoring_iteration(daemon.workspace, LOG, None))
    ended = daemon.instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.is_finished
    daemon.turn(now)
    daemon.turn(now + MINUTE)
    assert daemon.runs[0].status is dg.DagsterRunStatus.QUEUED


def test_what_nodes_earned_while_nothing_was_read_is_on_record_afterwards(rig: Rig):
    began = hour_of(rig.installation.clock.now()) + HOUR  # so that no hour is told of that began before
    rig.advance_to(began)
    assert rig.run_cycle().success
    earned = {node: -state["native_total"] for node, state in rig.truth().items()}
    rig.advance_to(began + AWAY)
    for node, state in rig.truth().items():
        earned[node] += state["native_total"]
    assert rig.run_cycle().success
    found = rig.rows(
        "SELECT node, sum(gross) AS gross FROM earnings_hourly WHERE ended_at > ? GROUP BY node", naive(began + MINUTE)
    )
    told = {row["node"]: float(row["gross"]) for row in found}
    for node in ("golem-1", "storj-1", "streamr-1"):  # Grass tells what an epoch brought when it is over
        assert told[node] == pytest.approx(earned[node], rel=0.02)
    expect_sound(rig)
