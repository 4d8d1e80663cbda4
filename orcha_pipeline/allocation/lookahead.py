"""Which shares to take now, in view of a day ahead. Pure but for the solver.

What can change every hour follows the coming hour; what rests for long after a change is chosen for all of its rest. A
node that rests for long is moved only where that earns more than to keep it and move it later: a move now is a move
that cannot be made when more is known. Both are held against the same scenarios, in which the other nodes are divided
anew every hour.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.allocation.outlook import EDGES, PERIODS, STEPS_AN_HOUR, Floats, Outlook, Steps
from orcha_pipeline.allocation.plan import MIN_MOVE
from orcha_pipeline.allocation.programs import Best, Site, best_shares

WAITS = (2, 6, len(PERIODS))
"""Periods after which a node that could move now might move instead; the last is not at all."""
FREEDOM = 0.01
"""Of the coming hour's earnings: what it is worth to be free to change within the hour, should something happen."""
_LENGTHS: Floats = np.array(PERIODS) / STEPS_AN_HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where N nodes are, (N,) each: their share, steps before they may move and how many they rest after a move.

    `restart_hours` are lost by a move. A node that must stay for the whole day rests for as long.
    """

    shares: Floats
    rests: Steps
    cooldowns: Steps
    restart_hours: Floats


@dataclass(frozen=True, slots=True)
class Ahead:
    """Shares (N,) to have from now on, those that are there where `moved` (N,) is False, and the coming hour's plan.

    `gain_usd` is what they earn more than today's in that hour, less the restarts; of a node that rests for long, in
    all its rest.
    """

    shares: Floats
    moved: NDArray[np.bool_]
    gain_usd: float
    hour: Best


def look_ahead(
    site: Site, standing: Standing, outlook: Outlook, curvature: Floats, *, freedom: float = FREEDOM
) -> Ahead:
    """The shares to take now; today's where no change is worth its cost. Raises `PlanError` where nothing fits."""
    now = standing.shares
    lost = np.maximum(outlook.mean[0], 0.0) * now**curvature * standing.restart_hours
    worth = outlook.mean[0] * _LENGTHS[0]
    resting = standing.rests > 0
    slow = standing.cooldowns > PERIODS[0]
    wanted, slow_gain = now, 0.0
    if (slow & ~resting).any():
        wanted, slow_gain = _for_their_rest(site, standing, outlook, curvature, slow=slow)
        slow_gain -= float(lost[wanted != now].sum())
        wanted = wanted if slow_gain > 0 else now
    hour = _settled(site, worth, curvature, np.where(slow | resting, wanted, np.nan), now)
    moved = np.abs(hour.shares[0] - now) > MIN_MOVE
    shares = np.where(moved, hour.shares[0], now)
    earns, earned = (float(worth @ each**curvature) for each in (shares, now))
    gain = earns - earned - float(lost[moved].sum())
    pays = slow_gain > 0 or gain > freedom * earned
    if not (moved.any() and pays and site.fits(shares)):
        return Ahead(now, np.zeros(len(now), dtype=np.bool_), 0.0, hour)
    return Ahead(shares, moved, max(gain, slow_gain), hour)


def _for_their_rest(
    site: Site, standing: Standing, outlook: Outlook, curvature: Floats, *, slow: NDArray[np.bool_]
) -> tuple[Floats, float]:
    """Shares in which the slow ones that may move are where it would be best, and USD gained over a later move or none.

    Today's and 0 where that is where they are. What their restarts lose is not taken off.
    """
    count, periods, nodes = outlook.scenarios.shape
    worth = (outlook.scenarios * (_LENGTHS / count)[None, :, None]).reshape(-1, nodes)
    period = np.tile(np.arange(periods), count)[:, None]
    now, tied, choosing = standing.shares, tuple(np.flatnonzero(slow).tolist()), slow & (standing.rests == 0)
    until = np.searchsorted(EDGES[:-1], standing.rests)
    resting = np.where(period < until, now, np.nan)
    moved = best_shares(site, worth, curvature, kept=resting, tied=tied)
    wanted = np.where(choosing, moved.shares[0], now)
    wanted = np.where(np.abs(wanted - now) > MIN_MOVE, wanted, now)
    if (wanted == now).all():
        return now, 0.0
    keeps = [
        best_shares(site, worth, curvature, kept=np.where(choosing & (period < wait), now, resting), tied=tied).usd
        for wait in WAITS
    ]
    return wanted, moved.usd - max(keeps)


def _settled(site: Site, worth: Floats, curvature: Floats, kept: Floats, now: Floats) -> Best:
    """The best shares for an hour in which no node moves by MIN_MOVE or less: such a one stays, and all fits still."""
    kept = kept.copy()
    while True:
        best = best_shares(site, worth[None], curvature, kept=kept[None])
        hardly = np.isnan(kept) & (np.abs(best.shares[0] - now) <= MIN_MOVE) & (best.shares[0] != now)
        if not hardly.any():
            return best
        kept = np.where(hardly, now, kept)
