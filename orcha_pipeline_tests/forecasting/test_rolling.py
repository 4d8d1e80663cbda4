from typing import ClassVar

import numpy as np
import pytest

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import backtest as backtests
from orcha_pipeline.forecasting import candidates, fitting
from orcha_pipeline.forecasting.backtest import anchors_of, backtest, forecast_ahead, train, validation_times
from orcha_pipeline.forecasting.candidates import CANDIDATES, chosen_names, forecaster_class
from orcha_pipeline.forecasting.panel import Forecaster, HourlySeries
from orcha_pipeline.forecasting.rolling import histories_of, roll, windows_at

CALENDAR = 480_000
HEAVY = ("lightgbm", "lightgbm_log1p", "mstl", "theta", "lstm")


def hourly(name="a", *, hours=600, first=CALENDAR, seed=0, level=10.0):
    rng = np.random.default_rng(seed)
    hour = np.arange(first, first + hours)
    values = level * (1 + 0.5 * np.sin(2 * np.pi * hour / 24)) * np.exp(0.1 * rng.standard_normal(hours))
    return HourlySeries(name, first, values)


class Level(Forecaster):
    """The last known value, for all hours to come; remembers what it was shown."""

    name: ClassVar[str] = "level"

    def __init__(self):
        self.fitted_to = []
        self.asked_at = []

    def fit(self, panel, *, horizon, seed, tell=print):
        self.fitted_to = [one.end for one in panel]

    def forecast(self, histories, *, horizon):
        self.asked_at += [one.end for one in histories]
        last = np.array([one.values[np.isfinite(one.values)][-1] for one in histories])
        return last[:, None, None] + np.zeros((len(histories), horizon, 1)) + np.array([-1.0, 0.0, 1.0])


class Leaking(Level):
    """What no forecaster can do through the contract: it has kept the whole panel and looks up the future."""

    name: ClassVar[str] = "leaking"
    whole: ClassVar[dict] = {}

    def forecast(self, histories, *, horizon):
        rows = [self.whole[one.name].between(one.end, one.end + horizon) for one in histories]
        return np.repeat(np.stack(rows)[..., None], 3, axis=-1)


class Silent(Level):
    """No answer for the series called `a`."""

    name: ClassVar[str] = "silent"

    def forecast(self, histories, *, horizon):
        rows = super().forecast(histories, horizon=horizon)
        rows[[one.name == "a" for one in histories], 3] = np.nan
        return rows


class Slow(Level):
    name: ClassVar[str] = "slow"


class Refusing(Level):
    name: ClassVar[str] = "refusing"

    def fit(self, panel, *, horizon, seed, tell=print):
        raise ModelError("too little of it")


