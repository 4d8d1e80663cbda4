"""Train one protocol's candidates, choose and calibrate what is served, measure all of them, leave the artifact folder.

Time runs fitted | chosen | tested, and a boundary belongs to targets: no hour is a target on both sides of one.
Forecasters learn from the first part; on the second, forecast from rolling origins, the selection is learnt; the third
measures it beside every candidate and the standing champion. What is then saved is those same forecasters with the
selection learnt anew from the second and third part: nothing is fitted a second time, so what was measured is served.
"""

import time
from collections.abc import Collection, Mapping, Sequence
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
from orcha_pipeline.forecasting.features import (
    HORIZON,
    TARGETS,
    data_hash,
    known_hours,
    node_and_target,
    to_datetime,
)
from orcha_pipeline.forecasting.fitting import Fitted, evidence_of, fit_all, within_budget
from orcha_pipeline.forecasting.metrics import error_by_horizon, mean_over_series, score_each, seasonal_yardstick
from orcha_pipeline.forecasting.panel import QUANTILES, Floats, HourlySeries, Tell, say_nothing
from orcha_pipeline.forecasting.promotion import SERVED
from orcha_pipeline.forecasting.rolling import Clock, Rolled, Windows, histories_of, roll, windows_at
from orcha_pipeline.forecasting.selection import NAIVE, Evidence, Selection, blend_all, select
from orcha_pipeline.forecasting.served_model import ServedModel, write_example
from orcha_pipeline.forecasting.serving import as_forecast
from orcha_pipeline.model import YIELD_USD, YieldForecast, utc
from orcha_pipeline.settings import ForecastSettings

HOLDOUT = 0.15
"""Part of the history that is chosen on, and the same again that is tested on."""
HOLDOUT_HOURS = (48, 336)
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
    clock: Clock = time.perf_counter,
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
    names = tuple(dict.fromkeys((NAIVE, *settings.candidates)))
    fitted = fit_all(names, past, horizon=HORIZON, seed=settings.seed, clock=clock, tell=tell)
    fitted, choosing = _rolled(fitted, panel, _windows(panel, fitted_before, tested_from), clock=clock, tell=tell)
    test = roll(fitted.forecasters, panel, _windows(panel, tested_from, end), clock=clock, tell=tell)
    chosen_on, tested_on = (_servable(evidence_of(panel, rolled)) for rolled in (choosing, test))
    servable = tuple(tested_on.forecasts)
    asked = _asked(select(chosen_on, now=tested_from))
    chosen_on, tested_on = (_only(evidence, asked) for evidence in (chosen_on, tested_on))
    served = blend_all(select(chosen_on, now=tested_from), tested_on.series.tolist(), tested_on.forecasts)
    selection = select(chosen_on.and_then(tested_on), now=end)

    _empty(out_dir)
    for name in servable:
        folder = out_dir / CANDIDATES_FOLDER / name
        folder.mkdir(parents=True)
        fitted.forecasters[name].save(folder)
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
        candidates=_results(panel, fitted, choosing, test, served),
        pooled_wape=pooled,
        pooled_wape_std=spread,
        selection=selection.as_json(),
        saved=servable,
        files={},
        reason="" if set(servable) - {NAIVE} else "; ".join(f"{name}: {why}" for name, why in fitted.dropped.items()),
    )
    histories = [one.before(end) for one in panel]
    write_example(out_dir, histories, ServedModel(manifest, out_dir).forecast(histories))
    # Last, so that a folder left half-way is no model.
    manifest = manifest.model_copy(update={"files": artifact.hashes(out_dir)})
    artifact.write(out_dir, manifest)
    lstm = fitted.forecasters.get("lstm")
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


def _rolled(
    fitted: Fitted, panel: Sequence[HourlySeries], windows: Windows, *, clock: Clock, tell: Tell
) -> tuple[Fitted, Rolled]:
    """Every fitted candidate's forecasts at `windows`, less those of the classical ones that would take too long."""
    classical = replace(fitted, forecasters={n: one for n, one in fitted.forecasters.items() if n in CLASSICAL})
    kept = within_budget(classical, panel, windows, 2 * len(windows), budget=CLASSICAL_SECONDS, clock=clock)
    slow = set(classical.forecasters) - set(kept.forecasters)
    forecasters = {name: one for name, one in fitted.forecasters.items() if name not in slow}
    rolled = roll(forecasters, panel, windows, clock=clock, tell=tell)
    return replace(fitted, forecasters=forecasters, dropped={**fitted.dropped, **kept.dropped}), rolled


def _windows(panel: Sequence[HourlySeries], start: int, end: int) -> Windows:
    """A window a series and origin, every STEP hours, whose whole horizon lies in `[start, end)`."""
    return windows_at(panel, [0] * len(panel), range(start, end - HORIZON + 1, STEP), HORIZON)


def _names(panel: Sequence[HourlySeries], windows: Windows) -> list[str]:
    return [panel[i].name for i in windows.series.tolist()]


def _servable(evidence: Evidence) -> Evidence:
    """Without the candidates that are measured but not served."""
    return _only(evidence, [name for name in evidence.forecasts if name not in CLASSICAL])


def _asked(selection: Selection) -> set[str]:
    """Seasonal naive and whoever has a part in the common blend: a median of all would have a cycle ask everyone."""
    weights = zip(selection.candidates, selection.default, strict=True)
    return {NAIVE, *(name for name, weight in weights if weight > 0)}


def _only(evidence: Evidence, names: Collection[str]) -> Evidence:
    """The same windows with the forecasts of these candidates alone."""
    return replace(evidence, forecasts={n: rows for n, rows in evidence.forecasts.items() if n in names})


def _results(
    panel: Sequence[HourlySeries], fitted: Fitted, choosing: Rolled, test: Rolled, served: Floats
) -> dict[str, Candidate]:
    """What each candidate came to on the test windows, and what is served, by name."""
    results: dict[str, Candidate] = {SERVED: _measured(panel, test.windows, served)}
    for name, answers in test.forecasts.items():
        measured = _measured(panel, test.windows, answers)
        took = {"fit_seconds": fitted.seconds[name], "predict_seconds": test.seconds[name] + choosing.seconds[name]}
        results[name] = measured.model_copy(
            update={
                "scores": measured.scores | took if measured.scores else {},
                "fallbacks": test.fallbacks[name],
                "parameters": dict(fitted.forecasters[name].parameters),
            }
        )
    return results | {name: Candidate(refused=why) for name, why in fitted.dropped.items()}


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
