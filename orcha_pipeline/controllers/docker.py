"""Limits, usage, restarts and recreation of a node's container by the Docker Engine API."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict

from orcha_pipeline.controllers.base import LimitName, Limits, ProcessUsage
from orcha_pipeline.controllers.checks import not_as_wanted, require_sane
from orcha_pipeline.controllers.docker_api import DockerModel, Engine, EngineError, patiently
from orcha_pipeline.controllers.docker_recreate import Recreation, State, environment_of
from orcha_pipeline.errors import AdapterError, AllocationError, UnsupportedError
from orcha_pipeline.protocols.http import patient
from orcha_pipeline.protocols.levers import wait_for
from orcha_pipeline.protocols.parsing import Whole, parse

START_SECONDS = 60.0
"""How long a restarted container may take to run."""
NANO = 1_000_000_000
DEFAULT_PERIOD = 100_000
"""Microseconds, where a container has a quota without a period."""
LEAST_QUOTA = 1000
"""Microseconds; the kernel's own bound."""

T = TypeVar("T")


class _HostConfig(DockerModel):
    """0 is no limit. CPUs are limited by `NanoCpus`, or by a quota of a period in microseconds."""

    nano_cpus: Whole
    memory: Whole
    memory_swap: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0

    @property
    def by_quota(self) -> bool:
        """Which of the two it is; Docker keeps a container to the one that was used first."""
        return not self.nano_cpus and (self.cpu_quota != 0 or self.cpu_period != 0)

    @property
    def threads(self) -> float | None:
        """CPUs granted; None is no limit."""
        if self.cpu_quota < 0:
            # As `docker update --cpu-quota=-1` leaves it: NanoCpus stays on paper, but the kernel has no limit.
            return None
        if self.cpu_quota > 0:
            return self.cpu_quota / (self.cpu_period or DEFAULT_PERIOD)
        return self.nano_cpus / NANO if self.nano_cpus else None


class _Container(DockerModel):
    host_config: _HostConfig
    state: State


