import copy
import json
import os
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.controllers.base import Limits, ProcessUsage
from orcha_pipeline.errors import (
    AllocationError,
    ApiError,
    AuthenticationError,
    SettingsError,
    UnsupportedError,
)
from orcha_pipeline.model import BalanceKind, HealthState, LeverMode, Provenance, Window
from orcha_pipeline.protocols.streamr import StreamrAdapter
from orcha_pipeline.protocols.streamr_api import hex_id
from orcha_pipeline_tests.protocols.answers import OPERATOR, day, sponsorship, stake, streamr_routes
from orcha_pipeline_tests.protocols.fakes import (
    NOW,
    SECRET,
    FakeController,
    Script,
    failing_restart,
    no_waiting,
    settings,
)

READ_AT = datetime.fromtimestamp(1795171000 + 3600, UTC)
WINDOW = Window(READ_AT - timedelta(hours=1), READ_AT)
CONFIG = {
    "client": {"auth": {"privateKey": f"0x{SECRET}"}},
    "plugins": {"autostaker": {"maxSponsorshipCount": 12}, "info": {}},
}
GROWTH = Decimal("4.16666666666666664")  # 11574074074074074 wei/s x 60 000 / 600 000 x 3600 s


def adapter(routes=None, *, controller=None, now=READ_AT, options=None, **changes):
    script = Script(streamr_routes() if routes is None else routes)
    given_options = {"subgraph_url": "http://127.0.0.1:9999/graph", "operator": OPERATOR.upper().replace("X", "x")}
    made = StreamrAdapter(
        settings("streamr", options=given_options | (options or {}), **changes),
        controller=controller or FakeController(),
        clock=FixedClock(now),
        transport=script,
    )
    return made, script


def counter(routes=None, **changes):
    (found,) = adapter(routes, **changes)[0].earnings(WINDOW)
    return found


def test_the_total_is_what_was_withdrawn_and_what_has_accrued_since():
    found = counter()
    assert found.stream == "operator"
    assert found.unit == "DATA"
    assert found.provenance is Provenance.MEASURED
    accrued = Decimal("1.234") + GROWTH
    assert found.amounts.gross == pytest.approx(Decimal(4510) / Decimal("0.95") + accrued, abs=Decimal("1e-17"))
    assert found.amounts.net == pytest.approx(4510 + accrued * Decimal("0.95"), abs=Decimal("1e-17"))


def test_an_hour_earns_the_rate_to_the_wei():
    later = counter(now=READ_AT + timedelta(hours=1))
    assert later.amounts.gross - counter().amounts.gross == GROWTH


def test_others_get_their_part_of_the_profit():
    amounts = counter(options={"self_delegation_share": 0.25}).amounts
    accrued = Decimal("1.234") + GROWTH
    expected = 410 + 4100 * Decimal("0.25") + accrued * Decimal("0.95") * (Decimal("0.1") + Decimal("0.9") / 4)
    assert amounts.net == pytest.approx(expected, abs=Decimal("1e-17"))


