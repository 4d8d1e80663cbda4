import math
import re
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from orcha_pipeline.allocation.outlook import PERIODS
from orcha_pipeline.allocation.plan import MIN_MOVE
from orcha_pipeline.allocation.planner import EXPLORED_BY, LEAST_TO_LEARN, Limit, PlanNode, Weights, plan
from orcha_pipeline.allocation.response_learning import LearntResponse
from orcha_pipeline.errors import PlanError
from orcha_pipeline.model import RESOURCES, Node, Resources
from orcha_pipeline_tests.allocation.build import (
    NOW,
    a_forecast,
    a_host,
    a_lever,
    a_node,
    on,
    planned,
    planned_together,
    shares,
)

SOLVES = settings(max_examples=40, deadline=None)


# --- what it does


def test_the_node_that_earns_more_per_thread_gets_the_threads():
    made = planned(a_host(cpu=10), a_node("rich", 0.10, 0.2, curvature=1.0), a_node("poor", 0.01, 0.8, curvature=1.0))
    assert shares(made) == {"rich": 1.0, "poor": 0.0}
    assert made.binding == ("cpu_threads",)
    assert made.earnings_now_usd.p50 == pytest.approx(24 * (0.02 + 0.008))
    assert made.earnings_planned_usd.p50 == pytest.approx(24 * 0.10)
    assert made.gain_usd_per_hour == pytest.approx(0.10 - 0.028)
    assert made.gain_percent == pytest.approx(100 * (0.10 - 0.028) / 0.028)


def test_diminishing_returns_divide_the_machine_instead_of_giving_it_to_one():
    made = planned(a_host(cpu=10), a_node("a", 0.05, 0.9, curvature=0.5), a_node("b", 0.05, 0.1, curvature=0.5))
    result = shares(made)
    assert result["a"] == pytest.approx(0.5, abs=0.06)
    assert result["a"] + result["b"] == pytest.approx(1.0)


def test_the_scarce_resource_decides_not_the_plentiful_one():
    thirsty = Resources(cpu_threads=1, bandwidth_mbps=500)
    frugal = Resources(cpu_threads=1, bandwidth_mbps=50)
    made = planned(
        a_host(),
        a_node("thirsty", 0.02, 0.9, demand=thirsty, curvature=1.0),
        a_node("frugal", 0.01, 0.1, demand=frugal, curvature=1.0),
    )
    assert shares(made)["frugal"] == 1.0
    assert made.binding == ("bandwidth_mbps",)


def test_reasons_say_what_a_node_earns_how_it_ranks_and_whom_it_gives_to():
    made = planned(
        a_host(cpu=10), a_node("golem-1", 0.10, 0.2, curvature=1.0), a_node("streamr-1", 0.041, 0.8, curvature=1.0)
    )
    golem, streamr = (line.reason for line in made.nodes)
    assert streamr == (
        "streamr-1 earns 0.041 USD/h at full share, least per CPU thread of those moved; gives 8 CPU threads to golem-1"
    )
    assert golem == (
        "golem-1 earns 0.1 USD/h at full share, most per CPU thread of those moved; takes 8 CPU threads from streamr-1"
    )


def test_a_change_that_does_not_earn_its_restart_is_not_made():
    # The whole day's gain of moving is some 0.5 %, the restart costs four hours of earnings.
    nodes = [
        a_node("a", 0.0500, 0.5, curvature=1.0, restart=4 * 3600),
        a_node("b", 0.0505, 0.5, curvature=1.0, restart=4 * 3600),
    ]
    made = planned(a_host(cpu=10), *nodes)
    assert made.moved == ()
    assert made.switching_cost_usd == 0
    assert "stays: no move of its share earns more than it costs" in made.nodes[0].reason


def test_the_cost_of_a_change_is_what_the_node_earns_in_its_restart():
    made = planned(
        a_host(cpu=10),
        a_node("rich", 0.10, 0.5, curvature=1.0, restart=36),
        a_node("poor", 0.01, 0.5, curvature=1.0, restart=72),
    )
    assert made.switching_cost_usd == pytest.approx(0.01 * 0.10 * 0.5 + 0.02 * 0.01 * 0.5)
    assert made.gain_usd_per_hour == pytest.approx(0.10 - 0.055 - made.switching_cost_usd)
    assert made.roi == pytest.approx(made.gain_usd.p50 / made.switching_cost_usd)


