"""The best change of the shares for an hour: what it costs, what it may not do, and that it is the best."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.allocation.change_program import Question, Reach, best_change
from orcha_pipeline.errors import PlanError


def asked(now, worth, *, costs=None, any_cost=0.0, charge=None, curvature=1.0, room=1.0, least=0.05, most=1.0):
    now, worth = np.array(now), np.array(worth)
    nodes = len(now)
    return Question(
        hours=1.0,
        reach=Reach.between(now, np.full(nodes, least), np.full(nodes, most), move=0.01),
        worth=worth,
        charge=np.zeros(nodes) if charge is None else np.array(charge),
        curvature=np.full(nodes, curvature),
        costs=np.zeros(nodes) if costs is None else np.array(costs),
        any_cost=any_cost,
        demand=np.ones((1, nodes)),
        room=np.array([room]),
    )


def test_the_room_goes_to_what_earns_most():
    best = best_change(asked([0.5, 0.5], [0.3, 0.1]))
    np.testing.assert_allclose(best.shares, [0.95, 0.05])
    assert best.usd == pytest.approx(0.95 * 0.3 + 0.05 * 0.1)
    assert best.pattern.ups.tolist() == [True, False]
    assert best.pattern.downs.tolist() == [False, True]


def test_only_those_are_moved_whose_move_earns_its_cost():
    best = best_change(asked([0.4, 0.3, 0.3], [0.3, 0.1, 0.29], costs=[0.0, 0.0, 0.05]))
    assert best.pattern.moved.tolist() == [True, True, False]
    best = best_change(asked([0.4, 0.3, 0.3], [0.3, 0.1, 0.29], any_cost=0.06))
    assert not best.pattern.moved.any()


def test_what_a_share_charges_is_taken_off_what_it_earns():
    best = best_change(asked([0.5, 0.5], [0.30, 0.20], charge=[0.2, 0.0]))
    np.testing.assert_allclose(best.shares, [0.05, 0.95])
    alone = best_change(asked([0.5], [0.10], charge=[0.2]))
    np.testing.assert_allclose(alone.shares, [0.05])


def test_what_gains_nothing_is_not_moved():
    assert not best_change(asked([0.5, 0.3], [0.0, 0.0])).pattern.moved.any()
    assert best_change(asked([0.5, 0.3], [0.0, 0.1])).pattern.moved.tolist() == [True, True]
    assert best_change(asked([0.5, 0.3], [0.0, 0.1], room=1.5)).pattern.moved.tolist() == [False, True]


def test_the_runner_up_is_the_best_of_all_other_patterns():
    question = asked([0.5, 0.5], [0.3, 0.1], costs=[0.01, 0.01])
    first = best_change(question)
    second = best_change(question, other_than=first.pattern)
    assert second.usd < first.usd
    assert not second.pattern.moved.any()
    assert second.usd == pytest.approx(0.5 * 0.4)  # to leave everything as it is


def test_a_node_that_is_fixed_goes_there_or_stays():
    question = asked([0.5, 0.4], [0.3, 0.1])
    fixed = best_change(replace(question, reach=question.reach.fixed(np.array([0.2, np.nan]))))
    np.testing.assert_allclose(fixed.shares, [0.2, 0.8])
    stays = best_change(replace(question, reach=question.reach.fixed(np.array([0.5, np.nan]))))
    np.testing.assert_allclose(stays.shares, [0.5, 0.5])


def test_what_cannot_fit_is_told():
    with pytest.raises(PlanError, match="infeasible"):
        best_change(asked([0.5, 0.5], [0.3, 0.1], least=0.4, room=0.7))


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_no_division_on_a_grid_earns_more(seed):
    rng = np.random.default_rng(seed)
    nodes = int(rng.integers(1, 4))
    now = np.full(nodes, 0.05) + rng.uniform(0, 0.9 / nodes, nodes)
    question = replace(
        asked(
            now,
            rng.uniform(0, 0.2, nodes),
            costs=rng.uniform(0, 0.02, nodes),
            any_cost=float(rng.uniform(0, 0.01)),
            charge=rng.uniform(0, 0.05, nodes),
        ),
        curvature=rng.uniform(0.7, 1.0, nodes),
    )
    best = best_change(question)
    assert (question.demand @ best.shares <= question.room + 1e-6).all()
    assert best.usd == pytest.approx(net(question, best.shares), abs=2e-3)
    grid = [np.unique([*np.linspace(0.05, 1.0, 11), share]) for share in now]
    for shares in product(*grid):
        candidate = np.array(shares)
        small = (candidate != now) & (np.abs(candidate - now) < 0.01)
        if (question.demand @ candidate <= question.room).all() and not small.any():
            assert net(question, candidate) <= best.usd + 2e-3  # straight pieces lie below the curve


def net(question, shares):
    moved = np.abs(shares - question.reach.now) > 1e-9
    paid = float(question.costs @ moved) + (question.any_cost if moved.any() else 0.0)
    return question.earned(shares) - paid
