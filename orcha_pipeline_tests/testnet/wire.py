"""A testnet behind a real socket, served by a thread of this process on a wall clock the test sets."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import uvicorn

from orcha_pipeline.testnet.door import Connections
from orcha_pipeline_tests.testnet.conftest import Lab


@dataclass
class Wire:
    """A lab, its address, and a client that keeps no connection."""

    lab: Lab
    base: str
    client: httpx.Client

    def fault(self, node: str, kind: str, **more: object) -> httpx.Response:
        return self.client.post("/testnet/faults", json={"node": node, "kind": kind, **more})


@contextlib.contextmanager
def wired(lab: Lab) -> Iterator[Wire]:
    """Serve the lab's door until the block ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # whoever connects before the server is up waits for it
        config = uvicorn.Config(
            lab.http.app,
            http=Connections,
            lifespan="off",
            log_level="warning",
            timeout_graceful_shutdown=1,
            date_header=False,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        limits = httpx.Limits(max_keepalive_connections=0)
        try:
            with httpx.Client(base_url=base, trust_env=False, limits=limits, timeout=20) as client:
                yield Wire(lab, base, client)
        finally:
            server.should_exit = True
            thread.join(timeout=15)
            assert not thread.is_alive()
