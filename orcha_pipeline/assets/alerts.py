"""What a person should know of, as rows and on the asset's page; the postman of `orcha up` sends it."""

from typing import Any

import dagster as dg

from orcha_pipeline.assets.anomalies import ANOMALIES
from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.warehouse.alert_rows import AlertRow

ALERTS = dg.AssetKey(["alerts"])


def build_alerts() -> dg.AssetsDefinition:
    """The alerts asset."""

    @dg.asset(
        key=ALERTS,
        deps=[ANOMALIES],
        group_name="decision",
        kinds={"python", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "alerts"},
        pool="duckdb",
    )
    def alerts(
        context: dg.AssetExecutionContext, nodes: NodesResource, warehouse: WarehouseResource
    ) -> dg.MaterializeResult[Any]:
        """What anomalies make of alerts: raised, told again, grouped by cause, resolved; messages are queued."""
        from orcha_pipeline.anomalies.alerts.lifecycle import Change
        from orcha_pipeline.anomalies.alerts.rounds import take_stock

        installation = nodes.installation()
        with warehouse.warehouse.write() as connection:
            done = take_stock(connection, installation, installation.clock.now())
        for transition in done.transitions:
            if transition.change is not Change.SEEN:
                alert = transition.alert
                context.log.info("%s: %s %s of %s", transition.change, alert.severity, alert.kind, alert.subject)
        metadata: dict[str, Any] = {
            "open alerts": len(done.open),
            "messages queued": done.messages,
            "simulated": installation.simulated,
        }
        if done.open:
            metadata["open"] = dg.MetadataValue.table([_record(alert) for alert in done.open])
        return dg.MaterializeResult(metadata=metadata)

    return alerts


def _record(alert: AlertRow) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "alert": alert.alert_id,
            "severity": alert.severity,
            "rule": alert.kind,
            "subject": alert.subject,
            "since": f"{alert.raised_at:%Y-%m-%d %H:%M} UTC",
            "message": alert.message,
            "acknowledged by": alert.acknowledged_by or "",
            "stands under": alert.group_id or "",
        }
    )
