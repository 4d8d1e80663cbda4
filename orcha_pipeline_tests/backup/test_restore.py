"""The way back: what is there makes way and is kept, and nothing is touched where an archive does not fit."""

import errno
import os
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from orcha_pipeline.backup import journal as journals
from orcha_pipeline.backup import restore as restoring
from orcha_pipeline.backup.archive import verify
from orcha_pipeline.backup.journal import JOURNAL, Journal, pending, refuse_half_restored
from orcha_pipeline.backup.restore import restore
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import BackupError, WarehouseError
from orcha_pipeline.model import ApplicationStatus
from orcha_pipeline.supervisor import instance_lock
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.consistency import breaches
from orcha_pipeline.warehouse.decisions import ApplicationRow
from orcha_pipeline_tests import rig
from orcha_pipeline_tests.backup.build import HOME, NOW, WHOLE, addresses_in, backed_up, make_home, mark_of, tree
from orcha_pipeline_tests.integration.limited_disk import limited_disk

LATER = NOW + timedelta(hours=1)
ASIDE = f"before-restore-{LATER:%Y%m%dT%H%M%SZ}"


@pytest.fixture
def archive(tmp_path):
    """Of an installation whose mark is "new"; it is gone."""
    folder = tmp_path / "new"
    path = tmp_path / "new.tar.gz"
    backed_up(make_home(folder, "new"), path)
    folder.rename(tmp_path / "moved away")
    return path


def put_back(archive, home, config=None):
    home.mkdir(parents=True, exist_ok=True)
    return restore(archive, verify(archive), home=home, config=config, now=LATER)


def test_elsewhere_it_is_the_same_and_its_addresses_lead_to_the_new_place(tmp_path, archive):
    home = tmp_path / "a machine with ümlauts" / HOME
    restored = put_back(archive, home)
    assert mark_of(home) == "new"
    root = (home / "mlflow" / "artifacts").as_uri()
    assert addresses_in(home) == {f"{root}/orcha-storj", f"{root}/orcha-storj/run"}
    assert restored.aside is None
    assert restored.files == len(verify(archive).files)
    assert {path.name for path in home.iterdir()} == {*WHOLE} - {"dagster"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in home.rglob("*") if path.is_file())
    # Once more, from there to a third place.
    backed_up(home, tmp_path / "second.tar.gz")
    third = tmp_path / "third" / HOME
    put_back(tmp_path / "second.tar.gz", third)
    root = (third / "mlflow" / "artifacts").as_uri()
    assert addresses_in(third) == {f"{root}/orcha-storj", f"{root}/orcha-storj/run"}


def test_what_is_there_makes_way_and_is_kept(tmp_path, archive):
    home = make_home(tmp_path / "old", "old")
    (home / "warehouse.duckdb.wal").write_bytes(b"")
    before = tree(home)
    restored = put_back(archive, home)
    assert mark_of(home) == "new"
    assert restored.aside == home / ASIDE
    kept = tree(home / ASIDE)
    assert kept == {name: content for name, content in before.items() if name != "logs/daemon.log"}
    assert (home / "logs" / "daemon.log").read_text() == "old"
    assert not (home / "dagster").exists()
    assert not list(home.glob(".orcha-restore-*"))
    # A second time, in the same second: nothing that was kept is lost.
    assert put_back(archive, home).aside == home / f"{ASIDE}-2"
    assert tree(home / ASIDE) == kept


def test_a_warehouse_that_no_longer_opens_is_no_obstacle(tmp_path, archive):
    home = make_home(tmp_path / "old", "old")
    (home / "warehouse.duckdb").write_bytes(b"nonsense" * 500)
    put_back(archive, home)
    assert mark_of(home) == "new"
    assert (home / ASIDE / "warehouse.duckdb").read_bytes() == b"nonsense" * 500


