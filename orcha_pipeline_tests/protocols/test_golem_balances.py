from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AdapterError, AuthenticationError, ParseError
from orcha_pipeline.model import BalanceKind, Provenance
from orcha_pipeline.protocols import golem_documents
from orcha_pipeline.protocols.golem import GolemAdapter
from orcha_pipeline.protocols.golem_api import metric_samples, received_glm
from orcha_pipeline_tests.protocols.answers import golem_routes, invoice, note, payment
from orcha_pipeline_tests.protocols.fakes import NOW, FakeController, Script, settings

NOTES, INVOICES, PAYMENTS = (f"/payment-api/v1/{kind}" for kind in ("debitNotes", "invoices", "payments"))
ACCOUNTS, METRICS = "/payment-api/v1/providerAccounts", "/metrics-api/v1/expose"
PLATFORM, TEST_PLATFORM = "erc20-polygon-glm", "erc20-holesky-tglm"
RECENT, OLD = "2026-11-19T10:00:00Z", "2026-11-10T10:00:00Z"


def listing(documents, limit="maxItems"):
    """Serve a list as yagna does: later than `afterTimestamp`, ascending, at most so many."""

    def answer(request):
        after = datetime.fromisoformat(request.url.params["afterTimestamp"])
        later = [d for d in documents if datetime.fromisoformat(d["timestamp"]) > after]
        later.sort(key=lambda d: d["timestamp"])
        return later[: int(request.url.params[limit])]

    return answer


def standing(notes=(), invoices=(), payments=(), **routes):
    """(kind, platform) -> balance, and the requests it took."""
    served = golem_routes() | {
        NOTES: listing(notes),
        INVOICES: listing(invoices),
        PAYMENTS: listing(payments, "maxEvents"),
    }
    script = Script(served | routes)
    golem = GolemAdapter(settings("golem"), controller=FakeController(), clock=FixedClock(NOW), transport=script)
    return {(b.kind, b.account): b for b in golem.balances()}, script


def amounts(*documents, platform=PLATFORM):
    found, _ = standing(*documents)
    return {kind.value: balance.amount for (kind, account), balance in found.items() if account == platform}


def test_a_platform_without_any_document_stands_at_a_measured_zero():
    found, _ = standing()
    assert {kind for kind, _ in found} == {
        BalanceKind.ACCRUED,
        BalanceKind.PENDING,
        BalanceKind.SETTLED,
        BalanceKind.DOUBTFUL,
        BalanceKind.LOST,
    }
    assert {(b.amount, b.unit, b.provenance) for b in found.values()} == {(Decimal(0), "GLM", Provenance.MEASURED)}
    assert {b.since for b in found.values()} == {NOW - timedelta(days=30)}


def test_money_stands_in_exactly_one_place():
    invoices = [
        invoice("new", RECENT, "1", "ISSUED"),
        invoice("seen", RECENT, "2", "RECEIVED"),
        invoice("agreed", RECENT, "4", "ACCEPTED"),
        invoice("paid", RECENT, "8", "SETTLED"),
        invoice("old", OLD, "16", "ISSUED"),
        invoice("old-seen", OLD, "32", "RECEIVED"),
        invoice("no", RECENT, "64", "REJECTED"),
        invoice("broke", RECENT, "128", "FAILED"),
        invoice("gone", RECENT, "256", "CANCELLED"),
    ]
    payments = [payment(1, "2026-11-19T11:00:00Z", "paid", "8")]
    notes = [note("running", 0, "2026-11-20T11:00:00Z", "100"), note("running", 1, "2026-11-20T11:02:00Z", "512")]
    assert amounts(notes, invoices, payments) == {
        "accrued": 512 + 1 + 2,
        "pending": 4,
        "settled": 8,
        "doubtful": 16 + 32,
        "lost": 64 + 128 + 256,
    }


def test_the_notes_of_an_invoiced_agreement_are_not_counted_again():
    notes = [note("a", 0, "2026-11-19T09:00:00Z", "3", agreementId="one")]
    assert amounts(notes, [invoice("one", RECENT, "3", "ACCEPTED")])["accrued"] == 0


