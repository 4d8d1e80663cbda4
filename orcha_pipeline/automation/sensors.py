"""The sensors that have a decision carried out, once: at once, when the operator has approved it, or after a crash."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from orcha_pipeline.assets.allocation import ALLOCATION_DECISION, TO_APPLY
from orcha_pipeline.assets.application import ALLOCATION_APPLICATION
from orcha_pipeline.automation.jobs import APPLY_ALLOCATION
from orcha_pipeline.automation.resident import instance_of, latest_materialization
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.warehouse import decisions, permissions

DECISION_TAG = "orcha/decision"
RUNS_AT_MOST = 3
"""For one decision: what kills each of its runs is not to be started for ever."""


def build_sensors(nodes: NodesResource, warehouse: WarehouseResource) -> list[dg.SensorDefinition]:
    """The decision's sensors, on by default."""

    @dg.sensor(
        name="apply_decision",
        job_name=APPLY_ALLOCATION,
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts one run per decision that says reallocate; its run key is the decision's id.",
    )
    def apply_decision(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        event = latest_materialization(context, ALLOCATION_DECISION)
        if event is None:
            yield dg.SkipReason("No decision since the last look.")
            return
        told = json_told(event, TO_APPLY)
        ids = told if isinstance(told, list) else []
        if not ids:
            yield dg.SkipReason("The latest decision holds: nothing to apply.")
        yield from (_request(str(decision_id)) for decision_id in ids)

    @dg.sensor(
        name="apply_approved",
        job_name=APPLY_ALLOCATION,
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts one run per decision that `orcha approve` let through; its run key is the decision's id.",
    )
    def apply_approved() -> Iterator[dg.RunRequest | dg.SkipReason]:
        now = nodes.installation().clock.now()
        with warehouse.warehouse.read() as connection:
            ids = [] if permissions.pause_in_force(connection) else permissions.approved(connection, now)
        if not ids:
            yield dg.SkipReason("No approved decision waits to be carried out.")
        yield from map(_request, ids)

    @dg.sensor(
        name="apply_again",
        job_name=APPLY_ALLOCATION,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts another run for a decision whose run died before it had begun to carry it out.",
    )
    def apply_again(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        now = nodes.installation().clock.now()
        with warehouse.warehouse.read() as connection:
            waiting = [*permissions.approved(connection, now), *decisions.unclaimed(connection)]
            paused = permissions.pause_in_force(connection)
        runs = {} if paused else {each: _runs_for(instance_of(context), each) for each in waiting}
        again = {each: len(of_it) for each, of_it in runs.items() if _died(of_it)}
        if not again:
            yield dg.SkipReason("No run died before it had begun.")
        yield from (_request(each, attempt=before + 1) for each, before in again.items())

    return [apply_decision, apply_approved, apply_again]


def json_told(event: dg.EventLogEntry, name: str) -> Any:
    """What the metadata of this name holds that an asset was materialized with, where it is JSON; else None."""
    materialization = event.asset_materialization
    found = materialization.metadata.get(name) if materialization else None
    return found.value if isinstance(found, dg.JsonMetadataValue) else None


def _runs_for(instance: dg.DagsterInstance, decision_id: str) -> list[dg.DagsterRun]:
    return list(instance.get_runs(dg.RunsFilter(tags={DECISION_TAG: decision_id})))


def _died(runs: list[dg.DagsterRun]) -> bool:
    """Whether a decision that nobody claimed had runs, all of which have ended, and may have another."""
    return 0 < len(runs) < RUNS_AT_MOST and all(run.status is dg.DagsterRunStatus.FAILURE for run in runs)


def _request(decision_id: str, *, attempt: int = 1) -> dg.RunRequest:
    op = ALLOCATION_APPLICATION.to_python_identifier()
    return dg.RunRequest(
        run_key=decision_id if attempt == 1 else f"{decision_id}:{attempt}",
        run_config=dg.RunConfig(ops={op: {"config": {"decision_id": decision_id}}}),
        tags={DECISION_TAG: decision_id},
    )
