"""Whether a series is lower than it should be for hours: its share of the expectation over three. Pure, causal."""

import numpy as np

from orcha_pipeline.anomalies.series_bands import ALERTING, Exceedance, beyond_all_before
from orcha_pipeline.anomalies.series_expectation import Floats, rolling_mean, sampling_step

HOURS = 3
BELOW = 0.7
"""Share of the expectation below which it is a drop: more than 30 % is missing."""
DEEPER = 0.15
"""How much deeper than ever (in logarithms, as a fraction) a drop must be: a bursty series falls that far by itself."""
LONGEST_SPAN = 720
"""Readings in the span at most; where they are closer than 15 s it is shorter than three hours."""
_LEAST_SHARE = 1e-3
_DAY_HOURS = 24


def falls(seconds: Floats, values: Floats, residual: Floats) -> Exceedance:
    """How deep below the expectation the last three hours are, by reading: values are shares of it, 1 as expected.

    `residual` (n,) is value less expectation. The share is the better one of two: of the expectation, and of the
    expectation times its own share in the day before, so that a weak day is no drop in each of its hours. A share is
    known where the expectation is above 0 and at least half of the readings are known.
    """
    step = sampling_step(seconds)
    expected = values - residual
    counted = np.where(np.isfinite(expected), values, np.nan)
    span = int(min(max(np.ceil(HOURS * 3600 / step), 1), LONGEST_SPAN)) if step > 0 else 1
    share = _share(counted, expected, span)
    before = np.full(len(values), np.nan)
    day = _share(counted, expected, min(span * _DAY_HOURS // HOURS, _DAY_HOURS * LONGEST_SPAN))
    before[span:] = day[:-span]
    best = np.fmax(share, share / before)
    depth = np.maximum(-np.log(best), 0.0)
    found = beyond_all_before(seconds, depth, ALERTING / DEEPER)
    below = best < BELOW
    return Exceedance(best, np.where(below, found.amount, 0.0), np.where(below, np.exp(-found.bound), np.nan))


def _share(values: Floats, expected: Floats, span: int) -> Floats:
    got, due = rolling_mean(values, span), rolling_mean(expected, span)
    out = np.full(len(values), np.nan)
    np.divide(np.maximum(got, 0.0), due, out=out, where=np.isfinite(due) & (due > 0))
    return np.maximum(out, _LEAST_SHARE)
