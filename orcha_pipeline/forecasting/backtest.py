"""Rolling origins: what to train on, what to hold out, and how contenders fared on the same held-out windows. Pure.

Time runs train | validation | test, and a boundary belongs to targets: no hour is a target on both sides of one. A
context may reach back over a boundary, for at its origin those hours were known.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orcha_pipeline.forecasting.baselines import Metrics, score, seasonal_errors, seasonal_naive
from orcha_pipeline.forecasting.features import HORIZON, Floats, Hours, NodeSeries, Windows, build_windows, hourly

HOLDOUT = 0.15
"""Part of the history that is validated on, and the same again that is tested on."""
HOLDOUT_HOURS = (48, 168)
TEST_STEP_HOURS = 3
"""An origin every third hour: eight a day, at every part of it."""
MIN_TARGETS = HORIZON // 2
"""Known hours a window's target needs to be learnt from."""


@dataclass(frozen=True, slots=True)
class Split:
    """Three sets of windows; training and validation windows have enough known targets, test windows at least one."""

    train: Windows
    validation: Windows
    test: Windows
    tested_from: np.datetime64


def split_windows(series: Mapping[str, NodeSeries], *, context_hours: int, max_windows: int, seed: int) -> Split:
    """Cut the nodes' common calendar by targets, taking at most `max_windows` windows to train on.

    Half as many at most to validate with; which ones, `seed` decides.
    """
    end = max(one.end for one in series.values())
    start = min(one.start for one in series.values())
    span = int((end - start).astype(np.int64))
    holdout = np.timedelta64(int(np.clip(round(HOLDOUT * span), *HOLDOUT_HOURS)), "h")
    tested_from = end - holdout
    validated_from = tested_from - holdout

    def windows(origins: dict[str, Hours], *, known: int) -> Windows:
        found = build_windows([(series[name], mine) for name, mine in origins.items()], context_hours=context_hours)
        return found.take(np.isfinite(found.target).sum(axis=1) >= known)

    def some(found: Windows, most: int) -> Windows:
        # At random and not every n-th: a step that shares a factor with 24 would never see some hours of the day.
        return found if len(found) <= most else found.take(np.sort(rng.choice(len(found), most, replace=False)))

    rng = np.random.default_rng(seed)
    before = {name: _origins(one.start, validated_from) for name, one in series.items()}
    between = dict.fromkeys(series, _origins(validated_from, tested_from))
    after = dict.fromkeys(series, _origins(tested_from, end, step=TEST_STEP_HOURS))
    return Split(
        train=some(windows(before, known=MIN_TARGETS), max_windows),
        validation=some(windows(between, known=MIN_TARGETS), max_windows // 2),
        test=windows(after, known=1),
        tested_from=tested_from,
    )


def naive_forecasts(windows: Windows, series: Mapping[str, NodeSeries]) -> Floats:
    """Seasonal naive at each window's origin, from that node's whole history before it: (n, HORIZON, 3)."""
    result = np.empty((len(windows), HORIZON, 3))
    for i, (name, origin) in enumerate(zip(windows.nodes.tolist(), windows.origins, strict=True)):
        band = seasonal_naive(series[name].before(origin).yields)
        result[i] = np.nan if band is None else band
    return result


def compare(windows: Windows, series: Mapping[str, NodeSeries], forecasts: Mapping[str, Floats]) -> dict[str, Metrics]:
    """Metrics of each contender's `forecasts` (n, HORIZON, 3) on the same windows, by the contender's name."""
    errors = [
        seasonal_errors(series[name].before(origin).yields)
        for name, origin in zip(windows.nodes.tolist(), windows.origins, strict=True)
    ]
    yardstick = np.array([np.abs(error).mean() if error.size else np.nan for error in errors])
    return {name: score(windows.target, forecast, yardstick) for name, forecast in forecasts.items()}


def _origins(start: np.datetime64, end: np.datetime64, *, step: int = 1) -> Hours:
    """Origins whose whole horizon lies in `[start, end)`."""
    return hourly(start, end - np.timedelta64(HORIZON - 1, "h"), step=step)
