"""Backup and restore are killed before each of their changes to the disk; what they leave is whole, and is ended."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orcha_pipeline.backup.archive import verify
from orcha_pipeline.backup.journal import JOURNAL, pending
from orcha_pipeline_tests.backup.build import HOME, WHOLE, addresses_in, backed_up, make_home, mark_of, tree

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parents[2]
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def orcha():
    """Runs the command in a folder, killed before a change; gives the exit status."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ORCHA_")}
    with subprocess.Popen(
        [sys.executable, "-m", "orcha_pipeline_tests.backup.killed"],
        cwd=PROJECT,
        env={**environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def run(folder, number, *arguments):
            process.stdin.write(json.dumps([str(folder), number, [str(each) for each in arguments]]) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield run
        process.stdin.close()


def kept_of(home):
    """The files of the installation, whatever a restore or a backup left beside them."""
    return {name: content for name, content in tree(home).items() if name.partition("/")[0] in WHOLE}


def test_a_restore_killed_anywhere_leaves_the_old_whole_or_is_ended_by_the_next(tmp_path, orcha):
    archive = tmp_path / "new.tar.gz"
    backed_up(make_home(tmp_path / "new", "new"), archive)
    make_home(tmp_path / "template", "old")
    before = kept_of(tmp_path / "template" / HOME)
    number, untouched, halfway = 0, 0, 0
    while True:
        folder = tmp_path / f"killed-{number}"
        shutil.copytree(tmp_path / "template", folder)
        home = folder / HOME
        status = orcha(folder, number, "restore", archive, "--yes")
        if status == 0:
            break
        assert status == KILLED
        if pending(home) is None and mark_of(home) == "old":
            untouched += 1
            assert kept_of(home) == before
            if number % 8 == 0:  # what was left is cleared away, and in nobody's way
                assert orcha(folder, -1, "restore", archive, "--yes") == 0
                check_restored(home, before)
        else:
            if pending(home) is not None:
                halfway += 1
                assert orcha(folder, -1, "decision") == 1
                assert orcha(folder, -1, "restore") == 0
            check_restored(home, before)
        shutil.rmtree(folder)
        number += 1
    check_restored(home, before)
    assert untouched > 10
    assert halfway >= 10


def check_restored(home, before):
    assert mark_of(home) == "new"
    assert addresses_in(home) == {
        f"{(home / 'mlflow' / 'artifacts').as_uri()}/{name}" for name in ("orcha-storj", "orcha-storj/run")
    }
    (aside,) = home.glob("before-restore-*")
    assert tree(aside) == before
    assert not (home / JOURNAL).exists()
    assert not (home / "dagster").exists()


def test_a_backup_killed_anywhere_leaves_no_archive_but_a_whole_one(tmp_path, orcha):
    folder, number = tmp_path / "installed", 0
    home = make_home(folder, "mine")
    before = kept_of(home)
    out = tmp_path / "archives"
    out.mkdir()
    while (status := orcha(folder, number, "backup", "--out", f"{out}/")) != 0:
        assert status == KILLED
        for found in out.glob("*.tar.gz"):
            assert verify(found).files
            found.unlink()
        assert kept_of(home) == before
        assert mark_of(home) == "mine"
        number += 1
    # What the killed ones left is gone.
    (found,) = out.iterdir()
    assert verify(found).files.keys() > {"home/warehouse.duckdb", "home/mlflow/mlflow.db"}
    assert number > 10


def test_a_restore_killed_while_it_replaces_the_settings_has_the_old_or_the_new_ones(tmp_path, orcha):
    config = "orcha.toml"
    new, template = tmp_path / "new", tmp_path / "template"
    home = make_home(new, "new")
    (new / config).write_text("cycle_cron = '0 * * * *'\n")
    archive = tmp_path / "new.tar.gz"
    backed_up(home, archive, new / config)
    make_home(template, "old")
    (template / config).write_text("cycle_cron = '30 * * * *'\n")
    texts = {(each / config).read_text() for each in (new, template)}
    number, halfway = 0, 0
    while True:
        folder = tmp_path / f"killed-{number}"
        shutil.copytree(template, folder)
        status = orcha(folder, number, "restore", archive, "--yes", "--config-too")
        if status == 0:
            break
        assert (folder / config).read_text() in texts
        if pending(folder / HOME) is not None:
            halfway += 1
            assert orcha(folder, -1, "restore") == 0
            assert (folder / config).read_text() == (new / config).read_text()
            (aside,) = (folder / HOME).glob("before-restore-*")
            assert (aside / config).read_text() == (template / config).read_text()
            assert mark_of(folder / HOME) == "new"
        shutil.rmtree(folder)
        number += 1
    assert halfway >= 10
    assert (folder / config).stat().st_mode & 0o777 == 0o600
