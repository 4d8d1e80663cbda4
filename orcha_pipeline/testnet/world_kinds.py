"""Worlds made to a kind: what four protocols truly pay, quarter hour by quarter hour, for the testnet and backtests.

A protocol's yield is `mean x exp(day + week + level + restlessness + shocks)`: a daily profile of two harmonics, a
weekend, a level that returns over days, a restlessness that returns over hours, and shocks that come and go at once.
A kind sets how strong each of these is, how tightly the demands squeeze the host, and how often a protocol is away;
the seed moves every one of these figures a little and draws the rest. The same seed gives the same bytes.

- `benign`: everything moves slowly, the demands squeeze little: a fixed division is nearly as good as any.
- `contended`: everyone wants the whole host, and who pays best changes within hours.
- `adversarial`: baits that pay much for an hour and little afterwards, so that whoever runs after them pays for it.
- `outage`: protocols that pay nothing for hours, several times a week.
- `replay`: steadier demand valued at token prices: recorded ones, or seeded where none are given.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.model import RESOURCES, Resources
from orcha_pipeline.testnet.noise import uniform
from orcha_pipeline.testnet.played import read_price_table
from orcha_pipeline.testnet.worlds import DAY, HOUR, PROTOCOLS, TOKENS, WEEK, SeededPrices, Terms, WorldKind

STEP_MINUTES = 15
FEWEST_DAYS, MOST_DAYS = 3, 3660
_STEP_HOURS = STEP_MINUTES / 60
_STEPS_A_DAY = 24 * 60 // STEP_MINUTES
_FIRST = int(datetime(2025, 1, 6, tzinfo=UTC).timestamp())
"""A Monday."""
_CAPACITY = Resources(cpu_threads=16.0, memory_gib=64.0, disk_gb=8000.0, bandwidth_mbps=500.0)
_WANTED: Mapping[str, Resources] = {
    "storj": Resources(cpu_threads=7.2, memory_gib=34.0, disk_gb=7400.0, bandwidth_mbps=380.0),
    "golem": Resources(cpu_threads=14.4, memory_gib=59.0, disk_gb=4000.0, bandwidth_mbps=250.0),
    "streamr": Resources(cpu_threads=11.0, memory_gib=37.0, disk_gb=1650.0, bandwidth_mbps=465.0),
    "grass": Resources(cpu_threads=9.6, memory_gib=31.0, disk_gb=1200.0, bandwidth_mbps=465.0),
}
"""At share 1.0, before the kind's squeeze."""
_MIN_SHARE: Mapping[str, float] = {"storj": 0.2, "golem": 0.05, "streamr": 0.05, "grass": 0.05}
_RESTART_SECONDS: Mapping[str, float] = {"storj": 300.0, "golem": 20.0, "streamr": 15.0, "grass": 5.0}
_COOLDOWN_HOURS: Mapping[str, float] = {"storj": 24.0, "golem": 0.0, "streamr": 0.0, "grass": 0.0}
_MEAN_USD: Mapping[str, float] = {"storj": 0.045, "golem": 0.05, "streamr": 0.042, "grass": 0.042}
"""A full share's typical pay an hour."""
_LIVELINESS: Mapping[str, float] = {"storj": 0.12, "golem": 1.15, "streamr": 0.9, "grass": 1.0}
"""How strongly a protocol moves from hour to hour, against the kind. Storage is paid by the month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manner:
    """How strong a kind's parts are. Amplitudes and deviations are in log yield."""

    squeeze: float
    """Demands against the usual, and the largest part of any of the host's resources that one may want."""
    curvature: tuple[float, float]
    spread: float
    """Deviation of the protocols' means."""
    daily: float
    weekend: float
    level: float
    level_hours: float
    restless: float
    restless_hours: float
    shocks_a_day: float
    shock_hours: float
    shock_size: float
    bait: float = 0.0
    """How far below the usual a yield falls when a shock is over, against the shock, for twice its time."""
    outages_a_month: float
    outage_hours: float


