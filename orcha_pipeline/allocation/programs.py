"""The best shares of a host's nodes in many *blocks* at once: a linear program, compiled once and asked ever again.

A block is a stretch of time in one possible future, in which a full share of each node is worth so much. Nodes that
can change every hour have a share of their own in each block; those *tied* have one share for all the blocks in which
they are free, since they rest for long after a change. What a node earns at share s, worth x s ** curvature, is cut
into straight pieces (`response.piece_widths`).

CVXPY is imported on the first program. A program keeps its shape, only its parameters change (DPP); HiGHS solves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.allocation.response import piece_slopes, piece_widths
from orcha_pipeline.errors import PlanError

if TYPE_CHECKING:
    import cvxpy as cp

Floats = NDArray[np.float64]

PIECES = 8
SOLVER = "HiGHS"
_OPTIONS = {"threads": 1, "time_limit": 10.0, "presolve": "off"}
"""Presolving such a program takes longer than solving it."""
_ROUNDING = 1e-6
_WIDTHS: Floats = piece_widths(PIECES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What R resources and bounds leave to N nodes: `capacity` (R,), `demand` (R, N) at share 1.0, bounds (N,).

    Each may have blocks before them, (B, ...), where they differ: blocks can be of different hosts.
    """

    capacity: Floats
    demand: Floats
    least: Floats
    most: Floats

    def fits(self, shares: Floats) -> bool:
        """Whether shares (N,), or (B, N), keep every capacity, but for the rounding of a sum."""
        used = (self.demand @ shares[..., None])[..., 0]
        return bool((used <= self.capacity * (1 + 1e-9) + 1e-12).all())


@dataclass(frozen=True, slots=True)
class Best:
    """Shares (B, N), what they earn in each block (B,) in USD, and what a unit more of each resource would add.

    `prices` (B, R) are USD a block and unit of capacity.
    """

    shares: Floats
    by_block: Floats
    prices: Floats

    @property
    def usd(self) -> float:
        """What they earn in all blocks together."""
        return float(self.by_block.sum())