def test_the_rules_of_the_doctor_hold_in_what_was_restored(tmp_path):
    clock = FixedClock(rig.NOW)
    nodes = {name: rig.FakeNode(name, clock, value=value) for name, value in (("a", 60.0), ("b", 20.0))}
    installed = rig.installation(tmp_path / "box", clock, list(nodes))
    rig.read_now(installed.warehouse, nodes.values(), rig.NOW)
    lines = [rig.decided_line("a", 60.0, 30.0), rig.decided_line("b", 20.0, 50.0)]
    with installed.warehouse.write() as connection:
        decisions.record_decision(connection, rig.decision_to_apply("d-1", lines))
    from orcha_pipeline.allocation.apply import carry_out

    warehouse = installed.warehouse
    outcome = carry_out(
        "d-1", application_id="a-1", run_id="run", installation=installed, warehouse=warehouse, adapters=nodes
    )
    assert outcome.status is ApplicationStatus.APPLIED
    backed_up(installed.settings.home, tmp_path / "box.tar.gz")
    put_back(tmp_path / "box.tar.gz", tmp_path / "elsewhere")
    restored = Warehouse(tmp_path / "elsewhere" / "warehouse.duckdb")
    with restored.read() as copy, warehouse.read() as original:
        assert breaches(copy, rig.NOW) == []
        tables = [name for (name,) in original.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        assert len(tables) > 20
        for table in tables:
            assert copy.execute(f"FROM {table}").fetchall() == original.execute(f"FROM {table}").fetchall(), table


# --- what does not fit


def unchanged(home, before):
    return tree(home) == before and not list(home.glob(".orcha-restore-*")) and not (home / JOURNAL).exists()


def test_a_warehouse_of_a_newer_orcha_is_refused_before_anything_is_touched(tmp_path):
    newer = make_home(tmp_path / "new", "new")
    with Warehouse(newer / "warehouse.duckdb").write() as connection:
        connection.execute("INSERT INTO schema_migrations VALUES ('9999_future.sql', now()::TIMESTAMP)")
    backed_up(newer, tmp_path / "new.tar.gz")
    home = make_home(tmp_path / "old", "old")
    before = tree(home)
    with pytest.raises(WarehouseError, match=r"newer Orcha \(it has 9999_future\.sql\)"):
        put_back(tmp_path / "new.tar.gz", home)
    assert unchanged(home, before)


def test_a_backup_of_an_earlier_orcha_is_brought_up_to_date(tmp_path):
    earlier = make_home(tmp_path / "new", "new")
    with Warehouse(earlier / "warehouse.duckdb").write() as connection:
        connection.execute("DROP TABLE freezes")
        connection.execute("DELETE FROM schema_migrations WHERE name = '0007_freezes.sql'")
    backed_up(earlier, tmp_path / "new.tar.gz")
    home = tmp_path / "old" / HOME
    put_back(tmp_path / "new.tar.gz", home)
    with Warehouse(home / "warehouse.duckdb").read() as connection:
        assert connection.execute("SELECT count(*) FROM freezes").fetchall() == [(0,)]


def test_with_too_little_room_nothing_is_touched(tmp_path, archive, monkeypatch):
    home = make_home(tmp_path / "old", "old")
    before = tree(home)
    monkeypatch.setattr(restoring.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1000))
    with pytest.raises(BackupError, match=r"too little room for .*: the archive holds \d+\.\d MiB, and 0\.0 are free"):
        put_back(archive, home)
    assert unchanged(home, before)


def test_a_disk_that_fills_up_meanwhile_leaves_the_old_whole(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(restoring.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=10**12))
    with limited_disk(tmp_path / "small", mib=4) as disk:
        home = make_home(disk.folder, "old")
        before = tree(home)
        disk.fill()
        with pytest.raises(BackupError, match=r"is full\. Nothing was changed"):
            put_back(archive, home)
        assert unchanged(home, before)
        disk.make_room()
        put_back(archive, home)
        assert mark_of(home) == "new"


