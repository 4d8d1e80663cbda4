import math
from dataclasses import replace
from datetime import timedelta
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.allocation.gates import (
    MAX_FORECAST_AGE,
    MAX_READING_AGE,
    decide,
    freeze_reason,
    hold_without_plan,
)
from orcha_pipeline.allocation.plan import SharedUse
from orcha_pipeline.errors import PlanError
from orcha_pipeline.model import HOUR, HealthState, Mode, Verdict
from orcha_pipeline.settings import PRESETS, PlannerSettings
from orcha_pipeline_tests.allocation.build import NOW, a_host, a_lever, a_node, planned

MINUTE = timedelta(minutes=1)


def a_plan(*, rich=0.10, poor=0.01, spread=0.2, restart=60.0, cooldown=timedelta(0)):
    """Moves 5 threads from `poor` to `rich`."""
    return planned(
        a_host(cpu=10),
        a_node("rich", rich, 0.5, curvature=1.0, spread=spread, restart=restart),
        a_node("poor", poor, 0.5, curvature=1.0, spread=spread, restart=restart, cooldown=cooldown),
    )


def decided(plan=None, settings=None, **changes: Any):
    known: dict[str, Any] = {
        "decision_id": "d-1",
        "now": NOW,
        "settings": settings or PlannerSettings(),
        "changes": [],
        "last_changed": {},
        "health": {"rich": HealthState.HEALTHY, "poor": HealthState.HEALTHY},
        "readings_age": MINUTE,
        "forecast_age": MINUTE,
        "modes": {"rich": Mode.AUTO, "poor": Mode.AUTO},
        "approve_within": HOUR,
    }
    return decide(plan or a_plan(), **{**known, **changes})


def failed(decision) -> list[str]:
    return [gate.name for gate in decision.gates if not gate.passed]


def gate(decision, name):
    return next(each for each in decision.gates if each.name == name)


def test_a_change_that_pays_is_made_and_the_reason_tells_what_it_promises():
    decision = decided()
    assert decision.verdict is Verdict.REALLOCATE
    assert failed(decision) == []
    assert decision.reason == (
        "Moves rich from share 0.50 to 1.00, poor from share 0.50 to 0.00: 0.0441 USD/h (+80.2 %) over 60 min "
        "after 0.000917 USD of costs, 100 % likely to pay."
    )


def test_every_gate_has_a_value_a_threshold_and_a_sentence():
    decision = decided(a_plan(cooldown=timedelta(hours=2)))
    names = [each.name for each in decision.gates]
    assert names == [
        "plan_differs",
        "not_paused",
        "gain_percent",
        "gain_usd_per_hour",
        "confidence",
        "rate_limit",
        "hold",
        "cooldown:poor",
        "readings_fresh",
        "forecast_fresh",
        "health",
        "writable",
    ]
    assert all(each.explanation and each.threshold is not None for each in decision.gates)


# --- who lets it happen


def test_the_strictest_mode_of_the_moved_nodes_is_the_decisions():
    modes = {"rich": Mode.AUTO, "poor": Mode.CONFIRM, "other": Mode.ADVISE}
    decision = decided(modes=modes)
    assert (decision.verdict, decision.mode, decision.expires_at) == (Verdict.REALLOCATE, Mode.CONFIRM, NOW + HOUR)
    assert decision.reason.startswith("Asks to move rich")
    advice = decided(modes=modes | {"rich": Mode.ADVISE})
    assert (advice.verdict, advice.mode, advice.expires_at) == (Verdict.REALLOCATE, Mode.ADVISE, None)
    assert advice.reason.startswith("Advises to move rich")
    assert decided().mode is Mode.AUTO


def test_a_node_of_unknown_mode_is_only_advised_on():
    assert decided(modes={"rich": Mode.AUTO}).mode is Mode.ADVISE


def test_what_moves_nothing_has_no_mode_and_what_holds_waits_for_nobody():
    assert decided(a_plan(rich=0.05, poor=0.05)).mode is None
    held = decided(modes={"rich": Mode.CONFIRM, "poor": Mode.AUTO}, readings_age=None)
    assert (held.verdict, held.mode, held.expires_at) == (Verdict.HOLD, Mode.CONFIRM, None)


