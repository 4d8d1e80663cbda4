from datetime import timedelta

import pytest

from orcha_pipeline.allocation.apply import carry_out
from orcha_pipeline.allocation.decided import changes_of
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AllocationError, PlanError
from orcha_pipeline.model import HOUR, ApplicationStatus, HealthState, Mode, Verdict
from orcha_pipeline.warehouse import decisions, permissions
from orcha_pipeline.warehouse.permissions import ApprovalRow, PauseRow
from orcha_pipeline_tests.rig import NOW, FakeNode, decided_line, decision_to_apply, installation, read_now, value_of

NODES = ("a", "b", "idle")


A, B, IDLE = decided_line("a", 60.0, 30.0), decided_line("b", 20.0, 50.0), decided_line("idle", 50.0, 50.0)


class Rig:
    def __init__(self, home):
        self.home = home
        self.clock = FixedClock(NOW)
        self.nodes = {name: FakeNode(name, self.clock) for name in NODES}
        self.nodes["a"].value, self.nodes["b"].value = 60.0, 20.0
        self.installation = installation(home, self.clock, NODES)
        self.warehouse = self.installation.warehouse
        self.read()

    def read(self, *, state=HealthState.HEALTHY):
        """Put on record that every node was read just now."""
        read_now(self.warehouse, self.nodes.values(), self.clock.now(), state=state)

    def decide(
        self, decision_id="d-1", *, verdict=Verdict.REALLOCATE, minutes=0, lines=(A, B, IDLE), mode=None, expires=None
    ):
        row = decision_to_apply(
            decision_id,
            lines,
            decided_at=NOW + timedelta(minutes=minutes),
            verdict=verdict,
            mode=mode,
            expires_at=expires,
        )
        with self.warehouse.write() as connection:
            decisions.record_decision(connection, row)
        return row

    def carry_out(self, decision_id="d-1", application_id="a-1"):
        return carry_out(
            decision_id,
            application_id=application_id,
            run_id="run-2",
            installation=self.installation,
            warehouse=self.warehouse,
            adapters=self.nodes,
        )

    @property
    def values(self):
        return [node.value for node in self.nodes.values()]

    def on_record(self):
        with self.warehouse.read() as connection:
            rows = connection.execute("SELECT status, ended_at IS NOT NULL FROM applications ORDER BY application_id")
            return rows.fetchall()


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


def test_a_decision_is_applied_and_its_steps_and_end_are_on_record(rig):
    rig.decide()
    outcome = rig.carry_out()
    assert outcome.status is ApplicationStatus.APPLIED
    assert rig.values == [30, 50, 50]
    assert rig.nodes["idle"].applied == []
    assert rig.on_record() == [("applied", True)]
    with rig.warehouse.read() as connection:
        steps = connection.execute(
            "SELECT node, previous, requested, read_back, status FROM application_steps ORDER BY step"
        ).fetchall()
        assert decisions.unapplied(connection) == []
    assert steps == [("a", 60, 30, 30, "done"), ("b", 20, 50, 50, "done")]


def test_a_step_is_on_disk_before_it_acts(rig):
    seen: list[tuple[str, str]] = []

    def look():
        with rig.warehouse.read() as connection:
            seen.extend(connection.execute("SELECT node, status FROM application_steps ORDER BY step").fetchall())

    rig.nodes["b"].before_apply = look
    rig.decide()
    rig.carry_out()
    assert seen == [("a", "done"), ("b", "intended")]


def test_a_decision_is_carried_out_once_whoever_asks_again(rig):
    rig.decide()
    rig.carry_out()
    again = rig.carry_out(application_id="a-2")
    assert again.status is ApplicationStatus.DROPPED
    assert "before" in again.reason
    assert rig.nodes["a"].applied == [30]
    assert rig.on_record() == [("applied", True)]


def test_a_decision_claimed_by_a_run_that_died_is_not_begun_again(rig):
    row = rig.decide()
    with rig.warehouse.write() as connection:
        claim = decisions.ApplicationRow(
            application_id="a-0",
            decision_id=row.decision_id,
            started_at=NOW,
            ended_at=None,
            status=ApplicationStatus.RUNNING,
            reason="",
            dagster_run_id="dead",
        )
        assert decisions.begin_application(connection, claim)
    assert rig.carry_out().status is ApplicationStatus.DROPPED
    assert rig.values == [60, 20, 50]


