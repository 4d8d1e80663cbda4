"""The testnet's clock as its clients see it: read over HTTP, moved by hand or set to follow the wall clock."""

import ssl
from datetime import datetime
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Any, Self

import httpx

from orcha_pipeline.errors import SupervisionError
from orcha_pipeline.model import utc

# The testnet speaks plain HTTP: reading the system's authorities took 20 ms a clock, some 20 times a cycle.
_NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TRUSTED_SECONDS = 0.2
"""How long an answer is used again: one reading of a fleet asks for the time tens of thousands of times."""


class TestnetClock:
    """Implements `orcha_pipeline.clock.Clock`. Every method raises `SupervisionError` where the testnet is away."""

    __test__ = False

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 60.0,
        trusted_seconds: float = TRUSTED_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`url`: the testnet's base address. `trusted_seconds`: of the wall's, how old a time may be that is told."""
        self._url = url.rstrip("/")
        self._trusted_seconds = trusted_seconds
        self._lock = Lock()
        self._last: dict[str, Any] = {}
        self._last_until = 0.0
        # No connection is kept between two questions: who only reads a clock cannot be asked to close it.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(
            timeout=timeout_seconds, transport=transport, limits=limits, trust_env=False, verify=_NO_AUTHORITIES
        )

    def now(self) -> datetime:
        """The testnet's present moment, UTC, whole seconds. May be `trusted_seconds` old."""
        with self._lock:
            answer = self._last if monotonic() < self._last_until else self._ask("GET")
        return datetime.fromisoformat(answer["now"])

    def is_live(self) -> bool:
        """True when the clock follows the wall clock."""
        return bool(self._ask("GET")["live"])

    def advance_to(self, moment: datetime) -> datetime:
        """Let time pass until `moment` and return the new time. Refused for a moment that is past."""
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
        # Where time runs fast an answer is old sooner; a clock that stands still may be moved by another client.
        lasts = self._trusted_seconds / max(1.0, answer.get("speed", 1.0)) if answer["live"] else 0.0
        self._last, self._last_until = answer, monotonic() + lasts
        return answer
