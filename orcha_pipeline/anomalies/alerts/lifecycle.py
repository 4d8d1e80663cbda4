"""How alerts come, stay and go: from what stands open and what a cycle tells to what changes. Pure values."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from orcha_pipeline.anomalies.alerts.told import Key, Told
from orcha_pipeline.anomalies.anomaly import Severity
from orcha_pipeline.model import SLOT, slot_of
from orcha_pipeline.warehouse.alert_rows import AlertRow

ADDED_LATER = frozenset({"healing"})
"""Of an alert's evidence, what no rule tells: others write it into the open alert."""


class Change(StrEnum):
    """What becomes of an alert."""

    OPEN = "open"
    SEEN = "seen"
    """Told again, perhaps with other words, or under another cause."""
    WORSE = "worse"
    RELEASED = "released"
    """What stood for it is over, and it is not."""
    ESCALATE = "escalate"
    RESOLVE = "resolve"


@dataclass(frozen=True, slots=True)
class Transition:
    """An alert as it is to be from now on, and what happened to it."""

    change: Change
    alert: AlertRow


def judge(
    known: Sequence[AlertRow],
    told: Sequence[Told],
    *,
    now: datetime,
    clears_after: Callable[[str], timedelta | None],
    new_id: Callable[[], str],
) -> list[Transition]:
    """What a cycle changes. `known`: the open alerts, and those resolved of late that may still stand for others.

    What is told is open afterwards, once a rule and subject. Nothing that is told is resolved, and what was raised
    beside the cycles (`last_seen_at` None) is left to whoever raised it, until a cycle tells it too.
    """
    before = {(alert.kind, alert.subject): alert for alert in known if alert.is_open}
    changes: dict[Key, Transition] = {}
    for item in told:
        opened = before.get(item.key)
        changes[item.key] = _opened(item, new_id()) if opened is None else _seen(opened, item)
    for key, alert in before.items():
        if key in changes:
            continue
        if alert.last_seen_at is not None and alert.last_seen_at > now:  # by a clock that was ahead
            changes[key] = Transition(Change.SEEN, replace(alert, last_seen_at=now))
        elif _is_over(alert, now, clears_after(alert.kind)):
            gone = replace(alert, resolved_at=now, resolved_why="its cause is gone")
            changes[key] = Transition(Change.RESOLVE, gone)
    after = {alert.alert_id: alert for alert in known} | {t.alert.alert_id: t.alert for t in changes.values()}
    regrouped = _regrouped(after, {item.key: item for item in told})
    what = {transition.alert.alert_id: transition.change for transition in changes.values()}
    was = {alert.alert_id: alert for alert in known}
    return [
        Transition(what.get(alert_id, Change.SEEN) if change is None else change, alert)
        for alert_id, (change, alert) in regrouped.items()
        if alert != was.get(alert_id)
    ]


def _opened(item: Told, alert_id: str) -> Transition:
    alert = AlertRow(
        alert_id=alert_id,
        raised_at=item.seen_at,
        kind=item.rule,
        severity=item.severity.value,
        scope=item.scope.value,
        subject=item.subject,
        host=item.host,
        message=item.message,
        evidence=item.evidence,
        last_seen_at=item.seen_at,
    )
    return Transition(Change.OPEN, alert)


def _seen(alert: AlertRow, item: Told) -> Transition:
    """Told again. The gravest that it was stays, so that one that comes and goes is not told each time."""
    seen, rank = replace(alert, last_seen_at=item.seen_at), Severity(alert.severity).rank
    if item.severity.rank < rank:
        return Transition(Change.SEEN, seen)
    kept = {name: value for name, value in alert.evidence.items() if name in ADDED_LATER}
    evidence = {**kept, **item.evidence}
    seen = replace(seen, message=item.message, evidence=evidence, severity=item.severity.value, host=item.host)
    if item.severity.rank == rank:
        return Transition(Change.SEEN, seen)
    # Who acknowledged the lesser has not heard of this.
    return Transition(Change.WORSE, replace(seen, acknowledged_at=None, acknowledged_by=None, escalated_at=None))


def _is_over(alert: AlertRow, now: datetime, after: timedelta | None) -> bool:
    # By slots: a cycle that comes some seconds earlier in its slot than the last one did must not wait for the next.
    return alert.last_seen_at is not None and after is not None and slot_of(now) - slot_of(alert.last_seen_at) >= after


def _regrouped(alerts: Mapping[str, AlertRow], told: Mapping[Key, Told]) -> dict[str, tuple[Change | None, AlertRow]]:
    """Each alert under the one that stands for it, and what that changes; None: nothing but that."""
    latest = {(alert.kind, alert.subject): alert for alert in sorted(alerts.values(), key=_by_time)}
    found: dict[str, tuple[Change | None, AlertRow]] = {}
    for alert in alerts.values():
        found[alert.alert_id] = (None, alert)
        item = told.get((alert.kind, alert.subject))
        if not alert.is_open or item is None:
            continue
        cause = None if item.cause is None else latest.get(item.cause)
        if cause is not None:
            found[alert.alert_id] = (None, replace(alert, group_id=cause.alert_id))
        elif alert.group_id is not None and not _still_stands(alerts.get(alert.group_id)):
            found[alert.alert_id] = (Change.RELEASED, _released(alert, alerts.get(alert.group_id)))
    return found


def _by_time(alert: AlertRow) -> tuple[bool, datetime]:
    """Open ones last, so that they win."""
    return alert.is_open, alert.raised_at


def _still_stands(group: AlertRow | None) -> bool:
    return group is not None and group.is_open


def _released(alert: AlertRow, group: AlertRow | None) -> AlertRow:
    """It stands for itself again; who acknowledged what stood for it knows of it."""
    free = replace(alert, group_id=None)
    if group is None or group.acknowledged_at is None or alert.acknowledged_at is not None:
        return free
    return replace(free, acknowledged_at=group.acknowledged_at, acknowledged_by=group.acknowledged_by)


def escalations(alerts: Iterable[AlertRow], *, now: datetime, after: timedelta | None) -> list[Transition]:
    """Alerts of warning or worse that were told `after` ago or longer and that nobody has acknowledged, once each.

    Those that another stands for are not among them, nor those that the last cycle did not tell again.
    """
    if after is None:
        return []
    return [
        Transition(Change.ESCALATE, replace(alert, escalated_at=now))
        for alert in alerts
        if alert.is_open
        and alert.acknowledged_at is None
        and alert.escalated_at is None
        and alert.group_id is None
        and alert.severity != Severity.INFO
        and alert.announced_at is not None
        and now - alert.announced_at >= after
        and (alert.last_seen_at is None or now - alert.last_seen_at < SLOT)
    ]
