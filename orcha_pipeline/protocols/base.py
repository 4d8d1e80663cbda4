"""The contract every protocol adapter keeps, built in or from a plug-in."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import ClassVar

import httpx
from pydantic import BaseModel, ConfigDict

from orcha_pipeline.clock import Clock
from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.model import (
    AllocationReading,
    AppliedChange,
    Balance,
    EarningsObservation,
    HealthReading,
    Lever,
    UsageReading,
    Window,
)
from orcha_pipeline.settings import NodeSettings


class AdapterOptions(BaseModel):
    """What only this protocol needs (`[nodes.options]`). Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Adapter(ABC):
    """Speaks one protocol's real API for one node.

    Methods do blocking I/O and raise the `AdapterError` family; they never return a 0 for what they could not
    read. An adapter keeps no state between calls but its HTTP connections, so any process may make one.

    Registered under the entry point group `orcha.protocols`, name = protocol.
    """

    protocol: ClassVar[str]
    native_unit: ClassVar[str]
    """Unit of the earnings: `USD` (Storj), `GLM`, `DATA`, `GRASS_POINT`."""
    token: ClassVar[str | None]
    """Price id of the native unit (CoinGecko's), None where one unit is a US dollar or has no price."""
    options_type: ClassVar[type[AdapterOptions]] = AdapterOptions
    longest_window: ClassVar[timedelta] = timedelta(hours=24)
    """How far back `earnings` is asked after the node was away: what lies before is for counters to tell."""
    asked_elsewhere: ClassVar[bool] = False
    """Whether `health` asks a cloud and not the node's host: then silence tells nothing of the node."""

    def __init__(
        self,
        settings: NodeSettings,
        *,
        controller: Controller,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`transport` replaces the network in tests. Bad options raise `SettingsError`."""
        self.settings = settings
        self.controller = controller
        self.clock = clock
        self._transport = transport

    @property
    def node(self) -> str:
        """The configured name."""
        return self.settings.name

    @property
    def tokens_per_native(self) -> Decimal | None:
        """How many of `token` one native unit is worth; None where nobody knows, so that it has no price."""
        return Decimal(1)

    @abstractmethod
    def health(self) -> HealthReading:
        """Connect, and tell whether the node works and how its reputation stands."""

    @abstractmethod
    def earnings(self, window: Window) -> Sequence[EarningsObservation]:
        """What the node says of its earnings now: counters as they stand, and what it dates inside `window`."""

    @abstractmethod
    def earnings_history(self, window: Window) -> Sequence[EarningsObservation]:
        """Past earnings as finely as the node honestly holds them; empty where it keeps none."""

    def balances(self) -> Sequence[Balance]:
        """Where the money that was earned stands: accrued, pending, settled, held. Empty where nothing tells."""
        return ()

    @abstractmethod
    def resource_usage(self) -> Sequence[UsageReading]:
        """What the node uses now."""

    @abstractmethod
    def allocation(self) -> AllocationReading:
        """Where the lever that carries the share stands, as the node reports it itself."""

    def allocations(self) -> Sequence[AllocationReading]:
        """Where every lever stands, the one that carries the share first."""
        return (self.allocation(),)

    @abstractmethod
    def levers(self) -> Sequence[Lever]:
        """What can be changed, within which bounds and at what price. The first one carries the share.

        The planner moves the first one only; the others are the operator's.
        """

    def clock_ahead_seconds(self) -> float | None:
        """How far the node's clock is ahead of this machine's, by its last answer; None where nothing tells."""
        return None

    def advice(self) -> Sequence[str]:
        """What the operator could do that Orcha must not or cannot do itself, with reasons and figures."""
        return ()

    def pending_change(self) -> str | None:
        """What the node's settings say of the lever that carries the share and the node has not taken yet.

        It would with some later restart. Empty where nothing waits; None where nothing tells: a change that broke off
        is then made back in any case, also where the node seems to stand where it stood.
        """
        return None

    @abstractmethod
    def apply(self, lever: str, value: float) -> AppliedChange:
        """Move a lever, wait until the node shows it, and read it back. Raises `AllocationError` if it does not."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""
