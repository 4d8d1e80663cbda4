"""The forecast of every node's yield for the next 24 hours."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg
import pandas as pd

from orcha_pipeline.assets.earnings import FEATURES
from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.assets.metadata import picture
from orcha_pipeline.assets.models import model_keys
from orcha_pipeline.model import HOUR, Window, YieldForecast, hour_of
from orcha_pipeline.resources import ModelRegistryResource, NodesResource, WarehouseResource
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.frames import frame as table_frame

FORECAST = dg.AssetKey(["forecast"])
HISTORY_READ = timedelta(days=28)


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
        """USD per hour at full share, p10/p50/p90, for each node and each of the next 24 hours."""
        from orcha_pipeline.forecasting.serving import forecast as serve

        installation = nodes.installation()
        now = installation.clock.now()
        store = warehouse.warehouse
        with store.read() as connection:
            champions = decisions.champions(connection)
            frame = table_frame(connection, "features_hourly", Window(hour_of(now) - HISTORY_READ, hour_of(now)))
        by_node = installation.node_protocols()
        issued: list[YieldForecast] = []
        for protocol in sorted(set(by_node.values())):
            champion = champions.get(protocol)
            issued += serve(
                frame,
                nodes=[node for node, name in by_node.items() if name == protocol],
                issued_at=now,
                model_dir=None if champion is None else model_registry.absolute(champion.path),
                settings=installation.settings,
            )
        with store.write() as connection:
            rows = decisions.record_forecasts(connection, issued)
        for item in issued:
            if item.note:
                context.log.warning("%s is forecast by %s: %s", item.node, item.model, item.note)
        recent = frame[frame["hour"] >= hour_of(now) - 72 * HOUR]
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": rows,
                **_told(recent, issued),
                "without forecast": ", ".join(sorted(set(by_node) - {f.node for f in issued})) or "none",
                "simulated": installation.simulated,
            }
        )

    return forecast


def _told(recent: pd.DataFrame, issued: Sequence[YieldForecast]) -> dict[str, Any]:
    """The fan and the table, where there is anything to show."""
    from orcha_pipeline.forecasting.charts import forecast_fan_png

    if not issued:
        return {}
    records = [
        dg.TableRecord(
            {
                "node": item.node,
                "model": f"{item.model} {item.version}",
                "next hour, USD/h at full share": round(item.p50[0], 5),
                "24 h mean": round(sum(item.p50) / len(item.p50), 5),
                "note": item.note,
            }
        )
        for item in issued
    ]
    return {
        "fan": picture(forecast_fan_png(recent, issued), "forecast fan"),
        "forecasts": dg.MetadataValue.table(records),
    }
