"""Worlds: what each protocol truly pays at every moment, whether it pays at all, and what its token is worth.

A `World` is a pure function of time. Inside the testnet time is whole Unix seconds (UTC) and a yield is constant
within a step of `step_minutes`. The seeded world is made here; `played` reads worlds and prices from files.

Native units: Storj US dollars, Golem GLM, Streamr DATA, Grass points (worth `GRASS_PER_POINT` GRASS each).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

from orcha_pipeline.model import Resources
from orcha_pipeline.testnet.noise import octaves, uniform

HOUR = 3600
DAY = 24 * HOUR
WEEK = 7 * DAY
PROTOCOLS = ("storj", "golem", "streamr", "grass")
TOKENS: Mapping[str, str] = {"storj": "STORJ", "golem": "GLM", "streamr": "DATA", "grass": "GRASS"}
REFERENCE_PRICES: Mapping[str, float] = {"STORJ": 0.25, "GLM": 0.22, "DATA": 0.02, "GRASS": 0.6}
"""USD a token that the seeded prices wander about."""
GRASS_PER_POINT = 0.0055
"""What a point turns into on the testnet. On the real network no such rate exists before an airdrop."""


class WorldKind(StrEnum):
    """What a made world is like."""

    BENIGN = "benign"
    CONTENDED = "contended"
    ADVERSARIAL = "adversarial"
    OUTAGE = "outage"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one protocol's node uses at share 1.0, the bounds of its share, and the response and cost of a change."""

    demand: Resources
    min_share: float
    max_share: float
    curvature: float
    restart_seconds: float
    cooldown_hours: float


class Yields(Protocol):
    """Where the yields come from. `step` is the start of a step, Unix seconds."""

    def usd(self, protocol: str, step: int) -> float:
        """USD an hour at share 1.0, with the token at its reference price."""
        ...

    def available(self, protocol: str, step: int) -> bool:
        """False while the protocol pays nothing at all."""
        ...


class Prices(Protocol):
    """Where token prices come from."""

    def usd(self, token: str, at: int) -> float:
        """USD for one token."""
        ...

    def reference(self, token: str) -> float:
        """The price at which the yields are stated."""
        ...


@dataclass(frozen=True, slots=True)
class Shift:
    """One protocol's yield times `factor` from `since` on."""

    protocol: str
    factor: float
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything the emulated economy obeys. Methods take Unix seconds."""

    name: str
    capacity: Resources
    protocols: Mapping[str, Terms]
    yields: Yields
    prices: Prices
    at_market: frozenset[str] = frozenset()
    """Tokens whose price moves are already inside the yields, so that USD comes out exactly as the world says."""
    shifts: tuple[Shift, ...] = ()
    step_minutes: int = 15

    @property
    def step(self) -> int:
        """Length of a step in seconds."""
        return self.step_minutes * 60

    def native_rate(self, protocol: str, at: int) -> float:
        """Native units an hour at share 1.0, not regarding outages."""
        step = at - at % self.step
        usd = self.yields.usd(protocol, step)
        for shift in self.shifts:
            if shift.protocol == protocol and at >= shift.since:
                usd *= shift.factor
        if protocol == "storj":
            return usd
        token = TOKENS[protocol]
        price = self.prices.usd(token, step) if token in self.at_market else self.prices.reference(token)
        return usd / price / _tokens_per_unit(protocol)

    def available(self, protocol: str, at: int) -> bool:
        """False during the protocol's outages."""
        return self.yields.available(protocol, at - at % self.step)

    def price(self, token: str, at: int) -> float:
        """USD for one token, constant within a step."""
        return self.prices.usd(token, at - at % self.step)

    def unit_usd(self, protocol: str, at: int) -> float:
        """USD for one native unit."""
        if protocol == "storj":
            return 1.0
        return self.price(TOKENS[protocol], at) * _tokens_per_unit(protocol)

    def usd_yield(self, protocol: str, at: int) -> float:
        """USD an hour at share 1.0, not regarding outages."""
        return self.native_rate(protocol, at) * self.unit_usd(protocol, at)

    def shift(self, protocol: str, factor: float, since: int) -> "World":
        """The same world with `protocol` paying `factor` times as much from `since` on."""
        return replace(self, shifts=(*self.shifts, Shift(protocol, factor, since)))


