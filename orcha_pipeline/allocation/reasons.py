"""Why each node keeps or changes its share, in one plain sentence a node. Pure text from values."""

from collections.abc import Sequence

from orcha_pipeline.allocation.plan import NodePlan
from orcha_pipeline.model import Host

_UNITS = {
    "cpu_threads": ("CPU thread", "CPU threads"),
    "memory_gib": ("GiB of memory", "GiB of memory"),
    "disk_gb": ("GB of disk", "GB of disk"),
    "bandwidth_mbps": ("Mbps", "Mbps"),
}


def number(amount: float) -> str:
    """Three significant digits, without an exponent for everyday sizes."""
    return f"{amount:,.0f}" if abs(amount) >= 1000 else f"{amount:.3g}"


def quantity(resource: str, amount: float) -> str:
    """An amount of a resource in words: `3 CPU threads`."""
    text = number(amount)
    return f"{text} {_UNITS[resource][0 if text == '1' else 1]}"


def explain_move(line: NodePlan, moved: Sequence[NodePlan], host: Host, binding: Sequence[str]) -> str:
    """Why `line`, one of the nodes `moved`, changes: what it earns, how that ranks, and whom it gives to or takes from.

    Told in the scarcest resource the node uses: the first binding one, else the one it takes the largest part of.
    """
    resource = _main_resource(line, host, binding)
    earns = (
        f"{line.node.name} earns {number(line.near_yield_usd.p50 if line.near_yield_usd else 0.0)} USD/h at full share"
    )
    rank = _rank(line, moved, resource)
    change = _move(line, resource)
    partners = [other for other in moved if _move(other, resource) * change < 0]
    others = [other.node.name for other in partners]
    amount = quantity(resource, abs(change))
    if not change:
        given = "it uses nothing that is counted"
    elif change < 0:
        given = f"gives {amount} to {_names(others)}" if others else f"gives {amount} back to {host.name}"
    else:
        freed = -sum(_move(other, resource) for other in partners)
        sources = [*others, "what nobody uses"] if change > freed * 1.01 else others
        given = f"takes {amount} from {_names(sources)}"
    return f"{earns}{rank}; {given}"


def _main_resource(line: NodePlan, host: Host, binding: Sequence[str]) -> str:
    demand = line.node.demand.as_dict()
    capacity = host.capacity.as_dict()
    for resource in binding:
        if demand.get(resource, 0.0) > 0:  # a limit that hosts share is no resource
            return resource
    return max(demand, key=lambda name: demand[name] / capacity[name] if capacity[name] > 0 else 0.0)


def _move(line: NodePlan, resource: str) -> float:
    return line.node.demand.as_dict()[resource] * (line.counted_planned - line.counted_now)


def _rank(line: NodePlan, moved: Sequence[NodePlan], resource: str) -> str:
    """How the node's yield a unit of `resource` ranks among the moved ones: words for the first and the last."""
    density = {
        other.node.name: other.near_yield_usd.p50 / other.node.demand.as_dict()[resource]
        for other in moved
        if other.near_yield_usd is not None and other.node.demand.as_dict()[resource] > 0
    }
    mine = density.get(line.node.name)
    if mine is None or len(density) < 2:
        return ""
    unit = _UNITS[resource][0]
    if mine == min(density.values()):
        return f", least per {unit} of those moved"
    return f", most per {unit} of those moved" if mine == max(density.values()) else ""


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
