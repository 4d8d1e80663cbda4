"""Rows that are too old to be of use any more. Decisions, what came of them and hourly earnings are kept for good."""

from datetime import datetime

from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.facts import aware, naive, scalar
from orcha_pipeline.warehouse.rollup import DAY, day_of

OLD_FACTS = {
    "earnings": "node",
    "resource_usage": "node",
    "node_health": "node",
    "allocations_observed": "node",
    "balances": "node",
    "prices": "token",
}
"""Table -> of whom the last slot stays: how long ago that was, nobody could tell otherwise."""
KNOWN = {"prices": "usd"}
"""Table -> of what the last known one stays as well, though readings without it have followed."""
OLD_DERIVED = {
    "forecasts": "issued_at",
    "forecast_errors": "issued_at",
    "rates_quarterly": "started_at",
    "features_hourly": "hour",
    "anomalies": "slot",
    "judged_hours": "hour",
    "alert_messages": "queued_at",
}
"""Table -> the column that tells how old a row is."""
PLANS = {"plans": "planned_at"}
"""Large, and of no use once the decision is taken: they go with the raw readings."""


def delete_old(warehouse: Warehouse, *, plans_before: datetime, before: datetime) -> dict[str, int]:
    """Delete the rows of full days before these times, a day of a table at a time. Returns rows deleted by table."""
    deleted = {table: _delete(warehouse, table, column, plans_before) for table, column in PLANS.items()}
    deleted |= {table: _delete(warehouse, table, column, before) for table, column in OLD_DERIVED.items()}
    for table, subject in OLD_FACTS.items():
        last = f"({subject}, slot) NOT IN (SELECT {subject}, max(slot) FROM {table} GROUP BY {subject})"  # noqa: S608
        if value := KNOWN.get(table):
            known = f"SELECT {subject}, max(slot) FROM {table} WHERE {value} IS NOT NULL GROUP BY {subject}"  # noqa: S608
            last += f" AND ({subject}, slot) NOT IN ({known})"
        deleted[table] = _delete(warehouse, table, "slot", before, but=last)
    return deleted


def _delete(warehouse: Warehouse, table: str, column: str, before: datetime, *, but: str = "true") -> int:
    with warehouse.read() as connection:
        days = connection.execute(
            f"SELECT DISTINCT date_trunc('day', {column})::TIMESTAMP AS day FROM {table} "  # noqa: S608 (our own names)
            f"WHERE {column} < ? ORDER BY day",
            [naive(day_of(before))],
        ).fetchall()
    deleted = 0
    for (day,) in days:
        with warehouse.write() as connection:
            query = f"DELETE FROM {table} WHERE {column} >= ? AND {column} < ? AND {but}"  # noqa: S608
            deleted += int(scalar(connection, query, [day, naive(aware(day) + DAY)]))
    return deleted
