"""A restart is killed at each of its boundaries; what it left finds its end, and the node is not restarted twice."""

import signal
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from orcha_pipeline.allocation.apply import carry_out
from orcha_pipeline.model import ApplicationStatus, HealthState
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.consistency import breaches
from orcha_pipeline.warehouse.healings import HealingStatus
from orcha_pipeline_tests.boundaries import run_module
from orcha_pipeline_tests.healing.build import MINUTE, Rig
from orcha_pipeline_tests.healing.killed_healing import CHOSEN_AT, StandingNode
from orcha_pipeline_tests.rig import decided_line, decision_to_apply


class Crash:
    """A host with a node that is away, before and after the process that restarts it was killed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.rig = Rig(folder)
        self.node = self.rig.nodes["a"] = StandingNode(folder, self.rig.clock)
        self.rig.fall("a", "b")
        assert [each.node for each in self.rig.play(4).chosen] == ["a", "b"]
        assert self.rig.clock.now() == CHOSEN_AT

    def heal(self, boundary: int, *more: str) -> "subprocess.CompletedProcess[str]":
        return run_module("orcha_pipeline_tests.healing.killed_healing", str(self.folder), str(boundary), *more)

    def expect_the_other_to_wait(self) -> None:
        """Until it is known what came of the restart, nothing else of the host is touched."""
        rig = self.rig
        if self.node.state is HealthState.HEALTHY or all(row.ended_at for row in rig.rows()):
            return
        told = "What came of the restart of a is not known yet."
        waits = rig.heal("b")
        assert (waits.status, waits.reason) == (None, told)
        with rig.warehouse.write() as connection:
            lines = [decided_line("c", 50.0, 30.0)]
            decisions.record_decision(connection, decision_to_apply("d-1", lines, decided_at=rig.clock.now()))
        outcome = carry_out(
            "d-1",
            application_id="of-d-1",
            run_id="run-3",
            installation=rig.installation,
            warehouse=rig.warehouse,
            adapters=rig.nodes,
        )
        assert (outcome.status, outcome.reason) == (ApplicationStatus.DROPPED, told)
        assert (rig.restarted("b"), rig.nodes["c"].applied) == ([], [])

    def check(self) -> HealingStatus | None:
        """What is on record once all cycles of the next hour have looked at it; None: nothing was begun."""
        rig, restarted = self.rig, self.node.restarted
        assert restarted <= 1
        self.expect_the_other_to_wait()
        ended = sum(rig.cycle().ended for _ in range(2))
        rows = rig.rows()
        assert len(rows) <= 1
        if not rows:
            assert restarted == 0
            assert self.node.state is HealthState.UNREACHABLE
            assert [each.node for each in rig.cycle(after=MINUTE).chosen] == ["a", "b"], "the next cycle asks again"
            return None
        (row,) = rows
        works = self.node.state is HealthState.HEALTHY
        assert row.status is (HealingStatus.HEALED if works else HealingStatus.FAILED)
        assert row.ended_at is not None
        assert ended <= 1
        assert [each.node for each in rig.cycle(after=10 * MINUTE).chosen] == ["b"], "it counts as done for the wait"
        assert rig.heal().status is None
        assert self.node.restarted == restarted
        rig.nodes["b"].restarts.does = rig.nodes["b"].come_back
        assert rig.heal("b").status is HealingStatus.HEALED
        rig.clock.set(rig.clock.now() + timedelta(days=1))
        with rig.warehouse.read() as connection:
            assert breaches(connection, rig.clock.now()) == []
        return row.status


@pytest.mark.parametrize("more", [("comes_back",), ()], ids=["comes back", "stays away"])
def test_killed_at_any_boundary_it_finds_its_end_and_is_not_done_twice(tmp_path, more):
    whole = Crash(tmp_path / "whole")
    ran = whole.heal(-1, *more)
    assert ran.returncode == 0, ran.stderr
    good = HealingStatus.HEALED if more else HealingStatus.FAILED
    assert (whole.check(), whole.node.restarted) == (good, 1)
    found: list[tuple[HealingStatus | None, int]] = []
    for boundary in range(int(ran.stdout)):
        crash = Crash(tmp_path / str(boundary))
        ran = crash.heal(boundary, *more)
        assert ran.returncode == -signal.SIGKILL, ran.stderr
        found.append((crash.check(), crash.node.restarted))
    assert found[0] == (None, 0)
    assert (HealingStatus.FAILED, 0) in found, "on record, and killed before it was done"
    assert found[-1] == (good, 1)