def _tokens_per_unit(protocol: str) -> float:
    return GRASS_PER_POINT if protocol == "grass" else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Temper:
    """How one protocol's yield moves. Amplitudes are in log yield."""

    mean_usd: float
    peak_hour: float
    daily: float
    """Amplitude of the day's first harmonic; the second has a third of it."""
    weekend: float
    wander: float
    shocks_per_day: float
    shock_hours: float
    shock_size: float
    outages_per_month: float


_TEMPERS: Mapping[str, _Temper] = {
    "storj": _Temper(
        mean_usd=0.055,
        peak_hour=20.0,
        daily=0.06,
        weekend=-0.03,
        wander=0.10,
        shocks_per_day=0.1,
        shock_hours=6.0,
        shock_size=0.25,
        outages_per_month=0.5,
    ),
    "golem": _Temper(
        mean_usd=0.075,
        peak_hour=14.0,
        daily=0.75,
        weekend=-0.35,
        wander=0.28,
        shocks_per_day=0.8,
        shock_hours=2.0,
        shock_size=0.8,
        outages_per_month=1.5,
    ),
    "streamr": _Temper(
        mean_usd=0.065,
        peak_hour=20.0,
        daily=0.6,
        weekend=0.2,
        wander=0.22,
        shocks_per_day=0.5,
        shock_hours=2.5,
        shock_size=0.6,
        outages_per_month=1.0,
    ),
    "grass": _Temper(
        mean_usd=0.045,
        peak_hour=3.0,
        daily=0.65,
        weekend=0.1,
        wander=0.2,
        shocks_per_day=0.4,
        shock_hours=2.0,
        shock_size=0.6,
        outages_per_month=1.0,
    ),
}

_WANDER = ((6.0, 0.35), (16.0, 0.5), (40.0, 0.7), (110.0, 0.9), (300.0, 1.0))
_PRICE_WALK = ((3.0, 0.004), (12.0, 0.009), (48.0, 0.02), (190.0, 0.04), (760.0, 0.08), (3000.0, 0.12))
_OUTAGE_BLOCK_HOURS = 6
_SHOCK_LOOKBACK = 6
"""An exponential length is cut at this many means, so that no older block need be asked."""


