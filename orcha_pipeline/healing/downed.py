"""The nodes that do not answer, from what is on record and from what restarts them."""

from collections.abc import Collection, Mapping
from datetime import datetime

from orcha_pipeline.allocation.apply import clock_jumped
from orcha_pipeline.allocation.gates import BUDGET_MONTH
from orcha_pipeline.anomalies.catalogue import NODE_UNREACHABLE
from orcha_pipeline.errors import AdapterError, where
from orcha_pipeline.healing.choice import UNREAD, Down, Means, away_since
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import HOUR
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.http import time_budget
from orcha_pipeline.protocols.registry import asked_elsewhere
from orcha_pipeline.settings import NodeSettings
from orcha_pipeline.warehouse import alert_rows, decisions, freezes, healings, permissions
from orcha_pipeline.warehouse.alert_rows import AlertRow
from orcha_pipeline.warehouse.decisions import Connection


def down_nodes(connection: Connection, installation: Installation, now: datetime) -> list[Down]:
    """The nodes with self-healing on that an open alert tells not to answer, those that are away longest first."""
    settings = {node.name: node for node in installation.settings.healed}
    alerts = {
        alert.subject: alert
        for alert in alert_rows.open_alerts(connection)
        if alert.kind == NODE_UNREACHABLE.id and alert.subject in settings
    }
    if not alerts:
        return []
    everything = _forbidding(connection, installation)
    busy, stuck = _busy_hosts(connection), freezes.frozen(connection)
    restarts: dict[str, list[datetime]] = {}
    for row in healings.healings_since(connection, now - BUDGET_MONTH):
        restarts.setdefault(row.node, []).append(row.started_at)
    changes = decisions.steps_since(connection, now - BUDGET_MONTH)
    # A node is away since before its alert, however often it was restarted since.
    begun = min(now - installation.settings.healing.after, *(alert.raised_at for alert in alerts.values()))
    readings = healings.health_since(connection, alerts, begun - UNREAD - HOUR)
    modes = installation.settings.modes
    found = [
        Down(
            node=node,
            host=settings[node].host,
            alert_id=alert.alert_id,
            mode=modes[node],
            away_since=away_since(readings[node], now),
            restarts=restarts.get(node, ()),
            changes=changes.get(node, 0),
            against=_against(settings[node], alert, stuck, busy) or everything,
        )
        for node, alert in alerts.items()
    ]
    return sorted(found, key=lambda down: (down.away_since or now, down.node))


def _forbidding(connection: Connection, installation: Installation) -> str:
    """Why no node is restarted at all; empty where nothing forbids it."""
    pause = permissions.pause_in_force(connection)
    return f"{pause.told()[0].lower()}{pause.told()[1:]}" if pause else clock_jumped(installation)


def _busy_hosts(connection: Connection) -> dict[str, str]:
    """Hosts with an application or a restart that has no end -> which, in words."""
    restarts = {
        row.host: f"what came of the restart of {row.node} is not known yet" for row in healings.without_end(connection)
    }
    under_way = decisions.applications_without_end(connection)
    found = [decisions.decision(connection, application.decision_id) for application in under_way]
    return restarts | {row.host: f"a change of {row.host} is under way" for row in found if row is not None}


def _against(node: NodeSettings, alert: AlertRow, stuck: Collection[str], busy: Mapping[str, str]) -> str:
    if node.frozen:
        return "the operator has frozen it"
    if alert.group_id is not None:
        return f"none of the nodes of {node.host} answers, which no restart of a single one mends"
    if asked_elsewhere(node.protocol):
        return f"what does not answer is the service of {node.protocol}, not the node"
    if node.name in stuck:
        return "a change of it could not be set back, so that it is left alone"
    return busy.get(node.host, "")


def means_of(adapter: Adapter) -> Means:
    """What restarts the node of this adapter. Asks its lever and its host, and touches nothing."""
    cannot = adapter.controller.why_cannot_restart()
    if cannot:
        return Means(f"it cannot be restarted from here: {cannot}")
    try:
        with time_budget(adapter.settings.timeout_seconds):
            lever = next(iter(adapter.levers()), None)
    except AdapterError as error:
        return Means(f"how often it may be restarted could not be read: {error.message}")
    except Exception as error:  # noqa: BLE001 (a plug-in fails in any way; the other nodes must be looked at)
        return Means(f"how often it may be restarted could not be read: {where(error)}")
    return Means(restarts_per_month=None if lever is None else lever.restarts_per_month)
