"""The LSTM as a forecaster: fitted once, asked through onnxruntime, the same after it was saved."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import lstm_forecaster, network
from orcha_pipeline.forecasting.lstm_forecaster import Lstm
from orcha_pipeline.forecasting.network import KERAS_FILE, ONNX_FILE
from orcha_pipeline.forecasting.panel import HourlySeries

FIRST = 480_000
HOURS = 500


def series(name="a", *, hours=HOURS, level=5.0, phase=0.0, seed=0, shares=True):
    random = np.random.default_rng(seed)
    values = level * (1 + 0.5 * np.sin(2 * np.pi * np.arange(hours) / 24 + phase) + random.normal(0, 0.05, hours))
    return HourlySeries(name, FIRST, values, random.random(hours) if shares else None)


def panel():
    first, second = series(), series("b", level=900.0, phase=2.0, seed=1, shares=False)
    first.values[100:110] = np.nan
    return [first, second]


@pytest.fixture(scope="module")
def fitted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "MAX_EPOCHS", 2)
        forecaster = Lstm()
        told: list[str] = []
        forecaster.fit(panel(), horizon=24, seed=7, tell=told.append)
    assert told[0].startswith("518 windows of 2 series to train on")
    assert len(told) == 3
    return forecaster


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lstm")
    fitted.save(folder)
    return folder


def histories():
    made = [one.before(FIRST + origin) for one in panel() for origin in (200, 333, HOURS)]
    return [*made, HourlySeries("new", FIRST, np.full(300, 2.5)), series("c", level=1e-6, seed=3)]


def test_forecasts_have_a_row_for_each_history_in_order(fitted):
    every = fitted.forecast(histories(), horizon=24)
    assert every.shape == (8, 24, 3)
    assert np.isfinite(every).all()
    assert (np.diff(every, axis=2) >= 0).all()
    backwards = fitted.forecast(histories()[::-1], horizon=24)
    np.testing.assert_array_equal(backwards[::-1], every)


def test_a_history_is_forecast_the_same_alone_and_among_others(fitted):
    every = fitted.forecast(histories(), horizon=24)
    for i, one in enumerate(histories()):
        np.testing.assert_array_equal(fitted.forecast([one], horizon=24)[0], every[i])


def test_many_histories_are_run_in_chunks_as_they_are_at_once(fitted, monkeypatch):
    every = fitted.forecast(histories(), horizon=24)
    monkeypatch.setattr(lstm_forecaster, "CHUNK", 3)
    np.testing.assert_array_equal(fitted.forecast(histories(), horizon=24), every)


def test_a_shorter_horizon_is_the_start_of_the_longer_one(fitted):
    every = fitted.forecast(histories(), horizon=24)
    np.testing.assert_array_equal(fitted.forecast(histories(), horizon=5), every[:, :5])


def test_a_longer_horizon_than_fitted_is_refused(fitted):
    with pytest.raises(ModelError, match="fitted for 24 hours and cannot forecast 25"):
        fitted.forecast(histories(), horizon=25)


def test_no_histories_get_no_forecasts(fitted):
    assert fitted.forecast([], horizon=24).shape == (0, 24, 3)


def test_a_constant_series_is_forecast_as_itself(fitted):
    histories = [HourlySeries("flat", FIRST, np.full(300, value)) for value in (42.0, 0.0, -3.0)]
    answer = fitted.forecast(histories, horizon=24)
    np.testing.assert_allclose(
        answer, np.broadcast_to([[[42.0]], [[0.0]], [[-3.0]]], answer.shape), rtol=1e-4, atol=1e-4
    )


def test_it_forecasts_a_daily_cycle_better_than_the_mean(fitted):
    whole = series(hours=HOURS + 24)
    truth = whole.values[-24:]
    answer = fitted.forecast([whole.before(FIRST + HOURS)], horizon=24)[0, :, 1]
    assert np.abs(answer - truth).mean() < 0.3 * np.abs(truth - whole.values[:-24].mean()).mean()


def test_under_half_of_the_last_week_known_gives_no_answer(fitted):
    known, unknown, short = (series(seed=2) for _ in range(3))
    known.values[-84:] = np.nan
    unknown.values[-85:] = np.nan
    rows = fitted.forecast([known, unknown, replace(short, values=short.values[:83], shares=None)], horizon=24)
    assert np.isfinite(rows[0]).all()
    assert np.isnan(rows[1:]).all()


def test_hours_after_the_origin_change_nothing(fitted):
    whole = series()
    changed = replace(whole, values=np.where(np.arange(HOURS) < 300, whole.values, 1e9))
    one, other = (fitted.forecast([each.before(FIRST + 300)], horizon=24) for each in (whole, changed))
    np.testing.assert_array_equal(one, other)


HOSTILE = st.one_of(
    st.just(float("nan")),
    st.just(0.0),
    st.floats(allow_nan=False, allow_infinity=True),
    st.floats(min_value=0, max_value=10),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(HOSTILE, min_size=1, max_size=60))
def test_whatever_the_history_a_row_is_finite_or_unknown_and_not_below_zero_without_reason(fitted, pattern):
    values = np.resize(np.array(pattern), 200)
    (answer,) = fitted.forecast([HourlySeries("a", FIRST, values)], horizon=24)
    assert np.isfinite(answer).all() or np.isnan(answer).all()
    if not (values < 0).any() and np.isfinite(answer).all():
        assert (answer >= 0).all()


def test_what_is_loaded_forecasts_bit_by_bit_as_what_was_saved(fitted, saved, tmp_path):
    loaded = Lstm.load(saved)
    expected = fitted.forecast(histories(), horizon=24)
    np.testing.assert_array_equal(loaded.forecast(histories(), horizon=24), expected)
    assert loaded.parameters == fitted.parameters
    assert (loaded.loss, loaded.val_loss, loaded.best_epoch) == (fitted.loss, fitted.val_loss, fitted.best_epoch)
    loaded.save(tmp_path)
    np.testing.assert_array_equal(Lstm.load(tmp_path).forecast(histories(), horizon=24), expected)


def test_the_exported_network_answers_as_keras_does(fitted, saved):
    made = lstm_forecaster.lstm_windows.at_ends(histories(), horizon=24, log=False)
    own = network.predict(network.load(saved / KERAS_FILE), made.inputs)
    exported = lstm_forecaster._run(fitted._session, made.inputs)
    np.testing.assert_allclose(exported, own, rtol=0, atol=1e-5)


def test_an_export_that_does_not_answer_as_keras_is_not_kept(fitted, monkeypatch):
    monkeypatch.setattr(network, "fit", lambda *_, **__: network.Fitted(None, (1.0,), (1.0,), 1, 0.0))
    monkeypatch.setattr(lstm_forecaster, "_exported", lambda _: fitted._files)
    monkeypatch.setattr(network, "predict", lambda _, inputs: np.zeros((len(inputs["origin"]), 24, 3), np.float32))
    fresh = Lstm()
    with pytest.raises(ModelError, match="from Keras, more than 1e-05"):
        fresh.fit(panel(), horizon=24, seed=7)
    with pytest.raises(ModelError, match="has not been fitted"):
        fresh.forecast(histories(), horizon=24)


def test_loading_and_forecasting_never_import_tensorflow(saved):
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from orcha_pipeline.forecasting.lstm_forecaster import Lstm\n"
        "from orcha_pipeline.forecasting.panel import HourlySeries\n"
        "answer = Lstm.load(Path(sys.argv[1])).forecast([HourlySeries('a', 0, np.arange(200.0))], horizon=24)\n"
        "assert np.isfinite(answer).all()\n"
        "heavy = {'tensorflow', 'keras', 'onnx', 'tf2onnx', 'mlflow', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(saved)], check=True, timeout=120)


@pytest.mark.parametrize("name", [ONNX_FILE, KERAS_FILE, lstm_forecaster.WINDOWS_FILE])
def test_a_missing_file_is_told_with_what_to_do(saved, tmp_path, name):
    folder = shutil.copytree(saved, tmp_path / "copy")
    (folder / name).unlink()
    with pytest.raises(ModelError, match="Train the model again"):
        Lstm.load(folder)


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x07" * 50], ids=["empty", "text", "bytes"])
def test_a_damaged_network_is_told_with_what_to_do(saved, tmp_path, content):
    folder = shutil.copytree(saved, tmp_path / "copy")
    (folder / ONNX_FILE).write_bytes(content)
    with pytest.raises(ModelError, match="Train the model again"):
        Lstm.load(folder).forecast(histories(), horizon=24)


def test_half_a_network_is_told_with_what_to_do(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "copy")
    whole = (folder / ONNX_FILE).read_bytes()
    (folder / ONNX_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="Train the model again"):
        Lstm.load(folder)


@pytest.mark.parametrize("key", ["format", "patch", "quantiles", "inputs"])
def test_a_model_of_another_version_is_refused(saved, tmp_path, key):
    folder = shutil.copytree(saved, tmp_path / "copy")
    path = folder / lstm_forecaster.WINDOWS_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: 99}))
    with pytest.raises(ModelError, match="another version"):
        Lstm.load(folder)


def test_too_small_a_panel_is_refused_with_the_numbers():
    needed = lstm_forecaster.hours_needed(2, 24)
    small = [series(hours=needed - 1), series("b", hours=needed - 1)]
    with pytest.raises(
        ModelError, match=f"needs {needed} known hours of each of 2 series.*the longest has {needed - 1}"
    ):
        Lstm().fit(small, horizon=24, seed=0)
    with pytest.raises(ModelError, match="known hours"):
        Lstm().fit([], horizon=24, seed=0)


def test_as_many_hours_as_needed_are_enough(monkeypatch):
    class ReachedError(Exception):
        pass

    def reach(*_, **__):
        raise ReachedError

    monkeypatch.setattr(network, "fit", reach)
    for count, horizon in ((1, 24), (2, 24), (7, 48), (300, 24)):
        needed = lstm_forecaster.hours_needed(count, horizon)
        with pytest.raises(ReachedError):
            Lstm().fit([series(hours=needed)] * count, horizon=horizon, seed=0)


def test_before_a_fit_there_is_nothing_to_forecast_with_or_to_save(tmp_path):
    with pytest.raises(ModelError, match="has not been fitted"):
        Lstm().forecast(histories(), horizon=24)
    with pytest.raises(ModelError, match="nothing to save"):
        Lstm().save(tmp_path)


def test_parameters_say_what_shaped_it(fitted):
    told = fitted.parameters
    assert told["horizon_hours"] == 24
    assert told["seed"] == 7
    assert told["train_windows"] == 518
    assert told["epochs"] == len(fitted.loss) == len(fitted.val_loss)
    assert told["best_epoch"] == fitted.best_epoch
    assert told["log_space"] == 0
    assert all(type(value) in (int, float, str) for value in told.values())


@pytest.mark.slow
def test_the_same_panel_and_seed_give_the_same_forecasts(fitted, monkeypatch):
    monkeypatch.setattr(network, "MAX_EPOCHS", 2)
    again = Lstm()
    again.fit(panel(), horizon=24, seed=7)
    np.testing.assert_array_equal(again.forecast(histories(), horizon=24), fitted.forecast(histories(), horizon=24))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zeros", "constant", "bursty"])
def test_odd_panels_are_learnt_without_breaking(kind, monkeypatch):
    monkeypatch.setattr(network, "MAX_EPOCHS", 1)
    random = np.random.default_rng(0)
    values = {
        "zeros": np.zeros(HOURS),
        "constant": np.full(HOURS, 7.0),
        "bursty": np.where(random.random(HOURS) < 0.8, 0.0, random.lognormal(5, 2, HOURS)),
    }[kind]
    forecaster = Lstm()
    forecaster.fit([HourlySeries("a", FIRST, values)], horizon=24, seed=0)
    answer = forecaster.forecast([HourlySeries("a", FIRST, values)], horizon=24)
    assert np.isfinite(answer).all()
    assert (answer >= 0).all()
    assert forecaster.parameters["log_space"] == int(kind == "bursty")
    if kind != "bursty":
        np.testing.assert_allclose(answer, values[0], rtol=1e-3, atol=1e-3)
