"""A fifth protocol from a package outside the tree: in a fresh process, without a changed line of Orcha."""

import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import httpx
import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.controllers.none import NoController
from orcha_pipeline.errors import AllocationError, ParseError
from orcha_pipeline.model import ApplicationStatus, HealthState, Verdict, Window, hour_of
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.registry import GROUP
from orcha_pipeline.settings import NodeSettings
from orcha_pipeline.settings_file import load_settings
from orcha_pipeline.testnet.fleet import embedded_settings
from orcha_pipeline.warehouse import decisions
from orcha_pipeline_tests.integration.beacon import EXAMPLE, FULL_MBPS, USD_PER_HOUR, Relay, install, relay_server
from orcha_pipeline_tests.integration.conftest import testnet_process as emulated_testnet
from orcha_pipeline_tests.integration.installed import RECORD_PAST, Installed
from orcha_pipeline_tests.ports import free_port
from orcha_pipeline_tests.protocols.fakes import no_waiting

KEY = "beacon-key-of-the-test"
PAST = timedelta(hours=26)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture
def relay() -> Iterator[tuple[Relay, str]]:
    """The emulated node, and its address."""
    node = Relay(KEY, hour_of(datetime.now(UTC)) - PAST)
    with relay_server(node) as url:
        yield node, url


def storj_of_testnet(folder: Path, port: int) -> dict[str, Any]:
    """The settings of the testnet's Storj node, as an operator would write them."""
    environ = {"ORCHA_HOME": str(folder / ".orcha"), "ORCHA_TESTNET__PORT": str(port)}
    nodes = embedded_settings(load_settings(environ=environ)).nodes
    (storj, *_) = [node for node in nodes if node.protocol == "storj"]
    return storj.model_dump(mode="json", exclude_none=True, exclude_defaults=True) | {"host": "attic"}


def relay_settings(url: str) -> dict[str, Any]:
    return {
        "name": "relay-1",
        "protocol": "beacon",
        "host": "attic",
        "url": url,
        "token_env": "BEACON_KEY",
        "min_share": 0.1,
        "demand": {"cpu_threads": 0.5, "memory_gib": 0.5, "disk_gb": 1, "bandwidth_mbps": FULL_MBPS},
    }


