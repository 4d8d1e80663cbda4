import subprocess
import sys
from typing import get_args

import numpy as np
import pytest

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import artifact
from orcha_pipeline.forecasting.features import to_datetime, to_hour
from orcha_pipeline.forecasting.metrics import score
from orcha_pipeline.forecasting.served_model import ServedModel, read_example
from orcha_pipeline.settings import ForecastModel
from orcha_pipeline_tests.forecasting.conftest import NOISE, SIMPLE, TRAINED_AT, train
from orcha_pipeline_tests.forecasting.synthetic import START, features, panel

keras_warns = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def test_every_candidate_is_measured_at_the_same_origins_and_so_is_what_is_served(simple_model):
    manifest = simple_model.manifest
    assert set(manifest.candidates) == {"served", *SIMPLE}
    assert len({one.scores["hours"] for one in manifest.candidates.values()}) == 1
    for one in manifest.candidates.values():
        assert set(one.by_target) == {"yield_usd", "net_native"}
        assert 0 < one.by_target["yield_usd"]["wape"] < 1
        assert len(one.error_by_horizon) == 24
        assert {"wape", "mase", "smape", "pinball", "coverage80"} <= set(one.scores)
    assert manifest.candidates["hour_mean"].scores["fit_seconds"] >= 0


def test_what_is_served_beats_seasonal_naive_where_yesterday_is_noisy(simple_model):
    candidates = simple_model.manifest.candidates
    assert candidates["served"].scores["wape"] < 0.95 * candidates["seasonal_naive"].scores["wape"]
    # Rather too wide than too narrow: of four weeks only a handful of windows do not overlap.
    assert 0.65 <= candidates["served"].scores["coverage80"] <= 0.99


def test_the_manifest_says_what_was_learnt_from_and_bounds_every_part(simple_model):
    manifest = artifact.read_manifest(simple_model.folder)
    assert manifest == simple_model.manifest
    assert manifest.data_start == START
    assert manifest.data_start < manifest.fitted_before < manifest.tested_from < manifest.data_end <= TRAINED_AT
    assert manifest.series == ("storj-1:yield_usd", "storj-1:net_native")
    assert (manifest.dagster_run_id, manifest.seed, manifest.reason) == ("dagster-1", 7, "")
    assert len(manifest.data_sha256) == 64


def test_the_saved_model_gives_again_what_its_training_logged(simple_model):
    model = ServedModel.open(simple_model.folder)
    assert model.reproduces()
    histories, logged = read_example(simple_model.folder)
    assert {one.end for one in histories} == {to_hour(simple_model.manifest.data_end)}
    histories[0].values[-1] += 1.0
    assert not np.array_equal(model.forecast(histories), logged)


def test_no_hour_after_the_fit_changes_the_fit_and_none_of_the_test_the_choice(tmp_path):
    """What the selection was tested with may not have seen the test: the forecasts measured must not move with it."""
    frame = features(noise=NOISE)
    first = train(tmp_path / "a", frame)
    boundary = first.manifest.tested_from
    changed = frame.copy()
    late = changed["hour"] >= boundary + (first.manifest.data_end - boundary) * 0.9
    changed.loc[late, ["yield_usd", "net_native"]] *= 5
    second = train(tmp_path / "b", changed)
    assert second.manifest.tested_from == boundary
    assert first.manifest.data_sha256 != second.manifest.data_sha256
    # The last origins' answers rest on hours before them, by a selection that rests on hours before the test.
    for one, other in zip(first.examples, second.examples, strict=True):
        assert one.issued_at <= to_datetime(to_hour(boundary) + int(0.9 * 96) + 24)
        assert (one.node, one.hours) == (other.node, other.hours)
        assert one.p50 == other.p50


def test_a_boundary_is_never_crossed_by_a_target(simple_model):
    manifest = simple_model.manifest
    assert max(one.hours[-1] for one in simple_model.examples) < manifest.data_end


def test_too_little_history_leaves_seasonal_naive_and_says_so(tmp_path):
    trained = train(tmp_path, features(hours=30), candidates=("lightgbm", "lstm"))
    manifest = artifact.read_manifest(tmp_path)
    assert manifest.saved == ("seasonal_naive",)
    assert "lstm: " in manifest.reason
    assert "lightgbm: " in manifest.reason
    assert manifest.candidates["lstm"].refused
    assert trained.loss == ()
    assert ServedModel.open(tmp_path).reproduces()


