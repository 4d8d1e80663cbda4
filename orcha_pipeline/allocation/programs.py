"""The best shares of a host's nodes in many *blocks* at once: a linear program, compiled once and asked ever again.

A block is a stretch of time in one possible future, in which a full share of each node is worth so much. Nodes that
can change every hour have a share of their own in each block; those *tied* have one share for all the blocks in which
they are free, since they rest for long after a change. What a node earns at share s, worth x s ** curvature, is cut
into straight pieces that meet at (k / PIECES) ** 1.5.

CVXPY is imported on the first program. A program keeps its shape, only its parameters change (DPP); HiGHS solves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.errors import PlanError

if TYPE_CHECKING:
    import cvxpy as cp

Floats = NDArray[np.float64]

PIECES = 8
SOLVER = "HiGHS"
_OPTIONS = {"threads": 1, "time_limit": 10.0}
_ENDS: Floats = (np.arange(PIECES + 1) / PIECES) ** 1.5
_WIDTHS: Floats = np.diff(_ENDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What R resources and bounds leave to N nodes: `capacity` (R,), `demand` (R, N) at share 1.0, bounds (N,)."""

    capacity: Floats
    demand: Floats
    least: Floats
    most: Floats

    def fits(self, shares: Floats) -> bool:
        """Whether shares (N,) keep every capacity, but for the rounding of a sum."""
        return bool((self.demand @ shares <= self.capacity * (1 + 1e-9) + 1e-12).all())


@dataclass(frozen=True, slots=True)
class Best:
    """Shares (B, N), what they earn in all blocks together in USD, and what a unit more of each resource would add.

    `prices` (B, R) are USD a block and unit of capacity.
    """

    shares: Floats
    usd: float
    prices: Floats


def best_shares(site: Site, worth: Floats, curvature: Floats, *, kept: Floats, tied: tuple[int, ...] = ()) -> Best:
    """Shares that earn most, where a full share of each node is worth `worth` (B, N) USD in each block.

    `kept` (B, N) holds the share of a node that must stay as it is in a block, NaN where it is free; a tied node has
    one share for all blocks in which it is free. Raises `PlanError` where nothing fits, or the solver fails.
    """
    blocks, nodes = worth.shape
    free = np.isnan(kept)
    slopes = np.diff(_ENDS[:, None] ** curvature, axis=0) / _WIDTHS[:, None]  # (PIECES, N)
    scale = float(np.abs(worth).max()) or 1.0
    unit = np.maximum(site.capacity, 1e-9)
    demand = (site.demand / unit[:, None]).T  # (N, R)
    single = [node for node in range(nodes) if node not in tied]
    values: dict[str, Any] = {
        "room": np.maximum(site.capacity / unit - np.where(free, 0.0, kept) @ demand, 0.0),
        "demand": demand[single],
    }
    for place, node in enumerate(single):
        values[f"gain_{place}"] = _gain((worth[:, node] * free[:, node])[:, None] / scale, slopes[:, node])
        values[f"least_{place}"] = np.where(free[:, node], site.least[node], 0.0)
        values[f"most_{place}"] = np.where(free[:, node], site.most[node], 0.0)
    for place, node in enumerate(tied):
        values[f"tied_gain_{place}"] = _gain((worth[:, node] @ free[:, node]) / scale, slopes[:, node])
        values[f"tied_use_{place}"] = np.outer(free[:, node], demand[node])
        values[f"tied_least_{place}"], values[f"tied_most_{place}"] = site.least[node], site.most[node]
    with _in_use:
        program = _program(blocks, len(single), len(tied), len(site.capacity))
        for name, parameter in program.parameters.items():
            parameter.value = values[name]
        _solve(program.problem)
        shares = kept.copy()
        for place, node in enumerate(single):
            shares[:, node] = np.where(free[:, node], _value(program.shares[place]).sum(axis=1), kept[:, node])
        for place, node in enumerate(tied):
            shares[:, node] = np.where(free[:, node], _value(program.tied[place]).sum(), kept[:, node])
        prices = np.maximum(np.asarray(program.within.dual_value), 0.0) * scale / unit
    shares = np.clip(shares, np.where(free, site.least, shares), np.where(free, site.most, shares))
    return Best(shares, float((worth * shares**curvature).sum()), prices)


