"""One model a protocol, trained on its own nodes' history, versioned in MLflow."""

import shutil
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from orcha_pipeline.anomalies.catalogue import MASKING
from orcha_pipeline.assets.earnings import FEATURES
from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.assets.metadata import picture
from orcha_pipeline.errors import ModelError
from orcha_pipeline.model import YIELD_USD, Window, hour_of
from orcha_pipeline.resources import ModelRegistryResource, NodesResource, WarehouseResource
from orcha_pipeline.settings import MLFLOW_VIEW
from orcha_pipeline.warehouse import anomaly_rows, decisions, forecast_rows
from orcha_pipeline.warehouse.columns import feature_columns

if TYPE_CHECKING:
    from orcha_pipeline.forecasting.artifact import Manifest
    from orcha_pipeline.forecasting.training import TrainedModel

TRAINING_HISTORY = timedelta(days=90)
MASKED_AT_MOST = timedelta(hours=72)
"""Of something wrong with a node without an end the first so many hours: what lasts is how it is by now."""
SERVED = "served"
CHARTED = ("served wape", "seasonal_naive wape", "lstm wape", "lightgbm wape", "served coverage80")
"""What Dagster draws from training to training."""


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
        kinds={"tensorflow", "lightgbm", "mlflow"},
        owners=OWNERS,
        description=f"{protocol.capitalize()}: yield and native earnings of the next 24 hours, an LSTM and its rivals.",
        output_required=False,
    )
    def earnings_model(
        context: dg.AssetExecutionContext,
        nodes: NodesResource,
        warehouse: WarehouseResource,
        model_registry: ModelRegistryResource,
    ) -> Any:
        from orcha_pipeline.forecasting.features import known_hours, masked, panel_of
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
            window = Window(hour_of(now) - TRAINING_HISTORY, hour_of(now))
            columns = feature_columns(connection, window)
            wrong = anomaly_rows.masked_hours(connection, MASKING, window, at_most=MASKED_AT_MOST)
            champion = decisions.champions(connection).get(protocol)
        with store.write() as connection:
            forecast_rows.take_requests(connection, protocol, context.run.run_id, now)
        recorded = panel_of(columns, nodes=own)
        panel = [one for one in masked(recorded, wrong) if known_hours(one)]
        left_out = sum(map(known_hours, recorded)) - sum(map(known_hours, panel))
        if not panel:
            context.log.warning("No hour of %s is known yet: seasonal naive serves once there are some.", protocol)
            return
        folder = model_registry.folder(protocol, context.run.run_id)
        try:
            trained = train_protocol(
                panel,
                protocol=protocol,
                settings=installation.settings.forecast,
                out_dir=model_registry.absolute(folder),
                trained_at=now,
                dagster_run_id=context.run.run_id,
                champion=None if champion is None else model_registry.absolute(champion.path),
                tell=context.log.debug,
            )
            registered = log_training(
                trained,
                tracking_uri=model_registry.tracking_uri,
                dagster_run_id=context.run.run_id,
                tags={"simulated": str(installation.simulated).lower()},
            )
        except (ModelError, OSError) as error:
            # Nothing will ever refer to it, and a full disk needs the room.
            shutil.rmtree(model_registry.absolute(folder), ignore_errors=True)
            told = str(error) if isinstance(error, ModelError) else f"The model cannot be written: {error}"
            raise dg.Failure(f"{told}. The champion stays as it is.", allow_retries=False) from error
        manifest = trained.manifest
        row = decisions.ModelRow(
            protocol=protocol,
            version=registered.version,
            kind=SERVED,
            trained_at=now,
            mlflow_run_id=registered.run_id,
            dagster_run_id=context.run.run_id,
            data_start=manifest.data_start,
            data_end=manifest.data_end,
            data_hash=manifest.data_sha256,
            metrics=flat(manifest),
            path=str(folder),
            champion=registered.champion,
        )
        with store.write() as connection:
            decisions.record_model(connection, row)
            if registered.champion:
                forecast_rows.record_alias(
                    connection,
                    protocol=protocol,
                    version=registered.version,
                    alias="champion",
                    at=now,
                    who="training",
                    why=registered.why,
                )
        mlflow_page = f"http://127.0.0.1:{installation.settings.services.mlflow_port}"
        yield dg.MaterializeResult(
            metadata={
                "version": row.version,
                "champion": registered.champion,
                "why": registered.why,
                "candidates": dg.MetadataValue.table(_records(manifest)),
                **{name: row.metrics[name] for name in CHARTED if name in row.metrics},
                "left out": "; ".join(
                    f"{name}: {one.refused}" for name, one in manifest.candidates.items() if one.refused
                )
                or "none",
                "hours left out for anomalies": left_out,
                "hours learned from": (row.data_end - row.data_start) / timedelta(hours=1),
                "MLflow run": dg.MetadataValue.url(
                    f"{mlflow_page}/#/experiments/{registered.experiment_id}/runs/{registered.run_id}?{MLFLOW_VIEW}"
                ),
                **_pictures(trained),
                "simulated": installation.simulated,
            }
        )

    return earnings_model


def flat(manifest: "Manifest") -> dict[str, float]:
    """Every candidate's measures as "<candidate> <measure>", those of the yield's series where there are any."""
    found: dict[str, float] = {}
    for name, one in manifest.candidates.items():
        for measure, value in one.by_target.get(YIELD_USD, one.scores).items():
            found[f"{name} {measure}"] = value
    for name, value in (("pooled_wape", manifest.pooled_wape), ("pooled_wape_std", manifest.pooled_wape_std)):
        if value is not None:
            found[f"{SERVED} {name}"] = value
    return found


def _records(manifest: "Manifest") -> list[dg.TableRecord]:
    """A line a candidate: its measures over all series of the protocol."""
    measured = {name: one.scores for name, one in manifest.candidates.items() if one.scores}
    # Every record of a table needs the same columns.
    columns = list(dict.fromkeys(measure for scores in measured.values() for measure in scores))
    return [
        dg.TableRecord({"model": name, **{column: _rounded(scores.get(column)) for column in columns}})
        for name, scores in measured.items()
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _pictures(trained: "TrainedModel") -> dict[str, dg.MarkdownMetadataValue]:
    from orcha_pipeline.forecasting.charts import error_by_horizon_png, forecast_fan_png, loss_curve_png

    pictures: dict[str, bytes] = {}
    if trained.examples:
        pictures["fan against truth"] = forecast_fan_png(trained.panel, trained.examples)
    errors = {name: one.error_by_horizon for name, one in trained.manifest.candidates.items() if one.error_by_horizon}
    if errors:
        pictures["error by horizon"] = error_by_horizon_png(errors)
    if trained.loss:
        pictures["loss"] = loss_curve_png(trained.loss, trained.val_loss, best_epoch=trained.best_epoch)
    return {name: picture(content, name) for name, content in pictures.items()}
