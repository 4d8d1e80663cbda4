"""The whole project on one page: assets, checks, jobs, schedules, sensors, resources."""

import dagster as dg

from orcha_pipeline.assets.alerts import build_alerts
from orcha_pipeline.assets.allocation import build_allocation
from orcha_pipeline.assets.anomalies import build_anomalies
from orcha_pipeline.assets.application import build_application
from orcha_pipeline.assets.backup import build_backup
from orcha_pipeline.assets.checks import build_checks
from orcha_pipeline.assets.earnings import build_earnings
from orcha_pipeline.assets.forecast import build_forecast
from orcha_pipeline.assets.forecast_errors import build_forecast_errors
from orcha_pipeline.assets.healing import build_healing
from orcha_pipeline.assets.housekeeping import build_housekeeping
from orcha_pipeline.assets.ingest import build_ingest
from orcha_pipeline.assets.models import build_models
from orcha_pipeline.assets.outcomes import build_outcomes
from orcha_pipeline.automation.backup import build_backup_job, build_backup_schedule
from orcha_pipeline.automation.healing import build_healing_job, build_healing_sensor
from orcha_pipeline.automation.housekeeping import build_housekeeping_job, build_housekeeping_schedule
from orcha_pipeline.automation.jobs import build_jobs
from orcha_pipeline.automation.retraining import build_retraining_sensor
from orcha_pipeline.automation.schedules import build_schedules
from orcha_pipeline.automation.sensors import build_sensors
from orcha_pipeline.protocols.registry import protocol_names
from orcha_pipeline.resources import ModelRegistryResource, NodesResource, WarehouseResource
from orcha_pipeline.settings import Settings
from orcha_pipeline.settings_file import load_settings


def build_defs(settings: Settings) -> dg.Definitions:
    """Everything, for the given settings. Nothing is connected to, and no heavy library is imported."""
    protocols = protocol_names()
    nodes = NodesResource()
    warehouse = WarehouseResource(database=str(settings.warehouse_path))
    return dg.Definitions(
        assets=[
            build_ingest(protocols),
            *build_earnings(protocols),
            *build_models(protocols),
            build_forecast(protocols),
            build_forecast_errors(),
            build_anomalies(),
            build_alerts(),
            *build_healing(),
            *build_allocation(),
            build_outcomes(),
            build_application(),
            build_backup(),
            build_housekeeping(),
        ],
        asset_checks=build_checks(),
        jobs=[*build_jobs(protocols), build_backup_job(), build_housekeeping_job(), build_healing_job()],
        schedules=[
            *build_schedules(cycle_cron=settings.cycle_cron),
            build_backup_schedule(nightly=settings.backup.nightly),
            build_housekeeping_schedule(),
        ],
        sensors=[
            *build_sensors(nodes, warehouse),
            build_retraining_sensor(protocols, warehouse),
            build_healing_sensor(),
        ],
        resources={
            "nodes": nodes,
            "warehouse": warehouse,
            "model_registry": ModelRegistryResource(home=str(settings.home)),
        },
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Read the settings of this installation and build everything from them."""
    return build_defs(load_settings())
