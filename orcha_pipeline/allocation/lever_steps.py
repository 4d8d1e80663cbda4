"""Where a node's lever can go: the steps within its bounds that make a change, and the shares they stand for. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orcha_pipeline.allocation.change_program import Reach
from orcha_pipeline.allocation.outlook import Floats
from orcha_pipeline.allocation.plan import MIN_MOVE
from orcha_pipeline.model import Lever, Node

if TYPE_CHECKING:
    from orcha_pipeline.allocation.plan_inputs import PlanNode

_ON_GRID = 1e-6  # of a step: a solver's share this near below a step stands on it


def steps_within(node: Node, lever: Lever) -> tuple[int, int]:
    """First and last step of the lever inside both its own and the node's bounds."""
    first = math.ceil((node.min_share * lever.at_full_share - lever.minimum) / lever.step - _ON_GRID)
    top = min(node.max_share * lever.at_full_share, lever.maximum)
    return max(0, first), math.floor((top - lever.minimum) / lever.step + _ON_GRID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Movable:
    """A node that may move, and the steps of its lever that make a change: `down` and `up` are (first, last) or None.

    A position is a step, or None for staying. `must` is set where the present share is out of bounds.
    """

    node: Node
    lever: Lever
    curvature: float
    now: float
    told: PlanNode
    down: tuple[int, int] | None
    up: tuple[int, int] | None
    must: bool
    chunk: int
    later: tuple[float, float]
    """The least and greatest share it can have when it does not rest."""

    @classmethod
    def of(cls, each: PlanNode) -> Movable:
        """Of a node with a usable lever and a known share; one that rests can go nowhere."""
        node, lever, now = each.node, each.lever, each.share_now
        assert lever is not None and now is not None  # noqa: S101, PT018 -- `why_fixed` has seen both
        first, last = steps_within(node, lever)
        at_now = now * lever.at_full_share
        least = max(lever.step, MIN_MOVE * lever.at_full_share)
        below = min(last, math.floor((at_now - least - lever.minimum) / lever.step + _ON_GRID))
        above = max(first, math.ceil((at_now + least - lever.minimum) / lever.step - _ON_GRID))
        down = (first, below) if below >= first and lever.safe_direction != "up" else None
        up = (above, last) if above <= last and lever.safe_direction != "down" else None
        outside = now < node.min_share - MIN_MOVE or now > node.max_share + MIN_MOVE
        return cls(
            node=node,
            lever=lever,
            curvature=each.response.curvature,
            now=now,
            told=each,
            down=None if each.rests else down,
            up=None if each.rests else up,
            later=(
                lever.share_for(lever.minimum + down[0] * lever.step) if down else now,
                lever.share_for(lever.minimum + up[1] * lever.step) if up else now,
            ),
            must=outside and not each.rests and (down is not None or up is not None),
            chunk=math.ceil(MIN_MOVE * lever.at_full_share / lever.step - _ON_GRID) or 1,
        )

    def share(self, position: int | None) -> float:
        """The share at a position."""
        if position is None:
            return self.now
        return self.lever.share_for(self.value(position))

    def value(self, step: int) -> float:
        """The lever's value at a step."""
        return self.lever.value_for(self.lever.share_for(self.lever.minimum + step * self.lever.step))

    @property
    def lowest(self) -> int | None:
        """The position that uses least."""
        if self.down:
            return self.down[0]
        return self.up[0] if self.must and self.up else None

    def step_below(self, share: float, *, up: bool) -> int:
        """The last step at or below `share` on the given side."""
        first, last = (self.up if up else self.down) or (0, 0)
        step = math.floor((share * self.lever.at_full_share - self.lever.minimum) / self.lever.step + _ON_GRID)
        return min(last, max(first, step))

    def higher(self, position: int | None) -> list[int | None]:
        """Neighbouring positions that use more, and staying."""
        if position is None:
            return [self.up[0]] if self.up else []
        first, last = self.up if self.up and position >= self.up[0] else (self.down or (0, 0))
        above: list[int | None] = [min(last, position + self.chunk)] if first <= position < last else []
        return above if self.must else [*above, None]

    def lower(self, position: int | None) -> list[int | None]:
        """Neighbouring positions that use less."""
        if position is None:
            return [self.down[1]] if self.down else []
        if self.up and position >= self.up[0]:
            if position > self.up[0]:
                return [max(self.up[0], position - 1)]
            return [] if self.must else [None]
        return [position - 1] if self.down and position > self.down[0] else []


def reach_of(movable: Sequence[Movable]) -> Reach:
    """Where the levers' steps let each node go."""

    def ends(side: str, end: int) -> Floats:
        steps = [getattr(m, side) for m in movable]
        return np.array(
            [np.nan if step is None else m.share(step[end]) for m, step in zip(movable, steps, strict=True)]
        )

    return Reach(
        now=np.array([m.now for m in movable]),
        down_first=ends("down", 0),
        down_last=ends("down", 1),
        up_first=ends("up", 0),
        up_last=ends("up", 1),
        must=np.array([m.must for m in movable]),
    )
