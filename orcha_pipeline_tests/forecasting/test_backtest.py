import numpy as np

from orcha_pipeline.forecasting.backtest import compare, naive_forecasts, split_windows
from orcha_pipeline.forecasting.features import HORIZON, series_of
from orcha_pipeline_tests.forecasting.synthetic import features

LAST = np.timedelta64(HORIZON - 1, "h")


def split(series, **options):
    return split_windows(series, **{"context_hours": 72, "max_windows": 600, "seed": 1} | options)


def test_no_hour_is_a_target_on_two_sides_of_a_boundary():
    parts = split(series_of(features()))
    assert (parts.train.origins + LAST).max() < parts.validation.origins.min()
    assert (parts.validation.origins + LAST).max() < parts.test.origins.min()
    assert parts.test.origins.min() == parts.tested_from


def test_the_test_reaches_the_end_of_the_data_and_no_further():
    series = series_of(features())
    parts = split(series)
    assert np.isfinite(parts.test.target).all()
    assert series["storj-1"].end - (parts.test.origins + LAST).max() <= np.timedelta64(3, "h")


def test_all_nodes_share_the_boundaries():
    series = series_of(features()) | series_of(features(node="storj-2", hours=500, seed=2))
    parts = split(series)
    assert set(parts.train.nodes.tolist()) == {"storj-1", "storj-2"}
    assert set(parts.test.nodes.tolist()) == {"storj-1"}  # the other stopped before the test began


def test_the_windows_to_train_on_are_capped_and_cover_every_hour_of_the_day():
    parts = split(series_of(features()), max_windows=120)
    assert len(parts.train) == 120
    assert len(set((parts.train.origins.astype(np.int64) % 24).tolist())) == 24
    again = split(series_of(features()), max_windows=120)
    np.testing.assert_array_equal(parts.train.origins, again.train.origins)


def test_a_target_mostly_unknown_is_not_trained_on():
    frame = features()
    frame.loc[200:230, "yield_usd"] = np.nan
    parts = split(series_of(frame))
    assert np.isfinite(parts.train.target).sum(axis=1).min() >= HORIZON // 2


def test_a_short_history_has_nothing_to_train_on_and_says_so_by_being_empty():
    parts = split(series_of(features(hours=50)))
    assert len(parts.train) == 0
    assert len(parts.validation) == 0


def test_seasonal_naive_is_perfect_on_a_day_that_repeats_and_wrong_on_one_that_does_not():
    series = series_of(features(noise=0, weekly=0))
    windows = split(series).test
    metrics = compare(windows, series, {"naive": naive_forecasts(windows, series)})["naive"]
    assert metrics.wape is not None
    assert metrics.wape < 1e-9
    noisy = series_of(features(noise=0.3))
    windows = split(noisy).test
    metrics = compare(windows, noisy, {"naive": naive_forecasts(windows, noisy)})["naive"]
    assert metrics.wape is not None
    assert metrics.wape > 0.2


def test_the_naive_forecast_of_an_origin_knows_nothing_of_what_follows_it():
    frame = features()
    windows = split(series_of(frame)).test.take(np.array([0]))
    frame.loc[frame["hour"] >= np.datetime_as_string(windows.origins[0], "h") + "Z", "yield_usd"] *= 9
    later = series_of(frame)
    np.testing.assert_array_equal(naive_forecasts(windows, series_of(features())), naive_forecasts(windows, later))
