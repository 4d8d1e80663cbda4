"""Scripted answers, settings and a controller for the adapters' tests."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import httpx

from orcha_pipeline.controllers.base import LimitName, Limits, ProcessUsage
from orcha_pipeline.errors import AllocationError
from orcha_pipeline.settings import NodeSettings

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SECRET = "sekret-0123456789abcdef"

Answer = Any | httpx.Response | Callable[[httpx.Request], Any]


class Script(httpx.MockTransport):
    """Answers by path (without prefix); a callable is asked, a Response is sent, anything else becomes JSON."""

    def __init__(self, routes: dict[str, Answer]) -> None:
        self.routes = routes
        self.requests: list[httpx.Request] = []
        super().__init__(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.path not in self.routes:
            return httpx.Response(404, json={"message": None})
        answer = self.routes[request.url.path]
        if callable(answer) and not isinstance(answer, httpx.Response):
            answer = answer(request)
        if isinstance(answer, httpx.Response):
            # A Response is used up by reading it, so each request gets its own.
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return httpx.Response(200, headers={"content-type": "application/json"}, content=json.dumps(answer))


def settings(protocol: str, **changes: Any) -> NodeSettings:
    given: dict[str, Any] = {
        "name": f"{protocol}-1",
        "protocol": protocol,
        "host": "attic",
        "url": "http://127.0.0.1:9999",
        "demand": {"cpu_threads": 8, "memory_gib": 16, "disk_gb": 4000, "bandwidth_mbps": 100},
        "min_share": 0.1,
        "max_share": 0.9,
    }
    if protocol in ("golem", "grass"):
        given["token"] = SECRET
    return NodeSettings.model_validate(given | changes)


class FakeController:
    """Remembers what it was told; `on_restart` plays the node's part, `takes` what the host makes of limits."""

    def __init__(
        self,
        on_restart: Callable[[], None] = lambda: None,
        why_not: str = "",
        *,
        environment: dict[str, str] | None = None,
        why_not_recreate: str = "this controller recreates nothing",
    ) -> None:
        self.on_restart = on_restart
        self.why_not = why_not
        self.why_not_recreate = why_not_recreate
        self.in_force = Limits()
        self.takes: Callable[[Limits], Limits] = lambda wanted: wanted
        self.variables = environment
        self.restarts: list[int] = []
        self.recreations: list[dict[str, str]] = []
        self.closed = False

    def describe(self) -> str:
        return "a fake"

    def why_cannot_limit(self, limit: LimitName) -> str:
        return self.why_not

    def why_cannot_restart(self) -> str:
        return self.why_not

    def why_cannot_recreate(self) -> str:
        return self.why_not_recreate

    def limits(self) -> Limits:
        return self.in_force

    def set_limits(self, wanted: Limits) -> Limits:
        taken = self.takes(wanted)
        asked = {f.name: getattr(taken, f.name) for f in fields(taken) if getattr(taken, f.name) is not None}
        self.in_force = replace(self.in_force, **{k: None if v == math.inf else v for k, v in asked.items()})
        return self.in_force

    def usage(self) -> ProcessUsage:
        return ProcessUsage(source="fake")

    def restart(self, grace_seconds: int) -> None:
        self.restarts.append(grace_seconds)
        self.on_restart()

    def environment(self) -> dict[str, str] | None:
        return self.variables

    def recreate(self, environment: Mapping[str, str], grace_seconds: int) -> None:
        self.recreations.append(dict(environment))
        self.variables = {**(self.variables or {}), **environment}
        self.on_restart()

    def close(self) -> None:
        self.closed = True


def failing_restart() -> None:
    raise AllocationError("storj-1", "the container does not start")


def no_waiting(monkeypatch: Any) -> None:
    """Make `wait_for` poll without sleeping, on a clock that passes a second a poll."""
    passed = iter(range(10**6))
    monkeypatch.setattr("orcha_pipeline.protocols.levers.monotonic", lambda: float(next(passed)))
    monkeypatch.setattr("orcha_pipeline.protocols.levers.sleep", lambda _seconds: None)
