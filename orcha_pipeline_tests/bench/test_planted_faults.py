from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orcha_pipeline.model import SLOT
from orcha_pipeline.warehouse.alert_rows import AlertRow
from orcha_pipeline_tests.bench.planted_faults import Planted, judged, planted
from orcha_pipeline_tests.bench.soak_world import PRICES, Outage

BEGAN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NODES = ("a-1", "b-1")
MINUTES = timedelta(minutes=1)


def outage(*doors, after=20, lasts=40, kind="dead") -> Outage:
    return Outage(after * MINUTES, lasts * MINUTES, doors, kind)


def expected(*outages, cycles=40) -> list[Planted]:
    return planted(outages, began=BEGAN, cycles=cycles, host="h", nodes=NODES, stale=timedelta(hours=1))


def at(cycle) -> datetime:
    return BEGAN + cycle * SLOT


def alert(kind="node-unreachable", subject="a-1", *, raised=2, resolved=6, **more) -> AlertRow:
    """By the cycles; by default as it is to be for the outage above."""
    row = AlertRow(
        alert_id=f"{kind} {subject} {raised}",
        raised_at=at(raised) + MINUTES,
        kind=kind,
        severity="warning",
        subject=subject,
        message="",
        evidence={},
        resolved_at=None if resolved is None else at(resolved) + MINUTES,
    )
    return replace(row, **more)


def test_a_fault_is_told_from_the_first_cycle_that_meets_it_to_the_last():
    # It begins with the cycle after 20 minutes, the second, and ends 40 minutes later, before the fifth.
    assert expected(outage("a-1")) == [Planted(("node-unreachable", "a-1"), at(2), at(4))]
    assert expected(outage("a-1", after=15, lasts=15)) == [Planted(("node-unreachable", "a-1"), at(1), at(1))]


def test_all_nodes_of_a_host_are_one_fault_more():
    keys = {each.key for each in expected(outage(*NODES, "docker"))}
    assert keys == {("host-unreachable", "h"), ("node-unreachable", "a-1"), ("node-unreachable", "b-1")}


def test_a_feed_is_told_of_once_its_last_price_is_too_old():
    assert expected(outage(PRICES)) == []
    (told,) = expected(outage(PRICES, lasts=120))
    assert told == Planted(("prices-stale", "orcha"), at(5), at(9))


def test_faults_that_follow_on_one_another_are_one_and_those_with_a_pause_are_two():
    assert len(expected(outage("a-1"), outage("a-1", after=70))) == 1
    assert len(expected(outage("a-1"), outage("a-1", after=90))) == 1
    assert len(expected(outage("a-1"), outage("a-1", after=91))) == 2


def test_what_the_last_cycles_do_not_see_end_is_left_out():
    assert len(expected(outage("a-1"), cycles=7)) == 1
    assert expected(outage("a-1"), cycles=6) == []
    assert expected(outage("a-1", kind="apply_fails")) == []


def test_an_alert_for_each_fault_is_all_that_is_asked():
    found = judged([alert()], expected(outage("a-1")), failed=[], idle={})
    assert (found["planted"], found["told once and over"]) == (1, 1)
    assert (found["amiss"], found["following"], found["for nothing"]) == ([], {}, {})


@pytest.mark.parametrize(
    "alerts",
    [
        [],
        [alert(raised=3)],
        [alert(resolved=5)],
        [alert(resolved=7)],
        [alert(resolved=None)],
        [alert(subject="b-1")],
        [alert("node-error")],
        [alert(), alert(raised=4)],
    ],
    ids=["none", "late", "over too early", "too late", "open", "another node", "another rule", "twice"],
)
def test_a_fault_that_is_told_otherwise_is_amiss(alerts):
    found = judged(alerts, expected(outage("a-1")), failed=[], idle={})
    assert found["told once and over"] == 0
    assert len(found["amiss"]) == 1


def test_what_follows_from_a_fault_is_told_apart_from_what_was_raised_for_nothing():
    late = alert("earnings-drop", raised=8, resolved=9)
    grouped = alert("node-unreachable", "b-1", group_id="another")
    change = alert("allocation-failed", "h", raised=9)
    others = [
        alert("earnings-drop", "b-1", raised=8),
        alert("earnings-drop", raised=30, resolved=32),
        alert("allocation-failed", "h", raised=20, resolved=22),
        alert(raised=20, resolved=22),
    ]
    found = judged([alert(), late, grouped, change, *others], expected(outage("a-1")), failed=[at(8)], idle={})
    assert found["told once and over"] == 1
    assert found["following"] == {"earnings-drop": 1, "node-unreachable": 1, "allocation-failed": 1}
    told = {"earnings-drop (warning)": 2, "allocation-failed (warning)": 1, "node-unreachable (warning)": 1}
    assert found["for nothing"] == told


def test_what_the_world_does_to_a_node_by_itself_explains_its_alerts():
    told = [alert("node-error", raised=20, resolved=22), alert("earnings-drop", raised=24, resolved=26)]
    assert judged(told, [], failed=[], idle={"a-1": [at(20)]})["following"] == {"node-error": 1, "earnings-drop": 1}
    elsewhere = judged(told, [], failed=[], idle={"b-1": [at(20)], "a-1": [at(2)]})
    assert elsewhere["for nothing"] == {"node-error (warning)": 1, "earnings-drop (warning)": 1}
