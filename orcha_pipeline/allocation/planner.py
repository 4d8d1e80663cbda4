"""The division of one host that earns most over the horizon: a small mixed-integer linear program.

Each node that can be moved has a share, the straight pieces of its response to fill, and two on/off choices (moved up,
moved down) that carry the fixed cost of a change and keep it from being smaller than a step of its lever. The solver's
shares are then brought down onto the levers' steps, and what this frees is handed back step by step where it earns.

CVXPY is imported on the first plan; the program is compiled once per number of movable nodes and afterwards only its
parameters change (DPP).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np

from orcha_pipeline.allocation.plan import MIN_MOVE, NodePlan, Plan, Quantiles, total_use, weighted_sum
from orcha_pipeline.allocation.reasons import explain_move, number, quantity
from orcha_pipeline.allocation.response import PIECES, breakpoints, pieces, response
from orcha_pipeline.errors import PlanError
from orcha_pipeline.model import HOUR, RESOURCES, Host, Lever, Node, Resources, YieldForecast

if TYPE_CHECKING:
    import cvxpy as cp

Which = Literal["share_now", "share_planned"]
SOLVER = "HiGHS"
_HIGHS_OPTIONS = {"mip_rel_gap": 1e-7, "mip_abs_gap": 1e-9, "time_limit": 10.0, "threads": 1}
_SLACK = 1e-9  # part of a capacity: rounding error of a sum, not room
_READING_ERROR = 1e-6  # part of a capacity: an overrun this small is the rounding of a reading
_ON_GRID = 1e-6  # of a step: a solver's share this near below a step stands on it
_PIECE_COUNT = PIECES + 2  # pieces between the points that `breakpoints` gives with one point to pass through


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanNode:
    """A node as the planner is to see it. `frozen` tells why it must keep its share; empty where it may move.

    `lever` is the one that carries the share; `share_now` and `yields` are None where unknown. A node without any of
    them keeps what it has, and what it has counts against the capacity (its `max_share` where that is unknown).
    """

    node: Node
    lever: Lever | None
    share_now: float | None
    yields: YieldForecast | None
    curvature: float
    frozen: str = ""


def plan(host: Host, nodes: Sequence[PlanNode], *, horizon_hours: int, hold_hours: float, issued_at: datetime) -> Plan:
    """The allocation of `host` that earns most in the `horizon_hours` after `issued_at`, less the cost of changing.

    Yields are taken for the hours that all forecasts share; `hold_hours` (at least a quarter of an hour counts) is
    the time a change must at least stay, over which its gain is told. Where an allocation of unknown size leaves no
    room, known nodes keep what they have: nobody is squeezed for an assumption. Raises `PlanError` for input that
    is not a number, when nothing satisfies the constraints, and when the solver fails.
    """
    for each in nodes:
        _check(host, each)
    forecast = _Outlook.of(nodes, issued_at=issued_at, horizon_hours=horizon_hours, hold_hours=max(0.25, hold_hours))
    fixed: dict[str, str] = {}
    movable: list[_Movable] = []
    for each in nodes:
        reason = _why_fixed(each, forecast)
        if reason:
            fixed[each.node.name] = reason
        else:
            movable.append(_Movable.of(each, forecast))
    room = _Room.of(host, [each for each in nodes if each.node.name in fixed], movable)
    started = perf_counter()
    solved = _solve(host, movable, room)
    seconds = perf_counter() - started
    placed = {
        m.node.name: (m, position)
        for m, position in zip(movable, _settle(movable, room, solved.positions), strict=True)
    }
    lines = _lines(host, nodes, forecast=forecast, fixed=fixed, placed=placed, binding=solved.binding)
    cost = sum(line.switching_cost_usd for line in lines)
    gain = forecast.hold_earnings(lines, "share_planned") - forecast.hold_earnings(lines, "share_now") - cost
    hold_now = forecast.hold_earnings(lines, "share_now")
    resting = [line for line in lines if line.node.name in fixed]
    return Plan(
        host=host,
        issued_at=issued_at,
        horizon_hours=forecast.hours,
        hold_hours=forecast.hold_hours,
        nodes=tuple(lines),
        earnings_now_usd=forecast.earnings(lines, "share_now"),
        earnings_planned_usd=forecast.earnings(lines, "share_planned"),
        gain_usd_per_hour=gain / forecast.hold_hours,
        gain_percent=100 * gain / hold_now if hold_now > 0 else None,
        switching_cost_usd=cost,
        solver_objective_usd=solved.objective + forecast.earnings(resting, "share_now").p50,
        binding=solved.binding,
        forced=room.forced,
        solver=SOLVER,
        solve_seconds=seconds,
    )


# --- what is known of the nodes -------------------------------------------------------------------------------------


def _check(host: Host, each: PlanNode) -> None:
    """Refuse what is no number: a plan made from it would look like one made from knowledge."""
    name, node = each.node.name, each.node
    amounts = {
        **{f"capacity {key} of host {host.name}": value for key, value in host.capacity.as_dict().items()},
        **{f"demand {key} of {name}": value for key, value in node.demand.as_dict().items()},
        f"min_share of {name}": node.min_share,
        f"max_share of {name}": node.max_share,
        f"present share of {name}": each.share_now if each.share_now is not None else 0.0,
    }
    for what, amount in amounts.items():
        if not (math.isfinite(amount) and amount >= 0):
            raise PlanError(f"{what} is {amount}: a finite number from 0 is needed")
    if node.min_share > node.max_share:
        raise PlanError(f"min_share {node.min_share} of {name} lies above its max_share {node.max_share}")
    if not 0 < each.curvature <= 1:
        raise PlanError(f"response curvature of {name} is {each.curvature}: it must lie above 0 and at most at 1")
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


@dataclass(frozen=True, slots=True)
class _Outlook:
    """The forecasts over the hours they share: USD per hour at full share by node, means of horizon and hold."""

    hours: int
    hold_hours: float
    horizon: dict[str, Quantiles]
    hold: dict[str, Quantiles]

    @classmethod
    def of(cls, nodes: Sequence[PlanNode], *, issued_at: datetime, horizon_hours: int, hold_hours: float) -> _Outlook:
        coming = {
            each.node.name: {
                hour: Quantiles(*values)
                for hour, *values in zip(
                    each.yields.hours, each.yields.p10, each.yields.p50, each.yields.p90, strict=True
                )
                if hour + HOUR > issued_at
            }
            for each in nodes
            if each.yields is not None
        }
        coming = {name: hours for name, hours in coming.items() if hours}
        if not coming:
            return cls(horizon_hours, min(hold_hours, horizon_hours), {}, {})
        shared = sorted(set.intersection(*(set(hours) for hours in coming.values())))[:horizon_hours]
        if not shared:
            raise PlanError(f"the forecasts of {', '.join(coming)} have no coming hour in common")
        hold_hours = min(hold_hours, len(shared))
        weights = [1.0] * len(shared)
        hold = [min(1.0, max(0.0, hold_hours - index)) for index in range(len(shared))]
        return cls(
            len(shared),
            hold_hours,
            {name: _mean([hours[hour] for hour in shared], weights) for name, hours in coming.items()},
            {name: _mean([hours[hour] for hour in shared], hold) for name, hours in coming.items()},
        )

    def earnings(self, lines: Sequence[NodePlan], which: Which) -> Quantiles:
        """USD over the horizon, of the lines whose share and forecast are known."""
        return weighted_sum(
            [
                (self.hours * response(share, line.curvature), line.yield_usd)
                for line in lines
                if line.yield_usd is not None and (share := getattr(line, which)) is not None
            ]
        )

    def hold_earnings(self, lines: Sequence[NodePlan], which: Which) -> float:
        """Expected USD over the hold, of the lines whose share and forecast are known."""
        return self.hold_hours * sum(
            response(share, line.curvature) * line.hold_yield_usd.p50
            for line in lines
            if line.hold_yield_usd is not None and (share := getattr(line, which)) is not None
        )


def _mean(amounts: Sequence[Quantiles], weights: Sequence[float]) -> Quantiles:
    """Weighted mean by quantile: the errors of one node's hours go together, so they do not average out."""
    total = sum(weights)
    return Quantiles(
        *(
            sum(w * value for w, value in zip(weights, values, strict=True)) / total
            for values in zip(*((a.p10, a.p50, a.p90) for a in amounts), strict=True)
        )
    )


