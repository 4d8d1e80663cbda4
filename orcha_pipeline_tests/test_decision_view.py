from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.decision_json import log_json
from orcha_pipeline.decision_stories import DecisionLog, Story, log, span_of
from orcha_pipeline.decision_view import (
    decision_table,
    explanation,
    log_view,
    response_in_words,
    shadow_price_in_words,
)
from orcha_pipeline.errors import OrchaError
from orcha_pipeline.model import HOUR, ApplicationStatus, Gate, Mode, Verdict
from orcha_pipeline.warehouse import healings
from orcha_pipeline.warehouse.decisions import (
    ApplicationRow,
    DecidedAllocation,
    DecisionRow,
    OutcomeRow,
    StepRow,
    SwitchingRecord,
)
from orcha_pipeline.warehouse.healings import HealingRow, HealingStatus
from orcha_pipeline.warehouse.permissions import ApprovalRow
from orcha_pipeline_tests.rig import installation


def line(**changes):
    known = {
        "node": "golem-1",
        "yield_usd": 0.12345,
        "share_now": 0.25,
        "share_planned": 0.5,
        "lever": "cpu_threads",
        "value_now": 4.0,
        "value_planned": 8.0,
        "reason": "earns most",
    }
    return DecidedAllocation(**{**known, **changes})


def shown(*lines, verdict=Verdict.REALLOCATE, gates=(), simulated=False, application=None):
    row = DecisionRow(
        decision_id="d-1",
        host="box",
        decided_at=datetime(2026, 3, 1, 12, 5, tzinfo=UTC),
        verdict=verdict,
        gain_usd_per_hour=None,
        gain_percent=None,
        switching_cost_usd=None,
        confidence=None,
        gates=gates,
        reason="Moves golem-1.",
        dagster_run_id="run",
        allocations=lines,
    )
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(decision_table(row, application, protocols={"golem-1": "golem"}, simulated=simulated))
    return capture.get()


def test_a_change_is_shown_with_its_lever_shares_and_reason():
    text = shown(line())
    for part in ("box: REALLOCATE · 2026-03-01 12:05 UTC", "0.1235", "25.0%", "50.0%", "cpu_threads 4 → 8"):
        assert part in text
    assert "earns most" in text
    assert "Moves golem-1." in text
    assert "advice" not in text


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (ApplicationStatus.APPLIED, "Application applied: golem-1 [4] went wrong."),
        (ApplicationStatus.ROLLED_BACK, "Application rolled back: golem-1 [4] went wrong."),
        (ApplicationStatus.ROLLBACK_FAILED, "Application rollback failed: golem-1 [4] went wrong."),
    ],
)
def test_what_came_of_a_decision_is_shown_with_it(status, told):
    application = ApplicationRow(
        application_id="a-1",
        decision_id="d-1",
        started_at=datetime(2026, 3, 1, 12, 6, tzinfo=UTC),
        ended_at=datetime(2026, 3, 1, 12, 7, tzinfo=UTC),
        status=status,
        reason="golem-1 [4] went wrong.",
        dagster_run_id="run",
    )
    assert told in shown(line(), application=application)
    assert "Not applied yet." in shown(line())
    assert "pplication" not in shown(line(), verdict=Verdict.HOLD)


def test_what_is_simulated_says_so():
    assert "box (simulated)" in shown(line(), simulated=True)
    assert "simulated" not in shown(line())


def test_what_a_plan_would_have_changed_is_advice_where_the_decision_holds():
    assert "advice: cpu_threads 4 → 8" in shown(line(), verdict=Verdict.HOLD)


def test_a_node_that_keeps_its_value_stays():
    text = shown(line(value_planned=4.0))
    assert "stays" in text
    assert "→" not in text


def test_what_is_unknown_is_called_unknown_and_never_zero():
    text = shown(line(yield_usd=None, share_now=None, share_planned=None, value_now=None, value_planned=None))
    assert text.count("unknown") == 3
    assert "0.0" not in text
    assert "stays" in text


@pytest.mark.parametrize("reason", ["see [nodes.options]", "[/tmp/x] is missing", "[red]"])
def test_brackets_in_a_reason_are_shown_as_they_are(reason):
    gate = Gate(name="health", value=None, threshold=None, passed=False, explanation=reason)
    assert shown(line(reason=reason), gates=(gate,)).count(reason) == 2


def test_every_gate_is_marked_passed_or_not():
    gates = [
        Gate(name=name, value=1, threshold=2, passed=passed, explanation="because")
        for name, passed in (("hold", True), ("gain", False))
    ]
    text = shown(line(), gates=tuple(gates))
    assert "✓ hold: because" in text
    assert "✗ gain: because" in text


# --- one decision in full

