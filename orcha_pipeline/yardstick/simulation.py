"""A policy let loose on a world, under the rules that hold for every policy.

A host rests for an hour after a change (so it is never changed four times in one); a protocol with a cool-down moves
at most once in it. A share that would move by no more than MIN_MOVE stays; if none moves by more, nothing is changed. A
step earns yield x share ** curvature for its length; a share that was changed first loses its restart, at the rate
that the old share would have had.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from orcha_pipeline.allocation.plan import MIN_MOVE
from orcha_pipeline.forecasting.panel import Tell, say_nothing
from orcha_pipeline.yardstick.world import Flags, Floats, PlayedWorld, Terms

NEVER = -(10**9)


@dataclass(frozen=True, slots=True)
class Situation:
    """What a policy is asked at `step`: the shares it has, and which of them a cool-down keeps where they are.

    `last_paid` (P,) is what the last step truly paid at share 1.0: a favour to those that do not learn it from what
    they earn, None for the others.
    """

    step: int
    shares: Floats
    cooled: Flags
    last_paid: Floats | None


class Policy(Protocol):
    """Divides a host. It is told of every step what it earned, those of the history (at `equal`) too."""

    def observe(self, step: int, shares: Floats, moved: Flags, earned: Floats) -> None:
        """A step is over: the shares it ran at, which of them were changed at its start, and USD earned, (P,) each."""
        ...

    def propose(self, now: Situation) -> Floats | None:
        """The shares (P,) that are wanted from this step on; None to hold."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a policy came to over the n scored steps. `earned` (n, P) in USD, `shares` (n, P), `moved` (n, P)."""

    earned: Floats
    shares: Floats
    moved: Flags
    switching_usd: float
    violations: int
    decision_seconds: Floats

    @property
    def usd(self) -> float:
        """Everything earned, less what changes cost."""
        return float(self.earned.sum())

    @property
    def changes(self) -> int:
        """How often the host was changed."""
        return int(self.moved.any(axis=1).sum())


def equal_shares(terms: Terms) -> Floats:
    """clip(s, least, most) with the largest s that fits: (P,)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        fits = terms.fits(np.clip(middle, terms.least, terms.most))
        low, high = (middle, high) if fits else (low, middle)
    return np.clip(low, terms.least, terms.most)


def simulate(
    world: PlayedWorld,
    policy: Policy,
    *,
    favoured: bool,
    clock: Callable[[], float] = time.perf_counter,
    tell: Tell = say_nothing,
) -> Outcome:
    """Play the world's scored steps with `policy`. With `favoured` it sees what the last step truly paid."""
    terms, paid = world.terms, world.paid
    steps, count = paid.shape
    start = equal_shares(terms)
    at_rest, nothing = np.zeros(count, dtype=np.bool_), np.zeros(count)
    for step in range(world.history):
        policy.observe(step, start, at_rest, _earned(world, paid[step], start, nothing))
    rules = _Rules(terms)
    earned, shares = np.empty((steps - world.history, count)), np.empty((steps - world.history, count))
    moves = np.zeros((steps - world.history, count), dtype=np.bool_)
    seconds: list[float] = []
    switching, violations, current = 0.0, 0, start
    for row, step in enumerate(range(world.history, steps)):
        if row % terms.day == 0:
            tell(f"day {row // terms.day + 1} of {-(-len(earned) // terms.day)}")
        before, moved = current, at_rest
        if rules.may_change(step):
            now = Situation(step, current.copy(), rules.cooled(step), paid[step - 1] if favoured else None)
            began = clock()
            wanted = policy.propose(now)
            seconds.append(clock() - began)
            if wanted is not None:
                moved = np.abs(wanted - current) > MIN_MOVE
                violations += int(moved.any()) * rules.broken_by(wanted, now.cooled & moved)
                current = np.where(moved, wanted, current)
                rules.changed(step, moved)
        lost = np.where(moved, terms.restart_hours * paid[step] * before**world.curvature, 0.0)
        earned[row] = _earned(world, paid[step], current, lost)
        switching += float(lost.sum())
        shares[row], moves[row] = current, moved
        policy.observe(step, current, moved, earned[row])
    return Outcome(
        earned=earned,
        shares=shares,
        moved=moves,
        switching_usd=switching,
        violations=violations,
        decision_seconds=np.array(seconds),
    )


def _earned(world: PlayedWorld, paid: Floats, shares: Floats, lost: Floats) -> Floats:
    """USD (P,) of a step that pays `paid` (P,) an hour at share 1.0, less what restarts lost."""
    return paid * shares**world.curvature * world.terms.step_hours - lost


class _Rules:
    """When a host was changed, and what that forbids."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._changed_at = NEVER
        self._moved_at = np.full(len(terms.protocols), NEVER)

    def may_change(self, step: int) -> bool:
        """Whether the host has rested."""
        return step - self._changed_at >= self._terms.hold

    def cooled(self, step: int) -> Flags:
        """(P,) Which protocols a cool-down keeps where they are."""
        return step - self._moved_at < self._terms.cooldown

    def changed(self, step: int, moved: Flags) -> None:
        """Remember a change, if it is one."""
        if moved.any():
            self._changed_at = step
            self._moved_at = np.where(moved, step, self._moved_at)

    def broken_by(self, wanted: Floats, cooled_moved: Flags) -> bool:
        """Whether a proposal is out of bounds or capacity, or moves what is cooled.

        What is proposed counts: a share that stays for moving by too little may keep up to MIN_MOVE more.
        """
        terms, rounding = self._terms, 1e-6
        outside = (wanted < terms.least - rounding) | (wanted > terms.most + rounding)
        over = terms.demand @ wanted > terms.capacity * (1 + rounding)
        return bool(cooled_moved.any() or outside.any() or over.any() or not np.isfinite(wanted).all())
