"""The division of a host that earns most: what is looked ahead to, brought onto the levers' steps and told in full.

Which nodes can move, and what the others leave of the host, is settled first. `lookahead` then finds the shares; they
are brought down onto the levers' steps, and what this frees is handed back step by step where it earns. Hosts that
share a limit (an uplink, an IP address) are planned as one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from time import perf_counter

import numpy as np

from orcha_pipeline.allocation.change_program import Pattern, best_change
from orcha_pipeline.allocation.foresight import by_forecasts
from orcha_pipeline.allocation.host_plan import Told, plan_of
from orcha_pipeline.allocation.lever_steps import Movable, reach_of
from orcha_pipeline.allocation.lookahead import LENGTHS, Ahead, Snap, Standing, look_ahead
from orcha_pipeline.allocation.outlook import DAY_HOURS, PERIODS, Flags, Floats, Outlook, cautious
from orcha_pipeline.allocation.plan import Plan
from orcha_pipeline.allocation.plan_inputs import Limit, PlanNode, Weights, check, check_amount, why_fixed
from orcha_pipeline.allocation.programs import Site, best_shares
from orcha_pipeline.allocation.reasons import number
from orcha_pipeline.allocation.response import response
from orcha_pipeline.allocation.room import Room
from orcha_pipeline.errors import PlanError
from orcha_pipeline.model import HOUR, SLOT, Host, Resources

__all__ = ["Limit", "PlanNode", "Weights", "plan", "plan_together"]

BALANCED = Weights()
HOURS_A_MONTH = 730.0
LEAST_TO_LEARN = 0.05
"""A response known better than this (a standard deviation of the curvature) is not explored any more."""
EXPLORED_BY = 0.05
"""By how much a share is moved only to learn from it, or to the next step of its lever."""


def plan(
    host: Host,
    nodes: Sequence[PlanNode],
    *,
    hold_hours: float,
    issued_at: datetime,
    outlook: Outlook | None = None,
    coming: Sequence[Resources] | None = None,
    weights: Weights = BALANCED,
) -> Plan:
    """The plan of one host, which shares nothing with others; see `plan_together`."""
    return plan_together(
        [host],
        nodes,
        hold_hours=hold_hours,
        issued_at=issued_at,
        outlook=outlook,
        coming={host.name: coming} if coming else {},
        weights=weights,
    )[0]


def plan_together(
    hosts: Sequence[Host],
    nodes: Sequence[PlanNode],
    *,
    hold_hours: float,
    issued_at: datetime,
    outlook: Outlook | None = None,
    limits: Sequence[Limit] = (),
    coming: Mapping[str, Sequence[Resources]] | None = None,
    weights: Weights = BALANCED,
) -> list[Plan]:
    """A plan a host: the allocation to take now that earns most, a day looked ahead, less the cost of changing.

    `outlook` has a column a node; without one the nodes' forecasts alone tell what is to come. `hold_hours` (at least a
    quarter of an hour counts) is how long a host rests after a change. `coming` are the capacities of a host in each
    period of the outlook, where they change. Where an allocation of unknown size leaves no room, known nodes keep what
    they have: nobody is squeezed for an assumption. Raises `PlanError` for input that is not a number, when nothing
    satisfies the constraints, and when the solver fails.
    """
    for each in nodes:
        check(each)
    for host in hosts:
        for key, amount in host.capacity.as_dict().items():
            check_amount(f"capacity {key} of host {host.name}", amount)
    if outlook is None:
        outlook = by_forecasts([each.yields for each in nodes], issued_at)
    known = [bool(np.isfinite(outlook.mean[:, column]).all()) for column in range(len(nodes))]
    fixed: dict[str, str] = {}
    seen: list[int] = []
    movable: list[Movable] = []
    for column, each in enumerate(nodes):
        reason = why_fixed(each, known=known[column])
        if not reason or (each.rests and not why_fixed(replace(each, frozen=""), known=known[column])):
            seen.append(column)
            movable.append(Movable.of(each))
        if reason:
            fixed[each.node.name] = reason
    room = Room.of(hosts, limits, [each for each in nodes if each.node.name in fixed], movable, coming or {})
    near = outlook.of(seen)
    hold_hours = min(float(DAY_HOURS), max(0.25, hold_hours))
    started = perf_counter()
    told = Told(movable, room, near, hold_hours)
    if movable:
        told = _solve(movable, room, near, hours=hold_hours, weights=weights)
    seconds = perf_counter() - started
    return [
        plan_of(host, nodes, outlook, fixed=fixed, told=told, issued_at=issued_at, seconds=seconds) for host in hosts
    ]


def _solve(movable: Sequence[Movable], room: Room, near: Outlook, *, hours: float, weights: Weights) -> Told:
    """The best positions, brought down onto the levers' steps, with what they are compared with."""
    reach = reach_of(movable)
    curvature = np.array([m.curvature for m in movable])
    rests = np.array([math.ceil(m.told.rests / SLOT) for m in movable], dtype=np.int64)
    cooldowns = np.array([math.ceil(m.lever.cooldown / SLOT) for m in movable], dtype=np.int64)
    standing = Standing(
        shares=reach.now,
        rests=rests,
        cooldowns=cooldowns,
        restart_hours=np.array([m.lever.restart_seconds / 3600 for m in movable]),
        costs=np.array([m.told.change_cost_usd for m in movable]),
        charge=np.array([m.told.usd_per_hour for m in movable]),
    )
    least, most = (np.array([m.later[end] for m in movable]) for end in (0, 1))
    site = Site(capacity=room.ahead, demand=room.demand, least=np.minimum(least, most), most=most)
    wary = cautious(near, weights.risk_aversion)
    ahead = look_ahead(
        site,
        standing,
        wary,
        curvature,
        room=room.limit,
        reach=reach,
        snap=_snap(movable, room),
        freedom=weights.freedom,
        hours=hours,
        urgent=bool(room.forced),
        confidence=weights.min_confidence,
    )
    positions = _settle(movable, room, _below(movable, ahead.shares, ahead.pattern), ahead)
    explores: dict[str, str] = {}
    if not any(position is not None for position in positions) and not room.forced and weights.exploration > 0:
        positions, explores = _exploring(movable, room, ahead, near, weights.exploration)
    planned = np.array([m.share(position) for m, position in zip(movable, positions, strict=True)])
    return Told(
        movable,
        room,
        near,
        hours=ahead.promise_hours,
        positions=positions,
        ahead=ahead,
        objective=ahead.usd,
        explores=explores,
        prices=_prices(site, standing, near, curvature),
        runner_up=_runner_up(movable, ahead, planned),
    )


