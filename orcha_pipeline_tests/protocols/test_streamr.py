import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AllocationError, ApiError, AuthenticationError, SettingsError
from orcha_pipeline.model import HealthState, LeverMode, Provenance, Window
from orcha_pipeline.protocols.streamr import StreamrAdapter
from orcha_pipeline_tests.protocols.answers import OPERATOR, day, stake, streamr_routes
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


def test_health_tells_flags_and_slashings_as_scores():
    health = adapter()[0].health()
    assert health.state is HealthState.HEALTHY
    assert health.scores == {"slashings": 0.0, "open_flags": 0.0}


@pytest.mark.parametrize(
    ("change", "told"),
    [({"flagsTargeted": [{"id": "f"}]}, "1 open flag"), ({"latestHeartbeatTimestamp": 1795000000}, "no heartbeat")],
)
def test_an_endangered_stake_is_at_risk(change, told):
    routes = streamr_routes()
    routes["/graph"]["data"]["operator"].update(change)
    health = adapter(routes)[0].health()
    assert health.state is HealthState.AT_RISK
    assert told in health.reason


def test_a_node_without_connections_is_in_error():
    routes = streamr_routes()
    routes["/info"]["controlLayer"]["transport"]["connections"] = []
    assert adapter(routes)[0].health().state is HealthState.ERROR


def test_the_key_is_a_bearer_and_goes_only_to_the_node():
    streamr, script = adapter(token=SECRET)
    streamr.health()
    sent = {r.url.path: r.headers.get("authorization") for r in script.requests}
    assert sent == {"/info": f"bearer {SECRET}", "/graph": None}
    with pytest.raises(AuthenticationError):
        adapter({"/info": httpx.Response(401, text="Unauthorized")})[0].health()


def test_usage_stands_without_the_subgraph():
    usage = {u.metric: u.value for u in adapter()[0].resource_usage()}
    assert usage["connections"] == 2
    assert usage["open_connections_sent_bytes"] == 36970 + 44508
    assert usage["sponsorships_staked"] == 1
    broken = {u.metric: u for u in adapter(streamr_routes() | {"/graph": httpx.Response(500)})[0].resource_usage()}
    assert broken["connections"].value == 2
    assert broken["sponsorships_staked"].value is None
    assert broken["sponsorships_staked"].provenance is Provenance.UNKNOWN


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


def test_the_lever_counts_whole_sponsorships(tmp_path):
    (lever,) = adapter(options=config(tmp_path))[0].levers()
    assert (lever.minimum, lever.maximum, lever.step, lever.at_full_share) == (2, 18, 1, 20)
    assert lever.mode is LeverMode.RESTART
    assert lever.writable


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"plugins":{"autostaker":{}}}', '{"plugins":{"autostaker":{"maxSponsorshipCount":true}}}']
)
def test_a_config_without_an_autostaker_makes_the_lever_say_why(tmp_path, content):
    (lever,) = adapter(options=config(tmp_path, content))[0].levers()
    assert not lever.writable
    assert "maxSponsorshipCount" in lever.why_not


def test_applying_changes_the_count_alone_and_restarts(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    options = config(tmp_path)
    answers = iter([httpx.Response(503), httpx.Response(503), httpx.Response(503)])
    routes = streamr_routes()
    up = routes["/info"]
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


def test_a_node_that_stays_down_after_the_restart_is_an_error(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    routes = streamr_routes()

    def refuse(request):
        raise httpx.ConnectError("refused", request=request)

    controller = FakeController(lambda: routes.update({"/info": refuse}))
    with pytest.raises(AllocationError, match="does not answer 15 s after the restart"):
        adapter(routes, controller=controller, options=config(tmp_path))[0].apply("max_sponsorship_count", 7)


@pytest.mark.parametrize(
    "options", [{"operator": "0x12"}, {"self_delegation_share": 1.5}, {"full_share_sponsorships": 0}]
)
def test_options_are_checked(options):
    with pytest.raises(SettingsError, match="streamr-1"):
        adapter(options=options)


def test_many_stakes_add_up():
    routes = streamr_routes()
    routes["/graph"]["data"]["operator"]["stakes"] = [stake(), stake()]
    one, two = counter().amounts.gross, counter(routes).amounts.gross
    assert two - one == Decimal("1.234") + GROWTH
