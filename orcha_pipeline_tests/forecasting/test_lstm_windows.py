"""What the LSTM sees: scaled windows that tell what is unknown and hold nothing at or after their origin."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.forecasting import lstm_windows as w
from orcha_pipeline.forecasting.panel import HourlySeries

FIRST = 480_000


def daily(hours=600, *, name="a", level=3.0, first=FIRST, shares=None):
    values = level + np.sin(2 * np.pi * (first + np.arange(hours)) / 24)
    return HourlySeries(name, first, values, shares)


def everything():
    return w.Cuts(np.zeros(100, dtype=np.int64), np.arange(168, 268))


def test_inputs_have_the_shapes_they_state():
    made = w.at_ends([daily(), daily(200)], horizon=30, log=False)
    assert made.steps.shape == (2, w.STEPS, w.STEP_FEATURES)
    assert made.hours.shape == (2, 30, w.HOUR_FEATURES)
    assert made.anchors.shape == (2, 30, w.ANCHORS)
    assert made.origin.shape == (2, w.ORIGIN_FEATURES)
    assert set(made.inputs) == set(w.INPUTS)
    assert all(one.dtype == np.float32 for one in made.inputs.values())


@pytest.mark.parametrize("log", [False, True])
def test_scaling_is_undone_by_restoring(log):
    made = w.at_ends([daily(level=500.0), daily(level=0.0)], horizon=24, log=log)
    truth = np.random.default_rng(0).normal(0, 300, (2, 24))
    scaled = np.repeat(made.scaling.scale(truth)[:, :, None], 3, axis=2)
    np.testing.assert_allclose(made.scaling.restore(scaled)[:, :, 1], truth, rtol=1e-9, atol=1e-9)


def test_a_window_reads_nothing_at_or_after_its_origin():
    series = daily()
    changed = series.values.copy()
    changed[300:] = 1e6
    places = w.Cuts(np.array([0]), np.array([300]))
    one = w.examples([series], places, horizon=24, log=False)
    other = w.examples([replace(series, values=changed)], places, horizon=24, log=False)
    for name in w.INPUTS:
        np.testing.assert_array_equal(one.inputs[name], other.inputs[name])
    assert not np.array_equal(one.target, other.target)


def test_a_window_to_learn_from_is_the_one_that_forecasting_makes():
    shares = np.linspace(0, 1, 600)
    shares[200:260] = np.nan
    series = daily(shares=shares)
    places = w.Cuts(np.array([0, 0]), np.array([300, 417]))
    learnt = w.examples([series], places, horizon=24, log=False)
    asked = w.at_ends([series.before(FIRST + 300), series.before(FIRST + 417)], horizon=24, log=False)
    for name in w.INPUTS:
        np.testing.assert_array_equal(learnt.inputs[name], asked.inputs[name])


@pytest.mark.parametrize("log", [False, True])
def test_only_the_last_week_of_a_history_matters(log):
    series = daily()
    earlier = series.values.copy()
    earlier[: -w.CONTEXT] = np.nan
    one = w.at_ends([series], horizon=24, log=log)
    other = w.at_ends([replace(series, values=earlier)], horizon=24, log=log)
    for name in w.INPUTS:
        np.testing.assert_array_equal(one.inputs[name], other.inputs[name])


def test_an_unknown_hour_differs_from_a_zero_and_from_the_value_put_in_its_place():
    known, gap, zero = daily(), daily(), daily()
    gap.values[-5] = np.nan
    zero.values[-5] = 0.0
    made = w.at_ends([known, gap, zero], horizon=24, log=False)
    flags = made.steps[:, -1, 2 * w.PATCH : 3 * w.PATCH]
    assert flags[0].tolist() == flags[2].tolist() == [1.0] * w.PATCH
    assert flags[1].tolist() == [1.0] * (w.PATCH - 5) + [0.0] + [1.0] * 4
    assert not np.array_equal(made.steps[1], made.steps[2])
    # In its place: the mean of that hour on the days on which it is known, which here is what it was.
    np.testing.assert_allclose(made.anchors[1, 19, 2], made.anchors[0, 19, 2], atol=0.05)


def test_an_unknown_target_weighs_nothing_and_the_known_ones_do():
    series = daily()
    series.values[310:315] = np.nan
    made = w.examples([series], w.Cuts(np.array([0]), np.array([300])), horizon=24, log=False)
    weights = made.target[0, :, 1]
    assert (weights[10:15] == 0).all()
    assert (np.delete(weights, np.arange(10, 15)) > 0).all()
    assert np.isfinite(made.target).all()


def test_weights_are_one_on_average_and_heavier_where_a_series_swings_more_than_usual():
    values = np.concatenate([10 + np.random.default_rng(1).normal(0, s, 300) for s in (0.5, 3.0)])
    made = w.examples(
        [HourlySeries("a", FIRST, values)], w.Cuts(np.array([0, 0]), np.array([250, 560])), horizon=24, log=False
    )
    calm, wild = made.target[:, 0, 1]
    assert wild > 4 * calm
    assert (calm + wild) / 2 == pytest.approx(1.0)


def test_shares_are_told_with_whether_they_are_known():
    shares = np.full(600, 0.25)
    shares[-w.PATCH :] = np.nan
    made = w.at_ends([daily(shares=shares), daily()], horizon=24, log=False)
    assert made.steps[0, -2, -2:].tolist() == [0.25, 1.0]
    assert made.steps[0, -1, -2:].tolist() == [0.0, 0.0]
    assert (made.steps[1, :, -1] == 0).all()


def test_the_calendar_follows_the_hour_of_the_day_and_of_the_week():
    made = w.at_ends([daily(600), daily(624), daily(600 + 168)], horizon=48, log=False)
    calendar = made.hours[:, :, 2 * w.DAYS : 2 * w.DAYS + 4]
    np.testing.assert_allclose(calendar[0, :24, :2], calendar[0, 24:, :2], atol=1e-6)
    np.testing.assert_allclose(calendar[0, 24:], calendar[1, :24], atol=1e-6)
    np.testing.assert_allclose(calendar[0], calendar[2], atol=1e-6)
    assert not np.allclose(calendar[0], calendar[1], atol=1e-2)


def test_yesterday_and_last_week_stand_among_the_anchors():
    series = HourlySeries("a", FIRST, np.random.default_rng(0).normal(5, 1, 400))
    made = w.at_ends([series], horizon=48, log=False)
    restored = made.scaling.restore(made.anchors.astype(float))[0]
    np.testing.assert_allclose(restored[:24, 0], series.values[-24:], rtol=1e-5)
    np.testing.assert_allclose(restored[24:, 0], series.values[-24:], rtol=1e-5)
    np.testing.assert_allclose(restored[:, 1], series.values[-168:-120], rtol=1e-5)
    np.testing.assert_allclose(restored[:24, 2], series.values[-168:].reshape(7, 24).mean(axis=0), rtol=1e-5)


def test_yesterday_is_the_last_day_on_which_the_hour_is_known():
    series = HourlySeries("a", FIRST, np.random.default_rng(0).normal(5, 1, 400))
    series.values[-24 + 5] = np.nan
    made = w.at_ends([series], horizon=24, log=False)
    restored = made.scaling.restore(made.anchors.astype(float))[0]
    assert restored[5, 0] == pytest.approx(series.values[-48 + 5], rel=1e-5)


def test_under_half_a_known_week_is_no_window():
    values = np.full(600, np.nan)
    values[-84:] = np.arange(84)
    short = values.copy()
    short[-84] = np.nan
    histories = [HourlySeries("a", FIRST, one) for one in (values, short, values[:0], values[:100])]
    assert w.at_ends(histories, horizon=24, log=False).usable.tolist() == [True, False, False, False]


def test_training_hours_end_where_validation_hours_begin():
    panel = [daily(600), daily(900, name="b"), daily(100, name="short")]
    train, validation = w.cuts(panel, horizon=24, held_back=0.2)
    for i, hours in ((0, 600), (1, 900)):
        held_from = hours - int(hours * 0.2)
        assert train.origins[train.series == i].max() + 24 == held_from
        assert validation.origins[validation.series == i].min() == held_from
        assert validation.origins[validation.series == i].max() + 24 == hours
        assert train.origins[train.series == i].min() == w.CONTEXT
    assert 2 not in train.series
    assert 2 not in validation.series


def test_windows_without_a_known_hour_before_or_after_are_left_out():
    series = daily(600)
    series.values[250:420] = np.nan
    train, _ = w.cuts([series], horizon=24, held_back=0.1)
    known = np.isfinite(series.values)
    for origin in train.origins.tolist():
        assert known[origin - 168 : origin].sum() >= w.LEAST_KNOWN
        assert known[origin : origin + 24].any()
    assert 300 not in train.origins
    assert 240 in train.origins


def test_a_sample_is_drawn_from_what_there_is_and_the_same_with_the_same_seed():
    one, other = (everything().sample(10, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.origins, other.origins)
    assert len(set(one.origins.tolist())) == 10
    assert set(one.origins.tolist()) <= set(everything().origins.tolist())
    assert len(everything().sample(1000, np.random.default_rng(5))) == 100


@pytest.mark.parametrize(
    ("values", "bursty"),
    [
        (lambda r: r.lognormal(0, 1.2, 2000), True),
        (lambda r: np.where(r.random(2000) < 0.7, 0.0, r.lognormal(0, 1, 2000)), True),
        (lambda r: 10 + r.normal(0, 1, 2000), False),
        (lambda r: r.lognormal(0, 1.2, 2000) - 1.0, False),
        (lambda _: np.zeros(2000), False),
        (lambda _: np.full(2000, np.nan), False),
    ],
)
def test_the_log_is_for_bursty_panels_without_negative_values(values, bursty):
    assert w.is_bursty([HourlySeries("a", FIRST, values(np.random.default_rng(0)))]) is bursty


def test_an_empty_list_makes_empty_windows():
    assert len(w.at_ends([], horizon=24, log=True)) == 0


HOSTILE = st.one_of(
    st.just(float("nan")),
    st.just(0.0),
    st.floats(allow_nan=False, allow_infinity=True),
    st.floats(min_value=-10, max_value=10),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(HOSTILE, min_size=0, max_size=60), st.booleans())
def test_inputs_are_finite_whatever_the_history(pattern, log):
    values = np.resize(np.array(pattern or [np.nan]), 200)
    made = w.at_ends([HourlySeries("a", FIRST, values)], horizon=24, log=log)
    for one in made.inputs.values():
        assert np.isfinite(one).all()


@settings(deadline=None, max_examples=25)
@given(st.floats(min_value=1e-9, max_value=1e9), st.booleans())
def test_a_series_in_another_unit_looks_the_same(factor, log):
    series = daily()
    one = w.at_ends([series], horizon=24, log=log)
    other = w.at_ends([replace(series, values=series.values * factor)], horizon=24, log=log)
    for name in w.INPUTS:
        np.testing.assert_allclose(one.inputs[name], other.inputs[name], atol=1e-5)
