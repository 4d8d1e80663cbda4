"""What the operator lets Orcha do: approvals of single decisions, and pauses of all changes."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime

from orcha_pipeline.model import Mode, Verdict
from orcha_pipeline.warehouse.decisions import Connection, DecisionRow, decisions_where, records
from orcha_pipeline.warehouse.facts import insert, naive, scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRow:
    """That an operator lets a decision be carried out."""

    decision_id: str
    approved_at: datetime
    approved_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRow:
    """That all changes were stopped; they are until `resumed_at` is known."""

    paused_at: datetime
    paused_by: str
    reason: str
    resumed_at: datetime | None = None
    resumed_by: str | None = None

    def told(self) -> str:
        """In words, for every screen."""
        why = f": {self.reason}" if self.reason else ""
        return f"Changes are paused since {self.paused_at:%Y-%m-%d %H:%M} UTC by {self.paused_by}{why}"


def awaiting(connection: Connection, now: datetime) -> dict[str, DecisionRow]:
    """Host -> the decision that waits for approval, or has it and is about to be carried out."""
    rows = decisions_where(
        connection,
        "WHERE mode = ? AND verdict = ? AND decided_at <= ? AND expires_at > ? "
        "AND decision_id NOT IN (SELECT decision_id FROM applications) ORDER BY decided_at",
        [Mode.CONFIRM.value, Verdict.REALLOCATE.value, naive(now), naive(now)],
    )
    return {row.host: row for row in rows}


def unanswered(connection: Connection, *, since: datetime, now: datetime) -> dict[str, datetime]:
    """Node -> when the last request to change it expired, at `since` or later, with no answer."""
    rows = records(
        connection,
        "SELECT l.node, max(d.expires_at) AS expired FROM decisions d JOIN decision_allocations l USING (decision_id) "
        "WHERE d.mode = ? AND d.verdict = ? AND d.expires_at >= ? AND d.expires_at <= ? "
        "AND l.value_now <> l.value_planned AND d.decision_id NOT IN (SELECT decision_id FROM approvals) "
        "GROUP BY l.node",
        [Mode.CONFIRM.value, Verdict.REALLOCATE.value, naive(since), naive(now)],
    )
    return {row["node"]: row["expired"] for row in rows}


def approve(connection: Connection, approval: ApprovalRow) -> None:
    """Let a decision be carried out; a second approval changes nothing."""
    if not scalar(connection, "SELECT count(*) FROM approvals WHERE decision_id = ?", [approval.decision_id]):
        insert(connection, "approvals", [asdict(approval)])


def approvals_of(connection: Connection, ids: Collection[str]) -> dict[str, ApprovalRow]:
    """Decision -> its approval, of these decisions, where there is one."""
    rows = records(connection, "SELECT * FROM approvals WHERE decision_id IN (SELECT unnest(?))", [list(ids)])
    return {row["decision_id"]: ApprovalRow(**row) for row in rows}


def approved(connection: Connection, now: datetime) -> list[str]:
    """Ids of the approved decisions that wait to be carried out, by the time of their approval."""
    rows = records(
        connection,
        "SELECT decision_id FROM approvals JOIN decisions USING (decision_id) WHERE expires_at > ? "
        "AND decision_id NOT IN (SELECT decision_id FROM applications) ORDER BY approved_at",
        [naive(now)],
    )
    return [row["decision_id"] for row in rows]


def pause_in_force(connection: Connection) -> PauseRow | None:
    """The pause that holds now."""
    rows = records(connection, "SELECT * FROM pauses WHERE resumed_at IS NULL ORDER BY paused_at DESC LIMIT 1")
    return PauseRow(**rows[0]) if rows else None


def pause(connection: Connection, pause: PauseRow) -> PauseRow:
    """Stop all changes; the pause that holds already where there is one."""
    if (held := pause_in_force(connection)) is not None:
        return held
    insert(connection, "pauses", [asdict(pause)])
    return pause


def resume(connection: Connection, *, at: datetime, by: str) -> PauseRow | None:
    """End the pause that holds; None where there is none."""
    held = pause_in_force(connection)
    if held is not None:
        connection.execute("UPDATE pauses SET resumed_at = ?, resumed_by = ? WHERE resumed_at IS NULL", [naive(at), by])
    return held
