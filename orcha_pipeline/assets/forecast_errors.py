"""How the forecasts that were issued came true, and what follows where a model has drifted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from orcha_pipeline.assets.earnings import FEATURES
from orcha_pipeline.assets.forecast import FORECAST
from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.forecasting import live_errors
from orcha_pipeline.forecasting.live_errors import DAY, NAIVE_REACH, DriftState, DriftVerdict
from orcha_pipeline.model import hour_of
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.warehouse import alert_rows, decisions, forecast_rows
from orcha_pipeline.warehouse.forecast_rows import ForecastErrorRow

FORECAST_ERRORS = dg.AssetKey(["forecast_errors"])
FORECAST_DRIFT = "forecast_drift"
"""Kind of the alert; its subject is the protocol."""
SCORED_FOR = timedelta(hours=72)
"""How long after its issue a forecast is scored: its 24 hours, and the 48 in which features are computed anew."""
TREND_DAYS = 7


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of looking at one protocol."""

    protocol: str
    verdict: DriftVerdict
    trend: list[float | None]
    alerted: bool
    resolved: bool
    requested: bool


def build_forecast_errors() -> dg.AssetsDefinition:
    """The asset that scores issued forecasts."""

    @dg.asset(
        key=FORECAST_ERRORS,
        deps=[FEATURES, FORECAST],
        group_name="models",
        kinds={"python", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "forecast_errors"},
        pool="duckdb",
    )
    def forecast_errors(
        context: dg.AssetExecutionContext, nodes: NodesResource, warehouse: WarehouseResource
    ) -> dg.MaterializeResult[Any]:
        """Error of each issued forecast in the hours known by now; drift raises an alert and asks for a retraining."""
        installation = nodes.installation()
        now = installation.clock.now()
        store = warehouse.warehouse
        with store.read() as connection:
            issued = forecast_rows.to_score(connection, since=now - SCORED_FOR)
            known = forecast_rows.known_hours(connection, since=hour_of(now) - SCORED_FOR - NAIVE_REACH)
        scored = [
            error
            for forecast in issued
            if (error := live_errors.score(forecast, known[forecast.node, forecast.target], scored_at=now))
        ]
        with store.write() as connection:
            rows = forecast_rows.record_forecast_errors(connection, scored)
            judged = _judge(connection, installation.node_protocols(), now)
        for item in judged:
            if item.alerted:
                context.log.warning("%s has drifted: %s", item.protocol, item.verdict.reason)
            if item.requested:
                context.log.info("A retraining of %s is requested.", item.protocol)
            if item.resolved:
                context.log.info("%s has drifted no longer: %s", item.protocol, item.verdict.reason)
        return dg.MaterializeResult(
            metadata={"dagster/row_count": rows, **_told(judged), "simulated": installation.simulated}
        )

    return forecast_errors


def _judge(connection: forecast_rows.Connection, by_node: Mapping[str, str], now: datetime) -> list[Judged]:
    """Judge the champion of every protocol and write what follows."""
    champions = decisions.champions(connection)
    found: list[Judged] = []
    for protocol in sorted(set(by_node.values()) & set(champions)):
        champion = champions[protocol]
        errors = forecast_rows.forecast_errors(
            connection,
            since=now - TREND_DAYS * DAY,
            nodes=[node for node, name in by_node.items() if name == protocol],
        )
        verdict = live_errors.drift(
            errors, version=champion.version, band=live_errors.backtest_band(champion.metrics), now=now
        )
        found.append(_follow_up(connection, protocol, verdict, errors, now))
    return found


def _follow_up(
    connection: forecast_rows.Connection,
    protocol: str,
    verdict: DriftVerdict,
    errors: list[ForecastErrorRow],
    now: datetime,
) -> Judged:
    """Write the alert and the request of a drift, or resolve the alert when the drift has ended.

    Where too little is known to tell, an open alert stays as it is.
    """
    alert = request = None
    resolved = False
    if verdict.state is DriftState.DRIFTED:
        alert = alert_rows.raise_alert(
            connection,
            at=now,
            kind=FORECAST_DRIFT,
            severity="warning",
            scope="protocol",
            subject=protocol,
            message=f"Forecasts of {protocol} have drifted: {verdict.reason}.",
            evidence=verdict.evidence(),
        )
        request = forecast_rows.request_retraining(connection, protocol=protocol, at=now, reason=verdict.reason)
    elif verdict.state is DriftState.STEADY:
        resolved = alert_rows.resolve_alert(
            connection, kind=FORECAST_DRIFT, subject=protocol, at=now, why="the forecasts are as good as promised again"
        )
    return Judged(
        protocol=protocol,
        verdict=verdict,
        trend=live_errors.daily_wapes(errors, now=now, days=TREND_DAYS),
        alerted=alert is not None,
        resolved=resolved,
        requested=request is not None,
    )


def _told(judged: list[Judged]) -> dict[str, Any]:
    """A table with a line a protocol, and each live WAPE by itself, of which Dagster draws the course."""
    if not judged:
        return {}
    records = [
        dg.TableRecord(
            {
                "protocol": item.protocol,
                "version": item.verdict.version,
                "state": item.verdict.state.value,
                "live WAPE": _shown(item.verdict.pooled.wape),
                "seasonal naive WAPE": _shown(item.verdict.pooled.naive_wape),
                "coverage of p10..p90": _shown(item.verdict.pooled.coverage),
                "issue hours": item.verdict.pooled.issue_hours,
                f"WAPE of the last {TREND_DAYS} days": ", ".join(_shown(wape) for wape in item.trend),
                "reason": item.verdict.reason,
            }
        )
        for item in judged
    ]
    wapes = {f"{item.protocol} live WAPE": wape for item in judged if (wape := item.verdict.pooled.wape) is not None}
    return {"live errors": dg.MetadataValue.table(records), **wapes}


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
