"""Thousands of applications with faults: the real executor, journal and DuckDB, a clock that is set, emulated nodes.

`make bench-faults` plays them and counts what came of each; none may be lost. A fault is drawn for each application:
nodes that refuse, answer with something else or lose their answer, on the way or on the way back; a disk that is full
when a step is written; the operator's pause between two steps; and the death of the process (a forked child that ends
without any of its cleaning up) at any boundary between a write and a move. After each, what was left behind is
recovered, and then everything must be as it is on record.
"""

import argparse
import errno
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from multiprocessing import RawArray
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from orcha_pipeline.allocation import apply
from orcha_pipeline.allocation.apply import carry_out
from orcha_pipeline.allocation.executor import ApplicationError, Step
from orcha_pipeline.allocation.journal import WarehouseJournal
from orcha_pipeline.allocation.recovery import recover
from orcha_pipeline.clock import Clock, FixedClock
from orcha_pipeline.errors import AllocationError
from orcha_pipeline.model import ApplicationStatus, AppliedChange, Gate
from orcha_pipeline.warehouse import decisions, freezes, permissions
from orcha_pipeline.warehouse.consistency import breaches
from orcha_pipeline.warehouse.permissions import PauseRow
from orcha_pipeline_tests.rig import NOW, FakeNode, decided_line, decision_to_apply, installation, read_now

NODES = ("a", "b", "c")
ROOM = 160.0
"""What the levers may come to together: 16 threads, 10 of them at 100."""
EVERY = timedelta(hours=2)
GATE = Gate(name="gain", value=1.0, threshold=0.0, passed=True, explanation="it pays")
EXAMINED_EVERY = 50
"""Applications between two looks at all rules of the warehouse."""
MOST_BOUNDARIES = 30


class Fault(StrEnum):
    """What goes wrong. The last three need a second attempt to set everything back."""

    NONE = "nothing"
    REFUSES = "a node refuses"
    ANSWERS_WRONG = "a node reads back something else"
    LOSES_ANSWER = "an answer is lost, the change is not"
    DISK_FULL = "the disk is full when a step is written"
    PAUSED = "the operator pauses between two steps"
    DIES = "the process dies"
    DIES_ON_THE_WAY_BACK = "a node refuses, then the process dies"
    STUCK = "a node refuses, and another to be set back"


class EmulatedNode(FakeNode):
    """Stands in memory that a forked child shares; every move of all nodes is checked against the room."""

    def __init__(self, name: str, clock: Clock, stands: Any, rig: "FaultRig") -> None:
        self._place, self._levers, self._rig = NODES.index(name), stands, rig
        super().__init__(name, clock, value=stands[NODES.index(name)])

    @property
    def value(self) -> float:
        return self._levers[self._place]

    @value.setter
    def value(self, value: float) -> None:
        self._levers[self._place] = value

    def apply(self, lever: str, value: float) -> AppliedChange:
        self._rig.boundary()
        problem = self._rig.problem(self.node)
        if problem is Fault.REFUSES:
            raise AllocationError(self.node, "refused")
        applied = super().apply(lever, value)
        self._rig.moved()
        self._rig.boundary()
        if problem is Fault.LOSES_ANSWER:
            raise AllocationError(self.node, "no answer")
        if problem is Fault.ANSWERS_WRONG:
            return AppliedChange(lever=lever, previous=applied.previous, requested=value, read_back=value + 7.0)
        return applied


@dataclass
class Plan:
    """The faults of one application: what each node does at its n-th move, and at which boundary the process ends."""

    problems: dict[tuple[str, int], Fault]
    dies_at: int | None = None
    full_at: int | None = None
    pauses_at: int | None = None


class Journal(WarehouseJournal):
    """The real one, on a disk that may be full."""

    rig: ClassVar["FaultRig"]

    def _write(self, step: Step) -> None:
        self.rig.boundary()
        if self.rig.full():
            raise OSError(errno.ENOSPC, "No space left on device")
        super()._write(step)
        self.rig.boundary()


