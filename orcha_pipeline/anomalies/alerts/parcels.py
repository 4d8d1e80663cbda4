"""What goes out to a channel now: single messages, digests, and one message for all that is beyond its rate. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orcha_pipeline.anomalies.anomaly import Severity
from orcha_pipeline.warehouse.message_rows import MessageRow

RATE_WINDOW = timedelta(hours=1)
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
    Critical messages are counted by themselves, so that no flood of others holds them back.
    """
    due = [message for message in waiting if message.due_at <= now]
    single = [message for message in due if not message.in_digest]
    gathered = [message for message in waiting if message.in_digest] if len(single) < len(due) else []
    recent = [severity for at, severity in sent if at > now - RATE_WINDOW]
    grave = [message for message in single if message.severity == Severity.CRITICAL]
    other = [message for message in single if message.severity != Severity.CRITICAL]
    counted = recent.count(Severity.CRITICAL.value)
    found = [
        *_within(grave, (), max(0, messages_per_hour - counted)),
        *_within(other, gathered, max(0, messages_per_hour - (len(recent) - counted))),
    ]
    return sorted(found, key=lambda parcel: parcel.messages[0].queued_at)


def _within(single: Sequence[MessageRow], gathered: Sequence[MessageRow], allowed: int) -> list[Parcel]:
    wanted = len(single) + bool(gathered)
    if wanted <= allowed:
        alone, together = list(single), list(gathered)
    elif allowed:
        alone, together = list(single[: allowed - 1]), [*single[allowed - 1 :], *gathered]
    else:
        return []
    digest = [Parcel(tuple(together), is_digest=True)] if together else []
    return [*(Parcel((message,), is_digest=False) for message in alone), *digest]
