"""Yagna's debit notes, invoices and payments: listed in full, and what they say was earned when."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import TypeVar
from urllib.parse import quote

from orcha_pipeline.errors import ApiError, ParseError
from orcha_pipeline.model import Window
from orcha_pipeline.protocols.golem_api import LOST, WORTH, DebitNote, Identity, Invoice, Payment, token_of
from orcha_pipeline.protocols.golem_balances import unconfirmed_too_long
from orcha_pipeline.protocols.http import HttpStatusError, NodeHttp
from orcha_pipeline.protocols.parsing import parse

LOOK_BACK = timedelta(hours=1)
"""How far before a window its first debit notes' predecessors are looked for: notes come every two minutes."""
LONG_LOOK_BACK = timedelta(hours=48)
"""How far an invoice without any debit note is checked for one before its whole amount counts."""
PAGE = 1000
LARGEST_PAGE = 64_000
LONGEST_CHAIN = 50


@dataclass(frozen=True, slots=True)
class Accrual:
    """Earned between a debit note's predecessor and itself, dated as the note. `amount` None: not to be known."""

    at: datetime
    amount: Decimal | None
    doubtful: bool


Document = TypeVar("Document", DebitNote, Invoice, Payment)
Issued = TypeVar("Issued", DebitNote, Invoice)


class GolemDocuments:
    """The payment API of one yagna. Methods raise the `AdapterError` family."""

    def __init__(self, node: str, http: NodeHttp) -> None:
        self._node = node
        self._http = http

    def me(self) -> str:
        """The identity behind the app-key, in lower case."""
        return parse(self._node, "/me", Identity, self._http.get_json("/me")).identity.lower()

    def notes(self, me: str, after: datetime) -> list[DebitNote]:
        """Debit notes that `me` issued after a moment, by time."""
        return _issued_by(me, self._listed("debitNotes", DebitNote, after))

    def invoices(self, me: str, after: datetime) -> list[Invoice]:
        """Invoices that `me` issued after a moment, by time."""
        return _issued_by(me, self._listed("invoices", Invoice, after))

    def payments(self, me: str, after: datetime) -> list[Payment]:
        """Payments to `me` after a moment, by time."""
        return [p for p in self._listed("payments", Payment, after) if p.payee_id.lower() == me]

    def accruals(self, window: Window, now: datetime) -> list[Accrual]:
        """What debit notes and invoices of `window` say was earned there in GLM, lost documents left out."""
        me = self.me()
        notes = _worth(self.notes(me, window.start - LOOK_BACK))
        invoices = _worth(self.invoices(me, window.start - LOOK_BACK))
        lost = {i.agreement_id for i in invoices if i.status in LOST}
        doubtful = {i.agreement_id for i in invoices if unconfirmed_too_long(i, now)}
        known = {note.debit_note_id: note for note in notes}
        chains: dict[str, list[DebitNote]] = defaultdict(list)
        for note in notes:
            if note.status not in LOST and note.agreement_id not in lost and note.timestamp < window.end:
                chains[note.activity_id].append(note)
        found: list[Accrual] = []
        for chain in chains.values():
            before = [n for n in chain if n.timestamp < window.start]
            inside = [n for n in chain if n.timestamp >= window.start]
            base = before[-1].total_amount_due if before else self._total_before(inside[0], known)
            for note in inside:
                grown = None if base is None else note.total_amount_due - base
                if grown is not None and grown < 0:
                    raise ParseError(self._node, f"debit notes: the total of activity {note.activity_id} went down")
                found.append(Accrual(note.timestamp, grown, note.agreement_id in doubtful))
                base = note.total_amount_due
        unnoted = [
            i for i in invoices if window.start <= i.timestamp < window.end and i.status not in LOST and i.amount > 0
        ]
        noted = {note.agreement_id for note in notes}
        if any(i.agreement_id not in noted for i in unnoted):
            noted |= {note.agreement_id for note in self.notes(me, window.start - LONG_LOOK_BACK)}
        found += [
            Accrual(i.timestamp, i.amount, i.agreement_id in doubtful) for i in unnoted if i.agreement_id not in noted
        ]
        return found

    def _total_before(self, note: DebitNote, known: dict[str, DebitNote]) -> Decimal | None:
        """The activity's total at the last note before `note` that is not lost; None where it cannot be known."""
        previous = note.previous_debit_note_id
        for _ in range(LONGEST_CHAIN):
            if previous is None:
                return Decimal(0)
            earlier = known.get(previous)
            if earlier is None:
                path = f"/payment-api/v1/debitNotes/{quote(previous, safe='')}"
                try:
                    earlier = parse(self._node, path, DebitNote, self._http.get_json(path))
                except HttpStatusError as error:
                    if error.status != 404:
                        raise
                    return None
            if earlier.status not in LOST:
                return earlier.total_amount_due
            previous = earlier.previous_debit_note_id
        return None

    def _listed(self, kind: str, model: type[Document], after: datetime) -> list[Document]:
        """All of `kind` later than `after`, by time. Pages overlap, so that equal times at their edge lose nothing."""
        path = f"/payment-api/v1/{kind}"
        found: dict[str, Document] = {}
        size = PAGE
        while True:
            params: dict[str, str | int] = {"afterTimestamp": after.isoformat().replace("+00:00", "Z")}
            # Payments are a long poll: without `timeout` an empty answer takes five seconds.
            params |= {"timeout": 0, "maxEvents": size} if kind == "payments" else {"maxItems": size}
            page = parse(self._node, path, list[model], self._http.get_json(path, params))
            new = {item.key: item for item in page if item.key not in found}
            found |= new
            if len(page) < size:
                return sorted(found.values(), key=lambda item: item.timestamp)
            if any(later.timestamp < earlier.timestamp for earlier, later in pairwise(page)):
                raise ParseError(
                    self._node, f"{path}: the list is not in order of time, so its pages cannot be followed"
                )
            if not new:
                size *= 2
            if size > LARGEST_PAGE:
                raise ApiError(self._node, f"{path}: the list does not end")
            after = page[-1].timestamp - timedelta(microseconds=1)


def _issued_by(identity: str, documents: Iterable[Issued]) -> list[Issued]:
    """Issued by this provider: the lists also hold what it has to pay as a requestor."""
    return [document for document in documents if document.issuer_id.lower() == identity]


def _worth(documents: Sequence[Issued]) -> list[Issued]:
    """Paid in GLM: what the test networks pay is worth nothing."""
    return [document for document in documents if token_of(document.payment_platform) == WORTH]
