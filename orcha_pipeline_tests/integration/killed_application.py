"""An application in a process of its own that is killed, with SIGKILL, at one of its step boundaries.

    python -m orcha_pipeline_tests.integration.killed_application FOLDER BOUNDARY [NODE_THAT_FAILS]

The nodes stand in a file, so that they outlive the process as real ones do. Without a kill (BOUNDARY -1) it prints how
many boundaries there were.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from orcha_pipeline.allocation import apply
from orcha_pipeline.clock import Clock, FixedClock
from orcha_pipeline.errors import AllocationError
from orcha_pipeline.model import AppliedChange
from orcha_pipeline_tests.boundaries import killed_at, watch_applications
from orcha_pipeline_tests.rig import NOW, FakeNode, installation

NODES = ("a", "b", "idle")
MOVES = "moves.jsonl"
SETTINGS = "settings.jsonl"
"""What was ever written into a node's own settings, which it takes when it is restarted a moment later."""


def settings_in(folder: Path) -> dict[str, float]:
    """What each node would take at its next start."""
    lines = (folder / SETTINGS).read_text().splitlines() if (folder / SETTINGS).exists() else []
    return dict(moves_in(folder)) | dict(tuple(json.loads(line)) for line in lines)


def moves_in(folder: Path) -> list[tuple[str, float]]:
    """Every place a lever was ever put at, in order."""
    return [tuple(json.loads(line)) for line in (folder / MOVES).read_text().splitlines()]


class StandingNode(FakeNode):
    """A fake node whose lever stands in a file, which all nodes of the folder share: every move of theirs, in order."""

    def __init__(self, folder: Path, name: str, clock: Clock, *, at: Callable[[], None] = lambda: None) -> None:
        self._moves = folder / MOVES
        self._at = at
        self._stands = False
        super().__init__(name, clock)
        self._stands = True

    @property
    def value(self) -> float:
        return dict(moves_in(self._moves.parent))[self.node]

    @value.setter
    def value(self, value: float) -> None:
        if self._stands:  # what __init__ sets is no move
            self.stand_at(value)

    def stand_at(self, value: float) -> None:
        with self._moves.open("a") as file:
            file.write(json.dumps([self.node, value]) + "\n")

    def pending_change(self) -> str:
        waits = settings_in(self._moves.parent)[self.node]
        return "" if waits == self.value else f"its settings say {waits:g}"

    def apply(self, lever: str, value: float) -> AppliedChange:
        self._at()
        if error := self.fails_to_apply():
            raise error
        with self._moves.with_name(SETTINGS).open("a") as file:
            file.write(json.dumps([self.node, value]) + "\n")
        self._at()
        applied = super().apply(lever, value)
        self._at()
        return applied


def main() -> None:
    folder, boundary, fails = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    boundaries = killed_at(boundary)
    watch_applications(boundaries)
    clock = FixedClock(NOW)
    nodes = {name: StandingNode(folder, name, clock, at=boundaries.at) for name in NODES}
    for node in (nodes[name] for name in fails):
        node.fails_to_apply = partial(_refused, node, node.value)
    made = installation(folder, clock, NODES, cpu_threads=13)
    apply.carry_out(
        "d-1", application_id="a-1", run_id="run-1", installation=made, warehouse=made.warehouse, adapters=nodes
    )
    sys.stdout.write(str(boundaries.passed))


def _refused(node: StandingNode, stood_at: float) -> AllocationError | None:
    """It refuses to be moved away from where it stood."""
    return AllocationError(node.node, "refused") if node.value == stood_at and not node.applied else None


if __name__ == "__main__":
    main()
