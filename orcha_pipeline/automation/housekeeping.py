"""The nightly housekeeping: its job and its schedule."""

from typing import Any

import dagster as dg

from orcha_pipeline.assets.housekeeping import HOUSEKEEPING
from orcha_pipeline.automation.nightly import nightly_job

HOUSEKEEPING_JOB = "nightly_housekeeping"


def build_housekeeping_job() -> Any:  # Dagster does not export the type of an asset job
    """The job."""
    return nightly_job(
        HOUSEKEEPING_JOB,
        HOUSEKEEPING,
        description="Old readings in fewer rows, what is too old deleted, Dagster's old runs too, room given back.",
    )


def build_housekeeping_schedule() -> dg.ScheduleDefinition:
    """The schedule, on by default."""
    return dg.ScheduleDefinition(
        name="nightly_tidying",
        job_name=HOUSEKEEPING_JOB,
        cron_schedule="40 2 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="02:40 UTC: housekeeping, before the backup.",
    )
