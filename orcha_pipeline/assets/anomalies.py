"""What looks wrong, as rows and on the asset's page."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from orcha_pipeline.allocation.apply import clock_jumped
from orcha_pipeline.assets.earnings import FEATURES
from orcha_pipeline.assets.forecast import FORECAST
from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.model import slot_of
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.warehouse import anomaly_rows

if TYPE_CHECKING:
    from orcha_pipeline.anomalies.anomaly import Anomaly

ANOMALIES = dg.AssetKey(["anomalies"])
BEFORE_THE_PLAN = {"dagster/priority": "1"}
"""The plan reads what was found in this slot; but where nothing can be found, plans must go on: it is no dependency."""


def build_anomalies() -> dg.AssetsDefinition:
    """The anomalies asset."""

    @dg.asset(
        key=ANOMALIES,
        deps=[FEATURES, FORECAST],
        group_name="decision",
        kinds={"scikitlearn", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "anomalies"},
        op_tags=BEFORE_THE_PLAN,
        pool="duckdb",
    )
    def anomalies(
        context: dg.AssetExecutionContext, nodes: NodesResource, warehouse: WarehouseResource
    ) -> dg.MaterializeResult[Any]:
        """Rules, series and an Isolation Forest: what is wrong with nodes, hosts, prices and Orcha itself."""
        from orcha_pipeline.anomalies.detect import detect
        from orcha_pipeline.anomalies.known import Place, read_known

        installation = nodes.installation()
        settings, now = installation.settings, installation.clock.now()
        store = warehouse.warehouse
        places = {node.name: Place(protocol=node.protocol, host=node.host) for node in settings.nodes}
        jumped = clock_jumped(installation)
        with store.read() as connection:
            known = read_known(connection, places, now, clock_jumped=jumped)
        stale_after = timedelta(minutes=settings.prices.stale_after_minutes)
        findings = detect(known, settings.anomalies, stale_after=stale_after)
        found = findings.anomalies
        with store.write() as connection:
            rows = anomaly_rows.record_anomalies(connection, slot_of(now), [asdict(anomaly) for anomaly in found])
            anomaly_rows.record_judged(connection, findings.judged)
        for anomaly in found:
            context.log.warning("%s %s on %s: %s", anomaly.severity, anomaly.rule, anomaly.subject, anomaly.evidence)
        return dg.MaterializeResult(
            metadata={"dagster/row_count": rows, "simulated": installation.simulated, **_told(found)}
        )

    return anomalies


def _told(found: "Sequence[Anomaly]") -> dict[str, Any]:
    """A line an anomaly, the gravest first."""
    if not found:
        return {}
    records = [
        dg.TableRecord(
            {
                "subject": anomaly.subject,
                "scope": anomaly.scope.value,
                "rule": anomaly.rule,
                "severity": anomaly.severity.value,
                "evidence": anomaly.evidence,
                "remedy": anomaly.remedy,
            }
        )
        for anomaly in sorted(found, key=lambda anomaly: -anomaly.severity.rank)
    ]
    return {"found": dg.MetadataValue.table(records)}
