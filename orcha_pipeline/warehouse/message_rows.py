"""Messages about alerts as rows, each until its channel has taken it: what is due, what failed, what was sent."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from orcha_pipeline.warehouse.decisions import Connection, records
from orcha_pipeline.warehouse.facts import insert, naive

FAILING_ATTEMPTS = 5
"""A channel that failed so often in a row, over a quarter of an hour, does not fail by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow:
    """One message about one alert for one channel. It waits until `sent_at` or `given_up_at` is known.

    `occasion`: raised, worse, escalated or resolved. With `in_digest` it goes out with others, in one message; what
    went out together has the same `delivery_id`. `last_error` is in our own words, '' before the first failure.
    `held_since`: when its channel first failed while it was due.
    """

    message_id: str
    alert_id: str
    channel: str
    occasion: str
    severity: str
    title: str
    body: str
    queued_at: datetime
    due_at: datetime
    in_digest: bool = False
    attempts: int = 0
    last_error: str = ""
    sent_at: datetime | None = None
    delivery_id: str | None = None
    given_up_at: datetime | None = None
    held_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What a channel has not taken although it was tried: how many messages, how often the first, and why."""

    channel: str
    waiting: int
    attempts: int
    since: datetime
    error: str

    @property
    def is_lasting(self) -> bool:
        """Whether it fails for too long to be called a chance."""
        return self.attempts >= FAILING_ATTEMPTS

    def told(self) -> str:
        """In words."""
        plural = "s wait" if self.waiting != 1 else " waits"
        return f"{self.error}; {self.waiting} message{plural} since {self.since:%Y-%m-%d %H:%M} UTC"


def queue_messages(connection: Connection, messages: Sequence[MessageRow]) -> int:
    """Add messages. Returns how many."""
    return insert(connection, "alert_messages", [asdict(message) for message in messages])


def waiting_messages(connection: Connection) -> list[MessageRow]:
    """Those that are neither sent nor given up, in the order they were queued."""
    rows = records(
        connection,
        "SELECT * FROM alert_messages WHERE sent_at IS NULL AND given_up_at IS NULL ORDER BY queued_at, rowid",
    )
    return [MessageRow(**row) for row in rows]


def sent_since(connection: Connection, since: datetime) -> dict[str, list[tuple[datetime, str]]]:
    """Channel -> when each delivery went out at `since` or later, in order, with the gravest severity in it.

    The end of what was critical is not.
    """
    rows = records(
        connection,
        "SELECT channel, min(sent_at) AS first, CASE "
        "  WHEN bool_or(severity = 'critical' AND occasion <> 'resolved') THEN 'critical' "
        "  WHEN bool_or(severity <> 'info') THEN 'warning' ELSE 'info' END AS severity "
        "FROM alert_messages WHERE sent_at >= ? GROUP BY channel, delivery_id ORDER BY first",
        [naive(since)],
    )
    found: dict[str, list[tuple[datetime, str]]] = {}
    for row in rows:
        found.setdefault(row["channel"], []).append((row["first"], row["severity"]))
    return found


def mark_sent(connection: Connection, ids: Collection[str], *, delivery_id: str, at: datetime) -> None:
    """Note that these went out together."""
    connection.execute(
        "UPDATE alert_messages SET sent_at = ?, delivery_id = ? WHERE message_id IN (SELECT unnest(?))",
        [naive(at), delivery_id, list(ids)],
    )


def mark_failed(
    connection: Connection,
    ids: Collection[str],
    *,
    channel: str,
    error: str,
    at: datetime,
    again_at: datetime,
    held_before: datetime,
) -> None:
    """Note that these could not be sent `at`, and hold back all of their channel that is due until `again_at`.

    What the channel held up before `held_before` already is given up.
    """
    connection.execute(
        "UPDATE alert_messages SET attempts = attempts + 1, last_error = $error, due_at = $again_at, "
        "held_since = coalesce(held_since, $at) WHERE message_id IN (SELECT unnest($ids))",
        {"ids": list(ids), "error": error, "at": naive(at), "again_at": naive(again_at)},
    )
    waiting = "channel = $channel AND sent_at IS NULL AND given_up_at IS NULL"
    connection.execute(
        "UPDATE alert_messages SET due_at = $again_at, held_since = coalesce(held_since, $at) "  # noqa: S608 (our own)
        f"WHERE {waiting} AND due_at <= $at",
        {"channel": channel, "at": naive(at), "again_at": naive(again_at)},
    )
    connection.execute(
        f"UPDATE alert_messages SET given_up_at = $at WHERE {waiting} AND held_since < $held_before",  # noqa: S608
        {"channel": channel, "at": naive(at), "held_before": naive(held_before)},
    )


def drop_escalations(connection: Connection, alert_ids: Collection[str], *, at: datetime) -> int:
    """Give up what waits to tell that nobody has acknowledged these. Returns how many."""
    dropped = connection.execute(
        "UPDATE alert_messages SET given_up_at = ? WHERE occasion = 'escalated' "
        "AND sent_at IS NULL AND given_up_at IS NULL AND alert_id IN (SELECT unnest(?)) RETURNING message_id",
        [naive(at), list(alert_ids)],
    ).fetchall()
    return len(dropped)


def drop_channels_but(connection: Connection, channels: Collection[str], *, at: datetime) -> int:
    """Give up what waits for channels that are no longer configured. Returns how many."""
    dropped = connection.execute(
        "UPDATE alert_messages SET given_up_at = ?, last_error = 'the channel is no longer configured' "
        "WHERE sent_at IS NULL AND given_up_at IS NULL AND channel NOT IN (SELECT unnest(?)) RETURNING message_id",
        [naive(at), list(channels)],
    ).fetchall()
    return len(dropped)


def told_channels(connection: Connection, alert_ids: Collection[str]) -> dict[str, frozenset[str]]:
    """Alert -> the channels that have a message about it, sent or waiting."""
    rows = records(
        connection,
        "SELECT alert_id, list(DISTINCT channel) AS channels FROM alert_messages "
        "WHERE alert_id IN (SELECT unnest(?)) AND given_up_at IS NULL GROUP BY alert_id",
        [list(alert_ids)],
    )
    return {row["alert_id"]: frozenset(row["channels"]) for row in rows}


def backlogs(connection: Connection) -> dict[str, Backlog]:
    """Channel -> what it has not taken, of the channels that failed when they were last tried."""
    rows = records(
        connection,
        "SELECT channel, CAST(count(*) AS BIGINT) AS waiting, max(attempts) AS attempts, "
        "  min(queued_at) FILTER (WHERE attempts > 0) AS since, arg_max(last_error, attempts) AS error "
        "FROM alert_messages WHERE sent_at IS NULL AND given_up_at IS NULL GROUP BY channel HAVING max(attempts) > 0",
    )
    return {row["channel"]: Backlog(**row) for row in rows}