@pytest.mark.parametrize("later", [Verdict.REALLOCATE, Verdict.HOLD])
def test_a_decision_that_a_later_one_superseded_is_dropped(rig, later):
    rig.decide()
    rig.decide("d-2", minutes=15, verdict=later)
    outcome = rig.carry_out()
    assert outcome.status is ApplicationStatus.DROPPED
    assert "d-2" in outcome.reason
    assert rig.values == [60, 20, 50]
    assert rig.on_record() == [("dropped", True)]


def test_a_decision_that_holds_or_is_not_on_record_is_refused_and_claims_nothing(rig):
    rig.decide(verdict=Verdict.HOLD)
    with pytest.raises(PlanError, match="d-1 says hold"):
        rig.carry_out()
    with pytest.raises(PlanError, match="no decision d-9"):
        rig.carry_out("d-9")
    assert rig.on_record() == []
    assert rig.values == [60, 20, 50]


@pytest.mark.parametrize("gone", ["a", "idle"])
def test_a_node_no_longer_configured_ends_the_application_before_it_begins(rig, gone):
    rig.decide()
    rig.installation = installation(rig.home, rig.clock, [name for name in NODES if name != gone])
    outcome = rig.carry_out()
    assert outcome.status is ApplicationStatus.DROPPED
    assert outcome.reason == f"{gone} is not configured any more."
    assert rig.values == [60, 20, 50]
    assert rig.on_record() == [("dropped", True)]


def test_a_node_that_refuses_has_everything_set_back(rig):
    rig.decide()
    rig.nodes["b"].fails_to_apply = lambda: AllocationError("b", "refused") if not rig.nodes["b"].applied else None
    outcome = rig.carry_out()
    assert outcome.status is ApplicationStatus.ROLLED_BACK
    assert rig.values == [60, 20, 50]
    assert rig.on_record() == [("rolled_back", True)]
    assert value_of(rig.warehouse, "SELECT count(*) FROM application_steps WHERE kind = 'rollback'") == 2


def test_a_bug_of_an_adapter_is_rolled_back_and_on_record_without_its_text(rig):
    rig.decide()
    rig.nodes["b"].fails_to_apply = lambda: ZeroDivisionError("by zero") if rig.nodes["b"].value == 20 else None
    rig.carry_out()
    assert rig.values[0] == 60
    assert rig.on_record() == [("rolled_back", True)]
    reason = value_of(rig.warehouse, "SELECT reason FROM applications")
    assert "ZeroDivisionError" in reason
    assert "by zero" not in reason


def test_an_interrupted_application_is_set_back_and_ends_on_record(rig):
    rig.decide()
    interrupts = iter([KeyboardInterrupt()])
    rig.nodes["b"].fails_to_apply = lambda: next(interrupts, None)
    with pytest.raises(KeyboardInterrupt):
        rig.carry_out()
    assert rig.values == [60, 20, 50]
    assert rig.on_record() == [("rolled_back", True)]
    assert "KeyboardInterrupt" in value_of(rig.warehouse, "SELECT reason FROM applications")


def test_an_interrupted_application_that_could_not_be_set_back_says_so(rig):
    rig.decide()
    errors = iter([KeyboardInterrupt(), AllocationError("b", "stuck")])
    rig.nodes["b"].fails_to_apply = lambda: next(errors, None)
    rig.nodes["b"].before_apply = lambda: setattr(rig.nodes["b"], "value", 33.0)
    with pytest.raises(KeyboardInterrupt):
        rig.carry_out()
    assert rig.on_record() == [("rollback_failed", True)]


def test_a_resting_node_of_unknown_share_counts_as_the_largest_it_may_be(rig):
    # 16 threads, 10 of them for the unknown share: b may take 5 more, but not 7.
    rig.decide(lines=(decided_line("b", 20.0, 70.0), decided_line("idle", None, None)))
    outcome = rig.carry_out()
    assert outcome.status is ApplicationStatus.DROPPED
    assert "exceed" in outcome.reason
    rig.decide("d-2", minutes=1, lines=(decided_line("b", 20.0, 50.0), decided_line("idle", None, None)))
    assert rig.carry_out("d-2", "a-2").status is ApplicationStatus.APPLIED


def test_only_lines_that_move_a_known_lever_are_changes(rig):
    row = rig.decide(lines=(A, IDLE, decided_line("b", None, 30.0), decided_line("c", 1.0, 2.0, lever=None)))
    (change,) = changes_of(row)
    assert (change.node, change.value_from, change.value_to, change.share_from, change.share_to) == (
        "a",
        60,
        30,
        0.6,
        0.3,
    )


