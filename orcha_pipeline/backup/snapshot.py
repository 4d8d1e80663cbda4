"""Copies that belong together of what changes while Orcha runs, and the list of what does not.

The warehouse and the emulated nodes are copied in the same moment, while nobody can write; MLflow's store after them,
and its files after the store. So whatever the warehouse or the store names is there: files are written before they
are named.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import duckdb

from orcha_pipeline.backup.archive import CHUNK, Part
from orcha_pipeline.backup.manifest import (
    CONFIG,
    HOME,
    MLFLOW_ARTIFACTS,
    MLFLOW_STORE,
    MODELS,
    TESTNET,
    WAREHOUSE,
)
from orcha_pipeline.errors import BackupError
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.connection import Warehouse

TESTNET_CLOCK = "testnet.json"
"""The testnet's own time: no host's state may be later than it."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is backed up: the data folder, the settings file if there is one, and whether the nodes are emulated."""

    home: Path
    config: Path | None
    simulated: bool

    def copied(self) -> Iterator[Path]:
        """Files that are copied before they are packed."""
        yield from _with_log(self.home / WAREHOUSE)
        if (self.home / MLFLOW_STORE).exists():
            yield self.home / MLFLOW_STORE
        if self.simulated:
            yield from _files(self.home / TESTNET)

    def packed(self) -> Iterator[Part]:
        """Files that are packed where they are: none of them changes once it is named."""
        for folder in (MODELS, MLFLOW_ARTIFACTS):
            for path in _files(self.home / folder):
                yield Part(f"{HOME}{path.relative_to(self.home).as_posix()}", path)
        if self.config is not None:
            yield Part(CONFIG, self.config)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The copies as parts of an archive, and what the warehouse among them tells."""

    parts: tuple[Part, ...]
    migrations: tuple[str, ...]
    unfinished: int


def take(source: Source, folder: Path) -> Snapshot:
    """Copy what changes into `folder`, which must be empty. Writers of the warehouse wait meanwhile.

    Raises `OrchaError` where there is no warehouse or a copy is not sound.
    """
    _copy_at_once(source, folder)
    migrations, unfinished = _look_into(folder / WAREHOUSE)
    if (source.home / MLFLOW_STORE).exists():
        _copy_store(source.home / MLFLOW_STORE, folder / MLFLOW_STORE)
    parts = tuple(Part(f"{HOME}{path.relative_to(folder).as_posix()}", path) for path in _files(folder))
    return Snapshot(parts, migrations, unfinished)


def _copy_at_once(source: Source, folder: Path) -> None:
    # The files stay open until DuckDB has closed its own: the system drops all of a process's locks on a file as soon
    # as the process closes any handle of it.
    with ExitStack() as files, Warehouse(source.home / WAREHOUSE).read():
        for path in _with_log(source.home / WAREHOUSE):
            original = files.enter_context(path.open("rb"))
            with (folder / path.name).open("xb") as copy:
                shutil.copyfileobj(original, copy, CHUNK)
        if source.simulated:
            found = [path for path in _files(source.home / TESTNET) if not path.name.startswith(".")]
            for path in sorted(found, key=lambda path: path.name == TESTNET_CLOCK):
                target = folder / path.relative_to(source.home)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def _with_log(warehouse: Path) -> list[Path]:
    """The file, and what a process that was killed left to be folded into it."""
    beside = sorted(warehouse.parent.glob(f"{warehouse.name}.wal*"))
    return [*beside, *([warehouse] if warehouse.exists() else [])]


def _look_into(copy: Path) -> tuple[tuple[str, ...], int]:
    """The migrations and the applications under way. What was left to be folded into the copy is, by opening it."""
    try:
        with Warehouse(copy).write() as connection:
            names = connection.execute("SELECT name FROM schema_migrations ORDER BY name").fetchall()
            unfinished = len(decisions.applications_without_end(connection))
    except duckdb.CatalogException as error:
        raise BackupError(
            f"The warehouse was made by an earlier Orcha: start `orcha up` once, then back it up ({error})."
        ) from error
    return tuple(name for (name,) in names), unfinished


def _copy_store(original: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    address = f"{original.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as store, closing(sqlite3.connect(copy)) as target:
        store.backup(target)
        (told,) = target.execute("PRAGMA quick_check(1)").fetchone()
    if told != "ok":
        raise BackupError(f"MLflow's store {original} is damaged: {told}.")


def _files(folder: Path) -> list[Path]:
    """Every plain file below, by its path."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
