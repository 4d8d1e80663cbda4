"""The Grass dashboard's cloud API, and the node's earnings as points of an epoch.

A device's points are `aggUptime / 3600 x 50 x ipScore / 100 x multiplier`; `totalPoints` of an epoch stays 0 until the
epoch is settled. The uptime shown is the one that those points come from.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from orcha_pipeline.testnet.answers import json_answer, rfc3339_millis
from orcha_pipeline.testnet.economy import Economy, Node, Piece
from orcha_pipeline.testnet.worlds import DAY, HOUR

TOKEN = "testnet-grass-token"  # noqa: S105 - the testnet's own, worth nothing
DEVICE = "6f1c0d5e-7c1f-4a55-9d0e-0a5c7e57ca11"
USER = "2gh63HX35H0KAPIZPKiVsbUFQn2"
IP_ADDRESS = "203.0.113.7"
IP_SCORE = 87
MULTIPLIER = 1.25
POINTS_PER_UPTIME_HOUR = 50.0 * IP_SCORE / 100.0 * MULTIPLIER
EPOCH = 14 * DAY
_SETTLES_AFTER = 6 * HOUR


class GrassBooks:
    """Points by epoch. Epochs follow each other every two weeks since 1970."""

    def __init__(self) -> None:
        self.epochs: dict[int, float] = {}

    def accrue(self, piece: Piece) -> None:
        """Add a piece; pieces end at every step of the world, so none crosses an epoch's end."""
        epoch = piece.start // EPOCH
        self.epochs[epoch] = self.epochs.get(epoch, 0.0) + piece.earned

    def dump(self) -> dict[str, Any]:
        """Epoch number -> points."""
        return {str(epoch): points for epoch, points in self.epochs.items()}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take back what `dump` gave."""
        self.epochs = {int(epoch): points for epoch, points in saved.items()}


class GrassAccount:
    """Answers of the dashboard, from the economy's state."""

    def __init__(self, economy: Economy, node: Node, books: GrassBooks) -> None:
        self.economy = economy
        self.node = node
        self.books = books

    @property
    def connected(self) -> bool:
        """True while the network sees the device."""
        return self.node.answers(self.economy.now) and self.node.was_up

    def uptime(self) -> int:
        """The device's `aggUptime` of the running epoch, seconds."""
        points = self.books.epochs.get(self.economy.now // EPOCH, 0.0)
        return int(points / POINTS_PER_UPTIME_HOUR * HOUR)

    def device(self, *, connected: bool) -> dict[str, Any]:
        """The device as `/activeDevices` (connected) and `/devices` show it."""
        shown: dict[str, Any] = {
            "deviceId": DEVICE,
            "userId": USER,
            "ipAddress": IP_ADDRESS,
            "ipScore": IP_SCORE,
            "multiplier": MULTIPLIER,
        }
        if connected:
            shown |= {"aggUptime": self.uptime()}
        else:
            # The list of all devices tells an uptime only of those that are not connected just now.
            shown |= {"totalUptime": 0 if self.connected else self.uptime()}
        return {**shown, "lastConnectedAt": rfc3339_millis(max(self.node.up_since, self.node.ready_at))}

    def epochs(self, limit: int, *, latest_only: bool) -> list[dict[str, Any]]:
        """Epochs, newest first."""
        now = self.economy.now
        current = now // EPOCH
        numbers = sorted(set(self.books.epochs) | {current}, reverse=True)
        rows: list[dict[str, Any]] = []
        for number in numbers[: 1 if latest_only else limit]:
            end = (number + 1) * EPOCH
            points = self.books.epochs.get(number, 0.0)
            settled = now >= end + _SETTLES_AFTER
            rows.append(
                {
                    "epochName": f"Epoch {number - 1460}",
                    "totalPoints": points if settled else 0,
                    "rewardPoints": 0,
                    "totalUptime": int(points / POINTS_PER_UPTIME_HOUR * HOUR) if settled else 0,
                    "startDate": rfc3339_millis(number * EPOCH),
                    "endDate": rfc3339_millis(end),
                }
            )
        return rows


def _data(content: Any) -> Response:
    return json_answer({"result": {"data": content}})


def _error(status: int, message: str, code: int, name: str) -> Response:
    return json_answer(
        {"error": {"message": message, "code": code, "data": {"code": name, "httpStatus": status}}}, status
    )


_Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(endpoint: _Endpoint) -> _Endpoint:
    """The raw token in the header, without any scheme."""

    @wraps(endpoint)
    async def guard(request: Request) -> Response:
        if request.headers.get("authorization") != TOKEN:
            return _error(401, "Unauthorized", -32001, "UNAUTHORIZED")
        try:
            return await endpoint(request)
        except (ValueError, TypeError) as error:
            return _error(400, str(error), -32600, "BAD_REQUEST")

    return guard


def _input(request: Request) -> dict[str, Any]:
    given: Any = json.loads(request.query_params.get("input") or "{}")
    if not isinstance(given, dict):
        raise TypeError("input must be an object")
    return cast("dict[str, Any]", given)


def routes(emulator: GrassAccount) -> Router:
    """The API's addresses, relative to its base address."""

    async def user(_request: Request) -> Response:
        return _data(
            {
                "userId": USER,
                "email": "operator@example.com",
                "username": "operator",
                "totalPoints": 0,
                "referralCode": "testnet",
                "walletAddress": None,
            }
        )

    async def active_devices(_request: Request) -> Response:
        return _data([emulator.device(connected=True)] if emulator.connected else [])

    async def active_ips(_request: Request) -> Response:
        # Here the score comes as a string, as some numbers of this API do.
        return _data([{"ipAddress": IP_ADDRESS, "ipScore": str(IP_SCORE)}] if emulator.connected else [])

    async def devices(request: Request) -> Response:
        limit = int(_input(request).get("limit", 50))
        return _data([emulator.device(connected=False)][:limit])

    async def epoch_earnings(request: Request) -> Response:
        given = _input(request)
        rows = emulator.epochs(int(given.get("limit", 10)), latest_only=given.get("isLatestOnly") is True)
        return _data({"data": rows})

    async def unknown(request: Request) -> Response:
        return _error(404, f'No "query"-procedure on path "{request.path_params["rest"]}"', -32004, "NOT_FOUND")

    table: dict[str, _Endpoint] = {
        "/retrieveUser": user,
        "/activeDevices": active_devices,
        "/activeIps": active_ips,
        "/devices": devices,
        "/epochEarnings": epoch_earnings,
    }
    addresses = [Route(path, _guarded(endpoint), methods=["GET"]) for path, endpoint in table.items()]
    return Router([*addresses, Route("/{rest:path}", _guarded(unknown))], redirect_slashes=False)
