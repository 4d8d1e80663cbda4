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
        ({"Memory": 2 << 30, "MemorySwap": 1 << 30}, 400, "Minimum memoryswap limit should be larger than memory"),
        ({"Memory": 64 << 30}, 409, "should be smaller than already set memoryswap limit"),
        ({"CpuQuota": 50_000}, 409, "CPU Quota cannot be updated as NanoCPUs has already been set"),
        ({"CpuPeriod": 50_000}, 409, "CPU Period cannot be updated as NanoCPUs has already been set"),
        ({"CpuQuota": 500}, 400, "can not be less than 1ms"),
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


def create(lab, name, like="storj-1", **changes):
    """A container of the data of another."""
    seen = inspect(lab, like)
    body = {**seen["Config"], "HostConfig": seen["HostConfig"], **changes}
    return post(lab, f"/containers/create?name={name}", json=body)


def refused(response, status, text):
    assert response.status_code == status
    assert text in response.json()["message"]


def test_an_older_client_than_the_engine_answers_is_refused(lab):
    refused(lab.get(f"{DOCKER}/v1.12/_ping"), 400, "too old. Minimum supported API version is 1.24")
    assert lab.json(f"{DOCKER}/version")["MinAPIVersion"] == "1.24"


def test_the_host_and_the_images_are_told(lab):
    assert lab.json(f"{DOCKER}/info")["NCPU"] == 16
    seen = inspect(lab, "storj-1")
    for name in (seen["Config"]["Image"], seen["Image"], "storjlabs/storagenode"):
        assert lab.json(f"{DOCKER}/images/{name}/json")["Id"] == seen["Image"]
    refused(lab.get(f"{DOCKER}/images/nope/json"), 404, "No such image: nope:latest")


def test_a_node_takes_what_its_new_container_tells_it_over_its_file(lab):
    """As with the official image, whose STORAGE becomes a flag: config.yaml says something else and is not heard."""
    file = lab.testnet.state / "storj-1" / "config.yaml"
    before = file.read_text() if file.exists() else None
    assert create(lab, "new", Env=["STORAGE=1.5TB"]).status_code == 201
    assert inspect(lab, "new")["State"]["Status"] == "created"
    assert post(lab, "/containers/storj-1/stop?t=300").status_code == 204
    assert post(lab, "/containers/new/start").status_code == 204
    lab.pass_seconds(30)
    assert lab.json("/nodes/storj-1/api/sno/")["diskSpace"]["allocated"] == 1_500_000_000_000
    assert inspect(lab, "storj-1")["State"]["Status"] == "exited"
    assert inspect(lab, "new")["Config"]["Env"] == ["STORAGE=1.5TB"]
    assert before is None or file.read_text() == before


def test_two_containers_of_one_node_cannot_run_at_once(lab):
    create(lab, "new")
    refused(post(lab, "/containers/new/start"), 500, "port is already allocated")
    assert inspect(lab, "storj-1")["State"]["Running"] is True
    assert lab.truth("storj-1")["restarting"] is False


def test_a_container_without_a_nodes_data_ends_at_once(lab):
    seen = inspect(lab, "storj-1")
    body = {"Image": seen["Config"]["Image"], "HostConfig": {"Binds": ["/elsewhere:/app/config"]}}
    post(lab, "/containers/create?name=empty", json=body)
    assert post(lab, "/containers/empty/start").status_code == 204
    assert inspect(lab, "empty")["State"]["ExitCode"] == 1


def test_names_are_taken_freed_and_checked(lab):
    identity = inspect(lab, "storj-1")["Id"]
    refused(create(lab, "grass-1"), 409, 'Conflict. The container name "/grass-1" is already in use by container')
    refused(create(lab, "a b"), 400, "Invalid container name (a b), only")
    refused(post(lab, "/containers/storj-1/rename?name=grass-1"), 409, "Error when allocating new name: Conflict.")
    refused(post(lab, "/containers/nope/rename?name=x1"), 404, "No such container: nope")
    assert post(lab, "/containers/storj-1/rename?name=storj-old").status_code == 204
    assert inspect(lab, "storj-old")["Id"] == identity
    assert inspect(lab, "storj-old")["State"]["Running"] is True
    assert create(lab, "storj-1", like="storj-old").status_code == 201


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"Image": "nope"}, 404, "No such image: nope:latest"),
        ({"Env": ["=x"]}, 400, "invalid environment variable: =x"),
        ({"HostConfig": {"NanoCpus": 99_000_000_000}}, 400, "Range of CPUs"),
        ({"NetworkingConfig": {"EndpointsConfig": {"bridge": {}, "none": {}}}}, 400, "cannot be connected to network"),
        ({"HostConfig": {"NetworkMode": "nope"}}, 404, "network nope not found"),
    ],
)
def test_a_container_that_cannot_be_is_not_made(lab, changes, status, text):
    refused(create(lab, "new", **changes), status, text)
    assert lab.get(f"{DOCKER}/containers/new/json").status_code == 404


