from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.forecasting.live_errors import (
    LEVEL_WITH_NAIVE,
    MIN_ISSUE_HOURS,
    MIN_KNOWN_HOURS,
    BacktestBand,
    DriftState,
    backtest_band,
    daily_wapes,
    drift,
    once_an_hour,
    pool,
    score,
)
from orcha_pipeline.model import HOUR, NET_NATIVE, YIELD_USD, YieldForecast
from orcha_pipeline.warehouse.forecast_rows import ForecastErrorRow

NOW = datetime(2026, 3, 5, 12, 5, tzinfo=UTC)
TOP = NOW.replace(minute=0)
ISSUED = NOW - timedelta(hours=24)
FIRST = TOP - timedelta(hours=24)
BAND = BacktestBand(0.2, 0.02)
DAY_HOURS = 24


def issued(p50=1.0, *, at=ISSUED, low=0.5, high=1.5):
    first = at.replace(minute=0)
    return YieldForecast(
        node="n",
        issued_at=at,
        hours=tuple(first + n * HOUR for n in range(DAY_HOURS)),
        p10=(low,) * DAY_HOURS,
        p50=(p50,) * DAY_HOURS,
        p90=(high,) * DAY_HOURS,
        model="lstm",
        version="7",
    )


def hours_from(first, values):
    """Hour -> value; None is unknown, which has no entry."""
    return {first + n * HOUR: value for n, value in enumerate(values) if value is not None}


def an_error(at, *, error=1.0, truth=10.0, naive=1.0, hours=24, version="7", node="n"):
    return ForecastErrorRow(
        issued_at=at,
        node=node,
        target=YIELD_USD,
        model="lstm",
        version=version,
        hours=hours,
        abs_error=error,
        abs_truth=truth,
        naive_abs_error=naive,
        inside_band=hours // 2,
        scored_at=NOW,
    )


def a_day(**figures):
    """One forecast an hour, of the 24 hours that a day ago ended."""
    return [an_error(ISSUED - n * HOUR, **figures) for n in range(DAY_HOURS)]


def judge(errors, *, band=BAND, version="7", now=NOW):
    return drift(errors, version=version, band=band, now=now)


# --- one forecast


def test_a_forecast_is_scored_by_the_hours_that_are_known():
    known = hours_from(FIRST, [1.0, 1.2, None, 2.0]) | hours_from(FIRST - 24 * HOUR, [0.5, 1.0, 1.0, 1.0])
    row = score(issued(), known, scored_at=NOW)
    assert row is not None
    assert (row.hours, row.inside_band) == (3, 2)
    assert row.abs_error == pytest.approx(0.2 + 1.0)
    assert row.abs_truth == pytest.approx(4.2)
    assert row.naive_abs_error == pytest.approx(0.5 + 0.2 + 1.0)
    assert (row.node, row.issued_at, row.target, row.model, row.version) == ("n", ISSUED, YIELD_USD, "lstm", "7")
    assert row.scored_at == NOW


def test_a_zero_that_is_known_counts_and_an_unknown_hour_does_not():
    zero = score(issued(), hours_from(FIRST, [0.0]), scored_at=NOW)
    assert zero is not None
    assert (zero.hours, zero.abs_error, zero.abs_truth, zero.inside_band) == (1, 1.0, 0.0, 0)
    assert score(issued(), {}, scored_at=NOW) is None
    # What is known of before and after the forecast tells nothing of it.
    outside = hours_from(FIRST - 24 * HOUR, [1.0] * 24) | hours_from(FIRST + 24 * HOUR, [1.0])
    assert score(issued(), outside, scored_at=NOW) is None


def test_seasonal_naive_takes_an_older_day_where_yesterday_is_unknown_but_none_of_the_forecasts_own_hours():
    first_two = hours_from(FIRST, [1.0, 1.0])
    older = hours_from(FIRST - 48 * HOUR, [4.0, 5.0])
    row = score(issued(), first_two | older | hours_from(FIRST - 24 * HOUR, [None, 2.0]), scored_at=NOW)
    assert row is not None
    assert row.naive_abs_error == pytest.approx(3.0 + 1.0)


