import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import httpx
import pytest
from pydantic import SecretStr

from orcha_pipeline.errors import AllocationError
from orcha_pipeline.model import HealthState, Provenance, Window
from orcha_pipeline.protocols.golem import GolemAdapter
from orcha_pipeline.settings import NodeSettings, ResourceSettings
from orcha_pipeline.testnet import golem
from orcha_pipeline.testnet.golem_books import Activity, note_status
from orcha_pipeline_tests.protocols.fakes import FakeController, no_waiting
from orcha_pipeline_tests.testnet.conftest import Client

BASE = "/nodes/golem-1"
KEY = {"Authorization": "Bearer testnet-app-key"}
METRICS = "/metrics-api/v1/expose"


def ask(lab, path, **parameters):
    return lab.json(BASE + path, headers=KEY, params=parameters)


def counters(lab, path=METRICS):
    lines = lab.get(BASE + path).text.splitlines()
    return {name: int(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def put(lab, **condition):
    response = lab.http.post(f"{BASE}/testnet/condition", json=condition)
    assert response.status_code == 200, response.text


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
    assert states <= {"SETTLED", "ISSUED", "RECEIVED", "REJECTED"}
    assert 0 < sum(invoice["status"] != "SETTLED" for invoice in invoices) < 0.1 * len(invoices)


def test_statuses_move_on_with_time_and_end_in_different_ways():
    now = 10**9
    activities = [Activity(number, now - 5400, now) for number in range(2000)]
    order = ["ISSUED", "RECEIVED", "ACCEPTED", "SETTLED"]
    ends = set()
    for activity in activities:
        seen = [activity.status(now + age) for age in (0, 10, 40, 3700, 4 * 86400)]
        assert seen[0] == "ISSUED"
        if activity.accepted:
            assert [order.index(status) for status in seen] == sorted(order.index(status) for status in seen)
        ends.add(seen[-1])
        assert (seen[-1] == "SETTLED") is activity.accepted
    assert ends == {"SETTLED", "ISSUED", "RECEIVED", "REJECTED"}
    assert any(a.accepted and a.paid_at > a.due_at for a in activities)
    assert [note_status(age) for age in (0, 5, 60)] == order[:3]


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
    assert ask(lab, "/market-api/v1/offers") == []
    lab.pass_seconds(lab.economy.books["golem"].busy_until(lab.economy.now) - lab.economy.now)
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


def test_the_address_of_what_needs_no_key_is_only_its_beginning(lab):
    for path in ("/version/getting", "/metrics-api/none", "/dashboard/x"):
        assert lab.get(BASE + path).status_code == 404
    assert lab.get(f"{BASE}/none").status_code == 401


def test_counters_begin_at_zero_again_after_a_restart_and_late_payments_still_count(lab):
    lab.pass_hours(50)
    before = counters(lab)
    received = next(name for name in before if name.startswith("payment_amount_received{"))
    assert before[received] > 0
    put(lab, restarted=True)
    after = counters(lab)
    assert after[received] == 0
    assert after["payment_invoices_provider_issued"] == 0
    paid = ask(lab, "/payment-api/v1/payments", timeout=0)
    lab.pass_hours(5)
    later = [p for p in ask(lab, "/payment-api/v1/payments", timeout=0) if p not in paid]
    expected = sum(int(Decimal(p["amount"]) * 10**9) for p in later)
    assert counters(lab)[received] == pytest.approx(expected, abs=len(later))
    assert counters(lab)["payment_invoices_provider_paid"] == len(later) > 0


def test_metrics_can_be_asked_for_by_prefix(lab):
    assert set(counters(lab, "/metrics-api/v1/filtered/net_,activity_")) == {
        "activity_provider_created",
        "activity_provider_destroyed",
        "net_public_addresses",
    }
    assert counters(lab, "/metrics-api/v1/sorted") == counters(lab)


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("payment-driver-errors", {"problems": ["Insufficient gas"]}),
        ("market-bcast-timeout", {"lastBcastAgeSecs": 181}),
        ("internal-error", {"instance": "/healthcheck/internal-error/internal-timeout"}),
    ],
)
def test_the_health_check_tells_each_problem_as_yagna_does(lab, kind, extra):
    put(lab, healthcheck=kind)
    response = lab.get(f"{BASE}/healthcheck", headers=KEY)
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"/healthcheck/{kind}"
    assert extra.items() <= response.json().items()
    put(lab, healthcheck=None)
    assert ask(lab, "/healthcheck") == {"status": "ok"}


