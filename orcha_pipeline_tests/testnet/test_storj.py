import math
from datetime import UTC, datetime

import pytest

from orcha_pipeline.testnet.storj import SATELLITES, held_rate

BASE = "/nodes/storj-1"


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
    gross_cents = whole["currentMonth"]["payout"] + whole["currentMonth"]["held"]
    assert gross_cents == pytest.approx(lab.truth("storj-1")["native_total"] * 100, abs=0.06)


def test_the_month_turns_over_to_zero_and_the_old_one_stays_readable(lab):
    lab.pass_hours(12 * 24 - 1)
    before = lab.json(f"{BASE}/api/sno/estimated-payout")["currentMonth"]
    lab.pass_hours(1)
    turned = lab.json(f"{BASE}/api/sno/estimated-payout")
    assert turned["currentMonth"]["payout"] == 0
    assert turned["currentMonthExpectations"] == 0
    assert turned["previousMonth"]["payout"] > before["payout"]
    lab.pass_hours(30)
    later = lab.json(f"{BASE}/api/sno/estimated-payout")
    assert later["previousMonth"] == turned["previousMonth"]
    assert 0 < later["currentMonth"]["payout"] < before["payout"]


def test_usage_lists_are_null_while_empty_and_add_up_later(lab):
    satellite = SATELLITES[0]
    empty = lab.json(f"{BASE}/api/sno/satellite/{satellite.id}")
    assert empty["storageDaily"] is None
    assert empty["bandwidthDaily"] is None
    lab.pass_hours(30)
    answer = lab.json(f"{BASE}/api/sno/satellite/{satellite.id}")
    assert set(answer["priceModel"]) == {"EgressBandwidth", "RepairBandwidth", "AuditBandwidth", "DiskSpace"}
    assert [row["intervalInHours"] for row in answer["storageDaily"]] == [24.0, 6.0]
    assert [row["calculated"] for row in answer["storageDaily"]] == [False, True]
    last = answer["storageDaily"][-1]
    assert last["atRestTotalBytes"] == pytest.approx(last["atRestTotal"] / 6)
    assert answer["bandwidthSummary"] == answer["egressSummary"] + answer["ingressSummary"]
    everything = lab.json(f"{BASE}/api/sno/satellites")
    assert "intervalInHours" not in everything["storageDaily"][0]
    assert len(everything["audits"]) == 3
    assert lab.json(f"{BASE}/api/sno/")["bandwidth"]["used"] == pytest.approx(everything["bandwidthSummary"], rel=1e-6)


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