def test_only_a_stopped_container_is_removed_unless_forced(lab):
    def delete(path):
        return lab.http.request("DELETE", DOCKER + path)

    refused(delete("/containers/grass-1"), 409, "You cannot remove a running container")
    post(lab, "/containers/grass-1/stop")
    assert delete("/containers/grass-1").status_code == 204
    refused(delete("/containers/grass-1"), 404, "No such container")
    assert delete("/containers/streamr-1?force=1").status_code == 204
    assert lab.get("/nodes/streamr-1/info").status_code == 503


def test_a_container_that_was_run_with_rm_is_gone_when_it_stops_and_stays_when_it_restarts(lab):
    seen = inspect(lab, "grass-1")
    post(lab, "/containers/grass-1/stop")
    create(lab, "brief", like="grass-1", HostConfig=seen["HostConfig"] | {"AutoRemove": True})
    post(lab, "/containers/brief/start")
    assert post(lab, "/containers/brief/restart").status_code == 204
    refused(post(lab, "/containers/brief/update", json={"RestartPolicy": {"Name": "always"}}), 409, "AutoRemove")
    assert post(lab, "/containers/brief/stop").status_code == 204
    assert lab.get(f"{DOCKER}/containers/brief/json").status_code == 404


def test_a_quota_is_a_limit_too_and_less_than_none_takes_every_limit_away(lab):
    seen = inspect(lab, "grass-1")
    post(lab, "/containers/grass-1/stop")
    host = seen["HostConfig"] | {"NanoCpus": 0, "CpuQuota": 250_000}
    create(lab, "quota", like="grass-1", HostConfig=host)
    post(lab, "/containers/quota/start")
    assert lab.truth("grass-1")["share"] == 0.25
    refused(post(lab, "/containers/quota/update", json={"NanoCpus": 1_000_000_000}), 409, "as CPU Quota has already")
    assert post(lab, "/containers/quota/update", json={"CpuPeriod": 50_000}).status_code == 200
    assert lab.truth("grass-1")["share"] == 0.5
    assert post(lab, "/containers/quota/update", json={"CpuQuota": -1}).status_code == 200
    assert lab.truth("grass-1")["share"] == 1.0


def test_unlimited_swap_counts_as_less_than_any_memory(lab):
    path = "/containers/grass-1/update"
    assert post(lab, path, json={"Memory": 1 << 30, "MemorySwap": -1}).status_code == 200
    refused(post(lab, path, json={"Memory": 1 << 29}), 409, "update the memoryswap at the same time")


def test_a_container_that_is_stopped_counts_nothing(lab):
    post(lab, "/containers/grass-1/stop")
    seen = lab.json(f"{DOCKER}/containers/grass-1/stats?stream=false&one-shot=true")
    assert seen["memory_stats"] == {}
    assert seen["read"].startswith("0001")
    assert "networks" not in seen


def test_a_network_is_joined_once(lab):
    body = {"Container": "grass-1", "EndpointConfig": {"Aliases": ["a"]}}
    assert post(lab, "/networks/none/connect", json=body).status_code == 200
    assert inspect(lab, "grass-1")["NetworkSettings"]["Networks"]["none"]["Aliases"] == ["a"]
    refused(post(lab, "/networks/none/connect", json=body), 403, "already exists in network none")
    refused(post(lab, "/networks/nope/connect", json=body), 404, "network nope not found")


def test_containers_are_filtered_by_state_label_and_id(lab):
    create(lab, "new", Labels={"a": "b"})

    def names(**filters):
        listed = lab.json(f"{DOCKER}/containers/json", params={"all": "1", "filters": json.dumps(filters)})
        return [one["Names"][0] for one in listed]

    assert names(status=["created"]) == ["/new"]
    assert names(label=["a=b"]) == names(label=["a"]) == ["/new"]
    assert names(label=["a=c"]) == []
    assert names(id=[inspect(lab, "grass-1")["Id"][:12]]) == ["/grass-1"]
    refused(lab.get(f"{DOCKER}/containers/json", params={"filters": "[1]"}), 400, "invalid filter")


def test_every_host_has_an_engine_with_its_own_containers(make_lab):
    lab = make_lab(hosts=3)
    found = [[one["Names"][0] for one in lab.json(f"{DOCKER}/{host}/containers/json")] for host in lab.testnet.hosts]
    assert len(found) == 3
    assert len({name for names in found for name in names}) == 9
