import json
import os
import signal
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from starlette.responses import Response

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.settings import Settings, TestnetSettings
from orcha_pipeline.testnet import addresses
from orcha_pipeline.testnet.clock import TestnetClock
from orcha_pipeline.testnet.fleet import embedded_settings
from orcha_pipeline.testnet.hosts import HOST_FILE, SimulatedHost
from orcha_pipeline.testnet.levers import operator_address
from orcha_pipeline.testnet.worlds import PROTOCOLS, seeded_world
from orcha_pipeline_tests.ports import free_port
from orcha_pipeline_tests.testnet.conftest import START
from orcha_pipeline_tests.testnet.test_server import begin, end
from orcha_pipeline_tests.testnet.test_worlds import write_prices, write_world

KEY = {"Authorization": "Bearer testnet-app-key"}
HOSTS = 25


@pytest.fixture
def fleet(make_lab):
    return make_lab(hosts=HOSTS)


def path(url):
    return httpx.URL(url).path


def test_25_hosts_have_100_nodes_that_all_answer_where_the_fleet_looks_for_them(make_lab, tmp_path):
    lab = make_lab(state=tmp_path / "testnet", hosts=HOSTS)
    settings = embedded_settings(Settings(home=tmp_path, testnet=TestnetSettings(hosts=HOSTS)))
    assert [host.name for host in settings.hosts] == [f"host-{number:04d}" for number in range(1, HOSTS + 1)]
    assert sorted(node.name for node in settings.nodes) == sorted(lab.testnet.nodes)
    assert len(settings.nodes) == 4 * HOSTS
    for node in settings.nodes:
        base = path(node.url)
        assert lab.testnet.nodes[node.name].name == node.host
        if node.protocol == "storj":
            allocated = lab.json(f"{base}/api/sno/")["diskSpace"]["allocated"]
            assert f"{allocated / 1e12:.2f} TB" in Path(node.options["config_file"]).read_text()
        elif node.protocol == "golem":
            assert lab.json(f"{base}/me", headers=KEY)["role"] == "manager"
            assert (Path(node.options["data_dir"]) / "hardware.json").is_file()
        elif node.protocol == "streamr":
            config = json.loads(Path(node.options["config_file"]).read_text())
            operator = config["plugins"]["operator"]["operatorContractAddress"]
            assert operator == node.options["operator"]
            query = {"query": '{operator(id:"' + operator + '"){id stakes{id}}}'}
            found = lab.http.post(path(node.options["subgraph_url"]), json=query).json()["data"]["operator"]
            assert found["id"] == operator
            assert len(found["stakes"]) == config["plugins"]["autostaker"]["maxSponsorshipCount"]
        else:
            token = {"Authorization": node.token.get_secret_value()}
            devices = lab.json(f"{base}/activeDevices", headers=token)["result"]["data"]
            assert node.options["device_id"] in [device["deviceId"] for device in devices]
        if node.controller.kind == "docker":
            container = lab.json(f"{path(node.controller.url)}/containers/{node.controller.container}/json")
            assert container["Name"] == f"/{node.name}"


def test_each_host_has_its_own_world_and_all_have_the_same_prices(fleet):
    worlds = [host.economy.world for host in fleet.testnet.hosts.values()]
    assert worlds[0].protocols == seeded_world(1).protocols
    assert worlds[6].protocols == seeded_world(7).protocols
    at = fleet.testnet.time.now
    assert len({world.usd_yield("golem", at) for world in worlds}) == HOSTS
    assert {world.price("GLM", at) for world in worlds} == {seeded_world(1).price("GLM", at)}


def test_a_recorded_world_and_recorded_prices_are_every_hosts(make_lab, tmp_path):
    lab = make_lab(hosts=3, world=write_world(tmp_path / "w"), prices_file=write_prices(tmp_path / "p.csv"))
    at = lab.testnet.time.now
    worlds = [host.economy.world for host in lab.testnet.hosts.values()]
    assert len({(world.usd_yield("golem", at), world.price("GLM", at)) for world in worlds}) == 1


def test_the_first_of_many_hosts_lives_as_the_only_one_does(make_lab, tmp_path, fleet):
    alone = make_lab(state=tmp_path / "alone")
    for lab in (alone, fleet):
        lab.pass_hours(5)
    one, many = alone.testnet.true_state(), fleet.testnet.true_state("host-0001")
    assert one == {name: {**node, "host": "testnet"} for name, node in many.items()}


def test_time_passes_only_on_the_hosts_that_are_asked(make_lab):
    lab = make_lab(hosts=4)
    lab.testnet.advance_to(lab.testnet.time.now + 7200)
    lab.json("/nodes/storj-3/api/sno/")
    assert [host.economy.now == lab.testnet.time.now for host in lab.testnet.hosts.values()] == [
        False,
        False,
        True,
        False,
    ]
    query = {"query": '{operator(id:"' + operator_address("streamr-2") + '"){id}}'}
    lab.http.post("/thegraph", json=query)
    assert lab.testnet.nodes["streamr-2"].economy.now == lab.testnet.time.now
    assert lab.testnet.nodes["streamr-4"].economy.now < lab.testnet.time.now


