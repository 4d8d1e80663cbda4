"""One testnet: its hosts, its time and its faults together, kept in a folder and resumed from it.

A host's time is let pass when something of it is asked, not before: a thousand hosts cost nothing while only one is
looked at. Nothing that was answered to a change is lost when the process is killed; what time alone brought about is
worked out again from the last saved state.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.testnet.economy import Economy
from orcha_pipeline.testnet.faults import Faults
from orcha_pipeline.testnet.hosts import MOST_HOSTS, SimulatedHost, host_folder, host_name
from orcha_pipeline.testnet.played import load_world
from orcha_pipeline.testnet.state_file import read_state, write_state
from orcha_pipeline.testnet.timekeeping import Timekeeper
from orcha_pipeline.testnet.worlds import Shift, World, seeded_world

STATE_FILE = "testnet.json"
_FORMAT = 2
_SAVE_EVERY_SECONDS = 2.0


class Testnet:
    """Hosts, time and faults of one testnet, kept in a folder."""

    __test__ = False

    def __init__(
        self,
        *,
        state: Path,
        seed: int,
        hosts: int = 1,
        world: Path | None = None,
        prices_file: Path | None = None,
        start: datetime | None = None,
        speed: float | None = None,
        restart_seconds: Mapping[str, float] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Resumes from `state` where there is one. Raises `SettingsError` where it belongs to other settings.

        Time stands still until it is told to run, or runs at once at a `speed`.
        """
        if not 1 <= hosts <= MOST_HOSTS:
            raise SettingsError(f"A testnet has 1 to {MOST_HOSTS} hosts, not {hosts}.")
        if speed is not None and not (math.isfinite(speed) and speed > 0):
            raise SettingsError(f"The speed is {speed}. Give how many times faster than the wall clock time runs.")
        self.state = state
        self.seed = seed
        self.faults = Faults()
        self.shifts: list[Shift] = []
        self._identity = {
            "format": _FORMAT,
            "seed": seed,
            "hosts": hosts,
            "world": str(world.absolute()) if world else None,
            "prices": str(prices_file.absolute()) if prices_file else None,
        }
        self._remedy = f"Move the folder {state} away to begin anew."
        saved = self._read()
        self.start = int(saved["start"]) if saved else math.floor(start.timestamp() if start else wall())
        self.time = Timekeeper(self.start, wall=wall)
        if saved:
            self.time.load(saved["time"])
            self.shifts = [Shift(**shift) for shift in saved["shifts"]]
        self.hosts: dict[str, SimulatedHost] = {}
        self.nodes: dict[str, SimulatedHost] = {}
        """Node -> its host."""
        first = load_world(seed=seed, world=world, prices=prices_file, start=self.start)
        first = replace(first, shifts=tuple(self.shifts))
        for number in range(1, hosts + 1):
            name = host_name(number, hosts)
            self.hosts[name] = SimulatedHost(
                _world_of(first, seed, number, played=world is not None),
                name=name,
                number=number,
                folder=host_folder(state, number, hosts),
                start=self.start,
                remedy=self._remedy,
                restart_seconds=restart_seconds,
                moment_of=self.time.moment,
                stuck=self.faults.stuck,
            )
            self.nodes |= dict.fromkeys(self.hosts[name].economy.nodes, self.hosts[name])
        if speed is not None and (not self.time.live or speed != self.time.speed):
            self.time.play(speed)
        self.save_time()

    @property
    def first(self) -> SimulatedHost:
        """The host that services ask which belong to none, such as the price API."""
        return next(iter(self.hosts.values()))

    @property
    def economy(self) -> Economy:
        """The first host's: the only one's, where there is one."""
        return self.first.economy

    # ------------------------------------------------------------ time

    def sync(self) -> None:
        """Drop the faults whose time is over, and save the time now and then."""
        if self.faults:
            self.faults.drop_old(self.time.now)
        if self.time.live and self.time.wall() - self._saved_at >= _SAVE_EVERY_SECONDS:
            self.save_time()

    def catch_up(self, host: SimulatedHost) -> None:
        """Let the time pass on a host that has passed on the testnet."""
        host.economy.advance(self.time.now)
        if host.is_due:
            self.keep([host])

    def keep(self, hosts: Iterable[SimulatedHost]) -> None:
        """Save hosts as they are now."""
        for host in hosts:
            if self._saved_now < self.time.now:
                self.save_time()
            host.save()

    def go_live(self) -> None:
        """Let time run from now on."""
        self.time.run()
        self.save_time()

    def advance_to(self, moment: int) -> None:
        """Let the time until `moment` pass at once. A live clock goes on from there."""
        self.time.move(moment)
        self.save_time()

    def shift(self, protocol: str, factor: float) -> None:
        """Multiply a protocol's yield by `factor` from now on, on every host."""
        shift = Shift(protocol, factor, self.time.now)
        self.shifts.append(shift)
        for host in self.hosts.values():
            host.economy.shift(shift.protocol, shift.factor, shift.since)
        self.save_time()

    # ------------------------------------------------------------ state

    def _read(self) -> dict[str, Any] | None:
        path = self.state / STATE_FILE
        saved = read_state(path, self._remedy)
        if saved is None:
            return None
        if saved.get("format") != _FORMAT:
            raise SettingsError(f"The testnet's state {path} is of another version of Orcha. {self._remedy}")
        for key, value in self._identity.items():
            if saved.get(key) != value:
                raise SettingsError(
                    f"The testnet's state {path} was made with {key} {saved.get(key)}, and {value} is asked for. "
                    f"Set it back, or move the folder {self.state} away to begin anew."
                )
        return saved

    def save_time(self) -> None:
        """Write what is not one host's own. No host's saved state is ever later than this."""
        kept = self.time.dump()
        shifts = [asdict(shift) for shift in self.shifts]
        write_state(self.state / STATE_FILE, {**self._identity, "start": self.start, "time": kept, "shifts": shifts})
        self._saved_at, self._saved_now = self.time.wall(), int(kept["now"])

    def save(self) -> None:
        """Write everything that has changed."""
        self.save_time()
        for host in self.hosts.values():
            if host.is_altered:
                host.save()

    def true_state(self, host_name: str | None = None) -> dict[str, Any]:
        """What is really so, node by node, on one host or all: to measure what Orcha saw against it."""
        found: dict[str, Any] = {}
        for host in self.hosts.values() if host_name is None else [self.hosts[host_name]]:
            self.catch_up(host)
            found |= host.true_state()
        return found


def _world_of(first: World, seed: int, number: int, *, played: bool) -> World:
    """Host `number`'s world: a recorded one is every host's; seeded ones differ, but for the prices."""
    if number == 1 or played:
        return first
    own = seeded_world(seed + number - 1)
    return replace(first, name=own.name, capacity=own.capacity, protocols=own.protocols, yields=own.yields)
