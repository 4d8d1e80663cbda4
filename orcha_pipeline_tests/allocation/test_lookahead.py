"""Which shares are taken now: what may move every hour, and what rests for a day."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.allocation.lookahead import Standing, confidence_of, gains, look_ahead
from orcha_pipeline.allocation.outlook import PERIODS, Outlook
from orcha_pipeline.allocation.plan import MIN_MOVE
from orcha_pipeline.allocation.programs import Site

K = len(PERIODS)
SITE = Site(capacity=np.ones(4), demand=np.ones((4, 2)), least=np.full(2, 0.05), most=np.ones(2))


def standing(*shares, cooldowns=(0, 0), rests=(0, 0), restart_hours=(0.0, 0.0)):
    return Standing(
        shares=np.array(shares),
        rests=np.array(rests),
        cooldowns=np.array(cooldowns),
        restart_hours=np.array(restart_hours),
        costs=np.zeros(len(shares)),
        charge=np.zeros(len(shares)),
    )


def certain(first, second, *, spike=None, spike_periods=1):
    mean = np.tile([first, second], (K, 1)).astype(float)
    if spike is not None:
        mean[:spike_periods] = spike
    return Outlook(mean, mean[None], mean[None])


LINEAR = np.ones(2)


def test_what_may_move_follows_the_coming_hour():
    ahead = look_ahead(SITE, standing(0.5, 0.5), certain(0.04, 0.04, spike=(0.09, 0.04)), LINEAR)
    np.testing.assert_allclose(ahead.shares, [0.95, 0.05], atol=1e-6)
    assert ahead.moved.all()
    np.testing.assert_allclose(ahead.gains(certain(0.04, 0.04, spike=(0.09, 0.04))), 0.45 * (0.09 - 0.04))


def test_power_is_taken_off_for_as_long_as_the_gain_is_told_of():
    outlook = certain(0.09, 0.04)
    asked = look_ahead(SITE, replace(standing(0.5, 0.5), charge=np.array([0.01, 0.0])), outlook, LINEAR, hours=2).asked
    shares = np.array([0.9, 0.1])
    an_hour = 0.4 * (0.09 - 0.04) - 0.4 * 0.01
    for hours in (1, 2, 24):
        np.testing.assert_allclose(gains(asked, outlook, shares, hours), hours * an_hour)


def test_it_stays_where_a_restart_costs_more_than_the_hour_brings():
    costly = standing(0.5, 0.5, restart_hours=(0.04, 0.04))
    assert not look_ahead(SITE, costly, certain(0.041, 0.04), LINEAR).moved.any()
    assert look_ahead(SITE, costly, certain(0.05, 0.04), LINEAR).moved.all()


def test_what_loses_much_by_a_restart_is_moved_for_a_day_and_not_for_an_hour():
    costly = standing(0.5, 0.5, restart_hours=(0.6, 0.6))
    assert not look_ahead(SITE, costly, certain(0.04, 0.04, spike=(0.09, 0.04)), LINEAR).moved.any()
    assert look_ahead(SITE, costly, certain(0.05, 0.04), LINEAR).slow.all()


def test_to_be_free_within_the_hour_is_worth_something_where_much_may_happen():
    little = certain(0.0402, 0.04)
    restless = replace(little, likely=little.mean * np.array([0.5, 1.5])[:, None, None])
    at = standing(0.5, 0.5)
    assert look_ahead(SITE, at, little, LINEAR).moved.any()
    assert not look_ahead(SITE, at, restless, LINEAR).moved.any()
    assert look_ahead(SITE, at, restless, LINEAR, freedom=0.0).moved.any()


def test_a_node_is_moved_for_its_rest_only_where_that_is_likely_to_pay():
    steady = np.tile([0.05, 0.04], (K, 1))
    doubtful = np.stack([steady * [1.6, 1.0], steady * [0.4, 1.0]])
    outlook = Outlook(doubtful.mean(axis=0), doubtful, doubtful)
    slow = standing(0.5, 0.5, cooldowns=(96, 96))
    assert look_ahead(SITE, slow, outlook, LINEAR).slow.any()
    assert not look_ahead(SITE, slow, outlook, LINEAR, confidence=0.7).moved.any()


def test_a_node_that_rests_for_a_day_does_not_run_after_a_spike_of_an_hour():
    spike = certain(0.03, 0.05, spike=(0.09, 0.05))
    assert look_ahead(SITE, standing(0.5, 0.5), spike, LINEAR).moved.all()
    slow = look_ahead(SITE, standing(0.5, 0.5, cooldowns=(96, 0)), spike, LINEAR)
    assert not slow.moved[0] or slow.shares[0] < 0.5


def test_a_node_that_rests_for_a_day_moves_for_what_lasts():
    ahead = look_ahead(SITE, standing(0.5, 0.5, cooldowns=(96, 0)), certain(0.09, 0.03), LINEAR)
    np.testing.assert_allclose(ahead.shares, [0.95, 0.05], atol=1e-6)
    assert ahead.slow.tolist() == [True, False]
    assert ahead.slow_gains.mean() > 0


def test_it_waits_where_the_better_day_has_yet_to_begin():
    later = certain(0.09, 0.03, spike=(0.03, 0.09), spike_periods=2)
    ahead = look_ahead(SITE, standing(0.5, 0.5, cooldowns=(96, 0)), later, LINEAR)
    assert not ahead.moved[0]


def test_what_rests_stays_and_the_others_take_the_room_that_is_left():
    resting = standing(0.3, 0.3, cooldowns=(96, 0), rests=(20, 0))
    ahead = look_ahead(SITE, resting, certain(0.09, 0.03), LINEAR)
    np.testing.assert_allclose(ahead.shares, [0.3, 0.7], atol=1e-6)
    assert ahead.moved.tolist() == [False, True]


def test_scenarios_show_what_can_be_divided_anew_every_hour():
    """One node rests for a day and earns steadily; two others earn by turns, nobody knows which of them when."""
    one, other = np.tile([0.07, 0.1, 0.0], (K, 1)), np.tile([0.07, 0.0, 0.1], (K, 1))
    scenarios = np.stack([one, other])
    site = Site(capacity=np.ones(4), demand=np.ones((4, 3)), least=np.full(3, 0.01), most=np.ones(3))
    made = standing(0.4, 0.3, 0.3, cooldowns=(96, 0, 0), rests=(0, 0, 0), restart_hours=(0.0,) * 3)
    mean = scenarios.mean(axis=0)
    by_the_mean, by_scenarios = (
        look_ahead(site, made, each, np.ones(3)).shares[0]
        for each in (Outlook(mean, mean[None], scenarios), Outlook(mean, scenarios, scenarios))
    )
    assert by_the_mean == pytest.approx(0.98)
    assert by_scenarios == pytest.approx(0.01)


@given(seed=st.integers(0, 10_000), nodes=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_no_plan_exceeds_a_capacity_a_bound_or_moves_what_rests(seed, nodes):
    rng = np.random.default_rng(seed)
    demand = rng.uniform(0.1, 1.2, (4, nodes))
    least = np.full(nodes, 0.05)
    site = Site(capacity=np.ones(4), demand=demand, least=least, most=np.ones(nodes))
    now = least + (1 - least) * rng.uniform(0, 1, nodes)
    now = np.where(site.fits(now), now, least)
    cooldowns = rng.choice([0, 24, 96], nodes)
    rests = np.where(cooldowns > 0, rng.integers(0, 96, nodes) * rng.integers(0, 2, nodes), 0)
    scenarios = rng.lognormal(-3, 1, (3, K, nodes)) * (rng.uniform(size=(3, K, nodes)) > 0.1)
    made = Standing(
        shares=now,
        rests=rests,
        cooldowns=cooldowns,
        restart_hours=rng.uniform(0, 0.1, nodes),
        costs=rng.uniform(0, 0.01, nodes) * rng.integers(0, 2, nodes),
        charge=rng.uniform(0, 0.02, nodes),
    )
    outlook = Outlook(scenarios.mean(axis=0), scenarios, scenarios)
    ahead = look_ahead(site, made, outlook, rng.uniform(0.4, 1.0, nodes))
    assert site.fits(ahead.shares)
    assert (ahead.shares >= least - 1e-9).all()
    assert (ahead.shares <= 1 + 1e-9).all()
    np.testing.assert_array_equal(ahead.shares[rests > 0], now[rests > 0])
    np.testing.assert_array_equal(ahead.moved, ahead.shares != now)
    assert (np.abs(ahead.shares - now)[ahead.moved] > MIN_MOVE).all()


def test_confidence_is_the_part_of_many_futures_in_which_a_change_pays_or_that_of_a_normal_of_few():
    assert confidence_of(np.array([1.0] * 60 + [-1.0] * 20 + [0.0] * 20)) == pytest.approx(0.75)
    assert confidence_of(np.zeros(100)) == 0.0
    assert confidence_of(np.array([2.0, 0.0])) == pytest.approx(0.7602, abs=1e-3)  # one deviation is 2 ** 0.5
    assert confidence_of(np.array([0.5])) == 1.0
    assert confidence_of(np.array([-0.5])) == 0.0
