"""Changes that lost more than they might, as rows, and the changes in force that may be among them."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime

from orcha_pipeline.model import HOUR
from orcha_pipeline.warehouse.decisions import Connection, DecisionRow, Unmeasured, decisions_where, records
from orcha_pipeline.warehouse.facts import insert, naive


@dataclass(frozen=True, slots=True, kw_only=True)
class ReversalRow:
    """A change that in its `hours` in force lost `lost_usd` against the old shares, of `bound_usd` that it might."""

    decision_id: str
    host: str
    noticed_at: datetime
    hours: float
    lost_usd: float
    bound_usd: float


def in_force(connection: Connection, *, now: datetime) -> list[Unmeasured]:
    """The last change of each host that was applied, until now or until its hours were over."""
    applied = records(
        connection,
        "SELECT a.decision_id, a.started_at, d.hours FROM applications a JOIN decisions d USING (decision_id) "
        "WHERE a.status = 'applied' AND d.hours IS NOT NULL "
        "QUALIFY row_number() OVER (PARTITION BY d.host ORDER BY a.started_at DESC) = 1 ORDER BY d.host",
    )
    rows = _decisions(connection, [row["decision_id"] for row in applied])
    found: list[Unmeasured] = []
    for row in applied:
        ends = row["started_at"] + row["hours"] * HOUR
        until = min(now, ends)
        found.append(Unmeasured(rows[row["decision_id"]], row["started_at"], until, until < ends))
    return found


def record(connection: Connection, reversal: ReversalRow) -> None:
    """Write it, once a change."""
    insert(connection, "reversals", [asdict(reversal)])


def since(connection: Connection, moment: datetime) -> list[tuple[ReversalRow, DecisionRow]]:
    """Those noticed at `moment` or later, with the change; by time."""
    found = [
        ReversalRow(**row)
        for row in records(
            connection, "SELECT * FROM reversals WHERE noticed_at >= ? ORDER BY noticed_at", [naive(moment)]
        )
    ]
    rows = _decisions(connection, [reversal.decision_id for reversal in found])
    return [(reversal, rows[reversal.decision_id]) for reversal in found]


def of(connection: Connection, ids: Collection[str]) -> dict[str, ReversalRow]:
    """Decision -> how it lost, of these decisions, where one did."""
    rows = records(connection, "SELECT * FROM reversals WHERE decision_id IN (SELECT unnest(?))", [list(ids)])
    return {row["decision_id"]: ReversalRow(**row) for row in rows}


def _decisions(connection: Connection, ids: Collection[str]) -> dict[str, DecisionRow]:
    found = decisions_where(connection, "WHERE decision_id IN (SELECT unnest(?))", [list(ids)])
    return {row.decision_id: row for row in found}