@pytest.mark.parametrize(("days", "answers"), [(1, True), (7, True), (8, False)])
def test_seasonal_naive_reaches_back_a_week(days, answers):
    known = hours_from(FIRST, [1.0]) | hours_from(FIRST - days * 24 * HOUR, [4.0])
    row = score(issued(), known, scored_at=NOW)
    assert row is not None
    assert row.naive_abs_error == (3.0 if answers else None)


def test_where_seasonal_naive_lacks_one_of_the_known_hours_it_is_not_compared_with():
    known = hours_from(FIRST, [1.0, 1.0]) | hours_from(FIRST - 24 * HOUR, [4.0])
    row = score(issued(), known, scored_at=NOW)
    assert row is not None
    assert row.hours == 2
    assert row.naive_abs_error is None


def test_no_hour_from_the_issue_on_is_seasonal_naives_even_in_a_longer_forecast():
    two_days = issued()
    two_days = replace(
        two_days,
        hours=tuple(FIRST + n * HOUR for n in range(48)),
        **{name: getattr(two_days, name) * 2 for name in ("p10", "p50", "p90")},
    )
    known = hours_from(FIRST - 24 * HOUR, [3.0] * 24) | hours_from(FIRST, [1.0] * 48)
    row = score(two_days, known, scored_at=NOW)
    assert row is not None
    assert row.naive_abs_error == pytest.approx(48 * 2.0)


def test_a_forecast_of_native_earnings_keeps_its_target():
    row = score(replace(issued(), target=NET_NATIVE), hours_from(FIRST, [1.0]), scored_at=NOW)
    assert row is not None
    assert row.target == NET_NATIVE


VALUES = st.lists(st.none() | st.floats(0, 1e6), min_size=24, max_size=24)


@given(truth=VALUES, before=VALUES, p50=st.floats(0, 1e6))
def test_the_sums_are_those_of_the_known_hours(truth, before, p50):
    row = score(issued(p50), hours_from(FIRST, truth) | hours_from(FIRST - 24 * HOUR, before), scored_at=NOW)
    known = [value for value in truth if value is not None]
    if row is None:
        assert not known
        return
    assert row.hours == len(known)
    assert row.abs_error == pytest.approx(sum(abs(value - p50) for value in known))
    assert row.abs_truth == pytest.approx(sum(known))
    assert 0 <= row.inside_band <= row.hours
    pairs = [(value, other) for value, other in zip(truth, before, strict=True) if value is not None]
    if any(other is None for _, other in pairs):
        assert row.naive_abs_error is None
    else:
        assert row.naive_abs_error == pytest.approx(sum(abs(value - other) for value, other in pairs))


# --- many forecasts


def test_of_the_forecasts_of_an_hour_the_last_counts_for_each_node():
    quarters = [an_error(FIRST + timedelta(minutes=m), error=m) for m in (15, 45, 30)]
    other = an_error(FIRST, error=7.0, node="m")
    assert sorted(error.abs_error for error in once_an_hour([*quarters, other])) == [7.0, 45.0]


def test_pooled_figures_weigh_by_what_was_earned_and_compare_the_same_forecasts():
    pooled = pool([an_error(FIRST, error=1, truth=10, naive=2), an_error(FIRST, error=9, truth=10, naive=None)])
    assert pooled.wape == pytest.approx(0.5)
    assert pooled.naive_wape == pytest.approx(0.2)
    assert pooled.compared_error == 1
    assert pooled.coverage == pytest.approx(0.5)
    assert (pooled.issue_hours, pooled.hours) == (1, 48)


def test_of_nothing_no_figure_is_known():
    pooled = pool([])
    assert (pooled.wape, pooled.naive_wape, pooled.coverage) == (None, None, None)


