"""The testnet's time as its server keeps it: standing still, or running with the wall clock at a speed.

The testnet's moments are whole Unix seconds; the wall's are Unix seconds as `time.time` gives them.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any


class Timekeeper:
    """Time stands still until it is told to run. It never goes back."""

    def __init__(self, now: int, *, speed: float = 1.0, wall: Callable[[], float] = time.time) -> None:
        """`speed`: how many of its seconds pass in one of the wall's while it runs."""
        self.wall = wall
        self.live = False
        self.speed = speed
        self._reached = now
        self._anchor = (now, 0.0)
        """A moment, and the wall's moment that was the same while time runs."""

    @property
    def now(self) -> int:
        """The present moment."""
        if self.live:
            # A wall clock that is set back is waited for.
            self._reached = max(self._reached, self._passed(self.wall()))
        return self._reached

    def _passed(self, wall: float) -> int:
        moment, since = self._anchor
        return moment + math.floor((wall - since) * self.speed)

    def moment(self, wall: float) -> int | None:
        """The moment at which the wall showed `wall`; None while time stands still."""
        return self._passed(wall) if self.live else None

    def run(self) -> None:
        """Let time run. At the wall's own speed it shows the wall's time, unless it is ahead of that already."""
        now = self.now
        self.live = True
        self._go_on_from(max(now, math.floor(self.wall())) if self.speed == 1.0 else now)

    def play(self, speed: float) -> None:
        """Let time run at `speed` from where it stands, whatever the wall shows."""
        now = self.now
        self.live, self.speed = True, speed
        self._go_on_from(now)

    def move(self, moment: int) -> None:
        """Be at a later moment at once; running time goes on from there."""
        self._go_on_from(max(moment, self.now))

    def _go_on_from(self, moment: int) -> None:
        wall = self.wall()
        # At the wall's own speed the seconds turn together with the wall's.
        self._anchor = (moment, math.floor(wall) if self.speed == 1.0 else wall)
        self._reached = moment

    def dump(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {"now": self.now, "live": self.live, "speed": self.speed, "anchor": list(self._anchor)}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take back what `dump` gave. At the wall's speed time went on meanwhile; at another it stood still."""
        self.live, self.speed, self._reached = bool(saved["live"]), float(saved["speed"]), int(saved["now"])
        moment, since = saved["anchor"]
        self._anchor = (int(moment), float(since))
        if self.live and self.speed != 1.0:
            self._go_on_from(self._reached)
