"""One application of a host at a time, whatever process carries it out.

The system frees the lock however its holder ends: an application on record as running whose host is not locked was
left behind by a process that died.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def host_lock(home: Path, host: str) -> Generator[bool]:
    """Hold the host's lock in the body; False where another process holds it."""
    folder = home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"application-{host}.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
