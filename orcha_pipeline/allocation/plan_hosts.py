"""The plans of all hosts from the settings and what is known: each alone, those that share a limit together. Pure."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta

from orcha_pipeline.allocation.foresight import foresee, responses
from orcha_pipeline.allocation.gates import cooldown_left
from orcha_pipeline.allocation.outlook import EDGES, PERIODS, STEPS_AN_HOUR, Outlook
from orcha_pipeline.allocation.plan import Plan
from orcha_pipeline.allocation.planner import Limit, PlanNode, Weights, plan_together
from orcha_pipeline.allocation.recovery import Recovered
from orcha_pipeline.allocation.response_learning import LearntResponse
from orcha_pipeline.allocation.reversals import bounds_of
from orcha_pipeline.allocation.situation import Situation, why_frozen
from orcha_pipeline.errors import PlanError
from orcha_pipeline.model import Lever, LeverMode, Mode, Resources
from orcha_pipeline.settings import HostSettings, LimitSettings, NodeSettings, PlannerSettings, Settings
from orcha_pipeline.warehouse.planning_rows import Quarters

EXPLORED_EVERY = timedelta(hours=24)
"""A node rests so long after a change before it is moved only to learn from it."""
GROUPS_A_PROCESS = 48
"""With fewer it takes longer to start another process than to do its part."""
AHEAD_A_PROCESS = 8
"""Groups that wait for each process: what they are planned from is not all held at once."""
NODES_A_READING = 256
"""Nodes whose quarter-hours are read at once."""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """A host's plan; None, and why, where none could be made."""

    host: str
    plan: Plan | None
    reason: str


@dataclass(frozen=True, slots=True)
class _Group:
    """Hosts that share a limit, directly or through others, with all that their plan is made of."""

    planner: PlannerSettings
    hosts: list[HostSettings]
    limits: list[LimitSettings]
    nodes: list[NodeSettings]
    modes: Mapping[str, Mode]
    ask_again_after: timedelta
    situation: Situation
    levers: dict[str, Lever | None]


def plan_hosts(
    settings: Settings,
    situation: Situation,
    levers: Mapping[str, Lever | None],
    quarters_of: Callable[[Sequence[str]], Quarters],
    *,
    recovered: Sequence[Recovered] = (),
    processes: int | None = None,
) -> Iterator[HostPlan]:
    """A plan for every configured host; a group of hosts that cannot be planned stops no other.

    There is none for a host of which an application was only now brought to its end (`recovered`): its nodes were read
    before they were set back, and the next reading tells where they stand. It is planned along only for the sake of
    hosts that share a limit with it.

    Many groups are planned by several processes at once: as many as there are cores, or `processes`.
    """
    unread = {
        each.host: f"an earlier change of {each.host} has only now found its end: {each.reason}" for each in recovered
    }
    groups: list[_Group] = []
    for group in _groups(settings, situation, levers):
        if all(host.name in unread for host in group.hosts):
            yield from (HostPlan(host.name, None, unread[host.name]) for host in group.hosts)
        else:
            groups.append(group)
    for made in _plans(groups, quarters_of, processes):
        yield HostPlan(made.host, None, unread[made.host]) if made.host in unread else made