def test_a_condition_that_is_none_is_refused(lab):
    for body in ({"healthcheck": "tired"}, {"driver": ["NoSuchKind"]}):
        assert lab.http.post(f"{BASE}/testnet/condition", json=body).status_code == 400
    assert lab.http.post(f"{BASE}/testnet/condition", content=b"{").status_code == 400


def test_driver_problems_stand_in_the_status_and_in_the_health_check(lab):
    assert ask(lab, "/payment-api/v1/payments/status") == []
    put(lab, driver=["InsufficientGas", "RpcError"])
    gas, rpc = ask(lab, "/payment-api/v1/payments/status")
    assert (gas["kind"], gas["neededGasEst"]) == ("InsufficientGas", "0.002")
    assert rpc == {"kind": "RpcError", "driver": "erc20", "network": "polygon"}
    problems = lab.get(f"{BASE}/healthcheck", headers=KEY).json()["problems"]
    assert problems == ["Insufficient gas", "RPC error"]


def test_events_follow_what_becomes_of_documents_and_can_be_filtered(lab):
    lab.pass_hours(40)
    events = ask(lab, "/payment-api/v1/invoiceEvents", timeout=0)
    assert [e["eventDate"] for e in events] == sorted(e["eventDate"] for e in events)
    statuses = {i["invoiceId"]: i["status"] for i in ask(lab, "/payment-api/v1/invoices")}
    last = {e["invoiceId"]: e["eventType"] for e in events}
    assert {i for i, kind in last.items() if kind == "InvoiceSettledEvent"} == {
        i for i, status in statuses.items() if status == "SETTLED"
    }
    response = lab.get(
        f"{BASE}/payment-api/v1/invoiceEvents",
        headers={**KEY, "X-Provider-Events": "InvoiceSettledEvent, InvoiceRejectedEvent"},
        params={"timeout": 0, "maxEvents": 3},
    )
    kept = [e for e in events if e["eventType"] in ("InvoiceSettledEvent", "InvoiceRejectedEvent")]
    assert response.json() == kept[:3]
    after = events[-3]["eventDate"]
    assert ask(lab, "/payment-api/v1/invoiceEvents", timeout=0, afterTimestamp=after) == events[-2:]
    notes = ask(lab, "/payment-api/v1/debitNoteEvents", timeout=0, maxEvents=5)
    assert [e["debitNoteId"] for e in notes] == [
        n["debitNoteId"] for n in ask(lab, "/payment-api/v1/debitNotes", maxItems=5)
    ]
    made = ask(lab, "/market-api/v1/agreementEvents", timeout=0)
    assert {e["eventType"] for e in made} == {"AgreementApprovedEvent", "AgreementTerminatedEvent"}


def test_what_was_paid_for_agreements_and_activities_adds_up(lab):
    lab.pass_hours(30)
    agreements = ask(lab, "/payment-api/v1/payAgreements")
    activities = ask(lab, "/payment-api/v1/payActivities")
    payments = ask(lab, "/payment-api/v1/payments", timeout=0)
    for found in (agreements, activities):
        assert sum(Decimal(each["totalAmountPaid"]) for each in found) == sum(Decimal(p["amount"]) for p in payments)
    assert {a["agreementId"] for a in activities} == {a["id"] for a in agreements}
    assert all(Decimal(a["totalAmountPaid"]) <= Decimal(a["totalAmountAccepted"]) for a in agreements)


