"""Fewer rows of what was read long ago: no row is made up, and what is computed from the rows comes out the same.

Of an hour in which nothing changed the first and the last reading of a node stay: a counter's differences are told by
them alone, and so is an average of what is equal. Buckets between the two become one of their length and sum, which is
of their provenance, for only those of one provenance are added. An hour in which something changed (a stream, a
provenance, a state, a share; something became unknown) stays whole. Of what is only looked up (prices, balances, use
of resources, forecasts) the last known row of an hour stays.

A day of a table is one short transaction that also moves its mark in `rollups`: it is done once and whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb

from orcha_pipeline.earnings import MAX_GAP
from orcha_pipeline.model import SLOT, STAND_IN
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.facts import aware, naive, scalar

DAY = timedelta(days=1)
NEAR = MAX_GAP - 2 * SLOT
"""Slots so far apart are of readings that are less than a gap apart, wherever in their slots they lie."""
Connection = duckdb.DuckDBPyConnection
Reduce = Callable[[Connection, datetime], int]
"""Reduces a day of a table inside the transaction of the connection; gives the rows fewer."""


def day_of(moment: datetime) -> datetime:
    """The midnight that `moment` (UTC) follows."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _quiet_hours(connection: Connection, table: str, *, told: str, only: str, day: datetime) -> None:
    """Make the table `quiet`: the hours of a day that `table` can be reduced in, with their first and last slot.

    All readings of such an hour tell alike (`told`, an SQL aggregate), and so does the reading that follows, which is
    near: whoever asks how a stream ended, or what the hour before was like, finds the rows it found before.
    """
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE quiet AS
        WITH readings AS (
            SELECT node, slot, date_trunc('hour', slot) AS hour, {told} AS told
            FROM {table} WHERE slot >= $day AND slot < $day + INTERVAL 1 DAY + $near AND {only}
            GROUP BY node, slot
        ),
        chained AS (
            SELECT *, lead(slot) OVER w AS next_slot, lead(told) OVER w AS next_told
            FROM readings WINDOW w AS (PARTITION BY node ORDER BY slot)
        )
        SELECT node, hour, min(slot) AS first_slot, max(slot) AS last_slot FROM chained
        WHERE hour < $day + INTERVAL 1 DAY
        GROUP BY node, hour
        HAVING count(*) > 2 AND bool_and(coalesce(next_told = told AND next_slot <= slot + $near, false))
        """,  # noqa: S608 (our own names)
        {"day": naive(day), "near": NEAR},
    )


_UNKNOWN = "concat(gross IS NULL, held IS NULL, net IS NULL, doubtful IS NULL)"
_EARNINGS = (
    "string_agg(concat_ws('|', stream, kind, unit, provenance, source, "
    f"CASE kind WHEN 'counter' THEN started_at END, {_UNKNOWN}), chr(10) ORDER BY stream, kind, started_at)"
)
_AS_READ = "observed_at < slot + INTERVAL 30 MINUTE"
"""What a node remembered of its past was asked for later: it is no reading of that time, and stays."""


def _earnings(connection: Connection, day: datetime) -> int:
    """Reduce `earnings`: counters to two readings an hour, the buckets between to one. Returns rows fewer."""
    _quiet_hours(connection, "earnings", told=_EARNINGS, only=_AS_READ, day=day)
    # A stand-in is counted piece by piece, and only in the gaps of another stream: its hours stay whole.
    connection.execute(
        "DELETE FROM quiet USING earnings e WHERE e.node = quiet.node AND e.slot >= quiet.first_slot "  # noqa: S608
        f"AND e.slot <= quiet.last_slot AND ends_with(e.stream, '{STAND_IN}')"
    )
    # A bucket that reaches over the full hour is cut there as if earned evenly: it must keep its own length.
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE joined AS
        WITH inside AS (
            SELECT e.*, e.rowid AS row, q.hour, lag(e.ended_at) OVER (
                PARTITION BY e.node, e.stream, q.hour ORDER BY e.started_at, e.ended_at) AS before
            FROM earnings e JOIN quiet q ON e.node = q.node
                AND e.slot > q.first_slot AND e.slot <= q.last_slot
            WHERE {_AS_READ} AND kind = 'bucket' AND started_at >= q.hour AND ended_at <= q.hour + INTERVAL 1 HOUR
        )
        SELECT list(row) AS parts, node, max(slot) AS slot, max(observed_at) AS observed_at, stream, kind,
            min(started_at) AS started_at, max(ended_at) AS ended_at, unit, sum(gross) AS gross, sum(held) AS held,
            sum(net) AS net, sum(doubtful) AS doubtful, provenance, source
        FROM inside GROUP BY node, stream, kind, unit, provenance, source, hour
        HAVING count(*) > 1 AND bool_and(before IS NULL OR before = started_at)
        """  # noqa: S608
    )
    parts = scalar(connection, "DELETE FROM earnings WHERE rowid IN (SELECT unnest(parts) FROM joined)")
    sums = scalar(connection, "INSERT INTO earnings SELECT * EXCLUDE (parts) FROM joined")
    between = scalar(
        connection,
        "DELETE FROM earnings USING quiet q WHERE earnings.node = q.node AND earnings.kind = 'counter' "
        "AND earnings.slot > q.first_slot AND earnings.slot < q.last_slot",
    )
    connection.execute("DROP TABLE joined")
    connection.execute("DROP TABLE quiet")
    return int(parts) + int(between) - int(sums)


