"""What each node's full share will earn, quarter-hour by quarter-hour at first and in longer periods later. Pure.

The served forecast is hourly and knows no more than the last full hour. A plan for the hour that has begun needs to
know what the last quarter-hours brought: a spike that has just begun, an outage, the way back to the usual. So here a
small regression learns, from all nodes of the host together and from simulated ones, how far a node's yield will
stand from its last days in each of the coming PERIODS, given how it stands now. A forecast made of hours takes over by
and by.

Beside the mean there are scenarios: the mean moved by errors that were made in the past, all nodes' and periods' at the
same moment together. What may be divided anew every hour earns more from a restless future than from its mean, what
is fixed for a day does not: only scenarios show it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.allocation.simulated_yields import simulated_yields

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Steps = NDArray[np.int64]

STEPS_AN_HOUR = 4
DAY = 24 * STEPS_AN_HOUR
DAY_HOURS = DAY // STEPS_AN_HOUR
WEEK = 7 * DAY
PERIODS: tuple[int, ...] = (*[4] * 6, *[8] * 3, *[16] * 3)
"""Steps of each period ahead: hours at first, since shares can change every hour, then longer ones. A day in all."""
EDGES: Steps = np.concatenate([[0], np.cumsum(PERIODS)]).astype(np.int64)
TRUST_IN_LATER: Floats = np.interp(EDGES[:-1] / STEPS_AN_HOUR, [0.0, 2.0, 8.0], [0.0, 0.5, 1.0])
"""(K,) How much a forecast made of hours counts in each period: nothing at once, all of it from eight hours on."""
LEAST_HISTORY = 3 * DAY
"""Steps below which nothing can be learnt."""
BASE = 3 * DAY
"""Steps whose mean is what a node's yield is measured from."""
SPANS = (4, 12, 24, 48, 96, WEEK)
"""Last steps whose means are looked at."""
JUMP = 0.25
"""In log yield: a last step that stands further from the last hours than this has jumped."""
DOUBT: Floats = np.interp(EDGES[:-1] / STEPS_AN_HOUR, [0.0, 8.0], [100.0, 3000.0])
"""(K,) How many independent examples of a host's own it takes to outweigh what holds for simulated yields. Of the later
hours a few days tell little."""
SIMULATED_EVERY = 11
LEAST_SPREAD = 1e-3
TRAIN_EVERY = 2
"""Steps from one example to the next."""
FARTHEST = 30.0
"""Log yields beyond it count as this far: nothing overflows."""
MOST_SMEARED = 2.0
"""The mean of what scatters in the log lies above the middle, but it is not believed to be further than this factor."""
BANK_EVERY = 8
BANK = 25 * DAY
"""Past errors are kept from one in so many steps of the last so many."""
LIKELY = 100
"""Scenarios from which is told how sure something is."""
_NORMAL: Floats = np.array([NormalDist().inv_cdf((rank + 0.5) / LIKELY) for rank in range(LIKELY)])
"""(L,) A normal variable's values at even ranks."""
_AT_P90 = NormalDist().inv_cdf(0.9)
_IRRATIONAL = 1.2207440846057596
"""Powers of its inverse fill a space evenly (Roberts' sequence for many dimensions)."""
HALF = 0.5
OUTAGES_ASSUMED = 0.25
DAYS_ASSUMED = 2.0
HOURS_DOWN_ASSUMED = 2.0
"""What is assumed of outages before any was seen: a quarter of one in two days, and one of two hours."""


