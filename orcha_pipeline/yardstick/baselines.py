"""The policies that Orcha is compared with. They see what the last step truly paid, and take the curvature as 0.9."""

import numpy as np

from orcha_pipeline.yardstick.linear_programs import Division
from orcha_pipeline.yardstick.simulation import Situation, equal_shares
from orcha_pipeline.yardstick.world import Flags, Floats, PlayedWorld, Terms

CURVATURE = 0.9
PIECES = 6
GREEDY_GAIN = 0.05
GREEDY_USD_AN_HOUR = 0.25
GREEDY_MOVE = 0.2


def _kept(now: Situation) -> dict[int, float]:
    return {protocol: float(now.shares[protocol]) for protocol in np.flatnonzero(now.cooled).tolist()}


class _Blind:
    """What it is told of what it earned is of no use to it."""

    def observe(self, step: int, shares: Floats, moved: Flags, earned: Floats) -> None:
        """Nothing is learnt."""


class Equal(_Blind):
    """clip(s, least, most) with the largest s that fits."""

    def __init__(self, world: PlayedWorld) -> None:
        self._shares = equal_shares(world.terms)

    def propose(self, now: Situation) -> Floats | None:
        """The same always."""
        del now
        return self._shares


class Static(_Blind):
    """The best fixed division for the history's mean yields."""

    def __init__(self, world: PlayedWorld) -> None:
        division = Division(world.terms, count=PIECES, curvature=CURVATURE)
        self._shares = division.best(world.paid[: world.history].mean(axis=0))

    def propose(self, now: Situation) -> Floats | None:
        """The same always, where no cool-down keeps it."""
        return None if now.cooled.any() else self._shares


class Myopic(_Blind):
    """The best division for the last step's yields, if it gains more than `hysteresis` of what is earned."""

    def __init__(self, world: PlayedWorld, *, hysteresis: float = 0.0) -> None:
        self._division = Division(world.terms, count=PIECES, curvature=CURVATURE)
        self._hysteresis = hysteresis

    def propose(self, now: Situation) -> Floats | None:
        """The best division, cooled protocols kept."""
        assert now.last_paid is not None  # noqa: S101 (a favoured policy)
        wanted = self._division.best(now.last_paid, _kept(now))
        if self._hysteresis:
            today, then = (float(now.last_paid @ shares**CURVATURE) for shares in (now.shares, wanted))
            if not then > today * (1 + self._hysteresis):
                return None
        return wanted


class Greedy(_Blind):
    """The original plan's rule: share moves from one protocol to another, 20 points at most.

    The pair that gains most is moved, if that gains 5 % and 0.25 USD an hour.
    """

    def __init__(self, world: PlayedWorld) -> None:
        self._terms: Terms = world.terms

    def propose(self, now: Situation) -> Floats | None:
        """The best pairwise move."""
        assert now.last_paid is not None  # noqa: S101 (a favoured policy)
        terms, shares = self._terms, now.shares
        today = float(now.last_paid @ shares**CURVATURE)
        best, wanted = today, None
        for giver in range(len(shares)):
            for taker in range(len(shares)):
                if giver == taker or now.cooled[giver] or now.cooled[taker]:
                    continue
                given = min(GREEDY_MOVE, shares[giver] - terms.least[giver])
                moved = shares.copy()
                moved[giver] -= given
                moved[taker] = min(terms.most[taker], shares[taker] + GREEDY_MOVE, self._room(moved, taker))
                if (usd := float(now.last_paid @ moved**CURVATURE)) > best:
                    best, wanted = usd, moved
        enough = best - today >= max(GREEDY_USD_AN_HOUR, GREEDY_GAIN * today)
        return wanted if enough else None

    def _room(self, shares: Floats, taker: int) -> float:
        """The largest share of `taker` that the others leave room for."""
        terms = self._terms
        others = terms.demand @ np.where(np.arange(len(shares)) == taker, 0.0, shares)
        own = terms.demand[:, taker]
        wanted = own > 0
        return float(((terms.capacity - others)[wanted] / own[wanted]).min()) if wanted.any() else 1.0
