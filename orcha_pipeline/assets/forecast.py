"""The forecast of every node's yield for the next 24 hours."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from orcha_pipeline.assets.earnings import FEATURES
from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.assets.metadata import picture
from orcha_pipeline.assets.models import model_keys
from orcha_pipeline.model import YIELD_USD, Window, YieldForecast, hour_of
from orcha_pipeline.resources import ModelRegistryResource, NodesResource, WarehouseResource
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.columns import feature_columns

if TYPE_CHECKING:
    from orcha_pipeline.forecasting.panel import HourlySeries

FORECAST = dg.AssetKey(["forecast"])
HISTORY_READ = timedelta(days=29)
"""The same hour of four weeks before is the furthest a model looks back."""


def build_forecast(protocols: Sequence[str]) -> dg.AssetsDefinition:
    """The forecast asset, downstream of the features and every protocol's model."""

    @dg.asset(
        key=FORECAST,
        deps=[FEATURES, *model_keys(protocols)],
        group_name="decision",
        kinds={"onnx", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "forecasts"},
        pool="duckdb",
    )
    def forecast(
        context: dg.AssetExecutionContext,
        nodes: NodesResource,
        warehouse: WarehouseResource,
        model_registry: ModelRegistryResource,
    ) -> dg.MaterializeResult[Any]:
        """Yield (USD per hour at full share) and native earnings, p10/p50/p90, of each node in the next 24 hours."""
        from orcha_pipeline.forecasting.champion import former_champion
        from orcha_pipeline.forecasting.features import node_and_target, panel_of
        from orcha_pipeline.forecasting.serving import forecast as serve

        installation = nodes.installation()
        now = installation.clock.now()
        store = warehouse.warehouse
        with store.read() as connection:
            champions = decisions.champions(connection)
            former = {protocol: former_champion(connection, row) for protocol, row in champions.items()}
            columns = feature_columns(connection, Window(hour_of(now) - HISTORY_READ, hour_of(now)))
        by_node = installation.node_protocols()
        panel = panel_of(columns, nodes=set(by_node))
        issued: list[YieldForecast] = []
        for protocol in sorted(set(by_node.values())):
            champion = champions.get(protocol)
            issued += serve(
                [one for one in panel if by_node[node_and_target(one.name)[0]] == protocol],
                issued_at=now,
                model_dir=None if champion is None else model_registry.absolute(champion.path),
                min_history_hours=installation.settings.forecast.min_history_hours,
                earlier=[model_registry.absolute(row.path) for row in (former.get(protocol),) if row],
            )
        with store.write() as connection:
            rows = decisions.record_forecasts(connection, issued)
        for item in issued:
            if item.note and item.target == YIELD_USD:
                context.log.warning("%s is forecast by %s: %s", item.node, item.model, item.note)
        served = {item.node for item in issued if item.target == YIELD_USD}
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": rows,
                **_told(panel, issued),
                "without forecast": ", ".join(sorted(set(by_node) - served)) or "none",
                "simulated": installation.simulated,
            }
        )

    return forecast


def _told(panel: Sequence["HourlySeries"], issued: Sequence[YieldForecast]) -> dict[str, Any]:
    """The fan and the table, where there is anything to show."""
    from orcha_pipeline.forecasting.charts import forecast_fan_png

    if not issued:
        return {}
    yields = [item for item in issued if item.target == YIELD_USD]
    records = [
        dg.TableRecord(
            {
                "node": item.node,
                "target": item.target,
                "model": f"{item.model} {item.version}",
                "next hour": float(f"{item.p50[0]:.4g}"),
                "24 h mean": float(f"{sum(item.p50) / len(item.p50):.4g}"),
                "note": item.note,
            }
        )
        for item in issued
    ]
    return {
        "fan": picture(forecast_fan_png(panel, yields), "forecast fan"),
        "forecasts": dg.MetadataValue.table(records),
    }
