"""Train one protocol's candidates, choose and calibrate what is served, measure all of them, leave the artifact folder.

Time runs fitted | chosen | tested, and a boundary belongs to targets: no hour is a target on both sides of one.
Forecasters learn from the first part; on the second, forecast from rolling origins, the selection is learnt; the third
measures it beside every candidate and the standing champion. What is then saved is those same forecasters with the
selection learnt anew from the second and third part: nothing is fitted a second time, so what was measured is served.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version as installed
from pathlib import Path
from shutil import rmtree

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import artifact
from orcha_pipeline.forecasting.artifact import CANDIDATES_FOLDER, Candidate, Manifest, Measures
from orcha_pipeline.forecasting.candidates import forecaster_class
from orcha_pipeline.forecasting.features import (
    HORIZON,
    TARGETS,
    data_hash,
    known_hours,
    node_and_target,
    to_datetime,
)
from orcha_pipeline.forecasting.metrics import error_by_horizon, mean_over_series, score_each, seasonal_yardstick
from orcha_pipeline.forecasting.panel import QUANTILES, Floats, Forecaster, HourlySeries, Tell, say_nothing
from orcha_pipeline.forecasting.promotion import NAIVE, SERVED
from orcha_pipeline.forecasting.rolling import Rolled, Windows, histories_of, roll, windows_at
from orcha_pipeline.forecasting.selection import Evidence, blend_all, select
from orcha_pipeline.forecasting.served_model import ServedModel, write_example
from orcha_pipeline.forecasting.serving import as_forecast
from orcha_pipeline.model import YIELD_USD, YieldForecast, utc
from orcha_pipeline.settings import ForecastSettings

HOLDOUT = 0.15
"""Part of the history that is chosen on, and the same again that is tested on."""
HOLDOUT_HOURS = (48, 168)
STEP = 7
"""Hours between origins: no factor of a day or a week, so that every hour of the day is an origin."""
CLASSICAL = ("mstl", "theta")
"""Fitted anew at every forecast, which costs seconds: measured beside the others where that is quick enough, but not
served, for the 15-minute cycle must not wait for them."""
CLASSICAL_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the standing champion fared at the new model's test origins."""

    version: str
    scores: Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """What a training came to. `loss` and `val_loss` hold the LSTM's value an epoch, `best_epoch`, from 1, was kept.

    `examples` are what would have been served at the last test origins, to be drawn against `panel`. `champion` is the
    standing one, measured on the same origins; None where there is none that works.
    """

    folder: Path
    manifest: Manifest
    panel: Sequence[HourlySeries]
    loss: tuple[float, ...] = ()
    val_loss: tuple[float, ...] = ()
    best_epoch: int | None = None
    examples: tuple[YieldForecast, ...] = ()
    champion: Standing | None = None


def train_protocol(
    panel: Sequence[HourlySeries],
    *,
    protocol: str,
    settings: ForecastSettings,
    out_dir: Path,
    trained_at: datetime,
    dagster_run_id: str = "",
    champion: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
    tell: Tell = say_nothing,
) -> TrainedModel:
    """Train on the series of one protocol's nodes (`features.panel_of`); write the model into `out_dir`, emptied first.

    A candidate that cannot learn from so little is left out, with its reason in the manifest; seasonal naive always
    answers. `champion` is the folder of the standing champion. Raises ModelError where no hour is known.
    """
    panel = [one for one in panel if known_hours(one)]
    if not panel:
        raise ModelError(f"no node of {protocol} has a known hour to train on: let the pipeline record first")
    start, end = min(one.first_hour for one in panel), max(one.end for one in panel)
    holdout = int(np.clip(round(HOLDOUT * (end - start)), *HOLDOUT_HOURS))
    fitted_before, tested_from = end - 2 * holdout, end - holdout
    past = [one.before(fitted_before) for one in panel if one.first_hour < fitted_before]
    fits = _fit(past, settings, clock=clock, tell=tell)
    evidence, test = (
        _rolled(fits, panel, _windows(panel, first, last), clock=clock, tell=tell)
        for first, last in ((fitted_before, tested_from), (tested_from, end))
    )
    servable = tuple(name for name in fits.fitted if name not in CLASSICAL and name in test.forecasts)
    chosen = select(_evidence(panel, evidence, servable), now=tested_from)
    served = blend_all(chosen, _names(panel, test.windows), {name: test.forecasts[name] for name in servable})
    both = _evidence(panel, evidence, servable).and_then(_evidence(panel, test, servable))
    selection = select(both, now=end)

    _empty(out_dir)
    for name in servable:
        folder = out_dir / CANDIDATES_FOLDER / name
        folder.mkdir(parents=True)
        fits.fitted[name].save(folder)
    pooled, spread = _pooled(panel, test.windows, served)
    manifest = Manifest(
        protocol=protocol,
        trained_at=utc(trained_at),
        dagster_run_id=dagster_run_id,
        code_version=installed("orcha"),
        seed=settings.seed,
        horizon_hours=HORIZON,
        quantiles=QUANTILES,
        targets=TARGETS,
        series=tuple(one.name for one in panel),
        data_start=to_datetime(start),
        data_end=to_datetime(end),
        fitted_before=to_datetime(fitted_before),
        tested_from=to_datetime(tested_from) if len(test.windows) else None,
        origins=len(np.unique(test.windows.origins)),
        data_sha256=data_hash(panel),
        candidates=_results(panel, test, fits, evidence, served),
        pooled_wape=pooled,
        pooled_wape_std=spread,
        selection=selection.as_json(),
        saved=servable,
        files={},
        reason="" if set(servable) - {NAIVE} else "; ".join(fits.refused.values()),
    )
    histories = [one.before(end) for one in panel]
    write_example(out_dir, histories, ServedModel(manifest, out_dir).forecast(histories))
    # Last, so that a folder left half-way is no model.
    manifest = manifest.model_copy(update={"files": artifact.hashes(out_dir)})
    artifact.write(out_dir, manifest)
    lstm = fits.fitted.get("lstm")
    return TrainedModel(
        folder=out_dir,
        manifest=manifest,
        panel=panel,
        loss=tuple(getattr(lstm, "loss", ())),
        val_loss=tuple(getattr(lstm, "val_loss", ())),
        best_epoch=getattr(lstm, "best_epoch", None),
        examples=_examples(panel, test.windows, served),
        champion=_standing(champion, panel, test.windows),
    )


