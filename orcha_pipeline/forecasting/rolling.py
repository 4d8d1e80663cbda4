"""Rolling origins: the same windows forecast by every candidate, none of which sees an hour at or after its origin.

Times are counted from an *anchor* a series, so that series that share a calendar move through it together (one anchor
for all) and series that only share a length of history can be lined up at their own ends.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.forecasting.panel import Floats, Forecaster, HourlySeries, Tell, say_nothing

Clock = Callable[[], float]
"""Seconds from some fixed moment."""
BATCH = 256
"""Histories asked for at once: few enough that progress shows, enough that a network's batches are full."""


@dataclass(frozen=True, slots=True)
class Windows:
    """n forecasts to make: of which series, from which origin on, and what came true.

    `series` (n,) indexes the panel and `origins` (n,) are its hours; `times` (n,) are the origins counted from the
    series' anchor, `truth` (n, horizon) is NaN where unknown.
    """

    series: NDArray[np.int64]
    origins: NDArray[np.int64]
    times: NDArray[np.int64]
    truth: Floats

    def __len__(self) -> int:
        return len(self.series)

    @property
    def horizon(self) -> int:
        """Hours a forecast reaches."""
        return self.truth.shape[1]

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        """The windows where the mask (n,) is true, or at these places."""
        return replace(
            self,
            series=self.series[which],
            origins=self.origins[which],
            times=self.times[which],
            truth=self.truth[which],
        )


@dataclass(frozen=True, slots=True)
class Rolled:
    """What candidates forecast for the same windows: (n, horizon, 3) each, every row finite or wholly NaN.

    `fallbacks` counts the rows another forecaster had to answer, `seconds` what the candidate's own answers took.
    """

    windows: Windows
    forecasts: Mapping[str, Floats]
    fallbacks: Mapping[str, int]
    seconds: Mapping[str, float]


def windows_at(panel: Sequence[HourlySeries], anchors: Sequence[int], times: Sequence[int], horizon: int) -> Windows:
    """A window for every series and time, in order of time.

    Less those of which no hour is known to forecast from, or none to compare with.
    """
    first = [_first_known(series) for series in panel]
    rows = [(i, anchor + at, at) for at in sorted(times) for i, anchor in enumerate(anchors) if first[i] < anchor + at]
    columns = np.array(rows, dtype=np.int64).reshape(len(rows), 3)
    truth = np.empty((len(rows), horizon))
    for row, (i, origin, _) in enumerate(rows):
        truth[row] = panel[i].between(origin, origin + horizon)
    found = Windows(series=columns[:, 0], origins=columns[:, 1], times=columns[:, 2], truth=truth)
    return found.take(np.flatnonzero(np.count_nonzero(np.isfinite(truth), axis=1)))


def _first_known(series: HourlySeries) -> float:
    known = np.flatnonzero(np.isfinite(series.values))
    return series.first_hour + float(known[0]) if known.size else np.inf


def histories_of(panel: Sequence[HourlySeries], windows: Windows) -> list[HourlySeries]:
    """What was there to know at each window's origin: nothing at or after it."""
    pairs = zip(windows.series.tolist(), windows.origins.tolist(), strict=True)
    return [panel[i].before(origin) for i, origin in pairs]


def roll(
    forecasters: Mapping[str, Forecaster],
    panel: Sequence[HourlySeries],
    windows: Windows,
    *,
    clock: Clock = time.perf_counter,
    tell: Tell = say_nothing,
) -> Rolled:
    """Ask every fitted candidate for every window. A row it has no answer for is answered by `fallback`."""
    histories = histories_of(panel, windows)
    stand_in = fallback(histories, windows.horizon)
    forecasts: dict[str, Floats] = {}
    fallbacks: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for name, forecaster in forecasters.items():
        start = clock()
        made = _in_batches(forecaster, histories, windows.horizon, lambda line, name=name: tell(f"{name}: {line}"))
        seconds[name] = clock() - start
        missing = ~np.all(np.isfinite(made), axis=(1, 2))
        forecasts[name] = np.where(np.reshape(missing, (-1, 1, 1)), stand_in, made)
        fallbacks[name] = int(np.count_nonzero(missing))
    return Rolled(windows=windows, forecasts=forecasts, fallbacks=fallbacks, seconds=seconds)


def _in_batches(forecaster: Forecaster, histories: Sequence[HourlySeries], horizon: int, tell: Tell) -> Floats:
    parts = [np.empty((0, horizon, 3))]
    for start in range(0, len(histories), BATCH):
        tell(f"{start:,} of {len(histories):,} forecasts")
        parts.append(forecaster.forecast(histories[start : start + BATCH], horizon=horizon))
    return np.concatenate(parts)


def fallback(histories: Sequence[HourlySeries], horizon: int) -> Floats:
    """Seasonal naive, else the last resort: (n, horizon, 3). NaN only where a history knows no hour at all."""
    from orcha_pipeline.forecasting.naive import SeasonalNaive, last_resort

    naive = SeasonalNaive()
    naive.fit(histories, horizon=horizon, seed=0)
    result = naive.forecast(histories, horizon=horizon)
    for row in np.flatnonzero(~np.all(np.isfinite(result), axis=(1, 2))).tolist():
        result[row] = last_resort(histories[row], horizon)
    return result
