"""The addresses of the Docker Engine API for the testnet's containers.

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

from orcha_pipeline.testnet.answers import json_answer, text_answer
from orcha_pipeline.testnet.containers import Container, DockerEngine, DockerError, filters_of

__all__ = ["API_VERSION", "DockerEngine", "routes"]

API_VERSION = "1.43"
OLDEST_VERSION = "1.24"
_PREFIXED = re.compile(r"/v(\d+)\.(\d+)(/.*)")


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
        version, message = f"{asked[0]}.{asked[1]}", ""
        if asked > _numbers(API_VERSION):
            message = f"client version {version} is too new. Maximum supported API version is {API_VERSION}"
        elif asked < _numbers(OLDEST_VERSION):
            message = (
                f"client version {version} is too old. Minimum supported API version is {OLDEST_VERSION}, "
                "please upgrade your client to a newer version"
            )
        if message:
            await json_answer({"message": message}, 400, end="\n")(scope, receive, send)
            return
        await self.inner({**scope, "path": root + match.group(3)}, receive, send)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


_Endpoint = Callable[[Request], Awaitable[Response]]


def _answered(endpoint: _Endpoint) -> _Endpoint:
    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except DockerError as error:
            return json_answer({"message": str(error)}, error.status, end="\n")

    return answer


def routes(engine: DockerEngine) -> ASGIApp:  # noqa: C901 - one short function for each address of the API
    """The engine's addresses, with and without a version before them."""

    def found(request: Request) -> Container:
        return engine.find(request.path_params["id"])

    async def body_of(request: Request, kind: str) -> dict[str, Any]:
        try:
            parsed: Any = json.loads(await request.body())
        except ValueError as error:
            raise DockerError(400, f"invalid JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise DockerError(400, f"json: cannot unmarshal into Go value of type container.{kind}")
        return cast("dict[str, Any]", parsed)

    def changed(change: Callable[[Container], bool]) -> _Endpoint:
        async def answer(request: Request) -> Response:
            return Response(status_code=204 if change(found(request)) else 304)

        return answer

    async def ping(_request: Request) -> Response:
        answer = text_answer("OK")
        answer.headers["api-version"] = API_VERSION
        return answer

    async def version(_request: Request) -> Response:
        told = {"Version": "24.0.7", "ApiVersion": API_VERSION, "MinAPIVersion": OLDEST_VERSION, "Os": "linux"}
        return json_answer(told)

    async def info(_request: Request) -> Response:
        return json_answer(engine.info())

    async def image(request: Request) -> Response:
        return json_answer(engine.image(request.path_params["name"]))

    async def listing(request: Request) -> Response:
        filters = filters_of(request.query_params.get("filters", ""))
        everything = request.query_params.get("all", "0").lower() in {"1", "true"}
        return json_answer(engine.listing(everything=everything, filters=filters))

    async def inspect(request: Request) -> Response:
        return json_answer(engine.inspect(found(request)))

    async def update(request: Request) -> Response:
        container = found(request)
        engine.update(container, await body_of(request, "UpdateConfig"))
        return json_answer({"Warnings": None})

    async def create(request: Request) -> Response:
        made = engine.create(request.query_params.get("name", ""), await body_of(request, "ContainerConfigWrapper"))
        return json_answer({"Id": made.id, "Warnings": []}, 201)

    async def rename(request: Request) -> Response:
        engine.rename(found(request), request.query_params.get("name", ""))
        return Response(status_code=204)

    async def remove(request: Request) -> Response:
        engine.remove(found(request), force=request.query_params.get("force", "0").lower() in {"1", "true"})
        return Response(status_code=204)

    async def connect(request: Request) -> Response:
        wanted = await body_of(request, "ConnectOptions")
        container = engine.find(str(wanted.get("Container", "")))
        engine.connect(request.path_params["network"], container, wanted.get("EndpointConfig") or {})
        return Response(status_code=200)

    async def restart(request: Request) -> Response:
        engine.restart(found(request))
        return Response(status_code=204)

    async def pause(request: Request) -> Response:
        engine.pause(found(request), paused=request.url.path.endswith("/pause"))
        return Response(status_code=204)

    async def statistics(request: Request) -> Response:
        return json_answer(engine.statistics(found(request)), end="\n")

    async def unknown(_request: Request) -> Response:
        return json_answer({"message": "page not found"}, 404, end="\n")

    table: list[tuple[str, str, _Endpoint]] = [
        ("GET", "/_ping", ping),
        ("GET", "/version", version),
        ("GET", "/info", info),
        ("GET", "/images/{name:path}/json", image),
        ("GET", "/containers/json", listing),
        ("POST", "/containers/create", create),
        ("GET", "/containers/{id}/json", inspect),
        ("DELETE", "/containers/{id}", remove),
        ("POST", "/containers/{id}/update", update),
        ("POST", "/containers/{id}/rename", rename),
        ("POST", "/containers/{id}/stop", changed(engine.stop)),
        ("POST", "/containers/{id}/start", changed(engine.start)),
        ("POST", "/containers/{id}/restart", restart),
        ("POST", "/containers/{id}/pause", pause),
        ("POST", "/containers/{id}/unpause", pause),
        ("GET", "/containers/{id}/stats", statistics),
        ("POST", "/networks/{network}/connect", connect),
    ]
    plain = [Route(path, _answered(endpoint), methods=[method]) for method, path, endpoint in table]
    plain.append(Route("/{rest:path}", unknown, methods=["GET", "POST", "DELETE"]))
    return Versions(Router(plain, redirect_slashes=False))
