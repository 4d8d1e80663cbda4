import json
import math
from datetime import UTC, datetime

import pytest

from orcha_pipeline.testnet.storj import LEAST_PAYOUT
from orcha_pipeline.testnet.storj_books import SATELLITES, held_rate

BASE = "/nodes/storj-1"


def show(lab, **what):
    (lab.testnet.state / "storj-1" / "console.json").write_text(json.dumps(what))


def go_round(value):
    """Go's RoundFloat, stated independently: halves away from zero at two places."""
    return math.trunc(value * 100 + 0.5) / 100


def test_the_dashboard_is_of_the_new_generation(lab):
    lab.pass_hours(5)
    disk = lab.json(f"{BASE}/api/sno/")["diskSpace"]
    assert set(disk) == {"used", "available", "overused", "allocated", "trash", "reclaimable"}
    assert disk["allocated"] == round(lab.economy.nodes["storj-1"].lever_value * 1e12)
    assert disk["available"] == disk["allocated"] - disk["used"]
    assert disk["overused"] == 0


def test_a_shrunk_node_is_overused_until_its_data_has_drained(lab):
    path = lab.testnet.state / "storj-1" / "config.yaml"
    path.write_text("storage.allocated-disk-space: 1.50 TB\n")
    lab.http.post("/docker/containers/storj-1/restart")
    lab.pass_hours(1)
    disk = lab.json(f"{BASE}/api/sno/")["diskSpace"]
    assert disk["allocated"] == 1_500_000_000_000
    assert disk["overused"] == disk["used"] - disk["allocated"] > 0
    assert disk["available"] == 0
    lab.pass_hours(96)
    assert lab.json(f"{BASE}/api/sno/")["diskSpace"]["overused"] == 0


def test_the_missing_slash_is_redirected_for_good_and_the_other_way_round(lab):
    for asked, told in (("/api/sno", "/api/sno/"), ("/api/sno/satellites/", "/api/sno/satellites")):
        response = lab.get(BASE + asked)
        assert response.status_code == 301
        assert response.headers["location"].endswith(BASE + told)


def test_a_wrong_address_looks_like_a_success_in_html(lab):
    response = lab.get(f"{BASE}/api/sno/estimated-payouts")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")


def test_a_wrong_method_is_405(lab):
    assert lab.http.post(f"{BASE}/api/sno/").status_code == 405


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/api/sno/satellite/nonsense!", 400, "node ID"),
        ("/api/sno/satellite/" + "1" * 51, 404, "satellite is untrusted"),
        ("/api/sno/estimated-payout?id=" + "1" * 51, 404, "satellite is untrusted"),
        ("/api/sno/satellites/" + "1" * 51 + "/pricing", 404, "satellite is untrusted"),
        ("/api/heldamount/paystubs/2026-13", 400, "period start has wrong format"),
    ],
)
def test_errors_come_as_go_writes_them(lab, path, status, text):
    response = lab.get(BASE + path)
    assert response.status_code == status
    assert text in response.json()["error"]


def test_estimates_are_rounded_per_satellite_and_lose_the_held_rate_in_the_sum(lab):
    lab.pass_hours(30)
    whole = lab.json(f"{BASE}/api/sno/estimated-payout")
    parts = [lab.json(f"{BASE}/api/sno/estimated-payout?id={s.id}") for s in SATELLITES]
    assert [part["currentMonth"]["heldRate"] for part in parts] == [0, 25, 75]
    assert whole["currentMonth"]["heldRate"] == 0
    for part, satellite in zip(parts, SATELLITES, strict=True):
        month = part["currentMonth"]
        price = lab.json(f"{BASE}/api/sno/satellites/{satellite.id}/pricing")
        assert month["egressBandwidthPayout"] == go_round(month["egressBandwidth"] * price["egressBandwidth"] / 1e12)
        assert month["egressRepairAuditPayout"] == go_round(month["egressRepairAudit"] * price["auditBandwidth"] / 1e12)
        assert month["diskSpacePayout"] == go_round(month["diskSpace"] * price["diskSpace"] / 1e12)
        gross = month["diskSpacePayout"] + month["egressBandwidthPayout"] + month["egressRepairAuditPayout"]
        assert month["held"] == gross * month["heldRate"] / 100
        assert month["payout"] == go_round(gross - month["held"])
        begin, end = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
        passed = (lab.economy.now - begin.timestamp()) / 60
        minutes = (end - begin).total_seconds() / 60
        assert part["currentMonthExpectations"] == int(month["payout"] / passed * minutes)
    for key in ("payout", "held", "egressBandwidth", "diskSpace"):
        assert whole["currentMonth"][key] == pytest.approx(sum(part["currentMonth"][key] for part in parts))


