"""The 24 hours to come, by the exported network on onnxruntime or, where it cannot be used, by seasonal naive.

Never loads TensorFlow or MLflow: this runs every 15 minutes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.artifact import ONNX_FILE, Manifest, read_manifest, read_version
from orcha_pipeline.forecasting.baselines import seasonal_naive
from orcha_pipeline.forecasting.features import (
    CHANNELS,
    INPUTS,
    SCALING,
    Floats,
    NodeSeries,
    Windows,
    build_windows,
    series_of,
    to_datetime,
    to_hour,
)
from orcha_pipeline.model import HOUR, YieldForecast, hour_of, utc
from orcha_pipeline.settings import Settings

LSTM = "lstm"
SEASONAL_NAIVE = "seasonal-naive"
NAIVE_VERSION = "24h"


def forecast(
    frame: pd.DataFrame, *, nodes: Sequence[str], issued_at: datetime, model_dir: Path | None, settings: Settings
) -> list[YieldForecast]:
    """Yield quantiles of each of `nodes` for the 24 hours that begin with the one `issued_at` lies in.

    `frame` is the hourly feature table; only hours before that of `issued_at` are looked at. A node the network
    cannot serve gets seasonal naive with a note saying why; a node without any known hour gets no forecast.
    `model_dir` is the artifact folder of the protocol's model, None if there is none.
    """
    origin = to_hour(issued_at)
    series = series_of(frame[frame["node"].isin(nodes)])
    past = {name: series[name].before(origin) for name in nodes if name in series}
    served = _serve_network(past, origin, model_dir, settings)
    result: list[YieldForecast] = []
    for name, one in past.items():
        if name in served.quantiles:
            result.append(_forecast(name, issued_at, served.quantiles[name], LSTM, served.version))
        elif (band := seasonal_naive(one.yields)) is not None:
            result.append(_forecast(name, issued_at, band, SEASONAL_NAIVE, NAIVE_VERSION, note=served.refused[name]))
    return result


def forecasts_of(windows: Windows, quantiles: Floats, *, model: str, version: str) -> list[YieldForecast]:
    """One forecast a window, issued at its origin; `quantiles` (n, HORIZON, 3) in USD per hour at full share."""
    return [
        _forecast(name, to_datetime(origin), band, model, version)
        for name, origin, band in zip(windows.nodes.tolist(), windows.origins, quantiles, strict=True)
    ]


def predict(path: Path, windows: Windows) -> NDArray[np.float32]:
    """Scaled quantiles (n, HORIZON, 3) by the network in the ONNX file at `path`.

    Raises ModelError where the file cannot be loaded or run.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors  # pyright: ignore[reportAttributeAccessIssue]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; the log would tell it a second time
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (answer,) = session.run(None, windows.inputs())
    except (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.NoSuchFile,
        errors.NotImplemented,
        errors.RuntimeException,
        ValueError,  # a missing input, found before the run
    ) as unusable:
        raise ModelError(f"{path} cannot be run: {unusable}. Train the model again") from unusable
    return np.asarray(answer)


@dataclass(frozen=True, slots=True)
class _Served:
    """What the network gave, by node, and why the other nodes got nothing from it."""

    quantiles: Mapping[str, Floats]
    refused: Mapping[str, str]
    version: str = ""


def _serve_network(
    past: Mapping[str, NodeSeries], origin: np.datetime64, model_dir: Path | None, settings: Settings
) -> _Served:
    if model_dir is None:
        return _Served({}, dict.fromkeys(past, "no model has been trained yet"))
    try:
        manifest = read_manifest(model_dir)
        version = read_version(model_dir)
        reason = _unfit(manifest)
        if reason:
            return _Served({}, dict.fromkeys(past, reason))
        least = settings.forecast.min_history_hours
        refused: dict[str, str] = {}
        for name, one in past.items():
            known = int(np.isfinite(one.yields).sum())
            refused[name] = (
                f"{known} known hours of history, {least} needed"
                if known < least
                else f"too many unknown hours in the last {manifest.context_hours}"
            )
        ready = [(one, np.array([origin])) for one in past.values() if np.isfinite(one.yields).sum() >= least]
        windows = build_windows(ready, context_hours=manifest.context_hours)
        if not len(windows):
            return _Served({}, refused)
        quantiles = windows.to_yield(predict(model_dir / ONNX_FILE, windows), widening=manifest.widening)
    except ModelError as unusable:
        return _Served({}, dict.fromkeys(past, str(unusable)))
    given = {
        name: band
        for name, band in zip(windows.nodes.tolist(), quantiles, strict=True)
        if np.isfinite(band).all()  # an exploded answer is no answer
    }
    exploded = dict.fromkeys(set(windows.nodes.tolist()) - set(given), "the model's answer was not finite")
    return _Served(given, refused | exploded, version)


def _unfit(manifest: Manifest) -> str:
    """Why this model cannot be served by this code, or ""."""
    if manifest.kind == SEASONAL_NAIVE:
        return manifest.reason
    if (manifest.channels, manifest.inputs, manifest.scaling) != (CHANNELS, INPUTS, SCALING):
        return f"the model was trained by version {manifest.code_version} with other inputs: train it again"
    return ""


def _forecast(
    node: str, issued_at: datetime, quantiles: Floats, model: str, version: str, *, note: str = ""
) -> YieldForecast:
    first = hour_of(issued_at)
    p10, p50, p90 = (tuple(column) for column in quantiles.T.tolist())
    return YieldForecast(
        node=node,
        issued_at=utc(issued_at),
        hours=tuple(first + i * HOUR for i in range(len(p50))),
        p10=p10,
        p50=p50,
        p90=p90,
        model=model,
        version=version,
        note=note,
    )
