"""Trainings in MLflow: an experiment a protocol, a run a candidate, the model registered under one name.

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
from orcha_pipeline.forecasting.artifact import Candidate, Manifest, Registration
from orcha_pipeline.forecasting.charts import error_by_horizon_png, forecast_fan_png, loss_curve_png
from orcha_pipeline.forecasting.promotion import SERVED, judge
from orcha_pipeline.forecasting.training import TrainedModel

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"
MODEL_TAG = "orcha.model"
VIEW = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow's page open the experiment with its runs and charts, and not with the view for language models."""
SQLITE = "sqlite:///"
LSTM = "lstm"
PYFUNC_MODULE = "orcha_pipeline.forecasting.mlflow_model"
REQUIREMENTS = ("mlflow", "numpy", "onnxruntime", "lightgbm", "pandas", "pydantic")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """Where a training stands in MLflow. `champion` tells whether it is the one to serve, and `why` the figures."""

    name: str
    version: str
    run_id: str
    experiment_id: str
    champion: bool
    why: str


def model_name(protocol: str) -> str:
    """Of the registered model and of the experiment."""
    return f"orcha-{protocol}"


def log_training(
    trained: TrainedModel, *, tracking_uri: str, dagster_run_id: str, tags: Mapping[str, str] | None = None
) -> RegisteredVersion:
    """Record a training as runs of `orcha-<protocol>`, register its model, and move the aliases.

    What is served is one run, and every candidate one below it with the same metric names, which MLflow's page
    compares; the standing champion's result on the same origins is one more. The new version becomes `challenger`, and
    `champion` if it beats champion and seasonal naive. The version is written into the artifact folder, where serving
    finds it. `tracking_uri` is `sqlite:///<path>` or an MLflow server's address. Raises ModelError where MLflow
    refuses; the run is then marked failed and the aliases stay.
    """
    manifest = trained.manifest
    name = model_name(manifest.protocol)
    champion = trained.champion
    verdict = judge(
        manifest,
        champion=champion.scores.by_target if champion else None,
        champion_version=champion.version if champion else "",
    )
    with _told(tracking_uri, f"the training of {name}"):
        client = open_client(tracking_uri)
        experiment_id = _experiment(client, name, tracking_uri)
        run_tags = _tags(manifest, dagster_run_id) | dict(tags or {})
        run_id, version = _log_served(client, experiment_id, name=name, trained=trained, tags=run_tags, why=verdict.why)
        beside = {key: one for key, one in manifest.candidates.items() if key != SERVED and not one.refused}
        if champion:
            beside[f"champion-{champion.version}"] = champion.scores
        below = {**run_tags, "mlflow.parentRunId": run_id}
        for key, result in beside.items():
            _log_candidate(client, experiment_id, trained=trained, name=key, result=result, tags=below)
        client.set_registered_model_alias(name, CHALLENGER, version)
        if verdict.promoted:
            client.set_registered_model_alias(name, CHAMPION, version)
    artifact.write(trained.folder, Registration(name=name, version=version))
    return RegisteredVersion(
        name=name,
        version=version,
        run_id=run_id,
        experiment_id=experiment_id,
        champion=verdict.promoted,
        why=verdict.why,
    )


def move_champion(protocol: str, version: str, *, tracking_uri: str, who: str, why: str) -> None:
    """Make `version` the champion; who did it and why stand on the version as tags. Raises ModelError."""
    name = model_name(protocol)
    with _told(tracking_uri, f"version {version} of {name} as champion"):
        client = open_client(tracking_uri)
        client.get_model_version(name, version)
        client.set_registered_model_alias(name, CHAMPION, version)
        client.set_model_version_tag(name, version, "orcha.promoted_by", who)
        client.set_model_version_tag(name, version, "orcha.promoted_why", why)


def open_client(tracking_uri: str) -> "MlflowClient":
    """A client of this store alone; a SQLite store's folder is made."""
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


class _told:  # noqa: N801 - used as a function
    """Turns MLflow's refusal into a ModelError that says what was asked of whom."""

    def __init__(self, tracking_uri: str, what: str) -> None:
        self._uri, self._what = tracking_uri, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            raise ModelError(f"MLflow at {self._uri} did not take {self._what}: {error.message}") from error


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
    return client.create_experiment(name, artifact_location=location, tags=VIEW)


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
        "orcha.fitted_before": manifest.fitted_before.isoformat(),
        "orcha.tested_from": manifest.tested_from.isoformat() if manifest.tested_from else "",
    }


def _log_served(
    client: "MlflowClient",
    experiment_id: str,
    *,
    name: str,
    trained: TrainedModel,
    tags: Mapping[str, str],
    why: str,
) -> tuple[str, str]:
    """The run of the artifact itself; returns its id and the registered version."""
    from mlflow.entities import LoggedModelOutput

    manifest = trained.manifest
    run_id = _create_run(client, experiment_id, manifest, model=SERVED, tags=tags, parameters={})
    status = "FAILED"
    try:
        if trained.examples:
            _log_bytes(client, run_id, "forecast_fan.png", forecast_fan_png(trained.panel, trained.examples))
        if by_horizon := _by_horizon(manifest):
            _log_bytes(client, run_id, "error_by_horizon.png", error_by_horizon_png(by_horizon))
        model = client.create_logged_model(experiment_id, name=SERVED, source_run_id=run_id, tags=dict(tags))
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            _save_model(folder, trained, model_id=model.model_id, run_id=run_id)
            client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        _log_scores(client, run_id, manifest, manifest.candidates[SERVED], model_id=model.model_id)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=f"24-hour forecast of {manifest.protocol} nodes")
        version = client.create_model_version(
            name,
            # The location and not `models:/<id>`: MLflow 3.17 looks that up in its global store, not in this client's.
            source=model.artifact_location,
            run_id=run_id,
            model_id=model.model_id,
            tags={"orcha.data_sha256": manifest.data_sha256},
            description=manifest.reason or why,
        )
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status=status)
    return run_id, str(version.version)