@given(accrued=st.integers(0, 10**22), cut=st.integers(0, 100), share=st.integers(0, 100))
def test_a_withdrawal_moves_no_total(accrued, cut, share):
    """What the contract books when earnings are withdrawn: the fee, then the cut, then the delegators' profit."""
    accrued -= accrued % 10_000  # so that fee and cut are whole wei
    fraction = cut * 10**16
    before, after = streamr_routes(), streamr_routes()
    for routes, earnings in ((before, accrued), (after, 0)):
        found = routes["/graph"]["data"]["operator"]
        found["operatorsCutFraction"] = str(fraction)
        found["stakes"][0]["earningsWei"] = str(earnings)
    arrived = accrued * 95 // 100
    booked = after["/graph"]["data"]["operator"]
    booked["cumulativeOperatorsCutWei"] = str(int(booked["cumulativeOperatorsCutWei"]) + arrived * cut // 100)
    booked["cumulativeProfitsWei"] = str(int(booked["cumulativeProfitsWei"]) + arrived - arrived * cut // 100)
    options = {"self_delegation_share": share / 100}
    first, second = counter(before, options=options).amounts, counter(after, options=options).amounts
    assert abs(first.gross - second.gross) <= Decimal("1e-17")
    assert abs(first.net - second.net) <= Decimal("1e-17")


@pytest.mark.parametrize(
    ("change", "seconds"),
    [
        ({"isRunning": False}, 0),
        ({"projectedInsolvency": 1795171000 + 600}, 600),
        ({"projectedInsolvency": 1795171000 - 600}, 0),
        ({"projectedInsolvency": None}, 3600),
        ({"totalStakedWei": "0"}, 0),
    ],
)
def test_a_sponsorship_accrues_only_while_it_runs_and_can_pay(change, seconds):
    routes = streamr_routes()
    routes["/graph"]["data"]["operator"]["stakes"][0]["sponsorship"].update(change)
    idle = streamr_routes()
    idle["/graph"]["data"]["operator"]["stakes"][0]["sponsorship"]["isRunning"] = False
    grown = counter(routes).amounts.gross - counter(idle).amounts.gross
    assert grown == pytest.approx(GROWTH * seconds / 3600, abs=Decimal("1e-17"))


def test_graphql_errors_come_with_status_200_and_without_the_key():
    key = "0123456789abcdef0123456789abcdef"
    url = f"http://127.0.0.1:9999/api/{key}/subgraphs"
    routes = streamr_routes() | {f"/api/{key}/subgraphs": {"errors": [{"message": f"bad key {key}"}], "data": None}}
    with pytest.raises(ApiError, match="bad key") as error:
        adapter(routes, options={"subgraph_url": url})[0].earnings(WINDOW)
    assert key not in str(error.value)


def test_an_operator_unknown_to_the_subgraph_is_an_error_and_not_zero():
    with pytest.raises(ApiError, match=r"knows no operator 0xabab.*options\.operator"):
        adapter(streamr_routes() | {"/graph": {"data": {"operator": None}}})[0].earnings(WINDOW)


def test_the_subgraph_is_asked_for_the_lower_case_address():
    streamr, script = adapter()
    streamr.earnings(WINDOW)
    assert f'operator(id:"{OPERATOR}")' in json.loads(script.requests[0].content)["query"]


def test_history_is_a_bucket_per_full_day_inside_the_window():
    routes = streamr_routes()
    midnight = datetime(2026, 11, 18, tzinfo=UTC)
    dates = [int((midnight + timedelta(days=i)).timestamp()) for i in (2, 1, 0, -1)]
    routes["/graph"]["data"]["operatorDailyBuckets"] = [day(date) for date in dates]
    streamr, _ = adapter(routes, now=NOW)
    buckets = streamr.earnings_history(Window(midnight, NOW))
    assert [b.window.start for b in buckets] == [midnight + timedelta(days=1), midnight]
    assert {b.window.hours for b in buckets} == {24}
    assert buckets[0].amounts.net == 100
    assert buckets[0].amounts.gross == pytest.approx(Decimal(100) / Decimal("0.95"))


def health(routes=None, **changes):
    return adapter(routes, **changes)[0].health()


def test_health_tells_flags_and_slashings_as_scores():
    found = health()
    assert (found.state, found.reason) == (HealthState.HEALTHY, "")
    assert found.scores == {"slashings": 0.0, "open_flags": 0.0}


SLASHED = {"amount": "500000000000000000000"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"flagsTargeted": [{"id": "f"}]}, r"1 open flag"),
        ({"latestHeartbeatTimestamp": 1795174600 - 27 * 3600}, "no heartbeat on chain for 27 hours"),
        ({"latestHeartbeatTimestamp": None}, "no heartbeat has ever come"),
        ({"slashingEvents": [SLASHED | {"date": str(1795174600 - 29 * 86400)}]}, r"slashed 1 time.*by 500 DATA"),
        ({"valueWithoutEarnings": str(10**20)}, r"5\.40067 DATA are not withdrawn; beyond 5 anyone may"),
    ],
)
def test_an_endangered_stake_is_at_risk(change, told):
    routes = streamr_routes()
    routes["/graph"]["data"]["operator"].update(change)
    found = health(routes)
    assert found.state is HealthState.AT_RISK
    assert re.search(told, found.reason)


