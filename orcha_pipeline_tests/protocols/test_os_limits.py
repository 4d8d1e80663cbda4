import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.controllers.base import Limits, ProcessUsage
from orcha_pipeline.controllers.none import NoController
from orcha_pipeline.errors import AllocationError, UnsupportedError
from orcha_pipeline.model import LeverMode, Provenance
from orcha_pipeline.protocols.os_limits import apply_os_limit, is_os_limit, os_allocation, os_levers, os_usage
from orcha_pipeline_tests.protocols.fakes import FakeController, settings

GIB = 1024**3
NODE = settings("grass")  # 8 threads, 16 GiB, 100 Mbps; shares 0.1 to 0.9


def lever(name: str, controller=None, *, first: str | None = None):
    found = {one.name: one for one in os_levers(NODE, controller or FakeController(), first=first)}
    return found[name]


def test_each_demanded_resource_that_an_os_limits_has_a_lever_and_disk_has_none():
    assert [one.name for one in os_levers(NODE, FakeController())] == ["cpu_threads", "memory_gib", "bandwidth_mbps"]
    assert not is_os_limit("disk_gb")
    alone = settings("grass", demand={"cpu_threads": 0, "memory_gib": 0, "disk_gb": 5, "bandwidth_mbps": 3})
    assert [one.name for one in os_levers(alone, FakeController())] == ["bandwidth_mbps"]


def test_the_one_that_carries_the_share_comes_first_and_keeps_to_the_operators_shares():
    levers = os_levers(NODE, FakeController(), first="bandwidth_mbps", risks=["its score falls"])
    assert [one.name for one in levers] == ["bandwidth_mbps", "cpu_threads", "memory_gib"]
    assert (levers[0].minimum, levers[0].maximum, levers[0].at_full_share) == (10, 90, 100)
    assert (levers[1].minimum, levers[1].maximum) == (0.01, 8)
    assert all(one.mode is LeverMode.OS_LIMIT and one.risks[-1] == "its score falls" for one in levers)


def test_a_lever_that_cannot_be_moved_says_why():
    assert lever("cpu_threads").writable
    refused = lever("cpu_threads", FakeController(why_not="the socket is not there"))
    assert (refused.writable, refused.why_not) == (False, "the socket is not there")
    assert "no controller is set" in lever("memory_gib", NoController("n")).why_not


def test_no_limit_counts_as_full_demand_and_is_marked_as_counted():
    for name, full in (("cpu_threads", 8), ("memory_gib", 16), ("bandwidth_mbps", 100)):
        reading = os_allocation(NODE, Limits(), lever(name, first=name), carries_share=True)
        assert (reading.value, reading.share, reading.provenance) == (full, 1.0, Provenance.OUR_ESTIMATE)


def test_a_limit_in_force_is_measured_in_the_levers_unit():
    limits = Limits(cpu_threads=2, memory_bytes=4 * GIB, bandwidth_mbps=25)
    for name, value in (("cpu_threads", 2), ("memory_gib", 4), ("bandwidth_mbps", 25)):
        carrying = os_allocation(NODE, limits, lever(name, first=name), carries_share=True)
        assert (carrying.value, carrying.share, carrying.provenance) == (value, 0.25, Provenance.MEASURED)
        assert os_allocation(NODE, limits, lever(name), carries_share=False).share is None


def test_a_limit_is_set_alone_and_told_with_what_was_before():
    controller = FakeController()
    change = apply_os_limit("n", controller, lever("memory_gib", controller), 4)
    assert (change.previous, change.requested, change.read_back) == (16, 4, 4)
    assert controller.in_force == Limits(memory_bytes=4 * GIB)
    change = apply_os_limit("n", controller, lever("memory_gib", controller), change.previous)
    assert (change.previous, change.read_back) == (4, 16)


def test_what_the_host_makes_of_it_is_what_is_told():
    controller = FakeController()
    controller.takes = lambda wanted: Limits(cpu_threads=3)
    assert apply_os_limit("n", controller, lever("cpu_threads", controller), 4).read_back == 3
    controller.takes = lambda wanted: Limits(cpu_threads=math.inf)
    assert apply_os_limit("n", controller, lever("cpu_threads", controller), 4).read_back is None


@given(st.one_of(st.floats(max_value=0.0099), st.just(math.nan), st.just(math.inf)))
def test_what_no_process_can_live_with_is_refused_before_anything_is_touched(value):
    controller = FakeController()
    with pytest.raises(AllocationError, match=r"at least 0\.01 threads"):
        apply_os_limit("n", controller, lever("cpu_threads", controller), value)
    assert controller.in_force == Limits()


def test_a_lever_that_is_not_writable_is_not_moved():
    controller = FakeController(why_not="no right")
    with pytest.raises(UnsupportedError, match="cannot be changed: no right"):
        apply_os_limit("n", controller, lever("cpu_threads", controller), 4)


def test_usage_has_what_the_host_counts_and_leaves_out_what_it_does_not():
    controller = FakeController()
    assert os_usage(controller) == []
    assert os_usage(NoController("n")) == []
    controller.usage = lambda: ProcessUsage(cpu_seconds_total=1.5, sent_bytes_total=0.0, source="cgroup v2 /x")
    readings = {one.metric: (one.value, one.provenance, one.source) for one in os_usage(controller)}
    assert readings == {
        "cpu_seconds_total": (1.5, Provenance.MEASURED, "cgroup v2 /x"),
        "network_sent_bytes_total": (0.0, Provenance.MEASURED, "cgroup v2 /x"),
    }
