"""The jobs: record history, train, the 15-minute cycle, apply one decision. Each run is one process."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from orcha_pipeline.assets.application import ALLOCATION_APPLICATION
from orcha_pipeline.assets.backup import BACKUP
from orcha_pipeline.assets.earnings import EARNINGS_HOURLY, FEATURES
from orcha_pipeline.assets.healing import HEALING
from orcha_pipeline.assets.housekeeping import HOUSEKEEPING
from orcha_pipeline.assets.ingest import PRICES, fact_keys
from orcha_pipeline.assets.models import model_keys

CYCLE = "cycle"
RECORD_HISTORY = "record_history"
TRAIN_MODELS = "train_models"
APPLY_ALLOCATION = "apply_allocation"
CHANGES_NODES = {"dagster/max_runtime": "3600", "dagster/max_retries": "0", "dagster/priority": "10"}
"""Tags of a run that changes nodes. One that hangs would keep all that follow from being started. Dagster's own retry
tries once, and gives up where the code server is away."""


def build_jobs(protocols: Sequence[str]) -> list[Any]:  # Dagster does not export the type of an asset job
    """All jobs."""
    # Dagster writes an event a partition and asset, some 10 ms each: of a past of thousands of hours only what a node
    # can tell of its past is claimed as materialized. The time-lapse writes the other facts' rows all the same.
    past = [*[key for key in fact_keys(protocols) if key.path[-1] == "earnings"], PRICES]
    models = dg.AssetSelection.assets(*model_keys(protocols))
    application = dg.AssetSelection.assets(ALLOCATION_APPLICATION)
    upkeep = dg.AssetSelection.assets(BACKUP, HOUSEKEEPING, HEALING)
    return [
        dg.define_asset_job(
            CYCLE,
            selection=dg.AssetSelection.all() - models - application - upkeep,
            description="Every 15 minutes: read, value, forecast, look for anomalies, plan, decide, measure outcomes.",
            executor_def=dg.in_process_executor,
            tags={"orcha/cycle": "true", "dagster/max_runtime": "840", "dagster/priority": "5"},
        ),
        dg.define_asset_job(
            RECORD_HISTORY,
            selection=dg.AssetSelection.assets(*past, EARNINGS_HOURLY, FEATURES).without_checks(),
            description="Once: what the nodes still know of their past, or the testnet's past as a time-lapse.",
            executor_def=dg.in_process_executor,
            tags={"orcha/cycle": "true"},
        ),
        dg.define_asset_job(
            TRAIN_MODELS,
            selection=models,
            description="A new version of every protocol's forecasting model, logged to MLflow.",
            executor_def=dg.in_process_executor,
        ),
        dg.define_asset_job(
            APPLY_ALLOCATION,
            selection=application,
            description="Carry out one decision step by step, read back, roll back on failure.",
            executor_def=dg.in_process_executor,
            tags={"orcha/apply": "true", **CHANGES_NODES},  # the sensor `apply_again` begins anew what died
        ),
    ]
