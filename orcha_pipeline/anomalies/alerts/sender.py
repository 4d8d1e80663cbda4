"""Hands one message to Apprise, in a process of its own: `python -m orcha_pipeline.anomalies.alerts.sender`.

Whatever a service, a library or an answer does, it can be ended from outside. The address comes by standard input, for
other users can read a command line. What Apprise logs may repeat the address, so nothing of it gets out: the reason of
a failure is told in our own words, from the status codes in its log.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
"""Mail servers look long at what they take."""
MOST_PARTS = 5
"""What is too long for its service comes in so many at most: some take one in five seconds, some cost money."""
REST = "\n\n... the rest is told by `orcha alerts`."
TAKEN, REFUSED, UNUSABLE = "taken", "refused", "unusable"
_STATUS = re.compile(r"error=(\d{3})\b|\((?=[2345]\d\d, b['\"])(\d{3}),")
_REASONS = (
    (re.compile(r"certificate|SSL", re.IGNORECASE), "its certificate cannot be trusted, or the connection is no TLS"),
    (re.compile(r"Connection refused"), "the connection was refused"),
    (re.compile(r"Name or service not known|resolve|getaddrinfo", re.IGNORECASE), "its name is not known"),
    (re.compile(r"timed out|timeout", re.IGNORECASE), "it did not answer in time"),
    (re.compile(r"unreachable|No route", re.IGNORECASE), "there is no way to it"),
    (re.compile(r"AUTH\b|[Aa]uthenticat|[Ll]ogin"), "it does not take the login"),
    (re.compile(r"closed|reset|disconnect", re.IGNORECASE), "it broke the connection off"),
    (re.compile(r"Connection error|Socket Exception", re.IGNORECASE), "there was no connection"),
)


class _Lines(logging.Handler):
    """Keeps what is logged, in memory."""

    def __init__(self) -> None:
        super().__init__(level=logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def reason(lines: Sequence[str]) -> str:
    """Why a message was not taken, in our own words: nothing of the lines is repeated but a status of three digits."""
    text = "\n".join(lines)
    if found := _STATUS.search(text):
        return f"it answered {found[1] or found[2]}"
    return next((told for sign, told in _REASONS if sign.search(text)), "it did not take the message")


def send(url: str, title: str, body: str, severity: str, *, seconds: float) -> tuple[str, str]:
    """Send one message. Returns what came of it (TAKEN, REFUSED, UNUSABLE), and why."""
    import apprise

    lines = _Lines()
    logger = logging.getLogger("apprise")
    logger.handlers, logger.propagate = [lines], False
    logger.setLevel(logging.DEBUG)
    # No logo from elsewhere, and nothing kept on the disk.
    asset = apprise.AppriseAsset(
        app_id="Orcha", app_desc="Orcha", app_url="", image_url_mask="", image_url_logo="", service_timeout=seconds
    )
    service = apprise.Apprise(asset=asset)
    if not service.add(url):
        return UNUSABLE, "Apprise does not understand its address (see https://appriseit.com)"
    if sum(_targets(each) for each in service) > 1:  # where one failed, the others would get all of it again
        return UNUSABLE, "its address names several targets: give each a channel of its own"
    for each in service:
        if each.overflow_mode == apprise.OverflowMode.UPSTREAM:  # what is too long would be refused for good
            each.overflow_mode = apprise.OverflowMode.SPLIT
            body = _cut(body, MOST_PARTS * each.body_maxlen)
        # What was taken but not confirmed in time would be sent again.
        each.socket_connect_timeout = max(each.socket_connect_timeout or 0.0, CONNECT_SECONDS)
        each.socket_read_timeout = max(each.socket_read_timeout or 0.0, ANSWER_SECONDS)
    kind = {"info": "info", "warning": "warning", "critical": "failure"}.get(severity, "info")
    begun = time.monotonic()
    if service.notify(title=title, body=body, notify_type=kind, body_format="text"):
        return TAKEN, ""
    if time.monotonic() - begun >= seconds:
        return REFUSED, f"it has not taken the message after {seconds:.0f} s"
    return REFUSED, reason(lines.texts)


def _targets(service: Any) -> int:
    """How many deliveries this comes to where each is taken at once."""
    return len(service) // (service.retry + 1)


def _cut(body: str, most: int) -> str:
    """Not longer than `most` characters, cut between two lines where it is."""
    if len(body) <= most:
        return body
    kept = body[: most - len(REST)]
    return f"{kept[: kept.rfind(chr(10))].rstrip()}{REST}" if "\n" in kept else f"{kept}{REST}"


def main() -> None:
    """Read one message as JSON from standard input, send it, and write what came of it as JSON."""
    logging.disable(logging.NOTSET)
    logging.lastResort = None  # a library's warning must not end up on the terminal
    given = json.load(sys.stdin)
    try:
        outcome, why = send(given["url"], given["title"], given["body"], given["severity"], seconds=given["seconds"])
    except Exception as error:  # noqa: BLE001 (its text may hold the address: only its kind is told)
        outcome, why = REFUSED, f"Apprise failed with {type(error).__name__}"
    json.dump({"outcome": outcome, "why": why}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # threads of Apprise that hang are not waited for


if __name__ == "__main__":
    main()
