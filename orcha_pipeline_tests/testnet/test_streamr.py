import json

import pytest

from orcha_pipeline.testnet.levers import operator_address
from orcha_pipeline.testnet.streamr import OPERATOR, QueryError, StreamrBooks, parse_query

DOCUMENTED = """
query Documented($id: ID!) {
  operator(id: $id) {
    id valueWithoutEarnings totalStakeInSponsorshipsWei dataTokenBalanceWei valueUpdateTimestamp exchangeRate
    cumulativeProfitsWei cumulativeOperatorsCutWei cumulativeEarningsWei operatorsCutFraction slashingsCount
    latestHeartbeatTimestamp latestHeartbeatMetadata metadataJsonString nodes controllers
    stakes(first: 1000) {
      id amountWei lockedWei minimumStakeWei earningsWei updateTimestamp joinTimestamp
      sponsorship {
        id isRunning totalPayoutWeiPerSec totalStakedWei operatorCount minOperators maxOperators remainingWei
        projectedInsolvency spotAPY minimumStakingPeriodSeconds stream { id }
      }
    }
    slashingEvents(first: 50, orderBy: date, orderDirection: desc) { amount date sponsorship { id } }
    flagsTargeted(where: { result_in: ["waiting", "voting"] }) { id }
    queueEntries { id amount date delegator { id } }
  }
  operatorDailyBuckets(where: { operator: $id }, orderBy: date, orderDirection: desc, first: 90) {
    date profitsWei lossesWei operatorsCutWei cumulativeEarningsWei valueWithoutEarnings totalStakeInSponsorshipsWei
  }
  network(id: "network-entity-id") { minimumStakeWei }
  _meta { block { number } }
}
"""


def graph(lab, query=DOCUMENTED, **variables):
    if query is DOCUMENTED:
        variables = {"id": OPERATOR}
    response = lab.http.post("/thegraph", json={"query": query, "variables": variables})
    assert response.status_code == 200
    return response.json()


def live_wei(operator, now):
    total = 0
    for stake in operator["stakes"]:
        sponsorship = stake["sponsorship"]
        rate = int(sponsorship["totalPayoutWeiPerSec"]) * int(stake["amountWei"]) // int(sponsorship["totalStakedWei"])
        total += int(stake["earningsWei"]) + (
            rate * (now - stake["updateTimestamp"]) if sponsorship["isRunning"] else 0
        )
    return total


def test_the_documented_query_is_answered_in_its_own_types(lab):
    lab.pass_hours(30)
    data = graph(lab)["data"]
    operator = data["operator"]
    for key in ("valueWithoutEarnings", "cumulativeEarningsWei", "valueUpdateTimestamp", "latestHeartbeatTimestamp"):
        assert isinstance(operator[key], str)
        int(operator[key])
    stake = operator["stakes"][0]
    assert isinstance(stake["updateTimestamp"], int)
    assert isinstance(stake["earningsWei"], str)
    assert isinstance(stake["sponsorship"]["isRunning"], bool)
    assert json.loads(operator["metadataJsonString"]) == {"redundancyFactor": 1}
    assert [bucket["date"] for bucket in data["operatorDailyBuckets"]] == ["1792540800", "1792454400"]
    assert data["network"]["minimumStakeWei"] == str(5000 * 10**18)


def test_accrual_is_exact_at_any_moment_between_updates(lab):
    for seconds in (1, 899, 1, 899, 4321):
        lab.pass_seconds(seconds)
        operator = graph(lab)["data"]["operator"]
        assert operator["cumulativeEarningsWei"] == "0"
        expected = lab.truth("streamr-1")["native_total"] * 1e18
        assert live_wei(operator, lab.economy.now) == pytest.approx(expected, rel=1e-9)


def test_a_withdrawal_empties_the_stakes_and_pays_the_fee(lab):
    lab.pass_hours(23)
    operator = graph(lab)["data"]["operator"]
    assert live_wei(operator, lab.economy.now) == 0
    earned = lab.truth("streamr-1")["native_total"] * 1e18
    realised = int(operator["cumulativeEarningsWei"])
    assert realised == int(operator["cumulativeProfitsWei"]) + int(operator["cumulativeOperatorsCutWei"])
    assert realised == pytest.approx(0.95 * earned, rel=1e-9)
    assert int(operator["cumulativeOperatorsCutWei"]) == pytest.approx(0.1 * realised, rel=1e-9)
    bucket = graph(lab)["data"]["operatorDailyBuckets"][0]
    assert (
        int(bucket["profitsWei"]) + int(bucket["operatorsCutWei"]) == realised == int(bucket["cumulativeEarningsWei"])
    )


