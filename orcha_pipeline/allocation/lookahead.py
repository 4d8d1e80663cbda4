"""Which shares to take now, in view of a day ahead. Pure but for the solver.

What can change every hour follows the coming hour; what rests for long after a change is chosen for all of its rest. A
node that rests for long is moved only where that earns more than to keep it and move it later: a move now is a move
that cannot be made when more is known. Both are held against the same scenarios, in which the other nodes are divided
anew every hour.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.allocation.outlook import EDGES, PERIODS, STEPS_AN_HOUR, Outlook
from orcha_pipeline.allocation.plan import MIN_MOVE
from orcha_pipeline.allocation.programs import Best, Site, best_shares

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]

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
    hour: Best | None


def look_ahead(
    site: Site, standing: Standing, outlook: Outlook, curvature: Floats, *, freedom: float = FREEDOM
) -> Ahead:
    """The shares to take now; today's where no change is worth its cost. Raises `PlanError` where nothing fits."""
    now = standing.shares
    lost = np.maximum(outlook.mean[0], 0.0) * now**curvature * standing.restart_hours
    resting = standing.rests > 0
    slow = standing.cooldowns > PERIODS[0]
    wanted, slow_gain = now, 0.0
    if (choosing := slow & ~resting).any():
        wanted, slow_gain = _for_their_rest(site, standing, outlook, curvature, choosing=choosing)
        slow_gain -= float(lost[wanted != now].sum())
        wanted = wanted if slow_gain > 0 else now
    hour = _settled(site, outlook.mean[:1] * _LENGTHS[0], curvature, np.where(slow | resting, wanted, np.nan), now)
    moved = np.abs(hour.shares[0] - now) > MIN_MOVE
    shares = np.where(moved, hour.shares[0], now)
    worth = outlook.mean[0] * _LENGTHS[0]
    earns, earned = (float(worth @ each**curvature) for each in (shares, now))
    gain = earns - earned - float(lost[moved].sum())
    pays = slow_gain > 0 or gain > freedom * earned
    if not (moved.any() and pays and site.fits(shares)):
        return Ahead(now, np.zeros(len(now), dtype=np.bool_), 0.0, hour)
    return Ahead(shares, moved, max(gain, slow_gain), hour)


def _for_their_rest(
    site: Site, standing: Standing, outlook: Outlook, curvature: Floats, *, choosing: NDArray[np.bool_]
) -> tuple[Floats, float]:
    """Shares in which those `choosing` are moved where it is best to do so now, and USD that gains; else today's, 0.

    What their restarts lose is not taken off.
    """
    count, periods, nodes = outlook.scenarios.shape
    worth = (outlook.scenarios * (_LENGTHS / count)[None, :, None]).reshape(-1, nodes)
    period = np.tile(np.arange(periods), count)[:, None]
    now, tied = standing.shares, tuple(np.flatnonzero(standing.cooldowns > PERIODS[0]).tolist())
    until = np.searchsorted(EDGES[:-1], standing.rests)
    resting = np.where(period < until, now, np.nan)
    moved = best_shares(site, worth, curvature, kept=resting, tied=tied)
    keeps = [
        best_shares(site, worth, curvature, kept=np.where(choosing & (period < wait), now, resting), tied=tied).usd
        for wait in WAITS
    ]
    wanted = np.where(choosing, moved.shares[0], now)
    changed = np.abs(wanted - now) > MIN_MOVE
    return np.where(changed, wanted, now), moved.usd - max(keeps) if changed.any() else 0.0


def _settled(site: Site, worth: Floats, curvature: Floats, kept: Floats, now: Floats) -> Best:
    """The best shares of one block in which no node moves by MIN_MOVE or less: such a one stays, and all fits still."""
    kept = kept.copy()
    while True:
        best = best_shares(site, worth, curvature, kept=kept[None])
        hardly = np.isnan(kept) & (np.abs(best.shares[0] - now) <= MIN_MOVE) & (best.shares[0] != now)
        if not hardly.any():
            return best
        kept = np.where(hardly, now, kept)
