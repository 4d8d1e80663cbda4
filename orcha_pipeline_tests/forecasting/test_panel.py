import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.forecasting.panel import HourlySeries

SERIES = HourlySeries("a", 100, np.arange(10.0), np.linspace(0, 1, 10))


@given(st.integers(80, 130))
def test_a_history_ends_at_its_origin_and_holds_nothing_of_it_or_after(origin):
    history = SERIES.before(origin)
    assert history.end == origin
    assert len(history.values) == len(history.shares)
    for hour, value in enumerate(history.values.tolist(), start=history.first_hour):
        assert hour < origin
        assert np.isnan(value) if hour >= SERIES.end else value == hour - 100


@given(st.integers(80, 130), st.integers(0, 30))
def test_hours_outside_the_grid_are_unknown(start, length):
    found = SERIES.between(start, start + length)
    assert len(found) == length
    for hour, value in enumerate(found.tolist(), start=start):
        assert value == hour - 100 if 100 <= hour < 110 else np.isnan(value)


def test_a_series_without_shares_stays_without():
    assert HourlySeries("a", 0, np.arange(3.0)).before(5).shares is None
