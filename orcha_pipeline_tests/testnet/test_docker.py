import json

import pytest

DOCKER = "/docker"


def post(lab, path, **options):
    return lab.http.post(DOCKER + path, **options)


def inspect(lab, name):
    return lab.json(f"{DOCKER}/containers/{name}/json")


@pytest.mark.parametrize("prefix", ["", "/v1.43", "/v1.24"])
def test_addresses_work_with_and_without_a_version(lab, prefix):
    assert lab.get(f"{DOCKER}{prefix}/_ping").text == "OK"
    assert lab.json(f"{DOCKER}{prefix}/version")["ApiVersion"] == "1.43"
    assert lab.json(f"{DOCKER}{prefix}/containers/storj-1/json")["Name"] == "/storj-1"


def test_a_newer_client_is_refused(lab):
    response = lab.get(f"{DOCKER}/v1.99/_ping")
    assert response.status_code == 400
    assert "too new" in response.json()["message"]


def test_an_unknown_container_is_404_with_dockers_words(lab):
    for response in (lab.get(f"{DOCKER}/containers/x/json"), post(lab, "/containers/x/restart")):
        assert response.status_code == 404
        assert response.json() == {"message": "No such container: x"}


def test_containers_are_found_by_name_id_and_prefix(lab):
    identity = inspect(lab, "grass-1")["Id"]
    assert inspect(lab, identity)["Name"] == inspect(lab, identity[:12])["Name"] == "/grass-1"


def test_the_list_shows_running_ones_and_filters_by_name(lab):
    post(lab, "/containers/grass-1/stop")

    def names(**parameters):
        return [c["Names"][0] for c in lab.json(f"{DOCKER}/containers/json", params=parameters)]

    assert names() == ["/storj-1", "/streamr-1"]
    assert names(all="1") == ["/storj-1", "/streamr-1", "/grass-1"]
    assert names(all="1", filters=json.dumps({"name": ["grass"]})) == ["/grass-1"]


