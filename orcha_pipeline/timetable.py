"""Times of the week that an operator names, and the bounds of a node's share that hold at a moment. Pure values.

The local wall time decides, as the operator reads it off a clock in that zone: a window from 18:00 begins at 18:00 in
summer and in winter, and an hour that the clock runs through twice is in the window twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Weekly:
    """From `start` to `end` (not included) on the wall clock of `zone`, on the days that it begins (0 is Monday).

    An `end` that is not after `start` is that of the day after: the window passes midnight, or is a whole day long.
    """

    start: time
    end: time
    days: frozenset[int]
    zone: str

    def covers(self, moment: datetime) -> bool:
        """Whether an aware moment lies in the window."""
        local = moment.astimezone(ZoneInfo(self.zone))
        wall, day = local.time(), local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= wall < self.end
        return (day in self.days and wall >= self.start) or ((day - 1) % 7 in self.days and wall < self.end)

    def touches(self, begin: datetime, end: datetime) -> bool:
        """Whether any moment of `[begin, end)` lies in the window."""
        begin, end = begin.astimezone(UTC), end.astimezone(UTC)
        return begin < end and any(self.covers(moment) for moment in self._turns(begin, end))

    def _turns(self, begin: datetime, end: datetime) -> Iterator[datetime]:
        """`begin`, and every later moment before `end` at which the window may begin to cover: its own, clock changes.

        Sums of datetimes are made in UTC: those in a zone would be of wall time.
        """
        yield begin
        zone = ZoneInfo(self.zone)
        date, last = begin.astimezone(zone).date(), end.astimezone(zone).date()
        while date <= last:
            for fold in (0, 1):
                moment = datetime.combine(date, self.start, zone).replace(fold=fold).astimezone(UTC)
                if begin < moment < end:
                    yield moment
            date += _DAY
        low = begin
        while low < end:
            high = min(low + _DAY, end)
            if (changed := _clock_change(zone, low, high)) is not None and changed < end:
                yield changed
            low = high

    def __str__(self) -> str:
        days = "" if len(self.days) == 7 else ", ".join(DAYS[day] for day in sorted(self.days)) + " "
        whole = self.start == self.end == time()
        return f"{days}{'all day' if whole else f'{self.start:%H:%M} to {self.end:%H:%M}'} ({self.zone})"


def _clock_change(zone: ZoneInfo, low: datetime, high: datetime) -> datetime | None:
    """The first moment after `low`, up to `high`, at which the clock of `zone` was put forward or back; both UTC."""
    before = low.astimezone(zone).utcoffset()
    if high.astimezone(zone).utcoffset() == before:
        return None
    while high - low > timedelta.resolution:
        middle = low + (high - low) // 2
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and greatest share a node may have, and why, in words: empty where its own bounds simply hold."""

    least: float
    most: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What holds for a node's share while `when` covers."""

    when: Weekly
    least: float | None = None
    most: float | None = None
    pin: float | None = None


def bounds_at(moment: datetime, *, least: float, most: float, pin: float | None, rules: Sequence[Rule]) -> Bounds:
    """The bounds that hold at a moment, from a node's own (`least`, `most`, `pin`) and its rules.

    A pin wins over bounds, and a rule over the node's own. Of several rules the narrowest counts; where their bounds
    exclude each other, the smaller greatest share.
    """
    active = [rule for rule in rules if rule.when.covers(moment)]
    pins = sorted(((rule.pin, str(rule.when)) for rule in active if rule.pin is not None), key=lambda pair: pair[0])
    if pins:
        lowest, when = pins[0]
        text = f"{when}: pinned at {lowest:.2f} by the operator"
        if pins[-1][0] > lowest:
            text += f"; {pins[-1][1]}: the pin at {pins[-1][0]:.2f} does not hold"
        return Bounds(lowest, lowest, text)
    if pin is not None:
        return Bounds(pin, pin, f"pinned at {pin:.2f} by the operator")
    why: dict[Weekly, list[str]] = {}
    lows = [(rule.least, rule.when) for rule in active if rule.least is not None]
    highs = [(rule.most, rule.when) for rule in active if rule.most is not None]
    if lows:
        least, when = max(lows, key=lambda pair: pair[0])
        why.setdefault(when, []).append(f"at least {least:.2f}")
    if highs:
        most, when = min(highs, key=lambda pair: pair[0])
        why.setdefault(when, []).append(f"at most {most:.2f}")
    told = [f"{when}: {' and '.join(texts)}" for when, texts in why.items()]
    if least > most and told:
        told.append(f"at least {least:.2f} and at most {most:.2f} exclude each other: {most:.2f} holds")
    return Bounds(min(least, most), most, "; ".join(told))