class Clock:
    """Seconds that pass only when it is read: one each time."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def fakes(monkeypatch):
    """The fake forecasters, as candidates beside seasonal naive."""
    real = candidates.forecaster_class
    mine = {one.name: one for one in (Level, Leaking, Silent, Slow, Refusing)}
    monkeypatch.setattr(fitting, "forecaster_class", lambda name: mine.get(name) or real(name))


def test_an_unknown_model_is_refused_with_the_names_there_are():
    for ask in (lambda: forecaster_class("prophet"), lambda: chosen_names("lstm,prophet"), lambda: chosen_names(" , ")):
        with pytest.raises(ModelError, match="seasonal_naive, seasonal_naive_168, hour_mean, linear, lightgbm"):
            ask()


def test_named_models_are_taken_once_and_all_of_them_without_names():
    assert chosen_names(" theta,mstl, theta") == ("theta", "mstl")
    assert chosen_names(None) == tuple(CANDIDATES)


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_is_called_by_its_own_name(name):
    assert forecaster_class(name).name == name


def test_windows_are_in_order_of_time_and_leave_out_what_cannot_be_compared():
    panel = [hourly("a", hours=100), hourly("b", hours=50)]
    anchors = [CALENDAR + 40, CALENDAR + 40]
    windows = windows_at(panel, anchors, [24, 0], 24)
    assert windows.times.tolist() == [0, 0, 24]
    assert windows.series.tolist() == [0, 1, 0]
    assert windows.origins.tolist() == [CALENDAR + 40, CALENDAR + 40, CALENDAR + 64]
    np.testing.assert_array_equal(windows.truth[2], panel[0].values[64:88])
    assert np.isnan(windows.truth[1, 10:]).all()


def test_windows_before_anything_is_known_are_left_out():
    late = HourlySeries("a", CALENDAR, np.append(np.full(60, np.nan), np.ones(60)))
    windows = windows_at([late], [CALENDAR + 48], [0, 12, 13], 24)
    assert windows.origins.tolist() == [CALENDAR + 61]


def test_a_forecaster_sees_nothing_at_or_after_an_origin():
    panel = [hourly("a", hours=100), hourly("b", hours=50)]
    windows = windows_at(panel, [CALENDAR + 48] * 2, [0, 24], 24)
    histories = histories_of(panel, windows)
    assert [one.end for one in histories] == windows.origins.tolist()
    for history, i in zip(histories, windows.series, strict=True):
        np.testing.assert_array_equal(history.values, panel[i].before(history.end).values)


def test_a_series_that_ended_earlier_is_asked_about_with_unknown_hours_up_to_the_origin():
    early = HourlySeries("a", CALENDAR, np.arange(30.0), shares=np.ones(30))
    whole = HourlySeries("a", CALENDAR, np.append(np.arange(30.0), np.full(40, np.nan)))
    windows = windows_at([hourly(hours=100)], [CALENDAR + 48], [0], 24)
    history = histories_of([early], windows)[0]
    assert history.end == CALENDAR + 48
    np.testing.assert_array_equal(history.values, whole.before(CALENDAR + 48).values)
    assert np.isnan(history.shares[30:]).all()


def test_a_row_without_an_answer_is_answered_by_seasonal_naive_and_counted():
    panel = [hourly("a"), hourly("b", seed=1)]
    windows = windows_at(panel, [CALENDAR + 500] * 2, [0, 24, 48], 24)
    naive = forecaster_class("seasonal_naive")()
    naive.fit(panel, horizon=24, seed=0)
    rolled = roll({"seasonal_naive": naive, "silent": Silent()}, panel, windows)
    assert rolled.fallbacks == {"seasonal_naive": 0, "silent": 3}
    at = windows.series == 0
    np.testing.assert_array_equal(rolled.forecasts["silent"][at], rolled.forecasts["seasonal_naive"][at])
    assert not np.array_equal(rolled.forecasts["silent"][~at], rolled.forecasts["seasonal_naive"][~at])


def test_a_history_too_short_for_seasonal_naive_is_still_answered():
    panel = [HourlySeries("a", CALENDAR, np.array([1.0, np.nan, 3.0, 4.0, 5.0, 6.0]))]
    rolled = roll({"silent": Silent()}, panel, windows_at(panel, [CALENDAR + 3], [0], 24))
    assert np.isfinite(rolled.forecasts["silent"]).all()
    assert rolled.fallbacks == {"silent": 1}


def test_seconds_are_the_clocks():
    panel = [hourly()]
    rolled = roll(
        {"level": Level(), "slow": Slow()}, panel, windows_at(panel, [CALENDAR + 500], [0], 24), clock=Clock()
    )
    assert rolled.seconds == {"level": 1.0, "slow": 1.0}


def test_series_with_a_calendar_are_cut_at_the_same_hour_and_others_at_their_own_ends():
    assert anchors_of([hourly(hours=600), hourly(hours=500)], 100, same_calendar=True) == [CALENDAR + 500] * 2
    assert anchors_of([hourly(hours=600), hourly(hours=500)], 100, same_calendar=False) == [
        CALENDAR + 500,
        CALENDAR + 400,
    ]


@pytest.mark.parametrize(("series", "hours", "horizon"), [(1, 600, 24), (7, 11_520, 24), (207, 960, 48), (3, 400, 48)])
def test_validation_origins_lie_whole_days_before_the_anchor_and_leave_the_most_to_learn_from(series, hours, horizon):
    panel = [hourly(hours=hours)] * series
    times = validation_times(panel, [one.end for one in panel], horizon)
    assert len(times) >= 2
    assert times == sorted(set(times))
    assert times[-1] == -horizon
    assert all((at + horizon) % 24 == 0 for at in times)
    assert times[0] >= -backtests.VALIDATED_SHARE * hours - 1
    assert len(times) * series <= max(backtests.MAX_WINDOWS, series * backtests.MIN_ORIGINS)


def test_a_history_too_short_to_be_cut_is_not_validated_on():
    assert validation_times([hourly(hours=100)], [CALENDAR + 100], 24) == []


def test_candidates_learn_from_before_the_validation_part_first_and_from_all_but_the_test_part_then(monkeypatch):
    panel = [hourly("a"), hourly("b", seed=1)]
    seen = []

    class Watched(Level):
        def fit(self, panel, **kept):
            seen.append(max(one.end for one in panel))

    monkeypatch.setattr(fitting, "forecaster_class", lambda name: Watched)
    trained = train(["level"], panel, [CALENDAR + 500] * 2, horizon=24, seed=0, later_forecasts=1)
    assert seen == [int(trained.validation.windows.origins.min()), CALENDAR + 500]
    assert trained.validation.windows.origins.max() + 24 <= CALENDAR + 500


def test_a_candidate_that_cannot_be_fitted_is_left_out_with_its_reason(fakes):
    result = backtest([hourly()], horizon=24, last=96, step=24, models=["level", "refusing"])
    assert dict(result.dropped) == {"refusing": "too little of it"}
    assert set(result.rolled.forecasts) == {"seasonal_naive", "level"}


def test_a_candidate_too_slow_for_the_budget_is_left_out_with_its_reason(fakes):
    # The clock adds a second a reading: four probes take one, so that a forecast costs a quarter of a second.
    result = backtest([hourly()], horizon=24, last=96, step=24, models=["slow"], budget=1.0, clock=Clock())
    assert set(result.rolled.forecasts) == {"seasonal_naive"}
    assert result.dropped["slow"] == "9 forecasts would take about 2 s, more than 1 s"
    assert backtest([hourly()], horizon=24, last=96, step=24, models=["slow"], budget=60, clock=Clock()).dropped == {}


def test_origins_of_the_test_part_are_all_whose_hours_are_known():
    result = backtest([hourly()], horizon=24, last=96, step=36, models=["hour_mean"])
    assert result.rolled.windows.origins.tolist() == [CALENDAR + 504, CALENDAR + 540, CALENDAR + 576]


def test_a_test_file_is_one_origin_at_each_historys_own_end():
    panel = [hourly("a", first=1, hours=500), hourly("b", first=1, hours=600), hourly("c", first=1)]
    truth = [hourly("a", first=501, hours=24), hourly("b", first=601, hours=24)]
    result = backtest(panel, horizon=24, models=["hour_mean"], test_panel=truth)
    assert [one.name for one in result.panel] == ["a", "b"]
    assert result.rolled.windows.origins.tolist() == [501, 601]
    np.testing.assert_array_equal(result.rolled.windows.truth, [one.values for one in truth])


def test_a_test_file_of_other_series_or_hours_is_refused():
    with pytest.raises(ModelError, match="No series of the test file"):
        backtest([hourly("a")], horizon=24, models=[], test_panel=[hourly("z")])
    with pytest.raises(ModelError, match="nothing to test on"):
        backtest([hourly("a")], horizon=24, models=[], test_panel=[hourly("a", first=CALENDAR + 9000)])


def test_a_history_too_short_to_validate_on_is_served_seasonal_naive(fakes):
    result = backtest([hourly(hours=120)], horizon=24, last=24, step=24, models=["level"])
    np.testing.assert_allclose(result.served, result.rolled.forecasts["seasonal_naive"])


def test_the_better_candidate_is_served(fakes):
    steps = HourlySeries("a", CALENDAR, np.repeat(np.random.default_rng(0).lognormal(2, 1, 20), 30))
    result = backtest([steps], horizon=6, last=120, step=6, models=["level"])
    assert result.selection.weights_of("a")["level"] > 0.6


def test_forecasts_ahead_start_at_each_series_own_end_and_are_finite(fakes):
    panel = [hourly("a"), hourly("b", hours=500, seed=1), hourly("short", hours=30)]
    made = forecast_ahead(panel, horizon=24, models=["level", "hour_mean"])
    assert made.served.shape == (3, 24, 3)
    assert np.isfinite(made.served).all()
    assert (np.diff(made.served, axis=-1) >= 0).all()


# What a forecast at an origin may depend on -------------------------------------------------------------------------


def forecasts_at(origin, models, *, changed=None):
    """All forecasts made at or before `origin` in a backtest, with everything from `changed` on multiplied."""
    panel = [hourly("a", hours=900), hourly("b", hours=900, seed=1, level=300.0)]
    if changed is not None:
        for one in panel:
            one.values[changed - CALENDAR :] *= -3.0
    Leaking.whole = {one.name: one for one in panel}
    result = backtest(panel, horizon=24, last=120, step=24, models=models)
    at = result.rolled.windows.origins <= origin
    return {name: rows[at] for name, rows in (result.rolled.forecasts | {"served": result.served}).items()}


def assert_no_leak(models):
    origin = CALENDAR + 900 - 120 + 48
    plain, changed = forecasts_at(origin, models), forecasts_at(origin, models, changed=origin)
    assert set(plain) >= {"seasonal_naive", "served", *models}
    for name, rows in plain.items():
        np.testing.assert_array_equal(rows, changed[name], err_msg=f"{name} knows what comes after the origin")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ()) for name in CANDIDATES]
)
def test_no_forecast_depends_on_a_value_at_or_after_its_origin(name):
    # Fits end where the test part begins, so the hour that is changed may lie anywhere in the test part.
    assert_no_leak([name])


def test_a_forecaster_that_leaks_is_caught(fakes):
    with pytest.raises(AssertionError, match="knows what comes after the origin"):
        assert_no_leak(["leaking"])


def test_what_has_come_true_before_an_origin_does_change_what_is_served(fakes):
    origin = CALENDAR + 900 - 120 + 48
    plain = forecasts_at(origin, ["level"])
    assert not np.array_equal(plain["served"], forecasts_at(origin, ["level"], changed=origin - 24)["served"])
