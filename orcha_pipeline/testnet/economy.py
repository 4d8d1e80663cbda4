"""The simulated host: what each node has, what it earns from it, and what it costs to change it.

Time moves in pieces within which every rate is constant (a step of the world, a restart, a reload end a piece), so
that the sum does not depend on how finely it is asked for. Times are whole Unix seconds, UTC. Each protocol keeps its
earnings in its own terms in `Books`; the economy only hands them what was earned in each piece.
"""

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from orcha_pipeline.testnet.levers import LEVERS, Lever, Loaded, equal_shares, node_name
from orcha_pipeline.testnet.worlds import HOUR, World

DEFAULT_RESTART_SECONDS: Mapping[str, float] = {"storj": 20.0, "golem": 3.0, "streamr": 8.0, "grass": 3.0}
"""How long a node is away after its container started; for Golem, how long the file watch takes."""
STORJ_FILL_SECONDS = 12 * HOUR
"""Time constant with which stored data follows the allocation."""
SKEW: ContextVar[int] = ContextVar("skew", default=0)
"""By how many seconds the clock of the node that answers at this moment is wrong."""
_CPU_PERIOD = 1e9


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of constant rate: `[start, end)` in Unix seconds."""

    start: int
    end: int
    earned: float
    """Native units earned in the piece."""
    effective: float
    """The share that earned it (mean over the piece)."""
    value: float
    """The lever value the node runs with."""
    up: bool
    """The node ran and its protocol paid."""

    @property
    def seconds(self) -> int:
        """Length."""
        return self.end - self.start


class Books(Protocol):
    """One protocol's record of its earnings in its own terms."""

    def accrue(self, piece: Piece) -> None:
        """Add a piece. Pieces come in order and without gaps."""
        ...

    def busy_until(self, at: int) -> int | None:
        """Until when work that has begun goes on with what it was given; None where a change takes hold at once."""
        ...

    def dump(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        ...

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take back what `dump` gave."""
        ...


@dataclass(slots=True)
class Node:
    """One node's state. `share` is what lever and CPU limit grant it, `effective` what it really works with."""

    name: str
    protocol: str
    lever_share: float = 0.0
    lever_value: float = 0.0
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else the node took from its files."""
    environment: dict[str, str] = field(default_factory=dict[str, str])
    """The container's environment variables, which some nodes put above their files."""
    nano_cpus: int = 0
    memory: int = 0
    memory_swap: int = 0
    running: bool = True
    paused: bool = False
    exit_code: int = 0
    log: str = ""
    started_at: int = 0
    finished_at: int = 0
    ready_at: int = 0
    """The node answers and earns from this moment on."""
    up_since: int = 0
    seen_at: int = 0
    """The last moment at which it ran and its protocol paid."""
    reload_at: int | None = None
    task_share: float = 0.0
    task_until: int | None = None
    """Until then a task begun before the last change works with `task_share`."""
    signature: str = ""
    effective: float = 0.0
    native: float = 0.0
    usd: float = 0.0
    cpu_seconds: float = 0.0
    rx_bytes: float = 0.0
    tx_bytes: float = 0.0
    was_up: bool = True

    def answers(self, now: int) -> bool:
        """True when the node's own API can be reached."""
        return self.running and not self.paused and now >= self.ready_at


def _unknown_moment(_wall: float) -> int | None:
    return None


class Economy:
    """All nodes of one simulated host, advanced together."""

    def __init__(
        self,
        world: World,
        *,
        folder: Path,
        books: Mapping[str, Books],
        start: int,
        number: int = 1,
        restart_seconds: Mapping[str, float] | None = None,
        moment_of: Callable[[float], int | None] = _unknown_moment,
        stuck: AbstractSet[str] = frozenset(),
    ) -> None:
        """`books` by protocol. `start` is the testnet's first moment; levers are installed in `folder`/<node>.

        `number`: the host's, from 1 on. `moment_of`: the testnet's moment at a moment of the wall's, None while time
        stands still. `stuck`: names of nodes whose levers silently do not take for now; it may change.
        """
        self.world = world
        self.start = start
        self.number = number
        self.moment_of = moment_of
        self.stuck = stuck
        self.altered = False
        """Something happened that time alone would not bring about again. Whoever saves the state takes it back."""
        self._now = start
        self.books = dict(books)
        self.restart_seconds = {**DEFAULT_RESTART_SECONDS, **(restart_seconds or {})}
        self.nodes: dict[str, Node] = {}
        self.levers: dict[str, Lever] = {}
        self._rates: dict[str, tuple[float, bool, float]] = {}
        self._rates_at = -1
        self._throttle: float | None = None
        shares = equal_shares(world)
        for protocol, terms in world.protocols.items():
            name = node_name(protocol, number)
            lever = LEVERS[protocol](folder / name, terms, world.capacity)
            value = lever.snap(shares[protocol])
            lever.install(value)
            node = Node(name=name, protocol=protocol, started_at=start, ready_at=start, up_since=start, seen_at=start)
            node.memory = int(terms.demand.memory_gib * 1024**3)
            if protocol == "grass":
                node.nano_cpus = round(value * _CPU_PERIOD)
            self.nodes[name], self.levers[name] = node, lever
            self._take(node, lever.read(node.environment))
            node.signature = lever.signature()
            node.effective = self.share(node)
        self.altered = False

    @property
    def now(self) -> int:
        """How far time has come, as the clock of the node that answers shows it."""
        return self._now + SKEW.get()

    # ------------------------------------------------------------ shares and rates

    def share(self, node: Node) -> float:
        """What lever and CPU limit grant the node, at most 1.0."""
        limit = 1.0
        if node.nano_cpus:
            limit = node.nano_cpus / _CPU_PERIOD / self.world.protocols[node.protocol].demand.cpu_threads
        return min(1.0, limit, node.lever_share)

    def working(self, node: Node) -> float:
        """The share the node works with: until the task that runs has ended, what that was given."""
        return self.share(node) if node.task_until is None else node.task_share

    def crowding(self) -> float:
        """The part of its share each node really gets: below 1.0 when the nodes together want more than the host."""
        if self._throttle is None:
            wanted = dict.fromkeys(self.world.capacity.as_dict(), 0.0)
            for node in self.nodes.values():
                if node.running and not node.paused:
                    demand = self.world.protocols[node.protocol].demand.as_dict()
                    for name, amount in demand.items():
                        wanted[name] += self.working(node) * amount
            self._throttle = min(
                (limit / wanted[name] for name, limit in self.world.capacity.as_dict().items() if wanted[name] > limit),
                default=1.0,
            )
        return self._throttle

    def _market(self, protocol: str) -> tuple[float, bool, float]:
        """Native rate, availability and USD a unit at this moment."""
        if self._rates_at != self._now:
            step = self._now - self._now % self.world.step
            if self._rates_at < step or any(step < shift.since for shift in self.world.shifts):
                self._rates = {
                    name: (
                        self.world.native_rate(name, self._now),
                        self.world.available(name, self._now),
                        self.world.unit_usd(name, self._now),
                    )
                    for name in self.world.protocols
                }
            self._rates_at = self._now
        return self._rates[protocol]

    def rate(self, node: Node) -> float:
        """Native units an hour the node earns at this moment."""
        native, available, _ = self._market(node.protocol)
        if not available or not node.answers(self._now):
            return 0.0
        curvature = self.world.protocols[node.protocol].curvature
        return native * (node.effective * self.crowding()) ** curvature

    # ------------------------------------------------------------ time

    def advance(self, to: int) -> None:
        """Let time pass until `to`; a moment already past changes nothing."""
        self.watch(to)
        while self._now < to:
            end = min(to, self._next_change())
            for node in self.nodes.values():
                self._pass(node, end)
            self._now = end
            for node in self.nodes.values():
                if node.task_until is not None and node.task_until <= self._now:
                    self._end_task(node)
                if node.reload_at is not None and node.reload_at <= self._now:
                    self._reload(node)

    def _next_change(self) -> int:
        """The next moment at which some rate may change."""
        moments = [self._now - self._now % self.world.step + self.world.step]
        for node in self.nodes.values():
            moments.extend(
                at for at in (node.ready_at, node.reload_at, node.task_until) if at is not None and at > self._now
            )
        moments.extend(shift.since for shift in self.world.shifts if shift.since > self._now)
        return min(moments)

    def _pass(self, node: Node, end: int) -> None:
        native, available, unit_usd = self._market(node.protocol)
        up = available and node.answers(self._now)
        seconds = end - self._now
        terms = self.world.protocols[node.protocol]
        granted = self.working(node)
        before = node.effective
        if node.protocol == "storj":
            follows = math.exp(-seconds / STORJ_FILL_SECONDS)
            middle = granted + (before - granted) * math.sqrt(follows)
            node.effective = granted + (before - granted) * follows
        else:
            before = middle = node.effective = granted
        crowding = self.crowding()
        # Simpson's rule: the response bends while Storj's data drains or fills.
        response = (
            (before * crowding) ** terms.curvature
            + 4.0 * (middle * crowding) ** terms.curvature
            + (node.effective * crowding) ** terms.curvature
        ) / 6.0
        earned = native * response * seconds / HOUR if up else 0.0
        node.native += earned
        node.usd += earned * unit_usd
        if up:
            if not node.was_up:
                node.up_since = self._now
            node.seen_at = end
            works = middle * crowding * seconds
            node.cpu_seconds += 0.6 * works * terms.demand.cpu_threads
            moved = 0.5 * works * terms.demand.bandwidth_mbps * 1e6 / 8.0
            node.rx_bytes += 0.4 * moved
            node.tx_bytes += 0.6 * moved
        node.was_up = up
        self.books[node.protocol].accrue(
            Piece(self._now, end, earned, middle * crowding if up else 0.0, node.lever_value, up)
        )

    # ------------------------------------------------------------ levers

    def _take(self, node: Node, loaded: Loaded) -> None:
        if not loaded.keeps:
            node.lever_share, node.lever_value = loaded.share, loaded.value
        node.detail = loaded.detail
        self._change()

    def _change(self) -> None:
        self._throttle, self.altered = None, True

    def watch(self, until: int | None = None) -> None:
        """Golem's provider watches its files: a change takes effect a few seconds after it was made.

        `until`: how far time will pass next, so that a change is not taken for older than it is.
        """
        node = self.nodes[node_name("golem", self.number)]
        lever = self.levers[node.name]
        if node.reload_at is None and lever.signature() != node.signature:
            made = self.moment_of(lever.edited())
            noticed = self._now if made is None else min(max(self._now, made), max(self._now, until or 0))
            node.reload_at = due = noticed + math.ceil(self.restart_seconds["golem"])
            if due <= self._now:
                self._reload(node)

    def _reload(self, node: Node) -> None:
        """Take what the files say; a file that cannot be used leaves the node as it is."""
        lever = self.levers[node.name]
        node.reload_at, node.signature = None, lever.signature()
        loaded = lever.read(node.environment)
        if not loaded.problem and node.name not in self.stuck:
            before = self.working(node)
            self._take(node, loaded)
            # Who had nothing has no task that could go on with it.
            busy = self.books[node.protocol].busy_until(self._now) if before > 0 else None
            node.task_share, node.task_until = before, busy

    def _end_task(self, node: Node) -> None:
        node.task_until = None
        self._change()

    def start_node(self, node: Node) -> None:
        """Start the container: the node reads its files, and exits at once where it cannot run with them."""
        loaded = self.levers[node.name].read(node.environment)
        node.started_at, node.paused = self._now, False
        self._end_task(node)
        if loaded.problem and node.name not in self.stuck:
            node.running, node.exit_code, node.log, node.finished_at = False, 1, loaded.problem, self._now
            return
        if node.name not in self.stuck:
            self._take(node, loaded)
        node.running, node.exit_code, node.log = True, 0, ""
        node.ready_at = self._now + math.ceil(self.restart_seconds[node.protocol])

    def stop_node(self, node: Node) -> None:
        """Stop the container; it earns nothing until it is started."""
        node.running, node.paused, node.exit_code, node.finished_at = False, False, 0, self._now
        self._change()

    def pause_node(self, node: Node, *, paused: bool) -> None:
        """Freeze the container's processes, or let them go on."""
        node.paused = paused
        self._change()

    def limit_cpu(self, node: Node, nano_cpus: int) -> None:
        """Set the container's CPU limit; 0 is none. Takes effect at once."""
        node.nano_cpus = nano_cpus
        self._change()

    def shift(self, protocol: str, factor: float, since: int | None = None) -> None:
        """Multiply a protocol's yield from a moment on; None: from now on."""
        self.world = self.world.shift(protocol, factor, self._now if since is None else since)
        self._rates_at = -1

    # ------------------------------------------------------------ state

    def dump(self) -> dict[str, Any]:
        """Everything that cannot be worked out again."""
        return {
            "start": self.start,
            "now": self._now,
            "nodes": {name: asdict(node) for name, node in self.nodes.items()},
            "books": {protocol: books.dump() for protocol, books in self.books.items()},
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take back what `dump` gave; files edited while the testnet was down are seen by the watch."""
        self.start, self._now, self.altered = saved["start"], saved["now"], False
        for name, values in saved["nodes"].items():
            for slot in fields(Node):
                setattr(self.nodes[name], slot.name, values[slot.name])
        for protocol, books in self.books.items():
            books.load(saved["books"][protocol])
        self._rates_at, self._throttle = -1, None
