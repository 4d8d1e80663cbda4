"""The division of a host that earns most: what is looked ahead to, brought onto the levers' steps and told in full.

Which nodes can move, and what the others leave of the host, is settled first. `lookahead` then finds the shares; they
are brought down onto the levers' steps, and what this frees is handed back step by step where it earns. Hosts that
share a limit (an uplink, an IP address) are planned as one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import perf_counter

import numpy as np

from orcha_pipeline.allocation.change_program import Pattern, Reach, best_change
from orcha_pipeline.allocation.foresight import by_forecasts
from orcha_pipeline.allocation.lookahead import (
    FREEDOM,
    LENGTHS,
    Ahead,
    Snap,
    Standing,
    confidence_of,
    gains,
    look_ahead,
)
from orcha_pipeline.allocation.outlook import PERIODS, Flags, Floats, Outlook, cautious
from orcha_pipeline.allocation.plan import MIN_MOVE, NodePlan, Plan, Quantiles, SharedUse, quantiles_of
from orcha_pipeline.allocation.programs import SOLVER, Site, best_shares
from orcha_pipeline.allocation.reasons import explain_move, number, quantity
from orcha_pipeline.allocation.response import response
from orcha_pipeline.allocation.response_learning import LearntResponse
from orcha_pipeline.errors import PlanError
from orcha_pipeline.model import RESOURCES, SLOT, Host, Lever, Node, Resources, YieldForecast

DAY_HOURS = 24
HOURS_A_MONTH = 730.0
LEAST_TO_LEARN = 0.05
"""A response known better than this (a standard deviation of the curvature) is not explored any more."""
EXPLORED_BY = 0.05
"""By how much of its share a node is moved only to learn from it, where its lever's steps allow."""
_SLACK = 1e-9  # part of a capacity: rounding error of a sum, not room
_READING_ERROR = 1e-6  # part of a capacity: an overrun this small is the rounding of a reading
_ON_GRID = 1e-6  # of a step: a solver's share this near below a step stands on it
_NO_PRICE = 1e-9  # USD a month and unit: the rounding of a dual value
_FULL_USE = 1 - 1e-6  # part of a limit: what takes as much would take more


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanNode:
    """A node as the planner is to see it. `frozen` tells why it must keep its share; empty where it may move.

    `lever` is the one that carries the share; `share_now` and `yields` are None where unknown. A node without any of
    them keeps what it has, and what it has counts against the capacity (its `max_share` where that is unknown). One
    that `rests` is in its cool-down for so long: it is frozen until then.
    """

    node: Node
    lever: Lever | None
    share_now: float | None
    yields: YieldForecast | None
    response: LearntResponse
    frozen: str = ""
    rests: timedelta = timedelta(0)
    bounds_why: str = ""
    """Where the node's bounds come from, if not from its settings: a pin, a schedule."""
    change_cost_usd: float = 0.0
    """What a change costs beside the restart: reputation, amounts held back."""
    usd_per_hour: float = 0.0
    """What a full share costs: electricity."""
    may_explore: bool = False
    """Whether it may be moved only to learn from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Something that nodes of several hosts share: the sum of use at share 1.0 (by node) x share may reach `most`."""

    name: str
    use: Mapping[str, float]
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What the operator cares about, beside what is expected: see `settings.PlannerSettings`."""

    risk_aversion: float = 0.0
    exploration: float = 0.0
    freedom: float = FREEDOM
    min_confidence: float = 0.0


def plan(
    host: Host,
    nodes: Sequence[PlanNode],
    *,
    hold_hours: float,
    issued_at: datetime,
    outlook: Outlook | None = None,
    coming: Sequence[Resources] | None = None,
    weights: Weights = Weights(),
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
    weights: Weights = Weights(),
) -> list[Plan]:
    """A plan a host: the allocation to take now that earns most, a day looked ahead, less the cost of changing.

    `outlook` has a column a node; without one the nodes' forecasts alone tell what is to come. `hold_hours` (at least a
    quarter of an hour counts) is how long a host rests after a change. `coming` are the capacities of a host in each
    period of the outlook, where they change. Where an allocation of unknown size leaves no room, known nodes keep what
    they have: nobody is squeezed for an assumption. Raises `PlanError` for input that is not a number, when nothing
    satisfies the constraints, and when the solver fails.
    """
    for each in nodes:
        _check(each)
    for host in hosts:
        for key, amount in host.capacity.as_dict().items():
            _check_amount(f"capacity {key} of host {host.name}", amount)
    if outlook is None:
        outlook = by_forecasts([each.yields for each in nodes], issued_at)
    known = [bool(np.isfinite(outlook.mean[:, column]).all()) for column in range(len(nodes))]
    fixed: dict[str, str] = {}
    seen: list[int] = []
    movable: list[_Movable] = []
    for column, each in enumerate(nodes):
        reason = _why_fixed(each, known=known[column])
        if not reason or each.rests:
            seen.append(column)
            movable.append(_Movable.of(each))
        if reason:
            fixed[each.node.name] = reason
    room = _Room.of(hosts, limits, [each for each in nodes if each.node.name in fixed], movable, coming or {})
    near = Outlook(outlook.mean[:, seen], outlook.scenarios[:, :, seen], outlook.likely[:, :, seen])
    hold_hours = min(float(DAY_HOURS), max(0.25, hold_hours))
    started = perf_counter()
    told = _Told(movable, room, near, hold_hours)
    if movable:
        told = _solve(movable, room, near, hours=hold_hours, weights=weights)
    seconds = perf_counter() - started
    return [
        _plan_of(host, nodes, outlook, fixed=fixed, told=told, issued_at=issued_at, seconds=seconds) for host in hosts
    ]


# --- what is known of the nodes -------------------------------------------------------------------------------------


def _check_amount(what: str, amount: float) -> None:
    if not (math.isfinite(amount) and amount >= 0):
        raise PlanError(f"{what} is {amount}: a finite number from 0 is needed")


def _check(each: PlanNode) -> None:
    """Refuse what is no number: a plan made from it would look like one made from knowledge."""
    name, node, curvature = each.node.name, each.node, each.response.curvature
    for key, value in node.demand.as_dict().items():
        _check_amount(f"demand {key} of {name}", value)
    _check_amount(f"min_share of {name}", node.min_share)
    _check_amount(f"max_share of {name}", node.max_share)
    _check_amount(f"present share of {name}", each.share_now if each.share_now is not None else 0.0)
    _check_amount(f"cost of changing {name}", each.change_cost_usd)
    _check_amount(f"cost of running {name}", each.usd_per_hour)
    if node.min_share > node.max_share:
        raise PlanError(f"min_share {node.min_share} of {name} lies above its max_share {node.max_share}")
    if not 0 < curvature <= 1:
        raise PlanError(f"response curvature of {name} is {curvature}: it must lie above 0 and at most at 1")
    if each.yields is not None:
        _check_forecast(name, each.yields)


def _check_forecast(name: str, yields: YieldForecast) -> None:
    for quantile in ("p10", "p50", "p90"):
        values: tuple[float, ...] = getattr(yields, quantile)
        if len(values) != len(yields.hours):
            raise PlanError(f"forecast of {name}: {len(values)} values of {quantile} for {len(yields.hours)} hours")
        for hour, value in zip(yields.hours, values, strict=True):
            if not math.isfinite(value):
                raise PlanError(f"forecast of {name}: {quantile} at {hour:%Y-%m-%d %H:%M} is {value}, not a number")


def _why_fixed(each: PlanNode, *, known: bool) -> str:
    """Why the node cannot be moved; empty where it can."""
    name, lever = each.node.name, each.lever
    unable = {
        f"{name} keeps its share: {each.frozen}": bool(each.frozen),
        f"the present share of {name} is unknown: it is left alone and counted as {each.node.max_share:.2f}": (
            each.share_now is None
        ),
        f"{name} keeps its share: it has no lever that Orcha can move": lever is None,
    }
    for reason, applies in unable.items():
        if applies:
            return reason
    assert lever is not None  # noqa: S101 -- told by the table above
    if not lever.writable:
        return f"{name} keeps its share: {lever.why_not or f'its {lever.name} cannot be changed from here'}"
    if not all(map(math.isfinite, (lever.minimum, lever.maximum, lever.step, lever.at_full_share))) or (
        lever.step <= 0 or lever.at_full_share <= 0
    ):
        return f"{name} keeps its share: its {lever.name} reports no usable range"
    first, last = _steps_within(each.node, lever)
    if first > last:
        return (
            f"{name} keeps its share: {lever.name} has no step between its shares "
            f"{each.node.min_share:.2f} and {each.node.max_share:.2f}"
        )
    if not known:
        return f"{name} keeps its share: there is no forecast of its yield for the coming hours"
    return ""


# --- positions on a lever -------------------------------------------------------------------------------------------


def _steps_within(node: Node, lever: Lever) -> tuple[int, int]:
    """First and last step of the lever inside both its own and the node's bounds."""
    first = math.ceil((node.min_share * lever.at_full_share - lever.minimum) / lever.step - _ON_GRID)
    top = min(node.max_share * lever.at_full_share, lever.maximum)
    return max(0, first), math.floor((top - lever.minimum) / lever.step + _ON_GRID)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Movable:
    """A node that may move, and the steps of its lever that make a change: `down` and `up` are (first, last) or None.

    A position is a step, or None for staying. `must` is set where the present share is out of bounds.
    """

    node: Node
    lever: Lever
    curvature: float
    now: float
    told: PlanNode
    down: tuple[int, int] | None
    up: tuple[int, int] | None
    must: bool
    chunk: int

    @classmethod
    def of(cls, each: PlanNode) -> _Movable:
        node, lever, now = each.node, each.lever, each.share_now
        assert lever is not None and now is not None  # noqa: S101, PT018 -- `_why_fixed` has seen both
        first, last = _steps_within(node, lever)
        at_now = now * lever.at_full_share
        least = max(lever.step, MIN_MOVE * lever.at_full_share)
        below = min(last, math.floor((at_now - least - lever.minimum) / lever.step + _ON_GRID))
        above = max(first, math.ceil((at_now + least - lever.minimum) / lever.step - _ON_GRID))
        down = (first, below) if below >= first and lever.safe_direction != "up" and not each.rests else None
        up = (above, last) if above <= last and lever.safe_direction != "down" and not each.rests else None
        outside = now < node.min_share - MIN_MOVE or now > node.max_share + MIN_MOVE
        return cls(
            node=node,
            lever=lever,
            curvature=each.response.curvature,
            now=now,
            told=each,
            down=down,
            up=up,
            must=outside and (down is not None or up is not None),
            chunk=math.ceil(MIN_MOVE * lever.at_full_share / lever.step - _ON_GRID) or 1,
        )

    def share(self, position: int | None) -> float:
        if position is None:
            return self.now
        return self.lever.share_for(self.value(position))

    def value(self, step: int) -> float:
        return self.lever.value_for(self.lever.share_for(self.lever.minimum + step * self.lever.step))

    @property
    def lowest(self) -> int | None:
        """The position that uses least."""
        if self.down:
            return self.down[0]
        return self.up[0] if self.must and self.up else None

    def step_below(self, share: float, *, up: bool) -> int:
        """The last step at or below `share` on the given side."""
        first, last = (self.up if up else self.down) or (0, 0)
        step = math.floor((share * self.lever.at_full_share - self.lever.minimum) / self.lever.step + _ON_GRID)
        return min(last, max(first, step))

    def higher(self, position: int | None) -> list[int | None]:
        """Neighbouring positions that use more, and staying."""
        if position is None:
            return [self.up[0]] if self.up else []
        first, last = self.up if self.up and position >= self.up[0] else (self.down or (0, 0))
        above: list[int | None] = [min(last, position + self.chunk)] if first <= position < last else []
        return above if self.must else [*above, None]

    def lower(self, position: int | None) -> list[int | None]:
        """Neighbouring positions that use less."""
        if position is None:
            return [self.down[1]] if self.down else []
        if self.up and position >= self.up[0]:
            if position > self.up[0]:
                return [max(self.up[0], position - 1)]
            return [] if self.must else [None]
        return [position - 1] if self.down and position > self.down[0] else []