def test_a_pause_holds_and_says_so_first():
    decision = decided(paused="Changes are paused since noon")
    assert failed(decision) == ["not_paused"]
    assert decision.reason == "Holds: Changes are paused since noon."


def test_while_a_decision_waits_for_approval_its_host_is_left_alone():
    decision = decided(awaiting="decision 5f1c waits for `orcha approve 5f1c` until 13:00 UTC")
    assert failed(decision) == ["nothing_awaits"]
    assert "orcha approve 5f1c" in decision.reason


# --- what must pay


def test_a_plan_equal_to_today_is_held():
    decision = decided(a_plan(rich=0.05, poor=0.05))
    assert decision.verdict is Verdict.HOLD
    assert failed(decision) == ["plan_differs"]
    assert decision.reason.startswith("Holds: the plan is what is there already")
    assert decision.confidence is None


def test_moves_below_a_step_of_the_lever_or_a_hundredth_are_no_change():
    plan = a_plan()
    for move, step in ((0.009, 0.1), (0.04, 5.0)):
        lever = a_lever(full=100.0, step=step)
        tiny = [replace(line, lever=lever, share_planned=line.share_now + move) for line in plan.nodes]
        decision = decided(replace(plan, nodes=tuple(tiny)))
        assert failed(decision) == ["plan_differs"]


def test_a_gain_below_the_asked_percent_is_held():
    assert failed(decided(settings=PlannerSettings(min_gain_percent=80.1))) == []
    decision = decided(settings=PlannerSettings(min_gain_percent=80.5))
    assert failed(decision) == ["gain_percent"]
    assert "+80.2 % of today's earnings; 80.5 % are asked" in decision.reason


def test_a_gain_below_the_asked_dollars_is_held():
    assert failed(decided(settings=PlannerSettings(min_gain_usd_per_hour=0.044))) == []
    assert failed(decided(settings=PlannerSettings(min_gain_usd_per_hour=0.045))) == ["gain_usd_per_hour"]


def test_a_change_that_costs_much_is_promised_until_another_choice_would_do_as_well():
    decision = decided(a_plan(rich=0.02, poor=0.01, restart=1800.0))
    assert decision.plan.promise_hours > 1
    assert decision.verdict is Verdict.REALLOCATE
    assert f"over {decision.plan.promise_hours * 60:.0f} min" in gate(decision, "gain_percent").explanation or (
        f"over {decision.plan.promise_hours:g} h" in gate(decision, "gain_percent").explanation
    )


def test_any_gain_counts_where_nothing_is_earned_today():
    plan = planned(a_host(cpu=10), a_node("rich", 0.1, 0.0))
    decision = decided(plan, PlannerSettings(min_gain_percent=10))
    assert gate(decision, "gain_percent").value is None
    assert decision.verdict is Verdict.REALLOCATE


def test_a_forecast_too_unsure_is_held():
    # Gain 0.5 x (0.030 - 0.025): the error of either forecast is many times larger.
    plan = a_plan(rich=0.030, poor=0.025, spread=1.0, restart=0.0)
    decision = decided(plan, PlannerSettings(min_confidence=0.6))
    assert failed(decision) == ["confidence"]
    assert 0.5 < decision.confidence < 0.6
    assert failed(decided(plan, PlannerSettings(min_confidence=0.5))) == []


def test_confidence_is_the_probability_of_independent_normal_errors():
    plan = a_plan(rich=0.030, poor=0.025, spread=1.0, restart=0.0)
    sigma = 0.5 * (0.030**2 + 0.025**2) ** 0.5 / 1.2815515655446004
    assert decided(plan).confidence == pytest.approx(1 - NormalDist(0.0025, sigma).cdf(0), abs=0.04)


@pytest.mark.parametrize(("ago", "fails"), [([61, 62, 63, 64], False), ([59, 61, 62, 63], False), ([1, 2, 3, 4], True)])
def test_no_more_than_four_changes_in_sixty_minutes(ago, fails):
    settings = PlannerSettings(hold_minutes=0)
    decision = decided(settings=settings, changes=[NOW - minutes * MINUTE for minutes in ago])
    assert (failed(decision) == ["rate_limit"]) is fails


def test_no_change_an_hour_is_a_rate_that_always_holds():
    assert failed(decided(settings=PlannerSettings(max_changes_per_hour=0))) == ["rate_limit"]


