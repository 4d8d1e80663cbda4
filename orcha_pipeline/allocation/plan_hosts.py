"""The plans of all hosts from the settings and what is known: each alone, those that share a limit together. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from orcha_pipeline.allocation.foresight import foresee, responses
from orcha_pipeline.allocation.gates import cooldown_left
from orcha_pipeline.allocation.outlook import EDGES, PERIODS, STEPS_AN_HOUR, Outlook
from orcha_pipeline.allocation.plan import Plan
from orcha_pipeline.allocation.planner import Limit, PlanNode, Weights, plan_together
from orcha_pipeline.allocation.response_learning import LearntResponse
from orcha_pipeline.allocation.situation import Situation, why_frozen
from orcha_pipeline.errors import PlanError
from orcha_pipeline.model import Lever, LeverMode, Resources
from orcha_pipeline.settings import HostSettings, LimitSettings, NodeSettings, PlannerSettings, Settings
from orcha_pipeline.warehouse.planning_rows import Quarters

EXPLORED_EVERY = timedelta(hours=24)
"""A node rests so long after a change before it is moved only to learn from it."""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """A host's plan; None, and why, where none could be made."""

    host: str
    plan: Plan | None
    reason: str


def plan_hosts(
    settings: Settings,
    situation: Situation,
    levers: Mapping[str, Lever | None],
    quarters_of: Callable[[Sequence[str]], Quarters],
) -> list[HostPlan]:
    """A plan for every configured host; a group of hosts that cannot be planned stops no other."""
    found: list[HostPlan] = []
    for hosts, limits in _groups(settings):
        try:
            found += [
                HostPlan(plan.host.name, plan, "")
                for plan in _plan_group(
                    settings,
                    hosts=hosts,
                    limits=limits,
                    situation=situation,
                    levers=levers,
                    quarters_of=quarters_of,
                )
            ]
        except PlanError as error:
            found += [HostPlan(host.name, None, str(error)) for host in hosts]
    return found


def _groups(settings: Settings) -> list[tuple[list[HostSettings], list[LimitSettings]]]:
    """Hosts that share a limit, directly or through others, with their limits."""
    hosts_of = {node.name: node.host for node in settings.nodes}
    group = {host.name: {host.name} for host in settings.hosts}
    for limit in settings.limits:
        joined = set[str]().union(*(group[hosts_of[node]] for node in limit.nodes))
        for name in joined:
            group[name] = joined
    seen: set[str] = set()
    found: list[tuple[list[HostSettings], list[LimitSettings]]] = []
    for host in settings.hosts:
        if host.name not in seen:
            members = group[host.name]
            seen |= members
            found.append(
                (
                    [each for each in settings.hosts if each.name in members],
                    [limit for limit in settings.limits if hosts_of[limit.nodes[0]] in members],
                )
            )
    return found


def _plan_group(
    settings: Settings,
    *,
    hosts: Sequence[HostSettings],
    limits: Sequence[LimitSettings],
    situation: Situation,
    levers: Mapping[str, Lever | None],
    quarters_of: Callable[[Sequence[str]], Quarters],
) -> list[Plan]:
    planner, now = settings.planner, situation.now
    names = {host.name for host in hosts}
    configured = [node for node in settings.nodes if node.host in names]
    shares = {node.name: situation.states[node.name].share for node in configured if node.name in situation.states}
    quarters = quarters_of([node.name for node in configured])
    learnt = responses(quarters.rates, quarters.shares, prior=planner.response_curvature)
    outlook = foresee(
        quarters.rates,
        quarters.shares,
        nodes=[node.name for node in configured],
        known_responses=learnt,
        forecasts=situation.forecasts,
        shares_now=shares,
        prior=planner.response_curvature,
        issued_at=now,
    )
    hold = planner.hold_minutes / 60
    nodes = [
        _plan_node(
            node,
            planner,
            situation,
            lever=levers.get(node.name),
            response=response,
            usd_now=_usd_now(outlook, column),
        )
        for column, (node, response) in enumerate(zip(configured, learnt, strict=True))
    ]
    return plan_together(
        [replace(host.to_model(), capacity=host.capacity_at(now, hold)) for host in hosts],
        nodes,
        hold_hours=hold,
        issued_at=now,
        outlook=outlook,
        limits=[each for limit in limits for each in _limits(limit, nodes)],
        coming={host.name: _coming(host, situation) for host in hosts if host.schedules},
        weights=Weights(
            risk_aversion=planner.risk_aversion,
            exploration=planner.exploration,
            min_confidence=planner.min_confidence,
        ),
    )


def _usd_now(outlook: Outlook, column: int) -> float:
    """USD an hour that a full share is expected to earn now; 0 where nobody knows."""
    expected = float(outlook.mean[0, column])
    return expected if expected > 0 else 0.0


def _plan_node(
    node: NodeSettings,
    planner: PlannerSettings,
    situation: Situation,
    *,
    lever: Lever | None,
    response: LearntResponse,
    usd_now: float,
) -> PlanNode:
    state = situation.states.get(node.name)
    share = state.share if state else None
    bounds = node.bounds_at(situation.now)
    least, most = bounds.least, bounds.most
    if least == most and lever is not None and lever.step > 0 and lever.at_full_share > 0:
        least = most = lever.share_for(lever.value_for(most))  # a pin between two steps holds at the one below
    changed = situation.last_changed.get(node.name)
    frozen = "the operator has frozen it" if node.frozen else why_frozen(node.name, lever, situation)
    rests = timedelta(0)
    if lever is not None and changed is not None and not node.frozen:
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
        bounds_why=bounds.why,
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
