"""What a plan is: each node's share now and planned, what it promises in USD, and how sure that is. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.allocation.response_learning import LearntResponse
from orcha_pipeline.model import RESOURCES, Allocation, Host, Lever, Node, Resources

MIN_MOVE = 0.01
"""A share that moves by less is not changed: what it could earn drowns in the error of any reading."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """An uncertain amount in USD, or a rate in USD per hour: one chance in ten to lie below p10 or above p90.

    `p50` is what is expected.
    """

    p10: float
    p50: float
    p90: float


def quantiles_of(samples: NDArray[np.float64]) -> Quantiles:
    """Of equally likely amounts (L,); the middle is their mean, which is what is expected."""
    p10, p90 = np.quantile(samples, [0.1, 0.9])
    return Quantiles(float(p10), float(samples.mean()), float(p90))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One node's line of a plan. Shares and values are None where unknown; unknown shares never change.

    `yield_usd` is the mean over the horizon and `near_yield_usd` over the time of the promise, both USD per hour at
    full share.
    """

    node: Node
    lever: Lever | None
    response: LearntResponse
    share_now: float | None
    share_planned: float | None
    value_now: float | None
    value_planned: float | None
    yield_usd: Quantiles | None
    near_yield_usd: Quantiles | None
    switching_cost_usd: float
    """What moving this node costs, 0 where it does not move."""
    reason: str

    @property
    def curvature(self) -> float:
        """Of the node's response."""
        return self.response.curvature

    @property
    def moves(self) -> bool:
        """Whether the change is one: at least a step of the lever and `MIN_MOVE` of the share."""
        if self.share_now is None or self.share_planned is None or self.lever is None:
            return False
        move = abs(self.share_planned - self.share_now)
        return move >= max(MIN_MOVE, self.lever.share_for(self.lever.step)) * (1 - 1e-6)

    @property
    def counted_now(self) -> float:
        """The share that counts against the host's capacity today: the largest one where it is unknown."""
        return self.node.max_share if self.share_now is None else self.share_now

    @property
    def counted_planned(self) -> float:
        """The share that counts against the host's capacity under the plan."""
        return self.node.max_share if self.share_planned is None else self.share_planned


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedUse:
    """A limit that nodes of several hosts have in common: what this host's take of it, now and as planned.

    `others` is what the nodes of other hosts take of it now.
    """

    name: str
    limit: float
    now: float
    planned: float
    others: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A proposed allocation of all nodes of a host, with what it promises against what is there today.

    Earnings are USD over the horizon if the shares stayed, of the nodes whose share and forecast are known. The gain is
    what the change brings in `promise_hours`, net of the switching cost: in USD with its interval, in USD per hour, and
    in percent of what today's allocation earns in that time (None where this is nothing).
    """

    host: Host
    issued_at: datetime
    horizon_hours: int
    promise_hours: float
    """The hold, or for as long as the change must stay or is meant to."""
    nodes: tuple[NodePlan, ...]
    earnings_now_usd: Quantiles
    earnings_planned_usd: Quantiles
    gain_usd: Quantiles
    gain_percent: float | None
    confidence: float | None
    """The probability that the change pays, by the forecast's own errors; None where nothing moves."""
    switching_cost_usd: float
    solver_objective_usd: float
    """What the solver found over `promise_hours`, less switching cost, before the levers' steps are kept."""
    binding: tuple[str, ...]
    """Resources, and limits shared with other hosts, of which more would have been used."""
    shadow_prices: Mapping[str, float]
    """USD a month that one more unit of each of them would earn: a resource, or a shared limit."""
    runner_up: str
    """What else would have been best."""
    runner_up_usd_per_hour: float | None
    """Its gain, told as the plan's is."""
    forced: str
    """Why today's allocation cannot stay (over capacity, out of bounds), whatever a change earns; else empty."""
    explores: str
    """What is to be learnt by a change that need not pay; else empty."""
    shared: tuple[SharedUse, ...]
    """The limits shared with other hosts, and how this plan stands to them."""
    solver: str
    solve_seconds: float

    @property
    def gain_usd_per_hour(self) -> float:
        """What is expected of the change, an hour."""
        return self.gain_usd.p50 / self.promise_hours

    @property
    def roi(self) -> float | None:
        """Gain over cost; None where the change costs nothing."""
        return self.gain_usd.p50 / self.switching_cost_usd if self.switching_cost_usd > 0 else None

    @property
    def moved(self) -> tuple[NodePlan, ...]:
        """The nodes that the plan changes."""
        return tuple(line for line in self.nodes if line.moves)

    @property
    def unvalued(self) -> tuple[str, ...]:
        """Nodes whose share or forecast is unknown: their earnings are in no sum of this plan."""
        return tuple(line.node.name for line in self.nodes if line.share_now is None or line.yield_usd is None)

    @property
    def now(self) -> tuple[Allocation, ...]:
        """Today's allocation, of the nodes whose share is known."""
        return tuple(
            Allocation(
                node=line.node.name,
                share=line.share_now,
                lever=line.lever.name if line.lever else None,
                value=line.value_now,
            )
            for line in self.nodes
            if line.share_now is not None
        )

    @property
    def planned(self) -> tuple[Allocation, ...]:
        """The proposed allocation, of the nodes whose share is known."""
        return tuple(
            Allocation(
                node=line.node.name,
                share=line.share_planned,
                lever=line.lever.name if line.lever else None,
                value=line.value_planned,
            )
            for line in self.nodes
            if line.share_planned is not None
        )

    @property
    def use_now(self) -> Resources:
        """What all nodes together take of the host today."""
        return total_use([(line.node.demand, line.counted_now) for line in self.nodes])

    @property
    def use_planned(self) -> Resources:
        """What all nodes together would take of the host."""
        return total_use([(line.node.demand, line.counted_planned) for line in self.nodes])


def total_use(parts: list[tuple[Resources, float]]) -> Resources:
    """What nodes use together: each one's demand at share 1.0 times its share."""
    scaled = [demand.scaled(share).as_dict() for demand, share in parts]
    return Resources(**{name: sum(use[name] for use in scaled) for name in RESOURCES})