@pytest.mark.parametrize(("minutes", "fails"), [(59, True), (60, False), (61, False)])
def test_a_host_rests_after_a_change(minutes, fails):
    decision = decided(changes=[NOW - 3 * 60 * MINUTE, NOW - minutes * MINUTE])
    assert (failed(decision) == ["hold"]) is fails
    if fails:
        assert decision.reason == "Holds: the host was changed 59 min ago and rests 60 min: 1 min more."


def test_a_clock_that_went_back_grants_no_change():
    decision = decided(settings=PlannerSettings(max_changes_per_hour=1), changes=[NOW + 30 * MINUTE])
    assert failed(decision) == ["rate_limit", "hold"]


@pytest.mark.parametrize(("hours", "fails"), [(23, True), (24, False)])
def test_a_lever_in_its_cool_down_is_not_moved(hours, fails):
    plan = a_plan(cooldown=timedelta(hours=24))
    decision = decided(plan, last_changed={"poor": NOW - timedelta(hours=hours), "rich": NOW})
    assert (failed(decision) == ["cooldown:poor"]) is fails


def test_a_lever_never_moved_has_no_cool_down():
    assert failed(decided(a_plan(cooldown=timedelta(hours=24)))) == []


@pytest.mark.parametrize(
    ("name", "which", "limit"),
    [("readings_fresh", "readings_age", MAX_READING_AGE), ("forecast_fresh", "forecast_age", MAX_FORECAST_AGE)],
)
def test_stale_or_missing_knowledge_is_held(name, which, limit):
    assert failed(decided(**{which: limit})) == []
    assert failed(decided(**{which: limit + MINUTE})) == [name]
    assert failed(decided(**{which: None})) == [name]


@pytest.mark.parametrize("state", [s for s in HealthState if s is not HealthState.HEALTHY])
def test_a_node_that_is_not_healthy_is_not_changed(state):
    decision = decided(health={"rich": HealthState.HEALTHY, "poor": state})
    assert failed(decision) == ["health"]
    assert gate(decision, "health").value == f"poor is {state.value.replace('_', ' ')}"


def test_a_node_of_unknown_health_is_not_changed():
    assert failed(decided(health={"rich": HealthState.HEALTHY})) == ["health"]


def test_the_health_of_nodes_that_are_not_changed_does_not_matter():
    healthy = {"rich": HealthState.HEALTHY, "poor": HealthState.HEALTHY, "other": HealthState.UNREACHABLE}
    assert failed(decided(health=healthy)) == []


def test_a_lever_that_cannot_be_written_is_held_with_its_reason():
    plan = a_plan()
    stuck = [replace(line, lever=replace(line.lever, writable=False, why_not="no key")) for line in plan.nodes]
    decision = decided(replace(plan, nodes=tuple(stuck)))
    assert failed(decision) == ["writable"]
    assert gate(decision, "writable").explanation == "rich: no key; poor: no key"


def test_a_change_that_restores_the_capacity_need_not_pay_but_keeps_every_other_rule():
    plan = planned(a_host(cpu=10), a_node("rich", 0.05, 0.8), a_node("poor", 0.04, 0.8))
    assert plan.gain_usd_per_hour < 0
    decision = decided(plan, PlannerSettings(min_gain_percent=10, min_gain_usd_per_hour=1, min_confidence=0.9))
    assert decision.verdict is Verdict.REALLOCATE
    assert "It must change: today's allocation takes 16 CPU threads of the 10 that box has." in decision.reason
    assert failed(decided(plan, changes=[NOW - MINUTE])) == ["hold"]
    assert failed(decided(plan, health={})) == ["health"]


def test_without_a_plan_the_decision_is_to_hold_with_the_reason_of_the_failure():
    decision = hold_without_plan(decision_id="d-2", host="box", now=NOW, reason="forecast of a: p50 is nan")
    assert decision.verdict is Verdict.HOLD
    assert decision.reason == "Holds: there is no plan. forecast of a: p50 is nan"
    assert decision.gain_usd_per_hour is None
    assert failed(decision) == ["plan"]


