"""What looked wrong, as rows: a row an anomaly and slot, for as long as it stood; and hours that were judged."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from orcha_pipeline.model import HOUR, SLOT, Window, hour_of
from orcha_pipeline.warehouse.decisions import Connection, records
from orcha_pipeline.warehouse.facts import aware, insert, naive


@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyRow:
    """An anomaly of one slot: see `anomalies.anomaly.Anomaly`. `scope` and `severity` are the texts of its enums."""

    slot: datetime
    detected_at: datetime
    rule: str
    scope: str
    subject: str
    node: str | None
    host: str | None
    severity: str
    score: float | None
    evidence: str
    remedy: str
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedHour:
    """What the Isolation Forest said of a node's hour; `evidence` is empty where the hour is ordinary."""

    node: str
    hour: datetime
    score: float
    threshold: float
    evidence: str


def record_anomalies(connection: Connection, slot: datetime, anomalies: Sequence[Mapping[str, Any]]) -> int:
    """Write what was found in a slot (column -> value); what an earlier run found in the same slot is replaced."""
    connection.execute("DELETE FROM anomalies WHERE slot = ?", [naive(slot)])
    return insert(connection, "anomalies", [{**anomaly, "slot": slot} for anomaly in anomalies])


def record_judged(connection: Connection, hours: Sequence[JudgedHour]) -> None:
    """Keep what was said of these hours; what was said of one before is replaced."""
    for each in hours:
        connection.execute("DELETE FROM judged_hours WHERE node = ? AND hour = ?", [each.node, naive(each.hour)])
    insert(connection, "judged_hours", [asdict(each) for each in hours])


def last_judged(connection: Connection, *, since: datetime) -> dict[str, JudgedHour]:
    """Node -> its last hour from `since` on that was judged."""
    rows = records(
        connection,
        "SELECT * FROM judged_hours WHERE hour >= ? "
        "QUALIFY row_number() OVER (PARTITION BY node ORDER BY hour DESC) = 1",
        [naive(since)],
    )
    return {row["node"]: JudgedHour(**row) for row in rows}


def standing(connection: Connection, slot: datetime) -> list[AnomalyRow]:
    """What was found in a slot, by rule and subject."""
    rows = records(connection, "SELECT * FROM anomalies WHERE slot = ? ORDER BY rule, subject", [naive(slot)])
    return [AnomalyRow(**row) for row in rows]


def of_nodes(connection: Connection, rules: Collection[str], *, since: datetime, until: datetime) -> list[AnomalyRow]:
    """What these rules told of nodes in the slots of [since, until], the latest of each node and rule; by node."""
    rows = records(
        connection,
        "SELECT * FROM anomalies WHERE node IS NOT NULL AND list_contains(?, rule) AND slot >= ? AND slot <= ? "
        "QUALIFY row_number() OVER (PARTITION BY node, rule ORDER BY slot DESC) = 1 ORDER BY node, rule",
        [sorted(rules), naive(since), naive(until)],
    )
    return [AnomalyRow(**row) for row in rows]


def masked_hours(
    connection: Connection, rules: Collection[str], window: Window, *, at_most: timedelta
) -> dict[str, set[datetime]]:
    """Node -> the full hours inside `window` that something of `rules` was told about.

    Of a stretch of such hours without a gap the first `at_most`: what lasts longer is how the node is by now.
    """
    rows = connection.execute(
        "SELECT node, hour FROM ("
        "  SELECT DISTINCT node, unnest(generate_series(date_trunc('hour', coalesce(since, slot)), "
        "    date_trunc('hour', slot), INTERVAL 1 HOUR)) AS hour FROM anomalies "
        "  WHERE node IS NOT NULL AND list_contains($rules, rule) AND slot >= $from AND slot < $until"
        ") ORDER BY node, hour",
        {
            "rules": sorted(rules),
            # A stretch that began before the window is cut off by what it has lasted then.
            "from": naive(window.start - at_most),
            "until": naive(window.end + SLOT),
        },
    ).fetchall()
    found: dict[str, set[datetime]] = {}
    node, began, last = "", datetime.min, datetime.min  # noqa: DTZ901 (as the rows are: UTC without a zone)
    start, end = naive(hour_of(window.start)) or began, naive(window.end) or began
    for name, hour in rows:
        if name != node or hour - last > HOUR:
            began = hour
        node, last = name, hour
        if hour - began < at_most and start <= hour < end:
            found.setdefault(node, set()).add(aware(hour))
    return found