def _prices(site: Site, standing: Standing, near: Outlook, curvature: Floats) -> Floats | None:
    """(R,) USD a month that a unit more of each row would earn, were the shares the best of each period of the day."""
    lengths = LENGTHS[:, None]
    kept = np.tile(np.where(standing.rests > 0, standing.shares, np.nan), (len(PERIODS), 1))
    charge = np.broadcast_to(standing.charge * lengths, near.mean.shape)
    try:
        best = best_shares(site, near.mean * lengths, curvature, kept=kept, charge=charge)
    except PlanError:  # what rests leaves the others too little
        return None
    return best.prices.sum(axis=0) * HOURS_A_MONTH / DAY_HOURS


def _runner_up(movable: Sequence[Movable], ahead: Ahead, planned: Floats) -> Floats | None:
    """Shares (N,) on the levers' steps by the best of all other choices of who moves which way; None without one."""
    reach = ahead.asked.reach
    if (planned == reach.now).all() and not (np.isfinite(reach.up_first) | np.isfinite(reach.down_first)).any():
        return None
    try:
        other = best_change(ahead.asked, other_than=Pattern(planned > reach.now, planned < reach.now))
    except PlanError:  # nothing else fits
        return None
    return np.array([m.share(p) for m, p in zip(movable, _below(movable, other.shares, other.pattern), strict=True)])


def _below(movable: Sequence[Movable], shares: Floats, pattern: Pattern) -> list[int | None]:
    """The position of each node at or below its share, None for one that does not move."""
    return [
        m.step_below(share, up=up) if up or down else None
        for m, share, up, down in zip(
            movable, shares.tolist(), pattern.ups.tolist(), pattern.downs.tolist(), strict=True
        )
    ]