AT = datetime(2026, 3, 1, 12, 5, tzinfo=UTC)
LEARNT = {
    "yield_p10": 0.1,
    "yield_p90": 0.15,
    "curvature": 0.84,
    "curvature_deviation": 0.04,
    "changes_seen": 12,
    "share_seen_least": 0.2,
    "share_seen_most": 0.6,
}
DECISION = DecisionRow(
    decision_id="5f1c9a3e-0000",
    host="box",
    decided_at=AT,
    verdict=Verdict.REALLOCATE,
    gain_usd_per_hour=0.01,
    gain_percent=8.0,
    switching_cost_usd=0.002,
    confidence=0.93,
    gates=(Gate(name="gain", value=0.01, threshold=0.0, passed=True, explanation="it pays"),),
    reason="Moves golem-1.",
    dagster_run_id="run",
    allocations=(line(**LEARNT),),
    hours=8.0,
    gain_p10=-0.02,
    gain_p90=0.15,
    roi=40.0,
    binding=("bandwidth_mbps",),
    shadow_prices={"bandwidth_mbps": 0.012},
    runner_up="Moves storj-1 alone.",
    runner_up_usd_per_hour=0.008,
    preset="balanced",
)
APPLIED = ApplicationRow(
    application_id="a-1",
    decision_id="5f1c9a3e-0000",
    started_at=AT,
    ended_at=AT,
    status=ApplicationStatus.APPLIED,
    reason="Applied and read back.",
    dagster_run_id="run",
)
STEP = StepRow(
    application_id="a-1",
    step=1,
    kind="apply",
    node="golem-1",
    lever="cpu_threads",
    previous=4.0,
    requested=8.0,
    read_back=8.0,
    status="done",
    error="",
    started_at=AT,
    ended_at=AT,
)
OUTCOME = OutcomeRow(
    decision_id="5f1c9a3e-0000",
    host="box",
    applied_at=AT,
    measured_at=AT + 8 * HOUR,
    hours=8.0,
    promised_usd=0.08,
    promised_p10=-0.02,
    promised_p90=0.15,
    earned_usd=1.2,
    unchanged_usd=1.1,
    gained_usd=0.1,
    wrong=False,
    note="",
)
APPROVAL = ApprovalRow(decision_id="d-12", approved_at=AT + timedelta(minutes=5), approved_by="ada")
STORY = Story(decision=DECISION, application=APPLIED, steps=(STEP,), outcome=OUTCOME, simulated=False)


def printed(what):
    console = Console(width=300, color_system=None)
    with console.capture() as capture:
        console.print(what, highlight=False)
    return "\n".join(text.rstrip() for text in capture.get().splitlines())


def explained(**changes):
    decision = replace(DECISION, **changes.pop("decision", {}))
    return printed(explanation(replace(STORY, decision=decision, **changes), protocols={"golem-1": "golem"}))


def test_everything_is_told_from_the_promise_to_the_outcome():
    text = explained()
    for part in (
        "box: REALLOCATE · 2026-03-01 12:05 UTC",
        "decision 5f1c9a3e-0000, preset balanced",
        "+0.01 USD/h (+8.0 % of what is earned now) over 8 h, in all +0.08 USD",
        "four times in five between -0.02 USD and +0.15 USD",
        "It pays with 93% probability.",
        "The change costs 0.002 USD; the gain is 40 times that (ROI).",
        "✓ gain: it pays (value 0.01, threshold 0)",
        "golem-1 (golem): share 25.0% → 50.0%, cpu_threads 4 → 8",
        "yield 0.123 USD/h at full share, four times in five between 0.1 and 0.15",
        "bandwidth: 100 Mbps more would earn 1.20 USD a month",
        "Moves storj-1 alone. (+0.008 USD/h)",
        "Application applied: Applied and read back.",
        "1. 12:05:00 apply golem-1 cpu_threads 4 → 8, read back 8: done",
        "It paid: over 8 h it gained +0.1 USD where +0.08 USD (-0.02 USD to +0.15 USD) was promised.",
        "1.2 USD was earned; the old shares would have earned 1.1 USD.",
        "That lies inside the interval.",
    ):
        assert part in text
    assert "simulated" not in text
    assert "box (simulated): " in explained(simulated=True)


def test_a_hold_tells_what_was_advised_and_that_nothing_was_done():
    text = explained(decision={"verdict": Verdict.HOLD}, application=None, steps=(), outcome=None)
    assert "advice: cpu_threads 4 → 8" in text
    assert "It was not carried out" in text
    assert "Nothing was changed." in text


def test_without_a_plan_there_is_no_promise_and_no_node():
    nothing = {"gain_usd_per_hour": None, "confidence": None, "switching_cost_usd": None, "roi": None, "hours": None}
    text = explained(
        decision={"verdict": Verdict.HOLD, "allocations": (), **nothing}, application=None, steps=(), outcome=None
    )
    assert "there is no plan" in text
    assert "Nodes" not in text
    assert "runner-up" not in text


