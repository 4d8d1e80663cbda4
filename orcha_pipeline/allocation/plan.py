"""What a plan is: each node's share now and planned, what it promises in USD, and how sure that is. Values only."""

from dataclasses import dataclass
from datetime import datetime
from math import sqrt
from statistics import NormalDist

from orcha_pipeline.allocation.response import response
from orcha_pipeline.model import RESOURCES, Allocation, Host, Lever, Node, Resources

MIN_MOVE = 0.01
"""A share that moves by less is not changed: what it could earn drowns in the error of any reading."""
_Z90 = NormalDist().inv_cdf(0.9)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """An uncertain amount in USD, or a rate in USD per hour: one chance in ten to lie below p10 or above p90."""

    p10: float
    p50: float
    p90: float


def weighted_sum(terms: list[tuple[float, Quantiles]]) -> Quantiles:
    """Quantiles of a sum of weighted independent amounts.

    Each amount is taken as two-piece normal, its spread below and above the median given by p10 and p90; spreads of
    different amounts add as squares, a negative weight turns an amount over. This is exact for normal amounts and an
    approximation for skewed ones.
    """
    middle = sum(weight * amount.p50 for weight, amount in terms)
    below = above = 0.0
    for weight, amount in terms:
        low, high = amount.p50 - amount.p10, amount.p90 - amount.p50
        if weight < 0:
            low, high = high, low
        below += (weight * low) ** 2
        above += (weight * high) ** 2
    return Quantiles(middle - sqrt(below), middle, middle + sqrt(above))


def probability_above(amount: Quantiles, threshold: float) -> float:
    """Probability that a two-piece normal `amount` exceeds `threshold`; a certain amount gives 0 or 1."""
    distance = amount.p50 - threshold
    spread = (amount.p50 - amount.p10 if distance > 0 else amount.p90 - amount.p50) / _Z90
    if spread <= 0:
        return 1.0 if distance > 0 else 0.0
    return NormalDist().cdf(distance / spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One node's line of a plan. Shares and values are None where unknown; unknown shares never change.

    `yield_usd` is the mean over the horizon and `hold_yield_usd` over the hold, both USD per hour at full share.
    """

    node: Node
    lever: Lever | None
    curvature: float
    share_now: float | None
    share_planned: float | None
    value_now: float | None
    value_planned: float | None
    yield_usd: Quantiles | None
    hold_yield_usd: Quantiles | None
    switching_cost_usd: float
    """What moving this node costs, 0 where it does not move."""
    reason: str

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

    @property
    def response_change(self) -> float:
        """How much more of its full-share yield the node earns under the plan than today."""
        if self.share_now is None or self.share_planned is None:
            return 0.0
        return response(self.share_planned, self.curvature) - response(self.share_now, self.curvature)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A proposed allocation of all nodes of a host, with what it promises against what is there today.

    Earnings are expected USD over the horizon, of the nodes whose share and forecast are known. The gain is over the
    hold, net of the switching cost: USD per hour, and percent of what today's allocation earns in that time (None
    where this is nothing).
    """

    host: Host
    issued_at: datetime
    horizon_hours: int
    hold_hours: float
    nodes: tuple[NodePlan, ...]
    earnings_now_usd: Quantiles
    earnings_planned_usd: Quantiles
    gain_usd_per_hour: float
    gain_percent: float | None
    switching_cost_usd: float
    solver_objective_usd: float
    """Horizon earnings less switching cost before the levers' steps are kept: what the solver found."""
    binding: tuple[str, ...]
    """Resources of which more would have been used."""
    forced: str
    """Why today's allocation cannot stay (over capacity, out of bounds), whatever a change earns; else empty."""
    solver: str
    solve_seconds: float

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

    @property
    def hold_gain_usd(self) -> Quantiles:
        """Gain over the hold before the switching cost, and how sure it is.

        The errors of different nodes are taken as independent, those of one node's hours as one.
        """
        return weighted_sum(
            [
                (self.hold_hours * line.response_change, line.hold_yield_usd)
                for line in self.moved
                if line.hold_yield_usd is not None
            ]
        )


def total_use(parts: list[tuple[Resources, float]]) -> Resources:
    """What nodes use together: each one's demand at share 1.0 times its share."""
    scaled = [demand.scaled(share).as_dict() for demand, share in parts]
    return Resources(**{name: sum(use[name] for use in scaled) for name in RESOURCES})
