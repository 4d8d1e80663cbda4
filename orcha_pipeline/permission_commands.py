"""What `orcha approve`, `pause`, `resume` and `unfreeze` do, and the line that tells of a pause on every screen."""

from collections.abc import Sequence

from orcha_pipeline.decision_stories import decision_begun
from orcha_pipeline.errors import OrchaError, WarehouseError
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import Mode, Verdict
from orcha_pipeline.warehouse import decisions, freezes, permissions
from orcha_pipeline.warehouse.decisions import Connection, DecisionRow
from orcha_pipeline.warehouse.permissions import ApprovalRow, PauseRow


def approve(installation: Installation, beginning: str | None, *, who: str) -> str:
    """Let the decision whose id begins so be carried out; without one, the only one that waits. Tells what follows.

    Raises `OrchaError` for one that does not wait for approval.
    """
    now = installation.clock.now()
    with installation.warehouse.write() as connection:
        if (pause := permissions.pause_in_force(connection)) is not None:
            raise OrchaError(f"{pause.told()}. `orcha resume` first, then approve.")
        if beginning is None:
            row = _only_one(list(permissions.awaiting(connection, now).values()))
        else:
            row = decision_begun(connection, beginning)
        _check_waits(connection, row)
        if row.expires_at is None or now >= row.expires_at:
            raise OrchaError(
                f"Decision {row.decision_id[:8]} of {row.host} waited until {row.expires_at:%Y-%m-%d %H:%M} UTC and "
                "has expired. The next cycles ask anew; apply.approve_within_minutes sets how long they wait."
            )
        permissions.approve(connection, ApprovalRow(decision_id=row.decision_id, approved_at=now, approved_by=who))
    return (
        f"Decision {row.decision_id[:8]} of {row.host} is approved. It is carried out within seconds while `orcha up` "
        f"runs; `orcha explain {row.decision_id[:8]}` tells what came of it."
    )


def _only_one(rows: list[DecisionRow]) -> DecisionRow:
    if not rows:
        raise OrchaError("No decision waits for approval. `orcha decisions` lists what was decided.")
    if len(rows) > 1:
        ids = ", ".join(f"{row.decision_id[:8]} ({row.host})" for row in rows)
        raise OrchaError(f"{len(rows)} decisions wait for approval: {ids}. Name the one you mean.")
    return rows[0]


def _check_waits(connection: Connection, row: DecisionRow) -> None:
    """Raise `OrchaError` for a decision that no approval would carry out."""
    name = f"Decision {row.decision_id[:8]} of {row.host}"
    if row.decision_id in decisions.applications_of(connection, [row.decision_id]):
        raise OrchaError(f"{name} was carried out already: `orcha explain {row.decision_id[:8]}` tells how.")
    if row.verdict is not Verdict.REALLOCATE:
        raise OrchaError(f"{name} holds: there is nothing to approve.")
    if row.mode is Mode.ADVISE:
        raise OrchaError(
            f"{name} is advice: it moves a node in mode advise. Set apply.mode, or the node's mode, to confirm or auto."
        )
    if row.mode is not Mode.CONFIRM:
        raise OrchaError(f"{name} is carried out without approval (mode auto).")


def pause(installation: Installation, *, who: str, why: str) -> str:
    """Stop all changes at once; tells so."""
    now = installation.clock.now()
    with installation.warehouse.write() as connection:
        held = permissions.pause(connection, PauseRow(paused_at=now, paused_by=who, reason=why))
    if held.paused_at != now:
        return f"{held.told()}: they were before."
    return (
        "Changes are paused. Cycles go on and decide nothing but to hold; an application under way stops at its next "
        "step and sets back what it has done. `orcha resume` ends the pause."
    )


def resume(installation: Installation, *, who: str) -> str:
    """End a pause; tells so."""
    now = installation.clock.now()
    with installation.warehouse.write() as connection:
        held = permissions.resume(connection, at=now, by=who)
    if held is None:
        return "Changes were not paused."
    return f"Changes go on: they were paused since {held.paused_at:%Y-%m-%d %H:%M} UTC. The next cycle decides."


def unfreeze(installation: Installation, nodes: Sequence[str], *, who: str) -> str:
    """Let nodes be changed again that could not be set back; tells so.

    Raises `OrchaError` for one that is not frozen.
    """
    now = installation.clock.now()
    with installation.warehouse.write() as connection:
        frozen = freezes.frozen(connection)
        if unknown := [node for node in nodes if node not in frozen]:
            known = f"Frozen are: {', '.join(frozen)}." if frozen else "No node is."
            raise OrchaError(f"{', '.join(unknown)} is not frozen. {known}")
        for node in nodes:
            freezes.lift(connection, node, at=now, by=who)
    return f"Free to be changed again: {', '.join(nodes)}. The next cycle reads where they stand."


def pause_line(installation: Installation) -> str:
    """That changes are paused; empty where they are not, or nothing is on record."""
    try:
        with installation.warehouse.read() as connection:
            held = permissions.pause_in_force(connection)
    except WarehouseError:  # none yet, or of an earlier version: what the screen is for tells of it
        return ""
    return f"{held.told()}. `orcha resume` lets them go on." if held else ""
