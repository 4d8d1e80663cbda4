"""Golem's own generated client (PyPI ya-aioclient) reads the emulated yagna and finds what is true there."""

import json
import subprocess
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orcha_pipeline_tests.peers.conftest import START, GolemClient, Served

KEY = "testnet-app-key"
NODE = "golem-1"
NOTE = timedelta(seconds=120)
TINY = Decimal("1e-9")
"""The emulator keeps its books as floats and writes 15 decimals: far below what any GLM amount is paid in."""
DOCUMENTS = ("get_invoices", "get_debit_notes")
TIMES = ("timestamp", "paymentDueDate", "approvedDate", "validTo", "eventDate")


@pytest.fixture(scope="module")
def client(testnet: Served, make_golem_client: Callable[..., GolemClient]) -> GolemClient:
    return make_golem_client(f"{testnet.base}/nodes/{NODE}", KEY)


def plain(value: Any) -> Any:
    """A document without what JSON leaves open: absent or null, and how a moment is written."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {
            key: datetime.fromisoformat(each) if key in TIMES and isinstance(each, str) else plain(each)
            for key, each in value.items()
            if each is not None
        }
    return value


def understood(answer: dict[str, Any]) -> Any:
    """What the client's models read; nothing that was served may be lost, added or changed by them."""
    assert "understood" in answer, answer
    found, served = answer["understood"], answer["served"]
    if isinstance(found, list) and found and "eventType" in served[0]:
        # The type of an event is not a field of its model but which model it is.
        found = [each | {"eventType": kind} for each, kind in zip(found, answer["kinds"], strict=True)]
    assert plain(found) == plain(served)
    return plain(found)


def everything(client: GolemClient, call: str, since: datetime) -> list[dict[str, Any]]:
    """All documents or events after `since`, page by page as a client with a cursor reads them."""
    found: list[dict[str, Any]] = []
    how = {"max_items": 100} if call in DOCUMENTS else {"max_events": 100, "timeout": 0}  # it asks for no more
    while page := understood(client.ask("payment", call, after_timestamp=since, **how)):
        found += page
        since = page[-1]["eventDate" if "eventDate" in page[-1] else "timestamp"]
    return found


def total(documents: Iterable[dict[str, Any]], amount: str = "amount") -> Decimal:
    return sum((Decimal(each[amount]) for each in documents), Decimal(0))


def test_invoices_and_the_running_activity_add_up_to_what_the_node_earned(testnet: Served, client: GolemClient):
    def newest() -> dict[str, Any]:
        return everything(client, "get_debit_notes", testnet.now - timedelta(hours=1))[-1]

    # To the very second of a note: only then has all been written down that was earned.
    testnet.advance_to(newest()["timestamp"] + NOTE)
    if newest()["timestamp"] != testnet.now:  # the activity ended in between
        testnet.advance_to(newest()["timestamp"] + NOTE)
    note = newest()
    assert note["timestamp"] == testnet.now

    invoices = everything(client, "get_invoices", START)
    assert len(invoices) > 40
    running = total([note], "totalAmountDue") if note["agreementId"] not in {i["agreementId"] for i in invoices} else 0
    assert abs(total(invoices) + running - Decimal(testnet.truth(NODE)["native_total"])) < TINY


def test_debit_notes_are_cumulative_and_end_at_the_invoice(client: GolemClient):
    notes = everything(client, "get_debit_notes", START)
    invoices = {each["agreementId"]: each for each in everything(client, "get_invoices", START)}
    by_activity: dict[str, list[dict[str, Any]]] = {}
    for note in notes:
        by_activity.setdefault(note["activityId"], []).append(note)
    for activity in by_activity.values():
        assert "previousDebitNoteId" not in activity[0]
        for before, after in pairwise(activity):
            assert after["previousDebitNoteId"] == before["debitNoteId"]
            assert Decimal(after["totalAmountDue"]) > Decimal(before["totalAmountDue"])
        invoice = invoices.get(activity[-1]["agreementId"])
        if invoice is not None:
            assert invoice["activityIds"] == [activity[-1]["activityId"]]
            assert Decimal(invoice["amount"]) == Decimal(activity[-1]["totalAmountDue"])
    assert len(by_activity) - len(invoices) in (0, 1)


def test_payments_are_the_settled_invoices_each_for_its_amount(client: GolemClient):
    payments = everything(client, "get_payments", START)
    settled = [i for i in everything(client, "get_invoices", START) if i["status"] == "SETTLED"]
    assert len(payments) > 40
    paid = {each["agreementId"]: each["amount"] for payment in payments for each in payment["agreementPayments"]}
    assert paid == {each["agreementId"]: each["amount"] for each in settled}
    assert total(payments) == total(settled)
    (for_one,) = understood(client.ask("payment", "get_payments_for_invoice", invoice_id=settled[0]["invoiceId"]))
    assert for_one in payments


def test_events_tell_when_each_invoice_was_settled(client: GolemClient):
    invoices = everything(client, "get_invoices", START)
    dates = {
        event["invoiceId"]: event["eventDate"]
        for event in everything(client, "get_invoice_events", START)
        if event["eventType"] == "InvoiceSettledEvent"
    }
    assert dates.keys() == {each["invoiceId"] for each in invoices if each["status"] == "SETTLED"}
    paid_at = {
        agreement["agreementId"]: payment["timestamp"]
        for payment in everything(client, "get_payments", START)
        for agreement in payment["agreementPayments"]
    }
    assert {each["agreementId"]: dates[each["invoiceId"]] for each in invoices if each["invoiceId"] in dates} == paid_at


