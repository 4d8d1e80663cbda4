"""What was found for a group of hosts, told as the plan of one: its lines, its promise, what is scarce. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from orcha_pipeline.allocation.lever_steps import Movable
from orcha_pipeline.allocation.lookahead import Ahead, confidence_of, gains
from orcha_pipeline.allocation.outlook import DAY_HOURS, Floats, Outlook
from orcha_pipeline.allocation.plan import NodePlan, Plan, Quantiles, SharedUse, quantiles_of
from orcha_pipeline.allocation.plan_inputs import PlanNode
from orcha_pipeline.allocation.programs import SOLVER
from orcha_pipeline.allocation.reasons import explain_move
from orcha_pipeline.allocation.response import response
from orcha_pipeline.allocation.room import Room, Row
from orcha_pipeline.model import Host

LEAVE = "leave everything as it is"
_FULL_USE = 1 - 1e-6  # part of a limit: what takes as much would take more
_NO_PRICE = 1e-9  # USD a month and unit: the rounding of a dual value


@dataclass(frozen=True, slots=True)
class Told:
    """What was found: a position a movable node (None: it stays), for how long, and what came of looking ahead."""

    movable: Sequence[Movable]
    room: Room
    near: Outlook
    hours: float
    positions: Sequence[int | None] = ()
    ahead: Ahead | None = None
    objective: float = 0.0
    explores: Mapping[str, str] = field(default_factory=dict[str, str])
    prices: Floats | None = None
    runner_up: Floats | None = None

    def hours_of(self, host: str) -> float:
        """For how long what a host gains is promised: longer than an hour where a node of it moves for all its rest."""
        if self.ahead is None:
            return self.hours
        slow = any(s and m.node.host == host for s, m in zip(self.ahead.slow.tolist(), self.movable, strict=True))
        return self.hours if slow else self.ahead.asked.hours

    def place(self, name: str) -> tuple[int, Movable, int | None] | None:
        """Where a node stands in it, with its position; None for one that cannot move."""
        for index, m in enumerate(self.movable):
            if m.node.name == name:
                return index, m, self.positions[index]
        return None


def plan_of(
    host: Host,
    nodes: Sequence[PlanNode],
    outlook: Outlook,
    *,
    fixed: Mapping[str, str],
    told: Told,
    issued_at: datetime,
    seconds: float,
) -> Plan:
    """What was found, of one host."""
    binding, prices = _scarce(host, told)
    lines = [
        _line(each, outlook, column, fixed=fixed, told=told)
        for column, each in enumerate(nodes)
        if each.node.host == host.name
    ]
    moved = [line for line in lines if line.moves]
    lines = [replace(line, reason=explain_move(line, moved, host, binding)) if line.moves else line for line in lines]
    samples, confidence = _gain(host, told)
    near_now = _near_earnings(lines, told.hours_of(host.name))
    cost = sum(line.switching_cost_usd for line in lines)
    gain = quantiles_of(samples)
    columns = [i for i, each in enumerate(nodes) if each.node.host == host.name]
    runner_up, runner_up_usd = _told_runner_up(host, told)
    return Plan(
        host=host,
        issued_at=issued_at,
        horizon_hours=DAY_HOURS,
        promise_hours=told.hours_of(host.name),
        nodes=tuple(lines),
        earnings_now_usd=_earnings(lines, outlook, columns, "share_now"),
        earnings_planned_usd=_earnings(lines, outlook, columns, "share_planned"),
        gain_usd=gain,
        gain_percent=100 * gain.p50 / near_now if near_now > 0 else None,
        confidence=confidence if moved else None,
        switching_cost_usd=cost,
        solver_objective_usd=told.objective,
        binding=binding,
        shadow_prices=prices,
        runner_up=runner_up,
        runner_up_usd_per_hour=runner_up_usd,
        forced=told.room.forced.get(host.name, ""),
        explores=told.explores.get(host.name, ""),
        shared=tuple(_shared(host, told, row, nodes) for row in told.room.rows if not row.host),
        solver=SOLVER,
        solve_seconds=seconds,
    )


def _line(each: PlanNode, outlook: Outlook, column: int, *, fixed: Mapping[str, str], told: Told) -> NodePlan:
    """What becomes of a node, with its reason."""
    name = each.node.name
    value_now = None
    if each.lever is not None and each.share_now is not None:
        value_now = round(each.share_now * each.lever.at_full_share, 9)
    share, value, cost = each.share_now, value_now, 0.0
    place = told.place(name)
    if place is not None and place[2] is not None and told.ahead is not None:
        index, m, position = place
        assert position is not None  # noqa: S101 -- asked above
        share, value, cost = m.share(position), m.value(position), float(told.ahead.asked.costs[index])
    known = bool(np.isfinite(outlook.mean[:, column]).all())

    def mean_yield(hours: float) -> Quantiles | None:
        return quantiles_of(outlook.likely_worth(hours)[:, column] / hours) if known else None

    within = f" within its bounds ({each.bounds_why})" if each.bounds_why else ""
    stays = f"{name} stays: no move of its share{within} earns more than it costs"
    return NodePlan(
        node=each.node,
        lever=each.lever,
        response=each.response,
        share_now=each.share_now,
        share_planned=share,
        value_now=value_now,
        value_planned=value,
        yield_usd=mean_yield(DAY_HOURS),
        near_yield_usd=mean_yield(told.hours_of(each.node.host)),
        switching_cost_usd=cost,
        reason=fixed.get(name) or stays,
    )


def _near_earnings(lines: Sequence[NodePlan], hours: float) -> float:
    """Expected USD in the coming hours at today's shares, of the lines whose share and forecast are known."""
    return hours * sum(
        response(line.share_now, line.curvature) * line.near_yield_usd.p50
        for line in lines
        if line.near_yield_usd is not None and line.share_now is not None
    )