def test_stakes_follow_the_sponsorship_count_at_the_restart(lab):
    path = lab.testnet.state / "streamr-1" / "default.json"
    config = json.loads(path.read_text())
    assert len(graph(lab)["data"]["operator"]["stakes"]) == config["plugins"]["autostaker"]["maxSponsorshipCount"] == 6
    config["plugins"]["autostaker"]["maxSponsorshipCount"] = 11
    path.write_text(json.dumps(config))
    lab.pass_hours(1)
    assert len(graph(lab)["data"]["operator"]["stakes"]) == 6
    lab.http.post("/docker/containers/streamr-1/restart")
    lab.pass_seconds(8)
    assert len(graph(lab)["data"]["operator"]["stakes"]) == 11
    assert len(lab.json("/nodes/streamr-1/info")["contentLayer"]["streamParts"]) == 11
    assert lab.truth("streamr-1")["share"] == 11 / 20


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config["plugins"].update(nope={}), "Unknown plugin: nope"),
        (lambda config: config.update(extra=1), "additional properties: extra"),
        (lambda config: config["plugins"]["autostaker"].update(maxSponsorshipCount="9"), "must be integer"),
    ],
)
def test_an_invalid_configuration_keeps_the_node_from_starting(lab, change, reason):
    path = lab.testnet.state / "streamr-1" / "default.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    lab.http.post("/docker/containers/streamr-1/restart")
    state = lab.json("/docker/containers/streamr-1/json")["State"]
    assert state["Running"] is False
    assert state["ExitCode"] == 1
    assert reason in state["Error"]
    assert lab.get("/nodes/streamr-1/info").status_code == 503


def test_node_ids_come_in_both_encodings_and_counters_belong_to_connections(lab):
    lab.pass_hours(3)
    connections = lab.json("/nodes/streamr-1/info")["controlLayer"]["transport"]["connections"]
    kinds = {"type" in each["remotePeerDescriptor"]["nodeId"] for each in connections}
    assert kinds == {True, False}
    lab.pass_hours(2)
    later = lab.json("/nodes/streamr-1/info")["controlLayer"]["transport"]["connections"]
    reopened = [(old, new) for old, new in zip(connections, later, strict=True) if new["openedAt"] != old["openedAt"]]
    assert reopened
    assert all(new["openedAt"] > old["openedAt"] for old, new in reopened)
    kept = [(old, new) for old, new in zip(connections, later, strict=True) if new["openedAt"] == old["openedAt"]]
    assert all(new["bytesSent"] > old["bytesSent"] for old, new in kept)


def test_an_unknown_address_of_the_node_is_expresss_404(lab):
    response = lab.get("/nodes/streamr-1/metrics")
    assert response.status_code == 404
    assert "Cannot GET /metrics" in response.text


def test_the_indexed_block_lags_and_grows(lab):
    first = graph(lab, "{_meta{block{number timestamp}}}")["data"]["_meta"]["block"]
    assert first["timestamp"] < lab.economy.now
    lab.pass_hours(1)
    assert graph(lab, "{_meta{block{number}}}")["data"]["_meta"]["block"]["number"] == first["number"] + 1800


def test_another_operator_is_null_and_variables_work(lab):
    query = "query Q($id: ID!, $n: Int = 2) { operator(id: $id) { id } }"
    assert graph(lab, query, id="0x" + "12" * 20) == {"data": {"operator": None}}
    assert graph(lab, query, id=OPERATOR) == {"data": {"operator": {"id": OPERATOR}}}


@pytest.mark.parametrize(
    "query",
    [
        '{ operator(id: "x") { id }',
        "{ operator { id } } }",
        "{ foo { id } }",
        "{ _meta { block { nothing } } }",
        "{ _meta }",
        "{ network { minimumStakeWei } }",
        '{ network(id: "network-entity-id") { minimumStakeWei { x } } }',
        "",
        "{ operatorDailyBuckets(first: 5000) { date } }",
        "{ operator(id: $id) { id } }",
    ],
)
def test_a_bad_query_is_an_error_with_status_200(lab, query):
    answer = graph(lab, query)
    assert "data" not in answer
    assert answer["errors"][0]["message"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"query": 7}', b'{"nothing": 1}', b'"text"'])
