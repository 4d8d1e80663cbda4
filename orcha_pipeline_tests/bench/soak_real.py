"""A compressed real run: `orcha up` with a cycle each minute, and what every process of it takes meanwhile.

Nothing is virtual here: the daemon's schedule starts the cycles, its sensors the applications, each run is a process.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import psutil
import tomlkit
from rich.console import Console
from rich.table import Table

from orcha_pipeline.automation.jobs import APPLY_ALLOCATION, CYCLE
from orcha_pipeline.settings import ServiceSettings
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.consistency import breaches
from orcha_pipeline_tests.bench.soak_curves import flatness
from orcha_pipeline_tests.bench.soak_cycles import MIB, mib_of
from orcha_pipeline_tests.ports import free_port

SAMPLE_SECONDS = 2.0
START_SECONDS = 600.0
END_SECONDS = 60.0
HISTORY_DAYS = 4
ROLES: Mapping[str, str] = {
    "orcha_pipeline.guardian": "guardians",
    "orcha_pipeline.testnet.server": "testnet",
    "spawn_main": "runs",
    "resource_tracker": "code server",
    "code-server": "code server",
    "api grpc": "code server",
    "dagster-webserver": "webserver",
    "dagster-daemon": "daemon",
    "mlflow": "MLflow",
    "orcha up": "orcha up",
}
"""What stands in a process's command line -> what it is called here; the first that is found counts."""
A_DAY, AN_HOUR = 86_400.0, 3600.0


@dataclass(frozen=True, slots=True)
class Taken:
    """What the processes of one role take together at a moment."""

    seconds: float
    rss_mib: float
    handles: int
    threads: int
    processes: int


