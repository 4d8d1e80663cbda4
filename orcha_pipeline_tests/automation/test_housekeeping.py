from datetime import UTC, datetime

import dagster as dg
import yaml

from orcha_pipeline.automation.housekeeping import HOUSEKEEPING_JOB
from orcha_pipeline.automation.jobs import CYCLE
from orcha_pipeline_tests.test_definitions import PROJECT


def test_it_runs_every_night_by_default(defs, instance):
    schedule = defs.resolve_schedule_def("nightly_tidying")
    assert schedule.cron_schedule == "40 2 * * *"
    assert schedule.execution_timezone == "UTC"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    tick = datetime(2026, 3, 5, 2, 40, tzinfo=UTC)
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=tick)
    (request,) = schedule.evaluate_tick(context).run_requests
    assert schedule.job_name == HOUSEKEEPING_JOB
    assert request.partition_key is None


def test_it_is_no_part_of_the_cycle_and_holds_none_up(defs):
    job, cycle = defs.resolve_job_def(HOUSEKEEPING_JOB), defs.resolve_job_def(CYCLE)
    assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == {"housekeeping"}
    assert not job.asset_layer.selected_asset_keys & cycle.asset_layer.selected_asset_keys
    assert int(job.tags["dagster/priority"]) < int(cycle.tags["dagster/priority"])
    (node,) = job.graph.node_defs
    assert node.pool is None
    limited = yaml.safe_load((PROJECT / "dagster.yaml").read_text())["concurrency"]["runs"]["tag_concurrency_limits"]
    assert not {limit["key"] for limit in limited} & set(job.tags)
