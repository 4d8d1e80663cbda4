"""The best change of a host's shares for a stretch of time: a small mixed-integer linear program.

Each node has a share, the straight pieces of its response to fill, and two on/off choices (moved up, moved down) that
carry the fixed cost of a change and keep it from being smaller than a lever allows. That anything changes at all may
cost as well.

CVXPY is imported on the first program; it is compiled once a number of nodes and resources, and afterwards only its
parameters change (DPP). HiGHS solves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from orcha_pipeline.allocation.outlook import Flags, Floats
from orcha_pipeline.allocation.programs import solve
from orcha_pipeline.allocation.response import PIECES, grid_points

if TYPE_CHECKING:
    import cvxpy as cp

_OPTIONS = {
    "threads": 1,
    "time_limit": 10.0,
    "mip_rel_gap": 1e-7,
    "mip_abs_gap": 1e-9,
    # Presolving, and guessing at a first solution, take longer than solving a program this small.
    "presolve": "off",
    "mip_heuristic_run_feasibility_jump": False,
}
NO_GAIN = 1e-6
"""Of the largest worth: what gains less is not moved, though it cost nothing."""
_PIECE_COUNT = PIECES + 2
"""Pieces between the points of the grid, the ends of the range and the present share, at which they are exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where N nodes can go from the shares `now`: (N,) each, shares; NaN where a node cannot go that way.

    A change down ends between `down_first` and `down_last`, one up between `up_first` and `up_last`. A node that
    `must` change cannot stay.
    """

    now: Floats
    down_first: Floats
    down_last: Floats
    up_first: Floats
    up_last: Floats
    must: Flags

    @property
    def lowest(self) -> Floats:
        """The smallest share each can have."""
        return np.fmin(self.now, self.down_first)

    @property
    def highest(self) -> Floats:
        """The largest share each can have."""
        return np.fmax(self.now, self.up_last)

    @classmethod
    def between(cls, now: Floats, least: Floats, most: Floats, *, move: float) -> Reach:
        """Anywhere within the bounds that is at least `move` away."""
        down, up = now - move, now + move
        return cls(
            now=now,
            down_first=np.where(down >= least, least, np.nan),
            down_last=np.where(down >= least, np.minimum(down, most), np.nan),
            up_first=np.where(up <= most, np.maximum(up, least), np.nan),
            up_last=np.where(up <= most, most, np.nan),
            must=np.zeros(len(now), dtype=np.bool_),
        )

    def fixed(self, at: Floats) -> Reach:
        """The same where `at` (N,) is NaN; the others go to it, or stay where it is their present share."""
        free = np.isnan(at)
        lower, higher = ~free & (at < self.now), ~free & (at > self.now)

        def side(which: Flags, usual: Floats) -> Floats:
            return np.where(free, usual, np.where(which, at, np.nan))

        return Reach(
            now=self.now,
            down_first=side(lower, self.down_first),
            down_last=side(lower, self.down_last),
            up_first=side(higher, self.up_first),
            up_last=side(higher, self.up_last),
            must=np.where(free, self.must, lower | higher),
        )


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which nodes a change moves up and which down, (N,) each."""

    ups: Flags
    downs: Flags

    @property
    def moved(self) -> Flags:
        """Which move at all."""
        return self.ups | self.downs