def _reach(movable: Sequence[_Movable]) -> Reach:
    """Where the levers' steps let each node go."""

    def ends(side: str, end: int) -> Floats:
        steps = [getattr(m, side) for m in movable]
        return np.array(
            [np.nan if step is None else m.share(step[end]) for m, step in zip(movable, steps, strict=True)]
        )

    return Reach(
        now=np.array([m.now for m in movable]),
        down_first=ends("down", 0),
        down_last=ends("down", 1),
        up_first=ends("up", 0),
        up_last=ends("up", 1),
        must=np.array([m.must for m in movable]),
    )


# --- capacity -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One thing that is limited: a resource of a host, or a limit that hosts share. `use` is by node, at share 1.0."""

    host: str
    name: str
    most: float
    use: Mapping[str, float]

    def taken(self, shares: Mapping[str, float]) -> float:
        return sum(self.use.get(node, 0.0) * share for node, share in shares.items())

    def amount(self, value: float) -> str:
        return quantity(self.name, value) if self.name in RESOURCES else number(value)

    @property
    def whose(self) -> str:
        return f"host {self.host}" if self.host else f"limit {self.name}"


@dataclass(frozen=True, slots=True)
class _Room:
    """What the movable nodes may use together, by row (R,), and why today's allocation cannot stay, by host.

    `ahead` (K, R) is the same in each period, `demand` (R, N) the movable nodes' use at share 1.0.
    """

    rows: tuple[_Row, ...]
    limit: Floats
    ahead: Floats
    demand: Floats
    forced: Mapping[str, str]

    @classmethod
    def of(
        cls,
        hosts: Sequence[Host],
        limits: Sequence[Limit],
        fixed: Sequence[PlanNode],
        movable: Sequence[_Movable],
        coming: Mapping[str, Sequence[Resources]],
    ) -> _Room:
        names = {m.node.name for m in movable}
        fixed = [each for each in fixed if each.node.name not in names]
        known = {f.node.name: f.share_now for f in fixed if f.share_now is not None}
        most = {f.node.name: f.node.max_share for f in fixed if f.share_now is None}
        least = {f.node.name: f.node.min_share for f in fixed if f.share_now is None}
        present = {m.node.name: m.now for m in movable}
        lowest = {m.node.name: m.share(m.lowest) for m in movable}
        rows = _rows(hosts, limits, [*(f.node for f in fixed), *(m.node for m in movable)])
        found: list[float] = []
        forced: dict[str, list[str]] = {host.name: [] for host in hosts}
        for row in rows:
            # With a node of unknown share nothing may grow into what it might use, but nothing need shrink for it.
            free = row.most - row.taken(known)
            now = row.taken(present)
            limit = max(free - row.taken(most), min(free - row.taken(least), now))
            slack = _READING_ERROR * max(1.0, row.most)
            if now <= limit + slack:
                limit = max(limit, now)
            if row.taken(lowest) > limit + slack:
                raise PlanError(_too_little(row, {**known, **least}, lowest))
            if now > limit + slack:
                total = row.amount(row.taken(known) + row.taken(least) + now)
                why = f"today's allocation takes {total} of the {number(row.most)} that {row.host or row.name} has"
                for host in [row.host] if row.host else {m.node.host for m in movable if row.use.get(m.node.name)}:
                    forced[host].append(why)
            found.append(limit)
        for m in movable:
            if m.must:
                forced[m.node.host].append(
                    f"the share of {m.node.name}, {m.now:.3f}, lies outside its bounds "
                    f"{m.node.min_share:.2f} to {m.node.max_share:.2f}"
                    + (f" ({m.told.bounds_why})" if m.told.bounds_why else "")
                )
        limit = np.array(found)
        demand = np.array([[row.use.get(m.node.name, 0.0) for m in movable] for row in rows]).reshape(
            len(rows), len(movable)
        )
        lost = np.array([_lost(row, coming) for row in rows]).T  # (K, R)
        needed = demand @ np.array([lowest[m.node.name] for m in movable])
        return cls(
            tuple(rows),
            limit,
            np.maximum(limit - lost, np.minimum(limit, needed)),
            demand,
            {host: "; ".join(reasons) for host, reasons in forced.items() if reasons},
        )

    def fits(self, movable: Sequence[_Movable], positions: Sequence[int | None]) -> bool:
        used = self.demand @ np.array([m.share(p) for m, p in zip(movable, positions, strict=True)])
        return bool((used <= self.limit + _SLACK * np.maximum(1.0, self.limit)).all())

    def leaves(self, shares: Floats, chosen: Flags, movable: Sequence[_Movable]) -> bool:
        """Whether the `chosen` nodes at these shares leave the others what they need at least, in all the day."""
        least = np.array([m.share(m.lowest) for m in movable])
        used = self.demand @ np.where(chosen, shares, least)
        return bool((used <= self.ahead + _SLACK * np.maximum(1.0, self.limit)).all())


