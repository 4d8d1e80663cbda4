import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest

from orcha_pipeline.errors import WarehouseError
from orcha_pipeline.warehouse import compaction
from orcha_pipeline.warehouse.compaction import Compaction, compact
from orcha_pipeline.warehouse.connection import Warehouse

WAIT_SECONDS = 120.0
WRITER = """
import sys, time
from pathlib import Path
from orcha_pipeline.warehouse.connection import Warehouse
warehouse, told, stop = Warehouse(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
number = 0
with told.open("a") as written:
    while not stop.exists():
        with warehouse.write() as connection:
            connection.execute("INSERT INTO numbers VALUES (?)", [number])
        written.write(f"{number}\\n")
        written.flush()
        number += 1
        # Bursts, and pauses in between that are long enough for a copy: about as a cycle writes.
        time.sleep(5.0 if number % 40 == 0 else 0.001)
"""


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """A file of which nearly all is free."""
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    with warehouse.write() as connection:
        connection.execute("CREATE TABLE numbers (number BIGINT)")
        connection.execute("CREATE TABLE filler AS SELECT random() AS a, random() AS b FROM range(400000)")
        connection.execute("INSERT INTO pauses VALUES (TIMESTAMP '2026-03-01', 'me', 'holiday', NULL, NULL)")
    with warehouse.write() as connection:
        connection.execute("DROP TABLE filler")
    return warehouse


def squeeze(warehouse: Warehouse, **changes) -> Compaction:
    return compact(warehouse, least_free_bytes=2**20, **changes)


def contents(warehouse: Warehouse) -> list[object]:
    with warehouse.read() as connection:
        tables = [
            name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()
        ]
        return [(name, connection.execute(f'SELECT * FROM "{name}" ORDER BY ALL').fetchall()) for name in tables]


def leftovers(warehouse: Warehouse) -> list[str]:
    return sorted(file.name for file in warehouse.path.parent.iterdir() if file != warehouse.path)


def test_the_file_shrinks_and_holds_the_same(warehouse):
    warehouse.path.chmod(0o600)
    before = contents(warehouse)
    found = squeeze(warehouse)
    assert found.outcome == "compacted"
    assert found.after == warehouse.path.stat().st_size < found.before / 2
    assert contents(warehouse) == before
    assert leftovers(warehouse) == []
    assert stat.S_IMODE(warehouse.path.stat().st_mode) == 0o600


def test_keys_and_defaults_still_hold_in_the_compact_file(warehouse):
    assert squeeze(warehouse).outcome == "compacted"
    with pytest.raises(duckdb.ConstraintException), warehouse.write() as connection:
        connection.execute("INSERT INTO pauses VALUES (TIMESTAMP '2026-03-01', 'you', '', NULL, NULL)")
    with pytest.raises(duckdb.ConstraintException), warehouse.write() as connection:
        connection.execute("INSERT INTO pauses VALUES (TIMESTAMP '2026-03-02', NULL, '', NULL, NULL)")
    assert warehouse.migrate() == []


def test_a_file_in_use_to_the_full_is_left_alone(warehouse):
    assert squeeze(warehouse).outcome == "compacted"
    before = warehouse.path.stat()
    assert squeeze(warehouse) == Compaction("not worth it", before.st_size, before.st_size)
    assert warehouse.path.stat().st_ino == before.st_ino


def test_without_room_for_the_copy_it_is_left_for_later(warehouse, monkeypatch):
    full = SimpleNamespace(disk_usage=lambda _path: SimpleNamespace(free=warehouse.path.stat().st_size))
    monkeypatch.setattr(compaction, "shutil", full)
    assert squeeze(warehouse).outcome == "no room"
    assert leftovers(warehouse) == []


def test_what_is_written_while_it_is_copied_is_not_lost(warehouse):
    def write() -> None:
        with warehouse.write() as connection:
            connection.execute("INSERT INTO numbers VALUES (7)")

    inode = warehouse.path.stat().st_ino
    found = squeeze(warehouse, copied=write)
    assert found.outcome == "in use"
    assert warehouse.path.stat().st_ino == inode
    with warehouse.read() as connection:
        assert connection.execute("SELECT count(*) FROM numbers").fetchall() == [(compaction.ATTEMPTS,)]
    assert leftovers(warehouse) == []