def _earnings(lines: Sequence[NodePlan], outlook: Outlook, columns: Sequence[int], which: str) -> Quantiles:
    """USD over the horizon, of the lines whose share and forecast are known."""
    likely = outlook.likely_worth(DAY_HOURS)
    total = np.zeros(len(likely))
    for line, column in zip(lines, columns, strict=True):
        share: float | None = getattr(line, which)
        if line.yield_usd is not None and share is not None:
            total += likely[:, column] * response(share, line.curvature)
    return quantiles_of(total)


def _gain(host: Host, told: Told) -> tuple[Floats, float]:
    """What the change of a host brings in likely futures, net of its cost, and the probability that it pays."""
    if told.ahead is None:
        return np.zeros(1), 0.0
    here = np.array([m.node.host == host.name for m in told.movable])
    planned = np.array([m.share(p) for m, p in zip(told.movable, told.positions, strict=True)])
    shares = np.where(here, planned, told.ahead.asked.reach.now)
    if told.ahead.slow.any() and here.all():
        # The others are divided anew every hour: what they then earn beside it is in no fixed share's difference.
        samples = told.ahead.slow_gains
    else:
        samples = gains(told.ahead.asked, told.near, shares, told.hours_of(host.name))
    return samples, confidence_of(samples)


def _told_runner_up(host: Host, told: Told) -> tuple[str, float | None]:
    """The second-best choice in words, and its gain an hour."""
    if told.runner_up is None or told.ahead is None:
        return "", None
    shares, asked = told.runner_up, told.ahead.asked
    moved = shares != asked.reach.now
    gain = asked.earned(shares) - asked.earned(asked.reach.now) - float(asked.costs[moved].sum())
    plan_moves = any(position is not None for position in told.positions)
    if plan_moves and gain < 0 and host.name not in told.room.forced:
        return LEAVE, 0.0
    here = [i for i, m in enumerate(told.movable) if m.node.host == host.name and moved[i]]
    moves = ", ".join(f"{told.movable[i].node.name} to {shares[i]:.2f}" for i in here)
    return f"move {moves}" if moves else LEAVE, gain / asked.hours


def _scarce(host: Host, told: Told) -> tuple[tuple[str, ...], dict[str, float]]:
    """What binds, and what a unit more of everything scarce would earn in a month."""
    if told.ahead is None:
        return (), {}
    used = told.room.demand @ told.ahead.shares
    binding: list[str] = []
    prices: dict[str, float] = {}
    for index, row in enumerate(told.room.rows):
        if row.host not in ("", host.name):
            continue
        if used[index] > 0 and used[index] >= told.room.limit[index] * _FULL_USE:
            binding.append(row.name)
        price = 0.0 if told.prices is None else float(told.prices[index])
        if price > _NO_PRICE and row.most > 0:
            prices[row.name] = price
    return tuple(binding), prices


def _shared(host: Host, told: Told, row: Row, nodes: Sequence[PlanNode]) -> SharedUse:
    planned = {m.node.name: m.share(p) for m, p in zip(told.movable, told.positions, strict=True)}

    def taken(which: Collection[str], *, as_planned: bool) -> float:
        return row.taken(
            {
                each.node.name: planned.get(each.node.name, _counted(each)) if as_planned else _counted(each)
                for each in nodes
                if each.node.name in which
            }
        )

    mine = {each.node.name for each in nodes if each.node.host == host.name}
    others = {each.node.name for each in nodes} - mine
    return SharedUse(
        name=row.name,
        limit=row.most,
        now=taken(mine, as_planned=False),
        planned=taken(mine, as_planned=True),
        others=taken(others, as_planned=False),
    )


def _counted(each: PlanNode) -> float:
    return each.node.max_share if each.share_now is None else each.share_now