_MANNERS: Mapping[WorldKind, _Manner] = {
    WorldKind.BENIGN: _Manner(
        squeeze=0.57,
        curvature=(0.48, 0.66),
        spread=0.2,
        daily=0.14,
        weekend=0.06,
        level=0.13,
        level_hours=60.0,
        restless=0.1,
        restless_hours=10.0,
        shocks_a_day=0.0,
        shock_hours=1.0,
        shock_size=0.0,
        outages_a_month=1.0,
        outage_hours=1.5,
    ),
    WorldKind.CONTENDED: _Manner(
        squeeze=1.0,
        curvature=(0.87, 0.97),
        spread=0.25,
        daily=0.30,
        weekend=0.15,
        level=0.45,
        level_hours=44.0,
        restless=0.42,
        restless_hours=9.0,
        shocks_a_day=0.9,
        shock_hours=2.5,
        shock_size=0.95,
        outages_a_month=3.0,
        outage_hours=2.0,
    ),
    WorldKind.ADVERSARIAL: _Manner(
        squeeze=0.95,
        curvature=(0.76, 0.9),
        spread=0.22,
        daily=0.24,
        weekend=0.1,
        level=0.40,
        level_hours=36.0,
        restless=0.40,
        restless_hours=8.0,
        shocks_a_day=2.0,
        shock_hours=1.2,
        shock_size=1.2,
        bait=0.25,
        outages_a_month=2.5,
        outage_hours=1.7,
    ),
    WorldKind.OUTAGE: _Manner(
        squeeze=0.9,
        curvature=(0.75, 0.92),
        spread=0.2,
        daily=0.26,
        weekend=0.12,
        level=0.36,
        level_hours=40.0,
        restless=0.36,
        restless_hours=9.0,
        shocks_a_day=0.4,
        shock_hours=3.0,
        shock_size=0.95,
        outages_a_month=10.0,
        outage_hours=3.6,
    ),
    WorldKind.REPLAY: _Manner(
        squeeze=0.95,
        curvature=(0.76, 0.95),
        spread=0.28,
        daily=0.28,
        weekend=0.12,
        level=0.34,
        level_hours=60.0,
        restless=0.2,
        restless_hours=9.0,
        shocks_a_day=0.0,
        shock_hours=1.0,
        shock_size=0.0,
        outages_a_month=2.5,
        outage_hours=1.8,
    ),
}


@dataclass(frozen=True, slots=True)
class _Draws:
    """Random numbers of one protocol, pure functions of seed, label and place."""

    seed: int
    about: str

    def uniform(self, label: str, index: int = 0) -> float:
        """In [0, 1)."""
        return uniform(self.seed, f"{self.about}/{label}", index)

    def normal(self, label: str, index: int = 0) -> float:
        """Of mean 0 and deviation 1."""
        return NormalDist().inv_cdf(min(1.0 - 1e-12, max(1e-12, self.uniform(label, index))))

    def exponential(self, label: str, index: int = 0) -> float:
        """Of mean 1, at most 4."""
        return min(4.0, -math.log(1.0 - self.uniform(label, index)))

    def around(self, label: str, value: float, spread: float = 0.2) -> float:
        """`value`, up to `spread` of it more or less."""
        return value * (1.0 + spread * (2.0 * self.uniform(label) - 1.0))


@dataclass(frozen=True, slots=True)
class MadeWorld:
    """A world's terms and its steps, in order: yields in USD an hour at share 1.0."""

    name: str
    history_days: int
    first: int
    terms: Mapping[str, Terms]
    yields: Mapping[str, tuple[float, ...]]
    available: Mapping[str, tuple[bool, ...]]


def make_world(kind: WorldKind, *, seed: int, days: int, prices: Path | None = None) -> MadeWorld:
    """The world of a kind and seed. `prices`: recorded hourly token prices, for `replay` alone.

    The first third of the days is history. Raises `SettingsError` where that cannot be made.
    """
    if not FEWEST_DAYS <= days <= MOST_DAYS:
        raise SettingsError(f"A world has {FEWEST_DAYS} to {MOST_DAYS} days, not {days}.")
    if prices is not None and kind is not WorldKind.REPLAY:
        raise SettingsError(f"A {kind} world takes no prices. Leave them out, or make it of the kind replay.")
    manner = _MANNERS[kind]
    first, value = _FIRST, _no_price
    if kind is WorldKind.REPLAY:
        first, value = _seeded_values(seed, days) if prices is None else _recorded_values(prices, seed, days)
    steps = days * _STEPS_A_DAY
    yields: dict[str, tuple[float, ...]] = {}
    available: dict[str, tuple[bool, ...]] = {}
    for protocol in PROTOCOLS:
        draws = _Draws(seed, f"{kind}/{protocol}")
        logs = _log_yields(manner, draws, protocol, steps)
        yields[protocol] = tuple(
            max(1e-6, math.exp(log) * value(protocol, first + step * STEP_MINUTES * 60))
            for step, log in enumerate(logs)
        )
        available[protocol] = _availability(manner, draws, protocol, steps)
    return MadeWorld(
        name=f"{kind}-{seed}",
        history_days=days // 3,
        first=first,
        terms={protocol: _terms(manner, _Draws(seed, f"{kind}/{protocol}"), protocol) for protocol in PROTOCOLS},
        yields=yields,
        available=available,
    )


