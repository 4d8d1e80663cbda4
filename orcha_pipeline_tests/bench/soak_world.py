"""The world of the soak: a testnet in a process of its own, its clock, and the outages that are drawn for it."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import psutil

START_SECONDS = 120
NODES = ("storj", "golem", "streamr", "grass")
PRICES = "coingecko"
KINDS = ("dead", "html", "truncated", "status", "reset")


@dataclass(frozen=True, slots=True)
class Outage:
    """What is wrong with some doors of the testnet, from when (since the soak's begin) and for how long."""

    begins: timedelta
    lasts: timedelta
    doors: tuple[str, ...]
    kind: str


def draw_outages(
    days: float, *, seed: int, nodes: Sequence[str], services: Sequence[str], squeeze: float = 1.0
) -> list[Outage]:
    """Outages of so many days, by their begin.

    Each day one node is away or answers rubbish for hours; every second day the prices are away, every third a node's
    lever does not take, every fifth (the first too) all `nodes` and `services` of the host are away at once. With
    `squeeze` all of it comes and goes so many times faster.
    """
    rng = np.random.default_rng(seed)
    found: list[Outage] = []

    def add(day: int, doors: Sequence[str], kind: str, least: float, most: float) -> None:
        begins = timedelta(days=day, hours=float(rng.uniform(1, 18)))
        lasts = timedelta(hours=float(rng.uniform(least, most)))
        found.append(Outage(begins / squeeze, lasts / squeeze, tuple(doors), kind))

    for day in range(int(np.ceil(days * squeeze))):
        add(day, [str(rng.choice(nodes))], str(rng.choice(KINDS)), 1, 5)
        if day % 2 == 0:
            add(day, [PRICES], "dead", 1, 4)
        if day % 3 == 0:
            add(day, [str(rng.choice(nodes))], "apply_fails", 4, 8)
        if day % 5 == 0:
            add(day, [*nodes, *services], "dead", 2, 5)
    return sorted(found, key=lambda outage: outage.begins)


class World:
    """The testnet at `base`, told by its control addresses."""

    def __init__(self, base: str, process: psutil.Process) -> None:
        self.process = process
        self._http = httpx.Client(base_url=f"{base}/testnet", trust_env=False, timeout=START_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def advance_to(self, moment: datetime) -> None:
        """Let the time until `moment` pass at once."""
        self._http.post("/clock", json={"advance_to": moment.isoformat()}).raise_for_status()

    def earning_nothing(self) -> list[str]:
        """The nodes that run and earn nothing now: the simulated world has outages of its own."""
        found = self._http.get("/nodes").raise_for_status().json()
        return [name for name, node in found.items() if node["running"] and node["native_per_hour"] == 0]

    def begin(self, outage: Outage, *, already: timedelta = timedelta(0)) -> None:
        """Make it happen from now on, `already` of it being over; it ends by itself."""
        for door in outage.doors:
            fault = {"node": door, "kind": outage.kind, "seconds": (outage.lasts - already).total_seconds()}
            self._http.post("/faults", json=fault).raise_for_status()


@contextlib.contextmanager
def testnet(folder: Path, port: int, *, start: datetime, seed: int) -> Iterator[World]:
    """A testnet whose clock stands at `start`; nodes restart within a second. Ended in the end."""
    command = [sys.executable, "-m", "orcha_pipeline.testnet.server", "--state", str(folder), "--port", str(port)]
    command += ["--seed", str(seed), "--start", start.isoformat()]
    command += ["--restart-seconds", ",".join(f"{protocol}=1" for protocol in NODES)]
    process = subprocess.Popen(command)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(process, base)
        with contextlib.closing(World(base, psutil.Process(process.pid))) as world:
            yield world
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=START_SECONDS)


def _wait_until_up(process: subprocess.Popen[bytes], base: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(f"{base}/testnet/health", trust_env=False).raise_for_status()
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    sys.exit("the testnet did not start")
