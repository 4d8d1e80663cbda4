"""From a decision on record to its application on record: claims it, has it carried out, writes how it ended."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from orcha_pipeline import clock_jumps
from orcha_pipeline.allocation.decided import changes_of, surroundings_of
from orcha_pipeline.allocation.executor import ApplicationError, ApplicationOutcome, apply_changes
from orcha_pipeline.allocation.gates import RATE_WINDOW, hold_gate, rate_gate
from orcha_pipeline.allocation.host_lock import host_lock
from orcha_pipeline.allocation.journal import WarehouseJournal
from orcha_pipeline.allocation.recovery import end, recover_host, steps_on_record, to_do
from orcha_pipeline.allocation.situation import read_situation, why_frozen
from orcha_pipeline.errors import PlanError
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import ApplicationStatus, Mode, Verdict
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.settings import Settings
from orcha_pipeline.warehouse import decisions, healings, permissions
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import ApplicationRow, Connection, DecisionRow

DECISION_COUNTS_FOR = timedelta(minutes=30)
"""An older decision is not carried out: two cycles have passed since."""
CHANGES_REMEMBERED = timedelta(hours=24)


def carry_out(
    decision_id: str,
    *,
    application_id: str,
    run_id: str,
    installation: Installation,
    warehouse: Warehouse,
    adapters: Mapping[str, Adapter],
) -> ApplicationOutcome:
    """Apply a decision that says reallocate, at most once ever.

    A decision that was claimed before, that is not current any more, or that something stands against by now, is
    dropped. Raises `PlanError` for a decision that is not on record, says hold, is advice or waits for approval, and
    `ApplicationError` when something unforeseen went wrong.
    """
    clock = installation.clock
    started = clock.now()

    def dropped(reason: str) -> ApplicationOutcome:
        return ApplicationOutcome(
            status=ApplicationStatus.DROPPED, reason=reason, steps=(), started_at=started, ended_at=clock.now()
        )

    with warehouse.read() as connection:
        row = _asked_for(connection, decision_id)
    with host_lock(installation.settings.home, row.host) as mine:
        if mine:
            recover_host(row.host, installation, warehouse, adapters)
        jumped = clock_jumped(installation)
        with warehouse.write() as connection:
            against = why_not_now(connection, row, installation.settings, started) or jumped
            claimed = decisions.begin_application(
                connection,
                ApplicationRow(
                    application_id=application_id,
                    decision_id=decision_id,
                    started_at=started,
                    ended_at=None,
                    status=ApplicationStatus.RUNNING,
                    reason="",
                    dagster_run_id=run_id,
                ),
            )
        if not claimed:
            return dropped("It was carried out before: a decision is applied once.")
        if not mine:
            against = "Another process is changing the host."
        outcome = dropped(against) if against else _apply(row, application_id, installation, warehouse, adapters)
        end(warehouse, application_id, outcome)
    return outcome


def _asked_for(connection: Connection, decision_id: str) -> DecisionRow:
    """The decision, which says reallocate and may be carried out. Raises `PlanError`."""
    row = decisions.decision(connection, decision_id)
    if row is None:
        raise PlanError(f"There is no decision {decision_id} on record: look them up with `orcha decision`.")
    if row.verdict is not Verdict.REALLOCATE:
        raise PlanError(f"Decision {decision_id} says hold: there is nothing to apply.")
    if row.mode is Mode.ADVISE:
        raise PlanError(f"Decision {decision_id} is advice: in mode advise nothing is changed.")
    if row.waits_for_approval and decision_id not in permissions.approvals_of(connection, [decision_id]):
        raise PlanError(f"Decision {decision_id} waits for approval: `orcha approve {decision_id[:8]}`.")
    return row


def why_not_now(connection: Connection, row: DecisionRow, settings: Settings, now: datetime) -> str:
    """What stands against carrying out a decision by now; empty where nothing does."""
    if busy := _paused(connection) or _restarted(connection, row.host):
        return busy
    moved = {change.node for change in changes_of(row)}
    for node, mode in settings.modes.items():
        if node in moved and mode.freedom < (row.mode or Mode.AUTO).freedom:
            return f"{node} is in mode {mode} by now."
    if row.expires_at is not None and now >= row.expires_at:
        return f"It waited for approval until {row.expires_at:%Y-%m-%d %H:%M} UTC and has expired."
    if row.expires_at is None and now - row.decided_at > DECISION_COUNTS_FOR:
        return f"It was taken at {row.decided_at:%Y-%m-%d %H:%M} UTC, too long ago."
    later = decisions.decisions_between(
        connection,
        hosts=[row.host],
        since=row.decided_at,
        until=max(now, row.decided_at) + DECISION_COUNTS_FOR,
        limit=2,
        # While one waits, those that follow hold: they are not what it must give way to.
        verdict=Verdict.REALLOCATE if row.waits_for_approval else None,
    )
    if later and later[0].decision_id != row.decision_id:
        return f"Decision {later[0].decision_id} has superseded it."
    changes = decisions.applied_at(connection, row.host, since=now - CHANGES_REMEMBERED)
    planner = settings.planner
    gates = (rate_gate(now, changes, planner.max_changes_per_hour), hold_gate(now, changes, planner.hold))
    return next((f"{gate.explanation}." for gate in gates if not gate.passed), "")


def clock_jumped(installation: Installation) -> str:
    """That the machine's clock was put forward or back too lately to change anything; empty where it was not."""
    settings = installation.settings
    rest = max(settings.planner.hold, RATE_WINDOW)
    return clock_jumps.clock_jumped(settings.home, installation.clock, rest)


def _paused(connection: Connection) -> str:
    """That the operator has stopped all changes; empty where he has not."""
    pause = permissions.pause_in_force(connection)
    return f"{pause.told()}." if pause else ""


def _restarted(connection: Connection, host: str) -> str:
    """That nobody knows yet what came of a restart on this host; empty where there is none of these."""
    nodes = sorted({healing.node for healing in healings.without_end(connection) if healing.host == host})
    return f"What came of the restart of {', '.join(nodes)} is not known yet." if nodes else ""


def _apply(
    row: DecisionRow,
    application_id: str,
    installation: Installation,
    warehouse: Warehouse,
    adapters: Mapping[str, Adapter],
) -> ApplicationOutcome:
    try:
        around = surroundings_of(row, installation.settings)
    except PlanError as gone:
        now = installation.clock.now()
        return ApplicationOutcome(
            status=ApplicationStatus.DROPPED, reason=str(gone), steps=(), started_at=now, ended_at=now
        )
    situation = read_situation(warehouse, installation.clock.now(), installation.settings.apply)

    def stopped() -> str:
        with warehouse.read() as connection:
            return _paused(connection)

    try:
        return apply_changes(
            changes_of(row),
            application_id=application_id,
            adapters=adapters,
            journal=WarehouseJournal(warehouse),
            clock=installation.clock,
            around=around,
            why_not=lambda node, lever: why_frozen(node, lever, situation),
            stopped=stopped,
        )
    except ApplicationError as error:
        end(warehouse, application_id, error.outcome)
        raise
    except BaseException as interrupt:  # the executor has set back what it could, and its steps tell
        with warehouse.read() as connection:
            steps = steps_on_record(connection, application_id)
            status = decisions.status_by_steps(connection, application_id)
        now = installation.clock.now()
        reason = f"Interrupted ({type(interrupt).__name__}); its steps tell how the nodes were left."
        outcome = ApplicationOutcome(
            status=status, reason=reason, steps=tuple(steps), started_at=now, ended_at=now, stuck=to_do(steps)
        )
        end(warehouse, application_id, outcome)
        raise
