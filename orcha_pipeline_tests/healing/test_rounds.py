"""Which nodes a cycle asks to be restarted, and what it tells of the others."""

from dataclasses import replace
from datetime import timedelta

import pytest

from orcha_pipeline.allocation.host_lock import host_lock
from orcha_pipeline.allocation.situation import read_situation, why_frozen
from orcha_pipeline.anomalies.alerts.view import alerts_json
from orcha_pipeline.anomalies.alerts.wording import Occasion, body_of
from orcha_pipeline.errors import ParseError
from orcha_pipeline.healing.rounds import AT_ONCE, take_stock
from orcha_pipeline.model import HOUR, ApplicationStatus
from orcha_pipeline.warehouse import decisions, freezes, healings, permissions
from orcha_pipeline.warehouse.permissions import PauseRow
from orcha_pipeline_tests.healing.build import MINUTE, Rig, healing_row
from orcha_pipeline_tests.rig import LEVER, NOW, decision_to_apply


def left(rig, cycles=4):
    """Why the node is not restarted after so many cycles."""
    found = rig.play(cycles)
    assert found.chosen == ()
    assert rig.restarted() == []
    return found.left["a"]


def test_while_all_answer_nothing_is_to_be_done_and_no_adapter_is_opened(rig):
    rig.open_adapters = None
    assert rig.play(2) == rig.play(1)
    assert rig.rows() == []


def test_a_node_that_stays_away_is_restarted_after_its_time_and_its_alert_says_what_is_waited_for(rig):
    rig.fall("a")
    assert rig.cycle().chosen == ()
    assert rig.told() == ("Orcha does not restart it: for 30 min it may come back by itself, and it is away for 0 min.")
    assert rig.cycle().chosen == ()
    (chosen,) = rig.cycle().chosen
    assert (chosen.node, chosen.run_key) == ("a", "a:1:2026-03-05T12:45")
    assert take_stock(rig.installation, rig.warehouse, rig.open_adapters).chosen == (chosen,)


def test_one_that_comes_back_by_itself_is_left_alone(rig):
    rig.fall("a")
    rig.play(2)
    rig.nodes["a"].come_back()
    found = rig.cycle()
    assert found.chosen == ()
    assert found.left == {"a": "it was not found away when it was last read"}


def test_after_orcha_itself_was_away_a_node_gets_its_time_anew(rig):
    rig.fall("a")
    rig.play(2)
    rig.clock.set(rig.clock.now() + 8 * HOUR)
    assert "may come back by itself" in left(rig, 2)
    assert len(rig.cycle().chosen) == 1


@pytest.mark.parametrize("mode", ["advise", "confirm"])
def test_in_another_mode_there_is_only_advice(tmp_path, mode):
    rig = Rig(tmp_path, mode=mode)
    rig.fall("a")
    assert f"it is in mode {mode}" in left(rig, 12)
    assert rig.told() == (
        f"Orcha does not restart it: it is in mode {mode}, so that this is left to you: restart it, or set its mode to "
        "auto."
    )


@pytest.mark.parametrize("enabled", [None, False])
def test_real_nodes_are_left_alone_unless_that_is_switched_on(tmp_path, enabled):
    rig = Rig(tmp_path, enabled=enabled)
    rig.fall("a")
    assert rig.play(12).left == {}
    assert rig.told() == ""


def test_simulated_nodes_are_restarted_unless_that_is_switched_off(rig):
    simulated = {name: {"simulated": True} for name in rig.nodes}
    rig.configure(nodes=simulated)
    assert {node.name for node in rig.installation.settings.healed} == {"a", "b", "c"}
    rig.configure(nodes=simulated, enabled=False)
    assert rig.installation.settings.healed == ()


def test_a_pause_stops_restarts_and_they_go_on_after_it(rig):
    rig.fall("a")
    with rig.warehouse.write() as connection:
        permissions.pause(connection, PauseRow(paused_at=NOW, paused_by="ada", reason="moving house"))
    assert left(rig) == "changes are paused since 2026-03-05 12:05 UTC by ada: moving house"
    with rig.warehouse.write() as connection:
        permissions.resume(connection, at=rig.clock.now(), by="ada")
    assert len(rig.cycle().chosen) == 1


def test_a_node_that_the_operator_has_frozen_or_that_could_not_be_set_back_is_left_alone(rig):
    rig.configure(enabled=True, nodes={"a": {"frozen": True}})
    rig.fall("a")
    assert left(rig) == "the operator has frozen it"
    rig.configure(enabled=True, nodes={"a": {"frozen": False}})
    with rig.warehouse.write() as connection:
        freezes.freeze(connection, application_id="x", stuck={"a": "set it by hand"}, at=NOW)
    assert "could not be set back" in left(rig, 1)


def test_on_a_host_that_is_dead_no_single_node_is_restarted(rig):
    rig.fall("a", "b", "c")
    found = rig.play(6)
    assert found.chosen == ()
    assert set(found.left.values()) == {"none of the nodes of box answers, which no restart of a single one mends"}


def test_where_a_cloud_does_not_answer_the_node_is_not_at_fault(rig):
    rig.configure(enabled=True, nodes={"a": {"protocol": "grass"}})
    rig.fall("a")
    assert left(rig) == "what does not answer is the service of grass, not the node"


