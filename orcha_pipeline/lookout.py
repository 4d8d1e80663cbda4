"""Looking at an installation without holding anybody up: what was seen last is kept, and looked for in a thread."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from orcha_pipeline.errors import OrchaError, where
from orcha_pipeline.installation import Installation
from orcha_pipeline.status import Vitals, take_vitals
from orcha_pipeline.warehouse.tallies import Tallies, tallies

FRESH_SECONDS = 15.0
"""So long what was seen is good enough: nothing is looked at more often, however many ask."""
WAIT_SECONDS = 0.6
"""So long an asker waits for a look that is under way, before he gets what was seen the last time."""
OLD_SECONDS = 60.0
"""What is older is a problem of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one look found."""

    vitals: Vitals
    tallies: Tallies


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The last sight and its age in seconds, None before the first; `trouble` tells why there is none or no newer."""

    sight: Sight | None
    age: float | None
    trouble: str

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as it should be, the trouble with looking first."""
        found = self.sight.vitals.problems if self.sight is not None else ()
        return (self.trouble, *found) if self.trouble else tuple(found)


def look(installation: Installation) -> Sight:
    """Look at everything. Raises `OrchaError` where there is no warehouse to look at."""
    vitals = take_vitals(installation)
    with installation.warehouse.read() as connection:
        counted = tallies(connection)
    return Sight(vitals=vitals, tallies=counted)


class Lookout:
    """Keeps what `look` found last. Any thread may ask; one look at a time runs, and only where somebody asks."""

    def __init__(self, look: Callable[[], Sight], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._look, self._monotonic = look, monotonic
        self._changed = threading.Condition()
        self._sight: Sight | None = None
        self._taken_at = self._begun_at = float("-inf")
        self._error = ""
        self._under_way: threading.Thread | None = None

    def seen(self, *, wait: float = WAIT_SECONDS) -> Seen:
        """What is known, within `wait` seconds."""
        with self._changed:
            if self._under_way is None and self._monotonic() - self._begun_at >= FRESH_SECONDS:
                self._begun_at = self._monotonic()
                self._under_way = threading.Thread(target=self._take, name="lookout", daemon=True)
                self._under_way.start()
            self._changed.wait_for(lambda: self._under_way is None, timeout=wait)
            return self._told()

    def close(self, *, wait: float = 2.0) -> None:
        """Let a look that is under way come to its end, as far as that is soon."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way is None, timeout=wait)

    def _take(self) -> None:
        sight, error = None, ""
        try:
            sight = self._look()
        except OrchaError as problem:
            error = str(problem)
        except Exception as problem:  # noqa: BLE001 (the page must tell of what nobody foresaw as well)
            error = f"what there is to know could not be read: {where(problem)}"
        with self._changed:
            self._error, self._under_way = error, None
            if sight is not None:
                self._sight, self._taken_at = sight, self._monotonic()
            self._changed.notify_all()

    def _told(self) -> Seen:
        now = self._monotonic()
        age = None if self._sight is None else now - self._taken_at
        return Seen(sight=self._sight, age=age, trouble=self._trouble(now, age))

    def _trouble(self, now: float, age: float | None) -> str:
        if self._error:
            return self._error
        if age is None:
            return f"nothing is known yet: the first look has taken {now - self._begun_at:.0f} s so far"
        if age >= OLD_SECONDS:
            return f"what is told here is {age:.0f} s old: to look again has taken {now - self._begun_at:.0f} s so far"
        return ""
