"""What a plan is made from: nodes as the planner sees them, limits they share, what the operator cares about. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from orcha_pipeline.allocation.foresight import check_complete
from orcha_pipeline.allocation.lever_steps import steps_within
from orcha_pipeline.allocation.lookahead import FREEDOM
from orcha_pipeline.allocation.response_learning import LearntResponse
from orcha_pipeline.errors import PlanError
from orcha_pipeline.model import Lever, Node, YieldForecast


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


def check_amount(what: str, amount: float) -> None:
    """Raise `PlanError` for what is no amount."""
    if not (math.isfinite(amount) and amount >= 0):
        raise PlanError(f"{what} is {amount}: a finite number from 0 is needed")


def check(each: PlanNode) -> None:
    """Refuse what is no number: a plan made from it would look like one made from knowledge."""
    name, node, curvature = each.node.name, each.node, each.response.curvature
    for key, value in node.demand.as_dict().items():
        check_amount(f"demand {key} of {name}", value)
    check_amount(f"min_share of {name}", node.min_share)
    check_amount(f"max_share of {name}", node.max_share)
    check_amount(f"present share of {name}", each.share_now if each.share_now is not None else 0.0)
    check_amount(f"cost of changing {name}", each.change_cost_usd)
    check_amount(f"cost of running {name}", each.usd_per_hour)
    if node.min_share > node.max_share:
        raise PlanError(f"min_share {node.min_share} of {name} lies above its max_share {node.max_share}")
    if not 0 < curvature <= 1:
        raise PlanError(f"response curvature of {name} is {curvature}: it must lie above 0 and at most at 1")
    if each.yields is not None:
        _check_forecast(each.yields)


def _check_forecast(yields: YieldForecast) -> None:
    check_complete(yields)
    for quantile in ("p10", "p50", "p90"):
        for hour, value in zip(yields.hours, getattr(yields, quantile), strict=True):
            if not math.isfinite(value):
                when = f"{hour:%Y-%m-%d %H:%M}"
                raise PlanError(f"forecast of {yields.node}: {quantile} at {when} is {value}, not a number")


def why_fixed(each: PlanNode, *, known: bool) -> str:
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
    first, last = steps_within(each.node, lever)
    if first > last:
        return (
            f"{name} keeps its share: {lever.name} has no step between its shares "
            f"{each.node.min_share:.2f} and {each.node.max_share:.2f}"
        )
    if not known:
        return f"{name} keeps its share: there is no forecast of its yield for the coming hours"
    return ""