def test_a_running_task_keeps_the_size_and_order_it_was_agreed_with(lab):
    lab.pass_hours(3)
    (running,) = ask(lab, "/market-api/v1/agreements", state="Approved")
    before = ask(lab, f"/market-api/v1/agreements/{running['id']}")["offer"]["properties"]
    path = lab.testnet.state / "golem-1" / "hardware.json"
    path.write_text(path.read_text().replace('"cpu_threads": 4', '"cpu_threads": 7'))
    lab.pass_seconds(10)
    (offer,) = ask(lab, "/market-api/v1/offers")
    assert offer["properties"]["golem.inf.cpu.threads"] == 7
    after = ask(lab, f"/market-api/v1/agreements/{running['id']}")["offer"]["properties"]
    assert (after, after["golem.inf.cpu.threads"]) == (before, 4)
    while (now := ask(lab, "/market-api/v1/agreements", state="Approved")) == [running]:
        lab.pass_hours(0.5)
    later = ask(lab, f"/market-api/v1/agreements/{now[0]['id']}")["offer"]["properties"]
    assert later["golem.inf.cpu.threads"] == 7


def test_only_an_ended_agreement_has_a_reason(lab):
    lab.pass_hours(6)
    agreements = ask(lab, "/market-api/v1/agreements")
    reason = "/market-api/v1/agreements/{}/terminate/reason"
    assert ask(lab, reason.format(agreements[0]["id"]))["message"] == "Success"
    assert lab.get(BASE + reason.format(agreements[-1]["id"]), headers=KEY).status_code == 404


def test_the_monitor_is_a_stream_of_events_with_the_running_task(lab):
    lab.pass_hours(3)
    (running,) = ask(lab, "/market-api/v1/agreements", state="Approved")
    sent = []

    async def listen():
        """As a client that leaves after the first event."""
        gone = asyncio.Event()

        async def receive():
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if message.get("body"):
                gone.set()

        headers = [(b"authorization", b"Bearer testnet-app-key"), (b"host", b"testnet")]
        path = f"{BASE}/activity-api/v1/_monitor"
        scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": headers, "asgi": {"version": "3.0"}, "http_version": "1.1", "root_path": ""}
        await lab.http.app(scope, receive, send)

    asyncio.run(asyncio.wait_for(listen(), 10))
    assert dict(sent[0]["headers"])[b"content-type"].startswith(b"text/event-stream")
    body = sent[1]["body"].decode()
    assert body.startswith("data: ")
    assert body.endswith("\r\n\r\n")
    (task,) = json.loads(body.removeprefix("data: "))["activities"]
    assert task["agreementId"] == running["id"]
    assert set(task["usage"]) == {"golem.usage.cpu_sec", "golem.usage.duration_sec"}


def test_amounts_are_decimal_strings_of_up_to_eighteen_places(lab):
    lab.pass_hours(5)
    places = {len(n["totalAmountDue"].partition(".")[2]) for n in ask(lab, "/payment-api/v1/debitNotes")}
    assert 15 < max(places) <= 18


def test_payments_of_another_driver_or_network_are_none(lab):
    lab.pass_hours(30)
    assert ask(lab, "/payment-api/v1/payments", timeout=0, driver="erc20", network="polygon")
    assert ask(lab, "/payment-api/v1/payments", timeout=0, network="holesky") == []


def test_sizes_and_condition_survive_a_restart_of_the_testnet(make_lab, tmp_path):
    first = make_lab(state=tmp_path / "a")
    first.pass_hours(3)
    put(first, driver=["RpcError"])
    first.testnet.save()
    again = make_lab(state=tmp_path / "a")
    assert ask(again, "/payment-api/v1/payments/status")[0]["kind"] == "RpcError"
    agreements = ask(again, "/market-api/v1/agreements")
    path = f"/market-api/v1/agreements/{agreements[0]['id']}"
    assert ask(again, path)["offer"] == ask(first, path)["offer"]


class Wire(httpx.BaseTransport):
    """The adapter's way to the testnet."""

    def __init__(self, lab):
        self.lab = lab
        self.paths = []

    def handle_request(self, request):
        self.paths.append(request.url.path.removeprefix(BASE))
        answer = self.lab.http.request("GET", request.url.raw_path.decode(), headers=dict(request.headers))
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


class LabClock:
    def __init__(self, lab):
        self.lab = lab

    def now(self):
        return datetime.fromtimestamp(self.lab.economy.now, UTC)


