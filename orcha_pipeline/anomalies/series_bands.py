"""Never seen before: how far each reading lies beyond everything that came before it. Pure, causal.

Four quantities of a series are watched: the value, its rolling mean, its distance from what the same time of past days
makes one expect, and that distance's rolling mean. Each has a highest and a lowest bound, those of all readings so far,
and a reading exceeds them by a fraction of the range between them. What is derived counts less: a mean of readings has
fewer independent values behind its bounds, and a distance carries the error of the expectation as well. A reading that
an ordinary step led to counts less too: a daily high that is a little higher comes in small steps, a fault in a leap.

What exceeds by `ALERTING` or more is a bound for `FORGOTTEN_AFTER`, so that only something stronger exceeds meanwhile.
Then it is forgotten, unless it kept coming: `USUAL_AFTER` such readings within that time are a new normal.

The first readings are learnt alike: what lies far apart from the others is a bound for as long, and no longer. Where
hours are judged anew in a window that moves on, the fault of three weeks ago stands among the first ones some day.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from orcha_pipeline.anomalies.series_expectation import Floats, rolling_mean, seasonal

WARM_UP = 200
"""Known readings of a quantity before it is judged."""
OUTERMOST = 10
"""Of those, so many of the highest and of the lowest are no bounds by themselves: they are learnt one by one."""
APART = 1.0
"""How far beyond the bounds, a fraction of their range, one of them is no lasting bound."""
MEAN_OVER = 12
"""Readings in a rolling mean."""
MEAN_KNOWN = 0.8
"""Share of them that must be known: the mean of an evening alone is no mean of half a day."""
DERIVED = 0.5
"""Weight of a quantity for each step by which it is derived from the value."""
ORDINARY_STEPS = 0.99
"""Share of the steps between readings that are ordinary."""
LEAST_SURPRISE = 0.5
"""Weight of a reading that came without a step; one of the largest ordinary size has the weight 1."""
STEPS_ANEW = 50
"""Readings after which the size of ordinary steps is looked up anew."""
ALERTING = 0.057
"""Weighted exceedance, a fraction of the range, that is worth an alert: chosen on labelled series."""
FORGOTTEN_AFTER = 7 * 86_400.0
"""Seconds for which the bound that an alert leaves holds."""
USUAL_AFTER = 24
"""Readings beyond the lasting bounds, within `FORGOTTEN_AFTER`, that make a new normal."""

_SMALLEST_RANGE = 1e-6
"""Of the bound's own size: a range below it is rounding."""
_TINY = 1e-9


class Exceedance(NamedTuple):
    """Of one quantity, each (n,): its values, by how much they exceed (weighted, 0 where not), the bound exceeded."""

    values: Floats
    amount: Floats
    bound: Floats


@dataclass(frozen=True, slots=True)
class Bands:
    """All quantities of one series, and (n,) each: what is expected and the distance from it, and `suddenness`."""

    value: Exceedance
    mean: Exceedance
    seasonal: Exceedance
    seasonal_mean: Exceedance
    expected: Floats
    residual: Floats
    steps: Floats

    def each(self) -> tuple[Exceedance, ...]:
        """The value first, then what is derived from it."""
        return self.value, self.mean, self.seasonal, self.seasonal_mean


def bands(seconds: Floats, values: Floats) -> Bands:
    """Judge readings `values` (n,) at `seconds` (n,), ascending; NaN is unknown and is passed over.

    What is told of reading i depends on readings up to i alone.
    """
    expected, residual = seasonal(seconds, values)
    steps = suddenness(values)
    surprise = np.clip(steps, LEAST_SURPRISE, 1.0)
    return Bands(
        value=beyond_all_before(seconds, values, surprise),
        mean=beyond_all_before(seconds, _mean(values), DERIVED),
        seasonal=beyond_all_before(seconds, residual, DERIVED * surprise),
        seasonal_mean=beyond_all_before(seconds, _mean(residual), DERIVED**2),
        expected=expected,
        residual=residual,
        steps=steps,
    )


