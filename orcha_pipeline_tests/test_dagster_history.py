import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from orcha_pipeline import dagster_history
from orcha_pipeline.automation.schedules import ACTIVE
from orcha_pipeline.dagster_api import prepare_instance
from orcha_pipeline.dagster_history import databases, delete_old_runs, sweep
from orcha_pipeline.sqlite_files import make_shrinkable, shrink

TOMORROW = datetime.now(UTC) + timedelta(days=1)
YESTERDAY = TOMORROW - timedelta(days=2)
SEEN, ONCE = dg.AssetKey("seen"), dg.AssetKey("once")


@dg.asset
def seen() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"filler": "x" * 20_000})


@dg.asset_check(asset=seen)
def fine() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.asset
def once() -> None:
    return None


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "dagster.yaml").write_text((Path(__file__).parents[1] / "dagster.yaml").read_text())
    prepare_instance(tmp_path)
    return tmp_path


@pytest.fixture
def instance(home, monkeypatch):
    monkeypatch.setattr(dagster_history, "NEWEST_KEPT", 1)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def make(instance: dg.DagsterInstance, *assets, times: int = 1) -> list[str]:
    return [dg.materialize(list(assets), instance=instance).run_id for _ in range(times)]


def run_ids(instance: dg.DagsterInstance) -> set[str]:
    return {run.run_id for run in instance.get_runs()}


def files(home: Path) -> set[str]:
    return {file.stem for file in (home / "history" / "runs").glob("*.db")} - {"index", ".db"}


def rows(home: Path, query: str, name: str = "runs/index") -> list[tuple]:
    with closing(sqlite3.connect(home / "history" / f"{name}.db")) as connection:
        return connection.execute(query).fetchall()


def test_old_runs_go_with_all_they_left_but_the_last_that_made_an_asset(instance, home):
    (first,) = make(instance, seen, once)
    others = make(instance, seen, fine, times=3)
    assert delete_old_runs(instance, before=TOMORROW) == 2
    assert run_ids(instance) == {first, others[-1]}
    assert sweep(home) == 2
    assert files(home) == {first, others[-1]}
    left = {first, others[-1], ""}
    assert {run_id for (run_id,) in rows(home, "SELECT DISTINCT run_id FROM event_logs")} <= left
    assert {run_id for (run_id,) in rows(home, "SELECT DISTINCT run_id FROM run_tags", "runs")} <= left
    assert [run_id for (run_id,) in rows(home, "SELECT run_id FROM asset_check_executions")] == [others[-1]]
    assert sweep(home) == 0


def test_what_schedules_and_sensors_ask_for_is_answered_as_before(instance, home):
    requests = []

    @dg.asset_sensor(asset_key=SEEN, job_name="any")
    def watches(_context, event):
        requests.append(event.run_id)
        return dg.RunRequest(run_key=event.run_id)

    def evaluate(cursor: str | None) -> str | None:
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        watches.evaluate_tick(context)
        return context.cursor

    failed = create_run_for_test(instance, job_name="any", status=dg.DagsterRunStatus.FAILURE).run_id
    make(instance, seen, once, times=2)
    cursor = evaluate(None)
    before = {key: instance.get_latest_materialization_event(key) for key in (SEEN, ONCE)}
    delete_old_runs(instance, before=TOMORROW)
    sweep(home)
    for file in databases(home):
        assert make_shrinkable(file)
        shrink(file, least_free_bytes=0)
    assert failed not in run_ids(instance)
    assert {key: instance.get_latest_materialization_event(key) for key in (SEEN, ONCE)} == before
    assert evaluate(cursor) == cursor
    assert len(requests) == 1  # nothing is told a second time ...
    (later,) = make(instance, seen)
    evaluate(cursor)
    assert requests[-1] == later  # ... and nothing new is missed


def test_runs_that_are_active_or_young_stay(instance):
    active = [create_run_for_test(instance, status=status).run_id for status in ACTIVE if status.name != "QUEUED"]
    make(instance, seen, times=2)
    assert delete_old_runs(instance, before=YESTERDAY) == 0
    assert delete_old_runs(instance, before=TOMORROW) == 1
    assert set(active) <= run_ids(instance)


def test_a_night_deletes_so_many_and_the_oldest_first(instance):
    made = [create_run_for_test(instance, status=dg.DagsterRunStatus.SUCCESS).run_id for _ in range(5)]
    assert delete_old_runs(instance, before=TOMORROW, at_most=3) == 3
    assert run_ids(instance) == set(made[3:])


def test_the_newest_runs_stay_however_old(instance, monkeypatch):
    made = [create_run_for_test(instance, status=dg.DagsterRunStatus.FAILURE).run_id for _ in range(5)]
    monkeypatch.setattr(dagster_history, "NEWEST_KEPT", 2)
    assert delete_old_runs(instance, before=TOMORROW) == 3
    assert run_ids(instance) == set(made[3:])


def test_a_deletion_that_died_halfway_is_finished_by_the_next_sweep(instance, home):
    gone, stays = make(instance, seen, times=2)
    instance.run_storage.delete_run(gone)  # the first half of what delete_run does
    assert sweep(home) == 1
    assert files(home) == {stays}
    assert {run_id for (run_id,) in rows(home, "SELECT DISTINCT run_id FROM event_logs")} <= {stays, ""}
    assert rows(home, "SELECT count(*) FROM asset_event_tags WHERE event_id NOT IN (SELECT id FROM event_logs)") == [
        (0,)
    ]


def test_an_instance_that_keeps_its_runs_elsewhere_is_left_alone(tmp_path):
    assert sweep(tmp_path) == 0
    assert databases(tmp_path) == []
