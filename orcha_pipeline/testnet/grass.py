"""The Grass dashboard's cloud API, and the node's earnings as points of an epoch.

A device's points are `aggUptime / 3600 x 50 x ipScore / 100 x multiplier`; `totalPoints` of an epoch stays 0 until the
epoch is settled. How much the world pays shows in the multiplier, which tells what the last hour was worth: the
uptime is time, and starts again with a new epoch and with a new connection.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
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
POINTS_PER_HOUR = 50.0 * IP_SCORE / 100.0
"""At a multiplier of 1."""
EPOCH = 14 * DAY
_SETTLES_AFTER = 6 * HOUR


class GrassBooks:
    """Points and uptime by epoch, and what the last hour paid. Epochs follow each other every two weeks since 1970."""

    def __init__(self) -> None:
        self.epochs: dict[int, float] = {}
        self.uptimes: dict[int, int] = {}
        self.recent: list[tuple[int, int, float]] = []
        """(start, end, earned) of the pieces with the device up that reach into the last hour."""

    def busy_until(self, at: int) -> int | None:
        """Nothing that has begun holds on to what it was given."""
        del at

    def accrue(self, piece: Piece) -> None:
        """Add a piece; pieces end at every step of the world, so none crosses an epoch's end."""
        epoch = piece.start // EPOCH
        self.epochs[epoch] = self.epochs.get(epoch, 0.0) + piece.earned
        self.recent = [kept for kept in self.recent if kept[1] > piece.end - HOUR]
        if piece.up:
            self.uptimes[epoch] = self.uptimes.get(epoch, 0) + piece.seconds
            self.recent.append((piece.start, piece.end, piece.earned))

    def hourly(self, now: int) -> float | None:
        """Points an hour of uptime was worth over the last hour; None where the device was not up."""
        earned, seconds = 0.0, 0
        for start, end, points in self.recent:
            inside = end - max(start, now - HOUR)
            if inside > 0:
                earned += points * inside / (end - start)
                seconds += inside
        return earned / seconds * HOUR if seconds else None

    def dump(self) -> dict[str, Any]:
        """Epoch number -> points and uptime; the last hour's pieces."""
        return {
            "points": {str(epoch): points for epoch, points in self.epochs.items()},
            "uptimes": {str(epoch): seconds for epoch, seconds in self.uptimes.items()},
            "recent": self.recent,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take back what `dump` gave."""
        self.epochs = {int(epoch): points for epoch, points in saved["points"].items()}
        self.uptimes = {int(epoch): seconds for epoch, seconds in saved["uptimes"].items()}
        self.recent = [(start, end, earned) for start, end, earned in saved["recent"]]


@dataclass(frozen=True, slots=True)
class Device:
    """One device of an account: a node of some host."""

    economy: Economy
    node: Node
    books: GrassBooks
    device_id: str = DEVICE
    ip_address: str = IP_ADDRESS

    @property
    def connected(self) -> bool:
        """True while the network sees the device."""
        return self.node.answers(self.economy.now) and self.node.was_up

    @property
    def connected_at(self) -> int:
        """When the present connection, or the last one, began."""
        return max(self.node.up_since, self.node.ready_at)

    def uptime(self) -> int:
        """`aggUptime`: seconds since the epoch or the connection began, whichever is later."""
        now = self.economy.now
        return max(0, now - max(self.connected_at, now - now % EPOCH))

    def multiplier(self) -> float:
        """What makes the dashboard's formula give what the device was paid over the last hour."""
        hourly = self.books.hourly(self.economy.now)
        return round((self.economy.rate(self.node) if hourly is None else hourly) / POINTS_PER_HOUR, 6)

    def shown(self, *, active: bool) -> dict[str, Any]:
        """As `/activeDevices` (active) and `/devices` show it."""
        shown: dict[str, Any] = {
            "deviceId": self.device_id,
            "userId": USER,
            "ipAddress": self.ip_address,
            "ipScore": IP_SCORE,
            "multiplier": self.multiplier(),
        }
        if active:
            shown |= {"aggUptime": self.uptime()}
        else:
            # The list of all devices tells an uptime only of those that are not connected just now.
            epoch = self.economy.now // EPOCH
            shown |= {"totalUptime": 0 if self.connected else self.books.uptimes.get(epoch, 0)}
        return {**shown, "lastConnectedAt": rfc3339_millis(self.connected_at)}


class GrassAccount:
    """Answers of the dashboard, from the economies' state."""

    def __init__(self, economy: Economy, node: Node, books: GrassBooks, others: Sequence[Device] = ()) -> None:
        """`others`: further devices of the same account, each with an id of its own."""
        self.economy = economy
        self.devices = (Device(economy, node, books), *others)

    def active(self) -> list[Device]:
        """The devices the network sees."""
        return [device for device in self.devices if device.connected]

    def addresses(self) -> list[dict[str, Any]]:
        """Each address once, however many devices it has."""
        # Here the score comes as a string, as some numbers of this API do.
        found = dict.fromkeys(device.ip_address for device in self.active())
        return [{"ipAddress": address, "ipScore": str(IP_SCORE)} for address in found]

    def epochs(self, limit: int, *, latest_only: bool) -> list[dict[str, Any]]:
        """Epochs, newest first."""
        now = self.economy.now
        current = now // EPOCH
        known = {number for device in self.devices for number in device.books.epochs}
        rows: list[dict[str, Any]] = []
        for number in sorted(known | {current}, reverse=True)[: 1 if latest_only else limit]:
            end = (number + 1) * EPOCH
            settled = now >= end + _SETTLES_AFTER
            points = sum(device.books.epochs.get(number, 0.0) for device in self.devices)
            uptime = sum(device.books.uptimes.get(number, 0) for device in self.devices)
            rows.append(
                {
                    "epochName": f"Epoch {number - 1460}",
                    "totalPoints": points if settled else 0,
                    "rewardPoints": 0,
                    "totalUptime": uptime if settled else 0,
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
        return _data([device.shown(active=True) for device in emulator.active()])

    async def active_ips(_request: Request) -> Response:
        return _data(emulator.addresses())

    async def devices(request: Request) -> Response:
        limit = int(_input(request).get("limit", 50))
        return _data([device.shown(active=False) for device in emulator.devices][:limit])

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
