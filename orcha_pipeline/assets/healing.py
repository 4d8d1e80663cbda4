"""Self-healing: which nodes that do not answer are to be restarted, and the restart of one of them."""

from typing import Any

import dagster as dg

from orcha_pipeline.assets.alerts import ALERTS
from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.healing.heal import heal
from orcha_pipeline.healing.rounds import take_stock
from orcha_pipeline.nodes_read import open_adapters_of
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.warehouse.healings import HealingStatus

HEALING_PLAN = dg.AssetKey(["healing_plan"])
HEALING = dg.AssetKey(["healing"])
TO_HEAL = "nodes to restart"
"""Metadata of the plan that its sensor reads: node -> run key of its restart."""


class HealingConfig(dg.Config):
    """Which node to restart."""

    node: str


def build_healing() -> list[dg.AssetsDefinition]:
    """The plan, which is part of each cycle, and the restart."""

    @dg.asset(
        key=HEALING_PLAN,
        deps=[ALERTS],
        group_name="decision",
        kinds={"python", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "healings"},
        pool="duckdb",
    )
    def healing_plan(
        context: dg.AssetExecutionContext, nodes: NodesResource, warehouse: WarehouseResource
    ) -> dg.MaterializeResult[Any]:
        """Which nodes that do not answer are restarted now, by run `heal_node`, and why the others are not."""
        installation = nodes.installation()
        made = take_stock(installation, warehouse.warehouse, open_adapters_of)
        for each in made.chosen:
            context.log.warning("%s does not answer and is restarted", each.node)
        metadata: dict[str, Any] = {
            "simulated": installation.simulated,
            "restarts that a dead process had left in their midst": made.ended,
            TO_HEAL: dg.MetadataValue.json({each.node: each.run_key for each in made.chosen}),
        }
        if made.left:
            lines = [dg.TableRecord({"node": node, "why": why}) for node, why in made.left.items()]
            metadata["not restarted"] = dg.MetadataValue.table(lines)
        return dg.MaterializeResult(metadata=metadata)

    # Not in the pool "duckdb": it waits for a node to start, and writes for milliseconds.
    @dg.asset(
        key=HEALING,
        deps=[HEALING_PLAN],
        group_name="decision",
        kinds={"python", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "healings"},
    )
    def healing(
        context: dg.AssetExecutionContext, nodes: NodesResource, warehouse: WarehouseResource, config: HealingConfig
    ) -> dg.MaterializeResult[Any]:
        """Restart a node that still does not answer, and look at it until it works."""
        installation = nodes.installation()
        with nodes.adapters() as adapters:
            done = heal(
                config.node,
                run_id=context.run.run_id,
                installation=installation,
                warehouse=warehouse.warehouse,
                adapters=adapters,
            )
        metadata: dict[str, Any] = {
            "node": config.node,
            "status": "nothing was done" if done.status is None else done.status.value,
            "reason": done.reason,
            "simulated": installation.simulated,
        }
        if done.status is HealingStatus.FAILED:
            # Its row is written; the run is shown as failed so that nobody overlooks it.
            raise dg.Failure(done.reason, metadata=metadata, allow_retries=False)
        return dg.MaterializeResult(metadata=metadata)

    return [healing_plan, healing]