def test_while_its_host_is_changed_a_node_waits(rig):
    rig.fall("a")
    with rig.warehouse.write() as connection:
        decisions.record_decision(connection, decision_to_apply("d-1", []))
        application = decisions.ApplicationRow(
            application_id="of-d-1",
            decision_id="d-1",
            started_at=NOW,
            ended_at=None,
            status=ApplicationStatus.RUNNING,
            reason="",
            dagster_run_id="run",
        )
        decisions.begin_application(connection, application)
    assert left(rig) == "a change of box is under way"


def test_what_cannot_be_restarted_from_here_says_what_to_do(rig):
    rig.nodes["a"].restarts.cannot = "no controller is set for this node"
    rig.fall("a")
    assert left(rig) == "it cannot be restarted from here: no controller is set for this node"


@pytest.mark.parametrize("error", [ParseError("a", "not YAML"), ZeroDivisionError("secret")])
def test_a_budget_that_cannot_be_read_is_none(rig, error):
    def fails():
        raise error

    rig.nodes["a"].levers = fails
    rig.fall("a")
    told = left(rig)
    assert told.startswith("how often it may be restarted could not be read: ")
    assert "secret" not in told


def test_changes_of_the_month_use_up_the_budget_of_a_lever_that_restarts(rig):
    steps = [
        (f"INSERT INTO application_steps VALUES ('x', {number}, 'apply', 'a', 'limit', 1, 2, 2, 'done', '', ?, ?)")
        for number in range(4)
    ]
    with rig.warehouse.write() as connection:
        for step in steps:
            connection.execute(step, [NOW.replace(tzinfo=None), NOW.replace(tzinfo=None)])
    rig.fall("a")
    assert left(rig) == "4 of the 4 restarts that it may have in 30 days are used up"
    rig.nodes["a"].lever = None
    assert len(rig.cycle().chosen) == 1


def test_of_many_the_first_to_fall_come_first_and_the_others_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("orcha_pipeline.healing.rounds.AT_ONCE", 1)
    rig = Rig(tmp_path)
    rig.fall("b")
    rig.cycle()
    rig.fall("a")
    found = rig.play(3)
    assert [each.node for each in found.chosen] == ["b"]
    assert found.left == {"a": "1 others come first"}
    assert AT_ONCE == 3
    rig.nodes["b"].restarts.cannot = "it is gone"
    assert [each.node for each in rig.cycle().chosen] == ["a"], "what cannot be restarted keeps no other waiting"


# --- what it does to the planner, and what is told


def test_a_restart_counts_for_the_planner_as_its_own_do(rig):
    with rig.warehouse.write() as connection:
        for number in range(4):
            at = NOW - timedelta(days=number + 1)
            row = healing_row(healing_id=f"h-{number}", started_at=at)
            healings.begin(connection, row)
        healings.begin(connection, healing_row(healing_id="old", started_at=NOW - timedelta(days=31)))
    rig.cycle()
    situation = read_situation(rig.warehouse, rig.clock.now(), rig.installation.settings.apply)
    assert dict(situation.steps_this_month) == {"a": 4}
    assert situation.last_changed == {"a": NOW - timedelta(days=1)}
    assert why_frozen("a", rig.nodes["a"].lever, situation) == "its 4 restarts a month are used up"
    resting = replace(LEVER, cooldown=timedelta(days=2))
    assert "its cool-down lasts" in why_frozen("a", resting, situation)


def test_the_alert_tells_of_restarts_on_every_screen_and_in_its_messages(fallen):
    fallen.nodes["a"].restarts.does = lambda: None
    fallen.heal()
    fallen.cycle()
    told = fallen.told()
    assert told == (
        "Orcha restarted it at 2026-03-05 13:05 UTC. 10 min after the restart it does not work (unreachable: "
        "connection refused). Orcha does not restart it again: after the restart of 2026-03-05 13:05 UTC it is left "
        "alone until 2026-03-05 14:05 UTC."
    )
    alert = fallen.alerts.alerts()["node-unreachable", "a"]
    assert told in body_of(alert, Occasion.ESCALATED)
    (shown,) = alerts_json([alert], now=fallen.clock.now(), simulated=False)["alerts"]
    assert shown["evidence"]["healing"] == told


# --- what a dead process left behind


def test_what_was_left_behind_ends_by_how_the_node_is_and_is_not_done_again(rig):
    with rig.warehouse.write() as connection:
        healings.begin(connection, healing_row())
    rig.fall("a")
    assert rig.cycle().ended == 0, "it may yet come back"
    rig.nodes["a"].come_back()
    with host_lock(rig.installation.settings.home, "box"):
        assert rig.cycle(after=MINUTE).ended == 0, "somebody is at work on it"
    assert rig.cycle(after=MINUTE).ended == 1
    (row,) = rig.rows()
    assert (row.status, row.ended_at) == (healings.HealingStatus.HEALED, rig.clock.now())
    assert row.reason == "The process that restarted it ended in its midst; it answers again (healthy)."
    assert rig.restarted() == []


def test_what_was_left_behind_has_failed_once_its_time_is_over(rig):
    with rig.warehouse.write() as connection:
        healings.begin(connection, healing_row())
        healings.begin(connection, healing_row(healing_id="h-2", node="gone"))
    rig.fall("a")
    assert rig.cycle(after=19 * MINUTE).ended == 2
    assert [(row.status.value, row.reason) for row in rig.rows()] == [
        (
            "failed",
            "The process that restarted it ended in its midst, and it does not work (unreachable: connection refused).",
        ),
        ("failed", "The process that restarted it ended in its midst, and it cannot be asked any more."),
    ]
    assert rig.restarted() == []
    assert "it is left alone until" in left(rig, 2), "it counts as a restart"
