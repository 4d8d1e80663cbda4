"""Streamr's own Operator client (npm @streamr/sdk) finds in the emulated subgraph and chain what is true there."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from orcha_pipeline.testnet.streamr import OPERATOR
from orcha_pipeline_tests.peers.conftest import Served

NODE = "streamr-1"
WEI = 10**18
STAKES = """{ operator(id: "%s") { metadataJsonString latestHeartbeatTimestamp valueWithoutEarnings
 cumulativeProfitsWei cumulativeOperatorsCutWei
 stakes(first: 1000) { amountWei earningsWei updateTimestamp
   sponsorship { id operatorCount totalPayoutWeiPerSec totalStakedWei isRunning stream { id } } } }
 _meta { block { number } } }"""


@pytest.fixture(scope="module")
def read(testnet: Served, node_command: Callable[..., list[str]]) -> dict[str, Any]:
    """All that the SDK's client reads, in one go on a clock that stands still."""
    command = node_command("operator.cjs", f"{testnet.base}/thegraph", f"{testnet.base}/polygon", OPERATOR)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def graph(testnet: Served) -> dict[str, Any]:
    """The same from the subgraph, asked without any client of Streamr."""
    answer = testnet.http.post("/thegraph", json={"query": STAKES % OPERATOR}).json()
    assert "errors" not in answer
    return answer["data"]


def test_it_finds_the_sponsorships_staked_on(read: dict[str, Any], graph: dict[str, Any]):
    def row(stake: dict[str, Any]) -> tuple[str, str, int]:
        sponsorship = stake["sponsorship"]
        return sponsorship["id"], sponsorship["stream"]["id"], sponsorship["operatorCount"]

    found = {(s["sponsorshipAddress"], s["streamId"], s["operatorCount"]) for s in read["sponsorships"]}
    assert found == {row(stake) for stake in graph["operator"]["stakes"]}
    assert len(found) == len(read["sponsorships"]) > 0


def test_the_earnings_of_the_contract_are_what_the_operator_earned_and_has_not_withdrawn(
    testnet: Served, read: dict[str, Any], graph: dict[str, Any]
):
    block = {"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": ["latest", False]}
    now = int(testnet.http.post("/polygon", json=block).json()["result"]["timestamp"], 16)
    assert now == int(testnet.now.timestamp())  # so that chain and books are at one moment
    operator = graph["operator"]
    accrued = 0
    for stake in operator["stakes"]:
        sponsorship = stake["sponsorship"]
        assert sponsorship["isRunning"]
        per_second = int(sponsorship["totalPayoutWeiPerSec"]) * int(stake["amountWei"])
        seconds = now - stake["updateTimestamp"]
        accrued += int(stake["earningsWei"]) + per_second * seconds // int(sponsorship["totalStakedWei"])
    assert int(read["earnings"]["sum"]) == accrued > 0
    # The truth, from the books: all that was ever earned, less what was withdrawn (of which 5 % are the protocol's).
    after_fee = int(operator["cumulativeProfitsWei"]) + int(operator["cumulativeOperatorsCutWei"])
    withdrawn = Decimal(after_fee) / WEI / Decimal("0.95")
    assert withdrawn > 0
    earned = Decimal(testnet.truth(NODE)["native_total"])
    assert abs(Decimal(accrued) / WEI + withdrawn - earned) < Decimal("1e-6")
    assert sorted(read["earnings"]["sponsorshipAddresses"]) == sorted(
        s["sponsorship"]["id"] for s in operator["stakes"]
    )


def test_concurrent_calls_in_one_batch_find_the_same(read: dict[str, Any]):
    assert read["batchedEarnings"] == read["earnings"]


def test_the_limit_of_unclaimed_earnings_is_a_twentieth_of_the_value(read: dict[str, Any], graph: dict[str, Any]):
    assert int(read["earnings"]["maxAllowedEarnings"]) == int(graph["operator"]["valueWithoutEarnings"]) // 20


def test_redundancy_factor_and_heartbeat_agree_with_the_subgraph(
    testnet: Served, read: dict[str, Any], graph: dict[str, Any]
):
    operator = graph["operator"]
    assert read["redundancyFactor"] == json.loads(operator["metadataJsonString"])["redundancyFactor"]
    assert read["heartbeat"] == int(operator["latestHeartbeatTimestamp"]) * 1000
    age = testnet.now - datetime.fromtimestamp(read["heartbeat"] / 1000, UTC)
    assert 0 <= age.total_seconds() < 30 * 3600


def test_the_chain_is_not_behind_the_subgraph_that_indexes_it(read: dict[str, Any], graph: dict[str, Any]):
    assert 0 <= read["blockNumber"] - graph["_meta"]["block"]["number"] < 100


def test_it_finds_what_the_node_has_to_serve_and_who_else_is_staked(read: dict[str, Any]):
    def order(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return sorted((row["sponsorshipAddress"], row["streamId"]) for row in rows)

    assert order(read["staked"]) == order(read["sponsorships"])
    assert OPERATOR in read["operators"]
    assert OPERATOR in read["operatorsInFirst"]
    assert read["streamOfFirst"] == read["sponsorships"][0]["streamId"]


def test_no_flag_is_open_on_a_healthy_operator(read: dict[str, Any]):
    assert read["firstIsFlagged"] is False
    assert read["expiredFlags"] == []
