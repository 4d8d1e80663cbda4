"""Opening the DuckDB file: one writer at a time, waited for; transactions; migrations.

DuckDB locks its file for one process. Every use here is short, and a process that finds the file taken waits its
turn with jitter, so no run fails because a reader has the file open, nor the other way round.
"""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import duckdb
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from orcha_pipeline.errors import WarehouseError
from orcha_pipeline.warehouse.troubles import is_taken, told

LOCK_TIMEOUT_SECONDS = 60.0


def _scripts() -> list[Traversable]:
    """The numbered migrations, in their order."""
    found = resources.files(f"{__package__}.migrations").iterdir()
    return sorted((item for item in found if item.name.endswith(".sql")), key=lambda item: item.name)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:  # not there, or out of reach: DuckDB says what is wrong
        return None


def _connect(path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Open the file. One that was replaced by a compact copy before its lock was taken is opened anew."""
    while True:
        before = _inode(path)
        connection = duckdb.connect(str(path), read_only=read_only)
        if before is None or _inode(path) == before:
            return connection
        connection.close()


class Warehouse:
    """The DuckDB file at `path`. Holds nothing open between calls."""

    def __init__(self, path: Path, *, lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> None:
        self.path = path
        self._lock_timeout_seconds = lock_timeout_seconds

    def _open(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        if read_only and not self.path.exists():
            raise WarehouseError(f"There is no warehouse at {self.path}. Start Orcha once with `orcha up`.")
        waiting = Retrying(
            retry=retry_if_exception(is_taken),
            wait=wait_random(0.005, 0.08),
            stop=stop_after_delay(self._lock_timeout_seconds),
            reraise=True,
        )
        try:
            connection = waiting(_connect, self.path, read_only=read_only)
        except duckdb.Error as error:
            trouble = self._trouble(error) or f"The warehouse {self.path} cannot be opened: {error}"
            raise WarehouseError(trouble) from error
        connection.execute("SET TimeZone = 'UTC'")
        return connection

    def _trouble(self, error: duckdb.Error) -> str:
        return told(self.path, error, waited_seconds=self._lock_timeout_seconds)

    @contextmanager
    def read(self) -> Generator[duckdb.DuckDBPyConnection]:
        """A read-only connection, closed whatever happens. Keep it short: it holds writers up."""
        connection = self._open(read_only=True)
        try:
            yield connection
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            if not self._is_behind(connection):
                raise
            raise WarehouseError(
                f"The warehouse {self.path} was made by an earlier Orcha. `orcha up` brings it up to date."
            ) from error
        finally:
            connection.close()

    @staticmethod
    def _is_behind(connection: duckdb.DuckDBPyConnection) -> bool:
        """Whether the schema lacks a script."""
        try:
            done = {name for (name,) in connection.execute("SELECT name FROM schema_migrations").fetchall()}
        except duckdb.CatalogException:
            return True
        return any(script.name not in done for script in _scripts())

    @contextmanager
    def write(self) -> Generator[duckdb.DuckDBPyConnection]:
        """A connection inside one transaction: committed when the body ends, rolled back when it raises.

        Raises `WarehouseError` where the file cannot be written: a full disk, a right that is missing.
        """
        connection = self._open(read_only=False)
        try:
            connection.begin()
            try:
                yield connection
            except BaseException:
                with suppress(duckdb.Error):  # closing rolls back as well: the body's error is the one to tell
                    connection.rollback()
                raise
            connection.commit()
        except duckdb.Error as error:
            if trouble := self._trouble(error):
                raise WarehouseError(trouble) from error
            raise
        finally:
            connection.close()

    def migrate(self) -> list[str]:
        """Bring the schema up to date, each numbered script once and whole. Returns the scripts run now."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WarehouseError(f"The folder {self.path.parent} cannot be made: {error.strerror}.") from error
        scripts = _scripts()
        ran: list[str] = []
        with self.write() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations (name VARCHAR PRIMARY KEY, applied_at TIMESTAMP NOT NULL)"
            )
            done = {name for (name,) in connection.execute("SELECT name FROM schema_migrations").fetchall()}
            unknown = done - {script.name for script in scripts}
            if unknown:
                raise WarehouseError(
                    f"The warehouse {self.path} was made by a newer Orcha (it has {', '.join(sorted(unknown))}). "
                    "Update Orcha, or restore an older backup."
                )
            for script in scripts:
                if script.name not in done:
                    connection.execute(script.read_text(encoding="utf-8"))
                    connection.execute(
                        "INSERT INTO schema_migrations VALUES (?, now()::TIMESTAMP)",
                        [script.name],
                    )
                    ran.append(script.name)
        return ran
