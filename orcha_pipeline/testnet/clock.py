"""The testnet's clock as its clients see it: read over HTTP, moved by hand or set to follow the wall clock."""

from datetime import datetime
from types import TracebackType
from typing import Any, Self

import httpx

from orcha_pipeline.errors import SupervisionError
from orcha_pipeline.model import utc


class TestnetClock:
    """Implements `orcha_pipeline.clock.Clock`. Every method raises `SupervisionError` where the testnet is away."""

    __test__ = False

    def __init__(
        self, url: str, *, timeout_seconds: float = 60.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        """`url`: the testnet's base address. Catching up over weeks takes a second or two: keep the timeout ample."""
        self._url = url.rstrip("/")
        # No connection is kept between two questions: who only reads a clock cannot be asked to close it.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(timeout=timeout_seconds, transport=transport, limits=limits, trust_env=False)

    def now(self) -> datetime:
        """The testnet's present moment, UTC, whole seconds."""
        return datetime.fromisoformat(self._ask("GET")["now"])

    def is_live(self) -> bool:
        """True when the clock follows the wall clock."""
        return bool(self._ask("GET")["live"])

    def advance_to(self, moment: datetime) -> datetime:
        """Let time pass until `moment` and return the new time. Refused when live, and for a moment that is past."""
        return datetime.fromisoformat(self._ask("POST", {"advance_to": utc(moment).isoformat()})["now"])

    def go_live(self) -> datetime:
        """Catch up with the wall clock and follow it from now on; returns the new time."""
        return datetime.fromisoformat(self._ask("POST", {"live": True})["now"])

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._client.request(method, f"{self._url}/testnet/clock", json=body)
        except httpx.HTTPError as error:
            raise SupervisionError(
                f"The testnet at {self._url} does not answer ({type(error).__name__}). Start it with `orcha up`."
            ) from error
        if "x-orcha-simulated" not in response.headers:
            raise SupervisionError(
                f"What answers at {self._url} is not the testnet. Set another port as testnet.port in orcha.toml."
            )
        answer: dict[str, Any] = response.json()
        if response.is_error:
            raise SupervisionError(f"The testnet refused to move its clock: {answer.get('error', response.text)}.")
        return answer
