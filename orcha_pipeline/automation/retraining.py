"""The sensor that has a drifted model trained anew."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg

from orcha_pipeline.assets.models import model_keys
from orcha_pipeline.automation.jobs import TRAIN_MODELS
from orcha_pipeline.automation.resident import instance_of
from orcha_pipeline.automation.schedules import active_run
from orcha_pipeline.errors import WarehouseError
from orcha_pipeline.resources import WarehouseResource
from orcha_pipeline.warehouse import forecast_rows
from orcha_pipeline.warehouse.connection import Warehouse

LOCK_TIMEOUT_SECONDS = 10.0
"""Well within the minute that Dagster gives a sensor."""


def build_retraining_sensor(protocols: Sequence[str], warehouse: WarehouseResource) -> dg.SensorDefinition:
    """The sensor, on by default."""
    models = dict(zip(protocols, model_keys(protocols), strict=True))

    @dg.sensor(
        name="retrain_on_drift",
        job_name=TRAIN_MODELS,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts one training per open request; its run key is the request's id. The training takes it.",
    )
    def retrain_on_drift(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        store = Warehouse(Path(warehouse.database), lock_timeout_seconds=LOCK_TIMEOUT_SECONDS)
        try:
            with store.read() as connection:
                requests = forecast_rows.open_requests(connection)
        except WarehouseError as error:
            yield dg.SkipReason(str(error))
            return
        requests = [request for request in requests if request.protocol in models]
        if not requests:
            yield dg.SkipReason("No retraining is requested.")
        elif run_id := active_run(instance_of(context), TRAIN_MODELS):
            # It may be about to take the request itself.
            yield dg.SkipReason(f"Run {run_id} of {TRAIN_MODELS} is still active.")
        else:
            for request in requests:
                yield dg.RunRequest(
                    run_key=request.request_id,
                    asset_selection=[models[request.protocol]],
                    tags={"orcha/retraining": request.request_id},
                )

    return retrain_on_drift