# --- what stands against it by now


def dropped(rig, decision_id="d-1") -> str:
    """Why a decision was dropped; nothing was touched and the row tells the same."""
    outcome = rig.carry_out(decision_id)
    assert outcome.status is ApplicationStatus.DROPPED
    assert rig.values == [60, 20, 50]
    assert value_of(rig.warehouse, "SELECT reason FROM applications") == outcome.reason
    return outcome.reason


def pause_now(rig, reason="moving house"):
    with rig.warehouse.write() as connection:
        permissions.pause(connection, PauseRow(paused_at=rig.clock.now(), paused_by="ada", reason=reason))


def approve(rig, decision_id="d-1"):
    with rig.warehouse.write() as connection:
        approval = ApprovalRow(decision_id=decision_id, approved_at=rig.clock.now(), approved_by="ada")
        permissions.approve(connection, approval)


def test_advice_is_never_carried_out(rig):
    rig.decide(mode=Mode.ADVISE)
    with pytest.raises(PlanError, match="is advice"):
        rig.carry_out()
    assert rig.on_record() == []


def test_what_waits_for_approval_is_carried_out_after_it_and_not_before(rig):
    rig.decide(mode=Mode.CONFIRM, expires=NOW + HOUR)
    with pytest.raises(PlanError, match="waits for approval: `orcha approve d-1`"):
        rig.carry_out()
    assert rig.on_record() == []
    rig.clock.set(NOW + timedelta(minutes=50))
    rig.read()
    rig.decide("d-2", minutes=45, verdict=Verdict.HOLD)  # as all do that follow while it waits
    approve(rig)
    assert rig.carry_out().status is ApplicationStatus.APPLIED
    assert rig.values == [30, 50, 50]


def test_an_approval_that_comes_too_late_changes_nothing(rig):
    rig.decide(mode=Mode.CONFIRM, expires=NOW + HOUR)
    approve(rig)
    rig.clock.set(NOW + HOUR)
    rig.read()
    assert "has expired" in dropped(rig)


def test_a_node_that_was_made_stricter_since_is_left_alone(rig):
    rig.decide(mode=Mode.AUTO)
    rig.installation = installation(rig.home, rig.clock, NODES, mode="confirm")
    assert dropped(rig) == "a is in mode confirm by now."


def test_a_pause_stops_what_was_decided_before(rig):
    rig.decide()
    pause_now(rig)
    assert dropped(rig) == "Changes are paused since 2026-03-05 12:05 UTC by ada: moving house."


def test_a_pause_in_the_midst_of_an_application_sets_back_what_was_done(rig):
    rig.decide()
    rig.nodes["a"].before_apply = lambda: pause_now(rig)
    outcome = rig.carry_out()
    assert outcome.status is ApplicationStatus.ROLLED_BACK
    assert "paused since" in outcome.reason
    assert rig.values == [60, 20, 50]
    assert rig.nodes["b"].applied == []


def test_a_decision_of_two_cycles_ago_is_not_carried_out(rig):
    rig.decide()
    rig.clock.set(NOW + timedelta(minutes=31))
    rig.read()
    assert "too long ago" in dropped(rig)


def test_a_node_that_fell_sick_since_is_left_alone(rig):
    rig.decide()
    rig.read(state=HealthState.AT_RISK)
    assert dropped(rig) == "a must stay as it is: it is at risk."


def test_a_node_that_was_not_read_lately_is_left_alone(rig):
    rig.decide(mode=Mode.CONFIRM, expires=NOW + HOUR)
    approve(rig)
    rig.clock.set(NOW + timedelta(minutes=30))
    assert "was not read in this cycle" in dropped(rig)


def test_a_host_that_was_changed_since_rests(rig):
    rig.decide()
    assert rig.carry_out().status is ApplicationStatus.APPLIED
    rig.clock.set(NOW + timedelta(minutes=15))
    rig.read()
    rig.decide("d-2", minutes=15, lines=(decided_line("a", 30.0, 40.0), decided_line("b", 50.0, 40.0), IDLE))
    outcome = rig.carry_out("d-2", "a-2")
    assert outcome.status is ApplicationStatus.DROPPED
    assert "rests 60 min" in outcome.reason
