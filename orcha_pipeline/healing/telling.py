"""What is told of restarts, as part of the alert that a node does not answer."""

from collections.abc import Sequence
from dataclasses import replace

from orcha_pipeline.warehouse import alert_rows
from orcha_pipeline.warehouse.decisions import Connection
from orcha_pipeline.warehouse.healings import HealingRow

EVIDENCE = "healing"
"""The alert's evidence that holds it."""


def told_of(restarts: Sequence[HealingRow], why_not: str = "") -> str:
    """The restarts since the alert was raised (by time), and why there is none now, where that is to be told."""
    told: list[str] = []
    if restarts:
        last = restarts[-1]
        times = "" if len(restarts) == 1 else f" {len(restarts)} times, last"
        told = [f"Orcha restarted it{times} at {last.started_at:%Y-%m-%d %H:%M} UTC."]
        told.append(last.reason or "What came of it is not known yet.")
    if why_not:
        told.append(f"Orcha does not restart it{' again' if restarts else ''}: {why_not}.")
    return " ".join(told)


def as_sentence(reason: str) -> str:
    """A reason that stands by itself."""
    return f"{reason[:1].upper()}{reason[1:]}."


def tell(connection: Connection, alert_id: str, text: str) -> None:
    """Write it into the alert, where that is open."""
    alert = alert_rows.alerts_by_id(connection, [alert_id]).get(alert_id)
    if text and alert is not None and alert.is_open and alert.evidence.get(EVIDENCE) != text:
        alert_rows.write_alerts(connection, [replace(alert, evidence={**alert.evidence, EVIDENCE: text})])
