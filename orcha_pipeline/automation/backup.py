"""The nightly backup: its job and its schedule."""

from typing import Any

import dagster as dg

from orcha_pipeline.assets.backup import BACKUP
from orcha_pipeline.automation.nightly import nightly_job

BACKUP_JOB = "nightly_backup"


def build_backup_job() -> Any:  # Dagster does not export the type of an asset job
    """The job."""
    return nightly_job(
        BACKUP_JOB,
        BACKUP,
        description="An archive of warehouse, models and settings, read back; then those go that are too many.",
    )


def build_backup_schedule(*, nightly: bool) -> dg.ScheduleDefinition:
    """The schedule, on by default where `nightly` is."""
    return dg.ScheduleDefinition(
        name="nightly_archive",
        job_name=BACKUP_JOB,
        cron_schedule="0 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if nightly else dg.DefaultScheduleStatus.STOPPED,
        description="03:00 UTC: a backup, after housekeeping.",
    )
