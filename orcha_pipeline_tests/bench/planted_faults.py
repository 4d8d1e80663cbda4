"""Whether every fault that was planted in the testnet came to be one alert, and ended with the fault.

What is planted is known to the cycle, so nothing is left to judgement: the first cycle that meets a fault raises its
alert, the last that meets it keeps it open, and a rule's own delay later it is resolved.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orcha_pipeline.anomalies import catalogue
from orcha_pipeline.anomalies.alerts import causes
from orcha_pipeline.anomalies.alerts.grouping import AFTERMATH, SYMPTOMS
from orcha_pipeline.anomalies.alerts.told import clears_after
from orcha_pipeline.anomalies.anomaly import ORCHA
from orcha_pipeline.model import SLOT, slot_of
from orcha_pipeline.warehouse.alert_rows import AlertRow
from orcha_pipeline_tests.bench.soak_world import PRICES, Outage

TOLD_AS: Mapping[str, str] = {
    "dead": catalogue.NODE_UNREACHABLE.id,
    "reset": catalogue.NODE_UNREACHABLE.id,
    "status": catalogue.NODE_ERROR.id,
    "html": catalogue.NODE_ERROR.id,
    "truncated": catalogue.NODE_ERROR.id,
}
"""Kind of a fault at a node's door -> the rule that tells it."""
LEVER = "apply_fails"
"""Told only where a change was tried meanwhile."""
OF_CHANGES = frozenset({catalogue.ALLOCATION_FAILED.id, catalogue.ROLLBACK_FAILED.id})
Key = tuple[str, str]
"""Rule and subject of an alert."""


@dataclass(frozen=True, slots=True)
class Planted:
    """One or several faults that follow on one another, as one alert should tell them.

    `first` and `last` are the slots of the cycles between which it is to be told, both included.
    """

    key: Key
    first: datetime
    last: datetime

    def is_told_by(self, alert: AlertRow) -> bool:
        """Whether it is the one that tells this, and was raised in one of these slots."""
        return (alert.kind, alert.subject) == self.key and self.first <= slot_of(alert.raised_at) <= self.last

    def is_told_well_by(self, alert: AlertRow) -> bool:
        """Whether it was raised in the first of these slots and resolved the rule's delay after the last."""
        delay = clears_after(self.key[0])
        over = None if delay is None else self.last + delay
        return slot_of(alert.raised_at) == self.first and (
            alert.resolved_at is not None and slot_of(alert.resolved_at) == over
        )


def planted(
    outages: Iterable[Outage], *, began: datetime, cycles: int, host: str, nodes: Collection[str], stale: timedelta
) -> list[Planted]:
    """What `cycles` cycles from `began` on are to tell of these outages, by its begin.

    `nodes` are all of `host`; a feed of prices that is away is told after `stale`. A fault that the last cycles still
    met, or whose end they did not live to see, is left out, and so are those of levers.
    """
    met: dict[Key, set[int]] = {}
    for outage in outages:
        first, ends = _cycles_of(outage)
        for key, delay in _keys(outage, host, nodes, stale):
            met.setdefault(key, set()).update(range(first + delay, ends))
    found: list[Planted] = []
    for key, numbers in met.items():
        gap = (clears_after(key[0]) or timedelta(0)) // SLOT
        stretches: list[range] = []
        for number in sorted(numbers):
            if stretches and number - stretches[-1].stop < gap:
                stretches[-1] = range(stretches[-1].start, number + 1)
            else:
                stretches.append(range(number, number + 1))
        found += [
            Planted(key, began + own.start * SLOT, began + (own.stop - 1) * SLOT)
            for own in stretches
            if own.stop - 1 + gap < cycles
        ]
    return sorted(found, key=lambda each: (each.first, each.key))


def _cycles_of(outage: Outage) -> tuple[int, int]:
    """The first cycle that meets it, and the first that does not any more."""
    first = -int(-outage.begins // SLOT)
    return first, first - int(-outage.lasts // SLOT)


def _keys(outage: Outage, host: str, nodes: Collection[str], stale: timedelta) -> Iterable[tuple[Key, int]]:
    """What tells it, and after how many cycles."""
    if outage.kind == LEVER:
        return
    if PRICES in outage.doors:
        # The price of the last cycle before it is a slot old when the first meets it.
        yield (causes.PRICES_STALE.id, ORCHA), int(stale // SLOT) - 1
    for door in set(outage.doors) & set(nodes):
        yield (TOLD_AS[outage.kind], door), 0
    if set(nodes) <= set(outage.doors) and TOLD_AS[outage.kind] == catalogue.NODE_UNREACHABLE.id:
        yield (causes.HOST_UNREACHABLE.id, host), 0


def judged(
    alerts: Sequence[AlertRow],
    expected: Sequence[Planted],
    *,
    failed: Sequence[datetime],
    idle: Mapping[str, Sequence[datetime]],
) -> dict[str, Any]:
    """How `alerts` tell what was `expected`, as JSON holds it.

    `failed`: when applications failed or were set back; `idle`: node -> slots in which it earned nothing by the world's
    own doing. Besides what is expected an alert may follow from these: a node in error, earnings that it does not make
    meanwhile, changes that failed. Whatever else stands for itself was raised for nothing.
    """
    amiss: list[str] = []
    for each in expected:
        own = [alert for alert in alerts if each.is_told_by(alert)]
        if len(own) != 1 or not each.is_told_well_by(own[0]):
            amiss.append(f"{_told(each)}: {', '.join(_told_alert(alert) for alert in own) or 'no alert'}")
    others = [alert for alert in alerts if not any(each.is_told_by(alert) for each in expected)]
    spans = [(each.key[1], each.first, each.last) for each in expected]
    spans += [(node, slot, slot) for node, slots in idle.items() for slot in slots]
    follows = [
        alert
        for alert in others
        if alert.group_id is not None
        or _follows(alert, spans, failed)
        or (alert.kind in TOLD_AS.values() and slot_of(alert.raised_at) in idle.get(alert.subject, ()))
    ]
    alone = [alert for alert in others if alert not in follows]
    return {
        "planted": len(expected),
        "planted by rule": dict(Counter(each.key[0] for each in expected)),
        "told once and over": len(expected) - len(amiss),
        "amiss": amiss,
        "following": dict(Counter(alert.kind for alert in follows)),
        "for nothing": dict(Counter(f"{alert.kind} ({alert.severity})" for alert in alone)),
        "examples": [_told_alert(alert) for alert in alone[:20]],
    }


def _follows(alert: AlertRow, spans: Sequence[tuple[str, datetime, datetime]], failed: Sequence[datetime]) -> bool:
    """Whether it is a symptom of what was amiss with its subject in a span, or tells a change that failed."""
    if alert.kind in OF_CHANGES:
        return any(timedelta(0) <= alert.raised_at - at <= timedelta(hours=1) for at in failed)
    return alert.kind in SYMPTOMS and any(
        node == alert.subject and first <= alert.raised_at <= last + AFTERMATH for node, first, last in spans
    )


def _told(each: Planted) -> str:
    return f"{each.key[0]} {each.key[1]} from {each.first:%d. %H:%M} to {each.last:%d. %H:%M}"


def _told_alert(alert: AlertRow) -> str:
    until = "open" if alert.resolved_at is None else f"{alert.resolved_at:%d. %H:%M}"
    return f"{alert.kind} {alert.subject} {alert.raised_at:%d. %H:%M} to {until}: {alert.message[:120]}"