def test_every_event_of_a_debit_note_is_of_one_that_is_listed(client: GolemClient):
    notes = {each["debitNoteId"] for each in everything(client, "get_debit_notes", START)}
    events = everything(client, "get_debit_note_events", START)
    assert events
    assert {event["debitNoteId"] for event in events} <= notes


def test_statuses_are_those_that_the_client_knows(client: GolemClient, golem_home: Path):
    program = "import json, ya_payment; print(json.dumps(ya_payment.InvoiceStatus.allowable_values))"
    asked = subprocess.run([golem_home / "bin" / "python", "-c", program], capture_output=True, check=True)
    known = set(json.loads(asked.stdout))
    for call in DOCUMENTS:
        assert {each["status"] for each in everything(client, call, START)} <= known


def test_one_document_is_the_one_of_the_list(client: GolemClient):
    for call, one, identity in (
        ("get_invoices", "get_invoice", "invoice"),
        ("get_debit_notes", "get_debit_note", "debit_note"),
    ):
        (listed,) = understood(client.ask("payment", call, after_timestamp=START, max_items=1))
        key = f"{identity}_id"
        name = "invoiceId" if identity == "invoice" else "debitNoteId"
        assert understood(client.ask("payment", one, **{key: listed[name]})) == listed
        assert client.ask("payment", one, **{key: "no-such-id"})["refused"] == 404


def test_payments_of_a_debit_note_are_not_implemented_as_in_yagna(client: GolemClient):
    (note,) = understood(client.ask("payment", "get_debit_notes", after_timestamp=START, max_items=1))
    answer = client.ask("payment", "get_payments_for_debit_note", debit_note_id=note["debitNoteId"])
    assert answer["refused"] == 501


def test_the_account_is_the_one_that_invoices_are_paid_to(client: GolemClient):
    (account,) = understood(client.ask("payment", "get_provider_accounts"))
    (invoice,) = understood(client.ask("payment", "get_invoices", after_timestamp=START, max_items=1))
    assert (account["address"], account["platform"]) == (invoice["payeeAddr"], invoice["paymentPlatform"])
    assert account["receive"] is True


def test_offers_publish_what_the_lever_is_at(testnet: Served, client: GolemClient):
    offers = understood(client.ask("market", "get_offers"))
    assert offers
    truth = testnet.truth(NODE)
    for offer in offers:
        properties = offer["properties"]
        assert properties["golem.inf.cpu.threads"] == truth["lever_value"]
        coefficients = properties["golem.com.pricing.model.linear.coeffs"]
        assert len(coefficients) == len(properties["golem.com.usage.vector"]) + 1


def test_agreement_and_usage_explain_the_amount(testnet: Served, client: GolemClient):
    note = everything(client, "get_debit_notes", testnet.now - timedelta(hours=1))[-1]
    agreement = understood(client.ask("market", "get_agreement", agreement_id=note["agreementId"]))
    assert agreement["agreementId"] == note["agreementId"]
    assert agreement["demand"]["requestorId"] == note["recipientId"]
    assert agreement["offer"]["providerId"] == note["issuerId"]
    assert agreement["timestamp"] <= agreement["approvedDate"] < agreement["validTo"]
    # The price is on the offer that was agreed on: coefficient times usage, and a constant last.
    *prices, once = agreement["offer"]["properties"]["golem.com.pricing.model.linear.coeffs"]
    usage = note["usageCounterVector"]
    cost = sum(price * used for price, used in zip(prices, usage, strict=True)) + once
    assert cost == pytest.approx(float(note["totalAmountDue"]), rel=1e-6)


def test_an_activity_is_ready_while_it_runs_and_terminated_after(testnet: Served, client: GolemClient):
    (newest,) = understood(client.ask("market", "get_agreements", state="Approved"))
    note = everything(client, "get_debit_notes", testnet.now - timedelta(hours=2))[-1]
    assert note["agreementId"] == newest["id"]
    state = understood(client.ask("activity", "get_activity_state", activity_id=note["activityId"]))
    assert state["state"][0] == "Ready"
    usage = understood(client.ask("activity", "get_activity_usage", activity_id=note["activityId"]))
    assert all(now >= then for now, then in zip(usage["currentUsage"], note["usageCounterVector"], strict=True))

    (invoice,) = understood(client.ask("payment", "get_invoices", after_timestamp=START, max_items=1))
    ended = understood(client.ask("activity", "get_activity_state", activity_id=invoice["activityIds"][0]))
    assert ended["state"][0] == "Terminated"
    assert client.ask("activity", "get_activity_state", activity_id="no-such-id")["refused"] == 404


def test_a_long_poll_returns_with_the_payment_that_comes_while_it_waits(testnet: Served, client: GolemClient):
    newest = everything(client, "get_payments", START)[-1]
    since = testnet.now
    assert understood(client.ask("payment", "get_payments", after_timestamp=since, timeout=0)) == []
    client.begin("payment", "get_payments", after_timestamp=since, timeout=20)
    testnet.advance(hours=6)
    payments = understood(client.answer())
    assert payments
    assert all(each["timestamp"] > since for each in payments)
    assert newest["paymentId"] not in {each["paymentId"] for each in payments}


def test_without_the_right_key_it_is_refused(testnet: Served, make_golem_client: Callable[..., GolemClient]):
    address = f"{testnet.base}/nodes/{NODE}"
    for key, words in (((), "Missing application key"), (("wrong",), "Invalid application key")):
        answer = make_golem_client(address, *key).ask("payment", "get_invoices")
        assert answer == {"refused": 401, "body": words}