@pytest.mark.parametrize(
    "change",
    [
        {"latestHeartbeatTimestamp": 1795174600 - 25 * 3600},
        {"slashingEvents": [SLASHED | {"date": str(1795174600 - 31 * 86400)}], "slashingsCount": 1},
        {"valueWithoutEarnings": str(13 * 10**19)},
    ],
)
def test_what_lies_long_back_or_is_far_from_a_limit_is_no_risk(change):
    routes = streamr_routes()
    routes["/graph"]["data"]["operator"].update(change)
    assert health(routes).state is HealthState.HEALTHY


def test_a_node_without_connections_is_in_error():
    routes = streamr_routes()
    routes["/info"]["controlLayer"]["transport"]["connections"] = []
    found = health(routes)
    assert (found.state, found.error_kind) == (HealthState.ERROR, "api")
    assert "no connection" in found.reason


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda info: info["controlLayer"].update(neighborCount=0), "no neighbour in the network"),
        (lambda info: info["contentLayer"]["streamParts"][0]["info"].update(neighborCount=0), "such as 0x19e7/demo#0"),
    ],
)
def test_a_node_that_gets_no_data_is_at_risk(change, told):
    routes = streamr_routes()
    change(routes["/info"])
    found = health(routes)
    assert found.state is HealthState.AT_RISK
    assert told in found.reason


def test_what_the_authors_of_info_do_not_promise_may_be_missing():
    routes = streamr_routes()
    del routes["/info"]["controlLayer"]["neighborCount"]
    routes["/info"]["contentLayer"]["streamParts"][0]["info"] = None
    assert health(routes).state is HealthState.HEALTHY


def test_an_only_node_must_serve_every_staked_stream():
    routes = streamr_routes()
    stakes = routes["/graph"]["data"]["operator"]["stakes"]
    stakes.append(stake("0xefef", "0x19E7/second"))
    found = health(routes, options={"fleet_nodes": 1})
    assert found.state is HealthState.AT_RISK
    assert "1 staked stream(s) are not served, such as 0x19E7/second" in found.reason
    # Which node of a fleet serves which stream is not to be known from one of them.
    assert health(routes, options={"fleet_nodes": 2}).state is HealthState.HEALTHY
    assert health(routes).state is HealthState.HEALTHY
    stakes[1]["joinTimestamp"] = 1795174600 - 600
    assert health(routes, options={"fleet_nodes": 1}).state is HealthState.HEALTHY


def test_without_the_subgraph_nobody_knows_of_flags_but_the_node_is_not_unreachable():
    found = health(streamr_routes() | {"/graph": httpx.Response(500)})
    assert (found.state, found.error_kind) == (HealthState.ERROR, "api")
    assert "flags and slashing are unknown" in found.reason
    assert found.latency_seconds is not None


@pytest.mark.parametrize(
    ("minutes", "state", "told"),
    [
        (9, HealthState.HEALTHY, ""),
        (25, HealthState.HEALTHY, "the subgraph is 25 min behind the chain"),
        (90, HealthState.AT_RISK, "a flag or a slashing would not show"),
    ],
)
def test_a_stale_subgraph_is_told_and_one_that_hides_flags_is_a_risk(minutes, state, told):
    routes = streamr_routes()
    routes["/graph"]["data"]["_meta"]["block"]["timestamp"] -= minutes * 60
    found = health(routes)
    assert found.state is state
    assert told in found.reason
    assert bool(found.reason) is bool(told)


def test_earnings_by_a_stale_subgraph_are_our_estimate_and_still_accrue():
    routes = streamr_routes()
    routes["/graph"]["data"]["_meta"]["block"]["timestamp"] -= 25 * 60
    found = counter(routes)
    assert found.provenance is Provenance.OUR_ESTIMATE
    assert found.source == "streamr subgraph, 25 min behind the chain"
    assert found.amounts == counter().amounts


@pytest.mark.parametrize("meta", [None, {"block": {"number": 78123456}}, {"block": {"number": 1, "timestamp": None}}])
def test_a_subgraph_that_does_not_tell_how_far_it_is_is_believed(meta):
    routes = streamr_routes()
    routes["/graph"]["data"]["_meta"] = meta
    assert counter(routes).provenance is Provenance.MEASURED
    assert health(routes).state is HealthState.HEALTHY