def _log_candidate(
    client: "MlflowClient",
    experiment_id: str,
    *,
    trained: TrainedModel,
    name: str,
    result: Candidate,
    tags: Mapping[str, str],
) -> None:
    manifest = trained.manifest
    run_id = _create_run(client, experiment_id, manifest, model=name, tags=tags, parameters=result.parameters)
    _log_scores(client, run_id, manifest, result)
    if name == LSTM and trained.loss:
        _log_series(client, run_id, manifest, {"loss": trained.loss, "val_loss": trained.val_loss})
        curve = loss_curve_png(trained.loss, trained.val_loss, best_epoch=trained.best_epoch)
        _log_bytes(client, run_id, "loss_curve.png", curve)
    client.set_terminated(run_id)


def _create_run(
    client: "MlflowClient",
    experiment_id: str,
    manifest: Manifest,
    *,
    model: str,
    tags: Mapping[str, str],
    parameters: Mapping[str, object],
) -> str:
    from mlflow.entities import Param

    run = client.create_run(
        experiment_id, run_name=f"{model} {manifest.trained_at:%Y-%m-%d %H:%M}", tags={**tags, MODEL_TAG: model}
    )
    own = {
        "series": ", ".join(manifest.series)[:500],
        "test_origins": manifest.origins,
        "seed": manifest.seed,
        **parameters,
    }
    client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in own.items()])
    return run.info.run_id


def _log_scores(
    client: "MlflowClient", run_id: str, manifest: Manifest, result: Candidate, *, model_id: str | None = None
) -> None:
    """The same names for every candidate: `wape`, ..., and `wape_yield_usd` for a target's series alone."""
    from mlflow.entities import Metric

    moment = int(manifest.trained_at.timestamp() * 1000)
    values = dict(result.scores)
    for target, scores in result.by_target.items():
        values |= {f"{measure}_{target}": value for measure, value in scores.items()}
    client.log_batch(
        run_id, [Metric(key, value, moment, 0, model_id=model_id) for key, value in sorted(values.items())]
    )
    _log_series(client, run_id, manifest, {"wape_by_horizon": result.error_by_horizon})


def _log_series(client: "MlflowClient", run_id: str, manifest: Manifest, curves: Mapping[str, Sequence[float]]) -> None:
    """Curves with steps from 1, in one batch: a call a point takes a server ten times as long."""
    from mlflow.entities import Metric

    moment = int(manifest.trained_at.timestamp() * 1000)
    points = [Metric(key, value, moment, i + 1) for key, curve in curves.items() for i, value in enumerate(curve)]
    if points:
        client.log_batch(run_id, points)


def _by_horizon(manifest: Manifest) -> dict[str, tuple[float, ...]]:
    return {name: one.error_by_horizon for name, one in manifest.candidates.items() if one.error_by_horizon}


def _log_bytes(client: "MlflowClient", run_id: str, name: str, content: bytes) -> None:
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / name
        path.write_bytes(content)
        client.log_artifact(run_id, str(path), "charts")


def _save_model(folder: Path, trained: TrainedModel, *, model_id: str, run_id: str) -> None:
    """The whole artifact folder as one MLflow model: `mlflow.pyfunc.load_model` takes and gives long tables."""
    with warnings.catch_warnings():
        # What MLflow 3.17 says about a type of its own when its pyfunc flavour is first loaded, and that a model should
        # have an input example: ours has one, with what it answered.
        warnings.filterwarnings("ignore", category=UserWarning, message=".*Any type hint is inferred as AnyType")
        warnings.filterwarnings("ignore", category=UserWarning, message=".*An input example was not provided")
        import mlflow.pyfunc
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, DataType, Schema

        mlflow.pyfunc.save_model(
            folder,
            loader_module=PYFUNC_MODULE,
            data_path=str(trained.folder),
            mlflow_model=Model(model_id=model_id, run_id=run_id),
            signature=ModelSignature(
                inputs=Schema(
                    [
                        ColSpec(DataType.string, "unique_id"),
                        ColSpec(DataType.datetime, "ds"),
                        ColSpec(DataType.double, "y", required=False),
                        ColSpec(DataType.double, "share", required=False),
                    ]
                ),
                outputs=Schema(
                    [
                        ColSpec(DataType.string, "unique_id"),
                        ColSpec(DataType.datetime, "ds"),
                        *(ColSpec(DataType.double, quantile) for quantile in ("p10", "p50", "p90")),
                    ]
                ),
            ),
            # Given, because working them out starts processes and takes seconds.
            pip_requirements=[f"{package}=={installed(package)}" for package in REQUIREMENTS],
        )
