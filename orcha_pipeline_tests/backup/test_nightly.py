"""The nightly backup as Dagster runs it."""

from datetime import timedelta
from types import SimpleNamespace

import dagster as dg
import pytest

from orcha_pipeline.assets import backup as asset
from orcha_pipeline.assets.backup import BACKUP
from orcha_pipeline.automation.backup import BACKUP_JOB
from orcha_pipeline.automation.jobs import CYCLE
from orcha_pipeline.backup import save
from orcha_pipeline.backup.archive import verify
from orcha_pipeline.definitions import build_defs
from orcha_pipeline.settings import Settings
from orcha_pipeline.settings_file import load_settings
from orcha_pipeline_tests.backup.build import HOME, NOW, make_home


@pytest.fixture
def run(tmp_path, monkeypatch):
    """One night's run, of the installation in the working folder; `keep` as many."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHA_CONFIG", raising=False)
    make_home(tmp_path, "mine")
    monkeypatch.setenv("ORCHA_BACKUP__KEEP", "3")

    def night(number):
        monkeypatch.setattr(asset, "datetime", SimpleNamespace(now=lambda _zone: NOW + number * timedelta(days=1)))
        job = build_defs(load_settings()).resolve_job_def(BACKUP_JOB)
        with dg.DagsterInstance.ephemeral() as instance:
            return job.execute_in_process(instance=instance, raise_on_error=False)

    return night


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_night_adds_an_archive_and_the_oldest_go_but_none_made_by_hand(tmp_path, run):
    folder = tmp_path / HOME / "backups"
    for number in range(5):
        result = run(number)
        assert result.success
        if number == 1:
            (folder / "orcha-20260101T000000Z.tar.gz").write_text("made by hand")
    assert names(folder) == [
        "orcha-20260101T000000Z.tar.gz",
        *(f"orcha-nightly-2026030{day}T030000Z.tar.gz" for day in (7, 8, 9)),
    ]
    assert verify(folder / "orcha-nightly-20260309T030000Z.tar.gz").simulated
    (event,) = result.asset_materializations_for_node("backup")
    told = {key: entry.value for key, entry in event.metadata.items()}
    assert (told["kept"], told["removed"], told["files"], told["simulated"]) == (3, 1, 8, True)
    assert told["archive"].endswith("orcha-nightly-20260309T030000Z.tar.gz")
    assert told["MiB"] > 0


def failed(result):
    """What Dagster shows of the run's failure."""
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    return failure.step_failure_data.user_failure_data.description


def test_a_night_without_room_fails_and_leaves_the_last_good_ones(tmp_path, run, monkeypatch):
    for number in range(3):
        run(number)
    folder = tmp_path / HOME / "backups"
    before = names(folder)
    assert len(before) == 3
    with monkeypatch.context() as patch:
        patch.setattr(save.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=0))
        told = failed(run(3))
    assert "There is too little room in" in told
    assert "Earlier backups are as they were." in told
    assert names(folder) == before


def test_nothing_is_removed_before_the_new_archive_was_read_back(tmp_path, run, monkeypatch):
    for number in range(3):
        run(number)
    folder = tmp_path / HOME / "backups"
    before = names(folder)
    real = save.write_archive

    def damaged(path, *args, **more):
        real(path, *args, **more)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(save, "write_archive", damaged)
        assert "is damaged" in failed(run(3))
    assert names(folder) == before
    for name in before:
        assert verify(folder / name).files


def test_it_runs_at_night_unless_that_is_switched_off():
    for nightly, status in ((True, dg.DefaultScheduleStatus.RUNNING), (False, dg.DefaultScheduleStatus.STOPPED)):
        schedule = build_defs(Settings.model_validate({"backup": {"nightly": nightly}})).resolve_schedule_def(
            "nightly_archive"
        )
        assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 3 * * *", "UTC")
        assert schedule.default_status is status
        assert schedule.job_name == BACKUP_JOB


def test_it_is_a_job_of_its_own_and_no_part_of_the_cycle():
    defs = build_defs(Settings())
    layer = defs.resolve_job_def(BACKUP_JOB).asset_layer
    assert layer.selected_asset_keys == {BACKUP}
    assert defs.resolve_job_def(BACKUP_JOB).executor_def is dg.in_process_executor
    assert BACKUP not in defs.resolve_job_def(CYCLE).asset_layer.selected_asset_keys