def test_once_all_is_counted_the_month_comes_to_what_the_node_earned(lab):
    lab.pass_hours(12 * 24)
    earned = lab.truth("storj-1")["native_total"] * 100
    turned = lab.json(f"{BASE}/api/sno/estimated-payout")["previousMonth"]
    assert turned["payout"] + turned["held"] < 0.99 * earned
    lab.pass_hours(48)
    counted = lab.json(f"{BASE}/api/sno/estimated-payout")["previousMonth"]
    assert counted["payout"] + counted["held"] == pytest.approx(earned, abs=0.06)


def test_the_month_turns_over_to_zero_and_the_old_one_stays_readable(lab):
    lab.pass_hours(12 * 24 - 1)
    before = lab.json(f"{BASE}/api/sno/estimated-payout")["currentMonth"]
    lab.pass_hours(1)
    turned = lab.json(f"{BASE}/api/sno/estimated-payout")
    assert turned["currentMonth"]["payout"] == 0
    assert turned["currentMonthExpectations"] == 0
    assert turned["previousMonth"]["payout"] > before["payout"]
    lab.pass_hours(48)
    counted = lab.json(f"{BASE}/api/sno/estimated-payout")["previousMonth"]
    assert counted["egressBandwidth"] == turned["previousMonth"]["egressBandwidth"]
    lab.pass_hours(30)
    later = lab.json(f"{BASE}/api/sno/estimated-payout")
    assert later["previousMonth"] == counted
    assert 0 < later["currentMonth"]["payout"] < before["payout"]


def test_usage_lists_are_null_while_empty_and_add_up_later(lab):
    satellite = SATELLITES[0]
    empty = lab.json(f"{BASE}/api/sno/satellite/{satellite.id}")
    assert empty["storageDaily"] is None
    assert empty["bandwidthDaily"] is None
    lab.pass_hours(30)
    answer = lab.json(f"{BASE}/api/sno/satellite/{satellite.id}")
    assert set(answer["priceModel"]) == {"EgressBandwidth", "RepairBandwidth", "AuditBandwidth", "DiskSpace"}
    assert answer["bandwidthSummary"] == answer["egressSummary"] + answer["ingressSummary"]
    everything = lab.json(f"{BASE}/api/sno/satellites")
    assert "intervalInHours" not in everything["storageDaily"][0]
    assert len(everything["audits"]) == 3
    assert lab.json(f"{BASE}/api/sno/")["bandwidth"]["used"] == everything["bandwidthSummary"]
    parts = [lab.json(f"{BASE}/api/sno/satellite/{each.id}") for each in SATELLITES]
    assert everything["egressSummary"] == sum(part["egressSummary"] for part in parts)
    assert everything["storageSummary"] == pytest.approx(sum(part["storageSummary"] for part in parts))


def test_what_is_stored_is_counted_twelve_hours_to_two_and_a_half_days_late(lab):
    lab.pass_hours(30)
    counted, filled = lab.json(f"{BASE}/api/sno/satellite/{SATELLITES[0].id}")["storageDaily"]
    assert (counted["intervalInHours"], counted["calculated"]) == (12, False)
    assert counted["atRestTotalBytes"] == pytest.approx(counted["atRestTotal"] / 12)
    assert (filled["atRestTotal"], filled["intervalInHours"], filled["calculated"]) == (0, 6, True)
    assert filled["atRestTotalBytes"] == counted["atRestTotalBytes"]
    assert lab.json(f"{BASE}/api/sno/satellite/{SATELLITES[2].id}")["storageDaily"] is None
    lab.pass_hours(19)
    (first, *_) = lab.json(f"{BASE}/api/sno/satellite/{SATELLITES[2].id}")["storageDaily"]
    assert first["intervalInHours"] == 12
    one = lab.json(f"{BASE}/api/sno/satellite/{SATELLITES[0].id}")
    estimate = lab.json(f"{BASE}/api/sno/estimated-payout?id={SATELLITES[0].id}")["currentMonth"]
    assert estimate["diskSpace"] == pytest.approx(one["storageSummary"] / 720)


def test_in_a_new_month_the_last_level_is_carried_on(lab):
    lab.pass_hours(12 * 24 + 3)
    (row,) = lab.json(f"{BASE}/api/sno/satellite/{SATELLITES[0].id}")["storageDaily"]
    assert (row["intervalStart"], row["calculated"], row["atRestTotal"]) == ("2026-11-01T00:00:00Z", True, 0)
    show(lab, version="1.142.7")
    assert lab.json(f"{BASE}/api/sno/satellite/{SATELLITES[0].id}")["storageDaily"] is None


