"""One restart: what is on record before and after it, what stands against it by now, and that it is done once."""

from itertools import cycle, pairwise

import pytest

from orcha_pipeline.allocation.apply import carry_out
from orcha_pipeline.allocation.host_lock import host_lock
from orcha_pipeline.controllers.docker_api import EngineError
from orcha_pipeline.errors import AllocationError, OrchaError
from orcha_pipeline.healing.heal import STOP_GRACE_SECONDS
from orcha_pipeline.healing.health import LOOKS, POLL_SECONDS
from orcha_pipeline.model import SLOT, ApplicationStatus, HealthState
from orcha_pipeline.warehouse import decisions, permissions
from orcha_pipeline.warehouse.consistency import breaches
from orcha_pipeline.warehouse.healings import HealingStatus
from orcha_pipeline.warehouse.permissions import PauseRow
from orcha_pipeline_tests.healing.build import MINUTE
from orcha_pipeline_tests.rig import decided_line, decision_to_apply


def expect_sound(rig):
    with rig.warehouse.read() as connection:
        assert breaches(connection, rig.clock.now()) == []


def comes_back_after(rig, seconds):
    """From so many seconds after the restart on the node `a` works."""
    node = rig.nodes["a"]

    def restart():
        begun = rig.waited
        health = node.health

        def by_then():
            if rig.waited - begun >= seconds:
                node.come_back()
            return health()

        node.health = by_then

    node.restarts.does = restart


def test_a_node_that_comes_back_is_healed_and_its_alert_ends(fallen):
    comes_back_after(fallen, 45)
    began = fallen.clock.now()
    done = fallen.heal()
    assert (done.status, fallen.nodes["a"].restarts.graces) == (HealingStatus.HEALED, [STOP_GRACE_SECONDS])
    assert done.reason == "It answers again, 70 s after the restart began (healthy)."
    (row,) = fallen.rows()
    assert (row.status, row.reason, row.mode, row.host) == (done.status, done.reason, "auto", "box")
    assert (row.restarts_before, row.restarts_per_month, row.dagster_run_id) == (0, 4, "run-2")
    assert (row.started_at, row.ended_at) == (began, fallen.clock.now())
    assert row.away_since == began - 3 * SLOT
    assert fallen.told() == f"Orcha restarted it at 2026-03-05 13:05 UTC. {done.reason}"
    fallen.play(3)
    alert = fallen.alerts.alerts()["node-unreachable", "a"]
    assert not alert.is_open
    assert alert.evidence["healing"] == f"Orcha restarted it at 2026-03-05 13:05 UTC. {done.reason}"
    expect_sound(fallen)


def test_it_is_on_disk_before_it_acts(fallen):
    seen = []
    fallen.nodes["a"].restarts.does = lambda: seen.extend((row.status, row.ended_at) for row in fallen.rows())
    fallen.heal()
    assert seen == [(HealingStatus.INTENDED, None)]


def test_one_that_starts_and_ends_at_once_is_not_healed(fallen):
    node = fallen.nodes["a"]
    states = cycle([*[HealthState.HEALTHY] * (LOOKS - 1), HealthState.UNREACHABLE])
    health = node.health

    def flickers():
        node.state = next(states)
        return health()

    node.restarts.does = lambda: setattr(node, "health", flickers)
    assert fallen.heal().status is HealingStatus.FAILED
    assert 600 <= fallen.waited <= 600 + LOOKS * POLL_SECONDS


def test_a_node_that_works_with_its_reputation_at_risk_is_back_and_one_in_error_is_not(fallen):
    node = fallen.nodes["a"]
    node.restarts.does = lambda: setattr(node, "state", HealthState.ERROR)
    assert fallen.heal().reason == "10 min after the restart it does not work (error)."
    node.state = HealthState.UNREACHABLE
    fallen.play(4)
    node.restarts.does = lambda: setattr(node, "state", HealthState.AT_RISK)
    assert fallen.heal().status is HealingStatus.HEALED


def test_a_node_that_stays_away_is_tried_ever_more_seldom_until_its_budget_is_used_up(fallen):
    begun = fallen.clock.now()
    fell = begun - 3 * SLOT
    for _ in range(50):
        for chosen in fallen.cycle(after=2 * SLOT).chosen:
            assert fallen.heal(chosen.node).status is HealingStatus.FAILED
    rows = fallen.rows()
    assert [row.restarts_before for row in rows] == [0, 1, 2, 3]
    assert [row.away_since for row in rows] == [fell] * 4
    between = [(later.started_at - row.started_at) / MINUTE for row, later in pairwise(rows)]
    assert all(wait <= found <= wait + 45 for wait, found in zip((60, 120, 240), between, strict=True))
    assert fallen.clock.now() - begun > 24 * 60 * MINUTE
    assert "4 of the 4 restarts that it may have in 30 days are used up" in fallen.told()
    assert fallen.heal().reason == "4 of the 4 restarts that it may have in 30 days are used up."
    assert fallen.restarted() == ["a"] * 4
    expect_sound(fallen)


