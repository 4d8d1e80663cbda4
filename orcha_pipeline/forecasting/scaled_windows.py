"""The last four weeks of hourly series, each brought to its own level and spread, in the log where asked. Pure.

So one model serves series of any size. What is unknown stays NaN.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from orcha_pipeline.forecasting.panel import QUANTILES, SEASON, WEEK, Floats, Forecaster, HourlySeries

WEEKS = 4
CONTEXT = WEEKS * WEEK
"""Hours before an origin that are looked at."""
MIN_KNOWN = 48
"""Known hours among them below which there is no answer."""
UNIT_OF_MEDIAN = 0.1
"""Where log1p bends, as a part of a window's median positive value: nearly a logarithm, and still sound at 0."""
CONSTANT = 1e-9
"""A window that strays less than this part of its level is constant: what is left is rounding."""
BATCH = 2_048
"""Histories forecast at once, so that memory stays small."""
FEATURE_LIMIT = 1e6
"""Scaled values are cut off here: far outside anything that tells hours apart, and safe as float32."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How n windows were bent and scaled, (n,) each: by `unit` before log1p, then by `centre` and `spread`.

    `spread` is 0 where a window is constant.
    """

    unit: Floats
    centre: Floats
    spread: Floats
    log: bool

    def scale(self, values: Floats) -> Floats:
        """(n, t) in the series' unit to scaled. A constant window's own values come to 0."""
        divisor = np.where(self.spread > 0, self.spread, 1.0)[:, None]
        return np.clip(
            (bend(values, self.unit, log=self.log) - self.centre[:, None]) / divisor, -FEATURE_LIMIT, FEATURE_LIMIT
        )

    def restore(self, scaled: Floats) -> Floats:
        """What `scale` came from: (n, t). Not finite where that is beyond a float."""
        bent = self.centre[:, None] + scaled * self.spread[:, None]
        return np.maximum(self.unit[:, None] * np.expm1(bent), 0.0) if self.log else bent

    def slope(self) -> Floats:
        """By how much the series moves for a scaled unit at the window's centre: (n,)."""
        return self.spread * self.unit * np.exp(self.centre) if self.log else self.spread


def scaling_of(windows: Floats, *, log: bool) -> Scaling:
    """The scaling of windows (n, t), each with a known hour; with `log` none has a negative one.

    The centre is the mean of the last day's worth of known hours, the spread the mean absolute deviation of the last
    week's worth.
    """
    week = last_known(windows, WEEK)
    unit = _units(week) if log else np.ones(len(windows))
    week = bend(week, unit, log=log)
    mean = known_mean(week, axis=1)
    spread = known_mean(np.abs(week - mean[:, None]), axis=1)
    return Scaling(
        unit=unit,
        centre=known_mean(bend(last_known(windows, SEASON), unit, log=log), axis=1),
        spread=np.where(spread > CONSTANT * np.abs(mean), spread, 0.0),
        log=log,
    )


def _units(week: Floats) -> Floats:
    positive = np.where(week > 0, week, np.nan)
    has_one = np.isfinite(positive).any(axis=1)
    result = np.ones(len(week))
    result[has_one] = UNIT_OF_MEDIAN * np.nanmedian(positive[has_one], axis=1)
    return np.maximum(result, np.finfo(float).tiny)


def bend(values: Floats, unit: Floats, *, log: bool) -> Floats:
    """(n, t) values in the log, nearly, from `unit` (n,) up; as they are without `log`."""
    return np.log1p(values / unit[:, None]) if log else values


