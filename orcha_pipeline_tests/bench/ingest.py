"""How long one real ingest takes, for the 4 nodes of one host and for the 4,000 of a thousand.

`make bench-ingest` starts a testnet in a process of its own, live, and lets Orcha read it as a cycle does: adapters
made anew, every node read, everything written to a warehouse. Beside it stands the same reading of the same nodes,
one after another. Both use this machine's cores, server and client alike.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from orcha_pipeline.ingest import FIRST_WINDOW, ingest_now, open_adapters
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import Window
from orcha_pipeline.prices import PriceClient
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.reading import read_node, read_nodes
from orcha_pipeline.settings import Settings, TestnetSettings
from orcha_pipeline.testnet.addresses import SERVICES
from orcha_pipeline.testnet.clock import TestnetClock
from orcha_pipeline.testnet.fleet import embedded_settings
from orcha_pipeline_tests.ports import free_port

START_SECONDS = 120
SAMPLE = 100
"""Nodes read one after another where there are many; the whole is extrapolated and said to be."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One size of testnet. Seconds are medians of the runs; a run's own are in `runs`."""

    hosts: int
    nodes: int
    latency_seconds: float
    start_seconds: float
    ingest_seconds: float
    """Adapters made, nodes read, everything written, connections closed."""
    adapters_seconds: float
    reading_seconds: float
    """Of the nodes alone, side by side."""
    one_after_another_seconds: float
    """Of the nodes alone; extrapolated from `sample` of them where these are fewer."""
    sample: int
    times_faster: float
    failures: int
    why: list[str]
    """Of some failures."""
    rows: int
    client_cpu_seconds: float
    server_cpu_seconds: float
    server_memory_mib: float
    runs: list[float]


@contextlib.contextmanager
def testnet(folder: Path, port: int, hosts: int) -> Iterator[psutil.Process]:
    """A testnet of `hosts` in a process of its own, live; ended in the end."""
    command = [sys.executable, "-m", "orcha_pipeline.testnet.server", "--state", str(folder / "testnet")]
    command += ["--port", str(port), "--hosts", str(hosts)]
    process = subprocess.Popen(command)
    try:
        base = f"http://127.0.0.1:{port}/testnet"
        deadline = time.monotonic() + START_SECONDS
        with httpx.Client(trust_env=False, timeout=START_SECONDS) as client:
            while True:
                try:
                    client.get(f"{base}/health").raise_for_status()
                    break
                except httpx.TransportError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        sys.exit("the testnet did not start")
                    time.sleep(0.05)
            client.post(f"{base}/clock", json={"live": True}).raise_for_status()
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=START_SECONDS)


def slow_down(base: str, doors: Sequence[str], seconds: float) -> None:
    """Let every door answer that much later, as nodes on other machines do."""
    with httpx.Client(trust_env=False, timeout=START_SECONDS) as client:
        for door in doors:
            fault = {"node": door, "kind": "slow", "delay_seconds": seconds}
            client.post(f"{base}/testnet/faults", json=fault).raise_for_status()


def one_after_another(adapters: Sequence[Adapter], now: datetime) -> float:
    """Seconds that reading these nodes one by one takes."""
    window = Window(now - FIRST_WINDOW, now)
    begun = time.perf_counter()
    for adapter in adapters:
        read_node(adapter, window, now, balances=True)
    return time.perf_counter() - begun


