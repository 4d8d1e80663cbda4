"""What the LSTM sees of an hourly series: windows of one week, scaled each by itself. Pure NumPy.

A window knows its last CONTEXT hours and nothing at or after its origin. Each is brought to its own centre and spread,
in the symmetric log where the panel is bursty, so that one network serves series of any unit. What is unknown stands
at a neutral place (the mean of its hour, else the window's centre) beside a flag that says so: the network is told,
and no unknown hour passes for a zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.forecasting.panel import SEASON, WEEK, Floats, HourlySeries

CONTEXT = WEEK
DAYS = CONTEXT // SEASON
PATCH = 8
"""Hours a step of the LSTM: 21 steps a week are quicker to learn over than 168, and they keep every hour."""
STEPS = CONTEXT // PATCH
STEP_FEATURES = 3 * PATCH + 6
ORIGIN_FEATURES = SEASON + 6
HOUR_FEATURES = 2 * DAYS + 5
ANCHORS = 5
LEAST_KNOWN = CONTEXT // 2
RECENT = 3
"""Hours over which the present level is compared with yesterday's."""
FLOOR = 0.05
"""Where the log bends, as a part of the window's median: below it a value counts as next to nothing."""
LEAST_SPREAD = 1e-6
"""Of the window's greatest value: a steadier window is a constant one, and answers itself."""
FARTHEST = 12.0
"""Spreads from the centre beyond which a target counts as this far."""
HEAVIEST = 8.0
"""A window weighs at most this many average ones: a single burst must not teach the whole network."""
BURSTY = 1.25
"""Mean over median of a series from which it is better looked at in the log."""

Inputs = dict[str, NDArray[np.float32]]
Single = NDArray[np.float32]
INPUTS = ("steps", "hours", "anchors", "origin")
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Scaling:
    """How each of n windows was scaled, all (n,): `scaled = (bend(value / unit) - centre) / spread`.

    `unit` is the greatest absolute value of the window. `bend` is the identity where `log` is False, else the
    symmetric log that is straight below `knee`.
    """

    unit: Floats
    knee: Floats
    centre: Floats
    spread: Floats
    log: bool

    def scale(self, values: Floats) -> Floats:
        """(n, t) values in each window's own scale; NaN stays NaN."""
        return (_bend(values / self.unit[:, None], self.knee[:, None], log=self.log) - self.centre[:, None]) / (
            self.spread[:, None]
        )

    def restore(self, scaled: Floats) -> Floats:
        """(n, horizon, 3) scaled values in the series' own unit again. Not finite where that cannot be told."""
        shape = (-1, 1, 1)
        bent = scaled * self.spread.reshape(shape) + self.centre.reshape(shape)
        with np.errstate(over="ignore", invalid="ignore"):
            return _straighten(bent, self.knee.reshape(shape), log=self.log) * self.unit.reshape(shape)

    @property
    def steepness(self) -> Floats:
        """(n,) About how many of the series' units one scaled unit is, at the window's middle."""
        middle = np.abs(_straighten(self.centre, self.knee, log=self.log)) + self.knee if self.log else 1.0
        with np.errstate(over="ignore"):
            return self.unit * self.spread * middle


@dataclass(frozen=True, slots=True)
class Windows:
    """n windows as the network takes them, by what its inputs are called.

    `steps` (n, STEPS, STEP_FEATURES), `hours` (n, horizon, HOUR_FEATURES), `anchors` (n, horizon, ANCHORS) and
    `origin` (n, ORIGIN_FEATURES). `usable` (n,) is False where under half of the context is known, or none of it can
    be told apart from infinity: such a window's inputs mean nothing.
    """

    steps: Single
    hours: Single
    anchors: Single
    origin: Single
    scaling: Scaling
    usable: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.usable)

    @property
    def inputs(self) -> Inputs:
        """By name, what the network is given."""
        return {name: getattr(self, name) for name in INPUTS}


