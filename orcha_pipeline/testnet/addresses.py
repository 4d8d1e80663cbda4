"""Which emulator answers an address, and whose time must have passed before it does.

A testnet of 1,000 hosts has 4,000 doors: they are found by name, and an emulator is made when it is first asked.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from orcha_pipeline.testnet import docker, golem, grass, polygon, prices, storj, streamr
from orcha_pipeline.testnet.economy import Economy, Node
from orcha_pipeline.testnet.hosts import SimulatedHost
from orcha_pipeline.testnet.levers import node_name, operator_address
from orcha_pipeline.testnet.noise import hexadecimal
from orcha_pipeline.testnet.simulation import Testnet

SERVICES = ("thegraph", "polygon", "grass", "coingecko", "coinpaprika", "defillama", "docker")
"""The doors that belong to no one node."""
DEVICES_AN_ACCOUNT = 10
"""Grass devices of one account; a larger fleet has several accounts."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address leads."""

    door: str
    """The node or service whose faults it meets; empty where it is the testnet's own."""
    prefix: str
    """The part of the address that is the door's own."""
    app: ASGIApp
    hosts: tuple[SimulatedHost, ...] = ()
    """Whose time must have passed."""
    node: Node | None = None
    """What must be running."""


class Addresses:
    """Finds places. `others` answers what belongs to no emulator."""

    def __init__(self, testnet: Testnet, others: Starlette) -> None:
        self.testnet = testnet
        self.others = others
        self._apps: dict[str, ASGIApp] = {}
        self._members: dict[int, tuple[SimulatedHost, ...]] = {}
        """Grass account -> the hosts whose devices it has."""
        for host in testnet.hosts.values():
            account = _account_of(host.number)
            self._members[account] = (*self._members.get(account, ()), host)
        self._accounts = {_token_of(account): account for account in self._members}

    def find(self, scope: Scope) -> Place:
        """The place of a request."""
        parts = scope["path"].split("/", 3)
        first, second = parts[1] if len(parts) > 1 else "", parts[2] if len(parts) > 2 else ""
        testnet = self.testnet
        if first == "nodes" and (host := testnet.nodes.get(second)):
            node = host.economy.nodes[second]
            # A Grass device has no address of its own.
            if make := _NODES.get(node.protocol):
                catch_up = partial(testnet.catch_up, host)
                return Place(second, f"/nodes/{second}", self._app(second, lambda: make(host, catch_up)), (host,), node)
        elif first == "docker":
            # Each host has an engine of its own. The only host's is found without its name.
            host = testnet.first if len(testnet.hosts) == 1 else testnet.hosts.get(second)
            if host:
                path = docker_path(host.name, len(testnet.hosts))
                app = self._app(path, lambda: docker.routes(docker.DockerEngine(host.economy)))
                return Place("docker", path, app, (host,))
        elif first == "grass":
            account = self._accounts.get(Headers(scope=scope).get("authorization", ""), 1)
            hosts = self._members[account]
            return Place("grass", "/grass", self._app(f"grass/{account}", lambda: _account(account, hosts)), hosts)
        elif make_prices := _PRICES.get(first):
            app = self._app(first, lambda: make_prices(testnet.first.economy))
            return Place(first, f"/{first}", app, (testnet.first,))
        elif first in {"thegraph", "polygon"}:
            # Whose time must have passed tells the operator's address, inside the request.
            return Place(first, "", self._app("chain", self._chain))
        return Place("", "", self.others)

    def _app(self, key: str, make: Callable[[], ASGIApp]) -> ASGIApp:
        found = self._apps.get(key)
        if found is None:
            found = self._apps[key] = make()
        return found

    def _chain(self) -> ASGIApp:
        operators = Operators(self.testnet)
        routes = [streamr.subgraph_route(operators, "/thegraph"), polygon.chain_route(operators, "/polygon")]
        return Router(routes, redirect_slashes=False)


