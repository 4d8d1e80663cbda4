"""Applications by the daemon, the code server and a run of theirs, of which one is killed at each boundary in turn.

`make bench-service-faults` has decisions of two moves carried out as in operation: the sensor sees an approved
decision, the daemon starts the run, the code server its process. At the first, second, third ... boundary (before and
after the claim of the decision, each write, each move, the end) SIGKILL hits the run's worker, the daemon, the code
server or the whole tree with its supervisor; so on until an application came to its end before that boundary. Then the
services start again as they do in operation, and what was left is brought to its end: every node must stand where the
record says, nothing may have been applied twice, no run may be left under way, and all rules of `orcha doctor` hold.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import psutil
from rich.console import Console

from orcha_pipeline.automation.sensors import DECISION_TAG
from orcha_pipeline.ingest import open_adapters
from orcha_pipeline.model import ApplicationStatus, Mode
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.warehouse import decisions, permissions
from orcha_pipeline.warehouse.decisions import DecidedAllocation
from orcha_pipeline_tests.bench.faults import by_fault, fault_table
from orcha_pipeline_tests.bench.real_faults import LONGEST_SECONDS, PROJECT, RealFaults
from orcha_pipeline_tests.integration import kept_services
from orcha_pipeline_tests.integration.watched_definitions import ORDER, Victim, done_file
from orcha_pipeline_tests.ports import free_port

PATIENCE_SECONDS = 300.0
MOVES = 2
BOUNDARIES_AT_MOST = 200


class ServiceFaults(RealFaults):
    """A testnet and an installation on it, whose decisions its services carry out."""

    def __init__(self, home: Path, base: str, seed: int) -> None:
        super().__init__(home, base, seed)
        self.order = home / "kill.json"
        self.services: subprocess.Popen[str] | None = None
        self.victims: Counter[tuple[Victim, ApplicationStatus]] = Counter()
        self.number = 0

    # --- the services

    @contextmanager
    def kept(self) -> Iterator[None]:
        """With the services, which are ended with this."""
        self._start()
        try:
            yield
        finally:
            self._end()

    def _start(self) -> None:
        self.services = subprocess.Popen(
            [sys.executable, "-m", kept_services.__name__],
            cwd=self.home,
            env={**os.environ, "PYTHONPATH": str(PROJECT), ORDER: str(self.order)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.services.stdout is not None
        told = self.services.stdout.readline().strip()
        assert told == kept_services.READY, self._logs()

    def _end(self) -> None:
        assert self.services is not None
        self.services.terminate()
        self.services.communicate(timeout=PATIENCE_SECONDS)

    def _logs(self) -> str:
        logs = sorted((self.installation.settings.home / "logs").glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs)

    # --- one application

    def play_victim(self, victim: Victim, boundary: int, *, node_fails: bool = False) -> bool:
        """Have one carried out, with a kill at the boundary. Returns whether it got there."""
        self.number += 1
        number = self.number
        with open_adapters(self.installation) as adapters:
            self._advance(adapters)
            lines = self._two_moves(adapters)
            assert self.services is not None
            given = {"victim": victim, "boundary": boundary, "supervisor": self.services.pid}
            done_file(self.order).unlink(missing_ok=True)
            self.order.write_text(json.dumps(given))
            moved = [line.node for line in lines if line.value_now != line.value_planned]
            if node_fails:
                self._fault(moved[int(self.rng.integers(MOVES))])
            self._approve(f"d-{number}", lines)
            self._until("an end or a kill", lambda: done_file(self.order).exists() or self._ended_well(number))
            killed = done_file(self.order).exists()
            self._heal()
            if killed and victim is Victim.TREE:
                self.services.communicate(timeout=PATIENCE_SECONDS)
                self._until("the end of all processes", lambda: not self._left_behind())
                self._start()
            self._until("the end of all runs", lambda: self._runs_ended(number))
            took = self._recover(adapters)  # as the next cycle does
            self._until("the end of the application", lambda: self._ended_well(number))
            status = self._ended(number, lines, adapters)
            self._applied_once(number, status)
        self.order.unlink(missing_ok=True)
        self.longest_seconds = max(self.longest_seconds, took, self._seconds_back(number))
        self._examine(number)
        self.killed += killed
        if killed:
            self.victims[victim, status] += 1
        return killed

    def _two_moves(self, adapters: Mapping[str, Adapter]) -> Sequence[DecidedAllocation]:
        while True:
            lines = self._lines(adapters)
            if sum(line.value_now != line.value_planned for line in lines) == MOVES:
                return lines

    def _approve(self, decision_id: str, lines: Sequence[DecidedAllocation]) -> None:
        now = self.installation.clock.now()
        self._decide(decision_id, lines, mode=Mode.CONFIRM, expires_at=now + timedelta(hours=1))
        approval = permissions.ApprovalRow(decision_id=decision_id, approved_at=now, approved_by="bench")
        with self.warehouse.write() as connection:
            permissions.approve(connection, approval)

    def _dagster(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.installation.settings.home / "dagster"))

    def _runs_ended(self, number: int) -> bool:
        """There are runs for the decision, and every one has ended."""
        with self._dagster() as instance:
            runs = _runs_for(instance, number)
        return bool(runs) and all(run.is_finished for run in runs)

    def _ended_well(self, number: int) -> bool:
        """Its runs have ended, and so has its application: one that died before it had begun gets another run."""
        with self.warehouse.read() as connection:
            claimed = decisions.applications_of(connection, [f"d-{number}"])
            ended = bool(claimed) and decisions.applications_without_end(connection) == []
        return ended and self._runs_ended(number)

    def _runs(self, number: int) -> str:
        """What became of the runs for a decision, for the message of a failure."""
        with self._dagster() as instance:
            runs = _runs_for(instance, number)
            failed = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
            events = [event for run in runs for event in instance.all_logs(run.run_id, of_type=failed)]
        return "\n".join([*(f"{run.run_id} {run.status} {run.tags}" for run in runs), *map(str, events)])

    def _applied_once(self, number: int, status: ApplicationStatus) -> None:
        with self.warehouse.read() as connection:
            rows = connection.execute(
                "SELECT status FROM applications WHERE decision_id = ?", [f"d-{number}"]
            ).fetchall()
            forward = connection.execute(
                "SELECT node, count(*) AS moves FROM application_steps JOIN applications USING (application_id) "
                "WHERE decision_id = ? AND kind = 'apply' GROUP BY node HAVING count(*) > 1",
                [f"d-{number}"],
            ).fetchall()
        assert rows == [(status.value,)], f"{rows}, {self._runs(number)}"
        assert forward == [], f"{number}: moved twice: {forward}"

    def _left_behind(self) -> list[str]:
        """Processes of this installation's services that are still there."""
        home = str(self.installation.settings.home.resolve())
        found: list[str] = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("ORCHA_HOME") == home and "DAGSTER_HOME" in process.environ():
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, f"waited in vain for {what}\n{self._logs()}"
            time.sleep(0.5)