class RealRun:
    """`orcha up` in `folder`, and what was seen of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.log = folder, folder / ".orcha", folder / "up.log"
        self.taken: dict[str, list[Taken]] = {}
        self.disk: list[tuple[float, float]] = []
        """(seconds since the begin, MiB of the data folder)."""
        ports = {name: free_port() for name in ServiceSettings.model_fields if name.endswith("_port")}
        settings = {
            "home": ".orcha",
            "cycle_cron": "* * * * *",
            "services": ports,
            "testnet": {"port": free_port(), "history_days": HISTORY_DAYS},
            # The network is trained by a run that ends; it is no part of what goes on for weeks.
            "forecast": {"candidates": ["linear"]},
        }
        (folder / "orcha.toml").write_text(tomlkit.dumps(settings), encoding="utf-8")

    @contextlib.contextmanager
    def up(self) -> Iterator[psutil.Process]:
        """Start it and wait until it is on watch; end it as Ctrl-C does."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORCHA_", "DAGSTER_"))}
        with self.log.open("w") as log:
            process = subprocess.Popen(
                [str(Path(sys.executable).with_name("orcha")), "up"],
                cwd=self.folder,
                env={**kept, "COLUMNS": "200"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            deadline = time.monotonic() + START_SECONDS
            while "Ctrl-C" not in self.log.read_text(encoding="utf-8"):
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"orcha up did not come up:\n{self.log.read_text(encoding='utf-8')}")
                time.sleep(1.0)
            yield psutil.Process(process.pid)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(timeout=END_SECONDS)

    def watch(self, minutes: float) -> None:
        """Look at it every few seconds, for so long."""
        with self.up() as process:
            began = time.monotonic()
            while (seconds := time.monotonic() - began) < 60.0 * minutes:
                for role, taken in taken_by_role(process, seconds).items():
                    self.taken.setdefault(role, []).append(taken)
                self.disk.append((seconds, mib_of(self.home)))
                time.sleep(SAMPLE_SECONDS)

    def content(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        with Warehouse(self.home / "warehouse.duckdb").read() as connection:
            found = breaches(connection, datetime.now(UTC))
            verdicts = connection.execute("SELECT verdict, count(*) FROM decisions GROUP BY verdict").fetchall()
        return {
            "breaches": [f"{each.rule.told}: {', '.join(each.examples)}" for each in found],
            "verdicts": dict(verdicts),
            "runs": run_seconds(self.home / "dagster"),
            "processes": {role: _told_role(seen) for role, seen in sorted(self.taken.items())},
            "disk_mib": {"first": self.disk[0][1], "last": self.disk[-1][1], **_growth(self.disk)},
            "curves": {role: [asdict(taken) for taken in seen] for role, seen in self.taken.items()},
        }


def taken_by_role(process: psutil.Process, seconds: float) -> dict[str, Taken]:
    """What each role takes now; a process that has just ended takes nothing."""
    found: dict[str, list[tuple[float, int, int]]] = {}
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess), each.oneshot():
            role = role_of(" ".join(each.cmdline()))
            found.setdefault(role, []).append((each.memory_info().rss / MIB, each.num_fds(), each.num_threads()))
    return {
        role: Taken(
            seconds=seconds,
            rss_mib=sum(one[0] for one in taken),
            handles=sum(one[1] for one in taken),
            threads=sum(one[2] for one in taken),
            processes=len(taken),
        )
        for role, taken in found.items()
    }


def role_of(command: str) -> str:
    """What a process with this command line is called."""
    return next((role for mark, role in ROLES.items() if mark in command), "others")


def run_seconds(dagster_home: Path) -> dict[str, dict[str, float]]:
    """Job -> how many of its runs ended how, and how long they took from their start."""
    found: dict[str, dict[str, float]] = {}
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        for job in (CYCLE, APPLY_ALLOCATION):
            records = instance.get_run_records(dg.RunsFilter(job_name=job))
            took = [r.end_time - r.start_time for r in records if r.end_time and r.start_time]
            ended = Counter(record.dagster_run.status.value.lower() for record in records)
            found[job] = {name: float(count) for name, count in ended.items()}
            if took:
                seconds = {"p50 s": float(np.quantile(took, 0.5)), "p99 s": float(np.quantile(took, 0.99))}
                found[job] = {**found[job], **seconds}
    return found


def _told_role(seen: list[Taken]) -> dict[str, Any]:
    return {
        "processes": max(taken.processes for taken in seen),
        "rss_mib": _growth([(taken.seconds, taken.rss_mib) for taken in seen]),
        "handles": _growth([(taken.seconds, taken.handles) for taken in seen]),
        "threads": _growth([(taken.seconds, taken.threads) for taken in seen]),
    }


def _growth(course: list[tuple[float, float]]) -> dict[str, float]:
    """Level and slope an hour, of (seconds, value)."""
    found = flatness(*np.array(course, dtype=np.float64).T * np.array([[1 / A_DAY], [1.0]]))
    return {"level": found.level, "slope_an_hour": found.slope * AN_HOUR / A_DAY}


def show(console: Console, content: dict[str, Any], minutes: float) -> None:
    """The report as a person reads it."""
    console.print(
        f"{timedelta(minutes=minutes)} of `orcha up`; {content['verdicts']}; {len(content['breaches'])} breaches"
    )
    for job, runs in content["runs"].items():
        console.print(f"{job}: " + ", ".join(f"{name} {value:.3g}" for name, value in runs.items()), highlight=False)
    disk = content["disk_mib"]
    console.print(f"data folder: {disk['first']:.1f} to {disk['last']:.1f} MiB, {disk['slope_an_hour']:+.1f} an hour")
    table = Table(title="The last two thirds: level, and slope an hour")
    for column in ("processes", "how many", "MiB", "an hour", "handles", "an hour", "threads", "an hour"):
        table.add_column(column, justify="left" if column == "processes" else "right")
    for role, told in content["processes"].items():
        cells = [
            cell
            for name in ("rss_mib", "handles", "threads")
            for cell in (f"{told[name]['level']:.0f}", f"{told[name]['slope_an_hour']:+.3g}")
        ]
        table.add_row(role, f"{told['processes']}", *cells)
    console.print(table)
