"""The 24 hours to come, by the protocol's champion or, where it cannot be used, by seasonal naive.

Never loads TensorFlow, MLflow or pandas: this runs every 15 minutes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import numpy as np

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.features import HORIZON, known_hours, node_and_target, to_hour
from orcha_pipeline.forecasting.panel import Floats, HourlySeries
from orcha_pipeline.forecasting.rolling import fallback
from orcha_pipeline.forecasting.selection import NAIVE
from orcha_pipeline.forecasting.served_model import ServedModel
from orcha_pipeline.model import HOUR, YieldForecast, hour_of, utc

NAIVE_VERSION = "24h"


def forecast(
    panel: Sequence[HourlySeries],
    *,
    issued_at: datetime,
    model_dir: Path | None,
    min_history_hours: int,
    earlier: Sequence[Path] = (),
) -> list[YieldForecast]:
    """Quantiles of each series of `panel` for the 24 hours that begin with the one `issued_at` lies in.

    `panel` is as `features.panel_of` makes it; only hours before that of `issued_at` are looked at. A series the model
    cannot serve gets seasonal naive with a note saying why; one without any known hour gets no forecast. `model_dir`
    is the folder of the protocol's champion, None if there is none; where it cannot be used, the first of `earlier`
    that can be answers, with a note.
    """
    origin = to_hour(issued_at)
    past = [series.before(origin) for series in panel]
    past = [series for series in past if np.isfinite(series.values).any()]
    served = _serve(past, () if model_dir is None else (model_dir, *earlier), min_history_hours)
    result: list[YieldForecast] = []
    for series in past:
        if series.name in served.quantiles:
            quantiles, model, version, note = (
                served.quantiles[series.name],
                served.told[series.name],
                served.version,
                served.note,
            )
        else:
            quantiles, model, version = fallback([series], HORIZON)[0], NAIVE, NAIVE_VERSION
            note = served.refused[series.name]
        result.append(as_forecast(series.name, issued_at, quantiles, model=model, version=version, note=note))
    return result


def as_forecast(
    series: str, issued_at: datetime, quantiles: Floats, *, model: str, version: str, note: str = ""
) -> YieldForecast:
    """`quantiles` (HORIZON, 3) of a series as a forecast of its node's target."""
    node, target = node_and_target(series)
    p10, p50, p90 = (tuple(column) for column in quantiles.T.tolist())
    return YieldForecast(
        node=node,
        target=target,
        issued_at=utc(issued_at),
        hours=_hours(hour_of(issued_at), len(p50)),
        p10=p10,
        p50=p50,
        p90=p90,
        model=model,
        version=version,
        note=note,
    )


@lru_cache(maxsize=64)
def _hours(first: datetime, count: int) -> tuple[datetime, ...]:
    """The same for every series of a cycle, of which there may be thousands."""
    return tuple(first + i * HOUR for i in range(count))


@dataclass(frozen=True, slots=True)
class _Served:
    """What the model gave, by series, who gave it, and why the other series got nothing from it."""

    quantiles: Mapping[str, Floats]
    refused: Mapping[str, str]
    told: Mapping[str, str]
    version: str = ""
    note: str = ""
    """Why it is not the champion."""


def _serve(past: Sequence[HourlySeries], folders: Sequence[Path], least: int) -> _Served:
    names = [series.name for series in past]
    if not folders:
        return _Served({}, dict.fromkeys(names, "no model has become champion yet"), {})
    refused = {
        series.name: f"{known_hours(series)} known hours of history, {least} needed"
        for series in past
        if known_hours(series) < least
    }
    ready = [series for series in past if series.name not in refused]
    if not ready:
        return _Served({}, refused, {})
    problems: list[str] = []
    for folder in folders:
        try:
            model = ServedModel.open(folder)
            answers = model.forecast(ready)
            version = model.version
        except ModelError as unusable:
            problems.append(str(unusable))
        else:
            break
    else:
        return _Served({}, refused | dict.fromkeys((s.name for s in ready), problems[0]), {})
    given = {s.name: answer for s, answer in zip(ready, answers, strict=True) if np.isfinite(answer).all()}
    silent = {s.name: "the model has no answer: too many of the last hours are unknown" for s in ready}
    return _Served(
        given,
        refused | {name: why for name, why in silent.items() if name not in given},
        {name: model.told(name) for name in given},
        version,
        f"{problems[0]}; the champion before it answers" if problems else "",
    )
