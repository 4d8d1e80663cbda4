"""From a decision on record to its application on record: claims it, has it carried out, writes how it ended."""

from collections.abc import Mapping

from orcha_pipeline.allocation.executor import ApplicationError, ApplicationOutcome, apply_changes
from orcha_pipeline.allocation.gates import Change
from orcha_pipeline.allocation.journal import WarehouseJournal
from orcha_pipeline.allocation.plan import total_use
from orcha_pipeline.errors import PlanError
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import ApplicationStatus, Verdict
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import ApplicationRow, DecisionRow


def changes_of_row(row: DecisionRow) -> tuple[Change, ...]:
    """The levers a recorded decision moves."""
    return tuple(
        Change(
            node=line.node,
            lever=line.lever,
            value_from=line.value_now,
            value_to=line.value_planned,
            share_from=line.share_now,
            share_to=line.share_planned,
        )
        for line in row.allocations
        if line.lever is not None
        and line.value_now is not None
        and line.value_planned is not None
        and line.share_now is not None
        and line.share_planned is not None
        and line.value_now != line.value_planned
    )


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

    A decision that was claimed before, or that a later one of its host has superseded, is dropped. Raises `PlanError`
    for a decision that is not on record or says hold, and `ApplicationError` when something unforeseen went wrong.
    """
    clock = installation.clock
    started = clock.now()

    def dropped(reason: str) -> ApplicationOutcome:
        return ApplicationOutcome(
            status=ApplicationStatus.DROPPED, reason=reason, steps=(), started_at=started, ended_at=clock.now()
        )

    with warehouse.write() as connection:
        row = decisions.decision(connection, decision_id)
        if row is None:
            raise PlanError(f"There is no decision {decision_id} on record: look them up with `orcha decision`.")
        if row.verdict is not Verdict.REALLOCATE:
            raise PlanError(f"Decision {decision_id} says hold: there is nothing to apply.")
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
        latest = {d.host: d.decision_id for d in decisions.latest_decisions(connection)}
    if not claimed:
        return dropped("It was carried out before: a decision is applied once.")
    if latest[row.host] != decision_id:
        outcome = dropped(f"Decision {latest[row.host]} has superseded it.")
    else:
        outcome = _apply(row, application_id, installation, warehouse, adapters)
    with warehouse.write() as connection:
        decisions.end_application(
            connection, application_id, status=outcome.status, reason=outcome.reason, ended_at=outcome.ended_at
        )
    return outcome


def _apply(
    row: DecisionRow,
    application_id: str,
    installation: Installation,
    warehouse: Warehouse,
    adapters: Mapping[str, Adapter],
) -> ApplicationOutcome:
    changes = changes_of_row(row)
    changed = {change.node for change in changes}
    nodes = {node.name: node.to_model() for node in installation.settings.nodes if node.host == row.host}
    host = next((h.to_model() for h in installation.settings.hosts if h.name == row.host), None)
    gone = sorted({line.node for line in row.allocations} - set(nodes))
    if host is None or gone:
        now = installation.clock.now()
        reason = f"{', '.join(gone) or row.host} is not configured any more."
        return ApplicationOutcome(
            status=ApplicationStatus.DROPPED, reason=reason, steps=(), started_at=now, ended_at=now
        )
    resting = [
        # A share nobody knows counts as the largest one it may be, as it did in the plan.
        (nodes[line.node].demand, nodes[line.node].max_share if line.share_now is None else line.share_now)
        for line in row.allocations
        if line.node not in changed
    ]
    try:
        return apply_changes(
            changes,
            application_id=application_id,
            adapters=adapters,
            journal=WarehouseJournal(warehouse),
            clock=installation.clock,
            capacity=host.capacity,
            demands={name: node.demand for name, node in nodes.items()},
            others=total_use(resting),
        )
    except ApplicationError as error:
        outcome = error.outcome
        with warehouse.write() as connection:
            decisions.end_application(
                connection, application_id, status=outcome.status, reason=outcome.reason, ended_at=outcome.ended_at
            )
        raise
    except BaseException as interrupt:  # the executor has set back what it could, and its steps tell
        with warehouse.write() as connection:
            decisions.end_application(
                connection,
                application_id,
                status=decisions.status_by_steps(connection, application_id),
                reason=f"Interrupted ({type(interrupt).__name__}); its steps tell how the nodes were left.",
                ended_at=installation.clock.now(),
            )
        raise
