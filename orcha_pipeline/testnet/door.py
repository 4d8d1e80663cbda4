"""The testnet's door: every request passes the clock, the faults and the restart windows, and is marked simulated."""

import asyncio
import socket
import struct
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import ClassVar

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from orcha_pipeline.testnet.addresses import Addresses, Place
from orcha_pipeline.testnet.answers import json_answer, text_answer
from orcha_pipeline.testnet.economy import SKEW
from orcha_pipeline.testnet.faults import Fault
from orcha_pipeline.testnet.simulation import Testnet

_DRIPS = 20
"""Pieces that a dripping body is cut into."""


class Connections(AutoHTTPProtocol):
    """uvicorn's own protocol that also knows its connections by peer, so that one can be cut without an answer."""

    opened: ClassVar[dict[object, "Connections"]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Remember it."""
        super().connection_made(transport)
        self.peer: object = transport.get_extra_info("peername")
        self.closed = asyncio.Event()
        self.opened[self.peer] = self
        self.wire = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.opened.pop(self.peer, None)
        super().connection_lost(exc)
        self.closed.set()

    async def cut(self, *, reset: bool = False) -> None:
        """Close it at once, or `reset` it as a crashed peer would; returns when uvicorn knows."""
        if reset:
            # Closing a socket that lingers for no time sends RST in place of FIN.
            wire: socket.socket = self.wire.get_extra_info("socket")
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wire.abort()
        await self.closed.wait()


class Door:
    """What every request passes: the clock, faults, restart windows, and the mark that all this is simulated."""

    def __init__(self, addresses: Addresses, testnet: Testnet) -> None:
        self.addresses = addresses
        self.testnet = testnet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.addresses.others(scope, receive, send)
            return

        self.testnet.sync()
        place = self.addresses.find(scope)

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                dated = format_datetime(datetime.fromtimestamp(self.testnet.time.now + SKEW.get(), UTC), usegmt=True)
                told = [(b"x-orcha-simulated", b"testnet"), (b"date", dated.encode())]
                message["headers"] = [*message.get("headers", []), *told]
                if scope["method"] not in {"GET", "HEAD"}:
                    # A change that is answered must not be lost, whatever becomes of the process.
                    self.testnet.keep(place.hosts)
            await send(message)

        for host in place.hosts:
            self.testnet.catch_up(host)
        fault = self.testnet.faults.strikes(place.door, scope["path"].removeprefix(place.prefix) or "/")
        if place.prefix:
            scope = {**scope, "root_path": scope.get("root_path", "") + place.prefix}
        # The time was let pass on the host just now: `now` is the same for both, but for a skew.
        away = place.node is not None and not place.node.answers(self.testnet.time.now)
        if away or (fault and fault.kind == "dead"):
            await _cut(scope, receive, marked)
        elif fault is None:
            await place.app(scope, receive, marked)
        else:
            await _disturbed(fault, place, self.testnet.time.now)(scope, receive, marked)


# ---------------------------------------------------------------- what faults do


async def _cut(scope: Scope, receive: Receive, send: Send) -> None:
    """Close the connection without an answer; 503 where there is no connection to close."""
    connection = Connections.opened.get(scope.get("client"))
    if connection is None:
        await text_answer("Service Unavailable", 503)(scope, receive, send)
    else:
        await connection.cut()


def _disturbed(fault: Fault, place: Place, now: float) -> ASGIApp:
    """The door's emulator with the fault."""
    app = place.app
    match fault.kind:
        case "html":
            page = "<!DOCTYPE html><html><body><h1>Welcome to nginx!</h1></body></html>"
            app = text_answer(page, media_type="text/html")
        case "status":
            app = _status(fault, now)
        case "auth":
            app = _Expired(place, fault.status)
        case "slow":
            app = _Slow(place.app, fault.delay_seconds)
        case "skew":
            app = _Skewed(place.app, fault.skew_seconds)
        case _:
            app = _Spoilt(place.app, fault)
    return app


def _status(fault: Fault, now: float) -> Response:
    headers: dict[str, str] = {}
    if fault.retry_after is not None and fault.retry_after_date:
        # A client compares it with the date of the answer, as HTTP has it.
        headers["retry-after"] = format_datetime(datetime.fromtimestamp(now + fault.retry_after, UTC), usegmt=True)
    elif fault.retry_after is not None:
        headers["retry-after"] = f"{fault.retry_after:.0f}"
    page = f"<html><body><h1>{fault.status}</h1></body></html>"
    return Response(page, fault.status, headers, media_type="text/html")


class _Slow:
    """The right answer, late."""

    def __init__(self, inner: ASGIApp, seconds: float) -> None:
        self.inner = inner
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(self.seconds)
        await self.inner(scope, receive, send)


class _Skewed:
    """The answer of a node whose clock is wrong."""

    def __init__(self, inner: ASGIApp, seconds: int) -> None:
        self.inner = inner
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = SKEW.set(self.seconds)
        try:
            await self.inner(scope, receive, send)
        finally:
            SKEW.reset(token)


class _Expired:
    """What the service says to a key or token that is no longer valid.

    Golem and Grass are asked with a wrong one and say it themselves. A Storj console knows no keys: what refuses
    there, as at a Docker socket, is the proxy that an operator put before it.
    """

    def __init__(self, place: Place, status: int) -> None:
        self.place = place
        self.status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        protocol = self.place.node.protocol if self.place.node else self.place.door
        answer = self._words(protocol, Headers(scope=scope))
        if answer is not None:
            await answer(scope, receive, send)
            return
        scheme = b"Bearer expired" if protocol == "golem" else b"expired"
        headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        request = Request(scope)
        query = "&".join(f"{key}={value}" for key, value in request.query_params.items() if key != "authToken")
        changed = {**scope, "headers": [*headers, (b"authorization", scheme)], "query_string": query.encode()}
        await self.place.app(changed, receive, send)

    def _words(self, protocol: str, headers: Headers) -> Response | None:
        match protocol:
            case "golem" | "grass":
                return None
            case "streamr":
                given = "authorization" in headers
                return text_answer("Forbidden", 403) if given else text_answer("Unauthorized", 401)
            case "thegraph":
                # The gateway's refusals are GraphQL errors with HTTP status 200, like all others.
                return json_answer({"errors": [{"message": "auth error: API key not found"}]})
            case "coingecko":
                status = {"error_code": 10002, "error_message": "API Key Missing"}
                return json_answer({"status": status}, self.status)
            case _:
                title = "401 Authorization Required" if self.status == 401 else "403 Forbidden"
                page = (
                    f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
                )
                return text_answer(f"{page}</body>\r\n</html>\r\n", self.status, media_type="text/html")


class _Spoilt:
    """The right answer, whose body is cut in the middle, breaks off with the connection, or drips."""

    def __init__(self, inner: ASGIApp, fault: Fault) -> None:
        self.inner = inner
        self.fault = fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: Message = {}
        body = b""

        async def collect(message: Message) -> None:
            nonlocal head, body
            if message["type"] == "http.response.start":
                head = message
            else:
                body += message.get("body", b"")

        await self.inner(scope, receive, collect)
        if self.fault.kind == "truncated":
            await _truncated(head, body, send)
        elif self.fault.kind == "reset":
            await _broken_off(head, body, scope, send)
        else:
            await _dripping(head, body, self.fault.delay_seconds, send)


async def _truncated(head: Message, body: bytes, send: Send) -> None:
    """A whole answer with half of its JSON."""
    body = body[: len(body) // 2]
    headers = [(name, value) for name, value in head["headers"] if name != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({**head, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _broken_off(head: Message, body: bytes, scope: Scope, send: Send) -> None:
    """Half of the body that was announced, then the connection is reset; without a connection the half ends it."""
    await send(head)
    connection = Connections.opened.get(scope.get("client"))
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": connection is not None})
    if connection is not None:
        await connection.cut(reset=True)


async def _dripping(head: Message, body: bytes, seconds: float, send: Send) -> None:
    """The whole body, a little at a time."""
    await send(head)
    size = max(1, -(-len(body) // _DRIPS))
    for begin in range(0, len(body), size):
        if begin:
            await asyncio.sleep(seconds / (_DRIPS - 1))
        await send({"type": "http.response.body", "body": body[begin : begin + size], "more_body": True})
    await send({"type": "http.response.body", "body": b""})
