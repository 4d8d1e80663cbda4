"""Making one backup: from the data folder to an archive that was read back."""

import shutil
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import duckdb
from tenacity import Retrying, retry_if_exception, stop_after_attempt

from orcha_pipeline.backup.archive import verify, write_archive
from orcha_pipeline.backup.disk import scratch_folder
from orcha_pipeline.backup.manifest import FileEntry, Manifest
from orcha_pipeline.backup.snapshot import Snapshot, Source, take
from orcha_pipeline.disk import MIB, is_full, sync_folder
from orcha_pipeline.errors import BackupError, WarehouseError

SUFFIX = ".tar.gz"
SCRATCH = ".orcha-backup-"
ATTEMPTS = 3
"""Starts, where a file that was to be packed has vanished meanwhile: an old model that was tidied away."""


@dataclass(frozen=True, slots=True)
class Backup:
    """An archive that was made and read back: its size in bytes, and what it holds."""

    path: Path
    size: int
    manifest: Manifest


def archive_name(made_at: datetime, *, nightly: bool = False) -> str:
    """Name of an archive made at this time; they sort by it."""
    kind = "nightly-" if nightly else ""
    return f"orcha-{kind}{made_at.astimezone(UTC):%Y%m%dT%H%M%SZ}{SUFFIX}"


def target_of(out: Path | None, folder: Path, made_at: datetime) -> Path:
    """The archive to write: `out`, one in it where it is a folder, one in `folder` (made if missing) without it.

    Raises `BackupError` where it cannot be written there, or something is there already.
    """
    if out is None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise BackupError(f"The folder for backups, {folder}, cannot be made: {error.strerror}.") from error
        out = folder
    target = (out / archive_name(made_at) if out.is_dir() else out).absolute()
    if not target.parent.is_dir():
        raise BackupError(f"{target} cannot be written: there is no such folder.")
    if target.exists():
        raise BackupError(f"{target} exists and is left as it is; name another file.")
    return target


def back_up(source: Source, target: Path, made_at: datetime) -> Backup:
    """Make an archive at `target` and read it back. Nothing is left behind where that fails.

    Raises `BackupError` where there is too little room or a file cannot be read, `WarehouseError` where there is no
    warehouse to back up.
    """

    def vanished(error: BaseException) -> bool:
        return isinstance(error, FileNotFoundError) and Path(error.filename or "").is_relative_to(source.home)

    attempts = Retrying(retry=retry_if_exception(vanished), stop=stop_after_attempt(ATTEMPTS), reraise=True)
    with _told(target.parent):
        return attempts(_attempt, source, target, made_at)


def _attempt(source: Source, target: Path, made_at: datetime) -> Backup:
    _check_room(source, target.parent)
    with scratch_folder(target.parent, SCRATCH) as scratch:
        copies, unfinished = scratch / "copies", scratch / target.name
        copies.mkdir()
        snapshot = take(source, copies)
        write_archive(
            unfinished,
            [*snapshot.parts, *source.packed()],
            manifest=lambda files: _manifest(source, snapshot, made_at, files),
        )
        manifest = verify(unfinished)
        unfinished.rename(target)
    sync_folder(target.parent)
    return Backup(target, target.stat().st_size, manifest)


def _manifest(source: Source, snapshot: Snapshot, made_at: datetime, files: Mapping[str, FileEntry]) -> Manifest:
    return Manifest(
        made_at=made_at,
        orcha=version("orcha"),
        home=str(source.home.resolve()),
        simulated=source.simulated,
        migrations=snapshot.migrations,
        unfinished=snapshot.unfinished,
        files=dict(files),
    )


def _check_room(source: Source, folder: Path) -> None:
    """Raise `BackupError` unless the copies fit, and an archive that no compression made smaller."""
    copied = sum(path.stat().st_size for path in source.copied())
    packed = sum(part.path.stat().st_size for part in source.packed())
    needed, free = 2 * copied + packed, shutil.disk_usage(folder).free
    if needed > free:
        raise BackupError(
            f"There is too little room in {folder} for a backup: it takes up to {needed / MIB:,.1f} MiB, and "
            f"{free / MIB:,.1f} are free. Nothing was written. Make room, or name a folder on another disk: "
            "--out, or backup.folder in orcha.toml."
        )


@contextmanager
def _told(folder: Path) -> Generator[None]:
    """Turns what is in the way of a backup into words for a person."""
    try:
        yield
    except (OSError, duckdb.Error, sqlite3.Error, WarehouseError) as error:
        if is_full(error):
            raise BackupError(
                f"The disk of {folder} is full, or a limit is reached: no backup was made and nothing of it is left. "
                "Make room, or name a folder on another disk: --out, or backup.folder in orcha.toml."
            ) from error
        if isinstance(error, WarehouseError):
            raise
        told = f"{error.filename or folder}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
        raise BackupError(f"No backup was made. {told}") from error
