"""The testnet's door: every request passes the clock, the faults and the restart windows, and is marked simulated."""

import asyncio
from typing import ClassVar

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from orcha_pipeline.testnet.answers import text_answer
from orcha_pipeline.testnet.levers import node_name
from orcha_pipeline.testnet.simulation import Fault, Testnet


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

    async def cut(self) -> None:
        """Close it at once; returns when uvicorn knows."""
        self.wire.abort()
        await self.closed.wait()


class Door:
    """What every request passes: the clock, faults, restart windows, and the mark that all this is simulated."""

    def __init__(self, inner: ASGIApp, testnet: Testnet) -> None:
        self.inner = inner
        self.testnet = testnet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-orcha-simulated", b"testnet")]
            await send(message)

        self.testnet.sync()
        target = _target(scope["path"])
        fault = self.testnet.faults.get(target)
        node = self.testnet.economy.nodes.get(target)
        # Grass answers from its cloud whether the device runs or not.
        away = node is not None and node.protocol != "grass" and not node.answers(self.testnet.economy.now)
        if away or (fault and fault.kind == "dead"):
            await self._cut(scope, receive, marked)
        elif fault is None:
            await self.inner(scope, receive, marked)
        else:
            await self._disturb(fault, scope, receive, marked)

    async def _cut(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Close the connection without an answer; 503 where there is no connection to close."""
        connection = Connections.opened.get(scope.get("client"))
        if connection is None:
            await text_answer("Service Unavailable", 503)(scope, receive, send)
        else:
            await connection.cut()

    async def _disturb(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if fault.kind == "html":
            page = "<!DOCTYPE html><html><body><h1>Welcome to nginx!</h1></body></html>"
            await text_answer(page, media_type="text/html")(scope, receive, send)
        elif fault.kind == "status":
            headers = {"retry-after": "30"} if fault.status == 429 else None
            page = f"<html><body><h1>{fault.status}</h1></body></html>"
            await Response(page, fault.status, headers, media_type="text/html")(scope, receive, send)
        elif fault.kind == "slow":
            await asyncio.sleep(fault.delay_seconds)
            await self.inner(scope, receive, send)
        elif fault.kind == "truncated":
            await self._truncate(scope, receive, send)
        else:
            await self.inner(scope, receive, send)

    async def _truncate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The right answer, cut in the middle of its JSON."""
        head: Message = {}
        body = b""

        async def collect(message: Message) -> None:
            nonlocal head, body
            if message["type"] == "http.response.start":
                head = message
            else:
                body += message.get("body", b"")

        await self.inner(scope, receive, collect)
        body = body[: len(body) // 2]
        headers = [(name, value) for name, value in head["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({**head, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _target(path: str) -> str:
    """The node or service an address belongs to."""
    parts = path.split("/", 3)
    first = parts[1] if len(parts) > 1 else ""
    if first == "nodes":
        return parts[2] if len(parts) > 2 else ""
    return node_name("grass") if first == "grass" else first
