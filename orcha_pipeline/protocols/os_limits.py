"""Limits of the operating system as levers: CPU, memory and bandwidth of a node, enforced by its host's controller."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orcha_pipeline.controllers.base import Controller, LimitName, Limits
from orcha_pipeline.errors import AdapterError
from orcha_pipeline.model import (
    AllocationReading,
    AppliedChange,
    Lever,
    LeverMode,
    Provenance,
    UsageReading,
)
from orcha_pipeline.protocols.levers import check_change, lever_range
from orcha_pipeline.settings import NodeSettings

_GIB = 1024**3
SETTLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """A lever over one limit of the controller: lever value x `factor` = limit."""

    limit: LimitName
    unit: str
    step: float
    factor: float
    risk: str


_KINDS = {
    "cpu_threads": _Kind("cpu_threads", "threads", 0.01, 1.0, "a node short of CPU answers late"),
    "memory_gib": _Kind("memory_bytes", "GiB", 0.01, _GIB, "a node that needs more memory than its limit is killed"),
    "bandwidth_mbps": _Kind("bandwidth_mbps", "Mbps", 0.1, 1.0, "a node short of bandwidth answers late"),
}
"""Lever -> its kind; the names are those of the resources."""


def is_os_limit(lever: str) -> bool:
    """Whether a lever of this name is one of these."""
    return lever in _KINDS


def os_levers(
    settings: NodeSettings, controller: Controller, *, first: str | None = None, risks: Sequence[str] = ()
) -> list[Lever]:
    """A lever for each resource the node demands, `first` in front: that one carries the share, within its bounds.

    `risks` are the protocol's own, told beside those of the limit.
    """
    demand = settings.demand.to_model().as_dict()
    names = sorted((name for name in _KINDS if demand[name] > 0), key=lambda name: name != first)
    return [_lever(settings, controller, name, carries_share=name == first, risks=risks) for name in names]


def _lever(
    settings: NodeSettings, controller: Controller, name: str, *, carries_share: bool, risks: Sequence[str]
) -> Lever:
    kind, full = _KINDS[name], settings.demand.to_model().as_dict()[name]
    if carries_share:
        bounds = lever_range(settings, full=full, step=kind.step, floor=kind.step)
        minimum, maximum, problem = bounds.minimum, bounds.maximum, bounds.problem
    else:
        minimum, maximum, problem = kind.step, full, ""
    why_not = problem or controller.why_cannot_limit(kind.limit)
    return Lever(
        name=name,
        unit=kind.unit,
        mode=LeverMode.OS_LIMIT,
        minimum=minimum,
        maximum=maximum,
        step=kind.step,
        at_full_share=full,
        settle_seconds=SETTLE_SECONDS,
        writable=not why_not,
        why_not=why_not,
        risks=(kind.risk, *risks),
    )


def os_allocation(settings: NodeSettings, limits: Limits, lever: Lever, *, carries_share: bool) -> AllocationReading:
    """Where such a lever stands. Without a limit in force the node may use all it would: its full demand."""
    kind = _KINDS[lever.name]
    limit: float | None = getattr(limits, kind.limit)
    value = lever.at_full_share if limit is None else limit / kind.factor
    return AllocationReading(
        lever=lever.name,
        value=value,
        unit=kind.unit,
        share=lever.share_for(value) if carries_share else None,
        provenance=Provenance.OUR_ESTIMATE if limit is None else Provenance.MEASURED,
        source=f"no limit is set on {settings.name}: counted as full demand" if limit is None else "limit of the host",
    )


def apply_os_limit(node: str, controller: Controller, lever: Lever, value: float) -> AppliedChange:
    """Set a limit and compare it with what the host reports.

    Going back to full demand where no limit was set leaves a limit at full demand, which takes nothing from the node.
    """
    kind = _KINDS[lever.name]
    check_change(node, lever, lever.name, value, floor=kind.step)
    before: float | None = getattr(controller.limits(), kind.limit)
    after: float | None = getattr(controller.set_limits(Limits(**{kind.limit: value * kind.factor})), kind.limit)
    return AppliedChange(
        lever=lever.name,
        previous=lever.at_full_share if before is None else before / kind.factor,
        requested=value,
        read_back=None if after is None or math.isinf(after) else after / kind.factor,
    )


def os_usage(controller: Controller) -> list[UsageReading]:
    """What the host counts of the node's processes; empty where there is no controller that could count."""
    try:
        usage = controller.usage()
    except AdapterError:
        # Without a controller, or where it may not look: the node's own figures stand without it.
        return []
    values = {
        "cpu_seconds_total": usage.cpu_seconds_total,
        "memory_bytes": usage.memory_bytes,
        "network_received_bytes_total": usage.received_bytes_total,
        "network_sent_bytes_total": usage.sent_bytes_total,
        "cpu_throttled_seconds_total": usage.throttled_seconds_total,
        "out_of_memory_kills_total": usage.out_of_memory_kills_total,
    }
    return [
        UsageReading(metric=metric, value=value, provenance=Provenance.MEASURED, source=usage.source)
        for metric, value in values.items()
        if value is not None
    ]