@dataclass(frozen=True, slots=True)
class _Program:
    problem: cp.Problem
    parameters: dict[str, cp.Parameter]
    shares: list[cp.Variable]
    tied: list[cp.Variable]
    within: cp.Constraint


_in_use = Lock()  # parameters are set and solved in place: one at a time


@lru_cache(maxsize=16)
def _program(blocks: int, single: int, tied: int, resources: int) -> _Program:
    import cvxpy as cp

    p = {"room": cp.Parameter((blocks, resources), nonneg=True)}
    constraints: list[cp.Constraint] = []
    gained: list[cp.Expression] = []
    used: list[cp.Expression] = []
    shares: list[cp.Variable] = []
    for place in range(single):
        filled = cp.Variable((blocks, PIECES), nonneg=True)
        share = cp.sum(filled, axis=1)
        p[f"gain_{place}"] = cp.Parameter(filled.shape)
        p[f"least_{place}"], p[f"most_{place}"] = cp.Parameter(blocks, nonneg=True), cp.Parameter(blocks, nonneg=True)
        constraints += [
            filled <= np.tile(_WIDTHS, (blocks, 1)),
            share >= p[f"least_{place}"],
            share <= p[f"most_{place}"],
        ]
        gained.append(cp.vec(cp.multiply(p[f"gain_{place}"], filled), order="C") @ np.ones(blocks * PIECES))
        shares.append(filled)
    p["demand"] = cp.Parameter((single, resources), nonneg=True)
    if single:
        used.append(cp.vstack([cp.sum(filled, axis=1) for filled in shares]).T @ p["demand"])
    together: list[cp.Variable] = []
    for place in range(tied):
        filled = cp.Variable(PIECES, nonneg=True)
        p[f"tied_gain_{place}"] = cp.Parameter(PIECES)
        p[f"tied_use_{place}"] = cp.Parameter((blocks, resources), nonneg=True)
        p[f"tied_least_{place}"], p[f"tied_most_{place}"] = cp.Parameter(nonneg=True), cp.Parameter(nonneg=True)
        share = cp.sum(filled)
        constraints += [filled <= _WIDTHS, share >= p[f"tied_least_{place}"], share <= p[f"tied_most_{place}"]]
        gained.append(p[f"tied_gain_{place}"] @ filled)
        used.append(p[f"tied_use_{place}"] * share)
        together.append(filled)
    within: cp.Constraint = _sum(used) <= p["room"]
    problem = cp.Problem(cp.Maximize(_sum(gained)), [*constraints, within])
    return _Program(problem, p, shares, together, within)


def _sum(parts: list[cp.Expression]) -> cp.Expression:
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def _value(variable: cp.Variable) -> Floats:
    return np.asarray(variable.value, dtype=np.float64)


def _gain(worth: Floats | float, slopes: Floats) -> Floats:
    """What the pieces earn. A loss falls along one line, for it would make the curve convex."""
    return np.asarray(np.where(np.asarray(worth) < 0, worth, worth * slopes))


def _solve(problem: cp.Problem) -> None:
    import cvxpy as cp
    from cvxpy.error import SolverError

    try:
        problem.solve(solver=cp.HIGHS, highs_options=_OPTIONS.copy())
    except SolverError as failure:
        raise PlanError(f"{SOLVER} failed: {failure}. The present allocation stays") from failure
    if problem.status != cp.OPTIMAL:
        raise PlanError(f"{SOLVER} found no plan (status {problem.status}). The present allocation stays")
