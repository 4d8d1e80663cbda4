"""The way back: an archive's files in the place of what is there, which is kept."""

import os
import shutil
import sqlite3
import tempfile
import tomllib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from orcha_pipeline.backup.archive import extract
from orcha_pipeline.backup.journal import CONFIG_STAGED, Journal, begin, carry_on, pending
from orcha_pipeline.backup.manifest import CONFIG, HOME, MLFLOW_ARTIFACTS, MLFLOW_STORE, ROOTS, WAREHOUSE, Manifest
from orcha_pipeline.backup.mlflow_paths import move_artifacts
from orcha_pipeline.disk import MIB, is_full
from orcha_pipeline.errors import BackupError
from orcha_pipeline.settings import Settings
from orcha_pipeline.warehouse.connection import Warehouse

STAGED = ".orcha-restore-"
DAGSTER = "dagster"
"""Makes way as well: Dagster's own record, of runs later than the backup, would have it leave out what it takes for
done."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of a restore.

    `aside` keeps what was there before (None: nothing was), `files` counts what was restored to the data folder, and
    `config` is the settings file that was put in place.
    """

    aside: Path | None
    files: int
    config: Path | None


def restore(archive: Path, manifest: Manifest, *, home: Path, config: Path | None, now: datetime) -> Restored:
    """Put the files of a verified archive into `home`, and its settings file at `config` where that is given.

    The caller holds the instance's lock. Nothing in place is touched before all of it lies ready, and is then moved to
    a folder of its own. Raises `OrchaError` where there is too little room, or the archive does not fit this Orcha.
    """
    if config is not None and not manifest.has_config:
        raise BackupError(f"{archive} holds no settings file: restore it without --config-too.")
    for left in home.glob(f"{STAGED}*"):
        shutil.rmtree(left)
    free = shutil.disk_usage(home).free
    if manifest.size > free:
        raise BackupError(
            f"There is too little room for {home}: the archive holds {manifest.size / MIB:,.1f} MiB, and "
            f"{free / MIB:,.1f} are free. Nothing was changed."
        )
    staged = Path(tempfile.mkdtemp(prefix=STAGED, dir=home))
    try:
        with _told(home):
            _stage(archive, manifest, staged=staged, home=home, config=config)
            journal = _journal(archive, staged, home=home, config=config, now=now)
            begin(home, journal)
    except BaseException:
        if pending(home) is None:
            shutil.rmtree(staged, ignore_errors=True)
        raise
    carry_on(home, journal)
    files = sum(name.startswith(HOME) for name in manifest.files)
    return Restored(home / journal.aside if journal.old or journal.config_before else None, files, config)


def _stage(archive: Path, manifest: Manifest, *, staged: Path, home: Path, config: Path | None) -> None:
    """Unpack into `staged` and make it fit: the warehouse's schema, MLflow's addresses."""

    def place(name: str) -> Path | None:
        if name == CONFIG:
            return None if config is None else staged / CONFIG_STAGED
        return staged / name.removeprefix(HOME)

    extract(archive, manifest, place)
    if config is not None:
        _check_home((staged / CONFIG_STAGED).read_text(encoding="utf-8-sig"), config, home)
    Warehouse(staged / WAREHOUSE).migrate()
    if (staged / MLFLOW_STORE).exists():
        move_artifacts(staged / MLFLOW_STORE, home.resolve() / MLFLOW_ARTIFACTS)


def _check_home(text: str, config: Path, home: Path) -> None:
    """Raise `BackupError` where the settings file, once in place, would have Orcha look for its data elsewhere."""
    try:
        named: object = tomllib.loads(text).get("home")
    except tomllib.TOMLDecodeError as error:
        raise BackupError(f"The archive's settings file is no TOML ({error}): leave out --config-too.") from error
    default = Settings.model_fields["home"].default
    wanted = config.parent / Path(os.environ.get("ORCHA_HOME") or str(named or default)).expanduser()
    if wanted.resolve() != home.resolve():
        raise BackupError(
            f"The archive's settings file keeps its data in {wanted}, and this would restore into {home}. Restore with "
            f"ORCHA_HOME={wanted} set, or without --config-too. Nothing was changed."
        )


def _journal(archive: Path, staged: Path, *, home: Path, config: Path | None, now: datetime) -> Journal:
    old = [name for name in (*ROOTS, DAGSTER) if os.path.lexists(home / name)]
    old += sorted(path.name for path in home.glob(f"{WAREHOUSE}.*"))
    return Journal(
        archive=str(archive.absolute()),
        staged=staged.name,
        aside=_free_name(home, f"before-restore-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"),
        old=tuple(old),
        new=tuple(name for name in ROOTS if (staged / name).exists()),
        config=config,
        config_before=config is not None and config.exists(),
    )


def _free_name(home: Path, name: str) -> str:
    number, free = 1, name
    while (home / free).exists():
        number, free = number + 1, f"{name}-{number + 1}"
    return free


@contextmanager
def _told(home: Path) -> Generator[None]:
    """Turns what is in the way of a restore into words for a person."""
    try:
        yield
    except (OSError, duckdb.Error, sqlite3.Error) as error:
        if is_full(error):
            raise BackupError(f"The disk of {home} is full. Nothing was changed; make room and try again.") from error
        told = f"{error.filename or home}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
        raise BackupError(f"Nothing was changed. {told}") from error
