"""What one installation of Orcha consists of: its settings, the testnet in place of missing nodes, its clock."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from orcha_pipeline.backup.journal import refuse_half_restored
from orcha_pipeline.clock import Clock, SystemClock
from orcha_pipeline.protocols.registry import adapter_type, protocol_names
from orcha_pipeline.settings import Settings
from orcha_pipeline.settings_file import load_settings
from orcha_pipeline.warehouse.connection import Warehouse


@runtime_checkable
class SteppedClock(Clock, Protocol):
    """A clock that can be told to run ahead: the testnet's, while it plays its past."""

    def is_live(self) -> bool:
        """Whether it follows the wall clock by now."""
        ...

    def advance_to(self, moment: datetime) -> None:
        """Let the time until `moment` pass at once."""
        ...

    def go_live(self) -> None:
        """Catch up with the wall clock and follow it from now on."""
        ...


@dataclass(frozen=True, slots=True)
class Installation:
    """Settings with at least one node in them: the operator's, or the testnet's where there is none."""

    settings: Settings
    clock: Clock
    simulated: bool

    @property
    def warehouse(self) -> Warehouse:
        """The warehouse of this installation."""
        return Warehouse(self.settings.warehouse_path)

    def node_protocols(self) -> dict[str, str]:
        """Node -> protocol, of every configured node."""
        return {node.name: node.protocol for node in self.settings.nodes}


def open_installation(config: Path | None = None) -> Installation:
    """Read the settings (raises `SettingsError`) and choose the clock. Connects to nothing.

    Raises `BackupError` where a restore of the data folder was interrupted: half of it would be worked on.
    """
    settings = load_settings(config, option_types={name: adapter_type(name).options_type for name in protocol_names()})
    refuse_half_restored(settings.home)
    if not settings.uses_testnet:
        return Installation(settings=settings, clock=SystemClock(), simulated=False)
    from orcha_pipeline.testnet.clock import TestnetClock
    from orcha_pipeline.testnet.fleet import embedded_settings

    clock = TestnetClock(f"http://127.0.0.1:{settings.testnet.port}")
    return Installation(settings=embedded_settings(settings), clock=clock, simulated=True)
