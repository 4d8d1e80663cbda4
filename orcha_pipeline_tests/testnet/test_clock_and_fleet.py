from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from orcha_pipeline.clock import Clock
from orcha_pipeline.errors import SettingsError, SupervisionError
from orcha_pipeline.settings import Settings, TestnetSettings
from orcha_pipeline.testnet.clock import TestnetClock
from orcha_pipeline.testnet.fleet import embedded_settings
from orcha_pipeline.testnet.worlds import GRASS_PER_POINT, PROTOCOLS, seeded_world
from orcha_pipeline_tests.testnet.test_worlds import write_world


class Loopback(httpx.BaseTransport):
    """The lab's door as a transport of a blocking client."""

    def __init__(self, lab):
        self.lab = lab

    def handle_request(self, request):
        answer = self.lab.http.request(request.method, request.url.path, content=request.read())
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def test_the_clock_reads_and_moves_the_testnets_time(lab):
    clock: Clock
    with TestnetClock("http://testnet/", trusted_seconds=0, transport=Loopback(lab)) as clock:
        start = clock.now()
        assert start == datetime(2026, 10, 20, tzinfo=UTC)
        assert clock.advance_to(start + timedelta(hours=1)) == start + timedelta(hours=1) == clock.now()
        with pytest.raises(SupervisionError, match="does not go back"):
            clock.advance_to(start)
        lab.wall_now += 7200
        assert clock.go_live() == start + timedelta(hours=2)
        assert clock.is_live()
        assert clock.advance_to(start + timedelta(days=1)) == start + timedelta(days=1)
        lab.wall_now += 60
        assert clock.now() == start + timedelta(days=1, minutes=1)


def test_a_naive_time_is_not_guessed(lab):
    with TestnetClock("http://testnet", transport=Loopback(lab)) as clock, pytest.raises(ValueError, match="time zone"):
        clock.advance_to(datetime(2026, 10, 21))  # noqa: DTZ001


def test_something_else_on_the_port_is_told():
    other = httpx.MockTransport(lambda _request: httpx.Response(200, html="<h1>hello</h1>"))
    with (
        TestnetClock("http://testnet", transport=other) as clock,
        pytest.raises(SupervisionError, match="not the testnet"),
    ):
        clock.now()


def test_the_embedded_fleet_is_one_simulated_node_a_protocol(tmp_path):
    settings = Settings(home=tmp_path, testnet=TestnetSettings(port=9999, seed=5))
    embedded = embedded_settings(settings)
    assert settings.uses_testnet
    assert not embedded.uses_testnet
    (host,) = embedded.hosts
    assert (host.name, host.simulated) == ("testnet", True)
    assert [node.name for node in embedded.nodes] == [f"{protocol}-1" for protocol in PROTOCOLS]
    assert all(node.simulated and node.host == "testnet" for node in embedded.nodes)
    assert embedded.prices.url == "http://127.0.0.1:9999/coingecko"
    world = seeded_world(5)
    for node in embedded.nodes:
        terms = world.protocols[node.protocol]
        assert node.demand.to_model() == terms.demand
        assert (node.min_share, node.max_share) == (terms.min_share, terms.max_share)
    by_name = {node.name: node for node in embedded.nodes}
    assert by_name["golem-1"].controller.kind == "none"
    assert by_name["storj-1"].controller.url == "http://127.0.0.1:9999/docker"
    assert by_name["grass-1"].options["grass_per_point"] == GRASS_PER_POINT
    assert by_name["streamr-1"].options["subgraph_url"] == "http://127.0.0.1:9999/thegraph"
    assert Settings.model_validate(embedded.model_dump()) == embedded


def test_the_fleet_points_at_the_files_and_addresses_the_testnet_serves(make_lab, tmp_path):
    lab = make_lab(state=tmp_path / "home" / "testnet")
    embedded = embedded_settings(Settings(home=tmp_path / "home"))
    nodes = {node.name: node for node in embedded.nodes}
    assert Path(nodes["storj-1"].options["config_file"]).is_file()
    assert (Path(nodes["golem-1"].options["data_dir"]) / "hardware.json").is_file()
    assert Path(nodes["streamr-1"].options["config_file"]).is_file()

    def path(url):
        return httpx.URL(url).path

    assert lab.get(path(nodes["storj-1"].url) + "/api/sno/").status_code == 200
    token = nodes["golem-1"].token.get_secret_value()
    assert lab.get(path(nodes["golem-1"].url) + "/me", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert lab.get(path(nodes["streamr-1"].url) + "/info").status_code == 200
    token = nodes["grass-1"].token.get_secret_value()
    devices = lab.get(path(nodes["grass-1"].url) + "/activeDevices", headers={"Authorization": token}).json()
    assert devices["result"]["data"][0]["deviceId"] == nodes["grass-1"].options["device_id"]
    operator = nodes["streamr-1"].options["operator"]
    query = {"query": '{operator(id:"' + operator + '"){id}}'}
    answer = lab.http.post(path(nodes["streamr-1"].options["subgraph_url"]), json=query)
    assert answer.json()["data"]["operator"] == {"id": operator}
    for node in nodes.values():
        if node.controller.kind == "docker":
            url = f"{path(node.controller.url)}/containers/{node.controller.container}/json"
            assert lab.get(url).json()["State"]["Running"] is True


def test_demand_comes_from_the_world_that_is_played(tmp_path):
    folder = write_world(tmp_path / "w")
    embedded = embedded_settings(Settings(home=tmp_path, testnet=TestnetSettings(world=folder)))
    assert {node.demand.disk_gb for node in embedded.nodes} == {5000.0}
    with pytest.raises(SettingsError, match=r"world\.toml"):
        embedded_settings(Settings(home=tmp_path, testnet=TestnetSettings(world=tmp_path / "none")))
