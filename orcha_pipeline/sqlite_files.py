"""Giving back to the disk what SQLite files no longer use, while other processes read and write them.

VACUUM would lock a file for as long as it copies it. A file that was made ready for it gives its free pages back some
at a time instead, each time for milliseconds.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

PAGES_A_STEP = 1000
LEAST_FREE_BYTES = 8 * 2**20
BUSY_SECONDS = 5.0
_INCREMENTAL = 2
"""SQLite's own number for it."""


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchall()[0][0])


def make_shrinkable(file: Path) -> bool:
    """Let the file give its free pages back step by step. Returns whether it can, by now.

    The file is copied once: to be called while nobody else has it open, for it stays as it is otherwise.
    """
    try:
        with closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as connection:
            if _number(connection, "auto_vacuum") != _INCREMENTAL:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("VACUUM")
            return _number(connection, "auto_vacuum") == _INCREMENTAL
    except sqlite3.Error:  # in use, or no room for the copy: the next start tries again
        return False


def shrink(file: Path, *, least_free_bytes: int = LEAST_FREE_BYTES) -> int:
    """Give the free pages of the file back where that is `least_free_bytes` at least. Returns the bytes given back.

    A file that is in use all the time, or was not made ready, stays as it is until the next call.
    """
    before = file.stat().st_size
    try:
        with closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as connection:
            free = _number(connection, "freelist_count")
            if free * _number(connection, "page_size") < least_free_bytes or not free:
                return 0
            left = free + 1
            while 0 < free < left:
                left = free
                connection.executescript(f"PRAGMA incremental_vacuum({PAGES_A_STEP})")
                free = _number(connection, "freelist_count")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error:
        pass
    return max(0, before - file.stat().st_size)
