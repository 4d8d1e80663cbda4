"""What a reading of a series is held against: the same time of past days, and readings just before it. Pure, causal."""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY = 86_400.0
DAYS = 7
"""Past days, of those that have readings, whose same time makes the expectation."""
FIRST_GAPS = 24
"""Gaps at a series' beginning that tell its sampling step."""
MOST_SLOTS = 288
"""Times of a day told apart: readings that are closer share one."""

_FEWEST = 3
_NEAR = np.array([-1, 0, 1])


def sampling_step(seconds: Floats) -> float:
    """The usual gap between readings in seconds, NaN without any: from the first, so that later ones change nothing."""
    gaps = np.diff(seconds[: 2 * FIRST_GAPS])
    gaps = gaps[gaps > 0][:FIRST_GAPS]
    return float(np.median(gaps)) if gaps.size else float("nan")


def rolling_mean(values: Floats, over: int, *, known_share: float = 0.5) -> Floats:
    """The mean of the last `over` readings (n,), NaN where less than this share of them is known or there are fewer."""
    out = np.full(len(values), np.nan)
    if len(values) < over:
        return out
    known = np.isfinite(values)
    # Windows are added up one by one: differences of a running sum would keep the rounding of one huge value for ever.
    total = sliding_window_view(np.where(known, values, 0.0), over).sum(axis=-1)
    count = sliding_window_view(known, over).sum(axis=-1)
    np.divide(total, count, out=out[over - 1 :], where=count >= known_share * over)
    return out


class Seasonal(NamedTuple):
    """By reading, (n,) each, NaN where nothing is expected: what is, and by how much the value is beyond it."""

    expected: Floats
    residual: Floats


def seasonal(seconds: Floats, values: Floats) -> Seasonal:
    """What is expected of each reading's time of day, and its distance from that.

    Expected is the median of the same time, a slot before and a slot after, of the `DAYS` days before. Where the same
    time a week ago came nearer, the distance is from there: a weekend is held against the last one. Of readings half a
    day apart or more, and of those without two days before them, nothing is expected.
    """
    step = sampling_step(seconds)
    if not step < DAY / 2:
        return Seasonal(np.full(len(values), np.nan), np.full(len(values), np.nan))
    slots = min(round(DAY / step), MOST_SLOTS)
    days = np.floor(seconds / DAY)
    slot = np.minimum(((seconds - days * DAY) / DAY * slots + 1e-6).astype(np.int64), slots - 1)
    recorded, day = np.unique(days, return_inverse=True)
    grid = np.full((len(recorded), slots), np.nan)
    known = np.isfinite(values)
    grid[day[known], slot[known]] = values[known]  # of readings that share a slot the last one stands
    near = (slot[:, None] + _NEAR) % slots
    expected = _median_of_days(grid, day, near)
    week_ago = np.searchsorted(recorded, recorded - DAYS)
    found = (recorded[week_ago] == recorded - DAYS)[day]
    week = np.where(found[:, None], grid[week_ago[day][:, None], near], np.nan)
    return Seasonal(expected, _nearer(values - expected, values[:, None] - week))


def _median_of_days(grid: Floats, day: NDArray[np.int64], near: NDArray[np.int64]) -> Floats:
    before = day[:, None] - np.arange(1, DAYS + 1)
    past = grid[np.maximum(before, 0)[:, :, None], near[:, None, :]]
    past[before < 0] = np.nan
    past = np.sort(past.reshape(len(day), -1), axis=1)
    count = np.isfinite(past).sum(axis=1)
    row, last = np.arange(len(day)), np.maximum(count - 1, 0)
    median = (past[row, last // 2] + past[row, count // 2]) / 2
    return np.where((count >= _FEWEST) & (day >= 2), median, np.nan)


def _nearer(away: Floats, week: Floats) -> Floats:
    """The distance from the expectation or from the span of last week's values, whichever is shorter."""
    some = np.isfinite(week).any(axis=1) & np.isfinite(away)
    least, most = np.fmin.reduce(week, axis=1), np.fmax.reduce(week, axis=1)
    span = np.where(least > 0, least, np.where(most < 0, most, 0.0))
    within = np.where(np.sign(span) == np.sign(away), span, 0.0)
    return np.where(some & (np.abs(within) < np.abs(away)), within, away)