@dataclass(frozen=True, slots=True)
class SeededYields:
    """A slow mean-reverting level, a day's and a week's profile, demand shocks and rare outages."""

    seed: int

    def usd(self, protocol: str, step: int) -> float:
        """USD an hour at share 1.0, with the token at its reference price."""
        temper = _TEMPERS[protocol]
        hours = step / HOUR
        # The epoch's first day was a Thursday; days 2 and 3 after it are the weekend.
        weekend = (step // DAY) % 7 in {2, 3}
        peak = temper.peak_hour + 3.0 * (uniform(self.seed, f"{protocol}/peak", 0) - 0.5)
        angle = 2.0 * math.pi * (hours % 24.0 - peak) / 24.0
        log = temper.daily * (math.cos(angle) + math.cos(2.0 * angle) / 3.0)
        log += temper.weekend if weekend else 0.0
        log += temper.wander * octaves(self.seed, f"{protocol}/level", hours, _WANDER)
        log += self._shocks(protocol, temper, hours)
        scale = 0.9 + 0.2 * uniform(self.seed, f"{protocol}/scale", 0)
        return temper.mean_usd * scale * math.exp(log)

    def _shocks(self, protocol: str, temper: _Temper, hours: float) -> float:
        """Sum of the jumps in force: each begins in an hour of its own and lasts an exponential time."""
        total = 0.0
        hour = math.floor(hours)
        for begun in range(hour - math.ceil(_SHOCK_LOOKBACK * temper.shock_hours), hour + 1):
            if uniform(self.seed, f"{protocol}/shock", begun) >= temper.shocks_per_day / 24.0:
                continue
            offset = uniform(self.seed, f"{protocol}/shock-start", begun)
            length = -math.log(1.0 - uniform(self.seed, f"{protocol}/shock-length", begun)) * temper.shock_hours
            if begun + offset <= hours < begun + offset + min(length, _SHOCK_LOOKBACK * temper.shock_hours):
                total += temper.shock_size * (0.5 + uniform(self.seed, f"{protocol}/shock-size", begun))
        return total

    def available(self, protocol: str, step: int) -> bool:
        """False during an outage of a quarter to two hours."""
        block, within = divmod(step, _OUTAGE_BLOCK_HOURS * HOUR)
        blocks_a_month = 30 * 24 / _OUTAGE_BLOCK_HOURS
        if uniform(self.seed, f"{protocol}/outage", block) >= _TEMPERS[protocol].outages_per_month / blocks_a_month:
            return True
        begin = uniform(self.seed, f"{protocol}/outage-start", block) * (_OUTAGE_BLOCK_HOURS - 2) * HOUR
        length = (0.25 + 1.75 * uniform(self.seed, f"{protocol}/outage-length", block)) * HOUR
        return not begin <= within < begin + length


@lru_cache(maxsize=1 << 13)
def _seeded_price(seed: int, token: str, at: int) -> float:
    """One price is every host's: it is worked out once."""
    return REFERENCE_PRICES[token] * math.exp(octaves(seed, f"price/{token}", at / HOUR, _PRICE_WALK))


@dataclass(frozen=True, slots=True)
class SeededPrices:
    """Each token's log price is the sum of smooth noise from hours to months: a walk that stays near its reference."""

    seed: int

    def usd(self, token: str, at: int) -> float:
        """USD for one token."""
        return _seeded_price(self.seed, token, at)

    def reference(self, token: str) -> float:
        """The price at which the yields are stated."""
        return REFERENCE_PRICES[token]


def seeded_world(seed: int) -> World:
    """An endless world in which the four protocols cannot all have the machine, different for each seed."""

    def vary(label: str, low: float, high: float) -> float:
        return round(low + (high - low) * uniform(seed, label, 0), 3)

    def demand(name: str, cpu: float, memory: float, disk: float, bandwidth: float) -> Resources:
        return Resources(
            cpu_threads=cpu,
            memory_gib=vary(f"{name}/memory", 0.95 * memory, 1.05 * memory),
            disk_gb=vary(f"{name}/disk", 0.95 * disk, 1.05 * disk),
            bandwidth_mbps=vary(f"{name}/bandwidth", 0.95 * bandwidth, 1.05 * bandwidth),
        )

    def terms(name: str, needs: Resources, min_share: float, restart: float, cooldown: float) -> Terms:
        return Terms(
            demand=needs,
            min_share=min_share,
            max_share=1.0,
            curvature=vary(f"{name}/curvature", 0.88, 0.96),
            restart_seconds=restart,
            cooldown_hours=cooldown,
        )

    return World(
        name=f"seeded-{seed}",
        capacity=Resources(cpu_threads=16.0, memory_gib=64.0, disk_gb=8000.0, bandwidth_mbps=500.0),
        protocols={
            "storj": terms("storj", demand("storj", 7.0, 36.0, 7500.0, 400.0), 0.2, 300.0, 24.0),
            "golem": terms("golem", demand("golem", 14.0, 58.0, 3900.0, 240.0), 0.05, 20.0, 0.0),
            "streamr": terms("streamr", demand("streamr", 11.0, 35.0, 1600.0, 450.0), 0.05, 15.0, 0.0),
            "grass": terms("grass", demand("grass", 10.0, 29.0, 1160.0, 460.0), 0.05, 5.0, 0.0),
        },
        yields=SeededYields(seed),
        prices=SeededPrices(seed),
    )