@dataclass(frozen=True, slots=True)
class Examples:
    """n windows to learn from: `inputs`, and `target` (n, horizon, 2) with the scaled truth and what it weighs.

    An unknown hour weighs 0. The others weigh as much as an error there moves the series' own WAPE, 1 on average.
    """

    inputs: Inputs
    target: Single

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, slots=True)
class Cuts:
    """Places of windows in a panel, both (n,): the series' index, and the origin counted from its first hour."""

    series: NDArray[np.int64]
    origins: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.series)

    def sample(self, most: int, random: np.random.Generator) -> Self:
        """All of them, or `most` drawn from them, still in order."""
        if len(self) <= most:
            return self
        rows = np.sort(random.choice(len(self), most, replace=False))
        return replace(self, series=self.series[rows], origins=self.origins[rows])


def cuts(panel: Sequence[HourlySeries], *, horizon: int, held_back: float) -> tuple[Cuts, Cuts]:
    """Every window of `panel` worth learning from, and every one to validate with.

    The hours a training window is asked for end before the last `held_back` part of its series (a horizon at least),
    those of a validation window lie in it. Windows of which too little, or no hour to come, is known are left out.
    """
    train: list[tuple[int, NDArray[np.int64]]] = []
    validation: list[tuple[int, NDArray[np.int64]]] = []
    for i, series in enumerate(panel):
        origins = _worthwhile(series.values, horizon)
        held_from = len(series.values) - held_hours(len(series.values), horizon, held_back)
        train.append((i, origins[origins + horizon <= held_from]))
        validation.append((i, origins[origins >= held_from]))
    return _together(train), _together(validation)


def held_hours(hours: int, horizon: int, held_back: float) -> int:
    """How many of a series' last hours are kept for validation."""
    return max(int(hours * held_back), horizon)


def _worthwhile(values: Floats, horizon: int) -> NDArray[np.int64]:
    """Origins with enough known hours before and any after, counted from the first hour of the series."""
    known = np.concatenate([[0], np.cumsum(np.isfinite(values))])
    origins = np.arange(CONTEXT, len(values) - horizon + 1)
    before, after = known[origins] - known[origins - CONTEXT], known[origins + horizon] - known[origins]
    return origins[(before >= LEAST_KNOWN) & (after > 0)]


def _together(parts: Sequence[tuple[int, NDArray[np.int64]]]) -> Cuts:
    none = np.empty(0, dtype=np.int64)
    return Cuts(
        np.concatenate([none, *(np.full(len(origins), i) for i, origins in parts)]),
        np.concatenate([none, *(origins for _, origins in parts)]),
    )


def is_bursty(panel: Sequence[HourlySeries]) -> bool:
    """Whether the panel is better looked at in the log: nowhere negative, and most series' mean far over the median."""
    ratios: list[float] = []
    for series in panel:
        known = series.values[np.isfinite(series.values)]
        if known.size and known.min() < 0:
            return False
        # A median of 0 (over half of the hours without any) is as bursty as can be.
        if known.size and (top := known.max()) > 0:
            middle = float(np.median(known / top))
            ratios.append(float((known / top).mean()) / middle if middle > 0 else np.inf)
    return bool(ratios) and float(np.median(ratios)) >= BURSTY


def at_ends(histories: Sequence[HourlySeries], *, horizon: int, log: bool) -> Windows:
    """A window at the end of each history, of its last hours alone."""
    n = len(histories)
    values, shares = np.full((n, CONTEXT), np.nan), np.full((n, CONTEXT), np.nan)
    for row, history in enumerate(histories):
        last = history.values[-CONTEXT:]
        values[row, CONTEXT - len(last) :] = last
        if history.shares is not None:
            shares[row, CONTEXT - len(last) :] = history.shares[-CONTEXT:]
    origins = np.array([history.end for history in histories], dtype=np.int64)
    return windows(values, shares, origins, horizon=horizon, log=log)


