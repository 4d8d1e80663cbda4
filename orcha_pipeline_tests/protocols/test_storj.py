import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.controllers.base import ProcessUsage
from orcha_pipeline.controllers.docker import DockerController
from orcha_pipeline.earnings import earned
from orcha_pipeline.errors import AllocationError, ApiError, ParseError, SettingsError, UnsupportedError
from orcha_pipeline.model import (
    Amounts,
    BalanceKind,
    EarningsBucket,
    EarningsCounter,
    HealthState,
    LeverMode,
    Provenance,
    Window,
)
from orcha_pipeline.protocols.storj import StorjAdapter
from orcha_pipeline.protocols.storj_money import held_rate
from orcha_pipeline.testnet.server import build_app
from orcha_pipeline.testnet.simulation import Testnet
from orcha_pipeline_tests.protocols.answers import (
    EU,
    US,
    notice,
    notices,
    paystub,
    recorded_storj,
    storage_day,
    storj_routes,
)
from orcha_pipeline_tests.protocols.fakes import NOW, FakeController, Script, failing_restart, no_waiting, settings

WINDOW = Window(datetime(2026, 11, 20, 11, tzinfo=UTC), NOW)
CONFIG = """# settings
identity.cert-path: /id/identity.cert
# storage.allocated-disk-space: 1.00 TB
storage.allocated-disk-space: 3.20 TB  # the big disk
storage2.monitor.dedicated-disk: false
"""


def adapter(routes=None, *, controller=None, clock=None, **changes):
    script = Script(storj_routes() if routes is None else routes)
    made = StorjAdapter(
        settings("storj", **changes),
        controller=controller or FakeController(),
        clock=clock or FixedClock(NOW),
        transport=script,
    )
    return made, script


def paths(script):
    return [r.url.path.removeprefix("/api/") for r in script.requests]


def totals(observations):
    return {o.stream: o for o in observations if isinstance(o, EarningsCounter)}


def buckets(observations):
    return [o for o in observations if isinstance(o, EarningsBucket)]


def test_traffic_is_a_running_total_per_satellite_and_month_in_dollars():
    storj, script = adapter()
    found = totals(storj.earnings(WINDOW))
    assert list(found) == [f"{US}:2026-11:traffic", f"{EU}:2026-11:traffic"]
    us, eu = found.values()
    assert us.since == datetime(2026, 11, 1, tzinfo=UTC)
    assert us.observed_at == NOW
    assert (us.unit, us.provenance) == ("USD", Provenance.OUR_ESTIMATE)
    # Sent 70 + 5 GB at 200 cents a TB are 15 cents; repair and audit, 11.1 GB, both at the price of audits of 250
    # cents a TB (not at that of repair) are 2.775: together 17.775 cents.
    assert us.amounts.gross == Decimal("0.17775")
    assert (us.amounts.held, us.amounts.net) == (0, Decimal("0.17775"))
    # Joined in July, four months ago: half is held back.
    assert (eu.amounts.held, eu.amounts.net) == (Decimal("0.088875"), Decimal("0.088875"))
    assert paths(script) == ["sno/", f"sno/satellite/{US}", f"sno/satellite/{EU}"]


def test_stored_data_earns_at_the_level_last_counted_for_as_long_as_the_window():
    us, eu = buckets(adapter()[0].earnings(WINDOW))
    assert (us.stream, us.window, us.provenance) == (f"{US}:storage", WINDOW, Provenance.OUR_ESTIMATE)
    # 1.44 TB for one hour of the 720 of a month at 149 cents: 0.298 cents.
    assert us.amounts.gross == Decimal("0.00298")
    assert eu.amounts.net == Decimal("0.00149")
    (whole, _) = buckets(adapter()[0].earnings(Window(NOW - timedelta(minutes=15), NOW)))
    assert whole.amounts.gross == Decimal("0.000745")


def test_a_day_that_a_satellite_left_out_does_not_empty_the_disk():
    routes = storj_routes()
    routes[f"/api/sno/satellite/{US}"]["storageDaily"][1:] = [
        storage_day("2026-11-19", 0),
        storage_day("2026-11-20", 0, 12, calculated=True),
    ]
    (us, _) = buckets(adapter(routes)[0].earnings(WINDOW))
    assert round(us.amounts.gross, 9) == Decimal("0.002897222")  # 1.4 TB / 720 x 149 cents


def test_nodes_that_tell_byte_hours_alone_are_read_by_their_last_whole_day():
    routes = storj_routes()
    routes[f"/api/sno/satellite/{US}"]["storageDaily"] = [
        {"atRestTotal": 720 * 24e9, "intervalStart": "2026-11-19T00:00:00Z"},
        {"atRestTotal": 720 * 11e9, "intervalStart": "2026-11-20T00:00:00Z"},
    ]
    (us, _) = buckets(adapter(routes)[0].earnings(WINDOW))
    assert us.amounts.gross == Decimal("0.00149")  # 0.72 TB / 720 x 149 cents


def test_without_a_count_this_month_last_months_mean_stands_in():
    routes = storj_routes()
    routes[f"/api/sno/satellite/{US}"]["storageDaily"] = None
    storj, script = adapter(routes)
    (us, eu) = buckets(storj.earnings(WINDOW))
    # 2362997163924.5854 bytes for 720 hours were really kept for the 744 of October.
    level = Decimal("2362997163924.5854") * 720 / 744
    assert us.amounts.gross == pytest.approx(level / 10**12 / 720 * 149 / 100)
    assert "last month's mean" in us.source
    assert eu.amounts.gross == Decimal("0.00298")
    assert paths(script).count("sno/estimated-payout") == 1


def test_what_a_new_satellite_never_counted_is_unknown_and_later_nothing():
    routes = storj_routes()
    month = routes[f"/api/sno/satellite/{US}"]
    month["storageDaily"] = None
    routes["/api/sno/estimated-payout"]["previousMonth"]["diskSpace"] = 0
    month["nodeJoinedAt"] = "2026-11-19T00:00:00Z"
    (us, _) = buckets(adapter(routes)[0].earnings(WINDOW))
    assert (us.amounts.gross, us.amounts.net, us.provenance) == (None, None, Provenance.UNKNOWN)
    month["nodeJoinedAt"] = "2026-10-19T00:00:00Z"
    (us, _) = buckets(adapter(routes)[0].earnings(WINDOW))
    assert us.amounts.gross == 0


