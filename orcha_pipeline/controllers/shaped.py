"""A controller of processes joined with the network device that the node's traffic leaves by."""

import math
from collections.abc import Mapping
from dataclasses import replace

from orcha_pipeline.controllers.base import Controller, LimitName, Limits, ProcessUsage
from orcha_pipeline.controllers.checks import given
from orcha_pipeline.controllers.none import NoController
from orcha_pipeline.controllers.tc import Interface
from orcha_pipeline.errors import AdapterError, AllocationError


class ShapedController:
    """`processes` for CPU, memory and restarts (it may be no controller at all), the device for bandwidth."""

    def __init__(self, node: str, processes: Controller, interface: Interface) -> None:
        self._node = node
        self._processes = processes
        self._interface = interface
        self._bare = isinstance(processes, NoController)

    def describe(self) -> str:
        """What limits the node."""
        own = self._interface.describe()
        return own if self._bare else f"{self._processes.describe()}, {own}"

    def why_cannot_limit(self, limit: LimitName) -> str:
        """Each asks the one that does it."""
        if limit == "bandwidth_mbps":
            return self._interface.why_cannot_limit()
        return self._processes.why_cannot_limit(limit)

    def why_cannot_restart(self) -> str:
        """The processes' controller's reason."""
        return self._processes.why_cannot_restart()

    def why_cannot_recreate(self) -> str:
        """The processes' controller's reason."""
        return self._processes.why_cannot_recreate()

    def limits(self) -> Limits:
        """Both controllers' limits in force."""
        own = Limits() if self._bare else self._processes.limits()
        return replace(own, bandwidth_mbps=self._interface.limit())

    def set_limits(self, wanted: Limits) -> Limits:
        """The device first, for it is easily put back where the processes' controller fails."""
        rest = replace(wanted, bandwidth_mbps=None)
        if wanted.bandwidth_mbps is None:
            return replace(self._processes.set_limits(rest), bandwidth_mbps=self._interface.limit())
        before = self._interface.limit()
        self._interface.set_limit(wanted.bandwidth_mbps)
        if given(rest):
            try:
                self._processes.set_limits(rest)
            except AdapterError as error:
                raise AllocationError(self._node, f"{error.message}; {self._undone(before)}") from None
        return self.limits()

    def usage(self) -> ProcessUsage:
        """The processes' counters, and the device's traffic where those have none."""
        own = None if self._bare else self._processes.usage()
        if own is not None and own.sent_bytes_total is not None:
            return own
        received, sent = self._interface.traffic()
        if own is None:
            return ProcessUsage(received_bytes_total=received, sent_bytes_total=sent, source=self._interface.describe())
        source = f"{own.source}, traffic of {self._interface.device}"
        return replace(own, received_bytes_total=received, sent_bytes_total=sent, source=source)

    def restart(self, grace_seconds: int) -> None:
        """By the processes' controller; the device stays limited."""
        self._processes.restart(grace_seconds)

    def environment(self) -> Mapping[str, str] | None:
        """By the processes' controller."""
        return self._processes.environment()

    def recreate(self, environment: Mapping[str, str], grace_seconds: int) -> None:
        """By the processes' controller."""
        self._processes.recreate(environment, grace_seconds)

    def close(self) -> None:
        """Close the processes' controller."""
        self._processes.close()

    def _undone(self, before: float | None) -> str:
        try:
            self._interface.set_limit(math.inf if before is None else before)
        except AdapterError as error:
            return f"the rate of {self._interface.device} could not be put back: {error.message}"
        return f"the rate of {self._interface.device} is as before"
