import json
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AllocationError, ApiError, ParseError, SettingsError, UnsupportedError
from orcha_pipeline.model import HealthState, Provenance, Window
from orcha_pipeline.protocols.storj import StorjAdapter
from orcha_pipeline_tests.protocols.answers import EU, US, recorded_storj, storj_routes
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


def test_earnings_are_a_counter_per_satellite_and_month_in_dollars():
    storj, script = adapter()
    counters = storj.earnings(WINDOW)
    assert [c.stream for c in counters] == [f"{s}:{m}" for s in (US, EU) for m in ("2026-10", "2026-11")]
    current = counters[1]
    assert current.since == datetime(2026, 11, 1, tzinfo=UTC)
    assert current.unit == "USD"
    assert current.provenance is Provenance.NODE_ESTIMATE
    assert current.amounts.gross == Decimal("6.1785")  # 354.45 + 146.55 + 116.85 cents
    assert current.amounts.held == Decimal("1.544625")  # 25 % of it
    assert current.amounts.net == Decimal("4.6339")  # `payout`, which is net already
    assert counters[0].since == datetime(2026, 10, 1, tzinfo=UTC)
    assert {r.url.params.get("id") for r in script.requests if r.url.path.endswith("payout")} == {US, EU}


def test_the_month_before_january_is_december():
    storj, _ = adapter(clock=FixedClock(datetime(2027, 1, 1, 0, 5, tzinfo=UTC)))
    assert [c.stream for c in storj.earnings(WINDOW)][:2] == [f"{US}:2026-12", f"{US}:2027-01"]


def test_an_answer_given_while_the_month_turns_is_asked_for_again():
    clock = FixedClock(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC))
    routes = storj_routes()
    answer = routes["/api/sno/estimated-payout"]

    def across_the_turn(_request):
        clock.set(datetime(2026, 12, 1, tzinfo=UTC))
        return answer

    routes["/api/sno/estimated-payout"] = across_the_turn
    storj, script = adapter(routes, clock=clock)
    assert storj.earnings(WINDOW)[1].stream == f"{US}:2026-12"
    assert len(script.requests) == 4  # the dashboard, the first satellite twice, the second once


def test_a_disqualified_satellite_is_skipped_and_told_in_health():
    routes = storj_routes()
    routes["/api/sno/"]["satellites"][0]["disqualified"] = "2026-02-11T08:12:00Z"
    storj, script = adapter(routes)
    assert {c.stream.split(":")[0] for c in storj.earnings(WINDOW)} == {EU}
    assert US not in str([r.url for r in script.requests])
    health = storj.health()
    assert health.state is HealthState.AT_RISK
    assert "disqualified on us1.storj.io:7777 since 2026-02-11" in health.reason


def test_a_satellite_disqualified_between_two_calls_is_skipped_and_any_other_failure_is_not():
    routes = storj_routes()
    answer = routes["/api/sno/estimated-payout"]
    message = "consoleapi storagenode: console: estimationservice: node was disqualified on satellite"
    routes["/api/sno/estimated-payout"] = lambda request: (
        httpx.Response(500, json={"error": message}) if request.url.params["id"] == US else answer
    )
    assert {c.stream.split(":")[0] for c in adapter(routes)[0].earnings(WINDOW)} == {EU}
    routes["/api/sno/estimated-payout"] = httpx.Response(500, json={"error": "console: database is locked"})
    with pytest.raises(ApiError, match="database is locked"):
        adapter(routes)[0].earnings(WINDOW)


def test_a_node_without_satellites_has_no_earnings_rather_than_zero():
    routes = storj_routes()
    routes["/api/sno/"]["satellites"] = None
    routes["/api/sno/satellites"]["audits"] = None
    storj, _ = adapter(routes)
    assert list(storj.earnings(WINDOW)) == []
    assert storj.health().scores == {}