def test_the_turn_of_a_month_loses_nothing_of_the_old_one():
    clock = FixedClock(datetime(2027, 1, 1, 0, 5, tzinfo=UTC))
    storj, _ = adapter(clock=clock)
    found = storj.earnings(Window(datetime(2026, 12, 31, 23, 50, tzinfo=UTC), clock.now()))
    counters = totals(found)
    assert list(counters)[:2] == [f"{US}:2026-12:traffic", f"{US}:2027-01:traffic"]
    old, new = list(counters.values())[:2]
    # From the bytes of `previousMonth`: 73267420928 at 200 cents a TB, 116853952512 at 250.
    assert old.amounts.gross == Decimal("0.438669723136")
    # November's days are still in the answer of this test: none of them is January's.
    assert new.amounts.gross == 0
    us = [b for b in buckets(found) if b.stream == f"{US}:storage"]
    midnight = datetime(2027, 1, 1, tzinfo=UTC)
    assert [b.window.end for b in us] == [midnight, clock.now()]
    # 1.44 TB for ten minutes before midnight, and for five after it.
    assert [round(b.amounts.gross * 100, 9) for b in us] == [round(Decimal("0.298") / n, 9) for n in (6, 12)]
    # A day long the old month is told on, so that it is seen to grow no more; then it is not asked for again.
    clock.set(datetime(2027, 1, 1, 23, 50, tzinfo=UTC))
    assert f"{US}:2026-12:traffic" in totals(storj.earnings(Window(midnight, clock.now())))
    clock.set(datetime(2027, 1, 2, 0, 5, tzinfo=UTC))
    assert f"{US}:2026-12:traffic" not in totals(storj.earnings(Window(midnight, clock.now())))
    # But for a node last read in the old month.
    assert f"{US}:2026-12:traffic" in totals(
        storj.earnings(Window(datetime(2026, 12, 31, 23, tzinfo=UTC), clock.now()))
    )


def test_the_held_rate_changes_with_the_month():
    routes = storj_routes()
    routes[f"/api/sno/satellite/{US}"]["nodeJoinedAt"] = "2026-09-30T23:59:59Z"
    clock = FixedClock(datetime(2026, 12, 1, 0, 30, tzinfo=UTC))
    found = adapter(routes, clock=clock)[0].earnings(Window(datetime(2026, 11, 30, 23, 30, tzinfo=UTC), clock.now()))
    november, december = [b for b in buckets(found) if b.stream == f"{US}:storage"]
    assert november.amounts.held == november.amounts.gross * 3 / 4
    assert december.amounts.held == december.amounts.gross / 2


@pytest.mark.parametrize(
    ("joined", "percent"), [("2026-09-30", 75), ("2026-08-01", 50), ("2026-06-01", 50), ("2026-05-31", 25)]
)
def test_what_is_held_back_goes_by_calendar_months_not_by_days(joined, percent):
    assert held_rate(datetime.fromisoformat(f"{joined}T00:00:00Z"), NOW) == percent
    assert held_rate(datetime(2026, 2, 28, tzinfo=UTC), NOW) == 0


def test_an_answer_given_while_the_month_turns_is_asked_for_again():
    clock = FixedClock(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC))
    routes = storj_routes()
    answer = routes[f"/api/sno/satellite/{US}"]

    def across_the_turn(_request):
        clock.set(datetime(2026, 12, 1, tzinfo=UTC))
        return answer

    routes[f"/api/sno/satellite/{US}"] = across_the_turn
    storj, script = adapter(routes, clock=clock)
    assert f"{US}:2026-12:traffic" in totals(storj.earnings(WINDOW))
    assert paths(script).count("sno/") == 2


def test_a_disqualified_satellite_is_skipped_and_told_in_health():
    routes = storj_routes()
    routes["/api/sno/"]["satellites"][0]["disqualified"] = "2026-02-11T08:12:00Z"
    storj, script = adapter(routes)
    assert {o.stream.split(":")[0] for o in storj.earnings(WINDOW)} == {EU}
    assert US not in str([r.url for r in script.requests])
    assert "disqualified on us1.storj.io:7777 since 2026-02-11" in storj.health().reason


@pytest.mark.parametrize(
    ("at", "state"), [("2026-11-14T12:00:00Z", HealthState.AT_RISK), ("2026-11-12T12:00:00Z", HealthState.HEALTHY)]
)
def test_a_disqualification_puts_the_node_at_risk_for_a_week_and_then_the_satellites_that_remain_do(at, state):
    # The field never goes back to null, and neither do its scores: for good is no reason to leave the rest alone.
    routes = storj_routes() | {"/": public_port(503, '{"AllHealthy": false}')}
    routes["/api/sno/"]["satellites"][0].update(disqualified=at, suspended=at)
    routes["/api/sno/satellites"]["audits"][0].update(auditScore=0.5)
    storj, _ = adapter(routes, options={"health_url": "http://127.0.0.1:28967/"})
    health = storj.health()
    assert health.state is state
    assert "disqualified on us1" in health.reason
    assert "public port" in health.reason
    assert (health.scores["audit"], health.scores["suspended_satellites"]) == (1.0, 0.0)
    routes["/api/sno/"]["satellites"][1]["suspended"] = "2026-11-18T03:00:00Z"
    assert adapter(routes)[0].health().state is HealthState.AT_RISK


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        (
            "/api/sno/estimated-payout",
            500,
            "consoleapi storagenode: console: estimationservice: node was disqualified on satellite",
        ),
        (f"/api/sno/satellite/{US}", 404, "consoleapi storagenode: console: trust: satellite is untrusted"),
    ],
)
def test_a_satellite_lost_between_two_calls_is_skipped_and_any_other_failure_is_not(path, status, message):
    routes = storj_routes()
    answer = routes[path]

    def lost(text):
        ours = httpx.Response(status, json={"error": text})
        return lambda request: ours if request.url.params.get("id", US) == US else answer

    # On the first day of a month the estimates are asked for too.
    clock = FixedClock(datetime(2026, 12, 1, 12, tzinfo=UTC))
    routes[path] = lost(message)
    assert {o.stream.split(":")[0] for o in adapter(routes, clock=clock)[0].earnings(WINDOW)} == {EU}
    routes[path] = lost("console: database is locked")
    with pytest.raises(ApiError, match="database is locked"):
        adapter(routes, clock=clock)[0].earnings(WINDOW)


