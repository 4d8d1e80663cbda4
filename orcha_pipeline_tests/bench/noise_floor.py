"""The error that no forecaster of a testnet's world can avoid: that of an oracle which knows the world's law.

The oracle knows how the world is made (means, the day's and week's profile, how levels and prices wander, how often
shocks and outages come, how large and how long they are) and, exactly and by its parts, all that happened before the
origin; nothing at or after it. It draws futures from the law given that past and answers each hour's median, which is
what an absolute error (WAPE) asks for. Outages to come are left out: they are too rare to move a median.

In the seeded world a level and a token's price are sums of value noise: random knots on a hidden lattice for each
period, smoothly joined. How much of that an oracle may know makes two floors:

- `LATTICE`: the lattice and every knot that has had any weight before the origin, the knot just ahead included, which
  the exact past gives away. This is the exact law: no forecaster is better, and none that sees hourly means is as good.
- `COVARIANCE`: the process's true covariance, averaged over where the lattice may lie, and the exact log level of the
  last ten days: the best linear (Gaussian process) prediction. It is an estimate of what can be had from the past
  without knowing the hidden lattice. A forecaster that finds part of the lattice (periods that divide the day show in
  the hour of the day), or that is not linear, could be a little lower.

For the made kinds both are the same but for the prices: two parts return to their mean exponentially, which makes their
last values all there is to know.

A *step* is a quarter of an hour. `first` is Unix seconds and a full hour; origins are steps from there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.forecasting.panel import Floats
from orcha_pipeline.model import YIELD_USD
from orcha_pipeline.testnet import world_kinds, worlds
from orcha_pipeline.testnet.noise import uniform
from orcha_pipeline.testnet.worlds import DAY, HOUR, TOKENS, World, WorldKind

STEP_SECONDS = 900
STEPS_AN_HOUR = HOUR // STEP_SECONDS
DRAWS = 2000
"""Futures an origin: their median is off by some 3 % of a future's deviation, which adds less than 0.1 % of error."""
CONTEXT = 10 * DAY // STEP_SECONDS
"""Steps of the past that the linear prediction reads."""
Periods = tuple[tuple[float, float], ...]
Generator = np.random.Generator


class Knows(StrEnum):
    """What the oracle knows of value noise."""

    LATTICE = "lattice"
    COVARIANCE = "covariance"


class Part(Protocol):
    """One independent part of a log yield."""

    @property
    def values(self) -> Floats:
        """What it was at each step, (t,)."""
        ...

    def futures(self, origin: int, steps: int, rng: Generator) -> Floats:
        """Draws of the `steps` from `origin` on, given what lies before it: (DRAWS, steps)."""
        ...


