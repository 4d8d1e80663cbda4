"""A node's curvature, from what its changes did."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.allocation.response_learning import LEAST_CURVATURE, PRIOR_DEVIATION, learn_response


def history(curvature, *, changes=20, steps=400, noise=0.03, seed=0):
    rng = np.random.default_rng(seed)
    shares = np.full(steps, 0.3)
    for at in np.sort(rng.choice(np.arange(10, steps - 1), changes, replace=False)):
        shares[at:] = rng.uniform(0.05, 1.0)
    yields = 0.04 * np.exp(np.cumsum(rng.normal(0, noise, steps)))
    return yields * shares**curvature, shares


@given(curvature=st.floats(0.4, 1.0), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_it_is_found_within_what_is_claimed(curvature, seed):
    learnt = learn_response(*history(curvature, seed=seed), prior=0.9)
    assert learnt.changes == 20
    assert learnt.deviation < 0.03
    assert abs(learnt.curvature - curvature) < 5 * learnt.deviation


def test_without_a_change_it_is_the_prior_and_says_how_little_is_known():
    rates, shares = history(0.6, changes=0)
    learnt = learn_response(rates, shares, prior=0.9)
    assert (learnt.curvature, learnt.deviation, learnt.changes) == (0.9, PRIOR_DEVIATION, 0)
    assert learn_response(np.empty(0), np.empty(0), prior=0.8).curvature == 0.8


def test_one_change_of_a_restless_node_says_little():
    few = learn_response(*history(0.5, changes=1, noise=0.3, seed=3), prior=0.9)
    many = learn_response(*history(0.5, changes=60, noise=0.3, seed=3), prior=0.9)
    assert 0.05 < few.deviation <= PRIOR_DEVIATION
    assert many.deviation < few.deviation
    assert abs(many.curvature - 0.5) < abs(few.curvature - 0.5)


def test_a_yield_that_jumps_with_a_change_hardly_counts():
    rates, shares = history(0.7, changes=30, noise=0.01)
    changed = np.flatnonzero(np.diff(shares))[::5] + 1
    honest = learn_response(rates, shares, prior=0.9).curvature
    for at in changed:
        rates[at:] *= 3.0
    assert abs(learn_response(rates, shares, prior=0.9).curvature - honest) < 0.02


def test_a_step_that_is_unknown_is_bridged_and_longer_gaps_teach_nothing():
    rates, shares = history(0.7)
    whole = learn_response(rates, shares, prior=0.9)
    changed = np.flatnonzero(np.diff(shares)) + 1
    holed = rates.copy()
    holed[changed[:10]] = [np.nan, 0.0] * 5
    bridged = learn_response(holed, shares, prior=0.9)
    assert bridged.changes == whole.changes
    assert whole.deviation < bridged.deviation
    assert abs(bridged.curvature - 0.7) < 0.05
    holed[changed[:10] + 1] = np.nan
    assert learn_response(holed, shares, prior=0.9).changes < whole.changes


@pytest.mark.parametrize(("effect", "found"), [(3.0, 1.0), (-1.0, LEAST_CURVATURE)])
def test_it_stays_a_curvature(effect, found):
    rates, shares = history(effect, noise=0.001)
    assert learn_response(rates, shares, prior=0.9).curvature == found