def test_the_trend_has_a_figure_a_day_and_none_for_a_day_without_forecasts():
    errors = [an_error(NOW - timedelta(hours=1), error=3), an_error(NOW - timedelta(hours=50), error=5)]
    assert daily_wapes(errors, now=NOW, days=3) == [pytest.approx(0.5), None, pytest.approx(0.3)]


# --- the band


def test_the_band_is_that_of_what_is_served_pooled_over_nodes_as_live_errors_are():
    figures = {"served wape": 0.3, "served pooled_wape": 0.2, "served pooled_wape_std": 0.05, "lstm wape": 0.4}
    assert backtest_band(figures) == BacktestBand(0.2, 0.05)
    assert backtest_band({"served pooled_wape": 0.2}) == BacktestBand(0.2, None)
    assert backtest_band({"served wape": 0.3, "lstm wape": 0.4}) is None


@pytest.mark.parametrize(("spread", "limit"), [(0.05, 0.35), (0.0, 0.25), (None, 0.3)])
def test_the_band_is_three_spreads_wide_but_never_a_hairs_breadth(spread, limit):
    assert BacktestBand(0.2, spread).limit == pytest.approx(limit)


# --- drift


def test_a_version_that_keeps_what_its_backtest_promised_is_steady():
    verdict = judge(a_day(error=2.5, naive=3.0))
    assert verdict.state is DriftState.STEADY
    assert "live WAPE 0.250 is within 0.260" in verdict.reason
    assert "no worse than seasonal naive's 0.300" in verdict.reason


def test_a_live_wape_beyond_the_band_is_drift_and_the_reason_has_the_figures():
    verdict = judge(a_day(error=2.7, naive=9.0))
    assert verdict.state is DriftState.DRIFTED
    assert verdict.reason == (
        "version 7, forecasts of 24 issue hours: live WAPE 0.270 is beyond 0.260 (backtest 0.200, spread 0.020)"
    )
    evidence = verdict.evidence()
    assert evidence["live_wape"] == pytest.approx(0.27)
    assert evidence["limit"] == pytest.approx(0.26)
    assert (evidence["version"], evidence["issue_hours"], evidence["known_hours"]) == ("7", 24, 24 * 24)


@pytest.mark.parametrize("band", [BAND, None])
def test_worse_than_seasonal_naive_for_a_day_is_drift_though_within_the_band(band):
    verdict = judge(a_day(error=2.0, naive=1.9), band=band)
    assert verdict.state is DriftState.DRIFTED
    assert "WAPE 0.200 is worse than seasonal naive's 0.190" in verdict.reason
    assert "beyond" not in verdict.reason


def test_as_good_as_seasonal_naive_is_not_worse():
    assert judge(a_day(error=1.0, naive=1.0)).state is DriftState.STEADY
    assert judge(a_day(error=LEVEL_WITH_NAIVE - 0.001, naive=1.0)).state is DriftState.STEADY
    assert judge(a_day(error=LEVEL_WITH_NAIVE + 0.001, naive=1.0)).state is DriftState.DRIFTED


def test_some_hours_worse_than_naive_are_no_drift_while_the_day_is_not():
    errors = a_day(error=1.0, naive=2.0)
    errors[:8] = [replace(error, abs_error=2.2) for error in errors[:8]]
    assert judge(errors, band=None).state is DriftState.STEADY


def test_where_nothing_is_earned_any_more_naive_tells_what_no_wape_can():
    verdict = judge(a_day(error=1.0, truth=0.0, naive=0.0))
    assert verdict.state is DriftState.DRIFTED
    assert "absolute error 24 is worse than seasonal naive's 0" in verdict.reason


