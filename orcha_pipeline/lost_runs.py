"""Runs of Dagster whose processes died with the code server that began them, or with all of Orcha.

The code server sees how its own runs end, and nobody sees it of those that an earlier one began: they would count as
under way for ever, and with the limit of one application at a time no decision would be carried out again.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from orcha_pipeline.errors import SupervisionError

WHY = "Its process ended with the service that had begun it."
RETRIED_FOR = timedelta(minutes=15)
"""A run that began longer ago is not retried: what it was to do is the next cycle's matter by now."""


def end_lost_runs(dagster_home: Path) -> list[str]:
    """Mark every run that is under way as failed, and return their ids.

    To be called while no process of a run is left and none can be begun: before the code server starts. Dagster may
    then retry those that began lately. Raises `SupervisionError` where its databases cannot be read or written.
    """
    import dagster as dg
    from sqlalchemy.exc import SQLAlchemyError

    under_way = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    try:
        with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
            lost = list(instance.get_run_records(dg.RunsFilter(statuses=under_way)))
            for record in lost:
                if datetime.now(UTC) - record.create_timestamp > RETRIED_FOR:
                    instance.add_run_tags(record.dagster_run.run_id, {"dagster/max_retries": "0"})
                instance.report_run_failed(record.dagster_run, WHY)
    except (SQLAlchemyError, OSError) as error:
        why = getattr(error, "orig", None) or error
        raise SupervisionError(
            f"Dagster's record of its runs in {dagster_home} cannot be read or written: {why}. "
            "Look at the room on the disk and at the folder's owner."
        ) from error
    return [record.dagster_run.run_id for record in lost]
