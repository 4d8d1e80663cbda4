"""The emulated chain: what Streamr's clients ask a server of Polygon, answered as one would."""

import json

import pytest

from orcha_pipeline.testnet.levers import operator_address
from orcha_pipeline.testnet.streamr import NODE_ADDRESS, OPERATOR

WEI = 10**18


def rpc(lab, method, *params, number=1):
    response = lab.http.post(
        "/polygon", json={"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
    )
    assert response.status_code == 200
    answer = response.json()
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", number)
    return answer


def call(lab, selector, to=OPERATOR):
    answer = rpc(lab, "eth_call", {"to": to, "data": selector}, "latest")
    return answer.get("result", answer.get("error"))


def words(result):
    data = result.removeprefix("0x")
    assert len(data) % 64 == 0
    return [int(data[place : place + 64], 16) for place in range(0, len(data), 64)]


def test_the_contract_tells_what_accrued_by_sponsorship_at_this_block(lab):
    lab.pass_hours(5)
    found = words(call(lab, "0x2ebd89d1"))
    assert found[:2] == [96, 96 + 32 * 7]
    assert found[3] == found[10] == 6
    addresses, earnings = found[4:10], found[11:17]
    query = "query($id: ID!) { operator(id: $id) { valueWithoutEarnings stakes { sponsorship { id } } } }"
    answer = lab.http.post("/thegraph", json={"query": query, "variables": {"id": OPERATOR}}).json()
    operator = answer["data"]["operator"]
    assert {f"0x{address:040x}" for address in addresses} == {s["sponsorship"]["id"] for s in operator["stakes"]}
    assert sum(earnings) == pytest.approx(lab.truth("streamr-1")["native_total"] * WEI, rel=1e-9)
    assert found[2] == int(operator["valueWithoutEarnings"]) // 20
    assert words(call(lab, "0xc229918e")) == [int(operator["valueWithoutEarnings"])]


def test_a_withdrawal_empties_what_accrued(lab):
    lab.pass_hours(23)
    assert sum(words(call(lab, "0x2ebd89d1"))[11:17]) == 0


def test_texts_numbers_and_addresses_are_encoded_as_solidity_does(lab):
    circumstances = lab.testnet.first.streamr_books.circumstances
    circumstances.redundancy = 2
    text = call(lab, "0x392f37e9")
    assert words(text)[:2] == [32, 23]
    assert bytes.fromhex(text[2 + 128 :]).rstrip(b"\0") == b'{"redundancyFactor": 2}'
    circumstances.redundancy = None
    assert words(call(lab, "0x392f37e9")) == [32, 0]
    assert words(call(lab, "0x558a1568")) == [WEI // 10]
    assert words(call(lab, "0x2e949824")) == [32, 1, int(NODE_ADDRESS, 16)]


def test_a_sponsorship_tells_its_stream(lab):
    query = "{ sponsorships(first: 1) { id stream { id } } }"
    (one,) = lab.http.post("/thegraph", json={"query": query}).json()["data"]["sponsorships"]
    text = call(lab, "0xf4408e4b", one["id"])
    assert bytes.fromhex(text[2 + 128 :]).rstrip(b"\0").decode() == one["stream"]["id"]


def test_what_no_contract_has_is_empty_or_reverts(lab):
    assert call(lab, "0x2ebd89d1", "0x" + "12" * 20) == "0x"
    assert call(lab, "0x12345678") == {"code": 3, "message": "execution reverted"}


def test_gas_is_the_nodes_wallets(lab):
    assert rpc(lab, "eth_getBalance", NODE_ADDRESS, "latest")["result"] == hex(2 * WEI)
    lab.testnet.first.streamr_books.circumstances.pol_wei = 5
    assert rpc(lab, "eth_getBalance", NODE_ADDRESS.upper().replace("X", "x"), "latest")["result"] == "0x5"
    assert rpc(lab, "eth_getBalance", OPERATOR, "latest")["result"] == "0x0"
    assert rpc(lab, "eth_getBalance", "0x12", "latest")["error"]["code"] == -32602


def test_the_chain_is_polygon_and_ahead_of_the_index(lab):
    assert rpc(lab, "eth_chainId")["result"] == "0x89"
    assert rpc(lab, "net_version")["result"] == "137"
    number = int(rpc(lab, "eth_blockNumber")["result"], 16)
    query = "{ _meta { block { number timestamp } } }"
    indexed = lab.http.post("/thegraph", json={"query": query}).json()["data"]["_meta"]["block"]
    assert number - indexed["number"] == 2
    block = rpc(lab, "eth_getBlockByNumber", hex(indexed["number"]), False)["result"]
    assert int(block["timestamp"], 16) == indexed["timestamp"]
    assert rpc(lab, "eth_getBlockByNumber", "latest", False)["result"]["number"] == hex(number)
    assert rpc(lab, "eth_getBlockByNumber", hex(number + 1), False)["result"] is None
    lab.pass_hours(1)
    assert int(rpc(lab, "eth_blockNumber")["result"], 16) == number + 1800


def test_an_unknown_method_is_an_error_object_with_status_200(lab):
    error = rpc(lab, "eth_mine")["error"]
    assert (error["code"], error["message"]) == (-32601, "the method eth_mine does not exist/is not available")


@pytest.mark.parametrize("params", [[], [{}], [{"to": OPERATOR}], ["x"], [None]])
def test_a_call_that_lacks_something_is_an_error_object(lab, params):
    assert rpc(lab, "eth_call", *params)["error"]["code"] == -32602


@pytest.mark.parametrize(("body", "code"), [(b"{", -32700), (b"[]", -32600), (b"7", -32600), (b'{"id":1}', -32600)])
def test_a_bad_body_is_an_error_object(lab, body, code):
    assert lab.http.post("/polygon", content=body).json()["error"]["code"] == code


def test_a_batch_is_answered_one_by_one(lab):
    batch = [
        {"jsonrpc": "2.0", "id": 7, "method": "eth_chainId"},
        {"jsonrpc": "2.0", "id": "x", "method": "nothing"},
        {"jsonrpc": "2.0", "id": 9, "method": "eth_gasPrice", "params": []},
    ]
    answers = lab.http.post("/polygon", content=json.dumps(batch)).json()
    assert [answer["id"] for answer in answers] == [7, "x", 9]
    assert [("error" in answer) for answer in answers] == [False, True, False]


def test_what_wallets_ask_before_they_send_is_answered(lab):
    assert len(rpc(lab, "eth_feeHistory", "0x4", "latest", [])["result"]["baseFeePerGas"]) == 5
    assert rpc(lab, "eth_getLogs", {})["result"] == []


def test_each_of_many_operators_has_its_own_contract(make_lab):
    lab = make_lab(hosts=2)
    lab.pass_hours(2)
    first, second = (words(call(lab, "0x2ebd89d1", operator_address(f"streamr-{n}"))) for n in (1, 2))
    assert not set(first[4:10]) & set(second[4:10])