@pytest.mark.parametrize(
    ("mode", "approval", "told", "word"),
    [
        (Mode.ADVISE, None, "Advice: nothing is changed in mode advise", "advice"),
        (Mode.CONFIRM, None, "Waits for `orcha approve d-12` until 2026-03-01 13:05 UTC", "approve until 03-01 13:05"),
        (Mode.CONFIRM, APPROVAL, "Approved by ada at 2026-03-01 12:10 UTC.", "approved"),
        (Mode.AUTO, None, "Not applied yet.", "not applied yet"),
    ],
)
def test_what_is_not_carried_out_at_once_says_what_it_waits_for(mode, approval, told, word):
    decision = {
        "decision_id": "d-12",
        "mode": mode,
        "expires_at": DECISION.decided_at + HOUR if mode is Mode.CONFIRM else None,
    }
    changes = {"application": None, "outcome": None, "approval": approval}
    text = explained(decision=decision, steps=(), **changes)
    assert f"mode {mode}" in text
    assert told in text
    assert word in listed(
        replace(STORY, decision=replace(DECISION, **decision), application=None, outcome=None, approval=approval)
    )


def test_a_plan_that_changes_nothing_promises_nothing():
    assert "the plan leaves everything as it is" in explained(decision={"allocations": (line(value_planned=4.0),)})


def test_what_an_earlier_version_did_not_keep_is_said_not_to_be_on_record():
    old = {"hours": None, "gain_p10": None, "gain_p90": None, "roi": None, "binding": (), "shadow_prices": {}}
    old |= {"runner_up": None, "runner_up_usd_per_hour": None, "preset": None, "allocations": (line(),)}
    text = explained(decision=old, outcome=None)
    assert text.count("not on record: an earlier version of Orcha decided this") == 4
    assert "None" not in text


def test_where_nothing_is_short_and_nothing_else_was_worth_it_this_is_said():
    text = explained(decision={"binding": (), "shadow_prices": {"disk_gb": 0.0}, "runner_up": ""})
    assert "Nothing: more of any resource would earn no more." in text
    assert "None: no other plan" in text
    text = explained(decision={"shadow_prices": {"uplink": 2.0}})
    assert "bandwidth: used up, yet more would earn no more" in text
    assert "the shared limit uplink: one unit more would earn 2.00 USD a month" in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gained_usd": -0.1, "wrong": True}, "It was a wrong switch: over 8 h it gained -0.1 USD"),
        ({"gained_usd": -0.1, "wrong": True}, "That lies outside the interval."),
        (
            {"gained_usd": None, "wrong": None, "note": "golem-1: 9 of 9"},
            "Over 8 h it is unknown what it gained; +0.08",
        ),
        ({"note": "cut short"}, "Note: cut short."),
    ],
)
def test_the_outcome_is_told_as_it_is(changes, told):
    assert told in explained(outcome=replace(OUTCOME, **changes))


def test_before_the_hours_are_over_it_tells_when_they_are():
    assert "measured when its hours are over, at 2026-03-01 20:05 UTC" in explained(outcome=None)
    text = explained(outcome=None, application=replace(APPLIED, status=ApplicationStatus.ROLLED_BACK))
    assert "measured" not in text


def test_a_failed_step_is_told_with_its_error():
    failed = replace(STEP, status="failed", read_back=None, error="HTTP 500\x1b[2J")
    assert "read back unknown: failed (HTTP 500 [2J)" in explained(steps=(failed,))


# --- words


def test_how_a_response_is_known_is_told_honestly():
    told = response_in_words(line(**LEARNT))
    assert told.startswith("earns with share ^ 0.84: learnt from 12 changes between shares 0.20 and 0.60: 0.84 ± 0.04")
    assert told.endswith("beyond them it would be extrapolated")
    assert "the planned 0.90 lies beyond what was seen" in response_in_words(line(**LEARNT | {"share_planned": 0.9}))
    assert "learnt from 1 change between" in response_in_words(line(**LEARNT | {"changes_seen": 1}))
    assumed = response_in_words(line(**LEARNT | {"changes_seen": 0, "share_seen_least": None}))
    assert "assumed (0.84 ± 0.04)" in assumed
    assert "learnt" not in assumed


@pytest.mark.parametrize(
    ("resource", "usd", "told"),
    [
        ("bandwidth_mbps", 0.012, "100 Mbps more would earn 1.20 USD a month"),
        ("bandwidth_mbps", 0.12, "10 Mbps more would earn 1.20 USD a month"),
        ("cpu_threads", 0.3, "1 CPU thread more would earn 0.30 USD a month"),
        ("disk_gb", 0.002, "1,000 GB of disk more would earn 2.00 USD a month"),
        ("memory_gib", 0.00001, "10 GiB of memory more would earn 0.0001 USD a month"),
        ("uplink", 3.0, "one unit more would earn 3.00 USD a month"),
    ],
)
def test_a_shadow_price_is_told_for_an_amount_that_one_might_buy(resource, usd, told):
    assert shadow_price_in_words(resource, usd) == told


