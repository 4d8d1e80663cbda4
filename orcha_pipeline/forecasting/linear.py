"""One global linear regression over all series and hours ahead, by least absolute error: a line a quantile.

It reckons from the mean day of the series' last four weeks and looks at how far the series stands from it: over the
last hours, day and week, and at this very hour of the days before. How much of that is still true later on fades with
the hours ahead at a few fixed speeds, so that all hours share one short line. So few numbers can be learnt from some
weeks of one node, where trees and networks still learn chance; and what they are for hourly series in general it knows
beforehand (see simulated_series), so that a few days of a node's own are only asked how it differs.

Windows are scaled each by itself, in the log where a series is never negative (see scaled_windows). A line is found by
iteratively reweighted least squares with a ridge penalty.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.panel import (
    QUANTILES,
    SEASON,
    WEEK,
    Floats,
    HourlySeries,
    Tell,
    on_a_weekend,
    say_nothing,
)
from orcha_pipeline.forecasting.scaled_windows import (
    CONTEXT,
    Lesson,
    WindowForecaster,
    drawn_origins,
    has_negative,
    is_answerable,
    known_mean,
    last_hours,
    lesson_of,
    scaling_of,
)
from orcha_pipeline.forecasting.simulated_series import simulated_panel

MAX_ROWS = 120_000
"""Training rows, one an origin and hour ahead. Twice as many moved no held-back error."""
MIN_WINDOWS = 12
SPANS = (1, 3, 6, 12, 24, 72, 168)
"""Last hours over which the series is compared with its mean day."""
FADING_HOURS = (3.0, 12.0, 48.0, np.inf)
"""After how many hours ahead what is seen now counts for 1/e."""
RIDGE = 0.03
RIDGE_WINDOWS = 10_000
"""A standardized coefficient is pulled towards what it is for simulated series by RIDGE for each window learnt from and
for RIDGE_WINDOWS more. Less of it hardly mattered on held-back parts where there was a month to learn from, and was
worse where there was a week, above all after a jump."""
ROUNDS = 15
"""Of reweighting. The median is there after six; the ends of the band need these."""
LEAST_SPREAD = 0.3
"""Scaled. A column that strays less than this in simulated series is not blown up: elsewhere it may stray more."""
ROOM = 0.5
"""How far beyond what the window saw an answer may lie, as a part of the distance from its least to its greatest."""
LEAST_RESIDUAL = 0.05
"""Scaled residuals below this count as this: they would weigh without bound."""
FARTHEST = 12.0
"""Scaled values beyond it count as this far: a line has no limit of its own."""
HEAVIEST = 8.0
"""A window weighs at most this many average ones."""
FORMAT = 1
Lines = dict[str, Floats]
"""`spread` (columns,), by which columns are divided, and `coefficients` (columns, 3)."""
FILE, CARD_FILE = "linear.npz", "linear.json"


class Linear(WindowForecaster):
    """Quantile regression on a few dozen means and lags."""

    name: ClassVar[str] = "linear"

    def __init__(self) -> None:
        self._lines: Lines = {}
        self._windows = 0

    def fit(self, panel: Sequence[HourlySeries], *, horizon: int, seed: int, tell: Tell = say_nothing) -> None:
        """Learn the lines. Raises ModelError where fewer than MIN_WINDOWS windows can be learnt from."""
        with np.errstate(over="ignore", invalid="ignore"):
            lessons = _lessons(panel, horizon, np.random.default_rng(seed))
        self._windows = sum(len(one.origins) for one in lessons)
        tell(f"{horizon} hours ahead from {self._windows:,} windows")
        rows = _rows(lessons, horizon)
        pull = RIDGE * (len(rows.truth) + RIDGE_WINDOWS * horizon)
        self._lines, self._horizon = _lines(rows, _expected(horizon), pull=pull), horizon

    def _forecast(self, histories: Sequence[HourlySeries], horizon: int) -> Floats:
        result = np.full((len(histories), horizon, len(QUANTILES)), np.nan)
        may_be_negative = np.array([has_negative(history.values) for history in histories], dtype=np.bool_)
        for log in (True, False):
            rows = np.flatnonzero(may_be_negative != log)
            result[rows] = self._answers([histories[row] for row in rows.tolist()], horizon, log=log)
        return result

    def save(self, folder: Path) -> None:
        """The lines' numbers, and a card that says what they are. Raises ModelError if not fitted."""
        self._require_fit(self._horizon)
        buffer = BytesIO()
        np.savez(buffer, **self._lines)  # pyright: ignore[reportArgumentType]
        content = buffer.getvalue()
        (folder / FILE).write_bytes(content)
        card = {
            "model": self.name,
            "format": FORMAT,
            "horizon": self._horizon,
            "windows": self._windows,
            "sha256": sha256(content).hexdigest(),
        }
        (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The forecaster saved in `folder`. Raises ModelError where a file is missing, damaged or another version's."""
        made = cls()
        try:
            card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
            content = (folder / FILE).read_bytes()
            model, version, digest = card["model"], card["format"], card["sha256"]
            made._horizon, made._windows = int(card["horizon"]), int(card["windows"])
        except (OSError, ValueError, KeyError, TypeError) as unusable:
            raise ModelError(f"{folder} holds no whole {cls.name} model ({unusable}): train it again") from unusable
        if (model, version) != (cls.name, FORMAT):
            raise ModelError(f"{folder} holds the model {model} of format {version}, not {cls.name} of {FORMAT}")
        if sha256(content).hexdigest() != digest:
            raise ModelError(f"{folder / FILE} is not what was saved: train the model again")
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            made._lines = {name: arrays[name] for name in arrays.files}
        return made

    @property
    def parameters(self) -> Mapping[str, float | int | str]:
        """The settings, and once fitted the windows learnt from and how many coefficients a line has."""
        fixed = {"objective": "l1", "context_hours": CONTEXT, "ridge": RIDGE, "rounds": ROUNDS}
        learnt = {"windows": self._windows, "coefficients": len(self._lines["spread"])} if self._lines else {}
        return {**fixed, **learnt}

    def _answers(self, histories: Sequence[HourlySeries], horizon: int, *, log: bool) -> Floats:
        """For histories that are all to be looked at in the log, or all not."""
        result = np.full((len(histories), horizon, len(QUANTILES)), np.nan)
        windows = np.array([last_hours(history.values) for history in histories]).reshape(len(histories), CONTEXT)
        chosen = np.flatnonzero(is_answerable(windows))
        if not chosen.size:
            return result
        scaling = scaling_of(windows[chosen], log=log)
        origins = np.array([histories[row].end for row in chosen.tolist()], dtype=np.int64)
        scaled = self._scaled(scaling.scale(windows[chosen]), origins, horizon)
        answers = np.stack([scaling.restore(scaled[..., column]) for column in range(len(QUANTILES))], axis=-1)
        answers[~np.all(np.isfinite(answers), axis=(1, 2))] = np.nan
        result[chosen] = answers
        return result

    def _scaled(self, windows: Floats, origins: NDArray[np.int64], horizon: int) -> Floats:
        """(n, horizon, 3), in order. Summed thing by thing, so that a window's answer does not hang on others."""
        base, seen = _seen(windows, origins, horizon)
        coefficients = self._lines["coefficients"] / self._lines["spread"][:, None]
        result = np.repeat(base[..., None], len(QUANTILES), axis=-1)
        for values, fades in seen:
            own, coefficients = coefficients[: len(fades)], coefficients[len(fades) :]
            result += values[..., None] * (fades.T @ own)
        least, most = (each(windows, axis=1)[:, None, None] for each in (np.nanmin, np.nanmax))
        room = ROOM * (most - least)
        return np.sort(np.clip(result, least - room, most + room), axis=-1)


def _lessons(panel: Sequence[HourlySeries], horizon: int, rng: np.random.Generator) -> list[Lesson]:
    """What there is to learn from, a lesson a series. Raises ModelError where it is too little."""
    drawn = drawn_origins([len(series.values) for series in panel], horizon, MAX_ROWS // horizon, rng)
    made = [
        lesson_of(series, places, horizon=horizon, log=not has_negative(series.values))
        for series, places in zip(panel, drawn, strict=True)
    ]
    found = [one for one in made if one is not None and (one.weights > 0).any()]
    count = sum(len(one.origins) for one in found)
    if count < MIN_WINDOWS:
        raise ModelError(
            f"Too little for a regression to learn from: {count:,} windows of a known past, where {MIN_WINDOWS} are "
            f"needed (about four days of a series that is not constant)."
        )
    return found


def _seen(windows: Floats, origins: NDArray[np.int64], horizon: int) -> tuple[Floats, list[tuple[Floats, Floats]]]:
    """What a line reads of scaled windows (n, CONTEXT) before `origins` (n,).

    The mean day it reckons from, (n, horizon), and what it looks at: values (n, horizon or 1), and how they may fade
    with the hours ahead, (k, horizon), which makes k columns. An unknown hour stands at the mean of its hour.
    """
    windows = np.clip(windows, -FARTHEST, FARTHEST)
    n, ahead = len(windows), np.arange(horizon)
    hour = ahead % SEASON
    fading = np.exp(-(ahead + 1) / np.array(FADING_HOURS)[:, None])
    fast, lasting = fading[[0, 1, -1]], fading[-1:]
    days = windows.reshape(n, -1, SEASON)
    mean_day = known_mean(days, axis=1)
    mean_day = np.where(np.isfinite(mean_day), mean_day, known_mean(windows, axis=1)[:, None])
    off = np.where(np.isfinite(days), days - mean_day[:, None], 0.0)
    flat = off.reshape(n, CONTEXT)
    day_means = off.mean(axis=2)
    level = mean_day.mean(axis=1, keepdims=True)
    shape = mean_day - level
    last, last_week = off[:, -1], off[:, -WEEK // SEASON :]
    same_hour = [
        *(each[:, hour] for each in (last_week.mean(axis=1), last, off[:, -2], off[:, -7])),
        *(np.roll(last, shift, axis=1)[:, hour] for shift in (1, -1)),
        off.reshape(n, -1, WEEK).mean(axis=1)[:, ahead % WEEK],
    ]
    standing = [flat[:, -hours:].mean(axis=1, keepdims=True) for hours in SPANS]
    trends = [
        day_means[:, -7:].mean(axis=1, keepdims=True) - day_means[:, -14:-7].mean(axis=1, keepdims=True),
        day_means[:, -1:] - day_means[:, -7:-6],
    ]
    # The mean day again, by how much of it the last day and week showed.
    size = np.maximum((shape**2).mean(axis=1), 1e-6)
    shown = [(each * shape).mean(axis=1) / size for each in (last, last_week.mean(axis=1))]
    profile = shape[:, hour]
    return mean_day[:, hour], [
        (np.ones((n, 1)), fading),
        *((each, fading) for each in standing),
        *((each, fast) for each in same_hour),
        *((each, lasting) for each in (*trends, level, profile)),
        *((profile * part[:, None], lasting) for part in shown),
        (on_a_weekend(origins[:, None] + ahead), lasting),
        (on_a_weekend(origins[:, None] - SEASON // 2), fading[2:3]),
    ]


@dataclass(frozen=True, slots=True)
class Rows:
    """What lines are found from: (n, columns) numbers, (n,) targets less the mean day, all known, and (n,) weights."""

    seen: Floats
    truth: Floats
    weights: Floats


@lru_cache(maxsize=2)
def _expected(horizon: int) -> Lines:
    """The lines of simulated series, from which others set out."""
    rows = _rows(_lessons(simulated_panel(), horizon, np.random.default_rng(0)), horizon)
    spread = np.maximum(rows.seen.std(axis=0), LEAST_SPREAD)
    nowhere = np.zeros((len(spread), len(QUANTILES)))
    return _lines(rows, {"spread": spread, "coefficients": nowhere}, pull=RIDGE * len(rows.truth))


def _rows(lessons: Sequence[Lesson], horizon: int) -> Rows:
    """A row an origin and hour ahead, where that hour is known and its window weighs anything."""
    weights = np.concatenate([one.weights for one in lessons])
    weights = np.where(np.isfinite(weights), weights, 0.0)
    weights = np.minimum(weights / (weights.mean() or 1.0), HEAVIEST)
    seen, truths = zip(*(_table(one, horizon) for one in lessons), strict=True)
    truth = np.concatenate(truths)
    known = np.isfinite(truth) & (weights > 0)[:, None]
    return Rows(np.concatenate(seen)[known], truth[known], np.broadcast_to(weights[:, None], truth.shape)[known])


def _table(lesson: Lesson, horizon: int) -> tuple[Floats, Floats]:
    """What a line reads of a lesson (n, horizon, columns), and its targets (n, horizon) less the mean day."""
    base, seen = _seen(lesson.windows, lesson.origins, horizon)
    columns = [values * fade for values, fades in seen for fade in fades]
    return np.stack(columns, axis=-1), np.clip(lesson.targets, -FARTHEST, FARTHEST) - base


def _lines(rows: Rows, expected: Lines, *, pull: float) -> Lines:
    """The lines of least weighted pinball loss, pulled towards the expected ones."""
    seen = rows.seen / expected["spread"]
    lines = [
        _line(
            seen, rows.truth, rows.weights, pull=pull, expected=expected["coefficients"][:, column], quantile=quantile
        )
        for column, quantile in enumerate(QUANTILES)
    ]
    return {"spread": expected["spread"], "coefficients": np.stack(lines, axis=-1)}


def _line(rows: Floats, truth: Floats, weights: Floats, *, pull: float, expected: Floats, quantile: float) -> Floats:
    """Coefficients (columns,) of the line of this quantile of `truth` (n,), from `rows` (n, columns)."""
    current = weights
    line = expected
    for _ in range(ROUNDS):
        weighted = rows * current[:, None]
        line = np.linalg.solve(
            weighted.T @ rows + pull * np.eye(rows.shape[1]), weighted.T @ truth + pull * expected
        ).astype(np.float64)
        residual = truth - rows @ line
        side = np.where(residual > 0, quantile, 1 - quantile)
        current = weights * side / np.maximum(np.abs(residual), LEAST_RESIDUAL)
    return line