class FaultRig:
    """A host with three nodes, to which one decision after the other is applied."""

    def __init__(self, home: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.clock = FixedClock(NOW)
        self.installation = installation(home, self.clock, NODES, cpu_threads=ROOM / 10)
        self.warehouse = self.installation.warehouse
        self.levers = RawArray("d", [40.0, 50.0, 60.0])
        self.most = RawArray("d", [0.0])
        self.nodes = {name: EmulatedNode(name, self.clock, self.levers, self) for name in NODES}
        self.counts: Counter[tuple[Fault, ApplicationStatus]] = Counter()
        self.recovered = 0
        self.plan = Plan({})
        self._passed = self._written = 0
        self._asked: Counter[str] = Counter()
        Journal.rig = self
        apply.WarehouseJournal = Journal  # type: ignore[misc]

    # --- what the nodes and the journal ask

    def boundary(self) -> None:
        if self._passed == self.plan.dies_at:
            os._exit(9)
        if self._passed == self.plan.pauses_at:
            with self.warehouse.write() as connection:
                permissions.pause(connection, PauseRow(paused_at=self.clock.now(), paused_by="ada", reason=""))
        self._passed += 1

    def problem(self, node: str) -> Fault | None:
        self._asked[node] += 1
        return self.plan.problems.get((node, self._asked[node]))

    def full(self) -> bool:
        self._written += 1
        return self._written == self.plan.full_at

    def moved(self) -> None:
        self.most[0] = max(self.most[0], sum(self.levers))

    # --- one application

    def play(self, number: int, fault: Fault) -> ApplicationStatus:
        """Decide, apply with the fault, recover; then everything is as it is on record."""
        before = list(self.levers)
        after = self._wanted()
        self._decide(f"d-{number}", before, after)
        self.plan = self._planned(fault, before, after)
        self._passed = self._written = 0
        self._asked.clear()
        self._apply(number)
        self.plan = Plan({})
        with self.warehouse.write() as connection:
            permissions.resume(connection, at=self.clock.now(), by="ada")
        self.recovered += len(recover(self.installation, self.warehouse, self.nodes))
        with self.warehouse.read() as connection:
            (row,) = decisions.applications_of(connection, [f"d-{number}"]).values()
            assert freezes.frozen(connection) == {}, f"{number}, {fault}: a node stayed frozen"
            assert decisions.applications_without_end(connection) == [], f"{number}, {fault}: it has no end"
        expected = after if row.status is ApplicationStatus.APPLIED else before
        assert list(self.levers) == expected, f"{number}, {fault}, {row.status}: {list(self.levers)}, not {expected}"
        assert self.most[0] <= ROOM, f"{number}, {fault}: the nodes took {self.most[0]} of {ROOM}"
        if number % EXAMINED_EVERY == 0:
            self.examine()
        self.counts[fault, row.status] += 1
        self.clock.set(self.clock.now() + EVERY)
        return row.status

    def examine(self) -> None:
        with self.warehouse.read() as connection:
            found = breaches(connection, self.clock.now())
        assert not found, f"{found[0].rule.told}: {', '.join(found[0].examples)}"

    def _wanted(self) -> list[float]:
        """Other places of the levers, that fit."""
        while True:
            wanted = [float(value) for value in self.rng.integers(5, 100, len(NODES))]
            if sum(wanted) <= ROOM and all(a != b for a, b in zip(wanted, self.levers, strict=True)):
                return wanted

    def _decide(self, name: str, before: list[float], after: list[float]) -> None:
        read_now(self.warehouse, self.nodes.values(), self.clock.now())
        lines = [decided_line(node, old, new) for node, old, new in zip(NODES, before, after, strict=True)]
        with self.warehouse.write() as connection:
            decisions.record_decision(
                connection, decision_to_apply(name, lines, decided_at=self.clock.now(), gates=(GATE,))
            )

    def _planned(self, fault: Fault, before: list[float], after: list[float]) -> Plan:
        # In the order in which they are moved: those that shrink first.
        order = sorted(range(len(NODES)), key=lambda place: after[place] > before[place])
        place = int(self.rng.integers(len(NODES)))
        node, earlier = NODES[order[place]], NODES[order[max(0, place - 1)]]
        boundary = int(self.rng.integers(MOST_BOUNDARIES))
        match fault:
            case Fault.NONE:
                return Plan({})
            case Fault.DISK_FULL:
                return Plan({}, full_at=1 + int(self.rng.integers(2 * len(NODES))))
            case Fault.PAUSED:
                return Plan({}, pauses_at=boundary)
            case Fault.DIES:
                return Plan({}, dies_at=boundary)
            case Fault.DIES_ON_THE_WAY_BACK:
                return Plan({(node, 1): Fault.REFUSES}, dies_at=boundary)
            case Fault.STUCK:
                # Refused again when it is to be set back; the recovery that follows succeeds.
                return Plan({(node, 1): Fault.REFUSES, (earlier, 2): Fault.REFUSES})
            case _:
                return Plan({(node, 1): fault})

    def _apply(self, number: int) -> None:
        def run() -> None:
            carry_out(
                f"d-{number}",
                application_id=f"a-{number}",
                run_id="run",
                installation=self.installation,
                warehouse=self.warehouse,
                adapters=self.nodes,
            )

        if self.plan.dies_at is None:
            with suppress(ApplicationError):  # the run ends as failed: what became of the nodes is on record
                run()
        else:
            _in_a_child(run)


def _in_a_child(run: Callable[[], None]) -> None:
    """In a forked process, which ends like one that is killed: nothing is closed, flushed or rolled back."""
    child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def play(home: Path, *, runs: int, seed: int, each: Callable[[range], Any] = iter) -> FaultRig:
    """So many applications with faults. Raises `AssertionError` for the first that is lost."""
    rig = FaultRig(home, seed)
    usual = apply.WarehouseJournal
    try:
        for number in each(range(runs)):
            rig.play(number, list(Fault)[number % len(Fault)])
        rig.examine()
    finally:
        apply.WarehouseJournal = usual
    return rig


F = TypeVar("F", bound=StrEnum)


def by_fault(faults: Iterable[F], counts: Mapping[tuple[F, ApplicationStatus], int]) -> dict[str, dict[str, int]]:
    """How often the applications of each fault came to each end that there was."""
    ends = [status for status in ApplicationStatus if any(end is status for _, end in counts)]
    return {fault.value: {end.value: counts.get((fault, end), 0) for end in ends} for fault in faults}


def fault_table(title: str, counts: Mapping[str, Mapping[str, int]]) -> Table:
    """The same for a terminal, a row a fault."""
    table = Table(title=title)
    table.add_column("what went wrong")
    for end in next(iter(counts.values())):
        table.add_column(end.replace("_", " "), justify="right")
    for fault, ends in counts.items():
        table.add_row(fault, *(f"{count:,}" for count in ends.values()))
    return table


def main() -> None:
    """Play, and print what came of each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the counts here")
    given = parser.parse_args()
    console = Console(width=max(100, Console().width))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        rig = play(
            Path(home),
            runs=given.runs,
            seed=given.seed,
            each=lambda numbers: track(numbers, "Applications", console=Console(stderr=True)),
        )
    seconds = time.perf_counter() - began
    counts = by_fault(Fault, rig.counts)
    title = f"{given.runs:,} applications, {rig.recovered:,} of them recovered, none lost; {seconds:.0f} s"
    console.print(fault_table(title, counts))
    if given.json:
        content = {"applications": given.runs, "recovered": rig.recovered, "seconds": seconds, "counts": counts}
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
