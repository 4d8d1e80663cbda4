from datetime import UTC, datetime

import numpy as np
import pytest

from orcha_pipeline.anomalies.catalogue import (
    SERIES_EARNINGS,
    SERIES_LATENCY,
    SERIES_PRICE,
    SERIES_USAGE,
    SERIES_YIELD,
)
from orcha_pipeline.anomalies.series_kinds import detect_series
from orcha_pipeline.anomalies.watched_series import series_anomaly

WINDOW = 28 * 24
"""Hours that a cycle looks at."""
END = datetime(2026, 2, 1, 12, tzinfo=UTC)


def daily(hours=500, seed=0):
    hour = np.arange(hours)
    return (1 + 0.4 * np.sin(2 * np.pi * hour / 24) + np.random.default_rng(seed).normal(0, 0.05, hours)).tolist()


def judged(rule, values, **more):
    return series_anomaly(rule, "a-1", {"it": values, **more}, end=END, at=END)


def test_an_ordinary_hour_is_not_told():
    assert judged(SERIES_EARNINGS, daily()) is None
    assert judged(SERIES_EARNINGS, []) is None


def test_a_loss_of_earnings_is_a_warning_and_a_gain_is_information():
    fallen = judged(SERIES_EARNINGS, [*daily(), 0.1])
    assert (fallen.rule, fallen.severity, fallen.subject) == ("series-earnings", "warning", "a-1")
    assert fallen.evidence.startswith("drop of it: ")
    assert 0.5 <= fallen.score <= 1
    assert judged(SERIES_EARNINGS, [*daily(), 5.0]).severity == "info"


def test_it_is_told_in_the_hour_in_which_it_happens_alone():
    assert judged(SERIES_EARNINGS, [*daily(), 5.0, 1.0]) is None


def test_missing_hours_are_an_outage_of_earnings_and_of_nothing_else():
    silent = [*daily(), None, None, None]
    outages = [hours for hours in (1, 2, 3) if judged(SERIES_EARNINGS, [*daily(), *[None] * hours])]
    assert len(outages) == 1
    assert outages[0] <= 2
    assert all(judged(rule, silent[:-2]) is None for rule in (SERIES_YIELD, SERIES_USAGE, SERIES_LATENCY, SERIES_PRICE))


@pytest.mark.parametrize(("value", "told"), [(30.0, True), (0.0001, False)])
def test_a_slow_answer_is_told_and_a_fast_one_is_not(value, told):
    assert (judged(SERIES_LATENCY, [*daily(), value]) is not None) is told


@pytest.mark.parametrize("ago", [WINDOW - 20, WINDOW - 60, WINDOW - 150, WINDOW - 199, WINDOW - 300])
def test_a_spike_of_weeks_ago_hides_none_of_now(ago):
    for seed in range(5):
        values = 1 + np.random.default_rng(seed).uniform(-0.4, 0.4, WINDOW)
        values[-1 - ago] += 5.0
        values[-1] += 2.0
        assert judged(SERIES_EARNINGS, values.tolist()) is not None


def test_a_window_that_moves_on_tells_what_the_whole_series_does():
    # Some six weeks, each hour judged in the window that ends with it, beside one look at all of them.
    values = 1 + np.random.default_rng(3).uniform(-0.4, 0.4, 3 * WINDOW)
    planted = [WINDOW + day for day in (10, 300, 640, 1000)]
    values[planted] += [5.0, 4.0, 3.0, 3.5]
    whole = detect_series(3600.0 * np.arange(len(values)), values).is_anomaly
    told = [
        hour
        for hour in range(WINDOW, len(values))
        if judged(SERIES_EARNINGS, values[hour + 1 - WINDOW : hour + 1].tolist()) is not None
    ]
    assert told == np.flatnonzero(whole)[np.flatnonzero(whole) >= WINDOW].tolist()
    assert set(planted) <= set(told)


def test_of_several_series_the_strangest_is_told():
    assert judged(SERIES_USAGE, [*daily(), 3.0], other=[*daily(seed=1), 30.0]).evidence.startswith("spike of other")
