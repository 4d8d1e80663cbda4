"""Dagster keeps every run and its events for ever: what is too old goes, a bounded part of it at a time.

Runs go through Dagster's own API. What that leaves behind of them is swept up: the file of a run's events, its tags
and the results of its checks, of runs that Dagster no longer knows, and where the files are SQLite's.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

RUNS_AT_MOST = 1000
NEWEST_KEPT = 10
"""However old: SQLite would give the number of the last event to the next one again, and sensors count by it."""
BUSY_SECONDS = 30.0
_INDEX = "index"
"""The file that holds the events of all runs that tell of assets, beside a file a run."""


def delete_old_runs(instance: "dg.DagsterInstance", *, before: datetime, at_most: int = RUNS_AT_MOST) -> int:
    """Delete runs that have ended and were created before then, the oldest first. Returns how many.

    The run that last made an asset stays: schedules and sensors ask for it, and a sensor's cursor points behind it.
    """
    import dagster as dg

    events = (instance.get_latest_materialization_event(key) for key in instance.get_asset_keys())
    kept = {event.run_id for event in events if event is not None}
    kept |= {record.dagster_run.run_id for record in instance.get_run_records(limit=NEWEST_KEPT)}
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    old = instance.get_run_records(
        dg.RunsFilter(statuses=ended, created_before=before), limit=at_most + len(kept), ascending=True
    )
    run_ids = [record.dagster_run.run_id for record in old if record.dagster_run.run_id not in kept][:at_most]
    for run_id in run_ids:
        instance.delete_run(run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
    return len(run_ids)


def databases(dagster_home: Path) -> list[Path]:
    """The SQLite files that stay, as far as they are there."""
    history = dagster_home / "history"
    files = (history / "runs.db", history / "runs" / f"{_INDEX}.db", dagster_home / "schedules" / "schedules.db")
    return [file for file in files if file.exists()]


def sweep(dagster_home: Path) -> int:
    """Remove what is left of runs that Dagster no longer knows. Returns the files removed.

    Raises `sqlite3.Error` where the files are not what this version of Dagster writes.
    """
    history = dagster_home / "history"
    runs, index, folder = history / "runs.db", history / "runs" / f"{_INDEX}.db", history / "runs"
    if not runs.exists() or not index.exists():
        return 0
    # What there is of runs is looked at before the runs are: one that begins meanwhile is known by then.
    files = {file.stem: file for file in folder.glob("*.db") if file.stem not in ("", _INDEX, ".db")}
    with closing(sqlite3.connect(index, timeout=BUSY_SECONDS)) as events:
        told = {run_id for table in _OF_RUNS for (run_id,) in events.execute(f"SELECT DISTINCT run_id FROM {table}")}  # noqa: S608
        with closing(sqlite3.connect(runs, timeout=BUSY_SECONDS)) as connection, connection:
            connection.execute("DELETE FROM run_tags WHERE run_id NOT IN (SELECT run_id FROM runs)")
            known = {run_id for (run_id,) in connection.execute("SELECT run_id FROM runs")}
        _forget(events, told - known - {"", None})
    gone = [file for run_id, file in files.items() if run_id not in known]
    for file in gone:
        for part in (file, file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")):
            part.unlink(missing_ok=True)
    return len(gone)


_OF_RUNS = ("event_logs", "asset_check_executions")


def _forget(events: sqlite3.Connection, run_ids: Iterable[str]) -> None:
    """Delete what tells of these runs, but the last result of each check; each in a transaction of its own."""
    for run_id in run_ids:
        with events:
            events.execute(
                "DELETE FROM asset_event_tags WHERE event_id IN (SELECT id FROM event_logs WHERE run_id = ?)", [run_id]
            )
            events.execute("DELETE FROM event_logs WHERE run_id = ?", [run_id])
            events.execute(
                "DELETE FROM asset_check_executions WHERE run_id = ? AND id NOT IN "
                "(SELECT max(id) FROM asset_check_executions GROUP BY asset_key, check_name)",
                [run_id],
            )