@pytest.mark.parametrize("hours", [1, 3, 26, 60, 97, 150])
def test_however_short_the_history_there_is_a_model_that_answers(tmp_path, hours):
    everyone = get_args(ForecastModel)
    manifest = train(tmp_path, features(hours=hours), candidates=everyone).manifest
    assert "seasonal_naive" in manifest.saved
    assert set(manifest.candidates) >= {"served", *everyone}
    model = ServedModel.open(tmp_path)
    assert model.reproduces()
    _, logged = read_example(tmp_path)
    assert logged.shape == (2, 24, 3)


def test_training_again_into_a_folder_leaves_nothing_of_the_older_model(simple_model):
    (simple_model.folder / "old.bin").write_bytes(b"old")
    train(simple_model.folder, features(hours=200))
    assert not (simple_model.folder / "old.bin").exists()


def test_nothing_known_is_nothing_to_train_on(tmp_path):
    with pytest.raises(ModelError, match="storj has a known hour"):
        train(tmp_path, features(hours=400).assign(yield_usd=np.nan, net_native=np.nan))


def test_a_classical_method_that_would_take_too_long_is_left_out_with_its_reason(tmp_path):
    ticks = iter(range(10**9))
    trained = train(tmp_path, features(hours=400), candidates=("theta",), clock=lambda: 30.0 * next(ticks))
    assert "would take about" in trained.manifest.candidates["theta"].refused
    assert "theta" not in trained.manifest.saved


def test_importing_the_training_loads_no_heavy_library():
    code = """
import sys, orcha_pipeline.forecasting.training
sys.exit(bool({"tensorflow", "lightgbm", "statsforecast", "mlflow", "sklearn", "onnxruntime"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def noise_floor(trained):
    """WAPE of one who knows the true profile, at the last origins: no forecast can do better but by luck."""
    (clean,) = (one for one in panel(features(noise=0)) if one.name.endswith("yield_usd"))
    (noisy,) = (one for one in trained.panel if one.name.endswith("yield_usd"))
    start, end = to_hour(trained.manifest.tested_from), to_hour(trained.manifest.data_end)
    median = clean.between(start, end) * np.exp(-(NOISE**2) / 2)
    return score(noisy.between(start, end)[None], np.repeat(median[None, :, None], 3, axis=-1), np.ones(1)).wape


@pytest.mark.slow
@keras_warns
class TestTheFullModel:
    def test_comes_near_the_noise_floor(self, full_model):
        candidates = full_model.manifest.candidates
        floor = noise_floor(full_model)
        served, naive = (candidates[name].by_target["yield_usd"]["wape"] for name in ("served", "seasonal_naive"))
        assert served < 0.9 * naive
        assert served < 1.2 * floor
        assert candidates["lstm"].by_target["yield_usd"]["wape"] < naive

    def test_saves_every_forecaster_and_reproduces_its_forecast_from_the_files(self, full_model):
        assert set(full_model.manifest.saved) == {*SIMPLE, "linear", "lightgbm", "lightgbm_log1p", "lstm"}
        assert "candidates/lstm/model.onnx" in full_model.manifest.files
        assert ServedModel.open(full_model.folder).reproduces()

    def test_keeps_the_lstm_s_loss_an_epoch(self, full_model):
        assert len(full_model.loss) == len(full_model.val_loss) > 1
        assert 1 <= full_model.best_epoch <= len(full_model.loss)

    def test_serves_without_loading_what_it_was_trained_with(self, full_model):
        code = f"""
import sys
from pathlib import Path
from orcha_pipeline.forecasting.served_model import ServedModel
assert ServedModel.open(Path({str(full_model.folder)!r})).reproduces()
print(sorted({{"tensorflow", "keras", "mlflow", "lightgbm", "sklearn", "pandas", "onnx", "dagster", "scipy"}}
             & set(sys.modules)))
"""
        ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert ran.stdout.strip() == "[]"


@pytest.mark.slow
@keras_warns
def test_the_same_data_and_seed_give_the_same_model_and_another_seed_another(tmp_path):
    frame = features(hours=300, noise=NOISE)  # so that naive, which draws nothing, is not served

    def answer(name, seed):
        folder = train(tmp_path / name, frame, candidates=("lightgbm", "lstm"), seed=seed).folder
        return read_example(folder)[1]

    first = answer("a", 7)
    np.testing.assert_array_equal(answer("b", 7), first)
    assert not np.array_equal(answer("c", 8), first)
