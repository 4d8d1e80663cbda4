"""The operator's contract by JSON-RPC: decoding, gas, and the earnings that go on while the subgraph fails."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.earnings import earned
from orcha_pipeline.errors import AdapterError, ApiError, NodeConnectionError, ParseError
from orcha_pipeline.model import BalanceKind, HealthState, Provenance, Window
from orcha_pipeline.protocols import streamr_chain as chain
from orcha_pipeline.protocols.streamr import StreamrAdapter
from orcha_pipeline_tests.protocols.answers import OPERATOR, WALLET, streamr_routes
from orcha_pipeline_tests.protocols.fakes import FakeController, Script, settings

READ_AT = datetime.fromtimestamp(1795174600, UTC)
HOUR = timedelta(hours=1)
WINDOW = Window(READ_AT - HOUR, READ_AT)
WEI = 10**18
KEY = "0123456789abcdef0123456789abcdef"
RPC = f"/v2/{KEY}"
FIRST, SECOND = "0x" + "cd" * 20, "0x" + "ef" * 20


def word(value):
    return f"{value:064x}"


def unclaimed(earnings, limit=6250 * WEI):
    """`getSponsorshipsAndEarnings()` as Solidity writes it."""
    count = len(earnings)
    heads = word(96) + word(96 + 32 * (1 + count)) + word(limit)
    addresses = word(count) + "".join(word(int(address, 16)) for address in earnings)
    return "0x" + heads + addresses + word(count) + "".join(map(word, earnings.values()))


def text(content):
    data = content.encode()
    return "0x" + word(32) + word(len(data)) + data.hex() + "00" * (-len(data) % 32)


class Polygon:
    """A JSON-RPC server with one operator's contract."""

    def __init__(self):
        self.batches = True
        self.requests = []
        self.results = {
            "eth_chainId": "0x89",
            "eth_blockNumber": hex(78123456),
            "eth_getBalance": hex(2 * WEI),
            chain.GET_SPONSORSHIPS_AND_EARNINGS: unclaimed({FIRST: 5 * WEI, SECOND: 0}),
            chain.VALUE_WITHOUT_EARNINGS: "0x" + word(125_000 * WEI),
            chain.OPERATORS_CUT_FRACTION: "0x" + word(WEI // 10),
            chain.GET_NODE_ADDRESSES: "0x" + word(32) + word(1) + word(int(WALLET, 16)),
            chain.METADATA: text('{"redundancyFactor":2}'),
        }

    def one(self, call):
        name = call["method"] if call["method"] != "eth_call" else call["params"][0]["data"]
        if call["method"] == "eth_call":
            assert call["params"][0]["to"] == OPERATOR
        found = self.results[name]
        outcome = {"error": found} if isinstance(found, dict) else {"result": found}
        return {"jsonrpc": "2.0", "id": call["id"]} | outcome

    def __call__(self, request):
        body = json.loads(request.content)
        self.requests.append(body)
        if not isinstance(body, list):
            return self.one(body)
        if not self.batches:
            return {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "batches are not served"}}
        return [self.one(call) for call in reversed(body)]  # a batch is answered in any order


def adapter(routes=None, polygon=None, *, now=READ_AT, **options):
    given_options = {"subgraph_url": "http://127.0.0.1:9999/graph", "operator": OPERATOR}
    given_options |= {"rpc_url": f"http://127.0.0.1:9999{RPC}"} | options
    script = Script((routes if routes is not None else streamr_routes()) | {RPC: polygon or Polygon()})
    return StreamrAdapter(
        settings("streamr", options=given_options),
        controller=FakeController(),
        clock=FixedClock(now),
        transport=script,
    )


def down(request):
    raise httpx.ConnectError("refused", request=request)


BROKEN = [
    {"errors": [{"message": "indexing error"}]},
    httpx.Response(502),
    down,
    httpx.Response(200, headers={"content-type": "text/html"}, text="<html>"),
    {"data": {"operator": {}}},
]


# ---------------------------------------------------------------- decoding