def adapter(lab, **changes):
    settings = NodeSettings(
        name="golem-1",
        protocol="golem",
        host="testnet",
        url=f"http://testnet{BASE}",
        demand=ResourceSettings(cpu_threads=14, memory_gib=58, disk_gb=3900, bandwidth_mbps=240),
        token=SecretStr("testnet-app-key"),
        options={"data_dir": str(lab.testnet.state / "golem-1")},
        min_share=0.0,
        **changes,
    )
    wire = Wire(lab)
    return GolemAdapter(settings, controller=FakeController(), clock=LabClock(lab), transport=wire), wire


def test_the_adapters_balances_account_for_all_that_was_earned(lab):
    lab.pass_hours(24 * 12)
    provider, _ = adapter(lab)
    standing = {balance.kind.value: balance for balance in provider.balances()}
    assert {balance.provenance for balance in standing.values()} == {Provenance.MEASURED}
    total = float(sum(balance.amount for balance in standing.values()))
    assert total == pytest.approx(lab.truth("golem-1")["native_total"], rel=1e-3)
    assert standing["settled"].amount > 0.9 * float(total)
    assert standing["settled"].note == ""
    assert 0 < standing["lost"].amount + standing["doubtful"].amount < 0.1 * float(total)


def test_the_adapter_takes_the_node_to_zero_and_back_while_its_task_goes_on(lab, monkeypatch):
    lab.pass_hours(3)
    no_waiting(monkeypatch)
    monkeypatch.setattr("orcha_pipeline.protocols.levers.sleep", lambda _seconds: lab.pass_seconds(1))
    provider, _ = adapter(lab)
    lever = provider.levers()[0]
    assert (lever.minimum, lever.writable) == (0, True)
    before = provider.allocation().value
    assert provider.apply("cpu_threads", 0).previous == before
    assert (provider.allocation().value, provider.health().state) == (0, HealthState.HEALTHY)
    assert ask(lab, "/market-api/v1/offers") == []
    assert provider.resource_usage()[0].value == 1.0
    assert provider.apply("cpu_threads", 6).read_back == 6
    assert provider.allocation().value == 6
    assert provider.apply("cpu_price", 0.05).read_back == 0.05
    with pytest.raises(AllocationError, match="asked for 64 threads, the offers show 16"):
        provider.apply("cpu_threads", 64)


def test_what_is_wrong_with_the_daemon_reaches_health_and_advice(lab):
    lab.pass_hours(3)
    provider, _ = adapter(lab)
    assert provider.health().state is HealthState.HEALTHY
    put(lab, driver=["InsufficientGas"], public=False)
    assert "Insufficient gas" in provider.health().reason
    advice = " ".join(provider.advice())
    assert "about 0.002 more" in advice
    assert "relay" in advice


def test_a_reading_takes_no_more_questions_than_it_must(lab):
    lab.pass_hours(3)
    provider, wire = adapter(lab)
    provider.health()
    provider.levers()
    provider.allocation()
    provider.earnings(Window(LabClock(lab).now() - timedelta(hours=1), LabClock(lab).now()))
    assert wire.paths == [
        "/healthcheck",
        "/version/get",
        "/market-api/v1/offers",
        "/market-api/v1/offers",
        "/me",
        "/payment-api/v1/debitNotes",
        "/payment-api/v1/invoices",
    ]
    wire.paths.clear()
    provider.resource_usage()
    assert len(wire.paths) == 5


def test_a_long_poll_ends_with_the_payment_that_comes_meanwhile(lab, monkeypatch):
    lab.pass_hours(3)
    host = lab.testnet.first

    async def nap(_pause):
        """Somebody moves the clock while the client waits."""
        lab.testnet.advance_to(lab.testnet.time.now + 1800)

    monkeypatch.setattr("orcha_pipeline.testnet.golem.asyncio.sleep", nap)
    emulator = golem.GolemNode(host.economy, host.economy.nodes["golem-1"], host.golem_books)
    client = Client(golem.routes(emulator, catch_up=lambda: lab.testnet.catch_up(host)))
    after = iso(lab.economy.now)
    (first, *_) = client.get("/payment-api/v1/payments", headers=KEY, params={"afterTimestamp": after}).json()
    assert seconds(first["timestamp"]) > seconds(after)
