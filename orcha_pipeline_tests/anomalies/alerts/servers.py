"""A real mail server and a real webhook on loopback, which take messages, refuse them, are slow or hang."""

import email
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller

from orcha_pipeline_tests.ports import free_port

SECRET = "s3cr3t-t0ken-of-a-channel"


class Mailbox:
    """What came by SMTP. `refuses` is what it answers instead of taking a mail, such as `550 no`."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.refuses = ""
        self.port = free_port()

    @property
    def url(self) -> str:
        """The address for Apprise: the user's name is a secret, as a token would be."""
        to = "from=orcha@example.org&to=operator@example.org"
        return f"mailto://example.org:{self.port}?smtp=127.0.0.1&{to}&mode=insecure&name={SECRET}"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 (aiosmtpd's name)
        if self.refuses:
            return self.refuses
        self.mails.append(email.message_from_bytes(envelope.content))
        return "250 taken"

    @property
    def subjects(self) -> list[str]:
        return [str(mail["Subject"]) for mail in self.mails]

    def text(self, index: int = -1) -> str:
        return self.mails[index].get_payload(decode=True).decode()


@contextmanager
def mail_server() -> Iterator[Mailbox]:
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=mailbox.port)
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()


class Hook:
    """What came by HTTP. `status` is what it answers; with `held` it answers once that is set."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.status = 200
        self.held: threading.Event | None = None
        self.asked = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.port}/{SECRET}"

    @property
    def titles(self) -> list[str]:
        return [post["title"] for post in self.posts]


@contextmanager
def webhook() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            hook.asked += 1
            if hook.held is not None:
                hook.held.wait(60)
            if hook.status == 200:
                hook.posts.append(body)
            try:
                self.send_response(hook.status, "no" if hook.status != 200 else None)
                self.send_header("content-length", "0")
                self.end_headers()
            except OSError:  # who asked has given up
                pass

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it)
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hook.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hook
        finally:
            if hook.held is not None:
                hook.held.set()
            server.shutdown()
            thread.join()
