"""The testnet's own API under `/testnet`: clock, true state, faults and shifts of the yields."""

import json
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orcha_pipeline.testnet.answers import json_answer, parse_time, rfc3339
from orcha_pipeline.testnet.simulation import FAULT_KINDS, Fault, Testnet
from orcha_pipeline.testnet.worlds import PROTOCOLS

_Endpoint = Callable[[Request], Awaitable[Response]]


def _refused(status: int, message: str) -> Response:
    return json_answer({"error": message}, status)


def _answered(endpoint: _Endpoint) -> _Endpoint:
    """A body that cannot be used is answered with 400 and the reason."""

    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except KeyError as error:
            return _refused(400, f"{error.args[0]} is missing")
        except (ValueError, TypeError) as error:
            return _refused(400, str(error))

    return answer


async def _object(request: Request) -> dict[str, Any]:
    given: Any = json.loads(await request.body())
    if not isinstance(given, dict):
        raise TypeError("the body must be a JSON object")
    return cast("dict[str, Any]", given)


def _real(given: Mapping[str, Any], key: str) -> float | None:
    value = given.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{key} must be a number that is not negative")
    return float(value)


class Control:
    """The endpoints."""

    def __init__(self, testnet: Testnet) -> None:
        self.testnet = testnet
        self.targets = {*testnet.economy.nodes, "thegraph", "coingecko", "docker"}

    def routes(self) -> list[Route]:
        """All addresses."""
        return [
            Route("/testnet/clock", self.clock, methods=["GET"]),
            Route("/testnet/clock", _answered(self.move_clock), methods=["POST"]),
            Route("/testnet/nodes", self.nodes, methods=["GET"]),
            Route("/testnet/faults", self.faults, methods=["GET"]),
            Route("/testnet/faults", _answered(self.add_fault), methods=["POST"]),
            Route("/testnet/faults", self.clear_faults, methods=["DELETE"]),
            Route("/testnet/shift", _answered(self.shift), methods=["POST"]),
            Route("/testnet/health", self.health, methods=["GET"]),
        ]

    async def clock(self, _request: Request) -> Response:
        """`{"now", "live"}`."""
        return json_answer({"now": rfc3339(self.testnet.economy.now), "live": self.testnet.live})

    async def move_clock(self, request: Request) -> Response:
        """`{"advance_to": iso}`, or `{"live": true}`: follow the wall clock. 409 where time would have to go back.

        A live clock that is advanced runs on ahead of the wall clock.
        """
        testnet, now = self.testnet, self.testnet.economy.now
        given = await _object(request)
        if given.get("live") is True:
            testnet.go_live()
            return await self.clock(request)
        moment = math.floor(parse_time(given["advance_to"]))
        if moment < now:
            return _refused(409, f"the testnet is at {rfc3339(now)} and time does not go back")
        testnet.advance_to(moment)
        return await self.clock(request)

    async def nodes(self, _request: Request) -> Response:
        """The true state by node."""
        return json_answer(self.testnet.true_state())

    async def faults(self, _request: Request) -> Response:
        """Kind of fault by node."""
        return json_answer({name: fault.kind for name, fault in self.testnet.faults.items()})

    async def add_fault(self, request: Request) -> Response:
        """`{"node", "kind", "seconds", "status", "delay_seconds"}`.

        `seconds` is how long the fault lasts on the testnet's clock (null: until it is taken away), `status` what the
        kind `status` answers, `delay_seconds` how long the kind `slow` takes (5).
        """
        given = await _object(request)
        node, kind = given["node"], given["kind"]
        if node not in self.targets:
            return _refused(404, f"no such node: {node}; there are {', '.join(sorted(self.targets))}")
        if kind not in FAULT_KINDS:
            return _refused(400, f"no such kind: {kind}; there are {', '.join(FAULT_KINDS)}")
        seconds, delay = _real(given, "seconds"), _real(given, "delay_seconds")
        until = None if seconds is None else self.testnet.economy.now + math.ceil(seconds)
        fault = Fault(kind, until, int(given.get("status") or 503), 5.0 if delay is None else delay)
        self.testnet.add_fault(node, fault)
        return json_answer({"node": node, "kind": kind, "until": None if until is None else rfc3339(until)})

    async def clear_faults(self, request: Request) -> Response:
        """Take all faults away, or with `?node=` one node's."""
        self.testnet.clear_faults(request.query_params.get("node"))
        return json_answer({})

    async def shift(self, request: Request) -> Response:
        """`{"protocol", "factor"}`: from now on this protocol pays `factor` times as much."""
        given = await _object(request)
        protocol, factor = given["protocol"], _real(given, "factor")
        if protocol not in PROTOCOLS or factor is None:
            return _refused(400, f"give protocol (one of {', '.join(PROTOCOLS)}) and factor")
        self.testnet.economy.shift(protocol, factor)
        self.testnet.save()
        return json_answer({"protocol": protocol, "factor": factor, "from": rfc3339(self.testnet.economy.now)})

    async def health(self, _request: Request) -> Response:
        """Whether it is this testnet that answers, and which process."""
        return json_answer({"status": "ok", "pid": os.getpid(), "world": self.testnet.economy.world.name})
