import re
import threading
from datetime import timedelta
from decimal import Decimal

import httpx
import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AuthenticationError, NodeConnectionError, ParseError, UnsupportedError
from orcha_pipeline.model import (
    AllocationReading,
    Amounts,
    EarningsBucket,
    HealthReading,
    HealthState,
    Provenance,
    UsageReading,
    Window,
)
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.http import NodeHttp, remaining_seconds
from orcha_pipeline.protocols.reading import read_node, read_nodes
from orcha_pipeline_tests.protocols.fakes import NOW, FakeController, Script, settings

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
    assert (reading.node, reading.protocol, reading.observed_at) == ("node-1", "storj", NOW)
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


def test_an_unforeseen_error_is_told_by_its_kind_and_line_without_its_text():
    reason = read(health=ZeroDivisionError("sekret-0123456789")).health.reason
    assert re.search(r"the adapter failed: ZeroDivisionError in \w+\.py, line \d+", reason)
    assert "sekret" not in reason


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


# --- one sick node among others


def well(name="well"):
    return Scripted(name=name, earnings=[EARNED])


EARNED = EarningsBucket(
    stream="x",
    observed_at=NOW,
    window=WINDOW,
    unit="USD",
    amounts=Amounts(net=Decimal(1)),
    provenance=Provenance.MEASURED,
    source="test",
)


def read_all(nodes, **changes):
    return read_nodes(nodes, dict.fromkeys((n.node for n in nodes), WINDOW), NOW, **changes)


@pytest.mark.parametrize(
    "error",
    [
        NodeConnectionError("sick", "refused"),
        ParseError("sick", "$.a: is missing"),
        AuthenticationError("sick", "expired"),
        RecursionError(),
        MemoryError(),
    ],
)
def test_a_sick_node_changes_nothing_of_the_others(error):
    parts = dict.fromkeys(("health", "levers", "allocation", "usage", "earnings"), error)
    alone = read_all([well()])
    together = read_all([Scripted(name="sick-1", **parts), well(), Scripted(name="sick-2", **parts)], workers=1)
    assert together[1] == alone[0]
    for sick in (together[0], together[2]):
        assert (sick.earnings, sick.usage, sick.allocation, sick.levers) == ((), (), None, ())
        assert sick.health.state in (HealthState.UNREACHABLE, HealthState.ERROR)


@pytest.mark.parametrize("part", ["health", "levers", "allocation", "usage", "earnings"])
def test_a_node_that_hangs_in_any_part_is_not_waited_for(part, monkeypatch):
    """The node hangs until all others have been read: were they to wait for it, this would not end."""
    monkeypatch.setattr("orcha_pipeline.protocols.reading.GRACE_SECONDS", 0.0)
    others = [Scripted(name=f"well-{i}") for i in range(5)]
    read_of = []
    release = threading.Event()

    def last(index):
        read_of.append(index)
        if len(read_of) == len(others):
            release.set()
        return [EARNED]

    for index, node in enumerate(others):
        node.parts["earnings"] = lambda index=index: last(index)
    hanging = Scripted(name="hanging", timeout_seconds=60.0, **{part: lambda: release.wait() and []})
    readings = read_all([hanging, *others], workers=2)
    assert [r.earnings for r in readings[1:]] == [(EARNED,)] * 5


def test_a_dead_node_costs_its_reading_three_attempts_and_the_next_reading_one():
    """Through the HTTP layer: a node that was given up is asked again by the next reading, whatever its clock says."""
    ends = ["refused"]

    def answer(request):
        if ends[0] == "refused":
            raise httpx.ConnectError("refused", request=request)
        return {"ok": True}

    script = Script(dict.fromkeys(("/a", "/allocation", "/levers", "/usage", "/earnings"), answer))
    node = NodeHttp("node-1", "http://127.0.0.1:9", timeout_seconds=5.0, transport=script)
    parts = {name: (lambda name=name: node.get_json(f"/{name}") and []) for name in ("levers", "usage", "earnings")}
    adapter = Scripted(
        health=lambda: node.get_json("/a") and HealthReading(state=HealthState.HEALTHY),
        allocation=lambda: node.get_json("/allocation") and ALLOCATION,
        **parts,
    )
    asked = []
    for state in ("refused", "refused", "up", "up"):
        ends[0] = state
        before = len(script.requests)
        reading = read_node(adapter, WINDOW, NOW)
        asked.append(len(script.requests) - before)
        assert reading.health.state is (HealthState.HEALTHY if state == "up" else HealthState.UNREACHABLE)
    assert asked == [3, 1, 5, 5]


def test_the_nodes_clock_is_told_among_its_scores():
    class Ahead(Scripted):
        def clock_ahead_seconds(self):
            return self._part("clock")

    reading = HealthReading(state=HealthState.HEALTHY, scores={"audit": 0.9})
    assert read_node(Ahead(health=reading, clock=90.0), WINDOW, NOW).health.scores == {
        "audit": 0.9,
        "clock_ahead_seconds": 90.0,
    }
    broken = read_node(Ahead(health=reading, clock=RuntimeError("bug")), WINDOW, NOW).health
    assert (broken.state, dict(broken.scores)) == (HealthState.HEALTHY, {"audit": 0.9})
    assert read_node(Ahead(health=AuthenticationError("node-1", "no")), WINDOW, NOW).health.scores == {}