def _why_fixed(each: PlanNode, forecast: _Outlook) -> str:
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
    if name not in forecast.horizon:
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
    down: tuple[int, int] | None
    up: tuple[int, int] | None
    must: bool
    chunk: int
    worth: float
    """USD over the horizon at full share."""
    cost: float
    """USD for one change."""

    @classmethod
    def of(cls, each: PlanNode, forecast: _Outlook) -> _Movable:
        node, lever, now = each.node, each.lever, each.share_now
        assert lever is not None and now is not None  # noqa: S101, PT018 -- `_why_fixed` has seen both
        first, last = _steps_within(node, lever)
        at_now = now * lever.at_full_share
        least = max(lever.step, MIN_MOVE * lever.at_full_share)
        below = min(last, math.floor((at_now - least - lever.minimum) / lever.step + _ON_GRID))
        above = max(first, math.ceil((at_now + least - lever.minimum) / lever.step - _ON_GRID))
        down = (first, below) if below >= first else None
        up = (above, last) if above <= last else None
        outside = now < node.min_share - MIN_MOVE or now > node.max_share + MIN_MOVE
        return cls(
            node=node,
            lever=lever,
            curvature=each.curvature,
            now=now,
            down=down,
            up=up,
            must=outside and (down is not None or up is not None),
            chunk=math.ceil(MIN_MOVE * lever.at_full_share / lever.step - _ON_GRID) or 1,
            worth=forecast.horizon[node.name].p50 * forecast.hours,
            cost=max(0.0, forecast.hold[node.name].p50) * response(now, each.curvature) * lever.restart_seconds / 3600,
        )

    def share(self, position: int | None) -> float:
        if position is None:
            return self.now
        return self.lever.share_for(self.value(position))

    def value(self, step: int) -> float:
        return self.lever.value_for(self.lever.share_for(self.lever.minimum + step * self.lever.step))

    def net(self, position: int | None) -> float:
        """USD over the horizon at a position, less the cost of getting there."""
        earned = self.worth * response(self.share(position), self.curvature)
        return earned if position is None else earned - self.cost

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


