from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.allocation.response import PIECES, breakpoints, marginal, pieces, response

shares = st.floats(0, 1)
curvatures = st.floats(0.5, 1)


def test_full_share_earns_the_whole_yield_and_none_earns_nothing():
    assert response(1.0, 0.9) == 1.0
    assert response(0.0, 0.9) == 0.0
    assert response(0.5, 1.0) == 0.5


@given(shares, shares, curvatures)
def test_more_share_never_earns_less_and_each_bit_earns_less_than_the_one_before(a, b, curvature):
    low, high = sorted((a, b))
    assert response(low, curvature) <= response(high, curvature)
    if low < high:
        assert marginal(low, curvature) >= marginal(high, curvature)


@given(st.floats(0.05, 1), curvatures)
def test_marginal_is_the_slope_of_the_response(share, curvature):
    step = 1e-6
    slope = (response(share + step, curvature) - response(share - step, curvature)) / (2 * step)
    assert marginal(share, curvature) == pytest.approx(slope, rel=1e-4)


def test_the_first_bit_of_a_node_is_worth_most_without_bound():
    assert marginal(0.0, 0.9) == float("inf")
    assert marginal(0.0, 1.0) == 1.0


@given(shares, shares, shares, curvatures)
def test_pieces_cover_the_range_touch_the_curve_at_their_ends_and_never_rise_above_it(a, b, now, curvature):
    low, high = sorted((a, b))
    now = min(high, max(low, now))
    points = breakpoints(low, high, through=(now,))
    cut = pieces(points, curvature)
    assert len(cut) == PIECES + 2
    assert points[0] == low
    assert points[-1] == high
    assert now in points
    assert sum(piece.width for piece in cut) == pytest.approx(high - low)
    climbed = response(low, curvature)
    for piece in cut:
        middle = climbed + piece.slope * piece.width / 2
        assert middle <= response(piece.start + piece.width / 2, curvature) + 1e-9
        climbed += piece.slope * piece.width
        assert climbed == pytest.approx(response(piece.start + piece.width, curvature), abs=2e-6)
    wide = [piece.slope for piece in cut if piece.width > 1e-6]
    assert all(before >= after - 1e-6 for before, after in pairwise(wide))


def test_pieces_stay_within_a_hundredth_of_the_curve():
    points = breakpoints(0.0, 1.0)
    for curvature in (0.7, 0.8, 0.9):
        for piece in pieces(points, curvature):
            at = piece.start + piece.width / 3
            gap = response(at, curvature) - (response(piece.start, curvature) + piece.slope * piece.width / 3)
            assert gap < (0.01 if at < 0.05 else 0.003)


@pytest.mark.parametrize(("share", "curvature"), [(-0.1, 0.9), (float("nan"), 0.9), (0.5, 0.0), (0.5, 1.1)])
def test_what_is_no_share_or_curvature_is_refused(share, curvature):
    with pytest.raises(ValueError, match=r"share|curvature"):
        response(share, curvature)
    with pytest.raises(ValueError, match=r"share|curvature"):
        marginal(share, curvature)


def test_a_range_upside_down_is_refused():
    with pytest.raises(ValueError, match="not a range"):
        breakpoints(0.6, 0.4)
