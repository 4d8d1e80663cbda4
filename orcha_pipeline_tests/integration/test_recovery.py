"""An application is killed at each of its step boundaries, in a process of its own; what it left finds its end."""

import signal
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from orcha_pipeline.allocation.apply import carry_out
from orcha_pipeline.allocation.host_lock import host_lock
from orcha_pipeline.allocation.recovery import recover
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AllocationError
from orcha_pipeline.model import ApplicationStatus
from orcha_pipeline.warehouse import decisions, freezes
from orcha_pipeline_tests.boundaries import run_module
from orcha_pipeline_tests.integration.killed_application import NODES, StandingNode, moves_in, settings_in
from orcha_pipeline_tests.rig import NOW, decided_line, decision_to_apply, installation, read_now

BEFORE, AFTER = {"a": 60.0, "b": 20.0, "idle": 50.0}, {"a": 30.0, "b": 50.0, "idle": 50.0}
FULL = 130.0
"""What the nodes' levers come to together before and after: it is all of the host that there is."""


class Crash:
    """A host before, and after, the process that changes it was killed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.clock = folder, FixedClock(NOW)
        self.nodes = {name: StandingNode(folder, name, self.clock) for name in NODES}
        for name, node in self.nodes.items():
            node.stand_at(BEFORE[name])
        self.installation = installation(folder, self.clock, NODES, cpu_threads=FULL / 10)
        self.warehouse = self.installation.warehouse
        read_now(self.warehouse, self.nodes.values(), NOW)
        lines = [decided_line(name, BEFORE[name], AFTER[name]) for name in NODES]
        with self.warehouse.write() as connection:
            decisions.record_decision(connection, decision_to_apply("d-1", lines))

    def apply(self, boundary: int, *fails: str) -> "subprocess.CompletedProcess[str]":
        return run_module(
            "orcha_pipeline_tests.integration.killed_application", str(self.folder), str(boundary), *fails
        )

    @property
    def values(self) -> dict[str, float]:
        return {name: node.value for name, node in self.nodes.items()}

    def recover(self):
        return recover(self.installation, self.warehouse, self.nodes)

    def ended(self) -> tuple[ApplicationStatus, str]:
        with self.warehouse.read() as connection:
            (row,) = decisions.latest_applications(connection)
        assert row.ended_at is not None
        return row.status, row.reason


def check(crash: Crash) -> ApplicationStatus:
    """Everything is on record as it is, nothing is under way, and nothing is done a second time."""
    status, _ = crash.ended()
    assert crash.values == (AFTER if status is ApplicationStatus.APPLIED else BEFORE)
    assert settings_in(crash.folder) == crash.values  # nothing waits for some later restart
    with crash.warehouse.read() as connection:
        steps = decisions.steps_of(connection, "a-1")
        assert freezes.frozen(connection) == {}
    assert (status is ApplicationStatus.DROPPED) is (not steps)
    assert all(step.status in ("done", "failed") and step.ended_at is not None for step in steps)
    for step in {step.node: step for step in steps}.values():  # the last of each node
        assert (step.status, step.read_back) == ("done", crash.values[step.node])
    moves = moves_in(crash.folder)
    stood: dict[str, float] = {}
    for node, value in moves:
        stood[node] = value
        assert sum(stood.values()) <= FULL
    assert crash.recover() == []
    again = carry_out(
        "d-1",
        application_id="a-2",
        run_id="run-2",
        installation=crash.installation,
        warehouse=crash.warehouse,
        adapters=crash.nodes,
    )
    assert (again.status, "before" in again.reason) == (ApplicationStatus.DROPPED, True)
    assert moves_in(crash.folder) == moves
    return status


@pytest.mark.parametrize("fails", [(), ("b",)], ids=["on the way", "on the way back"])
def test_killed_at_any_boundary_it_is_finished_or_set_back_and_nothing_is_lost(tmp_path, fails):
    whole = Crash(tmp_path / "whole")
    ran = whole.apply(-1, *fails)
    assert ran.returncode == 0, ran.stderr
    assert check(whole) is (ApplicationStatus.ROLLED_BACK if fails else ApplicationStatus.APPLIED)
    found: list[ApplicationStatus] = []
    for boundary in range(int(ran.stdout)):
        crash = Crash(tmp_path / str(boundary))
        ran = crash.apply(boundary, *fails)
        assert ran.returncode == -signal.SIGKILL, ran.stderr
        for ended in crash.recover():
            assert ended.host == "box"
        found.append(check(crash))
    assert ApplicationStatus.DROPPED in found  # killed before its first step
    assert ApplicationStatus.ROLLED_BACK in found
    assert (ApplicationStatus.APPLIED in found) is not bool(fails)  # only its end was not written


def test_what_another_process_is_at_work_on_is_left_alone(tmp_path):
    crash = Crash(tmp_path / "host")
    assert crash.apply(7).returncode == -signal.SIGKILL
    with host_lock(crash.installation.settings.home, "box") as mine:
        assert mine
        assert crash.recover() == []
    assert [each.status for each in crash.recover()] == [ApplicationStatus.ROLLED_BACK]


def test_the_next_application_of_the_host_brings_the_last_one_to_its_end_first(tmp_path):
    crash = Crash(tmp_path / "host")
    assert crash.apply(7).returncode == -signal.SIGKILL
    crash.clock.set(NOW + timedelta(minutes=15))
    read_now(crash.warehouse, crash.nodes.values(), crash.clock.now())
    lines = [decided_line(name, BEFORE[name], AFTER[name]) for name in NODES]
    with crash.warehouse.write() as connection:
        decisions.record_decision(connection, decision_to_apply("d-2", lines, decided_at=crash.clock.now()))
    outcome = carry_out(
        "d-2",
        application_id="a-2",
        run_id="run-2",
        installation=crash.installation,
        warehouse=crash.warehouse,
        adapters=crash.nodes,
    )
    assert outcome.status is ApplicationStatus.DROPPED  # the host rests after what was begun and set back
    assert "rests 60 min" in outcome.reason
    assert crash.values == BEFORE


def test_a_node_that_cannot_be_set_back_is_frozen_with_an_alert_and_tried_again(tmp_path):
    crash = Crash(tmp_path / "host")
    ran = crash.apply(9)
    assert ran.returncode == -signal.SIGKILL
    moved = crash.nodes["a"]
    assert moved.value == AFTER["a"]
    moved.fails_to_apply = lambda: AllocationError("a", "refused")
    (ended,) = crash.recover()
    assert ended.status is ApplicationStatus.ROLLBACK_FAILED
    assert "set limit of a to 60 unit by hand (it failed: refused); then `orcha unfreeze a`" in ended.reason
    with crash.warehouse.read() as connection:
        assert freezes.frozen(connection)["a"].reason == "set limit of a to 60 unit by hand"
        alerts = connection.execute("SELECT severity, subject, message FROM alerts WHERE resolved_at IS NULL")
        assert alerts.fetchall() == [
            (
                "critical",
                "a",
                "a could not be set back. Please set limit of a to 60 unit by hand; then `orcha unfreeze a`.",
            )
        ]
    moved.fails_to_apply = lambda: None
    (again,) = crash.recover()
    assert again.status is ApplicationStatus.ROLLED_BACK
    assert crash.values == BEFORE
    with crash.warehouse.read() as connection:
        assert freezes.frozen(connection) == {}
        assert connection.execute("SELECT count(*) FROM alerts WHERE resolved_at IS NULL").fetchall() == [(0,)]
    assert crash.recover() == []