def test_an_indexer_without_block_times_is_asked_again_without():
    def graph(request):
        query = json.loads(request.content)["query"]
        if "timestamp }" in query:
            return {"errors": [{"message": "Type `_Block_` has no field `timestamp`"}]}
        return streamr_routes()["/graph"]

    routes = streamr_routes() | {"/graph": graph}
    assert counter(routes).amounts == counter().amounts
    assert health(routes).state is HealthState.HEALTHY


def test_the_key_is_a_bearer_and_goes_only_to_the_node():
    streamr, script = adapter(token=SECRET)
    streamr.health()
    sent = {r.url.path: r.headers.get("authorization") for r in script.requests}
    assert sent == {"/info": f"bearer {SECRET}", "/graph": None}
    with pytest.raises(AuthenticationError):
        adapter({"/info": httpx.Response(401, text="Unauthorized")})[0].health()


@pytest.mark.parametrize(("status", "text"), [(401, "Unauthorized"), (403, "Forbidden")])
def test_a_refused_key_is_told_in_the_nodes_words(status, text):
    routes = streamr_routes() | {"/info": httpx.Response(status, text=text)}
    with pytest.raises(AuthenticationError, match=rf"HTTP {status}: {text}; set a valid key"):
        adapter(routes)[0].health()


def test_a_missing_info_plugin_is_told_with_the_remedy():
    page = httpx.Response(404, headers={"content-type": "text/html"}, text="<pre>Cannot GET /info</pre>")
    with pytest.raises(ApiError, match=r'an HTML page.*"info": \{\} among the plugins'):
        adapter(streamr_routes() | {"/info": page})[0].health()


def usage(routes=None, **changes):
    return {u.metric: u for u in adapter(routes, **changes)[0].resource_usage()}


def test_usage_stands_without_the_subgraph():
    found = usage()
    assert found["connections"].value == 2
    assert found["open_connections_sent_bytes"].value == 36970 + 44508
    assert found["sponsorships_staked"].value == 1
    broken = usage(streamr_routes() | {"/graph": httpx.Response(500)})
    assert broken["connections"].value == 2
    assert broken["sponsorships_staked"].value is None
    assert broken["sponsorships_staked"].provenance is Provenance.UNKNOWN


def test_rates_are_means_since_each_connection_was_opened():
    routes = streamr_routes()
    routes["/info"]["controlLayer"]["transport"]["connections"][0]["openedAt"] += 1800 * 1000
    found = usage(routes)["network_sent_bytes_per_second"]
    assert found.value == pytest.approx(36970 / 1800 + 44508 / 3600)
    assert found.provenance is Provenance.OUR_ESTIMATE


@pytest.mark.parametrize("opened", [None, "soon", 1795174600000 + 5000])
def test_a_connection_of_unknown_age_leaves_the_rate_unknown(opened):
    routes = streamr_routes()
    routes["/info"]["controlLayer"]["transport"]["connections"][0]["openedAt"] = opened
    found = usage(routes)
    assert found["network_sent_bytes_per_second"].value is None
    assert found["network_received_bytes_per_second"].provenance is Provenance.UNKNOWN
    assert found["open_connections_sent_bytes"].value == 36970 + 44508


def test_a_connection_that_closed_lowers_the_sums_and_no_total_is_claimed():
    routes = streamr_routes()
    before = usage(routes)
    routes["/info"]["controlLayer"]["transport"]["connections"].pop()
    after = usage(routes)
    assert after["open_connections_sent_bytes"].value < before["open_connections_sent_bytes"].value
    assert not [metric for metric in after if metric.endswith("_total")]


def test_the_same_node_in_either_encoding_is_one_peer():
    routes = streamr_routes()
    assert usage(routes)["peers"].value == 2
    first, second = routes["/info"]["controlLayer"]["transport"]["connections"]
    first["remotePeerDescriptor"]["nodeId"] = {"type": "Buffer", "data": [187] * 20}
    assert usage(routes)["peers"].value == 1
    second["remotePeerDescriptor"]["nodeId"] = {"0": 187, "19": 178}
    assert usage(routes)["peers"].value is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"type": "Buffer", "data": [1, 171]}, "01ab"),
        ({"1": 171, "0": 1}, "01ab"),
        ("01AB", "01ab"),
        ({"type": "Buffer"}, None),
        ({"type": "Buffer", "data": [256]}, None),
        ({"0": 1, "2": 1}, None),
        ({"0": True}, None),
        ({}, None),
        ("xyz", None),
        (7, None),
    ],
)
def test_ids_are_hexadecimal_in_every_encoding(value, expected):
    assert hex_id(value) == expected


