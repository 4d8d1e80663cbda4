"""Applications with real processes: emulated nodes behind real HTTP, each application a process that may be killed.

`make bench-real-faults` plays 200 of them on one testnet. By a seed the process is killed with SIGKILL at a boundary, a
node fails, or both. What is left behind is recovered, as the next cycle does it; then every node must stand where the
record says, the host must have room for them, and all rules of `orcha doctor` must hold. The longest time that setting
back took is told: more than a minute fails.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
from rich.console import Console
from rich.progress import track

from orcha_pipeline.allocation.gates import freeze_reason
from orcha_pipeline.allocation.plan import total_use
from orcha_pipeline.allocation.recovery import recover
from orcha_pipeline.doctor import examine
from orcha_pipeline.errors import AdapterError
from orcha_pipeline.ingest import ingest_now, open_adapters
from orcha_pipeline.installation import Installation, SteppedClock, open_installation
from orcha_pipeline.model import ApplicationStatus, Gate, HealthState, Lever
from orcha_pipeline.nodes_check import Status
from orcha_pipeline.prices import PriceClient
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.warehouse import decisions, freezes
from orcha_pipeline.warehouse.decisions import DecidedAllocation
from orcha_pipeline_tests.bench.faults import by_fault, fault_table
from orcha_pipeline_tests.ports import free_port
from orcha_pipeline_tests.rig import decision_to_apply

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]
APPLICATION = "orcha_pipeline_tests.bench.real_application"
EVERY = timedelta(hours=12)
"""Testnet time between two decisions: longer than any lever rests."""
PATIENCE_SECONDS = 120
LONGEST_SECONDS = 60.0
GATE = Gate(name="gain", value=1.0, threshold=0.0, passed=True, explanation="it pays")
BOUNDARIES_A_MOVE = 6
"""Before and after: its intention is written, its lever moved, what came of it is written."""


class Fault(StrEnum):
    """What goes wrong in an application."""

    KILLED = "the process is killed"
    NODE_FAILS = "a node fails"
    BOTH = "a node fails, then the process is killed"
    NOTHING = "nothing"


class RealFaults:
    """A testnet and an installation on it, to which one decision after the other is applied."""

    def __init__(self, home: Path, base: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.home = home
        self.http = httpx.Client(base_url=base, trust_env=False, timeout=60.0)
        self.installation: Installation = open_installation()
        self.warehouse = self.installation.warehouse
        self.warehouse.migrate()
        self._post("/testnet/clock", {"live": True})  # a node restarts in time that passes
        self.counts: Counter[tuple[Fault, ApplicationStatus]] = Counter()
        self.longest_seconds = 0.0
        self.killed = 0
        self.moves = 0

    def play(self, number: int, fault: Fault) -> ApplicationStatus:
        """Decide, apply in a process of its own with the fault, recover; then all is as it is on record."""
        with open_adapters(self.installation) as adapters:
            self._advance(adapters)
            lines = self._lines(adapters)
            moved = [line for line in lines if line.value_now != line.value_planned]
            self.moves += len(moved)
            self._decide(f"d-{number}", lines)
            if fault in (Fault.NODE_FAILS, Fault.BOTH):
                self._fault(moved[int(self.rng.integers(len(moved)))].node)
            self._apply(number, fault, len(moved))
            self._heal()
            took = self._recover(adapters)
            status = self._ended(number, lines, adapters)
        self.longest_seconds = max(self.longest_seconds, took, self._seconds_back(number))
        self._examine(number)
        self.counts[fault, status] += 1
        return status

    # --- the testnet

    def _post(self, path: str, body: Mapping[str, Any]) -> None:
        self.http.post(path, json=dict(body)).raise_for_status()

    def _advance(self, adapters: Mapping[str, Adapter]) -> None:
        """Go on to the next decision, at a time at which none of the world's own outages is."""
        for _ in range(20):
            clock = self.installation.clock
            assert isinstance(clock, SteppedClock)
            clock.advance_to(clock.now() + EVERY)
            if not self._read(adapters):
                return
        raise AssertionError("some node was away twenty times in a row")

    def _fault(self, node: str) -> None:
        self._post("/testnet/faults", {"node": node, "kind": "apply_fails"})

    def _heal(self) -> None:
        self.http.delete("/testnet/faults").raise_for_status()

    # --- a decision

    def _read(self, adapters: Mapping[str, Adapter]) -> Mapping[str, str]:
        """Put on record where the nodes stand; those that failed, with why."""
        prices = PriceClient(self.installation.settings.prices, self.installation.clock)
        try:
            return ingest_now(self.installation, self.warehouse, adapters, prices).failures
        finally:
            prices.close()

    def _lines(self, adapters: Mapping[str, Adapter]) -> list[DecidedAllocation]:
        """Other places for the levers that may be moved, drawn until they fit the host and two at least move."""
        stands = {name: _patiently(adapter.allocation) for name, adapter in adapters.items()}
        levers = {name: next(iter(_patiently(adapter.levers))) for name, adapter in adapters.items()}
        free = [name for name in adapters if not self._resting(name, levers[name])]
        for _ in range(10_000):
            lines = [self._line(name, stands[name], levers[name], drawn=name in free) for name in adapters]
            moved = [line for line in lines if line.value_now != line.value_planned]
            if len(moved) > 1 and self._fits({line.node: line.share_planned or 0.0 for line in lines}):
                return lines
        raise AssertionError(f"no other division found; only {free} may be moved")

    def _resting(self, node: str, lever: Lever) -> str:
        with self.warehouse.read() as connection:
            changed = decisions.last_changes(connection).get(node)
            now = self.installation.clock.now()
            restarts = decisions.steps_since(connection, now - timedelta(days=30)).get(node, 0)
        if lever.safe_direction != "both":
            return "a move of it cannot be taken back either way"
        return freeze_reason(now=now, health=HealthState.HEALTHY, lever=lever, last_changed=changed, restarts=restarts)

    def _line(self, node: str, stands: Any, lever: Lever, *, drawn: bool) -> DecidedAllocation:
        settings = next(each for each in self.installation.settings.nodes if each.name == node)
        planned = stands.value
        if drawn and self.rng.random() < 0.8:
            planned = lever.value_for(float(self.rng.uniform(settings.min_share, settings.max_share)))
        if abs(planned - stands.value) <= lever.step / 2:
            planned = stands.value
        return DecidedAllocation(
            node=node,
            yield_usd=0.1,
            share_now=stands.share,
            share_planned=stands.share if planned == stands.value else lever.share_for(planned),
            lever=lever.name,
            value_now=stands.value,
            value_planned=planned,
            reason="",
        )

    def _fits(self, shares: Mapping[str, float]) -> bool:
        (host,) = self.installation.settings.hosts
        demands = {node.name: node.demand.to_model() for node in self.installation.settings.nodes}
        use = total_use([(demands[node], share) for node, share in shares.items()]).as_dict()
        return all(use[name] <= most * (1 + 1e-9) for name, most in host.capacity.to_model().as_dict().items())

    def _decide(self, decision_id: str, lines: Sequence[DecidedAllocation], **more: Any) -> None:
        (host,) = self.installation.settings.hosts
        row = decision_to_apply(
            decision_id, lines, decided_at=self.installation.clock.now(), host=host.name, gates=(GATE,), **more
        )
        with self.warehouse.write() as connection:
            decisions.record_decision(connection, row)

    # --- an application

    def _apply(self, number: int, fault: Fault, moves: int) -> None:
        boundary = -1
        if fault in (Fault.KILLED, Fault.BOTH):
            boundary = int(self.rng.integers(BOUNDARIES_A_MOVE * moves + 2))
        ran = subprocess.run(
            [sys.executable, "-m", APPLICATION, f"d-{number}", f"a-{number}", str(boundary)],
            cwd=self.home,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        # Of one that is dropped, or whose node fails, there may be fewer boundaries than that.
        assert ran.returncode in ((0, -signal.SIGKILL) if boundary >= 0 else (0,)), ran.stderr
        self.killed += ran.returncode == -signal.SIGKILL

    def _recover(self, adapters: Mapping[str, Adapter]) -> float:
        """As the next cycles would: again where a node was just restarting. The seconds it took, 0 for nothing."""
        began = time.monotonic()
        if not recover(self.installation, self.warehouse, adapters):
            return 0.0
        while time.monotonic() - began < LONGEST_SECONDS:
            with self.warehouse.read() as connection:
                if not freezes.frozen(connection):
                    break
            time.sleep(1.0)
            recover(self.installation, self.warehouse, adapters)
        return time.monotonic() - began

    def _ended(
        self, number: int, lines: Sequence[DecidedAllocation], adapters: Mapping[str, Adapter]
    ) -> ApplicationStatus:
        """How it ended. Raises `AssertionError` where a node does not stand as that says."""
        with self.warehouse.read() as connection:
            assert decisions.applications_without_end(connection) == [], f"{number} has no end"
            found = decisions.applications_of(connection, [f"d-{number}"]).get(f"d-{number}")
        if found is None:  # killed before it had claimed the decision: nothing was done, and nothing is lost
            status, applied = ApplicationStatus.DROPPED, False
        else:
            status, applied = found.status, found.status is ApplicationStatus.APPLIED
        shares: dict[str, float] = {}
        for line in lines:
            adapter = adapters[line.node]
            stands, lever = _patiently(adapter.allocation), next(iter(_patiently(adapter.levers)))
            expected = line.value_planned if applied else line.value_now
            assert stands.value is not None
            assert expected is not None
            told = f"{number}, {status}: {line.node} stands at {stands.value}, not at {expected}"
            assert abs(stands.value - expected) <= lever.step / 2, told
            assert not _patiently(adapter.pending_change), (
                f"{number}, {status}: {line.node}: {adapter.pending_change()}"
            )
            shares[line.node] = lever.share_for(stands.value)
        assert self._fits(shares), f"{number}, {status}: the nodes have more than the host"
        return status

    def _seconds_back(self, number: int) -> float:
        """From the first step back to the last one's end, on the testnet's clock: whole seconds, as the wall's."""
        with self.warehouse.read() as connection:
            application = decisions.applications_of(connection, [f"d-{number}"]).get(f"d-{number}")
            steps = [] if application is None else decisions.steps_of(connection, application.application_id)
        back = [step for step in steps if step.kind == "rollback"]
        if not back:
            return 0.0
        return (max(step.ended_at or step.started_at for step in back) - back[0].started_at).total_seconds()

    def _examine(self, number: int) -> None:
        found = [each for each in examine(self.installation) if each.part != "disk"]
        broken = [each.text for each in found if each.status is Status.BROKEN or "by someone else" in each.text]
        assert not broken, f"{number}: {broken}"


def _patiently(ask: Callable[[], T]) -> T:
    """What a node answers, once it is up again after a restart."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while True:
        try:
            return ask()
        except AdapterError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def play(home: Path, base: str, *, runs: int, seed: int, each: Callable[[range], Any] = iter) -> RealFaults:
    """So many applications with faults. Raises `AssertionError` for the first that is lost."""
    rig = RealFaults(home, base, seed)
    with closing(rig.http):
        for number in each(range(runs)):
            rig.play(number, list(Fault)[number % len(Fault)])
    assert rig.longest_seconds <= LONGEST_SECONDS, f"to set nodes back took {rig.longest_seconds:.0f} s"
    return rig


def main() -> None:
    """Play on a testnet of its own, and print what came of each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the counts here")
    given = parser.parse_args()
    # Its fixtures' own way to start a testnet; pytest is not wanted by those who only import this module.
    from orcha_pipeline_tests.integration.conftest import testnet_process

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        home, port = Path(folder), free_port()
        os.chdir(home)
        os.environ.pop("ORCHA_CONFIG", None)
        os.environ |= {"ORCHA_HOME": str(home / ".orcha"), "ORCHA_TESTNET__PORT": str(port)}
        with testnet_process(home, port) as base:
            rig = play(
                home,
                base,
                runs=given.runs,
                seed=given.seed,
                each=lambda numbers: track(numbers, "Applications", console=Console(stderr=True)),
            )
    _tell(rig, given.runs, time.perf_counter() - began, given.json)


def _tell(rig: RealFaults, runs: int, seconds: float, file: Path | None) -> None:
    console = Console(width=max(100, Console().width))
    title = (
        f"{runs:,} applications of {rig.moves:,} moves, {rig.killed:,} killed, none lost; "
        f"set back in {rig.longest_seconds:.1f} s at most; {seconds:.0f} s"
    )
    counts = by_fault(Fault, rig.counts)
    console.print(fault_table(title, counts))
    if file:
        content = {
            "applications": runs,
            "killed": rig.killed,
            "lost": 0,
            "longest_rollback_seconds": rig.longest_seconds,
            "counts": counts,
        }
        file.write_text(json.dumps(content | {"seconds": seconds}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
