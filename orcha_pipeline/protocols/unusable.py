"""A node whose settings cannot be used, as an adapter that says so: it is told like any other fault of one node."""

from collections.abc import Sequence
from decimal import Decimal
from typing import ClassVar, NoReturn

from orcha_pipeline.clock import Clock
from orcha_pipeline.controllers.none import NoController
from orcha_pipeline.errors import UnusableError
from orcha_pipeline.model import (
    AllocationReading,
    AppliedChange,
    EarningsObservation,
    HealthReading,
    Lever,
    UsageReading,
    Window,
)
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.settings import NodeSettings


class UnusableAdapter(Adapter):
    """Stands in for the adapter that could not be made. Everything it is asked raises `UnusableError`."""

    protocol: ClassVar[str] = ""
    native_unit: ClassVar[str] = ""
    token: ClassVar[str | None] = None

    def __init__(self, settings: NodeSettings, clock: Clock, why: str) -> None:
        super().__init__(settings, controller=NoController(settings.name), clock=clock)
        self.why = why.removeprefix(f"node {settings.name!r}: ")

    @property
    def tokens_per_native(self) -> Decimal | None:
        """Not known, so that nothing is valued."""
        return None

    def health(self) -> HealthReading:
        """Raises `UnusableError`."""
        self._refuse()

    def earnings(self, window: Window) -> Sequence[EarningsObservation]:  # noqa: ARG002 (refused whatever it is)
        """Raises `UnusableError`."""
        self._refuse()

    def earnings_history(self, window: Window) -> Sequence[EarningsObservation]:  # noqa: ARG002 (refused whatever it is)
        """Raises `UnusableError`."""
        self._refuse()

    def resource_usage(self) -> Sequence[UsageReading]:
        """Raises `UnusableError`."""
        self._refuse()

    def allocation(self) -> AllocationReading:
        """Raises `UnusableError`."""
        self._refuse()

    def levers(self) -> Sequence[Lever]:
        """Raises `UnusableError`."""
        self._refuse()

    def apply(self, lever: str, value: float) -> AppliedChange:  # noqa: ARG002 (refused whatever it is)
        """Raises `UnusableError`."""
        self._refuse()

    def close(self) -> None:
        """Nothing is open."""

    def _refuse(self) -> NoReturn:
        raise UnusableError(self.node, self.why)
