"""What anomalies are looked for in, beside tables that are read as they are: use by the hour, and what was last."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd

from orcha_pipeline.model import ApplicationStatus, BalanceKind, Window
from orcha_pipeline.warehouse.decisions import Connection, records
from orcha_pipeline.warehouse.facts import naive

ASKED_WITHIN = timedelta(minutes=35)
"""Two cycles and a bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Money of a node that stands somewhere, as last read; `oldest_at` None where nothing tells."""

    node: str
    kind: BalanceKind
    account: str
    amount: float
    unit: str
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastChange:
    """How the last change of a host went that was not dropped, and has ended."""

    host: str
    status: ApplicationStatus
    reason: str
    ended_at: datetime


def hourly_usage(connection: Connection, window: Window) -> pd.DataFrame:
    """Use of resources by node (or `host:NAME`), metric and UTC hour.

    `mean` and `last` of the hour's known readings, and `read_at`, when the last was made.
    """
    found = connection.execute(
        "SELECT node, metric, date_trunc('hour', observed_at)::TIMESTAMP AS hour, avg(value) AS mean, "
        "  arg_max(value, observed_at) AS last, max(observed_at) AS read_at "
        "FROM resource_usage WHERE value IS NOT NULL AND observed_at >= ? AND observed_at < ? "
        "GROUP BY ALL ORDER BY node, metric, hour",
        [naive(window.start), naive(window.end)],
    ).df()
    for column in ("hour", "read_at"):
        times: pd.Series[pd.Timestamp] = found[column]
        found[column] = times.dt.tz_localize("UTC")
    return found


def believed_prices(connection: Connection, window: Window) -> pd.DataFrame:
    """Believed prices, by token and time: `token`, `observed_at`, `usd`, and `priced_at`, the source's own time.

    Of tokens that were asked for in the last `ASKED_WITHIN`, whether a price came or not. Where a token has none in the
    window, its last one before: how old that is must be told for as long as no other comes.
    """
    found = connection.execute(
        "SELECT token, observed_at, usd::DOUBLE AS usd, coalesce(priced_at, observed_at) AS priced_at FROM prices "
        "WHERE usd IS NOT NULL AND observed_at < $end "
        "AND (observed_at >= $start OR (token, observed_at) IN ("
        "  SELECT token, max(observed_at) FROM prices WHERE usd IS NOT NULL AND observed_at < $end GROUP BY token)) "
        "AND token IN (SELECT token FROM prices WHERE observed_at >= $asked AND observed_at < $end) "
        "ORDER BY token, observed_at",
        {"start": naive(window.start), "end": naive(window.end), "asked": naive(window.end - ASKED_WITHIN)},
    ).df()
    for column in ("observed_at", "priced_at"):
        times: pd.Series[pd.Timestamp] = found[column]
        found[column] = times.dt.tz_localize("UTC")
    return found


def standings(connection: Connection, nodes: Collection[str], *, since: datetime, until: datetime) -> list[Standing]:
    """Where the money of these nodes stands, as last read in [since, until]; what is unknown is left out."""
    rows = records(
        connection,
        "SELECT node, kind, account, amount, unit, oldest_at FROM balances "
        "WHERE list_contains(?, node) AND observed_at >= ? AND observed_at <= ? "
        "QUALIFY row_number() OVER (PARTITION BY node, kind, account ORDER BY observed_at DESC) = 1 "
        "ORDER BY node, kind, account",
        [sorted(nodes), naive(since), naive(until)],
    )
    return [
        Standing(
            node=row["node"],
            kind=BalanceKind(row["kind"]),
            account=row["account"],
            amount=float(row["amount"]),
            unit=row["unit"],
            oldest_at=row["oldest_at"],
        )
        for row in rows
        if row["amount"] is not None
    ]


def last_changes(connection: Connection, hosts: Collection[str], *, since: datetime) -> list[LastChange]:
    """How the last change of each of these hosts went, of those begun at `since` or later."""
    rows = records(
        connection,
        "SELECT d.host, a.status, a.reason, a.ended_at FROM applications a JOIN decisions d USING (decision_id) "
        "WHERE list_contains(?, d.host) AND a.started_at >= ? AND a.ended_at IS NOT NULL AND a.status <> 'dropped' "
        "QUALIFY row_number() OVER (PARTITION BY d.host ORDER BY a.started_at DESC) = 1 ORDER BY d.host",
        [sorted(hosts), naive(since)],
    )
    for row in rows:
        row["status"] = ApplicationStatus(row["status"])
    return [LastChange(**row) for row in rows]


def decided_at(connection: Connection, hosts: Collection[str], *, since: datetime) -> list[datetime]:
    """When any of these hosts was decided on, at `since` or later, by time."""
    rows = records(
        connection,
        "SELECT DISTINCT decided_at FROM decisions WHERE list_contains(?, host) AND decided_at >= ? "
        "ORDER BY decided_at",
        [sorted(hosts), naive(since)],
    )
    return [row["decided_at"] for row in rows]