def test_a_node_that_loses_much_by_a_restart_is_moved_for_the_day_and_not_for_the_hour():
    nodes = [a_node("rich", [0.10, *[0.01] * 23], 0.5, restart=900), a_node("poor", 0.03, 0.5, restart=900)]
    assert shares(planned(a_host(cpu=10), *nodes))["rich"] <= 0.5
    lasting = [a_node("rich", 0.04, 0.5, restart=900), a_node("poor", 0.03, 0.5, restart=900)]
    made = planned(a_host(cpu=10), *lasting)
    assert shares(made)["rich"] > 0.5
    assert made.promise_hours > 1


def test_shares_come_down_onto_the_steps_of_the_lever_and_what_is_freed_is_handed_back():
    coarse = a_node("coarse", 0.10, 0.0, cpu=10, curvature=1.0, full=10.0, step=4.0)
    fine = a_node("fine", 0.05, 0.0, cpu=10, curvature=1.0, full=10.0, step=0.5)
    made = planned(a_host(cpu=7), coarse, fine)
    # Alone, the solver gives 7 threads to `coarse`; it can take 4, and the 3 left over go to `fine`.
    assert [line.value_planned for line in made.nodes] == [4.0, 3.0]


def test_a_move_smaller_than_a_hundredth_is_not_made():
    # Half a hundredth more would fit and earn, but drowns in the error of any reading.
    nodes = [a_node("a", 0.1, 0.995, curvature=1.0, full=1000.0), a_node("b", 0.01, 0.0, curvature=1.0, cpu=1000.0)]
    made = planned(a_host(cpu=10), *nodes)
    assert made.moved == ()
    assert shares(made) == {"a": 0.995, "b": 0.0}


def test_an_allocation_above_capacity_is_shrunk_and_says_that_it_must():
    made = planned(a_host(cpu=10), a_node("a", 0.05, 0.8, restart=3600), a_node("b", 0.04, 0.8, restart=3600))
    assert made.use_planned.cpu_threads <= 10
    assert made.forced == "today's allocation takes 16 CPU threads of the 10 that box has"
    assert made.moved


def test_a_share_out_of_bounds_is_brought_inside():
    made = planned(a_host(cpu=20), a_node("a", 0.01, 0.1, low=0.3, restart=3600), a_node("b", 0.04, 0.5))
    assert shares(made)["a"] >= 0.3
    assert "the share of a, 0.100, lies outside its bounds 0.30 to 1.00" in made.forced


def test_yields_are_taken_for_the_coming_hours_and_the_last_one_known_goes_on():
    old = replace(
        a_node("old", 0.05, 0.5), yields=a_forecast("old", [9.0] * 3 + [0.05] * 21, start=NOW - timedelta(hours=3))
    )
    made = planned(a_host(cpu=30), old, a_node("new", 0.05, 0.5))
    assert made.nodes[0].yield_usd.p50 == pytest.approx(0.05)


def test_the_promise_weighs_its_last_hour_by_the_part_the_hold_covers():
    node = a_node("a", [0.1, 0.4, *[0.0] * 22], 1.0)
    made = planned(a_host(), node, hold=1.5)
    assert made.nodes[0].near_yield_usd.p50 == pytest.approx((0.1 + 0.2) / 1.5)


def test_uncertainties_of_nodes_add_as_squares_and_those_of_hours_straight():
    made = planned(a_host(cpu=30), a_node("a", 0.03, 1.0, spread=0.5), a_node("b", 0.04, 1.0, spread=0.5))
    assert made.earnings_now_usd.p50 == pytest.approx(24 * 0.07)
    assert made.earnings_now_usd.p10 == pytest.approx(24 * (0.07 - math.hypot(0.015, 0.02)), rel=0.06)


# --- nodes that are left alone


@pytest.mark.parametrize(
    ("left_alone", "why"),
    [
        (a_node("x", 0.001, 0.9, frozen="it is at risk"), "x keeps its share: it is at risk"),
        (a_node("x", 0.001, 0.9, lever=None), "no lever that Orcha can move"),
        (a_node("x", 0.001, 0.9, lever=a_lever(writable=False, why_not="read-only config")), "read-only config"),
        (a_node("x", 0.001, 0.9, step=0.0), "reports no usable range"),
        (a_node("x", 0.001, 0.9, step=float("nan")), "reports no usable range"),
        (a_node("x", 0.001, 0.9, low=0.4, high=0.45, step=30.0), "no step between its shares 0.40 and 0.45"),
        (a_node("x", None, 0.9), "no forecast of its yield"),
    ],
)
def test_a_node_that_cannot_be_moved_keeps_its_share_and_its_use_counts(left_alone, why):
    made = planned(a_host(cpu=10), left_alone, a_node("y", 0.10, 0.05, curvature=1.0))
    assert shares(made)["x"] == 0.9
    assert shares(made)["y"] == pytest.approx(0.1)  # what is left, however much more it would earn
    assert why in made.nodes[0].reason