@dataclass(frozen=True, slots=True)
class BestChange:
    """Shares (N,), who moves, and what they earn less all costs, in USD."""

    shares: Floats
    pattern: Pattern
    usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: the shares within `reach` that earn most in the coming `hours`.

    Of each node, (N,): in these hours a full share is worth `worth` USD and costs `charge` USD, a part of it that part,
    a move costs `costs` USD, and earnings go by share ** `curvature`. `any_cost` USD are lost if anything moves.
    `demand` (R, N) at share 1.0 must fit `room` (R,).
    """

    hours: float
    reach: Reach
    worth: Floats
    charge: Floats
    curvature: Floats
    costs: Floats
    any_cost: float
    demand: Floats
    room: Floats

    def earned(self, shares: Floats) -> float:
        """USD that shares (N,) earn, less what they charge; what moving costs is not taken off."""
        return float(self.worth @ shares**self.curvature - self.charge @ shares)


def best_change(asked: Question, *, other_than: Pattern | None = None) -> BestChange:
    """The answer; `other_than` is a pattern not to be taken. Raises `PlanError` where nothing fits, or HiGHS fails."""
    reach, worth, charge, curvature = asked.reach, asked.worth, asked.charge, asked.curvature
    costs, demand, room = asked.costs, asked.demand, asked.room
    nodes = len(worth)
    low, high = reach.lowest, reach.highest
    points = grid_points(low, high, reach.now)  # (N, pieces + 1)
    width = np.diff(points, axis=1)
    rise = np.diff(points ** curvature[:, None], axis=1)
    wide = width > 1e-12
    slope = np.where(wide, rise / np.where(wide, width, 1.0), 0.0)
    # A loss falls along one line, for it would make the curve convex.
    spread = np.maximum(high - low, 1e-12)
    straight = np.where(high > low, (high**curvature - low**curvature) / spread, 0.0)
    slope = np.where((worth < 0)[:, None], straight[:, None], slope)
    gain = worth[:, None] * slope - charge[:, None]
    # USD an hour are often thousandths: unscaled they drown in the solver's absolute tolerances.
    scale = float(np.abs(gain).max()) or 1.0
    unit = np.maximum(np.maximum(demand.max(axis=1), room), 1e-9)
    can_down, can_up = np.isfinite(reach.down_first), np.isfinite(reach.up_first)

    def off(ends: Floats) -> Floats:
        return np.nan_to_num(ends - reach.now)

    none = np.zeros(nodes)
    values: dict[str, Any] = {
        "width": width,
        "gain": gain / scale,
        "cost": costs / scale + NO_GAIN,
        "any_cost": asked.any_cost / scale,
        "stay": reach.now - low,
        "up_first": off(reach.up_first),
        "up_last": off(reach.up_last),
        "down_first": off(reach.down_first),
        "down_last": off(reach.down_last),
        "can_up": can_up.astype(float),
        "can_down": can_down.astype(float),
        "must": (reach.must & (can_up | can_down)).astype(float),
        "demand": demand / unit[:, None],
        "room": (room - demand @ low) / unit,
        # Forbids exactly one pattern: at least one of its choices must be made otherwise.
        "cut_up": none if other_than is None else np.where(other_than.ups, 1.0, -1.0),
        "cut_down": none if other_than is None else np.where(other_than.downs, 1.0, -1.0),
        "cut": 1.0 if other_than is None else float(other_than.ups.sum() + other_than.downs.sum()) - 1.0,
    }
    with _in_use:
        program = _program(nodes, len(room))
        for name, value in values.items():
            program.parameters[name].value = value
        solve(program.problem, _OPTIONS)
        filled = np.clip(np.asarray(program.x.value, dtype=np.float64), 0.0, width)
        pattern = Pattern(_on(program.up), _on(program.down))
    moves = pattern.moved
    shares = np.where(moves, low + filled.sum(axis=1), reach.now)
    least = np.where(pattern.ups, reach.up_first, np.where(pattern.downs, reach.down_first, reach.now))
    most = np.where(pattern.ups, reach.up_last, np.where(pattern.downs, reach.down_last, reach.now))
    shares = np.clip(shares, least, most)
    usd = float((filled * gain).sum() - costs @ moves) - (asked.any_cost if moves.any() else 0.0)
    return BestChange(shares, pattern, usd + asked.earned(low))


@dataclass(frozen=True, slots=True)
class _Program:
    """The compiled program for a number of nodes and resources. `x` is share above the lowest, cut into pieces."""

    problem: cp.Problem
    x: cp.Variable
    up: cp.Variable
    down: cp.Variable
    parameters: dict[str, cp.Parameter]


_in_use = Lock()  # parameters are set and solved in place: one at a time


@lru_cache(maxsize=32)
def _program(count: int, resources: int) -> _Program:
    import cvxpy as cp

    x = cp.Variable((count, _PIECE_COUNT), nonneg=True)
    up, down = cp.Variable(count, boolean=True), cp.Variable(count, boolean=True)
    anything = cp.Variable(boolean=True)
    by_node = ("stay", "up_first", "up_last", "down_first", "down_last", "can_up", "can_down", "must", "cost")
    p = {name: cp.Parameter(count) for name in (*by_node, "cut_up", "cut_down")}
    p["any_cost"], p["cut"] = cp.Parameter(), cp.Parameter()
    p["width"], p["gain"] = cp.Parameter(x.shape, nonneg=True), cp.Parameter(x.shape)
    p["demand"], p["room"] = cp.Parameter((resources, count), nonneg=True), cp.Parameter(resources)
    share = cp.sum(x, axis=1)
    constraints: list[cp.Constraint] = [
        x <= p["width"],
        share <= p["stay"] + cp.multiply(p["up_last"], up) + cp.multiply(p["down_last"], down),
        share >= p["stay"] + cp.multiply(p["up_first"], up) + cp.multiply(p["down_first"], down),
        up <= p["can_up"],
        down <= p["can_down"],
        up + down <= anything,
        up + down >= p["must"],
        p["demand"] @ share <= p["room"],
        p["cut_up"] @ up + p["cut_down"] @ down <= p["cut"],
    ]
    objective = cp.sum(cp.multiply(p["gain"], x)) - p["cost"] @ (up + down) - p["any_cost"] * anything
    return _Program(cp.Problem(cp.Maximize(objective), constraints), x, up, down, p)


def _on(choices: cp.Variable) -> Flags:
    return np.asarray(choices.value, dtype=np.float64) > 0.5
