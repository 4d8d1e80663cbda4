import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from orcha_pipeline.forecasting.naive import HourMean, SeasonalNaive, SeasonalNaiveWeek, last_resort, naive2
from orcha_pipeline.forecasting.panel import HourlySeries

FORECASTERS = [SeasonalNaive, SeasonalNaiveWeek, HourMean]
rng = np.random.default_rng(3)


def series(values, first_hour=0):
    return HourlySeries("a", first_hour, np.asarray(values, dtype=float))


def ask(forecaster, values, horizon=24):
    return forecaster().forecast([series(values)], horizon=horizon)[0]


def test_seasonal_naive_says_the_same_as_yesterday():
    assert ask(SeasonalNaive, np.arange(240.0))[:, 1].tolist() == list(np.arange(216.0, 240.0))


def test_the_second_day_repeats_the_first():
    answer = ask(SeasonalNaive, np.arange(240.0), horizon=60)
    assert answer[:, 1].tolist() == [*range(216, 240), *range(216, 240), *range(216, 228)]


def test_its_band_is_what_the_same_rule_got_wrong_before():
    answer = ask(SeasonalNaive, np.arange(240.0), horizon=48)
    # A ramp is always 24 more than the day before, 48 more than two days before: all of the doubt lies above.
    assert (answer[:, 2] - answer[:, 1]).tolist() == [24.0] * 24 + [48.0] * 24
    assert (answer[:, 1] - answer[:, 0]).tolist() == [0.0] * 48


def test_an_hour_known_only_two_days_ago_has_the_band_of_two_days():
    history = np.arange(240.0)
    history[-24] = np.nan
    assert ask(SeasonalNaive, history)[0].tolist() == [192.0, 192.0, 240.0]


def test_a_week_before_is_repeated_and_a_day_where_there_is_no_such_hour():
    history = np.arange(400.0)
    assert ask(SeasonalNaiveWeek, history)[:, 1].tolist() == list(range(232, 256))
    history[232] = np.nan
    assert ask(SeasonalNaiveWeek, history)[0, 1] == 64.0  # two weeks before
    history[64] = np.nan
    assert ask(SeasonalNaiveWeek, history)[0, 1] == 376.0
    assert ask(SeasonalNaiveWeek, np.arange(100.0))[0, 1] == 76.0


def test_the_second_day_of_a_week_before_is_its_second_day():
    assert ask(SeasonalNaiveWeek, np.arange(400.0), horizon=200)[:, 1].tolist() == [*range(232, 400), *range(232, 264)]


def test_the_mean_is_of_the_last_seven_known_days():
    days = np.repeat(np.arange(10.0), 24)
    assert ask(HourMean, days)[:, 1].tolist() == [6.0] * 24
    days[-24:] = np.nan
    assert ask(HourMean, days)[:, 1].tolist() == [5.0] * 24
    assert ask(HourMean, np.repeat([1.0, 3.0], 24))[:, 1].tolist() == [2.0] * 24


@pytest.mark.parametrize("forecaster", FORECASTERS)
def test_a_constant_series_is_forecast_as_itself(forecaster):
    assert ask(forecaster, np.full(24 * 30, 7.0), horizon=48) == pytest.approx(7.0)


@pytest.mark.parametrize("forecaster", FORECASTERS)
@pytest.mark.parametrize("horizon", [24, 48])
def test_the_band_holds_four_fifths_of_what_comes(forecaster, horizon):
    values = 10 + rng.standard_normal((150, 24 * 40 + 48))
    answers = forecaster().forecast([series(row[:-48]) for row in values], horizon=horizon)
    truth = values[:, -48:][:, :horizon]
    inside = (answers[..., 0] <= truth) & (truth <= answers[..., 2])
    assert inside.mean() == pytest.approx(0.8, abs=0.03)


def test_with_little_history_the_band_is_wide_and_not_made_up_precision():
    answer = ask(SeasonalNaive, np.linspace(1, 4, 30))
    assert (answer[:, 0] == 0).all()
    assert (answer[:, 2] == 8).all()
    assert (ask(SeasonalNaive, -np.linspace(1, 4, 30))[:, [0, 2]] == [-8, 0]).all()