def test_being_asked_late_changes_nothing_of_what_was_earned(make_lab, tmp_path):
    asked, left = make_lab(state=tmp_path / "a", hosts=2), make_lab(state=tmp_path / "b", hosts=2)
    for _ in range(30):
        for lab in (asked, left):
            lab.testnet.advance_to(lab.testnet.time.now + 1800)
        asked.json("/nodes/golem-2/me", headers=KEY)
    one, other = (lab.testnet.true_state("host-0002")["golem-2"] for lab in (asked, left))
    assert one["native_total"] == pytest.approx(other["native_total"], rel=1e-10)
    assert {**one, "native_total": 0, "usd_total": 0} == {**other, "native_total": 0, "usd_total": 0}


def test_a_golem_profile_takes_effect_when_it_was_written_not_when_the_host_was_asked_again(make_lab):
    lab = make_lab(hosts=2)
    lab.http.post("/testnet/clock", json={"live": True})
    lab.json("/nodes/golem-2/me", headers=KEY)
    file = lab.testnet.state / "host-0002" / "golem-2" / "hardware.json"
    content = json.loads(file.read_text())
    content["profiles"]["default"]["cpu_threads"] = 9
    file.write_text(json.dumps(content))
    economy = lab.testnet.nodes["golem-2"].economy
    # The task that runs goes on with what it was given; the next one has the new profile for the second half.
    half = economy.books["golem"].busy_until(economy.now) - economy.now
    written = economy.now + half / 2
    for each in (file, file.with_name("presets.json")):
        os.utime(each, (written, written))
    lab.wall_now += 2 * half
    node, hours = economy.nodes["golem-2"], 2 * half / 3600
    before, early = node.native, economy.rate(node)
    assert lab.truth("golem-2")["lever_value"] == 9
    late = economy.rate(node)
    assert node.native - before == pytest.approx(hours * (early + late) / 2, rel=0.35)
    assert late > 1.3 * early
    assert node.native - before < 0.9 * late * hours


def test_faults_and_levers_are_one_hosts_and_shifts_are_everyones(fleet):
    fleet.http.post("/testnet/faults", json={"node": "storj-7", "kind": "dead"})
    assert fleet.get("/nodes/storj-7/api/sno/").status_code == 503
    assert fleet.get("/nodes/storj-8/api/sno/").status_code == 200
    fleet.http.post("/docker/host-0003/containers/grass-3/update", json={"NanoCpus": 2_000_000_000})
    assert fleet.truth("grass-3")["lever_value"] == 2.0
    assert fleet.truth("grass-4")["lever_value"] != 2.0
    assert fleet.get("/docker/host-0003/containers/grass-4/json").status_code == 404
    before = [fleet.truth(f"golem-{number}")["usd_yield_full_share"] for number in (1, 25)]
    fleet.http.post("/testnet/shift", json={"protocol": "golem", "factor": 3})
    after = [fleet.truth(f"golem-{number}")["usd_yield_full_share"] for number in (1, 25)]
    assert after == pytest.approx([3 * usd for usd in before])


def test_grass_accounts_have_ten_devices_each_and_only_their_own(fleet):
    seen = []
    for account, token in ((1, "testnet-grass-token"), (2, "testnet-grass-token-2"), (3, "testnet-grass-token-3")):
        answer = fleet.json("/grass/activeDevices", headers={"Authorization": token})
        devices = [device["deviceId"] for device in answer["result"]["data"]]
        assert len(devices) == len(set(devices)) == (10 if account < 3 else 5)
        seen.append(tuple(devices))
    assert len(set(seen)) == 3
    for token in ("testnet-grass-token-4", "", "testnet-grass-token-2x"):
        assert fleet.get("/grass/activeDevices", headers={"Authorization": token}).status_code == 401


@pytest.mark.parametrize(
    "path", ["/nodes/storj-26/api/sno/", "/nodes/grass-1/", "/nodes/", "/docker/_ping", "/docker/host-0026/_ping", "/"]
)
def test_what_belongs_to_no_host_is_not_found(fleet, path):
    assert fleet.get(path).status_code == 404


def test_unknown_addresses_below_a_door_are_answered_in_its_own_way(fleet):
    assert fleet.get("/nodes/storj-5/nowhere").headers["content-type"].startswith("text/html")
    assert fleet.get("/nodes/storj-5/api/sno").status_code == 301
    assert fleet.get("/nodes/storj-5/api/sno").headers["location"].endswith("/nodes/storj-5/api/sno/")
    assert "Cannot GET /nowhere" in fleet.get("/nodes/streamr-5/nowhere").text
    assert fleet.get("/docker/host-0005/v1.43/nowhere").json() == {"message": "page not found"}


