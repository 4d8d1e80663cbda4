"""Which shares to take now, in view of a day ahead. Pure but for the solver.

What can change every hour follows the coming hour; what rests for long after a change is chosen for all of its rest. A
node that rests for long is moved only where that earns more than to keep it and move it later: a move now is a move
that cannot be made when more is known. Both are held against the same scenarios, in which the other nodes are divided
anew every hour.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from orcha_pipeline.allocation.change_program import NO_GAIN, BestChange, Pattern, Question, Reach, best_change
from orcha_pipeline.allocation.outlook import DAY_HOURS, EDGES, PERIODS, STEPS_AN_HOUR, Flags, Floats, Outlook, Steps
from orcha_pipeline.allocation.plan import MIN_MOVE
from orcha_pipeline.allocation.programs import Best, Site, best_shares
from orcha_pipeline.errors import PlanError

Snap = Callable[[Floats, Flags], Sequence[Floats]]

WAITS = (len(PERIODS), 6, 2)
"""Periods after which a node that could move now might move instead; the first is not at all."""
FREEDOM = 0.1
"""What it is worth to be free to change within the hour, should something happen: so much of what the coming hour's
earnings commonly stray from what is expected of them."""
COSTLY = 0.05
"""Hours of earnings that a move costs beyond which a node is not moved for an hour: it is chosen for a day."""
FEW = 30
"""Futures of which the part that pays says little."""
LENGTHS: Floats = np.array(PERIODS) / STEPS_AN_HOUR
"""(K,) Hours of each period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where N nodes are, (N,) each: their share, steps before they may move and how many they rest after a move.

    A move loses `restart_hours` of earnings and costs `costs` USD beside. A full share costs `charge` USD an hour. A
    node that must stay for the whole day rests for as long.
    """

    shares: Floats
    rests: Steps
    cooldowns: Steps
    restart_hours: Floats
    costs: Floats
    charge: Floats


@dataclass(frozen=True, slots=True)
class Ahead:
    """Shares (N,) to have from now on: those that are there, but where the `pattern` moves a node.

    They are the answer to `asked`, and earn `usd` in its hours. `slow` (N,) are those moved for all of their
    rest, by which `slow_gains` are gained in some equally likely futures beside the best of moving later or not at all,
    what moving costs taken off. That is within `promise_hours`: after them the other choice would do as well.
    """

    shares: Floats
    usd: float
    pattern: Pattern
    asked: Question
    slow: Flags
    slow_gains: Floats
    promise_hours: float

    @property
    def moved(self) -> Flags:
        """Which nodes move."""
        return self.pattern.moved

    def gains(self, outlook: Outlook) -> Floats:
        """(L,) USD that the change brings in each likely future, what it costs taken off."""
        return self.slow_gains if self.slow.any() else gains(self.asked, outlook, self.shares, self.asked.hours)


def gains(asked: Question, outlook: Outlook, shares: Floats, hours: float) -> Floats:
    """(L,) USD that `shares` bring beside those of now in each likely future of the coming hours, moves paid."""
    more = shares**asked.curvature - asked.reach.now**asked.curvature
    charged = float((shares - asked.reach.now) @ asked.charge) * hours / asked.hours
    return outlook.likely_worth(hours) @ more - charged - float(asked.costs[shares != asked.reach.now].sum())


def confidence_of(samples: Floats) -> float:
    """The probability that a change pays, by what it brings in equally likely futures.

    Of few futures it is taken as if they were normal, of many it is the part in which it pays, of those in which it
    makes a difference: where a node earns nothing whatever its share, it makes none.
    """
    if len(samples) >= FEW:
        pays, loses = (samples > 0).sum(), (samples < 0).sum()
        return float(pays / (pays + loses)) if pays + loses else 0.0
    spread = float(samples.std(ddof=1)) if len(samples) > 1 else 0.0
    if spread <= 0:
        return float(samples.mean() > 0)
    return NormalDist().cdf(float(samples.mean()) / spread)


def look_ahead(
    site: Site,
    standing: Standing,
    outlook: Outlook,
    curvature: Floats,
    *,
    reach: Reach | None = None,
    snap: Snap | None = None,
    room: Floats | None = None,
    freedom: float = FREEDOM,
    hours: float = 1.0,
    urgent: bool = False,
    confidence: float = 0.0,
) -> Ahead:
    """The shares to take now; today's where no change is worth its cost. Raises `PlanError` where nothing fits.

    The capacity of `site` is (R,), or (K, R) where it will change; `room` (R,) is what there is now, if not the first
    of them. `reach` tells where levers can go: anywhere within the bounds by default. `snap` gives
    shares (N,) near those of the chosen nodes that are on their levers' steps, and fit. `hours` is how long the shares
    stay at least. `urgent`: something must change now, and nothing is chosen for its rest. Nodes are moved for all of
    their rest only where this pays with a probability of `confidence`.
    """
    now = standing.shares
    costs = np.maximum(outlook.mean[0], 0.0) * now**curvature * standing.restart_hours + standing.costs
    if reach is None:
        # A share that moves by MIN_MOVE exactly is taken for one that stays.
        reach = Reach.between(now, site.least, site.most, move=MIN_MOVE * (1 + 1e-3))
    if room is None:
        room = np.asarray(site.capacity if site.capacity.ndim == 1 else site.capacity[0])
    resting = standing.rests > 0
    dear = costs > COSTLY * np.maximum(outlook.mean[0], 0.0) * now**curvature
    slow = resting if urgent else (standing.cooldowns > PERIODS[0]) | resting | (dear & (costs > 0))
    strays = np.abs(outlook.likely[:, 0] - outlook.mean[0]).mean(axis=0)
    free = freedom * float(strays @ now**curvature)

    def change(wanted: Floats) -> tuple[Question, BestChange]:
        asked = Question(
            hours=hours,
            reach=reach.fixed(np.where(slow, wanted, np.nan)),
            worth=outlook.worth(hours),
            charge=standing.charge * hours,
            curvature=curvature,
            costs=costs,
            any_cost=0.0 if (wanted != now).any() else free,
            demand=site.demand,
            room=room,
        )
        return asked, best_change(asked)

    if (slow & ~resting).any():
        try:
            wanted, found = _for_their_rest(site, standing, outlook, curvature, slow=slow, costs=costs, snap=snap)
            if found:
                asked, best = change(wanted)
                slowly = wanted != now
                beside = float(costs[best.pattern.moved & ~slowly].sum())
                left_out = 0.0 if snap is None else _left_out(asked, best, slow) / hours
                samples = [each.sure(asked, outlook, best.shares) - beside - left_out * each.hours for each in found]
                enough = NO_GAIN * float(np.abs(outlook.worth(DAY_HOURS)).max())
                if all(each.mean() > enough and confidence_of(each) >= confidence for each in samples):
                    gained, until = min(zip(samples, found, strict=True), key=lambda each: float(each[0].mean()))
                    return Ahead(best.shares, best.usd, best.pattern, asked, slowly, gained, until.hours)
        except PlanError:  # the others' levers cannot make the room: they are planned for alone
            pass
    asked, best = change(now)
    none = np.zeros(len(now), dtype=np.bool_)
    return Ahead(best.shares, best.usd, best.pattern, asked, none, np.zeros(1), hours)


def _left_out(asked: Question, best: BestChange, slow: Flags) -> float:
    """USD that coarse steps of the other nodes leave out, with the slow ones where they are in `best`."""
    site = Site(capacity=asked.room, demand=asked.demand, least=asked.reach.lowest, most=asked.reach.highest)
    kept = np.where(slow, best.shares, np.nan)[None]
    fine = best_shares(site, asked.worth[None], asked.curvature, kept=kept, charge=asked.charge[None])
    return fine.usd - asked.earned(best.shares)


@dataclass(frozen=True, slots=True)
class _Gain:
    """USD (M,) that a move now brings in each scenario beside one that is made `hours` later, or never in the day."""

    usd: Floats
    hours: float

    def sure(self, asked: Question, outlook: Outlook, shares: Floats) -> Floats:
        """The same, or if there is one scenario alone, spread as what the shares earn in all likely ones if they stay.

        One scenario tells nothing of how sure it is.
        """
        if len(self.usd) > 1:
            return self.usd
        stayed = gains(asked, outlook, shares, self.hours)
        return self.usd + stayed - stayed.mean()


def _for_their_rest(
    site: Site,
    standing: Standing,
    outlook: Outlook,
    curvature: Floats,
    *,
    slow: Flags,
    costs: Floats,
    snap: Snap | None,
) -> tuple[Floats, list[_Gain]]:
    """Shares in which the slow ones that may move are where it would be best, and what is gained by moving now.

    That is beside each of moving later, or not at all (WAITS), what moves cost taken off. Today's shares and nothing
    where they had better stay.
    """
    count, periods, nodes = outlook.scenarios.shape
    worth = (outlook.scenarios * LENGTHS[None, :, None]).reshape(-1, nodes)
    charge = np.broadcast_to(standing.charge * LENGTHS[None, :, None], outlook.scenarios.shape).reshape(-1, nodes)
    if site.capacity.ndim > 1:
        site = replace(site, capacity=np.tile(site.capacity, (count, 1)))
    period = np.tile(np.arange(periods), count)[:, None]
    now, tied, choosing = standing.shares, tuple(np.flatnonzero(slow).tolist()), slow & (standing.rests == 0)
    until = np.searchsorted(EDGES[:-1], standing.rests)
    resting = np.where(period < until, now, np.nan)

    def best(kept: Floats) -> Best:
        return best_shares(site, worth, curvature, kept=kept, tied=tied, charge=charge)

    moved = best(resting)
    wanted = np.where(choosing, moved.shares[0], now)
    if snap is not None:
        snapped = [(each, best(np.where(choosing, each, resting))) for each in snap(wanted, choosing)]
        wanted, moved = max(snapped, key=lambda each: each[1].usd)
    wanted = np.where(choosing & (np.abs(wanted - now) > MIN_MOVE), wanted, now)
    wanted, moved = _needed(wanted, now, moved, lambda each: best(np.where(choosing, each, resting)))
    if (wanted == now).all():
        return now, []
    spent = float(costs[wanted != now].sum())
    found: list[_Gain] = []
    for wait in WAITS:
        try:
            stays = best(np.where(choosing & (period < wait), now, resting))
        except PlanError:  # there will be too little room to stay
            continue
        # A move later costs as well.
        later = float(costs[choosing & (np.abs(stays.shares[-1] - now) > MIN_MOVE)].sum())
        less = (moved.by_block - stays.by_block).reshape(count, periods).sum(axis=1) - spent + later
        if less.mean() <= 0:
            return now, []
        found.append(_Gain(less, float(EDGES[wait]) / STEPS_AN_HOUR))
    return wanted, found or [_Gain(moved.by_block.reshape(count, periods).sum(axis=1) - spent, DAY_HOURS)]


def _needed(wanted: Floats, now: Floats, best: Best, held: Callable[[Floats], Best]) -> tuple[Floats, Best]:
    """The same without those of several moves that bring nothing; `held` tells what shares come to."""
    for node in np.flatnonzero(wanted != now) if (wanted != now).sum() > 1 else ():
        without = wanted.copy()
        without[node] = now[node]
        try:
            other = held(without)
        except PlanError:  # it makes room for the others
            continue
        if other.usd >= best.usd - NO_GAIN * abs(best.usd):
            wanted, best = without, other
    return wanted, best
