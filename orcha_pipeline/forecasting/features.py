"""From the hourly feature table to what a model reads, and from what it answers back to USD. Pure.

The same code serves training and inference. A *window* is one node at one origin: the `context_hours` hours before
the origin, and the `HORIZON` hours from it on. Each window is scaled by its own context alone:

    z = (asinh(y / scale) - center) / spread

with `scale` the mean absolute known yield, `center` and `spread` the median and the mean absolute deviation of the
known asinh values. asinh is linear near zero and logarithmic in a burst, defined for losses too, and monotone, so
that quantiles of z are quantiles of the yield.

An unknown hour is never a number: its `known` channel is 0 and its value the neutral 0 of the scaled space (the
window's own centre), and an unknown target weighs nothing in the loss.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orcha_pipeline.errors import ModelError
from orcha_pipeline.model import hour_of

HORIZON = 24
SEASON = 24
QUANTILES = (0.1, 0.5, 0.9)
CHANNELS = ("yield", "yield_known", "share", "share_known", "hour_sin", "hour_cos", "weekday_sin", "weekday_cos")
INPUTS = ("context", "naive", "profile", "recent")
"""What a network reads, by the name of its input: see Windows."""
RECENT_HOURS = 6
SCALING = "per window: (asinh(y / mean|y|) - median) / mean absolute deviation, of the context's known hours"
MIN_KNOWN_CONTEXT = 0.5
"""Share of a context's hours that must be known: below it the scale itself is a guess."""
MIN_SPREAD = 0.02
"""A steadier context than 2 % is scaled as if it moved 2 %, or rounding would be blown up into a signal."""

Floats = NDArray[np.float64]
Hours = NDArray[np.datetime64]


@dataclass(frozen=True, slots=True)
class NodeSeries:
    """One node on a gapless hourly grid: `yields` in USD per hour at full share, `shares` 0..1; NaN is unknown."""

    node: str
    start: np.datetime64
    yields: Floats
    shares: Floats

    @property
    def end(self) -> np.datetime64:
        """The hour after the last one on the grid."""
        return self.start + np.timedelta64(len(self.yields), "h")

    def before(self, origin: np.datetime64) -> "NodeSeries":
        """What was there to know at `origin`: the hours before it."""
        hours = max(0, _hours_between(self.start, origin))
        return replace(self, yields=self.yields[:hours], shares=self.shares[:hours])


