"""Rules on what a node earns, from values already at hand: no model, no I/O.

What is unknown raises nothing here: a missing reading is the health's matter, not a fall to zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from orcha_pipeline.anomalies.anomaly import Anomaly, Severity
from orcha_pipeline.anomalies.catalogue import EARNINGS_DROP, EARNINGS_FLATLINE, EARNINGS_ZERO
from orcha_pipeline.model import HOUR

NEARLY_NOTHING = 0.80
"""Part of the expectation that must be missing before a drop is critical."""
FAR = 2.0
"""What lies so many times as far below the expectation as its low end is no chance any more."""
LASTING = 3
"""So many hours in a row that fall short are no chance any more, however unsure the expectation."""
SAME_HOUR_DAYS = 7
"""How many past days tell what an hour of the day earns."""
MIN_SAME_HOURS = 3
"""Fewer known days than this are no expectation."""
MIN_PAST_HOURS = 48
"""Fewer known hours than this tell nothing of how often a node repeats itself, or earns nothing."""

Hours = Sequence[float | None]
"""Native earnings of a node by the hour, without a gap, the last complete hour last; None is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HourEarned:
    """What one node earned in one hour and what was expected of it, in one unit: USD or native, at full share or not.

    `native_ratio` is earned to expected in native units where both are known: it tells a fall in price from a fall in
    earnings. `low` is the expectation's low end, where it tells, and `low_told` what that is. `before` are the hours
    just before it, the latest last: earned and expected, in the same unit.
    """

    node: str
    hour: datetime
    earned: float | None
    expected: float | None
    unit: str
    source: str
    native_ratio: float | None = None
    low: float | None = None
    low_told: str = "one hour in ten was expected to earn less than"
    before: Sequence[tuple[float | None, float | None]] = ()


def same_hour(past: Sequence[float | None]) -> tuple[float, float] | None:
    """What is expected of an hour, and its low end: median and least of that hour on past days; None with too few."""
    known = [value for value in past if value is not None]
    return (median(known), min(known)) if len(known) >= MIN_SAME_HOURS else None


def earnings_drop(hour: HourEarned, *, at: datetime, percent: float, host: str | None = None) -> Anomaly | None:
    """`earnings-drop`: an hour earned more than `percent` less than expected. The score is the missing part.

    Where native earnings held and only their price fell, this is information, not a fault of the node; so it is where
    the hour lies within `FAR` times the distance to the expectation's low end, as some hour of each week does, unless
    it is the `LASTING`th in a row to fall short. What its low end allows is never critical.
    """
    missing = _missing(hour.earned, hour.expected)
    if hour.earned is None or hour.expected is None or missing <= percent / 100:
        return None
    lasting = [_missing(*one) > percent / 100 for one in hour.before[1 - LASTING :]] == [True] * (LASTING - 1)
    evidence = (
        f"earned {hour.earned:.4g} {hour.unit} in the hour from {hour.hour:%Y-%m-%d %H:%M} UTC "
        f"where {hour.expected:.4g} were expected ({hour.source}): {100 * missing:.0f} % less"
    )
    if hour.native_ratio is not None and hour.native_ratio >= 1 - percent / 100:
        evidence += "; in its own token it earned as usual, so the price fell or was forecast too high"
        severity, remedy = Severity.INFO, "Nothing is wrong with the node; the next plans follow the price."
    elif hour.low is not None and hour.earned >= hour.expected - FAR * (hour.expected - hour.low) and not lasting:
        evidence += f"; {hour.low_told} {hour.low:.4g}, so that this may be chance"
        severity, remedy = Severity.INFO, "Nothing need be done unless it lasts."
    else:
        allowed = hour.low is not None and hour.earned >= hour.low
        severity = Severity.CRITICAL if missing >= NEARLY_NOTHING and not allowed else Severity.WARNING
        remedy = ""
    if lasting:
        evidence += f"; the {LASTING - 1} hours before it fell short as well"
    return EARNINGS_DROP.found(
        hour.node, evidence, at=at, host=host, severity=severity, score=missing, remedy=remedy, since=hour.hour
    )


def _missing(earned: float | None, expected: float | None) -> float:
    """The part of what was expected that is missing; 0 where nothing was, or either is unknown."""
    return 0.0 if earned is None or expected is None or expected <= 0 else 1 - earned / expected


def flatline(
    node: str, earned: Hours, *, end: datetime, at: datetime, hours: int, host: str | None = None
) -> Anomaly | None:
    """`earnings-flatline`: the last `hours` or more earned exactly the same, twice as long as ever before.

    A node that is paid by a fixed rate repeats itself for days: only what is new of a node is told. Nothing, hour after
    hour, is silence, no repeated answer, and has rules of its own. `end` is when the last hour ended. The score is how
    many hours it lasts.
    """
    run = _run(earned)
    if run and earned[-1] == 0:
        return None
    before = [value for value in earned[: len(earned) - run] if value is not None]
    if run < hours or len(before) < MIN_PAST_HOURS or run < 2 * _longest_run(earned[: len(earned) - run]):
        return None
    since = end - run * HOUR
    evidence = f"each of the {run} hours since {since:%Y-%m-%d %H:%M} UTC earned exactly {earned[-1]:.6g}"
    return EARNINGS_FLATLINE.found(node, evidence, at=at, host=host, score=float(run), since=since)


def zero_while_peers_earn(
    node: str,
    earned: Hours,
    peers: Sequence[Hours],
    *,
    end: datetime,
    at: datetime,
    hours: int,
    host: str | None = None,
) -> Anomaly | None:
    """`zero-while-peers-earn`: nothing in the last `hours` or more, where each peer that is known earned.

    `peers` are the other nodes of its protocol, to the same last hour. Silent without one, and where the node went
    as long without earnings before: work then comes in lumps. The score is how many hours it lasts.
    """
    run = _run(earned)
    if run < hours or earned[-1] != 0:
        return None
    before = earned[: len(earned) - run]
    if len([value for value in before if value is not None]) < MIN_PAST_HOURS or run <= _longest_run(before, of=0.0):
        return None
    sums = [sum(known) for peer in peers if len(known := [v for v in peer[-hours:] if v is not None]) == hours]
    if not sums or min(sums) <= 0:
        return None
    since = end - run * HOUR
    evidence = (
        f"earned nothing in the {run} hours since {since:%Y-%m-%d %H:%M} UTC, in which "
        f"{len(sums)} other node{'s' if len(sums) > 1 else ''} of its protocol earned"
    )
    return EARNINGS_ZERO.found(node, evidence, at=at, host=host, score=float(run), since=since)


def _run(values: Hours) -> int:
    """How many of the last values are known and equal; 0 where the last is unknown."""
    count = 0
    for value in reversed(values):
        if value is None or value != values[-1]:
            break
        count += 1
    return count


def _longest_run(values: Hours, *, of: float | None = None) -> int:
    """The longest run of one known value (of `of`, where given). An unknown hour between equal ones does not end it."""
    longest = count = 0
    last: float | None = None
    for value in values:
        if value is None:
            continue
        count = count + 1 if value == last else 1
        last = value
        if of is None or value == of:
            longest = max(longest, count)
    return longest
