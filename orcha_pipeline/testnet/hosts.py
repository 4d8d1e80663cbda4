"""One simulated host: its economy and its nodes' books, kept in a folder and resumed from it.

A testnet of one host has the names and folders of old: host `testnet`, nodes `storj-1`, ... With more, host 7 is
`host-0007` with the nodes `storj-7`, ... in a folder of its own.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from orcha_pipeline.testnet.economy import Books, Economy
from orcha_pipeline.testnet.golem import GolemBooks
from orcha_pipeline.testnet.grass import GrassBooks
from orcha_pipeline.testnet.levers import node_name
from orcha_pipeline.testnet.state_file import read_state, write_state
from orcha_pipeline.testnet.storj import StorjBooks
from orcha_pipeline.testnet.streamr import StreamrBooks
from orcha_pipeline.testnet.worlds import HOUR, World

MOST_HOSTS = 1000
HOST_FILE = "economy.json"
_SAVE_EVERY = 6 * HOUR
"""How much time a saved state may lag: what time alone brought about since is worked out again."""


def host_name(number: int, hosts: int) -> str:
    """Name of the host of this number, from 1 on, in a testnet of `hosts`."""
    return "testnet" if hosts == 1 else f"host-{number:04d}"


def host_folder(state: Path, number: int, hosts: int) -> Path:
    """Where that host's nodes have their files."""
    return state if hosts == 1 else state / host_name(number, hosts)


class SimulatedHost:
    """Economy and books of one host."""

    def __init__(
        self,
        world: World,
        *,
        name: str,
        number: int,
        folder: Path,
        start: int,
        remedy: str,
        restart_seconds: Mapping[str, float] | None = None,
        moment_of: Callable[[float], int | None],
        stuck: AbstractSet[str],
    ) -> None:
        """Resumes from `folder` where there is a state. Raises `SettingsError` with `remedy` where it is damaged."""
        self.name = name
        self.number = number
        self.storj_books = StorjBooks(world.protocols["storj"].demand.disk_gb)
        self.golem_books = GolemBooks(start)
        self.streamr_books = StreamrBooks()
        self.grass_books = GrassBooks()
        books: dict[str, Books] = {
            "storj": self.storj_books,
            "golem": self.golem_books,
            "streamr": self.streamr_books,
            "grass": self.grass_books,
        }
        self.economy = Economy(
            world,
            folder=folder,
            books=books,
            start=start,
            number=number,
            restart_seconds=restart_seconds,
            moment_of=moment_of,
            stuck=stuck,
        )
        self._file = folder / HOST_FILE
        self._saved_at = start
        saved = read_state(self._file, remedy)
        if saved:
            self.economy.load(saved)
            self._saved_at = saved["now"]
        else:
            stakes = int(self.economy.nodes[node_name("streamr", number)].lever_value)
            self.streamr_books.stake_on(stakes, start)

    def save(self) -> None:
        """Write everything, atomically."""
        content = self.economy.dump()
        write_state(self._file, content)
        self.economy.altered, self._saved_at = False, content["now"]

    @property
    def is_altered(self) -> bool:
        """Whether the saved state is older than this one."""
        return self.economy.altered or self.economy.now != self._saved_at

    @property
    def is_due(self) -> bool:
        """Whether there is something that time alone would not bring about again, or would take long to."""
        return self.economy.altered or self.economy.now - self._saved_at >= _SAVE_EVERY

    def true_state(self) -> dict[str, dict[str, Any]]:
        """What is really so, node by node: for tests and for measuring what Orcha saw against it."""
        economy = self.economy
        return {
            name: {
                "host": self.name,
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
