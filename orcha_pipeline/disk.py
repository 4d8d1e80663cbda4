"""Amounts of disk, and names that are on it."""

import os
from pathlib import Path

MIB = 2**20
GIB = 2**30


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