def test_a_node_without_satellites_has_no_earnings_rather_than_zero():
    routes = storj_routes()
    routes["/api/sno/"]["satellites"] = None
    routes["/api/sno/satellites"]["audits"] = None
    storj, _ = adapter(routes)
    assert list(storj.earnings(WINDOW)) == []
    assert storj.health().scores == {}


class InProcess(httpx.BaseTransport):
    """Asks an application of this process."""

    def __init__(self, app):
        self.app = app

    def handle_request(self, request):
        async def ask():
            url = request.url.copy_with(host="testnet", port=None)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), trust_env=False) as client:
                kind = {"content-type": "application/json"}
                return await client.request(request.method, url, content=request.read(), headers=kind)

        answer = asyncio.run(ask())
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def played(tmp_path, start, *, hours, shrink_at=None):
    """What was read of an emulated node hour by hour, as earned by the hour, and what it truly earned.

    The readings are those of `earnings`, and beside them the cents that the console itself reckons.
    """
    testnet = Testnet(state=tmp_path, seed=1, start=start - timedelta(days=5), wall=start.timestamp)
    clock = FixedClock(start)
    storj = StorjAdapter(
        settings("storj", url="http://testnet/nodes/storj-1"),
        controller=FakeController(),
        clock=clock,
        transport=InProcess(build_app(testnet)),
    )
    ours, cents, truth = [], [], {}
    for hour in (start + timedelta(hours=n) for n in range(hours + 1)):
        testnet.advance_to(int(hour.timestamp()))
        truth[hour] = Decimal(repr(testnet.true_state()["storj-1"]["native_total"]))
        clock.set(hour)
        ours += storj.earnings(Window(hour - timedelta(hours=1), hour))
        if shrink_at == hour:
            (tmp_path / "storj-1" / "config.yaml").write_text("storage.allocated-disk-space: 0.60 TB\n")
            economy = testnet.economy
            economy.stop_node(economy.nodes["storj-1"])
            economy.start_node(economy.nodes["storj-1"])
        if shrink_at is None:
            for balance in storj.balances():
                if balance.kind is BalanceKind.ACCRUED:
                    amounts = Amounts(gross=Decimal(re.search(r"gross ([0-9.]+)", balance.note)[1]))
                    cents.append(
                        EarningsCounter(
                            stream=balance.account,
                            observed_at=hour,
                            since=balance.since,
                            unit="USD",
                            amounts=amounts,
                            provenance=balance.provenance,
                            source=balance.source,
                        )
                    )
    window = Window(start, start + timedelta(hours=hours))
    true = {hour: truth[hour + timedelta(hours=1)] - earned for hour, earned in truth.items() if hour < window.end}
    return [
        {row.window.start: row.amounts for row in earned("storj-1", found, window, lambda _: Decimal(1))}
        for found in (ours, cents)
    ], true


def test_the_emulated_container_is_recreated_with_another_allocation(tmp_path):
    start = datetime(2026, 10, 12, tzinfo=UTC)
    testnet = Testnet(state=tmp_path, seed=1, start=start, wall=start.timestamp, restart_seconds={"storj": 0})
    testnet.advance_to(int(start.timestamp()) + 3600)
    node = testnet.economy.nodes["storj-1"]
    node.environment["STORAGE"] = "2.38TB"
    transport = InProcess(build_app(testnet))
    controller = DockerController("storj-1", url="http://testnet/docker", container="storj-1", transport=transport)
    storj = StorjAdapter(
        settings("storj", url="http://testnet/nodes/storj-1"),
        controller=controller,
        clock=FixedClock(start),
        transport=transport,
    )
    assert storj.apply("allocated-disk-space", 1500).read_back == 1500
    assert node.environment["STORAGE"] == "1500GB"
    assert "2.38 TB" in (tmp_path / "storj-1" / "config.yaml").read_text()
    assert storj.allocation().note.startswith("holds ")


def missed(rows, true):
    """The sum of the hours' errors, as a part of what was earned."""
    return sum(abs(rows[hour].gross - amount) for hour, amount in true.items()) / sum(true.values())


def test_hours_come_far_closer_to_the_truth_than_the_consoles_own_cents(tmp_path):
    # Across the turn of a month, and with counts that come twice a day, up to two and a half days late.
    (ours, cents), true = played(tmp_path, datetime(2026, 10, 31, 6, tzinfo=UTC), hours=48)
    assert set(ours) == set(true)
    assert missed(ours, true) < Decimal("0.001")
    assert missed(cents, true) > Decimal("0.2")


def test_a_falling_level_makes_no_hour_negative_and_the_sum_stays_near(tmp_path):
    start = datetime(2026, 10, 12, tzinfo=UTC)
    (ours, _), true = played(tmp_path, start, hours=96, shrink_at=start + timedelta(hours=24))
    assert all(amounts.gross > 0 for amounts in ours.values())
    whole = sum(true.values())
    # The level is known late, so that more is told than earned: no more than its fall was worth in that time.
    assert 0 < sum(a.gross for a in ours.values()) - whole < whole * Decimal("0.2")
    assert [hour for hour in true if ours[hour].gross < true[hour] * Decimal("0.99")] == []


