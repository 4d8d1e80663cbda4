"""Where something is heading: a robust slope, and how long until it is reached. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

DAY = timedelta(days=1)
SPANS = (DAY, 7 * DAY)
"""A fall of today shows in the first, a slow one only in the second."""
LEAST_COVERED = 0.5
"""Part of a span that what is known must reach across."""
MIN_SAMPLES = 6
MOST_SAMPLES = 200
"""Of more, every second, third … is looked at: pairs grow with the square."""

Samples = Sequence[tuple[datetime, float]]
"""Known values by time, the latest last."""


@dataclass(frozen=True, slots=True)
class Heading:
    """`value` now, its slope a day, and the days until it is where it must not be."""

    value: float
    slope: float
    days: float


def slope_a_day(samples: Samples) -> float | None:
    """Theil and Sen's: the median slope of all pairs, which a few wrong values do not move. None of too few samples."""
    if len(samples) < MIN_SAMPLES:
        return None
    chosen = samples[:: -(-len(samples) // MOST_SAMPLES)]
    times = np.array([(moment - chosen[0][0]) / DAY for moment, _ in chosen])
    values = np.array([value for _, value in chosen])
    first, second = np.triu_indices(len(chosen), 1)
    apart = times[second] - times[first]
    known = apart > 0
    if not known.any():
        return None
    return float(np.median((values[second] - values[first])[known] / apart[known]))


def heading(samples: Samples, limit: float, *, falling: bool) -> Heading | None:
    """How soon the last value reaches `limit`, by the course of the last day or of the last week: the sooner.

    None where it does not move towards it, or too little is known. A limit that is passed is reached in 0 days.
    """
    if not samples:
        return None
    now, value = samples[-1]
    left = value - limit if falling else limit - value
    found: list[Heading] = []
    for span in SPANS:
        inside = [sample for sample in samples if sample[0] > now - span]
        slope = slope_a_day(inside) if now - inside[0][0] >= LEAST_COVERED * span else None
        if slope is not None and (slope < 0 if falling else slope > 0):
            found.append(Heading(value, slope, max(0.0, left / abs(slope))))
    return min(found, key=lambda each: each.days, default=None)


def in_days(days: float) -> str:
    """A stretch of days in words."""
    return f"{24 * days:.0f} hours" if days < 2 else f"{days:.0f} days"
