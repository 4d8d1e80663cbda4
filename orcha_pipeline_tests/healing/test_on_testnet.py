"""Self-healing of emulated nodes behind real HTTP: read by their adapters, restarted through the Docker emulator."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest

from orcha_pipeline.anomalies.alerts.rounds import take_stock as raise_alerts
from orcha_pipeline.anomalies.rules_node import health_anomaly
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.healing.heal import Healing, Waiting, heal
from orcha_pipeline.healing.rounds import Round, take_stock
from orcha_pipeline.ingest import open_adapters
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import HOUR, SLOT, HealthState, Window, slot_of
from orcha_pipeline.nodes_read import open_adapters_of
from orcha_pipeline.protocols.reading import read_nodes
from orcha_pipeline.settings import HealingSettings, Settings
from orcha_pipeline.testnet.fleet import embedded_settings
from orcha_pipeline.warehouse import alert_rows, healings
from orcha_pipeline.warehouse.anomaly_rows import record_anomalies
from orcha_pipeline.warehouse.consistency import breaches
from orcha_pipeline.warehouse.facts import record_readings
from orcha_pipeline.warehouse.healings import HealingStatus
from orcha_pipeline_tests.testnet.conftest import START, Lab
from orcha_pipeline_tests.testnet.wire import Wire, wired

STORJ, STREAMR, GRASS = "storj-1", "streamr-1", "grass-1"


class Fleet:
    """The testnet's nodes, and what cycles and runs do about them. Time passes on the testnet's clock alone."""

    def __init__(self, wire: Wire, installation: Installation, clock: FixedClock) -> None:
        self.wire, self.installation, self.clock = wire, installation, clock
        self.warehouse = installation.warehouse
        self.states: dict[str, HealthState] = {}

    def pass_seconds(self, seconds: float) -> None:
        self.wire.lab.pass_seconds(round(seconds))
        self.clock.set(datetime.fromtimestamp(self.wire.lab.testnet.time.now, UTC))

    def cycle(self) -> Round:
        self.pass_seconds(SLOT.total_seconds())
        now = self.clock.now()
        with open_adapters(self.installation) as adapters:
            readings = read_nodes([*adapters.values()], dict.fromkeys(adapters, Window(now - HOUR, now)), now)
        self.states = {reading.node: reading.health.state for reading in readings}
        found = [health_anomaly(each.node, each.health, at=now, host="host-1") for each in readings]
        rows = [{k: v for k, v in asdict(each).items() if k != "slot"} for each in found if each]
        with self.warehouse.write() as connection:
            record_readings(connection, readings)
            record_anomalies(connection, slot_of(now), rows)
            raise_alerts(connection, self.installation, now)
        return take_stock(self.installation, self.warehouse, open_adapters_of)

    def play(self, cycles: int) -> Round:
        found = Round((), {}, 0)
        for _ in range(cycles):
            found = self.cycle()
        return found

    def heal(self, node: str) -> Healing:
        with open_adapters(self.installation) as adapters:
            return heal(
                node,
                run_id="run",
                installation=self.installation,
                warehouse=self.warehouse,
                adapters=adapters,
                waiting=Waiting(self.pass_seconds, lambda: self.clock.now().timestamp()),
            )

    def stop(self, node: str) -> None:
        assert self.wire.client.post(f"/docker/containers/{node}/stop").status_code == 204

    def started_at(self, node: str) -> str:
        return self.wire.client.get(f"/docker/containers/{node}/json").json()["State"]["StartedAt"]

    def rows(self) -> list[healings.HealingRow]:
        with self.warehouse.read() as connection:
            return healings.healings_since(connection, START)

    def open_alerts(self) -> list[str]:
        with self.warehouse.read() as connection:
            return [f"{alert.kind} {alert.subject}" for alert in alert_rows.open_alerts(connection)]


@pytest.fixture
def fleet(tmp_path) -> Iterator[Fleet]:
    with wired(Lab(tmp_path / "home" / "testnet")) as wire:
        port = int(wire.base.rpartition(":")[2])
        given = {"home": tmp_path / "home", "testnet": {"port": port}}
        settings = embedded_settings(Settings.model_validate(given))
        clock = FixedClock(START)
        made = Installation(settings=settings, clock=clock, simulated=True)
        made.warehouse.migrate()
        fleet = Fleet(wire, made, clock)
        fleet.cycle()
        assert set(fleet.states.values()) == {HealthState.HEALTHY}
        yield fleet


@pytest.mark.parametrize("node", [STORJ, STREAMR])
def test_a_node_whose_container_stopped_is_started_again_and_its_alert_ends(fleet, node):
    fleet.stop(node)
    before = fleet.started_at(node)
    assert fleet.play(2).chosen == ()
    assert fleet.states[node] is HealthState.UNREACHABLE
    assert [each.node for each in fleet.cycle().chosen] == [node]
    done = fleet.heal(node)
    assert done.status is HealingStatus.HEALED, done.reason
    assert fleet.started_at(node) > before
    assert fleet.play(2).left == {}
    assert fleet.states[node] is HealthState.HEALTHY
    assert fleet.open_alerts() == []
    with fleet.warehouse.read() as connection:
        assert breaches(connection, fleet.clock.now()) == []


def test_a_node_that_no_restart_mends_is_tried_ever_more_seldom(fleet):
    settings = fleet.installation.settings
    quick = settings.model_copy(update={"healing": HealingSettings(verify_minutes=1.0)})
    fleet.installation = replace(fleet.installation, settings=quick)
    fleet.wire.fault(STORJ, "dead")
    tried = []
    for _ in range(4 * 5):
        for chosen in fleet.cycle().chosen:
            tried.append(chosen.node)
            assert fleet.heal(chosen.node).status is HealingStatus.FAILED
    assert tried == [STORJ] * 3
    rows = fleet.rows()
    assert [row.restarts_before for row in rows] == [0, 1, 2]
    first, second, third = (row.started_at for row in rows)
    assert HOUR <= second - first < HOUR + 2 * SLOT
    assert 2 * HOUR <= third - second < 2 * HOUR + 2 * SLOT
    assert fleet.open_alerts() == [f"node-unreachable {STORJ}"]


def test_where_the_engine_does_not_answer_nothing_is_done_and_nothing_used_up(fleet):
    fleet.stop(STORJ)
    fleet.play(3)
    fleet.wire.fault("docker", "dead")
    done = fleet.heal(STORJ)
    assert done.status is None
    assert "out of reach" in done.reason
    assert fleet.rows() == []
    fleet.wire.client.delete("/testnet/faults")
    assert fleet.heal(STORJ).status is HealingStatus.HEALED


def test_when_the_cloud_of_grass_is_away_no_client_is_restarted(fleet):
    fleet.wire.fault("grass", "dead")
    before = fleet.started_at(GRASS)
    found = fleet.play(6)
    assert fleet.states[GRASS] is HealthState.UNREACHABLE
    assert found.left == {GRASS: "what does not answer is the service of grass, not the node"}
    assert (found.chosen, fleet.rows(), fleet.started_at(GRASS)) == ((), [], before)
