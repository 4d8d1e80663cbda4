"""MLflow's store after a move: the addresses of its files are absolute."""

import sqlite3
from contextlib import closing
from pathlib import Path


def move_artifacts(store: Path, artifacts: Path) -> int:
    """Have every address in the SQLite file `store` lead to `artifacts`, absolute; returns how many were changed.

    Where they led before is told by the experiments, each of which has a folder of its name there. All columns of text
    are looked through: which of them hold addresses changes from one MLflow to the next.
    """
    moved, after = 0, artifacts.as_uri()
    with closing(sqlite3.connect(store)) as connection:
        for before in _roots(connection) - {after}:
            for table, column in _text_columns(connection):
                changed = connection.execute(
                    f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '  # noqa: S608 (the store's names)
                    f'WHERE substr("{column}", 1, ?) = ?',
                    (after, len(before) + 1, len(before) + 1, f"{before}/"),
                )
                moved += changed.rowcount
        connection.commit()
    return moved


def _roots(connection: sqlite3.Connection) -> set[str]:
    """Addresses of the folders that experiments have theirs in."""
    found = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
    return {
        location.removesuffix(f"/{name}")
        for name, location in found
        if location and location.startswith("file://") and location.endswith(f"/{name}")
    }


def _text_columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return [
        (table, column)
        for (table,) in tables
        for _, column, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")')
        if "CHAR" in kind.upper() or "TEXT" in kind.upper()
    ]