@pytest.mark.parametrize("forecaster", FORECASTERS)
def test_an_hour_of_the_day_never_known_has_no_answer(forecaster):
    history = np.arange(240.0)
    history[5::24] = np.nan
    assert np.isnan(ask(forecaster, history)).all()
    assert np.isnan(ask(forecaster, [])).all()
    assert np.isfinite(ask(forecaster, history, horizon=4)).all()


def test_no_histories_have_no_forecasts():
    for forecaster in FORECASTERS:
        assert forecaster().forecast([], horizon=24).shape == (0, 24, 3)


@pytest.mark.parametrize("forecaster", FORECASTERS)
def test_each_history_is_answered_as_if_it_were_alone(forecaster):
    histories = [series(rng.random(hours)) for hours in (10, 24, 100, 700, 2000)]
    histories[3].values[rng.random(700) < 0.4] = np.nan
    together = forecaster().forecast(histories, horizon=30)
    for history, answer in zip(histories, together, strict=True):
        assert np.array_equal(forecaster().forecast([history], horizon=30)[0], answer, equal_nan=True)


@settings(deadline=None)
@given(
    st.sampled_from(FORECASTERS),
    hnp.arrays(np.float64, st.integers(0, 400), elements=st.floats(-10, 1e6) | st.just(float("nan"))),
    st.integers(1, 60),
)
def test_quantiles_are_known_in_order_and_not_below_zero_where_the_history_never_was(forecaster, values, horizon):
    answer = ask(forecaster, values, horizon)
    if not np.isnan(answer).all():
        assert np.isfinite(answer).all()
        assert (np.diff(answer, axis=1) >= 0).all()
        assert (np.nanmin(values) < 0) or (answer >= 0).all()


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(0, 200), elements=st.floats(-10, 1e6) | st.just(float("nan"))),
    st.integers(1, 60),
)
def test_the_last_resort_answers_whenever_anything_is_known(values, horizon):
    answer = last_resort(series(values), horizon)
    assert answer.shape == (horizon, 3)
    if np.isfinite(values).any():
        assert np.isfinite(answer).all()
        assert (np.diff(answer, axis=1) >= 0).all()
    else:
        assert np.isnan(answer).all()


def test_the_last_resort_is_the_hour_before_or_the_median_in_a_wide_band():
    answer = last_resort(series([1.0, 4.0, np.nan, 2.0]), 48)
    assert answer[23].tolist() == [0.0, 2.0, 8.0]
    assert answer[0].tolist() == [0.0, 2.0, 8.0]  # no such hour is known: the median of what is
    assert answer[45].tolist() == [0.0, 4.0, 8.0]


def test_naive2_is_the_last_value_where_no_season_is_found():
    walk = 100 + np.cumsum(np.random.default_rng(1).choice([-1.0, 1.0], 40))
    assert naive2(walk, 5).tolist() == [walk[-1]] * 5  # under three days there is no test
    assert naive2(np.full(500, 3.0), 5).tolist() == [3.0] * 5
    assert naive2(np.zeros(500), 5).tolist() == [0.0] * 5


def test_naive2_takes_noise_for_a_season_one_time_in_ten():
    noise = 10 + np.random.default_rng(2).standard_normal((300, 500))
    seasonal = [naive2(row, 2)[0] != row[-1] for row in noise]
    assert 0.05 < np.mean(seasonal) < 0.15


@pytest.mark.parametrize("phase", [0, 7])
def test_naive2_repeats_a_season_on_the_last_level(phase):
    hours = np.arange(phase, phase + 24 * 20)
    season = 1 + 0.5 * np.sin(2 * np.pi * hours / 24)
    coming = 1 + 0.5 * np.sin(2 * np.pi * np.arange(hours[-1] + 1, hours[-1] + 49) / 24)
    assert naive2(50 * season, 48) == pytest.approx(50 * coming, rel=1e-9)
    # With a value that is not positive the same season is taken off by differences.
    assert naive2(50 * (season - 1), 48) == pytest.approx(50 * (coming - 1), abs=1e-9)


def test_naive2_starts_at_the_end_of_the_history_and_survives_unknown_hours():
    hours = np.arange(24 * 20 + 24)
    season = 3 + np.sin(2 * np.pi * hours / 24)
    history = season[:-24].copy()
    history[[40, 41, -1, -2, -3]] = np.nan
    history[:30] = np.nan
    assert naive2(history, 24) == pytest.approx(season[-24:], rel=0.01)
    assert np.isnan(naive2(np.full(50, np.nan), 4)).all()
