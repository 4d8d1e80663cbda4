"""The calls of the Docker Engine API that a node's controller makes, with failures in words for the operator.

What is told here was tried against Docker 20.10 (API 1.41). The version spoken is the one nearest to 1.43 that the
engine offers: engines differ both in the newest they know and in the oldest they still answer.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from orcha_pipeline.errors import AdapterError, AllocationError, AuthenticationError, NodeConnectionError, SettingsError
from orcha_pipeline.protocols.http import HttpStatusError, NodeHttp
from orcha_pipeline.protocols.parsing import Whole, parse

TIMEOUT_SECONDS = 10.0
SLOW_SECONDS = 60.0
"""How much longer than its grace a call may take that stops or starts a container."""
PREFERRED = (1, 43)
OLDEST = (1, 25)
"""Of Docker 1.13 (2017): the first that limits CPUs by `NanoCpus`."""
_SOCKET = "unix://"
_NOT_RUNNING = "; is the node running?"

T = TypeVar("T")


class EngineError(AllocationError):
    """Docker did not do it. `status` is its HTTP status, None where it did not answer."""

    def __init__(self, node: str, message: str, *, status: int | None) -> None:
        super().__init__(node, message)
        self.status = status

    @property
    def passing(self) -> bool:
        """Worth asking again: no answer, or a failure of Docker's own."""
        return self.status is None or self.status >= 500


def patiently(check: Callable[[], T | None]) -> Callable[[], T | None]:
    """`check` for waiting with: None where Docker does not answer just now."""

    def checked() -> T | None:
        try:
            return check()
        except EngineError as error:
            if not error.passing:
                raise
            return None

    return checked


