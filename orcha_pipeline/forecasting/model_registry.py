"""Trainings in MLflow: an experiment a protocol, a run a contender, the model registered under one name.

Everything goes through a client that is given the store's address, so that no global state of MLflow is set.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import artifact
from orcha_pipeline.forecasting.artifact import KERAS_FILE, MANIFEST_FILE, ONNX_FILE, Manifest, Registration
from orcha_pipeline.forecasting.charts import forecast_fan_png, loss_curve_png
from orcha_pipeline.forecasting.features import CHANNELS, HORIZON
from orcha_pipeline.forecasting.serving import LSTM, SEASONAL_NAIVE
from orcha_pipeline.forecasting.training import TrainedModel

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"
KIND_TAG = "orcha.model"
SQLITE = "sqlite:///"
TESTED = "hours"
"""The backtest's name for how many hours it measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """Where a training stands in MLflow. `champion` tells whether it is the one to serve."""

    name: str
    version: str
    run_id: str
    experiment_id: str
    champion: bool


def log_training(
    trained: TrainedModel, *, tracking_uri: str, dagster_run_id: str, tags: Mapping[str, str] | None = None
) -> RegisteredVersion:
    """Record a training as runs of `orcha-<protocol>`, register its model, and move the aliases.

    The LSTM and seasonal naive become two runs with the same metric names, which MLflow's page compares. The new
    version is `challenger`, and `champion` too unless it is a seasonal naive while an LSTM stands. The version is
    written into the artifact folder, where serving finds it. `tracking_uri` is `sqlite:///<path>` or an MLflow
    server's address. Raises ModelError where MLflow refuses; the run is then marked failed.
    """
    client = _client(tracking_uri)
    from mlflow.exceptions import MlflowException

    manifest = trained.manifest
    name = f"orcha-{manifest.protocol}"
    try:
        experiment_id = _experiment(client, name, tracking_uri)
        run_tags = _tags(manifest, dagster_run_id) | dict(tags or {})
        if manifest.kind != SEASONAL_NAIVE:
            _log_naive(client, experiment_id, manifest, run_tags)
        run_id, version = _log_model_run(client, experiment_id, name, trained, run_tags)
        client.set_registered_model_alias(name, CHALLENGER, version)
        champion = manifest.kind == LSTM or not _lstm_stands(client, name)
        if champion:
            client.set_registered_model_alias(name, CHAMPION, version)
    except MlflowException as refused:
        raise ModelError(
            f"MLflow at {tracking_uri} did not take the training of {name}: {refused.message}"
        ) from refused
    artifact.write(trained.folder, Registration(name=name, version=version))
    return RegisteredVersion(name=name, version=version, run_id=run_id, experiment_id=experiment_id, champion=champion)


def _client(tracking_uri: str) -> "MlflowClient":
    # Read at MLflow's first import. Nothing about an operator's machine is sent to anyone, and what is not an error
    # is not told: the caller reports.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    from mlflow import MlflowClient

    if tracking_uri.startswith(SQLITE):
        _store_file(tracking_uri).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _experiment(client: "MlflowClient", name: str, tracking_uri: str) -> str:
    """The experiment's id. With a SQLite store its artifacts lie in `artifacts/` beside the store's file."""
    if found := client.get_experiment_by_name(name):
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id
    location = None
    if tracking_uri.startswith(SQLITE):
        # An absolute file address: the pipeline writes there without a server, and the server's pages read there.
        location = (_store_file(tracking_uri).resolve().parent / "artifacts" / name).as_uri()
    return client.create_experiment(name, artifact_location=location)


def _store_file(tracking_uri: str) -> Path:
    return Path(tracking_uri.removeprefix(SQLITE))


def _tags(manifest: Manifest, dagster_run_id: str) -> dict[str, str]:
    return {
        "orcha.protocol": manifest.protocol,
        "orcha.dagster_run_id": dagster_run_id,
        "orcha.code_version": manifest.code_version,
        "orcha.data_sha256": manifest.data_sha256,
        "orcha.data_start": manifest.data_start.isoformat(),
        "orcha.data_end": manifest.data_end.isoformat(),
        "orcha.tested_from": manifest.tested_from.isoformat() if manifest.tested_from else "",
    }


def _create_run(
    client: "MlflowClient",
    experiment_id: str,
    manifest: Manifest,
    *,
    kind: str,
    tags: Mapping[str, str],
    params: Mapping[str, object],
) -> str:
    from mlflow.entities import Param

    run = client.create_run(
        experiment_id, run_name=f"{kind} {manifest.trained_at:%Y-%m-%d %H:%M}", tags={**tags, KIND_TAG: kind}
    )
    own = {"context_hours": manifest.context_hours, "nodes": ", ".join(manifest.nodes), **params}
    if tested := manifest.metrics.get("seasonal_naive", {}).get(TESTED):
        own["tested_hours"] = int(tested)
    client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in own.items()])
    return run.info.run_id


def _log_naive(client: "MlflowClient", experiment_id: str, manifest: Manifest, tags: Mapping[str, str]) -> None:
    run_id = _create_run(
        client, experiment_id, manifest, kind=SEASONAL_NAIVE, tags=tags, params={"season_hours": HORIZON}
    )
    _log_metrics(client, run_id, manifest.metrics["seasonal_naive"] | {"fit_seconds": 0.0}, manifest)
    client.set_terminated(run_id)