def test_a_node_before_v1_143_tells_its_disk_in_the_old_way(lab):
    lab.pass_hours(48)
    new = lab.json(f"{BASE}/api/sno/")
    show(lab, version="1.142.7")
    old = lab.json(f"{BASE}/api/sno/")
    assert set(old["diskSpace"]) == {"used", "available", "overused", "trash"}
    assert old["diskSpace"]["available"] == new["diskSpace"]["allocated"]
    assert old["diskSpace"]["used"] == new["diskSpace"]["used"] - new["diskSpace"]["trash"]
    assert "vettedAt" not in old["satellites"][0]
    rows = lab.json(f"{BASE}/api/sno/satellite/{SATELLITES[0].id}")["storageDaily"]
    assert all("calculated" not in row for row in rows)


def test_the_containers_variable_comes_before_the_file(lab):
    lab.economy.nodes["storj-1"].environment["STORAGE"] = "1.50TB"
    lab.http.post("/docker/containers/storj-1/restart")
    lab.pass_hours(1)
    assert lab.json(f"{BASE}/api/sno/")["diskSpace"]["allocated"] == 1_500_000_000_000


def test_a_satellite_that_disqualified_the_node_estimates_nothing(lab):
    lab.pass_hours(48)
    us, eu, _ = SATELLITES
    whole = lab.json(f"{BASE}/api/sno/estimated-payout")["currentMonth"]["payout"]
    part = lab.json(f"{BASE}/api/sno/estimated-payout?id={us.id}")["currentMonth"]["payout"]
    show(
        lab,
        satellites={us.url: {"disqualified": "2026-10-21T00:00:00Z"}, eu.url: {"suspended": "2026-10-21T01:00:00Z"}},
    )
    answer = lab.get(f"{BASE}/api/sno/estimated-payout?id={us.id}")
    assert answer.status_code == 500
    told = "consoleapi storagenode: console: estimationservice: node was disqualified on satellite"
    assert answer.json() == {"error": told}
    assert lab.json(f"{BASE}/api/sno/estimated-payout")["currentMonth"]["payout"] == pytest.approx(whole - part)
    shown = lab.json(f"{BASE}/api/sno/")["satellites"]
    assert [s["disqualified"] for s in shown] == ["2026-10-21T00:00:00Z", None, None]
    assert [s["suspended"] for s in shown] == [None, "2026-10-21T01:00:00Z", None]
    assert lab.json(f"{BASE}/api/sno/satellite/{us.id}")["bandwidthDaily"]


def test_the_public_port_answers_503_while_a_satellite_is_not_healthy(lab):
    lab.pass_hours(1)
    answer = lab.get(f"{BASE}/public-port")
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/plain")
    assert json.loads(answer.text)["AllHealthy"] is True
    assert json.loads(answer.text)["Statuses"] is None
    show(lab, satellites={SATELLITES[1].url: {"onlineScore": 0.89}})
    config = lab.testnet.state / "storj-1" / "config.yaml"
    config.write_text(config.read_text() + "healthcheck.details: true\n")
    answer = lab.get(f"{BASE}/public-port")
    assert answer.status_code == 503
    assert json.loads(answer.text)["Statuses"][1] == {
        "OnlineScore": 0.89,
        "SatelliteID": SATELLITES[1].id,
        "DisqualifiedAt": None,
        "SuspendedAt": None,
    }


def test_notifications_are_listed_by_page_and_marked_as_read(lab):
    path = f"{BASE}/api/notifications/list"
    for query in ("", "?limit=10", "?page=1", "?limit=ten&page=1"):
        assert lab.get(path + query).status_code == 400
    empty = lab.json(f"{path}?limit=10&page=1")
    assert empty["page"]["notifications"] is None
    notices = [{"type": n, "title": f"n{n}", "createdAt": f"2026-10-0{n}T00:00:00Z"} for n in (1, 2, 3)]
    show(lab, notifications=notices)
    first = lab.json(f"{path}?limit=2&page=1")
    assert [n["title"] for n in first["page"]["notifications"]] == ["n3", "n2"]
    assert (first["unreadCount"], first["totalCount"], first["page"]["pageCount"]) == (3, 3, 2)
    known = first["page"]["notifications"][0]["id"]
    assert lab.http.post(f"{BASE}/api/notifications/{known}/read").content == b""
    assert lab.http.post(f"{BASE}/api/notifications/none/read").status_code == 500
    assert lab.get(f"{BASE}/api/notifications/readall").status_code == 405
    assert lab.json(f"{path}?limit=2&page=1")["unreadCount"] == 2
    assert lab.http.post(f"{BASE}/api/notifications/readall").status_code == 200
    assert lab.json(f"{path}?limit=2&page=1")["unreadCount"] == 0