def best_shares(
    site: Site,
    worth: Floats,
    curvature: Floats,
    *,
    kept: Floats,
    tied: tuple[int, ...] = (),
    charge: Floats | None = None,
) -> Best:
    """Shares that earn most, where a full share of each node is worth `worth` (B, N) USD in each block.

    `curvature` is (N,), or (B, N) for nodes that are not tied. `kept` (B, N) holds the share of a node that must stay
    as it is in a block, NaN where it is free; a tied node has one share for all blocks in which it is free. A full
    share costs `charge` (B, N) USD, a part of it that part. Raises `PlanError` where nothing fits, or the solver
    fails.
    """
    blocks, nodes = worth.shape
    resources = site.capacity.shape[-1]
    free = np.isnan(kept)
    power = np.broadcast_to(curvature, worth.shape)
    slopes = piece_slopes(PIECES, power)  # (B, N, PIECES)
    paid = np.zeros_like(worth) if charge is None else charge
    scale = float(max(np.abs(worth).max(), np.abs(paid).max())) or 1.0
    unit = np.broadcast_to(np.maximum(np.maximum(site.capacity, site.demand.max(axis=-1)), 1e-9), (blocks, resources))
    demand = np.broadcast_to(site.demand, (blocks, resources, nodes)) / unit[:, :, None]
    least, most = (np.broadcast_to(bound, worth.shape) for bound in (site.least, site.most))
    single = [node for node in range(nodes) if node not in tied]
    used = (demand * np.where(free, 0.0, kept)[:, None, :]).sum(axis=2)
    left = site.capacity / unit - used
    if left.min() < -_ROUNDING:
        raise PlanError("what must stay as it is exceeds a capacity. The present allocation stays")
    values: dict[str, Any] = {"room": np.maximum(left, 0.0)}
    for place, node in enumerate(single):
        values[f"use_{place}"] = demand[:, :, node]
        values[f"gain_{place}"] = (
            _gain((worth[:, node] * free[:, node])[:, None] / scale, slopes[:, node])
            - (paid[:, node] * free[:, node])[:, None] / scale
        )
        values[f"least_{place}"] = np.where(free[:, node], least[:, node], 0.0)
        values[f"most_{place}"] = np.where(free[:, node], most[:, node], 0.0)
    for place, node in enumerate(tied):
        values[f"tied_use_{place}"] = demand[:, :, node] * free[:, node, None]
        values[f"tied_gain_{place}"] = (
            _gain((worth[:, node] @ free[:, node]) / scale, slopes[0, node])
            - float(paid[:, node] @ free[:, node]) / scale
        )
        values[f"tied_least_{place}"], values[f"tied_most_{place}"] = least[:, node].max(), most[:, node].min()
    with _in_use:
        program = _program(blocks, len(single), len(tied), resources)
        for name, parameter in program.parameters.items():
            parameter.value = values[name]
        solve(program.problem, _OPTIONS)
        shares = kept.copy()
        for place, node in enumerate(single):
            shares[:, node] = np.where(free[:, node], _value(program.shares[place]).sum(axis=1), kept[:, node])
        for place, node in enumerate(tied):
            shares[:, node] = np.where(free[:, node], _value(program.tied[place]).sum(), kept[:, node])
        prices = np.maximum(np.asarray(program.within.dual_value), 0.0) * scale / unit
    shares = np.clip(shares, np.where(free, least, shares), np.where(free, most, shares))
    return Best(shares, (worth * shares**power - paid * shares).sum(axis=1), prices)


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
        filled = cp.Variable((blocks, PIECES), bounds=[0.0, np.tile(_WIDTHS, (blocks, 1))])
        share = cp.sum(filled, axis=1)
        p[f"gain_{place}"] = cp.Parameter(filled.shape)
        p[f"use_{place}"] = cp.Parameter((blocks, resources), nonneg=True)
        p[f"least_{place}"], p[f"most_{place}"] = cp.Parameter(blocks, nonneg=True), cp.Parameter(blocks, nonneg=True)
        constraints += [share >= p[f"least_{place}"], share <= p[f"most_{place}"]]
        gained.append(cp.vec(cp.multiply(p[f"gain_{place}"], filled), order="C") @ np.ones(blocks * PIECES))
        across = cp.reshape(share, (blocks, 1), order="C") @ np.ones((1, resources))
        used.append(cp.multiply(p[f"use_{place}"], across))
        shares.append(filled)
    together: list[cp.Variable] = []
    for place in range(tied):
        filled = cp.Variable(PIECES, bounds=[0.0, _WIDTHS])
        p[f"tied_gain_{place}"] = cp.Parameter(PIECES)
        p[f"tied_use_{place}"] = cp.Parameter((blocks, resources), nonneg=True)
        p[f"tied_least_{place}"], p[f"tied_most_{place}"] = cp.Parameter(nonneg=True), cp.Parameter(nonneg=True)
        share = cp.sum(filled)
        constraints += [share >= p[f"tied_least_{place}"], share <= p[f"tied_most_{place}"]]
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


def solve(problem: cp.Problem, options: Mapping[str, Any]) -> None:
    """Ask HiGHS, the same way every time. Raises `PlanError` where it fails, or finds nothing."""
    import cvxpy as cp
    from cvxpy.error import SolverError

    try:
        problem.solve(solver=cp.HIGHS, warm_start=False, highs_options=dict(options))
    except (SolverError, ValueError) as failure:  # the latter where HiGHS ends with no status at all
        raise PlanError(f"{SOLVER} failed: {failure}. The present allocation stays") from failure
    if problem.status != cp.OPTIMAL:
        raise PlanError(f"{SOLVER} found no plan (status {problem.status}). The present allocation stays")
