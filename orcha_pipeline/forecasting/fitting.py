"""Fitting candidates on equal terms: who could learn, who could not and why, and who would take too long to ask."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.candidates import forecaster_class
from orcha_pipeline.forecasting.panel import Forecaster, HourlySeries, Tell, say_nothing
from orcha_pipeline.forecasting.rolling import Clock, Rolled, Windows, histories_of
from orcha_pipeline.forecasting.selection import NAIVE, Evidence

PROBES = 4
"""Forecasts timed to foretell how long all of them take."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Candidates that learnt what they could, how long each took, and why others are not among them."""

    forecasters: Mapping[str, Forecaster]
    seconds: Mapping[str, float]
    dropped: Mapping[str, str] = field(default_factory=dict)


def fit_all(
    names: Sequence[str],
    panel: Sequence[HourlySeries],
    *,
    horizon: int,
    seed: int,
    clock: Clock = time.perf_counter,
    tell: Tell = say_nothing,
) -> Fitted:
    """Every named candidate, fitted on the series of `panel` of which any hour is known.

    One that cannot be fitted is left out with its reason.
    """
    panel = [series for series in panel if np.isfinite(series.values).any()]
    forecasters: dict[str, Forecaster] = {}
    seconds: dict[str, float] = {}
    dropped: dict[str, str] = {}
    for name in names:
        tell(f"{name}: learning from {len(panel):,} series")
        start = clock()
        try:
            forecaster = forecaster_class(name)()
            forecaster.fit(panel, horizon=horizon, seed=seed, tell=lambda line, name=name: tell(f"{name}: {line}"))
        except ModelError as error:
            dropped[name] = str(error)
            continue
        forecasters[name] = forecaster
        seconds[name] = clock() - start
    return Fitted(forecasters, seconds, dropped)


def within_budget(
    fitted: Fitted,
    panel: Sequence[HourlySeries],
    windows: Windows,
    forecasts: int,
    *,
    budget: float,
    clock: Clock = time.perf_counter,
) -> Fitted:
    """Less the candidates that would need more than `budget` seconds for that many forecasts, timed on a few."""
    probes = histories_of(panel, windows.take(np.arange(len(windows)) < PROBES))
    kept = dict(fitted.forecasters)
    dropped = dict(fitted.dropped)
    for name, forecaster in fitted.forecasters.items():
        if not probes or name == NAIVE:
            continue
        forecaster.forecast(probes[:1], horizon=windows.horizon)  # what is only paid once is not counted
        start = clock()
        forecaster.forecast(probes, horizon=windows.horizon)
        foretold = (clock() - start) / len(probes) * forecasts
        if foretold > budget:
            del kept[name]
            dropped[name] = f"{forecasts:,} forecasts would take about {foretold:.0f} s, more than {budget:.0f} s"
    return replace(fitted, forecasters=kept, dropped=dropped)


def evidence_of(panel: Sequence[HourlySeries], rolled: Rolled) -> Evidence:
    """What was forecast and what came true, for the selection."""
    names = np.array([series.name for series in panel])
    windows = rolled.windows
    return Evidence(
        series=names[windows.series], times=windows.times, truth=windows.truth, forecasts=dict(rolled.forecasts)
    )
