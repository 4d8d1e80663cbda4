"""Carrying out one decision: the asset that the decision's sensor has materialized."""

from typing import Any
from uuid import uuid4

import dagster as dg

from orcha_pipeline.allocation.apply import carry_out
from orcha_pipeline.assets.allocation import ALLOCATION_DECISION
from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.model import ApplicationStatus
from orcha_pipeline.resources import NodesResource, WarehouseResource

ALLOCATION_APPLICATION = dg.AssetKey(["allocation_application"])


class ApplicationConfig(dg.Config):
    """Which decision to carry out."""

    decision_id: str


def build_application() -> dg.AssetsDefinition:
    """The application asset."""

    # Not in the pool "duckdb": an application waits for nodes to restart, and writes its steps for milliseconds.
    @dg.asset(
        key=ALLOCATION_APPLICATION,
        deps=[ALLOCATION_DECISION],
        group_name="decision",
        kinds={"python", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "applications"},
    )
    def allocation_application(
        context: dg.AssetExecutionContext,
        nodes: NodesResource,
        warehouse: WarehouseResource,
        config: ApplicationConfig,
    ) -> dg.MaterializeResult[Any]:
        """Move the levers one by one, shrinking before growing; read each back; roll all back if one fails."""
        installation = nodes.installation()
        with nodes.adapters() as adapters:
            result = carry_out(
                config.decision_id,
                application_id=str(uuid4()),
                run_id=context.run.run_id,
                installation=installation,
                warehouse=warehouse.warehouse,
                adapters=adapters,
            )
        steps = [
            dg.TableRecord(
                {
                    "step": step.step,
                    "kind": step.kind,
                    "node": step.node,
                    "lever": step.lever,
                    "from": "unknown" if step.previous is None else f"{step.previous:g}",
                    "asked for": f"{step.requested:g}",
                    "read back": "unknown" if step.read_back is None else f"{step.read_back:g}",
                    "status": step.status,
                    "error": step.error,
                }
            )
            for step in result.steps
        ]
        metadata: dict[str, Any] = {
            "decision": config.decision_id,
            "status": result.status.value,
            "reason": result.reason,
            "simulated": installation.simulated,
        }
        if steps:
            metadata["steps"] = dg.MetadataValue.table(steps)
        if result.status in (ApplicationStatus.ROLLED_BACK, ApplicationStatus.ROLLBACK_FAILED):
            # The rows are written; the run is shown as failed so that nobody overlooks it.
            raise dg.Failure(result.reason, metadata=metadata, allow_retries=False)
        return dg.MaterializeResult(metadata=metadata)

    return allocation_application
