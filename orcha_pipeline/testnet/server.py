"""The testnet as one process on one port: nodes, subgraph, cloud API, prices, Docker and its own controls.

`python -m orcha_pipeline.testnet.server --state DIR --port P` serves it on 127.0.0.1 until it is told to end. Its clock
stands still and is moved by hand (`stepped`) until it is told to follow the wall clock (`live`), or runs at a speed.
"""

import argparse
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from orcha_pipeline.errors import OrchaError, SupervisionError
from orcha_pipeline.testnet.addresses import Addresses
from orcha_pipeline.testnet.answers import parse_time
from orcha_pipeline.testnet.control import Control
from orcha_pipeline.testnet.door import Connections, Door
from orcha_pipeline.testnet.hosts import MOST_HOSTS
from orcha_pipeline.testnet.simulation import Testnet
from orcha_pipeline.testnet.worlds import PROTOCOLS

_HOST = "127.0.0.1"


def build_app(testnet: Testnet) -> ASGIApp:
    """The whole testnet as one ASGI application; its state is saved when it shuts down."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        yield
        testnet.save()

    own = Starlette(routes=Control(testnet).routes(), lifespan=lifespan)
    own.router.redirect_slashes = False
    return Door(Addresses(testnet, own), testnet)


# ---------------------------------------------------------------- process


def serve(
    *,
    state: Path,
    port: int,
    seed: int = 1,
    hosts: int = 1,
    world: Path | None = None,
    prices: Path | None = None,
    start: datetime | None = None,
    speed: float | None = None,
    restart_seconds: Mapping[str, float] | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve the testnet on 127.0.0.1:`port` until SIGTERM or SIGINT; the state is saved on the way out.

    Without a saved state the clock stands still at `start`, or runs from there at `speed`; with one it goes on in the
    mode it was in, unless a `speed` is given. `ready` is called once nothing stands in the way. Raises
    `SupervisionError` where the port is taken and `SettingsError` where a file, the saved state, `hosts` or `speed`
    cannot be used.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
        except OSError as error:
            raise SupervisionError(
                f"The testnet cannot listen on {_HOST}:{port}: {error.strerror}. "
                "End the program that uses this port, or choose another: testnet.port in orcha.toml, --port of "
                "`orcha testnet serve`."
            ) from error
        testnet = Testnet(
            state=state,
            seed=seed,
            hosts=hosts,
            world=world,
            prices_file=prices,
            start=start,
            speed=speed,
            restart_seconds=restart_seconds,
        )
        config = uvicorn.Config(
            build_app(testnet),
            http=Connections,
            log_level="warning",
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=2,
            server_header=False,
            date_header=False,  # the door tells the date, which a fault may put wrong
        )
        if threading.current_thread() is threading.main_thread():
            # uvicorn raises the signal once more after its own orderly end: by then there is nothing left to do.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda _number, _frame: None)
        if ready is not None:
            ready()
        uvicorn.Server(config).run(sockets=[listener])


def _restart_seconds(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        protocol, _, seconds = part.partition("=")
        if protocol not in PROTOCOLS:
            raise argparse.ArgumentTypeError(f"{part!r}: write PROTOCOL=SECONDS, e.g. storj=2,streamr=1")
        found[protocol] = float(seconds)
    return found


def _moment(text: str) -> datetime:
    return datetime.fromtimestamp(parse_time(text), UTC)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit status 1 with a plain message where it cannot serve."""
    parser = argparse.ArgumentParser(prog="python -m orcha_pipeline.testnet.server", description="Serve the testnet.")
    parser.add_argument("--state", type=Path, required=True, help="folder of the testnet's state and the nodes' files")
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
    parser.add_argument("--seed", type=int, default=1, help="seed of the world")
    parser.add_argument("--hosts", type=int, default=1, help=f"hosts of four nodes each, 1 to {MOST_HOSTS}")
    parser.add_argument("--world", type=Path, help="world folder to play instead of the seeded one")
    parser.add_argument("--prices", type=Path, help="hourly token prices (unique_id,ds,y) to play")
    parser.add_argument("--start", type=_moment, help="first moment of a new testnet, ISO 8601 with zone")
    parser.add_argument("--speed", type=float, help="let time run this many times faster than the wall clock")
    parser.add_argument("--restart-seconds", type=_restart_seconds, help="e.g. storj=2,streamr=1,golem=1")
    given = parser.parse_args(arguments)
    try:
        serve(**vars(given))
    except OrchaError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