class Outages(Protocol):
    """When nothing is paid."""

    def over_after(self, origin: int, rng: Generator) -> Floats:
        """Draws of the steps for which an outage in force at `origin` goes on, (DRAWS,); 0 where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Law:
    """How one series comes about: `exp(profile + parts)`, nothing during outages. `profile` (t,) is known ahead."""

    profile: Floats
    parts: Sequence[Part]
    outages: Outages | None = None

    def futures(self, origin: int, hours: int, *, seed: int = 0) -> Floats:
        """Draws of the means of the `hours` from step `origin` on, given what lies before: (DRAWS, hours)."""
        steps = hours * STEPS_AN_HOUR
        rng = np.random.default_rng((seed, origin))
        log = np.broadcast_to(self.profile[origin : origin + steps], (DRAWS, steps)).copy()
        for part in self.parts:
            log += part.futures(origin, steps, rng)
        paid = np.exp(log)
        if self.outages is not None:
            paid[np.arange(steps) < self.outages.over_after(origin, rng)[:, None]] = 0.0
        return paid.reshape(DRAWS, hours, STEPS_AN_HOUR).mean(axis=-1)

    def forecast(self, origin: int, hours: int, *, seed: int = 0) -> Floats:
        """The oracle's answer, each hour's conditional median: (hours,)."""
        return np.median(self.futures(origin, hours, seed=seed), axis=0)


def wape(truth: Floats, forecast: Floats) -> float:
    """Sum of absolute errors over sum of absolute truths, both (n, h) and known throughout."""
    return float(np.abs(truth - forecast).sum() / np.abs(truth).sum())


# ---------------------------------------------------------------- parts that wander


@dataclass(frozen=True, slots=True)
class Returning:
    """A walk that returns to 0, keeping the part `kept` of itself each step, of constant `deviation`."""

    values: Floats
    kept: float
    deviation: float

    def futures(self, origin: int, steps: int, rng: Generator) -> Floats:
        """Draws given the last value."""
        fresh = self.deviation * math.sqrt(1.0 - self.kept**2) * _mirrored(rng, steps)
        found = np.empty((DRAWS, steps))
        place = np.full(DRAWS, self.values[origin - 1])
        for step in range(steps):
            place = self.kept * place + fresh[:, step]
            found[:, step] = place
        return found


@dataclass(frozen=True, slots=True)
class Lattice:
    """Value noise (`noise.octaves`) times `size`, of known lattice. `knots` are each period's, `low` their indices."""

    first: int
    size: float
    periods: Periods
    low: tuple[int, ...]
    knots: tuple[Floats, ...]
    count: int

    @classmethod
    def of(cls, seed: int, label: str, periods: Periods, *, size: float, first: int, count: int) -> "Lattice":
        """`count` steps of the noise that `noise.octaves` makes of these."""
        low, knots = [], []
        for period, _ in periods:
            begin = math.floor(first / HOUR / period)
            end = math.floor((first + count * STEP_SECONDS) / HOUR / period) + 1
            drawn = [uniform(seed, f"{label}:{period}", index) for index in range(begin, end + 1)]
            low.append(begin)
            knots.append((np.array(drawn) - 0.5) * 2.0 * math.sqrt(3.0))
        return cls(first, size, periods, tuple(low), tuple(knots), count)

    @property
    def values(self) -> Floats:
        """The noise itself."""
        found = np.zeros(self.count)
        for (period, amplitude), low, knots in zip(self.periods, self.low, self.knots, strict=True):
            left, weight = self._places(period, low, np.arange(self.count))
            found += amplitude * ((1.0 - weight) * knots[left] + weight * knots[left + 1])
        return self.size * found

    def futures(self, origin: int, steps: int, rng: Generator) -> Floats:
        """Draws that keep every knot that had weight before `origin`, and draw the others anew."""
        found = np.zeros((DRAWS, steps))
        for (period, amplitude), low, knots in zip(self.periods, self.low, self.knots, strict=True):
            left, weight = self._places(period, low, origin + np.arange(steps))
            known = math.ceil((self.first + origin * STEP_SECONDS) / HOUR / period) - low
            begin = int(left[0])
            drawn = rng.uniform(-math.sqrt(3.0), math.sqrt(3.0), (DRAWS, int(left[-1]) + 2 - begin))
            held = knots[begin : known + 1]
            drawn[:, : len(held)] = held[: drawn.shape[1]]
            found += amplitude * ((1.0 - weight) * drawn[:, left - begin] + weight * drawn[:, left + 1 - begin])
        return self.size * found

    def _places(self, period: float, low: int, steps: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats]:
        """Index in `knots` of the knot to the left of each step, and the weight of the one to its right."""
        place = (self.first + steps * STEP_SECONDS) / HOUR / period
        left = np.floor(place)
        return left.astype(np.int64) - low, _eased(place - left)


@dataclass(frozen=True, slots=True)
class Linear:
    """The same noise of unknown lattice, predicted by its covariance from the exact `values` of the last days."""

    values: Floats
    size: float
    periods: Periods

    def futures(self, origin: int, steps: int, rng: Generator) -> Floats:
        """Draws of the Gaussian of the same covariance, given the last CONTEXT steps."""
        context = min(CONTEXT, origin)
        weights, root = _prediction(self.periods, context, steps)
        return self.values[origin - context : origin] @ weights + self.size * _mirrored(rng, steps) @ root