def test_balances_keep_accrued_held_settled_and_undistributed_apart():
    routes = storj_routes()
    routes["/api/heldamount/paystubs/2019-01/2026-11"] = [
        paystub(),
        paystub() | {"satelliteId": EU, "paid": 300_000, "distributed": 0},
        paystub() | {"period": "2026-09", "paid": 200_000, "distributed": 200_000},
    ]
    found = adapter(routes)[0].balances()
    assert {b.unit for b in found} == {"USD"}
    told = {(b.kind.value, b.account): b.amount for b in found}
    assert told == {
        ("accrued", "us1.storj.io:7777 2026-11"): Decimal("4.6339"),  # 463.39 cents, net already
        ("accrued", "eu1.storj.io:7777 2026-11"): Decimal("4.6339"),
        ("held", "us1.storj.io:7777"): Decimal(2),  # 4 held less 2 returned
        ("held", "eu1.storj.io:7777"): Decimal("0.75"),
        ("settled", "all satellites"): Decimal("1.641737"),
        ("undistributed", "all satellites"): Decimal("0.3"),
    }
    accrued, settled = found[0], found[-2]
    # 354.45 + 146.55 + 116.85 cents, of which 25 % is held back.
    assert "gross 6.1785, of which 1.544625 (25 %) is held back" in accrued.note
    assert (accrued.provenance, accrued.since) == (Provenance.NODE_ESTIMATE, datetime(2026, 11, 1, tzinfo=UTC))
    assert settled.since == datetime(2026, 9, 1, tzinfo=UTC)
    assert settled.note == "newest of 2026-10: zksync-era:0x9f"


def test_last_month_is_accrued_until_its_paystub_is_there():
    routes = storj_routes()
    found = [b.account for b in adapter(routes)[0].balances() if b.kind is BalanceKind.ACCRUED]
    assert found == ["us1.storj.io:7777 2026-11", "eu1.storj.io:7777 2026-10", "eu1.storj.io:7777 2026-11"]
    routes["/api/heldamount/paystubs/2019-01/2026-11"] = None
    routes["/api/heldamount/held-history"] = None
    found = adapter(routes)[0].balances()
    assert {b.kind for b in found} == {BalanceKind.ACCRUED}
    assert len(found) == 4


def test_what_a_satellite_held_is_lost_with_its_trust():
    routes = storj_routes()
    routes["/api/sno/"]["satellites"][0]["disqualified"] = "2026-02-11T08:12:00Z"
    found = {b.account: b.kind for b in adapter(routes)[0].balances()}
    assert found["us1.storj.io:7777"] is BalanceKind.LOST
    assert found["eu1.storj.io:7777"] is BalanceKind.HELD
    assert "us1.storj.io:7777 2026-11" not in found


@pytest.mark.parametrize(
    ("path", "change", "kind"),
    [
        ("/api/heldamount/paystubs/2019-01/2026-11", {"distributed": 9_000_000}, BalanceKind.UNDISTRIBUTED),
        ("/api/heldamount/held-history", {"totalDisposed": 9_000_000}, BalanceKind.HELD),
    ],
)
def test_a_balance_below_nothing_is_unknown(path, change, kind):
    routes = storj_routes()
    routes[path][0].update(change)
    (balance, *_) = [b for b in adapter(routes)[0].balances() if b.kind is kind]
    assert (balance.amount, balance.provenance) == (None, Provenance.UNKNOWN)


def test_history_is_a_measured_bucket_per_settled_month():
    storj, _ = adapter()
    assert list(storj.earnings_history(Window(datetime(2026, 10, 2, tzinfo=UTC), NOW))) == [], "a month cut in two"
    (bucket,) = storj.earnings_history(Window(datetime(2026, 10, 1, tzinfo=UTC), NOW))
    assert bucket.window == Window(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
    assert bucket.provenance is Provenance.MEASURED
    assert bucket.amounts.gross == Decimal("1.941737")
    assert bucket.amounts.net == Decimal("1.441737")


def test_no_paystubs_are_null_and_a_surge_multiplies():
    path = "/api/heldamount/paystubs/2026-10/2026-11"
    window = Window(datetime(2026, 10, 1, tzinfo=UTC), NOW)
    routes = storj_routes()
    routes[path][0]["surgePercent"] = 150
    assert adapter(routes)[0].earnings_history(window)[0].amounts.gross == Decimal("2.9126055")
    routes[path] = None
    assert list(adapter(routes)[0].earnings_history(window)) == []


def test_both_generations_of_disk_space_tell_the_same():
    new, _ = adapter()
    assert {u.metric: u.value for u in new.resource_usage()}["disk_used_bytes"] == 3e12
    assert new.allocation().value == 3200
    assert new.allocation().share == 0.8
    routes = storj_routes()
    routes["/api/sno/"]["diskSpace"] = {"used": 2.9e12, "available": 3.2e12, "trash": 1e11, "overused": 0}
    old, _ = adapter(routes)
    assert {u.metric: u.value for u in old.resource_usage()}["disk_used_bytes"] == 3e12
    assert {u.metric: u.value for u in old.resource_usage()}["disk_free_bytes"] == pytest.approx(2e11)
    assert old.allocation().value == 3200


def test_traffic_of_today_is_told_and_unknown_before_the_days_first_count():
    usage = {u.metric: u for u in adapter()[0].resource_usage()}
    assert usage["network_month_bytes_total"].value == 305697241088
    assert usage["network_day_sent_bytes_total"].value == 2_301_000_000
    assert usage["network_day_received_bytes_total"].value == 90_000_000
    routes = storj_routes()
    routes["/api/sno/satellites"]["bandwidthDaily"] = None
    sent = {u.metric: u for u in adapter(routes)[0].resource_usage()}["network_day_sent_bytes_total"]
    assert (sent.value, sent.provenance) == (None, Provenance.UNKNOWN)


def test_what_the_host_counts_of_the_node_is_told_too():
    controller = FakeController()
    controller.usage = lambda: ProcessUsage(cpu_seconds_total=12.5, source="cgroup")
    usage = {u.metric: u.value for u in adapter(controller=controller)[0].resource_usage()}
    assert usage["cpu_seconds_total"] == 12.5


@pytest.mark.parametrize(
    ("disk", "note"),
    [
        ({}, ""),
        (
            {"used": 3.32e12, "available": 0, "overused": 1.2e11},
            "holds 120 GB more than allocated; it takes no new data and shrinks only as customers delete",
        ),
        (
            {"available": 5e10},
            "the disk is too small: of 3200 GB allocated only 3050 GB can be used",
        ),
    ],
)
def test_an_allocation_in_transition_says_so(disk, note):
    routes = storj_routes()
    routes["/api/sno/"]["diskSpace"].update(disk)
    reading = adapter(routes)[0].allocation()
    assert (reading.value, reading.note) == (3200, note)


def test_an_overused_node_of_the_old_generation_says_so_too():
    routes = storj_routes()
    routes["/api/sno/"]["diskSpace"] = {"used": 3.3e12, "available": 3.2e12, "trash": 2e10, "overused": 1.2e11}
    assert adapter(routes)[0].allocation().note.startswith("holds 120 GB more")


def test_a_healthy_node_tells_the_worst_scores_over_its_satellites():
    health = adapter()[0].health()
    assert health.state is HealthState.HEALTHY
    assert health.version == "1.162.3"
    reputation = {"audit": 1.0, "suspension": 0.999, "online": 0.9731}
    assert health.scores == {**reputation, "suspended_satellites": 0.0, "disqualified_satellites": 0.0}


def test_penalties_are_counted_by_satellite():
    routes = storj_routes()
    first, second = routes["/api/sno/"]["satellites"][:2]
    first["disqualified"] = "2026-11-18T12:00:00Z"
    first["suspended"] = second["suspended"] = "2026-11-17T03:00:00Z"
    scores = adapter(routes)[0].health().scores
    assert (scores["disqualified_satellites"], scores["suspended_satellites"]) == (1.0, 1.0)
    assert scores["days_since_disqualified"] == 2.0
    second["disqualified"] = "2026-11-19T12:00:00Z"
    scores = adapter(routes)[0].health().scores
    assert (scores["disqualified_satellites"], scores["days_since_disqualified"]) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r["/api/sno/satellites"]["audits"][0].update(auditScore=0.97), "audit score 0.9700 on us1"),
        (lambda r: r["/api/sno/satellites"]["audits"][1].update(suspensionScore=0.9), "suspension score 0.9000 on eu1"),
        (lambda r: r["/api/sno/satellites"]["audits"][1].update(onlineScore=0.91), "online score 0.9100 on eu1"),
        (lambda r: r["/api/sno/"]["satellites"][1].update(suspended="2026-11-18T03:00:00Z"), "suspended on eu1"),
        (lambda r: r["/api/sno/"].update(lastPinged="2026-11-20T08:59:00Z"), "reached it since 2026-11-20 08:59"),
        (lambda r: r["/api/sno/"].update(lastPinged="0001-01-01T00:00:00Z"), "reached it since"),
    ],
)
def test_a_threatened_reputation_is_at_risk(change, told):
    routes = storj_routes()
    change(routes)
    health = adapter(routes)[0].health()
    assert health.state is HealthState.AT_RISK
    assert told in health.reason


