"""The sensor that has a decision carried out, once."""

from collections.abc import Iterator

import dagster as dg

from orcha_pipeline.assets.allocation import ALLOCATION_DECISION, TO_APPLY
from orcha_pipeline.assets.application import ALLOCATION_APPLICATION
from orcha_pipeline.automation.jobs import APPLY_ALLOCATION


def build_sensors() -> list[dg.SensorDefinition]:
    """The decision's sensor, on by default."""

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
        for decision_id in ids:
            yield dg.RunRequest(
                run_key=str(decision_id),
                run_config=dg.RunConfig(
                    ops={ALLOCATION_APPLICATION.to_python_identifier(): {"config": {"decision_id": str(decision_id)}}}
                ),
                tags={"orcha/decision": str(decision_id)},
            )

    return [apply_decision]
