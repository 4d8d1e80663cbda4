from dataclasses import replace
from datetime import timedelta

import pytest

from orcha_pipeline.assets.checks import forecast_problems
from orcha_pipeline.model import HOUR, hour_of
from orcha_pipeline_tests.allocation.build import a_forecast

FINE = a_forecast("golem-1", 0.5)
SECOND_HOUR = hour_of(FINE.issued_at) + HOUR


def with_second(quantile, value):
    values = list(getattr(FINE, quantile))
    values[1] = value
    return replace(FINE, **{quantile: tuple(values)})


def test_a_forecast_of_24_hours_with_its_quantiles_in_order_is_fine():
    assert forecast_problems(FINE) == []
    assert forecast_problems(a_forecast("golem-1", 0.0)) == []


@pytest.mark.parametrize("hours", [0, 1, 23, 25])
def test_another_number_of_hours_is_a_problem(hours):
    (told,) = forecast_problems(a_forecast("golem-1", 0.5, hours=hours))
    assert told.startswith(f"golem-1: {hours} hours")


def test_a_forecast_that_begins_at_another_hour_than_it_was_issued_in_is_a_problem():
    moved = replace(FINE, hours=tuple(hour - HOUR for hour in FINE.hours))
    assert len(forecast_problems(moved)) == 1
    assert forecast_problems(replace(FINE, issued_at=FINE.issued_at + timedelta(minutes=54))) == []


@pytest.mark.parametrize(
    ("quantile", "value"),
    [("p10", 0.51), ("p90", 0.49), ("p50", 0.7), ("p10", -0.01)]
    + [(name, value) for name in ("p10", "p50", "p90") for value in (float("nan"), float("inf"), float("-inf"))],
)
def test_an_hour_out_of_order_negative_or_not_finite_is_told_by_its_time(quantile, value):
    (told,) = forecast_problems(with_second(quantile, value))
    assert told.startswith("golem-1: p10 ")
    assert f"{SECOND_HOUR:%Y-%m-%d %H:%M}" in told
