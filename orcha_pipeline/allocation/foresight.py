"""What is to come, from a host's own record: its nodes' responses, their quarter-hours and the hourly forecasts. Pure.

The regression on quarter-hours tells the coming hours, the served forecast takes over by and by (`outlook`). A node of
which too few quarter-hours are known is told by its forecast alone.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np

from orcha_pipeline.allocation.outlook import (
    DAY,
    DAY_HOURS,
    PERIODS,
    Floats,
    Outlook,
    YieldHistory,
    learn,
    merged,
    outlook_of_quantiles,
    period_means,
)
from orcha_pipeline.allocation.response_learning import LearntResponse, learn_response
from orcha_pipeline.errors import PlanError
from orcha_pipeline.model import HOUR, YieldForecast, hour_of

HISTORY_DAYS = 28
"""Of quarter-hours that are learnt from."""
SCENARIOS = 6
FRESH = 3 * DAY
"""The last quarter-hours, of which at least LEAST_KNOWN must be known."""
LEAST_KNOWN = 0.5


def responses(rates: Floats, shares: Floats, *, prior: float) -> list[LearntResponse]:
    """How each of P nodes answers to its share, from quarter-hours (T, P): USD an hour, and the share; NaN unknown."""
    return [learn_response(rates[:, i], shares[:, i], prior=prior) for i in range(rates.shape[1])]


def check_complete(yields: YieldForecast) -> None:
    """Raise `PlanError` for a forecast that has not a value of each quantile for each hour."""
    for name in ("p10", "p50", "p90"):
        if (count := len(getattr(yields, name))) != len(yields.hours):
            raise PlanError(f"forecast of {yields.node}: {count} values of {name} for {len(yields.hours)} hours")


def coming_hours(yields: YieldForecast, issued_at: datetime) -> dict[str, list[float]]:
    """p10, p50 and p90 of the coming 24 hours from the one of `issued_at` on; empty where the first is not forecast.

    What was forecast last goes on where a forecast has a gap or ends. Raises `PlanError` for one that is incomplete.
    """
    check_complete(yields)
    known = {hour: place for place, hour in enumerate(yields.hours)}
    first = hour_of(issued_at)
    if first not in known:
        return {}
    places: list[int] = []
    for ahead in range(DAY_HOURS):
        places.append(known.get(first + ahead * HOUR, places[-1] if places else known[first]))
    return {name: [getattr(yields, name)[place] for place in places] for name in ("p10", "p50", "p90")}


def by_forecasts(forecasts: Sequence[YieldForecast | None], issued_at: datetime) -> Outlook:
    """What the hourly forecasts alone tell, a column a node; NaN for one that has none."""
    grids = {name: np.full((len(PERIODS), len(forecasts)), np.nan) for name in ("p10", "p50", "p90")}
    for column, each in enumerate(forecasts):
        if each is not None:
            for name, values in coming_hours(each, issued_at).items():
                grids[name][:, column] = period_means(values)
    return outlook_of_quantiles(grids["p10"], grids["p50"], grids["p90"])


def foresee(
    rates: Floats,
    shares: Floats,
    *,
    nodes: Sequence[str],
    known_responses: Sequence[LearntResponse],
    forecasts: Mapping[str, YieldForecast],
    shares_now: Mapping[str, float | None],
    prior: float,
    issued_at: datetime,
) -> Outlook:
    """What is expected of P nodes, from quarter-hours (T, P) up to now and the served forecasts.

    Those are of yields by the `prior` curvature: a node's own is put in its place at the share it has.
    """
    curvature = np.array([each.curvature for each in known_responses])
    # The same earnings at the share of now are another yield where the curvature is another.
    factor = np.array(
        [(shares_now.get(node) or 1.0) ** (prior - power) for node, power in zip(nodes, curvature, strict=True)]
    )
    served = by_forecasts([forecasts.get(node) for node in nodes], issued_at).times(factor)
    fresh = np.isfinite(rates[-FRESH:]) & np.isfinite(shares[-FRESH:]) & (shares[-FRESH:] > 0)
    enough = fresh.sum(axis=0) >= LEAST_KNOWN * FRESH
    if not enough.any():
        return served
    with np.errstate(divide="ignore", invalid="ignore"):
        yields = np.where(shares > 0, rates / shares**curvature, np.nan)
    history = YieldHistory(yields[:, enough], ~(rates[:, enough] <= 0))
    lines = learn(history)
    if lines is None:
        return served
    seen = lines.ahead(history, scenarios=SCENARIOS, later=served.mean[:, enough])
    whole = seen.of(np.maximum(np.cumsum(enough) - 1, 0))  # those not among them are taken from `served`
    return merged(whole, served, ~enough | ~np.isfinite(whole.mean).all(axis=0))
