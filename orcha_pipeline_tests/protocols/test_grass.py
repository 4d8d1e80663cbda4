import base64
import json
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.controllers.base import Limits, ProcessUsage
from orcha_pipeline.earnings import earned
from orcha_pipeline.errors import ApiError, AuthenticationError, ParseError, SettingsError, UnsupportedError
from orcha_pipeline.model import (
    HOUR,
    BalanceKind,
    EarningsBucket,
    HealthState,
    LeverMode,
    Provenance,
    Window,
)
from orcha_pipeline.protocols.grass import GrassAdapter
from orcha_pipeline.protocols.reading import read_node
from orcha_pipeline_tests.protocols.answers import device, epoch, grass_routes
from orcha_pipeline_tests.protocols.fakes import NOW, SECRET, FakeController, Script, settings

WINDOW = Window(NOW - timedelta(hours=1), NOW)
MINUTE = timedelta(minutes=1)
ENDED = {"startDate": "2026-10-27T00:00:00Z", "endDate": "2026-11-10T00:00:00Z"}


def adapter(routes=None, *, controller=None, clock=None, **changes):
    script = Script(grass_routes() if routes is None else routes)
    made = GrassAdapter(
        settings("grass", **changes),
        controller=controller or FakeController(),
        clock=clock or FixedClock(NOW),
        transport=script,
    )
    return made, script


def data(content):
    return {"result": {"data": content}}


def with_devices(*devices, **others):
    return grass_routes() | {"/activeDevices": data(list(devices))} | others


def with_epochs(*epochs, **others):
    return grass_routes() | {"/epochEarnings": data({"data": list(epochs)})} | others


