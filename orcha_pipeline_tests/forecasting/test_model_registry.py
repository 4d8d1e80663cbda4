from dataclasses import replace

import numpy as np
import pytest

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import artifact, model_registry
from orcha_pipeline.forecasting.artifact import Candidate
from orcha_pipeline.forecasting.model_registry import log_training
from orcha_pipeline.forecasting.served_model import ServedModel, read_example
from orcha_pipeline.forecasting.training import Standing
from orcha_pipeline_tests.forecasting.conftest import NOISE, SIMPLE, train
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
    return model_registry.open_client(store)  # whose settings hold for the import: no telemetry from tests either


def log(trained, store):
    return log_training(trained, tracking_uri=store, dagster_run_id="dagster-1", tags={"orcha.reason": "weekly"})


def beaten_by(trained, wape, version="1"):
    """As if the standing champion had this WAPE at the same origins."""
    scores = {"wape": wape}
    standing = Candidate(scores=scores, by_target={"yield_usd": scores, "net_native": scores})
    return replace(trained, champion=Standing(version=version, scores=standing))


def aliases(client):
    found = client.get_registered_model("orcha-storj").aliases
    return {name: str(version) for name, version in found.items()}


def test_a_training_is_a_run_a_candidate_with_the_same_measures_below_what_is_served(
    simple_model, store, client, capfd
):
    trained = replace(
        simple_model,
        loss=(1.0, 0.8, 0.7),
        val_loss=(1.1, 0.9, 0.95),
        best_epoch=2,
        manifest=simple_model.manifest.model_copy(
            update={
                "candidates": {
                    **simple_model.manifest.candidates,
                    "lstm": simple_model.manifest.candidates["hour_mean"].model_copy(
                        update={"parameters": {"units": 64}}
                    ),
                    "mstl": Candidate(refused="mstl: too slow"),
                }
            }
        ),
    )
    registered = log(trained, store)
    assert capfd.readouterr().out == ""

    runs = {run.data.tags["orcha.model"]: run for run in client.search_runs([registered.experiment_id])}
    assert set(runs) == {"served", "lstm", *SIMPLE}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    experiment = client.get_experiment(registered.experiment_id)
    assert experiment.name == "orcha-storj"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    measures = {"wape", "mase", "smape", "pinball", "coverage80", "wape_yield_usd", "wape_net_native"}
    for name, run in runs.items():
        assert measures <= set(run.data.metrics), name
        assert run.data.tags["orcha.dagster_run_id"] == "dagster-1"
        assert run.data.tags["orcha.data_sha256"] == trained.manifest.data_sha256
        assert run.data.tags["orcha.reason"] == "weekly"
        if name != "served":
            assert run.data.tags["mlflow.parentRunId"] == registered.run_id
            assert {"fit_seconds", "predict_seconds"} <= set(run.data.metrics)
    wape = trained.manifest.candidates["hour_mean"].scores["wape"]
    assert runs["hour_mean"].data.metrics["wape"] == wape
    assert runs["lstm"].data.params["units"] == "64"
    lstm = runs["lstm"].info.run_id
    curve = client.get_metric_history(lstm, "val_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.1), (2, 0.9), (3, 0.95)]
    by_horizon = client.get_metric_history(runs["hour_mean"].info.run_id, "wape_by_horizon")
    assert [point.step for point in by_horizon] == list(range(1, 25))
    assert [file.path for file in client.list_artifacts(lstm, "charts")] == ["charts/loss_curve.png"]
    charts = {file.path for file in client.list_artifacts(registered.run_id, "charts")}
    assert charts == {"charts/forecast_fan.png", "charts/error_by_horizon.png"}


def test_the_registered_model_is_the_whole_artifact_and_answers_the_same_through_mlflow(simple_model, store, client):
    import mlflow.pyfunc
    import pandas as pd

    registered = log(simple_model, store)
    version = client.get_model_version_by_alias("orcha-storj", "champion")
    assert (str(version.version), version.run_id) == (registered.version, registered.run_id)
    loaded = mlflow.pyfunc.load_model(version.source)
    kept = loaded._model_impl.model
    assert kept.reproduces()
    assert kept.manifest == simple_model.manifest
    assert {column.name for column in loaded.metadata.signature.inputs} == {"unique_id", "ds", "y", "share"}

    histories, logged = read_example(simple_model.folder)
    table = pd.concat(
        pd.DataFrame(
            {
                "unique_id": one.name,
                "ds": np.arange(one.first_hour, one.end).astype("datetime64[h]").astype("datetime64[us]"),
                "y": one.between(one.first_hour, one.end),
                "share": one.shares,
            }
        )
        for one in histories
    )
    answer = loaded.predict(table)
    assert list(answer.columns) == ["unique_id", "ds", "p10", "p50", "p90"]
    for one, expected in zip(histories, logged, strict=True):
        own = answer[answer["unique_id"] == one.name]
        assert own["ds"].iloc[0] == np.datetime64(one.end, "h")
        np.testing.assert_array_equal(own[["p10", "p50", "p90"]].to_numpy(), expected)


def test_the_first_that_beats_naive_is_champion_and_serving_learns_its_version(simple_model, store, client):
    registered = log(simple_model, store)
    assert registered.champion
    assert "there was no champion" in registered.why
    assert aliases(client) == {"champion": "1", "challenger": "1"}
    assert ServedModel.open(simple_model.folder).version == "1"


def test_a_challenger_takes_the_place_only_of_a_champion_it_beats(simple_model, store, client):
    log(simple_model, store)
    refused = log(beaten_by(simple_model, 0.001), store)
    assert not refused.champion
    assert "no better than champion 1's 0.001" in refused.why
    assert aliases(client) == {"champion": "1", "challenger": "2"}
    assert log(beaten_by(simple_model, 0.9), store).champion
    assert aliases(client) == {"champion": "3", "challenger": "3"}
    found = {str(one.version): one for one in client.search_model_versions("name = 'orcha-storj'")}
    assert set(found) == {"1", "2", "3"}
    assert "no better than champion 1's" in found["2"].description
    labels = {run.data.tags["orcha.model"] for run in client.search_runs([refused.experiment_id])}
    assert "champion-1" in labels


def test_what_does_not_beat_seasonal_naive_is_never_champion(tmp_path, store, client):
    trained = train(tmp_path / "naive", features(noise=NOISE), candidates=())
    registered = log(trained, store)
    assert not registered.champion
    assert aliases(client) == {"challenger": "1"}


def test_the_standing_champion_is_measured_at_the_same_origins(tmp_path, simple_model, store):
    log(simple_model, store)
    second = train(tmp_path / "second", features(noise=NOISE), champion=simple_model.folder)
    assert second.champion.version == "1"
    # The same data and forecasters: the same fit, and a selection that has already seen the test part.
    wape = second.manifest.candidates["served"].scores["wape"]
    assert second.champion.scores.scores["wape"] == pytest.approx(wape, rel=0.1)
    assert second.champion.scores.scores["hours"] == second.manifest.candidates["served"].scores["hours"]


def test_a_champion_that_cannot_be_loaded_does_not_stop_a_training(tmp_path, simple_model):
    (simple_model.folder / artifact.MANIFEST_FILE).unlink()
    assert train(tmp_path / "second", features(noise=NOISE), champion=simple_model.folder).champion is None


def test_an_experiment_deleted_by_hand_is_taken_up_again(simple_model, store, client):
    registered = log(simple_model, store)
    client.delete_experiment(registered.experiment_id)
    assert log(simple_model, store).experiment_id == registered.experiment_id


def test_a_training_that_cannot_be_registered_is_a_failed_run_and_moves_no_alias(
    simple_model, store, client, monkeypatch
):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    log(simple_model, store)
    artifact.write(simple_model.folder, artifact.Registration(name="orcha-storj", version="1"))

    def refuse(*args, **kwargs):
        raise MlflowException("the disk is full")

    monkeypatch.setattr(MlflowClient, "create_model_version", refuse)
    with pytest.raises(ModelError, match=r"orcha-storj.*the disk is full"):
        log(simple_model, store)
    (experiment,) = client.search_experiments(filter_string="name = 'orcha-storj'")
    latest = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[0]
    assert (latest.data.tags["orcha.model"], latest.info.status) == ("served", "FAILED")
    assert aliases(client) == {"champion": "1", "challenger": "1"}
    assert artifact.read_version(simple_model.folder) == "1"
