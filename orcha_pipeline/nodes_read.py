"""The configured nodes as an operator asks after them: a look at all of them, or one part by part. Changes nothing.

A node that cannot be used, does not answer or fails in one part spoils neither the others nor its own other parts.
"""

import difflib
import queue
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

import duckdb
import httpx

from orcha_pipeline.clock import SystemClock
from orcha_pipeline.controllers.base import LIMITS, Limits
from orcha_pipeline.errors import (
    AdapterError,
    NodeConnectionError,
    OrchaError,
    SettingsError,
    SupervisionError,
    UnsupportedError,
    WarehouseError,
    where,
)
from orcha_pipeline.installation import Installation, open_installation
from orcha_pipeline.model import (
    HOUR,
    AllocationReading,
    Balance,
    EarningsObservation,
    HealthReading,
    Lever,
    Mode,
    NodeReading,
    UsageReading,
    Window,
)
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.http import time_budget
from orcha_pipeline.protocols.reading import GRACE_SECONDS, PROGRAM_ERROR, read_nodes
from orcha_pipeline.protocols.registry import make_adapter, plug_in_problems
from orcha_pipeline.settings import NodeSettings
from orcha_pipeline.settings_file import load_settings
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.last_readings import LastReading, last_readings

LOOK_BACK = timedelta(hours=24)
"""How far back a full reading asks for earnings that the node dates itself."""
BUDGETS = 3
"""A node is asked part by part for at most this many times its `timeout_seconds`, each part for one at most."""
WAREHOUSE_PATIENCE_SECONDS = 5.0
NOT_USABLE = "not_usable"
"""State of a node whose settings cannot be used."""


# --- opening


def open_for_viewing(config: Path | None = None) -> Installation:
    """`open_installation`, but that options which an adapter refuses are told of that node alone, by its adapter."""
    settings = load_settings(config)
    if settings.uses_testnet:
        return open_installation(config)
    return Installation(settings=settings, clock=SystemClock(), simulated=False)


def now_of(installation: Installation) -> datetime:
    """The present moment of the nodes; `OrchaError` says how to start the testnet where it stands in and is away."""
    try:
        return installation.clock.now()
    except SupervisionError as error:
        if not isinstance(error.__cause__, httpx.HTTPError):
            raise
        settings = installation.settings
        raise OrchaError(
            "No node is configured, so the built-in testnet stands in for them, and it is not running "
            f"(nothing answers at 127.0.0.1:{settings.testnet.port}). Start it with `orcha up`, or alone with "
            f"`orcha testnet serve --state {settings.home / 'testnet'} --port {settings.testnet.port}`; "
            "or configure your own nodes: `orcha init` writes an orcha.toml to fill in."
        ) from None


def named(installation: Installation, name: str) -> NodeSettings:
    """The node of this name; `OrchaError` with the nearest one where there is none."""
    nodes = {node.name: node for node in installation.settings.nodes}
    if name not in nodes:
        near = difflib.get_close_matches(name, nodes, n=1)
        remedy = f"did you mean {near[0]}?" if near else "`orcha nodes` lists them."
        raise OrchaError(f"There is no node {name!r}; {remedy}")
    return nodes[name]


@contextmanager
def open_adapters_of(
    installation: Installation, nodes: Sequence[NodeSettings]
) -> Generator[tuple[dict[str, Adapter], dict[str, str]]]:
    """Node -> adapter, and node -> why it cannot be used. Connections are closed at the end."""
    made: dict[str, Adapter] = {}
    problems: dict[str, str] = {}
    try:
        for node in nodes:
            try:
                made[node.name] = make_adapter(node, installation.clock)
            except SettingsError as error:
                problems[node.name] = str(error).removeprefix(f"node {node.name!r}: ")
            except Exception as error:  # noqa: BLE001 (a plug-in fails in any way; the other nodes are shown)
                problems[node.name] = f"the adapter cannot be made: {where(error)}"
        yield made, problems
    finally:
        for adapter in made.values():
            adapter.close()


# --- a look at all nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLook:
    """One node: its live reading, or why it cannot be used at all; and what was last recorded of it."""

    settings: NodeSettings
    mode: Mode
    reading: NodeReading | None
    problem: str = ""
    recorded: LastReading | None = None


def state_of(look: NodeLook) -> str:
    """The node's state: one of `HealthState`, or `not_usable`."""
    return NOT_USABLE if look.reading is None else look.reading.health.state.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """All nodes in the order of the settings, as read at `read_at`."""

    read_at: datetime
    simulated: bool
    nodes: tuple[NodeLook, ...]
    plug_in_problems: Mapping[str, str] = field(default_factory=dict[str, str])
    warehouse_problem: str = ""
    """Why the warehouse could not be asked; empty also where there is none yet."""


def survey(installation: Installation) -> Survey:
    """Read all nodes side by side, and look up what was last recorded of them. Raises `OrchaError`."""
    now = now_of(installation)
    nodes, modes = installation.settings.nodes, installation.settings.modes
    with open_adapters_of(installation, nodes) as (adapters, problems):
        windows = dict.fromkeys(adapters, Window(now - HOUR, now))
        readings = {reading.node: reading for reading in read_nodes(list(adapters.values()), windows, now)}
    recorded, warehouse_problem = _recorded(installation)
    return Survey(
        read_at=now,
        simulated=installation.simulated,
        nodes=tuple(
            NodeLook(
                settings=node,
                mode=modes[node.name],
                reading=readings.get(node.name),
                problem=problems.get(node.name, ""),
                recorded=recorded.get(node.name),
            )
            for node in nodes
        ),
        plug_in_problems=plug_in_problems(),
        warehouse_problem=warehouse_problem,
    )