@lru_cache(maxsize=16)
def _prediction(periods: Periods, context: int, steps: int) -> tuple[Floats, Floats]:
    """Weights of the past (context, steps) in the mean, and a root R of what stays unknown: R'R is its covariance."""
    lags = np.arange(context + steps)
    whole = covariance(periods, np.abs(lags[:, None] - lags) * STEP_SECONDS / HOUR)
    past, cross, ahead = whole[:context, :context], whole[:context, context:], whole[context:, context:]
    # The covariance of a smooth process is nearly singular: a millionth of a deviation of noise makes it solvable.
    past = past + 1e-9 * whole[0, 0] * np.eye(context)
    weights = np.linalg.solve(past, cross)
    left, vectors = np.linalg.eigh(ahead - cross.T @ weights)
    return weights, (vectors * np.sqrt(np.maximum(left, 0.0))).T


def covariance(periods: Periods, lag_hours: Floats) -> Floats:
    """Of `noise.octaves` with itself so many hours later, averaged over where the lattice may lie."""
    found = np.zeros_like(lag_hours)
    for period, amplitude in periods:
        found += amplitude**2 * _octave_covariance(lag_hours / period)
    return found


def _octave_covariance(lag: Floats) -> Floats:
    """Of one octave of period 1: a knot has variance 1, and two moments share the knots that both lie between."""
    grid = np.linspace(0.0, 2.0, 401)
    phase = (np.arange(400) + 0.5) / 400
    later = phase[:, None] + grid
    cell, weight = np.floor(later), _eased(later - np.floor(later))
    right = _eased(phase)[:, None]
    same = (1.0 - right) * (1.0 - weight) + right * weight
    shared = np.where(cell == 0, same, np.where(cell == 1, right * (1.0 - weight), 0.0)).mean(axis=0)
    shared[-1] = 0.0
    return _cubic(lag, grid, shared)


def _cubic(at: Floats, grid: Floats, values: Floats) -> Floats:
    """Values on an even grid, joined smoothly: a covariance with kinks is none."""
    from scipy.interpolate import CubicSpline

    return np.where(at < grid[-1], CubicSpline(grid, values, bc_type="clamped")(np.minimum(at, grid[-1])), 0.0)


def _eased(across: Floats) -> Floats:
    return across * across * (3.0 - 2.0 * across)


