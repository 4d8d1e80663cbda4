"""Convex weights with the least absolute error, by mirror descent on the simplex. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.forecasting.panel import Floats

STEPS = 120
FIRST_STEP = 2.0
"""Size of the first step, in units of relative loss; the k-th is this over sqrt(k)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Weights (c,) are sought for candidates `values` (m, c) of `truth` (m,), where hours count by `weight` (m,)."""

    values: Floats
    truth: Floats
    weight: Floats

    def loss(self, weights: Floats) -> float:
        """Weighted sum of absolute errors."""
        return float(np.abs(self.values @ weights - self.truth) @ self.weight)

    def descend(self, prior: Floats, pull: float) -> Floats:
        """The weights (c,) with the least loss + pull x KL(weights || prior); the loss is counted relative to prior's.

        The subgradient's steps wander about the optimum: it is their average, over the second half, that is given.
        """
        logs = prior_logs = np.log(np.maximum(prior, 1e-12))
        total = np.zeros_like(prior)
        unit = max(self.loss(prior), 1e-300)
        weight = self.weight / unit
        for step in range(STEPS):
            rate = FIRST_STEP / np.sqrt(1 + step)
            signs = np.sign(self.values @ _softmax(logs) - self.truth)
            logs = (logs - rate * ((signs * weight) @ self.values) + rate * pull * prior_logs) / (1 + rate * pull)
            if step >= STEPS // 2:
                total += _softmax(logs)
        return total / total.sum()


def problems_of(medians: Floats, truth: Floats, index: NDArray[np.intp], trust: Floats) -> dict[int, Problem]:
    """A problem a series, by `index` (n,), from medians (c, n, horizon), truth (n, horizon) and trust (n,).

    Hours are weighed so that every series' total size is one, whatever its unit: its loss is then its WAPE.
    """
    problems: dict[int, Problem] = {}
    for series in np.unique(index).tolist():
        rows = np.flatnonzero(index == series)
        usable = np.isfinite(truth[rows])
        y = truth[rows][usable]
        values = np.ascontiguousarray(medians[:, rows][:, usable].T)
        weight = np.broadcast_to(trust[rows, None], usable.shape)[usable]
        size = float(weight @ np.abs(y))
        # A series that is all zero has no size: what it is to be measured by is how far from zero it was forecast.
        scale = size if size > 0 else float(weight @ np.abs(values.mean(axis=1) - y))
        problems[series] = Problem(values, y, weight / (scale if scale > 0 else 1.0))
    return problems


def pooled(problems: Sequence[Problem]) -> Problem:
    """All series as one problem, each counting the same."""
    return Problem(
        np.concatenate([one.values for one in problems]),
        np.concatenate([one.truth for one in problems]),
        np.concatenate([one.weight for one in problems]) / len(problems),
    )


def _softmax(logs: Floats) -> Floats:
    scaled = np.exp(logs - logs.max())
    return scaled / scaled.sum()