def test_a_stretch_of_time_is_read_as_a_person_writes_it():
    assert span_of("90m") == timedelta(minutes=90)
    assert (span_of(" 24 H "), span_of("7d"), span_of("2w")) == (24 * HOUR, timedelta(days=7), timedelta(days=14))
    for wrong in ("", "24", "h", "0h", "-1h", "1.5h", "1y", "99999h", "yesterday"):
        with pytest.raises(OrchaError, match="as in 24h or 7d"):
            span_of(wrong)


# --- the list


def listed(*stories, width=200, **changes):
    known = {
        "stories": stories,
        "hosts": ("box",),
        "since": AT,
        "until": AT + 24 * HOUR,
        "every": False,
        "changed": len(stories),
        "held": 0,
        "record": SwitchingRecord(10, 2, 0.1, 1.0, 0.8),
    }
    return printed(log_view(DecisionLog(**(known | changes)), width=width))


@pytest.mark.parametrize("width", [80, 200])
def test_a_decision_is_listed_with_its_promise_and_outcome(width):
    text = listed(STORY, width=width)
    for part in ("03-01 12:05", "5f1c9a3e", "box", "reallocate", "golem-1 25.0% → 50.0%", "93%", "applied"):
        assert part in text
    assert "+0.01 (-0.0025 to +0.0187)" in text
    assert "+0.1 of +0.08 USD" in text
    assert "Wrong switches of the last 30 days: 1 of 10 measured (10%); +0.8 USD gained of +1 USD promised." in text
    assert "Of 2 more it is unknown." in text
    assert "due 03-01 20:05" in listed(replace(STORY, outcome=None), width=width)
    assert "not applied yet" in listed(replace(STORY, outcome=None, application=None), width=width)
    unknown = replace(OUTCOME, gained_usd=None, wrong=None)
    assert "unknown" in listed(replace(STORY, outcome=unknown), width=width)
    assert "box (simulated)" in listed(replace(STORY, simulated=True), width=width)


def test_what_is_left_out_of_the_list_is_told():
    text = listed(STORY, changed=9, held=70)
    assert "8 earlier ones are left out: --limit 9" in text
    assert "70 decisions to hold are not shown: --all shows them." in text
    assert "left out" not in listed(STORY, held=0, every=True)


def test_an_empty_list_says_so():
    text = listed(record=SwitchingRecord(0, 0, None, 0.0, 0.0))
    assert "none" in text
    assert "No change of the last 30 days has been measured yet." in text


RESTART = HealingRow(
    healing_id="1",
    node="golem-1",
    host="box",
    alert_id="2",
    mode=Mode.AUTO,
    away_since=AT,
    restarts_before=1,
    restarts_per_month=8,
    started_at=AT + timedelta(minutes=31),
    answers_by=AT + timedelta(minutes=46),
    dagster_run_id="3",
    ended_at=AT + timedelta(minutes=33),
    status=HealingStatus.HEALED,
    reason="It works again.",
)


def test_what_self_healing_restarted_is_listed_with_what_came_of_it():
    told = "03-01 12:36  golem-1 (box), away since 03-01 12:05, restart 2 of 8 a month; healed: It works again."
    assert told in listed(STORY, restarts=(RESTART,))
    begun = replace(RESTART, ended_at=None, status=HealingStatus.INTENDED, reason="")
    assert "intended: what came of it is not known yet" in listed(restarts=(begun,))
    assert "restarted" not in listed(STORY)


def test_restarts_of_the_hosts_and_of_the_time_asked_for_are_read(tmp_path):
    home = installation(tmp_path, FixedClock(AT + 3 * HOUR), ["golem-1"])
    (host,) = home.settings.hosts
    rows = [
        replace(RESTART, healing_id=name, host=where, started_at=at)
        for name, where, at in (
            ("old", host.name, AT - HOUR),
            ("first", host.name, AT + HOUR),
            ("last", host.name, AT + 2 * HOUR),
            ("elsewhere", "another", AT + HOUR),
        )
    ]
    with home.warehouse.write() as connection:
        for row in rows:
            healings.begin(connection, row)
    found = log(home, host=None, since=3 * HOUR, limit=20, every=False)
    assert [one.healing_id for one in found.restarts] == ["last", "first"]
    assert [one["healing_id"] for one in log_json(found)["restarts"]] == ["last", "first"]
    assert log_json(found)["restarts"][0]["started_at"] == "2026-03-01T14:05:00Z"
