"""Seasonal naive, the forecast every model must earn its place against, and the metrics both are held to. Pure."""

from dataclasses import asdict, dataclass

import numpy as np

from orcha_pipeline.forecasting.features import HORIZON, QUANTILES, SEASON, Floats, same_hour_before

MIN_ERRORS = 24
"""Past errors below which their quantiles say nothing; the band is then as wide as the history allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """How forecasts fared over `hours` known hours. None where the measure is undefined (nothing known, all zero).

    `wape`: sum of absolute errors over sum of absolute truths. `mase`: mean absolute error over that of
    "same as 24 h before" in the history before each origin. `smape`: 0..2. `pinball`: mean quantile loss of
    p10/p50/p90, USD per hour. `coverage80`: share of the truths inside p10..p90.
    """

    hours: int
    wape: float | None
    mase: float | None
    smape: float | None
    pinball: float | None
    coverage80: float | None

    def as_dict(self) -> dict[str, float]:
        """The measures that are defined, by name."""
        return {name: float(value) for name, value in asdict(self).items() if value is not None}


def seasonal_naive(history: Floats) -> Floats | None:
    """p10/p50/p90 of the HORIZON hours after `history` (hourly, NaN unknown): (HORIZON, 3), or None if none is known.

    p50 is the latest known value of the same hour of the day. The band comes from the errors that the same rule,
    with the same age of the value, made in `history` itself; with under MIN_ERRORS of them it reaches from 0 to
    twice the largest known value. In order, none below 0.
    """
    known = history[np.isfinite(history)]
    if not known.size:
        return None
    value, age = same_hour_before(history)
    middle = np.where(age > 0, value, np.median(known))
    low, high = np.empty(HORIZON), np.empty(HORIZON)
    for days in np.unique(age):
        errors = seasonal_errors(history, lag=SEASON * max(int(days), 1))
        hours = age == days
        if days == 0 or errors.size < MIN_ERRORS:
            low[hours], high[hours] = 0.0, 2 * known.max()
        else:
            low[hours] = middle[hours] + np.quantile(errors, QUANTILES[0], method="lower")
            high[hours] = middle[hours] + np.quantile(errors, QUANTILES[2], method="higher")
    band = np.stack([np.minimum(low, middle), middle, np.maximum(high, middle)], axis=-1)
    return np.maximum(band, 0.0)


def seasonal_errors(history: Floats, *, lag: int = SEASON) -> Floats:
    """What "same as `lag` hours before" got wrong in `history`, wherever both hours are known."""
    errors = history[lag:] - history[:-lag]
    return errors[np.isfinite(errors)]


def score(truth: Floats, forecast: Floats, seasonal_error: Floats) -> Metrics:
    """Metrics of `forecast` (n, HORIZON, 3) against `truth` (n, HORIZON), whose unknown hours (NaN) do not count.

    `seasonal_error` (n,) is each history's mean absolute seasonal error, NaN or 0 where it has none.
    """
    known = np.isfinite(truth)
    if not known.any():
        return Metrics(hours=0, wape=None, mase=None, smape=None, pinball=None, coverage80=None)
    true, quantiles = truth[known], forecast[known]
    error = np.abs(true - quantiles[:, 1])
    yardstick = np.broadcast_to(seasonal_error[:, None], truth.shape)[known]
    usable = np.isfinite(yardstick) & (yardstick > 0)
    total = float(np.abs(true).sum())
    size = np.abs(true) + np.abs(quantiles[:, 1])
    miss = true[:, None] - quantiles
    levels = np.asarray(QUANTILES)
    return Metrics(
        hours=int(known.sum()),
        wape=float(error.sum()) / total if total > 0 else None,
        mase=float((error[usable] / yardstick[usable]).mean()) if usable.any() else None,
        # Both zero is a perfect forecast of a zero, not an undefined one.
        smape=float(np.where(size > 0, 2 * error / np.where(size > 0, size, 1.0), 0.0).mean()),
        pinball=float(np.maximum(levels * miss, (levels - 1) * miss).mean()),
        coverage80=float(((quantiles[:, 0] <= true) & (true <= quantiles[:, 2])).mean()),
    )
