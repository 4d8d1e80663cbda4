"""One round over the nodes that do not answer: which are restarted now, and why the others are not."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

from orcha_pipeline.allocation.gates import BUDGET_MONTH
from orcha_pipeline.healing.choice import Down, Means, why_not, with_means
from orcha_pipeline.healing.downed import down_nodes, means_of
from orcha_pipeline.healing.recovery import end_left_behind
from orcha_pipeline.healing.telling import tell, told_of
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import slot_of
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.settings import NodeSettings
from orcha_pipeline.warehouse import healings
from orcha_pipeline.warehouse.connection import Warehouse

AT_ONCE = 3
"""Restarts that one round asks for: where many nodes fall away together, what they share is at fault, not they."""

OpenAdapters = Callable[
    [Installation, Sequence[NodeSettings]], AbstractContextManager[tuple[dict[str, Adapter], dict[str, str]]]
]
"""Opens the adapters of some nodes: node -> adapter, and node -> why it cannot be used."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A node to restart. The run key is the same however often the round of a slot is made."""

    node: str
    run_key: str


@dataclass(frozen=True, slots=True)
class Round:
    """What is to be restarted; node -> why not, of the others with an alert; how many restarts found their end."""

    chosen: tuple[Chosen, ...]
    left: Mapping[str, str]
    ended: int


def take_stock(installation: Installation, warehouse: Warehouse, open_adapters: OpenAdapters) -> Round:
    """End what was left behind, choose what is restarted now, and write into the alerts why the others are not."""
    ended = _end_left_behind(installation, warehouse, open_adapters)
    now = installation.clock.now()
    with warehouse.read() as connection:
        found = down_nodes(connection, installation, now)
    left = _left(found, installation, open_adapters, now)
    _tell(warehouse, found, left, now)
    chosen = [_chosen(down, now) for down in found if down.node not in left]
    return Round(tuple(chosen), left, ended)


def _end_left_behind(installation: Installation, warehouse: Warehouse, open_adapters: OpenAdapters) -> int:
    with warehouse.read() as connection:
        begun = {row.node for row in healings.without_end(connection)}
    if not begun:
        return 0
    with open_adapters(installation, _settings_of(installation, begun)) as (adapters, _):
        return end_left_behind(installation, warehouse, adapters)


def _left(
    found: Sequence[Down], installation: Installation, open_adapters: OpenAdapters, now: datetime
) -> dict[str, str]:
    """Node -> why it is not restarted now. Only of those that nothing else stands against the host is asked."""
    settings = installation.settings.healing
    left = {down.node: why for down in found if (why := why_not(down, now=now, settings=settings))}
    ready = [down for down in found if down.node not in left]
    if not ready:
        return left
    with open_adapters(installation, _settings_of(installation, {down.node for down in ready})) as (adapters, problems):
        places = AT_ONCE
        for down in ready:
            if not places:
                left[down.node] = f"{AT_ONCE} others come first"
                continue
            adapter = adapters.get(down.node)
            means = Means(problems.get(down.node, "it cannot be used")) if adapter is None else means_of(adapter)
            if why := why_not(with_means(down, means), now=now, settings=settings):
                left[down.node] = why
            else:
                places -= 1
    return left


def _tell(warehouse: Warehouse, found: Sequence[Down], left: Mapping[str, str], now: datetime) -> None:
    if not found:
        return
    with warehouse.write() as connection:
        rows = healings.healings_since(connection, now - BUDGET_MONTH)
        for down in found:
            restarts = [row for row in rows if row.alert_id == down.alert_id]
            why = "" if down.away_since is None else left.get(down.node, "")
            tell(connection, down.alert_id, told_of(restarts, why))


def _chosen(down: Down, now: datetime) -> Chosen:
    return Chosen(down.node, f"{down.node}:{len(down.restarts) + 1}:{slot_of(now):%Y-%m-%dT%H:%M}")


def _settings_of(installation: Installation, nodes: Collection[str]) -> list[NodeSettings]:
    return [node for node in installation.settings.nodes if node.name in nodes]
