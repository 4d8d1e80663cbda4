"""Orcha in a world: what it learns from its own earnings, and that it sees nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from orcha_pipeline.errors import PlanError
from orcha_pipeline.testnet.world_kinds import write_world
from orcha_pipeline.testnet.worlds import WorldKind
from orcha_pipeline.yardstick.bounds import under_rules
from orcha_pipeline.yardstick.orcha_policy import Learning, OrchaPolicy, SameAsYesterday
from orcha_pipeline.yardstick.policies import BASELINES, play
from orcha_pipeline.yardstick.simulation import Situation, simulate
from orcha_pipeline.yardstick.world import load_world
from orcha_pipeline_tests.yardstick.build import terms, world


@pytest.fixture(scope="module")
def contended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds") / "contended"
    write_world(folder, kind=WorldKind.CONTENDED, seed=9, days=12)
    return load_world(folder)


@pytest.fixture(scope="module")
def learning(contended):
    policy = OrchaPolicy(contended.terms, Learning(contended.terms.first_hour))
    return policy, simulate(contended, policy, favoured=False)


@pytest.mark.slow
def test_it_earns_more_than_any_that_looks_at_the_present_alone(contended, learning):
    best = max(outcome.usd for outcome in play(contended, tuple(BASELINES)).values())
    outcome = learning[1]
    assert best < outcome.usd <= under_rules(contended).usd * 1.02
    assert outcome.violations == 0
    assert 0 < outcome.changes < simulate(contended, BASELINES["myopic"](contended), favoured=True).changes


@pytest.mark.slow
def test_it_learns_how_its_nodes_answer(contended, learning):
    policy, outcome = learning
    often = outcome.moved.sum(axis=0) >= 10
    assert often.any()
    np.testing.assert_allclose(policy.curvature[often], contended.curvature[often], atol=0.08)


@pytest.mark.slow
def test_what_is_yet_to_come_changes_nothing_that_was_decided(contended, learning):
    until = contended.history + 100
    yields = contended.yields[: until + 40].copy()
    yields[until:] = yields[until:][::-1] * 3.0
    other = replace(contended, yields=yields, available=contended.available[: len(yields)])
    outcome = simulate(other, OrchaPolicy(other.terms, Learning(other.terms.first_hour)), favoured=False)
    np.testing.assert_allclose(outcome.shares[:101], learning[1].shares[:101], atol=1e-6)
    assert np.abs(outcome.shares[101:] - learning[1].shares[101:140]).max() > 0.01


def test_it_holds_while_it_knows_too_little():
    made = world(np.full((40, 2), 0.04), history=8)
    for sight in (Learning(made.terms.first_hour), SameAsYesterday()):
        outcome = simulate(made, OrchaPolicy(made.terms, sight), favoured=False)
        assert outcome.changes == 0


def test_protocols_that_never_paid_get_their_least():
    yields = np.tile([0.04, 0.0], (6 * 96, 1))
    made = world(yields, history=4 * 96, least=0.1)
    outcome = simulate(made, OrchaPolicy(made.terms, Learning(made.terms.first_hour)), favoured=False)
    np.testing.assert_allclose(outcome.shares[-1], [0.9, 0.1], atol=1e-6)
    assert outcome.changes == 1


def test_worlds_of_other_steps_are_refused():
    with pytest.raises(PlanError, match="step_minutes must be 15"):
        OrchaPolicy(replace(terms(), step_hours=0.5), SameAsYesterday())


def test_a_restart_that_takes_much_of_a_step_leaves_it_unknown():
    made = terms(2, restart_hours=0.0)
    policy = OrchaPolicy(replace(made, restart_hours=np.array([0.2, 0.005])), SameAsYesterday())
    still = np.zeros(2, dtype=bool)
    policy.observe(0, np.array([0.5, 0.5]), still, np.array([0.01, 0.01]))
    policy.observe(1, np.array([0.6, 0.4]), ~still, np.array([0.001, 0.0098]))
    rates = policy._rates[-1]
    assert np.isnan(rates[0])
    assert rates[1] == pytest.approx((0.0098 + 0.005 * 0.04) / 0.25)
    assert policy._paying[-1].all()
    assert policy.propose(Situation(2, np.array([0.6, 0.4]), still, None)) is None