def _mirrored(rng: Generator, steps: int) -> Floats:
    """Standard normals (DRAWS, steps), each beside its opposite: the mean of a symmetrical future is then exact."""
    half = rng.standard_normal((DRAWS // 2, steps))
    return np.concatenate([half, -half])


# ---------------------------------------------------------------- shocks and outages


@dataclass(frozen=True, slots=True)
class SeededShocks:
    """The seeded world's jumps. Columns of `jumps` (n, 3): begin and length in steps (not whole), and size."""

    count: int
    jumps: Floats
    an_hour: float
    mean_steps: float
    size: float

    @property
    def values(self) -> Floats:
        """Sum of the jumps in force."""
        return _in_force(np.zeros(len(self.jumps), dtype=np.int64), *self.jumps.T, rows=1, steps=self.count)[0]

    def futures(self, origin: int, steps: int, rng: Generator) -> Floats:
        """Draws: jumps in force last for an exponential time more, others begin as often as they do."""
        begin, length, size = self.jumps.T
        active = np.flatnonzero((begin < origin) & (begin + length >= origin))
        rows = np.tile(np.arange(DRAWS), len(active))
        age = np.repeat(origin - begin[active], DRAWS)
        lasting = np.minimum(age + rng.exponential(self.mean_steps, len(rows)), self._longest)
        going_on = _in_force(rows, -age, lasting, np.repeat(size[active], DRAWS), rows=DRAWS, steps=steps)
        rows, hours = np.nonzero(rng.random((DRAWS, steps // STEPS_AN_HOUR)) < self.an_hour)
        begins = (hours + rng.random(len(rows))) * STEPS_AN_HOUR
        lasting = np.minimum(rng.exponential(self.mean_steps, len(rows)), self._longest)
        sizes = self.size * (0.5 + rng.random(len(rows)))
        return going_on + _in_force(rows, begins, lasting, sizes, rows=DRAWS, steps=steps)

    @property
    def _longest(self) -> float:
        return self.mean_steps * worlds._SHOCK_LOOKBACK


def _in_force(row: NDArray[np.int64], begin: Floats, length: Floats, size: Floats, *, rows: int, steps: int) -> Floats:
    """What jumps add up to in each of their rows: (rows, steps)."""
    found = np.zeros((rows, steps))
    # A jump changes what is paid at the first step that begins in it, and at the first one after it.
    for moments, sign in ((begin, 1.0), (begin + length, -1.0)):
        step = np.clip(np.ceil(moments), 0, steps).astype(np.int64)
        there = step < steps
        np.add.at(found, (row[there], step[there]), sign * size[there])
    return found.cumsum(axis=1)


@dataclass(frozen=True, slots=True)
class MadeShocks:
    """A made kind's shocks, one at a time, a dearth after each where `bait` is not 0. `chance` is that of a step."""

    values: Floats
    chance: float
    mean_steps: float
    size: float
    bait: float

    def futures(self, origin: int, steps: int, rng: Generator) -> Floats:
        """Draws, the one in force drawn to its end first."""
        high, low, size = self._begin(origin, rng)
        found = np.zeros((DRAWS, steps))
        for step in range(steps):
            begins = (high <= 0) & (low <= 0) & (rng.random(DRAWS) < self.chance)
            new = int(begins.sum())
            if new:
                high[begins] = self._lengths(np.zeros(new), rng)
                low[begins] = 2 * high[begins] if self.bait else 0
                size[begins] = self._sizes(new, rng)
            found[:, step] = np.where(high > 0, size, np.where(low > 0, -self.bait * size, 0.0))
            low -= high <= 0
            high -= 1
        return found

    def _begin(self, origin: int, rng: Generator) -> tuple[Floats, Floats, Floats]:
        """Steps that the shock and the dearth in force go on for, and the shock's size: (DRAWS,) each."""
        last = float(self.values[origin - 1])
        since = _run_begin(self.values, origin)
        if last == 0.0:
            return np.zeros(DRAWS), np.zeros(DRAWS), np.zeros(DRAWS)
        if self.bait and last < 0.0:
            low = 2 * (since - _run_begin(self.values, since)) - (origin - since)
            return np.zeros(DRAWS), np.full(DRAWS, float(low)), np.full(DRAWS, -last / self.bait)
        length = self._lengths(np.full(DRAWS, float(origin - since - 1)), rng)
        return length - (origin - since), (2 * length if self.bait else np.zeros(DRAWS)), np.full(DRAWS, last)

    def _lengths(self, at_least: Floats, rng: Generator) -> Floats:
        """1 and the whole part of an exponential that is at least so long, and at most four times its mean."""
        exponential = at_least + rng.exponential(self.mean_steps, len(at_least))
        return 1.0 + np.floor(np.minimum(exponential, 4.0 * self.mean_steps))

    def _sizes(self, count: int, rng: Generator) -> Floats:
        sizes = self.size * (0.6 + 0.8 * rng.random(count))
        return sizes if self.bait else np.where(rng.random(count) < 2.0 / 3.0, sizes, -sizes)


def _run_begin(values: Floats | NDArray[np.bool_], end: int) -> int:
    """Where the run of equal values that ends before `end` begins."""
    other = np.flatnonzero(values[:end] != values[end - 1])
    return int(other[-1]) + 1 if other.size else 0


@dataclass(frozen=True, slots=True)
class SeededOutages:
    """`paid` (t,) is False in an outage. One is a quarter to two hours long, evenly spread."""

    paid: NDArray[np.bool_]

    def over_after(self, origin: int, rng: Generator) -> Floats:
        """Draws given how long it has lasted."""
        if self.paid[origin - 1]:
            return np.zeros(DRAWS)
        elapsed = min(float(origin - _run_begin(self.paid, origin)), 8.0)
        return rng.uniform(max(1.0, elapsed), 8.0, DRAWS) - elapsed


@dataclass(frozen=True, slots=True)
class MadeOutages:
    """`paid` (t,) is False in an outage. One lasts two steps and an exponential time, cut at four means."""

    paid: NDArray[np.bool_]
    mean_steps: float

    def over_after(self, origin: int, rng: Generator) -> Floats:
        """Draws given how long it has lasted."""
        if self.paid[origin - 1]:
            return np.zeros(DRAWS)
        elapsed = origin - _run_begin(self.paid, origin)
        drawn = max(0.0, elapsed - 2.0) + rng.exponential(self.mean_steps, DRAWS)
        return np.maximum(0.0, 2.0 + np.floor(np.minimum(drawn, 4.0 * self.mean_steps)) - elapsed)


# ---------------------------------------------------------------- the laws of the testnet's worlds


def seeded_law(world: World, protocol: str, target: str, *, first: int, count: int, knows: Knows) -> Law:
    """Of a target of the seeded world at share 1.0, `count` steps of it. Dollars add the token's price to the level."""
    seed, temper = _seed_of(world), worlds._TEMPERS[protocol]
    parts: list[Part] = [
        _wander(seed, f"{protocol}/level", worlds._WANDER, temper.wander, first, count, knows),
        _seeded_shocks(seed, protocol, first, count),
    ]
    base = np.zeros(count)
    if protocol != "storj":
        token = TOKENS[protocol]
        if target == YIELD_USD:
            parts.append(_wander(seed, f"price/{token}", worlds._PRICE_WALK, 1.0, first, count, knows))
        else:
            base -= math.log(world.prices.reference(token) * worlds._tokens_per_unit(protocol))
    profile = base + _seeded_profile(seed, protocol, first, count)
    return Law(profile, parts, SeededOutages(paid_steps(world, protocol, first, count)))


def paid_steps(world: World, protocol: str, first: int, count: int) -> NDArray[np.bool_]:
    """Whether each step is paid at all, (count,)."""
    return np.array([world.available(protocol, first + step * STEP_SECONDS) for step in range(count)])


def _seed_of(world: World) -> int:
    yields = world.yields
    if not isinstance(yields, worlds.SeededYields):
        raise TypeError("the law of a world that is not the seeded one is not known here")
    return yields.seed


def _wander(seed: int, label: str, periods: Periods, size: float, first: int, count: int, knows: Knows) -> Part:
    noise = Lattice.of(seed, label, periods, size=size, first=first, count=count)
    return noise if knows is Knows.LATTICE else Linear(noise.values, size, periods)


def _seeded_profile(seed: int, protocol: str, first: int, count: int) -> Floats:
    temper = worlds._TEMPERS[protocol]
    at = first + np.arange(count) * STEP_SECONDS
    peak = temper.peak_hour + 3.0 * (uniform(seed, f"{protocol}/peak", 0) - 0.5)
    angle = 2.0 * np.pi * (at / HOUR % 24.0 - peak) / 24.0
    day = temper.daily * (np.cos(angle) + np.cos(2.0 * angle) / 3.0)
    weekend = np.where(np.isin(at // DAY % 7, (2, 3)), temper.weekend, 0.0)
    return math.log(temper.mean_usd * (0.9 + 0.2 * uniform(seed, f"{protocol}/scale", 0))) + day + weekend


def _seeded_shocks(seed: int, protocol: str, first: int, count: int) -> SeededShocks:
    temper = worlds._TEMPERS[protocol]
    an_hour, longest = temper.shocks_per_day / 24.0, worlds._SHOCK_LOOKBACK * temper.shock_hours
    begin, end = first // HOUR - math.ceil(longest) - 1, first // HOUR + count // STEPS_AN_HOUR
    jumps: list[tuple[float, float, float]] = []
    for hour in range(begin, end):
        if uniform(seed, f"{protocol}/shock", hour) < an_hour:
            offset = uniform(seed, f"{protocol}/shock-start", hour)
            length = -math.log(1.0 - uniform(seed, f"{protocol}/shock-length", hour)) * temper.shock_hours
            size = temper.shock_size * (0.5 + uniform(seed, f"{protocol}/shock-size", hour))
            started = (hour + offset - first / HOUR) * STEPS_AN_HOUR
            jumps.append((started, min(length, longest) * STEPS_AN_HOUR, size))
    table = np.array(jumps, dtype=np.float64).reshape(len(jumps), 3)
    return SeededShocks(count, table, an_hour, temper.shock_hours * STEPS_AN_HOUR, temper.shock_size)


def made_law(world: World, kind: WorldKind, protocol: str, target: str, *, seed: int, count: int, knows: Knows) -> Law:
    """Of a target of the world of `kind` that `make_world` makes without recorded prices, from its first step on.

    Within an hour `replay` keeps its price and this law does not: what a seeded price moves in less than an hour.
    """
    manner, draws = world_kinds._MANNERS[kind], world_kinds._Draws(seed, f"{kind}/{protocol}")
    lively = world_kinds._LIVELINESS[protocol]
    slow, slower = (0.55, 3.0) if protocol == "storj" else (lively, 1.0)
    walks = (
        ("level", draws.around("level-size", manner.level) * slow, manner.level_hours * slower),
        ("restless", draws.around("restless-size", manner.restless) * lively, manner.restless_hours),
    )
    returning = [
        Returning(
            np.array(world_kinds._returning(draws, label, deviation, hours, count)),
            math.exp(-1.0 / STEPS_AN_HOUR / hours),
            deviation,
        )
        for label, deviation, hours in walks
    ]
    shocks = MadeShocks(
        np.array(world_kinds._shocks(manner, draws, lively, count)),
        draws.around("shocks", manner.shocks_a_day) / (24 * STEPS_AN_HOUR) * lively,
        manner.shock_hours * STEPS_AN_HOUR,
        manner.shock_size,
        manner.bait,
    )
    parts: list[Part] = [*returning, shocks]
    profile = np.array(world_kinds._log_yields(manner, draws, protocol, count)) - sum(part.values for part in parts)
    if protocol != "storj" and (target == YIELD_USD) == (kind is WorldKind.REPLAY):
        # Dollars are as the world says, and tokens are dollars at the market's price, which `replay` has in both.
        sign, label = (1.0 if target == YIELD_USD else -1.0), f"price/{TOKENS[protocol]}"
        parts.append(_wander(seed, label, worlds._PRICE_WALK, sign, world_kinds._FIRST, count, knows))
        profile = profile + _price_base(seed, protocol, target, count)
    elif protocol != "storj" and target != YIELD_USD:
        profile = profile - math.log(_median_price(seed, protocol, count) * worlds._tokens_per_unit(protocol))
    away = MadeOutages(paid_steps(world, protocol, world_kinds._FIRST, count), manner.outage_hours * STEPS_AN_HOUR)
    return Law(profile, parts, away)


def _price_base(seed: int, protocol: str, target: str, count: int) -> float:
    """What is added to a log price's wander (dollars) or to its opposite (tokens)."""
    reference = worlds.REFERENCE_PRICES[TOKENS[protocol]]
    if target == YIELD_USD:
        return math.log(reference / _median_price(seed, protocol, count))
    return -math.log(reference * worlds._tokens_per_unit(protocol))


def _median_price(seed: int, protocol: str, count: int) -> float:
    prices, first = worlds.SeededPrices(seed), world_kinds._FIRST
    end = first + count * STEP_SECONDS
    return float(np.median([prices.usd(TOKENS[protocol], at) for at in range(first, end, HOUR)]))
