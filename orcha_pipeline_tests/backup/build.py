"""Small data folders to back up and restore, and what there is in them."""

import hashlib
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from orcha_pipeline.backup.save import Backup, back_up
from orcha_pipeline.backup.snapshot import Source
from orcha_pipeline.warehouse.connection import Warehouse

NOW = datetime(2026, 3, 5, 3, 0, tzinfo=UTC)
HOME = ".orcha"
WHOLE = ("mlflow", "models", "testnet", "dagster", "warehouse.duckdb")
"""What makes way in a restore."""


def make_home(folder: Path, mark: str) -> Path:
    """An installation in `folder` without a settings file, so on the testnet; every file of it speaks of `mark`."""
    home = folder / HOME
    warehouse = Warehouse(home / "warehouse.duckdb")
    warehouse.migrate()
    with warehouse.write() as connection:
        connection.execute("INSERT INTO nodes VALUES (?, 'storj', 'h', true, now()::TIMESTAMP)", [mark])
    files = {
        "mlflow/artifacts/orcha-storj/run/model.bin": mark * 1000,
        "models/storj/run/manifest.json": mark,
        "models/storj/run/candidates/linear.npz": mark * 500,
        "testnet/testnet.json": mark,
        "testnet/economy.json": mark,
        "testnet/golem-1/presets.json": mark,
        "dagster/runs.db": mark,
        "logs/daemon.log": mark,
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    artifacts = (home / "mlflow" / "artifacts").resolve().as_uri()
    with closing(sqlite3.connect(home / "mlflow" / "mlflow.db")) as store:
        store.execute("CREATE TABLE experiments (name VARCHAR(256), artifact_location VARCHAR(256))")
        store.execute("INSERT INTO experiments VALUES ('orcha-storj', ?)", [f"{artifacts}/orcha-storj"])
        store.execute("CREATE TABLE runs (number INTEGER, artifact_uri VARCHAR(200))")
        store.execute("INSERT INTO runs VALUES (1, ?)", [f"{artifacts}/orcha-storj/run"])
        store.commit()
    return home


def source_of(home: Path, config: Path | None = None) -> Source:
    return Source(home=home, config=config, simulated=True)


def backed_up(home: Path, target: Path, config: Path | None = None) -> Backup:
    return back_up(source_of(home, config), target, NOW)


def mark_of(home: Path) -> str:
    """Which installation the data folder is of. Raises `AssertionError` where it is part one and part another."""
    with Warehouse(home / "warehouse.duckdb").read() as connection:
        ((mark,),) = connection.execute("SELECT node FROM nodes").fetchall()
    names = ("models/storj/run/manifest.json", "testnet/testnet.json", "testnet/economy.json")
    assert {(home / name).read_text() for name in names} == {mark}
    assert (home / "models/storj/run/candidates/linear.npz").read_text() == mark * 500
    assert (home / "mlflow/artifacts/orcha-storj/run/model.bin").read_text() == mark * 1000
    return mark


def addresses_in(home: Path) -> set[str]:
    """Every address in MLflow's store."""
    with closing(sqlite3.connect(home / "mlflow" / "mlflow.db")) as store:
        found = store.execute(
            "SELECT artifact_location FROM experiments UNION SELECT artifact_uri FROM runs"
        ).fetchall()
    return {address for (address,) in found}


def tree(folder: Path) -> dict[str, str]:
    """Every file below, by its hash."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
