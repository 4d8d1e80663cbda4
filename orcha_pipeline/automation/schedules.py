"""The clockwork: a cycle every 15 minutes, a training every week."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from orcha_pipeline.assets.earnings import FEATURES
from orcha_pipeline.automation.jobs import CYCLE, RECORD_HISTORY, TRAIN_MODELS
from orcha_pipeline.dagster_api import partition_key

ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
STALE_TICK = timedelta(minutes=14)


def active_run(instance: dg.DagsterInstance, job_name: str) -> str | None:
    """Id of a run of this job that has not ended, if there is one."""
    runs = instance.get_runs(filters=dg.RunsFilter(job_name=job_name, statuses=ACTIVE), limit=1)
    return runs[0].run_id if runs else None


def build_schedules(*, cycle_cron: str) -> list[dg.ScheduleDefinition]:
    """Both schedules, on by default."""

    @dg.schedule(
        name="every_15_minutes",
        job_name=CYCLE,
        cron_schedule=cycle_cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="One cycle at a time; a tick that comes while one is active, or too late, is skipped.",
    )
    def every_15_minutes(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        tick = context.scheduled_execution_time.astimezone(UTC)
        if datetime.now(UTC) - tick > STALE_TICK:
            return dg.SkipReason(f"The tick of {tick:%H:%M} is too old to act on: the next one reads the present.")
        for job_name in (CYCLE, RECORD_HISTORY):
            if run_id := active_run(context.instance, job_name):
                return dg.SkipReason(f"Run {run_id} of {job_name} is still active.")
        if context.instance.get_latest_materialization_event(FEATURES) is None:
            return dg.SkipReason("There is no history yet: `orcha up` records it first.")
        return dg.RunRequest(run_key=f"{CYCLE}:{tick.isoformat()}", partition_key=partition_key(tick))

    weekly = dg.ScheduleDefinition(
        name="weekly_training",
        job_name=TRAIN_MODELS,
        cron_schedule="20 3 * * 1",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Monday 03:20 UTC: a new version of every model.",
    )
    return [every_15_minutes, weekly]
