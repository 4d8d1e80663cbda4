"""What a plan is made from: the quarter-hours of a host's nodes as arrays, and what networks keep back of theirs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import duckdb
import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.model import SLOT, slot_of
from orcha_pipeline.warehouse.decisions import Unmeasured
from orcha_pipeline.warehouse.facts import naive


@dataclass(frozen=True, slots=True)
class Quarters:
    """T quarter-hours of N nodes from `start` on: USD an hour earned, and at which share, (T, N); NaN where unknown."""

    start: datetime
    rates: NDArray[np.float64]
    shares: NDArray[np.float64]


def quarters(
    connection: duckdb.DuckDBPyConnection, nodes: Sequence[str], *, start: datetime, end: datetime
) -> Quarters:
    """The quarter-hours in [start, end) of these nodes, in their order, without a gap in time."""
    first = slot_of(start)
    count = (slot_of(end) - first) // SLOT
    fetched: Any = connection.execute(
        "SELECT node, started_at, usd_per_hour, share FROM rates_quarterly "
        "WHERE started_at >= ? AND started_at < ? AND list_contains(?, node)",
        [naive(first), naive(slot_of(end)), list(nodes)],
    ).fetchnumpy()
    found = cast("Mapping[str, NDArray[Any]]", fetched)
    places = {node: place for place, node in enumerate(nodes)}
    column = np.array([places[node] for node in found["node"].tolist()], dtype=np.int64)
    since = found["started_at"].astype("datetime64[s]") - np.datetime64(naive(first), "s")
    row = (since // np.timedelta64(SLOT)).astype(np.int64)
    rates, shares = np.full((count, len(nodes)), np.nan), np.full((count, len(nodes)), np.nan)
    for grid, name in ((rates, "usd_per_hour"), (shares, "share")):
        grid[row, column] = np.ma.filled(np.ma.asarray(found[name], dtype=np.float64), np.nan)
    return Quarters(first, rates, shares)


def quarters_in_force(connection: duckdb.DuckDBPyConnection, due: Unmeasured) -> Quarters:
    """Those of a decision's nodes, in its order, while it was in force."""
    nodes = [line.node for line in due.decision.allocations]
    return quarters(connection, nodes, start=due.applied_at, end=due.until)


def held_usd(connection: duckdb.DuckDBPyConnection, *, since: datetime) -> dict[str, float]:
    """Node -> USD that its network keeps back, as last read at `since` or later; of those told in USD."""
    rows = connection.execute(
        "SELECT node, sum(amount) FROM ("
        "  SELECT node, account, arg_max(amount, observed_at) AS amount FROM balances "
        "  WHERE kind = 'held' AND unit = 'USD' AND amount IS NOT NULL AND observed_at >= ? GROUP BY node, account"
        ") GROUP BY node",
        [naive(since)],
    ).fetchall()
    return {node: float(amount) for node, amount in rows}
