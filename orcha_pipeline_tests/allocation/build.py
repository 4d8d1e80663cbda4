"""Hosts, nodes, levers and forecasts for the tests of planning and deciding."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from orcha_pipeline.allocation.planner import Limit, PlanNode, Weights, plan, plan_together
from orcha_pipeline.allocation.response_learning import LearntResponse
from orcha_pipeline.model import Host, Lever, LeverMode, Node, Resources, YieldForecast

NOW = datetime(2026, 3, 1, 12, 5, tzinfo=UTC)


def a_host(cpu=16.0, memory=64.0, disk=8000.0, bandwidth=500.0, **changes: Any) -> Host:
    capacity = Resources(cpu_threads=cpu, memory_gib=memory, disk_gb=disk, bandwidth_mbps=bandwidth)
    return Host(name="box", capacity=capacity, **changes)


def a_lever(full=100.0, step=1.0, **changes: Any) -> Lever:
    known: dict[str, Any] = {
        "name": "limit",
        "unit": "unit",
        "mode": LeverMode.RESTART,
        "minimum": 0.0,
        "maximum": full,
        "step": step,
        "at_full_share": full,
    }
    return Lever(**{**known, **changes})


def a_forecast(
    name: str, p50: float | Sequence[float], *, spread=0.2, start=NOW, p10: Any = None, p90: Any = None, hours=24
) -> YieldForecast:
    middle = tuple(p50) if isinstance(p50, Sequence) else (p50,) * hours
    first = start.replace(minute=0)
    return YieldForecast(
        node=name,
        issued_at=start,
        hours=tuple(first + timedelta(hours=i) for i in range(len(middle))),
        p10=p10 or tuple(y - spread * abs(y) for y in middle),
        p50=middle,
        p90=p90 or tuple(y + spread * abs(y) for y in middle),
        model="test",
        version="1",
    )


def a_node(
    name: str,
    p50: float | Sequence[float] | None,
    now: float | None,
    *,
    cpu=10.0,
    demand: Resources | None = None,
    low=0.0,
    high=1.0,
    curvature=0.9,
    restart=0.0,
    spread=0.2,
    frozen="",
    lever: Lever | str | None = "usual",
    **lever_changes: Any,
) -> PlanNode:
    node = Node(
        name=name,
        protocol=name,
        host="box",
        demand=demand or Resources(cpu_threads=cpu),
        min_share=low,
        max_share=high,
    )
    if isinstance(lever, str):
        lever = a_lever(restart_seconds=restart, **lever_changes)
    return PlanNode(
        node=node,
        lever=lever,
        share_now=now,
        yields=None if p50 is None else a_forecast(name, p50, spread=spread),
        response=LearntResponse(curvature, 0.15, 0),
        frozen=frozen,
    )


def planned(host: Host, *nodes: PlanNode, hold=1.0, freedom=0.0, **weights: Any):
    """A plan that wants to keep no freedom to change within the hour, unless asked."""
    return plan(host, nodes, hold_hours=hold, issued_at=NOW, weights=Weights(freedom=freedom, **weights))


def shares(made) -> dict[str, float | None]:
    return {line.node.name: line.share_planned for line in made.nodes}


def on(host: Host, node: PlanNode) -> PlanNode:
    """The same node on another host."""
    return replace(node, node=replace(node.node, host=host.name))


def planned_together(hosts: Sequence[Host], nodes: Sequence[PlanNode], *limits: Limit, hold=1.0, **weights: Any):
    """A plan a host, as `planned` makes one."""
    weighed = Weights(**{"freedom": 0.0, **weights})
    return plan_together(hosts, nodes, hold_hours=hold, issued_at=NOW, limits=limits, weights=weighed)
