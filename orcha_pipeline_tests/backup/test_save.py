"""Making a backup: consistent while Orcha writes, its owner's alone, and nothing left behind where it fails."""

import errno
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest

from orcha_pipeline.backup import save, snapshot
from orcha_pipeline.backup.archive import extract, verify
from orcha_pipeline.backup.save import archive_name, target_of
from orcha_pipeline.errors import BackupError, WarehouseError
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline_tests.backup.build import HOME, NOW, backed_up, make_home, mark_of, tree
from orcha_pipeline_tests.integration.limited_disk import limited_disk

PROJECT = Path(__file__).resolve().parents[2]
WRITER = """
import sys
from pathlib import Path
from orcha_pipeline.warehouse.connection import Warehouse

warehouse, number = Warehouse(Path(sys.argv[1])), 0
while True:
    with warehouse.write() as connection:
        connection.execute("INSERT INTO left_half VALUES (?)", [number])
        connection.execute("INSERT INTO right_half VALUES (?)", [number])
    number += 1
    print(number, flush=True)
"""


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "installed", "mine")


@pytest.fixture
def target(tmp_path):
    (tmp_path / "archives").mkdir()
    return tmp_path / "archives" / "a.tar.gz"


def unpacked(archive, folder):
    """What an archive holds of the data folder."""
    extract(archive, verify(archive), lambda name: folder / name)
    return folder / "home"


def test_everything_that_could_not_be_had_again_is_in_it(tmp_path, home, target):
    config = tmp_path / "orcha.toml"
    config.write_text("cycle_cron = '0 * * * *'\n")
    for clutter in (
        "locks/application-h.lock",
        "backups/old.tar.gz",
        "testnet/.testnet-half",
        "before-restore-1/x",
        "warehouse.duckdb.copy",
        "warehouse.duckdb.compact",
        "warehouse.duckdb.compact.wal",
    ):
        (home / clutter).parent.mkdir(exist_ok=True)
        (home / clutter).write_text("clutter")
    made = backed_up(home, target, config)
    assert set(made.manifest.files) == {
        "config/orcha.toml",
        "home/warehouse.duckdb",
        "home/mlflow/mlflow.db",
        "home/mlflow/artifacts/orcha-storj/run/model.bin",
        "home/models/storj/run/manifest.json",
        "home/models/storj/run/candidates/linear.npz",
        "home/testnet/testnet.json",
        "home/testnet/economy.json",
        "home/testnet/golem-1/presets.json",
    }
    assert made.manifest.migrations[0] == "0001_initial.sql"
    assert (made.manifest.home, made.manifest.made_at) == (str(home), NOW)
    assert mark_of(unpacked(target, tmp_path / "out")) == "mine"
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_of_an_installation_with_real_nodes_no_emulated_ones_are_in_it(home, target):
    made = save.back_up(snapshot.Source(home=home, config=None, simulated=False), target, NOW)
    assert not any("testnet" in name for name in made.manifest.files)
    assert not made.manifest.simulated


def test_while_another_process_writes_all_the_time_the_backup_is_of_one_moment(tmp_path, home, target):
    with Warehouse(home / "warehouse.duckdb").write() as connection:
        connection.execute("CREATE TABLE left_half (number INTEGER)")
        connection.execute("CREATE TABLE right_half (number INTEGER)")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(home / "warehouse.duckdb")], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    done = [0]

    def follow():
        done.extend(int(line) for line in writer.stdout)

    reader = threading.Thread(target=follow)
    reader.start()
    try:
        for number in range(5):
            before = done[-1]
            wait_until(lambda before=before: done[-1] > before)
            started = done[-1]
            archive = target.with_name(f"{number}.tar.gz")
            backed_up(home, archive)
            ended = len(halves(home)[0])
            wait_until(lambda ended=ended: done[-1] > ended)  # it was held up for a moment, and goes on
            left, right = halves(unpacked(archive, tmp_path / f"out-{number}"))
            assert left == right == list(range(len(left)))
            assert started <= len(left) <= ended
    finally:
        writer.kill()
        writer.wait()
        reader.join()
        writer.stdout.close()


