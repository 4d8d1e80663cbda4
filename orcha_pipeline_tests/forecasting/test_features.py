from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.features import (
    CHANNELS,
    HORIZON,
    NodeSeries,
    build_windows,
    data_hash,
    same_hour_before,
    series_of,
    to_datetime,
    to_hour,
)
from orcha_pipeline_tests.forecasting.synthetic import START, features

BEGIN = np.datetime64("2026-01-05T00", "h")


def series(yields, shares=None):
    yields = np.asarray(yields, dtype=np.float64)
    return NodeSeries("n", BEGIN, yields, np.ones(len(yields)) if shares is None else shares)


def at(hours):
    return np.array([BEGIN + np.timedelta64(hours, "h")])


def windows_at(one, hours, context_hours=48):
    return build_windows([(one, at(hours))], context_hours=context_hours)


def column(windows, name):
    return windows.context[0, :, CHANNELS.index(name)]


def test_a_window_ends_where_its_origin_begins_and_aims_at_the_24_hours_after():
    windows = windows_at(series(np.arange(1.0, 101.0)), 60)
    assert windows.context.shape == (1, 48, len(CHANNELS))
    np.testing.assert_array_equal(windows.target[0], np.arange(61.0, 85.0))
    back = windows.scale * np.sinh(column(windows, "yield") * windows.spread + windows.center)
    np.testing.assert_allclose(back, np.arange(13.0, 61.0), rtol=1e-5)


def test_the_clock_of_the_context_is_the_calendar_s():
    windows = windows_at(series(np.arange(1.0, 101.0)), 60)
    hours = [(START + timedelta(hours=h)).hour for h in range(12, 60)]
    np.testing.assert_allclose(column(windows, "hour_sin"), np.sin(2 * np.pi * np.array(hours) / 24), atol=1e-6)
    midnights = [i for i, hour in enumerate(hours) if hour == 0]
    assert len({column(windows, "weekday_cos")[i - 1] for i in midnights}) == len(midnights)


def test_an_unknown_hour_is_marked_and_neutral_and_enters_no_statistic():
    yields = np.full(72, 5.0)
    yields[30:36] = np.nan
    windows = windows_at(series(yields), 48)
    assert windows.scale[0] == 5.0
    assert column(windows, "yield_known")[30:36].tolist() == [0.0] * 6
    assert column(windows, "yield")[30:36].tolist() == [0.0] * 6
    assert column(windows, "yield_known").sum() == 42


def test_an_unknown_share_is_marked():
    shares = np.full(72, 0.5)
    shares[40:] = np.nan
    windows = windows_at(series(np.ones(72), shares), 48)
    assert column(windows, "share_known")[39:42].tolist() == [1.0, 0.0, 0.0]
    assert column(windows, "share")[39:42].tolist() == [0.5, 0.0, 0.0]


def test_an_unknown_target_weighs_nothing():
    yields = np.ones(72)
    yields[50] = np.nan
    target, weight = windows_at(series(yields), 48).scaled_target()
    assert weight[0].tolist() == [1.0, 1.0, 0.0] + [1.0] * 21
    assert np.isfinite(target).all()


def test_a_context_with_more_than_half_its_hours_unknown_gives_no_window():
    yields = np.ones(72)
    yields[:24] = np.nan
    assert len(windows_at(series(yields), 48)) == 1
    yields[24] = np.nan
    assert len(windows_at(series(yields), 48)) == 0


def test_hours_before_the_first_are_unknown_and_not_invented():
    windows = windows_at(series(np.ones(60)), 30)
    assert column(windows, "yield_known").tolist() == [0.0] * 18 + [1.0] * 30


def test_no_window_at_all_still_has_the_right_shape():
    windows = windows_at(series(np.ones(30)), 5)
    assert windows.context.shape == (0, 48, len(CHANNELS))
    assert windows.to_yield(np.empty((0, HORIZON, 3))).shape == (0, HORIZON, 3)


def test_a_series_of_zeros_stays_zero():
    windows = windows_at(series(np.zeros(72)), 48)
    assert np.isfinite(windows.context).all()
    assert windows.to_yield(np.zeros((1, HORIZON, 3))).tolist() == np.zeros((1, HORIZON, 3)).tolist()


def test_the_anchors_are_yesterday_the_mean_of_the_hour_and_the_recent_departure_from_it():
    day = np.linspace(1, 3, 24)
    windows = windows_at(series(np.concatenate([day, 2 * day, day])), 48)
    np.testing.assert_allclose(windows.to_yield(windows.naive[:, :, None].repeat(3, 2))[0, :, 1], 2 * day, rtol=1e-5)
    z = column(windows, "yield")
    np.testing.assert_allclose(windows.profile[0], (z[:24] + z[24:]) / 2, atol=1e-6)
    np.testing.assert_allclose(windows.recent[0, 0], (z[-6:] - windows.profile[0, -6:]).mean(), atol=1e-6)


