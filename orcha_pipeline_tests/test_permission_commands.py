"""Approving one decision, and pausing all changes, with a real warehouse."""

from datetime import timedelta

import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import OrchaError
from orcha_pipeline.model import HOUR, ApplicationStatus, Mode, Verdict
from orcha_pipeline.permission_commands import approve, pause, pause_line, resume, unfreeze
from orcha_pipeline.warehouse import decisions, freezes, permissions
from orcha_pipeline.warehouse.decisions import ApplicationRow
from orcha_pipeline_tests.rig import NOW, decided_line, decision_to_apply, installation

MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock():
    return FixedClock(NOW)


@pytest.fixture
def installed(tmp_path, clock):
    return installation(tmp_path, clock, ["a", "b"], mode="confirm")


@pytest.fixture
def decide(installed):
    def record(decision_id="5f1c-1", *, host="box", minutes=0, verdict=Verdict.REALLOCATE, mode=Mode.CONFIRM):
        moved = NOW + minutes * MINUTE
        row = decision_to_apply(
            decision_id,
            [decided_line("a", 20.0, 40.0)],
            decided_at=moved,
            host=host,
            verdict=verdict,
            mode=mode,
            expires_at=moved + HOUR if mode is Mode.CONFIRM and verdict is Verdict.REALLOCATE else None,
        )
        with installed.warehouse.write() as connection:
            decisions.record_decision(connection, row)

    return record


def apply(installed, decision_id):
    row = ApplicationRow(
        application_id=f"of-{decision_id}",
        decision_id=decision_id,
        started_at=NOW,
        ended_at=NOW,
        status=ApplicationStatus.APPLIED,
        reason="",
        dagster_run_id="run",
    )
    with installed.warehouse.write() as connection:
        assert decisions.begin_application(connection, row)


def asked(installed, query, **known):
    with installed.warehouse.read() as connection:
        return query(connection, **known)


# --- approvals


def test_an_approved_decision_waits_to_be_carried_out_once(installed, decide, clock):
    decide()
    assert list(asked(installed, permissions.awaiting, now=NOW)) == ["box"]
    assert asked(installed, permissions.approved, now=NOW) == []
    told = approve(installed, "5f1c", who="ada")
    assert "5f1c-1 of box is approved" in told
    approve(installed, "5f1c", who="bob")  # a second time changes nothing
    assert asked(installed, permissions.approved, now=NOW) == ["5f1c-1"]
    (approval,) = asked(installed, permissions.approvals_of, ids=["5f1c-1"]).values()
    assert (approval.approved_at, approval.approved_by) == (NOW, "ada")
    apply(installed, "5f1c-1")
    assert asked(installed, permissions.approved, now=NOW) == []
    assert asked(installed, permissions.awaiting, now=NOW) == {}
    with pytest.raises(OrchaError, match="was carried out already"):
        approve(installed, "5f1c", who="ada")


def test_without_an_id_the_only_one_that_waits_is_meant(installed, decide):
    with pytest.raises(OrchaError, match="No decision waits for approval"):
        approve(installed, None, who="ada")
    decide()
    assert "5f1c-1" in approve(installed, None, who="ada")
    decide("77aa-1", host="attic")
    with pytest.raises(OrchaError, match=r"2 decisions wait for approval: 5f1c-1 \(box\), 77aa-1 \(attic\)"):
        approve(installed, None, who="ada")


@pytest.mark.parametrize(
    ("verdict", "mode", "told"),
    [
        (Verdict.HOLD, Mode.CONFIRM, "holds: there is nothing to approve"),
        (Verdict.REALLOCATE, Mode.ADVISE, "is advice.*apply.mode"),
        (Verdict.REALLOCATE, Mode.AUTO, "carried out without approval"),
        (Verdict.REALLOCATE, None, "carried out without approval"),
    ],
)
def test_what_no_approval_would_carry_out_is_refused(installed, decide, verdict, mode, told):
    decide(verdict=verdict, mode=mode)
    with pytest.raises(OrchaError, match=told):
        approve(installed, "5f1c", who="ada")
    assert asked(installed, permissions.approved, now=NOW) == []