def test_the_true_state_is_told_of_one_host_or_of_all(fleet):
    assert len(fleet.json("/testnet/nodes")) == 4 * HOSTS
    assert list(fleet.json("/testnet/nodes?host=host-0009")) == [f"{protocol}-9" for protocol in PROTOCOLS]
    assert fleet.get("/testnet/nodes?host=host-0099").status_code == 404
    assert fleet.json("/testnet/health")["hosts"] == HOSTS


@pytest.mark.parametrize("hosts", [0, 1001])
def test_a_number_of_hosts_that_is_none_is_refused(make_lab, hosts):
    with pytest.raises(SettingsError, match="1 to 1000 hosts"):
        make_lab(hosts=hosts)


# ---------------------------------------------------------------- state


def test_only_the_hosts_that_have_something_to_tell_are_written(make_lab):
    lab = make_lab(hosts=5)

    def written():
        return sorted(file.parent.name for file in lab.testnet.state.glob(f"*/{HOST_FILE}"))

    assert written() == []
    lab.testnet.advance_to(lab.testnet.time.now + 3600)
    for number in (1, 2):
        lab.json(f"/nodes/storj-{number}/api/sno/")
    assert written() == []
    lab.http.post("/docker/host-0004/containers/storj-4/restart")
    assert written() == ["host-0004"]
    lab.testnet.advance_to(lab.testnet.time.now + 6 * 3600)
    lab.json("/nodes/storj-2/api/sno/")
    assert written() == ["host-0002", "host-0004"]
    lab.testnet.save()
    assert written() == ["host-0001", "host-0002", "host-0004"]


def test_a_change_is_saved_before_it_is_answered(make_lab, monkeypatch):
    lab = make_lab(hosts=2)
    order = []
    save, dump = SimulatedHost.save, Response.__call__

    async def answered(self, *arguments):
        order.append("changed")
        await dump(self, *arguments)
        order.append("answered")

    monkeypatch.setattr(Response, "__call__", answered)
    monkeypatch.setattr(SimulatedHost, "save", lambda host: (order.append("saved"), save(host)))
    lab.http.post("/docker/host-0002/containers/grass-2/update", json={"NanoCpus": 5_000_000_000})
    assert order == ["changed", "saved", "answered"]


def test_a_testnet_that_is_killed_goes_on_as_if_it_had_not_been(make_lab, tmp_path):
    through, killed = make_lab(state=tmp_path / "a", hosts=3), make_lab(state=tmp_path / "b", hosts=3)
    for lab in (through, killed):
        lab.pass_hours(20)
        lab.http.post("/docker/host-0002/containers/grass-2/update", json={"NanoCpus": 5_000_000_000})
        lab.pass_hours(2.3)
        lab.http.post("/testnet/shift", json={"protocol": "storj", "factor": 2})
        lab.pass_hours(1)
    resumed = make_lab(state=tmp_path / "b", hosts=3)  # nothing was saved in the end
    for lab in (through, resumed):
        lab.pass_hours(5)
    for name, node in through.testnet.true_state().items():
        other = resumed.testnet.true_state()[name]
        assert other["native_total"] == pytest.approx(node["native_total"], rel=1e-9)
        assert {k: v for k, v in other.items() if not isinstance(v, float)} == {
            k: v for k, v in node.items() if not isinstance(v, float)
        }


def test_state_of_another_number_of_hosts_is_refused(make_lab):
    make_lab(hosts=2)
    with pytest.raises(SettingsError, match="made with hosts 2, and 3 is asked for"):
        make_lab(hosts=3)


def test_a_damaged_host_is_named_with_the_remedy(make_lab):
    lab = make_lab(hosts=2)
    (lab.testnet.state / "host-0002" / HOST_FILE).write_text('{"now":')
    with pytest.raises(SettingsError, match=r"host-0002.*cannot be read: .* Move the folder"):
        make_lab(hosts=2)


@pytest.mark.integration
def test_a_process_with_many_hosts_survives_being_killed(tmp_path):
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    process = begin(tmp_path, port, "--start", START.isoformat(), "--hosts", "12")
    try:
        with TestnetClock(base) as clock, httpx.Client(base_url=base, trust_env=False) as client:
            clock.advance_to(START + timedelta(hours=9))
            update = {"NanoCpus": 3_000_000_000}
            assert client.post("/docker/host-0011/containers/grass-11/update", json=update).is_success
            before = client.get("/testnet/nodes?host=host-0011").json()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=15)
    process = begin(tmp_path, port, "--hosts", "12")
    try:
        with TestnetClock(base) as clock, httpx.Client(base_url=base, trust_env=False) as client:
            assert clock.now() == START + timedelta(hours=9)
            assert client.get("/testnet/nodes?host=host-0011").json() == before
    finally:
        end(process)
    assert not list(tmp_path.rglob(".testnet-*"))


def test_an_account_of_the_last_devices_has_what_is_left(fleet):
    assert addresses.grass_token(10) == addresses.grass_token(1)
    assert addresses.grass_token(11) != addresses.grass_token(10)
