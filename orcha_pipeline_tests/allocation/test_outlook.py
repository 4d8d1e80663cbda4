"""What the coming periods will bring, from quarter-hours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.allocation.outlook import (
    DAY,
    EDGES,
    LEAST_HISTORY,
    PERIODS,
    YieldHistory,
    learn,
    period_means,
)

K = len(PERIODS)


def history(steps=10 * DAY, nodes=3, *, seed=0, noise=0.05, level=0.04, outages=0.0):
    rng = np.random.default_rng(seed)
    hours = np.arange(steps)[:, None] / 4
    daily = 0.4 * np.sin(2 * np.pi * (hours / 24 + rng.uniform(size=nodes)))
    wander = np.zeros((steps, nodes))
    for step in range(1, steps):
        wander[step] = 0.98 * wander[step - 1] + rng.normal(0, noise, nodes)
    paying = rng.uniform(size=(steps, nodes)) >= outages
    return YieldHistory(level * np.exp(daily + wander), paying)


def before(whole, step):
    return YieldHistory(whole.yields[:step], whole.paying[:step])


def truth(whole, step):
    paid = np.where(whole.paying, whole.yields, 0.0)[step : step + EDGES[-1]]
    return np.add.reduceat(paid, EDGES[:-1], axis=0) / np.array(PERIODS)[:, None]


def test_it_errs_less_than_that_all_stays_as_it_is_and_than_yesterday():
    whole = history(14 * DAY)
    lines = learn(before(whole, 10 * DAY))
    missed = {"ours": np.zeros(K), "stays": np.zeros(K), "yesterday": np.zeros(K)}
    for step in range(10 * DAY, 13 * DAY, 7):
        came = truth(whole, step)
        ours = lines.ahead(before(whole, step), scenarios=4).mean
        missed["ours"] += np.abs(ours - came).sum(axis=1)
        missed["stays"] += np.abs(whole.yields[step - 1] - came).sum(axis=1)
        missed["yesterday"] += np.abs(truth(whole, step - DAY) - came).sum(axis=1)
    assert (missed["ours"][:4] < missed["stays"][:4]).all()
    assert (missed["ours"] < missed["yesterday"]).all()
    assert missed["ours"][0] < 0.5 * missed["ours"][6]


def test_a_node_that_paid_at_no_remembered_moment_is_expected_as_its_mean():
    whole = history(10 * DAY + 5, 2)
    paying = whole.paying.copy()
    paying[2 * DAY : -1, 0] = False  # it has come back just now
    back = YieldHistory(whole.yields, paying)
    outlook = learn(back).ahead(back, scenarios=6)
    assert (outlook.mean > 0).all()
    np.testing.assert_array_equal(outlook.scenarios[:, :, 0], np.tile(outlook.mean[:, 0], (6, 1)))


@given(seed=st.integers(0, 100), nodes=st.integers(1, 5), outages=st.sampled_from([0.0, 0.1, 0.7]))
@settings(max_examples=20, deadline=None)
def test_every_figure_is_a_yield_and_scenarios_scatter_about_the_mean(seed, nodes, outages):
    whole = history(5 * DAY, nodes, seed=seed, outages=outages)
    outlook = learn(whole).ahead(whole, scenarios=6)
    assert outlook.mean.shape == (K, nodes)
    assert outlook.scenarios.shape == (6, K, nodes)
    assert np.isfinite(outlook.scenarios).all()
    assert (outlook.scenarios >= 0).all()
    assert (outlook.mean > 0).all()
    drawn = outlook.scenarios.mean(axis=0)
    np.testing.assert_allclose(drawn[drawn > 0], outlook.mean[drawn > 0], rtol=1e-6)


def test_the_errors_of_the_past_make_the_scenarios_spread():
    calm, restless = (history(noise=noise) for noise in (0.01, 0.2))
    spreads = []
    for each in (calm, restless):
        outlook = learn(each).ahead(each, scenarios=20)
        spreads.append((outlook.scenarios.std(axis=0) / outlook.mean).mean())
    assert spreads[0] < 0.5 * spreads[1]


def test_a_node_that_is_away_is_expected_back_by_and_by():
    whole = history()
    whole.paying[-8 * DAY : -8 * DAY + 12, 0] = False
    whole.paying[-3:, 0] = False
    back = before(whole, len(whole.yields) - 3)
    lines = learn(back)
    away, usual = (lines.ahead(each, scenarios=4).mean for each in (whole, back))
    part = away[:, 0] / usual[:, 0]
    assert part[0] < 0.7
    assert part[0] < part[1] < part[3]
    assert part[-1] > 0.8


def test_a_forecast_made_of_hours_takes_over_by_and_by():
    whole = history()
    later = np.full((K, 3), np.nan)
    later[:, 1] = 0.5
    own, moved = (learn(whole).ahead(whole, scenarios=4, later=each).mean for each in (None, later))
    np.testing.assert_array_equal(own[:, [0, 2]], moved[:, [0, 2]])
    assert own[0, 1] == moved[0, 1]
    assert (np.diff((moved / own)[:9, 1]) > 0).all()
    assert (moved[EDGES[:-1] >= 32, 1] >= 0.5).all()


def test_hours_that_are_unknown_are_bridged():
    whole = history()
    holed = YieldHistory(whole.yields.copy(), whole.paying)
    holed.yields[::7] = np.nan
    holed.yields[300:330, 1] = np.nan
    ours, theirs = (learn(each).ahead(each, scenarios=4).mean for each in (whole, holed))
    assert np.abs(np.log(ours / theirs)).max() < 0.5


def test_a_short_history_teaches_nothing():
    assert learn(history(LEAST_HISTORY - 1)) is None
    assert learn(history(LEAST_HISTORY)) is not None


def test_a_node_that_is_new_is_taken_for_what_it_first_earned():
    whole, grown = history(), history()
    grown.yields[: 8 * DAY, 0] = np.nan
    ours, theirs = (learn(each).ahead(each, scenarios=4).mean for each in (whole, grown))
    assert np.abs(np.log(ours / theirs)).max() < 0.7


def test_a_young_history_is_no_surer_than_its_own_days_make_it():
    young = history(5 * DAY, noise=0.1)
    nothing = np.full((23 * DAY, 3), np.nan)
    padded = YieldHistory(np.concatenate([nothing, young.yields]), np.concatenate([np.isnan(nothing), young.paying]))
    alone, among = (learn(each).ahead(each, scenarios=4).likely for each in (young, padded))

    def spread(likely):
        return np.log(np.quantile(likely, 0.9, axis=0) / np.quantile(likely, 0.1, axis=0))

    assert (spread(among).mean(axis=0) > 0.7 * spread(alone).mean(axis=0)).all()


def test_a_node_that_came_later_scatters_by_its_own_errors():
    whole = history(20 * DAY, noise=0.1)
    yields = whole.yields.copy()
    yields[: 15 * DAY, 1] = np.nan
    later = YieldHistory(yields, whole.paying)
    likely = learn(later).ahead(later, scenarios=4).likely
    spread = np.log(np.quantile(likely, 0.9, axis=0) / np.quantile(likely, 0.1, axis=0)).mean(axis=0)
    assert spread[1] > 0.5 * spread[[0, 2]].mean()


def test_of_a_node_that_never_earned_nothing_is_told_and_a_constant_one_stays():
    whole = history()
    whole.yields[:, 0], whole.yields[:, 1] = 0.0, 0.03
    outlook = learn(whole).ahead(whole, scenarios=4)
    assert np.isnan(outlook.mean[:, 0]).all()
    assert np.isnan(outlook.scenarios[..., 0]).all()
    assert np.isfinite(outlook.scenarios[..., 1:]).all()
    np.testing.assert_allclose(outlook.mean[:, 1], 0.03, rtol=0.1)


def test_hourly_forecasts_are_cut_into_the_periods():
    means = period_means([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0])
    np.testing.assert_allclose(means[:7], [1, 2, 3, 4, 5, 6, 8])
    assert np.isnan(means[7:]).all()


def test_histories_must_agree():
    with pytest.raises(ValueError, match="must be"):
        YieldHistory(np.ones((3, 2)), np.ones((3, 1), dtype=bool))
