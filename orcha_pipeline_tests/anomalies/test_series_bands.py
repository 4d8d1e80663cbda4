import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.anomalies.series_bands import (
    ALERTING,
    FORGOTTEN_AFTER,
    USUAL_AFTER,
    WARM_UP,
    bands,
    beyond_all_before,
    suddenness,
)
from orcha_pipeline.anomalies.series_expectation import rolling_mean, sampling_step, seasonal
from orcha_pipeline_tests.anomalies.series import HOUR, daily, hours

DAY_HOURS = 24


def between_0_and_1(count, *, seed=0):
    values = np.random.default_rng(seed).uniform(0, 1, count)
    values[:2] = 0.0, 1.0
    return values


def exceeded(values, *, step=HOUR, weight=1.0):
    return beyond_all_before(hours(len(values), step=step), np.asarray(values, dtype=float), weight)


def test_what_lies_within_the_bounds_exceeds_nothing():
    found = exceeded(between_0_and_1(1000))

    assert not found.amount.any()
    assert np.isnan(found.bound).all()


@pytest.mark.parametrize(("value", "amount", "bound"), [(1.5, 0.5, 1.0), (-0.25, 0.25, 0.0)])
def test_a_reading_exceeds_by_a_fraction_of_the_range(value, amount, bound):
    values = between_0_and_1(400)
    values[300] = value

    found = exceeded(values)

    assert found.amount[300] == pytest.approx(amount)
    assert found.bound[300] == bound
    assert np.count_nonzero(found.amount) == 1


def test_a_weight_scales_what_exceeds():
    values = between_0_and_1(400)
    values[300] = 1.5

    assert exceeded(values, weight=0.5).amount[300] == pytest.approx(0.25)


def test_nothing_is_judged_before_enough_is_known():
    values = between_0_and_1(WARM_UP + 100)
    values[WARM_UP - 1] = 50.0

    assert not exceeded(values).amount.any()


def test_only_a_stronger_reading_exceeds_after_an_alert():
    values = between_0_and_1(400)
    values[[300, 310, 320]] = 2.0, 1.9, 3.0

    assert np.flatnonzero(exceeded(values).amount).tolist() == [300, 320]


@pytest.mark.parametrize(("later", "told"), [(0, [300]), (1, [300, 469])])
def test_what_was_alerted_is_forgotten_after_a_week(later, told):
    values = between_0_and_1(800)
    again = 300 + int(FORGOTTEN_AFTER / HOUR) + later
    values[[300, again]] = 2.0, 1.9

    assert np.flatnonzero(exceeded(values).amount).tolist() == told


def test_what_stands_apart_among_the_first_readings_is_forgotten_after_a_week_as_well():
    values = between_0_and_1(800)
    values[[60, 150]] = 6.0, 6.0
    week = int(FORGOTTEN_AFTER / HOUR)
    values[[150 + week, 150 + 2 * week + 1]] = 3.0

    assert np.flatnonzero(exceeded(values).amount).tolist() == [150 + 2 * week + 1]


def test_what_keeps_coming_among_the_first_readings_is_usual():
    values = between_0_and_1(1200)
    values[20::DAY_HOURS] = 10.0

    assert not exceeded(values).amount.any()


def test_what_keeps_coming_is_a_new_normal():
    values = between_0_and_1(1200)
    values[300 : 300 + USUAL_AFTER] = 2.0
    values[900] = 2.0  # long after a week

    assert np.flatnonzero(exceeded(values).amount).tolist() == [300]


def test_a_small_step_beyond_the_bounds_is_learnt_at_once():
    values = between_0_and_1(1200)
    values[[300, 900]] = 1.0 + ALERTING / 2

    assert np.flatnonzero(exceeded(values).amount).tolist() == [300]


def test_unknown_readings_are_passed_over():
    values = between_0_and_1(500)
    values[300:400:2] = np.nan
    values[450] = 1.5

    assert np.flatnonzero(exceeded(values).amount).tolist() == [450]


def test_a_constant_series_exceeds_only_where_it_changes():
    values = np.full(400, 7.0)
    values[300] = 8.0

    found = exceeded(values)

    assert np.flatnonzero(found.amount).tolist() == [300]
    assert np.isfinite(found.amount).all()


def test_a_mean_leaves_no_rounding_of_a_huge_value_behind():
    values = np.ones(100)
    values[10] = 1e100

    assert rolling_mean(values, 12)[30:] == pytest.approx(1.0)