def _plans(
    groups: Sequence[_Group], quarters_of: Callable[[Sequence[str]], Quarters], processes: int | None
) -> Iterator[HostPlan]:
    processes = min(processes or os.cpu_count() or 1, len(groups) // GROUPS_A_PROCESS)
    tasks = _with_quarters(groups, quarters_of)
    if processes <= 1:
        for group, quarters in tasks:
            yield from _plans_of(group, quarters)
        return
    # A forked child of a process with threads may wait for ever on a lock that one of them held.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[list[HostPlan]]] = deque()
        for group, quarters in tasks:
            waiting.append(pool.submit(_plans_of, group, quarters))
            while len(waiting) > AHEAD_A_PROCESS * processes:
                yield from waiting.popleft().result()
        for each in waiting:
            yield from each.result()


def _groups(settings: Settings, situation: Situation, levers: Mapping[str, Lever | None]) -> list[_Group]:
    host_of = {node.name: node.host for node in settings.nodes}
    members = {host.name: {host.name} for host in settings.hosts}
    for limit in settings.limits:
        joined = set[str]().union(*(members[host_of[node]] for node in limit.nodes))
        for name in joined:
            members[name] = joined
    first_of = {name: min(joined) for name, joined in members.items()}
    found: dict[str, _Group] = {}
    for host in settings.hosts:
        empty = _Group(settings.planner, [], [], [], {}, settings.apply.ask_again_after, situation, {})
        found.setdefault(first_of[host.name], empty).hosts.append(host)
    for node in settings.nodes:
        found[first_of[node.host]].nodes.append(node)
    for limit in settings.limits:
        found[first_of[host_of[limit.nodes[0]]]].limits.append(limit)
    modes = settings.modes
    return [
        replace(
            group,
            modes={name: modes[name] for name in names},
            situation=situation.of(names),
            levers={name: levers.get(name) for name in names},
        )
        for group in found.values()
        for names in [[node.name for node in group.nodes]]
    ]


def _with_quarters(
    groups: Sequence[_Group], quarters_of: Callable[[Sequence[str]], Quarters]
) -> Iterator[tuple[_Group, Quarters]]:
    """Each group with what its nodes earned, read for many nodes at a time."""
    batch: list[_Group] = []
    for place, group in enumerate(groups):
        batch.append(group)
        names = [node.name for each in batch for node in each.nodes]
        if len(names) < NODES_A_READING and place < len(groups) - 1:
            continue
        quarters, first = quarters_of(names), 0
        for each in batch:
            columns = slice(first, first + len(each.nodes))
            first += len(each.nodes)
            yield each, Quarters(quarters.start, quarters.rates[:, columns], quarters.shares[:, columns])
        batch = []


def _plans_of(group: _Group, quarters: Quarters) -> list[HostPlan]:
    """The plan of each host of a group, or why there is none."""
    if group.situation.set_back:
        freely = replace(group, situation=replace(group.situation, set_back={}))
        try:
            made = _planned(group, quarters)
        except PlanError:  # what has changed since leaves no room for the old shares
            return _plans_of(freely, quarters)
        if not any(plan.moved for plan in made):  # what is to be set back rests, or is frozen
            return _plans_of(freely, quarters)
        return [HostPlan(plan.host.name, plan, "") for plan in made]
    try:
        return [HostPlan(plan.host.name, plan, "") for plan in _planned(group, quarters)]
    except PlanError as error:
        return [HostPlan(host.name, None, str(error)) for host in group.hosts]


def _planned(group: _Group, quarters: Quarters) -> list[Plan]:
    planner, situation, now = group.planner, group.situation, group.situation.now
    names = [node.name for node in group.nodes]
    learnt = responses(quarters.rates, quarters.shares, prior=planner.response_curvature)
    outlook = foresee(
        quarters.rates,
        quarters.shares,
        nodes=names,
        known_responses=learnt,
        forecasts=situation.forecasts,
        shares_now={name: state.share for name, state in situation.states.items()},
        prior=planner.response_curvature,
        issued_at=now,
    )
    hold = planner.hold_minutes / 60
    nodes = [
        _plan_node(
            node,
            planner,
            situation,
            not_asked=_why_not_asked(node, group),
            lever=group.levers[node.name],
            response=response,
            usd_now=_usd_now(outlook, column),
        )
        for column, (node, response) in enumerate(zip(group.nodes, learnt, strict=True))
    ]
    return plan_together(
        [replace(host.to_model(), capacity=host.capacity_at(now, hold)) for host in group.hosts],
        nodes,
        hold_hours=hold,
        issued_at=now,
        outlook=outlook,
        limits=[each for limit in group.limits for each in _limits(limit, nodes)],
        coming={host.name: _coming(host, situation) for host in group.hosts if host.schedules},
        weights=Weights(
            risk_aversion=planner.risk_aversion,
            exploration=planner.exploration,
            min_confidence=planner.min_confidence,
        ),
    )


def _why_not_asked(node: NodeSettings, group: _Group) -> str:
    """Why a node keeps its share for the sake of the others of its host, which may be changed with less ado; or empty.

    Where all are alike everything is planned, so that the operator is told what would be best.
    """
    mode = group.modes[node.name]
    if mode.freedom == max(group.modes[other.name].freedom for other in group.nodes if other.host == node.host):
        return ""
    if mode is Mode.ADVISE:
        return "it is in mode advise, in which nothing of it is changed"
    expired = group.situation.unanswered.get(node.name)
    if expired is None:
        return ""
    again = expired + group.ask_again_after
    return f"nobody answered the request to change it until {expired:%H:%M} UTC; the next is made at {again:%H:%M}"


def _usd_now(outlook: Outlook, column: int) -> float:
    """USD an hour that a full share is expected to earn now; 0 where nobody knows."""
    expected = float(outlook.mean[0, column])
    return expected if expected > 0 else 0.0


def _plan_node(
    node: NodeSettings,
    planner: PlannerSettings,
    situation: Situation,
    *,
    not_asked: str,
    lever: Lever | None,
    response: LearntResponse,
    usd_now: float,
) -> PlanNode:
    state = situation.states.get(node.name)
    share = state.share if state else None
    bounds = node.bounds_at(situation.now)
    least, most, lost = bounds_of(
        node.name,
        share=share,
        least=bounds.least,
        most=bounds.most,
        set_back=situation.set_back,
        remembered=situation.remembered,
    )
    if least == most and lever is not None and lever.step > 0 and lever.at_full_share > 0:
        least = most = lever.share_for(lever.value_for(most))  # a pin between two steps holds at the one below
    changed = situation.last_changed.get(node.name)
    frozen = "the operator has frozen it" if node.frozen else not_asked or why_frozen(node.name, lever, situation)
    back = situation.set_back.get(node.name)
    if back is not None and back.share is None:
        frozen = frozen or back.why
    rests = timedelta(0)
    if lever is not None and changed is not None and not node.frozen and not not_asked:
        rests = cooldown_left(situation.now, changed, lever)
        # Frozen by its cool-down alone, it will be free within the day: that is planned for.
        if rests and why_frozen(node.name, replace(lever, cooldown=timedelta(0)), situation):
            rests = timedelta(0)
    return PlanNode(
        node=replace(node.to_model(), min_share=least, max_share=most),
        lever=lever,
        share_now=share,
        yields=situation.forecasts.get(node.name),
        response=response,
        frozen=frozen,
        rests=rests,
        bounds_why="; ".join(filter(None, (bounds.why, lost))),
        change_cost_usd=_change_cost(
            planner,
            lever,
            earns=usd_now * (share or 0.0) ** response.curvature,
            held_usd=situation.held_usd.get(node.name, 0.0),
        ),
        usd_per_hour=node.power_watts / 1000 * planner.power_usd_per_kwh,
        may_explore=changed is None or situation.now - changed >= EXPLORED_EVERY,
    )


def _change_cost(planner: PlannerSettings, lever: Lever | None, *, earns: float, held_usd: float) -> float:
    """USD that a change costs beside the earnings of its restart: reputation, and the risk to what is held back."""
    if lever is None or not lever.risks or lever.mode not in (LeverMode.RESTART, LeverMode.TRANSACTION):
        return 0.0
    return planner.reputation_hours * earns + planner.held_risk * held_usd


def _limits(limit: LimitSettings, nodes: Sequence[PlanNode]) -> list[Limit]:
    """A limit of shares, and one of each resource that it names."""
    members = {each.node.name: each.node for each in nodes if each.node.name in limit.nodes}
    found = [
        Limit(
            name=f"{limit.name}: {resource}",
            use={name: node.demand.as_dict()[resource] for name, node in members.items()},
            most=amount,
        )
        for resource, amount in limit.amounts.items()
    ]
    if limit.shares is not None:
        found.append(Limit(name=limit.name, use=dict.fromkeys(members, 1.0), most=limit.shares))
    return found


def _coming(host: HostSettings, situation: Situation) -> list[Resources]:
    """The capacity that a host has in each period ahead."""
    return [
        host.capacity_at(situation.now + timedelta(hours=float(begins) / STEPS_AN_HOUR), steps / STEPS_AN_HOUR)
        for begins, steps in zip(EDGES[:-1].tolist(), PERIODS, strict=True)
    ]
