"""A disk of a few MiB that can be filled and emptied: a tmpfs, where this machine lets the tests mount one."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BLOCK = 64 * 1024


class LimitedDisk:
    """The file system mounted at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave not one byte free."""
        size = BLOCK
        with self._filler.open("ab", buffering=0) as file:
            while size:
                try:
                    file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def make_room(self) -> None:
        """Undo `fill`."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def limited_disk(folder: Path, *, mib: int) -> Iterator[LimitedDisk]:
    """Mount it at `folder`; skips the test where that is not permitted."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk to fill")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk to fill cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield LimitedDisk(folder)
    finally:
        # Lazily: a handle that is still open must not keep it.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