def test_a_mean_needs_half_of_its_readings():
    values = np.array([1.0, np.nan, np.nan, 3.0, 5.0])

    assert rolling_mean(values, 3) == pytest.approx([np.nan, np.nan, np.nan, np.nan, 4.0], nan_ok=True)
    assert rolling_mean(values, 4)[3:] == pytest.approx([2.0, 4.0])
    assert np.isnan(rolling_mean(values, 6)).all()


def test_the_expectation_is_the_median_of_the_same_time_of_past_days():
    values = np.tile(np.arange(DAY_HOURS, dtype=float), 5)
    values[-1] = 100.0

    expected, residual = seasonal(hours(len(values)), values)

    assert np.isnan(residual[: 2 * DAY_HOURS]).all()
    assert residual[-1] == pytest.approx(100.0 - 22.0)  # 22, 23 and 0 o'clock of the past days
    assert residual[-3] == 0.0
    assert expected[-3:].tolist() == [21.0, 22.0, 22.0]


def test_a_weekend_is_held_against_the_last_one():
    days = np.repeat([1.0 if day % 7 < 5 else 9.0 for day in range(21)], DAY_HOURS)

    residual = seasonal(hours(len(days)), days).residual

    assert residual[5 * DAY_HOURS] == 8.0  # the first weekend is news
    assert residual[12 * DAY_HOURS : 14 * DAY_HOURS].tolist() == [0.0] * 2 * DAY_HOURS


@pytest.mark.parametrize("step", [1.0, 60.0, 300.0, 900.0, 3600.0, 7 * 3600.0, 13 * 3600.0, 86_400.0])
def test_any_sampling_step_is_judged(step):
    values = daily(900, step=step)
    values[700] = 1000.0

    found = bands(hours(len(values), step=step), values)

    assert found.value.amount[700] > ALERTING


def test_the_step_is_told_by_the_first_gaps_alone():
    first = np.concatenate([[0, 0, 0], 300.0 * np.arange(1, 60)])

    assert sampling_step(first) == 300.0
    assert sampling_step(np.concatenate([first, first[-1] + 7200.0 * np.arange(1, 500)])) == 300.0
    assert np.isnan(sampling_step(np.zeros(5)))


def test_a_step_is_told_in_sizes_of_ordinary_ones():
    values = np.tile([0.0, 1.0], 200)
    values[301] = 11.0

    steps = suddenness(values)

    assert steps[301] == pytest.approx(11.0)
    assert steps[200] == pytest.approx(1.0)


def test_a_rise_in_small_steps_is_less_of_a_surprise_than_a_leap():
    slow, sudden = daily(600, noise=0.001), daily(600, noise=0.001)
    top = 504 + 6  # where the day is highest
    slow[top - 5 : top + 6] += 10.0 * np.array([0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 0.9, 0.8, 0.6, 0.4, 0.2])
    sudden[top] += 10.0

    assert bands(hours(600), slow).value.amount[top - 5 : top + 6].max() < ALERTING
    assert bands(hours(600), sudden).value.amount[top] > ALERTING


def test_scores_grow_with_the_exceedance():
    amounts = []
    for size in (1.1, 1.5, 3.0, 100.0):
        values = between_0_and_1(400)
        values[300] = size
        amounts.append(exceeded(values).amount[300])

    assert amounts == sorted(amounts)


readings = st.one_of(st.just(float("nan")), st.floats(-1e6, 1e6, allow_subnormal=False), st.sampled_from([0.0, 1.0]))


@settings(max_examples=30, deadline=None)
@given(
    tail=st.lists(readings, min_size=1, max_size=150),
    gaps=st.lists(st.sampled_from([0.0, 60.0, 3600.0, 86_400.0]), min_size=5, max_size=5),
    cut=st.integers(0, 149),
    seed=st.integers(0, 50),
)
def test_no_reading_is_judged_by_later_ones(tail, gaps, cut, seed):
    values = np.concatenate([daily(400, seed=seed), tail])
    seconds = np.cumsum(np.concatenate([np.full(400, HOUR), np.resize(gaps, len(tail))]))
    until = 400 + min(cut, len(tail))

    whole, part = bands(seconds, values), bands(seconds[:until], values[:until])

    for one, other in zip(whole.each(), part.each(), strict=True):
        assert np.array_equal(one.amount[:until], other.amount)
    assert np.array_equal(whole.residual[:until], part.residual, equal_nan=True)
