"""The configured nodes and prices as a Dagster resource: the only way assets reach a protocol."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from orcha_pipeline.ingest import open_adapters
from orcha_pipeline.installation import Installation, open_installation
from orcha_pipeline.prices import PriceClient
from orcha_pipeline.protocols.base import Adapter


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
        client = PriceClient(installation.settings.prices, installation.clock)
        try:
            yield client
        finally:
            client.close()
