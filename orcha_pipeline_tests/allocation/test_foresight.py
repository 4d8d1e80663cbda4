"""What is expected of a host's nodes: by their quarter-hours, by their forecasts, or by both."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from orcha_pipeline.allocation.foresight import LEAST_KNOWN, SCENARIOS, by_forecasts, coming_hours, foresee, responses
from orcha_pipeline.allocation.outlook import DAY, LIKELY, PERIODS
from orcha_pipeline.allocation.response_learning import PRIOR_DEVIATION, LearntResponse
from orcha_pipeline_tests.allocation.build import NOW, a_forecast

K = len(PERIODS)
HOUR = timedelta(hours=1)
NAN = float("nan")


def foreseen(rates, shares=0.5, *, forecasts=None, now=0.5, curvatures=None, prior=0.9):
    """The outlook of nodes a, b, ... from quarter-hours (T, N)."""
    rates = np.asarray(rates, dtype=np.float64)
    names = "abcdefgh"[: rates.shape[1]]
    curvatures = curvatures or [prior] * len(names)
    return foresee(
        rates,
        np.broadcast_to(np.asarray(shares, dtype=np.float64), rates.shape),
        nodes=list(names),
        known_responses=[LearntResponse(each, 0.1, 3) for each in curvatures],
        forecasts=forecasts or {},
        shares_now=dict.fromkeys(names, now) if not isinstance(now, dict) else now,
        prior=prior,
        issued_at=NOW,
    )


def steady(*rates, days=7):
    return np.tile(rates, (days * DAY, 1))


# --- foresee


def test_quarter_hours_tell_the_coming_hour_and_the_forecast_takes_over():
    outlook = foreseen(steady(0.05), forecasts={"a": a_forecast("a", 0.30)})
    assert outlook.mean[0, 0] == pytest.approx(0.05 / 0.5**0.9, rel=0.1)
    assert outlook.mean[-1, 0] == pytest.approx(0.30, rel=0.1)
    assert (np.diff(outlook.mean[:, 0]) > -1e-4).all()


def test_without_a_forecast_quarter_hours_tell_the_whole_day():
    outlook = foreseen(steady(0.05))
    np.testing.assert_allclose(outlook.mean[:, 0], 0.05 / 0.5**0.9, rtol=0.2)
    assert outlook.scenarios.shape == (SCENARIOS, K, 1)
    assert outlook.likely.shape == (LIKELY, K, 1)


def test_a_node_with_too_few_quarter_hours_is_told_by_its_forecast_and_the_others_by_their_own():
    rates = steady(0.05, 0.05)
    rates[-int(3 * DAY * (1 - LEAST_KNOWN)) - 1 :, 1] = np.nan
    forecasts = {"a": a_forecast("a", 0.30), "b": a_forecast("b", 0.30)}
    outlook = foreseen(rates, forecasts=forecasts)
    assert outlook.mean[0, 0] == pytest.approx(0.05 / 0.5**0.9, rel=0.1)
    np.testing.assert_allclose(outlook.mean[:, 1], 0.30)
    np.testing.assert_allclose(outlook.likely[:, :, 1], by_forecasts(list(forecasts.values()), NOW).likely[:, :, 1])


def test_half_of_the_last_three_days_is_enough():
    rates = steady(0.05)
    rates[-int(3 * DAY * (1 - LEAST_KNOWN)) :] = np.nan
    outlook = foreseen(rates, forecasts={"a": a_forecast("a", 0.30)})
    assert outlook.mean[0, 0] == pytest.approx(0.05 / 0.5**0.9, rel=0.1)


def test_quarter_hours_at_a_share_of_zero_tell_nothing():
    outlook = foreseen(steady(0.0), 0.0, now=0.0, forecasts={"a": a_forecast("a", 0.30)})
    np.testing.assert_allclose(outlook.mean[:, 0], 0.30)


@pytest.mark.parametrize(("share", "factor"), [(0.25, 0.25**0.4), (1.0, 1.0), (0.0, 1.0), (None, 1.0)])
def test_a_forecast_by_the_prior_curvature_means_the_same_earnings_at_the_share_of_now(share, factor):
    nothing = np.full((10, 1), np.nan)
    outlook = foreseen(nothing, now=share, curvatures=[0.5], prior=0.9, forecasts={"a": a_forecast("a", 0.30)})
    np.testing.assert_allclose(outlook.mean[:, 0], 0.30 * factor)
    np.testing.assert_allclose(outlook.scenarios.mean(axis=0)[:, 0], 0.30 * factor)
    np.testing.assert_allclose(outlook.likely.mean(axis=0)[:, 0], 0.30 * factor)
    if share:
        np.testing.assert_allclose(outlook.mean[:, 0] * share**0.5, 0.30 * share**0.9)


def test_the_forecast_that_takes_over_from_quarter_hours_is_converted_as_well():
    forecasts = {"a": a_forecast("a", 0.30)}
    outlook = foreseen(steady(0.05), 0.25, now=0.25, curvatures=[0.5], forecasts=forecasts)
    assert outlook.mean[0, 0] == pytest.approx(0.05 / 0.25**0.5, rel=0.1)
    assert outlook.mean[-1, 0] == pytest.approx(0.30 * 0.25**0.4, rel=0.1)


def test_quarter_hours_at_different_shares_tell_one_yield():
    shares = np.where(np.arange(7 * DAY) % DAY < DAY // 2, 0.2, 0.8)[:, None]
    outlook = foreseen(0.1 * shares**0.7, shares, curvatures=[0.7])
    np.testing.assert_allclose(outlook.mean[:, 0], 0.1, rtol=0.1)


def test_without_quarter_hours_and_forecast_nothing_is_known():
    outlook = foreseen(np.full((7 * DAY, 2), np.nan), forecasts={"a": a_forecast("a", 0.30)})
    assert np.isfinite(outlook.mean[:, 0]).all()
    assert np.isnan(outlook.mean[:, 1]).all()


def test_a_history_shorter_than_three_days_leaves_it_to_the_forecasts():
    forecasts = {"a": a_forecast("a", 0.30)}
    outlook = foreseen(steady(0.05, 0.05, days=2), forecasts=forecasts)
    np.testing.assert_allclose(outlook.mean[:, 0], 0.30)
    assert np.isnan(outlook.mean[:, 1]).all()
    assert foreseen(steady(0.05, days=3), forecasts=forecasts).mean[0, 0] == pytest.approx(0.05 / 0.5**0.9, rel=0.1)


def test_a_node_that_never_earned_is_told_by_its_forecast():
    outlook = foreseen(steady(0.05, 0.0), forecasts={"b": a_forecast("b", 0.30)})
    np.testing.assert_allclose(outlook.mean[:, 1], 0.30)
    assert np.isnan(foreseen(steady(0.0)).mean).all()


def test_a_node_that_pays_nothing_now_is_expected_to_earn_less_at_first():
    rates = steady(0.05, 0.05)
    rates[-8:, 1] = 0.0
    outlook = foreseen(rates)
    assert outlook.mean[0, 1] < 0.9 * outlook.mean[0, 0]


def test_a_host_without_nodes_has_an_empty_outlook():
    assert foreseen(np.empty((7 * DAY, 0))).mean.shape == (K, 0)


@settings(max_examples=30, deadline=None)
@given(
    arrays(np.float64, (4 * DAY // 8, 2), elements=st.sampled_from([NAN, 0.0, -1.0, 1e-6, 0.05, 100.0])),
    arrays(np.float64, (4 * DAY // 8, 2), elements=st.sampled_from([NAN, 0.0, 0.01, 0.5, 1.0])),
    st.booleans(),
)
def test_no_rates_and_shares_break_it(rates, shares, forecast):
    forecasts = {name: a_forecast(name, 0.3) for name in "ab"} if forecast else {}
    outlook = foreseen(np.repeat(rates, 8, axis=0), np.repeat(shares, 8, axis=0), forecasts=forecasts)
    known = np.isfinite(outlook.mean)
    assert (known.all(axis=0) | (~known).all(axis=0)).all()
    assert known.all() or not forecast
    assert (outlook.mean[known] >= 0).all()
    assert np.isfinite(outlook.scenarios[:, known]).all()
    assert np.isfinite(outlook.likely[:, known]).all()
    seen = known & (outlook.scenarios.mean(axis=0) > 0)  # where no past scenario paid, none of them does
    np.testing.assert_allclose(outlook.scenarios.mean(axis=0)[seen], outlook.mean[seen], rtol=1e-6)


# --- coming_hours


def test_the_coming_hours_begin_with_the_one_that_has_begun():
    told = coming_hours(a_forecast("a", list(range(30)), start=NOW - 3 * HOUR), NOW)
    assert told["p50"] == [float(hour) for hour in range(3, 27)]
    assert told["p10"][1] == pytest.approx(4 * 0.8)
    assert told["p90"][1] == pytest.approx(4 * 1.2)


def test_what_was_forecast_last_goes_on_through_a_gap_and_after_the_end():
    short = a_forecast("a", [1.0, 2.0, 3.0])
    gap = replace(short, hours=(*short.hours[:2], short.hours[0] + 5 * HOUR))
    assert coming_hours(short, NOW)["p50"] == [1.0, 2.0, *[3.0] * 22]
    assert coming_hours(gap, NOW)["p50"] == [1.0, 2.0, 2.0, 2.0, 2.0, *[3.0] * 19]


@pytest.mark.parametrize("start", [NOW + HOUR, NOW - 24 * HOUR])
def test_a_forecast_without_the_hour_that_has_begun_tells_nothing(start):
    forecast = a_forecast("a", 0.1, start=start)
    assert coming_hours(forecast, NOW) == {}
    assert np.isnan(by_forecasts([forecast, None], NOW).mean).all()


# --- responses


def test_each_node_has_the_response_of_its_own_column():
    shares = np.full((200, 2), 0.5)
    shares[100:, 1] = 0.25
    rates = 0.1 * shares**0.6
    kept, moved = responses(rates, shares, prior=0.9)
    assert (kept.curvature, kept.deviation, kept.changes) == (0.9, PRIOR_DEVIATION, 0)
    assert (moved.changes, moved.least, moved.most) == (1, 0.25, 0.5)
    assert moved.curvature == pytest.approx(0.6, abs=0.02)
    assert moved.deviation < PRIOR_DEVIATION


def test_what_is_unknown_leaves_the_prior():
    for unknown in (NAN, 0.0, -0.1):
        assert responses(np.full((50, 1), unknown), np.full((50, 1), 0.5), prior=0.8) == [
            LearntResponse(0.8, PRIOR_DEVIATION, 0)
        ]
    assert responses(np.empty((50, 0)), np.empty((50, 0)), prior=0.8) == []
