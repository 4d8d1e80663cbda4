"""Rules on Orcha itself: its prices, its changes, its cycles, its clock. No model, no I/O."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from orcha_pipeline.anomalies.anomaly import ORCHA, Anomaly, Severity
from orcha_pipeline.anomalies.catalogue import ALLOCATION_FAILED, CLOCK_JUMPED, MISSED_CYCLES, PRICE_STALE
from orcha_pipeline.model import HOUR, SLOT, ApplicationStatus, slot_of

FAILURE_TOLD_FOR = timedelta(hours=6)
"""So long, or until a change of the host has worked again."""


def price_stale(token: str, believed_at: datetime | None, *, at: datetime, after: timedelta) -> Anomaly | None:
    """`price-stale`: the last price that was believed is older than `after`. The score is its age in hours.

    A token that never had a price is not told of here.
    """
    if believed_at is None or at - believed_at <= after:
        return None
    age = at - believed_at
    evidence = (
        f"the last price of {token} that could be believed is of {believed_at:%Y-%m-%d %H:%M} UTC, "
        f"{age / HOUR:.1f} hours ago: what its nodes earn has no value in USD meanwhile"
    )
    return PRICE_STALE.found(token, evidence, at=at, score=age / HOUR, since=believed_at)


def allocation_failed(
    host: str, status: ApplicationStatus, reason: str, ended_at: datetime, *, at: datetime
) -> Anomaly | None:
    """`allocation-failed`: the last change of the host did not work and was taken back.

    One that could not be taken back freezes its node and has an alert of its own.
    """
    if status is not ApplicationStatus.ROLLED_BACK or at - ended_at > FAILURE_TOLD_FOR:
        return None
    evidence = f"the change of {ended_at:%Y-%m-%d %H:%M} UTC was taken back: {reason or 'no reason given'}"
    return ALLOCATION_FAILED.found(host, evidence, at=at, since=ended_at)


def clock_jumped(told: str, *, at: datetime) -> Anomaly | None:
    """`clock-jumped`: `told` says so, in words; empty where the clock went on as it should."""
    return CLOCK_JUMPED.found(ORCHA, told, at=at) if told else None


def missed_cycles(decided_at: Sequence[datetime], *, at: datetime, most: int) -> Anomaly | None:
    """`missed-cycles`: more than `most` cycles in a row brought no decision before this one. It is over by now.

    `decided_at` are the earlier decisions of the last days, by time: how often a cycle comes is told by them. While
    none comes the alert is raised from outside of the cycle. The score is how many were missed.
    """
    slots = sorted({slot_of(moment) for moment in decided_at if slot_of(moment) < slot_of(at)})
    if len(slots) < 2:
        return None
    usual = max(1.0, median((later - earlier) / SLOT for earlier, later in pairwise(slots)))
    missed = round((slot_of(at) - slots[-1]) / SLOT / usual) - 1
    if missed <= most:
        return None
    evidence = f"no decision was taken between {slots[-1]:%Y-%m-%d %H:%M} UTC and now: {missed} cycles did not come"
    remedy = "Nothing need be done if Orcha was ended on purpose; else its logs in the data folder tell why."
    return MISSED_CYCLES.found(
        ORCHA, evidence, at=at, severity=Severity.INFO, score=float(missed), since=slots[-1], remedy=remedy
    )
