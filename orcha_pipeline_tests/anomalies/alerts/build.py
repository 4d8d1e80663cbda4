"""What cycles tell and what is on record, for the tests of alerts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from orcha_pipeline.anomalies.alerts.rounds import Round, take_stock
from orcha_pipeline.anomalies.alerts.told import Told
from orcha_pipeline.anomalies.anomaly import Anomaly, Scope, Severity
from orcha_pipeline.anomalies.catalogue import EARNINGS_DROP, NODE_ERROR, NODE_UNREACHABLE
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.model import slot_of
from orcha_pipeline.settings import AlertSettings
from orcha_pipeline.warehouse.alert_rows import AlertRow, alerts_since
from orcha_pipeline.warehouse.anomaly_rows import record_anomalies
from orcha_pipeline.warehouse.message_rows import MessageRow, waiting_messages
from orcha_pipeline_tests.rig import NOW, installation

SLOT = timedelta(minutes=15)
MINUTE = timedelta(minutes=1)


def ids(prefix: str = "alert") -> Any:
    """New ids, in order."""
    numbers = count(1)
    return lambda: f"{prefix}-{next(numbers)}"


def told(rule: str = "node-unreachable", subject: str = "a", **changes: Any) -> Told:
    """A rule that holds of a node."""
    known: dict[str, Any] = {
        "scope": Scope.NODE,
        "host": "box",
        "severity": Severity.CRITICAL,
        "message": f"{subject}: does not answer.",
        "evidence": {"remedy": "Look at it."},
        "seen_at": NOW,
    }
    return Told(rule=rule, subject=subject, **known | changes)


def an_alert(alert_id: str = "alert-1", **changes: Any) -> AlertRow:
    """An open alert of a node."""
    known: dict[str, Any] = {
        "raised_at": NOW,
        "kind": "node-unreachable",
        "severity": "critical",
        "scope": "node",
        "subject": "a",
        "host": "box",
        "message": "a: does not answer.",
        "evidence": {"remedy": "Look at it.", "docs": "docs/alerts.md#node-unreachable"},
        "last_seen_at": NOW,
    }
    return AlertRow(alert_id=alert_id, **known | changes)


def a_message(message_id: str = "message-1", **changes: Any) -> MessageRow:
    """One that is due."""
    known: dict[str, Any] = {
        "alert_id": "alert-1",
        "channel": "mail",
        "occasion": "raised",
        "severity": "warning",
        "title": "a title",
        "body": "a body",
        "queued_at": NOW,
        "due_at": NOW,
    }
    return MessageRow(message_id=message_id, **known | changes)


class Rig:
    """An installation with nodes on one host, what its cycles find, and what the alerts come to.

    `nodes` are names, or names with their protocols.
    """

    def __init__(self, home: Path, *, nodes: Sequence[str] | Mapping[str, str] = ("a", "b"), **alerts: Any) -> None:
        self.clock = FixedClock(NOW)
        made = installation(home, self.clock, list(nodes))
        told: dict[str, Any] = {"alerts": AlertSettings.model_validate(alerts)}
        if isinstance(nodes, Mapping):
            told["nodes"] = tuple(
                node.model_copy(update={"protocol": nodes[node.name]}) for node in made.settings.nodes
            )
        self.installation = replace(made, settings=made.settings.model_copy(update=told))
        self.warehouse = made.warehouse

    def cycle(self, *anomalies: Anomaly, after: timedelta = timedelta(0)) -> Round:
        """What a cycle does that comes `after` the last moment and finds these."""
        self.clock.set(self.clock.now() + after)
        now = self.clock.now()
        found = [replace(anomaly, detected_at=now) for anomaly in anomalies]
        rows = [{k: v for k, v in asdict(each).items() if k != "slot"} for each in found]
        with self.warehouse.write() as connection:
            record_anomalies(connection, slot_of(now), rows)
            return take_stock(connection, self.installation, now)

    def alerts(self) -> dict[tuple[str, str], AlertRow]:
        """(Rule, subject) -> the last alert of it, open or over."""
        with self.warehouse.read() as connection:
            found = alerts_since(connection, NOW - timedelta(days=365))
        return {(alert.kind, alert.subject): alert for alert in found}

    def open(self) -> list[str]:
        """Rule and subject of the open alerts that stand for themselves."""
        return sorted(
            f"{kind} {of}" for (kind, of), each in self.alerts().items() if each.is_open and not each.group_id
        )

    def waiting(self) -> list[tuple[str, str]]:
        """Channel and title of what waits to be sent, in order."""
        with self.warehouse.read() as connection:
            return [(message.channel, message.title) for message in waiting_messages(connection)]


def away(node: str) -> Anomaly:
    """A node that does not answer."""
    return NODE_UNREACHABLE.found(node, "does not answer: connection refused", at=NOW, host="box")


def in_error(node: str) -> Anomaly:
    """A node that answers, or of which a cloud does, but not as it should."""
    return NODE_ERROR.found(node, "answers, but not as it should: not connected", at=NOW, host="box")


def dropped(node: str) -> Anomaly:
    """An hour that earned too little."""
    return EARNINGS_DROP.found(node, "earned 0 of 2", at=NOW, host="box")
