from pathlib import Path

import numpy as np
import pytest

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import artifact, model_registry
from orcha_pipeline.forecasting.features import build_windows, series_of
from orcha_pipeline.forecasting.model_registry import log_training
from orcha_pipeline.forecasting.serving import predict
from orcha_pipeline.forecasting.training import TrainedModel
from orcha_pipeline_tests.forecasting.conftest import write_hand_made_model
from orcha_pipeline_tests.forecasting.synthetic import features

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


@pytest.fixture
def store(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    yield f"sqlite:///{tmp_path}/home/mlflow/mlflow.db"
    assert not list(elsewhere.iterdir()), "MLflow fell back to a store in the working directory"


@pytest.fixture
def client(store):
    return model_registry._client(store)  # whose settings hold for the import: no telemetry from tests either


@pytest.fixture
def lstm(hand_made_model):
    return TrainedModel(
        folder=hand_made_model,
        manifest=artifact.read_manifest(hand_made_model),
        frame=features(hours=100),
        loss=(1.0, 0.8, 0.7),
        val_loss=(1.1, 0.9, 0.95),
        best_epoch=2,
    )


@pytest.fixture
def naive(tmp_path):
    folder = write_hand_made_model(
        tmp_path / "naive",
        offsets=(-1, 0, 1),
        kind="seasonal-naive",
        onnx_sha256=None,
        reason="40 known hours of history, 48 needed",
        metrics={"seasonal_naive": {"wape": 0.3, "mase": 1.0}},
    )
    return TrainedModel(folder=folder, manifest=artifact.read_manifest(folder), frame=features(hours=100))


def log(trained, store):
    return log_training(trained, tracking_uri=store, dagster_run_id="dagster-1", tags={"orcha.reason": "weekly"})


def test_a_training_is_two_comparable_runs_with_curves_charts_and_provenance(lstm, store, client, capfd):
    registered = log(lstm, store)
    assert capfd.readouterr().out == ""

    runs = {run.data.tags["orcha.model"]: run for run in client.search_runs([registered.experiment_id])}
    assert set(runs) == {"lstm", "seasonal-naive"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert client.get_experiment(registered.experiment_id).name == "orcha-storj"
    own, sibling = runs["lstm"].data, runs["seasonal-naive"].data
    assert (own.metrics["wape"], sibling.metrics["wape"], own.metrics["seasonal_naive_wape"]) == (0.2, 0.3, 0.3)
    assert set(sibling.metrics) <= set(own.metrics)
    assert own.params["units"] == "128/64"
    for data in (own, sibling):
        assert data.tags["orcha.dagster_run_id"] == "dagster-1"
        assert data.tags["orcha.data_sha256"] == "0" * 64
        assert data.tags["orcha.code_version"] == "0.0.0"
        assert data.tags["orcha.data_end"] == "2026-02-02T00:30:00+00:00"
        assert data.tags["orcha.reason"] == "weekly"
    curve = client.get_metric_history(registered.run_id, "val_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.1), (2, 0.9), (3, 0.95)]
    assert [file.path for file in client.list_artifacts(registered.run_id, "charts")] == ["charts/loss_curve.png"]


def test_the_registered_model_holds_network_and_preprocessing_and_answers_the_same(lstm, store, client, tmp_path):
    from mlflow.artifacts import download_artifacts

    registered = log(lstm, store)
    version = client.get_model_version_by_alias("orcha-storj", "champion")
    assert (str(version.version), version.run_id) == (registered.version, registered.run_id)
    folder = Path(download_artifacts(artifact_uri=version.source, tracking_uri=store))
    assert (folder / "MLmodel").is_file()
    kept = artifact.Manifest.model_validate_json((folder / "extra_files" / artifact.MANIFEST_FILE).read_bytes())
    assert kept == lstm.manifest
    one = series_of(lstm.frame)["storj-1"]
    windows = build_windows([(one, np.array([one.end]))], context_hours=kept.context_hours)
    np.testing.assert_array_equal(
        predict(folder / artifact.ONNX_FILE, windows), predict(lstm.folder / artifact.ONNX_FILE, windows)
    )


def test_the_newest_lstm_becomes_champion_and_serving_learns_its_version(lstm, store, client):
    first, second = log(lstm, store), log(lstm, store)
    assert (first.version, second.version) == ("1", "2")
    assert first.champion
    assert second.champion
    aliases = client.get_registered_model("orcha-storj").aliases
    assert {name: str(version) for name, version in aliases.items()} == {"champion": "2", "challenger": "2"}
    assert artifact.read_version(lstm.folder) == "2"


def test_a_seasonal_naive_is_champion_only_while_no_lstm_stands(lstm, naive, store, client):
    assert log(naive, store).champion
    assert log(lstm, store).champion
    late = log(naive, store)
    assert not late.champion
    assert str(client.get_model_version_by_alias("orcha-storj", "champion").version) == "2"
    assert str(client.get_model_version_by_alias("orcha-storj", "challenger").version) == "3"
    assert client.get_model_version("orcha-storj", "3").description == "40 known hours of history, 48 needed"


def test_an_experiment_deleted_by_hand_is_taken_up_again(lstm, store, client):
    registered = log(lstm, store)
    client.delete_experiment(registered.experiment_id)
    assert log(lstm, store).experiment_id == registered.experiment_id


def test_a_training_that_cannot_be_registered_is_a_failed_run_and_leaves_no_champion(lstm, store, client, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*args, **kwargs):
        raise MlflowException("the disk is full")

    monkeypatch.setattr(MlflowClient, "create_model_version", refuse)
    with pytest.raises(ModelError, match=r"orcha-storj.*the disk is full"):
        log(lstm, store)
    (experiment,) = client.search_experiments(filter_string="name = 'orcha-storj'")
    status = {run.data.tags["orcha.model"]: run.info.status for run in client.search_runs([experiment.experiment_id])}
    assert status == {"lstm": "FAILED", "seasonal-naive": "FINISHED"}
    assert client.get_registered_model("orcha-storj").aliases == {}
    assert artifact.read_version(lstm.folder) == "unregistered"