def test_a_small_payout_waits_for_the_next_month(lab):
    lab.pass_hours(24 * 19)
    october = f"{BASE}/api/heldamount/paystubs/2026-10"
    stubs = lab.json(october)
    waiting = [stub for stub in stubs if stub["paid"] < LEAST_PAYOUT]
    assert waiting
    assert all(stub["distributed"] == 0 for stub in waiting)
    lab.pass_hours(24 * 31)
    for early, late in zip(stubs, lab.json(october.replace("10", "11")), strict=True):
        assert late["distributed"] == late["paid"] + early["paid"] - early["distributed"]
    history = lab.json(f"{BASE}/api/heldamount/payout-history/2026-10")
    for row, stub in zip(history, stubs, strict=True):
        assert (row["paid"], row["distributed"]) == (stub["paid"], stub["distributed"])
        assert bool(row["receipt"]) == bool(row["distributed"])
        assert row["afterHeld"] == row["earned"] - row["held"] == row["paid"]
    assert [row["heldPercent"] for row in history] == [0, 25, 75]
    assert lab.json(f"{BASE}/api/heldamount/payout-history/2026-01") is None
    assert lab.get(f"{BASE}/api/heldamount/payout-history/2026-13").status_code == 400


def test_what_was_counted_and_read_outlives_a_restart_of_the_testnet(lab, make_lab):
    lab.pass_hours(36)
    show(lab, notifications=[{"type": 1, "title": "n", "createdAt": "2026-10-20T00:00:00Z"}])
    lab.http.post(f"{BASE}/api/notifications/readall")
    before = lab.json(f"{BASE}/api/sno/satellite/{SATELLITES[1].id}")
    lab.testnet.save()
    again = make_lab(state=lab.testnet.state)
    assert again.json(f"{BASE}/api/sno/satellite/{SATELLITES[1].id}") == before
    assert again.json(f"{BASE}/api/notifications/list?limit=1&page=1")["unreadCount"] == 0


def test_paystubs_appear_a_week_into_the_next_month_in_micro_dollars(lab):
    path = f"{BASE}/api/heldamount/paystubs/2026-10"
    lab.pass_hours(24 * 14)
    assert lab.json(path) is None
    assert lab.json(f"{path}?id={SATELLITES[0].id}") is None
    assert lab.json(f"{BASE}/api/heldamount/periods") is None
    lab.pass_hours(24 * 5)
    stubs = lab.json(path)
    assert [stub["satelliteId"] for stub in stubs] == [satellite.id for satellite in SATELLITES]
    assert lab.json(f"{BASE}/api/heldamount/periods") == ["2026-10"]
    previous = lab.json(f"{BASE}/api/sno/estimated-payout")["previousMonth"]
    assert sum(stub["paid"] for stub in stubs) / 1e4 == pytest.approx(previous["payout"], abs=0.1)
    assert sum(stub["held"] for stub in stubs) / 1e4 == pytest.approx(previous["held"], abs=0.1)
    held = lab.json(f"{BASE}/api/heldamount/held-history")
    assert [row["totalHeld"] for row in held] == [stub["held"] for stub in stubs]
    assert held[2]["holdForFirstPeriod"] == stubs[2]["held"] > 0
    assert isinstance(lab.json(f"{path}?id={SATELLITES[1].id}"), dict)
    assert len(lab.json(f"{BASE}/api/heldamount/paystubs/2026-09/2026-11")) == 3


def test_being_away_lowers_the_online_score(lab):
    lab.pass_hours(1)
    assert lab.json(f"{BASE}/api/sno/satellites")["audits"][0]["onlineScore"] == 1.0
    lab.http.post("/docker/containers/storj-1/stop")
    lab.pass_hours(36)
    lab.http.post("/docker/containers/storj-1/start")
    lab.pass_hours(1)
    answer = lab.json(f"{BASE}/api/sno/satellite/{SATELLITES[0].id}")
    assert answer["audits"]["onlineScore"] == pytest.approx(1 - 36 / 720, abs=0.001)


def test_the_held_rate_falls_by_calendar_months():
    assert [held_rate(months) for months in range(11)] == [75, 75, 75, 50, 50, 50, 25, 25, 25, 0, 0]
