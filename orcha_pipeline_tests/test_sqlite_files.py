import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from orcha_pipeline import sqlite_files
from orcha_pipeline.sqlite_files import make_shrinkable, shrink

ROWS = 3000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file as Dagster makes it: with a write-ahead log, and nothing about vacuuming."""
    file = tmp_path / "some.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT)")
    return file


def fill(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executemany("INSERT INTO texts (text) VALUES (?)", [("x" * 2000,)] * ROWS)


def delete(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DELETE FROM texts WHERE id < ?", [ROWS - 10])


def kept(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("SELECT count(*) FROM texts").fetchone()[0]


def test_free_pages_are_given_back_and_rows_stay(file):
    fill(file)
    assert make_shrinkable(file)
    delete(file)
    before = file.stat().st_size
    assert shrink(file, least_free_bytes=0) == before - file.stat().st_size > before / 2
    assert kept(file) == 11
    assert shrink(file, least_free_bytes=0) == 0


def test_a_little_that_is_free_is_left_for_what_comes(file):
    make_shrinkable(file)
    fill(file)
    delete(file)
    assert shrink(file, least_free_bytes=100 * 2**20) == 0


def test_a_file_that_was_not_made_ready_keeps_its_size(file):
    fill(file)
    delete(file)
    assert shrink(file, least_free_bytes=0) == 0
    assert kept(file) == 11


def test_a_file_that_another_has_open_is_not_made_ready_and_still_works(file, monkeypatch):
    monkeypatch.setattr(sqlite_files, "BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not make_shrinkable(file)
        assert shrink(file, least_free_bytes=0) == 0
        other.execute("INSERT INTO texts (text) VALUES ('mine')")
        other.commit()
    assert make_shrinkable(file)
    assert kept(file) == 1


def test_another_writes_on_while_a_file_shrinks(file, monkeypatch):
    monkeypatch.setattr(sqlite_files, "PAGES_A_STEP", 20)
    make_shrinkable(file)
    fill(file)
    delete(file)
    stop, written = threading.Event(), []

    def write() -> None:
        with closing(sqlite3.connect(file, timeout=30)) as connection:
            while not stop.is_set():
                with connection:
                    connection.execute("INSERT INTO texts (text) VALUES ('meanwhile')")
                written.append(1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not written:
            stop.wait(0.01)
        freed = shrink(file, least_free_bytes=0)
    finally:
        stop.set()
        writer.join()
    assert freed > 0
    assert kept(file) == 11 + len(written)