def test_what_was_paid_before_the_invoice_is_taken_off_it():
    notes = [
        note("a", 0, "2026-11-19T09:00:00Z", "3", agreementId="one", status="SETTLED"),
        note("b", 0, "2026-11-19T09:00:00Z", "2", status="SETTLED"),
        note("b", 1, "2026-11-20T09:00:00Z", "5"),
    ]
    early = [
        payment(1, RECENT, "", "3", agreementPayments=[], activityPayments=[{"activityId": "a", "amount": "3"}]),
        payment(2, RECENT, "", "2", agreementPayments=[], activityPayments=[{"activityId": "b", "amount": "2"}]),
    ]
    found = amounts(notes, [invoice("one", "2026-11-20T10:00:00Z", "10", "ACCEPTED")], early)
    assert (found["pending"], found["accrued"], found["settled"]) == (7, 3, 5)


def test_notes_without_an_invoice_for_a_week_are_doubtful_and_rejected_ones_lost():
    notes = [
        note("old", 0, OLD, "4"),
        note("cut", 0, "2026-11-20T09:00:00Z", "1"),
        note("cut", 1, "2026-11-20T09:02:00Z", "1.5", status="REJECTED"),
        note("all", 0, "2026-11-20T09:00:00Z", "2", status="CANCELLED"),
    ]
    found = amounts(notes)
    assert (found["doubtful"], found["accrued"], found["lost"]) == (4, 1, Decimal("2.5"))


def test_what_is_invoiced_overdue_or_unpaid_though_settled_is_told():
    invoices = [
        invoice("new", RECENT, "1.5", "ISSUED"),
        invoice("late", RECENT, "4", "ACCEPTED", paymentDueDate="2026-11-20T11:59:00Z"),
        invoice("fine", RECENT, "4", "ACCEPTED"),
        invoice("half", RECENT, "8", "SETTLED"),
        invoice("paid", RECENT, "2", "SETTLED"),
    ]
    payments = [payment(1, "2026-11-19T11:00:00Z", "half", "7.75"), payment(2, "2026-11-19T11:00:00Z", "paid", "2")]
    found, _ = standing((), invoices, payments)
    notes = {kind.value: balance.note for (kind, _), balance in found.items()}
    assert notes["accrued"].startswith("1.5 GLM of it is invoiced")
    assert notes["pending"] == "4 GLM of it is past its due date (1 invoice)"
    assert notes["settled"].startswith("invoices marked as settled come to 0.25 GLM more")
    assert notes["doubtful"] == notes["lost"] == ""


def test_rounding_of_the_driver_is_no_difference():
    payments = [payment(1, "2026-11-19T11:00:00Z", "paid", "1.999999999999999999")]
    found, _ = standing((), [invoice("paid", RECENT, "2", "SETTLED")], payments)
    assert found[BalanceKind.SETTLED, PLATFORM].note == ""


def test_platforms_are_kept_apart_with_their_own_token():
    invoices = [
        invoice("a", RECENT, "1", "ACCEPTED"),
        invoice("t", RECENT, "2", "ACCEPTED", paymentPlatform=TEST_PLATFORM),
    ]
    found, _ = standing((), invoices)
    real, test = found[BalanceKind.PENDING, PLATFORM], found[BalanceKind.PENDING, TEST_PLATFORM]
    assert (real.amount, real.unit, test.amount, test.unit) == (1, "GLM", 2, "TGLM")


def test_payments_are_asked_for_without_waiting_and_from_before_the_look_back():
    _, script = standing()
    (asked,) = [request.url.params for request in script.requests if request.url.path == PAYMENTS]
    assert asked["timeout"] == "0"
    assert asked["afterTimestamp"] == "2026-10-19T12:00:00Z"
    assert "maxEvents" in asked
    assert "maxItems" not in asked


def test_payments_before_the_look_back_cover_invoices_but_are_not_counted():
    at = NOW - timedelta(days=30, hours=1)
    before = payment(1, at.isoformat(), "", "3", agreementPayments=[])
    before["activityPayments"] = [{"activityId": "a", "amount": "3"}]
    later = invoice("one", "2026-10-21T13:00:00Z", "10", "ACCEPTED", activityIds=["a"])
    found = amounts((), [later], [before])
    assert (found["pending"], found["settled"]) == (7, 0)


def test_no_payment_is_lost_or_counted_twice_at_the_edge_of_a_page(monkeypatch):
    monkeypatch.setattr(golem_documents, "PAGE", 3)
    minutes = (1, 2, 5, 5, 5, 5, 5, 9, 9, 11)
    payments = [payment(i, f"2026-11-19T11:{m:02}:00Z", f"a{i}", "1") for i, m in enumerate(minutes)]
    assert amounts((), (), payments)["settled"] == len(payments)


def test_the_same_payment_twice_in_an_answer_counts_once():
    once = payment(1, RECENT, "a", "1")
    assert amounts((), (), [once, once])["settled"] == 1