def test_where_a_file_cannot_be_moved_the_restore_stays_on_record_and_is_ended_later(tmp_path, archive, monkeypatch):
    home = make_home(tmp_path / "old", "old")
    real = Path.rename

    def stuck(self, target):
        if Path(target) == home / "models":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(self))
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stuck)
        with pytest.raises(BackupError, match=r"not complete: .*models: Device or resource busy.*goes on where it end"):
            put_back(archive, home)
    with pytest.raises(BackupError, match=r"was interrupted. `orcha restore` ends it"):
        refuse_half_restored(home)
    journal = pending(home)
    assert journal is not None
    journals.carry_on(home, journal)
    assert mark_of(home) == "new"
    refuse_half_restored(home)


# --- the command


def test_the_command_restores_and_says_what_to_do_next(tmp_path, orcha, archive):
    home = make_home(tmp_path, "old")
    code, out, _ = orcha("restore", str(archive), "--yes")
    assert code == 0
    assert mark_of(home) == "new"
    (aside,) = home.glob("before-restore-*")
    assert f"What was there before is in {aside}: remove it once all is well." in out
    assert "run `orcha doctor`, after `orcha up`: the nodes may stand elsewhere" in out
    assert f"from {tmp_path / 'new' / HOME}, of simulated nodes" in out


