"""No controller: the node can be read, but neither limited nor restarted."""

from collections.abc import Mapping
from typing import NoReturn

from orcha_pipeline.controllers.base import LimitName, Limits, ProcessUsage
from orcha_pipeline.errors import UnsupportedError

WHY_NOT = (
    "no controller is set for this node: add [nodes.controller] with kind = "
    '"docker" (and container), "systemd" (and unit) or "cgroup" (and cgroup)'
)
WHY_NO_DEVICE = (
    "no controller is set for the bandwidth of this node: set controller.interface to a network device that carries "
    "all that the node sends and nothing else"
)


class NoController:
    """Refuses everything, and says what to set."""

    def __init__(self, node: str) -> None:
        self._node = node

    def describe(self) -> str:
        """What limits the node: nothing."""
        return "no controller"

    def why_cannot_limit(self, limit: LimitName) -> str:
        """Always the same reason, with what it takes for this limit."""
        return WHY_NO_DEVICE if limit == "bandwidth_mbps" else WHY_NOT

    def why_cannot_restart(self) -> str:
        """Always the same reason."""
        return WHY_NOT

    def why_cannot_recreate(self) -> str:
        """Always the same reason."""
        return WHY_NOT

    def limits(self) -> Limits:
        """Raises `UnsupportedError`."""
        self._refuse()

    def set_limits(self, wanted: Limits) -> Limits:
        """Raises `UnsupportedError`."""
        del wanted
        self._refuse()

    def usage(self) -> ProcessUsage:
        """Raises `UnsupportedError`."""
        self._refuse()

    def restart(self, grace_seconds: int) -> None:
        """Raises `UnsupportedError`."""
        del grace_seconds
        self._refuse()

    def environment(self) -> Mapping[str, str] | None:
        """Nothing is known of it."""
        return None

    def recreate(self, environment: Mapping[str, str], grace_seconds: int) -> None:
        """Raises `UnsupportedError`."""
        del environment, grace_seconds
        self._refuse()

    def close(self) -> None:
        """Nothing is open."""

    def _refuse(self) -> NoReturn:
        raise UnsupportedError(self._node, WHY_NOT)
