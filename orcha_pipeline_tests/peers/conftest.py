"""Peers we did not write: where `make test-peers` put them, and a testnet in a process of its own for them to read."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from orcha_pipeline_tests.ports import free_port

HERE = Path(__file__).parent
HOME = os.environ.get("PEERS_HOME")
"""Where `make test-peers` installs; without it these tests are not asked for."""
START = datetime(2026, 10, 20, tzinfo=UTC)
PAST = timedelta(days=4, hours=14, minutes=30, seconds=8)
"""Dozens of Golem agreements, four withdrawals of Streamr's operator; a second in which Polygon makes a block."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.peers)
            if HOME is None:
                item.add_marker(
                    pytest.mark.skip(reason="software of others: make test-peers installs it and runs these")
                )


def _peer(name: str, *programs: str) -> Path:
    """The folder of an installed peer; skips where a program it needs is absent."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on PATH: install Node.js 20 or newer with npm")
    folder = Path(HOME or "") / name
    if not (folder / ".installed").exists():
        pytest.skip(f"{name}'s own software could not be installed: what make test-peers printed first says why")
    return folder


@pytest.fixture(scope="session")
def golem_home() -> Path:
    """The environment that holds ya-aioclient."""
    return _peer("golem")


@pytest.fixture(scope="session")
def streamr_home() -> Path:
    """The folder that holds @streamr/sdk."""
    return _peer("streamr", "node", "npm")


@pytest.fixture(scope="session")
def node_command(streamr_home: Path) -> Callable[..., list[str]]:
    """The command that runs one of our scripts on the installed SDK."""
    scripts = HERE / "streamr"
    modules = f"NODE_PATH={streamr_home / 'node_modules'}"

    def command(script: str, *arguments: str) -> list[str]:
        addons = str(scripts / "native_addons.cjs")
        return ["env", modules, "LOG_LEVEL=warn", "node", "--require", addons, str(scripts / script), *arguments]

    return command


class Served:
    """A running testnet; its clock stands still between `advance`s."""

    def __init__(self, base: str, http: httpx.Client) -> None:
        self.base = base
        self.http = http

    def get(self, path: str, **headers: str) -> Any:
        response = self.http.get(path, headers=headers)
        assert response.status_code == 200, response.text
        return response.json()

    @property
    def now(self) -> datetime:
        return datetime.fromisoformat(self.get("/testnet/clock")["now"])

    def advance_to(self, moment: datetime) -> None:
        response = self.http.post("/testnet/clock", json={"advance_to": moment.isoformat()})
        assert response.status_code == 200, response.text

    def advance(self, **span: float) -> None:
        self.advance_to(self.now + timedelta(**span))

    def truth(self, node: str) -> dict[str, Any]:
        return self.get("/testnet/nodes")[node]


@contextlib.contextmanager
def ended(process: subprocess.Popen[str], seconds: float = 30.0) -> Iterator[subprocess.Popen[str]]:
    """End the process in order; what it does not survive is its failure."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        assert process.returncode == 0, output


def wait_for(found: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 60.0) -> Any:
    """The first true value of `found`; no answer is none. The process must live on."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            value = found()
            if value:
                return value
        time.sleep(0.05)
    pytest.fail(f"gave up after {seconds:g} s (exit status {process.poll()})")


@contextlib.contextmanager
def served_testnet(folder: Path, start: datetime, until: datetime) -> Iterator[Served]:
    """`orcha testnet serve` with the time between two moments behind it."""
    port = free_port()
    orcha = Path(sys.executable).with_name("orcha")
    command = [str(orcha), "testnet", "serve", "--state", str(folder), "--port", str(port)]
    command += ["--start", start.replace(tzinfo=None).isoformat(timespec="seconds")]
    begun = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    base = f"http://127.0.0.1:{port}"
    with ended(begun) as process, httpx.Client(base_url=base, trust_env=False, timeout=60.0) as http:
        wait_for(lambda: http.get("/testnet/health").is_success, process)
        served = Served(base, http)
        served.advance_to(until)
        yield served


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A testnet whose time is the same in every run."""
    with served_testnet(tmp_path_factory.mktemp("testnet"), START, START + PAST) as served:
        yield served


class GolemClient:
    """Golem's generated client in its own environment, asked one call at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def begin(self, api: str, call: str, **arguments: Any) -> None:
        """Send a question and do not wait for the answer."""
        assert self.process.stdin is not None
        given = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in arguments.items()}
        self.process.stdin.write(json.dumps({"api": api, "call": call, "with": given}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The answer to the question that was sent."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the client ended; its last words are above"
        return json.loads(line)

    def ask(self, api: str, call: str, **arguments: Any) -> dict[str, Any]:
        self.begin(api, call, **arguments)
        return self.answer()


@pytest.fixture(scope="module")
def make_golem_client(golem_home: Path) -> Iterator[Callable[..., GolemClient]]:
    """Clients of yagna at an address, with this app-key or none."""
    command = [str(golem_home / "bin" / "python"), str(HERE / "golem" / "ask.py")]
    with contextlib.ExitStack() as stack:

        def make(url: str, *key: str) -> GolemClient:
            process = stack.enter_context(
                subprocess.Popen([*command, url, *key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            return GolemClient(process)

        # Leaving a process's own context closes its questions, which ends it, and waits for that.
        yield make