class _Counters(BaseModel):
    """Part of the statistics, whose names Docker writes in snake_case."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _CpuTime(_Counters):
    total_usage: Whole


class _Throttling(_Counters):
    throttled_time: Whole


class _Cpu(_Counters):
    cpu_usage: _CpuTime
    throttling_data: _Throttling | None = None


class _Memory(_Counters):
    usage: Whole | None = None
    stats: dict[str, Any] = {}


class _Network(_Counters):
    rx_bytes: Whole
    tx_bytes: Whole


class _Statistics(_Counters):
    cpu_stats: _Cpu
    memory_stats: _Memory
    networks: dict[str, _Network] | None = None


class DockerController:
    """One container. Every failure is an `AllocationError` with Docker's own message."""

    def __init__(self, node: str, *, url: str, container: str, transport: httpx.BaseTransport | None = None) -> None:
        """`url`: `unix:///path/to/docker.sock`, or an http address, which may have a path. Raises `SettingsError`."""
        self._node = node
        self._container = container
        self._engine = Engine(node, url, transport)
        self._recreation = Recreation(self._engine, container)

    def describe(self) -> str:
        """What limits the node."""
        return f"Docker container {self._container} at {self._engine.url}"

    def why_cannot_limit(self, limit: LimitName) -> str:
        """Docker limits CPU and memory."""
        if limit == "bandwidth_mbps":
            return (
                "Docker has no limit of bandwidth; set controller.interface to a network device that carries all that "
                "the node sends and nothing else"
            )
        return self.why_cannot_restart()

    def why_cannot_restart(self) -> str:
        """Empty where a container is named and Docker's socket is there; Docker is not asked."""
        if not self._container:
            return "controller.container is not set: name the node's container"
        return self._engine.why_not_reachable()

    def why_cannot_recreate(self) -> str:
        """As for a restart; that a container was run with --rm shows only when it is tried."""
        return self.why_cannot_restart()

    def limits(self) -> Limits:
        """The container's limits in force. One that is as large as the host takes nothing, but is a limit."""
        config = self._inspected().host_config
        return Limits(cpu_threads=config.threads, memory_bytes=config.memory or None)

    def set_limits(self, wanted: Limits) -> Limits:
        """Limit the running container; it need not restart. Returns what Docker reports afterwards.

        All in one call, which Docker carries out as a whole. It knows no way to take away a limit of `NanoCpus` or of
        memory: in place of none a container gets all of its host.
        """
        self._require_usable()
        if wanted.bandwidth_mbps is not None:
            raise UnsupportedError(self._node, self.why_cannot_limit("bandwidth_mbps"))
        require_sane(self._node, wanted)
        before = self._inspected().host_config
        body, expected = self._update(wanted, before)
        if not body:
            return self.limits()
        try:
            self._engine.update(self._container, body)
            after = self.limits()
        except EngineError as error:
            if not error.passing:  # refused, so nothing is changed
                raise
            raise AllocationError(self._node, f"{error.message}; {self._undone(body, before)}") from None
        if wrong := not_as_wanted(expected, after):
            raise AllocationError(
                self._node,
                f"Docker took the limits of {self._container!r} but reports others: {wrong}; "
                f"{self._undone(body, before)}",
            )
        return after

    def usage(self) -> ProcessUsage:
        """What Docker counts of the container since it started. A container on the host's network has no counts of it.

        Memory is without the page cache that the kernel would give back first. Docker counts no kills for memory.
        """
        self._require_usable()
        payload = self._told_of_left_over(lambda: self._engine.statistics(self._container))
        seen = self._parsed("statistics", _Statistics, payload)
        memory = seen.memory_stats
        if memory.usage is None:
            raise AllocationError(self._node, f"container {self._container!r} does not run: Docker counts nothing")
        # cgroup v1 counts the group with those below it under another name.
        cache = memory.stats.get("total_inactive_file", memory.stats.get("inactive_file", 0))
        held = memory.usage - cache if isinstance(cache, int) and cache < memory.usage else memory.usage
        networks = None if seen.networks is None else seen.networks.values()
        throttling = seen.cpu_stats.throttling_data
        return ProcessUsage(
            cpu_seconds_total=seen.cpu_stats.cpu_usage.total_usage / NANO,
            memory_bytes=held,
            received_bytes_total=None if networks is None else sum(one.rx_bytes for one in networks),
            sent_bytes_total=None if networks is None else sum(one.tx_bytes for one in networks),
            throttled_seconds_total=None if throttling is None else throttling.throttled_time / NANO,
            source=self.describe(),
        )

    def restart(self, grace_seconds: int) -> None:
        """Restart, and return once Docker reports the container running. The grace is for a clean shutdown."""
        self._require_usable()
        with patient():
            self._recreation.recover()
            self._engine.restart(self._container, grace_seconds)

        def running() -> bool | None:
            state = self._inspected().state
            return True if state.running and not state.restarting else None

        if wait_for(patiently(running), seconds=START_SECONDS) is None:
            state = self._inspected().state
            raise AllocationError(
                self._node,
                f"container {self._container!r} is {state.status!r} {START_SECONDS:g} s after its restart "
                f"(exit code {state.exit_code}); see docker logs {self._container}",
            )

    def environment(self) -> Mapping[str, str]:
        """The variables the container was created with, those of its image included. Values may be secrets."""
        self._require_usable()
        return environment_of(self._told_of_left_over(lambda: self._engine.inspect(self._container)))

    def recreate(self, environment: Mapping[str, str], grace_seconds: int) -> None:
        """Replace the container by one with these variables; see `docker_recreate`. Raises `AllocationError`."""
        self._require_usable()
        for name, value in environment.items():
            if not name or "=" in name or "\0" in name + value:
                raise AllocationError(self._node, f"{name!r} cannot be set as an environment variable")
        # Putting the old one back must not be held up by what failed before.
        with patient():
            self._recreation.replace(environment, grace_seconds)

    def close(self) -> None:
        """Close the connections."""
        self._engine.close()

    def _update(self, wanted: Limits, before: _HostConfig) -> tuple[dict[str, int], Limits]:
        """The body that sets what is wanted, empty where nothing is to do, and the limits to find afterwards."""
        body: dict[str, int] = {}
        threads, memory = wanted.cpu_threads, wanted.memory_bytes
        if threads == math.inf and before.threads is None:
            threads = None
        elif threads == math.inf and not before.by_quota:
            threads = float(self._engine.host_size()[0])
        if memory == math.inf and not before.memory:
            memory = None
        elif memory == math.inf:
            memory = float(self._engine.host_size()[1])
        if threads is not None and before.by_quota:
            body["CpuQuota"] = self._quota(threads, before.cpu_period or DEFAULT_PERIOD)
        elif threads is not None:
            if before.cpu_quota < 0:
                raise AllocationError(
                    self._node,
                    f"the CPU limit of {self._container!r} was taken away with docker update --cpu-quota: Docker would "
                    "forget a new one when it restarts; create the container anew, with --cpus",
                )
            body["NanoCpus"] = round(threads * NANO)
        if memory is not None:
            body |= {"Memory": round(memory), "MemorySwap": _swap(round(memory), before)}
        return body, Limits(cpu_threads=threads, memory_bytes=memory)

    def _quota(self, threads: float, period: int) -> int:
        if threads == math.inf:
            return -1
        quota = round(threads * period)
        if quota < LEAST_QUOTA:
            least = LEAST_QUOTA / period
            raise AllocationError(
                self._node, f"a CPU limit must be at least {least:g} threads with a period of {period} microseconds"
            )
        return quota

    def _undone(self, body: Mapping[str, int], before: _HostConfig) -> str:
        """Put back what `body` changed; in words, what came of it."""
        back: dict[str, int] = {}
        try:
            if "CpuQuota" in body:
                back["CpuQuota"] = before.cpu_quota or -1
            if "NanoCpus" in body:
                back["NanoCpus"] = before.nano_cpus or self._engine.host_size()[0] * NANO
            if "Memory" in body:
                back["Memory"] = before.memory or self._engine.host_size()[1]
                back["MemorySwap"] = before.memory_swap or 2 * back["Memory"]
            self._engine.update(self._container, back)
        except AdapterError as error:
            return f"the former limits could not be put back: {error.message}"
        return "the former limits are back"

    def _inspected(self) -> _Container:
        self._require_usable()
        payload = self._told_of_left_over(lambda: self._engine.inspect(self._container))
        return self._parsed("container", _Container, payload)

    def _told_of_left_over(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except EngineError as error:
            told = self._recreation.left_over() if error.status == 404 else ""
            if not told:
                raise
            raise EngineError(self._node, f"{error.message}; {told}", status=404) from None

    def _require_usable(self) -> None:
        why_not = self.why_cannot_restart()
        if why_not:
            raise UnsupportedError(self._node, why_not)

    def _parsed(self, where: str, kind: type[T], payload: Any) -> T:
        try:
            return parse(self._node, where, kind, payload)
        except AdapterError as error:
            raise AllocationError(self._node, f"Docker at {self._engine.url}: {error.message}") from None


def _swap(memory: int, before: _HostConfig) -> int:
    """`MemorySwap` (memory and swap together) beside a new `Memory`; Docker wants the one with the other.

    As much swap as before; where there was no limit, as much as Docker gives by default: the same again.
    """
    if before.memory_swap < 0:
        return -1
    allowed = before.memory_swap - before.memory if before.memory and before.memory_swap else memory
    return memory + max(0, allowed)