def test_a_commit_that_is_in_the_log_alone_keeps_the_file(warehouse):
    dies = textwrap.dedent(
        """
        import duckdb, os, sys
        connection = duckdb.connect(sys.argv[1])
        connection.execute("INSERT INTO numbers VALUES (1)")
        os._exit(0)
        """
    )
    inode = warehouse.path.stat().st_ino
    kill = lambda: subprocess.run([sys.executable, "-c", dies, str(warehouse.path)], check=True)  # noqa: E731
    assert squeeze(warehouse, copied=kill).outcome == "in use"
    assert warehouse.path.stat().st_ino == inode
    with warehouse.read() as connection:
        assert connection.execute("SELECT count(*) FROM numbers").fetchall()[0][0] >= 1


def test_a_copy_that_lacks_something_is_never_used(warehouse, monkeypatch):
    monkeypatch.setattr(compaction, "_CONTENTS", "SELECT ?, ?, ?, ?, random()")
    inode = warehouse.path.stat().st_ino
    with pytest.raises(WarehouseError, match="does not hold the same"):
        squeeze(warehouse)
    assert warehouse.path.stat().st_ino == inode
    assert leftovers(warehouse) == []


@pytest.mark.parametrize("where", ["copied", "replaced"])
def test_a_process_killed_on_the_way_leaves_a_whole_file(warehouse, where):
    before = contents(warehouse)
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from orcha_pipeline.warehouse.compaction import HELD_SECONDS, compact
        from orcha_pipeline.warehouse.connection import Warehouse

        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        def sleep(seconds):
            if seconds == HELD_SECONDS:
                die()
            import time
            time.sleep(seconds)

        if sys.argv[2] == "copied":
            compact(Warehouse(Path(sys.argv[1])), least_free_bytes=2**20, copied=die)
        compact(Warehouse(Path(sys.argv[1])), least_free_bytes=2**20, sleep=sleep)
        """
    )
    ended = subprocess.run([sys.executable, "-c", program, str(warehouse.path), where], timeout=120, check=False)
    assert ended.returncode == -9
    assert f"{warehouse.path.name}.copy" in leftovers(warehouse)
    assert contents(warehouse) == before
    squeeze(warehouse)
    assert contents(warehouse) == before
    assert leftovers(warehouse) == []


@pytest.mark.slow
def test_no_committed_row_is_lost_while_another_process_writes_all_the_time(warehouse, tmp_path):
    told, stop = tmp_path / "told", tmp_path / "stop"
    told.touch()
    arguments = [sys.executable, "-c", WRITER, str(warehouse.path), str(told), str(stop)]
    outcomes: list[str] = []
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as writer:
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while outcomes.count("compacted") < 3 and time.monotonic() < deadline:
                assert writer.poll() is None
                outcomes.append(compact(warehouse, least_free_bytes=0).outcome)
                with warehouse.write() as connection:
                    connection.execute("CREATE TABLE filler AS SELECT random() AS a FROM range(200000)")
                with warehouse.write() as connection:
                    connection.execute("DROP TABLE filler")
        finally:
            stop.touch()
            _, errors = writer.communicate(timeout=WAIT_SECONDS)
    assert errors == ""
    assert outcomes.count("compacted") >= 3
    committed = [int(line) for line in told.read_text().splitlines()]
    with warehouse.read() as connection:
        kept = [number for (number,) in connection.execute("SELECT number FROM numbers ORDER BY number").fetchall()]
    assert len(committed) > 40
    assert kept == committed


def test_a_file_replaced_before_its_lock_was_taken_is_opened_anew(warehouse, monkeypatch):
    stale = warehouse.path.with_name("stale.duckdb")
    connect, opened = duckdb.connect, []

    def replaced_meanwhile(path, **options):
        connection = connect(path, **options)
        if not opened:
            fresh = warehouse.path.with_name("fresh.duckdb")
            fresh.write_bytes(warehouse.path.read_bytes())
            warehouse.path.replace(stale)
            fresh.replace(warehouse.path)
        opened.append(path)
        return connection

    monkeypatch.setattr(duckdb, "connect", replaced_meanwhile)
    with warehouse.write() as connection:
        connection.execute("INSERT INTO numbers VALUES (1)")
    monkeypatch.undo()
    assert len(opened) == 2
    with warehouse.read() as connection:
        assert connection.execute("SELECT count(*) FROM numbers").fetchall() == [(1,)]
    with Warehouse(stale).read() as connection:
        assert connection.execute("SELECT count(*) FROM numbers").fetchall() == [(0,)]