def test_what_was_paid_as_a_requestor_is_not_received():
    assert amounts((), (), [payment(1, RECENT, "a", "1", payeeId="0xe5e9")])["settled"] == 0


def unreadable(metrics, status=500):
    answer = httpx.Response(200, headers={"content-type": "text/plain"}, text=metrics)
    return {PAYMENTS: httpx.Response(status, json={"message": None}), METRICS: answer}


COUNTERS = """# TYPE payment_amount_received counter
payment_amount_received{platform="erc20-polygon-glm"} 1500000000
payment_amount_received{platform="erc20-holesky-tglm"} 7e9 1795171000000
payment_amount_sent{platform="erc20-polygon-glm"} 9000000000
"""


def test_the_counter_stands_in_for_payments_that_cannot_be_read_and_says_so():
    found, _ = standing((), [invoice("a", RECENT, "4", "ACCEPTED")], **unreadable(COUNTERS))
    settled = found[BalanceKind.SETTLED, PLATFORM]
    assert (settled.amount, settled.provenance) == (Decimal("1.5"), Provenance.NODE_ESTIMATE)
    # It begins again with every start of yagna, so it says nothing of any look-back.
    assert settled.since is None
    assert "since yagna last started" in settled.note
    assert "HTTP 500" in settled.note
    pending = found[BalanceKind.PENDING, PLATFORM]
    assert (pending.amount, pending.provenance) == (4, Provenance.NODE_ESTIMATE)


def test_without_the_counter_too_what_was_settled_is_unknown_not_zero():
    found, _ = standing(**unreadable("net_public_addresses 1\n"))
    settled = found[BalanceKind.SETTLED, PLATFORM]
    assert (settled.amount, settled.provenance) == (None, Provenance.UNKNOWN)


def test_a_refused_key_is_not_covered_by_the_counter():
    with pytest.raises(AuthenticationError):
        standing(**unreadable(COUNTERS, status=401))


@pytest.mark.parametrize("path", [NOTES, INVOICES, ACCOUNTS])
def test_other_documents_that_cannot_be_read_are_an_error(path):
    with pytest.raises(AdapterError):
        standing(**{path: httpx.Response(500, json={"message": None})})


def test_metrics_are_nano_glm_a_platform():
    assert received_glm("n", COUNTERS) == {PLATFORM: Decimal("1.5"), TEST_PLATFORM: Decimal(7)}


def test_labels_may_hold_anything_that_is_escaped():
    ((name, labels, value),) = metric_samples("n", 'a_b{x="1}\\"2",y=""} 0.5\n\n')
    assert (name, dict(labels), value) == ("a_b", {"x": '1}\\"2', "y": ""}, Decimal("0.5"))


@pytest.mark.parametrize(
    "line", ["<html>", "payment_amount_received", 'payment_amount_received{platform="p"} many', "a{b} 1 2 3", "a{ 1"]
)
def test_what_is_no_metric_is_refused(line):
    with pytest.raises(ParseError, match="no sample"):
        metric_samples("n", f"ok 1\n{line}\n")


@pytest.mark.parametrize("value", ["-1", "NaN", "Inf"])
def test_a_counter_that_is_no_amount_is_refused(value):
    with pytest.raises(ParseError, match="no amount"):
        received_glm("n", f'payment_amount_received{{platform="p"}} {value}')


STATUSES = ("ISSUED", "RECEIVED", "ACCEPTED", "REJECTED", "FAILED", "SETTLED", "CANCELLED")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(STATUSES),
            st.decimals(min_value=0, max_value=1000, places=18),
            st.integers(0, 29 * 24),
        ),
        max_size=20,
    )
)
def test_every_invoice_is_somewhere_once_unless_it_is_settled(documents):
    invoices = [
        invoice(f"a{i}", (NOW - timedelta(hours=age)).astimezone(UTC).isoformat(), f"{amount:f}", status)
        for i, (status, amount, age) in enumerate(documents)
    ]
    found = amounts((), invoices)
    open_ = sum((amount for status, amount, _ in documents if status != "SETTLED"), Decimal(0))
    assert sum(found.values()) == open_


def test_the_oldest_document_of_an_amount_is_told():
    found, _ = standing((), [invoice("a", RECENT, "1", "ACCEPTED"), invoice("b", OLD, "2", "ACCEPTED")])
    assert found[BalanceKind.PENDING, PLATFORM].oldest_at == datetime.fromisoformat(OLD)
    assert found[BalanceKind.DOUBTFUL, PLATFORM].oldest_at is None
