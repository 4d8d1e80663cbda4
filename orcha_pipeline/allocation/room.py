"""What is limited, and what of it the nodes that may move have: hosts' resources, limits that hosts share. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orcha_pipeline.allocation.lever_steps import Movable
from orcha_pipeline.allocation.outlook import PERIODS, Flags, Floats
from orcha_pipeline.allocation.plan_inputs import Limit, PlanNode
from orcha_pipeline.allocation.reasons import number, quantity
from orcha_pipeline.errors import PlanError
from orcha_pipeline.model import RESOURCES, Host, Node, Resources

_SLACK = 1e-9  # part of a capacity: rounding error of a sum, not room
_READING_ERROR = 1e-6  # part of a capacity: an overrun this small is the rounding of a reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that is limited: a resource of a host, or a limit that hosts share. `use` is by node, at share 1.0."""

    host: str
    name: str
    most: float
    use: Mapping[str, float]

    def taken(self, shares: Mapping[str, float]) -> float:
        """What nodes at these shares take of it."""
        return sum(self.use.get(node, 0.0) * share for node, share in shares.items())

    def amount(self, value: float) -> str:
        """So much of it, in words."""
        return quantity(self.name, value) if self.name in RESOURCES else number(value)

    @property
    def whose(self) -> str:
        """The host, or the limit, in words."""
        return f"host {self.host}" if self.host else f"limit {self.name}"


@dataclass(frozen=True, slots=True)
class Room:
    """What the movable nodes may use together, by row (R,), and why today's allocation cannot stay, by host.

    `ahead` (K, R) is the same in each period, `demand` (R, N) the movable nodes' use at share 1.0.
    """

    rows: tuple[Row, ...]
    limit: Floats
    ahead: Floats
    demand: Floats
    forced: Mapping[str, str]

    @classmethod
    def of(
        cls,
        hosts: Sequence[Host],
        limits: Sequence[Limit],
        fixed: Sequence[PlanNode],
        movable: Sequence[Movable],
        coming: Mapping[str, Sequence[Resources]],
    ) -> Room:
        """What the fixed nodes leave. Raises `PlanError` where the movable ones need more at least."""
        names = {m.node.name for m in movable}
        fixed = [each for each in fixed if each.node.name not in names]
        known = {f.node.name: f.share_now for f in fixed if f.share_now is not None}
        most = {f.node.name: f.node.max_share for f in fixed if f.share_now is None}
        least = {f.node.name: f.node.min_share for f in fixed if f.share_now is None}
        present = {m.node.name: m.now for m in movable}
        lowest = {m.node.name: m.share(m.lowest) for m in movable}
        rows = _rows(hosts, limits, [*(f.node for f in fixed), *(m.node for m in movable)])
        found: list[float] = []
        forced: dict[str, list[str]] = {host.name: [] for host in hosts}
        for row in rows:
            # With a node of unknown share nothing may grow into what it might use, but nothing need shrink for it.
            free = row.most - row.taken(known)
            now = row.taken(present)
            limit = max(free - row.taken(most), min(free - row.taken(least), now))
            slack = _READING_ERROR * max(1.0, row.most)
            if now <= limit + slack:
                limit = max(limit, now)
            if row.taken(lowest) > limit + slack:
                raise PlanError(_too_little(row, {**known, **least}, lowest))
            if now > limit + slack:
                total = row.amount(row.taken(known) + row.taken(least) + now)
                why = f"today's allocation takes {total} of the {number(row.most)} that {row.host or row.name} has"
                for host in [row.host] if row.host else {m.node.host for m in movable if row.use.get(m.node.name)}:
                    forced[host].append(why)
            found.append(limit)
        for m in movable:
            if m.must:
                forced[m.node.host].append(
                    f"the share of {m.node.name}, {m.now:.3f}, lies outside its bounds "
                    f"{m.node.min_share:.2f} to {m.node.max_share:.2f}"
                    + (f" ({m.told.bounds_why})" if m.told.bounds_why else "")
                )
        limit = np.array(found)
        demand = np.array([[row.use.get(m.node.name, 0.0) for m in movable] for row in rows]).reshape(
            len(rows), len(movable)
        )
        lost = np.array([_lost(row, coming) for row in rows]).T  # (K, R)
        needed = demand @ np.array([lowest[m.node.name] for m in movable])
        return cls(
            tuple(rows),
            limit,
            np.maximum(limit - lost, np.minimum(limit, needed)),
            demand,
            {host: "; ".join(reasons) for host, reasons in forced.items() if reasons},
        )

    def fits(self, movable: Sequence[Movable], positions: Sequence[int | None]) -> bool:
        """Whether nodes at these positions keep every limit now."""
        used = self.demand @ np.array([m.share(p) for m, p in zip(movable, positions, strict=True)])
        return bool((used <= self.limit + _SLACK * np.maximum(1.0, self.limit)).all())

    def leaves(self, shares: Floats, chosen: Flags, movable: Sequence[Movable]) -> bool:
        """Whether the `chosen` nodes at these shares leave the others what they need at least, in all the day."""
        least = np.array([m.share(m.lowest) for m in movable])
        used = self.demand @ np.where(chosen, shares, least)
        return bool((used <= self.ahead + _SLACK * np.maximum(1.0, self.limit)).all())


def _rows(hosts: Sequence[Host], limits: Sequence[Limit], nodes: Sequence[Node]) -> list[Row]:
    demands = {node.name: node.demand.as_dict() for node in nodes}
    rows = [
        Row(
            host=host.name,
            name=resource,
            most=most,
            use={node.name: demands[node.name][resource] for node in nodes if node.host == host.name},
        )
        for host in hosts
        for resource, most in host.capacity.as_dict().items()
    ]
    return [*rows, *(Row(host="", name=limit.name, most=limit.most, use=limit.use) for limit in limits)]


def _lost(row: Row, coming: Mapping[str, Sequence[Resources]]) -> list[float]:
    """By how much less there will be in each period."""
    ahead = coming.get(row.host, ())
    if not ahead:
        return [0.0] * len(PERIODS)
    return [row.most - capacity.as_dict()[row.name] for capacity in ahead]


def _too_little(row: Row, fixed: Mapping[str, float], lowest: Mapping[str, float]) -> str:
    kept, needed = row.taken(fixed), row.taken(lowest)
    keeping = ", ".join(node for node in fixed if row.use.get(node))
    needing = ", ".join(node for node in lowest if row.use.get(node))
    return (
        f"{row.whose}: no allocation fits its {row.name}: "
        f"nodes that keep their share{keeping and f' ({keeping})'} take "
        f"{row.amount(kept)} and the others ({needing}) need at least {row.amount(needed)}, together "
        f"{number(kept + needed)} of {number(row.most)}. Lower a min_share or a demand, or correct the capacity"
    )
