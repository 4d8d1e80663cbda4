"""Reading everything from nodes at once: no part of a node, and no node, spoils another."""

import logging
import queue
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from threading import Thread
from time import monotonic
from typing import TypeVar

from orcha_pipeline.errors import AdapterError, NodeConnectionError, ParseError, UnsupportedError, where
from orcha_pipeline.model import CLOCK_AHEAD, EarningsObservation, HealthReading, HealthState, NodeReading, Window
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.http import new_reading, remaining_seconds, time_budget

T = TypeVar("T")
PROGRAM_ERROR = "program"
"""`error_kind` of a failure that is the adapter's own fault."""
HISTORY_SECONDS = 120.0
"""A month of debit notes takes longer to read than what is so now."""
GRACE_SECONDS = 0.5
"""How much later than its budget a node is given up: adapters end their calls themselves in time."""
_DISPENSABLE = ("usage", "balances", "clock")
_log = logging.getLogger(__name__)


class _Part:
    """Reads the parts of one node and remembers what failed."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.failures: list[tuple[str, str, str]] = []
        """(part, kind, reason)"""

    def read(self, name: str, call: Callable[[], T], *, budget_share: float = 0.5) -> T | None:
        """The part's value, or None where it failed or the node has no such thing.

        A part may use `budget_share` of what is left of the node's time, so that a hanging one leaves some to others.
        """
        try:
            with time_budget(remaining_seconds() * budget_share):
                return call()
        except UnsupportedError:
            return None
        except AdapterError as error:
            self.failures.append((name, error.kind, error.message))
        except Exception as error:  # noqa: BLE001 (a plug-in fails in any way; the cycle must end with the other nodes)
            _log.error("the adapter of node %s failed reading its %s: %s", self.node, name, where(error))
            self.failures.append((name, PROGRAM_ERROR, f"the adapter failed: {where(error)}"))
        return None


def read_node(adapter: Adapter, window: Window, now: datetime, *, balances: bool = False) -> NodeReading:
    """Everything from one node, inside its own time budget. Never raises for what the node does.

    `now` is the moment the reading is stamped with. What failed is told in `health`: a node whose health cannot be
    read is unreachable or in error; one that fails in another part is in error, unless it is already worse off, but
    for its use of resources and its balances (read where asked for), without which decisions can do.
    """
    part = _Part(adapter.node)
    with time_budget(adapter.settings.timeout_seconds), new_reading():
        health = _with_clock(part.read("health", adapter.health), part.read("clock", adapter.clock_ahead_seconds))
        levers = part.read("levers", adapter.levers)
        allocation = part.read("allocation", adapter.allocation)
        usage = part.read("usage", adapter.resource_usage)
        earnings = part.read("earnings", lambda: adapter.earnings(window), budget_share=0.8 if balances else 1.0)
        standing = part.read("balances", adapter.balances, budget_share=1.0) if balances else None
    return NodeReading(
        node=adapter.node,
        protocol=adapter.settings.protocol,
        observed_at=now,
        health=_health(health, part.failures),
        earnings=tuple(earnings or ()),
        usage=tuple(usage or ()),
        allocation=allocation,
        levers=tuple(levers or ()),
        balances=tuple(standing or ()),
    )


def read_nodes(
    adapters: Sequence[Adapter],
    windows: Mapping[str, Window],
    now: datetime,
    *,
    workers: int = 32,
    balances: Collection[str] = (),
) -> list[NodeReading]:
    """`read_node` for all, up to `workers` at a time, in the order given. `windows`: node -> its window.

    `balances`: the nodes of which it is also read where their money stands.

    A node that has not ended within its budget is recorded unreachable; its thread is left behind as a daemon and
    its slot goes to the next node.
    """
    return _side_by_side(
        adapters,
        lambda adapter: read_node(adapter, windows[adapter.node], now, balances=adapter.node in balances),
        lambda adapter: _given_up(adapter, now),
        seconds=lambda adapter: adapter.settings.timeout_seconds,
        workers=workers,
    )


def read_histories(
    adapters: Sequence[Adapter], window: Window, *, seconds: float = HISTORY_SECONDS, workers: int = 32
) -> list[Sequence[EarningsObservation] | AdapterError]:
    """What each node remembers of `window`, or why it could not be read, in the order given; each within `seconds`."""

    def read(adapter: Adapter) -> Sequence[EarningsObservation] | AdapterError:
        try:
            with time_budget(seconds), new_reading():
                return adapter.earnings_history(window)
        except AdapterError as error:
            return error
        except Exception as error:  # noqa: BLE001 (a plug-in fails in any way; the others must be read)
            _log.error("the adapter of node %s failed reading its history: %s", adapter.node, where(error))
            return ParseError(adapter.node, f"the adapter failed: {where(error)}")

    return _side_by_side(
        adapters,
        read,
        lambda adapter: NodeConnectionError(adapter.node, f"its history was not read within {seconds:g} s"),
        seconds=lambda _adapter: seconds,
        workers=workers,
    )


def _side_by_side(
    adapters: Sequence[Adapter],
    call: Callable[[Adapter], T],
    given_up: Callable[[Adapter], T],
    *,
    seconds: Callable[[Adapter], float],
    workers: int,
) -> list[T]:
    """`call` for all, up to `workers` at a time, in the order given.

    One that has not ended `GRACE_SECONDS` after its `seconds` is `given_up`; its thread is left behind as a daemon and
    its slot goes to the next node.
    """
    done: queue.SimpleQueue[tuple[int, T]] = queue.SimpleQueue()
    waiting = deque(range(len(adapters)))
    ends: dict[int, float] = {}
    found: dict[int, T] = {}

    def work(index: int) -> None:
        done.put((index, call(adapters[index])))

    while waiting or ends:
        while waiting and len(ends) < workers:
            index = waiting.popleft()
            ends[index] = monotonic() + seconds(adapters[index]) + GRACE_SECONDS
            Thread(target=work, args=(index,), name=f"read-{adapters[index].node}", daemon=True).start()
        try:
            index, result = done.get(timeout=max(0.0, min(ends.values()) - monotonic()))
        except queue.Empty:
            for index in [i for i, end in ends.items() if end <= monotonic()]:
                del ends[index]
                found[index] = given_up(adapters[index])
            continue
        if index in ends:  # else it was given up, and that stands
            del ends[index]
            found[index] = result
    return [found[index] for index in range(len(adapters))]


def _given_up(adapter: Adapter, now: datetime) -> NodeReading:
    return NodeReading(
        node=adapter.node,
        protocol=adapter.protocol,
        observed_at=now,
        health=HealthReading(
            state=HealthState.UNREACHABLE,
            reason=f"no answer within its budget of {adapter.settings.timeout_seconds:g} s (timeout_seconds)",
            error_kind=NodeConnectionError.kind,
        ),
    )


def _with_clock(health: HealthReading | None, ahead: float | None) -> HealthReading | None:
    if health is None or ahead is None:
        return health
    return replace(health, scores={**health.scores, CLOCK_AHEAD: ahead})


def _health(health: HealthReading | None, failures: Sequence[tuple[str, str, str]]) -> HealthReading:
    if health is None:
        if not failures:
            return HealthReading(
                state=HealthState.ERROR, reason="the adapter reads no health", error_kind="unsupported"
            )
        _, kind, reason = failures[0]
        unreachable = kind == NodeConnectionError.kind
        return HealthReading(
            state=HealthState.UNREACHABLE if unreachable else HealthState.ERROR, reason=reason, error_kind=kind
        )
    if not failures:
        return health
    reasons = [health.reason] if health.reason else []
    reasons += [f"{name}: {reason}" for name, _, reason in failures]
    serious = any(name not in _DISPENSABLE for name, _, _ in failures)
    return replace(
        health,
        state=HealthState.ERROR if serious and health.state is HealthState.HEALTHY else health.state,
        reason="; ".join(reasons),
        error_kind=health.error_kind or failures[0][1],
    )
