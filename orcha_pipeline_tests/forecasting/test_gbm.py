import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import gbm, scaled_windows
from orcha_pipeline.forecasting.gbm import LightGbm, LightGbmLog1p
from orcha_pipeline.forecasting.panel import HourlySeries
from orcha_pipeline_tests.forecasting.odd_series import ANY_VALUES, UNANSWERABLE, UNLEARNABLE, assert_sound, series

HORIZON = 24
DAY = np.sin(2 * np.pi * np.arange(24) / 24)
SHARED = Path("/work/shared/data")
BOTH = pytest.mark.parametrize("model", ["plain", "log"])


def daily(days, *, level, swing, noise, seed):
    rng = np.random.default_rng(seed)
    return level + swing * np.tile(DAY, days) + noise * rng.standard_normal(24 * days)


def a_panel(days=20):
    """Two positive series of unlike size, and their last day kept apart."""
    return [
        series("small", daily(days, level=3, swing=2, noise=0.1, seed=1)),
        series("large", daily(days, level=4_000, swing=2_500, noise=150, seed=2)),
    ]


def quick(forecaster, panel, **more):
    forecaster.fit(panel, horizon=more.pop("horizon", HORIZON), seed=more.pop("seed", 5), **more)
    return forecaster


@pytest.fixture(scope="module")
def fitted():
    return {"plain": quick(LightGbm(), a_panel()), "log": quick(LightGbmLog1p(), a_panel())}


def of(fitted, model, values, horizon=HORIZON, **more):
    return fitted[model].forecast([series("asked", values, **more)], horizon=horizon)[0]


# What it learns


@BOTH
def test_a_daily_pattern_is_forecast_within_its_noise(fitted, model):
    whole = daily(31, level=3, swing=2, noise=0.1, seed=9)
    answer = of(fitted, model, whole[:-24])
    assert np.abs(answer[:, 1] - whole[-24:]).mean() < 0.2


@BOTH
def test_a_series_of_another_size_than_those_learnt_from_is_forecast_as_well(fitted, model):
    whole = 1e6 * daily(31, level=3, swing=2, noise=0.1, seed=9)
    answer = of(fitted, model, whole[:-24])
    assert np.abs(answer[:, 1] - whole[-24:]).mean() < 0.2e6


@BOTH
def test_forecasts_move_with_the_unit_of_the_series(fitted, model):
    values = daily(30, level=3, swing=2, noise=0.1, seed=9)
    # By a power of two, which changes no digit on the way.
    np.testing.assert_allclose(of(fitted, model, 1024 * values), 1024 * of(fitted, model, values), rtol=1e-9)


def test_the_plain_variant_moves_with_the_level_of_the_series(fitted):
    values = daily(30, level=0, swing=2, noise=0.1, seed=9)
    features = []
    for shift in (0.0, 64.0):
        windows = scaled_windows.last_hours(values + shift)[None]
        features.append(scaled_windows.scaling_of(windows, log=False).scale(windows))
    np.testing.assert_allclose(features[0], features[1], atol=1e-9)


@BOTH
def test_the_band_holds_most_of_what_comes_and_not_all(fitted, model):
    panel, hours = [], []
    for seed in range(100, 160):
        whole = daily(15, level=3, swing=2, noise=0.1, seed=seed)
        panel.append(series(str(seed), whole[:-24]))
        hours.append(whole[-24:])
    answer = fitted[model].forecast(panel, horizon=HORIZON)
    inside = (answer[:, :, 0] <= hours) & (hours <= answer[:, :, 2])
    assert 0.6 < inside.mean() < 0.95


def test_a_forecast_for_fewer_hours_is_the_start_of_the_longer_one(fitted):
    values = daily(30, level=3, swing=2, noise=0.1, seed=9)
    np.testing.assert_array_equal(of(fitted, "plain", values, horizon=7), of(fitted, "plain", values)[:7])


def test_two_days_ahead_the_second_is_a_forecast_of_its_own():
    panel = a_panel(days=15)
    whole = daily(16, level=3, swing=2, noise=0.1, seed=9)
    answer = quick(LightGbm(), panel, horizon=48).forecast([series("asked", whole[:-48])], horizon=48)[0]
    assert np.isfinite(answer).all()
    assert np.abs(answer[:, 1] - whole[-48:]).mean() < 0.3


