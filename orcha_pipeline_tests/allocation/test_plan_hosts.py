"""The plans of all hosts from settings and what is known, without any I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from orcha_pipeline.allocation.gates import decide
from orcha_pipeline.allocation.plan_hosts import plan_hosts
from orcha_pipeline.allocation.recovery import Recovered
from orcha_pipeline.allocation.situation import Situation
from orcha_pipeline.anomalies.catalogue import NODE_FLAGGED
from orcha_pipeline.model import HOUR, ApplicationStatus, HealthState, Lever, LeverMode, Mode, Verdict, YieldForecast
from orcha_pipeline.settings import Settings
from orcha_pipeline.warehouse.anomaly_rows import AnomalyRow
from orcha_pipeline.warehouse.decisions import NodeState
from orcha_pipeline.warehouse.freezes import FreezeRow
from orcha_pipeline.warehouse.planning_rows import Quarters
from orcha_pipeline_tests.allocation.build import NOW, a_forecast, a_lever

CAPACITY = {"cpu_threads": 10.0, "memory_gib": 64.0, "disk_gb": 8000.0, "bandwidth_mbps": 500.0}
NOTHING = dict.fromkeys(CAPACITY, 0.0)
DAY = timedelta(hours=24)
EVENING = {"from": "18:00", "until": "23:00"}
RISKY = a_lever(mode=LeverMode.RESTART, risks=("its reputation falls",))


def host(name="box", *schedules: dict[str, Any], **amounts: float) -> dict[str, Any]:
    return {"name": name, "capacity": {**CAPACITY, **amounts}, "schedules": schedules}


def node(name: str, on="box", *, cpu=10.0, bandwidth=0.0, **values: Any) -> dict[str, Any]:
    demand = {**NOTHING, "cpu_threads": cpu, "bandwidth_mbps": bandwidth}
    return {"name": name, "protocol": "storj", "host": on, "url": "http://127.0.0.1:1", "demand": demand, **values}


def settings_of(
    hosts: list[dict[str, Any]], nodes: list[dict[str, Any]], *limits: dict[str, Any], **planner: Any
) -> Settings:
    return Settings.model_validate({"hosts": hosts, "nodes": nodes, "limits": limits, "planner": planner})


def read(share: float | None, state=HealthState.HEALTHY, reason="") -> NodeState:
    seen = NOW if share is not None else None
    return NodeState(observed_at=NOW, state=state, reason=reason, share=share, share_observed_at=seen)


def plans(
    settings: Settings,
    *,
    shares: Mapping[str, float | NodeState | None],
    usd: Mapping[str, float | YieldForecast | None],
    levers: Mapping[str, Lever | None] | Lever | None = None,
    now: datetime = NOW,
    spread=0.05,
    processes: int | None = None,
    recovered: Sequence[Recovered] = (),
    **known: Any,
):
    """By host. `usd`: an hour at full share, for the coming day; `levers`: one for all nodes, or by node."""
    forecasts = {
        name: each if isinstance(each, YieldForecast) else a_forecast(name, each, spread=spread, start=now)
        for name, each in usd.items()
        if each is not None
    }
    states = {name: each if isinstance(each, NodeState) else read(each) for name, each in shares.items()}
    if not isinstance(levers, Mapping):
        levers = dict.fromkeys([each.name for each in settings.nodes], levers or a_lever())
    told = {"states": states, "forecasts": forecasts, "last_changed": {}, "steps_this_month": {}, **known}
    situation = Situation(now=now, **told)

    def quarters(names):
        nothing = np.full((7 * 96, len(names)), np.nan)
        return Quarters(now - timedelta(days=7), nothing, nothing)

    made = list(plan_hosts(settings, situation, levers, quarters, processes=processes, recovered=recovered))
    assert [each.host for each in made] == sorted([each.host for each in made])
    assert sorted(each.host for each in made) == sorted(each.name for each in settings.hosts)
    assert all((each.plan is None) == bool(each.reason) for each in made)
    return {each.host: each for each in made}


def one(settings: Settings, **known: Any):
    """The plan of the only host."""
    (made,) = plans(settings, **known).values()
    assert made.plan is not None, made.reason
    return made.plan


def shares_of(*made) -> dict[str, float]:
    return {line.node.name: line.share_planned for each in made for line in each.plan.nodes}


def share(plan, name="a") -> float:
    return next(line.share_planned for line in plan.nodes if line.node.name == name)


def why(plan, name="a") -> str:
    return next(line.reason for line in plan.nodes if line.node.name == name)


# --- every host gets a plan or a reason


def test_each_host_gets_a_plan_of_its_own_nodes():
    settings = settings_of([host("h1"), host("h2")], [node("a", "h1"), node("b", "h1"), node("c", "h2")])
    made = plans(settings, shares={"a": 0.5, "b": 0.5, "c": 0.5}, usd={"a": 0.10, "b": 0.01, "c": 0.05})
    assert [line.node.name for line in made["h1"].plan.nodes] == ["a", "b"]
    assert [line.node.name for line in made["h2"].plan.nodes] == ["c"]
    planned = shares_of(*made.values())
    assert planned["a"] > 0.5 > planned["b"]
    assert planned["c"] == 1.0
    assert made["h1"].plan.shared == made["h2"].plan.shared == ()


def test_a_host_without_nodes_gets_an_empty_plan():
    assert one(settings_of([host()], []), shares={}, usd={}).nodes == ()


def test_a_forecast_that_is_no_number_stops_no_other_host():
    broken = a_forecast("a", [0.1, float("nan"), *[0.1] * 22])
    settings = settings_of([host("h1"), host("h2")], [node("a", "h1"), node("b", "h2")])
    made = plans(settings, shares={"a": 0.5, "b": 0.5}, usd={"a": broken, "b": 0.05})
    assert "forecast of a: p10 at 2026-03-01 13:00 is nan" in made["h1"].reason
    assert made["h2"].plan.moved


def test_demand_above_the_capacity_stops_no_other_host():
    nodes = [node("a", "h1", min_share=0.9), node("b", "h1", min_share=0.9), node("c", "h2")]
    made = plans(
        settings_of([host("h1"), host("h2")], nodes),
        shares={"a": 0.95, "b": 0.95, "c": 0.5},
        usd={"a": 0.1, "b": 0.1, "c": 0.05},
    )
    assert "host h1: no allocation fits its cpu_threads" in made["h1"].reason
    assert made["h2"].plan.moved


def test_a_share_that_is_no_number_stops_no_other_host():
    settings = settings_of([host("h1"), host("h2")], [node("a", "h1"), node("b", "h2")])
    made = plans(settings, shares={"a": float("nan"), "b": 0.5}, usd={"a": 0.1, "b": 0.05})
    assert "present share of a is nan" in made["h1"].reason
    assert made["h2"].plan.moved


def test_what_is_unknown_of_a_node_keeps_it_and_its_host_is_planned():
    settings = settings_of([host(cpu_threads=30)], [node("a"), node("b"), node("c")])
    plan = one(
        settings,
        shares={"b": 0.5, "c": 0.5},
        usd={"a": 0.1, "b": None, "c": 0.1},
    )
    assert "not read in this cycle" in why(plan, "a")
    assert "no forecast" in why(plan, "b")
    assert share(plan, "c") == 1.0


def test_a_stretch_of_quarter_hours_tells_of_a_node_without_a_forecast():
    settings = settings_of([host()], [node("a")])
    situation = Situation(NOW, {"a": read(0.5)}, {}, {}, {})
    rates = np.full((7 * 96, 1), 0.05)
    quarters = Quarters(NOW - timedelta(days=7), rates, np.full_like(rates, 0.5))
    (made,) = plan_hosts(settings, situation, {"a": a_lever()}, lambda names: quarters)
    assert made.plan is not None
    assert share(made.plan) == 1.0


def test_a_node_that_could_not_be_set_back_is_left_alone():
    stuck = FreezeRow(node="a", frozen_at=NOW, application_id="a-1", reason="set limit of a to 60 by hand")
    plan = one(settings_of([host()], [node("a")]), shares={"a": 0.5}, usd={"a": 0.1}, stuck={"a": stuck})
    assert share(plan) == 0.5
    assert "it could not be set back: set limit of a to 60 by hand, then `orcha unfreeze a`" in why(plan)


def test_a_node_that_something_is_wrong_with_is_held_at_its_share_and_the_others_are_planned():
    found = NODE_FLAGGED.found("a", "1 open flag", at=NOW, host="box")
    wrong = AnomalyRow(**asdict(found))
    plan = one(
        settings_of([host(cpu_threads=30)], [node("a"), node("b")]),
        shares={"a": 0.5, "b": 0.5},
        usd={"a": 0.1, "b": 0.1},
        wrong={"a": wrong},
    )
    assert (share(plan), share(plan, "b")) == (0.5, 1.0)
    assert why(plan) == "a keeps its share: its protocol accuses it: an open flag, or a suspension: 1 open flag"


def test_a_host_of_which_a_change_has_only_now_found_its_end_gets_no_plan():
    settings = settings_of([host("h1"), host("h2")], TWO)
    known = {"shares": {"a": 0.5, "b": 0.5}, "usd": {"a": 0.1, "b": 0.1}}
    ended = Recovered("h1", "a-1", ApplicationStatus.ROLLED_BACK, "Set back and read back: a.")
    made = plans(settings, **known, recovered=[ended])
    assert made["h1"].plan is None
    assert made["h1"].reason == "an earlier change of h1 has only now found its end: Set back and read back: a."
    assert made["h2"].plan is not None


def test_what_is_of_no_use_is_not_planned_for_nor_read():
    settings = settings_of([host("h1"), host("h2")], TWO)
    ended = Recovered("h1", "a-1", ApplicationStatus.ROLLED_BACK, "Set back.")
    situation = Situation(NOW, {"a": read(0.5), "b": read(0.5)}, {}, {}, {})
    asked: list[str] = []

    def quarters(names):
        asked.extend(names)
        return Quarters(
            NOW - timedelta(days=7), np.full((7 * 96, len(names)), 0.05), np.full((7 * 96, len(names)), 0.5)
        )

    levers = dict.fromkeys("ab", a_lever())
    made = {each.host: each for each in plan_hosts(settings, situation, levers, quarters, recovered=[ended])}
    assert asked == ["b"]
    assert made["h1"].plan is None
    assert made["h2"].plan is not None
    both = [ended, Recovered("h2", "a-2", ApplicationStatus.DROPPED, "Nothing was done.")]
    assert [each.plan for each in plan_hosts(settings, situation, levers, quarters, recovered=both)] == [None, None]
    assert asked == ["b"]


def test_a_host_that_shares_a_limit_is_planned_along_but_gets_no_plan():
    limit = {"name": "uplink", "nodes": ["a", "b"], "shares": 1.2}
    settings = settings_of([host("h1"), host("h2")], TWO, limit)
    ended = Recovered("h1", "a-1", ApplicationStatus.ROLLED_BACK, "Set back.")
    made = plans(settings, shares={"a": 0.5, "b": 0.5}, usd={"a": 0.1, "b": 0.1}, recovered=[ended])
    assert made["h1"].plan is None
    assert made["h2"].plan is not None


# --- fleets


def a_fleet(count: int) -> tuple[Settings, dict[str, Any]]:
    """Hosts with two nodes each, of which the second earns more on every other host, and what is known of them."""
    names = [f"h{number:02}" for number in range(count)]
    nodes = [node(f"{which}-{name}", name) for name in names for which in "ab"]
    known = {
        "shares": {each["name"]: 0.5 for each in nodes},
        "usd": {each["name"]: 0.02 + 0.01 * (place % 4) for place, each in enumerate(nodes)},
    }
    return settings_of([host(name) for name in names], nodes), known


def test_a_fleet_is_planned_by_several_processes_as_by_one(monkeypatch):
    monkeypatch.setattr("orcha_pipeline.allocation.plan_hosts.GROUPS_A_PROCESS", 8)
    settings, known = a_fleet(16)
    together = plans(settings, **known, processes=2)
    alone = plans(settings, **known, processes=1)
    for name, made in together.items():
        assert replace(made.plan, solve_seconds=0.0) == replace(alone[name].plan, solve_seconds=0.0)
    assert all(made.plan.moved for made in together.values())


def test_quarter_hours_are_read_for_many_nodes_at_once_and_each_gets_its_own(monkeypatch):
    monkeypatch.setattr("orcha_pipeline.allocation.plan_hosts.NODES_A_READING", 3)
    settings, _ = a_fleet(3)
    names = [each.name for each in settings.nodes]
    asked: list[Sequence[str]] = []

    def quarters(nodes: Sequence[str]) -> Quarters:
        asked.append(nodes)
        rates = np.tile([0.01 * (1 + names.index(name)) for name in nodes], (7 * 96, 1))
        return Quarters(NOW - timedelta(days=7), rates, np.full_like(rates, 0.5))

    situation = Situation(NOW, {name: read(0.5) for name in names}, {}, {}, {})
    made = list(plan_hosts(settings, situation, dict.fromkeys(names, a_lever()), quarters, processes=1))
    assert asked == [names[:4], names[4:]]
    for place, name in enumerate(names):
        line = next(line for each in made for line in each.plan.nodes if line.node.name == name)
        assert line.yield_usd.p50 == pytest.approx(0.01 * (1 + place) / 0.5**line.curvature, rel=0.02)


# --- limits


def an_address(*nodes: str, **amounts: float) -> dict[str, Any]:
    return {"name": "address", "nodes": nodes, **(amounts or {"shares": 1.0})}


TWO = [node("a", "h1"), node("b", "h2")]


def test_hosts_that_share_a_limit_are_planned_together():
    settings = settings_of([host("h1"), host("h2")], TWO, an_address("a", "b"))
    made = plans(settings, shares={"a": 0.3, "b": 0.7}, usd={"a": 0.10, "b": 0.01})
    planned = shares_of(*made.values())
    assert planned["a"] > 0.3
    assert planned["b"] < 0.7
    assert planned["a"] + planned["b"] == pytest.approx(1.0)
    for name, mine, others in (("h1", 0.3, 0.7), ("h2", 0.7, 0.3)):
        (use,) = made[name].plan.shared
        assert (use.name, use.limit) == ("address", 1.0)
        assert (use.now, use.others) == (pytest.approx(mine), pytest.approx(others))
        assert made[name].plan.binding == ("address",)
        assert made[name].plan.shadow_prices["address"] > 0


def test_hosts_without_a_common_limit_are_planned_alone():
    apart = settings_of([host("h1"), host("h2")], TWO)
    known = {"shares": {"a": 0.3, "b": 0.7}, "usd": {"a": 0.10, "b": 0.01}}
    made = plans(apart, **known)
    assert shares_of(*made.values()) == {"a": 1.0, "b": 1.0}
    # Hosts of which each has a limit of its own are apart as well.
    limits = [{"name": f"of-{name}", "nodes": [name], "shares": 0.8} for name in ("a", "b")]
    made = plans(settings_of([host("h1"), host("h2")], TWO, *limits), **known)
    assert shares_of(*made.values()) == {"a": pytest.approx(0.8), "b": pytest.approx(0.8)}
    assert [use.name for use in made["h1"].plan.shared] == ["of-a"]
    assert [use.name for use in made["h2"].plan.shared] == ["of-b"]


def test_a_chain_of_limits_joins_three_hosts():
    nodes = [*TWO, node("c", "h3")]
    limits = [{"name": "one", "nodes": ["a", "b"], "shares": 1.0}, {"name": "two", "nodes": ["b", "c"], "shares": 1.0}]
    settings = settings_of([host("h1"), host("h2"), host("h3")], nodes, *limits)
    known = {"shares": {"a": 0.4, "b": 0.6, "c": 0.4}, "usd": {"a": 0.05, "b": 0.06, "c": 0.05}}
    made = plans(settings, **known)
    assert all([use.name for use in each.plan.shared] == ["one", "two"] for each in made.values())
    planned = shares_of(*made.values())
    # Alone with either neighbour `b` would earn more; a and c together earn more than it.
    assert planned["b"] < 0.6 < planned["a"] == pytest.approx(planned["c"])
    # What cannot be planned on one of them stops the three.
    made = plans(settings, **{**known, "usd": {**known["usd"], "c": a_forecast("c", [float("nan")] * 24)}})
    assert {each.plan for each in made.values()} == {None}
    assert len({each.reason for each in made.values()}) == 1


def test_a_limit_of_a_resource_counts_what_the_nodes_use_of_it():
    nodes = [node("a", "h1", bandwidth=200.0), node("b", "h2", bandwidth=100.0)]
    settings = settings_of([host("h1"), host("h2")], nodes, an_address("a", "b", bandwidth_mbps=150.0))
    made = plans(settings, shares={"a": 0.5, "b": 0.5}, usd={"a": 0.05, "b": 0.05})
    planned = shares_of(*made.values())
    assert planned["b"] > 0.5 > planned["a"]
    assert 200 * planned["a"] + 100 * planned["b"] <= 150 * (1 + 1e-6)
    assert [use.name for use in made["h1"].plan.shared] == ["address: bandwidth_mbps"]


def test_nodes_above_a_common_limit_are_shrunk_and_the_plan_says_that_they_must():
    settings = settings_of([host("h1"), host("h2")], TWO, an_address("a", "b"))
    made = plans(settings, shares={"a": 0.8, "b": 0.8}, usd={"a": 0.05, "b": 0.05})
    assert sum(shares_of(*made.values()).values()) <= 1 + 1e-6
    assert all("takes 1.6 of the 1 that address has" in each.plan.forced for each in made.values())


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    most=st.floats(0.1, 2.5),
    now=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0.05, 0.5)),
    usd=st.tuples(*[st.floats(0, 0.2)] * 3),
    cooldown=st.sampled_from([timedelta(0), DAY]),
)
def test_no_plan_takes_more_of_a_limit_than_it_allows(most, now, usd, cooldown):
    nodes = [*TWO, node("c", "h2", cpu=1.0)]
    settings = settings_of([host("h1"), host("h2", cpu_threads=12)], nodes, an_address("a", "b", shares=most))
    levers = {"a": a_lever(cooldown=cooldown), "b": a_lever(), "c": a_lever()}
    made = plans(
        settings, shares=dict(zip("abc", now, strict=True)), usd=dict(zip("abc", usd, strict=True)), levers=levers
    )
    if any(each.plan is None for each in made.values()):
        assert most < 0.13  # their least shares and a step of each
        assert all("no allocation fits" in each.reason for each in made.values())
        return
    planned = shares_of(*made.values())
    assert planned["a"] + planned["b"] <= most * (1 + 2e-6) + 2e-6
    for each in made.values():
        for name, used in each.plan.use_planned.as_dict().items():
            assert used <= each.plan.host.capacity.as_dict()[name] * (1 + 2e-6)


def test_what_slow_nodes_of_two_hosts_bring_is_promised_once():
    settings = settings_of([host("h1"), host("h2")], TWO, an_address("a", "b", shares=3.0))
    known = {"shares": {"a": 0.3, "b": 0.3}, "usd": {"a": 0.10, "b": 0.20}, "levers": a_lever(cooldown=DAY)}
    alone = plans(settings_of([host("h1"), host("h2")], TWO), **known)
    together = plans(settings, **known)
    assert shares_of(*together.values()) == shares_of(*alone.values())
    for name, each in together.items():
        assert each.plan.gain_usd_per_hour == pytest.approx(alone[name].plan.gain_usd_per_hour, rel=1e-3)


def test_a_slow_node_on_one_host_leaves_the_promise_of_the_other_as_it_is():
    settings = settings_of([host("h1"), host("h2")], TWO, an_address("a", "b", shares=3.0))
    levers = {"a": a_lever(), "b": a_lever(cooldown=DAY)}
    known = {"shares": {"a": 0.3, "b": 0.3}, "usd": {"a": 0.10, "b": 0.20}, "levers": levers}
    alone = plans(settings_of([host("h1"), host("h2")], TWO), **known)["h1"].plan
    together = plans(settings, **known)["h1"].plan
    assert together.gain_usd_per_hour == pytest.approx(alone.gain_usd_per_hour, rel=1e-3)
    assert together.gain_percent == pytest.approx(alone.gain_percent, rel=1e-3)


# --- what the operator says of a node


@pytest.mark.parametrize("now", [0.1, 0.9])
def test_a_pin_brings_a_node_to_its_share(now):
    plan = one(settings_of([host()], [node("a", pin=0.4)]), shares={"a": now}, usd={"a": 0.05})
    assert share(plan) == pytest.approx(0.4)
    assert "outside its bounds 0.40 to 0.40 (pinned at 0.40 by the operator)" in plan.forced


def test_a_pin_between_two_steps_of_a_lever_holds_at_the_one_below():
    lever = a_lever(full=8.0, step=1.0)
    plan = one(settings_of([host()], [node("a", pin=0.4)]), shares={"a": 0.75}, usd={"a": 0.05}, levers=lever)
    assert share(plan) == pytest.approx(3 / 8)


@pytest.mark.parametrize("usd", [-0.1, 0.0, 0.1])
def test_a_pin_keeps_a_node_at_its_share_whatever_it_earns(usd):
    settings = settings_of([host()], [node("a", pin=0.4), node("b", min_share=0.0)])
    plan = one(settings, shares={"a": 0.4, "b": 0.2}, usd={"a": usd, "b": 0.05})
    assert share(plan) == 0.4
    assert share(plan, "b") == pytest.approx(0.6)
    assert plan.forced == ""


def test_a_frozen_node_keeps_its_share_whatever_its_pin_says():
    settings = settings_of([host()], [node("a", frozen=True, pin=0.4), node("b")])
    plan = one(settings, shares={"a": 0.9, "b": 0.1}, usd={"a": 0.001, "b": 0.1})
    assert shares_of(type("Made", (), {"plan": plan})) == {"a": 0.9, "b": 0.1}
    assert why(plan) == "a keeps its share: the operator has frozen it"


def test_a_nodes_schedule_holds_while_it_covers():
    settings = settings_of([host()], [node("a", schedules=[{**EVENING, "max_share": 0.3}])])
    known = {"shares": {"a": 0.8}, "usd": {"a": 0.05}}
    assert share(one(settings, **known, now=NOW)) == 1.0
    evening = one(settings, **known, now=datetime(2026, 3, 1, 19, 5, tzinfo=UTC))
    assert share(evening) == pytest.approx(0.3)
    assert "18:00 to 23:00 (UTC): at most 0.30" in evening.forced


# --- the capacity at some times of the week


def half_in_the_evening(hour: int, lever: Lever, share_now=0.2, minute=0, **schedule: Any):
    settings = settings_of(
        [host("box", {**EVENING, "bandwidth_mbps": 250.0, **schedule})], [node("a", cpu=1.0, bandwidth=500.0)]
    )
    now = datetime(2026, 3, 1, hour, minute, tzinfo=UTC)
    return one(settings, shares={"a": share_now}, usd={"a": 0.05}, levers=lever, now=now)


@pytest.mark.parametrize(("hour", "minute", "most"), [(12, 0, 1.0), (19, 0, 0.5), (17, 30, 0.5), (23, 0, 1.0)])
def test_in_the_evening_half_the_bandwidth_is_planned_with(hour, minute, most):
    plan = half_in_the_evening(hour, a_lever(), minute=minute)
    assert share(plan) == pytest.approx(most)
    assert plan.host.capacity.bandwidth_mbps == 500 * most


def test_what_takes_more_than_the_evening_allows_is_shrunk():
    plan = half_in_the_evening(19, a_lever(), share_now=0.8)
    assert share(plan) == pytest.approx(0.5)
    assert "takes 400 Mbps of the 250 that box has" in plan.forced


@pytest.mark.parametrize("hour", [12, 16])
def test_what_rests_for_a_day_grows_only_into_what_the_evening_leaves(hour):
    slow = a_lever(cooldown=DAY)
    assert share(half_in_the_evening(hour, slow)) == pytest.approx(0.5)
    assert share(half_in_the_evening(hour, slow, days=["mon"])) == 1.0  # NOW is a Sunday


# --- what must not be touched


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (read(0.9, HealthState.AT_RISK, "audits fail"), "it is at risk: audits fail"),
        (read(0.9, HealthState.UNREACHABLE), "it is unreachable"),
        (read(0.9, HealthState.ERROR, "HTTP 500"), "it is error: HTTP 500"),
        (read(0.9, HealthState.RESTARTING), "it is restarting"),
        (replace(read(0.9), share_observed_at=NOW - DAY), "its present allocation could not be read"),
    ],
)
@pytest.mark.parametrize("changed", [{}, {"a": NOW - timedelta(hours=20)}])
def test_a_node_in_danger_is_frozen_with_its_reason(state, told, changed):
    settings = settings_of([host()], [node("a"), node("b")])
    levers = {"a": a_lever(cooldown=timedelta(hours=1)), "b": a_lever()}
    plan = one(
        settings, shares={"a": state, "b": 0.05}, usd={"a": 0.001, "b": 0.1}, levers=levers, last_changed=changed
    )
    assert share(plan) == 0.9
    assert share(plan, "b") == pytest.approx(0.1)
    assert why(plan) == f"a keeps its share: {told}"


def test_a_restart_budget_that_is_used_up_freezes():
    settings = settings_of([host()], [node("a")])
    known = {"shares": {"a": 0.5}, "usd": {"a": 0.05}, "levers": a_lever(restarts_per_month=3)}
    assert share(one(settings, **known, steps_this_month={"a": 2})) == 1.0
    plan = one(settings, **known, steps_this_month={"a": 3})
    assert share(plan) == 0.5
    assert why(plan) == "a keeps its share: its 3 restarts a month are used up"


@pytest.mark.parametrize("usd", [0.05, None])
def test_a_node_in_its_cool_down_rests_and_the_plan_says_how_long(usd):
    settings = settings_of([host()], [node("a"), node("b")])
    plan = one(
        settings,
        shares={"a": 0.3, "b": 0.3},
        usd={"a": usd, "b": 0.05},
        levers={"a": a_lever(cooldown=DAY), "b": a_lever()},
        last_changed={"a": NOW - timedelta(hours=20)},
    )
    assert why(plan) == "a keeps its share: its cool-down lasts 4 h more"
    assert share(plan) == 0.3
    assert share(plan, "b") == pytest.approx(0.7)


def test_a_lever_without_a_usable_range_in_its_cool_down_keeps_its_share():
    plan = one(
        settings_of([host()], [node("a"), node("b")]),
        shares={"a": 0.3, "b": 0.3},
        usd={"a": 0.05, "b": 0.05},
        levers={"a": a_lever(cooldown=DAY, step=0.0), "b": a_lever()},
        last_changed={"a": NOW - timedelta(hours=20)},
    )
    assert share(plan) == 0.3
    assert share(plan, "b") == pytest.approx(0.7)


def test_room_for_what_will_wake_is_left_by_what_rests_longer():
    # `a` wakes in two hours and earns far more than `b`, which would keep the room for a day.
    plan = one(
        settings_of([host()], [node("a"), node("b")]),
        shares={"a": 0.3, "b": 0.3},
        usd={"a": 0.50, "b": 0.01},
        levers=a_lever(cooldown=DAY),
        last_changed={"a": NOW - timedelta(hours=22)},
    )
    assert share(plan) == 0.3
    assert share(plan, "b") <= 0.3


def test_a_node_without_a_lever_keeps_its_share():
    plan = one(settings_of([host()], [node("a")]), shares={"a": 0.3}, usd={"a": 0.05}, levers={})
    assert (share(plan), why(plan)) == (0.3, "a keeps its share: it has no lever that Orcha can move")


# --- who may be changed


def mixed(a: str | None, b: str | None, usual: str | None = None, **known: Any):
    """The plan of a host whose nodes have these modes, of which `a` earns more."""
    settings = Settings.model_validate(
        {
            "hosts": [host()],
            "nodes": [node("a", **({"mode": a} if a else {})), node("b", **({"mode": b} if b else {}))],
            "apply": {"mode": usual} if usual else {},
        }
    )
    return one(settings, shares={"a": 0.5, "b": 0.5}, usd={"a": 0.10, "b": 0.01}, **known)


@pytest.mark.parametrize("modes", [(None, None, None), ("auto", "auto", None), (None, None, "confirm")])
def test_where_all_nodes_are_alike_everything_is_planned(modes):
    assert share(mixed(*modes), "a") > 0.5


def test_a_node_that_is_only_advised_on_is_not_in_the_way_of_the_others():
    plan = mixed("advise", "auto")
    assert share(plan, "a") == 0.5
    assert "mode advise" in why(plan, "a")


def test_a_node_that_waits_for_approval_is_asked_for_and_after_no_answer_left_alone_for_a_while():
    assert share(mixed("confirm", "auto"), "a") > 0.5
    plan = mixed("confirm", "auto", unanswered={"a": NOW - timedelta(hours=1)})
    assert share(plan, "a") == 0.5
    assert "nobody answered the request to change it until 11:05 UTC; the next is made at 17:05" in why(plan, "a")
    alike = mixed("confirm", "confirm", unanswered={"a": NOW - timedelta(hours=1)})
    assert share(alike, "a") > 0.5


# --- what power and changes cost


def test_a_node_that_earns_less_than_its_power_costs_is_made_small():
    def planned(watts, price):
        settings = settings_of([host()], [node("a", power_watts=watts)], power_usd_per_kwh=price)
        return share(one(settings, shares={"a": 0.5}, usd={"a": 0.05}))

    assert planned(0, 0.30) == planned(200, 0) == planned(100, 0.30) == 1.0  # 0.03 USD an hour
    assert planned(300, 0.30) == pytest.approx(0.05)


def test_what_power_costs_is_taken_off_the_gain():
    settings = settings_of([host()], [node("a", power_watts=100)], power_usd_per_kwh=0.30, response_curvature=1.0)
    plan = one(settings, shares={"a": 0.5}, usd={"a": 0.05})
    assert plan.gain_usd_per_hour == pytest.approx(0.5 * (0.05 - 0.03))


def cost_of_moving(lever: Lever, held=0.0, **planner: Any) -> float:
    settings = settings_of([host()], [node("a")], response_curvature=1.0, **planner)
    plan = one(settings, shares={"a": 0.5}, usd={"a": 0.05}, levers=lever, held_usd={"a": held} if held else {})
    assert share(plan) == 1.0
    return plan.switching_cost_usd


@pytest.mark.parametrize("mode", [LeverMode.RESTART, LeverMode.TRANSACTION])
def test_a_change_that_states_risks_costs_reputation_and_a_part_of_what_is_held(mode):
    lever = a_lever(mode=mode, risks=("reputation",))
    assert cost_of_moving(lever, reputation_hours=0.2) == pytest.approx(0.2 * 0.05 * 0.5, abs=1e-6)
    assert cost_of_moving(lever, 40.0, reputation_hours=0.2, held_risk=0.0001) == pytest.approx(0.009, abs=1e-6)
    assert cost_of_moving(lever, 40.0, reputation_hours=0.0, held_risk=0.0) == 0


@pytest.mark.parametrize("lever", [a_lever(), a_lever(mode=LeverMode.HOT, risks=("reputation",))])
def test_a_change_without_risks_or_without_a_restart_costs_no_reputation(lever):
    assert cost_of_moving(lever, 40.0, reputation_hours=2.0, held_risk=0.1) == 0


def test_what_a_change_risks_can_forbid_it():
    known = {"shares": {"a": 0.5}, "usd": {"a": 0.05}, "levers": RISKY}
    assert share(one(settings_of([host()], [node("a")]), **known, held_usd={"a": 100.0})) == 1.0
    assert share(one(settings_of([host()], [node("a")], held_risk=0.1), **known, held_usd={"a": 100.0})) == 0.5


# --- presets


def moves(plan) -> float:
    return sum(abs(line.share_planned - line.share_now) for line in plan.nodes)


def test_the_cautious_preset_leaves_a_doubtful_forecast_which_the_bold_one_follows():
    doubtful = a_forecast("a", 0.050, spread=1.0)
    moved = {
        preset: moves(
            one(
                settings_of([host()], [node("a"), node("b")], preset=preset),
                shares={"a": 0.5, "b": 0.5},
                usd={"a": doubtful, "b": 0.040},
                levers=RISKY,
            )
        )
        for preset in ("cautious", "balanced", "bold")
    }
    assert moved["cautious"] <= moved["balanced"] <= moved["bold"]
    assert moved["bold"] > moved["cautious"]


@pytest.mark.parametrize(("usd", "fails"), [(0.05, ["gain_usd_per_hour"]), (2.0, [])])
def test_the_strict_preset_holds_a_small_gain_that_the_balanced_one_takes(usd, fails):
    def decided(preset):
        settings = settings_of([host()], [node("a")], preset=preset)
        return decide(
            one(settings, shares={"a": 0.5}, usd={"a": usd}),
            decision_id="d",
            now=NOW,
            settings=settings.planner,
            changes=[],
            last_changed={},
            health={"a": HealthState.HEALTHY},
            readings_age=timedelta(0),
            forecast_age=timedelta(0),
            modes={"a": Mode.AUTO},
            approve_within=HOUR,
        )

    assert decided("balanced").verdict is Verdict.REALLOCATE
    assert [gate.name for gate in decided("strict").gates if not gate.passed] == fails


# --- exploration


@pytest.mark.parametrize(("ago", "explores"), [(None, True), (25, True), (23, False)])
def test_a_node_that_was_just_changed_is_not_moved_to_learn_from_it(ago, explores):
    settings = settings_of([host()], [node("a"), node("b")], exploration=0.05)
    changed = NOW - timedelta(hours=ago) if ago else None
    plan = one(
        settings,
        shares={"a": 0.5, "b": 0.5},
        usd={"a": 0.05, "b": 0.05},
        last_changed={"a": changed, "b": changed} if changed else {},
    )
    assert bool(plan.explores) is bool(plan.moved) is explores