def at(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


# --- the API


def test_the_token_is_sent_raw_as_the_dashboard_does():
    grass, script = adapter()
    grass.earnings_history(WINDOW)
    for request in script.requests:
        assert request.headers["authorization"] == SECRET
        assert request.headers["origin"] == "https://app.grass.io"
        assert request.headers["user-agent"].startswith("Mozilla/")
    asked = {request.url.path: request.url.params.get("input") for request in script.requests}
    assert asked["/epochEarnings"] == '{"limit":50,"isLatestOnly":false}'


def test_one_reading_asks_for_the_devices_once_and_the_next_one_again():
    grass, script = adapter(options={"device_id": "6f1c"})
    for readings in (1, 2):
        reading = read_node(grass, WINDOW, NOW)
        assert reading.health.state is HealthState.HEALTHY
        assert reading.earnings
        assert [r.url.path for r in script.requests] == ["/activeDevices"] * readings


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_has_expired_is_told_with_the_way_to_a_new_one(status):
    body = {"error": {"message": f"Unauthorized {SECRET}", "code": -32001}}
    with pytest.raises(AuthenticationError, match=r"has expired; get a new one: .*Local Storage.*token_env") as error:
        adapter(grass_routes() | {"/activeDevices": httpx.Response(status, json=body)})[0].health()
    assert SECRET not in str(error.value)


def test_cloudflares_page_is_no_expired_token():
    page = httpx.Response(403, html="error code: 1020")
    with pytest.raises(ApiError, match="Cloudflare turns this machine's address away"):
        adapter(grass_routes() | {"/activeDevices": page})[0].health()


@pytest.mark.parametrize("body", [{"html": "<h1>slow</h1>"}, {"json": {"error": {"message": "slow"}}}])
def test_cloudflares_429_is_an_api_error_with_the_wait_it_asks_for(body):
    page = httpx.Response(429, headers={"retry-after": "60"}, **body)
    with pytest.raises(ApiError, match="asks to wait 60 s"):
        adapter(grass_routes() | {"/activeDevices": page})[0].health()


@pytest.mark.parametrize("change", [{"ipScore": 101}, {"multiplier": None}, {"aggUptime": -1}, {"aggUptime": "NaN"}])
def test_a_changed_shape_is_an_error_and_not_zero(change):
    with pytest.raises(ParseError, match=r"\$\.result\.data\[0\]\."):
        adapter(with_devices(device("a", 50, 10) | change))[0].earnings(WINDOW)


# --- earnings


def test_while_the_epochs_total_reads_zero_points_are_the_hours_connected_at_the_present_score():
    (bucket,) = adapter()[0].earnings(WINDOW)
    assert isinstance(bucket, EarningsBucket)
    assert (bucket.window, bucket.unit, bucket.stream) == (WINDOW, "GRASS_POINT", "connected")
    assert bucket.provenance is Provenance.OUR_ESTIMATE
    # The second device came back half an hour ago; its numbers are strings.
    half = Decimal("0.5")
    assert bucket.amounts.net == 50 * Decimal("0.8") * Decimal("1.25") + half * 50 * half * Decimal("1.25")


@pytest.mark.parametrize("epochs", [with_epochs(epoch("Epoch 15", "18234.5")), with_epochs(epoch("Epoch 15", 0))])
def test_the_accounts_total_is_a_balance_and_no_hour_earned_its_jumps(epochs):
    grass, _ = adapter(epochs)
    (bucket,) = grass.earnings(WINDOW)
    assert (bucket.stream, bucket.provenance) == ("connected", Provenance.OUR_ESTIMATE)


def test_a_device_whose_points_do_not_count_earns_nothing():
    idle = device("6f1c", 80, 0) | {"lastConnectedAt": (NOW - timedelta(hours=3)).isoformat()}
    (bucket,) = adapter(with_devices(idle))[0].earnings(WINDOW)
    assert bucket.amounts.net == 0


def test_one_device_of_several_is_estimated_alone_whatever_the_accounts_total():
    grass, script = adapter(with_epochs(epoch("Epoch 15", 18234.5)), options={"device_id": "77aa"})
    assert grass.earnings(WINDOW)[0].amounts.net == Decimal("0.5") * 50 * Decimal("0.5") * Decimal("1.25")
    assert list(grass.earnings_history(WINDOW)) == []
    assert "/epochEarnings" not in [r.url.path for r in script.requests]


def test_without_a_connected_device_the_points_are_unknown_not_zero():
    grass, _ = adapter(with_devices())
    (bucket,) = grass.earnings(WINDOW)
    assert bucket.amounts.net is None
    assert bucket.provenance is Provenance.UNKNOWN
    assert {u.metric: u.value for u in grass.resource_usage()} == {
        "devices_connected": 0.0,
        "uptime_seconds_total": None,
        "connected_seconds": None,
    }


@pytest.mark.parametrize(
    ("uptime", "connected", "hours"),
    [
        (360000, NOW - 100 * HOUR, 1.0),  # long before the window
        (60, NOW - 100 * HOUR, 1.0),  # the epoch has just begun: its uptime starts again, the connection does not
        (900, NOW - 15 * MINUTE, 0.25),  # the uptime starts again with the connection
        (360000, NOW - 15 * MINUTE, 0.25),  # it goes on through the epoch
        (360000, NOW + MINUTE, 0.0),  # a clock that runs ahead
        (360000, None, 1.0),
        (900, None, 0.25),
        (10**23, None, 1.0),
    ],
)
def test_however_the_uptime_counts_a_window_holds_the_time_of_the_present_connection(uptime, connected, hours):
    there = device("a", 80, uptime, lastConnectedAt=None if connected is None else at(connected))
    (bucket,) = adapter(with_devices(there))[0].earnings(WINDOW)
    assert float(bucket.amounts.net) == pytest.approx(hours * 50 * 0.8 * 1.25)


class Dashboard:
    """A device over time: (minute -> connected, score); its uptime starts again with each connection or goes on."""

    def __init__(self, ups, scores, *, starts_again):
        self.ups, self.scores, self.starts_again = ups, scores, starts_again
        self.clock = FixedClock(NOW)
        routes = grass_routes() | {"/activeDevices": lambda _request: data(self.devices())}
        self.grass = adapter(routes, clock=self.clock, options={"device_id": "a"})[0]

    @property
    def minute(self):
        return (self.clock.now() - NOW) // MINUTE

    def devices(self):
        upto = self.ups[: self.minute]
        if not upto or not upto[-1]:
            return []
        connected = next((i + 1 for i in range(len(upto) - 1, -1, -1) if not upto[i]), 0)
        uptime = 60 * (len(upto) - connected if self.starts_again else sum(upto))
        score = self.scores[(self.minute - 1) // 15]
        return [device("a", score, uptime, lastConnectedAt=at(NOW + connected * MINUTE))]


@given(data=st.data(), starts_again=st.booleans())
def test_no_reconnect_and_no_new_score_makes_negative_or_double_earnings(data, starts_again):
    quarters = 12
    ups = data.draw(st.lists(st.booleans(), min_size=quarters, max_size=quarters))
    spells = [up for up in ups for _ in range(15)]
    for start in data.draw(st.lists(st.integers(0, 15 * quarters - 4), max_size=3)):
        spells[start : start + 3] = [False] * 3
    scores = data.draw(st.lists(st.integers(0, 100), min_size=quarters, max_size=quarters))
    dashboard = Dashboard(spells, scores, starts_again=starts_again)
    read = []
    for quarter in range(quarters):
        dashboard.clock.set(NOW + 15 * (quarter + 1) * MINUTE)
        window = Window(NOW + 15 * quarter * MINUTE, dashboard.clock.now())
        read += dashboard.grass.earnings(window)
    truth = [
        [Decimal(score) / 100 * sum(spells[15 * i : 15 * i + 15]) / 60 * 50 * Decimal("1.25")]
        for i, score in enumerate(scores)
    ]
    for observation, (true,) in zip(read, truth, strict=True):
        assert observation.amounts.net is None or 0 <= observation.amounts.net <= true + Decimal("1e-15")
    whole = Window(NOW, NOW + quarters * 15 * MINUTE)
    for hour in earned("grass-1", read, whole, lambda _hour: None):
        first = (hour.window.start - NOW) // (15 * MINUTE)
        most = sum(true for (true,) in truth[first : first + 4])
        assert hour.amounts.net is None or 0 <= hour.amounts.net <= most + Decimal("1e-12")


def test_a_device_that_stays_connected_is_estimated_in_full():
    dashboard = Dashboard([True] * 60, [80, 80, 40, 40], starts_again=False)
    found = []
    for quarter in range(4):
        dashboard.clock.set(NOW + 15 * (quarter + 1) * MINUTE)
        window = Window(NOW + 15 * quarter * MINUTE, dashboard.clock.now())
        found += dashboard.grass.earnings(window)
    (hour,) = earned("grass-1", found, Window(NOW, NOW + HOUR), lambda _hour: None)
    assert hour.amounts.net == 50 * Decimal("0.6") * Decimal("1.25")


def test_history_is_a_bucket_per_settled_epoch():
    ended = epoch("Epoch 14", 900) | ENDED
    grass, script = adapter(with_epochs(epoch("Epoch 15", 5), ended, ended | {"totalPoints": 0}))
    (bucket,) = grass.earnings_history(Window(NOW - timedelta(days=40), NOW))
    assert (bucket.amounts.net, bucket.window.hours) == (900, 14 * 24)
    assert '"isLatestOnly":false' in script.requests[0].url.params["input"]


def test_the_only_device_of_an_account_has_the_accounts_history():
    known = {"/devices": data([{"deviceId": "6f1c", "totalUptime": 0, "lastConnectedAt": None}])}
    routes = with_epochs(epoch("Epoch 14", 900) | ENDED, **known)
    grass, _ = adapter(routes, options={"device_id": "6f1c"})
    assert len(grass.earnings_history(Window(NOW - timedelta(days=40), NOW))) == 1


# --- balances


def balances(routes=None, **changes):
    return {b.kind: b for b in adapter(routes, **changes)[0].balances()}


def test_points_of_this_epoch_and_of_those_before_stand_apart():
    older = epoch("Epoch 13", "700.5") | {"startDate": "2026-10-13T00:00:00Z", "endDate": "2026-10-27T00:00:00Z"}
    found = balances(with_epochs(epoch("Epoch 15", 0), epoch("Epoch 14", 900) | ENDED, older))
    assert set(found) == {BalanceKind.ACCRUED, BalanceKind.SETTLED}
    accrued, settled = found[BalanceKind.ACCRUED], found[BalanceKind.SETTLED]
    assert accrued.amount == 10 * 50 * Decimal("0.8") * Decimal("1.25") + 2 * 50 * Decimal("0.5") * Decimal("1.25")
    assert (accrued.account, accrued.provenance) == ("Epoch 15", Provenance.OUR_ESTIMATE)
    assert (settled.amount, settled.unit) == (Decimal("1600.5"), "GRASS_POINT")
    assert settled.since == datetime(2026, 10, 13, tzinfo=UTC)
    assert "2 epochs" in settled.note
    assert "airdrop" in settled.note


def test_an_epoch_that_has_ended_and_reads_zero_is_pending_and_unknown():
    found = balances(with_epochs(epoch("Epoch 15", 7), epoch("Epoch 14", 0) | ENDED))
    assert (found[BalanceKind.PENDING].amount, found[BalanceKind.PENDING].account) == (None, "Epoch 14")
    assert BalanceKind.SETTLED not in found
    assert found[BalanceKind.ACCRUED].amount == 7
    assert found[BalanceKind.ACCRUED].provenance is Provenance.NODE_ESTIMATE


def test_of_one_device_of_several_only_this_epochs_points_are_known():
    routes = with_epochs(epoch("Epoch 15", 7), epoch("Epoch 14", 900) | ENDED)
    found = balances(routes, options={"device_id": "77aa"})
    assert set(found) == {BalanceKind.ACCRUED}
    assert found[BalanceKind.ACCRUED].amount == 2 * 50 * Decimal("0.5") * Decimal("1.25")


def test_what_accrued_is_unknown_while_no_device_is_connected():
    found = balances(with_devices())
    assert (found[BalanceKind.ACCRUED].amount, found[BalanceKind.ACCRUED].provenance) == (None, Provenance.UNKNOWN)


# --- health


def test_health_tells_how_long_the_token_lasts_and_nothing_else_of_it():
    claims = base64.urlsafe_b64encode(json.dumps({"exp": NOW.timestamp() + 7200}).encode()).decode().rstrip("=")
    health = adapter(token=f"head.{claims}.signature")[0].health()
    assert health.scores["token_seconds_left"] == 7200.0
    assert "token_seconds_left" not in adapter()[0].health().scores


def test_health_tells_the_lowest_score():
    health = adapter()[0].health()
    assert (health.state, health.scores) == (HealthState.HEALTHY, {"ip_score": 50.0})
    assert health.reason == ""


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        ((), "not connected to Grass, last seen 2026-11-20 11:30 UTC; is its client running"),
        ((device("a", 0, 10),), "IP score is 0"),
    ],
)
def test_what_earns_nothing_is_in_error(devices, told):
    health = adapter(with_devices(*devices))[0].health()
    assert health.state is HealthState.ERROR
    assert told in health.reason


