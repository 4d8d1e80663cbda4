"""What hindsight would have earned: the two bounds that policies are held against.

`clairvoyant` knows everything and obeys no rule; `rules` knows everything, changes shares on the hour and those with a
cool-down once in it. Neither pays for a change.
"""

from dataclasses import dataclass

import numpy as np

from orcha_pipeline.allocation.response import piece_slopes, piece_widths
from orcha_pipeline.yardstick.linear_programs import empty_solver, linear_program, solution
from orcha_pipeline.yardstick.world import Floats, PlayedWorld

CLAIRVOYANT_PIECES = 40
RULES_PIECES = 20
TOGETHER = 8
"""Periods in one program where nothing joins them: HiGHS is quickest on a few hundred columns."""


@dataclass(frozen=True, slots=True)
class Bound:
    """USD by scored step: (n,)."""

    by_step: Floats

    @property
    def usd(self) -> float:
        """Over all of them."""
        return float(self.by_step.sum())


def clairvoyant(world: PlayedWorld) -> Bound:
    """The best shares of every single step."""
    return _bound(world, every=1, cooled=False, count=CLAIRVOYANT_PIECES)


def under_rules(world: PlayedWorld) -> Bound:
    """The best shares of every hour, those with a cool-down the same from one multiple of it to the next."""
    return _bound(world, every=world.terms.hold, cooled=True, count=RULES_PIECES)


def _bound(world: PlayedWorld, *, every: int, cooled: bool, count: int) -> Bound:
    terms = world.terms
    paid = world.paid[world.history :] * terms.step_hours
    starts = np.arange(0, len(paid), every)
    worth = np.add.reduceat(paid, starts, axis=0)  # (periods, P), USD at share 1.0
    rests = np.maximum(terms.cooldown // every, 1) if cooled else np.ones(len(terms.protocols), dtype=np.int64)
    block = int(rests.max()) if rests.max() > 1 else TOGETHER
    shares = np.concatenate(
        [_best(world, worth[begin : begin + block], rests, count) for begin in range(0, len(worth), block)]
    )
    return Bound((paid * np.repeat(shares, every, axis=0)[: len(paid)] ** world.curvature).sum(axis=1))


def _best(world: PlayedWorld, worth: Floats, rests: np.ndarray, count: int) -> Floats:
    """Shares (periods, P) that earn most, each protocol's the same for `rests` (P,) periods at a time."""
    from scipy.sparse import coo_matrix

    terms = world.terms
    periods, resources = len(worth), len(terms.capacity)
    gains: list[Floats] = []
    spans: list[tuple[int, int, int]] = []  # protocol, first period, the one after the last
    for protocol, rest in enumerate(rests.tolist()):
        slope = piece_slopes(count, float(world.curvature[protocol]))
        for begin in range(0, periods, rest):
            end = min(periods, begin + rest)
            spans.append((protocol, begin, end))
            gains.append(worth[begin:end, protocol].sum() * slope)
    rows, columns, values = [], [], []
    for span, (protocol, begin, end) in enumerate(spans):
        own = span * count + np.arange(count)
        used = np.flatnonzero(terms.demand[:, protocol])
        touched = (np.arange(begin, end)[:, None] * resources + used).ravel()
        rows += [np.repeat(touched, count), np.full(count, periods * resources + span)]
        columns += [np.tile(own, len(touched)), own]
        values += [np.repeat(np.tile(terms.demand[used, protocol], end - begin), count), np.ones(count)]
    gain = np.concatenate(gains)
    owners = np.array([protocol for protocol, _, _ in spans])
    program = linear_program(
        gain=gain / max(float(gain.max()), 1e-12),
        most=np.tile(piece_widths(count), len(spans)),
        matrix=coo_matrix(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
            shape=(periods * resources + len(spans), len(gain)),
        ).tocsc(),
        row_least=np.concatenate([np.full(periods * resources, -np.inf), terms.least[owners]]),
        row_most=np.concatenate([np.tile(terms.capacity, periods), terms.most[owners]]),
    )
    solver = empty_solver()
    solver.passModel(program)
    filled, _ = solution(solver)
    shares = np.empty(worth.shape)
    for (protocol, begin, end), share in zip(spans, filled.reshape(-1, count).sum(axis=1).tolist(), strict=True):
        shares[begin:end, protocol] = share
    return shares