def write_world(out: Path, *, kind: WorldKind, seed: int, days: int, prices: Path | None = None) -> None:
    """Make a world and write it to the new folder `out`. Raises `SettingsError`, before anything is written."""
    if out.exists():
        raise SettingsError(f"{out} is there already, and a world is not written over. Name a new folder.")
    world = make_world(kind, seed=seed, days=days, prices=prices)
    toml, table = _toml(world), _table(world)
    try:
        out.mkdir(parents=True)
        (out / "world.toml").write_text(toml, encoding="utf-8")
        (out / "yields.csv").write_text(table, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{out} cannot be written: {error.strerror}. Name a folder that can.") from error


# ---------------------------------------------------------------- terms


def _terms(manner: _Manner, draws: _Draws, protocol: str) -> Terms:
    limits = _CAPACITY.as_dict()
    wanted = {
        name: round(min(manner.squeeze * limits[name], manner.squeeze * draws.around(name, amount, 0.12)), 3)
        for name, amount in _WANTED[protocol].as_dict().items()
    }
    low, high = manner.curvature
    return Terms(
        demand=Resources(**wanted),
        min_share=_MIN_SHARE[protocol],
        max_share=1.0,
        curvature=round(low + (high - low) * draws.uniform("curvature"), 4),
        restart_seconds=float(round(draws.around("restart", _RESTART_SECONDS[protocol]))),
        cooldown_hours=_COOLDOWN_HOURS[protocol],
    )


# ---------------------------------------------------------------- yields


def _log_yields(manner: _Manner, draws: _Draws, protocol: str, steps: int) -> list[float]:
    lively = _LIVELINESS[protocol]
    # What storage pays moves from week to week, but hardly within a day.
    slow, slower = (0.55, 3.0) if protocol == "storj" else (lively, 1.0)
    size = draws.around("level-size", manner.level) * slow
    level = _returning(draws, "level", size, manner.level_hours * slower, steps)
    restless = _returning(
        draws, "restless", draws.around("restless-size", manner.restless) * lively, manner.restless_hours, steps
    )
    shocks = _shocks(manner, draws, lively, steps)
    day = draws.around("day-size", manner.daily) * lively
    half_day = day * draws.uniform("half-day-size") * 0.5
    peaks = 24.0 * draws.uniform("peak"), 12.0 * draws.uniform("half-day-peak")
    weekend = manner.weekend * lively * draws.normal("weekend")
    base = math.log(_MEAN_USD[protocol]) + manner.spread * draws.normal("mean")
    logs: list[float] = []
    for step in range(steps):
        hours = step * _STEP_HOURS
        profile = day * math.cos(2.0 * math.pi * (hours - peaks[0]) / 24.0)
        profile += half_day * math.cos(2.0 * math.pi * (hours - peaks[1]) / 12.0)
        # Worlds begin on a Monday.
        profile += weekend if step // _STEPS_A_DAY % 7 >= 5 else 0.0
        logs.append(base + profile + level[step] + restless[step] + shocks[step])
    return logs


def _returning(draws: _Draws, label: str, deviation: float, hours: float, steps: int) -> list[float]:
    """A walk that returns to 0 with a time constant of `hours`, its deviation the same throughout."""
    kept = math.exp(-_STEP_HOURS / hours)
    fresh = deviation * math.sqrt(1.0 - kept * kept)
    place = deviation * draws.normal(f"{label}-begin")
    found: list[float] = []
    for step in range(steps):
        found.append(place)
        place = kept * place + fresh * draws.normal(label, step)
    return found


def _shocks(manner: _Manner, draws: _Draws, lively: float, steps: int) -> list[float]:
    """What comes at once and goes at once, one at a time: two in three raise the yield. A dearth follows a bait."""
    found = [0.0] * steps
    rate = draws.around("shocks", manner.shocks_a_day) / _STEPS_A_DAY * lively
    over = 0
    for begin in range(steps):
        if begin < over or draws.uniform("shock", begin) >= rate:
            continue
        length = 1 + int(draws.exponential("shock-length", begin) * manner.shock_hours / _STEP_HOURS)
        size = manner.shock_size * (0.6 + 0.8 * draws.uniform("shock-size", begin))
        size *= 1.0 if manner.bait or draws.uniform("shock-sign", begin) < 2.0 / 3.0 else -1.0
        over = begin + length
        for step in range(begin, min(steps, over)):
            found[step] = size
        if manner.bait:
            over += 2 * length
            for step in range(begin + length, min(steps, over)):
                found[step] = -manner.bait * size
    return found


def _availability(manner: _Manner, draws: _Draws, protocol: str, steps: int) -> tuple[bool, ...]:
    found = [True] * steps
    rate = draws.around("outages", manner.outages_a_month, 0.4) / (30 * _STEPS_A_DAY)
    rate *= 0.35 if protocol == "storj" else 1.0
    for begin in range(steps):
        if found[begin] and draws.uniform("outage", begin) < rate:
            length = 2 + int(draws.exponential("outage-length", begin) * manner.outage_hours / _STEP_HOURS)
            for step in range(begin, min(steps, begin + length)):
                found[step] = False
    return tuple(found)


# ---------------------------------------------------------------- prices


def _no_price(_protocol: str, _at: int) -> float:
    return 1.0


def _seeded_values(seed: int, days: int) -> tuple[int, Callable[[str, int], float]]:
    """The testnet's own token prices, against their median over the world."""
    prices = SeededPrices(seed)
    medians = {
        token: statistics.median(prices.usd(token, at) for at in range(_FIRST, _FIRST + days * DAY, HOUR))
        for token in TOKENS.values()
    }

    def value(protocol: str, at: int) -> float:
        # Storj pays US dollars, whatever its token is worth.
        token = TOKENS[protocol]
        return 1.0 if protocol == "storj" else prices.usd(token, at - at % HOUR) / medians[token]

    return _FIRST, value


def _recorded_values(path: Path, seed: int, days: int) -> tuple[int, Callable[[str, int], float]]:
    """Recorded prices against their median, from a Monday of the record that the seed chooses.

    An hour without a price keeps the one before. A token without a record has its seeded price.
    """
    table = read_price_table(path)
    begin = max(min(hours) for hours in table.values()) * HOUR
    end = (min(max(hours) for hours in table.values()) + 1) * HOUR
    monday = begin + (_FIRST - begin) % WEEK
    mondays = (end - days * DAY - monday) // WEEK + 1
    if mondays <= 0:
        span = max(0, end - begin) // DAY
        raise SettingsError(
            f"{path}: its tokens {', '.join(sorted(table))} are recorded together for {span} days. {days} days from a "
            "Monday on are needed: give fewer days, or a longer record."
        )
    first = monday + int(mondays * uniform(seed, "replay/monday", 0)) * WEEK
    recorded: dict[str, list[float]] = {}
    for token, prices in table.items():
        # The last price known when the world begins.
        last = prices[max(hour for hour in prices if hour <= first // HOUR)]
        series: list[float] = []
        for hour in range(first // HOUR, first // HOUR + days * 24):
            last = prices.get(hour, last)
            series.append(last)
        recorded[token] = series
    medians = {token: statistics.median(series) for token, series in recorded.items()}
    seeded = _seeded_values(seed, days)[1]

    def value(protocol: str, at: int) -> float:
        token = TOKENS[protocol]
        if protocol == "storj" or token not in recorded:
            return seeded(protocol, at - first + _FIRST)
        return recorded[token][(at - first) // HOUR] / medians[token]

    return first, value


# ---------------------------------------------------------------- files


def _toml(world: MadeWorld) -> str:
    lines = [
        f'name = "{world.name}"',
        f"step_minutes = {STEP_MINUTES}",
        f"history_days = {world.history_days}",
        "",
        "[capacity]",
        *(f"{name} = {amount}" for name, amount in _CAPACITY.as_dict().items()),
    ]
    for protocol, terms in world.terms.items():
        demand = terms.demand.as_dict()
        lines += [
            "",
            f"[protocols.{protocol}]",
            "demand = { " + ", ".join(f"{name} = {demand[name]}" for name in RESOURCES) + " }",
            f"min_share = {terms.min_share:g}",
            f"max_share = {terms.max_share:g}",
            f"curvature = {terms.curvature}",
            f"restart_seconds = {terms.restart_seconds:g}",
            f"cooldown_hours = {terms.cooldown_hours:g}",
        ]
    return "\n".join(lines) + "\n"


def _table(world: MadeWorld) -> str:
    rows = ["time,protocol,yield_usd_per_hour,available"]
    for step in range(len(world.yields[PROTOCOLS[0]])):
        moment = datetime.fromtimestamp(world.first + step * STEP_MINUTES * 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        rows += [
            f"{moment},{protocol},{world.yields[protocol][step]:.6f},{int(world.available[protocol][step])}"
            for protocol in PROTOCOLS
        ]
    return "\n".join(rows) + "\n"
