"""Orcha's definitions, of which a run that applies a decision kills one of Orcha's processes at a boundary of it.

What is to be killed stands in the file that `ORCHA_TEST_KILL` names, as JSON: `victim` (of `Victim`), `boundary` (a
number) and `supervisor` (a pid). A boundary lies before and after every write of a step, every move of a lever, the
claim of the decision and the word of its end. An order is carried out once: the file is renamed first.
"""

import json
import os
import signal
from enum import StrEnum
from functools import partial
from pathlib import Path

import psutil

from orcha_pipeline.definitions import defs
from orcha_pipeline.protocols.registry import adapter_type, protocol_names
from orcha_pipeline.warehouse import decisions
from orcha_pipeline_tests.boundaries import Boundaries, watch_applications

__all__ = ["ORDER", "Victim", "defs", "done_file"]

ORDER = "ORCHA_TEST_KILL"


class Victim(StrEnum):
    """Whom SIGKILL hits."""

    WORKER = "the run's worker"
    DAEMON = "the daemon"
    CODE_SERVER = "the code server"
    TREE = "everything at once"


def done_file(order: Path) -> Path:
    """What the order is called once it is carried out."""
    return order.with_suffix(".done")


def _victims(victim: Victim, supervisor: psutil.Process) -> list[psutil.Process]:
    family = supervisor.children(recursive=True)
    commands = {process: " ".join(process.cmdline()) for process in family if process.is_running()}
    services = {process: line for process, line in commands.items() if "orcha_pipeline.guardian" not in line}
    match victim:
        case Victim.WORKER:
            return [psutil.Process()]
        case Victim.DAEMON:
            return [process for process, line in services.items() if "dagster-daemon" in line]
        case Victim.CODE_SERVER:  # the one that is asked, and the one behind it that holds the project
            return [process for process, line in services.items() if "code-server" in line or "api grpc" in line]
        case Victim.TREE:  # the supervisor first, so that it starts nothing again; this process last
            others = [process for process in family if process.pid != os.getpid()]
            return [supervisor, *others, psutil.Process()]


def _carry_out(order: Path, number: int) -> None:
    """Kill what the order names, if this is the boundary it names."""
    if not order.exists():
        return
    given = json.loads(order.read_text())
    if given["boundary"] != number:
        return
    victims = _victims(Victim(given["victim"]), psutil.Process(given["supervisor"]))
    assert victims, given
    order.rename(done_file(order))
    for process in victims:
        process.send_signal(signal.SIGKILL)


def _watch(boundaries: Boundaries) -> None:
    watch_applications(boundaries)
    decisions.begin_application = boundaries.around(decisions.begin_application)
    for kind in map(adapter_type, protocol_names()):
        kind.apply = boundaries.around(kind.apply)  # type: ignore[method-assign]


if ORDER in os.environ:
    _watch(Boundaries(partial(_carry_out, Path(os.environ[ORDER]))))
