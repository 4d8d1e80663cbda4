"""What a series must not do for long: tell nothing, tell zero where it never does, or repeat itself. Pure, causal.

A run is judged by its length against those before it, and alerts once. What was alerted is no measure for the next one,
unless such runs keep coming: the `HABIT`-th is the series' habit.
"""

from dataclasses import dataclass, field
from math import log

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.anomalies.series_expectation import DAY, Floats, sampling_step

Bools = NDArray[np.bool_]

OUTAGE_AFTER = 2
"""Readings missing in a row that are an outage, where that is not usual."""
FLAT_AFTER = 3
"""Repetitions in a row that are a flatline, where none are usual."""
LONGER = 1.5
"""How many times the longest run before it a run must be."""
HABIT = 3
"""Earlier runs of its kind that make one usual."""
FROM_ROW = 48
"""Rows before missing ones are judged: enough to know the sampling step and how often readings are missing."""
FLAT_FROM = 200
"""Known readings before repetitions are judged."""
FLAT_DAYS = 2
"""Days before repetitions are judged: a night may be flat."""
SAME = 1e-4
"""Of the range of the first readings: values closer than that are the same."""
CHANCE = 0.01
"""How probable a run so long may be in a series whose readings fail or repeat by chance as often as they did."""
_SURE = 0.999


@dataclass(frozen=True, slots=True)
class Runs:
    """By reading (n,): `strength`, from 1 on an alert, 0 without a run or once it has; its length so far; if in one."""

    strength: Floats
    length: Floats
    within: Bools


@dataclass(slots=True)
class _Usual:
    """The readings and the runs so far, without those alerted of unless they are a habit."""

    readings: int = 0
    runs: int = 0
    within: float = 0.0
    longest: float = 0.0
    alerted: list[float] = field(default_factory=list[float])

    def limit(self, least: float) -> float:
        """The length that alerts: longer than ever, and than chance makes of how often a run begins and goes on."""
        begins = self.within / max(self.readings, 1)
        goes_on = (self.within - self.runs) / self.within if self.runs >= HABIT else 0.0
        share = min(max(begins, goes_on), _SURE)
        by_chance = log(self.readings / CHANCE) / -log(share) if share > 0 else 0.0
        return max(least, LONGER * self.longest, by_chance)

    def over(self, length: float, *, alerted: bool) -> None:
        """Learn a run."""
        if not alerted:
            self._learn(length)
            return
        self.alerted.append(length)
        if len(self.alerted) >= HABIT:
            self._learn(sorted(self.alerted)[-HABIT])

    def _learn(self, length: float) -> None:
        self.runs += 1
        self.within += length
        self.longest = max(self.longest, length)


def outages(seconds: Floats, values: Floats) -> Runs:
    """How many readings in a row were missing up to each: NaN, rows that are not there, zero where zero never was.

    `length` counts missing readings; where rows are absent the first reading after them tells it.
    """
    strength, length = np.zeros(len(values)), np.zeros(len(values))
    step = sampling_step(seconds)
    gaps = np.diff(seconds, prepend=seconds[:1]) / step if step > 0 else np.zeros(len(values))
    absent = np.maximum(np.floor(gaps + 0.5) - 1.0, 0.0)
    silent = _silent(seconds, values)
    usual, run, told = _Usual(), 0.0, False
    for i, (before, missing) in enumerate(zip(absent.tolist(), silent.tolist(), strict=True)):
        usual.readings = i + 1
        if before > 0 or missing:
            run += before + missing
            length[i] = run
            if i >= FROM_ROW and not told:
                strength[i] = (run / usual.limit(OUTAGE_AFTER)) ** 2
                told = strength[i] >= 1.0
        if not missing and run > 0:
            usual.over(run, alerted=told)
            run, told = 0.0, False
    return Runs(strength, length, silent)


def flatlines(seconds: Floats, values: Floats) -> Runs:
    """How often in a row the value had repeated itself up to each reading; unknown readings are passed over."""
    strength, length = np.zeros(len(values)), np.zeros(len(values))
    known = np.flatnonzero(np.isfinite(values))
    if len(known) <= FLAT_FROM:
        return Runs(strength, length, length > 0)
    readings = values[known]
    first = readings[:FLAT_FROM]
    same = np.abs(np.diff(readings, prepend=np.nan)) <= SAME * float(first.max() - first.min())
    from_second = max(float(seconds[known[FLAT_FROM]]), float(seconds[0]) + FLAT_DAYS * DAY)
    usual, run, judged, told = _Usual(), 0.0, False, False
    for i, second, repeats in zip(known.tolist(), seconds[known].tolist(), same.tolist(), strict=True):
        usual.readings += 1
        if not repeats:
            if run > 0:
                usual.over(run, alerted=told)
            run, judged, told = 0.0, second >= from_second, False  # a run that began before that is learnt from
            continue
        run += 1.0
        length[i] = run
        if judged and not told:
            strength[i] = (run / usual.limit(FLAT_AFTER)) ** 2
            told = strength[i] >= 1.0
    return Runs(strength, length, length > 0)


def _silent(seconds: Floats, values: Floats) -> Bools:
    """Unknown, or zero in a series that is not: none in its first readings, and fewer than `HABIT` runs since."""
    unknown, zero = ~np.isfinite(values), values == 0.0
    begins = zero & ~np.concatenate([[False], zero[:-1]])
    earlier = np.cumsum(begins) - begins
    early = (np.arange(len(values)) < FROM_ROW) | (seconds < seconds[:1] + DAY)
    never = not bool(zero[early].any())
    return unknown | (zero & never & (earlier < HABIT) & ~early)