@pytest.mark.parametrize(
    ("health", "last_changed", "reason"),
    [
        (HealthState.HEALTHY, None, ""),
        (HealthState.HEALTHY, NOW - timedelta(hours=24), ""),
        (HealthState.HEALTHY, NOW - timedelta(hours=20), "its cool-down lasts 4 h more"),
        (HealthState.AT_RISK, None, "it is at risk"),
        (None, None, "nothing is known of its health"),
    ],
)
def test_a_node_is_frozen_by_the_rules_its_gates_would_hold_it_to(health, last_changed, reason):
    lever = a_lever(cooldown=timedelta(hours=24))
    assert freeze_reason(now=NOW, health=health, lever=lever, last_changed=last_changed) == reason


@given(st.lists(st.integers(-30, 200), max_size=8), st.integers(0, 5), st.integers(0, 120))
def test_no_history_of_changes_gets_past_the_rate_limit_and_the_hold(ago, limit, hold):
    settings = PlannerSettings(max_changes_per_hour=limit, hold_minutes=hold)
    decision = decided(PLAN, settings, changes=[NOW - minutes * MINUTE for minutes in ago])
    if decision.verdict is Verdict.REALLOCATE:
        assert sum(minutes < 60 for minutes in ago) < limit
        assert all(max(0, minutes) >= hold for minutes in ago)
    else:
        assert sum(minutes < 60 for minutes in ago) >= limit or any(max(0, minutes) < hold for minutes in ago)


PLAN = a_plan()


# --- limits shared with other hosts


def sharing(now: float, planned_use: float, others: float):
    use = SharedUse(name="address", limit=1.0, now=now, planned=planned_use, others=others)
    return decided(replace(a_plan(), shared=(use,)))


def test_a_host_that_grows_waits_until_the_others_have_made_room():
    decision = sharing(0.3, 0.9, others=0.7)
    assert failed(decision) == ["limit:address"]
    held = gate(decision, "limit:address")
    assert (held.value, held.threshold) == (pytest.approx(1.6), 1.0)
    assert decision.reason == (
        "Holds: with what the other hosts take now, 1.6 of the 1 that address allows would be taken."
    )
    assert failed(sharing(0.3, 0.9, others=0.1)) == []


@pytest.mark.parametrize("planned_use", [0.1, 0.3])
def test_a_host_that_takes_no_more_of_a_limit_need_not_wait(planned_use):
    assert failed(sharing(0.3, planned_use, others=2.0)) == []


@given(st.floats(0, 2), st.floats(0, 2), st.floats(0, 2))
def test_no_growth_beyond_a_shared_limit_is_let_through(now, planned_use, others):
    passes = failed(sharing(now, planned_use, others)) == []
    assert passes is (planned_use + others <= 1 + 1e-6 or planned_use <= now * (1 + 1e-6))


def test_a_plan_that_changes_nothing_is_held_against_no_limit():
    use = SharedUse(name="address", limit=1.0, now=0.9, planned=0.9, others=0.9)
    assert failed(decided(replace(a_plan(rich=0.05, poor=0.05), shared=(use,)))) == ["plan_differs"]


# --- moves only made to learn


def an_exploring_plan():
    nodes = [replace(a_node(name, 0.05, 0.5), may_explore=True) for name in ("rich", "poor")]
    return planned(a_host(cpu=10), *nodes, exploration=0.05)


def test_a_change_that_is_made_to_learn_need_not_pay_but_keeps_every_other_rule():
    plan = an_exploring_plan()
    (moved,) = plan.moved
    assert plan.gain_usd_per_hour < 0
    decision = decided(plan, PlannerSettings(min_gain_percent=10, min_gain_usd_per_hour=1, min_confidence=0.9))
    assert decision.verdict is Verdict.REALLOCATE
    assert f" {plan.explores[0].upper()}{plan.explores[1:]}." in decision.reason
    assert "it need not pay, for " in gate(decision, "gain_usd_per_hour").explanation
    assert failed(decided(plan, changes=[NOW - MINUTE])) == ["hold"]
    assert failed(decided(plan, PlannerSettings(max_changes_per_hour=0))) == ["rate_limit"]
    assert failed(decided(plan, health={})) == ["health"]
    assert failed(decided(plan, readings_age=None)) == ["readings_fresh"]
    assert failed(decided(plan, forecast_age=None)) == ["forecast_fresh"]
    stuck = [replace(line, lever=replace(line.lever, writable=False)) for line in plan.nodes]
    assert failed(decided(replace(plan, nodes=tuple(stuck)))) == ["writable"]
    resting = [replace(line, lever=replace(line.lever, cooldown=timedelta(hours=24))) for line in plan.nodes]
    decision = decided(replace(plan, nodes=tuple(resting)), last_changed={moved.node.name: NOW - 60 * MINUTE})
    assert failed(decision) == [f"cooldown:{moved.node.name}"]
    use = SharedUse(name="address", limit=1.0, now=0.5, planned=0.6, others=1.0)
    assert failed(decided(replace(plan, shared=(use,)))) == ["limit:address"]


