"""Writing and reading the raw facts: readings, prices, health, allocations, as they were observed."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Any

import duckdb
import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]

from orcha_pipeline.model import (
    Amounts,
    Balance,
    EarningsBucket,
    EarningsCounter,
    EarningsObservation,
    Node,
    NodeReading,
    PriceReading,
    Provenance,
    UsageReading,
    Window,
    slot_of,
)

Row = Mapping[str, Any]


def naive(moment: datetime | None) -> datetime | None:
    """An aware time as the warehouse keeps it: UTC without zone."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


def aware(moment: datetime) -> datetime:
    """A time from the warehouse, as UTC with its zone."""
    return moment.replace(tzinfo=UTC)


_COLUMN = Context(prec=38)
"""The columns keep 38 digits, 18 of them behind the point: wei, the finest unit any of the protocols knows."""


def _kept(value: Any) -> Any:
    """A value as its column keeps it: times without zone, amounts to the 18th place."""
    if isinstance(value, datetime):
        return naive(value)
    if isinstance(value, Decimal):
        return value.quantize(Decimal("1e-18"), context=_COLUMN)
    return value


def scalar(connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[object] = ()) -> Any:
    """The one value a query gives. All rows are fetched: a half-read result would block the connection."""
    return connection.execute(query, list(parameters)).fetchall()[0][0]


def insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row]) -> int:
    """Append `rows` (column -> value; aware times; None is NULL) to `table`. Returns how many."""
    if not rows:
        return 0
    untyped: Any = connection  # what goes through Arrow has no types
    empty = untyped.sql(f"SELECT * FROM {table} LIMIT 0").to_arrow_table()  # noqa: S608 (our own names)
    cleaned = [{column: _kept(value) for column, value in row.items()} for row in rows]
    arrow: Any = pa
    untyped.register("incoming_rows", arrow.Table.from_pylist(cleaned, schema=empty.schema))
    try:
        connection.execute(f"INSERT INTO {table} SELECT * FROM incoming_rows")  # noqa: S608
    finally:
        connection.unregister("incoming_rows")
    return len(rows)


def _earnings_row(node: str, item: EarningsObservation, slot: datetime) -> Row:
    bucket = isinstance(item, EarningsBucket)
    return {
        "node": node,
        "slot": slot,
        "observed_at": item.observed_at,
        "stream": item.stream,
        "kind": "bucket" if bucket else "counter",
        "started_at": item.window.start if bucket else item.since,
        "ended_at": item.window.end if bucket else None,
        "unit": item.unit,
        "gross": item.amounts.gross,
        "held": item.amounts.held,
        "net": item.amounts.net,
        "doubtful": item.amounts.doubtful,
        "provenance": item.provenance.value,
        "source": item.source,
    }


def _usage_row(subject: str, observed_at: datetime, item: UsageReading, slot: datetime) -> Row:
    return {
        "node": subject,
        "slot": slot,
        "observed_at": observed_at,
        "metric": item.metric,
        "value": item.value,
        "provenance": item.provenance.value,
        "source": item.source,
    }


def _balance_row(node: str, item: Balance, slot: datetime) -> Row:
    return {
        "node": node,
        "slot": slot,
        "observed_at": item.observed_at,
        "kind": item.kind.value,
        "account": item.account,
        "counted_since": item.since,
        "unit": item.unit,
        "amount": item.amount,
        "provenance": item.provenance.value,
        "source": item.source,
        "note": item.note,
        "oldest_at": item.oldest_at,
    }


def _replace(connection: duckdb.DuckDBPyConnection, table: str, subject: str, rows: Sequence[Row]) -> int:
    """Append `rows`; what the table held for the same subjects (a node, a token) and slots goes."""
    if not rows:
        return 0
    connection.execute(f"CREATE OR REPLACE TEMP TABLE incoming AS SELECT * FROM {table} LIMIT 0")  # noqa: S608
    insert(connection, "incoming", rows)
    connection.execute(
        f"DELETE FROM {table} USING (SELECT DISTINCT {subject}, slot FROM incoming) i "  # noqa: S608
        f"WHERE {table}.{subject} = i.{subject} AND {table}.slot = i.slot"
    )
    connection.execute(f"INSERT INTO {table} SELECT * FROM incoming")  # noqa: S608
    connection.execute("DROP TABLE incoming")
    return len(rows)