def test_a_second_run_for_the_same_restart_does_nothing(fallen):
    assert fallen.heal().status is HealingStatus.FAILED
    again = fallen.heal()
    assert again.status is None
    assert again.reason.startswith("After the restart of 2026-03-05 13:05 UTC it is left alone until")
    assert fallen.restarted() == ["a"]


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "done, with its answer lost"])
def test_a_controller_that_fails_is_told_and_the_restart_counts(fallen, lost):
    node = fallen.nodes["a"]

    def fails():
        if lost:
            node.come_back()
        raise AllocationError("a", "container 'a' is 'exited' 60 s after its restart")

    node.restarts.does = fails
    done = fallen.heal()
    if lost:
        assert done.status is HealingStatus.HEALED
    else:
        assert done.reason == "It could not be restarted: container 'a' is 'exited' 60 s after its restart."
    assert [row.status for row in fallen.rows()] == [done.status]
    assert fallen.heal().status is None
    assert fallen.restarted() == ["a"]


def test_a_bug_of_a_controller_is_on_record_without_its_text(fallen):
    def fails():
        raise ZeroDivisionError("secret")

    fallen.nodes["a"].restarts.does = fails
    done = fallen.heal()
    assert done.status is HealingStatus.FAILED
    assert "ZeroDivisionError" in done.reason
    assert "secret" not in done.reason


def test_one_that_is_interrupted_has_an_end_and_is_not_done_again(fallen):
    def interrupted():
        raise KeyboardInterrupt

    fallen.nodes["a"].restarts.does = interrupted
    with pytest.raises(KeyboardInterrupt):
        fallen.heal()
    (row,) = fallen.rows()
    assert (row.status, row.reason) == (
        HealingStatus.FAILED,
        "Interrupted (KeyboardInterrupt) while it was restarted.",
    )
    assert fallen.heal().status is None


# --- what stands against it by now


def nothing_done(rig) -> str:
    done = rig.heal()
    assert (done.status, rig.rows(), rig.restarted()) == (None, [], [])
    return done.reason


def test_a_node_that_came_back_meanwhile_is_left_alone(fallen):
    fallen.nodes["a"].come_back()
    assert nothing_done(fallen) == "It answers again: healthy."


def test_a_pause_since_then_stops_it(fallen):
    with fallen.warehouse.write() as connection:
        permissions.pause(connection, PauseRow(paused_at=fallen.clock.now(), paused_by="ada", reason=""))
    assert nothing_done(fallen) == "Changes are paused since 2026-03-05 13:05 UTC by ada."


@pytest.mark.parametrize("mode", ["advise", "confirm"])
def test_a_mode_made_stricter_since_then_stops_it(fallen, mode):
    fallen.configure(enabled=True, mode=mode)
    assert f"It is in mode {mode}" in nothing_done(fallen)


def test_self_healing_switched_off_since_then_stops_it(fallen):
    fallen.configure(enabled=False)
    assert nothing_done(fallen) == "No alert tells any more that it does not answer."


def test_what_never_gets_to_the_node_uses_up_nothing(fallen):
    def away():
        raise EngineError("a", "Docker at http://box:2375 does not answer", status=None)

    fallen.nodes["a"].restarts.reaches = away
    assert nothing_done(fallen) == "What restarts it is out of reach: Docker at http://box:2375 does not answer."


def test_what_a_controller_cannot_tell_of_its_limits_keeps_no_node_from_being_restarted(fallen):
    def gone():
        raise AllocationError("a", "there is no cgroup /a; does the node run?")

    fallen.nodes["a"].restarts.reaches = gone
    fallen.nodes["a"].restarts.does = fallen.nodes["a"].come_back
    assert fallen.heal().status is HealingStatus.HEALED


def test_a_node_that_is_not_configured_is_refused(fallen):
    with pytest.raises(OrchaError, match="no node 'gone' to restart"):
        fallen.heal("gone")


# --- one thing at a time on a host


def test_while_another_process_changes_the_host_it_waits(fallen):
    with host_lock(fallen.installation.settings.home, "box") as mine:
        assert mine
        assert nothing_done(fallen) == "Another process is changing box."


def test_while_a_node_is_restarted_its_host_is_not_changed(fallen):
    lines = [decided_line("b", 50.0, 30.0)]
    with fallen.warehouse.write() as connection:
        decisions.record_decision(connection, decision_to_apply("d-1", lines, decided_at=fallen.clock.now()))
    outcomes = []

    def meanwhile():
        outcome = carry_out(
            "d-1",
            application_id="of-d-1",
            run_id="run-3",
            installation=fallen.installation,
            warehouse=fallen.warehouse,
            adapters=fallen.nodes,
        )
        outcomes.append((outcome.status, outcome.reason))

    fallen.nodes["a"].restarts.does = meanwhile
    fallen.heal()
    assert outcomes == [(ApplicationStatus.DROPPED, "Another process is changing the host.")]
    assert fallen.nodes["b"].applied == []
    expect_sound(fallen)


def test_it_waits_as_long_as_it_may_and_no_longer(fallen):
    fallen.configure(enabled=True, verify_minutes=2.0)
    fallen.heal()
    assert 120 <= fallen.waited < 120 + POLL_SECONDS