@dataclass(frozen=True, slots=True)
class _Fits:
    """The candidates that could be fitted, why the others could not, and what the fits took in seconds."""

    fitted: dict[str, Forecaster]
    refused: dict[str, str]
    seconds: dict[str, float]


def _fit(past: Sequence[HourlySeries], settings: ForecastSettings, *, clock: Callable[[], float], tell: Tell) -> _Fits:
    fits = _Fits({}, {}, {})
    for name in dict.fromkeys((NAIVE, *settings.candidates)):
        forecaster = forecaster_class(name)()
        tell(f"fitting {name}")
        began = clock()
        try:
            forecaster.fit(past, horizon=HORIZON, seed=settings.seed, tell=tell)
        except ModelError as refusal:
            if name != NAIVE:
                fits.refused[name] = f"{name}: {refusal}"
                continue
        fits.fitted[name] = forecaster
        fits.seconds[name] = clock() - began
    return fits


def _rolled(
    fits: _Fits, panel: Sequence[HourlySeries], windows: Windows, *, clock: Callable[[], float], tell: Tell
) -> Rolled:
    """Every fitted candidate's forecasts at `windows`; a classical one that takes too long is left out, and why."""
    quick = {name: one for name, one in fits.fitted.items() if name not in CLASSICAL}
    rolled = roll(quick, panel, windows, clock=clock, tell=tell)
    for name in [name for name in fits.fitted if name in CLASSICAL]:
        probe = windows.take(np.arange(len(windows)) < 1)
        roll({name: fits.fitted[name]}, panel, probe)  # the first answer also loads and compiles its library
        expected = roll({name: fits.fitted[name]}, panel, probe, clock=clock).seconds[name] * len(windows)
        if expected > CLASSICAL_SECONDS:
            fits.refused[name] = f"{name}: {len(windows)} forecasts would take some {expected:.0f} s"
            del fits.fitted[name]
            continue
        own = roll({name: fits.fitted[name]}, panel, windows, clock=clock, tell=tell)
        rolled = replace(
            rolled,
            forecasts={**rolled.forecasts, **own.forecasts},
            fallbacks={**rolled.fallbacks, **own.fallbacks},
            seconds={**rolled.seconds, **own.seconds},
        )
    return rolled


def _windows(panel: Sequence[HourlySeries], start: int, end: int) -> Windows:
    """A window a series and origin, every STEP hours, whose whole horizon lies in `[start, end)`."""
    return windows_at(panel, [0] * len(panel), range(start, end - HORIZON + 1, STEP), HORIZON)


def _names(panel: Sequence[HourlySeries], windows: Windows) -> list[str]:
    return [panel[i].name for i in windows.series.tolist()]


def _evidence(panel: Sequence[HourlySeries], rolled: Rolled, names: Sequence[str]) -> Evidence:
    windows = rolled.windows
    return Evidence(
        series=np.array(_names(panel, windows), dtype=np.str_),
        times=windows.times,
        truth=windows.truth,
        forecasts={name: rolled.forecasts[name] for name in names},
    )


