"""What a container is created from, out of what Docker 20.10 shows of the one that it replaces."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.controllers.docker_recreate import REPLACES, changed_environment, creation

ID = "c5fe99de96e0" + "0" * 52
NETWORK = "4bb94a4adb08" + "0" * 52
INSPECTED: dict[str, Any] = {
    "Id": ID,
    "Name": "/storagenode",
    "Image": "sha256:9a9a",
    "HostConfig": {
        "Binds": ["/srv/storj:/app/config", "named:/x:ro"],
        "Mounts": None,
        "Links": ["/db:/storagenode/database"],
        "NetworkMode": "default",
        "PortBindings": {"28967/tcp": [{"HostIp": "", "HostPort": "28967"}]},
        "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
        "NanoCpus": 500_000_000,
        "Memory": 67108864,
        "MemorySwap": 536870912,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "50m"}},
    },
    "Mounts": [
        {"Type": "bind", "Source": "/srv/storj", "Destination": "/app/config", "RW": True},
        {"Type": "volume", "Name": "named", "Destination": "/x", "RW": False},
        {"Type": "volume", "Name": "f488a927", "Destination": "/anonymous", "RW": True},
        {"Type": "volume", "Name": "f488a928", "Destination": "/read-only", "RW": False},
    ],
    "Config": {
        "Hostname": ID[:12],
        "Env": ["WALLET=0xabc", "STORAGE=2TB", "EMPTY=", "LONE"],
        "Cmd": None,
        "Image": "storjlabs/storagenode:latest",
        "Volumes": {"/anonymous": {}},
        "Labels": {"com.docker.compose.service": "storagenode"},
        "ExposedPorts": {"28967/tcp": {}},
        "StopSignal": "SIGTERM",
    },
    "NetworkSettings": {
        "Networks": {
            "bridge": {"IPAMConfig": None, "Links": None, "Aliases": None, "NetworkID": NETWORK, "MacAddress": "02:42"}
        }
    },
}


def made(changes: dict[str, Any] | None = None, *, version=(1, 41), **config: Any) -> tuple[dict[str, Any], Any]:
    container = copy.deepcopy(INSPECTED)
    container["HostConfig"] |= config.pop("host", {})
    container["Config"] |= config.pop("config", {})
    container |= config
    before = copy.deepcopy(container)
    body, networks = creation(container, changes or {}, image="storjlabs/storagenode:latest", version=version)
    assert container == before, "what was inspected is not to be changed: it is needed to go back"
    json.dumps(body)
    return body, networks


def test_everything_that_is_not_named_stays():
    body, networks = made()
    assert networks == {}
    for name in ("Cmd", "Volumes", "ExposedPorts", "StopSignal", "Env", "Image"):
        assert body[name] == INSPECTED["Config"][name]
    for name, value in INSPECTED["HostConfig"].items():
        if name not in ("Binds", "Links"):
            assert body["HostConfig"][name] == value
    assert body["Labels"] == {"com.docker.compose.service": "storagenode", REPLACES: ID}


def test_variables_are_changed_in_place_and_new_ones_added():
    body, _ = made({"STORAGE": "3TB", "NEW": "a=b"})
    assert body["Env"] == ["WALLET=0xabc", "STORAGE=3TB", "EMPTY=", "LONE", "NEW=a=b"]


@given(
    st.lists(st.tuples(st.from_regex(r"[A-Z]{1,3}", fullmatch=True), st.text(max_size=5)), unique_by=lambda p: p[0]),
    st.dictionaries(st.from_regex(r"[A-Z]{1,3}", fullmatch=True), st.text(max_size=5)),
)
def test_the_new_variables_are_the_old_ones_with_the_changes_over_them(before, changes):
    lines = changed_environment([f"{name}={value}" for name, value in before], changes)
    after = dict(line.split("=", 1) for line in lines)
    assert after == dict(before) | changes
    assert len(lines) == len(after)


def test_volumes_without_a_name_are_kept_by_theirs():
    body, _ = made()
    assert body["HostConfig"]["Binds"] == [
        "/srv/storj:/app/config",
        "named:/x:ro",
        "f488a927:/anonymous",
        "f488a928:/read-only:ro",
    ]


def test_a_volume_mounted_without_a_name_gets_it_where_it_is_mounted():
    mounts = [
        {"Type": "volume", "Target": "/anonymous"},
        {"Type": "volume", "Source": "named2", "Target": "/read-only"},
        {"Type": "tmpfs", "Target": "/tmp"},
    ]
    body, _ = made(host={"Mounts": mounts, "Binds": None})
    assert body["HostConfig"]["Mounts"] == [mounts[0] | {"Source": "f488a927"}, *mounts[1:]]
    assert body["HostConfig"]["Binds"] == ["named:/x:ro"]


def test_links_are_turned_from_what_is_shown_to_what_is_asked():
    assert made()[0]["HostConfig"]["Links"] == ["db:database"]
    assert made(host={"Links": None})[0]["HostConfig"]["Links"] is None


def test_a_name_that_docker_made_of_the_id_is_not_kept_and_one_that_was_given_is():
    assert "Hostname" not in made()[0]
    assert made(config={"Hostname": "attic"})[0]["Hostname"] == "attic"


def test_every_network_is_joined_again_with_its_aliases_and_addresses():
    networks = {
        "front": {"IPAMConfig": {"IPv4Address": "172.18.0.9"}, "Aliases": ["al", ID[:12]], "Links": ["db:database"]},
        "back": {"IPAMConfig": {}, "Aliases": [ID[:12]], "DriverOpts": {"x": "y"}},
    }
    body, others = made(host={"NetworkMode": "front"}, NetworkSettings={"Networks": networks})
    front = {"IPAMConfig": {"IPv4Address": "172.18.0.9"}, "Aliases": ["al"], "Links": ["db:database"]}
    assert body["NetworkingConfig"] == {"EndpointsConfig": {"front": front}}
    assert others == {"back": {"DriverOpts": {"x": "y"}}}


def test_a_network_that_is_named_by_its_id_is_not_joined_twice():
    networks = {"front": {"NetworkID": NETWORK}}
    body, others = made(host={"NetworkMode": NETWORK}, NetworkSettings={"Networks": networks})
    assert (body["NetworkingConfig"]["EndpointsConfig"], others) == ({"front": {}}, {})


@pytest.mark.parametrize(("version", "kept"), [((1, 43), {}), ((1, 44), {"MacAddress": "02:42"})])
def test_an_address_of_hardware_is_given_where_the_engine_takes_one(version, kept):
    assert made(version=version)[0]["NetworkingConfig"]["EndpointsConfig"] == {"bridge": kept}


@pytest.mark.parametrize("mode", ["host", "none", f"container:{ID}"])
def test_a_container_without_a_network_of_its_own_joins_none(mode):
    body, others = made(host={"NetworkMode": mode}, config={"Hostname": "attic"})
    assert "NetworkingConfig" not in body
    assert others == {}
    shared = mode.startswith("container:")
    assert ("Hostname" in body, "ExposedPorts" in body) == (not shared, not shared)