def test_the_share_at_the_origin_is_used_where_there_is_one():
    rng = np.random.default_rng(0)
    shares = rng.choice([0.2, 1.0], 1_440)
    # An hour is large exactly where the hour before it was shared in full: nothing else tells.
    values = 10 * np.roll(shares, 1) + 0.1 * rng.standard_normal(1_440)
    model = quick(LightGbm(), [series("shared", values, shares=shares)], horizon=1)
    past = values[:700]
    asked = [series("s", past, shares=np.full(700, share)) for share in (0.2, 1.0)]
    low, high = model.forecast(asked, horizon=1)[:, 0, 1]
    assert low == pytest.approx(2, abs=1)
    assert high == pytest.approx(10, abs=1)


# What it must not do


@given(cut=st.integers(200, 600), after=st.floats(-1e6, 1e6))
@settings(deadline=None, max_examples=20)
def test_nothing_after_the_origin_is_used(fitted, cut, after):
    values = daily(30, level=3, swing=2, noise=0.1, seed=9)
    changed = np.where(np.arange(720) < cut, values, after)
    expected, found = (
        fitted["plain"].forecast([series("s", v).before(480_000 + cut)], horizon=HORIZON) for v in (values, changed)
    )
    np.testing.assert_array_equal(found, expected)


def test_training_rows_hold_nothing_of_the_hours_they_forecast():
    values = daily(12, level=3, swing=2, noise=0.1, seed=9)
    places = np.array([200])
    before = gbm._rows_of(series("s", values), places, horizon=HORIZON, log=False)
    changed = values.copy()
    changed[200:224] = 77
    after = gbm._rows_of(series("s", changed), places, horizon=HORIZON, log=False)
    np.testing.assert_array_equal(after.features, before.features)
    assert not np.array_equal(after.target, before.target)


@pytest.mark.parametrize("log", [False, True])
def test_training_and_forecasting_see_the_same_features(log):
    values = daily(40, level=3, swing=2, noise=0.1, seed=9)
    values[700:710] = np.nan
    learnt = gbm._rows_of(series("s", values), np.array([800]), horizon=HORIZON, log=log)
    windows = scaled_windows.last_hours(values[:800])[None]
    scaling = scaled_windows.scaling_of(windows, log=log)
    asked, _ = gbm._features(scaling.scale(windows), np.array([480_800]), np.array([np.nan]), scaling, HORIZON)
    np.testing.assert_array_equal(learnt.features, asked)


