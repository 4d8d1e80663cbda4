"""Faults put into real series, each in a copy of its own, and how many of them are found: recall, precision, readings.

The series are M4's hourly ones and stretches of as many hours of each token's turnover. A fault begins at a random hour
of a copy's second half. It is found where an alert of its own kind comes between its first reading and the second after
its end. Alerts of a kind less than a day apart are one finding; what is outside is false, whatever the series did there
by itself: precision is told among findings of the fault's own kind, and among those of all kinds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orcha_pipeline_tests.bench.tables import m4, turnover

HOURS = 960
HOUR = 3_600.0
LATE = 2
"""Readings after a fault's end within which it may still be found."""
ONE_FINDING = 24

Floats = NDArray[np.float64]


class Fault(StrEnum):
    """What is put in."""

    DROP = "drop"
    FLATLINE = "flatline"
    SPIKE = "spike"
    OUTAGE = "outage"


@dataclass(frozen=True, slots=True)
class Hourly:
    """A series (n,), NaN where unknown, at seconds (n,)."""

    source: str
    name: str
    seconds: Floats
    values: Floats


@dataclass(frozen=True, slots=True)
class Faulty:
    """A copy with one fault: from `first` to `last`, in seconds; `size` is what `FAULTS` says of it."""

    fault: Fault
    series: Hourly
    first: float
    last: float
    size: float


def m4_series() -> list[Hourly]:
    """M4's hourly series."""
    known = m4("train").dropna()
    return [
        Hourly("M4", str(name), own["ds"].to_numpy(dtype=np.float64) * HOUR, own["y"].to_numpy(dtype=np.float64))
        for name, own in known.groupby("unique_id", sort=False)
    ]


def turnover_series() -> list[Hourly]:
    """Each token's turnover, in stretches of `HOURS`."""
    found: list[Hourly] = []
    for name, own in turnover().groupby("unique_id"):
        seconds = np.array((own["ds"] - pd.Timestamp(0)).dt.total_seconds(), dtype=np.float64)
        values = own["y"].to_numpy(dtype=np.float64)
        for start in range(0, len(values) - HOURS + 1, HOURS):
            cut = slice(start, start + HOURS)
            found.append(Hourly("turnover", f"{name}-{start}", seconds[cut], values[cut]))
    return found


