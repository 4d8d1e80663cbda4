"""One testnet: world, economy, clock and faults together, kept in a folder and resumed from it."""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.testnet.economy import Books, Economy
from orcha_pipeline.testnet.golem import GolemBooks
from orcha_pipeline.testnet.grass import GrassBooks
from orcha_pipeline.testnet.levers import node_name
from orcha_pipeline.testnet.played import load_world
from orcha_pipeline.testnet.storj import StorjBooks
from orcha_pipeline.testnet.streamr import StreamrBooks

STATE_FILE = "testnet.json"
FAULT_KINDS = ("dead", "html", "truncated", "slow", "status", "apply_fails")
_FORMAT = 1
_SAVE_EVERY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with one door. `until`: testnet time at which it goes away; None: when it is taken away."""

    kind: str
    until: int | None
    status: int
    delay_seconds: float


class Testnet:
    """World, economy, clock and faults of one testnet, kept in a folder."""

    __test__ = False

    def __init__(
        self,
        *,
        state: Path,
        seed: int,
        world: Path | None = None,
        prices_file: Path | None = None,
        start: datetime | None = None,
        restart_seconds: Mapping[str, float] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Resumes from `state` where there is one. Raises `SettingsError` where it belongs to other settings."""
        self.state = state
        self.wall = wall
        self.live = False
        self.ahead = 0
        self.faults: dict[str, Fault] = {}
        self._saved_at = wall()
        self._identity = {
            "format": _FORMAT,
            "seed": seed,
            "world": str(world.absolute()) if world else None,
            "prices": str(prices_file.absolute()) if prices_file else None,
        }
        saved = self._read()
        begin = int(saved["economy"]["start"]) if saved else math.floor(start.timestamp() if start else wall())
        played = load_world(seed=seed, world=world, prices=prices_file, start=begin)
        self.storj_books = StorjBooks(played.protocols["storj"].demand.disk_gb)
        self.golem_books = GolemBooks(begin)
        self.streamr_books = StreamrBooks()
        self.grass_books = GrassBooks()
        books: dict[str, Books] = {
            "storj": self.storj_books,
            "golem": self.golem_books,
            "streamr": self.streamr_books,
            "grass": self.grass_books,
        }
        self.economy = Economy(played, folder=state, books=books, start=begin, restart_seconds=restart_seconds)
        if saved:
            self.economy.load(saved["economy"])
            self.live = bool(saved["live"])
            self.ahead = int(saved["ahead"])
        else:
            self.streamr_books.stake_on(int(self.economy.nodes[node_name("streamr")].lever_value), begin)
            self.save()

    # ------------------------------------------------------------ clock

    def sync(self) -> None:
        """Catch up with the wall clock when live, and drop the faults whose time is over."""
        if self.live:
            self.economy.advance(math.floor(self.wall()) + self.ahead)
            if self.wall() - self._saved_at >= _SAVE_EVERY_SECONDS:
                self.save()
        else:
            self.economy.watch()
        if self.faults:
            self._drop_old_faults()

    def go_live(self) -> None:
        """Follow the wall clock from now on, from ahead of it if that much time has passed here already."""
        self.live = True
        self.ahead = max(0, self.economy.now - math.floor(self.wall()))
        self.sync()
        self.save()

    def advance_to(self, moment: int) -> None:
        """Let the time until `moment` pass at once. A live clock goes on from there, ahead of the wall clock."""
        self.economy.advance(moment)
        if self.live:
            self.ahead = self.economy.now - math.floor(self.wall())
        if self.wall() - self._saved_at >= _SAVE_EVERY_SECONDS:
            self.save()

    # ------------------------------------------------------------ faults

    def add_fault(self, node: str, fault: Fault) -> None:
        """One fault a node; a new one replaces it."""
        self.faults[node] = fault
        self._stick()

    def clear_faults(self, node: str | None = None) -> None:
        """Take a node's fault away, or all."""
        for name in [name for name in self.faults if node in {None, name}]:
            del self.faults[name]
        self._stick()

    def _drop_old_faults(self) -> None:
        now = self.economy.now
        old = [name for name, fault in self.faults.items() if fault.until is not None and now >= fault.until]
        for name in old:
            del self.faults[name]
        if old:
            self._stick()

    def _stick(self) -> None:
        self.economy.stuck = {name for name, fault in self.faults.items() if fault.kind == "apply_fails"}

    # ------------------------------------------------------------ state

    def _read(self) -> dict[str, Any] | None:
        path = self.state / STATE_FILE
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"The testnet's state {path} cannot be read: {error}. Move the folder {self.state} away to begin anew."
            ) from error
        for key, value in self._identity.items():
            if saved.get(key) != value:
                raise SettingsError(
                    f"The testnet's state {path} was made with {key} {saved.get(key)}, and {value} is asked for. "
                    f"Set it back, or move the folder {self.state} away to begin anew."
                )
        return saved

    def save(self) -> None:
        """Write everything, atomically."""
        content = {**self._identity, "live": self.live, "ahead": self.ahead, "economy": self.economy.dump()}
        self.state.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.state, prefix=".testnet-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, separators=(",", ":"))
            Path(temporary).replace(self.state / STATE_FILE)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._saved_at = self.wall()

    def true_state(self) -> dict[str, Any]:
        """What is really so, node by node: for tests and for measuring what Orcha saw against it."""
        economy = self.economy
        return {
            name: {
                "protocol": node.protocol,
                "share": economy.share(node),
                "effective_share": node.effective,
                "crowding": economy.crowding(),
                "lever": economy.levers[name].name,
                "lever_value": node.nano_cpus / 1e9 if node.protocol == "grass" else node.lever_value,
                "lever_unit": economy.levers[name].unit,
                "native_total": node.native,
                "usd_total": node.usd,
                "native_per_hour": economy.rate(node),
                "usd_yield_full_share": economy.world.usd_yield(node.protocol, economy.now),
                "running": node.running,
                "restarting": node.running and economy.now < node.ready_at,
                "log": node.log,
            }
            for name, node in economy.nodes.items()
        }
