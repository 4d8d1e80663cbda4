"""Sending a message through a channel. A channel is told of by its name and kind: its address holds a secret."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from pydantic import SecretStr

from orcha_pipeline.anomalies.alerts.sender import TAKEN, UNUSABLE
from orcha_pipeline.settings import ChannelSettings

SEND_SECONDS = 40.0
"""A service that has not taken a message by then is given up, and tried again later."""
START_SECONDS = 20.0
"""For the process that sends to come up, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of sending one message: whether the channel took it, else why not, without any secret."""

    taken: bool
    why: str = ""
    hopeless: bool = False
    """Trying again changes nothing before the settings are changed."""


def address_of(channel: ChannelSettings, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """Its address: from the variable that `url_env` names, else `url`; None where the variable is not set."""
    if channel.url_env is None:
        return channel.url
    found = (os.environ if environ is None else environ).get(channel.url_env, "")
    return SecretStr(found) if found else None


def name_of(channel: ChannelSettings, environ: Mapping[str, str] | None = None) -> str:
    """The channel as it is told of: its name, and the service its address names."""
    address = address_of(channel, environ)
    kind = None if address is None else re.match(r"([A-Za-z0-9+-]{2,24})://", address.get_secret_value())
    return f"{channel.name} ({kind[1].lower()})" if kind else channel.name


class Courier:
    """Sends messages, each in a process of its own that is ended when it takes too long. Any thread may send."""

    def __init__(self, *, seconds: float = SEND_SECONDS, environ: Mapping[str, str] | None = None) -> None:
        self._seconds, self._environ = seconds, environ
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def send(self, channel: ChannelSettings, *, title: str, body: str, severity: str) -> Outcome:
        """Send one message and wait for what comes of it, at most `seconds` and what the process takes to start."""
        address = address_of(channel, self._environ)
        if address is None:
            return Outcome(taken=False, why=f"the environment variable {channel.url_env} is not set", hopeless=True)
        message = {"title": title, "body": body, "severity": severity, "seconds": self._seconds}
        return self._run(json.dumps({"url": address.get_secret_value(), **message}).encode())

    def _run(self, given: bytes) -> Outcome:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "orcha_pipeline.anomalies.alerts.sender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with self._lock:
            if not self._closed:
                self._running.add(process)
            else:
                _end(process)
        try:
            out, _ = process.communicate(given, timeout=self._seconds + START_SECONDS)
        except subprocess.TimeoutExpired:
            _end(process)
            process.communicate()
            return Outcome(taken=False, why=f"it has not taken the message after {self._seconds:.0f} s")
        finally:
            with self._lock:
                self._running.discard(process)
        try:
            told = json.loads(out)
        except ValueError:
            return Outcome(taken=False, why="the process that sends ended without a word")
        return Outcome(taken=told["outcome"] == TAKEN, why=told["why"], hopeless=told["outcome"] == UNUSABLE)

    def close(self) -> None:
        """End what is being sent: it is sent again the next time."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