def test_selectors_answers_and_amounts_are_those_of_the_contract():
    found = chain.decode("n", chain.GET_SPONSORSHIPS_AND_EARNINGS, unclaimed({FIRST: 7, SECOND: 9}, 11))
    assert (found.by_sponsorship, found.limit_wei, found.total_wei) == ({FIRST: 7, SECOND: 9}, 11, 16)
    assert chain.decode("n", chain.GET_SPONSORSHIPS_AND_EARNINGS, unclaimed({}, 11)).total_wei == 0
    assert chain.decode("n", chain.METADATA, text("")) == ""
    assert chain.decode("n", chain.METADATA, text('{"redundancyFactor":2}é')) == '{"redundancyFactor":2}é'
    assert chain.decode("n", chain.VALUE_WITHOUT_EARNINGS, "0x" + word(WEI)) == WEI


GOOD = unclaimed({FIRST: 7, SECOND: 9})


@pytest.mark.parametrize(
    "result",
    [
        None,
        7,
        "0x",
        "0x0",
        "2ebd",
        "0x" + "zz" * 32,
        GOOD[:-2],
        GOOD[: 2 + 64],
        "0x" + word(2**255) + GOOD[66:],
        "0x" + word(96) + word(2**256 - 32) + GOOD[130:],
        "0x" + word(96) * 2 + word(1) + word(2**64) + word(1),
        "0x" + word(96) * 2 + word(2**200) + word(0),
        unclaimed({FIRST: 2**255}),
        "0x" + word(96) + word(160) + word(1) + word(1) + word(2**160) + word(1) + word(1),
        "0x" + word(96) + word(160) + word(1) + word(1) + word(5) + word(0),
        "0x" + word(96) + word(192) + word(1) + word(2) + word(5) * 2 + word(2) + word(1) * 2,
    ],
)
def test_bytes_that_are_something_else_are_an_error_and_never_a_number(result):
    with pytest.raises(ParseError, match=r"rpc: eth_call 0x2ebd89d1: "):
        chain.decode("n", chain.GET_SPONSORSHIPS_AND_EARNINGS, result)


@given(st.data())
@example(None)
def test_any_bytes_are_decoded_or_refused(data):
    """Whatever a server makes up, reading ends at once, in a value of the right type or a `ParseError`."""
    for selector, kind in ((chain.GET_SPONSORSHIPS_AND_EARNINGS, chain.Unclaimed), (chain.METADATA, str)):
        if data is None:
            result = "0x" + "ff" * 320
        else:
            words = st.one_of(st.integers(0, 400), st.integers(0, 2**256 - 1))
            result = "0x" + "".join(map(word, data.draw(st.lists(words, max_size=12))))
        try:
            assert isinstance(chain.decode("n", selector, result), kind)
        except ParseError:
            continue


# ---------------------------------------------------------------- JSON-RPC


def client(polygon):
    url = f"http://127.0.0.1:9999{RPC}"
    return chain.PolygonChain("streamr-1", url, timeout_seconds=5, transport=Script({RPC: polygon}))


def test_everything_is_asked_in_one_batch_and_told_apart_by_its_number():
    polygon = Polygon()
    standing = client(polygon).standing(OPERATOR, [WALLET, OPERATOR])
    assert len(polygon.requests) == 1
    assert standing.number == 78123456
    assert standing.value_wei == 125_000 * WEI
    assert standing.gas_wei == {WALLET: 2 * WEI, OPERATOR: 2 * WEI}
    assert client(polygon).metadata(OPERATOR) == '{"redundancyFactor":2}'


def test_without_wallets_those_of_the_contract_are_asked():
    assert client(Polygon()).standing(OPERATOR, None).gas_wei == {WALLET: 2 * WEI}


@pytest.mark.parametrize("refusal", [None, httpx.Response(400, text="no batches")])
def test_a_server_without_batches_is_asked_one_by_one(refusal):
    polygon = Polygon()
    polygon.batches = False

    def answer(request):
        return refusal if refusal and request.content.startswith(b"[") else polygon(request)

    assert client(answer).block_number() == 78123456


