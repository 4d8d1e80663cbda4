"""The contract of a host controller: how a limit is enforced, what a node uses, and how it is restarted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

LimitName = Literal["cpu_threads", "memory_bytes", "bandwidth_mbps"]
LIMITS: tuple[LimitName, ...] = ("cpu_threads", "memory_bytes", "bandwidth_mbps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on a node's processes.

    In force: None is no limit. Wanted: None leaves a limit as it is, `math.inf` takes it away.
    """

    cpu_threads: float | None = None
    memory_bytes: float | None = None
    bandwidth_mbps: float | None = None
    """Megabits a second of what the node sends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUsage:
    """What the node's processes use, as the host counts it. None: the host does not tell."""

    cpu_seconds_total: float | None = None
    memory_bytes: float | None = None
    received_bytes_total: float | None = None
    sent_bytes_total: float | None = None
    throttled_seconds_total: float | None = None
    out_of_memory_kills_total: float | None = None
    source: str


class Controller(Protocol):
    """Enforces limits on one node. Methods raise `AllocationError` or `UnsupportedError`, never succeed silently.

    The `why_cannot_…` methods touch nothing on the node; what they tell is for the operator.
    """

    def describe(self) -> str:
        """What limits the node, in words: "Docker container storagenode at unix:///var/run/docker.sock"."""
        ...

    def why_cannot_limit(self, limit: LimitName) -> str:
        """Empty when this limit can be set; else the reason and the remedy."""
        ...

    def why_cannot_restart(self) -> str:
        """Empty when the node can be restarted; else the reason and the remedy."""
        ...

    def why_cannot_recreate(self) -> str:
        """Empty when the node can be started anew with another environment; else the reason and the remedy."""
        ...

    def limits(self) -> Limits:
        """The limits in force, read back from the host."""
        ...

    def set_limits(self, wanted: Limits) -> Limits:
        """Set the limits given and return all in force, read back. `AllocationError` where they are not what was asked.

        Where one of several cannot be set, those set before are put back.
        """
        ...

    def usage(self) -> ProcessUsage:
        """What the node uses now."""
        ...

    def restart(self, grace_seconds: int) -> None:
        """Stop within `grace_seconds`, start again, and return once the host reports the node running."""
        ...

    def environment(self) -> Mapping[str, str] | None:
        """The variables the node was started with; None where the host does not tell. Values may be secrets."""
        ...

    def recreate(self, environment: Mapping[str, str], grace_seconds: int) -> None:
        """Start the node anew with these variables changed, all else as it was; on failure the old one runs again."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...
