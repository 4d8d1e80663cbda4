"""What a Storj storage node has stored and sent, day by day, and the satellites it did so for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orcha_pipeline.testnet.economy import Piece
from orcha_pipeline.testnet.worlds import DAY, HOUR

FILL = 0.93
"""The part of its effective allocation that a settled node has filled."""
COUNTS_EVERY = 12 * HOUR
"""How often the node asks the satellites what they have counted, at midnight and noon (UTC)."""
DISK_CENTS, EGRESS_CENTS, AUDIT_CENTS = 149, 200, 200
"""Prices of a TB kept for a month of 720 hours, sent to a customer, and sent for repair or audit."""
_USAGE_PART, _REPAIR_PART, _AUDIT_PART = 0.78, 0.2, 0.02
"""How egress income divides; repair and audit are priced alike."""


@dataclass(frozen=True, slots=True)
class Satellite:
    """One satellite.

    `weight`: its part of the node's business. `months`: how long before the testnet's start it was joined. `behind`:
    how many seconds its count of what is stored is behind when the node asks for it, a multiple of twelve hours.
    """

    id: str
    url: str
    weight: float
    months: int
    behind: int


SATELLITES = (
    Satellite("12EayRS2V1kEsWESU9QMRseFhdxYxKicsiFmxrsLZHeLUtdps3S", "us1.storj.io:7777", 0.55, 64, 12 * HOUR),
    Satellite("12L9ZFwhzVpuEKMUNUqkaTLGzwY9G24tbiigLiXpmZWKwmcNDDs", "eu1.storj.io:7777", 0.30, 7, 24 * HOUR),
    Satellite("121RTSDpyNZVcEU84Ticf2L1ntiuUimbWgfATz21tuvgk3vzoA6", "ap1.storj.io:7777", 0.15, 1, 36 * HOUR),
)


@dataclass(slots=True)
class Day:
    """What one UTC day came to, over all satellites. Bytes are exact in sum and rounded only when they are shown."""

    byte_hours: float = 0.0
    egress: float = 0.0
    repair: float = 0.0
    audit: float = 0.0
    ingress: float = 0.0
    offline_seconds: int = 0
    morning: float = 0.0
    """Of the byte-hours, those before noon: half a day is as finely as satellites' counts are heard of."""


class StorjBooks:
    """Storage and traffic per UTC day."""

    def __init__(self, disk_gb: float) -> None:
        """`disk_gb`: disk at share 1.0."""
        self.bytes_at_full = disk_gb * 1e9 * FILL
        self.days: dict[int, Day] = {}
        self.read: set[str] = set()
        """Ids of the notifications that were marked as read."""

    def busy_until(self, at: int) -> int | None:
        """Nothing that has begun holds on to what it was given."""
        del at

    def accrue(self, piece: Piece) -> None:
        """Divide the money of a piece between storage and traffic, and turn it into bytes."""
        day = self.days.setdefault(piece.start // DAY, Day())
        if not piece.up:
            day.offline_seconds += piece.seconds
            return
        cents = piece.earned * 100.0
        stored = piece.effective * self.bytes_at_full * piece.seconds / HOUR
        disk_cents = min(stored / 720.0 * DISK_CENTS / 1e12, 0.8 * cents)
        byte_hours = disk_cents * 1e12 / DISK_CENTS * 720.0
        day.byte_hours += byte_hours
        if piece.start % DAY < COUNTS_EVERY:
            day.morning += byte_hours
        traffic = (cents - disk_cents) * 1e12
        day.egress += traffic * _USAGE_PART / EGRESS_CENTS
        day.repair += traffic * _REPAIR_PART / AUDIT_CENTS
        day.audit += traffic * _AUDIT_PART / AUDIT_CENTS
        day.ingress += 0.15 * traffic / EGRESS_CENTS

    def total(self, since: int, until: int) -> Day:
        """The sum over days `[since, until)`, Unix seconds at midnights."""
        total = Day()
        for number in range(since // DAY, -(-until // DAY)):
            if day := self.days.get(number):
                total.byte_hours += day.byte_hours
                total.egress += day.egress
                total.repair += day.repair
                total.audit += day.audit
                total.ingress += day.ingress
                total.offline_seconds += day.offline_seconds
                total.morning += day.morning
        return total

    def byte_hours(self, number: int, until: int) -> float:
        """What was kept on one day (by its number) up to `until`, a noon or a midnight."""
        day = self.days.get(number)
        if day is None or until <= number * DAY:
            return 0.0
        return day.byte_hours if until >= (number + 1) * DAY else day.morning

    def dump(self) -> dict[str, Any]:
        """Days by their number, and what was read."""
        days = {
            str(number): [d.byte_hours, d.egress, d.repair, d.audit, d.ingress, d.offline_seconds, d.morning]
            for number, d in self.days.items()
        }
        return {"days": days, "read": sorted(self.read)}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take back what `dump` gave."""
        self.days = {int(number): Day(*figures) for number, figures in saved["days"].items()}
        self.read = set(saved["read"])


def held_rate(months: int) -> int:
    """Percent held back, by whole calendar months since the satellite was joined."""
    for limit, rate in ((3, 75), (6, 50), (9, 25)):
        if months < limit:
            return rate
    return 0
