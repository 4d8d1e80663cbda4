"""`missed-cycles`, raised from outside of the cycles: Dagster itself may be what is dead."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from uuid import uuid4

from orcha_pipeline.anomalies.anomaly import ORCHA
from orcha_pipeline.anomalies.catalogue import MISSED_CYCLES
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import SLOT, slot_of
from orcha_pipeline.warehouse import alert_rows, vital_signs
from orcha_pipeline.warehouse.alert_rows import AlertRow
from orcha_pipeline.warehouse.decisions import Connection

GRACE = timedelta(minutes=5)
"""A cycle may take so long; and after a sleep of the machine so much passes before it is called late."""
USUAL_OVER = timedelta(days=2)


def longest_wait(decided_at: Sequence[datetime], *, most: int) -> timedelta:
    """How old the last decision may be where more than `most` missed cycles are too many.

    How often a cycle comes is told by the decisions of the last days, by time; every quarter of an hour without them.
    """
    slots = sorted({slot_of(moment) for moment in decided_at})
    usual = median([(later - earlier) / SLOT for earlier, later in pairwise(slots)] or [1.0])
    return (most + 1) * max(1.0, usual) * SLOT + GRACE


class MissingCycles:
    """Watches the age of the last decision. One that stays too old for GRACE of time seen to pass is told of.

    Only time in which the machine was awake counts, and none from before this began to watch.
    """

    def __init__(self, installation: Installation, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._installation, self._monotonic = installation, monotonic
        self._watched_since = monotonic()
        self._late_since: float | None = None

    def look(self, connection: Connection, now: datetime) -> AlertRow | None:
        """The alert as it is to be from now on, raised or resolved; None where nothing changes."""
        settings = self._installation.settings
        decided = vital_signs.decided_since(connection, {host.name for host in settings.hosts}, now - USUAL_OVER)
        if not decided:
            return None
        last, longest = decided[-1], longest_wait(decided, most=settings.anomalies.missed_cycles)
        known = alert_rows.open_alerts(connection)
        found = next((alert for alert in known if (alert.kind, alert.subject) == (MISSED_CYCLES.id, ORCHA)), None)
        # What a cycle tells of those missed before it is information.
        raised = found is not None and found.severity == MISSED_CYCLES.severity
        if now - last <= longest:
            self._late_since = None
            why = f"a decision came at {last:%Y-%m-%d %H:%M} UTC"
            return replace(found, resolved_at=now, resolved_why=why) if found is not None and raised else None
        if self._late_since is None:
            self._late_since = self._monotonic()
        return None if raised or not self._is_late(longest) else _raised(found, last, now)

    def _is_late(self, longest: timedelta) -> bool:
        """Whether the last decision has been too old for long enough of the time that was watched."""
        now, late_since = self._monotonic(), self._late_since
        watched = timedelta(seconds=now - self._watched_since)
        return late_since is not None and watched >= longest and timedelta(seconds=now - late_since) >= GRACE


def _raised(known: AlertRow | None, last: datetime, now: datetime) -> AlertRow:
    """A new alert, or the open one made as grave as this is. Who raised it ends it: `last_seen_at` is None."""
    alert = known or AlertRow(
        alert_id=str(uuid4()),
        raised_at=now,
        kind=MISSED_CYCLES.id,
        severity="",
        scope=MISSED_CYCLES.scope.value,
        subject=ORCHA,
        message="",
        evidence={},
    )
    return replace(
        alert,
        severity=MISSED_CYCLES.severity.value,
        message=f"No cycle has brought a decision since {last:%Y-%m-%d %H:%M} UTC.",
        evidence={"remedy": MISSED_CYCLES.remedy, "docs": MISSED_CYCLES.anchor},
        last_seen_at=None,
        acknowledged_at=None,
        acknowledged_by=None,
    )