def test_an_unknown_share_is_counted_at_its_maximum_and_squeezes_nobody():
    host, gone = a_host(cpu=10), a_node("gone", 0.05, None, high=0.6)
    made = planned(host, gone, a_node("here", 0.10, 0.9))
    assert shares(made) == {"gone": None, "here": 0.9}  # 6 + 9 threads of 10, but the 6 are an assumption
    assert made.forced == ""
    assert "the present share of gone is unknown: it is left alone and counted as 0.60" in made.nodes[0].reason
    assert made.unvalued == ("gone",)
    grown = planned(host, gone, a_node("here", 0.10, 0.1))
    assert shares(grown)["here"] == pytest.approx(0.4)  # it grows only into what is surely free


def test_with_every_node_frozen_the_plan_is_what_is_there():
    made = planned(a_host(cpu=20), a_node("a", 0.1, 0.3, frozen="pinned"), a_node("b", 0.2, 0.4, frozen="pinned"))
    assert shares(made) == {"a": 0.3, "b": 0.4}
    assert made.gain_usd_per_hour == 0
    assert made.earnings_now_usd == made.earnings_planned_usd
    assert made.moved == ()


def test_without_any_forecast_the_plan_is_what_is_there_and_promises_nothing():
    made = planned(a_host(cpu=20), a_node("a", None, 0.3), a_node("b", None, 0.4))
    assert made.moved == ()
    assert made.gain_percent is None
    assert made.unvalued == ("a", "b")


def test_a_node_that_uses_nothing_of_the_host_may_grow_freely():
    made = planned(a_host(), a_node("idle", 0.1, 0.5, demand=Resources()))
    assert shares(made) == {"idle": 1.0}
    assert made.nodes[0].reason == "idle earns 0.1 USD/h at full share; it uses nothing that is counted"


def test_worthless_nodes_are_not_moved_and_losing_ones_are_made_small():
    made = planned(a_host(cpu=20), a_node("nothing", 0.0, 0.5), a_node("loses", -0.02, 0.5, low=0.1))
    assert shares(made) == {"nothing": 0.5, "loses": pytest.approx(0.1)}


def test_a_host_without_nodes_has_an_empty_plan():
    made = planned(a_host())
    assert made.nodes == ()
    assert made.gain_percent is None


# --- what cannot be planned


