"""Train one protocol's yield model on the hourly feature table, measure it, and leave its artifact folder."""

import importlib.metadata
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import artifact, backtest, lstm
from orcha_pipeline.forecasting.artifact import KERAS_FILE, ONNX_FILE, Manifest
from orcha_pipeline.forecasting.backtest import Split
from orcha_pipeline.forecasting.features import (
    CHANNELS,
    HORIZON,
    INPUTS,
    QUANTILES,
    SCALING,
    Floats,
    NodeSeries,
    Windows,
    data_hash,
    series_of,
    to_datetime,
)
from orcha_pipeline.forecasting.serving import LSTM, SEASONAL_NAIVE, forecasts_of, predict
from orcha_pipeline.model import YieldForecast, utc
from orcha_pipeline.settings import Settings

MAX_WINDOWS = 400
"""More windows of the same hours teach little more and cost time on two cores."""
MIN_WINDOWS = 48
ONNX_TOLERANCE = 1e-4
"""Of the scaled space: an exported network further than this from the trained one is another network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """What a training came to. `loss` and `val_loss` hold one value an epoch, none for a seasonal naive.

    `best_epoch` is the one, from 1, whose weights were kept.

    `examples` are the forecasts at the last origins of the backtest, one a node, to be drawn against `frame`.
    """

    folder: Path
    manifest: Manifest
    frame: pd.DataFrame
    loss: tuple[float, ...] = ()
    val_loss: tuple[float, ...] = ()
    best_epoch: int | None = None
    examples: tuple[YieldForecast, ...] = ()


def train_protocol(
    frame: pd.DataFrame,
    *,
    protocol: str,
    settings: Settings,
    out_dir: Path,
    trained_at: datetime,
    code_version: str | None = None,
    max_windows: int = MAX_WINDOWS,
) -> TrainedModel:
    """Train on the feature rows of one protocol's nodes; write the model and its manifest into `out_dir`.

    The last days are held out twice: for early stopping and widening the band, then for the backtest, in which the
    LSTM and seasonal naive forecast from the same rolling origins. The network exported is the one measured. With too
    little history the artifact is a seasonal naive, which says why. Raises ModelError where no hour is known.
    """
    series = {name: one for name, one in series_of(frame).items() if np.isfinite(one.yields).any()}
    if not series:
        raise ModelError(f"no node of {protocol} has a known hour to train on: let the pipeline record first")
    options = settings.forecast
    split = backtest.split_windows(
        series, context_hours=options.context_hours, max_windows=max_windows, seed=options.seed
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    for stale in (artifact.MANIFEST_FILE, artifact.REGISTRATION_FILE, ONNX_FILE, KERAS_FILE):
        (out_dir / stale).unlink(missing_ok=True)

    forecasts = {"seasonal_naive": backtest.naive_forecasts(split.test, series)}
    reason = _too_little(series, split, settings)
    fitted: lstm.FittedLstm | None = None
    widening = (0.0, 0.0)
    params: dict[str, float | int | str] = {"season_hours": HORIZON}
    if not reason:
        fitted = lstm.fit(split.train, split.validation, max_epochs=options.max_epochs, seed=options.seed)
        _export(fitted, out_dir, split.validation)
        widening = _widening(predict(out_dir / ONNX_FILE, split.validation), split.validation)
        forecasts[LSTM] = split.test.to_yield(predict(out_dir / ONNX_FILE, split.test), widening=widening)
        params = {
            **lstm.hyperparameters(),
            "seed": options.seed,
            "max_epochs": options.max_epochs,
            "best_epoch": fitted.best_epoch,
            "train_windows": len(split.train),
            "validation_windows": len(split.validation),
        }
    manifest = Manifest(
        kind=SEASONAL_NAIVE if reason else LSTM,
        protocol=protocol,
        trained_at=utc(trained_at),
        context_hours=options.context_hours,
        horizon_hours=HORIZON,
        channels=CHANNELS,
        inputs=INPUTS,
        scaling=SCALING,
        quantiles=QUANTILES,
        widening=widening,
        nodes=tuple(series),
        data_start=to_datetime(min(one.start for one in series.values())),
        data_end=to_datetime(max(one.end for one in series.values())),
        tested_from=to_datetime(split.tested_from) if len(split.test) else None,
        data_sha256=data_hash(series),
        code_version=code_version or importlib.metadata.version("orcha"),
        params={**params, "test_windows": len(split.test)},
        metrics={name: metrics.as_dict() for name, metrics in backtest.compare(split.test, series, forecasts).items()},
        fit_seconds=fitted.fit_seconds if fitted else 0.0,
        onnx_sha256=artifact.sha256_of(out_dir / ONNX_FILE) if fitted else None,
        reason=reason,
    )
    # Last, so that a folder left half-way is no model.
    artifact.write(out_dir, manifest)
    return TrainedModel(
        folder=out_dir,
        manifest=manifest,
        frame=frame,
        loss=fitted.loss if fitted else (),
        val_loss=fitted.val_loss if fitted else (),
        best_epoch=fitted.best_epoch if fitted else None,
        examples=_examples(split.test, forecasts[LSTM if fitted else "seasonal_naive"], manifest.kind),
    )


def _too_little(series: dict[str, NodeSeries], split: Split, settings: Settings) -> str:
    """Why there is too little to train an LSTM on, or ""."""
    known = max(int(np.isfinite(one.yields).sum()) for one in series.values())
    if known < settings.forecast.min_history_hours:
        return f"{known} known hours of history, {settings.forecast.min_history_hours} needed"
    if len(split.train) < MIN_WINDOWS:
        return f"{len(split.train)} windows to train on, {MIN_WINDOWS} needed"
    if not len(split.validation) or not len(split.test):
        return "the last days hold too many unknown hours to measure a model on"
    return ""


def _export(fitted: lstm.FittedLstm, folder: Path, windows: Windows) -> None:
    lstm.export(fitted.model, folder)
    apart = float(np.abs(lstm.predict(fitted.model, windows) - predict(folder / ONNX_FILE, windows)).max())
    if not apart <= ONNX_TOLERANCE:
        raise ModelError(f"the exported network differs from the trained one by {apart:.1e} (scaled): not written")


def _widening(scaled: np.ndarray, windows: Windows) -> tuple[float, float]:
    """How far p10 and p90 must move apart for 10 % of the windows' known hours to lie beyond each.

    Split-conformal, one margin a side over all horizons. Never narrows: early stopping has already seen these
    windows, so that their errors are, if anything, too small.
    """
    target, weight = windows.scaled_target()
    known = weight > 0
    count = int(known.sum())
    level = min(1.0, QUANTILES[2] * (count + 1) / count)
    margins = (
        np.quantile(errors[known], level, method="higher")
        for errors in (scaled[..., 0] - target, target - scaled[..., 2])
    )
    low, high = (max(0.0, float(margin)) for margin in margins)
    return low, high


def _examples(test: Windows, quantiles: Floats, model: str) -> tuple[YieldForecast, ...]:
    """Each node's forecast at its last origin of the backtest."""
    last = {name: i for i, name in enumerate(test.nodes.tolist())}
    index = np.array(sorted(last.values()), dtype=np.int64)
    return tuple(forecasts_of(test.take(index), quantiles[index], model=model, version="backtest"))
