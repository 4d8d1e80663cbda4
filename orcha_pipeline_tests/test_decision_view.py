from datetime import UTC, datetime

import pytest
from rich.console import Console

from orcha_pipeline.decision_view import decision_table
from orcha_pipeline.model import ApplicationStatus, Gate, Verdict
from orcha_pipeline.warehouse.decisions import ApplicationRow, DecidedAllocation, DecisionRow


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