class DockerModel(BaseModel):
    """Part of an answer; Docker writes names in PascalCase."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_pascal)


class _Version(DockerModel):
    api_version: str
    # Engines of before API 1.24 do not tell the oldest they answer.
    min_api_version: str = Field(default="1.0", alias="MinAPIVersion")


class _Host(DockerModel):
    cpus: Whole = Field(alias="NCPU")
    mem_total: Whole


class _Created(DockerModel):
    id: str


class _Image(DockerModel):
    id: str


class Engine:
    """One Docker engine, for the node named in every error."""

    def __init__(self, node: str, url: str, transport: httpx.BaseTransport | None = None) -> None:
        """`url`: `unix:///path/to/docker.sock`, or an http address, which may have a path. Raises `SettingsError`."""
        self.node = node
        self._socket = Path(url.removeprefix(_SOCKET)) if url.startswith(_SOCKET) else None
        self._prefix: str | None = None
        self._version = PREFERRED
        try:
            self._http = NodeHttp(
                node,
                "http://docker" if self._socket else url,
                timeout_seconds=TIMEOUT_SECONDS,
                transport=transport,
                socket_path=str(self._socket) if self._socket else None,
            )
        except SettingsError:
            raise SettingsError(
                f"node {node!r}: controller.url must be unix:///PATH or http://HOST:PORT, without a user or password"
            ) from None
        self.url = url if self._socket else self._http.cleaned(url)
        """For messages: without what may be a key in it."""

    def why_not_reachable(self) -> str:
        """Empty unless it is plain, without asking Docker, that it cannot be reached."""
        if self._socket is None:
            return ""
        if not self._socket.is_socket():
            return f"there is no Docker socket at {self._socket}; set controller.url, or start Docker"
        if not os.access(self._socket, os.R_OK | os.W_OK):
            return (
                f"this user may not use {self._socket}; add it to the socket's group (`usermod -aG docker USER`, "
                "which is as good as root) and log in again"
            )
        return ""

    @property
    def version(self) -> tuple[int, int]:
        """The version of the API that is spoken."""
        self._base()
        return self._version

    def inspect(self, container: str) -> dict[str, Any]:
        """`GET /containers/{name}/json`, whole numbers as int."""
        payload: Any = self._ask(lambda: self._http.get_json(self._path(container, "json")))
        if not isinstance(payload, dict):
            raise EngineError(self.node, f"Docker at {self.url}: container: $: expected an object", status=200)
        # Numbers with a fraction are none of Docker's, but must not keep the rest from being written again.
        return json.loads(json.dumps(payload, default=float))

    def update(self, container: str, body: Mapping[str, Any]) -> None:
        """Change limits or the restart policy."""
        self._post(self._path(container, "update"), body)

    def stop(self, container: str, grace_seconds: int) -> None:
        """Stop, with SIGKILL after the grace; nothing happens where it is stopped."""
        self._post(self._path(container, "stop"), params={"t": grace_seconds}, seconds=grace_seconds + SLOW_SECONDS)

    def start(self, container: str) -> None:
        """Start; nothing happens where it runs."""
        self._post(self._path(container, "start"), seconds=SLOW_SECONDS)

    def restart(self, container: str, grace_seconds: int) -> None:
        """Stop and start. Unlike the two calls one by one, this keeps a container that was run with --rm."""
        self._post(self._path(container, "restart"), params={"t": grace_seconds}, seconds=grace_seconds + SLOW_SECONDS)

    def rename(self, container: str, name: str) -> None:
        """Give it another name."""
        self._post(self._path(container, "rename"), params={"name": name})

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Make a container, not started; its id."""
        payload = self._post("/containers/create", body, params={"name": name}, seconds=SLOW_SECONDS)
        return self._parsed("created container", _Created, payload).id

    def connect(self, network: str, container: str, endpoint: Mapping[str, Any]) -> None:
        """Connect it to one more network."""
        self._post(
            f"/networks/{quote(network, safe='')}/connect", {"Container": container, "EndpointConfig": dict(endpoint)}
        )

    def remove(self, container: str) -> None:
        """Remove it, running or not. Its volumes stay."""
        path = self._base() + f"/containers/{quote(container, safe='')}"
        self._ask(lambda: self._http.delete(path, {"force": 1, "v": 0}, timeout_seconds=SLOW_SECONDS))

    def image_id(self, image: str) -> str | None:
        """What the name stands for now; None where there is no such image."""
        path = self._base() + f"/images/{quote(image, safe='/:@')}/json"
        try:
            payload = self._ask(lambda: self._http.get_json(path))
        except EngineError as error:
            if error.status == 404:
                return None
            raise
        return self._parsed("image", _Image, payload).id

    def statistics(self, container: str) -> Any:
        """One reading of the counters."""
        # Without one-shot Docker waits for a second reading, about 2 s.
        params = {"stream": "false", "one-shot": "true"}
        return self._ask(lambda: self._http.get_json(self._path(container, "stats"), params))

    def host_size(self) -> tuple[int, int]:
        """CPUs and bytes of memory of the engine's host."""
        path = self._base() + "/info"
        host = self._parsed("info", _Host, self._ask(lambda: self._http.get_json(path)))
        return host.cpus, host.mem_total

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _base(self) -> str:
        if self._prefix is None:
            payload = self._ask(lambda: self._http.get_json("/version"))
            told = self._parsed("version", _Version, payload)
            newest, oldest = self._numbers(told.api_version), self._numbers(told.min_api_version)
            self._version = max(oldest, min(newest, PREFERRED))
            if self._version < OLDEST:
                raise EngineError(
                    self.node,
                    f"Docker at {self.url} is too old: it speaks API {told.api_version}, 1.25 (Docker 1.13) is needed",
                    status=200,
                )
            self._prefix = f"/v{self._version[0]}.{self._version[1]}"
        return self._prefix

    def _numbers(self, version: str) -> tuple[int, int]:
        match = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,3})", version)
        if match is None:
            raise EngineError(self.node, f"Docker at {self.url} tells no API version; is it Docker?", status=200)
        return int(match[1]), int(match[2])

    def _path(self, container: str, action: str) -> str:
        return f"{self._base()}/containers/{quote(container, safe='')}/{action}"

    def _post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str | int] | None = None,
        seconds: float = TIMEOUT_SECONDS,
    ) -> Any:
        full = path if path.startswith(self._base()) else self._base() + path
        try:
            return self._ask(lambda: self._http.post_json(full, body, params=params, timeout_seconds=seconds))
        except EngineError as error:
            if error.status == 304:  # it is already as asked for
                return None
            raise

    def _parsed(self, where: str, kind: type[T], payload: Any) -> T:
        return self._ask(lambda: parse(self.node, where, kind, payload))

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except AuthenticationError as error:
            told = (
                f"forbids it: {error.message.split(';', maxsplit=1)[0]}; a proxy before its socket must allow this call"
            )
            raise EngineError(self.node, f"Docker at {self.url} {told}", status=403) from None
        except HttpStatusError as error:
            raise EngineError(self.node, f"Docker at {self.url}: {error.message}", status=error.status) from None
        except NodeConnectionError as error:
            told = f"does not answer: {error.message.removesuffix(_NOT_RUNNING)}; is Docker running?"
            raise EngineError(self.node, f"Docker at {self.url} {told}", status=None) from None
        except EngineError:
            raise
        except AdapterError as error:
            raise EngineError(self.node, f"Docker at {self.url}: {error.message}", status=200) from None


def table(container: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of an inspected container; empty where Docker writes null."""
    found: Any = container.get(name)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
