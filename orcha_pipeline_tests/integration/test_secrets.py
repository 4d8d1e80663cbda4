"""No secret is ever written down: planted ones are looked for in all that an installation says and keeps.

Nodes and price sources give every secret back in every way that came to mind, while the operator looks at the nodes,
and while Dagster runs history, a cycle, an application that fails and a training.
"""

import base64
import contextlib
import json
import secrets
import shutil
import sqlite3
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import tomlkit
from pydantic import SecretStr

from orcha_pipeline import cli
from orcha_pipeline.automation.jobs import RECORD_HISTORY
from orcha_pipeline.controllers.docker import DockerController
from orcha_pipeline.dagster_api import partition_key
from orcha_pipeline.errors import AdapterError, ApiError
from orcha_pipeline.model import Verdict, hour_of
from orcha_pipeline.protocols.http import NodeHttp
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline_tests.integration.beacon import FULL_MBPS, Relay, install, relay_server
from orcha_pipeline_tests.integration.installed import RECORD_PAST, Installed
from orcha_pipeline_tests.integration.leaks import Search

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PAST = timedelta(hours=26)
OPERATOR = "0x" + "ab" * 20


def a_secret(name: str) -> str:
    """Random, and with the characters that are spelt differently in addresses, HTML and JSON."""
    return f"{name}-{secrets.token_hex(8)}/+=&{secrets.token_hex(8)}"


SECRETS = {name: a_secret(name) for name in ("golem", "grass", "beacon", "crash", "streamr-api", "coingecko")} | {
    # Parts of addresses and of files, which have an alphabet of their own.
    "subgraph": secrets.token_hex(16),
    "storj-path": secrets.token_hex(16),
    "docker-path": secrets.token_hex(16),
    "docker-env": secrets.token_hex(16),
    "private-key": f"0x{secrets.token_hex(32)}",
    "password": secrets.token_hex(16),
    "mistaken-token-env": secrets.token_hex(16) + "-",
}


# --- a server that gives back what it was told


class _Echo(BaseHTTPRequestHandler):
    """Answers `/MODE/...` in the way of that mode, with all it knows of the request in it."""

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        told = "; ".join([self.path, *(f"{name}: {value}" for name, value in self.headers.items()), body])
        mode = self.path.split("/")[1]
        status, kind, content = MODES[mode](told)
        raw = content.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        if status == 302:
            elsewhere = "http://127.0.0.1:9" if mode == "redirect_away" else ""
            self.send_header("location", f"{elsewhere}/not_found/again?told={told}")
        if status == 429:
            self.send_header("retry-after", "3600")
        self.send_header("content-length", str(len(raw) + (50 if mode == "cut_off" else 0)))
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked may have given up
            self.wfile.write(raw)

    do_GET = do_POST = _respond  # noqa: N815 (the base class looks for these names)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it)
        pass


def everywhere(told: str) -> Any:
    """A JSON answer in whose every place stands what was told."""
    leaf = dict.fromkeys(("id", "version", "current", "status", "message", "deviceId", "ipScore", "nodeID"), told)
    container = {"Config": {"Env": [f"PASSWORD={SECRETS['docker-env']}"]}, "State": {"Running": told}}
    return leaf | container | {"data": leaf, "result": {"data": leaf | {"data": [leaf]}}, "state": [told], told: told}


MODES: dict[str, Callable[[str], tuple[int, str, str]]] = {
    "refused": lambda told: (401, "application/json", json.dumps({"message": f"bad token: {told}"})),
    "refused_text": lambda told: (403, "text/plain", f"not allowed: {told}"),
    "not_found": lambda told: (404, "application/json", json.dumps({"error": {"message": told}, "detail": told})),
    "failing": lambda told: (500, "application/json", json.dumps({"problems": [told, told]})),
    "html": lambda told: (200, "text/html", f"<html>{told}</html>"),
    "html_error": lambda told: (502, "text/html", f"<html>{told}</html>"),
    "busy": lambda told: (429, "text/plain", told),
    "redirect": lambda told: (302, "text/plain", told),
    "redirect_away": lambda told: (302, "text/plain", told),
    "broken_json": lambda told: (200, "application/json", json.dumps({"message": told})[:-3]),
    "other_shape": lambda told: (200, "application/json", json.dumps(everywhere(told))),
    "a_list": lambda told: (200, "application/json", json.dumps([everywhere(told), told])),
    "graphql": lambda told: (200, "application/json", json.dumps({"errors": [{"message": told, "path": [told]}]})),
    "cut_off": lambda told: (200, "application/json", json.dumps(everywhere(told))),
}


