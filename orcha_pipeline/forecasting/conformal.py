"""Conformal bands: raw half widths stretched until as much of what came true lies within as should. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.forecasting.panel import Floats

GROUP_ENDS = (6, 12, 24, 48, 96)
"""Where groups of hours ahead end; whatever lies beyond is one more group."""
TAIL = 0.1
"""What should lie below p10, and above p90."""
FLAT = 1e-3
"""Least half width of a raw band, as a share of the forecast's mean size: what cannot be stretched is given this."""
MAX_STRETCH = 50.0

Margins = tuple[tuple[float, float], ...]
"""(below, above) for each group of hours ahead: factors on the half widths of a raw band."""


def margins_of(
    raw: Floats, truth: Floats, index: NDArray[np.int64], trust: Floats, *, shared_windows: float, apart: float = 1.0
) -> tuple[Margins, list[Margins]]:
    """Factors (below, above) by group of hours: for a series never seen, and for each series.

    `apart` is the part of the windows that do not overlap: only so many are observations of their own.
    """
    low, high = _half_widths(raw)
    scores = ((raw[..., 1] - truth) / low, (truth - raw[..., 1]) / high)
    hours = group_of_hours(truth.shape[1], len(GROUP_ENDS) + 1)
    names = int(index.max()) + 1
    default = np.empty((hours[-1] + 1, 2))
    own = np.empty((names, hours[-1] + 1, 2))
    for group in range(hours[-1] + 1):
        for side, score in enumerate(scores):
            here = score[:, hours == group]
            default[group, side], own[:, group, side] = _tails(
                here, index, trust, names=names, shared_windows=shared_windows, apart=apart
            )
    return pairs(default.tolist()), [pairs(rows.tolist()) for rows in own]


def _tails(
    scores: Floats, index: NDArray[np.int64], trust: Floats, *, names: int, shared_windows: float, apart: float
) -> tuple[float, Floats]:
    """The scores' upper tail: of all series, and of each with `shared_windows` windows' worth of all the others."""
    known = np.isfinite(scores)
    flat = scores[known]
    weight = np.repeat(trust, scores.shape[1]).reshape(scores.shape)[known]
    rows = np.repeat(index, scores.shape[1]).reshape(scores.shape)[known]
    if not flat.size:
        return 1.0, np.ones(names)
    order = np.argsort(flat)
    flat, weight, rows = flat[order], weight[order], rows[order]
    # Hours of one window err together: it is windows that count as observations in the finite-sample correction.
    share = min(1.0, (1 - TAIL) * (1 + 1 / (apart * float(trust.sum()))))
    everyone = weight / weight.sum()
    own = np.empty(names)
    for name in range(names):
        mine = np.where(rows == name, weight, 0.0)
        own[name] = _quantile(flat, mine + shared_windows * scores.shape[1] * everyone, share)
    return _quantile(flat, everyone, share), own


def _quantile(ordered: Floats, weight: Floats, share: float) -> float:
    """The smallest score with at least that share of the weight at or below it, within 0 and MAX_STRETCH."""
    total = np.cumsum(weight)
    at = min(int(np.searchsorted(total, share * total[-1])), len(ordered) - 1)
    return float(np.clip(ordered[at], 0.0, MAX_STRETCH))


def _half_widths(raw: Floats) -> tuple[Floats, Floats]:
    """p50 - p10 and p90 - p50 of (n, horizon, 3), each positive: (n, horizon)."""
    size = np.abs(raw[..., 1]).mean(axis=1, keepdims=True)
    floor = np.maximum(FLAT * size, 1e-12)
    return np.maximum(raw[..., 1] - raw[..., 0], floor), np.maximum(raw[..., 2] - raw[..., 1], floor)


def stretched(raw: Floats, margins: Floats) -> Floats:
    """The band (n, horizon, 3) stretched about its p50 by margins (n, horizon, 2)."""
    low, high = _half_widths(raw)
    middle = raw[..., 1]
    return np.stack([middle - margins[..., 0] * low, middle, middle + margins[..., 1] * high], axis=-1)


def group_of_hours(horizon: int, most: int) -> NDArray[np.int64]:
    """The group of each hour ahead, (horizon,), at most `most` of them."""
    return np.minimum(np.searchsorted(GROUP_ENDS, np.arange(horizon), side="right"), most - 1)


def pairs(rows: Sequence[Sequence[float]]) -> Margins:
    """Margins from rows of two numbers."""
    return tuple((float(low), float(high)) for low, high in rows)
