"""The Numenta Anomaly Benchmark's rules (standard profile), and two detectors of its own to check them with.

An alert in a labelled window earns 1 at its left edge and less towards its right (a sigmoid); only the best alert of
a window counts. A window without an alert costs 1. An alert outside costs up to 0.11, less just behind a window. The
first 15 % of a file, 750 rows at most, are not judged. 0 is what a detector earns that never alerts, 100 a perfect one.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orcha_pipeline_tests.bench.tables import DATA

NAB = DATA / "nab"
FALSE_ALERT, MISSED = 0.11, 1.0
PROBATION, LONGEST_PROBATION = 0.15, 5000
_FAR_BEHIND = 3.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class NabFile:
    """One file: seconds and values (n,), and its windows as first and last row."""

    group: str
    name: str
    seconds: Floats
    values: Floats
    windows: tuple[tuple[int, int], ...]

    @property
    def weeks(self) -> float:
        """How long it is."""
        return float(self.seconds[-1] - self.seconds[0]) / (7 * 86_400)


def read_files(folder: Path = NAB) -> list[NabFile]:
    """Every file of every group in the folder."""
    labelled = json.loads((folder / "windows.json").read_text(encoding="utf-8"))
    return [
        _read(path, labelled[f"{path.parent.name}/{path.name}"])
        for path in sorted(folder.glob("*/*.csv"))
        if f"{path.parent.name}/{path.name}" in labelled
    ]


def _read(path: Path, windows: Iterable[tuple[str, str]]) -> NabFile:
    table = pd.read_csv(path, parse_dates=["timestamp"])
    times = table["timestamp"]
    rows = tuple(
        (int(np.flatnonzero(times >= pd.Timestamp(first))[0]), int(np.flatnonzero(times <= pd.Timestamp(last))[-1]))
        for first, last in windows
    )
    seconds = np.array((times - pd.Timestamp(0)).dt.total_seconds(), dtype=np.float64)
    return NabFile(path.parent.name, path.name, seconds, table["value"].to_numpy(dtype=np.float64), rows)


def scaled_sigmoid(position: float) -> float:
    """What an alert is worth: near 1 at position -1, a window's left edge, 0 at its right, near -1 far behind it."""
    return -1.0 if position >= _FAR_BEHIND else 2.0 / (1.0 + math.exp(5.0 * position)) - 1.0


def probation(rows: int) -> int:
    """Rows at a file's beginning that are not judged."""
    return math.floor(min(PROBATION * rows, PROBATION * LONGEST_PROBATION))


@dataclass(frozen=True, slots=True)
class Worth:
    """What an alert at each row (n,) is worth, and the window it lies in, -1 outside; rows on probation are NaN."""

    worth: Floats
    window: NDArray[np.int64]
    windows: int

    def raw(self, alerts: NDArray[np.bool_]) -> float:
        """The raw score of alerts (n,)."""
        counted = alerts & np.isfinite(self.worth)
        total = float(self.worth[counted & (self.window < 0)].sum())
        for index in range(self.windows):
            inside = counted & (self.window == index)
            total += float(self.worth[inside].max()) if inside.any() else -MISSED
        return total


def worth_of(rows: int, windows: Sequence[tuple[int, int]]) -> Worth:
    """What NAB pays for each row of a file."""
    worth, window = np.empty(rows), np.full(rows, -1)
    for index, (first, last) in enumerate(windows):
        window[first : last + 1] = index
    before: tuple[int, int] | None = None
    for row in range(rows):
        if window[row] >= 0:
            first, last = windows[window[row]]
            worth[row] = scaled_sigmoid(-(last - row + 1) / (last - first + 1)) / scaled_sigmoid(-1.0)
            before = (first, last)
        else:
            behind = _FAR_BEHIND if before is None else (row - before[1]) / (before[1] - before[0])
            worth[row] = FALSE_ALERT * scaled_sigmoid(behind)
    worth[: probation(rows)] = np.nan
    return Worth(worth, window, len(windows))


def standard(raw: float, windows: int) -> float:
    """The raw score as a percentage of the way from no alert at all to a perfect detector."""
    return 100.0 * (raw + MISSED * windows) / ((1.0 + MISSED) * windows)


def perfect(file: NabFile) -> NDArray[np.bool_]:
    """Alerts at each window's left edge, or the first row of it that is judged."""
    alerts = np.zeros(len(file.values), dtype=np.bool_)
    alerts[[max(first, probation(len(file.values))) for first, _ in file.windows]] = True
    return alerts


@dataclass(frozen=True, slots=True)
class Swept:
    """Raw scores (files, thresholds) of a detector on files."""

    files: tuple[NabFile, ...]
    thresholds: Floats
    raw: Floats

    def best(self, rows: NDArray[np.bool_]) -> int:
        """The threshold with the highest score on some files; of equals the middle one."""
        total = self.raw[rows].sum(axis=0)
        return int(np.median(np.flatnonzero(total >= total.max() - 1e-9)))

    def at(self, chosen: Sequence[int]) -> float:
        """The standard score with a threshold for each file."""
        windows = sum(len(file.windows) for file in self.files)
        return standard(float(self.raw[np.arange(len(self.files)), chosen].sum()), windows)

    def chosen_without(self, key: Callable[[NabFile], str]) -> list[int]:
        """For each file the threshold that is best on those with another key: other files, or other groups."""
        keys = np.array([key(file) for file in self.files])
        return [self.best(keys != own) for own in keys]


def sweep(scores: Mapping[NabFile, Floats], thresholds: Floats) -> Swept:
    """The raw score of each file at each threshold: a row alerts whose score reaches it."""
    paid = [(worth_of(len(file.values), file.windows), score) for file, score in scores.items()]
    raw = np.array([[worth.raw(score >= threshold) for threshold in thresholds] for worth, score in paid])
    return Swept(tuple(scores), thresholds, raw)


def windowed_gaussian(values: Floats, *, window: int = 6400, step: int = 10) -> Floats:
    """NAB's detector of that name: how much of a normal distribution of the last `window` values lies below each.

    Written from its source, as of the results that NAB publishes: the window slides by `step` values at a time.
    """
    scores = np.zeros(len(values))
    first = 0
    mean, spread = 0.0, 1.0
    for row, value in enumerate(values.tolist()):
        if row:
            scores[row] = 1.0 - 0.5 * math.erfc((value - mean) / spread / 1.4142)
        if row - first >= window:
            if row - first < window + step - 1:
                continue
            first += step
        kept = values[first : row + 1]
        mean, spread = float(kept.mean()), float(kept.std()) or 1e-6
    return scores
