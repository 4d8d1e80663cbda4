"""What goes out to a channel now: single messages, digests, and one message for all that is beyond its rate. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orcha_pipeline.anomalies.alerts.wording import Occasion
from orcha_pipeline.anomalies.anomaly import Severity
from orcha_pipeline.warehouse.message_rows import MessageRow

RATE_WINDOW = timedelta(hours=1)
LONGEST_RETRY = timedelta(minutes=30)
RESOLVED = Occasion.RESOLVED.value
Delivery = tuple[datetime, str]
"""When something went out, and its gravest severity."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What goes out in one message."""

    messages: tuple[MessageRow, ...]
    is_digest: bool

    @property
    def ids(self) -> tuple[str, ...]:
        """Of its messages."""
        return tuple(message.message_id for message in self.messages)

    @property
    def severity(self) -> Severity:
        """The gravest in it."""
        return max((Severity(message.severity) for message in self.messages), key=lambda severity: severity.rank)


def parcels(
    waiting: Sequence[MessageRow], *, sent: Sequence[Delivery], now: datetime, messages_per_hour: int
) -> list[Parcel]:
    """What of a channel's messages goes out now, in order.

    Single messages go out by themselves. Once a digest is due, all that wait for one go out in it. What is beyond
    `messages_per_hour` goes out in one digest with the last message that is left, or waits until the hour allows it.
    Critical messages are counted by themselves, so that no flood of others holds them back; the end of what was
    critical is one of the others. While what failed waits to be tried again, all waits behind it: no end overtakes its
    beginning.
    """
    if any(_rests(message, now) for message in waiting):
        return []
    due = [message for message in waiting if _is_due(message, now)]
    single = [message for message in due if not message.in_digest]
    gathered = [message for message in waiting if message.in_digest] if len(single) < len(due) else []
    recent = [severity for at, severity in sent if now - RATE_WINDOW < at <= now]
    # All that is to be told of an alert is of one kind: it goes out in order.
    begun = {each.alert_id for each in single if each.severity == Severity.CRITICAL and each.occasion != RESOLVED}
    grave = [message for message in single if message.alert_id in begun]
    other = [message for message in single if message.alert_id not in begun]
    counted = recent.count(Severity.CRITICAL.value)
    found = [
        *_within(grave, (), max(0, messages_per_hour - counted)),
        *_within(other, gathered, max(0, messages_per_hour - (len(recent) - counted))),
    ]
    return sorted(found, key=lambda parcel: parcel.messages[0].queued_at)


def _queued_at(message: MessageRow) -> datetime:
    return message.queued_at


def _rests(message: MessageRow, now: datetime) -> bool:
    """Whether it failed and is not to be tried again yet."""
    return message.attempts > 0 and not _is_due(message, now)


def _is_due(message: MessageRow, now: datetime) -> bool:
    """What a clock that was ahead has put off is due as well."""
    if message.attempts:
        return not now < message.due_at <= now + LONGEST_RETRY
    return message.due_at <= now or message.queued_at > now + RATE_WINDOW


def _within(single: Sequence[MessageRow], gathered: Sequence[MessageRow], allowed: int) -> list[Parcel]:
    wanted = len(single) + bool(gathered)
    if wanted <= allowed:
        alone, together = list(single), list(gathered)
    elif allowed:
        alone, together = list(single[: allowed - 1]), sorted([*single[allowed - 1 :], *gathered], key=_queued_at)
    else:
        return []
    digest = [Parcel(tuple(together), is_digest=True)] if together else []
    return [*(Parcel((message,), is_digest=False) for message in alone), *digest]
