import json

import pytest

from orcha_pipeline.testnet.streamr import OPERATOR, QueryError, parse_query

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
        "{ _meta { block { hash } } }",
        "{ _meta }",
        "{ network { minimumStakeWei { x } } }",
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
