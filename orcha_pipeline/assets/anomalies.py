"""What looks wrong with a node, as rows and on the asset's page."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import dagster as dg

from orcha_pipeline.assets.earnings import FEATURES
from orcha_pipeline.assets.forecast import FORECAST
from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.model import YIELD_USD, Window, slot_of
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.frames import frame

ANOMALIES = dg.AssetKey(["anomalies"])
PROMISES_READ = timedelta(days=2)


def build_anomalies() -> dg.AssetsDefinition:
    """The anomalies asset."""

    @dg.asset(
        key=ANOMALIES,
        deps=[FEATURES, FORECAST],
        group_name="decision",
        kinds={"scikitlearn", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "anomalies"},
        pool="duckdb",
    )
    def anomalies(
        context: dg.AssetExecutionContext, nodes: NodesResource, warehouse: WarehouseResource
    ) -> dg.MaterializeResult[Any]:
        """Isolation Forest on earnings, resource use and connection of each node, and rules: what is wrong."""
        from orcha_pipeline.anomalies.detect import HISTORY, detect

        installation = nodes.installation()
        now = installation.clock.now()
        store = warehouse.warehouse
        past, upcoming = Window(now - HISTORY, now + timedelta(seconds=1)), Window(now - PROMISES_READ, now)
        with store.read() as connection:
            features = frame(connection, "features_hourly", past)
            health = frame(connection, "node_health", past)
            usage = frame(connection, "resource_usage", past)
            forecasts = frame(connection, "forecasts", upcoming)
        forecasts = forecasts[forecasts["target"] == YIELD_USD]
        own = set(installation.node_protocols())
        found = [
            anomaly for anomaly in detect(features, health, forecasts, now=now, usage=usage) if anomaly.node in own
        ]
        with store.write() as connection:
            rows = decisions.record_anomalies(
                connection, slot_of(now), [{k: v for k, v in asdict(a).items() if k != "slot"} for a in found]
            )
        for anomaly in found:
            context.log.warning("%s %s on %s: %s", anomaly.severity, anomaly.rule, anomaly.node, anomaly.evidence)
        metadata: dict[str, Any] = {"dagster/row_count": rows, "simulated": installation.simulated}
        if found:
            metadata["found"] = dg.MetadataValue.table(
                [
                    dg.TableRecord(
                        {
                            "node": a.node,
                            "rule": a.rule,
                            "severity": a.severity,
                            "evidence": a.evidence,
                            "remedy": a.remedy,
                        }
                    )
                    for a in found
                ]
            )
        return dg.MaterializeResult(metadata=metadata)

    return anomalies