def _runs_for(instance: dg.DagsterInstance, number: int) -> list[dg.DagsterRun]:
    return list(instance.get_runs(dg.RunsFilter(tags={DECISION_TAG: f"d-{number}"})))


def play_all(rig: ServiceFaults, victims: Sequence[Victim], *, node_fails: bool, told: Callable[[str], Any]) -> None:
    """Each victim at each boundary. Raises `AssertionError` for the first application that is lost."""
    for victim in victims:
        for boundary in range(BOUNDARIES_AT_MOST):
            began = time.monotonic()
            killed = rig.play_victim(victim, boundary, node_fails=node_fails)
            told(
                f"{victim}, boundary {boundary}: {'killed' if killed else 'ended before'}, "
                f"{time.monotonic() - began:.0f} s"
            )
            if not killed:
                break
    assert rig.longest_seconds <= LONGEST_SECONDS, f"to set nodes back took {rig.longest_seconds:.0f} s"


@contextmanager
def service_faults(home: Path, seed: int) -> Iterator[ServiceFaults]:
    """A rig in `home` with a testnet and services of its own; the environment of this process is of that home."""
    from orcha_pipeline_tests.integration.conftest import testnet_process

    port = free_port()
    env = {
        "ORCHA_HOME": str(home / ".orcha"),
        "ORCHA_TESTNET__PORT": str(port),
        "ORCHA_SERVICES__CODE_SERVER_PORT": str(free_port()),
        "ORCHA_CYCLE_CRON": "0 0 1 1 *",  # a decision of a cycle would supersede those of the bench
    }
    with chdir(home), patch.dict(os.environ, env), testnet_process(home, port) as base:
        os.environ.pop("ORCHA_CONFIG", None)
        rig = ServiceFaults(home, base, seed)
        with closing(rig.http), rig.kept():
            yield rig


def main() -> None:
    """Play all victims, and print what came of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victims", nargs="+", choices=[victim.name.lower() for victim in Victim])
    parser.add_argument("--node-fails", action="store_true", help="a node fails too: boundaries on the way back")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the counts here")
    given = parser.parse_args()
    victims = [victim for victim in Victim if not given.victims or victim.name.lower() in given.victims]
    console, progress = Console(width=max(100, Console().width)), Console(stderr=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, service_faults(Path(folder), given.seed) as rig:
        play_all(rig, victims, node_fails=given.node_fails, told=progress.print)
    title = (
        f"{rig.number:,} applications by real services, {rig.killed:,} kills, none lost; "
        f"set back in {rig.longest_seconds:.1f} s at most; {time.monotonic() - began:.0f} s"
    )
    counts = by_fault(victims, rig.victims)
    console.print(fault_table(title, counts))
    if given.json:
        content = {"applications": rig.number, "killed": rig.killed, "lost": 0, "counts": counts}
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
