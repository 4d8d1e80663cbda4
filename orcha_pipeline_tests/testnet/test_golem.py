import json
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pytest

BASE = "/nodes/golem-1"
KEY = {"Authorization": "Bearer testnet-app-key"}


def ask(lab, path, **parameters):
    return lab.json(BASE + path, headers=KEY, params=parameters)


def seconds(text):
    return datetime.fromisoformat(text).timestamp()


def iso(at):
    return datetime.fromtimestamp(at, UTC).isoformat()


def test_a_missing_or_wrong_key_is_told_in_plain_text(lab):
    for headers, text in (({}, "Missing application key"), ({"Authorization": "Bearer x"}, "Invalid application key")):
        response = lab.get(f"{BASE}/me", headers=headers)
        assert response.status_code == 401
        assert response.headers["content-type"].startswith("text/plain")
        assert response.text == text
    assert lab.get(f"{BASE}/me", params={"authToken": "testnet-app-key"}).json()["role"] == "manager"


def test_version_and_metrics_need_no_key(lab):
    assert lab.get(f"{BASE}/version/get").json()["pending"] is None
    assert "payment_amount_received" in lab.get(f"{BASE}/metrics-api/v1/expose").text
    assert lab.get(f"{BASE}/healthcheck").status_code == 401
    assert ask(lab, "/healthcheck") == {"status": "ok"}


def test_debit_notes_are_cumulative_per_activity_and_add_up_to_what_was_earned(lab):
    lab.pass_hours(20)
    notes = ask(lab, "/payment-api/v1/debitNotes")
    highest = {}
    previous = {}
    for note in notes:
        due = Decimal(note["totalAmountDue"])
        assert due > highest.get(note["activityId"], 0)
        assert note["previousDebitNoteId"] == previous.get(note["activityId"])
        highest[note["activityId"]], previous[note["activityId"]] = due, note["debitNoteId"]
    assert [note["timestamp"] for note in notes] == sorted(note["timestamp"] for note in notes)
    assert len({note["debitNoteId"] for note in notes}) == len(notes)
    accrued = float(sum(highest.values()))
    per_note = lab.truth("golem-1")["native_per_hour"] / 30
    assert accrued == pytest.approx(lab.truth("golem-1")["native_total"], abs=1.5 * per_note)
    gaps = {
        round(seconds(b["timestamp"]) - seconds(a["timestamp"]))
        for a, b in pairwise(notes)
        if a["activityId"] == b["activityId"]
    }
    assert max(gaps) == 120


def test_notes_never_change_and_are_the_same_however_they_are_paged(lab):
    lab.pass_hours(9)
    first = ask(lab, "/payment-api/v1/debitNotes")
    lab.pass_hours(9)
    whole = ask(lab, "/payment-api/v1/debitNotes")
    assert [{**note, "status": ""} for note in whole[: len(first)]] == [{**note, "status": ""} for note in first]
    pages, after = [], iso(0)
    while page := ask(lab, "/payment-api/v1/debitNotes", afterTimestamp=after, maxItems=37):
        pages += page
        after = page[-1]["timestamp"]
    assert pages == whole
    window = ask(lab, "/payment-api/v1/debitNotes", afterTimestamp=iso(lab.economy.now - 3600))
    assert window == whole[-len(window) :]
    assert 25 <= len(window) <= 31


def test_an_ended_agreement_is_invoiced_then_paid(lab):
    lab.pass_hours(30)
    invoices = ask(lab, "/payment-api/v1/invoices")
    payments = ask(lab, "/payment-api/v1/payments", timeout=0)
    notes = ask(lab, "/payment-api/v1/debitNotes")
    final = {note["activityId"]: note["totalAmountDue"] for note in notes}
    for invoice in invoices:
        assert invoice["amount"] == final[invoice["activityIds"][0]]
    settled = {invoice["agreementId"]: invoice["amount"] for invoice in invoices if invoice["status"] == "SETTLED"}
    assert {p["agreementPayments"][0]["agreementId"]: p["amount"] for p in payments} == settled
    received = sum(int(Decimal(payment["amount"]) * 10**9) for payment in payments)
    metrics = dict(line.rsplit(" ", 1) for line in lab.get(f"{BASE}/metrics-api/v1/expose").text.splitlines())
    shown = int(metrics['payment_amount_received{platform="erc20-polygon-glm"}'])
    assert shown == pytest.approx(received, abs=len(payments))
    one = ask(lab, f"/payment-api/v1/invoices/{invoices[0]['invoiceId']}")
    assert one == invoices[0]


def test_counters_are_the_same_read_once_or_every_hour(make_lab, tmp_path):
    often, once = make_lab(state=tmp_path / "a"), make_lab(state=tmp_path / "b")
    for _ in range(40):
        often.pass_hours(1)
        often.get(f"{BASE}/metrics-api/v1/expose")
    once.pass_hours(40)
    assert often.get(f"{BASE}/metrics-api/v1/expose").text == once.get(f"{BASE}/metrics-api/v1/expose").text