def test_a_node_just_started_is_not_blamed_for_having_no_ping_yet():
    routes = storj_routes()
    routes["/api/sno/"].update(lastPinged="0001-01-01T00:00:00Z", startedAt="2026-11-20T11:50:00Z")
    assert adapter(routes)[0].health().state is HealthState.HEALTHY


@pytest.mark.parametrize(
    ("kind", "created", "read", "told"),
    [
        (1, "2026-11-19T00:00:00Z", None, "unread notice of a failed audit since 2026-11-19: Your node"),
        (2, "2026-11-19T00:00:00Z", None, "unread notice of disqualification"),
        (3, "2026-11-14T00:00:00Z", None, "unread notice of suspension"),
        (3, "2026-11-13T00:00:00Z", None, ""),
        (1, "2026-11-19T00:00:00Z", "2026-11-19T08:00:00Z", ""),
        (0, "2026-11-19T00:00:00Z", None, ""),
    ],
)
def test_a_fresh_unread_notice_of_danger_is_at_risk(kind, created, read, told):
    routes = storj_routes()
    routes["/api/notifications/list"] = notices(notice(kind, created, read=read))
    storj, script = adapter(routes)
    health = storj.health()
    assert (health.state is HealthState.AT_RISK, told in health.reason) == (bool(told), True)
    asked = next(r.url.params for r in script.requests if r.url.path.endswith("/list"))
    assert dict(asked) == {"limit": "20", "page": "1"}


@pytest.mark.parametrize(
    ("change", "told"),
    [({"upToDate": False}, "version 1.162.3 is too old"), ({"quicStatus": "Misconfigured"}, "QUIC is misconfigured")],
)
def test_what_costs_income_but_no_reputation_is_told_without_holding_the_node(change, told):
    routes = storj_routes()
    routes["/api/sno/"].update(change)
    storj, _ = adapter(routes)
    health = storj.health()
    assert health.state is HealthState.HEALTHY
    assert told in health.reason
    assert any(told.lower() in advice.lower() for advice in storj.advice())


def public_port(status, body, kind="text/plain; charset=utf-8"):
    return httpx.Response(status, headers={"content-type": kind}, text=body)


@pytest.mark.parametrize(
    ("answer", "state", "told"),
    [
        (public_port(200, '{\n  "Statuses": null,\n  "Help": "",\n  "AllHealthy": true\n}'), HealthState.HEALTHY, ""),
        (public_port(503, '{"AllHealthy": false}'), HealthState.AT_RISK, "public port reports that a satellite"),
        (public_port(200, '{"AllHealthy": false}'), HealthState.AT_RISK, "public port reports that a satellite"),
    ],
)
def test_the_public_port_is_asked_where_it_is_named(answer, state, told):
    routes = storj_routes() | {"/": answer}
    storj, script = adapter(routes, options={"health_url": "http://127.0.0.1:28967/"})
    # As often as it is asked: a 503 is an answer there, after which no circuit opens.
    for asked in range(1, 6):
        health = storj.health()
        assert health.state is state
        assert told in health.reason
        assert [r.url.path for r in script.requests].count("/") == asked


