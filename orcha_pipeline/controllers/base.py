"""The contract of a host controller: how a limit is enforced and a node restarted."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits in force on a node's process; None is no limit."""

    cpu_threads: float | None = None
    memory_bytes: int | None = None


class Controller(Protocol):
    """Enforces limits on one node. Methods raise `AllocationError` or `UnsupportedError`, never succeed silently."""

    def why_not_writable(self) -> str:
        """Empty when limits can be set and the node restarted; else the reason, for the operator."""
        ...

    def limits(self) -> Limits:
        """The limits in force, read back from the host."""
        ...

    def set_cpu(self, threads: float) -> Limits:
        """Limit CPU to `threads` hardware threads; returns what was read back."""
        ...

    def restart(self, grace_seconds: int) -> None:
        """Stop within `grace_seconds`, start again, and return once the host reports the node running."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...