@pytest.mark.parametrize("quantile", ["p10", "p50", "p90"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_forecast_that_is_no_number_names_node_quantile_and_hour(quantile, value):
    node = a_node("a", 0.1, 0.5)
    values = (0.1, value, *[0.1] * 22)
    with pytest.raises(PlanError, match=rf"forecast of a: {quantile} at 2026-03-01 13:00"):
        planned(a_host(), replace(node, yields=replace(node.yields, **{quantile: values})))


@pytest.mark.parametrize(
    ("node", "told"),
    [
        (a_node("a", 0.1, float("nan")), "present share of a is nan"),
        (a_node("a", 0.1, -0.1), "present share of a is -0.1"),
        (a_node("a", 0.1, 0.5, cpu=float("nan")), "demand cpu_threads of a is nan"),
        (a_node("a", 0.1, 0.5, low=0.7, high=0.3), "min_share 0.7 of a lies above its max_share 0.3"),
        (a_node("a", 0.1, 0.5, curvature=1.4), "response curvature of a is 1.4"),
        (replace(a_node("a", 0.1, 0.5), yields=replace(a_forecast("a", 0.1), p50=(0.1,))), "1 values of p50"),
    ],
)
def test_input_that_makes_no_sense_is_named(node, told):
    with pytest.raises(PlanError, match=told):
        planned(a_host(), node)


def test_a_capacity_that_is_no_number_is_named():
    with pytest.raises(PlanError, match="capacity cpu_threads of host box is nan"):
        planned(a_host(cpu=float("nan")), a_node("a", 0.1, 0.5))


def test_demand_that_never_fits_names_host_resource_and_amounts():
    with pytest.raises(PlanError, match=r"host box: no allocation fits its cpu_threads: .* 5 CPU threads .* 8 CPU thr"):
        planned(a_host(cpu=10), a_node("a", 0.1, 0.5, frozen="pinned"), a_node("b", 0.1, 0.9, low=0.8))


def test_a_forecast_that_begins_later_is_none():
    late = replace(a_node("late", 0.1, 0.5), yields=a_forecast("late", 0.1, start=NOW + timedelta(days=3)))
    made = planned(a_host(), a_node("early", 0.1, 0.5), late)
    assert "no forecast of its yield for the coming hours" in made.nodes[1].reason


# --- for all hosts and forecasts


@st.composite
def nodes_of_a_host(draw, *, whole=False, curvature=None, restart=None):
    """Up to four nodes; `whole`: all of them can be moved."""

    def one(name):
        low = draw(st.sampled_from([0.0, 0.05, 0.2]))
        high = draw(st.sampled_from([0.5, 0.8, 1.0]))
        full = draw(st.floats(1, 1000))
        lever = a_lever(
            full=full,
            step=full * draw(st.sampled_from([1e-6, 0.003, 0.01, 0.07, 0.25])),
            restart_seconds=draw(st.floats(0, 900)) if restart is None else restart,
            minimum=full * draw(st.sampled_from([0.0, 0.02])),
        )
        known = whole or draw(st.integers(0, 5)) > 0
        return PlanNode(
            node=Node(
                name=name,
                protocol=name,
                host="box",
                demand=Resources(**{key: draw(st.floats(0, 12)) for key in RESOURCES}),
                min_share=low,
                max_share=high,
            ),
            lever=lever if known else draw(st.sampled_from([None, lever])),
            share_now=draw(st.floats(low, high)) if known else draw(st.one_of(st.none(), st.floats(low, high))),
            yields=a_forecast(name, draw(st.floats(-0.01 if not whole else 0.0, 0.2)))
            if known
            else draw(st.sampled_from([None, a_forecast(name, 0.03)])),
            response=LearntResponse(draw(st.floats(0.5, 1)) if curvature is None else curvature, 0.15, 0),
            frozen="" if known else draw(st.sampled_from(["", "pinned"])),
        )

    return [one(f"n{i}") for i in range(draw(st.integers(1, 4)))]


hosts = st.builds(a_host, *[st.floats(4, 40)] * 4)


def or_none(host, nodes):
    """The plan; None for the one error that a random host may give: it is too small."""
    try:
        return planned(host, *nodes)
    except PlanError as error:
        if "no allocation fits its" not in str(error):
            raise
        return None


@SOLVES
@given(hosts, nodes_of_a_host())
def test_no_plan_exceeds_a_capacity_a_bound_or_a_step_or_moves_what_must_stay(host, nodes):
    made = or_none(host, nodes)
    if made is None:
        return
    now, use, capacity = made.use_now.as_dict(), made.use_planned.as_dict(), host.capacity.as_dict()
    guessed = any(each.share_now is None for each in nodes)
    for name in RESOURCES:
        assert use[name] <= (max(capacity[name], now[name]) if guessed else capacity[name]) * (1 + 2e-6)
    for each, line in zip(nodes, made.nodes, strict=True):
        if not line.moves:
            assert line.share_planned == each.share_now
            continue
        assert each.frozen == ""
        assert each.node.min_share - 1e-6 <= line.share_planned <= each.node.max_share + 1e-6
        lever = each.lever
        steps = (line.value_planned - lever.minimum) / lever.step
        assert steps == pytest.approx(round(steps), abs=1e-3)
        assert lever.minimum - 1e-9 <= line.value_planned <= lever.maximum + 1e-9  # values have nine decimals
        assert line.share_planned == lever.share_for(line.value_planned)
        assert abs(line.share_planned - line.share_now) >= MIN_MOVE * (1 - 1e-6)
    if not made.forced:
        net = made.earnings_planned_usd.p50 - made.switching_cost_usd
        assert net >= made.earnings_now_usd.p50 - 1e-9


@SOLVES
@given(hosts, nodes_of_a_host(restart=0.0), st.sampled_from(RESOURCES), st.floats(1, 3))
def test_more_capacity_never_lowers_what_the_solver_finds(host, nodes, resource, factor):
    made = or_none(host, nodes)
    if made is None:
        return
    more = {**host.capacity.as_dict(), resource: host.capacity.as_dict()[resource] * factor}
    wider = planned(replace(host, capacity=Resources(**more)), *nodes)
    assert wider.solver_objective_usd >= made.solver_objective_usd - 1e-5


@SOLVES
@given(hosts, nodes_of_a_host(whole=True, curvature=1.0, restart=0.0))
def test_on_the_linear_case_a_plan_is_the_optimum_of_the_linear_program(host, nodes):
    nodes = [replace(each, lever=a_lever(full=1.0, step=1e-6)) for each in nodes]
    worth = np.array([each.yields.p50[0] for each in nodes])
    direct = linprog(
        -worth,
        A_ub=[[each.node.demand.as_dict()[name] for each in nodes] for name in RESOURCES],
        b_ub=list(host.capacity.as_dict().values()),
        bounds=[(each.node.min_share, each.node.max_share) for each in nodes],
        method="highs",
    )
    made = or_none(host, nodes)
    if made is None:
        assert direct.status in (0, 2)  # 0: fits, but only by moves too small to make
        return
    assert made.solver_objective_usd <= -direct.fun + 1e-5
    moves = np.abs(direct.x - [each.share_now for each in nodes])
    assume(all((moves > MIN_MOVE + 1e-5) | (moves < 1e-9)))  # smaller moves are not made, whatever they earn
    assert made.solver_objective_usd == pytest.approx(-direct.fun, abs=1e-5)
    assert made.earnings_planned_usd.p50 / 24 == pytest.approx(-direct.fun, abs=1e-4)  # lever steps of a millionth


@SOLVES
@given(hosts, nodes_of_a_host(), st.integers(0, 3))
def test_a_frozen_node_never_moves_and_nothing_else_depends_on_its_lever(host, nodes, index):
    frozen = nodes[index % len(nodes)]
    nodes[index % len(nodes)] = replace(frozen, frozen="at risk", lever=None)
    made = or_none(host, nodes)
    if made is not None:
        assert shares(made)[frozen.node.name] == frozen.share_now
    nodes[index % len(nodes)] = replace(frozen, frozen="at risk")
    again = or_none(host, nodes)
    assert (made and shares(made)) == (again and shares(again))


def test_a_second_plan_with_other_numbers_reuses_the_compiled_program_and_forgets_the_first():
    first = planned(a_host(cpu=10), a_node("a", 0.1, 0.5), a_node("b", 0.01, 0.5))
    other = planned(a_host(cpu=10), a_node("a", 0.01, 0.5), a_node("b", 0.1, 0.5))
    again = planned(a_host(cpu=10), a_node("a", 0.1, 0.5), a_node("b", 0.01, 0.5))
    assert shares(first) == shares(again)
    assert shares(other)["a"] == shares(first)["b"]


def assume_earthly(nodes):
    """No yields beside which others drown in the solver's arithmetic."""
    assume(not any(each.yields and 0 < abs(each.yields.p50[0]) < 1e-9 for each in nodes))


# --- hosts that share a limit

ATTIC, BARN = replace(a_host(cpu=10), name="attic"), replace(a_host(cpu=10), name="barn")


def across(rich=0.10, poor=0.01, now=(0.3, 0.6), **changes):
    return [
        on(ATTIC, a_node("rich", rich, now[0], curvature=1.0, **changes)),
        on(BARN, a_node("poor", poor, now[1], curvature=1.0, **changes)),
    ]


def test_a_limit_takes_from_one_host_what_earns_more_on_another():
    limit = Limit(name="address", use={"rich": 1.0, "poor": 1.0}, most=1.0)
    attic, barn = planned_together([ATTIC, BARN], across(), limit)
    assert (shares(attic), shares(barn)) == ({"rich": 1.0}, {"poor": 0.0})
    assert attic.binding == ("cpu_threads", "address")  # a whole host and a whole limit
    (use,) = barn.shared
    assert (use.name, use.limit, use.now, use.planned, use.others) == ("address", 1.0, 0.6, 0.0, 0.3)


def test_without_a_limit_hosts_are_planned_as_if_alone():
    attic, barn = planned_together([ATTIC, BARN], across())
    assert (shares(attic), shares(barn)) == ({"rich": 1.0}, {"poor": 1.0})
    assert attic.shared == barn.shared == ()


def test_a_limit_that_leaves_room_changes_nothing():
    limit = Limit(name="address", use={"rich": 1.0, "poor": 1.0}, most=2.5)
    bound = planned_together([ATTIC, BARN], across(), limit)
    assert [shares(each) for each in bound] == [shares(each) for each in planned_together([ATTIC, BARN], across())]
    assert all("address" not in each.binding and "address" not in each.shadow_prices for each in bound)


def test_what_frozen_nodes_take_of_a_limit_is_left_to_them():
    limit = Limit(name="address", use={"rich": 1.0, "poor": 1.0}, most=1.0)
    rich, poor = across()
    attic, barn = planned_together([ATTIC, BARN], [rich, replace(poor, frozen="pinned")], limit)
    assert shares(attic) == {"rich": pytest.approx(0.4)}
    assert shares(barn) == {"poor": 0.6}


def test_a_limit_that_nothing_fits_is_named():
    limit = Limit(name="address", use={"rich": 1.0, "poor": 1.0}, most=0.5)
    with pytest.raises(PlanError, match="limit address: no allocation fits"):
        planned_together([ATTIC, BARN], across(low=0.3), limit)


@SOLVES
@given(st.floats(0.05, 30), st.tuples(*[st.floats(0.1, 20)] * 2), st.tuples(*[st.floats(0, 1)] * 2), st.floats(0, 0.2))
def test_hosts_planned_together_keep_every_limit(most, use, now, rich):
    limit = Limit(name="uplink", use=dict(zip(("rich", "poor"), use, strict=True)), most=most)
    made = planned_together([ATTIC, BARN], across(rich=rich, now=now), limit)
    told = {name: share for each in made for name, share in shares(each).items()}
    assert sum(limit.use[name] * share for name, share in told.items()) <= most * (1 + 2e-6) + 1e-6
    for each in made:
        assert [(shared.name, shared.limit) for shared in each.shared] == [("uplink", most)]


# --- levers that cannot be taken back


@SOLVES
@given(hosts, nodes_of_a_host(), st.lists(st.sampled_from(["up", "down", "both"]), min_size=4, max_size=4))
def test_a_lever_is_only_moved_in_its_safe_direction(host, nodes, directions):
    assume_earthly(nodes)
    nodes = [
        replace(each, lever=each.lever and replace(each.lever, safe_direction=direction))
        for each, direction in zip(nodes, directions, strict=False)
    ]
    made = or_none(host, nodes)
    if made is None:
        return
    for each, line in zip(nodes, made.nodes, strict=True):
        if line.moves and each.lever.safe_direction == "up":
            assert line.share_planned > each.share_now
        if line.moves and each.lever.safe_direction == "down":
            assert line.share_planned < each.share_now


@pytest.mark.parametrize(("safe", "share"), [("both", 0.0), ("down", 0.0), ("up", 0.7)])
def test_room_is_only_made_by_what_may_shrink(safe, share):
    made = planned(a_host(cpu=10), a_node("a", 0.10, 0.3), a_node("b", 0.001, 0.7, safe_direction=safe))
    assert shares(made) == {"a": pytest.approx(1 - share), "b": share}


# --- moves only made to learn


def curious(name, usd=0.05, now=0.5, *, deviation=0.15, **changes):
    each = a_node(name, usd, now, **changes)
    return replace(each, response=replace(each.response, deviation=deviation), may_explore=True)


def test_without_exploration_nothing_is_moved_to_learn():
    made = planned(a_host(cpu=10), curious("a"), curious("b"))
    assert made.moved == ()
    assert made.explores == ""


def test_exploration_moves_one_node_a_little_and_says_what_for():
    made = planned(a_host(cpu=10), curious("a"), curious("b", deviation=0.06), exploration=0.05)
    assert [line.node.name for line in made.moved] == ["a"]
    assert abs(shares(made)["a"] - 0.5) == pytest.approx(EXPLORED_BY)
    assert made.explores.startswith(
        "a is moved to learn how its earnings answer: its curvature is known to 0.15 only; this costs "
    )
    assert -0.05 * 0.1 * 0.5**0.9 <= made.gain_usd_per_hour < 0
    assert made.forced == ""


def test_what_pays_is_moved_first_and_nothing_is_explored_beside_it():
    made = planned(a_host(cpu=10), curious("a", 0.2), curious("b", 0.01), exploration=0.05)
    assert made.gain_usd_per_hour > 0
    assert made.explores == ""


@pytest.mark.parametrize(
    "nodes",
    [
        [replace(curious("a"), may_explore=False), replace(curious("b"), may_explore=False)],
        [curious("a", deviation=LEAST_TO_LEARN), curious("b", deviation=LEAST_TO_LEARN)],
        [curious("a", frozen="at risk"), curious("b", frozen="at risk")],
        [curious("a", step=25.0), curious("b", step=25.0)],
        [curious("a", restart=3600), curious("b", restart=3600)],
        pytest.param(
            [curious("a", 0.0), curious("b", 0.0)],
        ),
        [curious("a", low=0.5, high=0.5), curious("b", low=0.5, high=0.5)],
    ],
    ids=["changed lately", "known well", "frozen", "coarse lever", "dear restart", "nothing earned", "no way to go"],
)
def test_nothing_is_explored_where_nothing_may_or_where_it_costs_too_much(nodes):
    made = planned(a_host(cpu=10), *nodes, exploration=0.05)
    assert made.moved == ()
    assert made.explores == ""


def test_an_allocation_that_cannot_stay_is_no_time_to_explore():
    made = planned(a_host(cpu=9), curious("a"), curious("b"), exploration=0.05)
    assert made.forced
    assert made.explores == ""


@SOLVES
@given(hosts, nodes_of_a_host(whole=True, restart=0.0), st.floats(0, 0.05))
def test_exploration_moves_at_most_one_node_and_costs_at_most_its_budget(host, nodes, budget):
    assume_earthly(nodes)
    nodes = [replace(each, may_explore=True) for each in nodes]
    try:
        made = planned(host, *nodes, exploration=budget)
    except PlanError:
        return
    if not made.explores:
        return
    (line,) = made.moved
    assert line.node.name in made.explores
    step = max(line.lever.share_for(line.lever.step), MIN_MOVE)
    assert abs(line.share_planned - line.share_now) <= EXPLORED_BY + 2 * step + 1e-6  # from between two steps
    earned = sum(each.yields.p50[0] * each.share_now**each.response.curvature for each in nodes)
    assert -made.gain_usd_per_hour <= budget * earned + 1e-9
    for name, used in made.use_planned.as_dict().items():
        assert used <= host.capacity.as_dict()[name] * (1 + 2e-6)


def test_what_rests_for_a_day_after_it_is_explored_costs_at_most_the_budget_in_that_day():
    rested = curious("a", cooldown=timedelta(hours=24))
    made = planned(a_host(cpu=10), rested, a_node("b", 0.05, 0.5), exploration=0.05)
    lost = made.earnings_now_usd.p50 - made.earnings_planned_usd.p50
    assert lost <= 0.05 * 0.1 * 0.5**0.9


# --- a capacity that will change


def in_hours(first, then, after=3):
    """The capacity of each period: `then` CPU threads from so many hours on."""
    return [a_host(cpu=first).capacity] * after + [a_host(cpu=then).capacity] * (len(PERIODS) - after)


@pytest.mark.parametrize(("cooldown", "share"), [(0, 1.0), (24, 0.4)])
def test_a_node_that_rests_for_a_day_does_not_grow_into_what_is_gone_in_three_hours(cooldown, share):
    node = a_node("a", 0.05, 0.2, curvature=1.0, cooldown=timedelta(hours=cooldown))
    known = {"hold_hours": 1.0, "issued_at": NOW, "weights": Weights(freedom=0.0)}
    made = plan(a_host(cpu=10), [node], coming=in_hours(10, 4), **known)
    assert shares(made) == {"a": pytest.approx(share, abs=1e-6)}
    assert shares(plan(a_host(cpu=10), [node], **known)) == {"a": 1.0}


def test_a_node_that_rests_for_a_day_and_takes_more_than_there_will_be_is_still_planned():
    node = a_node("a", 0.05, 0.8, cooldown=timedelta(hours=24))
    frozen = replace(node, frozen="its cool-down lasts 20 h more", rests=timedelta(hours=20))
    for each in (node, frozen):
        made = plan(a_host(cpu=10), [each], coming=in_hours(10, 4), hold_hours=1.0, issued_at=NOW)
        assert shares(made)["a"] <= 0.8


def test_a_node_in_its_cool_down_is_planned_for_when_it_wakes():
    # In two hours `a` may take what `b` would hold for a day.
    waking = replace(a_node("a", 0.50, 0.3), frozen="its cool-down lasts 2 h more", rests=timedelta(hours=2))
    made = planned(a_host(cpu=10), waking, a_node("b", 0.01, 0.3, cooldown=timedelta(hours=24)))
    assert shares(made)["a"] == 0.3
    assert shares(made)["b"] <= 0.3


def test_a_node_in_its_cool_down_of_which_nothing_is_known_stops_no_plan():
    gone = replace(a_node("a", None, 0.3), frozen="its cool-down lasts 2 h more", rests=timedelta(hours=2))
    stuck = replace(a_node("a", 0.5, 0.3, step=0.0), frozen="its cool-down lasts 2 h more", rests=timedelta(hours=2))
    for each in (gone, stuck):
        assert shares(planned(a_host(cpu=10), each, a_node("b", 0.01, 0.3))) == {"a": 0.3, "b": pytest.approx(0.7)}


# --- what a unit more would earn


def test_only_what_is_scarce_has_a_price_and_a_unit_more_earns_it():
    nodes = [a_node("a", 0.10, 0.5, curvature=1.0), a_node("b", 0.04, 0.5, curvature=1.0)]
    made, more = planned(a_host(cpu=13), *nodes), planned(a_host(cpu=14), *nodes)
    assert made.shadow_prices == {"cpu_threads": pytest.approx(730 * 0.04 / 10)}
    earned = more.solver_objective_usd - made.solver_objective_usd
    assert 730 * earned == pytest.approx(made.shadow_prices["cpu_threads"], rel=1e-3)
    assert planned(a_host(cpu=30), *nodes).shadow_prices == {}


@SOLVES
@given(hosts, nodes_of_a_host(whole=True, curvature=1.0, restart=0.0), st.sampled_from(RESOURCES))
def test_a_unit_more_earns_at_most_its_price_and_at_least_what_it_is_then(host, nodes, resource):
    assume_earthly(nodes)
    nodes = [replace(each, lever=a_lever(full=1.0, step=1e-6)) for each in nodes]
    more = {**host.capacity.as_dict(), resource: host.capacity.as_dict()[resource] + 1}
    made = or_none(host, nodes)
    if made is None:
        return
    wider = planned(replace(host, capacity=Resources(**more)), *nodes)
    used = made.use_planned.as_dict()
    for name, price in made.shadow_prices.items():
        assert price > 0
        assert used[name] >= host.capacity.as_dict()[name] * 0.9 or not made.moved  # up to moves too small to make
    earned = 730 * (wider.solver_objective_usd - made.solver_objective_usd)
    unsure = 730 * MIN_MOVE * sum(each.yields.p50[0] for each in nodes) + 1e-2
    assert earned <= made.shadow_prices.get(resource, 0.0) + unsure
    assert earned >= wider.shadow_prices.get(resource, 0.0) - unsure


# --- what else would be best


@SOLVES
@given(hosts, nodes_of_a_host(whole=True, curvature=1.0, restart=0.0))
def test_the_runner_up_never_promises_more_than_the_plan(host, nodes):
    assume_earthly(nodes)
    nodes = [replace(each, lever=a_lever(full=1.0, step=1e-6)) for each in nodes]
    made = or_none(host, nodes)
    if made is None or made.runner_up_usd_per_hour is None or made.forced:
        return
    assert made.runner_up
    assert made.runner_up_usd_per_hour <= made.gain_usd_per_hour + 1e-4


def test_the_runner_up_stands_on_the_levers_steps():
    nodes = [a_node(name, usd, 0.5, lever=a_lever(full=4.0, step=1.0)) for name, usd in (("a", 0.05), ("b", 0.03))]
    made = planned(a_host(cpu=10), *nodes, a_node("c", 0.02, 0.5, cpu=1.0))
    told = re.findall(r"([ab]) to (\d\.\d\d)", made.runner_up)
    assert told
    assert all(float(share) in {0.0, 0.25, 0.5, 0.75, 1.0} for _, share in told)


def test_to_leave_everything_is_no_runner_up_where_it_cannot_stay():
    made = planned(a_host(cpu=10), a_node("a", 0.05, 0.8), a_node("b", 0.04, 0.8))
    assert made.forced
    assert made.runner_up.startswith("move ")
    assert made.runner_up_usd_per_hour <= made.gain_usd_per_hour + 1e-4


# --- doubt


@pytest.mark.parametrize("doubtful", ["a", "b"])
def test_risk_aversion_prefers_the_steadier_of_two_equal_nodes(doubtful):
    nodes = [a_node(name, 0.05, 0.5, curvature=1.0, spread=0.9 if name == doubtful else 0.05) for name in ("a", "b")]
    assert planned(a_host(cpu=10), *nodes).moved == ()
    made = planned(a_host(cpu=10), *nodes, risk_aversion=0.5)
    assert shares(made)[doubtful] == 0.0
    assert sum(shares(made).values()) == pytest.approx(1.0)
