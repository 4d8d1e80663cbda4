"""Real Streamr nodes (npm @streamr/sdk) on loopback, read by our adapter; the operator's account is the testnet's."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from orcha_pipeline.clock import SystemClock
from orcha_pipeline.model import HealthState
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.registry import make_adapter
from orcha_pipeline.protocols.streamr_api import Info
from orcha_pipeline.settings import NodeSettings
from orcha_pipeline.testnet.streamr import OPERATOR
from orcha_pipeline_tests.peers.conftest import Served, ended, served_testnet, wait_for
from orcha_pipeline_tests.ports import free_port

STAKED = '{ operator(id: "%s") { stakes(first: 1000) { sponsorship { stream { id } } } } }'


@dataclass
class RealNode:
    """One of Streamr's own nodes in a process of its own."""

    id: str
    process: subprocess.Popen[str]
    url: str

    def info(self) -> dict[str, Any]:
        response = httpx.get(f"{self.url}/info", trust_env=False)
        assert response.status_code == 200, response.text
        return response.json()

    def connections(self) -> list[dict[str, Any]]:
        return self.info()["controlLayer"]["transport"]["connections"]

    def traffic(self) -> tuple[float, float]:
        """Bytes sent and received on the open connections."""
        found = self.connections()
        return sum(each["bytesSent"] for each in found), sum(each["bytesReceived"] for each in found)


class Network:
    """Nodes that know each other by the first one."""

    def __init__(self, command: Callable[..., list[str]], streams: list[str], stack: ExitStack) -> None:
        self.command = command
        self.streams = streams
        self.stack = stack
        self.nodes: list[RealNode] = []
        self.entry: dict[str, Any] = {}

    def join(self, *, leaving_out: int = 0) -> RealNode:
        """One more node, on all streams that the operator has staked on but so many."""
        number = len(self.nodes) + 1
        port, info_port = free_port(), free_port()
        identity = f"{number:02x}" * 20
        self.entry = self.entry or {"nodeId": identity, "port": port}
        given = {
            "nodeId": identity,
            "privateKey": f"0x{number:064x}",
            "port": port,
            "infoPort": info_port,
            "entryPoint": self.entry,
            "streams": self.streams[leaving_out:],
        }
        process = subprocess.Popen(
            self.command("node.cjs", json.dumps(given)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        node = RealNode(identity, self.stack.enter_context(ended(process)), f"http://127.0.0.1:{info_port}")
        wait_for(node.info, process)
        self.nodes.append(node)
        return node

    def wait_until_all_are_connected(self) -> None:
        for node in self.nodes:
            wait_for(lambda node=node: len(node.connections()) == len(self.nodes) - 1, node.process)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A testnet whose clock stands at the wall's: real nodes date their connections by that."""
    now = datetime.now(UTC).replace(microsecond=0)
    with served_testnet(tmp_path_factory.mktemp("testnet"), now - timedelta(days=2), now) as served:
        yield served


@pytest.fixture
def network(account: Served, node_command: Callable[..., list[str]]) -> Iterator[Network]:
    answer = account.http.post("/thegraph", json={"query": STAKED % OPERATOR}).json()
    streams = [stake["sponsorship"]["stream"]["id"] for stake in answer["data"]["operator"]["stakes"]]
    assert len(streams) > 1
    with ExitStack() as stack:
        yield Network(node_command, streams, stack)


@pytest.fixture
def adapt(account: Served) -> Iterator[Callable[[RealNode], Adapter]]:
    """Our adapter of a real node, on the emulated operator."""
    with ExitStack() as stack:

        def make(node: RealNode) -> Adapter:
            settings = NodeSettings.model_validate(
                {
                    "name": "real",
                    "protocol": "streamr",
                    "host": "here",
                    "url": node.url,
                    "demand": {"cpu_threads": 4, "memory_gib": 8, "disk_gb": 1, "bandwidth_mbps": 100},
                    "options": {"subgraph_url": f"{account.base}/thegraph", "operator": OPERATOR, "fleet_nodes": 1},
                }
            )
            adapter = make_adapter(settings, SystemClock())
            stack.callback(adapter.close)
            return adapter

        yield make


def usage(adapter: Adapter) -> dict[str, float | None]:
    return {reading.metric: reading.value for reading in adapter.resource_usage()}


def test_the_adapter_reads_connections_work_and_traffic_of_a_real_node(network: Network, adapt: Callable[..., Adapter]):
    first, second, third = (network.join() for _ in range(3))
    network.wait_until_all_are_connected()
    for node in (first, second, third):
        adapter = adapt(node)
        sent, received = node.traffic()
        found = usage(adapter)
        sent_after, received_after = node.traffic()
        assert found["connections"] == found["peers"] == 2
        assert found["stream_parts"] == found["sponsorships_staked"] == len(network.streams)
        assert 0 < sent <= found["open_connections_sent_bytes"] <= sent_after
        assert 0 < received <= found["open_connections_received_bytes"] <= received_after
        assert 0 < found["network_sent_bytes_per_second"] <= sent_after
        assert 0 < found["network_received_bytes_per_second"] <= received_after

    # Nodes talk to each other all the time, so the counters move.
    adapter = adapt(first)
    before = usage(adapter)["open_connections_sent_bytes"]
    wait_for(lambda: usage(adapter)["open_connections_sent_bytes"] > before, first.process)


def test_both_encodings_of_node_ids_are_served_and_read(network: Network):
    first, second, third = (network.join() for _ in range(3))
    network.wait_until_all_are_connected()
    served: set[bool] = set()
    for node in (first, second, third):
        info = node.info()
        connections = Info.model_validate(info).control_layer.transport.connections
        others = {each.id for each in (first, second, third)} - {node.id}
        assert {each.remote_peer_descriptor.node_id for each in connections} == others
        for connection in info["controlLayer"]["transport"]["connections"]:
            served.add(connection["remotePeerDescriptor"]["nodeId"].get("type") == "Buffer")
    assert served == {True, False}


def test_a_node_that_leaves_out_a_staked_stream_is_at_risk(network: Network, adapt: Callable[..., Adapter]):
    diligent, negligent = network.join(), network.join(leaving_out=1)
    wait_for(lambda: adapt(negligent).health().state is HealthState.AT_RISK, negligent.process)
    assert "1 staked stream(s) are not served" in adapt(negligent).health().reason
    assert "not served" not in adapt(diligent).health().reason


def test_a_closed_node_vanishes_and_nothing_fails(network: Network, adapt: Callable[..., Adapter]):
    first, second, third = (network.join() for _ in range(3))
    network.wait_until_all_are_connected()
    adapter = adapt(first)
    wait_for(lambda: adapter.health().state is HealthState.HEALTHY, first.process)

    for left, node in ((1, third), (0, second)):
        before = usage(adapter)["open_connections_sent_bytes"]
        node.process.terminate()
        node.process.wait(30)
        wait_for(lambda left=left: usage(adapter)["connections"] == left, first.process)
        # What was counted on the closed connection is gone with it.
        assert usage(adapter)["open_connections_sent_bytes"] < before
        assert usage(adapter)["stream_parts"] == len(network.streams)
    alone = adapter.health()
    assert alone.state is HealthState.ERROR
    assert "no connection" in alone.reason
