"""Self-healing: the job that restarts one node, and the sensor that starts it for each that a cycle names."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from orcha_pipeline.assets.healing import HEALING, HEALING_PLAN, TO_HEAL
from orcha_pipeline.automation.jobs import CHANGES_NODES
from orcha_pipeline.automation.resident import latest_materialization
from orcha_pipeline.automation.sensors import json_told

HEAL_NODE = "heal_node"
NODE_TAG = "orcha/node"


def build_healing_job() -> Any:  # Dagster does not export the type of an asset job
    """The job."""
    return dg.define_asset_job(
        HEAL_NODE,
        selection=dg.AssetSelection.assets(HEALING),
        description="Restart one node that does not answer, and look at it until it works.",
        executor_def=dg.in_process_executor,
        tags={"orcha/heal": "true", **CHANGES_NODES},  # the next cycle asks again for what died
    )


def build_healing_sensor() -> dg.SensorDefinition:
    """The sensor, on by default: what it may restart is for the settings to say."""

    @dg.sensor(
        name="heal_nodes",
        job_name=HEAL_NODE,
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts one run per node that a cycle says to restart; its run key names the slot and the attempt.",
    )
    def heal_nodes(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        event = latest_materialization(context, HEALING_PLAN)
        if event is None:
            yield dg.SkipReason("No cycle since the last look.")
            return
        told = json_told(event, TO_HEAL)
        keys = told if isinstance(told, dict) else {}
        if not keys:
            yield dg.SkipReason("No node is to be restarted.")
        for node, run_key in keys.items():
            yield dg.RunRequest(
                run_key=str(run_key),
                run_config=dg.RunConfig(ops={HEALING.to_python_identifier(): {"config": {"node": str(node)}}}),
                tags={NODE_TAG: str(node)},
            )

    return heal_nodes
