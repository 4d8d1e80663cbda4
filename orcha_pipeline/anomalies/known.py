"""What a cycle knows when it looks for anomalies, read from the warehouse in one go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from orcha_pipeline.model import YIELD_USD, Window
from orcha_pipeline.warehouse import anomaly_inputs, anomaly_rows
from orcha_pipeline.warehouse.anomaly_inputs import LastChange, Standing
from orcha_pipeline.warehouse.anomaly_rows import JudgedHour
from orcha_pipeline.warehouse.decisions import Connection
from orcha_pipeline.warehouse.frames import frame

if TYPE_CHECKING:
    import pandas as pd

HISTORY = timedelta(days=28)
"""How much of the past is looked at."""
PROMISES_READ = timedelta(days=2)
BALANCES_COUNT_FOR = timedelta(days=1)
"""They are read once an hour, and an invoice does not stop ageing because its node is away for some."""
CHANGES_COUNT_FOR = timedelta(days=1)
CYCLES_READ = timedelta(days=7)
"""How often a cycle comes is told by those of a week."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a node is, and what it is of."""

    protocol: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that is looked at, as of `now`; frames may hold any nodes, and times without a zone are UTC.

    The frames have the columns of `features_hourly`, `node_health` and `forecasts`; `usage` those of
    `anomaly_inputs.hourly_usage`, `prices` those of `anomaly_inputs.believed_prices`. `nodes` are those configured.
    """

    now: datetime
    nodes: Mapping[str, Place]
    features: "pd.DataFrame"
    health: "pd.DataFrame"
    forecasts: "pd.DataFrame"
    usage: "pd.DataFrame | None" = None
    prices: "pd.DataFrame | None" = None
    standings: Sequence[Standing] = ()
    changes: Sequence[LastChange] = ()
    decided_at: Sequence[datetime] = field(default_factory=tuple[datetime])
    clock_jumped: str = ""
    judged: Mapping[str, JudgedHour] = field(default_factory=dict[str, JudgedHour])
    """By node, the last hour that the forest has judged: it need not be grown again for the same hour."""


def read_known(connection: Connection, nodes: Mapping[str, Place], now: datetime, *, clock_jumped: str) -> Known:
    """Everything from the warehouse, in as few queries as there are tables."""
    past, hosts = Window(now - HISTORY, now + timedelta(seconds=1)), {place.host for place in nodes.values()}
    forecasts = frame(connection, "forecasts", Window(now - PROMISES_READ, now))
    return Known(
        now=now,
        nodes=nodes,
        features=frame(connection, "features_hourly", past),
        health=frame(connection, "node_health", past),
        forecasts=forecasts[forecasts["target"] == YIELD_USD],
        usage=anomaly_inputs.hourly_usage(connection, past),
        prices=anomaly_inputs.believed_prices(connection, past),
        standings=anomaly_inputs.standings(connection, nodes, since=now - BALANCES_COUNT_FOR, until=past.end),
        changes=anomaly_inputs.last_changes(connection, hosts, since=now - CHANGES_COUNT_FOR),
        decided_at=anomaly_inputs.decided_at(connection, hosts, since=now - CYCLES_READ),
        clock_jumped=clock_jumped,
        judged=anomaly_rows.last_judged(connection, since=now - CHANGES_COUNT_FOR),
    )
