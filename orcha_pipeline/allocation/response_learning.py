"""What a node's own history tells of its response: by which power of its share its earnings grow. Pure.

Earnings are yield x share ** curvature, and the yield is nobody's to see. But from one step to the next it moves
little, while a change moves the share at once: what the earnings then do is the change's doing, but for the yield's
own step. Each change is thus a measurement of the curvature, as good as the yield is steady and the move is large; a
yield that jumps at the same moment is an outlier, and weighs next to nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRIOR_DEVIATION = 0.15
"""How far from the prior curvature a node may well lie."""
LEAST_CURVATURE = 0.3
STEADY = 1e-6
"""A share that moves by less than this part of itself has not been changed."""
LEAST_NOISE = 0.003
"""Of a step of the log yield: no earnings are read more exactly."""
FARTHEST_APART = 2
"""Steps between two that are compared: one in which the node was restarted may be left out."""
FREEDOM = 3.0
"""Of the Student's t that the yield's steps are taken to follow: with tails for jumps."""
ROUNDS = 12
_MAD = 1.4826
"""The deviation of a normal variable over its median absolute one."""


@dataclass(frozen=True, slots=True)
class LearntResponse:
    """A node's curvature and how sure it is (a standard deviation), from `changes` of its share.

    It has been seen at shares from `least` to `most`, which are None where it never earned at a known one: what it
    earns beyond them is extrapolated.
    """

    curvature: float
    deviation: float
    changes: int
    least: float | None = None
    most: float | None = None


def learn_response(rates: Floats, shares: Floats, *, prior: float) -> LearntResponse:
    """The curvature by steps at `shares` (n,) that earned `rates` (n,), USD an hour; NaN or 0 where unknown or away.

    `prior` is what it is taken for before there is a change. What a step earned counts for the whole of it: one in
    which the node was restarted is best left unknown.
    """
    usable = np.flatnonzero(np.isfinite(rates) & (rates > 0) & np.isfinite(shares) & (shares > 0))
    seen = (float(shares[usable].min()), float(shares[usable].max())) if usable.size else (None, None)
    apart = np.diff(usable)
    near = apart <= FARTHEST_APART
    # A yield that wanders has strayed by the root of the time.
    scale = np.sqrt(apart[near])
    earned, moved = (np.diff(np.log(each[usable]))[near] / scale for each in (rates, shares))
    steady = np.abs(moved) < STEADY
    if steady.all():
        return LearntResponse(prior, PRIOR_DEVIATION, 0, *seen)
    noise = max(LEAST_NOISE, _MAD * float(np.median(np.abs(earned[steady]))) if steady.any() else PRIOR_DEVIATION)
    earned, moved = earned[~steady], moved[~steady]
    curvature, certainty = prior, 1 / PRIOR_DEVIATION**2
    for _ in range(ROUNDS):
        weights = (FREEDOM + 1) / (FREEDOM + ((earned - curvature * moved) / noise) ** 2) / noise**2
        certainty = 1 / PRIOR_DEVIATION**2 + float((weights * moved**2).sum())
        curvature = (prior / PRIOR_DEVIATION**2 + float((weights * moved * earned).sum())) / certainty
    return LearntResponse(min(1.0, max(LEAST_CURVATURE, curvature)), certainty**-0.5, len(moved), *seen)
