"""A process that commits numbered transactions to a warehouse and says after each that it is committed.

    python -m orcha_pipeline_tests.integration.numbered_writer FILE [keep]

A transaction is two rows of `numbered` with the same number. Each line of its output is a number and the size of the
log by then. With `keep` another connection stays open, so that nothing is folded from the log into the file.
"""

import itertools
import sys
from contextlib import ExitStack
from pathlib import Path

import duckdb

from orcha_pipeline.warehouse.connection import Warehouse


def log_of(file: Path) -> Path:
    """Where DuckDB keeps what is committed and not yet in the file."""
    return file.with_name(f"{file.name}.wal")


def prepare(file: Path) -> Warehouse:
    """A warehouse with the table."""
    warehouse = Warehouse(file)
    warehouse.migrate()
    with warehouse.write() as connection:
        connection.execute("CREATE TABLE numbered (number INTEGER, half VARCHAR)")
    return warehouse


def numbers_in(warehouse: Warehouse) -> list[int]:
    """The transactions on record, by number. Raises `AssertionError` for half a one."""
    with warehouse.read() as connection:
        found = connection.execute("SELECT number, count(*) FROM numbered GROUP BY number ORDER BY number").fetchall()
    assert all(halves == 2 for _, halves in found), found
    return [number for number, _ in found]


def main() -> None:
    """Commit until killed."""
    file, keep = Path(sys.argv[1]), len(sys.argv) > 2
    warehouse = Warehouse(file)
    first = max(numbers_in(warehouse), default=-1) + 1
    with ExitStack() as stack:
        if keep:
            stack.enter_context(duckdb.connect(str(file)))
        for number in itertools.count(first):
            with warehouse.write() as connection:
                connection.execute("INSERT INTO numbered VALUES (?, 'first')", [number])
                connection.execute("INSERT INTO numbered VALUES (?, 'second')", [number])
            log = log_of(file)
            sys.stdout.write(f"{number} {log.stat().st_size if keep else 0}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