def test_only_the_champions_own_forecasts_are_judged():
    old = a_day(error=9.0, version="6")
    assert judge(old).state is DriftState.UNKNOWN
    new = [an_error(ISSUED - n * HOUR, error=1.0, naive=2.0) for n in range(MIN_ISSUE_HOURS)]
    assert judge([*old, *new]).state is DriftState.STEADY
    assert judge([*old, *new], version="6").state is DriftState.DRIFTED


def test_too_few_issue_hours_are_not_judged_however_many_nodes_and_quarters_they_have():
    few = [
        an_error(FIRST - n * HOUR + timedelta(minutes=m), error=9.0, node=node)
        for n in range(MIN_ISSUE_HOURS - 1)
        for m in (0, 15, 30, 45)
        for node in ("n", "m")
    ]
    verdict = judge(few)
    assert verdict.state is DriftState.UNKNOWN
    assert f"{MIN_ISSUE_HOURS - 1} issue hours" in verdict.reason
    assert judge([*few, an_error(FIRST + HOUR, error=9.0)]).state is DriftState.DRIFTED


def test_a_forecast_of_which_too_little_is_known_is_not_judged():
    assert judge(a_day(error=9.0, hours=MIN_KNOWN_HOURS - 1)).state is DriftState.UNKNOWN
    assert judge(a_day(error=9.0, hours=MIN_KNOWN_HOURS)).state is DriftState.DRIFTED


def test_a_bad_day_that_is_over_is_no_drift_of_today():
    bad = a_day(error=9.0)
    good = [an_error(error.issued_at + DAY_HOURS * HOUR, error=1.0, naive=2.0) for error in bad]
    assert judge(bad).state is DriftState.DRIFTED
    assert judge([*bad, *good], now=NOW + DAY_HOURS * HOUR).state is DriftState.STEADY
    # Nor is it one two days later, when nothing has come true since.
    assert judge(bad, now=NOW + DAY_HOURS * HOUR).state is DriftState.UNKNOWN


def test_the_day_judged_ends_with_the_last_forecast_that_is_known_well_enough():
    good = [an_error(ISSUED + (12 - n) * HOUR, error=1.0, naive=2.0) for n in range(DAY_HOURS)]
    bad = [an_error(good[-1].issued_at - n * HOUR, error=90.0) for n in range(1, 10)]
    fresh = [an_error(ISSUED + (12 + n) * HOUR, error=90.0, hours=MIN_KNOWN_HOURS - n) for n in range(1, 10)]
    verdict = judge([*bad, *good, *fresh])
    assert verdict.state is DriftState.STEADY
    assert verdict.pooled.issue_hours == DAY_HOURS


def test_the_four_forecasts_of_an_hour_count_once():
    # The last of each hour is fine; the three before it are not, and would tip the day.
    errors = [
        an_error(FIRST - n * HOUR + timedelta(minutes=m), error=1.0 if m == 45 else 9.0, naive=2.0)
        for n in range(DAY_HOURS)
        for m in (0, 15, 30, 45)
    ]
    assert judge(errors).state is DriftState.STEADY


def test_nodes_of_a_protocol_are_judged_together():
    errors = [*a_day(error=4.0, naive=9.0), *a_day(error=1.0, naive=9.0, truth=30.0, node="m")]
    assert judge(errors).pooled.wape == pytest.approx(5 / 40)
    assert judge(errors).state is DriftState.STEADY


def test_without_a_band_and_without_naive_nothing_can_be_said():
    verdict = judge(a_day(error=9.0, naive=None), band=None)
    assert verdict.state is DriftState.UNKNOWN
    assert "nothing to compare them with" in verdict.reason


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=DAY_HOURS, max_size=DAY_HOURS), st.randoms())
def test_the_verdict_does_not_depend_on_the_order_of_the_rows(figures, random):
    errors = [an_error(ISSUED - n * HOUR, error=e, naive=v) for n, (e, v) in enumerate(figures)]
    mixed = list(errors)
    random.shuffle(mixed)
    assert judge(mixed).state is judge(errors).state
