"""Boundaries of what a process does, at which a test kills it: before and after each write and each act."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orcha_pipeline.allocation import apply
from orcha_pipeline.allocation.executor import Step
from orcha_pipeline.allocation.journal import WarehouseJournal

PROJECT = Path(__file__).resolve().parents[1]


class Boundaries:
    """Counts those that were passed; `reached` is called with the number of each before it is."""

    def __init__(self, reached: Callable[[int], None]) -> None:
        self._reached = reached
        self.passed = 0

    def at(self) -> None:
        """One of them."""
        self._reached(self.passed)
        self.passed += 1

    def around(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """The same act, with one before and one after it."""

        def watched(*given: Any, **named: Any) -> Any:
            self.at()
            done = act(*given, **named)
            self.at()
            return done

        return watched


def killed_at(boundary: int) -> Boundaries:
    """This process is killed, with SIGKILL, at the boundary of that number; never at -1."""

    def reached(number: int) -> None:
        if number == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    return Boundaries(reached)


def watch_applications(boundaries: Boundaries) -> None:
    """From now on each write of a step and of an application's end in this process lies between two of them."""

    class Watched(WarehouseJournal):
        def _write(self, step: Step) -> None:
            boundaries.around(super()._write)(step)

    apply.WarehouseJournal = Watched  # type: ignore[misc]
    apply.end = boundaries.around(apply.end)


def run_module(module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`python -m module arguments` in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
