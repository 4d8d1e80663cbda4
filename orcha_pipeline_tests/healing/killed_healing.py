"""A restart of a node in a process of its own that is killed, with SIGKILL, at one of its boundaries.

    python -m orcha_pipeline_tests.healing.killed_healing FOLDER BOUNDARY [comes_back]

Whether the node works, and how often it was restarted, stands in files, so that it outlives the process as a real node
does. Without a kill (BOUNDARY -1) it prints how many boundaries there were.
"""

import sys
from datetime import timedelta
from pathlib import Path

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.model import HealthState
from orcha_pipeline.warehouse import healings
from orcha_pipeline_tests.boundaries import killed_at
from orcha_pipeline_tests.healing.build import MortalNode, Rig
from orcha_pipeline_tests.rig import NOW

CHOSEN_AT = NOW + timedelta(hours=1)
"""When the cycles have asked for the restart."""


class StandingNode(MortalNode):
    """A node whose state is a file of `folder`, and its restarts are lines of another."""

    def __init__(self, folder: Path, clock: FixedClock) -> None:
        self._state, self._restarts = folder / "state", folder / "restarts"
        super().__init__("a", clock)
        self.restarts.does = self.note

    @property
    def state(self) -> HealthState:
        return HealthState(self._state.read_text()) if self._state.exists() else HealthState.HEALTHY

    @state.setter
    def state(self, state: HealthState) -> None:
        self._state.write_text(state.value)

    def note(self) -> None:
        with self._restarts.open("a") as file:
            file.write("restarted\n")

    @property
    def restarted(self) -> int:
        """How often it was, by whatever process."""
        return len(self._restarts.read_text().splitlines()) if self._restarts.exists() else 0


def main() -> None:
    folder, boundary, comes_back = Path(sys.argv[1]), int(sys.argv[2]), "comes_back" in sys.argv[3:]
    boundaries = killed_at(boundary)
    rig = Rig(folder)
    rig.clock.set(CHOSEN_AT)
    state = HealthState((folder / "state").read_text())
    node = StandingNode(folder, rig.clock)
    node.state = state  # what __init__ sets is no recovery
    rig.nodes["a"] = node

    def restart() -> None:
        node.note()
        boundaries.at()
        if comes_back:
            node.come_back()

    node.restarts.does = boundaries.around(restart)
    healings.begin, healings.end = boundaries.around(healings.begin), boundaries.around(healings.end)
    rig.heal()
    sys.stdout.write(str(boundaries.passed))


if __name__ == "__main__":
    main()