def test_another_chain_is_told_and_not_read():
    polygon = Polygon()
    polygon.results["eth_chainId"] = "0x1"
    with pytest.raises(ApiError, match=r"rpc_url serves chain 1; Streamr's contracts are on Polygon \(137\)"):
        client(polygon).earnings(OPERATOR)


def test_an_error_of_the_chain_is_told_without_the_key():
    polygon = Polygon()
    polygon.results["eth_blockNumber"] = {"code": -32005, "message": f"key {KEY} is over its limit"}
    with pytest.raises(ApiError, match=r"eth_blockNumber: key \*\*\* is over its limit \(code -32005\)") as error:
        client(polygon).block_number()
    assert KEY not in str(error.value)


def test_an_address_without_a_contract_is_an_error_and_not_zero():
    polygon = Polygon()
    polygon.results[chain.GET_SPONSORSHIPS_AND_EARNINGS] = "0x"
    with pytest.raises(ParseError, match="no such contract"):
        client(polygon).earnings(OPERATOR)


STRANGE = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just([]), st.just({}))


@given(st.data())
def test_a_changed_answer_gives_a_reading_or_a_typed_error(data):
    polygon = Polygon()
    name = data.draw(st.sampled_from(sorted(polygon.results)))
    polygon.results[name] = data.draw(STRANGE)
    whole = data.draw(st.one_of(st.none(), STRANGE, st.lists(STRANGE, max_size=3)))
    streamr = adapter(streamr_routes() | {"/graph": BROKEN[0]}, polygon if whole is None else lambda _request: whole)
    told = [streamr.health().reason]
    for read in (lambda: streamr.earnings(WINDOW), streamr.balances):
        try:
            assert all(r.provenance is Provenance.MEASURED for r in read())
        except AdapterError as error:
            told.append(str(error))
    assert KEY not in "".join(told)


# ---------------------------------------------------------------- health


def test_the_wallets_gas_is_a_score():
    found = adapter().health()
    assert (found.state, found.reason) == (HealthState.HEALTHY, "")
    assert found.scores["pol"] == 2.0


