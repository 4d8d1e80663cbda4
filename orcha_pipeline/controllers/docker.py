"""Limits and restarts of a node's container by the Docker Engine API."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_pascal

from orcha_pipeline.controllers.base import Limits
from orcha_pipeline.errors import AdapterError, AllocationError, SettingsError, UnsupportedError
from orcha_pipeline.protocols.http import NodeHttp
from orcha_pipeline.protocols.levers import wait_for
from orcha_pipeline.protocols.parsing import Whole, parse

API = "/v1.43"
TIMEOUT_SECONDS = 10.0
START_SECONDS = 60.0
"""How long a restarted container may take to run, and how much longer than its grace the call may take."""
NANO = 1_000_000_000
LEAST_THREADS = 0.01
_SOCKET = "unix://"

T = TypeVar("T")


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_pascal)


class _HostConfig(_Model):
    """0 is no limit. A CPU limit is given either as `NanoCpus` or as a quota of a period (microseconds)."""

    nano_cpus: Whole
    memory: Whole
    cpu_quota: int = 0
    cpu_period: int = 0


class _State(_Model):
    running: bool
    status: str


class _Container(_Model):
    host_config: _HostConfig
    state: _State


class DockerController:
    """One container. Every failure is an `AllocationError` with Docker's own message."""

    def __init__(self, node: str, *, url: str, container: str, transport: httpx.BaseTransport | None = None) -> None:
        """`url`: `unix:///path/to/docker.sock`, or an http address, which may have a path. Raises `SettingsError`."""
        self._node = node
        self._url = url
        self._container = container
        self._socket = Path(url.removeprefix(_SOCKET)) if url.startswith(_SOCKET) else None
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

    def why_not_writable(self) -> str:
        """Empty where a container is named and Docker's socket is there; Docker is not asked."""
        if not self._container:
            return "controller.container is not set: name the node's container"
        if self._socket is not None and not self._socket.is_socket():
            return f"there is no Docker socket at {self._socket}; set controller.url, or start Docker"
        return ""

    def limits(self) -> Limits:
        """The container's limits in force."""
        config = self._inspect().host_config
        threads: float | None = None
        if config.nano_cpus:
            threads = config.nano_cpus / NANO
        elif config.cpu_quota > 0 and config.cpu_period > 0:
            threads = config.cpu_quota / config.cpu_period
        return Limits(cpu_threads=threads, memory_bytes=config.memory or None)

    def set_cpu(self, threads: float) -> Limits:
        """Limit the running container; it need not restart. Returns what Docker reports afterwards."""
        self._require_writable()
        if not math.isfinite(threads) or threads < LEAST_THREADS:
            raise AllocationError(self._node, f"a CPU limit must be at least {LEAST_THREADS} threads, not {threads!r}")
        wanted = round(threads * NANO)
        self._ask(lambda: self._http.post_json(self._path("update"), {"NanoCpus": wanted}))
        limits = self.limits()
        if limits.cpu_threads is None or abs(limits.cpu_threads - threads) > 1e-6:
            seen = "no limit" if limits.cpu_threads is None else f"{limits.cpu_threads:g} threads"
            raise AllocationError(
                self._node, f"Docker took a CPU limit of {threads:g} threads for {self._container!r} but reports {seen}"
            )
        return limits

    def restart(self, grace_seconds: int) -> None:
        """Restart, and return once Docker reports the container running. The grace is for a clean shutdown."""
        self._require_writable()
        patience = grace_seconds + START_SECONDS
        self._ask(
            lambda: self._http.post_json(self._path("restart"), params={"t": grace_seconds}, timeout_seconds=patience)
        )

        def running() -> bool | None:
            return True if self._inspect().state.running else None

        if wait_for(running, seconds=START_SECONDS) is None:
            status = self._inspect().state.status
            raise AllocationError(
                self._node,
                f"container {self._container!r} is {status!r} {START_SECONDS:g} s after its restart; see docker logs",
            )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _path(self, action: str) -> str:
        return f"{API}/containers/{quote(self._container, safe='')}/{action}"

    def _inspect(self) -> _Container:
        self._require_writable()
        payload = self._ask(lambda: self._http.get_json(self._path("json")))
        return self._ask(lambda: parse(self._node, "container", _Container, payload))

    def _require_writable(self) -> None:
        why_not = self.why_not_writable()
        if why_not:
            raise UnsupportedError(self._node, why_not)

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except AdapterError as error:
            raise AllocationError(self._node, f"Docker at {self._url}: {error.message}") from None