# --- capacity -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Room:
    """What the movable nodes may use together, by resource, and why today's allocation cannot stay (else empty)."""

    limit: Resources
    forced: str

    @classmethod
    def of(cls, host: Host, fixed: Sequence[PlanNode], movable: Sequence[_Movable]) -> _Room:
        known = total_use([(f.node.demand, f.share_now) for f in fixed if f.share_now is not None]).as_dict()
        unknown = [f.node for f in fixed if f.share_now is None]
        most = total_use([(node.demand, node.max_share) for node in unknown]).as_dict()
        least = total_use([(node.demand, node.min_share) for node in unknown]).as_dict()
        present = total_use([(m.node.demand, m.now) for m in movable]).as_dict()
        lowest = total_use([(m.node.demand, m.share(m.lowest)) for m in movable]).as_dict()
        limits: dict[str, float] = {}
        reasons: list[str] = []
        for resource, capacity in host.capacity.as_dict().items():
            # With a node of unknown share nothing may grow into what it might use, but nothing need shrink for it.
            free = capacity - known[resource]
            limits[resource] = max(free - most[resource], min(free - least[resource], present[resource]))
            slack = _READING_ERROR * max(1.0, capacity)
            if present[resource] <= limits[resource] + slack:
                limits[resource] = max(limits[resource], present[resource])
            if lowest[resource] > limits[resource] + slack:
                raise PlanError(_too_little(host, resource, known[resource] + least[resource], lowest[resource]))
            if present[resource] > limits[resource] + slack:
                total = quantity(resource, known[resource] + least[resource] + present[resource])
                reasons.append(f"today's allocation takes {total} of the {number(capacity)} that {host.name} has")
        reasons += [
            f"the share of {m.node.name}, {m.now:.3f}, lies outside its bounds "
            f"{m.node.min_share:.2f} to {m.node.max_share:.2f}"
            for m in movable
            if m.must
        ]
        return cls(Resources(**limits), "; ".join(reasons))

    def fits(self, movable: Sequence[_Movable], positions: Sequence[int | None]) -> bool:
        use = total_use([(m.node.demand, m.share(p)) for m, p in zip(movable, positions, strict=True)]).as_dict()
        limit = self.limit.as_dict()
        return all(use[name] <= limit[name] + _SLACK * max(1.0, limit[name]) for name in RESOURCES)


def _too_little(host: Host, resource: str, fixed: float, lowest: float) -> str:
    capacity = host.capacity.as_dict()[resource]
    return (
        f"host {host.name}: no allocation fits its {resource}: nodes that keep their share take "
        f"{quantity(resource, fixed)} and the others need at least {quantity(resource, lowest)}, together "
        f"{number(fixed + lowest)} of {number(capacity)}. Lower a min_share or a demand, or correct the capacity"
    )


