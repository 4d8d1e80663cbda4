"""What a decision on record changes, and the host that it changes it on. Pure."""

from orcha_pipeline.allocation.executor import Change, Surroundings
from orcha_pipeline.allocation.plan import total_use
from orcha_pipeline.errors import PlanError
from orcha_pipeline.settings import Settings
from orcha_pipeline.warehouse.decisions import DecisionRow


def changes_of(row: DecisionRow) -> tuple[Change, ...]:
    """The levers a recorded decision moves."""
    return tuple(
        Change(
            node=line.node,
            lever=line.lever,
            value_from=line.value_now,
            value_to=line.value_planned,
            share_from=line.share_now,
            share_to=line.share_planned,
        )
        for line in row.allocations
        if line.lever is not None
        and line.value_now is not None
        and line.value_planned is not None
        and line.share_now is not None
        and line.share_planned is not None
        and line.value_now != line.value_planned
    )


def surroundings_of(row: DecisionRow, settings: Settings) -> Surroundings:
    """The host as it is configured now. Raises `PlanError` where it, or a node of the decision, is not any more."""
    nodes = {node.name: node.to_model() for node in settings.nodes if node.host == row.host}
    host = next((h.to_model() for h in settings.hosts if h.name == row.host), None)
    gone = sorted({line.node for line in row.allocations} - set(nodes))
    if host is None or gone:
        raise PlanError(f"{', '.join(gone) or row.host} is not configured any more.")
    changed = {change.node for change in changes_of(row)}
    resting = [
        # A share nobody knows counts as the largest one it may be, as it did in the plan.
        (nodes[line.node].demand, nodes[line.node].max_share if line.share_now is None else line.share_now)
        for line in row.allocations
        if line.node not in changed
    ]
    return Surroundings(host.capacity, {name: node.demand for name, node in nodes.items()}, total_use(resting))
