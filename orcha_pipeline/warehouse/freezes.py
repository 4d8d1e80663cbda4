"""Nodes that are left alone since a change of them could not be taken back, as rows with an alert each."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from orcha_pipeline.warehouse.alert_rows import raise_alert, resolve_alert
from orcha_pipeline.warehouse.decisions import Connection, records
from orcha_pipeline.warehouse.facts import insert, naive, scalar

ROLLBACK_FAILED = "rollback_failed"
"""Kind of the alert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeRow:
    """A node, and what the operator is to do with it. It is frozen until `lifted_at` is known."""

    node: str
    frozen_at: datetime
    application_id: str
    reason: str
    lifted_at: datetime | None = None
    lifted_by: str | None = None


def freeze(connection: Connection, *, application_id: str, stuck: Mapping[str, str], at: datetime) -> None:
    """Leave the nodes alone that could not be set back; `stuck` tells what to do with each. Raises an alert a node."""
    for node, reason in stuck.items():
        known = "SELECT count(*) FROM freezes WHERE node = ? AND application_id = ?"
        if scalar(connection, known, [node, application_id]):
            continue
        row = FreezeRow(node=node, frozen_at=at, application_id=application_id, reason=reason)
        insert(connection, "freezes", [asdict(row)])
        raise_alert(
            connection,
            at=at,
            kind=ROLLBACK_FAILED,
            severity="critical",
            scope="node",
            subject=node,
            message=f"{node} could not be set back. Please {reason}; then `orcha unfreeze {node}`.",
            evidence={"application_id": application_id},
            host=_host_of(connection, node),
        )


def _host_of(connection: Connection, node: str) -> str | None:
    found = records(connection, "SELECT host FROM nodes WHERE node = ?", [node])
    return found[0]["host"] if found else None


def frozen(connection: Connection) -> dict[str, FreezeRow]:
    """Node -> why it is frozen, the latest reason of each."""
    rows = records(connection, "SELECT * FROM freezes WHERE lifted_at IS NULL ORDER BY frozen_at")
    return {row["node"]: FreezeRow(**row) for row in rows}


def lift(connection: Connection, node: str, *, at: datetime, by: str) -> bool:
    """Let a node be changed again, and close its alert. Returns whether it was frozen."""
    lifted = connection.execute(
        "UPDATE freezes SET lifted_at = ?, lifted_by = ? WHERE node = ? AND lifted_at IS NULL RETURNING node",
        [naive(at), by, node],
    ).fetchall()
    resolve_alert(connection, kind=ROLLBACK_FAILED, subject=node, at=at, why=f"it is free again, by {by}")
    return bool(lifted)
