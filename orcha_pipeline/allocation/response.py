"""How earnings answer to a node's share: earnings = yield x share ** curvature, and its straight pieces for an LP.

Pure arithmetic. The curvature is a prior (`planner.response_curvature`) until a node's own history teaches better.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PIECES = 12
"""Straight pieces between share 0 and 1: at curvature 0.7 and more they lie less than 0.01 of a full share's
earnings below the curve near share 0, and less than 0.003 from share 0.05 on."""


def response(share: float, curvature: float) -> float:
    """Earnings at `share` as a fraction of those at full share. Raises `ValueError` for a negative or NaN share."""
    _check_curvature(curvature)
    if not (math.isfinite(share) and share >= 0):
        raise ValueError(f"a share is a finite number from 0, not {share}")
    return share**curvature


def grid_points(low: Floats, high: Floats, through: Floats) -> Floats:
    """(N, PIECES + 3) Ascending shares from `low` to `high`, (N,) each, where the straight pieces of a node meet.

    They lie at (k / PIECES) ** 1.5, denser near 0 where the response bends most, and at the share `through`, where the
    pieces are then exact. Those outside the range are moved to its ends, so that a program keeps its shape. Raises
    `ValueError` for a range upside down.
    """
    if not ((low >= 0).all() and (low <= high).all() and np.isfinite(high).all()):
        raise ValueError(f"not a range of shares: {low} .. {high}")
    grid = np.maximum(1.0, high)[:, None] * _piece_ends(PIECES)
    points = np.concatenate([grid, high[:, None], through[:, None]], axis=1)
    return np.sort(np.clip(points, low[:, None], high[:, None]), axis=1)


def piece_widths(count: int) -> Floats:
    """(count,) Widths of pieces between share 0 and 1 that meet at (k / count) ** 1.5, for programs made of arrays."""
    return np.diff(_piece_ends(count))


def piece_slopes(count: int, curvature: float | Floats) -> Floats:
    """What a unit of share earns in each of those pieces, of the yield: (..., count) for curvatures (...)."""
    return np.diff(_piece_ends(count) ** np.asarray(curvature)[..., None], axis=-1) / piece_widths(count)


def _piece_ends(count: int) -> Floats:
    return (np.arange(count + 1) / count) ** 1.5


def _check_curvature(curvature: float) -> None:
    if not 0 < curvature <= 1:
        raise ValueError(f"a response curvature lies above 0 and at most at 1, not at {curvature}")
