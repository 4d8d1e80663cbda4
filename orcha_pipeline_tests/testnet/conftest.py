"""A testnet in this process, driven without a network, on a wall clock the test sets."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from orcha_pipeline.testnet.server import build_app
from orcha_pipeline.testnet.simulation import Testnet

START = datetime(2026, 10, 20, tzinfo=UTC)


class Client:
    """Asks the application directly; one event loop a request."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://testnet", trust_env=False) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", path, **options)


class Lab:
    """One testnet and a client of its door."""

    def __init__(self, state: Path, **options: Any) -> None:
        self.wall_now = START.timestamp()
        self.testnet = Testnet(
            state=state,
            seed=options.pop("seed", 1),
            start=options.pop("start", START),
            wall=lambda: self.wall_now,
            **options,
        )
        self.http = Client(build_app(self.testnet))

    @property
    def economy(self):
        return self.testnet.economy

    def pass_hours(self, hours: float) -> None:
        self.pass_seconds(round(hours * 3600))

    def pass_seconds(self, seconds: int) -> None:
        self.testnet.advance_to(self.testnet.time.now + seconds)
        for host in self.testnet.hosts.values():
            self.testnet.catch_up(host)

    def get(self, path: str, **options: Any):
        return self.http.get(path, **options)

    def json(self, path: str, **options: Any) -> Any:
        response = self.http.get(path, **options)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("application/json")
        return response.json()

    def truth(self, node: str) -> dict[str, Any]:
        return self.testnet.true_state()[node]


@pytest.fixture
def make_lab(tmp_path: Path) -> Callable[..., Lab]:
    return lambda **options: Lab(options.pop("state", tmp_path / "state"), **options)


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab()
