"""What a Golem provider earned over time, and the activities it was earned in.

One agreement with one activity follows another without a gap. None of them is stored: which moment belongs to which,
what became of its invoice and when it was paid is worked out from its number, always the same.
"""

import bisect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orcha_pipeline.testnet.economy import Piece
from orcha_pipeline.testnet.noise import hexadecimal, uniform
from orcha_pipeline.testnet.worlds import DAY

_TILE = 5400
"""Mean length of an activity in seconds."""
_KEEP = 62 * DAY
_LOST = 0.02
"""The part of invoices that is never paid."""
_LATE = 0.02
"""The part of accepted invoices that is paid long after the day it was due."""
PAID_WITHIN = 3 * DAY
"""No payment comes later than this after an activity's end."""
ACCEPTED_AFTER = 30
REJECTED_AFTER = 60
NOTE_ACCEPTED_AFTER = 10
_RECEIVED_AFTER = 3
_FATES = ("ISSUED", "ISSUED", "RECEIVED", "REJECTED")
"""Where the invoices that are never paid end."""


@dataclass(slots=True)
class Condition:
    """What is wrong with the daemon, as a test asked for."""

    healthcheck: str | None = None
    """The last part of the problem's type; None: well."""
    driver: list[str] = field(default_factory=list[str])
    """Kinds of problems of the payment driver."""
    restarted_at: int | None = None
    """When yagna was restarted last: its counters begin at 0 again."""
    public: bool = True
    """Has a public address."""


class GolemBooks:
    """What was earned over time: knots `(moment, total so far, GLM a second from here on)`."""

    def __init__(self, start: int) -> None:
        """`start`: the first moment that can be earned in, Unix seconds."""
        self.moments: list[int] = []
        self.totals: list[float] = []
        self.rates: list[float] = []
        self.sizes: list[tuple[int, float]] = []
        """(moment from which on, threads): what new agreements get. A running task keeps what it was agreed with."""
        self.condition = Condition()
        self.until = start

    def accrue(self, piece: Piece) -> None:
        """A new knot wherever the rate changes, so that the past never depends on how finely it was asked for."""
        rate = piece.earned / piece.seconds
        if not self.rates or abs(rate - self.rates[-1]) > 1e-9 * max(rate, self.rates[-1]):
            self.totals.append(self.total(piece.start))
            self.moments.append(piece.start)
            self.rates.append(rate)
            if self.moments[0] < piece.start - 2 * _KEEP:
                cut = bisect.bisect_left(self.moments, piece.start - _KEEP)
                del self.moments[:cut], self.totals[:cut], self.rates[:cut]
        if not self.sizes or self.sizes[-1][1] != piece.value:
            self.sizes.append((piece.start, piece.value))
        self.until = piece.end

    def busy_until(self, at: int) -> int | None:
        """The end of the task that runs."""
        return activity_at(at).end

    def threads(self, at: int) -> int:
        """Threads that an agreement made at a moment has."""
        place = bisect.bisect_right(self.sizes, at, key=lambda size: size[0]) - 1
        return int(self.sizes[max(place, 0)][1]) if self.sizes else 1

    def total(self, at: int) -> float:
        """GLM earned up to a moment."""
        place = bisect.bisect_right(self.moments, at) - 1
        if place < 0:
            return self.totals[0] if self.totals else 0.0
        return self.totals[place] + (min(at, self.until) - self.moments[place]) * self.rates[place]

    @property
    def since(self) -> int:
        """The first moment the books know."""
        return self.moments[0] if self.moments else self.until

    def dump(self) -> dict[str, Any]:
        """The knots."""
        return {
            "moments": self.moments,
            "totals": self.totals,
            "rates": self.rates,
            "sizes": self.sizes,
            "condition": asdict(self.condition),
            "until": self.until,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take back what `dump` gave."""
        self.moments, self.totals = list(saved["moments"]), list(saved["totals"])
        self.rates, self.until = list(saved["rates"]), saved["until"]
        self.sizes = [(moment, threads) for moment, threads in saved["sizes"]]
        self.condition = Condition(**saved["condition"])


@dataclass(frozen=True, slots=True)
class Activity:
    """One agreement with its one activity: `[begin, end)` in Unix seconds."""

    number: int
    begin: int
    end: int

    @property
    def agreement_id(self) -> str:
        """Id of the agreement."""
        return hexadecimal(0, "agreement", self.number, 64)

    @property
    def id(self) -> str:
        """Id of the activity."""
        return hexadecimal(0, "activity", self.number, 32)

    @property
    def requestor(self) -> str:
        """Who pays."""
        return "0x" + hexadecimal(0, "requestor", self.number % 7, 40)

    @property
    def accepted(self) -> bool:
        """False for the few invoices that are never paid."""
        return uniform(0, "lost", self.number) >= _LOST

    @property
    def paid_at(self) -> int:
        """When an accepted invoice is paid: minutes to an hour after the end, a few of them days later."""
        late = 2 * DAY if uniform(0, "late", self.number) < _LATE else 0
        return self.end + 300 + int(3300 * uniform(0, "paid", self.number)) + late

    @property
    def due_at(self) -> int:
        """By when the requestor agreed to pay."""
        return self.end + DAY

    def status(self, now: int) -> str:
        """Of the invoice: most go from ISSUED to SETTLED, the lost ones stop on the way or are rejected."""
        age = now - self.end
        if self.accepted and age >= ACCEPTED_AFTER:
            return "SETTLED" if now >= self.paid_at else "ACCEPTED"
        fate = "ACCEPTED" if self.accepted else _FATES[self.number % len(_FATES)]
        if fate == "REJECTED" and age >= REJECTED_AFTER:
            return "REJECTED"
        return "RECEIVED" if fate != "ISSUED" and age >= _RECEIVED_AFTER else "ISSUED"

    def accepted_part(self, now: int) -> bool:
        """Whether the requestor has accepted the invoice by now."""
        return self.status(now) in ("ACCEPTED", "SETTLED")


def note_status(age: int) -> str:
    """Status of a debit note of this age in seconds."""
    return "ACCEPTED" if age >= NOTE_ACCEPTED_AFTER else "RECEIVED" if age >= _RECEIVED_AFTER else "ISSUED"


def _boundary(number: int) -> int:
    return number * _TILE + int((uniform(0, "tile", number) - 0.5) * 0.7 * _TILE)


def activity_at(moment: int) -> Activity:
    """The activity that runs at a moment."""
    number = moment // _TILE
    if moment < _boundary(number):
        number -= 1
    elif moment >= _boundary(number + 1):
        number += 1
    return Activity(number, _boundary(number), _boundary(number + 1))


def uuid(label: str, number: int) -> str:
    """An id of a document: a function of its label and number."""
    digits = hexadecimal(0, label, number, 32)
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def decimal_text(amount: float) -> str:
    """GLM in whole tokens as a decimal string, as a BigDecimal is written."""
    return f"{amount:.18f}".rstrip("0").rstrip(".") or "0"