def _storj(host: SimulatedHost, _catch_up: Callable[[], None]) -> ASGIApp:
    node = host.economy.nodes[node_name("storj", host.number)]
    return storj.routes(storj.StorjNode(host.economy, node, host.storj_books))


def _golem(host: SimulatedHost, catch_up: Callable[[], None]) -> ASGIApp:
    node = host.economy.nodes[node_name("golem", host.number)]
    return golem.routes(golem.GolemNode(host.economy, node, host.golem_books), catch_up=catch_up)


def _streamr(host: SimulatedHost, _catch_up: Callable[[], None]) -> ASGIApp:
    return streamr.routes(_operator(host))


def _operator(host: SimulatedHost) -> streamr.StreamrNode:
    node = host.economy.nodes[node_name("streamr", host.number)]
    return streamr.StreamrNode(host.economy, node, host.streamr_books)


_NODES: Mapping[str, Callable[[SimulatedHost, Callable[[], None]], ASGIApp]] = {
    "storj": _storj,
    "golem": _golem,
    "streamr": _streamr,
}
_PRICES: Mapping[str, Callable[[Economy], ASGIApp]] = {
    "coingecko": prices.routes,
    "coinpaprika": prices.paprika_routes,
    "defillama": prices.llama_routes,
}


def docker_path(host: str, hosts: int) -> str:
    """Where the Docker engine of a host answers, in a testnet of `hosts`."""
    return "/docker" if hosts == 1 else f"/docker/{host}"


# ---------------------------------------------------------------- Grass: one cloud, many accounts with some devices


def grass_token(number: int) -> str:
    """The token of the Grass account that the device of host `number` belongs to."""
    return _token_of(_account_of(number))


def grass_device(number: int) -> str:
    """The id of that device. The first of each account has the same; ids are an account's own affair."""
    if (number - 1) % DEVICES_AN_ACCOUNT == 0:
        return grass.DEVICE
    digits = hexadecimal(0, "grass-device", number, 32)
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-9{digits[17:20]}-{digits[20:]}"


def _account_of(number: int) -> int:
    return (number - 1) // DEVICES_AN_ACCOUNT + 1


def _token_of(account: int) -> str:
    return grass.TOKEN if account == 1 else f"{grass.TOKEN}-{account}"


def _account(account: int, hosts: tuple[SimulatedHost, ...]) -> ASGIApp:
    first, *others = hosts
    devices = [
        grass.Device(
            host.economy,
            host.economy.nodes[node_name("grass", host.number)],
            host.grass_books,
            device_id=grass_device(host.number),
            ip_address=f"198.18.{host.number // 256}.{host.number % 256}",
        )
        for host in others
    ]
    node = first.economy.nodes[node_name("grass", first.number)]
    emulator = grass.GrassAccount(first.economy, node, first.grass_books, devices)
    return _OwnToken(grass.routes(emulator), _token_of(account))


class _OwnToken:
    """One of several accounts of the same cloud: its own token is the one that the emulator knows."""

    def __init__(self, inner: ASGIApp, token: str) -> None:
        self.inner = inner
        self.token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        headers = [
            (name, self._known_to_it(value) if name == b"authorization" else value) for name, value in scope["headers"]
        ]
        await self.inner({**scope, "headers": headers}, receive, send)

    def _known_to_it(self, given: bytes) -> bytes:
        return grass.TOKEN.encode() if given == self.token else b""


# ---------------------------------------------------------------- Streamr: one chain, all operators


class Operators(Mapping[str, streamr.StreamrNode]):
    """Operator address -> its emulator, with its host's time passed."""

    def __init__(self, testnet: Testnet) -> None:
        self.testnet = testnet
        self._hosts = {operator_address(node_name("streamr", host.number)): host for host in testnet.hosts.values()}

    def __getitem__(self, address: str) -> streamr.StreamrNode:
        host = self._hosts[address]
        self.testnet.catch_up(host)
        return _operator(host)

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)
