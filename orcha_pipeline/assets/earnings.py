"""Hourly earnings in native units and USD, and the features that models learn from."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from orcha_pipeline.assets.ingest import OWNERS, PRICES, fact_keys
from orcha_pipeline.assets.partitions import latest_of
from orcha_pipeline.model import HOUR, Window, hour_of, slot_of
from orcha_pipeline.protocols.registry import make_adapter_anyhow
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.warehouse.derived import (
    quarters_to_rebuild,
    rebuild_earnings_hourly,
    rebuild_features,
    rebuild_rates_quarterly,
)

EARNINGS_HOURLY = dg.AssetKey(["earnings_hourly"])
FEATURES = dg.AssetKey(["features"])


class LookBack(dg.Config):
    """How far back to compute anew. A cycle needs the last hours; recording history needs all of it."""

    hours: int = 48


def _window(nodes: NodesResource, config: LookBack) -> Window:
    now = hour_of(nodes.installation().clock.now())
    return Window(now - timedelta(hours=config.hours), now)


def build_earnings(protocols: Sequence[str]) -> list[dg.AssetsDefinition]:
    """The assets of this module, downstream of every protocol's raw facts."""

    @dg.asset(
        key=EARNINGS_HOURLY,
        deps=[*[latest_of(key) for key in fact_keys(protocols) if key.path[-1] == "earnings"], latest_of(PRICES)],
        group_name="earnings",
        kinds={"python", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "earnings_hourly"},
        pool="duckdb",
    )
    def earnings_hourly(
        nodes: NodesResource, warehouse: WarehouseResource, config: LookBack
    ) -> dg.MaterializeResult[Any]:
        """What each node earned hour by hour: differences of native totals, valued at the price of their hour.

        Quarter by quarter too (table `rates_quarterly`), as far as that is not on record.
        """
        installation = nodes.installation()
        tokens = {}
        for settings in installation.settings.nodes:
            adapter = make_adapter_anyhow(settings, installation.clock)
            tokens[settings.name] = (adapter.token, adapter.tokens_per_native)
            adapter.close()
        window = _window(nodes, config)
        with warehouse.warehouse.write() as connection:
            rows = rebuild_earnings_hourly(connection, window, tokens)
            until_now = Window(window.start, slot_of(installation.clock.now()))
            quarters = rebuild_rates_quarterly(connection, quarters_to_rebuild(connection, until_now), tokens)
        known = [usd for row in rows if (usd := row.usd("net")) is not None]
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": len(rows),
                "quarters of an hour": quarters,
                "unknown hours": sum(row.amounts.net is None for row in rows),
                "net USD of what is known": round(sum(known), 6),
                "simulated": installation.simulated,
            }
        )

    @dg.asset(
        key=FEATURES,
        deps=[
            EARNINGS_HOURLY,
            *[
                latest_of(key)
                for key in fact_keys(protocols)
                if key.path[-1] in ("node_health", "allocations_observed")
            ],
        ],
        group_name="earnings",
        kinds={"duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "features_hourly"},
        pool="duckdb",
    )
    def features(nodes: NodesResource, warehouse: WarehouseResource, config: LookBack) -> dg.MaterializeResult[Any]:
        """Yield (USD per hour at full share), share, price and health of every node and hour."""
        curvature = nodes.installation().settings.planner.response_curvature
        window = _window(nodes, config)
        with warehouse.warehouse.write() as connection:
            rows = rebuild_features(connection, window, curvature=curvature)
        return dg.MaterializeResult(
            metadata={"dagster/row_count": rows, "hours": window.hours, "last hour": str(window.end - HOUR)}
        )

    return [earnings_hourly, features]