@contextlib.contextmanager
def echo_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class TalkativeRelay(Relay):
    """A relay that takes no limit, and gives the key back when it says so."""

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if (method, path) == ("POST", "/v1/limits"):
            return 500, {"message": f"the key {self.key} may not", "detail": self.key}
        return super().answer(method, path, body)


# A plug-in with bugs, whose exceptions hold the key.
CRASH = """
from orcha_beacon.adapter import BeaconAdapter
from orcha_pipeline.protocols.node_options import required_token


class CrashAdapter(BeaconAdapter):
    protocol = "crash"

    def health(self):
        key = required_token(self.settings, "a key").get_secret_value()
        raise RuntimeError(f"cannot use {key}")

    resource_usage = levers = allocation = balances = health

    def earnings(self, window):
        return {}[required_token(self.settings, "a key").get_secret_value()]

    earnings_history = earnings
"""


def install_crash(packages: Path) -> None:
    (packages / "orcha_crash.py").write_text(CRASH)
    metadata = packages / "orcha_crash-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: orcha-crash\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[orcha.protocols]\ncrash = orcha_crash:CrashAdapter\n")


# --- settings


def a_node(name: str, protocol: str, url: str, **more: Any) -> dict[str, Any]:
    demand = {"cpu_threads": 1, "memory_gib": 1, "disk_gb": 1000, "bandwidth_mbps": 10}
    return {
        "name": name,
        "protocol": protocol,
        "host": "attic",
        "url": url,
        "demand": demand,
        "timeout_seconds": 3,
    } | more


def sick_nodes(echo: str, folder: Path) -> list[dict[str, Any]]:
    """A node of each protocol for every mode, with a secret wherever one belongs."""
    nodes: list[dict[str, Any]] = []
    broken = folder / "streamr.json"
    broken.write_text(json.dumps({"client": {"auth": {"privateKey": SECRETS["private-key"]}}})[:-1])
    whole = folder / "streamr-whole.json"
    whole.write_text(json.dumps({"client": {"auth": {"privateKey": SECRETS["private-key"]}}, "plugins": 7}))
    provider = {"data_dir": str(folder)}
    for index, mode in enumerate(MODES):
        slug = mode.replace("_", "-")
        docker = {"kind": "docker", "url": f"{echo}/{mode}", "container": "c"}
        subgraph = {
            "subgraph_url": f"{echo}/{mode}/api/{SECRETS['subgraph']}/subgraphs/id/x",
            "operator": OPERATOR,
            "config_file": str(broken if index % 2 else whole),
        }
        nodes += [
            a_node(f"golem-{slug}", "golem", f"{echo}/{mode}", token_env="GOLEM_KEY", options=provider),
            a_node(f"grass-{slug}", "grass", f"{echo}/{mode}", token=SECRETS["grass"], controller=docker),
            a_node(f"storj-{slug}", "storj", f"{echo}/{mode}/{SECRETS['storj-path']}", controller=docker),
            a_node(f"streamr-{slug}", "streamr", f"{echo}/{mode}", token_env="STREAMR_KEY", options=subgraph),
        ]
    return nodes


def settings_of(nodes: list[dict[str, Any]], prices: dict[str, Any]) -> dict[str, Any]:
    capacity = {"cpu_threads": 500, "memory_gib": 500, "disk_gb": 500000, "bandwidth_mbps": 5000}
    return {"hosts": [{"name": "attic", "capacity": capacity}], "prices": prices, "nodes": nodes}