def test_a_device_the_account_does_not_have_is_told_with_those_it_has():
    health = adapter(options={"device_id": "zzzz"})[0].health()
    assert health.state is HealthState.ERROR
    assert "no device zzzz; it has: 6f1c, 77aa; correct device_id" in health.reason


def test_a_low_score_and_an_uptime_that_does_not_count_are_told():
    health = adapter(with_devices(device("a", 49, 10), device("b", 90, 0)))[0].health()
    assert health.state is HealthState.HEALTHY
    assert "IP score is 49 of 100" in health.reason
    assert "connected since 2026-11-20 02:00 UTC without any uptime" in health.reason
    young = device("b", 90, 0, lastConnectedAt=at(NOW - HOUR))
    assert adapter(with_devices(young))[0].health().reason == ""


# --- usage and levers


def test_usage_is_the_devices_and_what_the_host_counts():
    controller = FakeController()
    controller.usage = lambda: ProcessUsage(sent_bytes_total=5e9, received_bytes_total=1e9, source="cgroup")
    found = {u.metric: u.value for u in adapter(controller=controller)[0].resource_usage()}
    assert found == {
        "devices_connected": 2.0,
        "uptime_seconds_total": 43200.0,
        "connected_seconds": 1800.0,
        "network_received_bytes_total": 1e9,
        "network_sent_bytes_total": 5e9,
    }


