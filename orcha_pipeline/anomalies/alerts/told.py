"""What a cycle tells to be wrong, as the life of alerts needs it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from orcha_pipeline.anomalies import catalogue
from orcha_pipeline.anomalies.alerts import causes
from orcha_pipeline.anomalies.anomaly import Scope, Severity
from orcha_pipeline.anomalies.catalogue import CLEARS_AFTER, Rule
from orcha_pipeline.model import SLOT
from orcha_pipeline.warehouse.anomaly_rows import AnomalyRow

Key = tuple[str, str]
"""A rule's id and the subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A rule that holds of a subject, seen at a moment. `cause` is what stands for it, where something does."""

    rule: str
    scope: Scope
    subject: str
    host: str | None
    severity: Severity
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seen_at: datetime
    cause: Key | None = None

    @property
    def key(self) -> Key:
        """What makes it one and the same alert."""
        return self.rule, self.subject


def rule_of(kind: str) -> Rule | None:
    """The rule of this id; None of a kind that is in no list (a row of another version)."""
    return catalogue.RULES.get(kind) or causes.RULES.get(kind)


def clears_after(kind: str) -> timedelta | None:
    """How long after it was last told an alert of this kind is over; None: whoever raised it ends it."""
    rule = rule_of(kind)
    slots = CLEARS_AFTER if rule is None else rule.clears_after
    return None if slots is None else slots * SLOT


def told_of(anomalies: Iterable[AnomalyRow]) -> list[Told]:
    """The anomalies as what is told: once a rule and subject, the latest, and of these the gravest."""
    found: dict[Key, Told] = {}
    for row in anomalies:
        rule = rule_of(row.rule)
        evidence = {
            "remedy": row.remedy,
            "docs": None if rule is None else rule.anchor,
            "score": row.score,
            "since": None if row.since is None else f"{row.since:%Y-%m-%d %H:%M} UTC",
        }
        item = Told(
            rule=row.rule,
            scope=Scope(row.scope),
            subject=row.subject,
            host=row.host,
            severity=Severity(row.severity),
            message=f"{row.subject}: {row.evidence}{'' if row.evidence.endswith('?') else '.'}",
            evidence={name: value for name, value in evidence.items() if value is not None},
            seen_at=row.detected_at,
        )
        before = found.get(item.key)
        if before is None or (before.seen_at, before.severity.rank) <= (item.seen_at, item.severity.rank):
            found[item.key] = item
    return list(found.values())