def _rows(hosts: Sequence[Host], limits: Sequence[Limit], nodes: Sequence[Node]) -> list[_Row]:
    demands = {node.name: node.demand.as_dict() for node in nodes}
    rows = [
        _Row(
            host=host.name,
            name=resource,
            most=most,
            use={node.name: demands[node.name][resource] for node in nodes if node.host == host.name},
        )
        for host in hosts
        for resource, most in host.capacity.as_dict().items()
    ]
    return [*rows, *(_Row(host="", name=limit.name, most=limit.most, use=limit.use) for limit in limits)]


def _lost(row: _Row, coming: Mapping[str, Sequence[Resources]]) -> list[float]:
    """By how much less there will be in each period."""
    ahead = coming.get(row.host, ())
    if not ahead:
        return [0.0] * len(PERIODS)
    return [row.most - capacity.as_dict()[row.name] for capacity in ahead]


def _too_little(row: _Row, fixed: Mapping[str, float], lowest: Mapping[str, float]) -> str:
    kept, needed = row.taken(fixed), row.taken(lowest)
    keeping = ", ".join(node for node in fixed if row.use.get(node))
    needing = ", ".join(node for node in lowest if row.use.get(node))
    return (
        f"{row.whose}: no allocation fits its {row.name}: "
        f"nodes that keep their share{keeping and f' ({keeping})'} take "
        f"{row.amount(kept)} and the others ({needing}) need at least {row.amount(needed)}, together "
        f"{number(kept + needed)} of {number(row.most)}. Lower a min_share or a demand, or correct the capacity"
    )


