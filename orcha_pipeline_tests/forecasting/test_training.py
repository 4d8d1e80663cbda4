import subprocess
import sys

import numpy as np
import pytest

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import artifact, serving
from orcha_pipeline.forecasting.backtest import split_windows
from orcha_pipeline.forecasting.baselines import score
from orcha_pipeline.forecasting.features import series_of
from orcha_pipeline.forecasting.training import train_protocol
from orcha_pipeline.settings import ForecastSettings, Settings
from orcha_pipeline_tests.forecasting.conftest import NOISE, TRAINED_AT
from orcha_pipeline_tests.forecasting.synthetic import features

keras_warns = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def train(frame, folder, settings):
    return train_protocol(frame, protocol="storj", settings=settings, out_dir=folder, trained_at=TRAINED_AT)


@pytest.mark.parametrize(("hours", "reason"), [(40, "40 known hours of history"), (100, "windows to train on")])
def test_too_little_history_leaves_a_seasonal_naive_that_says_why(tmp_path, settings, hours, reason):
    trained = train(features(hours=hours), tmp_path, settings)
    manifest = artifact.read_manifest(tmp_path)
    assert manifest == trained.manifest
    assert manifest.kind == "seasonal-naive"
    assert reason in manifest.reason
    assert [path.name for path in tmp_path.iterdir()] == [artifact.MANIFEST_FILE]
    assert trained.loss == ()


def test_a_seasonal_naive_is_measured_where_its_history_allows(tmp_path, settings):
    manifest = train(features(hours=150), tmp_path, settings).manifest
    assert manifest.kind == "seasonal-naive"
    assert 0 < manifest.metrics["seasonal_naive"]["wape"] < 1
    assert "lstm" not in manifest.metrics


def test_a_seasonal_naive_is_served_as_such_with_its_reason(tmp_path, settings):
    frame = features(hours=100)
    manifest = train(frame, tmp_path, settings).manifest
    (one,) = serving.forecast(
        frame, nodes=["storj-1"], issued_at=manifest.data_end, model_dir=tmp_path, settings=settings
    )
    assert (one.model, one.note) == ("seasonal-naive", manifest.reason)


def test_training_again_into_a_folder_leaves_nothing_of_the_older_model(hand_made_model, settings):
    train(features(hours=40), hand_made_model, settings)
    assert [path.name for path in hand_made_model.iterdir()] == [artifact.MANIFEST_FILE]


def test_nothing_known_is_nothing_to_train_on(tmp_path, settings):
    with pytest.raises(ModelError, match="storj has a known hour"):
        train(features(hours=400).assign(yield_usd=np.nan), tmp_path, settings)


def test_importing_the_training_loads_no_tensorflow():
    code = "import sys, orcha_pipeline.forecasting.training; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def noise_floor(split):
    """WAPE of one who knows the true profile: no forecast can do better but by luck."""
    clean = series_of(features(noise=0))["storj-1"]
    starts = (split.test.origins - clean.start).astype(int)
    median = np.stack([clean.yields[s : s + 24] for s in starts]) * np.exp(-(NOISE**2) / 2)
    return score(split.test.target, np.repeat(median[..., None], 3, axis=-1), np.ones(len(split.test))).wape


@pytest.mark.slow
@keras_warns
class TestTheTrainedModel:
    def test_beats_seasonal_naive_and_comes_near_the_noise_floor(self, trained, settings):
        split = split_windows(series_of(trained.frame), context_hours=72, max_windows=400, seed=7)
        lstm, naive = trained.manifest.metrics["lstm"], trained.manifest.metrics["seasonal_naive"]
        assert lstm["wape"] < 0.9 * naive["wape"]
        assert lstm["pinball"] < naive["pinball"]
        assert lstm["wape"] < 1.2 * noise_floor(split)
        assert 0.65 <= lstm["coverage80"] <= 0.95

    def test_is_written_with_all_that_serving_and_auditing_need(self, trained):
        assert artifact.read_manifest(trained.folder) == trained.manifest
        assert {path.name for path in trained.folder.iterdir()} == {"manifest.json", "model.onnx", "model.keras"}
        assert trained.manifest.kind == "lstm"
        assert len(trained.manifest.data_sha256) == 64
        assert trained.manifest.data_end <= TRAINED_AT
        assert len(trained.loss) == len(trained.val_loss) <= 12
        assert trained.manifest.params["best_epoch"] == trained.best_epoch <= len(trained.loss)

    def test_is_the_same_in_onnx_as_in_keras(self, trained):
        from orcha_pipeline.forecasting import lstm

        windows = split_windows(series_of(trained.frame), context_hours=72, max_windows=400, seed=7).test
        by_keras = lstm.predict(lstm.load(trained.folder / artifact.KERAS_FILE), windows)
        by_onnx = serving.predict(trained.folder / artifact.ONNX_FILE, windows)
        np.testing.assert_allclose(by_onnx, by_keras, atol=1e-5)
        assert (np.diff(by_onnx, axis=-1) >= 0).all()

    def test_serves_again_what_its_backtest_said(self, trained, settings):
        (example,) = trained.examples
        (served,) = serving.forecast(
            trained.frame, nodes=["storj-1"], issued_at=example.issued_at, model_dir=trained.folder, settings=settings
        )
        assert served.model == "lstm"
        np.testing.assert_allclose(served.p50, example.p50, rtol=1e-5)
        np.testing.assert_allclose(served.p90, example.p90, rtol=1e-5)


@pytest.mark.slow
@keras_warns
def test_the_same_data_and_seed_give_the_same_model_and_another_seed_another(tmp_path):
    frame = features(hours=240)

    def loss(name, seed):
        settings = Settings(forecast=ForecastSettings(context_hours=24, max_epochs=1, seed=seed))
        return train(frame, tmp_path / name, settings).val_loss

    first = loss("a", 7)
    assert loss("b", 7) == first
    assert loss("c", 8) != first
