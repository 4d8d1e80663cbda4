"""What `orcha alerts ack`, `resolve` and `test` do."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from orcha_pipeline.anomalies.alerts.delivery import Outcome, name_of
from orcha_pipeline.anomalies.alerts.postman import Sends
from orcha_pipeline.anomalies.alerts.rounds import now_of
from orcha_pipeline.anomalies.alerts.wording import SHORT_ID, subject_of
from orcha_pipeline.errors import OrchaError
from orcha_pipeline.installation import Installation
from orcha_pipeline.settings import ChannelSettings
from orcha_pipeline.short_ids import one_begun
from orcha_pipeline.warehouse import alert_rows, freezes, message_rows
from orcha_pipeline.warehouse.alert_rows import AlertRow
from orcha_pipeline.warehouse.decisions import Connection

LISTED_FOR = timedelta(days=7)
"""How long alerts that are over are listed."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a test message through one channel, told of by name and kind."""

    channel: str
    outcome: Outcome


def listed(installation: Installation, *, every: bool) -> tuple[list[AlertRow], datetime]:
    """The open alerts, with `every` those too that were resolved in the last week, by time; and what time it is."""
    now = now_of(installation)
    with installation.warehouse.read() as connection:
        found = alert_rows.alerts_since(connection, now - LISTED_FOR if every else now)
    return [alert for alert in found if every or alert.is_open], now


def acknowledge(installation: Installation, beginning: str, *, who: str) -> str:
    """Keep an alert quiet until it is over or becomes worse; tells so. Raises `OrchaError` for one that is not open."""
    now = _now_of(installation)
    with installation.warehouse.write() as connection:
        alert = _open_one(connection, beginning)
        name = _name(alert)
        if alert.acknowledged_at is not None:
            since = f"{alert.acknowledged_at:%Y-%m-%d %H:%M} UTC"
            return f"{name} is acknowledged since {since} by {alert.acknowledged_by}."
        alert_rows.write_alerts(connection, [replace(alert, acknowledged_at=now, acknowledged_by=who)])
        message_rows.drop_escalations(connection, [alert.alert_id], at=now)
    return f"{name} is acknowledged: it stays open and is not told again, unless it becomes worse."


def resolve(installation: Installation, beginning: str, *, who: str) -> str:
    """End an alert by hand; tells what follows.

    Raises `OrchaError` for one that is not open, or that nobody would raise again although its cause stands.
    """
    now = _now_of(installation)
    with installation.warehouse.write() as connection:
        alert = _open_one(connection, beginning)
        if alert.kind == freezes.ROLLBACK_FAILED and alert.subject in freezes.frozen(connection):
            raise OrchaError(
                f"{_name(alert)} stands for as long as the node is frozen, and is not raised a second time. Set the "
                f"node as it says, then `orcha unfreeze {alert.subject}`, which ends it; "
                f"`orcha alerts ack {alert.alert_id[:SHORT_ID]}` keeps it quiet meanwhile."
            )
        alert_rows.write_alerts(connection, [replace(alert, resolved_at=now, resolved_why=f"resolved by {who}")])
    again = f"`orcha alerts ack {alert.alert_id[:SHORT_ID]}` would have kept it quiet"
    return f"{_name(alert)} is resolved. If its cause still stands, it is raised anew: {again}."


def try_channels(installation: Installation, courier: Sends, name: str | None) -> list[Trial]:
    """Send a real message through one channel, or each of them, now. Raises `OrchaError` where there is none."""
    channels = installation.settings.alerts.channels
    if not channels:
        raise OrchaError("No channel is configured: add [[alerts.channels]] to orcha.toml (docs/alerts.md).")
    chosen = [channel for channel in channels if name in (None, channel.name)]
    if not chosen:
        known = ", ".join(channel.name for channel in channels)
        raise OrchaError(f"There is no channel {name!r}. Configured are: {known}.")
    simulated = ", simulated" if installation.simulated else ""

    def trial(channel: ChannelSettings) -> Trial:
        title = f"[Orcha{simulated}] test of {channel.name}"
        told = "what nobody acknowledged in time" if channel.escalation else "alerts"
        body = f"This is a test. Through this channel {told} will come, of severity {channel.min_severity} and graver."
        return Trial(name_of(channel), courier.send(channel, title=title, body=body, severity=channel.min_severity))

    with ThreadPoolExecutor(max_workers=len(chosen)) as pool:
        return list(pool.map(trial, chosen))


def _now_of(installation: Installation) -> datetime:
    """By the installation's clock, once it is sure that there is a warehouse of this version to write to."""
    with installation.warehouse.read() as connection:
        alert_rows.open_alerts(connection)
    return now_of(installation)


def _open_one(connection: Connection, beginning: str) -> AlertRow:
    """The open alert whose id begins so. Raises `OrchaError` where there is none, or more than one."""
    alert = one_begun(
        beginning,
        lambda start, limit: alert_rows.alerts_beginning_with(connection, start, limit=limit),
        what="an alert",
        listed_by="`orcha alerts` lists the open ones.",
        id_of=lambda row: row.alert_id,
        told=lambda row: f"{row.kind} {row.subject}",
    )
    if alert.resolved_at is not None:
        why = f": {alert.resolved_why}" if alert.resolved_why else ""
        raise OrchaError(f"{_name(alert)} was resolved at {alert.resolved_at:%Y-%m-%d %H:%M} UTC{why}.")
    return alert


def _name(alert: AlertRow) -> str:
    return f"Alert {alert.alert_id[:SHORT_ID]}, {alert.kind} of {subject_of(alert)},"