ENVIRONMENT = {
    "GOLEM_KEY": SECRETS["golem"],
    "STREAMR_KEY": SECRETS["streamr-api"],
    "BEACON_KEY": SECRETS["beacon"],
    "CRASH_KEY": SECRETS["crash"],
}


@pytest.fixture
def servers() -> Iterator[tuple[str, str]]:
    """The echo's address, and that of a relay that works but for its lever."""
    relay = TalkativeRelay(SECRETS["beacon"], hour_of(datetime.now(UTC)) - PAST)
    with echo_server() as echo, relay_server(relay) as url:
        yield echo, url


def test_planted_secrets_appear_nowhere(tmp_path, servers):
    echo, relay = servers
    search = Search(SECRETS)
    healthy = a_node("relay-1", "beacon", relay, token_env="BEACON_KEY")
    healthy["demand"] = healthy["demand"] | {"bandwidth_mbps": FULL_MBPS}
    pinned = {"pinned": {"storj": 0.2, "golem": 0.2, "streamr": 0.02, "grass": 0.5}}
    packages = install(tmp_path / "packages")
    folder = tmp_path / "installation"
    folder.mkdir()
    installed = Installed(folder, settings_of([healthy], pinned), ENVIRONMENT, packages=packages)

    def said(what: str, done: Any) -> Any:
        search.look(f"output of {what}", done.stdout + done.stderr)
        return done

    recorded = said("recording", installed.python(RECORD_PAST, str(PAST // timedelta(hours=1) - 1), f"{relay}/control"))
    assert recorded.returncode == 0, recorded.stderr

    prices = {"url": f"{echo}/refused", "api_key": SECRETS["coingecko"]}
    nodes = [healthy, *sick_nodes(echo, tmp_path)]
    installed.write(settings_of(nodes, prices))

    # --- the operator looks
    listed = said("nodes --json", installed.orcha("nodes", "--json"))
    states = {node["node"]: node["state"] for node in json.loads(listed.stdout)["nodes"]}
    assert states.pop("relay-1") == "healthy"
    assert len(states) == 4 * len(MODES)
    assert "healthy" not in states.values(), "the sick nodes are sick"
    said("nodes", installed.orcha("nodes"))
    checked = said("nodes check --json", installed.orcha("nodes", "check", "--json"))
    assert {node["node"] for node in json.loads(checked.stdout)["nodes"] if node["broken"]} == set(states)
    said("nodes check", installed.orcha("nodes", "check"))
    for name in ("relay-1", "golem-refused", "grass-other-shape", "streamr-graphql", "storj-not-found"):
        said(f"nodes read {name}", installed.orcha("nodes", "read", name))
        said(f"nodes read {name} --json", installed.orcha("nodes", "read", name, "--json"))

    # --- Dagster runs
    assert said("history", record_history(installed)).returncode == 0
    assert said("cycle", installed.cycle()).returncode == 0
    with installed.warehouse.read() as connection:
        (decision,) = decisions.latest_decisions(connection)
        assert connection.execute("SELECT count(*) FROM node_health WHERE reason <> ''").fetchall()[0][0] >= len(states)
    assert decision.verdict is Verdict.REALLOCATE, decision.reason
    applied = said("application", installed.apply(decision.decision_id))
    assert applied.returncode != 0
    (application,) = installed.rows("SELECT status, reason FROM applications")
    assert application["status"] == "rolled_back", application
    assert "HTTP 500" in application["reason"], "the relay's own words are told, without the key"
    said("training", installed.job("train_models"))
    said("decision", installed.orcha("decision"))

    search.look_into(installed.home)
    for place in ("warehouse.duckdb#node_health", "warehouse.duckdb#application_steps", "warehouse.duckdb#prices"):
        assert place in search.looked_at
    assert any("event_logs" in place for place in search.looked_at), "Dagster's events were looked at"
    assert any("#snapshots (unpacked)" in place for place in search.looked_at), "and the snapshots of its runs"
    assert any(place.startswith("mlflow") for place in search.looked_at)
    assert search.leaks == [], f"{len(search.leaks)} leaks:\n" + "\n".join(search.leaks[:20])


def test_a_plug_in_with_bugs_neither_ends_a_cycle_nor_gives_its_key_away(tmp_path, servers):
    _echo, relay = servers
    search = Search(SECRETS)
    packages = install(tmp_path / "packages")
    install_crash(packages)
    folder = tmp_path / "installation"
    folder.mkdir()
    nodes = [
        a_node("relay-1", "beacon", relay, token_env="BEACON_KEY"),
        a_node("crash-1", "crash", relay, token_env="CRASH_KEY"),
    ]
    pinned = {"pinned": {"storj": 0.2, "golem": 0.2, "streamr": 0.02, "grass": 0.5}}
    installed = Installed(folder, settings_of(nodes, pinned), ENVIRONMENT, packages=packages)
    installed.warehouse.migrate()
    ended: dict[str, int] = {}
    for name, run in {
        "nodes": lambda: installed.orcha("nodes"),
        "check": lambda: installed.orcha("nodes", "check"),
        "read": lambda: installed.orcha("nodes", "read", "crash-1"),
        "history": lambda: record_history(installed),
        "cycle": installed.cycle,
    }.items():
        done = run()
        ended[name] = done.returncode
        search.look(f"output of {name}", done.stdout + done.stderr)
    search.look_into(installed.home)
    assert search.leaks == [], f"{len(search.leaks)} leaks:\n" + "\n".join(search.leaks[:20])
    assert ended == {"nodes": 0, "check": 1, "read": 1, "history": 0, "cycle": 0}


def record_history(installed: Installed) -> Any:
    now = datetime.now(UTC)
    look_back = {"config": {"hours": 3}}
    return installed.job(
        RECORD_HISTORY,
        tags={
            "dagster/asset_partition_range_start": partition_key(now - timedelta(hours=3)),
            "dagster/asset_partition_range_end": partition_key(now),
        },
        config={"ops": {"earnings_hourly": look_back, "features": look_back}},
    )


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("password", {"url": f"http://me:{SECRETS['password']}@127.0.0.1:1"}),
        pytest.param("password", {"url": f"127.0.0.1:1/{SECRETS['password']}"}),
        pytest.param("password", {"url": f"http://[{SECRETS['password']}"}),
        ("mistaken-token-env", {"token": None, "token_env": SECRETS["mistaken-token-env"]}),
        ("grass", {"token": [SECRETS["grass"]]}),
        ("grass", {"token": f"{SECRETS['grass']}\n"}),
        ("grass", {"token": f"{SECRETS['grass']}\u00e9"}),
        ("grass", {"tokken": SECRETS["grass"]}),
        ("grass", {"options": {"token": SECRETS["grass"]}}),
        ("grass", {"options": SECRETS["grass"]}),
        ("password", {"controller": {"kind": "docker", "container": "c", "url": f"http://:{SECRETS['password']}@h:1"}}),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path, monkeypatch, capfd, name, change):
    node = {k: v for k, v in (a_node("grass-1", "grass", "http://127.0.0.1:9", token="x" * 8) | change).items() if v}
    (tmp_path / "orcha.toml").write_text(tomlkit.dumps(settings_of([node], {})))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHA_CONFIG", raising=False)
    monkeypatch.setenv("COLUMNS", "1000")  # a secret must not be hidden by the end of a line either
    search = Search({name: SECRETS[name]})
    for command in (("nodes",), ("nodes", "--json"), ("nodes", "check"), ("nodes", "read", "grass-1"), ("decision",)):
        monkeypatch.setattr(sys, "argv", ["orcha", *command])
        with pytest.raises(SystemExit):
            cli.main()
        search.look(" ".join(command), "".join(capfd.readouterr()))
    assert search.leaks == []


@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param(lambda secret: quote(secret, safe=""), id="address"),
        pytest.param(quote, id="path"),
        pytest.param(lambda secret: json.dumps(secret).replace("/", "\\/"), id="json"),
        pytest.param(lambda secret: secret.replace("&", "&amp;"), id="html"),
        pytest.param(lambda secret: base64.b64encode(f"user:{secret}".encode()).decode(), id="base64"),
        pytest.param(lambda secret: secret, id="plain"),
        pytest.param(lambda secret: f"Bearer {secret}", id="bearer"),
        pytest.param(lambda secret: " " * 4060 + secret, id="cut-off"),
    ],
)
def test_a_node_that_spells_the_key_in_another_way_does_not_give_it_away(spelling):
    answer = httpx.Response(400, text=f"refused: {spelling(SECRETS['golem'])}")
    key = SecretStr(f"Bearer {SECRETS['golem']}")
    http = NodeHttp(
        "golem-1",
        "http://127.0.0.1:1",
        timeout_seconds=5,
        headers={"Authorization": key},
        transport=httpx.MockTransport(lambda _request: answer),
    )
    with pytest.raises(ApiError) as told:
        http.get_json("/version/get")
    search = Search(SECRETS)
    search.look("message", str(told.value))
    assert search.leaks == []