@dataclass(frozen=True, slots=True)
class YieldHistory:
    """T steps of P nodes up to now: USD an hour at full share, (T, P), NaN where unknown; whether it paid, (T, P)."""

    yields: Floats
    paying: Flags

    def __post_init__(self) -> None:
        if self.yields.ndim != 2 or self.yields.shape != self.paying.shape:
            raise ValueError(f"yields {self.yields.shape} and paying {self.paying.shape} must be (steps, nodes)")

    @property
    def known(self) -> Flags:
        """(T, P) Where something was earned and it is known how much."""
        return self.paying & np.isfinite(self.yields) & (self.yields > 0)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of P nodes in each of K periods: `mean` (K, P) and M equally likely `scenarios` (M, K, P).

    USD an hour at full share, hours without pay counted as 0; NaN for a node of which nothing is known. The scenarios'
    mean is `mean`. `likely` (L, K, P) are scenarios too, many of them, to tell from how sure something is.
    """

    mean: Floats
    scenarios: Floats
    likely: Floats

    def of(self, nodes: Sequence[int] | Steps) -> "Outlook":
        """The same of these nodes alone, in their order."""
        return Outlook(self.mean[:, nodes], self.scenarios[:, :, nodes], self.likely[:, :, nodes])

    def times(self, factor: Floats) -> "Outlook":
        """The same, what each node earns multiplied: (P,), or (K, P) by period."""
        return Outlook(self.mean * factor, self.scenarios * factor, self.likely * factor)

    def worth(self, hours: float) -> Floats:
        """(P,) USD that a full share is expected to earn in the coming hours, at most a day."""
        return _in_hours(hours) @ self.mean

    def likely_worth(self, hours: float) -> Floats:
        """(L, P) The same in each of the likely scenarios."""
        return np.einsum("k,lkp->lp", _in_hours(hours), self.likely)


def _in_hours(hours: float) -> Floats:
    """(K,) Hours of each period that lie within the coming ones."""
    edges = EDGES / STEPS_AN_HOUR
    return np.clip(hours - edges[:-1], 0.0, np.diff(edges))


class _Logs:
    """Log yields (T, P), gaps bridged by the last known one (the first one before it), and quick means of any stretch.

    Those of a node of which nothing is known mean nothing.
    """

    def __init__(self, history: YieldHistory) -> None:
        known = history.known
        logs = np.log(np.where(known, history.yields, 1.0))
        steps, nodes = logs.shape
        last = np.maximum.accumulate(np.where(known, np.arange(steps)[:, None], known.argmax(axis=0)), axis=0)
        self.ever: Flags = np.asarray(known.any(axis=0))
        self.values: Floats = logs[last, np.arange(nodes)]
        self._sums = np.concatenate([np.zeros((1, nodes)), np.cumsum(self.values, axis=0)])

    def __len__(self) -> int:
        return len(self.values)

    def mean(self, first: Steps, end: Steps) -> Floats:
        """(..., P) means of the steps [first, end), (...,) each, cut to what there is."""
        first, end = np.clip(first, 0, len(self)), np.clip(end, 0, len(self))
        return (self._sums[end] - self._sums[first]) / np.maximum(end - first, 1)[..., None]

    def usual(self, at: Steps, first: Steps, end: Steps) -> Floats:
        """(n, K, P) How far each stretch [at + first, at + end) stood from its day's mean in the week before `at`.

        `at` is (n,), `first` and `end` are (K,).
        """
        total = np.zeros((len(at), len(first), self.values.shape[1]))
        days = np.zeros((len(at), len(first)))
        for day in range(1, 8):
            then = (at - day * DAY)[:, None]
            there = then + np.minimum(first, 0) >= 0
            off = self.mean(then + first, then + end) - self.mean(then, then + DAY)
            total += np.where(there[..., None], off, 0.0)
            days += there
        return total / np.maximum(days, 1)[..., None]


_BEGINS, _ENDS = EDGES[:-1], EDGES[1:]


def _features(logs: _Logs, at: Steps) -> tuple[Floats, Floats]:
    """What is seen at the steps `at` (n,), of the steps before them: (n, P, K, features), and the base (n, P)."""
    base = logs.mean(at - BASE, at)
    last = logs.values[at - 1]
    jump = last - logs.mean(at - 24, at - 2)
    spans = np.array(SPANS)
    standing = np.concatenate(
        [
            (last - base)[:, None],
            logs.mean(at[:, None] - spans, at[:, None]) - base[:, None],
            logs.usual(at, np.array([-STEPS_AN_HOUR]), np.array([0])),
            np.maximum(jump - JUMP, 0.0)[:, None],
            np.minimum(jump + JUMP, 0.0)[:, None],
            (logs.mean(at - 2, at) - logs.mean(at - 8, at - 2))[:, None],
            (last - logs.values[at - 2])[:, None],
        ],
        axis=1,
    )  # (n, features, P): the same for every period
    then = at[:, None] + _BEGINS
    a_week_ago = logs.mean(then - WEEK, at[:, None] + _ENDS - WEEK) - logs.mean(at - WEEK, at - WEEK + DAY)[:, None]
    coming = [
        logs.usual(at, _BEGINS, _ENDS),
        logs.mean(then - DAY, at[:, None] + _ENDS - DAY) - logs.mean(at - DAY, at)[:, None],
        np.where((then >= WEEK)[..., None], a_week_ago, 0.0),
        np.ones((len(at), len(_BEGINS), base.shape[1])),
    ]
    same = np.broadcast_to(
        standing.transpose(0, 2, 1)[:, :, None, :],
        (len(at), base.shape[1], len(_BEGINS), standing.shape[1]),
    )
    return np.concatenate([same, np.stack(coming, axis=-1).transpose(0, 2, 1, 3)], axis=-1), base


def _came(history: YieldHistory, at: Steps) -> Floats:
    """(n, P, K) Log of what a paying step brought in each period after `at`; NaN where too little of it is known."""
    known = history.known
    nothing = np.zeros((1, known.shape[1]))
    sums = np.concatenate([nothing, np.cumsum(np.where(known, history.yields, 0.0), axis=0)])
    counts = np.concatenate([nothing, np.cumsum(known, axis=0)])
    came: list[Floats] = []
    for first, end in zip(EDGES[:-1].tolist(), EDGES[1:].tolist(), strict=True):
        begins, ends = np.minimum(at + first, len(known)), np.minimum(at + end, len(known))
        count = counts[ends] - counts[begins]
        enough = (count >= HALF * (end - first)) & (at + end <= len(known))[:, None]
        brought = np.where(enough, sums[ends] - sums[begins], 1.0) / np.maximum(count, 1)
        came.append(np.where(enough, np.log(brought), np.nan))
    return np.stack(came, axis=2)


@dataclass(frozen=True, slots=True)
class Lines:
    """What was learnt of P nodes: `coefficients` (K, features), and how many times the middle the mean is, (P, K).

    `errors` (N, K, P) are log errors made at N past moments and `paid` (N, K, P) the part of each period that paid
    then. `fails` (P,) and `recovers` are the chances of a step to begin and to end an outage.
    """

    coefficients: Floats
    smearing: Floats
    errors: Floats
    paid: Floats
    fails: Floats
    recovers: float

    def ahead(self, history: YieldHistory, *, scenarios: int, later: Floats | None = None) -> Outlook:
        """From the end of `history` on.

        `later` (K, P): the middles by a forecast made of hours, USD an hour, which is trusted the more the later; NaN
        where there is none.
        """
        logs = _Logs(history)
        features, base = _features(logs, np.array([len(logs)]))
        middle = np.einsum("pkf,kf->kp", features[0], self.coefficients) + base[0]
        if later is not None:
            there = np.isfinite(later) & (later > 0)
            trust = np.where(there, TRUST_IN_LATER[:, None], 0.0)
            middle = (1 - trust) * middle + trust * np.log(np.where(there, later, 1.0))
        middle = np.clip(middle, -FARTHEST, FARTHEST)
        mean = np.where(logs.ever, np.exp(middle) * self.smearing.T * self._paying(history.paying[-1]), np.nan)

        def drawn(count: int) -> Floats:
            chosen = np.linspace(0, len(self.errors) - 1, count).round().astype(np.int64)
            found = np.exp(np.clip(middle + self.errors[chosen], -FARTHEST, FARTHEST)) * self.paid[chosen]
            usual = found.mean(axis=0)
            # Had a node paid at none of these moments, they would tell nothing of what it earns.
            return np.where(usual > 0, found * (mean / np.where(usual > 0, usual, 1.0)), mean)

        return Outlook(mean, drawn(scenarios), drawn(LIKELY))

    def _paying(self, paying: Flags) -> Floats:
        """(K, P) The part of each period in which a node will pay, given whether it does now."""
        steps = np.arange(1, EDGES[-1] + 1)[:, None]
        lasting = 1 - self.fails / (self.fails + self.recovers)
        fading = np.clip(1 - self.fails - self.recovers, 0.0, 1.0) ** steps
        part = lasting + (paying - lasting) * fading
        return np.add.reduceat(part, EDGES[:-1], axis=0) / np.array(PERIODS)[:, None]


def cautious(outlook: Outlook, aversion: float) -> Outlook:
    """The same, with `aversion` times what a node earns less than expected, on average, taken off what it earns."""
    if not aversion:
        return outlook
    short = np.maximum(outlook.mean - outlook.likely, 0.0).mean(axis=0)
    mean = outlook.mean - aversion * short
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(outlook.mean > 0, mean / outlook.mean, 1.0)
    return Outlook(mean, outlook.scenarios * part, outlook.likely * part)


def outlook_of_quantiles(p10: Floats, p50: Floats, p90: Floats) -> Outlook:
    """From quantiles (K, P) alone, NaN where unknown: two-piece normal errors, a node's the same in all periods.

    Errors of different nodes are independent. The middle counts as the mean, and is the only scenario.
    """
    nodes = p50.shape[1]
    places = (np.arange(1, LIKELY + 1)[:, None] * _IRRATIONAL ** -np.arange(1.0, nodes + 1)) % 1.0
    normal = _NORMAL[places.argsort(axis=0).argsort(axis=0)][:, None, :]  # (L, 1, P), each node's ranks even
    spread = np.where(normal < 0, p50 - p10, p90 - p50) / _AT_P90
    # What is not forecast to lose earns nothing at worst.
    drawn = np.maximum(p50 + normal * spread, np.minimum(p10, 0.0))
    mean = drawn.mean(axis=0)
    scaled = (p10 >= 0) & (mean > 0)
    return Outlook(p50, p50[None], np.where(scaled, drawn * (p50 / np.where(scaled, mean, 1.0)), drawn - mean + p50))


def merged(outlook: Outlook, others: Outlook, which: Flags) -> Outlook:
    """`outlook`, but `others` for the nodes (P,) of which `which` is True."""
    scenarios = np.broadcast_to(others.mean, outlook.scenarios.shape)
    return Outlook(
        np.where(which, others.mean, outlook.mean),
        np.where(which, scenarios, outlook.scenarios),
        np.where(which, others.likely, outlook.likely),
    )


def learn(history: YieldHistory) -> Lines | None:
    """What can be learnt from all nodes of a host together; None where `history` is shorter than LEAST_HISTORY."""
    steps, nodes = history.yields.shape
    if steps < LEAST_HISTORY:
        return None
    logs = _Logs(history)
    at: Steps = np.arange(2 * DAY, steps - PERIODS[0], TRAIN_EVERY)
    features, base = _features(logs, at)
    truth = _came(history, at) - base[:, :, None]
    expected, spread = _expected()
    coefficients = np.empty_like(expected)
    for period in range(len(PERIODS)):
        known = np.isfinite(truth[:, :, period])
        seen, came = features[:, :, period][known], truth[:, :, period][known]
        coefficients[period] = _line(seen, came, expected=expected[period], spread=spread[period], period=period)
    missed = truth - np.einsum("npkf,kf->npk", features, coefficients)
    bank = np.flatnonzero((at % BANK_EVERY < TRAIN_EVERY) & (at >= steps - BANK) & (at + EDGES[-1] <= steps))
    bank = bank if bank.size else np.arange(len(at))[-1:]
    paid = np.concatenate([np.zeros((1, nodes)), np.cumsum(history.paying, axis=0)])
    ends = np.minimum(at[bank][:, None] + EDGES, steps)
    lengths = np.maximum(np.diff(ends, axis=1), 1)[:, :, None]
    fails, recovers = _outages(history.paying)
    return Lines(
        coefficients=coefficients,
        smearing=_smearing(missed),
        errors=_seen_again(missed[bank], at[bank], history.known).transpose(0, 2, 1),
        paid=np.where(np.diff(ends, axis=1)[:, :, None] > 0, np.diff(paid[ends], axis=1) / lengths, 1.0),
        fails=fails,
        recovers=recovers,
    )


def _line(seen: Floats, came: Floats, *, expected: Floats, spread: Floats, period: int) -> Floats:
    """Coefficients (features,) of least squares for (n, features) and (n,), drawn towards the expected ones.

    Examples overlap: as many as there are steps in the period tell as much as one.
    """
    scaled = seen / spread
    overlap = PERIODS[period] / TRAIN_EVERY
    doubt = DOUBT[period]
    return (
        np.linalg.solve(
            scaled.T @ scaled / overlap + doubt * np.eye(len(spread)),
            scaled.T @ came / overlap + doubt * expected * spread,
        ).astype(np.float64)
        / spread
    )


@lru_cache(maxsize=1)
def _expected() -> tuple[Floats, Floats]:
    """Coefficients (K, features) for simulated yields, and by what each feature strays there."""
    yields = simulated_yields()
    history = YieldHistory(yields, np.ones(yields.shape, dtype=np.bool_))
    at: Steps = np.arange(8 * DAY, len(yields) - int(EDGES[-1]), SIMULATED_EVERY)
    features, base = _features(_Logs(history), at)
    truth = _came(history, at) - base[:, :, None]
    seen = features.reshape(-1, *features.shape[2:])  # (n, K, features)
    spread = seen.std(axis=0) + LEAST_SPREAD
    spread[:, -1] = 1.0
    scaled = seen / spread
    least = 1e-3 * len(scaled) * np.eye(scaled.shape[-1])
    lines = [
        np.linalg.solve(scaled[:, k].T @ scaled[:, k] + least, scaled[:, k].T @ truth[:, :, k].reshape(-1))
        for k in range(len(PERIODS))
    ]
    return np.array(lines) / spread, spread


def _seen_again(missed: Floats, at: Steps, known: Flags) -> Floats:
    """(N, P, K) Errors made at the moments `at` (N,), unknown ones as none.

    At moments before a node's first known step (of `known`, (T, P)) nothing was missed because nothing was there, which
    would pass for certainty: the errors of its later moments stand there again, in turn.
    """
    errors = np.nan_to_num(missed, nan=0.0)
    for node, first in enumerate(known.argmax(axis=0).tolist()):
        seen, unseen = np.flatnonzero(at > first), np.flatnonzero(at <= first)
        if seen.size:
            errors[unseen, node] = errors[seen[np.arange(unseen.size) % seen.size], node]
    return errors


def _smearing(missed: Floats) -> Floats:
    """(P, K) Mean of exp(error) over what is known of (n, P, K) errors."""
    known = np.isfinite(missed)
    factors = np.exp(np.clip(np.where(known, missed, 0.0), -3.0, 3.0))
    mean = np.where(known, factors, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known.any(axis=0), np.clip(mean, 1.0, MOST_SMEARED), 1.0)


def _outages(paying: Flags) -> tuple[Floats, float]:
    """The chances of a step to begin an outage, (P,), drawn towards that of all, and to end one, of all together."""
    nodes = paying.shape[1]
    before, after = paying[:-1], paying[1:]
    begun, up = (before & ~after).sum(axis=0), before.sum(axis=0)
    ended, down = int((~before & after).sum()), int((~before).sum())
    fails = (begun + HALF * begun.sum() / nodes + OUTAGES_ASSUMED) / (up + HALF * up.sum() / nodes + DAYS_ASSUMED * DAY)
    return fails, (ended + 1.0) / (down + HOURS_DOWN_ASSUMED * STEPS_AN_HOUR)


def period_means(hourly: Sequence[float]) -> Floats:
    """(K,) What a forecast of the coming hours comes to in each period; NaN where it does not reach."""
    by_step = np.repeat(np.asarray(hourly, dtype=np.float64), STEPS_AN_HOUR)
    padded = np.concatenate([by_step, np.full(max(0, int(EDGES[-1]) - len(by_step)), np.nan)])[: EDGES[-1]]
    return np.add.reduceat(padded, EDGES[:-1]) / np.array(PERIODS)