def _recorded(installation: Installation) -> tuple[dict[str, LastReading], str]:
    path = installation.settings.warehouse_path
    if not path.exists():
        return {}, ""
    try:
        with Warehouse(path, lock_timeout_seconds=WAREHOUSE_PATIENCE_SECONDS).read() as connection:
            return last_readings(connection), ""
    except WarehouseError as error:
        return {}, str(error)
    except duckdb.Error as error:
        # A warehouse that `orcha up` has not brought up to date yet.
        return {}, f"The warehouse {path} cannot be read: {str(error).splitlines()[0]}"


# --- one node, part by part


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a part could not be read. `kind` as in `errors`; `unsupported` is no fault."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerView:
    """What limits the node, and what it cannot do: action -> reason and remedy."""

    description: str
    cannot: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Everything read from one node, each part by itself. A part is None where it failed: see `failures`."""

    settings: NodeSettings
    observed_at: datetime
    window: Window
    native_unit: str
    token: str | None
    tokens_per_native: Any
    failures: Mapping[str, Failure]
    health: HealthReading | None = None
    earnings: tuple[EarningsObservation, ...] | None = None
    balances: tuple[Balance, ...] | None = None
    usage: tuple[UsageReading, ...] | None = None
    levers: tuple[Lever, ...] | None = None
    allocations: tuple[AllocationReading, ...] | None = None
    advice: tuple[str, ...] | None = None
    controller: ControllerView | None = None
    limits: Limits | None = None

    @property
    def faults(self) -> Mapping[str, Failure]:
        """Part -> why it failed, but for what the node or the host simply has not."""
        return {part: failure for part, failure in self.failures.items() if failure.kind != UnsupportedError.kind}


def _controller_view(adapter: Adapter) -> ControllerView:
    controller = adapter.controller
    reasons = {f"limit {name}": controller.why_cannot_limit(name) for name in LIMITS}
    reasons |= {"restart": controller.why_cannot_restart(), "recreate": controller.why_cannot_recreate()}
    return ControllerView(
        description=controller.describe(), cannot={action: why for action, why in reasons.items() if why}
    )


_PARTS: Mapping[str, Callable[[Adapter, Window], Any]] = {
    "health": lambda adapter, _window: adapter.health(),
    "earnings": lambda adapter, window: tuple(adapter.earnings(window)),
    "levers": lambda adapter, _window: tuple(adapter.levers()),
    "allocations": lambda adapter, _window: tuple(adapter.allocations()),
    "usage": lambda adapter, _window: tuple(adapter.resource_usage()),
    "controller": lambda adapter, _window: _controller_view(adapter),
    "limits": lambda adapter, _window: adapter.controller.limits(),
    "balances": lambda adapter, _window: tuple(adapter.balances()),
    "advice": lambda adapter, _window: tuple(adapter.advice()),
}
"""In the order they are asked for: what decisions rest on first."""


def probe(adapter: Adapter, now: datetime) -> Probe:
    """Ask one node for every part. Never raises for what the node does, and ends within its budget."""
    window = Window(now - LOOK_BACK, now)
    seconds = BUDGETS * adapter.settings.timeout_seconds
    answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def ask() -> None:
        with time_budget(seconds):
            for part, call in _PARTS.items():
                answers.put((part, _answer(adapter, lambda call=call: call(adapter, window))))

    # A daemon: a plug-in may hang in a way that no budget of ours ends.
    Thread(target=ask, name=f"probe-{adapter.node}", daemon=True).start()
    deadline = monotonic() + seconds + GRACE_SECONDS
    found: dict[str, Any] = {}
    while len(found) < len(_PARTS):
        try:
            part, answer = answers.get(timeout=max(0.0, deadline - monotonic()))
        except queue.Empty:
            late = Failure(NodeConnectionError.kind, f"no answer within {seconds:g} s ({BUDGETS} x timeout_seconds)")
            found |= dict.fromkeys(_PARTS.keys() - found.keys(), late)
        else:
            found[part] = answer
    failures = {part: found[part] for part in _PARTS if isinstance(found[part], Failure)}
    return Probe(
        settings=adapter.settings,
        observed_at=now,
        window=window,
        native_unit=adapter.native_unit,
        token=adapter.token,
        tokens_per_native=adapter.tokens_per_native,
        failures=failures,
        **{part: answer for part, answer in found.items() if part not in failures},
    )


def _answer(adapter: Adapter, call: Callable[[], Any]) -> Any:
    """What the call gives, or a `Failure`."""
    try:
        with time_budget(adapter.settings.timeout_seconds):
            return call()
    except AdapterError as error:
        return Failure(error.kind, error.message)
    except Exception as error:  # noqa: BLE001 (a plug-in fails in any way, and this is where its author looks)
        return Failure(PROGRAM_ERROR, f"the adapter failed: {where(error)}")


def read_one(installation: Installation, name: str) -> Probe:
    """One full reading. `OrchaError` where there is no such node or it cannot be used."""
    node = named(installation, name)
    now = now_of(installation)
    with open_adapters_of(installation, [node]) as (adapters, problems):
        if problems:
            raise SettingsError(f"node {name!r}: {problems[name]}")
        return probe(adapters[name], now)
