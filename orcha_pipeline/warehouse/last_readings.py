"""What was last recorded of each node."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import duckdb

from orcha_pipeline.model import HealthState, Provenance, Window
from orcha_pipeline.warehouse.facts import aware


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedHour:
    """Net earnings of one full hour, in `unit`; `usd` None where the hour had no price."""

    window: Window
    unit: str
    net: Decimal
    usd: float | None
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class LastReading:
    """A node as it was last recorded, and the last hour whose earnings are known."""

    observed_at: datetime
    state: HealthState
    share: float | None
    hour: RecordedHour | None


def last_readings(connection: duckdb.DuckDBPyConnection) -> dict[str, LastReading]:
    """Node -> its last record; a node that was never read is missing. `share` is that of the same reading."""
    rows = connection.execute(
        "SELECT h.node, h.observed_at, h.state, a.share, e.started_at, e.ended_at, e.unit, e.net, e.net_usd, "
        "  e.provenance "
        "FROM (SELECT * FROM node_health "
        "  QUALIFY row_number() OVER (PARTITION BY node ORDER BY observed_at DESC) = 1) h "
        "LEFT JOIN allocations_observed a ON a.node = h.node AND a.observed_at = h.observed_at "
        "LEFT JOIN (SELECT * FROM earnings_hourly WHERE net IS NOT NULL AND ended_at - started_at = INTERVAL 1 HOUR "
        "  QUALIFY row_number() OVER (PARTITION BY node ORDER BY started_at DESC) = 1) e ON e.node = h.node"
    ).fetchall()
    found: dict[str, LastReading] = {}
    for node, observed, state, share, started, ended, unit, net, usd, provenance in rows:
        hour = None
        if started is not None:
            span = Window(aware(started), aware(ended))
            hour = RecordedHour(window=span, unit=unit, net=net, usd=usd, provenance=Provenance(provenance))
        found[node] = LastReading(observed_at=aware(observed), state=HealthState(state), share=share, hour=hour)
    return found
