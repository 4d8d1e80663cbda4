"""When a message may go out: at once, at the end of the quiet hours, or with the daily digest. Pure values."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from orcha_pipeline.anomalies.anomaly import Severity
from orcha_pipeline.settings import AlertSettings
from orcha_pipeline.timetable import Weekly

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
LONGEST = 8 * DAY
"""Windows repeat after a week: what is quiet for longer never ends."""


@dataclass(frozen=True, slots=True)
class Due:
    """When a message goes out, and whether with others in a digest."""

    at: datetime
    in_digest: bool


def due(severity: Severity, now: datetime, settings: AlertSettings) -> Due:
    """When a message of this severity goes out that comes up now.

    Info waits for the daily digest. What comes up in quiet hours waits for their end, but a critical one that may
    wake the operator.
    """
    windows = [hours.when for hours in settings.quiet_hours]
    if severity is Severity.INFO:
        return Due(quiet_until(next_digest(now, settings.digest_at, settings.digest_timezone), windows), in_digest=True)
    if severity is Severity.CRITICAL and settings.wake_for_critical:
        return Due(now, in_digest=False)
    end = quiet_until(now, windows)
    return Due(end, in_digest=end > now)


def quiet_until(moment: datetime, windows: Sequence[Weekly]) -> datetime:
    """`moment`, or the first full minute after it that lies in no window. What is always quiet ends with LONGEST."""
    found = moment
    while any(window.covers(found) for window in windows) and found - moment < LONGEST:
        found = found.replace(second=0, microsecond=0) + MINUTE
    return found


def next_digest(moment: datetime, at: time, zone: str) -> datetime:
    """The first moment after this one at which the clock of `zone` shows `at`, in UTC."""
    date = moment.astimezone(ZoneInfo(zone)).date()
    days = (datetime.combine(date + day * DAY, at, ZoneInfo(zone)).astimezone(UTC) for day in range(3))
    return next(found for found in days if found > moment)
