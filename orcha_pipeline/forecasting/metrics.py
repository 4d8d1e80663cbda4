"""The measures every forecast is held to. Pure.

An hour whose truth is unknown (NaN) weighs nothing. Neither does one without a forecast, so compare contenders only
where the same hours are answered; `Scores.hours` says how many were.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.forecasting.panel import QUANTILES, SEASON, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How forecasts fared over `hours` hours. None where a measure is undefined (nothing known, all zero).

    `wape`: sum of absolute errors over sum of absolute truths. `mase`: mean absolute error over that of "same as a
    season before" in each history. `smape`: 0..2, M4's (which writes it as 0..200 %). `pinball`: mean quantile loss
    of p10, p50 and p90, in the series' unit. `coverage80`: share of the truths inside p10..p90.
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


NO_SCORES = Scores(hours=0, wape=None, mase=None, smape=None, pinball=None, coverage80=None)
"""Of nothing."""


def score(truth: Floats, forecast: Floats, yardstick: Floats) -> Scores:
    """Scores of `forecast` (n, h, 3) against `truth` (n, h), all windows pooled.

    `yardstick` (n,) is each history's `seasonal_yardstick`; windows where it is NaN or 0 are left out of MASE.
    """
    known = np.isfinite(truth) & np.isfinite(forecast).all(axis=-1)
    if not known.any():
        return NO_SCORES
    true, quantiles = truth[known], forecast[known]
    error = np.abs(true - quantiles[:, 1])
    scale = np.broadcast_to(yardstick[:, None], truth.shape)[known]
    usable = np.isfinite(scale) & (scale > 0)
    total = float(np.abs(true).sum())
    size = np.abs(true) + np.abs(quantiles[:, 1])
    miss = true[:, None] - quantiles
    levels = np.asarray(QUANTILES)
    return Scores(
        hours=int(known.sum()),
        wape=float(error.sum()) / total if total > 0 else None,
        mase=float((error[usable] / scale[usable]).mean()) if usable.any() else None,
        # Both zero is a perfect forecast of a zero, not an undefined one.
        smape=float(np.where(size > 0, 2 * error / np.where(size > 0, size, 1.0), 0.0).mean()),
        pinball=float(np.maximum(levels * miss, (levels - 1) * miss).mean()),
        coverage80=float(((quantiles[:, 0] <= true) & (true <= quantiles[:, 2])).mean()),
    )


def score_each(series: NDArray[Any], truth: Floats, forecast: Floats, yardstick: Floats) -> dict[Any, Scores]:
    """Scores of each series by itself, by its label in `series` (n,) (a name or a number), in order of label."""
    return {label: score(*_rows(series == label, truth, forecast, yardstick)) for label in np.unique(series).tolist()}


def mean_over_series(scores: Iterable[Scores]) -> Scores:
    """The mean of each measure over the series in which it is defined, every series counting the same; hours add up."""
    each = list(scores)
    means: dict[str, float | None] = {}
    for name in (field.name for field in fields(Scores) if field.name != "hours"):
        defined = [getattr(one, name) for one in each if getattr(one, name) is not None]
        means[name] = float(np.mean(defined)) if defined else None
    return Scores(hours=sum(one.hours for one in each), **means)


def seasonal_yardstick(history: Floats, season: int = SEASON) -> float:
    """MASE's denominator: the mean of |y(t) - y(t - season)| in `history` (t,), NaN where no such pair is known."""
    steps = np.abs(history[season:] - history[:-season])
    known = steps[np.isfinite(steps)]
    return float(known.mean()) if known.size else float("nan")


def owa(smape: float | None, mase: float | None, naive2_smape: float | None, naive2_mase: float | None) -> float | None:
    """M4's overall weighted average: sMAPE and MASE, each a mean over series, relative to Naive2's; 1 is Naive2.

    None where one of the four is undefined, or Naive2's are 0.
    """
    if smape is None or mase is None or not naive2_smape or not naive2_mase:
        return None
    return (smape / naive2_smape + mase / naive2_mase) / 2


def error_by_horizon(truth: Floats, forecast: Floats) -> Floats:
    """WAPE of p50 by step ahead, (h,): `truth` (n, h), `forecast` (n, h, 3). NaN where undefined."""
    middle = forecast[..., 1]
    known = np.isfinite(truth) & np.isfinite(middle)
    error = np.where(known, np.abs(truth - middle), 0.0).sum(axis=0)
    total = np.where(known, np.abs(truth), 0.0).sum(axis=0)
    return np.where(total > 0, error / np.where(total > 0, total, 1.0), np.nan)


def _rows(which: NDArray[np.bool_], *tables: Floats) -> list[Floats]:
    return [table[which] for table in tables]
