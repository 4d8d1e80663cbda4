"""Rules that tell what is wrong with a node from values already at hand: no model, no I/O.

Every anomaly names its evidence and a remedy in one sentence each. What is unknown raises nothing here: a missing
reading is the health's matter, not a fall to zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Literal

from orcha_pipeline.model import HealthReading, HealthState, slot_of

Severity = Literal["info", "warning", "critical"]

EARNINGS_DROP = 0.30
"""Part of the expectation for an hour that must be missing before it is called a drop."""
NEARLY_NOTHING = 0.80
"""From here on a drop is critical."""
SAME_HOUR_DAYS = 7
"""How many past days tell what an hour of the day earns."""
MIN_SAME_HOURS = 3
"""Fewer known days than this are no expectation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """Something that looks wrong with a node, as the table `anomalies` keeps it."""

    detected_at: datetime
    node: str
    rule: str
    severity: Severity
    score: float | None
    evidence: str
    remedy: str
    slot: datetime = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slot", slot_of(self.detected_at))


@dataclass(frozen=True, slots=True, kw_only=True)
class HourEarned:
    """What one node earned in one hour and what was expected of it, in one unit: USD or native, at full share or not.

    `native_ratio` is earned to expected in native units where both are known: it tells a fall in price from a fall in
    earnings.
    """

    node: str
    hour: datetime
    earned: float | None
    expected: float | None
    unit: str
    source: str
    native_ratio: float | None = None


def same_hour_median(past: Sequence[float | None]) -> float | None:
    """The expectation for an hour: the median of the same hour on past days; None with too few known days."""
    known = [value for value in past if value is not None]
    return median(known) if len(known) >= MIN_SAME_HOURS else None


def earnings_drop(hour: HourEarned, *, detected_at: datetime) -> Anomaly | None:
    """`earnings-drop`: an hour earned more than 30 % less than expected. The score is the missing part.

    Where native earnings held and only their price fell, this is information, not a fault of the node.
    """
    if hour.earned is None or hour.expected is None or hour.expected <= 0:
        return None
    missing = 1 - hour.earned / hour.expected
    if missing <= EARNINGS_DROP:
        return None
    price_only = hour.native_ratio is not None and hour.native_ratio >= 1 - EARNINGS_DROP
    evidence = (
        f"earned {hour.earned:.4g} {hour.unit} in the hour from {hour.hour:%Y-%m-%d %H:%M} UTC "
        f"where {hour.expected:.4g} were expected ({hour.source}): {100 * missing:.0f} % less"
    )
    if price_only:
        return Anomaly(
            detected_at=detected_at,
            node=hour.node,
            rule="earnings-drop",
            severity="info",
            score=missing,
            evidence=f"{evidence}; in its own token it earned as usual, so the price fell or was forecast too high",
            remedy="Nothing is wrong with the node; the next plans follow the price.",
        )
    return Anomaly(
        detected_at=detected_at,
        node=hour.node,
        rule="earnings-drop",
        severity="critical" if missing >= NEARLY_NOTHING else "warning",
        score=missing,
        evidence=evidence,
        remedy="Look at the node's own log and dashboard for lost demand, failing jobs or a stopped service.",
    )


def health_anomaly(node: str, health: HealthReading, *, detected_at: datetime) -> Anomaly | None:
    """`node-unreachable`, `node-error` or `node-at-risk`, by the latest health of the node; None where it is well."""
    why = health.reason or "no reason given"
    match health.state:
        case HealthState.UNREACHABLE:
            rule, severity, evidence = "node-unreachable", "critical", f"does not answer: {why}"
            remedy = "Check that the node runs and that its address and firewall let Orcha reach it."
        case HealthState.ERROR:
            rule, severity, evidence = "node-error", "warning", f"answers, but not as it should: {why}"
            remedy = _ERROR_REMEDIES.get(health.error_kind, "Read the node's log for the cause of this answer.")
        case HealthState.AT_RISK:
            scores = ", ".join(f"{name} {value:.4g}" for name, value in sorted(health.scores.items()))
            rule, severity = "node-at-risk", "critical"
            evidence = f"its reputation or stake is in danger: {why}{f' ({scores})' if scores else ''}"
            remedy = "Keep the node running untouched and mend the cause before the protocol suspends or slashes it."
        case HealthState.HEALTHY | HealthState.RESTARTING:
            return None
    return Anomaly(
        detected_at=detected_at,
        node=node,
        rule=rule,
        severity=severity,
        score=None,
        evidence=evidence,
        remedy=remedy,
    )


_ERROR_REMEDIES = {
    "authentication": "Renew the node's key or token in orcha.toml or its environment variable.",
    "parse": "Check that the address is the node's API; if it is, the node may be newer than Orcha knows.",
    "api": "Read the node's log: it answered with an error of its own.",
}
