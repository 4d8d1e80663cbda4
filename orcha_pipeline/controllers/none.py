"""No controller: the node can be read, but neither limited nor restarted."""

from typing import NoReturn

from orcha_pipeline.controllers.base import Limits
from orcha_pipeline.errors import UnsupportedError

WHY_NOT = 'no controller is set for this node: add [nodes.controller] with kind = "docker" and its container'


class NoController:
    """Refuses everything, and says what to set."""

    def __init__(self, node: str) -> None:
        self._node = node

    def why_not_writable(self) -> str:
        """Always the same reason."""
        return WHY_NOT

    def limits(self) -> Limits:
        """Raises `UnsupportedError`."""
        self._refuse()

    def set_cpu(self, threads: float) -> Limits:  # noqa: ARG002 (refused whatever it is)
        """Raises `UnsupportedError`."""
        self._refuse()

    def restart(self, grace_seconds: int) -> None:  # noqa: ARG002 (refused whatever it is)
        """Raises `UnsupportedError`."""
        self._refuse()

    def close(self) -> None:
        """Nothing is open."""

    def _refuse(self) -> NoReturn:
        raise UnsupportedError(self._node, WHY_NOT)