def test_yesterday_unknown_means_the_day_before():
    history = np.concatenate([np.arange(24.0), np.arange(100.0, 124.0)])
    history[24 + 3] = history[24 + 4] = history[4] = np.nan
    value, age = same_hour_before(history)
    assert value[3] == 3.0
    assert age[3] == 2
    assert np.isnan(value[4])
    assert age[4] == 0
    assert (value[5], age[5]) == (105.0, 1)


def test_a_day_that_began_half_way_is_lined_up_at_its_end():
    value, age = same_hour_before(np.arange(30.0))
    assert value.tolist() == list(np.arange(6.0, 30.0))
    assert set(age.tolist()) == {1}
    assert same_hour_before(np.empty(0))[1].tolist() == [0] * 24


positive = hnp.arrays(np.float64, 96, elements=st.floats(0.001, 1000))


@given(positive, st.integers(0, 2**32 - 1))
def test_what_comes_after_the_origin_changes_nothing_but_the_target(yields, seed):
    changed = yields.copy()
    changed[60:] = np.random.default_rng(seed).lognormal(size=36)
    shares = np.random.default_rng(seed).random(96)
    before, after = (
        windows_at(series(yields), 60),
        windows_at(series(changed, np.where(np.arange(96) < 60, 1, shares)), 60),
    )
    for name in before.inputs():
        np.testing.assert_array_equal(before.inputs()[name], after.inputs()[name])
    for name in ("scale", "center", "spread"):
        assert getattr(before, name) == getattr(after, name)


@given(positive)
def test_the_scaled_target_leads_back_to_the_yield(yields):
    windows = windows_at(series(yields), 60)
    target, _ = windows.scaled_target()
    back = windows.to_yield(np.repeat(target[:, :, None], 3, axis=2))
    np.testing.assert_allclose(back[0, :, 1], windows.target[0], rtol=1e-3, atol=1e-6 * windows.scale[0])


@given(positive, st.floats(1e-6, 1e6))
def test_a_node_that_earns_a_multiple_looks_the_same(yields, factor):
    one, other = windows_at(series(yields), 60), windows_at(series(yields * factor), 60)
    np.testing.assert_allclose(one.context, other.context, atol=1e-4)


@given(hnp.arrays(np.float32, (1, HORIZON, 3), elements=st.floats(-5, 5, width=32)), st.floats(-1, 1), st.floats(-1, 1))
def test_whatever_a_network_answers_the_quantiles_are_in_order_and_not_negative(answer, low, high):
    quantiles = windows_at(series(np.arange(1.0, 97.0)), 60).to_yield(answer, widening=(low, high))
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    assert (quantiles >= 0).all()


def test_widening_moves_the_outer_quantiles_only():
    windows = windows_at(series(np.arange(1.0, 97.0)), 60)
    narrow, wide = (windows.to_yield(np.zeros((1, HORIZON, 3)), widening=w) for w in ((0.0, 0.0), (0.5, 0.5)))
    assert (wide[..., 0] < narrow[..., 0]).all()
    assert (wide[..., 1] == narrow[..., 1]).all()
    assert (wide[..., 2] > narrow[..., 2]).all()


def test_a_missing_row_and_an_infinite_yield_are_unknown():
    frame = features(hours=50)
    frame.loc[7, "yield_usd"] = np.inf
    one = series_of(frame.drop(index=3))["storj-1"]
    assert len(one.yields) == 50
    assert np.flatnonzero(np.isnan(one.yields)).tolist() == [3, 7]


def test_an_integer_or_null_column_is_read_too():
    frame = features(hours=4).astype({"yield_usd": "Float64"})
    frame.loc[2, "yield_usd"] = pd.NA
    assert np.isnan(series_of(frame)["storj-1"].yields).tolist() == [False, False, True, False]


def test_hours_without_a_zone_are_utc_and_rows_may_come_in_any_order():
    frame = features(hours=50)
    shuffled = frame.sample(frac=1, random_state=1)
    shuffled["hour"] = shuffled["hour"].dt.tz_localize(None)
    assert data_hash(series_of(shuffled)) == data_hash(series_of(frame))
    assert series_of(shuffled)["storj-1"].start == to_hour(START)


def test_the_hash_tells_data_apart():
    frame = features(hours=50)
    other = frame.copy()
    other.loc[4, "yield_usd"] *= 1.0001
    assert data_hash(series_of(other)) != data_hash(series_of(frame))


def test_an_hour_given_twice_is_refused():
    frame = features(hours=50)
    with pytest.raises(ModelError, match="storj-1 twice"):
        series_of(pd.concat([frame, frame.tail(1)]))


def test_a_moment_that_is_no_full_hour_is_refused():
    frame = features(hours=50)
    frame["hour"] += pd.Timedelta(minutes=15)
    with pytest.raises(ModelError, match="not a full hour"):
        series_of(frame)


def test_an_empty_table_has_no_series():
    assert series_of(features(hours=5).iloc[:0]) == {}


def test_hours_survive_the_way_through_numpy():
    assert to_datetime(to_hour(START + timedelta(minutes=59))) == START