def _mean(values: Floats) -> Floats:
    return rolling_mean(values, MEAN_OVER, known_share=MEAN_KNOWN)


def suddenness(values: Floats) -> Floats:
    """Each step from the known value before (n,), in sizes that `ORDINARY_STEPS` of the steps before stayed below.

    Those sizes are looked up anew every `STEPS_ANEW` readings. Without steps to compare with it is 0.
    """
    out = np.zeros(len(values))
    known = np.flatnonzero(np.isfinite(values))
    steps = np.abs(np.diff(values[known]))
    for first in range(STEPS_ANEW, len(steps), STEPS_ANEW):
        usual = float(np.quantile(steps[:first], ORDINARY_STEPS))
        these = slice(first, first + STEPS_ANEW)
        out[known[1:][these]] = steps[these] / max(usual, _TINY)
    return out


def beyond_all_before(seconds: Floats, values: Floats, weight: Floats | float) -> Exceedance:
    """How far each known value lies beyond the bounds of those before it, as a fraction of their range, by `weight`."""
    amount, bound = np.zeros(len(values)), np.full(len(values), np.nan)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) > WARM_UP:
        limits = _first_limits(seconds[known[:WARM_UP]], values[known[:WARM_UP]])
        rest = known[WARM_UP:]
        weights = np.broadcast_to(weight, len(values))
        for i, second, value in zip(rest.tolist(), seconds[rest].tolist(), values[rest].tolist(), strict=True):
            if limits.low <= value <= limits.high:
                continue
            amount[i], bound[i] = limits.pass_by(second, value, float(weights[i]))
    return Exceedance(values, amount, bound)


class _Limits:
    """Lasting bounds `low` and `high`, and the wider ones that hold while alerts are remembered."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self._wide_low, self._wide_high = low, high
        self._strange: deque[tuple[float, float]] = deque()

    def pass_by(self, second: float, value: float, weight: float) -> tuple[float, float]:
        """Judge a value beyond the lasting bounds, then learn it: weighted exceedance and bound, 0 and NaN for none."""
        self._forget(second)
        amount, bound = 0.0, float("nan")
        if value > self._wide_high:
            amount, bound = (value - self._wide_high) / self._range(), self._wide_high
        elif value < self._wide_low:
            amount, bound = (self._wide_low - value) / self._range(), self._wide_low
        self._learn(second, value, weight)
        return amount * weight, bound

    def _range(self) -> float:
        return _range(self._wide_low, self._wide_high)

    def _learn(self, second: float, value: float, weight: float) -> None:
        beyond = max(value - self.high, self.low - value) / _range(self.low, self.high)
        self._wide_low, self._wide_high = min(self._wide_low, value), max(self._wide_high, value)
        if beyond * weight < ALERTING:
            self.low, self.high = min(self.low, value), max(self.high, value)
            return
        self._strange.append((second, value))
        if len(self._strange) >= USUAL_AFTER:
            self.low, self.high = self._wide_low, self._wide_high
            self._strange.clear()

    def _forget(self, second: float) -> None:
        if not self._strange or second - self._strange[0][0] <= FORGOTTEN_AFTER:
            return
        while self._strange and second - self._strange[0][0] > FORGOTTEN_AFTER:
            self._strange.popleft()
        left = [value for _, value in self._strange]
        self._wide_low, self._wide_high = min([self.low, *left]), max([self.high, *left])


def _first_limits(seconds: Floats, values: Floats) -> _Limits:
    """The bounds that the first readings leave."""
    ordered = np.sort(values)
    limits = _Limits(float(ordered[OUTERMOST]), float(ordered[-1 - OUTERMOST]))
    for second, value in zip(seconds.tolist(), values.tolist(), strict=True):
        if not limits.low <= value <= limits.high:
            limits.pass_by(second, value, ALERTING / APART)
    return limits


def _range(low: float, high: float) -> float:
    return max(high - low, _TINY + _SMALLEST_RANGE * max(abs(low), abs(high)))
