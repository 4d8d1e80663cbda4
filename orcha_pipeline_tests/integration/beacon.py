"""An emulated node of the plug-in example's protocol, and the example as an installer leaves it."""

import contextlib
import json
import shutil
import threading
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from orcha_pipeline.model import hour_of

EXAMPLE = Path(__file__).resolve().parents[1] / "plugin_example"
FULL_MBPS = 800.0
USD_PER_HOUR = 0.05
"""At full share."""


class Relay:
    """An emulated Beacon node: what it earns follows its limit and its clock."""

    def __init__(self, key: str, start: datetime) -> None:
        self.key = key
        self._moment: datetime | None = start
        self._lock = threading.RLock()
        self._counted_to = start
        self._hours: dict[datetime, float] = {}
        self.opened_at = start
        self.mbps = 0.25 * FULL_MBPS
        self.takes_limits = True
        self.set_to: list[float] = []

    def _count(self) -> None:
        """Earn until now, full hour by full hour."""
        now = self._moment or datetime.now(UTC)
        while self._counted_to < now:
            hour = hour_of(self._counted_to)
            until = min(hour + timedelta(hours=1), now)
            earned = (until - self._counted_to) / timedelta(hours=1) * USD_PER_HOUR * self.mbps / FULL_MBPS
            self._hours[hour] = self._hours.get(hour, 0.0) + earned
            self._counted_to = until

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        with self._lock:
            if path == "/control":
                self._moment = None if body.get("live") else datetime.fromisoformat(body["advance_to"])
            self._count()
            total = f"{Decimal(sum(self._hours.values())):.9f}"
            match method, path:
                case "POST", "/control":
                    return 200, {}
                case "GET", "/v1/status":
                    return 200, {"version": "2.4.1", "peers": 12, "reputation": 0.98}
                case "GET", "/v1/earnings":
                    opened = self.opened_at.isoformat()
                    return 200, {
                        "ledger": "L-7",
                        "openedAt": opened,
                        "totalUsd": total,
                        "awaitingPaymentUsd": total,
                    }
                case "GET", "/v1/earnings/hours":
                    told = [{"start": h.isoformat(), "earnedUsd": f"{usd:.9f}"} for h, usd in self._hours.items()]
                    return 200, {"hours": told}
                case "GET", "/v1/traffic":
                    return 200, {"receivedBytes": 10**9, "sentBytes": 2 * 10**9}
                case "GET", "/v1/limits":
                    return 200, {"relayMbps": self.mbps, "lockedByOperator": False}
                case "POST", "/v1/limits":
                    self.set_to.append(body["relayMbps"])
                    self.mbps = body["relayMbps"] if self.takes_limits else self.mbps
                    return 200, {}
        return 404, {"message": "no such path"}


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def _respond(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"null")
        path = self.path.partition("?")[0]
        if path != "/control" and self.headers.get("x-beacon-key") != self.server.relay.key:
            status, answer = 401, {"message": "bad key"}
        else:
            status, answer = self.server.relay.answer(self.command, path, body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _respond  # noqa: N815 (the base class looks for these names)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it)
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, relay: Relay) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.relay = relay


@contextlib.contextmanager
def relay_server(relay: Relay) -> Iterator[str]:
    """Serves the emulated node on loopback; yields its address."""
    with _Server(relay) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def install(target: Path) -> Path:
    """What an installer leaves of the example in a folder of packages: its modules and its metadata."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    shutil.copytree(EXAMPLE / "src" / "orcha_beacon", target / "orcha_beacon")
    metadata = target / f"orcha_beacon-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(points) + "\n")
    return target
