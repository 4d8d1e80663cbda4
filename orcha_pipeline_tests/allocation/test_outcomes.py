"""What a change earned against the same hours at the old shares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.allocation.outcomes import QUARTER_HOURS, measure

NAN = np.nan
SHARES = st.floats(0.05, 1.0)
CURVATURES = st.floats(0.3, 1.0)


def one(rates, shares, *, before, after, curvature=0.5):
    """A single node."""
    return measure(
        np.array(rates, dtype=float)[:, None],
        np.array(shares, dtype=float)[:, None],
        ["n"],
        before={"n": before},
        after={"n": after},
        curvatures={"n": curvature},
    )


@given(
    quarters=st.integers(1, 40),
    nodes=st.integers(1, 5),
    unknown=st.floats(0, 0.9),
    seed=st.integers(0, 10_000),
)
def test_if_nothing_moved_nothing_was_gained(quarters, nodes, unknown, seed):
    rng = np.random.default_rng(seed)
    rates, shares = rng.uniform(0, 1, (quarters, nodes)), rng.uniform(0.05, 1, (quarters, nodes))
    rates[rng.random(rates.shape) < unknown] = NAN
    shares[rng.random(shares.shape) < unknown] = NAN
    names = [f"n{number}" for number in range(nodes)]
    came = measure(
        rates, shares, names, before=dict.fromkeys(names, 0.5), after=dict.fromkeys(names, 0.5), curvatures={}
    )
    assert came.gained_usd == 0
    assert came.earned_usd == came.unchanged_usd == pytest.approx(np.nansum(rates) * QUARTER_HOURS)
    assert came.missing == 0


@given(
    quarters=st.integers(1, 40),
    moves=st.lists(st.tuples(SHARES, SHARES, CURVATURES, st.floats(0.001, 10)), min_size=1, max_size=5),
)
def test_by_steady_yields_and_without_a_restart_it_is_the_true_difference(quarters, moves):
    before, after, curvature, usd = (np.array(column) for column in zip(*moves, strict=True))
    names = [f"n{number}" for number in range(len(moves))]
    came = measure(
        np.tile(usd * after**curvature, (quarters, 1)),
        np.tile(after, (quarters, 1)),
        names,
        before=dict(zip(names, before, strict=True)),
        after=dict(zip(names, after, strict=True)),
        curvatures=dict(zip(names, curvature, strict=True)),
    )
    truth = quarters * QUARTER_HOURS * float((usd * (after**curvature - before**curvature)).sum())
    assert came.gained_usd == pytest.approx(truth, abs=1e-9)
    assert came.note == ""


def test_what_a_restart_loses_is_the_changes_doing():
    # Yield 1: at share 0.25 it earned 0.5 an hour, at 1.0 it earns 1.0; the first quarter is lost.
    came = one([0.0, 1.0, 1.0, 1.0], [NAN, 1.0, 1.0, 1.0], before=0.25, after=1.0)
    assert came.earned_usd == pytest.approx(0.75)
    assert came.unchanged_usd == pytest.approx(0.5)
    assert came.gained_usd == pytest.approx(0.25)


def test_the_yield_during_a_change_is_that_of_the_next_four_known_quarters():
    came = one([0.1, NAN, 1.0, 2.0, 3.0, 2.0, 9.0], [NAN, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], before=0.25, after=1.0)
    known = [1.0, 2.0, 3.0, 2.0, 9.0]
    assert came.unchanged_usd == pytest.approx(0.25 * 0.5 * (2.0 + sum(known)))
    assert came.earned_usd == pytest.approx(0.25 * (0.1 + sum(known)))
    assert (came.missing, came.note) == (1, "n: 1 of 7 quarter-hours are unknown: left out")


def test_a_yield_that_rises_meanwhile_is_not_the_changes_doing():
    came = one([0.5, 1.0, 2.0], [0.25] * 3, before=0.25, after=1.0)
    assert came.gained_usd == 0


def test_a_change_can_lose():
    came = one([1.0] * 4, [0.25] * 4, before=1.0, after=0.25)
    assert came.gained_usd == pytest.approx(-1.0)


def test_a_share_of_nothing_tells_nothing_of_the_yield():
    came = one([0.0] * 4, [0.0] * 4, before=0.5, after=0.0)
    assert (came.earned_usd, came.unchanged_usd, came.gained_usd) == (None, None, None)
    assert came.note == "n: 4 of 4 quarter-hours are unknown"


def test_from_no_share_everything_is_gained():
    assert one([1.0] * 4, [1.0] * 4, before=0.0, after=1.0).gained_usd == pytest.approx(1.0)


@pytest.mark.parametrize(("known", "told"), [(4, True), (3, False)])
def test_less_than_half_of_a_moved_nodes_quarters_is_too_little_to_tell(known, told):
    rates = [1.0] * known + [NAN] * (8 - known)
    came = one(rates, [1.0] * 8, before=0.25, after=1.0)
    assert (came.gained_usd is not None) is told
    assert came.missing == 8 - known
    assert came.note.startswith(f"n: {8 - known} of 8 quarter-hours are unknown")


def test_a_node_that_did_not_move_stops_no_outcome():
    rates = np.array([[1.0, NAN]] * 4)
    came = measure(
        rates, np.ones((4, 2)), ["a", "b"], before={"a": 0.25}, after={"a": 1.0}, curvatures={"a": 0.5, "b": 0.5}
    )
    assert came.gained_usd == pytest.approx(0.5)
    assert (came.missing, came.note) == (0, "b: 4 of 4 quarter-hours are unknown: left out")


def test_a_change_that_lasted_no_quarter_cannot_be_told():
    came = one([], [], before=0.25, after=1.0)
    assert came.gained_usd is None
    assert "within the same quarter" in came.note