def test_some_invoices_are_never_accepted(lab):
    lab.pass_hours(24 * 20)
    old = iso(lab.economy.now - 5 * 86400)
    invoices = [i for i in ask(lab, "/payment-api/v1/invoices") if seconds(i["timestamp"]) < seconds(old)]
    states = {invoice["status"] for invoice in invoices}
    assert states == {"SETTLED", "ISSUED"}
    assert 0 < sum(invoice["status"] == "ISSUED" for invoice in invoices) < 0.1 * len(invoices)


def test_the_offer_shows_the_profile_and_follows_the_file(lab):
    path = lab.testnet.state / "golem-1" / "hardware.json"
    hardware = json.loads(path.read_text())
    offer = ask(lab, "/market-api/v1/offers")[0]["properties"]
    assert offer["golem.inf.cpu.threads"] == hardware["profiles"]["default"]["cpu_threads"]
    hardware["profiles"]["default"] |= {"cpu_threads": 9, "mem_gib": 500.0}
    path.write_text(json.dumps(hardware))
    assert ask(lab, "/market-api/v1/offers")[0]["properties"] == offer
    lab.pass_seconds(3)
    changed = ask(lab, "/market-api/v1/offers")[0]["properties"]
    assert changed["golem.inf.cpu.threads"] == 9
    assert changed["golem.inf.mem.gib"] == 64.0


def test_without_an_active_preset_there_are_no_offers_and_no_earnings(lab):
    path = lab.testnet.state / "golem-1" / "presets.json"
    presets = json.loads(path.read_text())
    lab.testnet.sync()
    path.write_text(json.dumps({**presets, "active": []}))
    lab.pass_seconds(10)
    before = lab.truth("golem-1")["native_total"]
    lab.pass_hours(2)
    assert ask(lab, "/market-api/v1/offers") == []
    assert lab.truth("golem-1")["native_total"] == before


def test_a_stuck_lever_leaves_offer_and_share_alone(lab):
    lab.http.post("/testnet/faults", json={"node": "golem-1", "kind": "apply_fails"})
    path = lab.testnet.state / "golem-1" / "hardware.json"
    before = ask(lab, "/market-api/v1/offers")[0]["properties"]
    path.write_text(path.read_text().replace('"cpu_threads": 4', '"cpu_threads": 7'))
    lab.pass_seconds(30)
    assert ask(lab, "/market-api/v1/offers")[0]["properties"] == before


def test_activities_of_agreements_can_be_followed(lab):
    lab.pass_hours(6)
    agreements = ask(lab, "/market-api/v1/agreements")
    running = ask(lab, "/market-api/v1/agreements", state="Approved")
    assert len(running) == 1
    assert ask(lab, f"/market-api/v1/agreements/{running[0]['id']}")["state"] == "Approved"
    assert ask(lab, f"/market-api/v1/agreements/{agreements[0]['id']}")["state"] == "Terminated"
    (activity,) = ask(lab, "/activity-api/v1/activity", agreementId=running[0]["id"])
    assert ask(lab, f"/activity-api/v1/activity/{activity}/state") == {"state": ["Ready", None]}
    usage = ask(lab, f"/activity-api/v1/activity/{activity}/usage")
    coefficients = ask(lab, "/market-api/v1/offers")[0]["properties"]["golem.com.pricing.model.linear.coeffs"]
    notes = [n for n in ask(lab, "/payment-api/v1/debitNotes") if n["activityId"] == activity]
    for note in notes:
        vector = note["usageCounterVector"]
        due = sum(c * u for c, u in zip(coefficients, vector, strict=False)) + coefficients[-1]
        assert due == pytest.approx(float(note["totalAmountDue"]))
    assert usage["currentUsage"][0] >= notes[-1]["usageCounterVector"][0] if notes else True


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/payment-api/v1/invoices/none", 404, {"message": None}),
        ("/payment-api/v1/debitNotes/none", 404, {"message": None}),
        ("/payment-api/v1/debitNotes/none/payments", 501, {"message": None}),
        ("/activity-api/v1/activity/none/state", 404, {"message": None}),
    ],
)
def test_what_is_not_there_is_told_as_yagna_tells_it(lab, path, status, body):
    response = lab.get(BASE + path, headers=KEY)
    assert response.status_code == status
    assert response.json() == body


def test_a_bad_parameter_is_a_bad_request(lab):
    for parameters in ({"afterTimestamp": "yesterday"}, {"maxItems": "many"}, {"maxItems": "0"}):
        response = lab.get(f"{BASE}/payment-api/v1/debitNotes", headers=KEY, params=parameters)
        assert response.status_code == 400
        assert response.json()["message"]


def test_payments_wait_for_news_unless_told_not_to(lab, monkeypatch):
    slept = []

    async def nap(pause):
        slept.append(pause)

    monkeypatch.setattr("orcha_pipeline.testnet.golem.asyncio.sleep", nap)
    after = iso(lab.economy.now)
    assert ask(lab, "/payment-api/v1/payments", afterTimestamp=after, timeout=0) == []
    assert slept == []
    assert ask(lab, "/payment-api/v1/payments", afterTimestamp=after) == []
    assert sum(slept) == pytest.approx(5.0)