def test_a_cpu_limit_changes_grasss_share_at_once(lab):
    response = post(lab, "/v1.43/containers/grass-1/update", json={"NanoCpus": 2_500_000_000})
    assert response.status_code == 200
    assert response.json() == {"Warnings": None}
    assert inspect(lab, "grass-1")["HostConfig"]["NanoCpus"] == 2_500_000_000
    assert lab.truth("grass-1")["share"] == 0.25


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"NanoCpus": 17_000_000_000}, 400, "Range of CPUs is from 0.01 to 16.00"),
        ({"NanoCpus": 1_000_000}, 400, "Range of CPUs"),
        ({"NanoCpus": -1}, 400, "Range of CPUs"),
        ({"NanoCpus": "1.5"}, 400, "cannot unmarshal string"),
        ({"NanoCpus": 1.5e9}, 400, "cannot unmarshal number"),
        ({"NanoCpus": 1_000_000_000, "CpuQuota": 50_000}, 400, "Conflicting options"),
        ({"Memory": 1024}, 400, "Minimum memory limit"),
        ({"Memory": 2 << 30, "MemorySwap": 1 << 30}, 409, "should be smaller than already set memoryswap limit"),
        ([1], 400, "cannot unmarshal"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_and_changes_nothing(lab, body, status, text):
    before = inspect(lab, "grass-1")["HostConfig"]
    response = post(lab, "/containers/grass-1/update", json=body)
    assert response.status_code == status
    assert text in response.json()["message"]
    assert inspect(lab, "grass-1")["HostConfig"] == before


def test_broken_json_is_a_bad_request(lab):
    assert post(lab, "/containers/grass-1/update", content=b"{").status_code == 400


def test_lowering_memory_below_the_swap_limit_needs_both_in_one_call(lab):
    assert post(lab, "/containers/grass-1/update", json={"Memory": 1 << 30, "MemorySwap": 2 << 30}).status_code == 200
    assert post(lab, "/containers/grass-1/update", json={"Memory": 3 << 30}).status_code == 409
    assert post(lab, "/containers/grass-1/update", json={"Memory": 3 << 30, "MemorySwap": 3 << 30}).status_code == 200


def test_stop_and_start_tell_whether_they_changed_anything(lab):
    path = "/containers/streamr-1"
    assert post(lab, f"{path}/start").status_code == 304
    assert post(lab, f"{path}/stop?t=30").status_code == 204
    assert post(lab, f"{path}/stop").status_code == 304
    assert inspect(lab, "streamr-1")["State"]["Status"] == "exited"
    assert post(lab, f"{path}/start").status_code == 204
    assert inspect(lab, "streamr-1")["State"]["Running"] is True


def test_a_restart_is_seen_in_started_at_and_the_node_is_away_meanwhile(lab):
    lab.pass_hours(1)
    before = inspect(lab, "storj-1")["State"]["StartedAt"]
    assert post(lab, "/containers/storj-1/restart?t=300").status_code == 204
    assert inspect(lab, "storj-1")["State"]["StartedAt"] > before
    assert lab.truth("storj-1")["restarting"] is True
    assert lab.get("/nodes/storj-1/api/sno/").status_code == 503
    lab.pass_seconds(19)
    assert lab.get("/nodes/storj-1/api/sno/").status_code == 503
    lab.pass_seconds(1)
    assert lab.json("/nodes/storj-1/api/sno/")["startedAt"] == "2026-10-20T01:00:00Z"


def test_pausing_takes_a_node_away_until_it_is_unpaused(lab):
    assert post(lab, "/containers/streamr-1/pause").status_code == 204
    assert lab.get("/nodes/streamr-1/info").status_code == 503
    assert post(lab, "/containers/streamr-1/pause").status_code == 409
    assert post(lab, "/containers/streamr-1/unpause").status_code == 204
    assert lab.get("/nodes/streamr-1/info").status_code == 200


def test_two_readings_of_the_counters_give_the_use_between_them(lab):
    path = f"{DOCKER}/containers/grass-1/stats?stream=false&one-shot=true"
    first = lab.json(path)
    lab.pass_hours(1)
    second = lab.json(path)
    assert "system_cpu_usage" not in second["precpu_stats"]
    used = second["cpu_stats"]["cpu_usage"]["total_usage"] - first["cpu_stats"]["cpu_usage"]["total_usage"]
    system = second["cpu_stats"]["system_cpu_usage"] - first["cpu_stats"]["system_cpu_usage"]
    threads = used / system * second["cpu_stats"]["online_cpus"]
    assert 0 < threads <= lab.economy.nodes["grass-1"].nano_cpus / 1e9
    assert second["networks"]["eth0"]["tx_bytes"] > 0
    assert second["memory_stats"]["usage"] < second["memory_stats"]["limit"]


def test_a_stuck_lever_answers_500_and_a_stuck_node_comes_back_as_it_was(lab):
    lab.http.post("/testnet/faults", json={"node": "grass-1", "kind": "apply_fails"})
    lab.http.post("/testnet/faults", json={"node": "storj-1", "kind": "apply_fails"})
    before = lab.truth("grass-1")["share"], lab.truth("storj-1")["share"]
    response = post(lab, "/containers/grass-1/update", json={"NanoCpus": 1_000_000_000})
    assert response.status_code == 500
    assert response.json()["message"]
    config = lab.testnet.state / "storj-1" / "config.yaml"
    config.write_text("storage.allocated-disk-space: 1.00 TB\n")
    assert post(lab, "/containers/storj-1/restart").status_code == 204
    lab.pass_seconds(30)
    assert (lab.truth("grass-1")["share"], lab.truth("storj-1")["share"]) == before
    assert lab.json("/nodes/storj-1/api/sno/")["diskSpace"]["allocated"] != 1_000_000_000_000