def record_readings(connection: duckdb.DuckDBPyConnection, readings: Sequence[NodeReading]) -> dict[str, int]:
    """Write node readings; what a node told before in the same slot is replaced. Returns rows written per table."""
    tables = ("earnings", "resource_usage", "node_health", "allocations_observed", "balances")
    rows: dict[str, list[Row]] = {table: [] for table in tables}
    for reading in readings:
        slot = slot_of(reading.observed_at)
        rows["earnings"] += [_earnings_row(reading.node, item, slot) for item in reading.earnings]
        rows["balances"] += [_balance_row(reading.node, balance, slot) for balance in reading.balances]
        rows["resource_usage"] += [_usage_row(reading.node, reading.observed_at, u, slot) for u in reading.usage]
        health = reading.health
        rows["node_health"].append(
            {
                "node": reading.node,
                "slot": slot,
                "observed_at": reading.observed_at,
                "state": health.state.value,
                "reason": health.reason,
                "error_kind": health.error_kind,
                "latency_seconds": health.latency_seconds,
                "version": health.version,
                "scores": json.dumps(dict(health.scores), sort_keys=True),
            }
        )
        if reading.allocation is not None:
            now = reading.allocation
            rows["allocations_observed"].append(
                {
                    "node": reading.node,
                    "slot": slot,
                    "observed_at": reading.observed_at,
                    "lever": now.lever,
                    "value": now.value,
                    "unit": now.unit,
                    "share": now.share,
                    "provenance": now.provenance.value,
                    "source": now.source,
                }
            )
    return {table: _replace(connection, table, "node", found) for table, found in rows.items()}


def record_earnings_history(
    connection: duckdb.DuckDBPyConnection, node: str, observations: Sequence[EarningsObservation]
) -> int:
    """Write what a node remembers of its past. Stretches already on record are replaced, live readings stay."""
    for item in observations:
        if isinstance(item, EarningsBucket):
            connection.execute(
                "DELETE FROM earnings WHERE node = ? AND stream = ? AND kind = 'bucket' AND started_at = ? "
                "AND ended_at = ?",
                [node, item.stream, naive(item.window.start), naive(item.window.end)],
            )
    # A past bucket belongs to the slot it began in, wherever it was read, so that asking again replaces it.
    rows = [
        _earnings_row(node, item, slot_of(item.window.start if isinstance(item, EarningsBucket) else item.observed_at))
        for item in observations
    ]
    return insert(connection, "earnings", rows)


def record_host_usage(
    connection: duckdb.DuckDBPyConnection, host: str, observed_at: datetime, usage: Sequence[UsageReading]
) -> int:
    """Write the machine's own metrics under the subject `host:NAME`."""
    subject, slot = f"host:{host}", slot_of(observed_at)
    rows = [_usage_row(subject, observed_at, item, slot) for item in usage]
    return _replace(connection, "resource_usage", "node", rows)


def _price_row(price: PriceReading) -> Row:
    return {
        "token": price.token,
        "slot": slot_of(price.observed_at),
        "observed_at": price.observed_at,
        "usd": price.usd,
        "priced_at": price.priced_at,
        "provenance": price.provenance.value,
        "source": price.source,
    }


def record_prices(connection: duckdb.DuckDBPyConnection, prices: Sequence[PriceReading]) -> int:
    """Write prices; a token's slot that is on record is replaced."""
    return _replace(connection, "prices", "token", [_price_row(price) for price in prices])


def record_nodes(connection: duckdb.DuckDBPyConnection, nodes: Sequence[Node], seen_at: datetime) -> None:
    """Keep the inventory of nodes the readings belong to."""
    connection.execute("CREATE OR REPLACE TEMP TABLE incoming_nodes AS SELECT * FROM nodes LIMIT 0")
    insert(
        connection,
        "incoming_nodes",
        [
            {
                "node": node.name,
                "protocol": node.protocol,
                "host": node.host,
                "simulated": node.simulated,
                "first_seen_at": seen_at,
            }
            for node in nodes
        ],
    )
    connection.execute(
        "INSERT INTO nodes SELECT * FROM incoming_nodes ON CONFLICT (node) DO UPDATE SET "
        "protocol = excluded.protocol, host = excluded.host, simulated = excluded.simulated"
    )
    connection.execute("DROP TABLE incoming_nodes")