def side_by_side(adapters: Sequence[Adapter], now: datetime) -> float:
    """Seconds that reading these nodes as an ingest does takes."""
    windows = {adapter.node: Window(now - FIRST_WINDOW, now) for adapter in adapters}
    begun = time.perf_counter()
    read_nodes(adapters, windows, now, balances=windows)
    return time.perf_counter() - begun


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time a process has used."""
    times = process.cpu_times()
    return times.user + times.system


def measure(hosts: int, latency: float, runs: int) -> Measured:
    """Ingest a testnet of `hosts` whose doors answer `latency` seconds late `runs` times, after a first time."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        home, port = Path(name), free_port()
        begun = time.perf_counter()
        server = stack.enter_context(testnet(home, port, hosts))
        started = time.perf_counter() - begun
        settings = embedded_settings(Settings(home=home, testnet=TestnetSettings(port=port, hosts=hosts)))
        clock = stack.enter_context(TestnetClock(f"http://127.0.0.1:{port}"))
        installation = Installation(settings=settings, clock=clock, simulated=True)
        installation.warehouse.migrate()
        if latency:
            doors = [node.name for node in settings.nodes if node.protocol != "grass"]
            slow_down(f"http://127.0.0.1:{port}", [*doors, *SERVICES], latency)
        whole: list[float] = []
        made: list[float] = []
        alone: list[float] = []
        serial: list[float] = []
        failures = rows = 0
        why: list[str] = []
        used = [0.0, 0.0]
        own = psutil.Process()
        for run in range(runs + 1):
            before = cpu_seconds(own), cpu_seconds(server)
            begun = time.perf_counter()
            with open_adapters(installation) as adapters:
                opened = time.perf_counter() - begun
                with contextlib.closing(PriceClient(settings.prices, clock)) as prices:
                    report = ingest_now(installation, installation.warehouse, adapters, prices)
            seconds = time.perf_counter() - begun
            if run == 0:  # makes the tables' first rows; a cycle replaces or adds to what is there
                continue
            whole.append(seconds)
            made.append(opened)
            failures, rows = max(failures, len(report.failures)), sum(report.rows.values())
            why = [*why, *(f"{node}: {reason}" for node, reason in report.failures.items())][:3]
            used = [used[0] + cpu_seconds(own) - before[0], used[1] + cpu_seconds(server) - before[1]]
            with open_adapters(installation) as adapters:
                alone.append(side_by_side(list(adapters.values()), clock.now()))
            with open_adapters(installation) as adapters:
                every = list(adapters.values())
                # An odd step, so that the sample has nodes of all four protocols.
                sample = every[:: len(every) // SAMPLE | 1]
                serial.append(one_after_another(sample, clock.now()) * len(every) / len(sample))
        return Measured(
            hosts=hosts,
            nodes=len(settings.nodes),
            latency_seconds=latency,
            start_seconds=started,
            ingest_seconds=statistics.median(whole),
            adapters_seconds=statistics.median(made),
            reading_seconds=statistics.median(alone),
            one_after_another_seconds=statistics.median(serial),
            sample=len(sample),
            times_faster=statistics.median(serial) / statistics.median(alone),
            failures=failures,
            why=why,
            rows=rows,
            client_cpu_seconds=used[0] / runs,
            server_cpu_seconds=used[1] / runs,
            server_memory_mib=server.memory_info().rss / 1024**2,
            runs=whole,
        )


def main() -> None:
    """Measure, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 1000], help="sizes of testnets (default: 1 1000)")
    parser.add_argument(
        "--latency-ms", type=float, nargs="+", default=[0], help="how late every door answers (default: 0)"
    )
    parser.add_argument("--runs", type=int, default=3, help="ingests of each, after a first one (default: 3)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    console = Console()
    measured: list[Measured] = []
    for hosts in given.hosts:
        for latency in given.latency_ms:
            with console.status(f"Ingesting {4 * hosts} nodes that answer {latency:g} ms late"):
                measured.append(measure(hosts, latency / 1000.0, given.runs))
    table = Table(
        title=f"One ingest, median of {given.runs} ({os.cpu_count()} cores, Python {platform.python_version()})"
    )
    for column in ("nodes", "late ms", "ingest s", "reading s", "one by one s", "times", "failed", "rows"):
        table.add_column(column, justify="right")
    for one in measured:
        extrapolated = "" if one.sample == one.nodes else f" (of {one.sample})"
        table.add_row(
            f"{one.nodes}",
            f"{1000.0 * one.latency_seconds:g}",
            f"{one.ingest_seconds:.2f}",
            f"{one.reading_seconds:.2f}",
            f"{one.one_after_another_seconds:.2f}{extrapolated}",
            f"{one.times_faster:.1f}",
            f"{one.failures}",
            f"{one.rows}",
        )
    console.print(table)
    for one in measured:
        console.print(
            f"{one.nodes} nodes, {1000.0 * one.latency_seconds:g} ms late: testnet up in {one.start_seconds:.1f} s, "
            f"{one.server_memory_mib:.0f} MiB in the end; processor seconds an ingest: Orcha "
            f"{one.client_cpu_seconds:.1f}, testnet {one.server_cpu_seconds:.1f}; adapters made in "
            f"{one.adapters_seconds:.1f} s",
            highlight=False,
        )
        for reason in one.why:
            console.print(f"  not read: {reason}", highlight=False, markup=False)
    if given.json:
        content = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "cores": os.cpu_count()}
        given.json.write_text(json.dumps({**content, "measured": [asdict(one) for one in measured]}, indent=2) + "\n")
        console.print(f"Wrote {given.json}.")


if __name__ == "__main__":
    main()