@dataclass(frozen=True, slots=True)
class Windows:
    """`n` windows. `context` is (n, C, len(CHANNELS)) float32; the rest is (n,) or (n, HORIZON).

    XX is in USD per hour at full share, NaN where unknown or not yet come.
    """

    nodes: NDArray[np.str_]
    origins: Hours
    context: NDArray[np.float32]
    naive: NDArray[np.float32]
    profile: NDArray[np.float32]
    recent: NDArray[np.float32]
    scale: Floats
    center: Floats
    spread: Floats
    target: Floats

    def __len__(self) -> int:
        return len(self.nodes)

    def take(self, index: NDArray[Any]) -> "Windows":
        """The windows that `index` (a mask or positions) selects."""
        return Windows(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """What a network reads, by input name."""
        return {name: getattr(self, name) for name in INPUTS}

    def scaled_target(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Target in the scaled space and its weight (1 known, 0 unknown), both (n, HORIZON)."""
        known = np.isfinite(self.target)
        scaled = (np.arcsinh(self.target / self.scale[:, None]) - self.center[:, None]) / self.spread[:, None]
        return np.where(known, scaled, 0.0).astype(np.float32), known.astype(np.float32)

    def to_yield(self, scaled: NDArray[Any], *, widening: tuple[float, float] = (0.0, 0.0)) -> Floats:
        """Scaled quantiles (n, HORIZON, 3) as USD per hour at full share: in order, none below 0.

        `widening` moves p10 down and p90 up, in the scaled space, before the way back; negative narrows.
        """
        middle = scaled[..., 1].astype(np.float64)
        low = np.minimum(scaled[..., 0] - widening[0], middle)
        high = np.maximum(scaled[..., 2] + widening[1], middle)
        z = np.stack([low, middle, high], axis=-1)
        with np.errstate(over="ignore"):  # an exploded answer becomes infinite, and the caller sees that it is
            back = self.scale[:, None, None] * np.sinh(z * self.spread[:, None, None] + self.center[:, None, None])
        return np.maximum(back, 0.0)


def series_of(frame: pd.DataFrame) -> dict[str, NodeSeries]:
    """Each node's hours of the feature table on a gapless grid, by node name.

    `frame` needs `node`, `hour` (UTC, full hours; without a zone it is taken as UTC), `share` and `yield_usd`.
    Raises ModelError for an hour that is not full or stands twice.
    """
    result: dict[str, NodeSeries] = {}
    moments = pd.to_datetime(frame["hour"], utc=True)
    hours = moments.dt.tz_localize(None).to_numpy().astype("datetime64[h]")
    if not bool((moments.dt.floor("h") == moments).all()):
        raise ModelError("features_hourly has an hour that is not a full hour: build the features again")
    names = frame["node"].to_numpy(dtype=str)
    yields = frame["yield_usd"].to_numpy(dtype=np.float64, na_value=np.nan)
    shares = frame["share"].to_numpy(dtype=np.float64, na_value=np.nan)
    for name in sorted(set(names.tolist())):
        mine = names == name
        start = hours[mine].min()
        place = (hours[mine] - start).astype(np.int64)
        if len(np.unique(place)) != len(place):
            raise ModelError(f"features_hourly has an hour of {name} twice: build the features again")
        grids = [np.full(int(place.max()) + 1, np.nan) for _ in range(2)]
        for grid, values in zip(grids, (yields, shares), strict=True):
            grid[place] = np.where(np.isfinite(values[mine]), values[mine], np.nan)
        result[name] = NodeSeries(name, start, *grids)
    return result


def build_windows(series: Iterable[tuple[NodeSeries, Hours]], *, context_hours: int) -> Windows:
    """The windows of each series at its origins, in that order, less those whose context is too full of unknowns.

    A context that begins before the series does is unknown there. Nothing at or after an origin enters anything
    but its `target`.
    """
    windows = [
        window
        for one, origins in series
        for origin in origins
        if (window := _window(one, origin.astype("datetime64[h]"), context_hours)) is not None
    ]
    empty = _empty(context_hours)
    return Windows(
        **{
            f.name: np.stack([w[f.name] for w in windows]) if windows else getattr(empty, f.name)
            for f in fields(Windows)
        }
    )


def hourly(start: np.datetime64, end: np.datetime64, *, step: int = 1) -> Hours:
    """The hours of `[start, end)`, every `step`-th."""
    return np.arange(start.astype("datetime64[h]"), end.astype("datetime64[h]"), np.timedelta64(step, "h"))


def to_hour(moment: datetime) -> np.datetime64:
    """The full hour an aware `moment` lies in, as numpy's UTC hour."""
    return np.datetime64(hour_of(moment).replace(tzinfo=None), "h")


def to_datetime(hour: np.datetime64) -> datetime:
    """Numpy's UTC hour as an aware datetime."""
    return cast("datetime", hour.astype("datetime64[s]").item()).replace(tzinfo=UTC)


def same_hour_before(history: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """For each of the coming HORIZON hours the latest known value of the same hour of a day before, and its age.

    `history` ends where the horizon begins. Ages are in days, from 1; where no such hour is known the value is NaN
    and the age 0.
    """
    table = _by_day(history)[::-1]
    known = np.isfinite(table)
    row = known.argmax(axis=0)
    there = known.any(axis=0)
    return np.where(there, table[row, np.arange(SEASON)], np.nan), np.where(there, row + 1, 0)


def data_hash(series: Mapping[str, NodeSeries]) -> str:
    """sha256 of everything a model can see of `series`: two trainings on the same data have the same."""
    digest = hashlib.sha256()
    for name in sorted(series):
        one = series[name]
        digest.update(f"{name}\n{one.start}\n{len(one.yields)}\n".encode())
        for values in (one.yields, one.shares):
            digest.update(np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes())
    return digest.hexdigest()


def _window(series: NodeSeries, origin: np.datetime64, context_hours: int) -> dict[str, Any] | None:
    at = _hours_between(series.start, origin)
    past = _slice(series.yields, at - context_hours, at)
    known = np.isfinite(past)
    if known.sum() < MIN_KNOWN_CONTEXT * context_hours:
        return None
    scale = float(np.abs(past[known]).mean()) or 1.0
    bent = np.arcsinh(past / scale)
    center = float(np.median(bent[known]))
    spread = max(float(np.abs(bent[known] - center).mean()), MIN_SPREAD)
    z = (bent - center) / spread
    naive, _ = same_hour_before(z)
    profile = _mean_known(_by_day(z), axis=0)
    recent = _mean_known(z[-RECENT_HOURS:] - profile[-RECENT_HOURS:], axis=0)
    shares = _slice(series.shares, at - context_hours, at)
    hours = hourly(origin - np.timedelta64(context_hours, "h"), origin).astype(np.int64)
    day, week = 2 * np.pi * (hours % 24) / 24, 2 * np.pi * (hours // 24 % 7) / 7
    channels = [
        np.where(known, z, 0.0),
        known,
        np.nan_to_num(shares),
        np.isfinite(shares),
        *(f(angle) for angle in (day, week) for f in (np.sin, np.cos)),
    ]
    return {
        "nodes": np.str_(series.node),
        "origins": origin,
        "context": np.stack(channels, axis=-1).astype(np.float32),
        "naive": np.nan_to_num(naive).astype(np.float32),
        "profile": profile.astype(np.float32),
        "recent": np.array([recent], dtype=np.float32),
        "scale": np.float64(scale),
        "center": np.float64(center),
        "spread": np.float64(spread),
        "target": _slice(series.yields, at, at + HORIZON),
    }


def _mean_known(values: Floats, *, axis: int) -> Floats:
    """Mean of the known values, 0 (the neutral value) where there is none."""
    return np.nansum(values, axis=axis) / np.maximum(np.isfinite(values).sum(axis=axis), 1)


def _by_day(history: Floats) -> Floats:
    """`history` as rows of SEASON hours, the last row ending where it ends, the first filled up with NaN."""
    missing = -len(history) % SEASON if len(history) else SEASON
    return np.concatenate([np.full(missing, np.nan), history]).reshape(-1, SEASON)


def _empty(context_hours: int) -> Windows:
    none, per_hour = np.empty(0), np.empty((0, HORIZON))
    return Windows(
        nodes=np.empty(0, dtype=np.str_),
        origins=np.empty(0, dtype="datetime64[h]"),
        context=np.empty((0, context_hours, len(CHANNELS)), dtype=np.float32),
        naive=per_hour.astype(np.float32),
        profile=per_hour.astype(np.float32),
        recent=np.empty((0, 1), dtype=np.float32),
        scale=none,
        center=none,
        spread=none,
        target=per_hour,
    )


def _slice(values: Floats, start: int, end: int) -> Floats:
    """`values[start:end]` with NaN for what lies outside."""
    result = np.full(end - start, np.nan)
    low, high = max(start, 0), min(end, len(values))
    if low < high:
        result[low - start : high - start] = values[low:high]
    return result


def _hours_between(start: np.datetime64, end: np.datetime64) -> int:
    return int((end.astype("datetime64[h]") - start.astype("datetime64[h]")).astype(np.int64))