# --- the program ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Solved:
    positions: list[int | None]
    objective: float
    binding: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Program:
    """The compiled program for a number of movable nodes. `x` is share above `base`, cut into pieces."""

    problem: cp.Problem
    x: cp.Variable
    up: cp.Variable
    down: cp.Variable
    parameters: dict[str, cp.Parameter]


_program_in_use = Lock()  # parameters are set and solved in place: one plan at a time


@lru_cache(maxsize=32)
def _program(count: int) -> _Program:
    import cvxpy as cp

    x = cp.Variable((count, _PIECE_COUNT), nonneg=True)
    up, down = cp.Variable(count, boolean=True), cp.Variable(count, boolean=True)
    by_node = ("stay", "up_first", "up_last", "down_first", "down_last", "can_up", "can_down", "must", "cost")
    p = {name: cp.Parameter(count) for name in by_node}
    p["width"], p["gain"] = cp.Parameter(x.shape, nonneg=True), cp.Parameter(x.shape)
    p["demand"], p["room"] = cp.Parameter((len(RESOURCES), count), nonneg=True), cp.Parameter(len(RESOURCES))
    share = cp.sum(x, axis=1)
    constraints: list[cp.Constraint] = [
        x <= p["width"],
        share <= p["stay"] + cp.multiply(p["up_last"], up) + cp.multiply(p["down_last"], down),
        share >= p["stay"] + cp.multiply(p["up_first"], up) + cp.multiply(p["down_first"], down),
        up <= p["can_up"],
        down <= p["can_down"],
        up + down <= 1,
        up + down >= p["must"],
        p["demand"] @ share <= p["room"],
    ]
    objective = cp.Maximize(cp.sum(cp.multiply(p["gain"], x)) - p["cost"] @ (up + down))
    return _Program(cp.Problem(objective, constraints), x, up, down, p)


def _solve(host: Host, movable: Sequence[_Movable], room: _Room) -> _Solved:
    """The best positions before rounding, brought down onto the levers' steps."""
    if not movable:
        return _Solved([], 0.0, ())
    import cvxpy as cp
    from cvxpy.error import SolverError

    lowest = [min(m.now, m.share(m.down[0]) if m.down else m.now) for m in movable]
    highest = [max(m.now, m.share(m.up[1]) if m.up else m.now) for m in movable]
    cuts = [
        _pieces(m, breakpoints(low, high, through=(m.now,)))
        for m, low, high in zip(movable, lowest, highest, strict=True)
    ]
    gain = np.array([[m.worth * slope for _, slope in cut] for m, cut in zip(movable, cuts, strict=True)])
    # USD an hour are often thousandths: unscaled they drown in the solver's absolute tolerances.
    scale = float(np.abs(gain).max()) or 1.0
    demand = np.array([[m.node.demand.as_dict()[name] for m in movable] for name in RESOURCES])
    limit = np.array(list(room.limit.as_dict().values()))
    unit = np.maximum(np.maximum(demand.max(axis=1), limit), 1e-9)
    base = np.array(lowest)

    def ends(side: tuple[int, int] | None, m: _Movable) -> tuple[float, float]:
        return (m.share(side[0]) - m.now, m.share(side[1]) - m.now) if side else (0.0, 0.0)

    values = {
        "width": np.array([[width for width, _ in cut] for cut in cuts]),
        "gain": gain / scale,
        "cost": np.array([m.cost for m in movable]) / scale,
        "stay": np.array([m.now for m in movable]) - base,
        "up_first": np.array([ends(m.up, m)[0] for m in movable]),
        "up_last": np.array([ends(m.up, m)[1] for m in movable]),
        "down_first": np.array([ends(m.down, m)[0] for m in movable]),
        "down_last": np.array([ends(m.down, m)[1] for m in movable]),
        "can_up": np.array([float(m.up is not None) for m in movable]),
        "can_down": np.array([float(m.down is not None) for m in movable]),
        "must": np.array([float(m.must) for m in movable]),
        "demand": demand / unit[:, None],
        "room": (limit - demand @ base) / unit,
    }
    with _program_in_use:
        program = _program(len(movable))
        for name, value in values.items():
            program.parameters[name].value = value
        try:
            program.problem.solve(
                solver=cp.HIGHS,
                highs_options=_HIGHS_OPTIONS.copy(),
            )
        except SolverError as failure:
            raise PlanError(f"host {host.name}: {SOLVER} failed: {failure}. The present allocation stays") from failure
        status = program.problem.status
        if status != cp.OPTIMAL or program.x.value is None or program.up.value is None or program.down.value is None:
            raise PlanError(f"host {host.name}: {SOLVER} found no plan (status {status}). The present allocation stays")
        shares = base + program.x.value.sum(axis=1)
        ups, downs = program.up.value > 0.5, program.down.value > 0.5
        value = float(np.sum(program.x.value * values["gain"]) - values["cost"] @ (ups | downs))
    used = demand @ shares
    return _Solved(
        positions=[
            m.step_below(float(share), up=bool(goes_up)) if goes_up or goes_down else None
            for m, share, goes_up, goes_down in zip(movable, shares, ups, downs, strict=True)
        ],
        objective=value * scale
        + sum(m.worth * response(low, m.curvature) for m, low in zip(movable, lowest, strict=True)),
        binding=tuple(
            name
            for name, amount, most in zip(RESOURCES, used, limit, strict=True)
            if amount > 0 and amount >= most * (1 - 1e-6)
        ),
    )