# --- the shares -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Told:
    """What was found: a position a movable node (None: it stays), for how long, and what came of looking ahead."""

    movable: Sequence[_Movable]
    room: _Room
    near: Outlook
    hours: float
    positions: Sequence[int | None] = ()
    ahead: Ahead | None = None
    objective: float = 0.0
    explores: Mapping[str, str] = field(default_factory=dict[str, str])
    prices: Floats | None = None
    runner_up: tuple[Pattern, Floats] | None = None

    def place(self, name: str) -> tuple[int, _Movable, int | None] | None:
        for index, m in enumerate(self.movable):
            if m.node.name == name:
                return index, m, self.positions[index]
        return None


def _solve(movable: Sequence[_Movable], room: _Room, near: Outlook, *, hours: float, weights: Weights) -> _Told:
    """The best positions, brought down onto the levers' steps, with what they are compared with."""
    reach = _reach(movable)
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
    site = Site(capacity=room.ahead, demand=room.demand, least=reach.lowest, most=reach.highest)
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
    positions = [
        m.step_below(share, up=up) if up or down else None
        for m, share, up, down in zip(
            movable, ahead.shares.tolist(), ahead.pattern.ups.tolist(), ahead.pattern.downs.tolist(), strict=True
        )
    ]
    positions = _settle(movable, room, positions, ahead)
    explores: dict[str, str] = {}
    if not any(position is not None for position in positions) and not room.forced and weights.exploration > 0:
        positions, explores = _exploring(movable, room, ahead, weights.exploration)
    return _Told(
        movable,
        room,
        near,
        hours=ahead.promise_hours,
        positions=positions,
        ahead=ahead,
        objective=ahead.usd,
        explores=explores,
        prices=_prices(site, standing, near, curvature),
        runner_up=_runner_up(ahead),
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


def _runner_up(ahead: Ahead) -> tuple[Pattern, Floats] | None:
    """The best of all other choices of who moves which way; None where there is no other."""
    if (
        not ahead.moved.any()
        and not (np.isfinite(ahead.asked.reach.up_first) | np.isfinite(ahead.asked.reach.down_first)).any()
    ):
        return None
    try:
        other = best_change(ahead.asked, other_than=ahead.pattern)
    except PlanError:  # nothing else fits
        return None
    return other.pattern, other.shares


def _snap(movable: Sequence[_Movable], room: _Room) -> Snap:
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
    movable: Sequence[_Movable], room: _Room, ahead: Ahead, most: float
) -> tuple[list[int | None], dict[str, str]]:
    """One small move of the node from which most is to be learnt for what it costs; or none."""
    asked = ahead.asked
    stay: list[int | None] = [None] * len(movable)
    budget = most * max(0.0, asked.earned(asked.reach.now))
    best, chosen, told = 0.0, stay, dict[str, str]()
    for index, m in enumerate(movable):
        unsure = m.told.response.deviation
        if not m.told.may_explore or unsure <= LEAST_TO_LEARN:
            continue
        for side, sign in ((m.up, 1), (m.down, -1)):
            if side is None:
                continue
            step = m.step_below(m.now + sign * EXPLORED_BY, up=sign > 0)
            positions: list[int | None] = [*stay[:index], step, *stay[index + 1 :]]
            shares = asked.reach.now.copy()
            shares[index] = m.share(step)
            loss = asked.earned(asked.reach.now) - asked.earned(shares) + float(asked.costs[index])
            if loss <= budget and room.fits(movable, positions) and unsure / max(loss, 1e-12) > best:
                best, chosen = unsure / max(loss, 1e-12), positions
                told = {
                    m.node.host: f"{m.node.name} is moved to learn how its earnings answer: its curvature is known to "
                    f"{unsure:.2f} only; this costs {number(max(0.0, loss))} USD at most expected"
                }
    return chosen, told


