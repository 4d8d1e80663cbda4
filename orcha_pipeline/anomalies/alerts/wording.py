"""The words of messages about alerts: plain text, harmless to whatever shows it."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

from orcha_pipeline.anomalies.anomaly import Scope
from orcha_pipeline.warehouse.alert_rows import AlertRow
from orcha_pipeline.warehouse.message_rows import MessageRow

LONGEST_LINE = 600
MOST_LINES = 60
"""Of a digest: what is more is counted."""
SHORT_ID = 8
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# What chat services turn into a call to everybody.
_CALLS = re.compile(r"@(?=everyone|here|channel|all\b)|<(?=[!@#])", re.IGNORECASE)


class Occasion(StrEnum):
    """Why there is a message."""

    RAISED = "raised"
    WORSE = "worse"
    ESCALATED = "escalated"
    RESOLVED = "resolved"


_HEADS = {
    Occasion.RAISED: "{severity}",
    Occasion.WORSE: "now {severity}",
    Occasion.ESCALATED: "still {severity}, not acknowledged",
    Occasion.RESOLVED: "resolved",
}


def harmless(text: str) -> str:
    """On one line, without control characters and calls to everybody, and not longer than LONGEST_LINE."""
    clean = _CALLS.sub("", _CONTROL.sub(" ", text)).strip()
    return clean if len(clean) <= LONGEST_LINE else f"{clean[: LONGEST_LINE - 4]} ..."


def moment(at: datetime) -> str:
    """A time as all messages write it."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


def subject_of(alert: AlertRow) -> str:
    """What it is about, with its host where that tells more."""
    return f"{alert.subject} ({alert.host})" if alert.host and alert.scope == Scope.NODE else alert.subject


def title_of(alert: AlertRow, occasion: Occasion, *, simulated: bool) -> str:
    """One line: how grave, what, of whom."""
    head = _HEADS[occasion].format(severity=alert.severity)
    return harmless(f"{_sender(simulated=simulated)} {head}: {alert.kind} {subject_of(alert)}")


def body_of(alert: AlertRow, occasion: Occasion) -> str:
    """What is wrong, what to do, where that is told of, and how to acknowledge it."""
    lines = [harmless(alert.message), ""]
    if occasion is Occasion.RESOLVED:
        until = "" if alert.resolved_at is None else f" to {moment(alert.resolved_at)}"
        lines += [f"It stood from {moment(alert.raised_at)}{until}: {harmless(alert.resolved_why or 'it is over')}."]
    elif remedy := alert.evidence.get("remedy"):
        lines += [f"What to do: {harmless(str(remedy))}"]
    lines += [harmless(str(healing))] if (healing := alert.evidence.get("healing")) else []
    lines += [f"Host: {alert.host}"] if alert.host else []
    if occasion is not Occasion.RESOLVED:
        lines += [f"Since: {harmless(str(alert.evidence.get('since') or moment(alert.raised_at)))}"]
    lines += [f"About this rule: {docs}"] if (docs := alert.evidence.get("docs")) else []
    ident = alert.alert_id[:SHORT_ID]
    quiet = "" if occasion is Occasion.RESOLVED else f"; `orcha alerts ack {ident}` keeps it quiet"
    return "\n".join([*lines, f"Alert {ident}{quiet}"])


def digest_of(messages: Sequence[MessageRow], alerts: Mapping[str, AlertRow], *, simulated: bool) -> tuple[str, str]:
    """Title and body of one message for all of these: an alert a line, as it stands by now, the open ones first."""
    ids = list(dict.fromkeys(message.alert_id for message in messages))
    known = [alerts[alert_id] for alert_id in ids if alert_id in alerts]
    still, over = [a for a in known if a.is_open], [a for a in known if not a.is_open]
    count = f"{len(known)} alert{'s' if len(known) != 1 else ''}, {len(still)} of them open"
    late = {message.alert_id for message in messages if message.occasion == Occasion.ESCALATED}
    lines = [_line(alert, is_late=alert.alert_id in late) for alert in (*still, *over)]
    more = len(lines) - MOST_LINES
    told = [*lines[:MOST_LINES], *([f"and {more} more: `orcha alerts list --all`"] if more > 0 else [])]
    return harmless(f"{_sender(simulated=simulated)} digest: {count}"), "\n\n".join(told)


def _line(alert: AlertRow, *, is_late: bool) -> str:
    stands = "still open, not acknowledged" if is_late and alert.acknowledged_at is None else "open"
    state = stands if alert.resolved_at is None else f"until {moment(alert.resolved_at)}"
    remedy = f" What to do: {alert.evidence['remedy']}" if alert.is_open and alert.evidence.get("remedy") else ""
    head = f"{alert.severity}: {alert.kind} {subject_of(alert)}, since {moment(alert.raised_at)}, {state}"
    return harmless(f"[{alert.alert_id[:SHORT_ID]}] {head}. {alert.message}{remedy}")


def _sender(*, simulated: bool) -> str:
    return "[Orcha, simulated]" if simulated else "[Orcha]"