def _keep_two(table: str, told: str) -> Reduce:
    """Keep the first and the last reading of an hour in which nothing of `told` (an SQL aggregate) changed."""

    def reduce(connection: Connection, day: datetime) -> int:
        _quiet_hours(connection, table, told=told, only="true", day=day)
        dropped = scalar(
            connection,
            f"DELETE FROM {table} USING quiet q WHERE {table}.node = q.node "  # noqa: S608 (our own names)
            f"AND {table}.slot > q.first_slot AND {table}.slot < q.last_slot",
        )
        connection.execute("DROP TABLE quiet")
        return int(dropped)

    return reduce


def _keep_last(table: str, *subject: str, value: str, time: str = "observed_at") -> Reduce:
    """Keep the last row of an hour with a `value`, or the last where none has one, of each `subject`.

    The full hour itself belongs to the hour that ends there, as the price at an hour's end does.
    """

    def reduce(connection: Connection, day: datetime) -> int:
        dropped = scalar(
            connection,
            f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM (SELECT rowid, rank() OVER ("  # noqa: S608
            f"  PARTITION BY {', '.join(subject)}, date_trunc('hour', {time} - INTERVAL 1 MICROSECOND)"
            f"  ORDER BY {value} IS NULL, {time} DESC) AS place FROM {table} WHERE {time} > ? AND {time} <= ?"
            ") WHERE place > 1)",
            [naive(day), naive(day + DAY)],
        )
        return int(dropped)

    return reduce


@dataclass(frozen=True, slots=True)
class _Rolled:
    """How a table is reduced: the column that tells the day of a row, and the reduction of one day."""

    time: str
    reduce: Reduce


_HEALTH = "string_agg(concat_ws('|', state, reason, error_kind, version), chr(10))"
_ALLOCATION = (
    "string_agg(concat_ws('|', lever, unit, provenance, source, value IS NULL, value, share IS NULL, share), chr(10) "
    "ORDER BY lever)"
)
_TABLES: Mapping[str, _Rolled] = {
    "earnings": _Rolled("slot", _earnings),
    "node_health": _Rolled("slot", _keep_two("node_health", _HEALTH)),
    "allocations_observed": _Rolled("slot", _keep_two("allocations_observed", _ALLOCATION)),
    "prices": _Rolled("observed_at", _keep_last("prices", "token", value="usd")),
    "balances": _Rolled("observed_at", _keep_last("balances", "node", "kind", "account", value="amount")),
    "resource_usage": _Rolled("observed_at", _keep_last("resource_usage", "node", "metric", value="value")),
    "forecasts": _Rolled("issued_at", _keep_last("forecasts", "node", "target", value="p50", time="issued_at")),
}


def roll_up(warehouse: Warehouse, *, until: datetime) -> dict[str, int]:
    """Reduce the rows of full days before `until`. Returns the rows fewer of each table.

    What an earlier call reduced is not looked at again.
    """
    fewer = dict.fromkeys(_TABLES, 0)
    end = day_of(until)
    for table, rolled in _TABLES.items():
        with warehouse.read() as connection:
            day = _next_day(connection, table, rolled.time)
        while day is not None and day < end:
            with warehouse.write() as connection:
                fewer[table] += rolled.reduce(connection, day)
                connection.execute("INSERT OR REPLACE INTO rollups VALUES (?, ?)", [table, naive(day + DAY)])
                day = _next_day(connection, table, rolled.time)
    return fewer


def _next_day(connection: Connection, table: str, time: str) -> datetime | None:
    """The first day with rows that is not reduced yet; None where there is none."""
    oldest = scalar(
        connection,
        f"SELECT min({time}) FROM {table} WHERE {time} >= "  # noqa: S608 (our own names)
        "coalesce((SELECT rolled_up_until FROM rollups WHERE fact = ?), TIMESTAMP '0001-01-01')",
        [table],
    )
    return None if oldest is None else day_of(aware(oldest))
