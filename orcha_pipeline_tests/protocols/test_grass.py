from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AllocationError, ApiError, AuthenticationError, ParseError, SettingsError
from orcha_pipeline.model import HealthState, LeverMode, Provenance, Window
from orcha_pipeline.protocols.grass import GrassAdapter
from orcha_pipeline_tests.protocols.answers import device, epoch, grass_routes
from orcha_pipeline_tests.protocols.fakes import NOW, SECRET, FakeController, Script, settings

WINDOW = Window(NOW - timedelta(hours=1), NOW)


def adapter(routes=None, *, controller=None, now=NOW, **changes):
    script = Script(grass_routes() if routes is None else routes)
    made = GrassAdapter(
        settings("grass", **changes),
        controller=controller or FakeController(),
        clock=FixedClock(now),
        transport=script,
    )
    return made, script


def with_devices(*devices):
    return grass_routes() | {"/activeDevices": {"result": {"data": list(devices)}}}


def with_epochs(*epochs):
    return grass_routes() | {"/epochEarnings": {"result": {"data": {"data": list(epochs)}}}}


def test_the_token_is_sent_raw_as_the_dashboard_does():
    grass, script = adapter()
    grass.earnings(WINDOW)
    for request in script.requests:
        assert request.headers["authorization"] == SECRET
        assert request.headers["origin"] == "https://app.grass.io"
        assert request.headers["user-agent"].startswith("Mozilla/")
    assert script.requests[0].url.params["input"] == '{"limit":1,"isLatestOnly":true}'


def test_while_the_epochs_total_reads_zero_points_are_our_estimate():
    (counter,) = adapter()[0].earnings(WINDOW)
    assert counter.stream == "Epoch 15"
    assert counter.since == datetime(2026, 11, 10, tzinfo=UTC)
    assert counter.unit == "GRASS_POINT"
    assert counter.provenance is Provenance.OUR_ESTIMATE
    assert counter.amounts.net == 10 * 50 * Decimal("0.8") * Decimal("1.25") + 2 * 50 * Decimal("0.5") * Decimal("1.25")


def test_the_accounts_own_total_is_preferred():
    (counter,) = adapter(with_epochs(epoch("Epoch 15", "18234.5")))[0].earnings(WINDOW)
    assert counter.amounts.net == Decimal("18234.5")
    assert counter.provenance is Provenance.NODE_ESTIMATE


def test_one_device_of_several_is_estimated_alone_whatever_the_accounts_total():
    routes = with_epochs(epoch("Epoch 15", 18234.5))
    grass, _ = adapter(routes, options={"device_id": "77aa"})
    assert grass.earnings(WINDOW)[0].amounts.net == 2 * 50 * Decimal("0.5") * Decimal("1.25")
    assert list(grass.earnings_history(WINDOW)) == []


def test_without_a_connected_device_the_points_are_unknown_not_zero():
    grass, _ = adapter(with_devices())
    (counter,) = grass.earnings(WINDOW)
    assert counter.amounts.net is None
    assert counter.provenance is Provenance.UNKNOWN
    assert {u.metric: u.value for u in grass.resource_usage()} == {
        "devices_connected": 0.0,
        "uptime_seconds_total": None,
    }


def test_history_is_a_bucket_per_settled_epoch():
    ended = epoch("Epoch 14", 900) | {"startDate": "2026-10-27T00:00:00Z", "endDate": "2026-11-10T00:00:00Z"}
    grass, script = adapter(with_epochs(epoch("Epoch 15", 5), ended, ended | {"totalPoints": 0}))
    (bucket,) = grass.earnings_history(Window(NOW - timedelta(days=40), NOW))
    assert (bucket.amounts.net, bucket.window.hours) == (900, 14 * 24)
    assert '"isLatestOnly":false' in script.requests[0].url.params["input"]


def test_health_tells_the_lowest_score():
    health = adapter()[0].health()
    assert (health.state, health.scores) == (HealthState.HEALTHY, {"ip_score": 50.0})


@pytest.mark.parametrize(("devices", "told"), [((), "not connected"), ((device("a", 0, 10),), "IP score is 0")])
def test_what_earns_nothing_is_in_error(devices, told):
    health = adapter(with_devices(*devices))[0].health()
    assert health.state is HealthState.ERROR
    assert told in health.reason


def test_an_expired_token_is_an_authentication_error():
    body = {"error": {"message": "Unauthorized", "code": -32001}}
    with pytest.raises(AuthenticationError, match="Unauthorized") as error:
        adapter(grass_routes() | {"/activeDevices": httpx.Response(401, json=body)})[0].health()
    assert SECRET not in str(error.value)


def test_cloudflares_429_page_is_an_api_error():
    page = httpx.Response(429, html="<h1>slow</h1>", headers={"retry-after": "60"})
    with pytest.raises(ApiError, match="asks to wait 60 s"):
        adapter(grass_routes() | {"/activeDevices": page})[0].health()


@pytest.mark.parametrize("change", [{"ipScore": 101}, {"multiplier": None}, {"aggUptime": -1}, {"aggUptime": "NaN"}])
def test_a_changed_shape_is_an_error_and_not_zero(change):
    with pytest.raises(ParseError, match=r"\$\.result\.data\[0\]\."):
        adapter(with_devices(device("a", 50, 10) | change))[0].earnings(WINDOW)


def test_an_account_without_any_epoch_is_an_error():
    with pytest.raises(ApiError, match="lists no epoch"):
        adapter(with_epochs())[0].earnings(WINDOW)


def test_the_lever_is_the_hosts_cpu_limit():
    (lever,) = adapter()[0].levers()
    assert (lever.minimum, lever.maximum, lever.step, lever.at_full_share) == (0.8, 7.2, 0.01, 8)
    assert lever.mode is LeverMode.OS_LIMIT
    (lever,) = adapter(controller=FakeController(why_not="no container"))[0].levers()
    assert (lever.writable, lever.why_not) == (False, "no container")


def test_without_a_limit_the_share_is_taken_as_full():
    controller = FakeController()
    grass, _ = adapter(controller=controller)
    assert (grass.allocation().share, grass.allocation().provenance) == (1.0, Provenance.OUR_ESTIMATE)
    controller.cpu = 2.0
    assert (grass.allocation().share, grass.allocation().provenance) == (0.25, Provenance.MEASURED)


def test_applying_sets_the_limit_and_reads_it_back():
    controller = FakeController()
    grass, _ = adapter(controller=controller)
    change = grass.apply("cpu_threads", 1.25)
    assert (change.previous, change.read_back) == (8, 1.25)
    controller.takes = lambda _threads: None
    with pytest.raises(AllocationError, match="the host reports no limit"):
        grass.apply("cpu_threads", 1.25)


def test_points_are_worth_only_what_the_operator_says():
    assert adapter()[0].tokens_per_native is None
    assert adapter(options={"grass_per_point": 0.004})[0].tokens_per_native == Decimal("0.004")
    with pytest.raises(SettingsError, match="grass_per_point"):
        adapter(options={"grass_per_point": 0})