def known_mean(values: Floats, axis: int) -> Floats:
    """Mean of what is known along `axis`, NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def last_known(windows: Floats, hours: int) -> Floats:
    """Of each window (n, t) the last `hours` known values, in order, NaN before them where it has fewer: (n, hours)."""
    last = windows[:, -hours:].copy()
    for row in np.flatnonzero(~np.isfinite(last).all(axis=1)).tolist():
        known = windows[row, np.isfinite(windows[row])][-hours:]
        last[row] = np.concatenate([np.full(hours - len(known), np.nan), known])
    return last


def known_or_nan(values: Floats) -> Floats:
    """NaN where a value is not finite."""
    return np.where(np.isfinite(values), values, np.nan)


def has_negative(values: Floats) -> bool:
    """Whether any known value lies below zero."""
    return bool(((values < 0) & (values > -np.inf)).any())


def last_hours(values: Floats) -> Floats:
    """The last CONTEXT hours, unknown before the first: (CONTEXT,)."""
    last = values[-CONTEXT:]
    return np.concatenate([np.full(CONTEXT - len(last), np.nan), known_or_nan(last)])


def drawn_origins(
    lengths: Sequence[int], horizon: int, wanted: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """For each series the places of its origins, in order: all with a past and a future, or as many as are wanted."""
    possible = [np.arange(MIN_KNOWN, length - horizon + 1) for length in lengths]
    series = np.repeat(np.arange(len(lengths)), [len(places) for places in possible])
    places = np.concatenate([np.empty(0, np.int64), *possible])
    if len(places) > wanted:
        kept = np.sort(rng.choice(len(places), wanted, replace=False))
        series, places = series[kept], places[kept]
    return [places[series == index] for index in range(len(lengths))]


def is_answerable(windows: Floats) -> NDArray[np.bool_]:
    """(n,) Whether enough of each window (n, t) is known to forecast from."""
    return np.count_nonzero(np.isfinite(windows), axis=1) >= MIN_KNOWN


@dataclass(frozen=True, slots=True)
class Lesson:
    """n windows of one series to learn from, with what came after them.

    `origins` (n,) are hours of the series; `windows` (n, CONTEXT) and `targets` (n, horizon) are scaled, NaN where
    unknown. `weights` (n,) is what a scaled error comes to in the series' own unit, over the series' mean size: so the
    sum of the errors is what WAPE counts. A constant window weighs nothing.
    """

    origins: NDArray[np.int64]
    scaling: Scaling
    windows: Floats
    targets: Floats
    weights: Floats


def lesson_of(series: HourlySeries, places: NDArray[np.int64], *, horizon: int, log: bool) -> Lesson | None:
    """The windows of a series at these places, counted from its first hour, that can be answered; None without one."""
    values = known_or_nan(series.values)
    windows = sliding_window_view(np.concatenate([np.full(CONTEXT, np.nan), values]), CONTEXT)[places]
    answerable = is_answerable(windows)
    windows, places = windows[answerable], places[answerable]
    if not places.size:
        return None
    scaling = scaling_of(windows, log=log)
    size = float(known_mean(np.abs(values), axis=0))
    return Lesson(
        origins=series.first_hour + places,
        scaling=scaling,
        windows=scaling.scale(windows),
        targets=scaling.scale(values[places[:, None] + np.arange(horizon)]),
        weights=scaling.slope() / size if size > 0 else np.zeros(len(windows)),
    )


class WindowForecaster(Forecaster):
    """A forecaster that looks at the last window of each history, BATCH of them at once."""

    _horizon: int = 0
    """Hours ahead that were fitted; 0 before a fit."""

    def forecast(self, histories: Sequence[HourlySeries], *, horizon: int) -> Floats:
        """p10, p50, p90: (n, horizon, 3), NaN where fewer than MIN_KNOWN of the last CONTEXT hours are known.

        Raises ModelError where nothing was fitted, or for a shorter horizon.
        """
        self._require_fit(self._horizon, horizon)
        result = np.full((len(histories), horizon, len(QUANTILES)), np.nan)
        for start in range(0, len(histories), BATCH):
            part = histories[start : start + BATCH]
            # Values near the limits of a float may overflow on the way: such a row ends as one without an answer.
            with np.errstate(over="ignore", invalid="ignore"):
                result[start : start + len(part)] = self._forecast(part, horizon)
        return result

    @abstractmethod
    def _forecast(self, histories: Sequence[HourlySeries], horizon: int) -> Floats:
        """The same for at most BATCH histories, once it has been fitted."""
