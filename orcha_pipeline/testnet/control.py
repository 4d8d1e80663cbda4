"""The testnet's own API under `/testnet`: clock, true state, faults and shifts of the yields."""

import json
import math
import os
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orcha_pipeline.testnet.addresses import SERVICES
from orcha_pipeline.testnet.answers import json_answer, parse_time, rfc3339
from orcha_pipeline.testnet.faults import number, read_fault
from orcha_pipeline.testnet.levers import node_name
from orcha_pipeline.testnet.simulation import Testnet
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


class Control:
    """The endpoints."""

    def __init__(self, testnet: Testnet) -> None:
        self.testnet = testnet

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
        """`{"now", "live"}`, and `speed` where time runs at another than the wall's."""
        kept = self.testnet.time
        speed = {} if kept.speed == 1.0 else {"speed": kept.speed}
        return json_answer({"now": rfc3339(kept.now), "live": kept.live, **speed})

    async def move_clock(self, request: Request) -> Response:
        """`{"advance_to": iso}`, or `{"live": true}`: follow the wall clock. 409 where time would have to go back.

        A live clock that is advanced runs on ahead of the wall clock.
        """
        testnet, now = self.testnet, self.testnet.time.now
        given = await _object(request)
        if given.get("live") is True:
            testnet.go_live()
            return await self.clock(request)
        moment = math.floor(parse_time(given["advance_to"]))
        if moment < now:
            return _refused(409, f"the testnet is at {rfc3339(now)} and time does not go back")
        testnet.advance_to(moment)
        return await self.clock(request)

    async def nodes(self, request: Request) -> Response:
        """The true state by node; with `?host=` of one host alone."""
        wanted = request.query_params.get("host")
        if wanted is not None and wanted not in self.testnet.hosts:
            return _refused(404, f"no such host: {wanted}")
        return json_answer(self.testnet.true_state(wanted))

    async def faults(self, _request: Request) -> Response:
        """Kind of fault by node."""
        return json_answer(self.testnet.faults.kinds())

    async def add_fault(self, request: Request) -> Response:
        """`{"node", "kind", ...}`; docs/testnet.md tells the kinds and what else each of them takes.

        `seconds` is how long the fault lasts on the testnet's clock (null: until it is taken away).
        """
        given = await _object(request)
        wanted = str(given["node"])
        fault = read_fault(given, now=self.testnet.time.now, seed=self.testnet.seed)
        door = self._door(wanted, fault.kind)
        if door is None:
            return _refused(404, f"no such node: {wanted}; there are {self._doors()}")
        self.testnet.faults.put(door, fault)
        until = None if fault.until is None else rfc3339(fault.until)
        return json_answer({"node": wanted, "kind": fault.kind, "until": until})

    def _door(self, wanted: str, kind: str) -> str | None:
        """The name under which the faults of a node or service are kept."""
        testnet = self.testnet
        if wanted not in testnet.nodes:
            return wanted if wanted in SERVICES and kind != "apply_fails" else None
        if testnet.nodes[wanted].economy.nodes[wanted].protocol != "grass" or kind == "apply_fails":
            return wanted
        # A Grass device has no door of its own: its only account's is meant, and of several nobody's.
        return "grass" if len(testnet.hosts) == 1 else None

    def _doors(self) -> str:
        names = [*SERVICES, *list(self.testnet.nodes)[:8]]
        return ", ".join(names) + (" and more" if len(self.testnet.nodes) > 8 else "")

    async def clear_faults(self, request: Request) -> Response:
        """Take all faults away, or with `?node=` one node's or service's."""
        wanted = request.query_params.get("node")
        self.testnet.faults.clear(wanted)
        if wanted == node_name("grass") and len(self.testnet.hosts) == 1:
            self.testnet.faults.clear("grass")
        return json_answer({})

    async def shift(self, request: Request) -> Response:
        """`{"protocol", "factor"}`: from now on this protocol pays `factor` times as much."""
        given = await _object(request)
        protocol, factor = given["protocol"], number(given, "factor", None)
        if protocol not in PROTOCOLS or factor is None:
            return _refused(400, f"give protocol (one of {', '.join(PROTOCOLS)}) and factor")
        self.testnet.shift(protocol, factor)
        return json_answer({"protocol": protocol, "factor": factor, "from": rfc3339(self.testnet.time.now)})

    async def health(self, _request: Request) -> Response:
        """Whether it is this testnet that answers, and which process."""
        world, hosts = self.testnet.economy.world.name, len(self.testnet.hosts)
        return json_answer({"status": "ok", "pid": os.getpid(), "world": world, "hosts": hosts})
