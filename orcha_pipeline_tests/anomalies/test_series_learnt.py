import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.anomalies.series_bands import bands
from orcha_pipeline.anomalies.series_falls import falls
from orcha_pipeline.anomalies.series_kinds import SeriesKind, detect_series
from orcha_pipeline.anomalies.series_learnt import BELOW, JUDGE_FROM, LEARN_OVER, Learnt, learnt
from orcha_pipeline_tests.anomalies.series import HOUR, hours

AT = 606
"""Where drops begin: some four weeks in, at 6 o'clock, when traffic rises."""


def weekly(count=960, *, seed=0, busy=0.1, quiet=0.4):
    """Nights a tenth of the days, weekends half of the week; the noise is large in quiet hours and small in others."""
    at = np.arange(count)
    load = (0.1 + np.clip(np.sin(2 * np.pi * (at % 24 - 5) / 24), 0, None)) * np.where(at // 24 % 7 >= 5, 0.5, 1.0)
    noise = quiet + (busy - quiet) * load / load.max()
    return 1000 * load * np.exp(noise * np.random.default_rng(seed).normal(size=count))


def told(values, seconds=None):
    """Rows with a strength that alerts."""
    strength = learnt(hours(len(values)) if seconds is None else seconds, values).strength
    return set(np.flatnonzero(strength >= 1.0).tolist())


@pytest.mark.parametrize("seed", range(6))
def test_a_drop_within_what_the_series_does_by_itself_is_found(seed):
    values = weekly(seed=seed, busy=0.05, quiet=0.3)
    values[AT + 6 : AT + 12] *= 0.5
    seconds = hours(len(values))
    plain = falls(seconds, values, bands(seconds, values).residual)

    assert not plain.amount[AT + 6 : AT + 12].any()
    assert told(values) & set(range(AT + 6, AT + 12))


def test_an_ordinary_series_hardly_ever_alerts():
    alerts = sum(len(told(weekly(seed=seed))) for seed in range(40))

    assert alerts <= 8


def test_what_is_expected_knows_the_week_and_the_level():
    values = weekly(quiet=0.02, busy=0.02)
    values[500:] *= 1.5

    expected = learnt(hours(len(values)), values).expected[AT:]

    assert np.median(np.abs(np.log(values[AT:] / expected))) < 0.03


@pytest.mark.parametrize("left", [0.3, 0.01])
def test_one_low_reading_is_no_drop(left):
    values = weekly(quiet=0.1)
    values[AT + 6] *= left

    assert not told(values) & set(range(AT, AT + 24))


def test_less_than_a_quarter_is_none_however_sure():
    values = weekly(quiet=0.01, busy=0.01)
    values[AT : AT + 6] *= 0.82
    judged = learnt(hours(len(values)), values)

    assert judged.errors[AT + 2] > 4.5
    assert not told(values)


def test_share_tells_how_much_is_left():
    values = weekly(quiet=0.02, busy=0.02)
    values[AT : AT + 3] *= 0.5

    assert learnt(hours(len(values)), values).share[AT + 2] == pytest.approx(0.5, abs=0.03)
    assert BELOW > 0.5


def test_a_second_drop_takes_more_until_the_first_is_forgotten():
    def strength(between):
        values = weekly(1800, quiet=0.1)
        values[AT : AT + 3] *= 0.2
        values[AT + between : AT + between + 3] *= 0.6
        return float(learnt(hours(1800), values).strength[AT + between + 2])

    assert strength(168) < strength(168 * (LEARN_OVER // 168 + 1))


def test_nothing_is_judged_in_the_first_15_days():
    values = weekly()

    judged = np.isfinite(learnt(hours(len(values)), values).strength)

    assert not judged[:JUDGE_FROM].any()
    assert judged[JUDGE_FROM:].all()


@pytest.mark.parametrize("step", [300.0, 86_400.0])
def test_other_steps_are_not_judged(step):
    judged = learnt(hours(960, step=step), weekly())

    assert all(np.isnan(each).all() for each in judged)


@pytest.mark.parametrize("values", [np.zeros(960), np.full(960, np.nan), -weekly(), np.full(960, 5.0), weekly(300)])
def test_odd_series_alert_of_nothing(values):
    assert not told(values)


def test_missing_readings_are_bridged():
    values = weekly(quiet=0.1)
    values[AT - 100 : AT - 96] = np.nan
    values[AT + 1] = np.nan
    values[AT : AT + 4] *= 0.4
    judged = learnt(hours(len(values)), values)

    assert np.isnan(judged.strength[AT + 1])
    assert judged.strength[AT + 2] >= 1.0


def test_rows_that_are_not_there_keep_the_time_of_the_week():
    values, seconds = weekly(1200, quiet=0.1), hours(1200)
    values[900:903] *= 0.4
    there = np.ones(1200, dtype=np.bool_)
    there[700:790] = False
    away = np.where(seconds > 800 * HOUR, 52 * 7 * 86_400.0, 0.0)

    assert 900 - 90 + 2 in told(values[there], seconds[there])
    assert 900 - 90 + 2 in told(values[there], (seconds + away)[there])


def test_of_two_readings_of_an_hour_the_first_stands():
    values, seconds = weekly(), hours(960)
    twice = np.insert(values, AT + 1, 0.001)

    judged = learnt(np.insert(seconds, AT + 1, seconds[AT]), twice)

    assert np.isnan(judged.strength[AT + 1])
    np.testing.assert_allclose(np.delete(judged.errors, AT + 1), learnt(seconds, values).errors)


def test_a_drop_is_told_with_figures():
    values = weekly(seed=1, busy=0.05, quiet=0.3)
    values[AT + 6 : AT + 12] *= 0.5
    judged = detect_series(hours(len(values)), values)

    first = next(i for i in range(AT, AT + 12) if judged.kind[i] == SeriesKind.DROP)
    assert "% of what was expected from the series' past, " in judged.reason[first]


@settings(max_examples=25, deadline=None)
@given(
    cut=st.integers(JUDGE_FROM, 900),
    gaps=st.lists(st.tuples(st.integers(0, 899), st.sampled_from([0.0, 0.5, 3.0, 30.0, 2_000.0])), max_size=4),
    missing=st.lists(st.integers(0, 899), max_size=5),
    tail=st.sampled_from([0.0, 1e-6, 1e12, np.nan]),
    seed=st.integers(0, 5),
)
def test_no_reading_is_judged_by_later_ones(cut, gaps, missing, tail, seed):
    values, steps = weekly(900, seed=seed), np.full(900, HOUR)
    for row, wide in gaps:
        steps[row] = wide * HOUR
    values[missing] = np.nan
    seconds = np.cumsum(steps)
    changed = values.copy()
    changed[cut:] = tail

    whole, alone, other = learnt(seconds, values), learnt(seconds[:cut], values[:cut]), learnt(seconds, changed)

    for name in Learnt._fields:
        np.testing.assert_allclose(getattr(alone, name), getattr(whole, name)[:cut], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(getattr(other, name)[:cut], getattr(whole, name)[:cut], rtol=1e-9, atol=1e-12)
