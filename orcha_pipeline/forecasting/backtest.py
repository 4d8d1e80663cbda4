"""The rolling-origin backtest behind `orcha backtest forecast`, and the training behind `orcha forecast`.

Time runs  learn | validate | test.  Every candidate learns from what lies before the validation part and forecasts its
windows: the evidence of the first selection. Then it learns again from everything before the test part and forecasts
the test windows; what is served at each of them is selected from the windows that had wholly come true by then.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.fitting import Fitted, evidence_of, fit_all, within_budget
from orcha_pipeline.forecasting.panel import SEASON, Floats, HourlySeries, Tell, say_nothing
from orcha_pipeline.forecasting.rolling import Clock, Rolled, Windows, roll, windows_at
from orcha_pipeline.forecasting.selection import NAIVE, Selection, blend_all, select, serve

VALIDATED_SHARE = 0.25
"""Part of what is before the test part that is validated on."""
MAX_WINDOWS = 840
"""Validation windows of all series together; fewer origins for more series, never fewer than MIN_ORIGINS."""
MIN_ORIGINS = 3
MAX_ORIGINS = 60
BUDGET_SECONDS = 400.0
"""A candidate whose forecasts would take longer is left out."""


@dataclass(frozen=True, slots=True)
class Backtest:
    """All of a backtest's numbers: what each candidate forecast for the test windows, and what would have been served.

    `selection` is the one at the last origin. `fit_seconds` counts both fits, `predict_seconds` both parts' forecasts.
    """

    panel: Sequence[HourlySeries]
    anchors: Sequence[int]
    rolled: Rolled
    served: Floats
    served_seconds: float
    selection: Selection
    validation: Rolled
    fit_seconds: Mapping[str, float]
    predict_seconds: Mapping[str, float]
    dropped: Mapping[str, str]


def anchors_of(panel: Sequence[HourlySeries], last: int, *, same_calendar: bool) -> list[int]:
    """Where each series' test part begins, `last` hours before the end.

    Series on the same calendar share its end; series that each count their own hours are lined up at their own ends.
    """
    if same_calendar:
        return [max(series.end for series in panel) - last] * len(panel)
    return [series.end - last for series in panel]


def validation_times(seen: Sequence[HourlySeries], anchors: Sequence[int], horizon: int) -> list[int]:
    """Origins to validate at, counted from the anchors (so they are negative): whole days apart, none past the end.

    Empty where the median series is too short to be cut in two.
    """
    lengths = [anchor - series.first_hour for series, anchor in zip(seen, anchors, strict=True)]
    span = int(VALIDATED_SHARE * np.median(lengths))
    most = int(np.clip(MAX_WINDOWS // max(1, len(seen)), MIN_ORIGINS, MAX_ORIGINS))
    if span < horizon + SEASON:
        return []
    days = (span - horizon) // SEASON
    back = np.unique(np.round(np.linspace(0, days, min(most, days + 1))).astype(int))
    return sorted((-horizon - SEASON * back).tolist())


@dataclass(frozen=True, slots=True)
class Trained:
    """Candidates fitted on all that was to be seen, and the validation that says what to make of them."""

    fitted: Fitted
    validation: Rolled
    fit_seconds: Mapping[str, float]


def train(
    names: Sequence[str],
    panel: Sequence[HourlySeries],
    anchors: Sequence[int],
    *,
    horizon: int,
    seed: int,
    later_forecasts: int,
    budget: float = BUDGET_SECONDS,
    clock: Clock = time.perf_counter,
    tell: Tell = say_nothing,
) -> Trained:
    """Validate the candidates on the last part of what lies before the anchors, then fit them on all of it.

    `later_forecasts` is how many more will be asked for: a candidate that could not make them within `budget` seconds
    is left out now. Raises ModelError where no candidate is left.
    """
    seen = [series.before(anchor) for series, anchor in zip(panel, anchors, strict=True)]
    if not any(np.isfinite(series.values).any() for series in seen):
        raise ModelError("There is nothing to learn from: no hour before the test part is known.")
    times = validation_times(seen, anchors, horizon)
    windows = windows_at(seen, anchors, times, horizon)
    learnt: Mapping[str, float] = {}
    validation = Rolled(windows, dict.fromkeys(names, np.empty((0, horizon, 3))), {}, {})
    dropped: Mapping[str, str] = {}
    if len(windows):
        tell(f"validating at {len(times)} origins")
        earlier = [series.before(anchor + times[0]) for series, anchor in zip(seen, anchors, strict=True)]
        fitted = fit_all(names, earlier, horizon=horizon, seed=seed, clock=clock, tell=tell)
        fitted = within_budget(fitted, seen, windows, len(windows) + later_forecasts, budget=budget, clock=clock)
        validation = roll(fitted.forecasters, seen, windows, clock=clock, tell=tell)
        learnt, dropped = fitted.seconds, fitted.dropped
    again = fit_all(
        [name for name in names if name not in dropped], seen, horizon=horizon, seed=seed, clock=clock, tell=tell
    )
    dropped = {**dropped, **again.dropped}
    if not again.forecasters:
        raise ModelError("No model could be fitted: " + "; ".join(f"{name}: {why}" for name, why in dropped.items()))
    kept = {name: rows for name, rows in validation.forecasts.items() if name in again.forecasters}
    seconds = {name: learnt.get(name, 0.0) + again.seconds[name] for name in again.forecasters}
    return Trained(replace(again, dropped=dropped), replace(validation, forecasts=kept), seconds)


def backtest(
    panel: Sequence[HourlySeries],
    *,
    horizon: int,
    models: Sequence[str],
    last: int = 0,
    step: int = SEASON,
    seed: int = 0,
    test_panel: Sequence[HourlySeries] | None = None,
    same_calendar: bool = True,
    budget: float = BUDGET_SECONDS,
    clock: Clock = time.perf_counter,
    tell: Tell = say_nothing,
) -> Backtest:
    """Test the candidates and what would be served, on the last `last` hours every `step`, or once on `test_panel`.

    With a `test_panel`, which continues the histories (series by name), there is one origin: the history's end.
    `same_calendar` says that an hour of one series is the same hour in all; see `anchors_of`.
    Seasonal naive takes part whether it is named or not. Raises ModelError where there is nothing to test on.
    """
    names = tuple(dict.fromkeys((NAIVE, *models)))
    if test_panel is None:
        anchors, times = anchors_of(panel, last, same_calendar=same_calendar), list(range(0, last - horizon + 1, step))
        whole = list(panel)
    else:
        panel, whole = _joined(panel, test_panel, horizon)
        anchors, times = [series.end for series in panel], [0]
    windows = windows_at(whole, anchors, times, horizon)
    if not len(windows):
        raise ModelError("There is nothing to test on: no window of the test part has a known hour.")
    trained = train(
        names, panel, anchors, horizon=horizon, seed=seed, later_forecasts=len(windows), budget=budget, clock=clock,
        tell=tell,
    )  # fmt: skip
    rolled = roll(trained.fitted.forecasters, whole, windows, clock=clock, tell=tell)
    tell("selecting what is served")
    start = clock()
    served, selection = serve(evidence_of(whole, trained.validation), evidence_of(whole, rolled))
    return Backtest(
        panel=whole,
        anchors=anchors,
        rolled=rolled,
        served=served,
        served_seconds=clock() - start,
        selection=selection,
        validation=trained.validation,
        fit_seconds=trained.fit_seconds,
        predict_seconds={name: trained.validation.seconds.get(name, 0.0) + s for name, s in rolled.seconds.items()},
        dropped=trained.fitted.dropped,
    )


def _joined(
    panel: Sequence[HourlySeries], test_panel: Sequence[HourlySeries], horizon: int
) -> tuple[list[HourlySeries], list[HourlySeries]]:
    """The histories that are tested, and each with its truth behind it."""
    truths = {series.name: series for series in test_panel}
    tested = [series for series in panel if series.name in truths]
    if not tested:
        raise ModelError("No series of the test file is in the history.")
    whole = [
        replace(one, values=np.append(one.values, truths[one.name].between(one.end, one.end + horizon)), shares=None)
        for one in tested
    ]
    return tested, whole


@dataclass(frozen=True, slots=True)
class Forecasts:
    """What is served from each series' end on, (n, horizon, 3), with the selection it came from."""

    served: Floats
    selection: Selection
    dropped: Mapping[str, str]


def forecast_ahead(
    panel: Sequence[HourlySeries],
    *,
    horizon: int,
    models: Sequence[str],
    seed: int = 0,
    budget: float = BUDGET_SECONDS,
    clock: Clock = time.perf_counter,
    tell: Tell = say_nothing,
) -> Forecasts:
    """Select and forecast the `horizon` hours after each series' own end."""
    names = tuple(dict.fromkeys((NAIVE, *models)))
    anchors = [series.end for series in panel]
    trained = train(
        names, panel, anchors, horizon=horizon, seed=seed, later_forecasts=len(panel), budget=budget, clock=clock,
        tell=tell,
    )  # fmt: skip
    selection = select(evidence_of(panel, trained.validation), now=0)
    here = np.arange(len(panel))
    windows = Windows(here, np.array(anchors), np.zeros(len(panel), np.int64), np.full((len(panel), horizon), np.nan))
    rolled = roll(trained.fitted.forecasters, panel, windows, clock=clock, tell=tell)
    served = blend_all(selection, [series.name for series in panel], rolled.forecasts)
    return Forecasts(served, selection, trained.fitted.dropped)
