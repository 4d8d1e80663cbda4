"""One round over the alerts in the warehouse: what a cycle tells becomes alerts, and what is new becomes messages."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from orcha_pipeline.anomalies.alerts.announcing import announce, notices
from orcha_pipeline.anomalies.alerts.grouping import AFTERMATH, grouped
from orcha_pipeline.anomalies.alerts.lifecycle import Transition, judge
from orcha_pipeline.anomalies.alerts.told import clears_after, told_of
from orcha_pipeline.errors import OrchaError
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import slot_of
from orcha_pipeline.protocols.registry import asked_elsewhere
from orcha_pipeline.warehouse import alert_rows, anomaly_rows, message_rows
from orcha_pipeline.warehouse.alert_rows import AlertRow
from orcha_pipeline.warehouse.decisions import Connection
from orcha_pipeline.warehouse.facts import naive


@dataclass(frozen=True, slots=True)
class Round:
    """What a cycle changed, which alerts are open by then, and how many messages it made."""

    transitions: tuple[Transition, ...]
    open: tuple[AlertRow, ...]
    messages: int


def take_stock(connection: Connection, installation: Installation, now: datetime) -> Round:
    """Let the anomalies of the slot raise and resolve alerts, and queue what is to be told. One transaction."""
    known = alert_rows.alerts_since(connection, now - AFTERMATH)
    told = grouped(
        told_of(anomaly_rows.standing(connection, slot_of(now))),
        nodes=_nodes_by_host(installation),
        tokens=_tokens(connection, installation, now),
        elsewhere={node.name for node in installation.settings.nodes if asked_elsewhere(node.protocol)},
        lasting={(alert.kind, alert.subject) for alert in known},
    )
    transitions = judge(known, told, now=now, clears_after=clears_after, new_id=_new_id)
    changed = {transition.alert.alert_id: transition.alert for transition in transitions}
    messages = tell(connection, installation, now, changed=changed)
    still_open = tuple(alert_rows.open_alerts(connection))
    return Round(tuple(transitions), still_open, messages)


def tell(
    connection: Connection, installation: Installation, now: datetime, *, changed: Mapping[str, AlertRow] | None = None
) -> int:
    """Queue messages about all that nobody has been told of yet, and write that with `changed` (id -> alert).

    Returns how many messages.
    """
    settings = installation.settings.alerts
    alerts = {alert.alert_id: alert for alert in alert_rows.alerts_to_announce(connection)} | dict(changed or {})
    ended = [alert.alert_id for alert in alerts.values() if not alert.is_open]
    message_rows.drop_escalations(connection, ended, at=now)
    made = announce(
        alerts.values(),
        now=now,
        settings=settings,
        told_channels=message_rows.told_channels(connection, ended),
        simulated=installation.simulated,
        new_id=_new_id,
    )
    rows = dict(changed or {}) | {alert.alert_id: alert for alert in made.alerts}
    alert_rows.write_alerts(connection, list(rows.values()))
    return message_rows.queue_messages(connection, made.messages)


def is_news(alerts: Sequence[AlertRow], installation: Installation, now: datetime) -> bool:
    """Whether any of these asks for messages: `tell` has something to do."""
    return bool(notices(alerts, now=now, settings=installation.settings.alerts))


def now_of(installation: Installation) -> datetime:
    """By the installation's clock, by the machine's where that cannot be asked."""
    try:
        return installation.clock.now()
    except OrchaError:  # the testnet, whose clock it is, is away
        return datetime.now(UTC)


def _nodes_by_host(installation: Installation) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node in installation.settings.nodes:
        found.setdefault(node.host, []).append(node.name)
    return found


def _tokens(connection: Connection, installation: Installation, now: datetime) -> Collection[str]:
    """The tokens that sources are asked for by now and that ever had a price."""
    rows = connection.execute(
        "SELECT token FROM prices GROUP BY token HAVING max(observed_at) >= ? AND count(usd) > 0",
        [naive(now - AFTERMATH)],
    ).fetchall()
    return {token for (token,) in rows} - set(installation.settings.prices.pinned)


def _new_id() -> str:
    return str(uuid4())
