"""MSTL and Theta, fitted to each history by itself at the time of the forecast; nothing is learnt beforehand.

A series that was never negative is fitted in logarithms (of the value and a small part of its mean, so that zeros have
one too): bursts then do not bend its season, and nothing below zero comes out. Unknown hours inside a history are drawn
straight between their neighbours for the fit alone, and only where few are unknown.
"""

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from orcha_pipeline.forecasting.panel import (
    QUANTILES,
    SEASON,
    WEEK,
    Floats,
    Forecaster,
    HourlySeries,
    Tell,
    say_nothing,
)

MAX_UNKNOWN = 0.2
"""Part of the fitted hours that may be unknown; with more there is no answer."""
MAX_LATE = SEASON
"""Hours at the history's end that may be unknown; they are forecast on the way."""
MIN_HOURS = 3 * SEASON
LOG_OFFSET = 0.03
"""Added before the logarithm, in means of the history."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Between a series' unit and what is fitted, both ways."""

    logarithmic: bool
    shift: float
    unit: float

    @classmethod
    def of(cls, known: Floats) -> "_Scale":
        if (known >= 0).all():
            return cls(logarithmic=True, shift=0.0, unit=LOG_OFFSET * float(known.mean()))
        return cls(logarithmic=False, shift=float(known.mean()), unit=float(known.std()))

    def fitted(self, values: Floats) -> Floats:
        scaled = (values - self.shift) / self.unit
        return np.log1p(scaled) if self.logarithmic else scaled

    def real(self, fitted: Floats) -> Floats:
        scaled = np.maximum(np.expm1(fitted), 0.0) if self.logarithmic else fitted
        return scaled * self.unit + self.shift


class _PerSeries(Forecaster):
    """A model of one series with no unknown hours, asked for every history in turn.

    p10 and p90 are p50 and what "same as a day before" (two days, for the second day) got wrong in what was fitted.
    """

    hours: ClassVar[int]
    """How much of a history is fitted at most."""

    def fit(self, panel: Sequence[HourlySeries], *, horizon: int, seed: int, tell: Tell = say_nothing) -> None:
        """Nothing to learn."""
        del panel, horizon, seed, tell

    def forecast(self, histories: Sequence[HourlySeries], *, horizon: int) -> Floats:
        """p10, p50, p90: (n, horizon, 3), NaN where a history is too short or has too many unknown hours."""
        result = np.full((len(histories), horizon, 3), np.nan)
        # What a fit has to say of a difficult series is said by the row it leaves.
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for row, history in enumerate(histories):
                result[row] = self._one(history.values, horizon)
        return result

    @property
    def parameters(self) -> Mapping[str, float | int | str]:
        """How much of a history is fitted."""
        return {"history_hours": self.hours}

    @abstractmethod
    def _ahead(self, values: Floats, horizon: int) -> Floats:
        """The `horizon` values after `values` (t,), all known and not all the same."""

    def _one(self, history: Floats, horizon: int) -> Floats:
        nothing = np.full((horizon, 3), np.nan)
        values = _fittable(history[-self.hours :])
        if values is None:
            return nothing
        known = values[np.isfinite(values)]
        least, largest = float(known.min()), float(known.max())
        if least == largest:
            return np.full((horizon, 3), least)
        scale = _Scale.of(known)
        late = int(np.isfinite(values[::-1]).argmax())
        scaled = scale.fitted(values)
        if not np.isfinite(scaled[np.isfinite(values)]).all():  # too small to be told apart
            return nothing
        try:
            middle = self._ahead(_interpolated(scaled[: len(scaled) - late]), late + horizon)[late:]
        except Exception:  # noqa: BLE001  (a fit may fail in any way; the others' forecasts must not be lost with it)
            return nothing
        real = scale.real(middle[:, None] + _doubt(scaled, horizon))
        # Further out than all of the history is wide, a trend has run away.
        span = largest - least
        real = np.clip(real, least - span if least < 0 else max(0.0, least - span), largest + span)
        return real if np.isfinite(real).all() else nothing


class Mstl(_PerSeries):
    """Seasons of a day and, from three weeks on, a week taken off by STL; what is left goes on with a damped trend."""

    name: ClassVar[str] = "mstl"
    hours: ClassVar[int] = 8 * WEEK

    def _ahead(self, values: Floats, horizon: int) -> Floats:
        from statsforecast.models import AutoETS
        from statsforecast.mstl import mstl

        periods = [SEASON, WEEK] if len(values) >= 3 * WEEK else [SEASON]
        # LOESS at every twelfth point and straight lines between them: the same forecasts in a third of the time.
        smooth = {"seasonal_jump": 1, "trend_jump": 12, "low_pass_jump": 12}
        parts = mstl(values, periods, iterate=1, s_window=np.array([11, 15]), stl_kwargs=smooth)
        names = [f"seasonal{period}" for period in periods] if len(periods) > 1 else ["seasonal"]
        seasons = [parts[name].to_numpy() for name in names]
        rest = values - np.sum(seasons, axis=0)
        ahead = AutoETS(model="AAN", damped=True).forecast(y=rest, h=horizon)["mean"]
        coming = [np.resize(season[-period:], horizon) for season, period in zip(seasons, periods, strict=True)]
        return ahead + np.sum(coming, axis=0)


class Theta(_PerSeries):
    """The standard Theta model after a classical additive decomposition with a season of a day."""

    name: ClassVar[str] = "theta"
    hours: ClassVar[int] = 3 * WEEK

    def _ahead(self, values: Floats, horizon: int) -> Floats:
        from statsforecast.models import Theta as Standard

        return Standard(season_length=SEASON, decomposition_type="additive").forecast(y=values, h=horizon)["mean"]


def _fittable(values: Floats) -> Floats | None:
    """`values` from the first known hour on, or None where too few are known to fit anything."""
    known = np.isfinite(values)
    if not known.any():
        return None
    values, known = values[known.argmax() :], known[known.argmax() :]
    late = int(known[::-1].argmax())
    fitted = len(values) - late
    enough = fitted >= MIN_HOURS and late <= MAX_LATE and known.sum() >= (1 - MAX_UNKNOWN) * fitted
    return np.where(known, values, np.nan) if enough else None


def _interpolated(values: Floats) -> Floats:
    known = np.flatnonzero(np.isfinite(values))
    return np.interp(np.arange(len(values)), known, values[known])


def _doubt(values: Floats, horizon: int) -> Floats:
    """How far p10, p50 and p90 lie from p50, (horizon, 3), by what repeating the day before got wrong."""
    result = np.zeros((horizon, 3))
    for day in range(-(-horizon // SEASON)):
        # Two days at least to learn from; further ahead than that leaves, the doubt stays what it is.
        lag = min(SEASON * (day + 1), len(values) - 2 * SEASON)
        errors = values[lag:] - values[:-lag]
        errors = errors[np.isfinite(errors)]
        here = slice(day * SEASON, (day + 1) * SEASON)
        if errors.size:
            low, high = np.quantile(errors, [QUANTILES[0], QUANTILES[2]])
            result[here] = [min(low, 0.0), 0.0, max(high, 0.0)]
    return result
