"""Time as a dependency: the wall clock for real nodes, the testnet's own clock for emulated ones."""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time that readings and decisions are stamped with."""

    def now(self) -> datetime:
        """The present moment, timezone-aware UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The present moment, timezone-aware UTC."""
        return datetime.now(UTC)


class FixedClock:
    """A clock that stands still until it is set: for tests and for replaying a moment."""

    def __init__(self, moment: datetime) -> None:
        self._moment = moment

    def now(self) -> datetime:
        """The moment last set."""
        return self._moment

    def set(self, moment: datetime) -> None:
        """Move the clock, in either direction."""
        self._moment = moment
