"""Hourly series as they commonly are, simulated: what a model may believe before it has seen any of its own. Pure.

Each is a positive series of a daily profile, a weekend that differs, a level that wanders over days or weeks, a
restlessness over hours and noise, all multiplied, with strengths and speeds drawn widely: no figure here is fitted to
a node, a token or a world of the testnet.
"""

from functools import lru_cache

import numpy as np

from orcha_pipeline.forecasting.panel import SEASON, WEEK, Floats, HourlySeries, on_a_weekend

COUNT = 150
HOURS = 8 * WEEK
SEED = 0
MONDAY = 4 * SEASON
"""An hour counted from 1970-01-01, a Thursday, at which a week begins."""


@lru_cache(maxsize=1)
def simulated_panel() -> tuple[HourlySeries, ...]:
    """COUNT series of HOURS hours, the same every time."""
    rng = np.random.default_rng(SEED)
    return tuple(HourlySeries(f"simulated-{i}", MONDAY, _values(rng)) for i in range(COUNT))


def _values(rng: np.random.Generator) -> Floats:
    hours = np.arange(HOURS)
    swing, second = rng.uniform(0.0, 0.8), rng.uniform(0.0, 0.5)
    day = swing * (_wave(hours, SEASON, rng.uniform()) + second * _wave(hours, SEASON / 2, rng.uniform()))
    weekend = rng.normal(0.0, 0.2) * on_a_weekend(MONDAY + hours)
    level = _returning(rng, hours=_between(rng, 24.0, 24.0 * 30), deviation=_between(rng, 0.05, 0.8))
    restless = _returning(rng, hours=_between(rng, 2.0, 24.0), deviation=_between(rng, 0.03, 0.4))
    noise = rng.normal(0.0, _between(rng, 0.01, 0.3), HOURS)
    return np.exp(day + weekend + level + restless + noise)


def _wave(hours: np.ndarray, period: float, phase: float) -> Floats:
    return np.cos(2 * np.pi * (hours / period - phase))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Drawn evenly in the log."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _returning(rng: np.random.Generator, *, hours: float, deviation: float) -> Floats:
    """An Ornstein-Uhlenbeck process: it returns to zero by 1/e in so many hours, and strays by `deviation`."""
    keep = np.exp(-1.0 / hours)
    pushes = rng.normal(0.0, deviation * np.sqrt(1.0 - keep**2), HOURS)
    values = np.empty(HOURS)
    value = rng.normal(0.0, deviation)
    for hour, push in enumerate(pushes):
        value = keep * value + push
        values[hour] = value
    return values
