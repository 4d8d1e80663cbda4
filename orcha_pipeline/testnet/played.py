"""Worlds and token prices read from files, moved by whole weeks to the testnet's time and repeated when they end.

A world is a folder of `world.toml` and `yields.csv`; a price file is a table `unique_id, ds, y`, plain or gzipped.
What is wrong with a file is a `SettingsError` that names the file, the line and the remedy.
"""

import csv
import gzip
import io
import math
import statistics
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.model import RESOURCES, Resources
from orcha_pipeline.testnet.worlds import (
    DAY,
    HOUR,
    PROTOCOLS,
    TOKENS,
    WEEK,
    Prices,
    SeededPrices,
    Terms,
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


def read_terms(folder: Path) -> tuple[str, int, Resources, dict[str, Terms]]:
    """Name, step in minutes, capacity and protocols of `world.toml`, without reading the yields."""
    path = folder / "world.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}). Name a world folder that holds world.toml and yields.csv."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}. Mend that line.") from error
    step = table.get("step_minutes", 15)
    if not isinstance(step, int) or step <= 0 or 60 % step:
        raise SettingsError(f"{path}: step_minutes is {step!r}. Give a whole number of minutes that divides an hour.")
    capacity = _resources(path, table, "capacity")
    found = table.get("protocols")
    if not isinstance(found, dict) or set(cast("dict[str, Any]", found)) != set(PROTOCOLS):
        names = ", ".join(sorted(cast("dict[str, Any]", found))) if isinstance(found, dict) else "none"
        raise SettingsError(
            f"{path}: protocols are {names}. The testnet emulates {', '.join(PROTOCOLS)}: give one "
            "[protocols.NAME] table for each of these."
        )
    tables = cast("dict[str, dict[str, Any]]", found)
    return str(table.get("name", folder.name)), step, capacity, {p: _terms(path, p, tables[p]) for p in PROTOCOLS}


def _number(path: Path, where: str, table: Mapping[str, Any], key: str) -> float:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise SettingsError(f"{path}: {where}.{key} is {value!r}. Give a number that is not negative.")
    return float(value)


def _resources(path: Path, table: Mapping[str, Any], key: str) -> Resources:
    inner: Any = table.get(key)
    if not isinstance(inner, dict):
        raise SettingsError(f"{path}: {key} is missing. Give it {', '.join(RESOURCES)}.")
    amounts = cast("dict[str, Any]", inner)
    return Resources(**{name: _number(path, key, amounts, name) for name in RESOURCES})


def _terms(path: Path, protocol: str, table: Mapping[str, Any]) -> Terms:
    where = f"protocols.{protocol}"
    demand = _resources(path, table, "demand")
    keys = ("min_share", "max_share", "curvature", "restart_seconds", "cooldown_hours")
    low, high, curvature, restart, cooldown = (_number(path, where, table, key) for key in keys)
    if not low <= high <= 1.0 or not 0.0 < curvature <= 1.0 or demand.cpu_threads < 1.0 or demand.disk_gb <= 0.0:
        raise SettingsError(
            f"{path}: {where} needs min_share <= max_share <= 1, 0 < curvature <= 1, and a demand of at least one "
            "thread and some disk. Mend the one that is not so."
        )
    return Terms(
        demand=demand,
        min_share=low,
        max_share=high,
        curvature=curvature,
        restart_seconds=restart,
        cooldown_hours=cooldown,
    )


def read_world(folder: Path, *, seed: int, start: int) -> World:
    """The world in `folder`, moved by whole weeks so that `start` falls into its first one. Prices are seeded."""
    name, minutes, capacity, protocols = read_terms(folder)
    path = folder / "yields.csv"
    step = minutes * 60
    rows: dict[str, dict[int, tuple[float, bool]]] = {protocol: {} for protocol in PROTOCOLS}
    for line, row in _rows(path, ("time", "protocol", "yield_usd_per_hour", "available")):
        at = _moment(path, line, row[0])
        if at % step:
            raise SettingsError(f"{path}:{line}: {row[0]} is not on the {minutes} minute grid. Move it to a step.")
        if row[1] not in rows:
            raise SettingsError(f"{path}:{line}: protocol {row[1]!r} is not in world.toml. Mend the name.")
        if row[3] not in {"0", "1"}:
            raise SettingsError(f"{path}:{line}: available is {row[3]!r}. Write 1 or 0.")
        if at in rows[row[1]]:
            raise SettingsError(f"{path}:{line}: {row[1]} at {row[0]} stands twice. Remove one of the rows.")
        rows[row[1]][at] = (_value(path, line, row[2], minimum=0.0), row[3] == "1")
    starts = {min(series) for series in rows.values() if series}
    lengths = {len(series) for series in rows.values()}
    if len(starts) != 1 or len(lengths) != 1:
        counts = ", ".join(f"{protocol} {len(series)}" for protocol, series in rows.items())
        raise SettingsError(
            f"{path}: rows are {counts}. Give every protocol one row for each step, from one moment on."
        )
    first, count = starts.pop(), lengths.pop()
    for protocol, series in rows.items():
        missing = next((at for at in range(first, first + count * step, step) if at not in series), None)
        if missing is not None:
            moment = datetime.fromtimestamp(missing, UTC).isoformat()
            raise SettingsError(f"{path}: {protocol} has no row for {moment}. Give one row for each step.")
    ordered = {p: [series[at] for at in sorted(series)] for p, series in rows.items()}
    return World(
        name=name,
        capacity=capacity,
        protocols=protocols,
        yields=PlayedYields(
            first=first + (start - first) // WEEK * WEEK,
            step=step,
            usd_by_protocol={p: tuple(usd for usd, _ in series) for p, series in ordered.items()},
            available_by_protocol={p: tuple(up for _, up in series) for p, series in ordered.items()},
        ),
        prices=SeededPrices(seed),
        at_market=frozenset(TOKENS.values()),
        step_minutes=minutes,
    )


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
    for line, row in _rows(path, ("unique_id", "ds", "y")):
        if row[0] not in REPLAYED_TOKENS:
            raise SettingsError(
                f"{path}:{line}: unique_id {row[0]!r} is not a token of the testnet. "
                f"Keep the rows of {', '.join(REPLAYED_TOKENS)}."
            )
        hour = _moment(path, line, row[1]) // HOUR
        prices = found.setdefault(row[0], {})
        if hour in prices:
            raise SettingsError(f"{path}:{line}: {row[0]} at {row[1]} stands twice. Keep one price an hour.")
        prices[hour] = _value(path, line, row[2], minimum=1e-12)
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


# ---------------------------------------------------------------- tables


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row, after checking the header."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8")
    except FileNotFoundError as error:
        raise SettingsError(f"{path} does not exist. Name the file or folder that is there.") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}. Give a UTF-8 CSV file, plain or .gz.") from error
    reader = csv.reader(io.StringIO(text))
    header = next(reader, None)
    if header != list(columns):
        raise SettingsError(f"{path}:1: the header is {header!r}. Write {','.join(columns)}.")
    for row in reader:
        if len(row) != len(columns):
            raise SettingsError(f"{path}:{reader.line_num}: {len(row)} fields. Write {','.join(columns)}.")
        yield reader.line_num, row


def _moment(path: Path, line: int, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(f"{path}:{line}: {text!r} is not a time. Write 2025-01-06T00:00:00Z.") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _value(path: Path, line: int, text: str, *, minimum: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < minimum:
        raise SettingsError(
            f"{path}:{line}: {text!r} is not a usable number. Write a finite number that is not below 0."
        )
    return value
