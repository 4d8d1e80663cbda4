"""A warehouse that is in use for long, may not be written, or has no room: told clearly, and the next cycle works."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from orcha_pipeline.warehouse import connection as opening
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline_tests.integration.numbered_writer import numbers_in, prepare
from orcha_pipeline_tests.integration.soundness import counts, expect_sound

pytestmark = pytest.mark.integration

HOLDER = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
# A cycle as Dagster starts it, in a process that may write no file beyond so many bytes.
LIMITED = """
import resource, sys
from pathlib import Path
from orcha_pipeline.errors import WarehouseError
from orcha_pipeline.warehouse.connection import Warehouse

warehouse, rows = Warehouse(Path(sys.argv[1])), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    with warehouse.write() as connection:
        connection.execute("INSERT INTO numbered SELECT -i, md5(i::VARCHAR) FROM range(1, ?) r(i)", [rows])
except WarehouseError as error:
    print(error)
    sys.exit(3)
"""


@contextmanager
def held(file: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process has the warehouse open, as a DuckDB shell would."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        try:
            yield holder
        finally:
            let_go(holder)


def let_go(holder: "subprocess.Popen[str]") -> None:
    if holder.stdin is not None and not holder.stdin.closed:
        holder.stdin.close()


def failures(result: dg.ExecuteInProcessResult) -> str:
    """What the failed steps of a run say, all causes included."""
    return "\n".join(str(event.step_failure_data.error) for event in result.all_events if event.is_step_failure)


def test_a_cycle_waits_for_a_shell_that_has_the_warehouse_open(rig, monkeypatch):
    refused = threading.Event()

    def is_taken(error: BaseException) -> bool:
        taken = opening_is_taken(error)
        if taken:
            refused.set()
        return taken

    opening_is_taken = opening.is_taken
    monkeypatch.setattr(opening, "is_taken", is_taken)
    with held(rig.warehouse.path) as holder:
        waiter = threading.Thread(target=lambda: (refused.wait(120), let_go(holder)))
        waiter.start()
        result = rig.run_cycle()
        waiter.join()
    assert result.success
    assert refused.is_set()
    expect_sound(rig)


def test_a_warehouse_held_for_too_long_fails_that_cycle_alone_and_says_by_whom(rig, monkeypatch):
    before = counts(rig)
    with held(rig.warehouse.path) as holder, monkeypatch.context() as patch:
        patch.setitem(Warehouse.__init__.__kwdefaults__, "lock_timeout_seconds", 1.0)
        result = rig.run_cycle()
        assert not result.success
        assert f"in use by process {holder.pid}" in failures(result)
        assert "Close the program that has it open" in failures(result)
    assert counts(rig) == before
    assert rig.run_cycle().success
    expect_sound(rig, printed=failures(result))


def without_roots_rights(*command: str) -> Sequence[str]:
    """The command as the files' owner, whom their modes bind; root's are not bound by them."""
    if os.geteuid() != 0:
        return command
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everything, and setpriv, which would take that from it, is not installed")
    rights = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *command]


def orcha(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("orcha")), *arguments]
    return subprocess.run(
        without_roots_rights(*command),
        cwd=folder,
        env={**os.environ, "COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_warehouse_that_may_not_be_written_is_told_with_the_remedy(rig, what):
    place = rig.warehouse.path if what == "file" else rig.warehouse.path.parent
    before, mode = counts(rig), place.stat().st_mode
    place.chmod(0o444 if what == "file" else 0o555)
    try:
        looked = orcha(rig.folder, "decisions")
        paused = orcha(rig.folder, "pause")
    finally:
        place.chmod(mode)
    assert looked.returncode == 0, looked.stderr  # reading goes on
    assert paused.returncode == 1
    told = " ".join(paused.stderr.split())
    assert "may not be read or written" in told
    assert "chmod u+rw" in told
    assert "Traceback" not in paused.stderr
    assert counts(rig) == before
    assert rig.run_cycle().success
    expect_sound(rig, printed=looked.stdout + paused.stderr)


def test_a_configuration_that_may_not_be_written_or_read(tmp_path):
    config = tmp_path / "orcha.toml"
    config.write_text("[apply]\nmode = 'auto'\n")
    config.chmod(0o444)
    read = orcha(tmp_path, "decisions", "--config", str(config))
    assert "There is no warehouse" in " ".join(read.stderr.split())  # that it cannot be written is in nobody's way
    again = orcha(tmp_path, "init", str(config))
    assert again.returncode == 1
    assert "exists and is left as it is" in " ".join(again.stderr.split())
    config.chmod(0o000)
    for found in ([], ["--config", str(config)]):
        unread = orcha(tmp_path, "decisions", *found)
        assert unread.returncode != 0
        assert "orcha.toml" in unread.stderr
        assert "Traceback" not in unread.stderr


def test_a_write_beyond_a_limit_of_size_is_told_and_what_was_there_is_whole(tmp_path):
    warehouse = prepare(tmp_path / "w.duckdb")
    with warehouse.write() as connection:
        connection.execute("INSERT INTO numbered VALUES (0, 'first'), (0, 'second')")
    limit = warehouse.path.stat().st_size + 64 * 1024
    for rows in (100_000, 2_000_000):  # the first does not fit the log, the second not the file
        ran = subprocess.run(
            [sys.executable, "-c", LIMITED, str(warehouse.path), str(limit), str(rows)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 3, ran.stderr
        assert "There is no room to write to the warehouse" in ran.stdout
        assert numbers_in(warehouse) == [0]
    with warehouse.write() as connection:
        connection.execute("INSERT INTO numbered VALUES (1, 'first'), (1, 'second')")
    assert numbers_in(warehouse) == [0, 1]