def _log_model_run(
    client: "MlflowClient", experiment_id: str, name: str, trained: TrainedModel, tags: Mapping[str, str]
) -> tuple[str, str]:
    """The run of the artifact itself; returns its id and the registered version."""
    from mlflow.entities import LoggedModelOutput

    manifest = trained.manifest
    run_id = _create_run(client, experiment_id, manifest, kind=manifest.kind, tags=tags, params=manifest.params)
    status = "FAILED"
    try:
        naive = manifest.metrics.get("seasonal_naive", {})
        own = manifest.metrics.get(LSTM, naive) | {"fit_seconds": manifest.fit_seconds}
        _log_curves(client, run_id, trained)
        if trained.loss:
            curve = loss_curve_png(trained.loss, trained.val_loss, best_epoch=trained.best_epoch)
            _log_bytes(client, run_id, "loss_curve.png", curve)
        if trained.examples:
            _log_bytes(client, run_id, "forecast_fan.png", forecast_fan_png(trained.frame, trained.examples))
        model = client.create_logged_model(experiment_id, name=manifest.kind, source_run_id=run_id, tags=dict(tags))
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            _save_model(folder, trained, model_id=model.model_id, run_id=run_id)
            client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        beside = {f"seasonal_naive_{metric}": value for metric, value in naive.items()}
        _log_metrics(client, run_id, own | beside, manifest, model_id=model.model_id)
        # The location and not `models:/<id>`: MLflow 3.17 looks that up in its global store, not in this client's.
        source = model.artifact_location
        version = _register(client, name, manifest, source=source, run_id=run_id, model_id=model.model_id)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status=status)
    return run_id, version


def _log_metrics(
    client: "MlflowClient", run_id: str, values: Mapping[str, float], manifest: Manifest, *, model_id: str | None = None
) -> None:
    from mlflow.entities import Metric

    moment = int(manifest.trained_at.timestamp() * 1000)
    measured = [
        Metric(key, value, moment, 0, model_id=model_id)
        for key, value in values.items()
        if not key.endswith(TESTED)  # the same for all contenders: a parameter, not a score
    ]
    client.log_batch(run_id, measured)


def _log_curves(client: "MlflowClient", run_id: str, trained: TrainedModel) -> None:
    """Loss by epoch, in one batch: a call an epoch takes a server ten times as long."""
    from mlflow.entities import Metric

    moment = int(trained.manifest.trained_at.timestamp() * 1000)
    curves: Mapping[str, Sequence[float]] = {"loss": trained.loss, "val_loss": trained.val_loss}
    points = [
        Metric(key, value, moment, epoch + 1) for key, curve in curves.items() for epoch, value in enumerate(curve)
    ]
    if points:
        client.log_batch(run_id, points)


def _log_bytes(client: "MlflowClient", run_id: str, name: str, content: bytes) -> None:
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / name
        path.write_bytes(content)
        client.log_artifact(run_id, str(path), "charts")


def _save_model(folder: Path, trained: TrainedModel, *, model_id: str, run_id: str) -> None:
    """Model and manifest as one MLflow model; a seasonal naive is its manifest alone."""
    if trained.manifest.kind == SEASONAL_NAIVE:
        folder.mkdir()
        (folder / MANIFEST_FILE).write_bytes((trained.folder / MANIFEST_FILE).read_bytes())
        return
    import numpy as np
    import onnx

    with warnings.catch_warnings():
        # What MLflow 3.17 says about a type of its own when its pyfunc flavour is first loaded.
        warnings.filterwarnings("ignore", category=UserWarning, message=".*Any type hint is inferred as AnyType")
        import mlflow.pyfunc  # noqa: F401 - loaded here for its warning
    from mlflow.models import Model, ModelSignature
    from mlflow.onnx import save_model
    from mlflow.types import Schema, TensorSpec

    single = np.dtype(np.float32)
    context = (-1, trained.manifest.context_hours, len(CHANNELS))
    shapes = {"context": context, "naive": (-1, HORIZON), "profile": (-1, HORIZON), "recent": (-1, 1)}
    network = onnx.load(trained.folder / ONNX_FILE)
    save_model(
        network,
        folder,
        mlflow_model=Model(model_id=model_id, run_id=run_id),
        signature=ModelSignature(
            inputs=Schema([TensorSpec(single, shape, name) for name, shape in shapes.items()]),
            outputs=Schema([TensorSpec(single, (-1, HORIZON, 3), network.graph.output[0].name)]),
        ),
        # Given, because working them out starts processes and takes seconds.
        pip_requirements=[f"{package}=={installed(package)}" for package in ("mlflow", "onnx", "onnxruntime", "numpy")],
        extra_files=[str(trained.folder / part) for part in (MANIFEST_FILE, KERAS_FILE)],
        save_as_external_data=False,
    )


def _register(client: "MlflowClient", name: str, manifest: Manifest, *, source: str, run_id: str, model_id: str) -> str:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description=f"24-hour yield forecast of {manifest.protocol} nodes")
    version = client.create_model_version(
        name,
        source=source,
        run_id=run_id,
        model_id=model_id,
        tags={KIND_TAG: manifest.kind, "orcha.data_sha256": manifest.data_sha256},
        description=manifest.reason,
    )
    return str(version.version)


def _lstm_stands(client: "MlflowClient", name: str) -> bool:
    """Whether the standing champion is an LSTM, which no seasonal naive may displace."""
    standing = client.get_registered_model(name).aliases.get(CHAMPION)
    return standing is not None and client.get_model_version(name, standing).tags.get(KIND_TAG) == LSTM