def halves(home):
    """The numbers in both tables: each transaction writes one into either."""
    with Warehouse(home / "warehouse.duckdb").read() as connection:
        return tuple(
            [number for (number,) in connection.execute(f"SELECT number FROM {table} ORDER BY number").fetchall()]
            for table in ("left_half", "right_half")
        )


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_killed_process_left_in_the_log_is_in_the_backup(tmp_path, home, target):
    path = home / "warehouse.duckdb"
    killed = textwrap.dedent(
        """
        import duckdb, os, signal, sys
        connection = duckdb.connect(sys.argv[1])
        connection.execute("CREATE TABLE late AS SELECT range AS number FROM range(100)")
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    ended = subprocess.run([sys.executable, "-c", killed, str(path)], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    before = tree(home)
    assert "warehouse.duckdb.wal" in before
    backed_up(home, target)
    assert tree(home) == before  # to back up changes nothing
    restored = unpacked(target, tmp_path / "out")
    with Warehouse(restored / "warehouse.duckdb").read() as connection:
        assert connection.execute("SELECT count(*) FROM late").fetchall() == [(100,)]
    assert not (restored / "warehouse.duckdb.wal").exists()


def test_nobody_else_can_write_while_the_warehouse_and_the_emulated_nodes_are_copied(home, target, monkeypatch):
    """Had the copy closed a handle of the file, the system would have dropped DuckDB's lock with it."""
    refused = []

    def copy(source, aim):
        impatient = f"import duckdb; duckdb.connect({str(home / 'warehouse.duckdb')!r})"
        tried = subprocess.run([sys.executable, "-c", impatient], capture_output=True, text=True, check=False)
        refused.append("Conflicting lock is held" in tried.stderr)
        return real(source, aim)

    real = shutil.copyfile
    monkeypatch.setattr(snapshot.shutil, "copyfile", copy)
    backed_up(home, target)
    assert refused == [True] * 3


def test_mlflows_store_is_copied_whole_while_it_is_written(tmp_path, home, target):
    store = home / "mlflow" / "mlflow.db"
    with closing(sqlite3.connect(store)) as writer:
        writer.execute("INSERT INTO runs VALUES (2, 'committed')")
        writer.commit()
        writer.execute("INSERT INTO runs VALUES (3, 'not committed')")
        backed_up(home, target)
        writer.rollback()
    with closing(sqlite3.connect(unpacked(target, tmp_path / "out") / "mlflow" / "mlflow.db")) as copy:
        assert copy.execute("SELECT number FROM runs ORDER BY number").fetchall() == [(1,), (2,)]


def test_where_a_file_vanishes_meanwhile_it_starts_again(home, target, monkeypatch):
    real, attempts = save.write_archive, []

    def tidied_away(path, parts, **more):
        attempts.append(path)
        if len(attempts) == 1:
            (home / "models" / "storj" / "run" / "manifest.json").unlink()
        return real(path, parts, **more)

    monkeypatch.setattr(save, "write_archive", tidied_away)
    made = backed_up(home, target)
    assert len(attempts) == 2
    assert "home/models/storj/run/manifest.json" not in made.manifest.files
    assert [path.name for path in target.parent.iterdir()] == [target.name]


# --- where it fails


def test_with_too_little_room_nothing_is_written(home, target, monkeypatch):
    monkeypatch.setattr(save.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1000))
    monkeypatch.setattr(save, "take", lambda *_args: pytest.fail("it began"))
    with pytest.raises(BackupError, match=r"too little room in .*archives.* up to \d+\.\d MiB, and 0\.0 are free"):
        backed_up(home, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("mib", [1, 2, 3, 4])
def test_a_disk_that_fills_up_meanwhile_leaves_nothing_but_the_earlier_ones(tmp_path, home, mib, monkeypatch):
    (home / "models" / "storj" / "run" / "weights.bin").write_bytes(os.urandom(4 * 2**20))
    with limited_disk(tmp_path / "small", mib=mib) as disk:
        (disk.folder / "earlier.tar.gz").write_text("earlier")
        with pytest.raises(BackupError, match="too little room"):
            backed_up(home, disk.folder / "a.tar.gz")
        monkeypatch.setattr(save.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=10**12))
        with pytest.raises(
            BackupError, match=r"small is full, or a limit is reached: no backup was made.*another disk"
        ):
            backed_up(home, disk.folder / "a.tar.gz")
        assert [path.name for path in disk.folder.iterdir()] == ["earlier.tar.gz"]


