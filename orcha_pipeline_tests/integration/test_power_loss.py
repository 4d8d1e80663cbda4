"""The warehouse after its writer was killed, and after a loss of power in the midst of a write."""

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from orcha_pipeline.errors import WarehouseError
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline_tests.integration.numbered_writer import log_of, numbers_in, prepare

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).resolve().parents[2]
KILLS, COPIES, CUTS = 15, 12, 8


class Writer:
    """A running writer, and what it has said to be committed: number -> size of the log by then."""

    def __init__(self, file: Path, *more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orcha_pipeline_tests.integration.numbered_writer", str(file), *more],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.committed: dict[int, int] = {}

    def hear(self, lines: int) -> None:
        """Wait until so many more transactions are committed."""
        assert self.process.stdout is not None
        for _ in range(lines):
            self._note(self.process.stdout.readline())

    def _note(self, line: str) -> None:
        number, size = line.split()
        self.committed[int(number)] = int(size)

    def kill(self) -> None:
        self.process.kill()
        assert self.process.stdout is not None
        for line in self.process.stdout:  # what it said before it died
            if line.endswith("\n"):
                self._note(line)
        self.process.stdout.close()
        self.process.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It stands still, wherever it is."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@dataclass(frozen=True)
class Copy:
    """The files as they stood at a moment, and the last number of which the writer was heard to say it is committed."""

    warehouse: Warehouse
    heard: int

    @property
    def log(self) -> Path:
        return log_of(self.warehouse.path)

    def with_log(self, folder: Path, content: bytes) -> Warehouse:
        """The same in another folder, with another log; none where it is empty."""
        folder.mkdir()
        file = folder / self.warehouse.path.name
        shutil.copyfile(self.warehouse.path, file)
        if content:
            log_of(file).write_bytes(content)
        return Warehouse(file)


def copies(writer: Writer, source: Path, target: Path, rng: random.Random) -> list[Copy]:
    """Copies of the files at random moments while the writer is at work."""
    made = []
    for number in range(COPIES):
        writer.hear(rng.randrange(1, 6))
        with writer.stopped():
            heard = max(writer.committed)
            folder = target / str(number)
            folder.mkdir(parents=True)
            for file in source.parent.iterdir():
                shutil.copyfile(file, folder / file.name)
        made.append(Copy(Warehouse(folder / source.name), heard))
    return made


def test_a_writer_killed_at_any_moment_leaves_every_transaction_it_reported(tmp_path):
    rng = random.Random(1)
    warehouse = prepare(tmp_path / "w.duckdb")
    reported = -1
    for _ in range(KILLS):
        writer = Writer(warehouse.path)
        writer.hear(rng.randrange(1, 12))
        writer.kill()
        reported = max(writer.committed)
        found = numbers_in(warehouse)
        assert found == list(range(len(found)))
        assert reported <= found[-1] <= reported + 1  # the last may be committed and not yet reported
    assert reported > KILLS


def test_after_a_loss_of_power_in_a_write_what_was_reported_is_there_and_no_half_transaction(tmp_path):
    rng = random.Random(2)
    file = tmp_path / "live" / "w.duckdb"
    file.parent.mkdir()
    prepare(file)
    writer = Writer(file)
    try:
        made = copies(writer, file, tmp_path / "copies", rng)
    finally:
        writer.kill()
    for copy in made:
        log = copy.log.read_bytes() if copy.log.exists() else b""
        for number, size in enumerate([0, *sorted(rng.sample(range(len(log)), min(2, len(log)))), len(log)]):
            found = numbers_in(copy.with_log(copy.log.parent / str(number), log[:size]))
            assert found == list(range(len(found)))
            assert found[-1] >= copy.heard  # what was reported is in the file itself by then


def test_a_log_of_many_transactions_that_breaks_off_gives_all_that_are_whole(tmp_path):
    rng = random.Random(3)
    for copy, writer in long_logs(tmp_path, rng):
        log = copy.log.read_bytes()
        for number, size in enumerate(sorted(rng.sample(range(len(log) + 1), CUTS))):
            warehouse = copy.with_log(copy.log.parent / str(number), log[:size])
            whole = [n for n, end in writer.committed.items() if end <= size]
            assert numbers_in(warehouse) == list(range(len(whole)))
            with warehouse.write() as connection:  # and it is written on
                connection.execute("INSERT INTO numbered VALUES (-1, 'first'), (-1, 'second')")
            assert numbers_in(warehouse) == [-1, *range(len(whole))]


def test_a_log_whose_end_is_rubbish_is_told_with_the_way_back_which_works(tmp_path):
    rng = random.Random(4)
    told = []
    for copy, writer in long_logs(tmp_path, rng):
        log = copy.log.read_bytes()
        for number, size in enumerate(sorted(rng.sample(range(100, len(log)), CUTS))):
            lost = len(log) - size
            rubbish = bytes(lost) if number % 2 else rng.randbytes(lost)
            warehouse = copy.with_log(copy.log.parent / str(number), log[:size] + rubbish)
            whole = [n for n, end in writer.committed.items() if end <= size]
            try:
                found = numbers_in(warehouse)
            except WarehouseError as error:
                told.append(str(error))
                assert "`orcha restore`" in told[-1]
                command = re.search(r"truncate -s \d+ .*$", told[-1])
                assert command, told[-1]
                subprocess.run(shlex.split(command.group()), check=True)
                found = numbers_in(warehouse)
            assert found == list(range(len(whole)))
    assert len(told) > COPIES


def long_logs(folder: Path, rng: random.Random) -> Iterator[tuple[Copy, Writer]]:
    """Copies whose log holds all transactions, none of which is in the file yet."""
    file = folder / "live" / "w.duckdb"
    file.parent.mkdir()
    prepare(file)
    writer = Writer(file, "keep")
    try:
        made = copies(writer, file, folder / "copies", rng)
    finally:
        writer.kill()
    return ((copy, writer) for copy in made)
