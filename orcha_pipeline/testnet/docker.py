"""The Docker Engine API for the testnet's containers: limits, stop, start, restart and statistics.

Golem has no container: its provider runs on the host and is driven through its files.
"""

import json
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from orcha_pipeline.testnet.answers import json_answer, rfc3339_millis, text_answer
from orcha_pipeline.testnet.economy import Economy, Node
from orcha_pipeline.testnet.noise import hexadecimal

API_VERSION = "1.43"
CONTAINERS = ("storj", "streamr", "grass")
_IMAGES = {"storj": "storjlabs/storagenode:latest", "streamr": "streamr/node:v103", "grass": "grass-desktop:latest"}
_PREFIXED = re.compile(r"/v(\d+)\.(\d+)(/.*)")
_ZERO_TIME = "0001-01-01T00:00:00Z"


class _DockerError(Exception):
    """An answer with a status and Docker's `message`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class DockerEngine:
    """Answers of the engine, from the economy's state."""

    def __init__(self, economy: Economy) -> None:
        self.economy = economy

    def container(self, wanted: str) -> Node:
        """By name, or by id or its beginning."""
        for node in self._containers():
            if wanted.lstrip("/") == node.name or (len(wanted) >= 4 and self.id(node).startswith(wanted)):
                return node
        raise _DockerError(404, f"No such container: {wanted}")

    def _containers(self) -> list[Node]:
        return [node for node in self.economy.nodes.values() if node.protocol in CONTAINERS]

    @staticmethod
    def id(node: Node) -> str:
        """The container's id."""
        return hexadecimal(0, f"container/{node.name}", 0, 64)

    @staticmethod
    def status(node: Node) -> str:
        """Docker's word for the state."""
        if not node.running:
            return "exited"
        return "paused" if node.paused else "running"

    def listing(self, *, everything: bool, filters: dict[str, Any]) -> list[dict[str, Any]]:
        """`/containers/json`."""
        names: list[str] = list(filters.get("name", []))
        return [
            {
                "Id": self.id(node),
                "Names": [f"/{node.name}"],
                "Image": _IMAGES[node.protocol],
                "ImageID": "sha256:" + hexadecimal(0, f"image/{node.protocol}", 0, 64),
                "Command": "/entrypoint",
                "Created": self.economy.start,
                "State": self.status(node),
                "Status": "Up" if node.running else f"Exited ({node.exit_code})",
                "Labels": {},
            }
            for node in self._containers()
            if (everything or node.running) and (not names or any(name in node.name for name in names))
        ]

    def inspect(self, node: Node) -> dict[str, Any]:
        """`/containers/{id}/json`."""
        return {
            "Id": self.id(node),
            "Created": rfc3339_millis(self.economy.start),
            "Name": f"/{node.name}",
            "Image": "sha256:" + hexadecimal(0, f"image/{node.protocol}", 0, 64),
            "RestartCount": 0,
            "State": {
                "Status": self.status(node),
                "Running": node.running,
                "Paused": node.paused,
                "Restarting": False,
                "OOMKilled": False,
                "Dead": False,
                "Pid": 4242 if node.running else 0,
                "ExitCode": node.exit_code,
                "Error": node.log,
                "StartedAt": rfc3339_millis(node.started_at),
                "FinishedAt": rfc3339_millis(node.finished_at) if node.finished_at else _ZERO_TIME,
            },
            "HostConfig": {
                "NanoCpus": node.nano_cpus,
                "CpuShares": 0,
                "CpuPeriod": 0,
                "CpuQuota": 0,
                "Memory": node.memory,
                "MemorySwap": node.memory_swap,
                "MemoryReservation": 0,
                "PidsLimit": None,
                "NetworkMode": "bridge",
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            },
            "Config": {"Image": _IMAGES[node.protocol], "Env": [], "Labels": {}},
        }

    def update(self, node: Node, wanted: dict[str, Any]) -> None:
        """Change limits, all or none."""
        if node.name in self.economy.stuck:
            message = f"Cannot update container {self.id(node)}: failed to write cpu.max: device or resource busy"
            raise _DockerError(500, message)
        for key in ("NanoCpus", "CpuPeriod", "CpuQuota", "Memory", "MemorySwap"):
            value: Any = wanted.get(key, 0)
            if not isinstance(value, int) or isinstance(value, bool):
                kind = "string" if isinstance(value, str) else "number"
                message = f"json: cannot unmarshal {kind} into Go struct field UpdateConfig.{key} of type int64"
                raise _DockerError(400, message)
        nano: int = wanted.get("NanoCpus", 0)
        if nano and (wanted.get("CpuPeriod") or wanted.get("CpuQuota")):
            raise _DockerError(400, "Conflicting options: Nano CPUs and CPU Period cannot both be set.")
        threads = int(self.economy.world.capacity.cpu_threads)
        if nano and not 0.01 <= nano / 1e9 <= threads:
            message = f"Range of CPUs is from 0.01 to {threads}.00, as there are only {threads} CPUs available"
            raise _DockerError(400, message)
        memory: int = wanted.get("Memory", 0)
        swap: int = wanted.get("MemorySwap", 0)
        if memory and memory < 6 * 1024**2:
            raise _DockerError(400, "Minimum memory limit allowed is 6MB")
        if memory and (swap or node.memory_swap) not in {0, -1} and memory > (swap or node.memory_swap):
            message = "Memory limit should be smaller than already set memoryswap limit, "
            raise _DockerError(409, message + "update the memoryswap at the same time")
        # As in the engine, 0 means "leave it": a limit can be changed but not taken away.
        if nano:
            self.economy.limit_cpu(node, nano)
        node.memory = memory or node.memory
        node.memory_swap = swap or node.memory_swap

    def stats(self, node: Node) -> dict[str, Any]:
        """One reading. Without a second one `precpu_stats` is empty: whoever wants a rate must take two."""
        now, host = self.economy.now, self.economy.world.capacity
        empty_cpu = {"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}}
        answer: dict[str, Any] = {
            "id": self.id(node),
            "name": f"/{node.name}",
            "read": rfc3339_millis(now),
            "preread": _ZERO_TIME,
            "precpu_stats": empty_cpu,
            "cpu_stats": empty_cpu,
            "memory_stats": {},
            "blkio_stats": {"io_service_bytes_recursive": None},
        }
        if not node.running:
            return answer
        total = int(node.cpu_seconds * 1e9)
        used = int(0.6 * node.effective * self.economy.world.protocols[node.protocol].demand.memory_gib * 1024**3)
        answer["cpu_stats"] = {
            "cpu_usage": {
                "total_usage": total,
                "usage_in_kernelmode": total // 5,
                "usage_in_usermode": total - total // 5,
            },
            "system_cpu_usage": int((now - self.economy.start) * host.cpu_threads * 1e9),
            "online_cpus": int(host.cpu_threads),
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        }
        answer["memory_stats"] = {
            "usage": used,
            "limit": node.memory or int(host.memory_gib * 1024**3),
            "stats": {"inactive_file": used // 8},
        }
        answer["networks"] = {"eth0": {"rx_bytes": int(node.rx_bytes), "tx_bytes": int(node.tx_bytes)}}
        return answer


class Versions:
    """Takes the version off the address; a client newer than the engine is refused."""

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        root: str = scope.get("root_path", "")
        match = _PREFIXED.fullmatch(scope["path"].removeprefix(root))
        if match is None:
            await self.inner(scope, receive, send)
            return
        asked = (int(match.group(1)), int(match.group(2)))
        if asked > tuple(int(part) for part in API_VERSION.split(".")):
            message = f"client version {asked[0]}.{asked[1]} is too new. Maximum supported API version is {API_VERSION}"
            await json_answer({"message": message}, 400, end="\n")(scope, receive, send)
            return
        await self.inner({**scope, "path": root + match.group(3)}, receive, send)


_Endpoint = Callable[[Request], Awaitable[Response]]


def _answered(endpoint: _Endpoint) -> _Endpoint:
    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except _DockerError as error:
            return json_answer({"message": str(error)}, error.status, end="\n")

    return answer


def routes(engine: DockerEngine) -> ASGIApp:  # noqa: C901, PLR0915 - one short function for each address of the API
    """The engine's addresses, with and without a version before them."""
    economy = engine.economy

    def found(request: Request) -> Node:
        return engine.container(request.path_params["id"])

    def changed(*, before: bool, after: bool) -> Response:
        return Response(status_code=304 if before == after else 204)

    async def ping(_request: Request) -> Response:
        answer = text_answer("OK")
        answer.headers["api-version"] = API_VERSION
        return answer

    async def version(_request: Request) -> Response:
        return json_answer({"Version": "24.0.7", "ApiVersion": API_VERSION, "MinAPIVersion": "1.12", "Os": "linux"})

    async def listing(request: Request) -> Response:
        try:
            filters: Any = json.loads(request.query_params.get("filters") or "{}")
        except ValueError as error:
            raise _DockerError(400, f"invalid filter: {error}") from error
        everything = request.query_params.get("all", "0").lower() in {"1", "true"}
        return json_answer(engine.listing(everything=everything, filters=filters))

    async def inspect(request: Request) -> Response:
        return json_answer(engine.inspect(found(request)))

    async def update(request: Request) -> Response:
        node = found(request)
        try:
            wanted: Any = json.loads(await request.body())
        except ValueError as error:
            raise _DockerError(400, f"invalid JSON: {error}") from error
        if not isinstance(wanted, dict):
            raise _DockerError(400, "json: cannot unmarshal into Go value of type container.UpdateConfig")
        engine.update(node, cast("dict[str, Any]", wanted))
        return json_answer({"Warnings": None})

    async def stop(request: Request) -> Response:
        node = found(request)
        before = node.running
        if before:
            economy.stop_node(node)
        return changed(before=before, after=False)

    async def start(request: Request) -> Response:
        node = found(request)
        before = node.running
        if not before:
            economy.start_node(node)
        return changed(before=before, after=True)

    async def restart(request: Request) -> Response:
        node = found(request)
        if node.name in economy.stuck and node.protocol == "streamr":
            # A Streamr node shows nowhere what it has loaded: that a change does not arrive must show here.
            why = "tried to kill container, but did not receive an exit event"
            raise _DockerError(500, f"Cannot restart container {engine.id(node)}: {why}")
        if node.running:
            economy.stop_node(node)
        economy.start_node(node)
        return Response(status_code=204)

    async def pause(request: Request) -> Response:
        node = found(request)
        wanted = request.url.path.endswith("/pause")
        if not node.running:
            raise _DockerError(409, f"Container {engine.id(node)} is not running")
        if node.paused == wanted:
            raise _DockerError(409, f"Container {engine.id(node)} is {'already' if wanted else 'not'} paused")
        economy.pause_node(node, paused=wanted)
        return Response(status_code=204)

    async def stats(request: Request) -> Response:
        return json_answer(engine.stats(found(request)), end="\n")

    async def unknown(_request: Request) -> Response:
        return json_answer({"message": "page not found"}, 404, end="\n")

    table: list[tuple[str, str, _Endpoint]] = [
        ("GET", "/_ping", ping),
        ("GET", "/version", version),
        ("GET", "/containers/json", listing),
        ("GET", "/containers/{id}/json", inspect),
        ("POST", "/containers/{id}/update", update),
        ("POST", "/containers/{id}/stop", stop),
        ("POST", "/containers/{id}/start", start),
        ("POST", "/containers/{id}/restart", restart),
        ("POST", "/containers/{id}/pause", pause),
        ("POST", "/containers/{id}/unpause", pause),
        ("GET", "/containers/{id}/stats", stats),
    ]
    plain = [Route(path, _answered(endpoint), methods=[method]) for method, path, endpoint in table]
    plain.append(Route("/{rest:path}", unknown, methods=["GET", "POST", "DELETE"]))
    return Versions(Router(plain, redirect_slashes=False))
