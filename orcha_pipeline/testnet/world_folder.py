"""A world as a folder: `world.toml` with the terms, `yields.csv` with what each protocol truly pays at every step.

The testnet plays such worlds, and `orcha backtest allocation` measures policies in them. What is wrong with a file is
a `SettingsError` that names the file, the line and the remedy.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.model import RESOURCES, Resources
from orcha_pipeline.testnet.csv_rows import csv_rows, moment_of, number_of
from orcha_pipeline.testnet.worlds import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldTerms:
    """`world.toml`: what is fixed in a world. The first `history_days` are there to learn from."""

    name: str
    step_minutes: int
    history_days: float
    capacity: Resources
    protocols: Mapping[str, Terms]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldFolder:
    """A world's terms, and its steps in order from `first` (Unix seconds) on: USD an hour at share 1.0, by protocol."""

    terms: WorldTerms
    first: int
    usd: Mapping[str, tuple[float, ...]]
    available: Mapping[str, tuple[bool, ...]]


def read_terms(folder: Path) -> WorldTerms:
    """`world.toml` of a folder, without reading the yields."""
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
    if not isinstance(found, dict) or not found:
        raise SettingsError(f"{path}: protocols are none. Give one [protocols.NAME] table for each protocol.")
    tables = cast("dict[str, dict[str, Any]]", found)
    return WorldTerms(
        name=str(table.get("name", folder.name)),
        step_minutes=step,
        history_days=_number(path, "the world", table, "history_days") if "history_days" in table else 0.0,
        capacity=capacity,
        protocols={protocol: _terms(path, protocol, tables[protocol]) for protocol in tables},
    )


def read_steps(folder: Path, terms: WorldTerms) -> WorldFolder:
    """The world in `folder`, whose terms were read: a row for each protocol and step, without a gap."""
    path, step = folder / "yields.csv", terms.step_minutes * 60
    rows: dict[str, dict[int, tuple[float, bool]]] = {protocol: {} for protocol in terms.protocols}
    for line, row in csv_rows(path, ("time", "protocol", "yield_usd_per_hour", "available")):
        at = moment_of(path, line, row[0])
        if at % step:
            raise SettingsError(
                f"{path}:{line}: {row[0]} is not on the {terms.step_minutes} minute grid. Move it to a step."
            )
        if row[1] not in rows:
            raise SettingsError(f"{path}:{line}: protocol {row[1]!r} is not in world.toml. Mend the name.")
        if row[3] not in {"0", "1"}:
            raise SettingsError(f"{path}:{line}: available is {row[3]!r}. Write 1 or 0.")
        if at in rows[row[1]]:
            raise SettingsError(f"{path}:{line}: {row[1]} at {row[0]} stands twice. Remove one of the rows.")
        rows[row[1]][at] = (number_of(path, line, row[2], minimum=0.0), row[3] == "1")
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
    ordered = {protocol: [series[at] for at in sorted(series)] for protocol, series in rows.items()}
    return WorldFolder(
        terms=terms,
        first=first,
        usd={protocol: tuple(usd for usd, _ in series) for protocol, series in ordered.items()},
        available={protocol: tuple(up for _, up in series) for protocol, series in ordered.items()},
    )


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


def _terms(path: Path, protocol: str, table: Any) -> Terms:
    where = f"protocols.{protocol}"
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: {where} is {table!r}. Make it a table, [{where}].")
    own = cast("dict[str, Any]", table)
    demand = _resources(path, own, "demand")
    keys = ("min_share", "max_share", "curvature", "restart_seconds", "cooldown_hours")
    low, high, curvature, restart, cooldown = (_number(path, where, own, key) for key in keys)
    if not low <= high <= 1.0 or not 0.0 < curvature <= 1.0:
        raise SettingsError(
            f"{path}: {where} needs min_share <= max_share <= 1 and 0 < curvature <= 1. Mend the one that is not so."
        )
    return Terms(
        demand=demand,
        min_share=low,
        max_share=high,
        curvature=curvature,
        restart_seconds=restart,
        cooldown_hours=cooldown,
    )