def examples(panel: Sequence[HourlySeries], places: Cuts, *, horizon: int, log: bool) -> Examples:
    """The windows of `panel` at `places`, each of which has CONTEXT hours before it and `horizon` after."""
    values, shares = np.empty((len(places), CONTEXT)), np.full((len(places), CONTEXT), np.nan)
    truth, origins = np.empty((len(places), horizon)), np.empty(len(places), dtype=np.int64)
    levels = np.zeros(len(places))
    for i in np.unique(places.series).tolist():
        series, rows = panel[i], np.flatnonzero(places.series == i)
        at = places.origins[rows]
        before = at[:, None] + np.arange(-CONTEXT, 0)
        values[rows] = series.values[before]
        truth[rows] = series.values[at[:, None] + np.arange(horizon)]
        if series.shares is not None:
            shares[rows] = series.shares[before]
        origins[rows] = series.first_hour + at
        with np.errstate(over="ignore"):
            levels[rows] = np.abs(series.values[np.isfinite(series.values)]).mean()
    made = windows(values, shares, origins, horizon=horizon, log=log)
    known = np.isfinite(truth)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        target = np.clip(made.scaling.scale(truth), -FARTHEST, FARTHEST)
        weight = made.scaling.steepness / levels
    # A series of zeros has no WAPE, and one next to infinity none that can be told: nothing there to learn.
    weight = np.where(made.usable & np.isfinite(weight), weight, 0.0)
    weights = np.where(known, np.clip(weight / (weight.mean() or 1.0), 0.0, HEAVIEST)[:, None], 0.0)
    return Examples(made.inputs, np.stack([np.where(known, target, 0.0), weights], axis=-1).astype(np.float32))


def windows(values: Floats, shares: Floats, origins: NDArray[np.int64], *, horizon: int, log: bool) -> Windows:
    """From the hours before each origin, `values` and `shares` (n, CONTEXT), NaN where unknown."""
    usable = np.isfinite(values).sum(axis=1) >= LEAST_KNOWN
    # A window that cannot be used is computed as one of zeros, so that nothing below has to mind it.
    values = np.where(usable[:, None], np.where(np.isfinite(values), values, np.nan), 0.0)
    scaling = _scaling(values, log=log)
    scaled = scaling.scale(values)
    days = scaled.reshape(-1, DAYS, SEASON)
    known = np.isfinite(scaled)
    hour_mean = _mean(days, axis=1)  # (n, SEASON), at the centre where the hour of the day is known on no day
    filled = np.where(known, scaled, np.tile(hour_mean, DAYS))
    ahead = np.arange(horizon) % SEASON
    hours = (filled.reshape(-1, DAYS, SEASON)[:, :, ahead], known.reshape(-1, DAYS, SEASON)[:, :, ahead])
    return Windows(
        steps=_steps(filled, known, shares, origins),
        hours=np.concatenate(
            [
                np.moveaxis(hours[0], 1, 2),
                np.moveaxis(hours[1], 1, 2),
                _calendar(origins[:, None] + np.arange(horizon)),
                np.broadcast_to((np.arange(horizon) / horizon)[None, :, None], (len(values), horizon, 1)),
            ],
            axis=2,
        ).astype(np.float32),
        anchors=_anchors(filled, known, hour_mean, horizon).astype(np.float32),
        origin=_origin(filled, known, shares, scaling).astype(np.float32),
        scaling=scaling,
        usable=usable,
    )


def _scaling(values: Floats, *, log: bool) -> Scaling:
    known = np.isfinite(values)
    size = np.where(known, np.abs(values), 0.0)
    unit = size.max(axis=1)
    unit = np.where(unit > _TINY, unit, 1.0)
    relative = values / unit[:, None]
    # Half of the hours without anything leave no median; what the others came to takes its place.
    median = np.nanmedian(np.abs(relative), axis=1)
    mean = np.nanmean(np.abs(relative), axis=1)
    knee = FLOOR * np.where(median > 0.01 * mean, median, np.where(mean > 0, mean, 1.0))
    bent = _bend(relative, knee[:, None], log=log)
    return Scaling(
        unit=unit,
        knee=knee,
        centre=np.nanmean(bent, axis=1),
        spread=np.maximum(np.nanstd(bent, axis=1), LEAST_SPREAD),
        log=log,
    )


