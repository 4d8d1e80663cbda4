"""The rules hold for every policy, and a step earns what the format says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.yardstick.simulation import equal_shares, simulate
from orcha_pipeline_tests.yardstick.build import random_world, terms, world


class Scripted:
    """Proposes what it is told to, from the first scored step on, and remembers what it was shown."""

    def __init__(self, *wanted):
        self.wanted = list(wanted)
        self.asked, self.told = [], []

    def observe(self, step, shares, moved, earned):
        self.told.append((step, shares.copy(), moved.copy(), earned.copy()))

    def propose(self, now):
        self.asked.append(now)
        return self.wanted.pop(0) if self.wanted else None


def played(policy, made, *, favoured=False):
    ticks = iter(range(10_000))
    return simulate(made, policy, favoured=favoured, clock=lambda: float(next(ticks)))


def test_the_history_runs_at_equal_and_a_policy_is_told_what_it_earned():
    made = world(np.full((8, 2), 0.04), curvature=0.5)
    policy = Scripted()
    outcome = played(policy, made)
    assert [step for step, *_ in policy.told] == list(range(8))
    np.testing.assert_allclose(policy.told[0][1], [0.5, 0.5])
    np.testing.assert_allclose(policy.told[0][3], 0.04 * 0.5**0.5 * 0.25)
    np.testing.assert_allclose(outcome.usd, 4 * 2 * 0.04 * 0.5**0.5 * 0.25)
    assert (outcome.changes, outcome.switching_usd, outcome.violations) == (0, 0.0, 0)


def test_a_share_that_moves_first_loses_its_restart_at_the_old_rate():
    made = world(np.full((8, 2), 0.04), curvature=0.5, restart_hours=0.1)
    outcome = played(Scripted(np.array([0.8, 0.2])), made)
    full = 0.04 * np.array([0.8, 0.2]) ** 0.5 * 0.25
    np.testing.assert_allclose(outcome.earned[0], full - 0.1 * 0.04 * 0.5**0.5)
    np.testing.assert_allclose(outcome.earned[1], full)
    np.testing.assert_allclose(outcome.switching_usd, 2 * 0.1 * 0.04 * 0.5**0.5)


def test_nothing_is_earned_and_nothing_lost_while_a_protocol_is_away():
    available = np.ones((8, 2))
    available[4] = [0, 1]
    outcome = played(
        Scripted(np.array([0.8, 0.2])), world(np.full((8, 2), 0.04), available=available, restart_hours=0.1)
    )
    assert outcome.earned[0, 0] == 0.0
    assert outcome.earned[0, 1] == pytest.approx(0.04 * (0.2 * 0.25 - 0.5 * 0.1), abs=1e-9)


def test_shares_that_hardly_move_stay_and_are_no_change():
    made = world(np.full((12, 3), 0.04), demand=np.full((4, 3), 0.5))
    start = equal_shares(made.terms)
    policy = Scripted(start + np.array([0.009, -0.009, 0.005]), start + np.array([0.02, -0.009, -0.02]))
    outcome = played(policy, made)
    assert outcome.changes == 1
    assert [now.step for now in policy.asked] == [4, 5, 9, 10, 11]
    np.testing.assert_allclose(outcome.shares[1], start + np.array([0.02, 0.0, -0.02]))


def test_a_host_rests_for_an_hour_and_a_cooled_protocol_longer():
    made = world(np.full((20, 2), 0.04), cooldown=(8, 0))
    policy = Scripted(np.array([0.6, 0.4]), np.array([0.6, 0.3]), None, np.array([0.5, 0.3]))
    outcome = played(policy, made)
    assert [now.step for now in policy.asked] == [4, 8, 12, 13, 17, 18, 19]
    assert [now.cooled.tolist() for now in policy.asked[:4]] == [
        [False, False],
        [True, False],
        [False, False],
        [False, False],
    ]
    assert outcome.changes == 3
    assert outcome.violations == 0


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ([0.9, 0.9], "over capacity"),
        ([1.2, -0.2], "out of bounds"),
        ([np.nan, 0.5], "no number"),
    ],
)
def test_what_breaks_a_rule_is_counted(wanted, why):
    made = world(np.full((5, 2), 0.04))
    assert played(Scripted(np.array(wanted)), made).violations == (0 if why == "no number" else 1)


def test_moving_what_is_cooled_is_counted():
    made = world(np.full((12, 2), 0.04), cooldown=(96, 0))
    assert played(Scripted(np.array([0.6, 0.4]), np.array([0.4, 0.4])), made).violations == 1


def test_only_a_favoured_policy_sees_what_was_truly_paid():
    made = random_world()
    for favoured in (False, True):
        policy = Scripted()
        played(policy, made, favoured=favoured)
        for now in policy.asked:
            assert (now.last_paid is None) is not favoured
            if favoured:
                np.testing.assert_array_equal(now.last_paid, made.paid[now.step - 1])


def test_equal_is_the_largest_that_fits():
    of = terms(3, demand=[[0.2, 0.4, 0.9], [1, 0, 0], [0, 0, 0], [0.1, 0.1, 0.1]], least=0.3, most=0.8)
    shares = equal_shares(of)
    assert of.fits(shares)
    assert not of.fits(np.clip(shares.max() + 1e-6, of.least, of.most)) or shares.max() == 0.8


@given(seed=st.integers(0, 10_000), cooldown=st.sampled_from([0, 8, 96]))
@settings(max_examples=30, deadline=None)
def test_whatever_is_proposed_the_rules_of_time_hold(seed, cooldown):
    rng = np.random.default_rng(seed)
    made = random_world(seed, cooldown=(cooldown, 0, 0), restart_hours=0.05)

    class Anything(Scripted):
        def propose(self, now):
            wanted = rng.uniform(0, 1, 3)
            return np.where(now.cooled, now.shares, wanted) if rng.uniform() < 0.7 else None

    outcome = played(Anything(), made)
    changed = np.flatnonzero(outcome.moved.any(axis=1))
    assert np.diff(changed).min(initial=4) >= 4
    own = np.flatnonzero(outcome.moved[:, 0])
    assert np.diff(own).min(initial=cooldown) >= cooldown
    paid = made.paid[made.history :]
    before = np.vstack([equal_shares(made.terms), outcome.shares[:-1]])
    lost = np.where(outcome.moved, 0.05 * paid * before**made.curvature, 0.0)
    np.testing.assert_allclose(outcome.earned, 0.25 * paid * outcome.shares**made.curvature - lost)
    np.testing.assert_allclose(outcome.switching_usd, lost.sum())
