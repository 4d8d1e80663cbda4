"""Where a Golem provider's money stands, from its invoices, debit notes and payments. No I/O."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from orcha_pipeline.model import Balance, BalanceKind, Provenance
from orcha_pipeline.protocols.golem_api import LOST, UNCONFIRMED, DebitNote, Invoice, Payment, token_of
from orcha_pipeline.protocols.parsing import native

DOUBTFUL_AFTER = timedelta(days=7)
"""An invoice that is not accepted by then is often never paid."""
_ROUNDING = Decimal("1e-9")
"""Differences below one nano-GLM are the payment driver's rounding."""
_KINDS = (BalanceKind.ACCRUED, BalanceKind.PENDING, BalanceKind.SETTLED, BalanceKind.DOUBTFUL, BalanceKind.LOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Documents of one provider. `payments` None: they could not be read.

    `notes` and `invoices` begin at `since`; `payments` may begin earlier, for the notes of an agreement are paid
    before its invoice.
    """

    since: datetime
    notes: Sequence[DebitNote]
    invoices: Sequence[Invoice]
    payments: Sequence[Payment] | None
    payments_problem: str = ""
    """Why there are none."""
    counted: Mapping[str, Decimal] = field(default_factory=dict[str, Decimal])
    """Platform -> what yagna's counter says was received since yagna started: stands in for payments not read."""


@dataclass(slots=True)
class _Standing:
    """One payment platform's sums."""

    amounts: dict[BalanceKind, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    invoiced: Decimal = Decimal(0)
    """The part of what is accrued that is invoiced and not yet accepted."""
    overdue: Decimal = Decimal(0)
    overdue_invoices: int = 0
    unpaid: Decimal = Decimal(0)
    """The part of settled invoices that no payment covers."""
    oldest: dict[BalanceKind, datetime] = field(default_factory=dict[BalanceKind, datetime])
    """When the oldest document in an amount was issued."""

    def add(self, kind: BalanceKind, amount: Decimal, at: datetime) -> None:
        """Something of a document issued at `at`."""
        self.amounts[kind] += amount
        if amount > 0:
            self.oldest[kind] = min(at, self.oldest.get(kind, at))


def unconfirmed_too_long(document: DebitNote | Invoice, now: datetime) -> bool:
    """Not accepted, and too old for this to be a matter of time."""
    return document.status in UNCONFIRMED and document.timestamp < now - DOUBTFUL_AFTER


def is_overdue(invoice: Invoice, now: datetime) -> bool:
    """Accepted, and not paid by the day the requestor had agreed to."""
    return invoice.status == "ACCEPTED" and invoice.payment_due_date < now


def paid_by_agreement(books: Books) -> Mapping[str, Decimal]:
    """Agreement -> what was paid for it and for its activities."""
    agreement_of = {note.activity_id: note.agreement_id for note in books.notes}
    agreement_of |= {activity: i.agreement_id for i in books.invoices for activity in i.activity_ids}
    paid: dict[str, Decimal] = defaultdict(Decimal)
    for payment in books.payments or ():
        for part in payment.agreement_payments:
            paid[part.agreement_id] += part.amount
        for early in payment.activity_payments:
            if early.activity_id in agreement_of:
                paid[agreement_of[early.activity_id]] += early.amount
    return paid


def golem_balances(node: str, books: Books, *, now: datetime, platforms: Iterable[str]) -> list[Balance]:
    """Accrued, pending, settled, doubtful and lost of each payment platform, since `books.since`.

    `platforms` are listed even where nothing stands.
    """
    standings: dict[str, _Standing] = {platform: _Standing() for platform in platforms}
    paid = paid_by_agreement(books)
    for invoice in books.invoices:
        standing = standings.setdefault(invoice.payment_platform, _Standing())
        _add_invoice(standing, invoice, paid.get(invoice.agreement_id, Decimal(0)), now)
    invoiced = {invoice.agreement_id for invoice in books.invoices}
    chains: dict[str, list[DebitNote]] = defaultdict(list)
    for note in books.notes:
        if note.agreement_id not in invoiced:
            chains[note.activity_id].append(note)
    for chain in chains.values():
        _add_chain(standings.setdefault(chain[0].payment_platform, _Standing()), chain, now)
    for payment in books.payments or ():
        standing = standings.setdefault(payment.payment_platform, _Standing())
        if payment.timestamp >= books.since:
            standing.amounts[BalanceKind.SETTLED] += payment.amount
    rows: list[Balance] = []
    for platform, standing in sorted(standings.items()):
        rows += _rows(node, books, platform, standing, now)
    return rows


def _add_invoice(standing: _Standing, invoice: Invoice, paid: Decimal, now: datetime) -> None:
    left = max(invoice.amount - paid, Decimal(0))
    if invoice.status in LOST:
        standing.add(BalanceKind.LOST, left, invoice.timestamp)
    elif invoice.status == "SETTLED":
        standing.unpaid += left if left > _ROUNDING else 0
    elif invoice.status == "ACCEPTED":
        standing.add(BalanceKind.PENDING, left, invoice.timestamp)
        if is_overdue(invoice, now):
            standing.overdue += left
            standing.overdue_invoices += 1
    elif unconfirmed_too_long(invoice, now):
        standing.add(BalanceKind.DOUBTFUL, left, invoice.timestamp)
    else:
        standing.add(BalanceKind.ACCRUED, left, invoice.timestamp)
        standing.invoiced += left


def _add_chain(standing: _Standing, chain: Sequence[DebitNote], now: datetime) -> None:
    """One activity that no invoice covers: its notes are cumulative, so that the highest total is all it came to."""
    live = [note for note in chain if note.status not in LOST]
    total = max((note.total_amount_due for note in live), default=Decimal(0))
    paid = max((note.total_amount_due for note in live if note.status == "SETTLED"), default=Decimal(0))
    # Without a note for a week the task is over, and an invoice should have come.
    over = max(note.timestamp for note in chain) < now - DOUBTFUL_AFTER
    begun = min(note.timestamp for note in chain)
    standing.add(BalanceKind.DOUBTFUL if over else BalanceKind.ACCRUED, total - paid, begun)
    standing.amounts[BalanceKind.LOST] += max(max(note.total_amount_due for note in chain) - total, Decimal(0))


def _rows(node: str, books: Books, platform: str, standing: _Standing, now: datetime) -> list[Balance]:
    unit, known = token_of(platform), books.payments is not None
    notes = _notes(standing, unit, payments_known=known)
    # Without the payments, what was paid before an invoice cannot be taken off it.
    provenance = Provenance.MEASURED if known else Provenance.NODE_ESTIMATE
    amounts: dict[BalanceKind, Decimal | None] = {kind: standing.amounts[kind] for kind in _KINDS}
    documents: tuple[datetime | None, Provenance, str] = (books.since, provenance, "golem invoices and debit notes")
    sources: dict[BalanceKind, tuple[datetime | None, Provenance, str]] = dict.fromkeys(_KINDS, documents)
    if known:
        sources[BalanceKind.SETTLED] = (books.since, Provenance.MEASURED, "golem payments")
    else:
        received = amounts[BalanceKind.SETTLED] = books.counted.get(platform)
        counted = Provenance.UNKNOWN if received is None else Provenance.NODE_ESTIMATE
        sources[BalanceKind.SETTLED] = (None, counted, "golem metrics")
        notes[BalanceKind.SETTLED] = (
            f"received since yagna last started, for the payments cannot be read: {books.payments_problem}"
        )
    return [
        Balance(
            kind=kind,
            account=platform,
            observed_at=now,
            since=since,
            unit=unit,
            amount=None if amount is None else native(node, amount),
            provenance=provenance,
            source=source,
            note=notes.get(kind, ""),
            oldest_at=standing.oldest.get(kind),
        )
        for kind, amount in amounts.items()
        for since, provenance, source in (sources[kind],)
    ]


def _notes(standing: _Standing, unit: str, *, payments_known: bool) -> dict[BalanceKind, str]:
    notes: dict[BalanceKind, str] = {}
    if standing.invoiced:
        notes[BalanceKind.ACCRUED] = f"{standing.invoiced:f} {unit} of it is invoiced and not accepted yet"
    if standing.overdue_invoices:
        plural = "s" if standing.overdue_invoices > 1 else ""
        notes[BalanceKind.PENDING] = (
            f"{standing.overdue:f} {unit} of it is past its due date ({standing.overdue_invoices} invoice{plural})"
        )
    if standing.unpaid and payments_known:
        notes[BalanceKind.SETTLED] = (
            f"invoices marked as settled come to {standing.unpaid:f} {unit} more than was paid for them"
        )
    return notes
