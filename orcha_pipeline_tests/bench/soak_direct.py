"""The cycle's own assets and checks, called one after another: no Dagster engine, no event log, no pictures.

The engine, its event log and the two pictures on the assets' pages take three quarters of a cycle's time on two cores,
and nothing of the next cycle depends on them. What they keep is measured in the cycles that go through Dagster.
"""

import inspect
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any, get_type_hints
from unittest import mock
from uuid import uuid4

import dagster as dg

from orcha_pipeline.assets.allocation import ALLOCATION_DECISION, TO_APPLY
from orcha_pipeline.assets.application import ALLOCATION_APPLICATION, ApplicationConfig
from orcha_pipeline.model import HOUR, hour_of

logging.getLogger("stamina").setLevel(logging.ERROR)
SILENT = logging.getLogger("orcha.soak")
SILENT.propagate = False
SILENT.addHandler(logging.NullHandler())
PICTURES = ("orcha_pipeline.forecasting.charts.forecast_fan_png", "orcha_pipeline.allocation.chart.plan_png")


@dataclass(slots=True)
class Played:
    """What became of one run."""

    success: bool = True
    error: str = ""
    steps: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds by asset or check."""
    to_apply: tuple[str, ...] = ()


class DirectCycle:
    """Calls the functions of a job's assets and of the checks on them, in the order of the lineage."""

    def __init__(self, definitions: dg.Definitions, repository: dg.RepositoryDefinition, job_name: str) -> None:
        layer, order = repository.get_job(job_name).asset_layer, repository.asset_graph.toposorted_asset_keys
        place = {key: number for number, key in enumerate(order)}
        every = [each for each in definitions.assets or () if isinstance(each, dg.AssetsDefinition)]
        self._application = next(each for each in every if ALLOCATION_APPLICATION in each.keys)
        own = [each for each in every if each.keys & set(layer.executable_asset_keys)]
        self._assets = _in_order(sorted(own, key=lambda each: max(place[key] for key in each.keys)))
        checks = [each for each in definitions.asset_checks or () if isinstance(each, dg.AssetChecksDefinition)]
        self._checks: Mapping[dg.AssetKey, Sequence[dg.AssetChecksDefinition]] = {
            key: [each for each in checks if key in {spec.asset_key for spec in each.check_specs}] for key in order
        }
        self._resources = dict(definitions.resources or {})

    def play(self, now: datetime) -> Played:
        """One cycle as of `now`. A check that fails ends it, as does an asset that raises."""
        played, run = Played(), SimpleNamespace(run_id=str(uuid4()))
        try:
            with ExitStack() as stack:
                for picture in PICTURES:
                    stack.enter_context(mock.patch(picture, return_value=b""))
                self._all(played, run, now)
        except Exception as error:  # noqa: BLE001 (Dagster, too, ends a run at whatever is raised, and the next begins)
            played.success, played.error = False, f"{type(error).__name__}: {error}"
        return played

    def _all(self, played: Played, run: Any, now: datetime) -> None:
        for asset in self._assets:
            results = self._timed(played, asset, _context(run, now, asset))
            for key in asset.keys:
                for check in self._checks[key]:
                    (found,) = self._timed(played, check, _context(run, now, asset))
                    _require(found)
            if ALLOCATION_DECISION in asset.keys:
                played.to_apply = tuple(results[0].metadata[TO_APPLY].value)

    def apply(self, decision_id: str, now: datetime) -> Played:
        """Carry out one decision; it fails where all was set back."""
        played, run = Played(), SimpleNamespace(run_id=str(uuid4()))
        try:
            self._timed(
                played,
                self._application,
                _context(run, now, self._application),
                ApplicationConfig(decision_id=decision_id),
            )
        except dg.Failure as error:
            played.success, played.error = False, str(error)
        return played

    def _timed(self, played: Played, definition: Any, context: Any, config: Any = None) -> list[Any]:
        function = definition.op.compute_fn.decorated_fn
        given = {"context": context, "config": config, **self._resources}
        wanted = inspect.signature(function).parameters
        if config is None and "config" in wanted:
            given["config"] = get_type_hints(function)["config"]()
        began = time.perf_counter()
        result = function(**{name: given[name] for name in wanted})
        results = list(result) if isinstance(result, Iterator) else [result]
        played.steps[definition.op.name] = time.perf_counter() - began
        return results


def _in_order(assets: Sequence[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """As Dagster's engine takes them: of those whose upstream is done the one of the highest priority first."""
    waiting, order = list(assets), list[dg.AssetsDefinition]()
    while waiting:
        to_come = {key for each in waiting for key in each.keys}
        ready = [each for each in waiting if not (_upstream(each) - each.keys) & to_come]
        first = max(ready, key=lambda each: int(each.op.tags.get("dagster/priority", 0)))
        order.append(first)
        waiting.remove(first)
    return order


def _upstream(asset: dg.AssetsDefinition) -> set[dg.AssetKey]:
    return {key for keys in asset.asset_deps.values() for key in keys}


def _require(check: dg.AssetCheckResult) -> None:
    if not check.passed:
        raise dg.Failure(str(check.description))


def _context(run: Any, now: datetime, asset: dg.AssetsDefinition) -> Any:
    start = hour_of(now)
    return SimpleNamespace(
        run=run,
        log=SILENT,
        selected_asset_keys=asset.keys,
        partition_time_window=SimpleNamespace(start=start, end=start + HOUR),
    )
