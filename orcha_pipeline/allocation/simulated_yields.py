"""Yields by quarter-hours as they commonly are, simulated: what may be believed of a node that is new. Pure.

Each is a daily profile, a weekend that differs, a level that wanders over days or weeks, a restlessness over hours,
some noise, and for most of them shocks that come and go at once, some of which leave a dearth behind: all multiplied,
with strengths and speeds drawn widely. No figure here is fitted to a node, a token or a world.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COUNT = 160
DAYS = 42
STEPS_A_DAY = 96
SEED = 0
SHOCKED = 0.6
"""The part of the series that have shocks."""
NOISY = 0.5
"""The part of the series that have noise from step to step."""
LONGEST = 4.0
"""A shock lasts at most so many times its series' usual one."""


@lru_cache(maxsize=1)
def simulated_yields() -> Floats:
    """(DAYS x STEPS_A_DAY, COUNT) yields about 1, from a Monday on, the same every time."""
    rng = np.random.default_rng(SEED)
    steps = DAYS * STEPS_A_DAY
    hours = np.arange(steps)[:, None] / 4
    swing, second = rng.uniform(0.0, 0.8, COUNT), rng.uniform(0.0, 0.5, COUNT)
    phases = rng.uniform(size=(2, COUNT))
    day = swing * (np.cos(2 * np.pi * (hours / 24 - phases[0])) + second * np.cos(2 * np.pi * (hours / 12 - phases[1])))
    weekend = rng.normal(0.0, 0.2, COUNT) * (hours // 24 % 7 >= 5)
    level = _returning(rng, steps, hours=_between(rng, 24.0, 24.0 * 30), deviation=_between(rng, 0.05, 0.8))
    restless = _returning(rng, steps, hours=_between(rng, 2.0, 24.0), deviation=_between(rng, 0.03, 0.6))
    noisy = (rng.uniform(size=COUNT) < NOISY) * _between(rng, 0.003, 0.15)
    noise = rng.normal(0.0, 1.0, (steps, COUNT)) * noisy
    return np.exp(day + weekend + level + restless + noise + _shocks(rng, steps))


def _between(rng: np.random.Generator, low: float, high: float) -> Floats:
    """(COUNT,) Drawn evenly in the log."""
    return np.exp(rng.uniform(np.log(low), np.log(high), COUNT))


def _returning(rng: np.random.Generator, steps: int, *, hours: Floats, deviation: Floats) -> Floats:
    """(steps, COUNT) Ornstein-Uhlenbeck: back to zero by 1/e in so many hours, straying by `deviation`."""
    keep = np.exp(-0.25 / hours)
    pushes = rng.normal(0.0, 1.0, (steps, COUNT)) * deviation * np.sqrt(1.0 - keep**2)
    values = np.empty((steps, COUNT))
    value = rng.normal(0.0, 1.0, COUNT) * deviation
    for step, push in enumerate(pushes):
        value = keep * value + push
        values[step] = value
    return values


def _shocks(rng: np.random.Generator, steps: int) -> Floats:
    """(steps, COUNT) Log yields of shocks: two in three raise the yield, all of them where a dearth follows."""
    found = np.zeros((steps, COUNT))
    a_day, hours, size, dearth = (_between(rng, *ends) for ends in ((0.2, 3.0), (0.5, 4.0), (0.3, 1.4), (0.1, 0.5)))
    dearth *= rng.uniform(size=COUNT) < 1 / 3
    for series in np.flatnonzero(rng.uniform(size=COUNT) < SHOCKED).tolist():
        step = 0
        while True:
            step += 1 + int(rng.exponential(STEPS_A_DAY / a_day[series]))
            if step >= steps:
                break
            length = 1 + int(min(LONGEST, rng.exponential()) * hours[series] * 4)
            height = size[series] * (0.6 + 0.8 * rng.uniform())
            height *= 1.0 if dearth[series] or rng.uniform() < 2 / 3 else -1.0
            found[step : step + length, series] = height
            step += length
            if dearth[series]:
                found[step : step + 2 * length, series] = -dearth[series] * height
                step += 2 * length
    return found
