"""A host whose nodes fall away, cycles that notice it, and time that passes only while somebody waits."""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.controllers.base import Limits
from orcha_pipeline.controllers.none import NoController
from orcha_pipeline.errors import NodeConnectionError
from orcha_pipeline.healing.choice import Down
from orcha_pipeline.healing.heal import Healing, Waiting, heal
from orcha_pipeline.healing.rounds import Round, take_stock
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import SLOT, HealthReading, HealthState, Lever, Mode, NodeReading
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.settings import HealingSettings, NodeSettings
from orcha_pipeline.warehouse import healings
from orcha_pipeline.warehouse.facts import record_readings
from orcha_pipeline.warehouse.healings import HealingRow
from orcha_pipeline_tests.anomalies.alerts.build import Rig as AlertRig
from orcha_pipeline_tests.anomalies.alerts.build import away
from orcha_pipeline_tests.rig import LEVER, NOW, FakeNode

MINUTE = timedelta(minutes=1)


def down(**changes: Any) -> Down:
    """A node in mode auto that has been away for an hour."""
    known: dict[str, Any] = {
        "node": "a",
        "host": "box",
        "alert_id": "alert-1",
        "mode": Mode.AUTO,
        "away_since": NOW - timedelta(hours=1),
    }
    return Down(**known | changes)


def healing_row(**changes: Any) -> HealingRow:
    """A restart that was begun."""
    known: dict[str, Any] = {
        "healing_id": "h-1",
        "node": "a",
        "host": "box",
        "alert_id": "alert-1",
        "mode": Mode.AUTO,
        "away_since": NOW - timedelta(hours=1),
        "restarts_before": 0,
        "restarts_per_month": 4,
        "started_at": NOW,
        "answers_by": NOW + 18 * MINUTE,
        "dagster_run_id": "run",
    }
    return HealingRow(**known | changes)


class Restarts(NoController):
    """Restarts a node: `does` is what comes of it."""

    def __init__(self, node: str) -> None:
        super().__init__(node)
        self.does: Callable[[], None] = lambda: None
        self.reaches: Callable[[], None] = lambda: None
        self.cannot = ""
        self.graces: list[int] = []

    def why_cannot_restart(self) -> str:
        return self.cannot

    def limits(self) -> Limits:
        self.reaches()
        return Limits()

    def restart(self, grace_seconds: int) -> None:
        self.graces.append(grace_seconds)
        self.does()


class MortalNode(FakeNode):
    """A node that can be down, with a lever that lets it be restarted four times a month."""

    def __init__(self, name: str, clock: FixedClock) -> None:
        super().__init__(name, clock)
        self.controller = self.restarts = Restarts(name)
        self.state = HealthState.HEALTHY
        self.asked_for_health = 0
        self.lever: Lever | None = replace(LEVER, restarts_per_month=4)

    def health(self) -> HealthReading:
        self.asked_for_health += 1
        if self.state is HealthState.UNREACHABLE:
            raise NodeConnectionError(self.node, "connection refused")
        return HealthReading(state=self.state)

    def levers(self) -> Sequence[Lever]:
        return () if self.lever is None else (self.lever,)

    def come_back(self) -> None:
        self.state = HealthState.HEALTHY


class Rig:
    """Nodes `a`, `b` and `c` on one host, self-healing on; `play` plays cycles."""

    def __init__(self, home: Path, *, mode: str = "auto", **healing: Any) -> None:
        self.alerts = AlertRig(home, nodes=("a", "b", "c"))
        self.clock = self.alerts.clock
        self.nodes = {name: MortalNode(name, self.clock) for name in ("a", "b", "c")}
        self.configure(mode=mode, **{"enabled": True} | healing)
        self.warehouse = self.alerts.warehouse
        self.waited = 0.0

    def configure(
        self, *, mode: str = "auto", nodes: Mapping[str, Mapping[str, Any]] | None = None, **told: Any
    ) -> None:
        """Make these the settings."""
        settings = self.alerts.installation.settings
        changed = {
            "healing": HealingSettings.model_validate(told),
            "apply": settings.apply.model_copy(update={"mode": mode}),
            "nodes": tuple(each.model_copy(update=(nodes or {}).get(each.name, {})) for each in settings.nodes),
        }
        self.alerts.installation = replace(self.alerts.installation, settings=settings.model_copy(update=changed))

    @property
    def installation(self) -> Installation:
        return self.alerts.installation

    def fall(self, *names: str) -> None:
        for name in names:
            self.nodes[name].state = HealthState.UNREACHABLE

    def cycle(self, *, after: timedelta = SLOT) -> Round:
        """Let time pass, read the nodes, raise what is to be raised, and see what is to be restarted."""
        now = self.clock.now() + after
        readings = [
            NodeReading(node=name, protocol="fake", observed_at=now, health=HealthReading(state=node.state))
            for name, node in self.nodes.items()
        ]
        with self.warehouse.write() as connection:
            record_readings(connection, readings)
        lost = [name for name, node in self.nodes.items() if node.state is HealthState.UNREACHABLE]
        self.alerts.cycle(*(away(name) for name in lost), after=after)
        return take_stock(self.installation, self.warehouse, self.open_adapters)

    def play(self, cycles: int) -> Round:
        """So many cycles; what the last came to."""
        found = Round((), {}, 0)
        for _ in range(cycles):
            found = self.cycle()
        return found

    @contextmanager
    def open_adapters(
        self, _installation: Installation, nodes: Sequence[NodeSettings]
    ) -> Generator[tuple[dict[str, Adapter], dict[str, str]]]:
        yield {node.name: self.nodes[node.name] for node in nodes}, {}

    def wait(self, seconds: float) -> None:
        self.waited += seconds
        self.clock.set(self.clock.now() + timedelta(seconds=seconds))

    def heal(self, name: str = "a") -> Healing:
        """The run that a round asks for."""
        return heal(
            name,
            run_id="run-2",
            installation=self.installation,
            warehouse=self.warehouse,
            adapters=self.nodes,
            waiting=Waiting(self.wait, lambda: self.waited),
        )

    def rows(self) -> list[HealingRow]:
        """All restarts on record, by time."""
        with self.warehouse.read() as connection:
            return healings.healings_since(connection, datetime.min.replace(tzinfo=NOW.tzinfo))

    def told(self, name: str = "a") -> str:
        """What the alert of the node says of restarts."""
        return str(self.alerts.alerts()["node-unreachable", name].evidence.get("healing", ""))

    def restarted(self, names: Collection[str] = ("a", "b", "c")) -> list[str]:
        """The nodes that were restarted, once for each time."""
        return [name for name in names for _ in self.nodes[name].restarts.graces]