@pytest.mark.parametrize(
    ("options", "names", "full"),
    [
        ({}, ["cpu_threads", "memory_gib", "bandwidth_mbps"], 8),
        ({"share_limit": "bandwidth_mbps"}, ["bandwidth_mbps", "cpu_threads", "memory_gib"], 100),
    ],
)
def test_the_operator_says_which_limit_carries_the_share(options, names, full):
    controller = FakeController()
    grass, _ = adapter(controller=controller, options=options)
    levers = grass.levers()
    assert [lever.name for lever in levers] == names
    assert {lever.mode for lever in levers} == {LeverMode.OS_LIMIT}
    assert (levers[0].minimum, levers[0].maximum, levers[0].at_full_share) == (full / 10, full * 0.9, full)
    controller.in_force = Limits(cpu_threads=2.0, bandwidth_mbps=50.0)
    shares = {a.lever: a.share for a in grass.allocations()}
    assert shares == dict.fromkeys(names) | {names[0]: 2.0 / 8 if full == 8 else 0.5}
    assert grass.allocation().lever == names[0]


def test_a_share_limit_needs_a_demand_and_a_name_that_is_one():
    none = {"cpu_threads": 8, "memory_gib": 16, "disk_gb": 4000, "bandwidth_mbps": 0}
    with pytest.raises(SettingsError, match="bandwidth_mbps must be above 0"):
        adapter(demand=none, options={"share_limit": "bandwidth_mbps"})
    with pytest.raises(SettingsError, match="share_limit"):
        adapter(options={"share_limit": "disk_gb"})


