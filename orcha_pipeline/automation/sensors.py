"""The sensors that have a decision carried out, once: at once, or when the operator has approved it."""

from collections.abc import Iterator

import dagster as dg

from orcha_pipeline.assets.allocation import ALLOCATION_DECISION, TO_APPLY
from orcha_pipeline.assets.application import ALLOCATION_APPLICATION
from orcha_pipeline.automation.jobs import APPLY_ALLOCATION
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.warehouse import permissions


def build_sensors() -> list[dg.SensorDefinition]:
    """The decision's sensors, on by default."""

    @dg.asset_sensor(
        name="apply_decision",
        asset_key=ALLOCATION_DECISION,
        job_name=APPLY_ALLOCATION,
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts one run per decision that says reallocate; its run key is the decision's id.",
    )
    def apply_decision(
        _context: dg.SensorEvaluationContext, event: dg.EventLogEntry
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        materialization = event.asset_materialization
        found = materialization.metadata.get(TO_APPLY) if materialization else None
        ids = list(found.value) if isinstance(found, dg.JsonMetadataValue) and isinstance(found.value, list) else []
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
    def apply_approved(nodes: NodesResource, warehouse: WarehouseResource) -> Iterator[dg.RunRequest | dg.SkipReason]:
        now = nodes.installation().clock.now()
        with warehouse.warehouse.read() as connection:
            ids = [] if permissions.pause_in_force(connection) else permissions.approved(connection, now)
        if not ids:
            yield dg.SkipReason("No approved decision waits to be carried out.")
        yield from map(_request, ids)

    return [apply_decision, apply_approved]


def _request(decision_id: str) -> dg.RunRequest:
    op = ALLOCATION_APPLICATION.to_python_identifier()
    return dg.RunRequest(
        run_key=decision_id,
        run_config=dg.RunConfig(ops={op: {"config": {"decision_id": decision_id}}}),
        tags={"orcha/decision": decision_id},
    )