def _pieces(m: _Movable, points: list[float]) -> list[tuple[float, float]]:
    """(width, slope) of each piece. A loss falls with the share along one line: it would make the curve convex."""
    cut = [(piece.width, piece.slope) for piece in pieces(points, m.curvature)]
    if m.worth >= 0:
        return cut
    spread = points[-1] - points[0]
    slope = (response(points[-1], m.curvature) - response(points[0], m.curvature)) / spread if spread > 0 else 0.0
    return [(width, slope) for width, _ in cut]


def _settle(movable: Sequence[_Movable], room: _Room, positions: Sequence[int | None]) -> list[int | None]:
    """Positions on the levers' steps: within the room, then raised where what rounding freed still earns.

    Staying with everything wins where nothing better comes of it.
    """
    now = list(positions)
    while not room.fits(movable, now):
        # Rounding onto a step may pass the solver's own share by a millionth of a step.
        moves = [
            (m.net(position) - m.net(now[i]), i, position)
            for i, m in enumerate(movable)
            for position in m.lower(now[i])
        ]
        if not moves:
            raise PlanError("no steps of the levers fit the capacity. The present allocation stays")
        _, i, position = max(moves, key=lambda move: move[0])
        now[i] = position
    while True:
        moves = [
            (gain, i, position)
            for i, m in enumerate(movable)
            for position in m.higher(now[i])
            if (gain := m.net(position) - m.net(now[i])) > 1e-12
            and room.fits(movable, [*now[:i], position, *now[i + 1 :]])
        ]
        if not moves:
            break
        _, i, position = max(moves, key=lambda move: move[0])
        now[i] = position
    stay: list[int | None] = [None] * len(movable)
    gains = sum(m.net(position) - m.net(None) for m, position in zip(movable, now, strict=True))
    return stay if not room.forced and gains <= 0 and room.fits(movable, stay) else now


# --- the lines of the plan ------------------------------------------------------------------------------------------


def _lines(
    host: Host,
    nodes: Sequence[PlanNode],
    *,
    forecast: _Outlook,
    fixed: Mapping[str, str],
    placed: Mapping[str, tuple[_Movable, int | None]],
    binding: Sequence[str],
) -> list[NodePlan]:
    """What becomes of each node, in the order given, with its reason."""
    lines: list[NodePlan] = []
    for each in nodes:
        name = each.node.name
        value_now = None
        if each.lever is not None and each.share_now is not None:
            value_now = round(each.share_now * each.lever.at_full_share, 9)
        share, value, cost = each.share_now, value_now, 0.0
        m, position = placed.get(name, (None, None))
        if m is not None and position is not None:
            share, value, cost = m.share(position), m.value(position), m.cost
        lines.append(
            NodePlan(
                node=each.node,
                lever=each.lever,
                curvature=each.curvature,
                share_now=each.share_now,
                share_planned=share,
                value_now=value_now,
                value_planned=value,
                yield_usd=forecast.horizon.get(name),
                hold_yield_usd=forecast.hold.get(name),
                switching_cost_usd=cost,
                reason=fixed.get(name) or f"{name} stays: no move of its share earns more than it costs",
            )
        )
    moved = [line for line in lines if line.moves]
    return [replace(line, reason=explain_move(line, moved, host, binding)) if line.moves else line for line in lines]