def test_a_public_port_out_of_reach_is_told_and_another_answer_there_is_an_error():
    def refuse(_request):
        raise httpx.ConnectError("refused")

    options = {"health_url": "http://127.0.0.1:28967/"}
    health = adapter(storj_routes() | {"/": refuse}, options=options)[0].health()
    assert health.state is HealthState.HEALTHY
    assert "health_url: http://127.0.0.1:28967" in health.reason
    for answer in (public_port(200, "hello"), public_port(200, "<html>", "text/html"), public_port(200, "{}")):
        with pytest.raises(ParseError):
            adapter(storj_routes() | {"/": answer}, options=options)[0].health()


def test_the_spa_page_at_a_wrong_port_is_a_parse_error():
    with pytest.raises(ParseError, match="got text/html"):
        adapter({"/api/sno/": httpx.Response(200, html="<!doctype html>")})[0].health()


def test_a_wrong_field_is_named_by_its_path_and_what_was_expected():
    routes = storj_routes()
    routes[f"/api/sno/satellite/{US}"]["bandwidthDaily"][1]["egress"]["usage"] = -1
    with pytest.raises(ParseError, match=r"\$\.bandwidthDaily\[1\]\.egress\.usage: expected a whole number"):
        adapter(routes)[0].earnings(WINDOW)
    routes = storj_routes()
    del routes[f"/api/sno/satellite/{US}"]["priceModel"]["DiskSpace"]
    with pytest.raises(ParseError, match=r"\$\.priceModel\.DiskSpace: is missing"):
        adapter(routes)[0].earnings(WINDOW)
    del routes["/api/sno/"]["satellites"][1]["suspended"]
    with pytest.raises(ParseError, match=r"\$\.satellites\[1\]\.suspended: is missing"):
        adapter(routes)[0].health()


def recorded(version):
    folder = recorded_storj() / version
    sno, payout, satellite = (json.loads((folder / f"{n}.json").read_text()) for n in ("sno", "payout", "satellite"))
    # Of the satellites only this one's answer was recorded, and of the estimates only the sum of all.
    sno["satellites"] = [s for s in sno["satellites"] if s["id"] == satellite["id"]]
    routes = {
        "/api/sno/": sno,
        "/api/sno/estimated-payout": payout,
        "/api/sno/satellites": {"audits": [satellite["audits"]], "bandwidthDaily": satellite["bandwidthDaily"]},
        f"/api/sno/satellite/{satellite['id']}": satellite,
        "/api/notifications/list": notices(),
        "/api/heldamount/held-history": None,
    }
    now = datetime.fromisoformat(sno["lastPinged"])
    routes[f"/api/heldamount/paystubs/2019-01/{now:%Y-%m}"] = None
    return adapter(routes, clock=FixedClock(now))[0], now


def test_a_node_recorded_in_september_2021_comes_to_what_a_person_reckons():
    storj, now = recorded("v1.37.1")
    assert storj.health().version == "1.37.1"
    traffic, storage = storj.earnings(Window(now - timedelta(hours=1), now))
    # The days' egress adds up to 11756544 bytes for customers, at 2000 cents a TB: 0.023513088 cents; and to
    # 1118063616 for repair and audit, at 1000 cents: 1.118063616 cents. Together 1.141576704 cents.
    assert traffic.amounts.gross == Decimal("0.01141576704")
    # Joined on 2021-01-07, eight calendar months before: 25 % is held back.
    assert traffic.amounts.held == Decimal("0.00285394176")
    assert traffic.amounts.net == Decimal("0.00856182528")
    # The last whole day, the 28th, kept 287672802316.7917 byte-hours: 11986366763.19965 bytes, as the dashboard's
    # 11989759488 says. An hour of them at 150 cents a TB and 720 hours: 0.0024971597 cents.
    assert round(storage.amounts.gross, 12) == Decimal("0.000024971597")
    # 164.85 + 216.06 + 497.02 cents gross, 0.71 held, 877.22 net, of all satellites together.
    (accrued, _) = sorted(storj.balances(), key=lambda b: b.account, reverse=True)
    assert accrued.amount == pytest.approx(Decimal("8.7722"))
    assert "gross 8.7793" in accrued.note
    assert "0.0071" in accrued.note
    usage = {u.metric: u.value for u in storj.resource_usage()}
    assert usage["disk_used_bytes"] == 3498284766336 + 1222393984
    assert usage["disk_free_bytes"] == 3500000000000 - 3498284766336 - 1222393984
    assert usage["network_day_sent_bytes_total"] == 21678592 + 9216
    assert storj.allocation().value == 3500


def test_a_node_recorded_in_june_2022_comes_to_what_a_person_reckons():
    storj, now = recorded("v1.55.1")
    traffic, storage = storj.earnings(Window(now - timedelta(hours=1), now))
    # Repair and audit: 5560064 + 29952 + 5499904 + 19200 = 11109120 bytes at 1000 cents a TB: 0.01110912 cents.
    assert traffic.amounts.gross == Decimal("0.0001110912")
    # Seventeen months after joining nothing is held back any more.
    assert (traffic.amounts.held, traffic.amounts.net) == (0, Decimal("0.0001110912"))
    # 292148590230.02655 byte-hours of the 1st: 12172857926.25 bytes; 0.0025360121 cents an hour.
    assert round(storage.amounts.gross, 12) == Decimal("0.000025360121")
    # 9.79 + 18.72 + 26.81 cents.
    (accrued, _) = sorted(storj.balances(), key=lambda b: b.account, reverse=True)
    assert accrued.amount == Decimal("0.5532")
    assert storj.allocation().value == 3500


def written(tmp_path, text=CONFIG):
    file = tmp_path / "config.yaml"
    file.write_bytes(text.encode())
    file.chmod(0o640)
    return file


def restarting(routes, allocated=None, **options):
    def restart():
        routes["/api/sno/"]["startedAt"] = "2026-11-20T12:00:30Z"
        if allocated:
            routes["/api/sno/"]["diskSpace"]["allocated"] = allocated

    if "environment" in options:
        options["why_not_recreate"] = ""
    return FakeController(restart, **options)