def test_lags_stand_for_the_hours_they_are_named_after():
    windows = np.arange(scaled_windows.CONTEXT, dtype=float)[None]
    scaling = scaled_windows.Scaling(unit=np.ones(1), centre=np.zeros(1), spread=np.ones(1), log=False)
    rows, names = gbm._features(windows, np.array([480_000]), np.array([0.5]), scaling, 48)
    of_step = {name: rows[:, column] for column, name in enumerate(names)}
    step = np.arange(48)
    origin = scaled_windows.CONTEXT  # in the window, an hour's value is its place
    expected = {
        "step": step,
        "hour_of_day": step % 24,
        "weekday": (480_000 // 24 + 4 + step // 24) % 7,
        "days_ago_1": origin - 24 + step % 24,
        "days_ago_6": origin - 144 + step % 24,
        "weeks_ago_1": origin - 168 + step,
        "weeks_ago_4": origin - 672 + step,
        "yesterday_hour_before": origin - 25 + step % 24,
        "yesterday_hour_after": np.where(step % 24 == 23, np.nan, origin - 23 + step % 24),
        "hour_mean_7_days": origin - 24 * 4 + step % 24,
        "hour_of_week_mean": origin - 168 * 2.5 + step,
        "hours_ago_1": origin - 1,
        "hours_ago_24": origin - 24,
        "mean_24": origin - 12.5,
        "mean_of_day_2": origin - 36.5,
        "off_the_mean_1": 72,
        "share": 0.5,
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(of_step[name], np.broadcast_to(values, 48), err_msg=name)


def test_hour_zero_of_the_epoch_is_on_a_thursday():
    windows = np.zeros((1, scaled_windows.CONTEXT))
    scaling = scaled_windows.scaling_of(windows, log=False)
    rows, names = gbm._features(windows, np.array([0]), np.array([np.nan]), scaling, 1)
    assert rows[0, names.index("weekday")] == 4  # Sunday is 0


@BOTH
def test_a_series_never_below_zero_is_not_forecast_below_zero(fitted, model):
    values = np.maximum(daily(30, level=-1.5, swing=2, noise=0.5, seed=9), 0)
    assert (values == 0).mean() > 0.5
    assert of(fitted, model, values).min() >= 0


def test_a_series_that_was_negative_may_be_forecast_negative(fitted):
    assert of(fitted, "plain", daily(30, level=-10, swing=2, noise=0.5, seed=9)).max() < 0


def test_a_negative_value_of_long_ago_still_tells_that_a_series_may_be_negative(fitted):
    values = np.maximum(daily(60, level=0.5, swing=2, noise=0.1, seed=9), 0)
    values[3] = -1
    assert np.isnan(of(fitted, "log", values)).all()
    assert np.isfinite(of(fitted, "plain", values)).all()


def test_an_unknown_target_is_no_row():
    values = daily(12, level=3, swing=2, noise=0.1, seed=9)
    values[205:210] = np.nan
    rows = gbm._rows_of(series("s", values), np.array([200]), horizon=HORIZON, log=False)
    assert len(rows.target) == len(rows.features) == len(rows.weight) == HORIZON - 5
    assert np.isfinite(rows.target).all()


def test_a_row_weighs_what_its_error_adds_to_wape():
    values = daily(12, level=3, swing=2, noise=0.1, seed=9)
    rows = gbm._rows_of(series("s", values), np.array([200]), horizon=HORIZON, log=False)
    windows = scaled_windows.last_hours(values[:200])[None]
    scaling = scaled_windows.scaling_of(windows, log=False)
    missed = np.abs(values[200:224] - scaling.centre)  # by a forecast of 0, scaled
    np.testing.assert_allclose((np.abs(rows.target) * rows.weight), missed / np.abs(values).mean())


# Histories of every kind


@BOTH
@pytest.mark.parametrize("value", [0.0, 0.1, 5.0, 1e9])
def test_a_constant_series_is_forecast_as_itself(fitted, model, value):
    np.testing.assert_allclose(of(fitted, model, np.full(400, value)), value, rtol=1e-9)


def test_a_negative_constant_is_forecast_as_itself(fitted):
    np.testing.assert_allclose(of(fitted, "plain", np.full(400, -3.3)), -3.3, rtol=1e-9)


@BOTH
@pytest.mark.parametrize("values", UNANSWERABLE)
def test_there_is_no_answer_where_too_little_is_known(fitted, model, values):
    assert np.isnan(of(fitted, model, values)).all()


@BOTH
def test_two_days_are_enough_for_an_answer(fitted, model):
    values = daily(2, level=3, swing=2, noise=0.1, seed=9)
    assert np.isfinite(of(fitted, model, values)).all()


@BOTH
def test_unknown_hours_before_the_first_known_one_change_nothing(fitted, model):
    values = daily(20, level=3, swing=2, noise=0.1, seed=9)
    padded = HourlySeries("padded", 480_000 - 50, np.concatenate([np.full(50, np.nan), values]))
    expected = of(fitted, model, values)
    np.testing.assert_array_equal(fitted[model].forecast([padded], horizon=HORIZON)[0], expected)


@BOTH
def test_an_outage_is_no_fall_to_zero(fitted, model):
    whole = daily(31, level=3, swing=2, noise=0.1, seed=9)
    past = whole[:-24].copy()
    past[-30:-6] = np.nan
    assert np.abs(of(fitted, model, past)[:, 1] - whole[-24:]).mean() < 0.5


@BOTH
def test_rows_are_answered_in_order_and_each_alone(fitted, model):
    several = [series(str(i), daily(20, level=3 + i, swing=2, noise=0.1, seed=i)) for i in range(3)]
    several.insert(1, series("short", [1.0]))
    together = fitted[model].forecast(several, horizon=HORIZON)
    for row, one in enumerate(several):
        np.testing.assert_array_equal(together[row], fitted[model].forecast([one], horizon=HORIZON)[0])


def test_more_histories_than_a_batch_are_all_answered(fitted, monkeypatch):
    several = [series(str(i), daily(20, level=3 + i, swing=2, noise=0.1, seed=i)) for i in range(5)]
    expected = fitted["plain"].forecast(several, horizon=HORIZON)
    monkeypatch.setattr(scaled_windows, "BATCH", 2)
    np.testing.assert_array_equal(fitted["plain"].forecast(several, horizon=HORIZON), expected)


def test_no_histories_give_no_rows(fitted):
    assert fitted["plain"].forecast([], horizon=HORIZON).shape == (0, HORIZON, 3)


@given(values=ANY_VALUES)
@settings(deadline=None, max_examples=60)
def test_every_answer_is_wholly_finite_and_in_order_or_wholly_unknown(fitted, values):
    for model in fitted.values():
        assert_sound(model.forecast([series("s", values)], horizon=HORIZON)[0], values)


# Fitting


def test_the_same_seed_gives_the_same_fit_and_another_one_another():
    panel = a_panel(days=12)
    first, again, other = (quick(LightGbm(), panel, seed=seed).forecast(panel, horizon=HORIZON) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_largest_seed_can_be_used():
    panel = a_panel(days=12)
    assert np.isfinite(quick(LightGbm(), panel, seed=2**32 - 1).forecast(panel, horizon=HORIZON)).all()


@pytest.mark.parametrize("panel", UNLEARNABLE)
@pytest.mark.parametrize("forecaster", [LightGbm, LightGbmLog1p])
def test_too_small_a_panel_is_a_clear_error(forecaster, panel):
    with pytest.raises(ModelError, match="learn from"):
        quick(forecaster(), panel)


def test_log1p_says_so_where_every_series_has_a_negative_value():
    with pytest.raises(ModelError, match="every series has a negative value"):
        quick(LightGbmLog1p(), [series("s", daily(12, level=-3, swing=2, noise=0.1, seed=1))])


def test_log1p_learns_from_the_others_where_one_series_has_a_negative_value():
    panel = a_panel(days=12)
    alone = quick(LightGbmLog1p(), panel)
    beside = quick(LightGbmLog1p(), [*panel, series("negative", daily(12, level=-3, swing=2, noise=0.1, seed=1))])
    np.testing.assert_array_equal(alone.forecast(panel, horizon=HORIZON), beside.forecast(panel, horizon=HORIZON))


def test_series_beside_it_that_say_nothing_change_nothing():
    panel = a_panel(days=12)
    silent = [series("constant", np.full(200, 2.0)), series("unknown", np.full(200, np.nan)), series("none", [])]
    alone, beside = (quick(LightGbm(), several) for several in (panel, [*panel, *silent]))
    np.testing.assert_array_equal(alone.forecast(panel, horizon=HORIZON), beside.forecast(panel, horizon=HORIZON))


def test_origins_are_drawn_from_the_whole_panel_where_there_are_too_many():
    drawn = scaled_windows.drawn_origins([2_000, 10, 1_000], 24, 100, np.random.default_rng(0))
    assert sum(map(len, drawn)) == 100
    assert len(drawn[0]) > len(drawn[2]) > 0 == len(drawn[1])
    assert drawn[0].min() >= scaled_windows.MIN_KNOWN
    assert drawn[0].max() <= 2_000 - 24
    assert np.ptp(drawn[0]) > 1_500


def test_progress_is_told():
    lines = []
    quick(LightGbm(), a_panel(days=12), tell=lines.append)
    assert [line.split(",")[0] for line in lines] == [*(f"p50_{i + 1}" for i in range(len(lines) - 2)), "p10", "p90"]


# Kept and loaded


@BOTH
def test_a_loaded_forecaster_gives_exactly_the_same_forecasts(fitted, model, tmp_path):
    asked = [series(str(i), daily(20, level=3 + i, swing=2, noise=0.3, seed=i)) for i in range(5)]
    fitted[model].save(tmp_path)
    loaded = type(fitted[model]).load(tmp_path)
    np.testing.assert_array_equal(
        loaded.forecast(asked, horizon=HORIZON), fitted[model].forecast(asked, horizon=HORIZON)
    )
    assert loaded.parameters == fitted[model].parameters


def test_a_loaded_forecaster_can_be_saved_again(fitted, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, forecaster in ((first, lambda: fitted["log"]), (second, lambda: LightGbmLog1p.load(first))):
        folder.mkdir()
        forecaster().save(folder)
    files = sorted(path.name for path in first.iterdir())
    assert len(files) > 3
    assert {name: (second / name).read_bytes() for name in files} == {
        name: (first / name).read_bytes() for name in files
    }


def test_parameters_say_what_shaped_it(fitted):
    found = fitted["log"].parameters
    assert found["transform"] == "log1p"
    assert found["rows"] == 2 * 24 * (480 - 48 - 24 + 1)
    assert found["trees"] == 100 * 2 + 70 * 2
    assert "trees" not in LightGbm().parameters


def test_what_was_not_fitted_can_neither_forecast_nor_be_saved(tmp_path):
    with pytest.raises(ModelError, match="not been fitted"):
        LightGbm().forecast([], horizon=HORIZON)
    with pytest.raises(ModelError, match="not been fitted"):
        LightGbm().save(tmp_path)


def test_a_longer_horizon_than_the_one_fitted_for_is_refused(fitted):
    with pytest.raises(ModelError, match="24 hours ahead, not for 25"):
        of(fitted, "plain", np.arange(100), horizon=25)


@pytest.mark.parametrize("name", [gbm.CARD_FILE, "p10.txt", "p50_2.txt"])
def test_a_missing_file_is_a_clear_error(fitted, tmp_path, name):
    fitted["plain"].save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match="no whole lightgbm model"):
        LightGbm.load(tmp_path)


def test_a_changed_booster_is_a_clear_error(fitted, tmp_path):
    fitted["plain"].save(tmp_path)
    path = tmp_path / "p90.txt"
    path.write_text(path.read_text().replace("leaf_value=", "leaf_value=9", 1))
    with pytest.raises(ModelError, match=r"p90\.txt is not what was saved"):
        LightGbm.load(tmp_path)


@pytest.mark.parametrize("card", ["", "[]", "{}", '{"model": "lightgbm", "horizon": 24, "rows": 1, "boosters": 3}'])
def test_a_damaged_card_is_a_clear_error(fitted, tmp_path, card):
    fitted["plain"].save(tmp_path)
    (tmp_path / gbm.CARD_FILE).write_text(card)
    with pytest.raises(ModelError, match="no whole lightgbm model"):
        LightGbm.load(tmp_path)


def test_one_variant_is_not_loaded_as_the_other(fitted, tmp_path):
    fitted["log"].save(tmp_path)
    assert json.loads((tmp_path / gbm.CARD_FILE).read_text())["model"] == "lightgbm_log1p"
    with pytest.raises(ModelError, match="holds a lightgbm_log1p model"):
        LightGbm.load(tmp_path)


def test_serving_imports_neither_lightgbm_nor_what_it_pulls_in(fitted, tmp_path):
    fitted["log"].save(tmp_path)
    script = """
import sys
from pathlib import Path
import numpy as np
from orcha_pipeline.forecasting.gbm import LightGbmLog1p
from orcha_pipeline.forecasting.panel import HourlySeries
answer = LightGbmLog1p.load(Path(sys.argv[1])).forecast([HourlySeries("s", 0, np.arange(200.0) % 24)], horizon=24)
assert np.isfinite(answer).all()
assert not {"lightgbm", "sklearn", "scipy", "pandas"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the evaluation data is not there")
def test_etth1_is_forecast_better_than_by_seasonal_naive():
    table = np.genfromtxt(SHARED / "etth1.csv", delimiter=",", skip_header=1, usecols=range(1, 8), max_rows=14_400)
    panel = [HourlySeries(str(i), 0, values) for i, values in enumerate(table.T)]
    model = quick(LightGbm(), [replace(one, values=one.values[:11_520]) for one in panel])
    origins = range(11_520, 14_400 - HORIZON + 1, 72)
    errors = {"model": [], "naive": []}
    for one in panel:
        truth = np.stack([one.values[origin : origin + HORIZON] for origin in origins])
        naive = np.stack([one.values[origin - HORIZON : origin] for origin in origins])
        made = model.forecast([one.before(origin) for origin in origins], horizon=HORIZON)[:, :, 1]
        for name, forecast in (("model", made), ("naive", naive)):
            errors[name].append(np.abs(forecast - truth).sum() / np.abs(truth).sum())
    assert np.mean(errors["model"]) < 0.9 * np.mean(errors["naive"])