# --- how sure it must be


@pytest.mark.parametrize(("more", "fails"), [(-0.01, []), (0.0, []), (0.01, ["confidence"])])
def test_a_change_must_be_as_sure_to_pay_as_the_settings_ask(more, fails):
    plan = a_plan(rich=0.030, poor=0.025, spread=1.0, restart=0.0)
    assert 0.5 < plan.confidence < 0.9
    decision = decided(plan, PlannerSettings(min_confidence=plan.confidence + more))
    assert failed(decision) == fails
    assert gate(decision, "confidence").threshold == plan.confidence + more


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_each_preset_asks_for_its_own_confidence(preset):
    asked = PRESETS[preset]["min_confidence"]
    assert gate(decided(settings=PlannerSettings(preset=preset)), "confidence").threshold == asked
    unsure = replace(a_plan(rich=10.0, poor=1.0), confidence=asked - 0.01)
    assert failed(decided(unsure, PlannerSettings(preset=preset))) == ["confidence"]


def test_a_plan_of_unknown_confidence_is_held():
    assert failed(decided(replace(a_plan(), confidence=None))) == ["confidence"]


# --- from what is known to the decision


def come_to(*nodes, cpu=10.0):
    """The decision on a plan; on there being none where planning fails."""
    try:
        plan = planned(a_host(cpu=cpu), *nodes)
    except PlanError as error:
        return hold_without_plan(decision_id="d-3", host="box", now=NOW, reason=str(error))
    return decided(plan, PlannerSettings(min_confidence=0.0))


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([a_node("rich", [0.1, math.nan, *[0.1] * 22], 0.5)], "there is no plan. forecast of rich: p10"),
        ([a_node("rich", 0.1, math.nan)], "there is no plan. present share of rich is nan"),
        ([a_node("rich", 0.1, 0.9, low=0.8), a_node("poor", 0.1, 0.9, low=0.8)], "there is no plan. host box: no allo"),
        ([a_node("rich", 0.1, 0.5, cpu=1000.0, low=0.1)], "there is no plan. host box: no allocation fits"),
        ([a_node("rich", 0.1, 0.5, frozen="pinned"), a_node("poor", 0.1, 0.4, frozen="pinned")], "what is there"),
        ([a_node("rich", None, 0.3), a_node("poor", None, 0.3)], "what is there"),
        ([a_node("rich", 0.1, None), a_node("poor", 0.1, None)], "what is there"),
        ([a_node("rich", 0.0, 0.3), a_node("poor", 0.0, 0.3)], "what is there"),
        ([a_node("rich", -0.1, 0.05, low=0.05), a_node("poor", -0.1, 0.05, low=0.05)], "what is there"),
        ([a_node("rich", 0.1, 0.3, lever=None)], "what is there"),
        ([], "what is there"),
    ],
    ids=[
        "forecast that is no number",
        "share that is no number",
        "bounds above capacity",
        "demand above capacity",
        "all frozen",
        "no forecast",
        "no share",
        "zero yields",
        "negative yields",
        "no lever",
        "no node",
    ],
)
def test_what_cannot_be_planned_ends_in_a_hold_with_its_reason(nodes, told):
    decision = come_to(*nodes)
    assert decision.verdict is Verdict.HOLD
    assert decision.reason.startswith("Holds: ")
    assert told in decision.reason


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.floats(-0.2, 0.0)] * 2), st.tuples(*[st.floats(0, 0.5)] * 2))
def test_no_node_grows_that_earns_nothing_or_loses(usd, now):
    decision = come_to(a_node("rich", usd[0], now[0]), a_node("poor", usd[1], now[1]))
    assert all(line.share_planned < line.share_now for line in decision.plan.moved)