def test_what_has_expired_cannot_be_approved_and_counts_as_unanswered(installed, decide, clock):
    decide()
    clock.set(NOW + HOUR)
    with pytest.raises(OrchaError, match="waited until 2026-03-05 13:05 UTC and has expired"):
        approve(installed, "5f1c", who="ada")
    assert asked(installed, permissions.awaiting, now=clock.now()) == {}
    found = asked(installed, permissions.unanswered, since=NOW, now=clock.now())
    assert found == {"a": NOW + HOUR}
    assert asked(installed, permissions.unanswered, since=NOW + HOUR + MINUTE, now=clock.now()) == {}


def test_an_approved_request_is_not_unanswered(installed, decide, clock):
    decide()
    approve(installed, "5f1c", who="ada")
    clock.set(NOW + 2 * HOUR)
    assert asked(installed, permissions.unanswered, since=NOW, now=clock.now()) == {}
    assert asked(installed, permissions.approved, now=clock.now()) == []


def test_only_what_is_carried_out_without_asking_is_waited_for(installed, decide):
    decide("5f1c-1", mode=Mode.CONFIRM)
    decide("77aa-1", host="attic", mode=Mode.ADVISE)
    decide("88bb-1", host="cellar", mode=Mode.AUTO)
    assert asked(installed, decisions.unapplied) == ["88bb-1"]


# --- nodes that could not be set back


def test_a_frozen_node_is_free_again_when_the_operator_says_so(installed):
    with installed.warehouse.write() as connection:
        freezes.freeze(connection, application_id="a-1", stuck={"a": "set limit of a to 60"}, at=NOW)
        freezes.freeze(connection, application_id="a-1", stuck={"a": "told once"}, at=NOW + HOUR)
    with pytest.raises(OrchaError, match=r"b is not frozen\. Frozen are: a\."):
        unfreeze(installed, ["a", "b"], who="ada")
    (row,) = asked(installed, freezes.frozen).values()
    assert row.reason == "set limit of a to 60"
    assert "Free to be changed again: a." in unfreeze(installed, ["a"], who="ada")
    assert asked(installed, freezes.frozen) == {}
    with pytest.raises(OrchaError, match=r"a is not frozen\. No node is\."):
        unfreeze(installed, ["a"], who="ada")
    with installed.warehouse.read() as connection:
        assert connection.execute("SELECT lifted_by FROM freezes").fetchall() == [("ada",)]
        assert connection.execute("SELECT resolved_at FROM alerts").fetchall() == [(NOW.replace(tzinfo=None),)]


# --- pauses


def test_a_pause_holds_until_it_is_ended_and_keeps_who_and_why(installed, decide, clock):
    assert pause_line(installed) == ""
    assert "Changes are paused" in pause(installed, who="ada", why="moving house")
    line = pause_line(installed)
    assert line == (
        "Changes are paused since 2026-03-05 12:05 UTC by ada: moving house. `orcha resume` lets them go on."
    )
    clock.set(NOW + HOUR)
    assert "they were before" in pause(installed, who="bob", why="again")
    assert pause_line(installed) == line
    assert "paused since 2026-03-05 12:05 UTC" in resume(installed, who="bob")
    assert pause_line(installed) == ""
    assert resume(installed, who="bob") == "Changes were not paused."
    with installed.warehouse.read() as connection:
        rows = connection.execute("SELECT paused_by, reason, resumed_by FROM pauses").fetchall()
    assert rows == [("ada", "moving house", "bob")]


def test_while_changes_are_paused_nothing_can_be_approved(installed, decide):
    decide()
    pause(installed, who="ada", why="")
    with pytest.raises(OrchaError, match=r"paused since .* `orcha resume` first"):
        approve(installed, "5f1c", who="ada")


def test_without_a_warehouse_there_is_no_pause(tmp_path, clock):
    made = installation(tmp_path, clock, ["a"])
    made.settings.warehouse_path.unlink()
    assert pause_line(made) == ""
