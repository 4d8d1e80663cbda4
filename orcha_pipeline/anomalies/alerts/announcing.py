"""Which messages are to be made about alerts, for which channels and for when. Pure values.

What has been told of an alert stands in its row, so that it does not matter who raised or ended it, nor who looks
first: the cycle or the postman.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from orcha_pipeline.anomalies.alerts.causes import CHANNEL_FAILING
from orcha_pipeline.anomalies.alerts.lifecycle import escalations
from orcha_pipeline.anomalies.alerts.quiet_hours import Due, due
from orcha_pipeline.anomalies.alerts.wording import Occasion, body_of, title_of
from orcha_pipeline.anomalies.anomaly import Severity
from orcha_pipeline.settings import AlertSettings, ChannelSettings
from orcha_pipeline.warehouse.alert_rows import AlertRow
from orcha_pipeline.warehouse.message_rows import MessageRow


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about an alert that is to be told."""

    occasion: Occasion
    alert: AlertRow


@dataclass(frozen=True, slots=True)
class Announcement:
    """The alerts whose rows change by what is told of them, and the messages for the channels."""

    alerts: tuple[AlertRow, ...]
    messages: tuple[MessageRow, ...]


def notices(alerts: Iterable[AlertRow], *, now: datetime, settings: AlertSettings) -> list[Notice]:
    """What is to be told. Alerts that another stands for are quiet, and so are acknowledged ones, until they end."""
    alerts = [alert for alert in alerts if alert.group_id is None or not alert.is_open]
    found = [Notice(occasion, alert) for alert in alerts if (occasion := _occasion(alert)) is not None]
    news = {notice.alert.alert_id for notice in found}
    late = escalations(alerts, now=now, after=settings.escalate_after)
    return found + [Notice(Occasion.ESCALATED, t.alert) for t in late if t.alert.alert_id not in news]


def _occasion(alert: AlertRow) -> Occasion | None:
    if not alert.is_open:
        told = alert.announced_at is not None and alert.end_announced_at is None
        return Occasion.RESOLVED if told else None
    if alert.acknowledged_at is not None:
        return None
    if alert.announced_at is None or alert.announced_severity is None:
        return Occasion.RAISED
    worse = Severity(alert.severity).rank > Severity(alert.announced_severity).rank
    return Occasion.WORSE if worse else None


def announce(
    alerts: Iterable[AlertRow],
    *,
    now: datetime,
    settings: AlertSettings,
    told_channels: Mapping[str, Collection[str]],
    simulated: bool,
    new_id: Callable[[], str],
) -> Announcement:
    """Messages about all that is new, and the alerts marked accordingly.

    `told_channels`: alert -> channels that have a message about it; its end is told to these.
    """
    rows: list[AlertRow] = []
    messages: list[MessageRow] = []
    for notice in notices(alerts, now=now, settings=settings):
        alert = notice.alert
        when = due(Severity(alert.severity), now, settings)
        rows.append(_marked(notice, now, when))
        messages += [
            MessageRow(
                message_id=new_id(),
                alert_id=alert.alert_id,
                channel=channel.name,
                occasion=notice.occasion.value,
                severity=alert.severity,
                title=title_of(alert, notice.occasion, simulated=simulated),
                body=body_of(alert, notice.occasion),
                queued_at=now,
                due_at=when.at,
                in_digest=when.in_digest,
            )
            for channel in _channels(notice, settings, told_channels.get(alert.alert_id, ()))
        ]
    return Announcement(tuple(rows), tuple(messages))


def _marked(notice: Notice, now: datetime, when: Due) -> AlertRow:
    if notice.occasion is Occasion.RESOLVED:
        return replace(notice.alert, end_announced_at=now)
    if notice.occasion is Occasion.ESCALATED:  # its row has that already
        return notice.alert
    # Until it is told nobody can acknowledge it: what is held back is not late meanwhile.
    return replace(notice.alert, announced_at=when.at, announced_severity=notice.alert.severity)


def _channels(notice: Notice, settings: AlertSettings, told: Collection[str]) -> Sequence[ChannelSettings]:
    rank = Severity(notice.alert.severity).rank
    if notice.occasion is Occasion.RESOLVED:
        # That nothing more is the matter is no news where the matter was none.
        return [each for each in settings.channels if each.name in told and notice.alert.severity != Severity.INFO]
    able = [
        each
        for each in settings.channels
        if rank >= Severity(each.min_severity).rank
        and rank >= Severity(settings.min_severity).rank
        # A channel cannot tell that it fails.
        and (notice.alert.kind, notice.alert.subject) != (CHANNEL_FAILING.id, each.name)
    ]
    usual = [each for each in able if not each.escalation]
    if notice.occasion is Occasion.ESCALATED:
        return [each for each in able if each.escalation] or usual
    return usual