def test_the_path_of_an_engines_address_is_not_told():
    url = f"http://127.0.0.1:1/{SECRETS['docker-path']}"
    transport = httpx.MockTransport(lambda _request: httpx.Response(500, text="no"))
    controller = DockerController("grass-1", url=url, container="c", transport=transport)
    search = Search(SECRETS)
    search.look("description", controller.describe())
    search.look("reason", controller.why_cannot_limit("cpu_threads"))
    with pytest.raises(AdapterError) as told:
        controller.limits()
    search.look("message", str(told.value))
    assert search.leaks == []


# --- the search itself can find


def test_the_search_finds_a_secret_wherever_and_however_it_is_written(tmp_path):
    secret = SECRETS["golem"]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "plain.log").write_text(f"the token is {secret}.")
    (tmp_path / "url.txt").write_text(f"https://x/?token={quote(secret, safe='')}")
    (tmp_path / "part.txt").write_text(f"cut off: {secret[: len(secret) // 2]}")
    (tmp_path / "packed.gz").write_bytes(zlib.compress(f"{{'key': '{secret}'}}".encode()))
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    with warehouse.write() as connection:
        connection.execute("INSERT INTO plans VALUES ('1', 'h', now()::TIMESTAMP, '', ?, 'r')", [f"key {secret}"])
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        database.execute("CREATE TABLE snapshots (body BLOB)")
        database.execute("INSERT INTO snapshots VALUES (?)", [zlib.compress(secret.encode())])
        database.commit()
    search = Search(SECRETS)
    search.look("stdout", f"Bearer {secret}")
    search.look_into(tmp_path)
    places = {leak.split(": ")[0] for leak in search.leaks}
    assert places >= {
        "stdout",
        "logs/plain.log",
        "url.txt",
        "part.txt",
        "packed.gz (unpacked)",
        "warehouse.duckdb#plans",
        "runs.db#snapshots (unpacked)",
    }
    assert {leak.split(": ")[1] for leak in search.leaks} == {"golem"}


def test_the_search_finds_nothing_where_nothing_is(tmp_path):
    (tmp_path / "a.txt").write_text("token ***, key ***")
    search = Search(SECRETS)
    search.look_into(tmp_path)
    assert (search.leaks, search.looked_at) == ([], {"a.txt"})


def test_a_leak_planted_into_a_finished_installation_is_found(tmp_path):
    installed = Installed(tmp_path, settings_of([], {}), {})
    events = installed.dagster_home / "history" / "runs"
    assert installed.dagster_home.is_dir()
    shutil.rmtree(events, ignore_errors=True)
    events.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(events / "index.db")) as database:
        database.execute("CREATE TABLE event_logs (event TEXT)")
        database.execute("INSERT INTO event_logs VALUES (?)", [json.dumps({"message": SECRETS["subgraph"]})])
        database.commit()
    search = Search(SECRETS)
    search.look_into(installed.home)
    assert any("event_logs: subgraph" in leak for leak in search.leaks)