def test_the_lever_stays_within_the_shares_and_above_what_storj_needs():
    (lever,) = adapter()[0].levers()
    assert (lever.minimum, lever.maximum, lever.step, lever.at_full_share) == (500, 3600, 10, 4000)
    assert not lever.writable
    assert "options.config_file is not set" in lever.why_not


def test_a_demand_below_the_floor_gives_a_lever_that_says_so(tmp_path):
    options = {"config_file": str(written(tmp_path))}
    demand = {"cpu_threads": 1, "memory_gib": 1, "disk_gb": 400, "bandwidth_mbps": 1}
    (lever,) = adapter(options=options, demand=demand)[0].levers()
    assert not lever.writable
    assert lever.maximum <= 360
    assert "lies between 500" in lever.why_not


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (CONFIG.replace("disk: false", "disk: true"), "dedicated disk"),
        (CONFIG + "storage.allocated-disk-space: 1TB\n", "twice"),
        ("storage:\n  allocated-disk-space: 1TB\n", "nests its keys"),
    ],
)
def test_a_config_that_cannot_carry_the_change_makes_the_lever_say_why(tmp_path, text, told):
    (lever,) = adapter(options={"config_file": str(written(tmp_path, text))})[0].levers()
    assert not lever.writable
    assert told in lever.why_not


def test_a_restart_has_a_price_and_a_budget():
    (lever,) = adapter()[0].levers()
    assert (lever.mode, lever.cooldown, lever.restarts_per_month) == (LeverMode.RESTART, timedelta(hours=24), 4)
    (lever,) = adapter(options={"restarts_per_month": 2})[0].levers()
    assert lever.restarts_per_month == 2


@pytest.mark.parametrize(
    ("line", "minimum"),
    [
        ("storage2.monitor.minimum-disk-space: 1.50 TB\n", 1500),
        ("storage2.monitor.minimum-disk-space: 100GB\n", 400),  # min_share
        ("# storage2.monitor.minimum-disk-space: 800.00 GB\n", 800),
        ("# storage2.monitor.minimum-disk-space: 50.00 GB\n", 500),
        ("storage2.monitor.minimum-disk-space: 1TiB # all\n", 1100),
    ],
)
def test_the_floor_is_the_one_the_node_has(tmp_path, line, minimum):
    (lever,) = adapter(options={"config_file": str(written(tmp_path, CONFIG + line))})[0].levers()
    assert lever.writable
    assert lever.minimum == minimum


def test_a_floor_that_is_no_size_makes_the_lever_say_so(tmp_path):
    text = CONFIG + "storage2.monitor.minimum-disk-space: plenty\n"
    (lever,) = adapter(options={"config_file": str(written(tmp_path, text))})[0].levers()
    assert not lever.writable
    assert "storage2.monitor.minimum-disk-space to something that is no size" in lever.why_not


@pytest.mark.parametrize("variable", ["STORAGE", "STORJ_STORAGE_ALLOCATED_DISK_SPACE"])
def test_where_a_variable_rules_the_container_is_recreated_and_the_file_left_alone(tmp_path, variable):
    file = written(tmp_path)
    routes = storj_routes()
    controller = restarting(routes, 2_500_000_000_000, environment={variable: "3.2TB", "WALLET": "0x1"})
    storj, _ = adapter(routes, controller=controller, options={"config_file": str(file)})
    assert storj.levers()[0].writable
    change = storj.apply("allocated-disk-space", 2500)
    assert (change.previous, change.requested, change.read_back) == (3200, 2500, 2500)
    assert controller.recreations == [{variable: "2500GB"}]
    assert controller.restarts == []
    assert file.read_text() == CONFIG
    assert any(f"variable {variable} sets the allocation" in advice for advice in storj.advice())


def test_the_images_variable_comes_before_the_nodes_own_and_needs_no_file():
    both = {"STORJ_STORAGE_ALLOCATED_DISK_SPACE": "1TB", "STORAGE": "3.2TB"}
    routes = storj_routes()
    controller = restarting(routes, 2_500_000_000_000, environment=both)
    storj, _ = adapter(routes, controller=controller)
    storj.apply("allocated-disk-space", 2500)
    assert controller.recreations == [{"STORAGE": "2500GB"}]


def test_a_container_that_cannot_be_recreated_makes_the_lever_say_why(tmp_path):
    controller = FakeController(environment={"STORAGE": "3.2TB"})
    (lever,) = adapter(controller=controller, options={"config_file": str(written(tmp_path))})[0].levers()
    assert not lever.writable
    assert (
        lever.why_not == "the container's variable STORAGE sets the allocation, and this controller recreates nothing"
    )


@pytest.mark.parametrize("value", ["true", "TRUE", "1"])
def test_a_disk_dedicated_by_a_variable_is_not_writable_either(tmp_path, value):
    controller = FakeController(environment={"STORJ_STORAGE2_MONITOR_DEDICATED_DISK": value})
    (lever,) = adapter(controller=controller, options={"config_file": str(written(tmp_path))})[0].levers()
    assert not lever.writable
    assert "dedicated disk" in lever.why_not


def test_a_host_that_cannot_be_asked_for_the_variables_makes_the_lever_say_why(tmp_path):
    controller = FakeController()

    def unreachable():
        raise AllocationError("storj-1", "Docker does not answer")

    controller.environment = unreachable
    (lever,) = adapter(controller=controller, options={"config_file": str(written(tmp_path))})[0].levers()
    assert (lever.writable, lever.why_not) == (False, "Docker does not answer")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"used": 3.1e12, "available": 5e10}, "The disk has 50 GB less room than is allocated"),
        ({"used": 3.15e12, "available": 5e10}, "Only 50 GB of 3200 GB are free"),
    ],
)
def test_a_full_node_is_advised_about_room_and_about_a_second_one(change, told):
    routes = storj_routes()
    routes["/api/sno/"]["diskSpace"].update(change)
    found = [advice for advice in adapter(routes)[0].advice() if advice.startswith(told)]
    assert len(found) == 1
    assert "10 %" in found[0]