def settings_of(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {
        "hosts": [
            {
                "name": "attic",
                "capacity": {"cpu_threads": 32, "memory_gib": 128, "disk_gb": 20000, "bandwidth_mbps": 2000},
            }
        ],
        "prices": {"pinned": {"storj": 0.2, "golem": 0.2, "streamr": 0.02, "grass": 0.5}},
        "nodes": list(nodes),
    }


def expect(done: Any, code: int = 0) -> str:
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_the_example_is_a_package_that_names_its_adapter():
    document = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    assert re.fullmatch(r"[a-z0-9-]+", document["project"]["name"])
    assert document["build-system"]["build-backend"]
    points = document["project"]["entry-points"]
    assert list(points) == [GROUP]
    ((name, value),) = points[GROUP].items()
    point = EntryPoint(name=name, value=value, group=GROUP)
    module = EXAMPLE / "src" / Path(*point.module.split(".")).with_suffix(".py")
    assert f"class {point.attr}(Adapter):" in module.read_text()


def test_without_the_package_the_protocol_is_unknown(tmp_path, relay):
    _node, url = relay
    installed = Installed(tmp_path, settings_of(relay_settings(url)), {"BEACON_KEY": KEY})
    told = json.loads(expect(installed.orcha("nodes", "--json")))
    assert told["nodes"][0]["state"] == "not_usable"
    assert "unknown protocol 'beacon'" in told["nodes"][0]["reason"]


def test_a_fifth_protocol_is_read_forecast_planned_and_changed_without_a_changed_line(tmp_path, relay):
    node, url = relay
    port = free_port()
    packages = install(tmp_path / "packages")
    installed = Installed(
        tmp_path,
        settings_of(relay_settings(url), storj_of_testnet(tmp_path, port)),
        {"BEACON_KEY": KEY},
        packages=packages,
    )
    with emulated_testnet(tmp_path, port, "--start", node.opened_at.isoformat()) as testnet:
        hours = str(PAST // timedelta(hours=1) - 1)
        expect(installed.python(RECORD_PAST, hours, f"{url}/control", f"{testnet}/testnet/clock"))

        told = json.loads(expect(installed.orcha("nodes", "check", "relay-1", "--json")))
        assert told["broken"] is False
        reading = json.loads(expect(installed.orcha("nodes", "read", "relay-1", "--json")))
        assert reading["health"]["scores"] == {"reputation": 0.98}
        assert reading["allocations"][0]["value"] == node.mbps == 200.0

        lanes = "from orcha_pipeline.definitions import defs; "
        lanes += "print(*(k.to_user_string() for k in defs().resolve_asset_graph().get_all_asset_keys()))"
        keys = set(expect(installed.python(lanes)).split())
        facts = ("earnings", "resource_usage", "node_health", "allocations_observed", "earnings_model")
        assert {f"{protocol}/{fact}" for protocol in ("beacon", "storj") for fact in facts} <= keys

        expect(installed.cycle())
        check_readings(installed)
        decision = check_decision(installed)

        planned = next(line for line in decision.allocations if line.node == "relay-1").value_planned
        assert planned is not None
        assert planned > 200.0
        assert node.set_to == [], "a cycle decides and moves nothing"
        expect(installed.apply(decision.decision_id))
        assert node.set_to == [planned]
        assert node.mbps == planned
        with installed.warehouse.read() as connection:
            (application,) = decisions.latest_applications(connection)
        assert application.status is ApplicationStatus.APPLIED
        (step,) = installed.rows("SELECT * FROM application_steps WHERE node = 'relay-1'")
        assert (step["status"], step["previous"], step["read_back"]) == ("done", 200.0, planned)


def check_readings(installed: Installed) -> None:
    """The relay's hours are valued, at what it truly earned: a quarter of what it earns at full share."""
    hours = installed.rows("SELECT net_usd, provenance FROM earnings_hourly WHERE node = 'relay-1' AND net IS NOT NULL")
    assert len(hours) >= PAST // timedelta(hours=1) - 2
    assert all(hour["net_usd"] == pytest.approx(USD_PER_HOUR / 4, rel=1e-3) for hour in hours)
    assert {hour["provenance"] for hour in hours} <= {"measured", "our_estimate"}
    assert installed.rows("SELECT 1 FROM balances WHERE node = 'relay-1' AND kind = 'pending'")


def check_decision(installed: Installed) -> decisions.DecisionRow:
    """Both nodes are forecast, and the relay is given more."""
    with installed.warehouse.read() as connection:
        issued = decisions.latest_forecasts(connection, since=datetime.now(UTC) - timedelta(hours=1))
        (decision,) = decisions.latest_decisions(connection)
    assert set(issued) == {"relay-1", "storj-1"}
    expected = USD_PER_HOUR / 4 / 0.25**0.9
    assert issued["relay-1"].p50 == pytest.approx((expected,) * 24, rel=1e-2)
    assert issued["relay-1"].note, "a short past is forecast by its own hours of yesterday, and says so"
    assert decision.verdict is Verdict.REALLOCATE, decision.reason
    return decision


class Example:
    """The example's adapter in this process, on a relay asked without a network."""

    def __init__(self, kind: type[Adapter], relay: Relay) -> None:
        self.relay = relay
        script = httpx.MockTransport(self._answer)
        clock = FixedClock(relay.opened_at + timedelta(hours=2))
        settings = NodeSettings.model_validate(relay_settings("http://127.0.0.1:1") | {"token": KEY, "token_env": None})
        self.adapter = kind(settings, controller=NoController("relay-1"), clock=clock, transport=script)
        self.changes: dict[str, dict[str, Any]] = {}
        """Path -> fields that its answers have instead."""

    def _answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content or b"null")
        status, answer = self.relay.answer(request.method, request.url.path, body)
        return httpx.Response(status, json=answer | self.changes.get(request.url.path, {}))


@pytest.fixture
def example(monkeypatch) -> Example:
    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    kind = importlib.import_module("orcha_beacon.adapter").BeaconAdapter
    relay = Relay(KEY, datetime(2026, 3, 5, 10, tzinfo=UTC))
    relay.answer("POST", "/control", {"advance_to": "2026-03-05T12:00:00+00:00"})
    return Example(kind, relay)


def test_the_example_moves_its_lever_and_reads_it_back(example):
    done = example.adapter.apply("relay_mbps", 400.0)
    assert (done.previous, done.requested, done.read_back) == (200.0, 400.0, 400.0)
    assert example.adapter.allocation().share == 0.5


def test_the_example_does_not_take_its_own_word_for_a_change(example, monkeypatch):
    no_waiting(monkeypatch)
    example.relay.takes_limits = False
    with pytest.raises(AllocationError, match="does not show it"):
        example.adapter.apply("relay_mbps", 400.0)


def test_the_example_tells_what_it_does_not_know_as_an_error_and_never_as_zero(example):
    window = Window(example.relay.opened_at, example.relay.opened_at + timedelta(hours=2))
    assert [bucket.amounts.net for bucket in example.adapter.earnings_history(window)] == [Decimal("0.0125")] * 2
    for answer in ({"totalUsd": None}, {"totalUsd": "n/a"}, {"ledger": 7}, {"openedAt": "yesterday"}):
        example.changes = {"/v1/earnings": answer}
        with pytest.raises(ParseError, match=next(iter(answer))):
            example.adapter.earnings(window)


def test_the_example_says_why_a_lever_cannot_be_moved_and_when_it_must_not(example):
    example.changes = {"/v1/limits": {"lockedByOperator": True}, "/v1/status": {"reputation": 0.5}}
    (lever,) = example.adapter.levers()
    assert (lever.writable, "beacon limits unlock" in lever.why_not) == (False, True)
    assert example.adapter.health().state is HealthState.AT_RISK
    example.changes = {"/v1/status": {"peers": 0, "reputation": 0.5}}
    assert example.adapter.health().state is HealthState.ERROR
