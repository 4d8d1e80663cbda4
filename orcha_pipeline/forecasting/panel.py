"""What every forecaster reads and answers: hourly series in, quantiles of the hours to come out. Pure.

A *panel* is several series of one kind. An *origin* is the first hour that is not known yet; a forecaster sees only
what `HourlySeries.before(origin)` holds, so that nothing at or after the origin can leak into a forecast.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.errors import ModelError

SEASON = 24
WEEK = 168
QUANTILES = (0.1, 0.5, 0.9)

Floats = NDArray[np.float64]
Tell = Callable[[str], None]
"""Takes a line of progress for a person."""


def say_nothing(_line: str) -> None:
    """Progress for nobody."""


@dataclass(frozen=True, slots=True)
class HourlySeries:
    """One series on a gapless hourly grid. `values` is (t,), NaN where unknown: never filled, never zero.

    `first_hour` counts hours: from 1970-01-01 00:00 UTC (a Thursday) where the series has a calendar, else from
    whatever the table's integers count from; `hour % 24` is the hour of the day either way, as far as one is known.
    `shares` (t,), 0..1, NaN where unknown, is the node's allocation in each hour; None where there is no such thing.
    """

    name: str
    first_hour: int
    values: Floats
    shares: Floats | None = None

    @property
    def end(self) -> int:
        """The hour after the last one: the origin of a forecast from all that is known."""
        return self.first_hour + len(self.values)

    def before(self, origin: int) -> Self:
        """What was there to know at `origin`: the hours before it, up to it with unknown ones."""
        start = min(self.first_hour, origin)
        shares = self.shares
        return replace(
            self,
            first_hour=start,
            values=_window(self.values, self.first_hour, start, origin),
            shares=None if shares is None else _window(shares, self.first_hour, start, origin),
        )

    def between(self, start: int, end: int) -> Floats:
        """The values of the hours `[start, end)`, NaN where the grid does not reach."""
        return _window(self.values, self.first_hour, start, end)


def on_a_weekend(hours: NDArray[np.int64]) -> Floats:
    """1 where an hour, counted from 1970-01-01, a Thursday, is a Saturday's or Sunday's, else 0."""
    return (hours // SEASON % 7 // 2 == 1).astype(np.float64)


def _window(values: Floats, first: int, start: int, end: int) -> Floats:
    if first <= start and end <= first + len(values):
        return values[start - first : end - first]
    result = np.full(max(0, end - start), np.nan)
    low, high = max(start, first), min(end, first + len(values))
    if low < high:
        result[low - start : high - start] = values[low - first : high - first]
    return result


class Forecaster(ABC):
    """One way to forecast. Fitted once on a panel, then asked from any number of histories.

    Whatever it is, `forecast` depends on the fit and on the history given, on nothing else; the same panel, horizon
    and seed give the same fit on the same machine.
    """

    name: ClassVar[str]
    """As it stands in tables, in MLflow and in the warehouse."""

    @abstractmethod
    def fit(self, panel: Sequence[HourlySeries], *, horizon: int, seed: int, tell: Tell = say_nothing) -> None:
        """Learn from `panel`, all of which may be looked at. Raises ModelError where there is too little of it."""

    @abstractmethod
    def forecast(self, histories: Sequence[HourlySeries], *, horizon: int) -> Floats:
        """p10, p50, p90 of the `horizon` hours from each history's `end` on: (n, horizon, 3), in order.

        `horizon` is at most the one fitted for. The histories may be of series never fitted on, of one series at
        many origins, or too short: a row it has no answer for is all NaN, never an exception, never an infinity.
        """

    def save(self, folder: Path) -> None:
        """Leave what `load` needs in `folder`, which exists and is its own. Nothing where nothing was learnt."""
        del folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The forecaster that was saved in `folder`: it gives exactly the forecasts the saved one gave."""
        del folder
        return cls()

    def _require_fit(self, fitted_horizon: int, horizon: int = 0) -> None:
        """Raise ModelError where nothing was fitted (a horizon of 0), or only for fewer hours than are asked."""
        if not fitted_horizon:
            raise ModelError(f"{self.name} has not been fitted")
        if horizon > fitted_horizon:
            raise ModelError(f"{self.name} was fitted for {fitted_horizon} hours ahead, not for {horizon}")

    @property
    def parameters(self) -> Mapping[str, float | int | str]:
        """What shaped it, for MLflow: settings, and what the fit came to (rounds, epochs, rows)."""
        return {}
