import threading
from datetime import timedelta

import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AuthenticationError, NodeConnectionError, ParseError, UnsupportedError
from orcha_pipeline.model import AllocationReading, HealthReading, HealthState, Provenance, UsageReading, Window
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.http import remaining_seconds
from orcha_pipeline.protocols.reading import read_node, read_nodes
from orcha_pipeline_tests.protocols.fakes import NOW, FakeController, settings

WINDOW = Window(NOW - timedelta(hours=1), NOW)
USAGE = UsageReading(metric="disk_used_bytes", value=1.0, provenance=Provenance.MEASURED, source="test")
ALLOCATION = AllocationReading(
    lever="x", value=1.0, unit="GB", share=0.1, provenance=Provenance.MEASURED, source="test"
)


class Scripted(Adapter):
    """Each part is a value, an exception to raise, or a function to ask."""

    protocol = "scripted"
    native_unit = "USD"
    token = None

    def __init__(self, name="node-1", timeout_seconds=5.0, **parts):
        super().__init__(
            settings("storj", name=name, timeout_seconds=timeout_seconds),
            controller=FakeController(),
            clock=FixedClock(NOW),
        )
        self.parts = {"health": HealthReading(state=HealthState.HEALTHY), "usage": [USAGE], "allocation": ALLOCATION}
        self.parts |= parts

    def _part(self, name):
        part = self.parts.get(name, [])
        if isinstance(part, Exception):
            raise part
        return part() if callable(part) else part

    def health(self):
        return self._part("health")

    def earnings(self, window):
        return self._part("earnings")

    def earnings_history(self, window):
        return []

    def resource_usage(self):
        return self._part("usage")

    def allocation(self):
        return self._part("allocation")

    def levers(self):
        return self._part("levers")

    def apply(self, lever, value):
        raise UnsupportedError(self.node, "scripted")

    def close(self):
        pass


def read(**parts):
    return read_node(Scripted(**parts), WINDOW, NOW)


def test_a_reading_holds_every_part_and_the_moment_it_is_stamped_with():
    reading = read()
    assert (reading.node, reading.protocol, reading.observed_at) == ("node-1", "scripted", NOW)
    assert reading.usage == (USAGE,)
    assert reading.allocation == ALLOCATION
    assert reading.health.state is HealthState.HEALTHY


def test_earnings_that_fail_leave_the_rest_and_put_the_node_in_error():
    reading = read(earnings=ParseError("node-1", "$.payout: is missing"))
    assert reading.usage == (USAGE,)
    assert reading.allocation == ALLOCATION
    assert reading.earnings == ()
    assert reading.health.state is HealthState.ERROR
    assert reading.health.error_kind == "parse"
    assert reading.health.reason == "earnings: $.payout: is missing"


def test_a_node_at_risk_stays_at_risk_whatever_else_fails():
    risky = HealthReading(state=HealthState.AT_RISK, reason="audit score 0.9", scores={"audit": 0.9})
    health = read(health=risky, earnings=ParseError("node-1", "broken")).health
    assert health.state is HealthState.AT_RISK
    assert health.reason == "audit score 0.9; earnings: broken"
    assert health.scores == {"audit": 0.9}


def test_usage_that_fails_is_told_but_stops_no_decision():
    health = read(usage=ParseError("node-1", "broken")).health
    assert (health.state, health.error_kind) == (HealthState.HEALTHY, "parse")
    assert health.reason == "usage: broken"


@pytest.mark.parametrize(
    ("error", "state", "kind"),
    [
        (NodeConnectionError("node-1", "refused"), HealthState.UNREACHABLE, "connection"),
        (AuthenticationError("node-1", "expired"), HealthState.ERROR, "authentication"),
        (ZeroDivisionError("in a plug-in"), HealthState.ERROR, "program"),
    ],
)
def test_a_node_whose_health_cannot_be_read_says_why(error, state, kind):
    reading = read(health=error)
    assert (reading.health.state, reading.health.error_kind) == (state, kind)
    assert reading.usage == (USAGE,)


def test_a_part_the_protocol_does_not_have_is_no_failure():
    reading = read(allocation=UnsupportedError("node-1", "no controller"))
    assert reading.allocation is None
    assert reading.health == HealthReading(state=HealthState.HEALTHY)


def test_no_part_may_use_up_the_time_of_the_others():
    left = {}
    parts = {name: (lambda name=name: left.update({name: remaining_seconds()}) or []) for name in ("usage", "earnings")}
    read(timeout_seconds=8.0, health=lambda: left.update(health=remaining_seconds()), **parts)
    assert left["health"] <= 4.0
    assert left["usage"] <= 4.0
    assert 4.0 < left["earnings"] <= 8.0


def test_nodes_come_back_in_their_order():
    nodes = [Scripted(name=f"node-{i}") for i in range(10)]
    readings = read_nodes(nodes, dict.fromkeys((n.node for n in nodes), WINDOW), NOW, workers=3)
    assert [r.node for r in readings] == [f"node-{i}" for i in range(10)]


def test_a_node_that_hangs_is_given_up_and_its_place_goes_to_the_next(monkeypatch):
    monkeypatch.setattr("orcha_pipeline.protocols.reading.GRACE_SECONDS", 0.0)
    release = threading.Event()
    hanging = [Scripted(name=f"hanging-{i}", timeout_seconds=0.05, health=release.wait) for i in range(2)]
    well = [Scripted(name=f"well-{i}") for i in range(4)]
    nodes = [*hanging, *well]
    try:
        readings = read_nodes(nodes, dict.fromkeys((n.node for n in nodes), WINDOW), NOW, workers=2)
    finally:
        release.set()
        for thread in threading.enumerate():
            if thread.name.startswith("read-hanging"):
                assert thread.daemon
                thread.join()
    states = [r.health.state for r in readings]
    assert states == [HealthState.UNREACHABLE] * 2 + [HealthState.HEALTHY] * 4
    assert "0.05 s" in readings[0].health.reason
    assert readings[0].health.error_kind == "connection"


def test_no_nodes_are_no_readings():
    assert read_nodes([], {}, NOW) == []
