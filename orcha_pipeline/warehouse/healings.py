"""Restarts of nodes that did not answer, as rows. They are kept for good."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum

from orcha_pipeline.model import HealthState, Mode
from orcha_pipeline.warehouse.decisions import Connection, records
from orcha_pipeline.warehouse.facts import insert, naive


class HealingStatus(StrEnum):
    """How a restart stands. What is `intended` may have been done or not: it counts as done."""

    INTENDED = "intended"
    HEALED = "healed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealingRow:
    """One restart of a node, on record before it is done.

    `restarts_before` of the node lay in the 30 days before it, of `restarts_per_month` that it might have. After
    `answers_by` it has failed. `ended_at` is None and `reason` empty while nothing is known of how it ended.
    """

    healing_id: str
    node: str
    host: str
    alert_id: str
    mode: Mode
    away_since: datetime
    restarts_before: int
    restarts_per_month: int
    started_at: datetime
    answers_by: datetime
    dagster_run_id: str
    ended_at: datetime | None = None
    status: HealingStatus = HealingStatus.INTENDED
    reason: str = ""


def _healings(connection: Connection, where: str, parameters: Collection[object] = ()) -> list[HealingRow]:
    rows = records(
        connection,
        f"SELECT * FROM healings WHERE {where} ORDER BY started_at, healing_id",  # noqa: S608 (our own text)
        list(parameters),
    )
    for row in rows:
        row["mode"], row["status"] = Mode(row["mode"]), HealingStatus(row["status"])
    return [HealingRow(**row) for row in rows]


def begin(connection: Connection, healing: HealingRow) -> None:
    """Write that a node is about to be restarted."""
    insert(connection, "healings", [asdict(healing)])


def end(connection: Connection, healing_id: str, *, status: HealingStatus, reason: str, at: datetime) -> None:
    """Write what came of it."""
    connection.execute(
        "UPDATE healings SET status = ?, reason = ?, ended_at = ? WHERE healing_id = ?",
        [status.value, reason, naive(at), healing_id],
    )


def without_end(connection: Connection) -> list[HealingRow]:
    """Those of which nobody has written what came of them, by time."""
    return _healings(connection, "ended_at IS NULL")


def healings_since(connection: Connection, since: datetime) -> list[HealingRow]:
    """Those begun at `since` or later, by time."""
    return _healings(connection, "started_at >= ?", [naive(since)])


def restarts_since(connection: Connection, since: datetime) -> dict[str, int]:
    """Node -> how often it was restarted since then. One that failed counts: it may have been done."""
    rows = records(
        connection,
        "SELECT node, count(*) AS restarts FROM healings WHERE started_at >= ? GROUP BY node",
        [naive(since)],
    )
    return {row["node"]: row["restarts"] for row in rows}


def last_restarts(connection: Connection) -> dict[str, datetime]:
    """Node -> when it was last restarted."""
    rows = records(connection, "SELECT node, max(started_at) AS at FROM healings GROUP BY node")
    return {row["node"]: row["at"] for row in rows}


def health_since(
    connection: Connection, nodes: Collection[str], since: datetime
) -> dict[str, list[tuple[datetime, HealthState]]]:
    """Node -> when it was read at `since` or later and how it was then, by time; of these nodes."""
    rows = records(
        connection,
        "SELECT node, observed_at, state FROM node_health WHERE list_contains(?, node) AND observed_at >= ? "
        "ORDER BY observed_at",
        [sorted(nodes), naive(since)],
    )
    found: dict[str, list[tuple[datetime, HealthState]]] = {node: [] for node in nodes}
    for row in rows:
        found[row["node"]].append((row["observed_at"], HealthState(row["state"])))
    return found
