"""Hindsight: against a search over a grid, and against each other."""

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.yardstick.baselines import Equal, Greedy, Myopic, Static
from orcha_pipeline.yardstick.bounds import clairvoyant, under_rules
from orcha_pipeline.yardstick.simulation import Situation, simulate
from orcha_pipeline_tests.yardstick.build import random_world, world


def searched(made, worth):
    """The most that a grid of shares finds for USD (P,) at share 1.0."""
    grid = np.linspace(0, 1, 51)
    tried = np.array([shares for shares in product(grid, repeat=len(worth)) if made.terms.fits(np.array(shares))])
    return float((tried**made.curvature @ worth).max())


def test_clairvoyant_is_what_a_search_finds():
    made = random_world(3, protocols=2)
    bound = clairvoyant(made)
    for step in (0, 17, 100):
        best = searched(made, made.paid[made.history + step] * 0.25)
        assert best * (1 - 1e-3) <= bound.by_step[step] <= best * 1.02
    assert bound.usd == bound.by_step.sum()


def test_under_the_rules_a_cooled_share_is_the_same_for_its_cooldown():
    yields = np.zeros((4 + 96, 2))
    yields[4:52, 0], yields[52:, 1] = 0.04, 0.04
    free, held = world(yields), world(yields, cooldown=(96, 96))
    np.testing.assert_allclose(under_rules(free).usd, 0.04 * 24, rtol=1e-6)
    np.testing.assert_allclose(under_rules(held).usd, 0.04 * 12, rtol=1e-6)


@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_no_policy_beats_the_clairvoyant_and_all_keep_the_rules(seed):
    made = random_world(seed, cooldown=(96, 0, 0), restart_hours=0.01, least=0.05)
    highest, rules = clairvoyant(made).usd, under_rules(made).usd
    assert rules <= highest * (1 + 1e-3)
    for policy in (Equal(made), Static(made), Greedy(made), Myopic(made), Myopic(made, hysteresis=0.05)):
        outcome = simulate(made, policy, favoured=True)
        assert outcome.usd <= highest * (1 + 1e-3)
        assert outcome.violations == 0


def test_hysteresis_changes_less_and_myopic_follows_the_last_step():
    made = random_world(5)
    often, seldom = (simulate(made, Myopic(made, hysteresis=part), favoured=True).changes for part in (0.0, 0.05))
    assert 0 < seldom < often


def test_greedy_moves_twenty_points_where_enough_is_gained():
    made = world(np.full((8, 2), 1.0), history=4)
    now = Situation(4, np.array([0.5, 0.5]), np.zeros(2, dtype=bool), np.array([4.0, 1.0]))
    np.testing.assert_allclose(Greedy(made).propose(now), [0.7, 0.3])
    poor = Situation(4, now.shares, now.cooled, now.last_paid / 100)
    assert Greedy(made).propose(poor) is None
    cooled = Situation(4, now.shares, np.array([True, False]), now.last_paid)
    assert Greedy(made).propose(cooled) is None