def _settle(
    movable: Sequence[_Movable], room: _Room, positions: Sequence[int | None], ahead: Ahead
) -> list[int | None]:
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


# --- the plan of a host ---------------------------------------------------------------------------------------------


def _plan_of(
    host: Host,
    nodes: Sequence[PlanNode],
    outlook: Outlook,
    *,
    fixed: Mapping[str, str],
    told: _Told,
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
    near_now = _near_earnings(lines, told.hours)
    cost = sum(line.switching_cost_usd for line in lines)
    gain = quantiles_of(samples)
    columns = [i for i, each in enumerate(nodes) if each.node.host == host.name]
    runner_up, runner_up_usd = _told_runner_up(host, told)
    return Plan(
        host=host,
        issued_at=issued_at,
        horizon_hours=DAY_HOURS,
        promise_hours=told.hours,
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


def _line(each: PlanNode, outlook: Outlook, column: int, *, fixed: Mapping[str, str], told: _Told) -> NodePlan:
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

    stays = f"{name} stays: no move of its share earns more than it costs"
    return NodePlan(
        node=each.node,
        lever=each.lever,
        response=each.response,
        share_now=each.share_now,
        share_planned=share,
        value_now=value_now,
        value_planned=value,
        yield_usd=mean_yield(DAY_HOURS),
        near_yield_usd=mean_yield(told.hours),
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


def _gain(host: Host, told: _Told) -> tuple[Floats, float]:
    """What the change of a host brings in likely futures, net of its cost, and the probability that it pays."""
    if told.ahead is None:
        return np.zeros(1), 0.0
    here = np.array([m.node.host == host.name for m in told.movable])
    planned = np.array([m.share(p) for m, p in zip(told.movable, told.positions, strict=True)])
    shares = np.where(here, planned, told.ahead.asked.reach.now)
    slow = told.ahead.slow & here
    # The others are divided anew every hour: what they then earn beside it is in no fixed share's difference.
    samples = told.ahead.slow_gains if slow.any() else gains(told.ahead.asked, told.near, shares, told.ahead.hours)
    return samples, confidence_of(samples)


def _told_runner_up(host: Host, told: _Told) -> tuple[str, float | None]:
    """The second-best choice in words, and its gain an hour."""
    if told.runner_up is None or told.ahead is None:
        return "", None
    pattern, shares = told.runner_up
    asked = told.ahead.asked
    gain = asked.earned(shares) - asked.earned(asked.reach.now) - float(asked.costs[pattern.moved].sum())
    here = [i for i, m in enumerate(told.movable) if m.node.host == host.name and pattern.moved[i]]
    moves = ", ".join(f"{told.movable[i].node.name} to {shares[i]:.2f}" for i in here)
    return f"move {moves}" if moves else "leave everything as it is", gain / told.ahead.hours


def _scarce(host: Host, told: _Told) -> tuple[tuple[str, ...], dict[str, float]]:
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


def _shared(host: Host, told: _Told, row: _Row, nodes: Sequence[PlanNode]) -> SharedUse:
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
