import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import linear, scaled_windows
from orcha_pipeline.forecasting.linear import Linear
from orcha_pipeline_tests.forecasting.odd_series import ANY_VALUES, UNANSWERABLE, UNLEARNABLE, assert_sound, series

HORIZON = 24
DAY = np.sin(2 * np.pi * np.arange(24) / 24)


def daily(days, *, level=3.0, swing=2.0, noise=0.1, seed=9):
    rng = np.random.default_rng(seed)
    return level + swing * np.tile(DAY, days) + noise * rng.standard_normal(24 * days)


def wandering(hours, *, seed):
    """A level that wanders by day, and an hour of the day that tells: all multiplied, as earnings are."""
    rng = np.random.default_rng(seed)
    walk = np.zeros(hours)
    for hour in range(1, hours):
        walk[hour] = 0.98 * walk[hour - 1] + 0.1 * rng.standard_normal()
    return np.exp(walk) * (1 + 0.6 * np.tile(DAY, hours // 24))


def fit(panel, *, horizon=HORIZON, seed=0, **more):
    model = Linear()
    model.fit(panel, horizon=horizon, seed=seed, **more)
    return model


def of(model, values, *, horizon=HORIZON):
    return model.forecast([series("asked", values)], horizon=horizon)[0]


@pytest.fixture(scope="module")
def fitted():
    return fit([series("one", daily(30, seed=1)), series("two", daily(30, level=3, swing=2, seed=2))])


# What it is for


def test_a_daily_profile_is_found(fitted):
    whole = daily(31)
    assert np.abs(of(fitted, whole[:-24])[:, 1] - whole[-24:]).mean() < 0.15


def test_a_level_that_wanders_is_followed_better_than_by_seasonal_naive():
    ours, naive = [], []
    for seed in range(3):
        whole = wandering(24 * 50, seed=seed)
        model = fit([series("s", whole[: 24 * 30])])
        for origin in range(24 * 30, 24 * 49, 17):
            truth = whole[origin : origin + 24]
            ours.append(np.abs(of(model, whole[:origin])[:, 1] - truth).mean())
            naive.append(np.abs(whole[origin - 24 : origin] - truth).mean())
    assert np.mean(ours) < 0.85 * np.mean(naive)


def test_a_level_that_jumped_a_day_ago_is_believed():
    panel = [series(str(seed), wandering(24 * 30, seed=seed)) for seed in range(2)]
    calm = daily(30, noise=0.05)
    jumped = np.where(np.arange(len(calm)) >= len(calm) - 26, 8 * calm, calm)
    assert of(fit(panel), jumped)[:, 1].mean() > 5 * calm.mean()


@pytest.mark.parametrize("days", [4, 14])
def test_some_days_of_one_node_are_enough(days):
    ours, naive = [], []
    for seed in range(4):
        whole = wandering(24 * (days + 20), seed=seed)
        model = fit([series("s", whole[: 24 * days])])
        for origin in range(24 * days, len(whole) - 24, 41):
            truth = whole[origin : origin + 24]
            ours.append(np.abs(of(model, whole[:origin])[:, 1] - truth).mean())
            naive.append(np.abs(whole[origin - 24 : origin] - truth).mean())
    assert np.mean(ours) < 0.9 * np.mean(naive)


def test_a_weekend_that_pays_less_is_foreseen():
    values = daily(70, noise=0.05)
    day = (480_000 // 24 + np.arange(70)) % 7  # 0 is a Thursday
    values = np.where(np.repeat(np.isin(day, [2, 3]), 24), 0.5 * values, values)
    model = fit([series("s", values[: 24 * 56])])
    friday = next(at for at in range(56, 70) if day[at] == 2) * 24
    truth = values[friday : friday + 24]
    naive = values[friday - 24 : friday]
    assert np.abs(of(model, values[:friday])[:, 1] - truth).mean() < 0.6 * np.abs(naive - truth).mean()


def test_what_a_single_burst_of_a_size_never_seen_does_is_bounded():
    values = daily(30)
    values[-1] = 1e6
    assert of(fit([series("s", daily(30))]), values).max() < 1e6


# Units, zeros, negative values


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_a_series_of_another_size_than_those_learnt_from_is_forecast_as_well(fitted, size):
    whole = size * daily(31)
    assert np.abs(of(fitted, whole[:-24])[:, 1] - whole[-24:]).mean() < 0.15 * size


def test_a_series_never_below_zero_is_not_forecast_below_zero(fitted):
    values = np.maximum(daily(30, level=-1.5, noise=0.5), 0)
    assert (values == 0).mean() > 0.5
    assert of(fitted, values).min() >= 0


def test_a_series_that_was_negative_may_be_forecast_negative(fitted):
    whole = daily(31, level=-10)
    answer = of(fitted, whole[:-24])
    assert answer.max() < 0
    assert np.abs(answer[:, 1] - whole[-24:]).mean() < 0.3


@pytest.mark.parametrize("value", [0.0, 0.1, 5.0, 1e9, -3.3])
def test_a_constant_series_is_forecast_as_itself(fitted, value):
    np.testing.assert_allclose(of(fitted, np.full(400, value)), value, rtol=1e-9)


# Histories of every kind


@pytest.mark.parametrize("values", UNANSWERABLE)
def test_there_is_no_answer_where_too_little_is_known(fitted, values):
    assert np.isnan(of(fitted, values)).all()


def test_two_days_are_enough_for_an_answer(fitted):
    assert np.isfinite(of(fitted, daily(2))).all()


def test_an_outage_is_no_fall_to_zero(fitted):
    whole = daily(31)
    past = whole[:-24].copy()
    past[-30:-6] = np.nan
    assert np.abs(of(fitted, past)[:, 1] - whole[-24:]).mean() < 0.5


def test_rows_are_answered_in_order_and_each_alone(fitted, monkeypatch):
    several = [series(str(i), daily(20, level=(-1) ** i * (3 + i), seed=i)) for i in range(5)]
    several.insert(1, series("short", [1.0]))
    monkeypatch.setattr(scaled_windows, "BATCH", 4)
    together = fitted.forecast(several, horizon=HORIZON)
    for row, one in enumerate(several):
        np.testing.assert_array_equal(together[row], fitted.forecast([one], horizon=HORIZON)[0])
    assert fitted.forecast([], horizon=HORIZON).shape == (0, HORIZON, 3)


def test_a_forecast_for_fewer_hours_is_the_start_of_the_longer_one(fitted):
    np.testing.assert_array_equal(of(fitted, daily(30), horizon=7), of(fitted, daily(30))[:7])


def test_two_days_ahead_the_second_is_a_forecast_of_its_own():
    whole = daily(23)
    answer = of(fit([series("s", daily(20, seed=3))], horizon=48), whole[:-48], horizon=48)
    assert np.abs(answer[:, 1] - whole[-48:]).mean() < 0.3


@given(values=ANY_VALUES)
@settings(deadline=None, max_examples=60)
def test_every_answer_is_wholly_finite_and_in_order_or_wholly_unknown(fitted, values):
    assert_sound(of(fitted, values), values)


# Fitting


def test_the_same_panel_gives_the_same_fit():
    panel = [series("s", daily(20))]
    np.testing.assert_array_equal(of(fit(panel), daily(20)), of(fit(panel), daily(20)))


def test_the_seed_draws_the_windows_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(linear, "MAX_ROWS", 24 * 100)
    panel = [series("s", daily(20))]
    first, again, other = (of(fit(panel, seed=seed), daily(20)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert fit(panel).parameters["windows"] == 100


def test_the_band_holds_most_of_what_comes_and_not_all(fitted):
    wholes = [daily(15, seed=seed) for seed in range(100, 160)]
    answer = fitted.forecast([series("s", whole[:-24]) for whole in wholes], horizon=HORIZON)
    truth = np.stack([whole[-24:] for whole in wholes])
    assert 0.6 < ((answer[..., 0] <= truth) & (truth <= answer[..., 2])).mean() < 0.95


def test_unknown_hours_teach_nothing():
    values = daily(20)
    holes = values.copy()
    holes[300:306] = np.nan
    wrong = values.copy()
    wrong[300:306] = 50.0
    plain, holed, misled = (of(fit([series("s", one)]), daily(20, seed=4))[:, 1] for one in (values, holes, wrong))
    assert np.abs(holed - plain).mean() < 0.5 * np.abs(misled - plain).mean()


@pytest.mark.parametrize("panel", UNLEARNABLE)
def test_too_small_a_panel_is_a_clear_error(panel):
    with pytest.raises(ModelError, match="learn from"):
        fit(panel)


def test_series_beside_it_that_say_nothing_change_nothing():
    panel = [series("s", daily(12))]
    silent = [series("constant", np.full(200, 2.0)), series("unknown", np.full(200, np.nan)), series("none", [])]
    np.testing.assert_array_equal(of(fit(panel), daily(20)), of(fit([*panel, *silent]), daily(20)))


def test_progress_is_told():
    lines = []
    fit([series("s", daily(12))], tell=lines.append)
    assert lines == ["24 hours ahead from 217 windows"]


# Kept and loaded


def test_a_loaded_forecaster_gives_exactly_the_same_forecasts(fitted, tmp_path):
    asked = [series(str(i), daily(20, level=3 + i, seed=i)) for i in range(5)]
    fitted.save(tmp_path)
    loaded = Linear.load(tmp_path)
    np.testing.assert_array_equal(loaded.forecast(asked, horizon=HORIZON), fitted.forecast(asked, horizon=HORIZON))
    assert loaded.parameters == fitted.parameters
    assert loaded.parameters["coefficients"] > 12


def test_what_was_not_fitted_can_neither_forecast_nor_be_saved(tmp_path):
    with pytest.raises(ModelError, match="not been fitted"):
        Linear().forecast([], horizon=HORIZON)
    with pytest.raises(ModelError, match="not been fitted"):
        Linear().save(tmp_path)
    assert "windows" not in Linear().parameters


def test_a_longer_horizon_than_the_one_fitted_for_is_refused(fitted):
    with pytest.raises(ModelError, match="24 hours ahead, not for 25"):
        of(fitted, np.arange(100), horizon=25)


@pytest.mark.parametrize("name", [linear.FILE, linear.CARD_FILE])
def test_a_missing_file_is_a_clear_error(fitted, tmp_path, name):
    fitted.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match="no whole linear model"):
        Linear.load(tmp_path)


def test_changed_numbers_are_a_clear_error(fitted, tmp_path):
    fitted.save(tmp_path)
    path = tmp_path / linear.FILE
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match=r"linear\.npz is not what was saved"):
        Linear.load(tmp_path)


@pytest.mark.parametrize("card", ["", "[]", "{}"])
def test_a_damaged_card_is_a_clear_error(fitted, tmp_path, card):
    fitted.save(tmp_path)
    (tmp_path / linear.CARD_FILE).write_text(card)
    with pytest.raises(ModelError, match="no whole linear model"):
        Linear.load(tmp_path)


def test_another_models_card_is_a_clear_error(fitted, tmp_path):
    fitted.save(tmp_path)
    path = tmp_path / linear.CARD_FILE
    path.write_text(path.read_text().replace('"linear"', '"other"'))
    with pytest.raises(ModelError, match="holds the model other"):
        Linear.load(tmp_path)


def test_serving_imports_nothing_heavy(fitted, tmp_path):
    fitted.save(tmp_path)
    script = """
import sys
from pathlib import Path
import numpy as np
from orcha_pipeline.forecasting.linear import Linear
from orcha_pipeline.forecasting.panel import HourlySeries
answer = Linear.load(Path(sys.argv[1])).forecast([HourlySeries("s", 0, np.arange(200.0) % 24)], horizon=24)
assert np.isfinite(answer).all()
assert not {"lightgbm", "sklearn", "scipy", "pandas"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)
