"""Amounts of disk, how much is free, what a full one says, and names that are on it."""

import errno
import os
import shutil
from pathlib import Path

MIB = 2**20
GIB = 2**30
LITTLE_GIB, TOO_LITTLE_GIB = 5.0, 1.0
"""Free on the disk of the data folder: less is told of, and is in the way."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_gib(folder: Path) -> float:
    """What is free for Orcha's user on the disk of a folder, in GiB."""
    return shutil.disk_usage(folder).free / GIB


def is_full(error: Exception) -> bool:
    """Whether an error of the system, of DuckDB or of SQLite says that there is no room left."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(words in str(error) for words in ("disk is full", "No space left", "Disk quota", "File too large"))


def why_not_written(file: Path, error: OSError) -> str:
    """That a file in the data folder could not be written, and what to do."""
    if is_full(error):
        return (
            f"There is no room to write {file}: its disk is full, or a limit is reached. Make room; the next cycle "
            "goes on by itself."
        )
    return (
        f"{file} cannot be written: {error.strerror or error}. Orcha's user needs the right to write in its folder: "
        "give it back with `chmod u+rw` or `chown`, or mount its disk writable."
    )


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