def _bend(values: Floats, knee: Floats, *, log: bool) -> Floats:
    return np.sign(values) * np.log1p(np.abs(values) / knee) if log else values


def _straighten(bent: Floats, knee: Floats, *, log: bool) -> Floats:
    return np.sign(bent) * np.expm1(np.abs(bent)) * knee if log else bent


def _mean(values: Floats, axis: int) -> Floats:
    """Mean of what is known along `axis`, 0 where nothing is."""
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(axis=axis) / np.maximum(known.sum(axis=axis), 1)


def _steps(filled: Floats, known: NDArray[np.bool_], shares: Floats, origins: NDArray[np.int64]) -> Single:
    n = len(filled)
    change = np.zeros_like(filled)
    change[:, SEASON:] = filled[:, SEASON:] - filled[:, :-SEASON]
    patched = (n, STEPS, PATCH)
    first_hours = origins[:, None] + np.arange(-CONTEXT, 0, PATCH)
    share = shares.reshape(patched)
    return np.concatenate(
        [
            filled.reshape(patched),
            change.reshape(patched),
            known.reshape(patched),
            _calendar(first_hours),
            _mean(share, axis=2)[:, :, None],
            np.isfinite(share).mean(axis=2, keepdims=True),
        ],
        axis=2,
    ).astype(np.float32)


def _calendar(hours: NDArray[np.int64]) -> Floats:
    """(n, t, 4): where each hour stands in its day and in its week, as points on two circles."""
    turns = (2 * np.pi / SEASON * (hours % SEASON), 2 * np.pi / WEEK * (hours % WEEK))
    return np.stack([wave(turn) for turn in turns for wave in (np.sin, np.cos)], axis=-1)


def _anchors(filled: Floats, known: NDArray[np.bool_], hour_mean: Floats, horizon: int) -> Floats:
    """(n, horizon, ANCHORS): yesterday's hour, last week's, the hour's mean, and the first and third with the present.

    "Yesterday" is the last day on which that hour was known.
    """
    ahead = np.arange(horizon)
    day_known = known.reshape(-1, DAYS, SEASON)
    last = DAYS - 1 - np.argmax(day_known[:, ::-1], axis=1)
    yesterday = np.take_along_axis(filled.reshape(-1, DAYS, SEASON), last[:, None, :], axis=1)[:, 0]
    now = filled[:, -RECENT:].mean(axis=1, keepdims=True)
    day_before = filled[:, -RECENT - SEASON : -SEASON].mean(axis=1, keepdims=True)
    columns = [
        yesterday[:, ahead % SEASON],
        filled[:, ahead % CONTEXT],
        hour_mean[:, ahead % SEASON],
        yesterday[:, ahead % SEASON] + now - day_before,
        hour_mean[:, ahead % SEASON] + now - hour_mean[:, -RECENT:].mean(axis=1, keepdims=True),
    ]
    return np.stack(columns, axis=-1)


def _origin(filled: Floats, known: NDArray[np.bool_], shares: Floats, scaling: Scaling) -> Floats:
    """(n, ORIGIN_FEATURES): the last day, what is known of it and of the week, the last share, the spread."""
    last_share = shares[:, -1]
    share_known = np.isfinite(last_share)
    return np.column_stack(
        [
            filled[:, -SEASON:],
            known[:, -SEASON:].mean(axis=1),
            known.mean(axis=1),
            np.where(share_known, last_share, 0.0),
            share_known,
            np.log(scaling.spread),
            filled[:, -SEASON:].mean(axis=1) - filled[:, -2 * SEASON : -SEASON].mean(axis=1),
        ]
    )
