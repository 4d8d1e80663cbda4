"""What an application left behind whose process ended in its midst: told as it is, finished, or set back.

It also tries again to set back what could not be set back before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

from orcha_pipeline.allocation.decided import changes_of, surroundings_of
from orcha_pipeline.allocation.executor import ApplicationOutcome, Step, roll_back
from orcha_pipeline.allocation.host_lock import host_lock
from orcha_pipeline.allocation.journal import WarehouseJournal
from orcha_pipeline.errors import PlanError
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import ApplicationStatus
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.warehouse import decisions, freezes
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import ApplicationRow, Connection, DecisionRow

TRIED_FOR = timedelta(hours=24)
"""So long a node that could not be set back is tried again, by every cycle; afterwards it waits for the operator."""
RECOVERY = "recovery"


@dataclass(frozen=True, slots=True)
class Recovered:
    """An application that had no end yet, or a bad one, and how it has ended now."""

    host: str
    application_id: str
    status: ApplicationStatus
    reason: str


def recover(installation: Installation, warehouse: Warehouse, adapters: Mapping[str, Adapter]) -> list[Recovered]:
    """Bring every application to an end that no process is at work on. Those under way are left alone."""
    found: list[Recovered] = []
    for host in sorted({decision.host for _, decision in _left_behind(installation, warehouse)}):
        with host_lock(installation.settings.home, host) as mine:
            if mine:
                found += recover_host(host, installation, warehouse, adapters)
    return found


def recover_host(
    host: str, installation: Installation, warehouse: Warehouse, adapters: Mapping[str, Adapter]
) -> list[Recovered]:
    """The same of one host, whose lock the caller holds."""
    found: list[Recovered] = []
    for application, decision in _left_behind(installation, warehouse):
        if decision.host == host:
            outcome = _ended(application, decision, installation, warehouse, adapters)
            end(warehouse, application.application_id, outcome)
            found.append(Recovered(host, application.application_id, outcome.status, outcome.reason))
    return found


def end(warehouse: Warehouse, application_id: str, outcome: ApplicationOutcome) -> None:
    """Write how an application ended; nodes that are stuck are frozen, those set back by now are free again."""
    with warehouse.write() as connection:
        decisions.end_application(
            connection, application_id, status=outcome.status, reason=outcome.reason, ended_at=outcome.ended_at
        )
        freezes.freeze(connection, application_id=application_id, stuck=outcome.stuck, at=outcome.ended_at)
        for node, row in freezes.frozen(connection).items():
            if row.application_id == application_id and node not in outcome.stuck:
                freezes.lift(connection, node, at=outcome.ended_at, by=RECOVERY)


def _left_behind(installation: Installation, warehouse: Warehouse) -> list[tuple[ApplicationRow, DecisionRow]]:
    """Applications without an end, and those of nodes that were lately not set back; with their decisions."""
    now = installation.clock.now()
    with warehouse.read() as connection:
        stuck = [row.application_id for row in freezes.frozen(connection).values() if now - row.frozen_at <= TRIED_FOR]
        rows = decisions.applications_without_end(connection, or_these=stuck)
        decided = {row.decision_id: decisions.decision(connection, row.decision_id) for row in rows}
    return [(row, found) for row in rows if (found := decided[row.decision_id]) is not None]


def _ended(
    application: ApplicationRow,
    decision: DecisionRow,
    installation: Installation,
    warehouse: Warehouse,
    adapters: Mapping[str, Adapter],
) -> ApplicationOutcome:
    clock = installation.clock
    with warehouse.read() as connection:
        steps = steps_on_record(connection, application.application_id)
    again = application.status is ApplicationStatus.ROLLBACK_FAILED
    why = application.reason if again else "The process that carried it out ended in its midst."

    def outcome(status: ApplicationStatus, reason: str, stuck: Mapping[str, str] | None = None) -> ApplicationOutcome:
        return ApplicationOutcome(
            status=status,
            reason=reason,
            steps=tuple(steps),
            started_at=application.started_at,
            ended_at=clock.now(),
            stuck=stuck or {},
        )

    if not steps:
        return outcome(ApplicationStatus.DROPPED, "The process that was to carry it out ended before its first step.")
    changes = changes_of(decision)
    if not again and _is_done(steps, len(changes), adapters):
        told = ", ".join(f"{step.node} {step.lever} = {step.requested:g}" for step in steps)
        return outcome(
            ApplicationStatus.APPLIED, f"Applied and read back: {told}. The process ended before it could write so."
        )
    try:
        around = surroundings_of(decision, installation.settings)
    except PlanError as gone:
        stuck = to_do(steps)
        return outcome(ApplicationStatus.ROLLBACK_FAILED, f"{why} {gone} Please {'; '.join(stuck.values())}.", stuck)
    return roll_back(
        steps,
        changes,
        why="It was set back by a later attempt." if again else why,
        application_id=application.application_id,
        adapters=adapters,
        journal=WarehouseJournal(warehouse),
        clock=clock,
        around=around,
    )


def _is_done(steps: Sequence[Step], count: int, adapters: Mapping[str, Adapter]) -> bool:
    """Whether all changes were made and still stand, so that only the end was not written."""
    if len(steps) != count or any(step.kind != "apply" or step.status != "done" for step in steps):
        return False
    try:
        values = [adapters[step.node].allocation().value for step in steps]
    except Exception:  # noqa: BLE001 -- unknown is not done
        return False
    return all(value == step.read_back for value, step in zip(values, steps, strict=True))


def steps_on_record(connection: Connection, application_id: str) -> list[Step]:
    """The steps of an application as the executor knows them, in their order."""
    return [Step(**asdict(row)) for row in decisions.steps_of(connection, application_id)]


def to_do(steps: Sequence[Step]) -> dict[str, str]:
    """Node -> what to do by hand, of those that were moved and not set back."""
    undone = {step.node for step in steps if step.kind == "rollback" and step.status == "done"}
    return {
        step.node: f"set {step.lever} of {step.node} to {step.previous:g} by hand"
        for step in steps
        if step.kind == "apply" and step.node not in undone and step.previous is not None
    }