def last_observed(connection: duckdb.DuckDBPyConnection, before_slot: datetime) -> dict[str, datetime]:
    """Up to when each node has told its earnings, by readings of slots before `before_slot`.

    A bucket tells up to its end, which is a little before it was read: what is dated in between comes next. Longer
    buckets are of the past that a node remembers, whenever that was read.
    """
    rows = connection.execute(
        "SELECT node, max(coalesce(ended_at, observed_at)) FROM earnings "
        "WHERE slot < ? AND (ended_at IS NULL OR ended_at < slot + INTERVAL 1 HOUR) GROUP BY node",
        [naive(before_slot)],
    ).fetchall()
    return {node: aware(moment) for node, moment in rows}


def balances_told(connection: duckdb.DuckDBPyConnection, *, since: datetime, before_slot: datetime) -> set[str]:
    """The nodes that told an amount of some balance at `since` or later, by readings of slots before `before_slot`."""
    rows = connection.execute(
        "SELECT DISTINCT node FROM balances WHERE observed_at >= ? AND slot < ? AND amount IS NOT NULL",
        [naive(since), naive(before_slot)],
    ).fetchall()
    return {node for (node,) in rows}


def earnings_observations(
    connection: duckdb.DuckDBPyConnection, window: Window, *, node: str | None = None
) -> dict[str, list[EarningsObservation]]:
    """Node -> what it reported of `window`, in order of time. Of all nodes, or of one.

    Buckets that meet the window; counters read inside it, each with its last reading before, however long ago that
    was: what was earned across the gap between them would be lost otherwise.
    """
    rows = connection.execute(
        "WITH inside AS (SELECT DISTINCT node, stream FROM earnings "
        "  WHERE kind = 'counter' AND observed_at >= $start AND observed_at <= $end), "
        "before AS (SELECT node, stream, max(observed_at) AS observed_at FROM earnings "
        "  WHERE kind = 'counter' AND observed_at < $start GROUP BY node, stream) "
        "SELECT e.node, e.observed_at, stream, kind, started_at, ended_at, unit, gross, held, net, doubtful, "
        "  provenance, source FROM earnings e LEFT JOIN inside i USING (node, stream) "
        "  LEFT JOIN before b USING (node, stream) WHERE e.node = coalesce($node, e.node) AND CASE kind "
        "    WHEN 'bucket' THEN started_at < $end AND ended_at > $start "
        "    ELSE (e.observed_at >= $start AND e.observed_at <= $end) "
        "      OR (i.node IS NOT NULL AND e.observed_at = b.observed_at) END "
        "ORDER BY e.node, e.observed_at",
        {"start": naive(window.start), "end": naive(window.end), "node": node},
    ).fetchall()
    found: dict[str, list[EarningsObservation]] = {}
    for name, observed, stream, kind, start, end, unit, gross, held, net, doubtful, provenance, source in rows:
        amounts = Amounts(gross=gross, held=held, net=net, doubtful=doubtful)
        if kind == "bucket":
            item: EarningsObservation = EarningsBucket(
                stream=stream,
                observed_at=aware(observed),
                window=Window(aware(start), aware(end)),
                unit=unit,
                amounts=amounts,
                provenance=Provenance(provenance),
                source=source,
            )
        else:
            item = EarningsCounter(
                stream=stream,
                observed_at=aware(observed),
                since=None if start is None else aware(start),
                unit=unit,
                amounts=amounts,
                provenance=Provenance(provenance),
                source=source,
            )
        found.setdefault(name, []).append(item)
    return found


def price_samples(connection: duckdb.DuckDBPyConnection, window: Window) -> dict[str, list[tuple[datetime, Decimal]]]:
    """Token -> (observed_at, USD) of usable prices inside `window`, in order of time."""
    rows = connection.execute(
        "SELECT token, observed_at, usd FROM prices WHERE usd IS NOT NULL AND observed_at >= ? AND observed_at <= ? "
        "ORDER BY token, observed_at",
        [naive(window.start), naive(window.end)],
    ).fetchall()
    found: dict[str, list[tuple[datetime, Decimal]]] = {}
    for token, observed, usd in rows:
        found.setdefault(token, []).append((aware(observed), usd))
    return found