def test_a_host_without_a_controller_makes_no_lever_writable():
    lever = adapter(controller=FakeController(why_not="no container"))[0].levers()[0]
    assert (lever.writable, lever.why_not) == (False, "no container")
    assert any("IP score" in risk for risk in lever.risks)


def test_without_a_limit_the_share_is_taken_as_full():
    controller = FakeController()
    grass, _ = adapter(controller=controller)
    assert (grass.allocation().share, grass.allocation().provenance) == (1.0, Provenance.OUR_ESTIMATE)
    controller.in_force = Limits(cpu_threads=2.0)
    assert (grass.allocation().share, grass.allocation().provenance) == (0.25, Provenance.MEASURED)


def test_applying_sets_the_limit_and_reads_it_back():
    controller = FakeController()
    grass, _ = adapter(controller=controller)
    change = grass.apply("cpu_threads", 1.25)
    assert (change.previous, change.read_back) == (8, 1.25)
    assert grass.apply("bandwidth_mbps", 40.0).read_back == 40.0
    controller.takes = lambda _wanted: Limits(cpu_threads=math.inf)
    assert grass.apply("cpu_threads", 1.25).read_back is None, "a limit that does not show is not read back"
    with pytest.raises(UnsupportedError, match="no lever 'disk_gb'"):
        grass.apply("disk_gb", 1.0)


def test_points_are_worth_only_what_the_operator_says():
    assert adapter()[0].tokens_per_native is None
    assert adapter(options={"grass_per_point": 0.004})[0].tokens_per_native == Decimal("0.004")
    with pytest.raises(SettingsError, match="grass_per_point"):
        adapter(options={"grass_per_point": 0})


# --- advice


def advice(routes=None, **options):
    return " | ".join(adapter(routes, options={"device_id": "6f1c", "grass_per_point": 1} | options)[0].advice())


def test_a_device_that_has_all_it_needs_gets_no_advice():
    assert advice(with_devices(device("6f1c", 80, 1), **{"/activeIps": data([{"ipScore": 80}])})) == ""


def test_several_devices_on_one_address_are_advised_against_even_those_of_other_nodes():
    routes = with_devices(device("6f1c", 80, 1), device("77aa", 80, 1))
    assert "2 devices are connected from one address" in advice(routes)
    apart = with_devices(device("6f1c", 80, 1), device("77aa", 80, 1, ipAddress="198.51.100.9"))
    assert "one address" not in advice(apart)


def test_advice_names_a_low_score_a_missing_wallet_an_unset_price_and_devices_nobody_told_apart():
    user = {"userId": "u", "walletAddress": None}
    scores = [{"ipAddress": "203.0.113.7", "ipScore": "30"}]
    routes = grass_routes() | {"/activeIps": data(scores), "/retrieveUser": data(user)}
    told = advice(routes, device_id=None, grass_per_point=None)
    for words in (
        "IP score of 30 of 100",
        "no wallet is linked",
        "set grass_per_point",
        "all 2 devices of the account",
    ):
        assert words in told