def test_a_held_rate_against_the_rule_is_told():
    routes = storj_routes()
    answer = routes["/api/sno/estimated-payout"]

    def rates(request):
        rate = 0 if request.url.params["id"] == US else 50
        return answer | {"currentMonth": answer["currentMonth"] | {"heldRate": rate}}

    routes["/api/sno/estimated-payout"] = rates
    assert list(adapter(routes)[0].advice()) == []
    routes["/api/sno/estimated-payout"] = answer  # 25 % on both
    told = adapter(routes)[0].advice()
    assert [text.split(":")[0] for text in told] == ["us1.storj.io", "eu1.storj.io"]
    assert "holds back 25 %, but 0 % is due for a node that joined on 2021-01-07" in told[0]


def test_applying_changes_one_line_restarts_and_reads_back(tmp_path):
    file = written(tmp_path)
    routes = storj_routes()
    controller = restarting(routes, 2_500_000_000_000)
    storj, _ = adapter(routes, controller=controller, options={"config_file": str(file)})
    change = storj.apply("allocated-disk-space", 2500)
    assert (change.previous, change.requested, change.read_back) == (3200, 2500, 2500)
    assert controller.restarts == [300]
    assert file.read_text() == CONFIG.replace("3.20 TB", "2500GB")
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_change_that_waits_in_the_config_for_the_next_start_is_told(tmp_path):
    file = written(tmp_path)
    storj, _ = adapter(storj_routes(), controller=restarting(storj_routes(), 0), options={"config_file": str(file)})
    assert storj.pending_change() == ""
    file.write_text(CONFIG.replace("3.20 TB", "2500GB"))
    assert storj.pending_change() == f"{file} says 2500 GB, which it takes at its next start"
    file.write_text("a: 1\n")
    assert storj.pending_change() is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "a: 1\r\nstorage.allocated-disk-space: 1TB\r\nb: 2\r\n",
            "a: 1\r\nstorage.allocated-disk-space: 750GB\r\nb: 2\r\n",
        ),
        ("storage.allocated-disk-space: 1TB", "storage.allocated-disk-space: 750GB"),
        (
            "# storage.allocated-disk-space: 1TB\n",
            "# storage.allocated-disk-space: 1TB\nstorage.allocated-disk-space: 750GB\n",
        ),
        ("a: 1", "a: 1\nstorage.allocated-disk-space: 750GB\n"),
    ],
)
def test_the_rest_of_the_file_is_kept_as_it_was(tmp_path, before, after):
    file = written(tmp_path, before)
    routes = storj_routes()
    controller = restarting(routes, 750_000_000_000)
    adapter(routes, controller=controller, options={"config_file": str(file)})[0].apply("allocated-disk-space", 750)
    assert file.read_bytes().decode() == after


def test_a_restart_that_fails_leaves_the_file_as_it_was(tmp_path):
    file = written(tmp_path)
    storj, _ = adapter(controller=FakeController(failing_restart), options={"config_file": str(file)})
    with pytest.raises(AllocationError, match="does not start"):
        storj.apply("allocated-disk-space", 2500)
    assert file.read_text() == CONFIG


def test_a_node_that_shows_no_newer_start_or_another_value_has_not_taken_the_change(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    options = {"config_file": str(written(tmp_path))}
    with pytest.raises(AllocationError, match="no newer start"):
        adapter(options=options)[0].apply("allocated-disk-space", 2500)
    routes = storj_routes()
    with pytest.raises(AllocationError, match="reports 3200 GB; a STORAGE variable"):
        adapter(routes, controller=restarting(routes), options=options)[0].apply("allocated-disk-space", 2500)


def test_going_back_helps_a_node_that_the_change_has_stopped(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    file = written(tmp_path)
    routes = storj_routes()
    answer = routes["/api/sno/"]

    def stopped(request):
        raise httpx.ConnectError("refused", request=request)

    def restart():
        starts = "3200GB" in file.read_text()  # on the other size the node does not start
        routes["/api/sno/"] = answer | {"startedAt": "2026-11-20T12:00:30Z"} if starts else stopped

    storj, _ = adapter(routes, controller=FakeController(restart), options={"config_file": str(file)})
    with pytest.raises(AllocationError, match="no newer start"):
        storj.apply("allocated-disk-space", 2500)
    change = storj.apply("allocated-disk-space", 3200)
    assert (change.previous, change.requested, change.read_back) == (None, 3200, 3200)
    assert file.read_text() == CONFIG.replace("3.20 TB", "3200GB")


@pytest.mark.parametrize("value", [490, float("nan"), float("inf"), -10])
def test_a_value_that_storj_cannot_take_touches_nothing(tmp_path, value):
    file = written(tmp_path)
    controller = FakeController()
    storj, _ = adapter(controller=controller, options={"config_file": str(file)})
    with pytest.raises(AllocationError, match="at least 500 GB"):
        storj.apply("allocated-disk-space", value)
    assert file.read_text() == CONFIG
    assert controller.restarts == []


def test_a_lever_that_is_not_there_or_not_writable_is_unsupported():
    with pytest.raises(UnsupportedError, match="no lever 'cpu'"):
        adapter()[0].apply("cpu", 1000)
    with pytest.raises(UnsupportedError, match="config_file is not set"):
        adapter()[0].apply("allocated-disk-space", 1000)


@pytest.mark.parametrize("options", [{"confg_file": "x"}, {"restart_seconds": 0}])
def test_a_wrong_option_is_named_with_those_there_are(options):
    with pytest.raises(
        SettingsError, match=r"storj-1.*adapter: config_file, health_url, restart_seconds, restarts_per_month"
    ):
        adapter(options=options)


def test_a_node_without_demand_for_disk_is_refused():
    demand = {"cpu_threads": 1, "memory_gib": 1, "disk_gb": 0, "bandwidth_mbps": 1}
    with pytest.raises(SettingsError, match=r"demand\.disk_gb must be above 0"):
        adapter(demand=demand)


def test_closing_closes_the_controller_too():
    controller = FakeController()
    adapter(controller=controller)[0].close()
    assert controller.closed
