"""Runs whose processes died with what had begun them are marked as failed; others are left alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import time_machine
from dagster._core.test_utils import create_run_for_test

from orcha_pipeline.dagster_api import prepare_instance
from orcha_pipeline.errors import SupervisionError
from orcha_pipeline.lost_runs import RETRIED_FOR, WHY, end_lost_runs

LOST = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
NOT_LOST = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "dagster.yaml").write_text((Path(__file__).parents[1] / "dagster.yaml").read_text())
    prepare_instance(tmp_path)
    return tmp_path


def test_what_is_under_way_has_failed_and_says_why(home):
    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = {status: create_run_for_test(instance, status=status).run_id for status in (*LOST, *NOT_LOST)}
        assert set(end_lost_runs(home)) == {runs[status] for status in LOST}
        for status in LOST:
            found = instance.get_run_by_id(runs[status])
            assert found is not None
            assert found.status is dg.DagsterRunStatus.FAILURE
            (event,) = instance.all_logs(runs[status], of_type=dg.DagsterEventType.RUN_FAILURE)
            assert event.message.endswith(WHY)
        for status in NOT_LOST:
            found = instance.get_run_by_id(runs[status])
            assert found is not None
            assert found.status is status
    assert end_lost_runs(home) == []


def test_dagster_begins_again_what_began_lately_and_no_other(home):
    now = datetime.now(UTC)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        with time_machine.travel(now - RETRIED_FOR - timedelta(minutes=1), tick=False):
            old = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED).run_id
        new = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED).run_id
        end_lost_runs(home)
        will_retry = {run.run_id: run.tags["dagster/will_retry"] for run in instance.get_runs()}
    assert will_retry == {old: "false", new: "true"}


def test_a_record_that_is_no_database_is_told(home):
    (home / "history" / "runs.db").write_text("no database" * 1000)
    with pytest.raises(SupervisionError, match=r"record of its runs in .* cannot be read or written: file is not a"):
        end_lost_runs(home)
