import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from orcha_pipeline.forecasting.baselines import score, seasonal_errors, seasonal_naive


def test_seasonal_naive_says_the_same_as_yesterday():
    band = seasonal_naive(np.arange(240.0))
    assert band is not None
    assert band[:, 1].tolist() == list(np.arange(216.0, 240.0))


def test_its_band_is_what_the_same_rule_got_wrong_before():
    band = seasonal_naive(np.arange(240.0))
    assert band is not None
    # A ramp is always 24 more than the day before, so every past error is 24: all of the doubt lies above.
    assert (band[:, 2] - band[:, 1]).tolist() == [24.0] * 24
    assert (band[:, 1] - band[:, 0]).tolist() == [0.0] * 24


def test_an_hour_known_only_two_days_ago_has_the_band_of_two_days():
    history = np.arange(240.0)
    history[-24] = np.nan
    band = seasonal_naive(history)
    assert band is not None
    assert band[0].tolist() == [192.0, 192.0, 240.0]


def test_the_band_holds_four_fifths_of_what_comes():
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(60):
        values = 10 + rng.standard_normal(24 * 15)
        band = seasonal_naive(values[:-24])
        assert band is not None
        inside.append(((band[:, 0] <= values[-24:]) & (values[-24:] <= band[:, 2])).mean())
    assert np.mean(inside) == pytest.approx(0.8, abs=0.04)


def test_with_little_history_the_band_is_wide_and_not_made_up_precision():
    band = seasonal_naive(np.array([1.0, 4.0, np.nan, 2.0]))
    assert band is not None
    assert (band[:, 0] == 0).all()
    assert (band[:, 2] == 8).all()
    assert band[-1, 1] == 2.0
    assert band[0, 1] == 2.0  # no such hour is known: the median of what is


def test_without_any_known_hour_there_is_no_forecast():
    assert seasonal_naive(np.empty(0)) is None
    assert seasonal_naive(np.full(100, np.nan)) is None


@given(hnp.arrays(np.float64, st.integers(1, 120), elements=st.floats(-10, 1e6) | st.just(float("nan"))))
def test_its_quantiles_are_known_in_order_and_not_negative(history):
    band = seasonal_naive(history)
    if band is None:
        assert np.isnan(history).all()
    else:
        assert np.isfinite(band).all()
        assert (np.diff(band, axis=1) >= 0).all()
        assert (band >= 0).all()


def flat(low, middle, high, hours=24):
    return np.tile(np.array([low, middle, high], dtype=float), (1, hours, 1))


def test_the_metrics_are_those_of_the_textbook():
    metrics = score(np.full((1, 24), 10.0), flat(6, 8, 9), np.array([4.0]))
    assert metrics.hours == 24
    assert metrics.wape == pytest.approx(0.2)
    assert metrics.mase == pytest.approx(0.5)
    assert metrics.smape == pytest.approx(2 * 2 / 18)
    assert metrics.pinball == pytest.approx((0.1 * 4 + 0.5 * 2 + 0.9 * 1) / 3)
    assert metrics.coverage80 == 0.0


def test_a_forecast_too_high_is_charged_by_the_other_side_of_the_quantile():
    metrics = score(np.full((1, 24), 10.0), flat(11, 12, 13), np.array([4.0]))
    assert metrics.pinball == pytest.approx((0.9 * 1 + 0.5 * 2 + 0.1 * 3) / 3)


def test_unknown_hours_do_not_count():
    truth = np.full((1, 24), 10.0)
    truth[0, :12] = np.nan
    metrics = score(truth, flat(6, 8, 11), np.array([4.0]))
    assert (metrics.hours, metrics.wape, metrics.coverage80) == (12, pytest.approx(0.2), 1.0)


def test_a_measure_without_meaning_is_none_and_not_zero():
    nothing = score(np.full((1, 24), np.nan), flat(6, 8, 11), np.array([4.0]))
    assert nothing.as_dict() == {"hours": 0}
    zeros = score(np.zeros((1, 24)), flat(0, 0, 0), np.array([0.0]))
    assert zeros.wape is None
    assert zeros.mase is None
    assert zeros.smape == 0.0


def test_seasonal_errors_leave_out_pairs_with_an_unknown_hour():
    history = np.arange(30.0)
    history[25] = np.nan
    assert seasonal_errors(history).tolist() == [24.0] * 5
    assert seasonal_errors(np.arange(10.0)).size == 0
