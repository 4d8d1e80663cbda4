import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from orcha_pipeline.forecasting.metrics import (
    NO_SCORES,
    error_by_horizon,
    mean_over_series,
    owa,
    score,
    score_each,
    seasonal_yardstick,
)


def flat(low, middle, high, hours=24):
    return np.tile(np.array([low, middle, high], dtype=float), (1, hours, 1))


def test_the_measures_are_those_of_the_textbook():
    scores = score(np.full((1, 24), 10.0), flat(6, 8, 9), np.array([4.0]))
    assert scores.hours == 24
    assert scores.wape == pytest.approx(0.2)
    assert scores.mase == pytest.approx(0.5)
    assert scores.smape == pytest.approx(2 * 2 / 18)
    assert scores.pinball == pytest.approx((0.1 * 4 + 0.5 * 2 + 0.9 * 1) / 3)
    assert scores.coverage80 == 0.0


def test_an_unknown_hour_weighs_nothing():
    truth = np.full((2, 24), 10.0)
    truth[0, :12] = np.nan
    forecast = np.concatenate([flat(6, 8, 9), flat(6, 8, 12)])
    spoilt = forecast.copy()
    spoilt[0, :12] = 1e9
    assert score(truth, spoilt, np.ones(2)) == score(truth, forecast, np.ones(2))
    assert score(truth, forecast, np.ones(2)).hours == 36


def test_an_hour_without_a_forecast_is_not_counted_and_the_hours_tell():
    forecast = flat(6, 8, 12)
    forecast[0, 5] = np.nan
    scores = score(np.full((1, 24), 10.0), forecast, np.ones(1))
    assert scores.hours == 23
    assert scores.wape == pytest.approx(0.2)


def test_nothing_known_scores_nothing():
    assert score(np.full((1, 24), np.nan), flat(1, 2, 3), np.ones(1)) == NO_SCORES
    assert NO_SCORES.as_dict() == {"hours": 0.0}


def test_truths_of_zero_have_no_wape_and_a_perfect_smape_where_zero_was_forecast():
    scores = score(np.zeros((1, 24)), flat(0, 0, 0), np.array([np.nan]))
    assert (scores.wape, scores.mase, scores.smape) == (None, None, 0.0)
    assert "wape" not in scores.as_dict()


def test_a_series_mean_counts_each_series_the_same_however_large():
    truth = np.stack([np.full(24, 1.0), np.full(24, 1000.0)])
    forecast = np.concatenate([flat(2, 2, 2), flat(1000, 1000, 1000)])
    each = score_each(np.array(["small", "large"]), truth, forecast, np.ones(2))
    assert list(each) == ["large", "small"]
    mean = mean_over_series(each.values())
    assert mean.wape == pytest.approx(0.5)
    assert mean.hours == 48
    pooled = score(truth, forecast, np.ones(2)).wape
    assert pooled is not None
    assert pooled < 0.05


def test_a_series_in_which_a_measure_is_undefined_is_left_out_of_its_mean():
    truth = np.stack([np.zeros(24), np.full(24, 10.0)])
    each = score_each(np.arange(2), truth, np.concatenate([flat(1, 1, 1), flat(8, 8, 8)]), np.ones(2))
    assert mean_over_series(each.values()).wape == pytest.approx(0.2)
    assert mean_over_series([]) == NO_SCORES


def test_the_yardstick_is_the_mean_step_of_a_day():
    assert seasonal_yardstick(np.arange(100.0)) == 24.0
    gappy = np.arange(100.0)
    gappy[[30, 70]] = np.nan
    assert seasonal_yardstick(gappy) == 24.0
    assert np.isnan(seasonal_yardstick(np.arange(24.0)))
    assert seasonal_yardstick(np.arange(9.0), season=2) == 2.0


def test_the_owa_of_naive2_is_one_and_half_of_each_counts():
    assert owa(0.2, 3.0, 0.2, 3.0) == 1.0
    assert owa(0.1, 3.0, 0.2, 3.0) == pytest.approx(0.75)
    assert owa(0.1, None, 0.2, 3.0) is None
    assert owa(0.1, 1.0, 0.0, 3.0) is None


def test_the_error_by_horizon_is_the_wape_of_each_step():
    truth = np.array([[10.0, 10.0, 0.0, np.nan], [30.0, np.nan, 0.0, np.nan]])
    forecast = np.repeat(np.array([[12.0, 5.0, 1.0, 1.0], [30.0, 7.0, 1.0, 1.0]])[..., None], 3, axis=-1)
    errors = error_by_horizon(truth, forecast)
    assert errors[:2].tolist() == pytest.approx([2 / 40, 5 / 10])
    assert np.isnan(errors[2:]).all()


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, (3, 6), elements=st.just(0.0) | st.floats(1e-6, 1e6) | st.just(float("nan"))),
    hnp.arrays(np.float64, (3, 6, 3), elements=st.just(0.0) | st.floats(1e-6, 1e6)),
    st.floats(1e-3, 1e3),
)
def test_what_has_no_unit_does_not_change_with_it(truth, forecast, unit):
    one, other = (score(k * truth, k * forecast, k * np.ones(3)) for k in (1.0, unit))
    assert (one.wape is None) == (other.wape is None)
    if one.wape is not None:
        assert other.wape == pytest.approx(one.wape, rel=1e-6)
    if one.smape is not None:
        assert 0 <= one.smape <= 2 + 1e-9
        assert other.smape == pytest.approx(one.smape, rel=1e-6, abs=1e-9)
