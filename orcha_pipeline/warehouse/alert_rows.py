"""Alerts as rows: raised, told again, acknowledged, resolved. They are kept for good."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from orcha_pipeline.warehouse.decisions import Connection, records
from orcha_pipeline.warehouse.facts import insert, naive, scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRow:
    """Something a person should know of, until `resolved_at`. Severity: info, warning or critical.

    `scope` tells what `subject` is the name of: node, host, token, protocol, orcha; None in rows of earlier versions.
    `evidence` may hold a `remedy`, and `docs` where the rule is told of. `group_id` is the alert that stands for this
    one. `last_seen_at` is when a cycle last told its cause; None where whoever raised it ends it. `announced_at` and
    `announced_severity` tell of the last messages made about it, `end_announced_at` of those about its end.
    """

    alert_id: str
    raised_at: datetime
    kind: str
    severity: str
    subject: str
    message: str
    evidence: Mapping[str, Any]
    resolved_at: datetime | None = None
    scope: str | None = None
    host: str | None = None
    group_id: str | None = None
    last_seen_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    escalated_at: datetime | None = None
    announced_at: datetime | None = None
    announced_severity: str | None = None
    end_announced_at: datetime | None = None
    resolved_why: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is not resolved."""
        return self.resolved_at is None


def _alerts(connection: Connection, where: str, parameters: Sequence[object] = ()) -> list[AlertRow]:
    rows = records(
        connection,
        f"SELECT * FROM alerts WHERE {where} ORDER BY raised_at, kind, subject",  # noqa: S608 (our own text)
        parameters,
    )
    return [AlertRow(**row | {"evidence": json.loads(row["evidence"])}) for row in rows]


def _row(alert: AlertRow) -> dict[str, Any]:
    return asdict(alert) | {"evidence": json.dumps(dict(alert.evidence), sort_keys=True)}


# --- by whoever knows of the trouble


def raise_alert(
    connection: Connection,
    *,
    at: datetime,
    kind: str,
    severity: str,
    scope: str,
    subject: str,
    message: str,
    evidence: Mapping[str, Any],
    host: str | None = None,
) -> str | None:
    """Add an alert and return its id; None where one of the same kind and subject is open already.

    Whoever raises it resolves it: no cycle does.
    """
    if scalar(
        connection,
        "SELECT count(*) FROM alerts WHERE kind = ? AND subject = ? AND resolved_at IS NULL",
        [kind, subject],
    ):
        return None
    alert = AlertRow(
        alert_id=str(uuid4()),
        raised_at=at,
        kind=kind,
        severity=severity,
        scope=scope,
        subject=subject,
        message=message,
        evidence=evidence,
        host=host,
    )
    insert(connection, "alerts", [_row(alert)])
    return alert.alert_id


def resolve_alert(connection: Connection, *, kind: str, subject: str, at: datetime, why: str = "") -> bool:
    """Close the open alert of this kind and subject. Returns whether there was one."""
    closed = connection.execute(
        "UPDATE alerts SET resolved_at = ?, resolved_why = ? "
        "WHERE kind = ? AND subject = ? AND resolved_at IS NULL RETURNING alert_id",
        [naive(at), why, kind, subject],
    ).fetchall()
    return bool(closed)


# --- all of them


def open_alerts(connection: Connection) -> list[AlertRow]:
    """Alerts that are not resolved, in the order they were raised."""
    return _alerts(connection, "resolved_at IS NULL")


def alerts_since(connection: Connection, since: datetime) -> list[AlertRow]:
    """The open ones and those that were resolved at `since` or later, in the order they were raised."""
    return _alerts(connection, "resolved_at IS NULL OR resolved_at >= ?", [naive(since)])


def alerts_to_announce(connection: Connection) -> list[AlertRow]:
    """The open ones, and those of whose end nobody was told that was told of them."""
    return _alerts(
        connection,
        "resolved_at IS NULL OR (announced_at IS NOT NULL AND end_announced_at IS NULL)",
    )


def alerts_by_id(connection: Connection, ids: Collection[str]) -> dict[str, AlertRow]:
    """Id -> alert, of these."""
    found = _alerts(connection, "alert_id IN (SELECT unnest(?))", [list(ids)])
    return {alert.alert_id: alert for alert in found}


def alerts_beginning_with(connection: Connection, beginning: str, *, limit: int) -> list[AlertRow]:
    """Alerts whose id begins so, `limit` at most."""
    return _alerts(connection, "starts_with(alert_id, ?)", [beginning])[:limit]


def write_alerts(connection: Connection, alerts: Sequence[AlertRow]) -> int:
    """Write alerts; what was on record under their ids is replaced. Returns how many."""
    if not alerts:
        return 0
    connection.execute("CREATE OR REPLACE TEMP TABLE incoming_alerts AS SELECT * FROM alerts LIMIT 0")
    insert(connection, "incoming_alerts", [_row(alert) for alert in alerts])
    connection.execute("INSERT OR REPLACE INTO alerts SELECT * FROM incoming_alerts")
    connection.execute("DROP TABLE incoming_alerts")
    return len(alerts)