def _results(
    panel: Sequence[HourlySeries], test: Rolled, fits: _Fits, evidence: Rolled, served: Floats
) -> dict[str, Candidate]:
    """What each candidate came to on the test windows, and what is served, by name."""
    results: dict[str, Candidate] = {}
    for name, answers in test.forecasts.items():
        if name not in fits.fitted:
            continue
        measured = _measured(panel, test.windows, answers)
        took = {"fit_seconds": fits.seconds[name], "predict_seconds": test.seconds[name] + evidence.seconds[name]}
        results[name] = measured.model_copy(
            update={
                "scores": measured.scores | took if measured.scores else {},
                "fallbacks": test.fallbacks[name],
                "parameters": dict(fits.fitted[name].parameters),
            }
        )
    refused = {name: Candidate(refused=why) for name, why in fits.refused.items()}
    return {SERVED: _measured(panel, test.windows, served), **results, **refused}


def _measured(panel: Sequence[HourlySeries], windows: Windows, answers: Floats) -> Candidate:
    """Scores of `answers` (n, HORIZON, 3): over all windows, and over those of each target.

    Each measure is the mean over series, each series in units of its own mean size, so that dollars and tokens, small
    nodes and large, weigh the same; the pinball loss is in that unit too.
    """
    if not len(windows):
        return Candidate()
    size = _sizes(windows)
    truth, answers = windows.truth / size[:, None], answers / size[:, None, None]
    yardstick = np.array([seasonal_yardstick(one.values) for one in histories_of(panel, windows)]) / size
    targets = np.array([node_and_target(name)[1] for name in _names(panel, windows)])

    def scores(mask: NDArray[np.bool_]) -> Measures:
        each = score_each(windows.series[mask], truth[mask], answers[mask], yardstick[mask])
        return mean_over_series(each.values()).as_dict()

    return Candidate(
        scores=scores(np.ones(len(windows), dtype=np.bool_)),
        by_target={target: scores(targets == target) for target in TARGETS if target in targets},
        error_by_horizon=tuple(error_by_horizon(truth, answers).tolist()) if truth.any() else (),
    )


def _sizes(windows: Windows) -> Floats:
    """Each window's series' mean absolute truth over all its windows, (n,), 1 where that is zero."""
    size = np.ones(len(windows))
    for series in np.unique(windows.series):
        own = windows.series == series
        size[own] = float(np.nanmean(np.abs(windows.truth[own]))) or 1.0
    return size


def _pooled(panel: Sequence[HourlySeries], windows: Windows, served: Floats) -> tuple[float | None, float | None]:
    """WAPE of the yield served, summed over nodes, and its standard deviation from origin to origin."""
    targets = np.array([node_and_target(name)[1] for name in _names(panel, windows)])
    known = np.isfinite(windows.truth) & (targets == YIELD_USD)[:, None]
    error = np.where(known, np.abs(windows.truth - served[..., 1]), 0.0).sum(axis=1)
    size = np.where(known, np.abs(windows.truth), 0.0).sum(axis=1)
    if not size.sum() > 0:
        return None, None
    _, at = np.unique(windows.origins, return_inverse=True)
    errors, sizes = np.bincount(at, weights=error), np.bincount(at, weights=size)
    each = errors[sizes > 0] / sizes[sizes > 0]
    return float(error.sum() / size.sum()), float(np.std(each)) if len(each) > 1 else None


def _examples(panel: Sequence[HourlySeries], windows: Windows, served: Floats) -> tuple[YieldForecast, ...]:
    """What would have been served at each series' last test origin."""
    last: Mapping[int, int] = {series: i for i, series in enumerate(windows.series.tolist())}
    return tuple(
        as_forecast(
            panel[series].name, to_datetime(int(windows.origins[i])), served[i], model=SERVED, version="backtest"
        )
        for series, i in sorted(last.items())
    )


def _standing(folder: Path | None, panel: Sequence[HourlySeries], windows: Windows) -> Standing | None:
    """The standing champion at the same origins, where it can be loaded and has an answer to all of them."""
    if folder is None or not len(windows):
        return None
    try:
        model = ServedModel.open(folder)
        answers = model.forecast(histories_of(panel, windows))
        version = model.version
    except ModelError:
        return None
    if not np.isfinite(answers).all():
        return None
    return Standing(version=version, scores=_measured(panel, windows, answers))


def _empty(folder: Path) -> None:
    if folder.exists():
        rmtree(folder)
    folder.mkdir(parents=True)
