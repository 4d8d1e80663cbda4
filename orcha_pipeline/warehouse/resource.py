"""The warehouse as a Dagster resource."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster_duckdb import DuckDBResource

from orcha_pipeline.warehouse.connection import Warehouse


class WarehouseResource(DuckDBResource):
    """dagster-duckdb's resource on our own connection.

    The original keeps the file locked when the body raises, for it has no try/finally around its yield; here the
    connection is one transaction that ends with the body, whatever happens.
    """

    @property
    def warehouse(self) -> Warehouse:
        """The plain warehouse, for code that knows nothing of Dagster."""
        return Warehouse(Path(self.database))

    @contextmanager
    def get_connection(self) -> Generator[Any]:
        """Give a writing connection inside one transaction."""
        with self.warehouse.write() as connection:
            yield connection