def with_fault(series: Hourly, fault: Fault, rng: np.random.Generator) -> Faulty:
    """A copy of the series with a fault of a random place, length and size."""
    count = len(series.seconds)
    length = 1 if fault is Fault.SPIKE else int(rng.integers(LENGTHS[fault][0], LENGTHS[fault][1] + 1))
    start = int(rng.integers(count // 2, count - length - LATE - 1))
    return FAULTS[fault](series, start, length, rng)


LENGTHS = {Fault.DROP: (3, 12), Fault.FLATLINE: (6, 24), Fault.OUTAGE: (2, 24)}
"""Hours of a fault, least and most."""


def _drop(series: Hourly, start: int, length: int, rng: np.random.Generator) -> Faulty:
    missing = float(rng.uniform(0.3, 1.0))
    values = np.array(series.values)
    values[start : start + length] *= 1.0 - missing
    return _faulty(Fault.DROP, replace(series, values=values), start, length, missing)


def _flatline(series: Hourly, start: int, length: int, _rng: np.random.Generator) -> Faulty:
    values = np.array(series.values)
    values[start : start + length] = values[start - 1]
    return _faulty(Fault.FLATLINE, replace(series, values=values), start, length, length)


def _spike(series: Hourly, start: int, length: int, rng: np.random.Generator) -> Faulty:
    times = float(rng.uniform(0.5, 3.0))
    values = np.array(series.values)
    span = float(np.nanmax(values[:start]) - np.nanmin(values[:start]))
    values[start] = values[start] + times * span
    return _faulty(Fault.SPIKE, replace(series, values=values), start, length, times)


def _outage(series: Hourly, start: int, length: int, rng: np.random.Generator) -> Faulty:
    """Rows that are not there, an unknown value in them, or zero."""
    way = int(rng.integers(3))
    seconds, values = series.seconds, np.array(series.values)
    gone = np.zeros(len(values), dtype=np.bool_)
    gone[start : start + length] = True
    first, last = float(seconds[start]), float(seconds[start + length - 1])
    if way == 0:
        seconds, values = seconds[~gone], values[~gone]
    else:
        values[gone] = np.nan if way == 1 else 0.0
    return Faulty(Fault.OUTAGE, replace(series, seconds=seconds, values=values), first, last, way)


def _faulty(fault: Fault, series: Hourly, start: int, length: int, size: float) -> Faulty:
    return Faulty(fault, series, float(series.seconds[start]), float(series.seconds[start + length - 1]), size)


FAULTS: dict[Fault, Callable[[Hourly, int, int, np.random.Generator], Faulty]] = {
    Fault.DROP: _drop,
    Fault.FLATLINE: _flatline,
    Fault.SPIKE: _spike,
    Fault.OUTAGE: _outage,
}
"""`size`: the part that is missing (drop), hours (flatline), ranges of the past (spike), how it shows (outage)."""


def shallowest_of_its_own(series: Hourly, before: float) -> float:
    """The least share of the usual that any 3 hours came to before a time; usual is the median hour of 7 days before.

    A drop to more than that is nothing new in the series: no judge of its past alone can tell it from an ordinary one.
    """
    values = pd.Series(np.array(series.values)[series.seconds < before])
    usual = pd.concat([values.shift(24 * day) for day in range(1, 8)], axis=1).median(axis=1, skipna=False)
    share = values.rolling(3).sum() / usual.rolling(3).sum()
    return float(share.where(usual.rolling(3).sum() > 0).min())


@dataclass(frozen=True, slots=True)
class Caught:
    """One copy: readings from the fault's beginning until it was found, None where it was not; false findings."""

    faulty: Faulty
    readings: int | None
    false_own: int
    false_any: int


def caught(faulty: Faulty, kinds: Sequence[str]) -> Caught:
    """Hold the kinds told of a copy's readings, empty where nothing is, against its fault."""
    at = faulty.series.seconds
    within = (at >= faulty.first) & (at <= faulty.last + LATE * HOUR)
    own = np.array([kind == faulty.fault for kind in kinds])
    anything = np.array([bool(kind) for kind in kinds])
    hits = np.flatnonzero(within & own)
    return Caught(
        faulty,
        _readings(faulty, int(hits[0])) if hits.size else None,
        findings(own & ~within),
        findings(anything & ~within),
    )


def _readings(faulty: Faulty, row: int) -> int:
    """Readings from the fault's first on; rows that are not there cannot be told of before the next one comes."""
    at = faulty.series.seconds
    return int(((at >= faulty.first) & (at <= at[row])).sum())


def findings(alerts: NDArray[np.bool_]) -> int:
    """Alerts, those within a day of the last one taken as one."""
    rows = np.flatnonzero(alerts)
    return int(rows.size and 1 + (np.diff(rows) > ONE_FINDING).sum())


@dataclass(frozen=True, slots=True)
class Summary:
    """All copies of one source and kind of fault."""

    source: str
    fault: str
    copies: int
    recall: float
    precision: float
    precision_of_all: float
    readings_median: float
    readings_most: int


def summary(source: str, fault: str, copies: Iterable[Caught]) -> Summary:
    """Recall, precision among findings of the fault's kind and among all of them, and readings until it was found."""
    every = list(copies)
    found = [one.readings for one in every if one.readings is not None]
    own, anything = sum(one.false_own for one in every), sum(one.false_any for one in every)
    return Summary(
        source,
        fault,
        len(every),
        len(found) / len(every),
        len(found) / max(len(found) + own, 1),
        len(found) / max(len(found) + anything, 1),
        float(np.median(found)) if found else float("nan"),
        max(found, default=0),
    )


def faulty_copies(series: Iterable[Hourly], seed: int) -> Iterator[Faulty]:
    """One copy of every series for each kind of fault."""
    rng = np.random.default_rng(seed)
    for one in series:
        for fault in Fault:
            yield with_fault(one, fault, rng)
