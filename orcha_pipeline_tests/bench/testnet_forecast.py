"""How close the forecast that is served comes to what cannot be known: the testnet's four protocols, 24 hours ahead.

`make bench-testnet` trains each protocol on what a node at share 1.0 earns an hour, in dollars and in its token, as the
pipeline does, and sets what is served beside the noise floor at the same origins and hours (see `noise_floor`): the
error of an oracle that knows the law of the world. It does so for the seeded world, or for one of a kind.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from orcha_pipeline.forecasting.artifact import Candidate
from orcha_pipeline.forecasting.candidates import CANDIDATES, chosen_names
from orcha_pipeline.forecasting.features import HORIZON, TARGETS, series_name, to_hour
from orcha_pipeline.forecasting.panel import Floats, HourlySeries
from orcha_pipeline.forecasting.quiet import only_progress
from orcha_pipeline.forecasting.rolling import Windows
from orcha_pipeline.forecasting.training import TrainedModel, _windows, train_protocol
from orcha_pipeline.model import NET_NATIVE, YIELD_USD
from orcha_pipeline.settings import ForecastSettings
from orcha_pipeline.testnet.world_kinds import MadeWorld, make_world
from orcha_pipeline.testnet.worlds import HOUR, PROTOCOLS, TOKENS, SeededPrices, World, WorldKind, seeded_world
from orcha_pipeline_tests.bench.noise_floor import (
    STEP_SECONDS,
    STEPS_AN_HOUR,
    Knows,
    Law,
    made_law,
    seeded_law,
    wape,
)

END = datetime(2026, 10, 21, tzinfo=UTC)
"""Where the seeded world's history ends; the made kinds have a time of their own."""
ACCURATE = 0.85
SHOWN = ("seasonal_naive", "linear", "lightgbm", "lstm")