def test_what_the_host_counts_is_told_beside():
    class Counting(FakeController):
        def usage(self):
            return ProcessUsage(sent_bytes_total=5.0, source="Docker")

    found = usage(controller=Counting())["network_sent_bytes_total"]
    assert (found.value, found.source) == (5.0, "Docker")


def test_balances_keep_what_accrues_apart_from_what_was_withdrawn():
    accrued, settled = sorted(adapter()[0].balances(), key=lambda b: b.kind)
    assert (accrued.kind, settled.kind) == (BalanceKind.ACCRUED, BalanceKind.SETTLED)
    assert settled.amount == 4510
    assert accrued.amount == pytest.approx((Decimal("1.234") + GROWTH) * Decimal("0.95"), abs=Decimal("1e-17"))


def config(tmp_path, content=None):
    file = tmp_path / "default.json"
    file.write_text(json.dumps(CONFIG) if content is None else content)
    file.chmod(0o600)
    return {"config_file": str(file)}


def test_the_allocation_is_the_configured_count_of_a_node_that_answers(tmp_path):
    allocation = adapter(options=config(tmp_path))[0].allocation()
    assert (allocation.value, allocation.share, allocation.provenance) == (12, 0.6, Provenance.MEASURED)
    assert adapter()[0].allocation().provenance is Provenance.UNKNOWN
    with pytest.raises(ApiError):
        adapter({}, options=config(tmp_path))[0].allocation()


@pytest.mark.parametrize(
    ("plugins", "told"),
    [({"info": {}}, "autostaker is off"), ({"autostaker": {}}, "sets no maxSponsorshipCount")],
)
def test_a_count_that_no_autostaker_obeys_is_unknown_and_no_error(tmp_path, plugins, told):
    allocation = adapter(options=config(tmp_path, json.dumps({"plugins": plugins})))[0].allocation()
    assert (allocation.value, allocation.share, allocation.provenance) == (None, None, Provenance.UNKNOWN)
    assert told in allocation.source


def test_every_lever_is_read_back(tmp_path):
    controller = FakeController()
    controller.in_force = Limits(cpu_threads=2.0)
    readings = adapter(controller=controller, options=config(tmp_path))[0].allocations()
    found = {r.lever: (r.value, r.share) for r in readings}
    assert found == {
        "max_sponsorship_count": (12, 0.6),
        "autostaker": (1, None),
        "cpu_threads": (2.0, None),
        "memory_gib": (16.0, None),
        "bandwidth_mbps": (100.0, None),
    }
    assert readings[0].lever == "max_sponsorship_count"


def test_limits_that_cannot_be_read_leave_the_other_levers_readable(tmp_path):
    class Blind(FakeController):
        def limits(self):
            raise UnsupportedError("streamr-1", "no controller is configured")

    found = {r.lever: r for r in adapter(controller=Blind(), options=config(tmp_path))[0].allocations()}
    assert found["max_sponsorship_count"].value == 12
    assert found["cpu_threads"].value is None
    assert found["cpu_threads"].source == "no controller is configured"


def levers(**changes):
    return {lever.name: lever for lever in adapter(**changes)[0].levers()}


def test_the_first_lever_counts_whole_sponsorships_and_carries_the_share(tmp_path):
    found = levers(options=config(tmp_path))
    assert next(iter(found)) == "max_sponsorship_count"
    lever = found["max_sponsorship_count"]
    assert (lever.minimum, lever.maximum, lever.step, lever.at_full_share) == (2, 18, 1, 20)
    assert lever.mode is LeverMode.RESTART
    assert lever.writable
    assert (lever.cooldown, lever.restarts_per_month) == (timedelta(hours=1), 30)
    assert (found["autostaker"].minimum, found["autostaker"].maximum) == (0, 1)
    assert found["cpu_threads"].mode is LeverMode.OS_LIMIT
    assert any("slashed" in risk for risk in found["cpu_threads"].risks)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "no node's config"),
        ("{}", "no node's config"),
        ('{"plugins":{}}', "maxSponsorshipCount"),
        ('{"plugins":{"autostaker":{}}}', "maxSponsorshipCount"),
        ('{"plugins":{"autostaker":{"maxSponsorshipCount":true}}}', "maxSponsorshipCount"),
    ],
)
def test_a_config_without_an_autostaker_makes_the_lever_say_why(tmp_path, content, told):
    lever = levers(options=config(tmp_path, content))["max_sponsorship_count"]
    assert not lever.writable
    assert told in lever.why_not


