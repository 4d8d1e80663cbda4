"""Messages go through Apprise to a real mail server and a real webhook; what fails is told without the address."""

import json
import logging
import threading
import time

import pytest
import requests

from orcha_pipeline.anomalies.alerts.delivery import Courier, Outcome, name_of
from orcha_pipeline.anomalies.alerts.sender import MOST_PARTS, reason, send
from orcha_pipeline.settings import ChannelSettings
from orcha_pipeline_tests.anomalies.alerts.servers import SECRET
from orcha_pipeline_tests.ports import free_port

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning"),  # Apprise's own
]
TEXT = {
    "title": "[Orcha] critical: of a",
    "body": "It does not answer.\n\nLook <b>at</b> *it*.",
    "severity": "critical",
}


def channel(url=None, **changes):
    return ChannelSettings.model_validate({"name": "mine", "url": url} | changes)


def test_a_mail_comes_as_plain_text(mailbox):
    assert Courier().send(channel(mailbox.url), **TEXT) == Outcome(taken=True)
    (mail,) = mailbox.mails
    assert (mail["Subject"], mail["To"], mail.get_content_type()) == (
        TEXT["title"],
        "operator@example.org",
        "text/plain",
    )
    assert mailbox.text().replace("\r\n", "\n").strip() == TEXT["body"]


def test_a_webhook_gets_the_words_as_they_are(hook):
    assert Courier().send(channel(hook.url), **TEXT).taken
    (post,) = hook.posts
    assert (post["title"], post["message"], post["type"]) == (TEXT["title"], TEXT["body"], "failure")


# --- services that take little at a time

DISCORD = "discord://123456789012345678/abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz0123456789"
TELEGRAM = "tgram://123456789:abcdefg_hijklmnop/12315544"


@pytest.fixture
def limits(monkeypatch):
    """Discord and Telegram: what is too long is refused. What they took, in order."""
    taken = []

    def post(url, **given):
        content = json.loads(given["data"]) if "data" in given else given["json"]
        text = content.get("content") or content["text"]
        answer = requests.Response()
        answer.status_code, answer._content = 400, b'{"ok": false, "description": "too long"}'
        if len(text) <= (2000 if "discord" in url else 4096):
            taken.append(text)
            answer.status_code, answer._content = 200, b'{"ok": true}'
        return answer

    monkeypatch.setattr(requests, "post", post)
    for name, value in (("handlers", []), ("propagate", True), ("level", 0)):
        monkeypatch.setattr(logging.getLogger("apprise"), name, value)  # which `send` makes its own
    return taken


@pytest.mark.parametrize("url", [DISCORD, TELEGRAM])
def test_a_message_that_is_too_long_for_its_service_comes_in_parts(limits, url):
    lines = [f"[alert-{number:02}] warning: low-gas of streamr-{number:02}. {'x' * 200}" for number in range(30)]
    assert send(url, "[Orcha] digest: 30 alerts", "\n\n".join(lines), "warning", seconds=20.0) == ("taken", "")
    assert 1 < len(limits) <= MOST_PARTS
    assert all(line[:30] in "".join(limits) for line in lines), "nothing of it is lost"


def test_what_would_come_in_too_many_parts_is_cut_and_says_so(limits):
    body = "\n\n".join(f"[alert-{number:02}] {'x' * 590}" for number in range(60))
    assert send(DISCORD, "[Orcha] digest: 60 alerts", body, "warning", seconds=20.0)[0] == "taken"
    assert MOST_PARTS <= len(limits) <= MOST_PARTS + 1
    assert limits[-1].endswith("the rest is told by `orcha alerts`.")


@pytest.mark.parametrize(
    "url",
    [
        f"{TELEGRAM}/999999",
        f"json://127.0.0.1:9/{SECRET}, json://127.0.0.1:9/b",
        f"mailto://{SECRET}:pass@example.org?to=a@example.org,b@example.org",
        "ntfy://127.0.0.1/one/two",
    ],
)
def test_an_address_of_several_targets_is_refused_before_anything_is_sent(limits, url):
    outcome, why = send(url, "a title", "a body", "warning", seconds=20.0)
    assert (outcome, why) == ("unusable", "its address names several targets: give each a channel of its own")
    assert limits == []


def test_a_target_that_is_tried_more_than_once_is_one(limits):
    assert send(f"{DISCORD}?retry=2", "a title", "a body", "warning", seconds=20.0)[0] == "taken"


@pytest.mark.parametrize("status", [401, 404, 500])
def test_what_a_service_answers_is_told_by_its_status_alone(hook, status):
    hook.status = status
    assert Courier().send(channel(hook.url), **TEXT) == Outcome(taken=False, why=f"it answered {status}")


def test_a_mail_that_is_refused_is_told_by_its_status_alone(mailbox):
    mailbox.refuses = f"550 no {SECRET}"
    assert Courier().send(channel(mailbox.url), **TEXT) == Outcome(taken=False, why="it answered 550")


def test_a_service_that_is_away_is_told_so():
    found = Courier().send(channel(f"json://127.0.0.1:{free_port()}/{SECRET}"), **TEXT)
    assert found == Outcome(taken=False, why="the connection was refused")


def test_a_service_that_hangs_is_given_up_in_time(hook):
    hook.held = threading.Event()
    found = Courier(seconds=1.0).send(channel(hook.url), **TEXT)
    assert found == Outcome(taken=False, why="it has not taken the message after 1 s")


@pytest.mark.parametrize("url", [f"nothing://{SECRET}", "json://", f"tgram://{SECRET}"])
def test_an_address_that_apprise_does_not_understand_is_told_so(url):
    found = Courier().send(channel(url), **TEXT)
    assert (found.taken, found.hopeless) == (False, True)
    assert "does not understand its address" in found.why
    assert SECRET not in found.why


def test_an_address_may_stand_in_a_variable(hook):
    mine = channel(url_env="MY_CHANNEL")
    assert Courier(environ={"MY_CHANNEL": hook.url}).send(mine, **TEXT).taken
    assert name_of(mine, {"MY_CHANNEL": hook.url}) == "mine (json)"
    found = Courier(environ={}).send(mine, **TEXT)
    assert found == Outcome(taken=False, why="the environment variable MY_CHANNEL is not set", hopeless=True)
    assert name_of(mine, {}) == "mine"


def test_a_channel_is_told_of_by_its_name_and_kind(mailbox):
    assert name_of(channel(mailbox.url)) == "mine (mailto)"
    assert SECRET not in repr(channel(mailbox.url))


def test_closing_ends_what_is_being_sent(hook):
    hook.held = threading.Event()
    courier, found = Courier(), []
    thread = threading.Thread(target=lambda: found.append(courier.send(channel(hook.url), **TEXT)))
    thread.start()
    deadline = time.monotonic() + 60
    while not hook.asked and time.monotonic() < deadline:
        time.sleep(0.05)
    assert hook.asked
    courier.close()
    thread.join(20)
    assert not thread.is_alive()
    assert found == [Outcome(taken=False, why="the process that sends ended without a word")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Failed to send JSON POST notification: Unauthorized, error=401.", "it answered 401"),
        ("Socket Exception: (535, b'5.7.8 no s3cr3t')", "it answered 535"),
        (
            "Max retries exceeded with url: /s3cr3t (Caused by ConnectTimeoutError(timed out))",
            "it did not answer in time",
        ),
        ("hello s3cr3t", "it did not take the message"),
    ],
)
def test_of_what_apprise_logs_a_status_is_told_and_no_word(line, told):
    assert reason([line]) == told