def test_a_limit_on_the_size_of_files_is_told_like_a_full_disk(home, target):
    (home / "models" / "storj" / "run" / "weights.bin").write_bytes(os.urandom(4 * 2**20))
    limited = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from orcha_pipeline.errors import BackupError
        from orcha_pipeline_tests.backup.build import backed_up
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 2**20, 2 * 2**20))
        try:
            backed_up(Path(sys.argv[1]), Path(sys.argv[2]))
        except BackupError as error:
            print(error)
        """
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", limited, str(home), str(target)],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
        timeout=60,
    )
    assert "is full, or a limit is reached: no backup was made" in ended.stdout
    assert ended.stderr == ""
    assert list(target.parent.iterdir()) == []


def test_a_warehouse_that_is_missing_or_damaged_is_told(tmp_path, home, target):
    (home / "warehouse.duckdb").write_bytes(b"nonsense" * 1000)
    with pytest.raises(WarehouseError, match=r"warehouse\.duckdb"):
        backed_up(home, target)
    (home / "warehouse.duckdb").unlink()
    with pytest.raises(WarehouseError, match="There is no warehouse"):
        backed_up(home, target)
    with duckdb.connect(str(home / "warehouse.duckdb")) as connection:
        connection.execute("CREATE TABLE of_someone_else (number INTEGER)")
    with pytest.raises(BackupError, match="start `orcha up` once"):
        backed_up(home, target)
    assert list(target.parent.iterdir()) == []


def test_a_file_that_cannot_be_read_is_named(home, target, monkeypatch):
    def forbidden(*_args, **_more):
        raise PermissionError(errno.EACCES, "Permission denied", str(home / "models" / "x"))

    monkeypatch.setattr(save, "write_archive", forbidden)
    with pytest.raises(BackupError, match=r"models/x: Permission denied"):
        backed_up(home, target)
    assert list(target.parent.iterdir()) == []


# --- where it goes


def test_an_archive_goes_where_it_is_told_and_replaces_nothing(tmp_path):
    name = archive_name(NOW)
    assert name == "orcha-20260305T030000Z.tar.gz"
    assert target_of(None, tmp_path / "made" / "here", NOW) == tmp_path / "made" / "here" / name
    assert stat.S_IMODE((tmp_path / "made" / "here").stat().st_mode) == 0o700
    assert target_of(tmp_path, tmp_path / "unused", NOW) == tmp_path / name
    assert target_of(tmp_path / "own.tar.gz", tmp_path / "unused", NOW) == tmp_path / "own.tar.gz"
    (tmp_path / name).write_text("earlier")
    with pytest.raises(BackupError, match="exists and is left as it is"):
        target_of(tmp_path, tmp_path, NOW)
    with pytest.raises(BackupError, match="no such folder"):
        target_of(tmp_path / "missing" / "own.tar.gz", tmp_path, NOW)
    with pytest.raises(BackupError, match="cannot be made"):
        target_of(None, tmp_path / name / "below a file", NOW)
    assert archive_name(NOW) < archive_name(NOW + timedelta(seconds=1))


def test_the_command_tells_what_it_made_and_that_a_token_may_be_in_it(tmp_path, orcha):
    make_home(tmp_path, "mine")
    code, out, _ = orcha("backup")
    assert code == 0
    (archive,) = (tmp_path / HOME / "backups").iterdir()
    assert out.startswith(f"Wrote {archive}: 8 files, 0.")
    assert "token" not in out
    archive.unlink()
    (tmp_path / "orcha.toml").write_text("cycle_cron = '0 * * * *'\n")
    code, out, _ = orcha("backup")
    assert "Your settings file is in it, with any token that stands there: nobody but you may read the file." in out
    code, out, _ = orcha("backup", "--json", "--out", "own.tar.gz")
    assert code == 0
    told = json.loads(out)
    assert verify(tmp_path / "own.tar.gz").has_config
    assert told == {
        "version": 1,
        "archive": str(tmp_path / "own.tar.gz"),
        "made_at": told["made_at"],
        "bytes": (tmp_path / "own.tar.gz").stat().st_size,
        "files": 9,
        "unpacked_bytes": verify(tmp_path / "own.tar.gz").size,
        "has_config": True,
        "simulated": True,
        "unfinished_applications": 0,
    }
    code, _, err = orcha("backup", "--out", "own.tar.gz")
    assert (code, "exists and is left as it is" in err) == (1, True)


def test_the_command_puts_archives_where_the_settings_say(tmp_path, orcha):
    make_home(tmp_path, "mine")
    (tmp_path / "orcha.toml").write_text("[backup]\nfolder = 'elsewhere'\n")
    assert orcha("backup")[0] == 0
    assert len(list((tmp_path / "elsewhere").glob("orcha-2*.tar.gz"))) == 1