def _snap(movable: Sequence[Movable], room: Room) -> Snap:
    """Onto the steps below, which surely fit, and where they fit onto the step above of one node."""

    def near(shares: Floats, chosen: Flags) -> list[Floats]:
        below, above = shares.copy(), shares.copy()
        for i, m in enumerate(movable):
            share = float(shares[i])
            if m.up and share > m.now:
                first, last = m.up
                step = m.step_below(share, up=True)
                under = m.share(step)
                below[i], above[i] = (
                    (under, m.share(min(last, step + 1))) if under <= share else (m.now, m.share(first))
                )
            elif m.down and share < m.now:
                last = m.down[1]
                step = m.step_below(share, up=False)
                below[i], above[i] = m.share(step), m.share(step + 1) if step < last else m.now
        found = [below]
        for i in range(len(movable)):
            other = below.copy()
            other[i] = above[i]
            if above[i] != below[i] and room.leaves(other, chosen, movable):
                found.append(other)
        return found

    return near


def _exploring(
    movable: Sequence[Movable], room: Room, ahead: Ahead, near: Outlook, most: float
) -> tuple[list[int | None], dict[str, str]]:
    """One small move of the node from which most is to be learnt for what it costs; or none.

    What a node that rests after it loses in all its rest, of a day at most, is counted.
    """
    asked = ahead.asked
    stay: list[int | None] = [None] * len(movable)
    budget = most * max(0.0, asked.earned(asked.reach.now))
    best, chosen, told = 0.0, stay, dict[str, str]()
    for index, m in enumerate(movable):
        unsure = m.told.response.deviation
        hours = min(float(DAY_HOURS), max(asked.hours, m.lever.cooldown / HOUR))
        worth = float(near.worth(hours)[index])
        if not m.told.may_explore or unsure <= LEAST_TO_LEARN or worth <= 0:
            continue
        for side, sign in ((m.up, 1), (m.down, -1)):
            if side is None:
                continue
            step = m.step_below(m.now + sign * EXPLORED_BY, up=sign > 0)
            positions: list[int | None] = [*stay[:index], step, *stay[index + 1 :]]
            more = m.share(step) - m.now
            earns = worth * (response(m.share(step), m.curvature) - response(m.now, m.curvature))
            loss = m.told.usd_per_hour * hours * more - earns + float(asked.costs[index])
            if loss <= budget and room.fits(movable, positions) and unsure / max(loss, 1e-12) > best:
                best, chosen = unsure / max(loss, 1e-12), positions
                told = {
                    m.node.host: f"{m.node.name} is moved to learn how its earnings answer: its curvature is known to "
                    f"{unsure:.2f} only; this costs {number(max(0.0, loss))} USD at most expected"
                }
    return chosen, told


def _settle(movable: Sequence[Movable], room: Room, positions: Sequence[int | None], ahead: Ahead) -> list[int | None]:
    """Positions on the levers' steps: within the room, then raised where what rounding freed still earns.

    Staying with everything wins where nothing better comes of it. What moves for all of its rest is not judged by the
    coming hour.
    """
    asked = ahead.asked

    def net(i: int, position: int | None) -> float:
        m = movable[i]
        share = m.share(position)
        earned = float(asked.worth[i]) * response(share, m.curvature) - float(asked.charge[i]) * share
        return earned if position is None else earned - float(asked.costs[i])

    now = list(positions)
    hot = [i for i in range(len(movable)) if not ahead.slow[i]]
    while not room.fits(movable, now):
        # Rounding onto a step may pass the solver's own share by a millionth of a step.
        moves = [
            (net(i, position) - net(i, now[i]), i, position)
            for i, m in enumerate(movable)
            for position in m.lower(now[i])
        ]
        if not moves:
            raise PlanError("no steps of the levers fit the capacity. The present allocation stays")
        _, i, position = max(moves, key=lambda move: move[0])
        now[i] = position
    while any(position is not None for position in now):
        moves = [
            (gain, i, position)
            for i in hot
            for position in movable[i].higher(now[i])
            if (gain := net(i, position) - net(i, now[i])) > 1e-12
            and room.fits(movable, [*now[:i], position, *now[i + 1 :]])
        ]
        if not moves:
            break
        _, i, position = max(moves, key=lambda move: move[0])
        now[i] = position
    stay: list[int | None] = [None] * len(movable)
    gains = sum(net(i, position) - net(i, None) for i, position in enumerate(now))
    return stay if not room.forced and not ahead.slow.any() and gains <= 0 and room.fits(movable, stay) else now