def test_without_a_config_file_the_limits_of_the_host_can_still_be_set():
    found = levers()
    assert "options.config_file is not set" in found["max_sponsorship_count"].why_not
    assert "options.config_file is not set" in found["autostaker"].why_not
    assert found["bandwidth_mbps"].writable


def test_the_config_of_another_operator_is_not_touched(tmp_path):
    other = {"plugins": {"operator": {"operatorContractAddress": "0x" + "Cd" * 20}, **CONFIG["plugins"]}}
    file = config(tmp_path, json.dumps(other))
    lever = levers(options=file)["max_sponsorship_count"]
    assert "works for operator 0xcdcd" in lever.why_not
    with pytest.raises(UnsupportedError, match="works for operator"):
        adapter(options=file)[0].apply("max_sponsorship_count", 7)
    assert (tmp_path / "default.json").read_text() == json.dumps(other)


def restarted(routes):
    """What `/info` tells after a restart: other connections, by the time they were opened."""
    up = copy.deepcopy(routes["/info"])
    for connection in up["controlLayer"]["transport"]["connections"]:
        connection["openedAt"] += 3600 * 1000
    return up


def restarting(routes):
    return FakeController(lambda: routes.update({"/info": restarted(routes)}))


def test_applying_changes_the_count_alone_and_restarts(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    options = config(tmp_path)
    answers = iter([httpx.Response(503), httpx.Response(503), httpx.Response(503)])
    routes = streamr_routes()
    up = restarted(routes)
    controller = FakeController(lambda: routes.update({"/info": lambda _request: next(answers, up)}))
    change = adapter(routes, controller=controller, options=options)[0].apply("max_sponsorship_count", 7)
    assert (change.previous, change.requested, change.read_back) == (12, 7, 7)
    assert controller.restarts == [15]
    content = json.loads((tmp_path / "default.json").read_text())
    assert content == CONFIG | {"plugins": {"autostaker": {"maxSponsorshipCount": 7}, "info": {}}}
    assert (tmp_path / "default.json").stat().st_mode & 0o777 == 0o600


def test_a_restart_that_fails_leaves_the_config_as_it_was(tmp_path):
    streamr, _ = adapter(controller=FakeController(failing_restart), options=config(tmp_path))
    with pytest.raises(AllocationError) as error:
        streamr.apply("max_sponsorship_count", 7)
    assert (tmp_path / "default.json").read_text() == json.dumps(CONFIG)
    assert SECRET not in str(error.value)


def test_a_restart_of_some_other_process_is_seen_and_the_config_put_back(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    controller = FakeController()
    url = f"http://127.0.0.1:9999/?key={SECRET}"
    with pytest.raises(AllocationError, match="still has the connections from before") as error:
        adapter(controller=controller, options=config(tmp_path), url=url)[0].apply("max_sponsorship_count", 7)
    assert SECRET not in str(error.value)
    assert controller.restarts == [15]
    assert (tmp_path / "default.json").read_text() == json.dumps(CONFIG)


def test_a_node_that_was_down_before_can_be_restarted(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    routes = streamr_routes()
    up, routes["/info"] = routes["/info"], httpx.Response(502)
    controller = FakeController(lambda: routes.update({"/info": up}))
    change = adapter(routes, controller=controller, options=config(tmp_path))[0].apply("max_sponsorship_count", 7)
    assert change.read_back == 7


def test_a_node_that_stays_down_after_the_restart_is_an_error(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    routes = streamr_routes()

    def refuse(request):
        raise httpx.ConnectError("refused", request=request)

    controller = FakeController(lambda: routes.update({"/info": refuse}))
    with pytest.raises(AllocationError, match="does not answer 15 s after the restart"):
        adapter(routes, controller=controller, options=config(tmp_path))[0].apply("max_sponsorship_count", 7)


STAKER = {"operatorContractAddress": OPERATOR, "maxSponsorshipCount": 12, "runIntervalInMs": 3600000}


def test_the_autostaker_is_switched_off_by_taking_it_out_and_on_again_with_its_settings(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    before = {"httpServer": {"port": 7171}, "plugins": {"autostaker": STAKER, "info": {}}}
    options = config(tmp_path, json.dumps(before))
    routes = streamr_routes()
    off = adapter(routes, controller=restarting(routes), options=options)[0].apply("autostaker", 0)
    assert (off.previous, off.read_back) == (1, 0)
    content = json.loads((tmp_path / "default.json").read_text())
    # Nothing of Orcha's: the node's schema is strict.
    assert content == {"httpServer": {"port": 7171}, "plugins": {"info": {}}}
    aside = tmp_path / "orcha-autostaker.json"
    assert json.loads(aside.read_text()) == STAKER
    assert aside.stat().st_mode & 0o777 == 0o600

    found = levers(options=options)
    assert "the autostaker is off" in found["max_sponsorship_count"].why_not
    assert found["autostaker"].writable
    on = adapter(routes, controller=restarting(routes), options=options)[0].apply("autostaker", 1)
    assert (on.previous, on.read_back) == (0, 1)
    assert json.loads((tmp_path / "default.json").read_text()) == before
    assert not aside.exists()


def test_an_autostaker_without_settings_is_not_made_up(tmp_path):
    options = config(tmp_path, json.dumps({"plugins": {"info": {}}}))
    lever = levers(options=options)["autostaker"]
    assert "no settings of it are kept in orcha-autostaker.json" in lever.why_not
    (tmp_path / "orcha-autostaker.json").write_text("[1")
    assert not levers(options=options)["autostaker"].writable


def test_a_restart_that_fails_leaves_the_autostaker_and_no_trace(tmp_path):
    options = config(tmp_path)
    with pytest.raises(AllocationError):
        adapter(controller=FakeController(failing_restart), options=options)[0].apply("autostaker", 0)
    assert (tmp_path / "default.json").read_text() == json.dumps(CONFIG)
    assert not (tmp_path / "orcha-autostaker.json").exists()


@pytest.mark.parametrize("value", [2, 0.5, -1])
def test_the_autostaker_is_on_or_off(tmp_path, value):
    with pytest.raises(AllocationError):
        adapter(options=config(tmp_path))[0].apply("autostaker", value)
    assert (tmp_path / "default.json").read_text() == json.dumps(CONFIG)


def test_a_limit_of_the_host_is_set_without_a_restart():
    controller = FakeController()
    change = adapter(controller=controller)[0].apply("bandwidth_mbps", 40.0)
    assert (change.previous, change.read_back) == (100.0, 40.0)
    assert controller.in_force.bandwidth_mbps == 40.0
    assert not controller.restarts


def test_an_unknown_lever_is_refused():
    with pytest.raises(UnsupportedError, match="no lever 'stake'"):
        adapter()[0].apply("stake", 1)


def advice(routes=None, **changes):
    return "\n".join(adapter(routes, **changes)[0].advice())


def test_advice_names_the_best_and_the_worst_stake_with_figures():
    routes = streamr_routes()
    stakes = routes["/graph"]["data"]["operator"]["stakes"]
    stakes.append(stake("0xefef", "0x19e7/second"))
    stakes[1]["sponsorship"]["totalPayoutWeiPerSec"] = "23148148148148148"
    routes["/graph"]["data"]["sponsorships"] = []
    # 1000 DATA/day x 0.9 x 600 000 / 600 000 ^ 2 for each 1000 DATA.
    assert "earn 3 DATA a day in 0xefef (stream 0x19e7/second) and 1.5 in 0xcdcd (stream 0x19e7/demo)" in advice(routes)


def test_advice_compares_with_sponsorships_one_is_not_in():
    routes = streamr_routes()
    rich = sponsorship("0xefef", "0x19e7/rich") | {"totalPayoutWeiPerSec": "46296296296296296"}
    full = sponsorship("0xf0f0", "0x19e7/full") | {"totalPayoutWeiPerSec": str(10**18), "maxOperators": 10}
    ending = sponsorship("0xe0e0", "0x19e7/end") | {
        "totalPayoutWeiPerSec": str(10**18),
        "projectedInsolvency": "1795174700",
    }
    own = sponsorship() | {"totalPayoutWeiPerSec": str(10**18)}
    routes["/graph"]["data"]["sponsorships"] = [full, ending, own, rich]
    # 4000 DATA/day over 605 000 DATA.
    assert "A new stake of 5000 DATA in 0xefef (stream 0x19e7/rich), which you are not in, would earn 6.61" in advice(
        routes
    )


def test_advice_names_stakes_that_earn_nothing():
    routes = streamr_routes()
    routes["/graph"]["data"]["operator"]["stakes"][0]["sponsorship"]["isRunning"] = False
    assert "The stake of 60000 DATA in 0xcdcd (stream 0x19e7/demo) earns nothing" in advice(routes)


@pytest.mark.parametrize(
    ("plugins", "told"),
    [({"autostaker": STAKER}, "undoes moves by hand: leave them to it"), (None, "Where the autostaker plugin runs")],
)
def test_advice_never_sets_the_hand_against_the_autostaker(tmp_path, plugins, told):
    routes = streamr_routes()
    routes["/graph"]["data"]["sponsorships"][0]["totalPayoutWeiPerSec"] = "46296296296296296"
    options = {} if plugins is None else config(tmp_path, json.dumps({"plugins": plugins}))
    assert told in advice(routes, options=options)


def test_a_market_that_cannot_be_listed_spoils_no_other_advice():
    def graph(request):
        if "sponsorships(" in json.loads(request.content)["query"]:
            return {"errors": [{"message": "query timed out"}]}
        return streamr_routes()["/graph"]

    told = advice(streamr_routes() | {"/graph": graph})
    assert "could not be compared: subgraph: query timed out" in told
    assert "Redundancy is 1" in told


def test_stakes_above_the_count_long_after_the_change_point_at_the_wrong_config(tmp_path):
    routes = streamr_routes()
    routes["/graph"]["data"]["operator"]["stakes"] = [stake(f"0x{i:04x}", f"s/{i}") for i in range(13)]
    options = config(tmp_path)
    os.utime(tmp_path / "default.json", (1795174600 - 7200,) * 2)
    assert "stakes stand" not in advice(routes, options=options)
    os.utime(tmp_path / "default.json", (1795174600 - 4 * 3600,) * 2)
    assert "13 stakes stand, though maxSponsorshipCount is 12 since" in advice(routes, options=options)


def test_an_open_http_api_and_a_missing_rpc_are_pointed_out(tmp_path):
    told = advice(options=config(tmp_path))
    assert "listens on every interface and asks for no key" in told
    assert "Set options.rpc_url" in told
    guarded = config(tmp_path, json.dumps(CONFIG | {"apiAuthentication": {"keys": ["k"]}}))
    assert "asks for no key" not in advice(options=guarded)


@pytest.mark.parametrize("metadata", ['{"redundancyFactor":2}', "{", '{"redundancyFactor":"x"}', "[]"])
def test_redundancy_is_advised_on_only_where_it_is_one(metadata):
    routes = streamr_routes()
    routes["/graph"]["data"]["operator"]["metadataJsonString"] = metadata
    assert "Redundancy is 1" not in advice(routes)
    routes["/graph"]["data"]["operator"]["metadataJsonString"] = ""
    assert "Redundancy is 1" in advice(routes)
    assert "Redundancy is 1" not in advice(routes, options={"fleet_nodes": 2})


@pytest.mark.parametrize(
    "options",
    [{"operator": "0x12"}, {"self_delegation_share": 1.5}, {"full_share_sponsorships": 0}, {"minimum_pol": -1}],
)
def test_options_are_checked(options):
    with pytest.raises(SettingsError, match="streamr-1"):
        adapter(options=options)


def test_many_stakes_add_up():
    routes = streamr_routes()
    routes["/graph"]["data"]["operator"]["stakes"] = [stake(), stake()]
    one, two = counter().amounts.gross, counter(routes).amounts.gross
    assert two - one == Decimal("1.234") + GROWTH
