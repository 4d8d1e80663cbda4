import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.allocation.response import PIECES, grid_points, response

shares = st.floats(0, 1)
curvatures = st.floats(0.5, 1)


def test_full_share_earns_the_whole_yield_and_none_earns_nothing():
    assert response(1.0, 0.9) == 1.0
    assert response(0.0, 0.9) == 0.0
    assert response(0.5, 1.0) == 0.5


@given(shares, shares, curvatures)
def test_more_share_never_earns_less(a, b, curvature):
    low, high = sorted((a, b))
    assert response(low, curvature) <= response(high, curvature)


def points_of(low, high, now):
    return grid_points(np.array([low]), np.array([high]), np.array([now]))[0]


@given(shares, shares, shares, curvatures)
def test_the_grid_covers_the_range_passes_through_the_present_share_and_its_pieces_never_get_steeper(
    a, b, now, curvature
):
    low, high = sorted((a, b))
    now = min(high, max(low, now))
    points = points_of(low, high, now)
    assert len(points) == PIECES + 3
    assert points[0] == low
    assert points[-1] == high
    assert now in points
    width = np.diff(points)
    slopes = (np.diff(points**curvature) / np.where(width > 0, width, 1.0))[width > 1e-6]
    assert (np.diff(slopes) <= 1e-6).all()


def test_straight_pieces_stay_within_a_hundredth_of_the_curve():
    points = points_of(0.0, 1.0, 0.0)
    at = np.linspace(0.0, 1.0, 1001)
    for curvature in (0.7, 0.8, 0.9):
        gap = at**curvature - np.interp(at, points, points**curvature)
        assert (gap < np.where(at < 0.05, 0.01, 0.003)).all()


@pytest.mark.parametrize(("share", "curvature"), [(-0.1, 0.9), (float("nan"), 0.9), (0.5, 0.0), (0.5, 1.1)])
def test_what_is_no_share_or_curvature_is_refused(share, curvature):
    with pytest.raises(ValueError, match=r"share|curvature"):
        response(share, curvature)


def test_a_range_upside_down_is_refused():
    with pytest.raises(ValueError, match="not a range"):
        points_of(0.6, 0.4, 0.5)