@dataclass(frozen=True, slots=True)
class _MadeYields:
    """A made world's steps once through: played from a file it would begin anew after its last whole week."""

    made: MadeWorld

    def usd(self, protocol: str, step: int) -> float:
        """USD an hour at share 1.0."""
        return self.made.yields[protocol][(step - self.made.first) // STEP_SECONDS]

    def available(self, protocol: str, step: int) -> bool:
        """False while the protocol pays nothing at all."""
        return self.made.available[protocol][(step - self.made.first) // STEP_SECONDS]


@dataclass(frozen=True, slots=True)
class Scene:
    """A world and the steps of it that are measured: `count` of them from `first` on, Unix seconds."""

    world: World
    kind: WorldKind | None
    seed: int
    first: int
    count: int

    @classmethod
    def of(cls, kind: WorldKind | None, *, seed: int, days: int) -> "Scene":
        """`days` of the seeded world, or of one of `kind`."""
        count = days * 24 * STEPS_AN_HOUR
        if kind is None:
            return cls(seeded_world(seed), None, seed, int(END.timestamp()) - count * STEP_SECONDS, count)
        made = make_world(kind, seed=seed, days=days)
        world = World(
            name=made.name,
            capacity=seeded_world(seed).capacity,
            protocols=made.terms,
            yields=_MadeYields(made),
            prices=SeededPrices(seed),
            at_market=frozenset(TOKENS.values()),
        )
        return cls(world, kind, seed, made.first, count)

    def law(self, protocol: str, target: str, knows: Knows) -> Law:
        """How the target of the protocol comes about."""
        if self.kind is None:
            return seeded_law(self.world, protocol, target, first=self.first, count=self.count, knows=knows)
        return made_law(self.world, self.kind, protocol, target, seed=self.seed, count=self.count, knows=knows)

    def panel(self, protocol: str) -> list[HourlySeries]:
        """What a node at share 1.0 earns an hour, in dollars and in its own unit: a series each."""
        moments = range(self.first, self.first + self.count * STEP_SECONDS, STEP_SECONDS)
        world = self.world
        rates = {YIELD_USD: world.usd_yield, NET_NATIVE: world.native_rate}
        paid = np.array([world.available(protocol, at) for at in moments])
        panel: list[HourlySeries] = []
        for target in TARGETS:
            steps = np.array([rates[target](protocol, at) for at in moments]) * paid
            hours = steps.reshape(-1, STEPS_AN_HOUR).mean(axis=1)
            panel.append(HourlySeries(series_name(protocol, target), self.first // HOUR, hours, np.ones(len(hours))))
        return panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """WAPE of one target of one protocol. Of candidates None where there was none."""

    protocol: str
    target: str
    origins: int
    floor: float
    """Of the oracle that knows the covariance of what wanders."""
    limit: float
    """Of the oracle that knows the hidden lattice too: nothing is below."""
    served: float
    seasonal_naive: float | None
    linear: float | None
    lightgbm: float | None
    lstm: float | None
    best: str
    """The single candidate with the lowest error on the test."""
    best_wape: float
    accuracy: float
    of_floor: float
    of_limit: float
    coverage80: float
    within_reach: bool
    """Whether the floor lets anybody be right for more than ACCURATE."""
    refused: dict[str, str]
    train_seconds: float


def oracle(law: Law, windows: Windows, first_hour: int) -> Floats:
    """The oracle's forecasts at the origins of `windows`, as its truth: (n, horizon)."""
    return np.array(
        [law.forecast((origin - first_hour) * STEPS_AN_HOUR, windows.horizon) for origin in windows.origins.tolist()]
    )


def tested_windows(panel: Sequence[HourlySeries], trained: TrainedModel) -> Windows:
    """The very windows that the training measured on."""
    manifest = trained.manifest
    if manifest.tested_from is None:
        raise SystemExit("so few days leave nothing to test on: give more")
    return _windows(panel, to_hour(manifest.tested_from), to_hour(manifest.data_end))


def measure(scene: Scene, protocol: str, settings: ForecastSettings) -> list[Measured]:
    """Train on one protocol and set what it came to beside the floor, a row a target."""
    panel = scene.panel(protocol)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, only_progress(f"Training {protocol}") as tell:
        trained = train_protocol(
            panel, protocol=protocol, settings=settings, out_dir=Path(scratch) / "model", trained_at=END, tell=tell
        )
    seconds = time.perf_counter() - began
    windows = tested_windows(panel, trained)
    return [
        _row(scene, protocol, target, windows.take(windows.series == index), trained, seconds)
        for index, target in enumerate(TARGETS)
    ]


def _row(scene: Scene, protocol: str, target: str, windows: Windows, trained: TrainedModel, seconds: float) -> Measured:
    first_hour = scene.first // HOUR
    floor, limit = (
        wape(windows.truth, oracle(scene.law(protocol, target, knows), windows, first_hour))
        for knows in (Knows.COVARIANCE, Knows.LATTICE)
    )
    results = trained.manifest.candidates
    each = {name: _wape(one, target) for name, one in results.items()}
    single = {name: value for name, value in each.items() if value is not None and name != "served"}
    served = each["served"]
    assert served is not None
    best = min(single, key=single.__getitem__)
    return Measured(
        protocol=protocol,
        target=target,
        origins=len(windows),
        floor=floor,
        limit=limit,
        served=served,
        **{name: each.get(name) for name in SHOWN},
        best=best,
        best_wape=single[best],
        accuracy=1.0 - served,
        of_floor=served / floor,
        of_limit=served / limit,
        coverage80=results["served"].by_target[target]["coverage80"],
        within_reach=1.0 - floor > ACCURATE,
        refused={name: one.refused for name, one in results.items() if one.refused},
        train_seconds=seconds,
    )


def _wape(candidate: Candidate, target: str) -> float | None:
    return candidate.by_target.get(target, {}).get("wape")


def verdict(row: Measured) -> str:
    """In words, whether ACCURATE could be reached and was."""
    allowed = f"{row.protocol}: the floor allows an accuracy of {1.0 - row.floor:.1%}, the limit {1.0 - row.limit:.1%}"
    if row.within_reach:
        reach = "is within reach"
    elif 1.0 - row.limit > ACCURATE:
        reach = "is within reach only of who knows the lattice"
    else:
        reach = "is beyond anybody's reach"
    short = ", which falls short" if row.within_reach and row.accuracy <= ACCURATE else ""
    return f"{allowed}: {ACCURATE:.0%} {reach}; {row.accuracy:.1%} is served{short}"


def table_of(rows: Sequence[Measured], title: str) -> Table:
    """A row a protocol."""
    table = Table(title=title)
    for column in ("protocol", "limit", "floor", "served", "naive", "linear", "LightGBM", "LSTM", "best single"):
        table.add_column(column, justify="left" if column in {"protocol", "best single"} else "right")
    for column in ("accuracy", "served/floor", "in 80 % band"):
        table.add_column(column, justify="right")
    for row in rows:
        wapes = (row.limit, row.floor, row.served, row.seasonal_naive, row.linear, row.lightgbm, row.lstm)
        table.add_row(
            row.protocol,
            *("-" if value is None else f"{value:.4f}" for value in wapes),
            f"{row.best} {row.best_wape:.4f}",
            f"{row.accuracy:.1%}",
            f"{row.of_floor:.2f}",
            f"{row.coverage80:.0%}",
        )
    return table


def main() -> None:
    """Train the protocols one after another, print a table a target and, if asked, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--world", type=WorldKind, choices=list(WorldKind), help="of a kind instead of the seeded one")
    parser.add_argument("--models", help=f"only these, by commas, of {', '.join(CANDIDATES)}")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    console = Console(width=max(150, Console().width))
    scene = Scene.of(given.world, seed=given.seed, days=given.days)
    settings = ForecastSettings.model_validate({"candidates": chosen_names(given.models)})
    rows = [row for protocol in PROTOCOLS for row in measure(scene, protocol, settings)]
    about = f"{scene.world.name}, {given.days} days, {rows[0].origins} origins, {HORIZON} h ahead"
    for target, what in ((YIELD_USD, "yield in USD"), (NET_NATIVE, "earnings in its own unit")):
        console.print(table_of([row for row in rows if row.target == target], f"WAPE of the {what} ({about})"))
    for row in rows:
        if row.target == YIELD_USD:
            console.print(verdict(row), highlight=False)
    console.print(
        "floor: an oracle that knows the world's law and the exact past, but not the lattice its noise hangs on; "
        "limit: one that knows the lattice too.",
        highlight=False,
    )
    if given.json:
        machine = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
        about_world = {"world": scene.world.name, "seed": given.seed, "days": given.days}
        content = {**machine, **about_world, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