def test_without_a_yes_nothing_happens(tmp_path, orcha, archive):
    home = make_home(tmp_path, "old")
    before = tree(home)
    command = [str(Path(sys.executable).with_name("orcha")), "restore", str(archive)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ORCHA_")}
    asked = subprocess.run(
        command, input="n\n", capture_output=True, text=True, cwd=tmp_path, env=environ, check=False, timeout=120
    )
    assert (asked.returncode, "Restore it?" in asked.stdout) == (1, True)
    assert {name: content for name, content in tree(home).items() if name != "orcha.lock"} == before
    assert "Traceback" not in asked.stderr


def test_while_orcha_runs_there_nothing_is_restored(tmp_path, orcha, archive):
    home = make_home(tmp_path, "old")
    with instance_lock(home):
        code, _, err = orcha("restore", str(archive), "--yes")
        assert code == 1
        assert f"Orcha already runs here (pid {os.getpid()})" in err
        assert "Nothing was changed: Orcha must not run there meanwhile." in err
    assert mark_of(home) == "old"


def test_a_damaged_archive_is_refused_before_anything_is_touched(tmp_path, orcha, archive):
    home = make_home(tmp_path, "old")
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    archive.write_bytes(content)
    code, _, err = orcha("restore", str(archive), "--yes")
    assert code == 1
    assert f"{archive} is damaged" in err
    assert mark_of(home) == "old"
    code, _, err = orcha("restore", "missing.tar.gz", "--yes")
    assert (code, "There is no archive at missing.tar.gz" in err) == (1, True)
    code, _, err = orcha("restore")
    assert (code, "name the archive" in err) == (2, True)


def test_an_application_under_way_is_told_of(tmp_path, orcha):
    home = make_home(tmp_path / "new", "new")
    with Warehouse(home / "warehouse.duckdb").write() as connection:
        decisions.record_decision(connection, rig.decision_to_apply("d-1", []))
        begun = ApplicationRow(
            application_id="a-1",
            decision_id="d-1",
            started_at=NOW,
            ended_at=None,
            status=ApplicationStatus.RUNNING,
            reason="",
            dagster_run_id="run",
        )
        assert decisions.begin_application(connection, begun)
    made = backed_up(home, tmp_path / "new.tar.gz")
    assert made.manifest.unfinished == 1
    _, out, _ = orcha("restore", "new.tar.gz", "--yes")
    assert "An application was under way in this record: after a restore the next `orcha up` finishes it" in out


def test_an_interrupted_restore_stops_every_command_until_it_is_ended(tmp_path, orcha, archive):
    home = make_home(tmp_path, "old")
    staged = home / ".orcha-restore-x"
    staged.mkdir()
    (home / "models").rename(staged / "models")
    left = Journal(archive=str(archive), staged=staged.name, aside="aside", old=("testnet",), new=("models",))
    (home / JOURNAL).write_text(left.model_dump_json())
    for command in (["status"], ["decision"], ["doctor"], ["backup"], ["models"], ["nodes"]):
        code, _, err = orcha(*command)
        assert code == 1
        assert f"The restore of {archive} into {home} was interrupted. `orcha restore` ends it" in err
    code, out, _ = orcha("restore")
    assert code == 0
    assert f"The restore of {archive}, which was interrupted, is complete" in out
    assert (home / "models" / "storj" / "run" / "manifest.json").read_text() == "old"
    assert (home / "aside" / "testnet" / "testnet.json").read_text() == "old"
    assert orcha("decision")[0] == 0
    (home / JOURNAL).write_text("half")
    code, _, err = orcha("decision")
    assert (code, "cannot be read. Move it away" in err) == (1, True)


# --- the settings file


@pytest.fixture
def with_config(tmp_path):
    """An archive with a settings file."""

    def make(text):
        home, config = make_home(tmp_path / "new", "new"), tmp_path / "new" / "orcha.toml"
        config.write_text(text)
        backed_up(home, tmp_path / "new.tar.gz", config)
        return "new.tar.gz"

    return make


def test_the_settings_file_is_left_out_unless_asked_for(tmp_path, orcha, with_config):
    archive = with_config("cycle_cron = '0 * * * *'\n")
    (tmp_path / "orcha.toml").write_text("cycle_cron = '30 * * * *'\n")
    code, out, _ = orcha("restore", archive, "--yes")
    assert code == 0
    assert "The settings file of the archive was left out; --config-too restores it as well." in out
    assert "30 *" in (tmp_path / "orcha.toml").read_text()
    code, out, _ = orcha("restore", archive, "--yes", "--config-too")
    assert code == 0
    assert (tmp_path / "orcha.toml").read_text() == "cycle_cron = '0 * * * *'\n"
    assert stat.S_IMODE((tmp_path / "orcha.toml").stat().st_mode) == 0o600
    kept = [path.read_text() for path in (tmp_path / HOME).glob("before-restore-*/orcha.toml")]
    assert kept == ["cycle_cron = '30 * * * *'\n"]
    assert f"{tmp_path / 'orcha.toml'} is the archive's." in out


def test_a_settings_file_is_written_where_there_was_none(tmp_path, orcha, with_config):
    archive = with_config("cycle_cron = '0 * * * *'\n")
    assert orcha("restore", archive, "--yes", "--config-too")[0] == 0
    assert (tmp_path / "orcha.toml").read_text() == "cycle_cron = '0 * * * *'\n"


def test_a_settings_file_that_keeps_its_data_elsewhere_is_refused(tmp_path, orcha, with_config, monkeypatch):
    archive = with_config("home = 'data'\n")
    code, _, err = orcha("restore", archive, "--yes", "--config-too")
    assert code == 1
    assert f"keeps its data in {tmp_path / 'data'}, and this would restore into {tmp_path / HOME}" in err
    assert not (tmp_path / "orcha.toml").exists()
    assert not (tmp_path / HOME / "warehouse.duckdb").exists()
    monkeypatch.setenv("ORCHA_HOME", str(tmp_path / "data"))
    assert orcha("restore", archive, "--yes", "--config-too")[0] == 0
    assert mark_of(tmp_path / "data") == "new"
    monkeypatch.delenv("ORCHA_HOME")
    assert orcha("decision")[0] == 0


def test_an_archive_without_a_settings_file_has_none_to_restore(tmp_path, orcha, archive):
    code, _, err = orcha("restore", str(archive), "--yes", "--config-too")
    assert (code, "holds no settings file: restore it without --config-too" in err) == (1, True)