def test_a_bad_body_is_an_error_with_status_200(lab, body):
    response = lab.http.post("/thegraph", content=body)
    assert response.status_code == 200
    assert response.json()["errors"]


def test_buckets_page_by_first_and_order(lab):
    lab.pass_hours(24 * 5)
    query = "{ operatorDailyBuckets(first: 2, skip: 1, orderBy: date, orderDirection: asc) { date } }"
    dates = [int(bucket["date"]) for bucket in graph(lab, query)["data"]["operatorDailyBuckets"]]
    assert dates == [lab.economy.start + 86400, lab.economy.start + 2 * 86400]


def test_aliases_comments_and_nested_arguments_are_read():
    (field,) = parse_query('{ mine: operator(id: "a", where: {x_in: [1, "b"], y: true}) { id } # end\n }')
    assert (field.alias, field.name) == ("mine", "operator")
    assert field.arguments == {"id": "a", "where": {"x_in": [1, "b"], "y": True}}
    with pytest.raises(QueryError):
        parse_query("{ a; b }")


def test_flags_are_listed_with_their_results_and_filtered(lab):
    lab.testnet.first.streamr_books.circumstances.open_flags = 2
    every = "query($id: ID!) { operator(id: $id) { flagsTargeted { id result } } }"
    open_ones = (
        'query($id: ID!) { operator(id: $id) { flagsTargeted(where: {result_in: ["waiting", "voting"]}) { id } } }'
    )
    assert len(graph(lab, every, id=OPERATOR)["data"]["operator"]["flagsTargeted"]) == 3
    assert len(graph(lab, open_ones, id=OPERATOR)["data"]["operator"]["flagsTargeted"]) == 2
    of_target = 'query($id: ID!) { flags(where: {target: $id, result: "failed"}) { id target { id } } }'
    (flag,) = graph(lab, of_target, id=OPERATOR)["data"]["flags"]
    assert flag["target"]["id"] == OPERATOR


def test_slashings_are_counted_listed_and_cost_value(lab):
    query = (
        "query($id: ID!) { operator(id: $id) { slashingsCount valueWithoutEarnings slashingEvents { amount date } } }"
    )
    before = graph(lab, query, id=OPERATOR)["data"]["operator"]
    lab.testnet.first.streamr_books.slash(lab.economy.now, 600 * 10**18)
    after = graph(lab, query, id=OPERATOR)["data"]["operator"]
    assert (before["slashingsCount"], after["slashingsCount"]) == (0, 1)
    assert after["slashingEvents"] == [{"amount": str(600 * 10**18), "date": str(lab.economy.now)}]
    assert int(before["valueWithoutEarnings"]) - int(after["valueWithoutEarnings"]) == 600 * 10**18


def test_an_index_that_stands_still_tells_the_past_until_it_catches_up(lab):
    lab.pass_hours(22)
    books = lab.testnet.first.streamr_books
    query = "query($id: ID!) { operator(id: $id) { cumulativeEarningsWei } _meta { block { number } } }"
    before = graph(lab, query, id=OPERATOR)["data"]
    books.stop_indexing(lab.economy.now)
    lab.pass_hours(2)
    assert graph(lab, query, id=OPERATOR)["data"] == before
    books.resume_indexing()
    after = graph(lab, query, id=OPERATOR)["data"]
    assert after["_meta"]["block"]["number"] == before["_meta"]["block"]["number"] + 3600
    assert int(after["operator"]["cumulativeEarningsWei"]) > int(before["operator"]["cumulativeEarningsWei"])


def test_circumstances_outlast_a_restart_of_the_testnet(make_lab):
    lab = make_lab()
    lab.pass_hours(1)
    books = lab.testnet.first.streamr_books
    books.circumstances.open_flags, books.circumstances.pol_wei = 1, 7
    books.slash(lab.economy.now, 5)
    books.stop_indexing(lab.economy.now)
    dumped = books.dump()
    again = StreamrBooks()
    again.load(json.loads(json.dumps(dumped)))
    assert again.dump() == json.loads(json.dumps(dumped))


