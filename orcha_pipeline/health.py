"""The page that `orcha up` serves on loopback: whether all is well, for people, for monitors and for Prometheus."""

import socket
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from orcha_pipeline.lookout import Lookout, Seen
from orcha_pipeline.metrics import metrics_text
from orcha_pipeline.status import as_json
from orcha_pipeline.supervisor import ServiceState

STUCK_SECONDS = 60.0
"""A watch that looked after no service for so long is stuck: to end a stubborn one takes seconds."""
_HOST = "127.0.0.1"
_NOT_STORED = {"Cache-Control": "no-store"}


class HealthPage:
    """What `/health`, `/live` and `/metrics` answer; each within a second, whatever is slow or away.

    `services` and `idle_seconds` are the supervisor's `states` and `idle_seconds`.
    """

    def __init__(
        self,
        lookout: Lookout,
        *,
        services: Callable[[], Sequence[ServiceState]],
        idle_seconds: Callable[[], float | None],
    ) -> None:
        self._lookout, self._services, self._idle_seconds = lookout, services, idle_seconds

    def app(self) -> Starlette:
        """The pages. A foreign Host header is refused, so that no page in the operator's browser can read them."""
        return Starlette(
            routes=[
                Route("/health", self._health, methods=["GET"]),
                Route("/live", self._live, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[_HOST, "localhost"], www_redirect=False)],
        )

    def _health(self, _request: Request) -> Response:
        told = health_json(self._lookout.seen(), self._services(), starting=self._idle_seconds() is None)
        return JSONResponse(told, status_code=200 if told["healthy"] else 503, headers=_NOT_STORED)

    def _live(self, _request: Request) -> Response:
        idle = self._idle_seconds()
        live = idle is None or idle < STUCK_SECONDS
        told = {"version": 1, "live": live, "starting": idle is None, "idle_seconds": idle and round(idle, 1)}
        return JSONResponse(told, status_code=200 if live else 503, headers=_NOT_STORED)

    def _metrics(self, _request: Request) -> Response:
        text = metrics_text(self._lookout.seen(), self._services(), now=datetime.now(UTC))
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST, **_NOT_STORED})


def health_json(seen: Seen, services: Sequence[ServiceState], *, starting: bool) -> dict[str, Any]:
    """What `orcha status --json` gives, with the services' problems first, and how old it is.

    Before the first look the parts that only a look can tell are missing.
    """
    problems = [*map(_down, (each for each in services if not each.is_up)), *seen.problems]
    return {
        **({"version": 1} if seen.sight is None else as_json(seen.sight.vitals)),
        "healthy": not problems,
        "problems": problems,
        "starting": starting,
        "age_seconds": None if seen.age is None else round(seen.age, 1),
        "services": [
            {
                "name": each.name,
                "up": each.is_up,
                "restarts": each.restarts,
                "last_fault": each.why or None,
                "retry_in_seconds": None if each.retry_in is None else round(each.retry_in, 1),
            }
            for each in services
        ],
    }


def _down(service: ServiceState) -> str:
    if service.retry_in is None:
        return f"{service.name} is starting"
    return f"{service.name} is down: it {service.why}; next try in {service.retry_in:.0f} s"


@contextmanager
def serve(app: Starlette, port: int) -> Generator[None]:
    """Serve `app` on 127.0.0.1:`port` in a thread, until left. Raises `OSError` where the port cannot be used."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
        listener.listen()  # now, not once the thread has come so far: whoever asks meanwhile waits
        config = uvicorn.Config(
            app,
            log_config=None,  # the process keeps its own logging
            log_level="error",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="health page", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join(timeout=3.0)
