"""Sends what is due, beside the cycles: a thread that looks, and one a channel that sends.

What is to be sent, how often it was tried and when it is due stands in the warehouse: a restart loses none of it. A
message is marked as sent once its channel has taken it. Where Orcha is killed between the two it is sent once more.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol, Self
from uuid import uuid4

from orcha_pipeline.anomalies.alerts.causes import CHANNEL_FAILING
from orcha_pipeline.anomalies.alerts.delivery import Outcome, name_of
from orcha_pipeline.anomalies.alerts.missing_cycles import MissingCycles
from orcha_pipeline.anomalies.alerts.parcels import LONGEST_RETRY, RATE_WINDOW, Parcel, parcels
from orcha_pipeline.anomalies.alerts.rounds import is_news, now_of, tell
from orcha_pipeline.anomalies.alerts.wording import digest_of
from orcha_pipeline.errors import OrchaError, where
from orcha_pipeline.installation import Installation
from orcha_pipeline.settings import AlertSettings, ChannelSettings
from orcha_pipeline.warehouse import alert_rows, message_rows
from orcha_pipeline.warehouse.alert_rows import AlertRow
from orcha_pipeline.warehouse.decisions import Connection
from orcha_pipeline.warehouse.message_rows import FAILING_ATTEMPTS, MessageRow

_log = logging.getLogger(__name__)
LOOK_SECONDS = 10.0
FIRST_RETRY = timedelta(seconds=30)
GIVE_UP_AFTER = timedelta(hours=24)
"""What a channel did not take for so long is no news any more."""


class Sends(Protocol):
    """What sends a message through a channel: see `delivery.Courier`."""

    def send(self, channel: ChannelSettings, *, title: str, body: str, severity: str) -> Outcome:
        """Send it, and wait for what comes of it."""
        ...

    def close(self) -> None:
        """End what is being sent."""
        ...


@dataclass(frozen=True, slots=True)
class _Load:
    """What goes out through one channel now, in order: title and body of each."""

    channel: ChannelSettings
    parcels: Sequence[tuple[Parcel, str, str]]


class Postman:
    """Looks for what is due until closed. A channel that hangs or fails holds up neither a look nor another channel.

    `read_settings` reads the settings of alerts as they are by now, which the cycles go by; without it they stay as
    they are in `installation`.
    """

    def __init__(
        self,
        installation: Installation,
        courier: Sends,
        *,
        read_settings: Callable[[], AlertSettings] | None = None,
        look_seconds: float = LOOK_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._installation, self._courier, self._look_seconds = installation, courier, look_seconds
        self._read_settings = read_settings
        self._wrong_settings = ""
        self._missing = MissingCycles(installation, monotonic=monotonic)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="postman", daemon=True)
        self._lock = threading.Lock()
        # Two transactions of one process that change the same rows would fail.
        self._writing = threading.Lock()
        self._busy: dict[str, threading.Thread] = {}
        # What a channel took and the warehouse does not know of yet: it must not be sent again.
        self._unmarked: dict[str, tuple[str, datetime]] = {}
        self._said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def finish(self, *, wait: float) -> None:
        """Send what is due now, and wait at most `wait` seconds for it."""
        deadline = time.monotonic() + wait
        self._look_undisturbed()
        with self._lock:
            busy = list(self._busy.values())
        for thread in busy:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def close(self, *, wait: float = 5.0) -> None:
        """End all sending; what was under way is sent again the next time."""
        self._closed.set()
        self._courier.close()
        deadline = time.monotonic() + wait
        with self._lock:
            busy = list(self._busy.values())
        for thread in (self._thread, *busy):
            if thread.is_alive():
                thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def _watch(self) -> None:
        while not self._closed.is_set():
            self._look_undisturbed()
            self._closed.wait(self._look_seconds)

    def _look_undisturbed(self) -> None:
        try:
            self.look()
        except OrchaError as problem:
            self._say(str(problem))
        except Exception as problem:  # noqa: BLE001 (whatever it is, the next look may do better)
            self._say(where(problem))

    def _say(self, problem: str) -> None:
        """Log a trouble once, until something could be written again."""
        if problem != self._said:
            _log.warning("alerts cannot be sent for now: %s", problem)
        self._said = problem

    @property
    def _channels(self) -> Mapping[str, ChannelSettings]:
        return {channel.name: channel for channel in self._installation.settings.alerts.channels}

    def look(self) -> None:
        """Queue what is new, and have each channel that is free send what is due."""
        self._follow_settings()
        now = now_of(self._installation)
        warehouse = self._installation.warehouse
        with warehouse.read() as connection:
            to_do = self._to_do(connection, now)
        if to_do:
            with self._writing, warehouse.write() as connection:
                marked = self._mark_sent(connection)
                self._forget_channels(connection, now)
                missing = self._missing.look(connection, now)
                tell(connection, self._installation, now, changed={missing.alert_id: missing} if missing else None)
            self._forget(marked)
            self._said = ""
        with warehouse.read() as connection:
            loads = self._loads(connection, now)
        for load in loads:
            self._have_sent(load)

    def _to_do(self, connection: Connection, now: datetime) -> bool:
        """Whether anything is to be written: most looks find nothing, and leave the file to others."""
        missing = self._missing.look(connection, now) is not None
        waiting = message_rows.waiting_messages(connection)
        orphans = not self._wrong_settings and any(message.channel not in self._channels for message in waiting)
        alerts = alert_rows.alerts_to_announce(connection)
        news = is_news(alerts, self._installation, now) or bool(self._failing_no_more(alerts))
        return missing or orphans or news or bool(self._unmarked)

    def _follow_settings(self) -> None:
        """Take over the settings of alerts as they are by now. What cannot be used leaves them as they were."""
        if self._read_settings is None:
            return
        try:
            alerts, wrong = self._read_settings(), ""
        except OrchaError as problem:
            alerts, wrong = self._installation.settings.alerts, str(problem)
        if wrong and wrong != self._wrong_settings:
            _log.warning("alerts are sent by the settings as they were: %s", wrong)
        self._wrong_settings = wrong
        if alerts != self._installation.settings.alerts:
            settings = self._installation.settings.model_copy(update={"alerts": alerts})
            self._installation = replace(self._installation, settings=settings)

    def _forget_channels(self, connection: Connection, now: datetime) -> None:
        """Give up what waits for channels that are no longer configured, and end what was told of them."""
        if self._wrong_settings:
            return
        message_rows.drop_channels_but(connection, list(self._channels), at=now)
        for alert in self._failing_no_more(alert_rows.open_alerts(connection)):
            told = {"kind": alert.kind, "subject": alert.subject}
            alert_rows.resolve_alert(connection, **told, at=now, why="the channel is no longer configured")

    def _failing_no_more(self, alerts: Sequence[AlertRow]) -> list[AlertRow]:
        """The open alerts of these that tell of a channel which is no longer configured."""
        failing = [alert for alert in alerts if alert.kind == CHANNEL_FAILING.id and alert.is_open]
        return [alert for alert in failing if not self._wrong_settings and alert.subject not in self._channels]

    # --- sending

    def _loads(self, connection: Connection, now: datetime) -> list[_Load]:
        with self._lock:
            kept = set(self._unmarked)
            free = [channel for name, channel in self._channels.items() if name not in self._busy]
        waiting = [each for each in message_rows.waiting_messages(connection) if each.message_id not in kept]
        sent = message_rows.sent_since(connection, now - RATE_WINDOW)
        loads: list[_Load] = []
        for channel in free:
            mine = [message for message in waiting if message.channel == channel.name]
            due = parcels(mine, sent=sent.get(channel.name, ()), now=now, messages_per_hour=channel.messages_per_hour)
            if due:
                loads.append(_Load(channel, [(parcel, *self._written(connection, parcel)) for parcel in due]))
        return loads

    def _written(self, connection: Connection, parcel: Parcel) -> tuple[str, str]:
        if not parcel.is_digest:
            (message,) = parcel.messages
            return message.title, message.body
        alerts = alert_rows.alerts_by_id(connection, {message.alert_id for message in parcel.messages})
        return digest_of(parcel.messages, alerts, simulated=self._installation.simulated)

    def _have_sent(self, load: _Load) -> None:
        name = load.channel.name
        thread = threading.Thread(target=self._send_all, args=(load,), name=f"postman to {name}", daemon=True)
        with self._lock:
            if self._closed.is_set() or name in self._busy:
                return
            self._busy[name] = thread
        thread.start()

    def _send_all(self, load: _Load) -> None:
        """Send what is due through one channel; the first failure holds back the rest of it."""
        try:
            for parcel, title, body in load.parcels:
                outcome = self._courier.send(load.channel, title=title, body=body, severity=parcel.severity.value)
                if self._closed.is_set() and not outcome.taken:
                    return
                self._note(load.channel, parcel, outcome)
                if not outcome.taken:
                    return
        except OrchaError as problem:
            self._say(str(problem))
        except Exception as problem:  # noqa: BLE001 (a thread that ends without a word would end a channel)
            self._say(where(problem))
        finally:
            with self._lock:
                del self._busy[load.channel.name]

    def _note(self, channel: ChannelSettings, parcel: Parcel, outcome: Outcome) -> None:
        now = now_of(self._installation)
        if outcome.taken:
            with self._lock:
                self._unmarked |= dict.fromkeys(parcel.ids, (str(uuid4()), now))
        marked: Collection[str] = ()
        with self._writing, self._installation.warehouse.write() as connection:
            if outcome.taken:
                marked = self._mark_sent(connection)
                told = {"kind": CHANNEL_FAILING.id, "subject": channel.name}
                alert_rows.resolve_alert(connection, **told, at=now, why="it takes messages again")
            else:
                self._mark_failed(connection, channel, parcel.messages, outcome, now)
        self._forget(marked)

    def _mark_sent(self, connection: Connection) -> Collection[str]:
        """Note what was taken. Returns which: it is forgotten once the warehouse has kept it."""
        with self._lock:
            unmarked = dict(self._unmarked)
        for delivery_id, at in dict.fromkeys(unmarked.values()):
            ids = [each for each, delivery in unmarked.items() if delivery == (delivery_id, at)]
            message_rows.mark_sent(connection, ids, delivery_id=delivery_id, at=at)
        return unmarked.keys()

    def _forget(self, marked: Collection[str]) -> None:
        with self._lock:
            for message_id in marked:
                self._unmarked.pop(message_id, None)

    def _mark_failed(
        self,
        connection: Connection,
        channel: ChannelSettings,
        messages: Sequence[MessageRow],
        outcome: Outcome,
        now: datetime,
    ) -> None:
        attempts = 1 + max(message.attempts for message in messages)
        message_rows.mark_failed(
            connection,
            [message.message_id for message in messages],
            channel=channel.name,
            error=outcome.why,
            at=now,
            again_at=now + retry_after(attempts),
            held_before=now - GIVE_UP_AFTER,
        )
        if attempts >= FAILING_ATTEMPTS or outcome.hopeless:
            alert_rows.raise_alert(
                connection,
                at=now,
                kind=CHANNEL_FAILING.id,
                severity=CHANNEL_FAILING.severity.value,
                scope=CHANNEL_FAILING.scope.value,
                subject=channel.name,
                message=f"Messages about alerts do not get through {name_of(channel)}: {outcome.why}.",
                evidence=_evidence(attempts),
            )


def retry_after(attempts: int) -> timedelta:
    """How long to wait after so many failed attempts: 30 s, doubled each time, at most half an hour."""
    with suppress(OverflowError):
        return min(LONGEST_RETRY, FIRST_RETRY * 2 ** (min(attempts, 20) - 1))
    return LONGEST_RETRY


def _evidence(attempts: int) -> Mapping[str, object]:
    return {"remedy": CHANNEL_FAILING.remedy, "docs": CHANNEL_FAILING.anchor, "attempts": attempts}
