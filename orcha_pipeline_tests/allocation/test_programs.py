"""The linear program over blocks: against HiGHS asked directly, and what must hold for any host."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from orcha_pipeline.allocation.programs import Site, best_shares
from orcha_pipeline.errors import PlanError


def site(rng, nodes, *, squeeze=1.0):
    capacity = rng.uniform(10.0, 1000.0, 4)
    demand = rng.uniform(0.2, 1.0, (4, nodes)) * capacity[:, None] * squeeze
    least = rng.uniform(0.0, 0.5 / (nodes * squeeze), nodes)
    return Site(capacity=capacity, demand=demand, least=least, most=rng.uniform(0.7, 1.0, nodes))


def case(seed, nodes=3, blocks=4, **of_site):
    rng = np.random.default_rng(seed)
    made = site(rng, nodes, **of_site)
    return made, rng.uniform(0.01, 0.1, (blocks, nodes)), np.full((blocks, nodes), np.nan), rng


@given(seed=st.integers(0, 10_000), nodes=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_linear_case_earns_what_highs_finds(seed, nodes):
    made, worth, kept, _ = case(seed, nodes)
    best = best_shares(made, worth, np.ones(nodes), kept=kept)
    for row, shares in zip(worth, best.shares, strict=True):
        found = linprog(
            -row,
            A_ub=made.demand,
            b_ub=made.capacity,
            bounds=list(zip(made.least, made.most, strict=True)),
            method="highs",
        )
        assert row @ shares == pytest.approx(-found.fun, rel=1e-6)


@given(seed=st.integers(0, 10_000), nodes=st.integers(2, 5), squeeze=st.sampled_from([0.4, 1.0]))
@settings(max_examples=30, deadline=None)
def test_capacities_and_bounds_are_kept_tied_nodes_stay_as_one_and_kept_ones_as_they_are(seed, nodes, squeeze):
    made, worth, kept, rng = case(seed, nodes, squeeze=squeeze)
    kept[0, 1] = made.least[1]
    best = best_shares(made, worth, rng.uniform(0.4, 1.0, nodes), kept=kept, tied=(0,))
    assert (best.shares @ made.demand.T <= made.capacity * (1 + 1e-7)).all()
    assert (best.shares >= made.least - 1e-9).all()
    assert (best.shares <= made.most + 1e-9).all()
    assert np.ptp(best.shares[:, 0]) == 0.0
    assert best.shares[0, 1] == made.least[1]
    assert (best.prices >= 0).all()


@given(seed=st.integers(0, 10_000), more=st.floats(1.0, 2.0), resource=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_more_capacity_never_earns_less(seed, more, resource):
    made, worth, kept, rng = case(seed)
    curvature = rng.uniform(0.4, 1.0, 3)
    factor = np.where(np.arange(4) == resource, more, 1.0)
    larger = Site(capacity=made.capacity * factor, demand=made.demand, least=made.least, most=made.most)
    # The pieces lie a little below the curve, by which alone the two may differ.
    before, after = (best_shares(each, worth, curvature, kept=kept, tied=(1,)).usd for each in (made, larger))
    assert after >= before * (1 - 5e-3)


def test_a_price_is_what_a_little_more_of_a_resource_earns():
    made = Site(capacity=np.array([1.0, 9, 9, 9]), demand=np.ones((4, 2)), least=np.zeros(2), most=np.ones(2))
    worth, kept = np.array([[0.05, 0.02]]), np.full((1, 2), np.nan)
    best = best_shares(made, worth, np.ones(2), kept=kept)
    np.testing.assert_allclose(best.shares, [[1.0, 0.0]], atol=1e-9)
    np.testing.assert_allclose(best.prices, [[0.02, 0, 0, 0]], atol=1e-9)
    worth = np.array([[0.05, 0.06]])
    np.testing.assert_allclose(best_shares(made, worth, np.ones(2), kept=kept).prices[0, 0], 0.05, atol=1e-9)


def test_what_is_tied_weighs_all_its_blocks():
    made = Site(capacity=np.ones(4), demand=np.ones((4, 2)), least=np.zeros(2), most=np.ones(2))
    worth = np.array([[0.1, 0.5], [0.9, 0.2], [0.9, 0.2]])
    kept = np.full((3, 2), np.nan)
    np.testing.assert_allclose(best_shares(made, worth, np.ones(2), kept=kept).shares[:, 0], [0, 1, 1], atol=1e-9)
    np.testing.assert_allclose(
        best_shares(made, worth, np.ones(2), kept=kept, tied=(0,)).shares, [[1, 0]] * 3, atol=1e-9
    )
    kept[0, 0] = 0.0
    np.testing.assert_allclose(
        best_shares(made, worth, np.ones(2), kept=kept, tied=(0,)).shares, [[0, 1], [1, 0], [1, 0]], atol=1e-9
    )


def test_a_node_that_loses_gets_as_little_as_it_may():
    made = Site(capacity=np.full(4, 9.0), demand=np.ones((4, 2)), least=np.array([0.1, 0.0]), most=np.ones(2))
    worth = np.array([[-0.05, 0.03]])
    best = best_shares(made, worth, np.full(2, 0.5), kept=np.full((1, 2), np.nan))
    np.testing.assert_allclose(best.shares, [[0.1, 1.0]], atol=1e-9)


def test_where_nothing_fits_it_is_told():
    made = Site(capacity=np.ones(4), demand=np.ones((4, 2)), least=np.array([0.6, 0.6]), most=np.ones(2))
    with pytest.raises(PlanError, match="The present allocation stays"):
        best_shares(made, np.ones((1, 2)), np.ones(2), kept=np.full((1, 2), np.nan))


def test_hosts_as_blocks_are_divided_as_each_alone():
    rng = np.random.default_rng(5)
    sites = [site(rng, 3) for _ in range(6)]
    worth, curvature = rng.uniform(0.01, 0.1, (6, 3)), rng.uniform(0.5, 1.0, (6, 3))
    together = Site(**{name: np.stack([getattr(one, name) for one in sites]) for name in Site.__slots__})
    nowhere = np.full((6, 3), np.nan)
    fleet = best_shares(together, worth, curvature, kept=nowhere)
    assert together.fits(fleet.shares)
    for row, one in enumerate(sites):
        alone = best_shares(one, worth[row : row + 1], curvature[row], kept=nowhere[:1])
        assert fleet.usd >= alone.usd
        assert worth[row] @ fleet.shares[row] ** curvature[row] == pytest.approx(alone.usd, rel=1e-6)