@pytest.mark.parametrize(
    ("pol", "options", "state"),
    [
        (WEI // 2, {}, HealthState.HEALTHY),
        (WEI // 2 - 1, {}, HealthState.AT_RISK),
        (WEI, {"minimum_pol": "1.5"}, HealthState.AT_RISK),
        (0, {"gas_wallets": [WALLET]}, HealthState.AT_RISK),
    ],
)
def test_a_wallet_low_on_gas_is_at_risk(pol, options, state):
    polygon = Polygon()
    polygon.results["eth_getBalance"] = hex(pol)
    found = adapter(polygon=polygon, **options).health()
    assert found.state is state
    assert (f"wallet {WALLET} has {Decimal(pol) / WEI:.4f} POL" in found.reason) is (state is HealthState.AT_RISK)


def test_an_operator_without_a_paired_node_is_at_risk():
    routes, polygon = streamr_routes(), Polygon()
    routes["/graph"]["data"]["operator"]["nodes"] = []
    polygon.results[chain.GET_NODE_ADDRESSES] = "0x" + word(32) + word(0)
    found = adapter(routes, polygon).health()
    assert found.state is HealthState.AT_RISK
    assert "names no node wallet" in found.reason


def test_gas_that_cannot_be_read_is_unknown_and_said_so():
    found = adapter(polygon=httpx.Response(500)).health()
    assert found.state is HealthState.HEALTHY
    assert "gas is unknown" in found.reason
    assert KEY not in found.reason
    assert "pol" not in found.scores


def test_what_the_contract_itself_says_of_the_limit_goes_first():
    polygon = Polygon()
    polygon.results[chain.GET_SPONSORSHIPS_AND_EARNINGS] = unclaimed({FIRST: 5 * WEI}, 5 * WEI)
    found = adapter(polygon=polygon).health()
    assert found.state is HealthState.AT_RISK
    assert "5 DATA are not withdrawn; beyond 5 anyone" in found.reason


def test_a_subgraph_that_is_behind_by_blocks_is_stale_whatever_the_clocks_say():
    polygon = Polygon()
    polygon.results["eth_blockNumber"] = hex(78123456 + 3000)
    found = adapter(polygon=polygon).health()
    assert found.state is HealthState.AT_RISK
    assert "the subgraph is 100 min behind the chain" in found.reason
    assert found.scores["subgraph_behind_seconds"] == 6000


def test_without_times_of_blocks_the_chain_tells_that_earnings_are_stale():
    routes, polygon = streamr_routes(), Polygon()
    del routes["/graph"]["data"]["_meta"]["block"]["timestamp"]
    polygon.results["eth_blockNumber"] = hex(78123456 + 3000)
    (found,) = adapter(routes, polygon).earnings(WINDOW)
    assert found.provenance is Provenance.OUR_ESTIMATE
    polygon.results["eth_blockNumber"] = {"code": 1, "message": "no"}
    (found,) = adapter(routes, polygon).earnings(WINDOW)
    assert found.provenance is Provenance.MEASURED


def test_without_the_subgraph_gas_and_limit_are_still_watched():
    polygon = Polygon()
    polygon.results["eth_getBalance"] = "0x0"
    found = adapter(streamr_routes() | {"/graph": down}, polygon).health()
    assert (found.state, found.error_kind) == (HealthState.ERROR, "connection")
    assert "0.0000 POL" in found.reason
    assert "flags and slashing are unknown" in found.reason


# ---------------------------------------------------------------- earnings while the subgraph fails


@pytest.mark.parametrize("graph", BROKEN)
def test_the_chain_stands_in_for_a_subgraph_that_fails(graph):
    (found,) = adapter(streamr_routes() | {"/graph": graph}, self_delegation_share="0.5").earnings(WINDOW)
    assert found.stream == "operator (stand-in)"
    assert found.provenance is Provenance.MEASURED
    assert found.amounts.gross == 5
    assert found.amounts.net == 5 * Decimal("0.95") * (Decimal("0.1") + Decimal("0.9") / 2)


def test_where_both_fail_both_are_told_as_the_first_one_is():
    with pytest.raises(NodeConnectionError, match=r"refused.*; and .*HTTP 500") as error:
        adapter(streamr_routes() | {"/graph": down}, httpx.Response(500)).earnings(WINDOW)
    assert KEY not in str(error.value)


def test_balances_go_on_with_what_the_contract_holds():
    (accrued,) = adapter(streamr_routes() | {"/graph": down}).balances()
    assert (accrued.kind, accrued.amount) == (BalanceKind.ACCRUED, 5 * Decimal("0.95"))


class Operator:
    """One that earns DATA at a rate that changes by the hour, seen by subgraph and chain alike, and withdraws."""

    def __init__(self):
        self.at = READ_AT
        self.start = READ_AT
        self.withdrawn = Decimal(0)

    def earned(self, moment):
        hours = (moment - self.start) / HOUR
        whole = int(hours)
        return sum((Decimal(2 + hour % 3) for hour in range(whole)), Decimal(0)) + Decimal(2 + whole % 3) * Decimal(
            hours - whole
        )

    def withdraw(self, moment):
        self.withdrawn = self.earned(moment)

    def read(self, moment, *, subgraph):
        wei = int((self.earned(moment) - self.withdrawn) * WEI)
        routes, polygon = streamr_routes(), Polygon()
        operator = routes["/graph"]["data"]["operator"]
        operator["cumulativeOperatorsCutWei"] = str(int(self.withdrawn * Decimal("0.95") * WEI))
        operator["cumulativeProfitsWei"] = "0"
        operator["stakes"][0] |= {"earningsWei": str(wei), "updateTimestamp": int(moment.timestamp())}
        polygon.results[chain.GET_SPONSORSHIPS_AND_EARNINGS] = unclaimed({FIRST: wei})
        if not subgraph:
            routes["/graph"] = BROKEN[0]
        return adapter(routes, polygon, now=moment).earnings(WINDOW)


def played(outage, *, withdrawal=None, until=10, minutes=15):
    """Readings every quarter of an hour; inside `outage` (hours) the chain is read. Also the operator's truth."""
    operator, observations = Operator(), []
    for step in range(until * 60 // minutes + 1):
        moment = READ_AT + timedelta(minutes=step * minutes)
        hour = step * minutes / 60
        if withdrawal is not None and hour >= withdrawal and not operator.withdrawn:
            operator.withdraw(moment - timedelta(minutes=5))
        observations += operator.read(moment, subgraph=not outage[0] <= hour < outage[1])
    return operator, observations


def gross_by_hour(observations, until=10):
    start = READ_AT.replace(minute=0)
    window = Window(start, start + timedelta(hours=until + 1))
    rows = earned("streamr-1", observations, window, lambda _hour: Decimal(1))
    return {row.window: row for row in rows}


def covered(rows):
    """The full hours that readings lie on both sides of."""
    return [w for w in rows if w.start >= READ_AT and w.end <= READ_AT + timedelta(hours=10)]


def truth_of(operator, window):
    start, end = (max(moment, operator.start) for moment in (window.start, window.end))
    return operator.earned(end) - operator.earned(start)


def test_an_outage_of_the_subgraph_blanks_no_hour_and_counts_nothing_twice():
    operator, observations = played((3, 6))
    assert {o.stream for o in observations} == {"operator", "operator (stand-in)"}
    rows = gross_by_hour(observations)
    assert {window.hours for window in rows} == {1.0}
    inner = covered(rows)
    assert len(inner) == 9
    for window in inner:
        assert rows[window].amounts.gross == pytest.approx(truth_of(operator, window), abs=Decimal("0.3"))
    total = sum(rows[w].amounts.gross for w in inner)
    assert total == pytest.approx(operator.earned(inner[-1].end) - operator.earned(inner[0].start), abs=Decimal("0.1"))


def test_a_withdrawal_during_the_outage_makes_no_false_earnings_and_loses_none():
    operator, observations = played((3, 6), withdrawal=4.5)
    rows = gross_by_hour(observations)
    inner = covered(rows)
    total = sum(rows[w].amounts.gross for w in inner)
    assert total == pytest.approx(operator.earned(inner[-1].end) - operator.earned(inner[0].start), abs=Decimal("0.1"))
    assert all(0 < rows[w].amounts.gross < 5 for w in inner)


def test_during_the_outage_hours_are_known_as_soon_as_the_chain_covers_them():
    operator, observations = played((3, 99))
    rows = gross_by_hour(observations)
    known = {window.start.hour: row.amounts.gross for window, row in rows.items() if row.amounts.gross is not None}
    # The hour in which the source was switched stays unknown until the subgraph is back: nobody saw all of it.
    begun = READ_AT.replace(minute=0, second=0)
    switched = (begun + timedelta(hours=3)).hour
    assert switched not in known
    assert sorted(known) == sorted((begun + timedelta(hours=h)).hour for h in (1, 2, 4, 5, 6, 7, 8, 9))
    for window, row in rows.items():
        if row.amounts.gross is not None:
            assert row.amounts.gross == pytest.approx(truth_of(operator, window), abs=Decimal("0.3"))


def test_a_withdrawal_seen_by_the_chain_alone_leaves_its_hour_unknown():
    _, observations = played((3, 99), withdrawal=5.5)
    rows = gross_by_hour(observations)
    assert all(row.amounts.gross is None or 0 < row.amounts.gross < 5 for row in rows.values())


def test_a_node_that_only_ever_had_the_chain_earns_by_it():
    operator, observations = played((0, 99))
    rows = gross_by_hour(observations)
    inner = covered(rows)
    assert all(rows[w].amounts.gross == pytest.approx(truth_of(operator, w), abs=Decimal("0.3")) for w in inner)
