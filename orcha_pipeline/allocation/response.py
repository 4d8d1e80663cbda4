"""How earnings answer to a node's share: earnings = yield x share ** curvature, and its straight pieces for an LP.

Pure arithmetic. The curvature is a prior (`planner.response_curvature`) until a node's own history teaches better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PIECES = 12
"""Straight pieces between share 0 and 1: at curvature 0.7 and more they lie less than 0.01 of a full share's
earnings below the curve near share 0, and less than 0.003 from share 0.05 on."""
_NO_WIDTH = 1e-12


@dataclass(frozen=True, slots=True)
class Piece:
    """One straight piece of a response: `width` of share from `start`, earning `slope` of the yield per share."""

    start: float
    width: float
    slope: float


def response(share: float, curvature: float) -> float:
    """Earnings at `share` as a fraction of those at full share. Raises `ValueError` for a negative or NaN share."""
    _check_curvature(curvature)
    if not (math.isfinite(share) and share >= 0):
        raise ValueError(f"a share is a finite number from 0, not {share}")
    return share**curvature


def marginal(share: float, curvature: float) -> float:
    """Slope of the response at `share`: what the next bit of share earns, as a fraction of the yield.

    Infinite at share 0 when the curvature is below 1: the first bit of a node is worth most.
    """
    _check_curvature(curvature)
    if not (math.isfinite(share) and share >= 0):
        raise ValueError(f"a share is a finite number from 0, not {share}")
    if curvature == 1:
        return 1.0
    return math.inf if share == 0 else curvature * share ** (curvature - 1)


def breakpoints(minimum: float, maximum: float, *, count: int = PIECES, through: Sequence[float] = ()) -> list[float]:
    """Ascending shares from `minimum` to `maximum` where the straight pieces meet.

    They lie at (k/count) ** 1.5, denser near 0 where the response bends most, and at each share of `through` (where
    the pieces are then exact). Always `count + 2 + len(through)` values, those outside the range moved to its ends,
    so that a parametrised problem keeps its shape.
    """
    if not (0 <= minimum <= maximum and math.isfinite(maximum)):
        raise ValueError(f"not a range of shares: {minimum} .. {maximum}")
    scale = max(1.0, maximum)
    grid = [scale * (k / count) ** 1.5 for k in range(count + 1)]
    return sorted(min(maximum, max(minimum, point)) for point in (*grid, maximum, *through))


def pieces(points: Sequence[float], curvature: float) -> list[Piece]:
    """The straight pieces between neighbouring `points`. Their slopes never rise, so a maximiser fills them in order.

    A piece of no width has slope 0.
    """
    values = [response(point, curvature) for point in points]
    return [
        Piece(start, stop - start, (after - before) / (stop - start) if stop - start > _NO_WIDTH else 0.0)
        for (start, stop), (before, after) in zip(pairwise(points), pairwise(values), strict=True)
    ]


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