def test_history_is_a_measured_bucket_per_settled_month():
    storj, _ = adapter()
    (bucket,) = storj.earnings_history(Window(datetime(2026, 10, 23, tzinfo=UTC), NOW))
    assert bucket.window == Window(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
    assert bucket.provenance is Provenance.MEASURED
    assert bucket.amounts.gross == Decimal("1.941737")
    assert bucket.amounts.net == Decimal("1.441737")


def test_no_paystubs_are_null_and_a_surge_multiplies():
    path = "/api/heldamount/paystubs/2026-10/2026-11"
    window = Window(datetime(2026, 10, 23, tzinfo=UTC), NOW)
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


def test_a_healthy_node_tells_the_worst_scores_over_its_satellites():
    health = adapter()[0].health()
    assert health.state is HealthState.HEALTHY
    assert health.version == "1.162.3"
    assert health.scores == {"audit": 1.0, "suspension": 0.999, "online": 0.9731}


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


def test_the_spa_page_at_a_wrong_port_is_a_parse_error():
    with pytest.raises(ParseError, match="got text/html"):
        adapter({"/api/sno/": httpx.Response(200, html="<!doctype html>")})[0].health()


def test_a_wrong_field_is_named_by_its_path_and_what_was_expected():
    routes = storj_routes()
    routes["/api/sno/estimated-payout"]["currentMonth"]["payout"] = "617.85"
    with pytest.raises(ParseError, match=r"\$\.currentMonth\.payout: expected a number, got a text"):
        adapter(routes)[0].earnings(WINDOW)
    del routes["/api/sno/"]["satellites"][1]["suspended"]
    with pytest.raises(ParseError, match=r"\$\.satellites\[1\]\.suspended: is missing"):
        adapter(routes)[0].health()


@pytest.mark.parametrize("version", ["v1.37.1", "v1.55.1"])
def test_answers_recorded_from_real_nodes_are_read(version):
    folder = recorded_storj() / version
    sno, payout, satellite = (json.loads((folder / f"{n}.json").read_text()) for n in ("sno", "payout", "satellite"))
    routes = {
        "/api/sno/": sno,
        "/api/sno/estimated-payout": payout,
        "/api/sno/satellites": {"audits": [satellite["audits"]]},
    }
    storj, _ = adapter(routes, clock=FixedClock(datetime.fromisoformat(sno["lastPinged"])))
    health = storj.health()
    assert health.state is HealthState.HEALTHY
    assert health.version == sno["version"]
    counters = storj.earnings(WINDOW)
    assert len(counters) == 2 * len(sno["satellites"])
    month = payout["currentMonth"]
    paid = ("egressBandwidthPayout", "egressRepairAuditPayout", "diskSpacePayout")
    gross = sum(Decimal(repr(month[name])) for name in paid) / 100
    assert counters[1].amounts.gross == gross
    assert counters[1].amounts.net == Decimal(repr(month["payout"])) / 100
    usage = {u.metric: u.value for u in storj.resource_usage()}
    disk = sno["diskSpace"]
    assert usage["disk_used_bytes"] == disk["used"] + disk["trash"]
    assert usage["disk_free_bytes"] == disk["available"] - disk["used"] - disk["trash"]
    assert storj.allocation().value == 3500


def written(tmp_path, text=CONFIG):
    file = tmp_path / "config.yaml"
    file.write_bytes(text.encode())
    file.chmod(0o640)
    return file


def restarting(routes, allocated=None):
    def restart():
        routes["/api/sno/"]["startedAt"] = "2026-11-20T12:00:30Z"
        if allocated:
            routes["/api/sno/"]["diskSpace"]["allocated"] = allocated

    return FakeController(restart)


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
    with pytest.raises(SettingsError, match=r"storj-1.*Options of the storj adapter: config_file, restart_seconds"):
        adapter(options=options)


def test_a_node_without_demand_for_disk_is_refused():
    demand = {"cpu_threads": 1, "memory_gib": 1, "disk_gb": 0, "bandwidth_mbps": 1}
    with pytest.raises(SettingsError, match=r"demand\.disk_gb must be above 0"):
        adapter(demand=demand)


def test_closing_closes_the_controller_too():
    controller = FakeController()
    adapter(controller=controller)[0].close()
    assert controller.closed