@pytest.mark.parametrize(
    ("header", "status", "text"),
    [
        ({}, 401, "Unauthorized"),
        ({"authorization": "bearer wrong"}, 403, "Forbidden"),
        ({"authorization": "Basic k"}, 401, "Unauthorized"),
        ({"authorization": "BEARER right"}, 200, None),
    ],
)
def test_a_node_with_keys_asks_for_one(lab, header, status, text):
    lab.testnet.first.streamr_books.circumstances.keys = ["right"]
    response = lab.get("/nodes/streamr-1/info", headers=header)
    assert response.status_code == status
    if text is not None:
        assert response.text == text
        assert response.headers["content-type"].startswith("text/plain")


def test_all_sponsorships_are_listed_best_first_those_staked_on_among_them(lab):
    lab.pass_hours(1)
    query = """{ sponsorships(where: {isRunning: true}, first: 5, orderBy: spotAPY, orderDirection: desc)
      { id spotAPY operatorCount maxOperators stream { id } } }"""
    listed = graph(lab, query)["data"]["sponsorships"]
    assert len(listed) == 5
    yields = [float(sponsorship["spotAPY"]) for sponsorship in listed]
    assert yields == sorted(yields, reverse=True)
    one = graph(lab, "query($id: ID!) { sponsorship(id: $id) { id stakes { operator { id } } } }", id=listed[0]["id"])
    assert one["data"]["sponsorship"]["id"] == listed[0]["id"]
    every = graph(lab, "{ sponsorships(first: 1000) { id } }")["data"]["sponsorships"]
    staked = graph(lab, "query($id: ID!) { operator(id: $id) { stakes { sponsorship { id } } } }", id=OPERATOR)["data"][
        "operator"
    ]
    assert {stake["sponsorship"]["id"] for stake in staked["stakes"]} < {each["id"] for each in every}


def test_lists_page_by_the_last_id_as_streamrs_client_does(lab):
    last, found = "", []
    while True:
        query = "query($id: ID!, $last: ID!) { operator(id: $id) { stakes(where: {id_gt: $last}, first: 4) { id } } }"
        rows = [stake["id"] for stake in graph(lab, query, id=OPERATOR, last=last)["data"]["operator"]["stakes"]]
        if not rows:
            break
        found, last = found + rows, rows[-1]
    assert found == sorted(found)
    assert len(found) == len(set(found)) == 6
    staked = '{ operators(where: {totalStakeInSponsorshipsWei_gt: "0", id_gt: ""}) { id } }'
    assert graph(lab, staked)["data"]["operators"] == [{"id": OPERATOR}]


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        ("date_gte: 1792454400", 2),
        ("date_gt: 1792454400", 1),
        ("date_lt: 1792540800", 1),
        ("date_lte: 1792540800", 2),
        ('date_in: ["1792454400"]', 1),
        ('date_not_in: ["1792454400", "1792540800"]', 0),
        ("date_not: 1792454400", 1),
        ('operator: "0x12"', 0),
    ],
)
def test_filters_compare_numbers_as_numbers_also_in_text(lab, condition, count):
    lab.pass_hours(30)
    query = "{ operatorDailyBuckets(where: {" + condition + "}) { date } }"
    assert len(graph(lab, query)["data"]["operatorDailyBuckets"]) == count


def test_each_of_many_operators_is_told_by_its_own_address(make_lab):
    lab = make_lab(hosts=3)
    lab.pass_hours(30)
    address = operator_address("streamr-2")
    found = graph(
        lab, "query($id: ID!) { operator(id: $id) { id nodes stakes { id sponsorship { id } } } }", id=address
    )
    operator = found["data"]["operator"]
    assert operator["id"] == address
    assert all(stake["id"].endswith(address) for stake in operator["stakes"])
    first = graph(lab, "query($id: ID!) { operator(id: $id) { nodes } }", id=OPERATOR)["data"]["operator"]
    assert first["nodes"] != operator["nodes"]
    days = graph(lab, "query($id: ID!) { operatorDailyBuckets(where: {operator: $id}) { id } }", id=address)
    assert all(bucket["id"].startswith(address) for bucket in days["data"]["operatorDailyBuckets"])
    assert len(graph(lab, "{ operators { id } }")["data"]["operators"]) == 3
