from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from orcha_pipeline.anomalies.trend import heading, slope_a_day

AT = datetime(2026, 2, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def hourly(values):
    return [(AT - (len(values) - 1 - i) * HOUR, float(value)) for i, value in enumerate(values)]


def test_the_slope_is_a_days_and_a_few_wrong_values_do_not_move_it():
    values = 5.0 + np.arange(168) / 24
    values[::10] = 1000.0
    assert slope_a_day(hourly(values)) == pytest.approx(1.0, abs=0.05)


def test_of_many_readings_some_tell_the_same():
    assert slope_a_day(hourly(np.arange(5000) / 24)) == pytest.approx(1.0)


def test_of_too_few_readings_or_of_one_moment_nothing_is_told():
    assert slope_a_day(hourly([1, 2, 3, 4, 5])) is None
    assert slope_a_day([(AT, float(i)) for i in range(9)]) is None
    assert heading([], 1.0, falling=True) is None


def test_the_sooner_of_day_and_week_counts():
    week = np.concatenate([np.full(144, 100.0), 100 - np.arange(1, 25)])  # falls since yesterday
    found = heading(hourly(week), 52.0, falling=True)
    assert (found.value, found.slope) == (76.0, pytest.approx(-24.0))
    assert found.days == pytest.approx(1.0)


def test_what_moves_away_is_not_heading_there_and_what_is_past_is_there():
    assert heading(hourly(np.arange(48)), 0.0, falling=True) is None
    assert heading(hourly(np.arange(48)), 40.0, falling=False).days == 0.0


def test_what_is_known_must_reach_across_half_of_the_span():
    assert heading(hourly(np.arange(11.0)), 100.0, falling=False) is None
    assert heading(hourly(np.arange(14.0)), 100.0, falling=False) is not None
