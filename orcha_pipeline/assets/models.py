"""One model a protocol, trained on its own nodes' history, versioned in MLflow."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from orcha_pipeline.assets.earnings import FEATURES
from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.assets.metadata import picture
from orcha_pipeline.errors import ModelError
from orcha_pipeline.model import Window, hour_of
from orcha_pipeline.resources import ModelRegistryResource, NodesResource, WarehouseResource
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.frames import frame as table_frame

TRAINING_HISTORY = timedelta(days=90)


def model_keys(protocols: Sequence[str]) -> list[dg.AssetKey]:
    """Keys of the models, `<protocol>/earnings_model`."""
    return [dg.AssetKey([protocol, "earnings_model"]) for protocol in protocols]


def build_models(protocols: Sequence[str]) -> list[dg.AssetsDefinition]:
    """A model asset for each protocol."""
    return [_build_model(protocol) for protocol in protocols]


def _build_model(protocol: str) -> dg.AssetsDefinition:
    # Not in the pool "duckdb": training takes a minute and writes for milliseconds, it must not hold a cycle up.
    @dg.asset(
        key=[protocol, "earnings_model"],
        deps=[FEATURES],
        group_name="models",
        kinds={"tensorflow", "mlflow"},
        owners=OWNERS,
        description=f"{protocol.capitalize()}: LSTM of the yield for the next 24 hours, beside seasonal naive.",
        output_required=False,
    )
    def earnings_model(
        context: dg.AssetExecutionContext,
        nodes: NodesResource,
        warehouse: WarehouseResource,
        model_registry: ModelRegistryResource,
    ) -> Any:
        from orcha_pipeline.forecasting.model_registry import log_training
        from orcha_pipeline.forecasting.training import train_protocol

        installation = nodes.installation()
        own = [node for node, name in installation.node_protocols().items() if name == protocol]
        if not own:
            context.log.info("No node of %s is configured: nothing to train.", protocol)
            return
        now = installation.clock.now()
        store = warehouse.warehouse
        with store.read() as connection:
            frame = table_frame(connection, "features_hourly", Window(hour_of(now) - TRAINING_HISTORY, hour_of(now)))
        frame = frame[frame["node"].isin(own)]
        if not frame["yield_usd"].notna().any():
            context.log.warning("No hour of %s is known yet: seasonal naive serves once there are some.", protocol)
            return
        folder = model_registry.folder(protocol, context.run.run_id)
        try:
            trained = train_protocol(
                frame,
                protocol=protocol,
                settings=installation.settings,
                out_dir=model_registry.absolute(folder),
                trained_at=now,
            )
        except ModelError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        registered = log_training(
            trained,
            tracking_uri=model_registry.tracking_uri,
            dagster_run_id=context.run.run_id,
            tags={"simulated": str(installation.simulated).lower()},
        )
        row = decisions.ModelRow(
            protocol=protocol,
            version=registered.version,
            kind=trained.manifest.kind,
            trained_at=now,
            mlflow_run_id=registered.run_id,
            dagster_run_id=context.run.run_id,
            data_start=trained.manifest.data_start,
            data_end=trained.manifest.data_end,
            data_hash=trained.manifest.data_sha256,
            metrics=flat(trained.manifest.metrics),
            path=str(folder),
            champion=registered.champion,
        )
        with store.write() as connection:
            decisions.record_model(connection, row)
        mlflow_page = f"http://127.0.0.1:{installation.settings.services.mlflow_port}"
        yield dg.MaterializeResult(
            metadata={
                "kind": row.kind,
                "version": row.version,
                **dict(sorted(row.metrics.items())),
                "hours learned from": (row.data_end - row.data_start) / timedelta(hours=1),
                "MLflow run": dg.MetadataValue.url(
                    f"{mlflow_page}/#/experiments/{registered.experiment_id}/runs/{registered.run_id}"
                ),
                **_pictures(trained.folder),
                "simulated": installation.simulated,
            }
        )

    return earnings_model


def flat(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """{contender: {metric: value}} as {"contender metric": value}."""
    return {f"{contender} {name}": value for contender, found in metrics.items() for name, value in found.items()}


def _pictures(folder: Path) -> dict[str, dg.MarkdownMetadataValue]:
    return {path.stem: picture(path.read_bytes(), path.stem) for path in sorted(folder.glob("*.png"))}
