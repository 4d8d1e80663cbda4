"""Worlds and token prices read from files, moved by whole weeks to the testnet's time and repeated when they end.

A world is a folder (see `world_folder`); a price file is a table `unique_id, ds, y`, plain or gzipped. What is wrong
with a file is a `SettingsError` that names the file, the line and the remedy.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.testnet.csv_rows import csv_rows, moment_of, number_of
from orcha_pipeline.testnet.world_folder import WorldTerms, read_steps, read_terms
from orcha_pipeline.testnet.worlds import (
    DAY,
    HOUR,
    PROTOCOLS,
    TOKENS,
    WEEK,
    Prices,
    SeededPrices,
    World,
    seeded_world,
)

REPLAYED_TOKENS = ("STORJ", "GLM", "DATA")
_HEADROOM = 8 * WEEK
"""How much of a price file should lie ahead of the testnet's start: the history it records, and as much again."""


def load_world(*, seed: int, world: Path | None = None, prices: Path | None = None, start: int = 0) -> World:
    """The world of these settings. `start` (Unix seconds) is when the testnet began: files are aligned to it."""
    base = seeded_world(seed) if world is None else read_world(world, seed=seed, start=start)
    if prices is None:
        return base
    replayed = read_prices(prices, seed=seed, start=start)
    return World(
        name=f"{base.name}+{prices.name}",
        capacity=base.capacity,
        protocols=base.protocols,
        yields=base.yields,
        prices=replayed,
        at_market=base.at_market - replayed.series.keys(),
        step_minutes=base.step_minutes,
    )


# ---------------------------------------------------------------- world folder


@dataclass(frozen=True, slots=True)
class PlayedYields:
    """Recorded steps, repeated with hour and weekday kept."""

    first: int
    """Unix seconds of the first recorded step, already moved to the testnet's time."""
    step: int
    usd_by_protocol: Mapping[str, tuple[float, ...]]
    available_by_protocol: Mapping[str, tuple[bool, ...]]

    def _index(self, protocol: str, step: int) -> int:
        count = len(self.usd_by_protocol[protocol])
        period = count * self.step
        for unit in (WEEK, DAY):
            if period >= unit:
                period -= period % unit
                break
        return (step - self.first) % period // self.step

    def usd(self, protocol: str, step: int) -> float:
        """USD an hour at share 1.0."""
        return self.usd_by_protocol[protocol][self._index(protocol, step)]

    def available(self, protocol: str, step: int) -> bool:
        """False while the protocol pays nothing at all."""
        return self.available_by_protocol[protocol][self._index(protocol, step)]


def read_world(folder: Path, *, seed: int, start: int) -> World:
    """The world in `folder`, moved by whole weeks so that `start` falls into its first one. Prices are seeded."""
    found = read_steps(folder, read_played_terms(folder))
    return World(
        name=found.terms.name,
        capacity=found.terms.capacity,
        protocols=found.terms.protocols,
        yields=PlayedYields(
            first=found.first + (start - found.first) // WEEK * WEEK,
            step=found.terms.step_minutes * 60,
            usd_by_protocol=found.usd,
            available_by_protocol=found.available,
        ),
        prices=SeededPrices(seed),
        at_market=frozenset(TOKENS.values()),
        step_minutes=found.terms.step_minutes,
    )


def read_played_terms(folder: Path) -> WorldTerms:
    """The terms of the world in `folder`. Raises `SettingsError` where the testnet cannot emulate them."""
    terms, path = read_terms(folder), folder / "world.toml"
    if set(terms.protocols) != set(PROTOCOLS):
        raise SettingsError(
            f"{path}: protocols are {', '.join(sorted(terms.protocols))}. The testnet emulates {', '.join(PROTOCOLS)}: "
            "give one [protocols.NAME] table for each of these."
        )
    for protocol, each in terms.protocols.items():
        if each.demand.cpu_threads < 1.0 or each.demand.disk_gb <= 0.0:
            raise SettingsError(f"{path}: protocols.{protocol} needs a demand of at least one thread and some disk.")
    return terms


# ---------------------------------------------------------------- price file


@dataclass(frozen=True, slots=True)
class _Series:
    """Hourly prices from `first` (Unix seconds, moved to the testnet's time), a whole number of weeks long."""

    first: int
    values: tuple[float, ...]

    def at(self, moment: int) -> float:
        return self.values[(moment - self.first) // HOUR % len(self.values)]


@dataclass(frozen=True, slots=True)
class ReplayedPrices:
    """Recorded hourly prices; tokens without a record keep the seeded price."""

    series: Mapping[str, _Series]
    references: Mapping[str, float]
    seeded: Prices

    def usd(self, token: str, at: int) -> float:
        """USD for one token."""
        series = self.series.get(token)
        return self.seeded.usd(token, at) if series is None else series.at(at)

    def reference(self, token: str) -> float:
        """The median of the weeks after the testnet's start, so that a dear year does not upset the contention."""
        found = self.references.get(token)
        return self.seeded.reference(token) if found is None else found


def read_price_table(path: Path) -> dict[str, dict[int, float]]:
    """Token -> hour (whole hours since 1970) -> USD, of STORJ, GLM and DATA."""
    found: dict[str, dict[int, float]] = {}
    for line, row in csv_rows(path, ("unique_id", "ds", "y")):
        if row[0] not in REPLAYED_TOKENS:
            raise SettingsError(
                f"{path}:{line}: unique_id {row[0]!r} is not a token of the testnet. "
                f"Keep the rows of {', '.join(REPLAYED_TOKENS)}."
            )
        hour = moment_of(path, line, row[1]) // HOUR
        prices = found.setdefault(row[0], {})
        if hour in prices:
            raise SettingsError(f"{path}:{line}: {row[0]} at {row[1]} stands twice. Keep one price an hour.")
        prices[hour] = number_of(path, line, row[2], minimum=1e-12)
    if not found:
        raise SettingsError(f"{path} holds no prices. Give hourly rows `unique_id,ds,y`.")
    return found


def read_prices(path: Path, *, seed: int, start: int) -> ReplayedPrices:
    """Prices of STORJ, GLM and DATA, moved together by whole weeks so that the record ends after `start`."""
    found = read_price_table(path)
    for token, prices in found.items():
        if max(prices) - min(prices) + 1 < WEEK // HOUR:
            raise SettingsError(f"{path}: {token} covers less than a week. Give at least a week of hourly prices.")
    shortest = min(max(prices) - min(prices) + 1 for prices in found.values()) * HOUR
    end = min(max(prices) + 1 for prices in found.values()) * HOUR
    headroom = min(_HEADROOM, shortest - WEEK)
    move = -(-(start + headroom - end) // WEEK) * WEEK
    series = {token: _filled(prices, move) for token, prices in found.items()}
    spans = {t: [s.at(start + h * HOUR) for h in range(max(headroom, WEEK) // HOUR)] for t, s in series.items()}
    return ReplayedPrices(
        series=series,
        references={token: statistics.median(span) for token, span in spans.items()},
        seeded=SeededPrices(seed),
    )


def _filled(prices: Mapping[int, float], move: int) -> _Series:
    """The last whole weeks of the record; an hour without a price keeps the one before."""
    first, last = min(prices), max(prices)
    values = [prices[first]]
    for hour in range(first + 1, last + 1):
        values.append(prices.get(hour, values[-1]))
    hours = len(values) // (WEEK // HOUR) * (WEEK // HOUR)
    return _Series(first=(last + 1 - hours) * HOUR + move, values=tuple(values[-hours:]))
