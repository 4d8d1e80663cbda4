"""The Dagster resources through which assets reach the world: warehouse, nodes and prices, model registry."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from orcha_pipeline.ingest import open_adapters
from orcha_pipeline.installation import Installation, open_installation
from orcha_pipeline.prices import PriceClient
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.registry import tokens_of
from orcha_pipeline.settings import mlflow_store
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


class NodesResource(dg.ConfigurableResource["NodesResource"]):
    """Opens the adapters of the configured nodes, or of the testnet's where none is configured.

    `config` is the path of orcha.toml; empty means the usual search. Keys and tokens are read when an adapter is
    opened and never become part of a run's configuration.
    """

    config: str = ""

    def installation(self) -> Installation:
        """Settings and clock, read anew for each run."""
        return open_installation(Path(self.config) if self.config else None)

    @contextmanager
    def adapters(self, protocols: Sequence[str] | None = None) -> Generator[dict[str, Adapter]]:
        """Node -> adapter, closed at the end."""
        with open_adapters(self.installation(), protocols) as adapters:
            yield adapters

    @contextmanager
    def prices(self) -> Generator[PriceClient]:
        """The price client, closed at the end."""
        installation = self.installation()
        settings = installation.settings
        client = PriceClient(settings.prices, installation.clock, tokens=tokens_of(settings.nodes))
        try:
            yield client
        finally:
            client.close()


class ModelRegistryResource(dg.ConfigurableResource["ModelRegistryResource"]):
    """`home` is the data folder. Runs are written straight into the store, so no server need be up."""

    home: str

    @property
    def tracking_uri(self) -> str:
        """MLflow's store."""
        return mlflow_store(Path(self.home))

    def folder(self, protocol: str, run_id: str) -> Path:
        """Where a training leaves its model; `path` of a model row is relative to the data folder."""
        return Path("models") / protocol / run_id

    def absolute(self, path: str | Path) -> Path:
        """A model row's path on this machine."""
        return Path(self.home) / path
