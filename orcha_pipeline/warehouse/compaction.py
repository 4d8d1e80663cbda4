"""Giving back to the disk what the warehouse no longer uses: DuckDB takes freed blocks up again, but never shrinks.

The file is copied as it is while nobody writes to it, and the copy is made compact: the others go on meanwhile. Only
then the file is locked, and replaced if nothing was written to it since; else it stays as it is until the next time.
Whoever opened the file that is replaced, and is too late for its lock, opens it anew (`Warehouse` looks). A process
that dies on the way leaves the one file or the other, whole, and copies that the next call removes.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import duckdb

from orcha_pipeline.disk import sync_folder
from orcha_pipeline.errors import WarehouseError
from orcha_pipeline.warehouse.connection import Warehouse

LEAST_FREE_BYTES = 64 * 2**20
LEAST_FREE_SHARE = 0.4
"""Both must be free in the file: a file that will grow into what is free need not be copied."""
QUIET_SECONDS = 2.0
"""A file just written is left alone: times of files are too coarse to tell two writes in a moment apart."""
ATTEMPTS = 3
LOCK_ATTEMPTS, LOCK_PAUSE_SECONDS = 200, 0.02
HELD_SECONDS = 1.0
"""So long the file that was replaced stays locked, for programs that opened it just before."""
_HEADERS = 3 * 4096
"""Bytes at the file's start that every checkpoint of DuckDB's changes."""

Outcome = Literal["compacted", "not worth it", "no room", "in use"]


@dataclass(frozen=True, slots=True)
class Compaction:
    """What came of it, and the file's bytes before and after."""

    outcome: Outcome
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class _Written:
    """Tells whether a file was written to: equal for two looks between which it was not."""

    inode: int
    size: int
    modified: int
    headers: bytes


def compact(
    warehouse: Warehouse,
    *,
    least_free_bytes: int = LEAST_FREE_BYTES,
    sleep: Callable[[float], None] = time.sleep,
    copied: Callable[[], None] = lambda: None,
) -> Compaction:
    """Replace the file by a compact copy where that pays and nobody writes meanwhile; `copied` is called in between.

    This process must not have the file open elsewhere: it would not be stopped by its own lock. Raises
    `WarehouseError` where the file cannot be read, or where a copy of it does not hold the same.
    """
    path = warehouse.path
    copy, smaller = path.with_name(f"{path.name}.copy"), path.with_name(f"{path.name}.compact")
    before = path.stat().st_size
    try:
        _remove(copy, smaller)
        if not _pays(warehouse, least_free_bytes):
            return Compaction("not worth it", before, before)
        # The copy, and beside it a compact one that is smaller.
        if shutil.disk_usage(path.parent).free < 2 * before:
            return Compaction("no room", before, before)
        for _ in range(ATTEMPTS):
            sleep(QUIET_SECONDS)
            written = _copy_at_rest(path, copy)
            if written is None:
                continue
            _rewrite(copy, smaller)
            copied()
            if _replace(path, smaller, written, sleep):
                return Compaction("compacted", before, path.stat().st_size)
            _remove(copy, smaller)
        return Compaction("in use", before, before)
    except OSError as error:
        raise WarehouseError(f"The warehouse {path} could not be compacted: {error.strerror}.") from error
    finally:
        _remove(copy, smaller)


def _pays(warehouse: Warehouse, least_free_bytes: int) -> bool:
    with warehouse.read() as connection:
        size = connection.sql("SELECT block_size * free_blocks, free_blocks / total_blocks FROM pragma_database_size()")
        free, share = size.fetchall()[0]
    return free >= least_free_bytes and share >= LEAST_FREE_SHARE


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _remove(*files: Path) -> None:
    for file in files:
        file.unlink(missing_ok=True)
        _wal(file).unlink(missing_ok=True)


def _written(path: Path, file: BinaryIO) -> _Written | None:
    """How the file at `path`, open as `file`, stands; None while something committed is in its log alone."""
    if _wal(path).exists():
        return None
    file.seek(0)
    found = os.fstat(file.fileno())
    return _Written(found.st_ino, found.st_size, found.st_mtime_ns, file.read(_HEADERS))


def _copy_at_rest(path: Path, copy: Path) -> _Written | None:
    """Copy the file. Gives how it stood all the while; None where it was written to, or just before."""
    with path.open("rb") as file:
        written = _written(path, file)
        if written is None or time.time() - written.modified / 1e9 < QUIET_SECONDS / 2:
            return None
        shutil.copyfile(path, copy)
        return written if _written(path, file) == written else None


_CONTENTS = (
    "SELECT table_name, sql FROM duckdb_tables() WHERE database_name = ? UNION ALL "
    "SELECT index_name, sql FROM duckdb_indexes() WHERE database_name = ? UNION ALL "
    "SELECT sequence_name, last_value::VARCHAR FROM duckdb_sequences() WHERE database_name = ? UNION ALL "
    "SELECT view_name, sql FROM duckdb_views() WHERE database_name = ? AND NOT internal ORDER BY ALL"
)


def _rewrite(copy: Path, smaller: Path) -> None:
    """Write what `copy` holds into the new file `smaller`, and check that all of it is there."""
    with duckdb.connect() as connection:
        for name, file in (("old", copy), ("new", smaller)):
            quoted = str(file).replace("'", "''")
            connection.execute(f"ATTACH '{quoted}' AS {name}{' (READ_ONLY)' if name == 'old' else ''}")
        connection.execute("COPY FROM DATABASE old TO new")
        kept = [connection.execute(_CONTENTS, [name] * 4).fetchall() for name in ("old", "new")]
        tables = [
            name
            for (name,) in connection.execute(
                "SELECT table_name FROM duckdb_tables() WHERE database_name = 'old'"
            ).fetchall()
        ]
        counts = [
            [connection.execute(f'SELECT count(*) FROM {name}."{table}"').fetchall() for table in tables]  # noqa: S608
            for name in ("old", "new")
        ]
        if kept[0] != kept[1] or counts[0] != counts[1]:
            raise WarehouseError(f"A compact copy of {copy.name} does not hold the same: the warehouse stays as it is.")
    with smaller.open("rb") as file:
        os.fsync(file.fileno())


def _replace(path: Path, smaller: Path, written: _Written, sleep: Callable[[float], None]) -> bool:
    """Put `smaller` in the place of `path` if that stands as it was `written`. Returns whether it did."""
    # POSIX frees a process's locks on a file when it closes any descriptor of it: nothing below opens it again.
    with path.open("rb+") as file:
        if not _lock(file, sleep) or _written(path, file) != written or path.stat().st_ino != written.inode:
            return False
        shutil.copymode(path, smaller)
        smaller.replace(path)
        sync_folder(path.parent)
        sleep(HELD_SECONDS)
        return True


def _lock(file: BinaryIO, sleep: Callable[[float], None]) -> bool:
    """Take the lock that DuckDB takes on its file; False where others have it all the time."""
    for _ in range(LOCK_ATTEMPTS):
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sleep(LOCK_PAUSE_SECONDS)
        else:
            return True
    return False
