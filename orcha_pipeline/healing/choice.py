"""Whether a node that does not answer is restarted now, and why not. Pure values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

from orcha_pipeline.allocation.gates import BUDGET_MONTH
from orcha_pipeline.model import HealthState, Mode
from orcha_pipeline.settings import HealingSettings

UNREAD = timedelta(minutes=65)
"""Between two readings further apart than this nobody knows whether a node was away: Orcha was, perhaps with it."""
STEADY = timedelta(hours=24)
"""So long after the wait for a restart is over a node counts as steady: the next wait is the first again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Down:
    """A node with an open alert that it does not answer, and all that tells whether to restart it.

    `away_since` None: it answers again, or was not read. `restarts` are those of self-healing within `BUDGET_MONTH`, by
    time, and `changes` counts the steps of applications in that time. `against` is what forbids it, in words; empty
    where nothing does. `restarts_per_month` is what its lever allows, None where it has no such budget.
    """

    node: str
    host: str
    alert_id: str
    mode: Mode
    away_since: datetime | None
    restarts: Sequence[datetime] = ()
    changes: int = 0
    against: str = ""
    restarts_per_month: int | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """What restarts a node: why it `cannot` (empty where it can), and how often its lever lets it in 30 days."""

    cannot: str = ""
    restarts_per_month: int | None = None


def with_means(down: Down, means: Means) -> Down:
    """The same, with that known."""
    return replace(down, against=down.against or means.cannot, restarts_per_month=means.restarts_per_month)


def away_since(readings: Sequence[tuple[datetime, HealthState]], now: datetime) -> datetime | None:
    """The first of the readings (by time) since which none has found the node otherwise than away; None: it is not."""
    found, later = None, now
    for at, state in reversed(readings):
        if state is not HealthState.UNREACHABLE or later - at > UNREAD:
            break
        found = later = at
    return found


def wait_after(restarts: Sequence[datetime], first: timedelta) -> timedelta:
    """How long a node is left alone after the last of its restarts (by time): doubled by each that followed another."""
    wait = first
    for before, at in pairwise(restarts):
        wait = min(2 * wait, BUDGET_MONTH) if at - before < wait + STEADY else first
    return wait


def budget(down: Down, settings: HealingSettings) -> tuple[int, int]:
    """Restarts in the last 30 days, and how many there may be. Only of a lever with a budget changes are restarts."""
    if down.restarts_per_month is None:
        return len(down.restarts), settings.restarts_per_month
    return len(down.restarts) + down.changes, down.restarts_per_month


def why_not(down: Down, *, now: datetime, settings: HealingSettings) -> str:
    """Why a node is not restarted now, in words; empty where it is to be."""
    if down.away_since is None:
        return "it was not found away when it was last read"
    if down.mode is not Mode.AUTO:
        return f"it is in mode {down.mode}, so that this is left to you: restart it, or set its mode to auto"
    if down.against:
        return down.against
    away = now - down.away_since
    if away < settings.after:
        return f"for {_minutes(settings.after)} it may come back by itself, and it is away for {_minutes(away)}"
    if down.restarts:
        last, wait = down.restarts[-1], wait_after(down.restarts, settings.first_wait)
        if now - last < wait:
            return f"after the restart of {_moment(last)} it is left alone until {_moment(last + wait)}"
    used, most = budget(down, settings)
    return f"{used} of the {most} restarts that it may have in 30 days are used up" if used >= most else ""


def _minutes(span: timedelta) -> str:
    return f"{max(timedelta(0), span) / timedelta(minutes=1):.0f} min"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
