"""Alerts on the terminal and as JSON. The JSON's shape is a promise, kept in docs/alerts.md: keys are added only."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orcha_pipeline.anomalies.alerts.commands import Trial
from orcha_pipeline.anomalies.alerts.wording import SHORT_ID, harmless, moment, subject_of
from orcha_pipeline.nodes_json import iso
from orcha_pipeline.warehouse.alert_rows import AlertRow

VERSION = 1
_STYLES = {"critical": "bold red", "warning": "yellow", "info": "dim"}


def alerts_view(alerts: Sequence[AlertRow], *, every: bool, simulated: bool) -> RenderableType:
    """Those that stand for themselves, each with those it stands for below it."""
    if not alerts:
        return Text("No alert in the last week." if every else "No alert is open.", style="green")
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    shown = {alert.alert_id for alert in alerts}
    below: dict[str, list[AlertRow]] = {}
    for alert in alerts:
        if alert.group_id is not None:
            below.setdefault(alert.group_id, []).append(alert)
    for alert in alerts:
        if alert.group_id not in shown:
            _add_all(grid, alert, below, 0)
    head = Text(f"Alerts{' (simulated)' if simulated else ''}", style="bold")
    return Group(head, grid, Text("`orcha alerts ack ID` keeps one quiet; docs/alerts.md tells of each rule."))


def _add_all(grid: Table, alert: AlertRow, below: Mapping[str, Sequence[AlertRow]], depth: int) -> None:
    _add(grid, alert, f"{'  ' * (depth - 1)}└ " if depth else "")
    for member in below.get(alert.alert_id, ()):
        _add_all(grid, member, below, depth + 1)


def _add(grid: Table, alert: AlertRow, mark: str) -> None:
    told = Text(f"{alert.kind} {subject_of(alert)}", style="bold")
    told.append(f", since {moment(alert.raised_at)}, {_state(alert)}\n{harmless(alert.message)}", style="not bold")
    if healing := alert.evidence.get("healing"):
        told.append(f"\n{harmless(str(healing))}", style="not bold")
    severity = Text(alert.severity, style=_STYLES.get(alert.severity, ""))
    grid.add_row(Text(f"{mark}{alert.alert_id[:SHORT_ID]}"), severity, told)


def _state(alert: AlertRow) -> str:
    if alert.resolved_at is not None:
        return f"over since {moment(alert.resolved_at)}"
    if alert.acknowledged_at is not None:
        return f"acknowledged by {alert.acknowledged_by}"
    return "escalated" if alert.escalated_at is not None else "open"


def alerts_json(alerts: Sequence[AlertRow], *, now: datetime, simulated: bool) -> dict[str, Any]:
    """What `orcha alerts --json` prints; times ISO 8601 in UTC, what is unknown null."""
    return {
        "version": VERSION,
        "now": iso(now),
        "simulated": simulated,
        "alerts": [
            {
                "id": alert.alert_id,
                "rule": alert.kind,
                "severity": alert.severity,
                "scope": alert.scope,
                "subject": alert.subject,
                "host": alert.host,
                "message": alert.message,
                "evidence": dict(alert.evidence),
                "raised_at": iso(alert.raised_at),
                "last_seen_at": iso(alert.last_seen_at),
                "group": alert.group_id,
                "acknowledged_at": iso(alert.acknowledged_at),
                "acknowledged_by": alert.acknowledged_by,
                "escalated_at": iso(alert.escalated_at),
                "resolved_at": iso(alert.resolved_at),
                "resolved_why": alert.resolved_why or None,
            }
            for alert in alerts
        ],
    }


def trials_view(trials: Sequence[Trial]) -> RenderableType:
    """A line a channel: whether it took the test message, else why not."""
    lines: list[Text] = []
    for trial in trials:
        taken = trial.outcome.taken
        line = Text("✓ " if taken else "✗ ", style="green" if taken else "red")
        lines.append(line.append(f"{trial.channel}: {'took the message' if taken else trial.outcome.why}", style=""))
    return Group(*lines)
