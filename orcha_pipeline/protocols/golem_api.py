"""The shapes of yagna's REST answers and of its metrics, as far as the Golem adapter reads them."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from orcha_pipeline.errors import ParseError
from orcha_pipeline.protocols.parsing import AmountText, ApiModel, Listed, Number, UtcTime

CPU_COUNTER = "golem.usage.cpu_sec"
DURATION_COUNTER = "golem.usage.duration_sec"
LOST = frozenset({"REJECTED", "FAILED", "CANCELLED"})
UNCONFIRMED = frozenset({"ISSUED", "RECEIVED"})
"""Statuses of what the requestor has not accepted yet."""
ENDED = frozenset({"Terminated", "Unresponsive"})
"""States of activities that do not work any more."""
WORTH = "GLM"
"""The one token that has a price; the test networks pay in one of their own."""
RECEIVED_METRIC = "payment_amount_received"
_NANO = Decimal("1e-9")
_SAMPLE = re.compile(
    r"""(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
        (?:\{(?P<labels>(?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?
        \s+(?P<value>\S+)(?:\s+-?[0-9]+)?\s*""",
    re.VERBOSE,
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')

Name = Annotated[str, Field(pattern=r"^[\w.:-]{1,100}$")]
"""A text that may be shown to people as it is."""
Platform = Annotated[str, Field(pattern=r"^[\w.]{1,40}-[\w.]{1,40}-\w{1,20}$")]
"""Driver, network and token, as in `erc20-polygon-glm`."""
Status = Literal["ISSUED", "RECEIVED", "ACCEPTED", "REJECTED", "FAILED", "SETTLED", "CANCELLED"]


class Identity(ApiModel):
    """`/me`."""

    identity: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]


class Release(ApiModel):
    """One version of yagna."""

    version: str


class Version(ApiModel):
    """`/version/get`."""

    current: Release


class _Paid(ApiModel):
    """What invoices and debit notes have in common."""

    issuer_id: str
    recipient_id: Name
    payment_platform: Platform
    timestamp: UtcTime
    agreement_id: str
    status: Status


class DebitNote(_Paid):
    """`total_amount_due` is cumulative over the activity."""

    debit_note_id: str
    previous_debit_note_id: str | None = None
    activity_id: str
    total_amount_due: AmountText

    @property
    def key(self) -> str:
        """What it is told from others by."""
        return self.debit_note_id


class Invoice(_Paid):
    """`amount` is of the whole agreement, what was paid before the invoice included."""

    invoice_id: str
    activity_ids: Listed[str]
    amount: AmountText
    payment_due_date: UtcTime

    @property
    def key(self) -> str:
        """What it is told from others by."""
        return self.invoice_id


class AgreementPayment(ApiModel):
    """Part of a payment that is for an invoice."""

    agreement_id: str
    amount: AmountText


class ActivityPayment(ApiModel):
    """Part of a payment that is for a debit note."""

    activity_id: str
    amount: AmountText


class Payment(ApiModel):
    """Received, or sent as a requestor."""

    payment_id: str
    payee_id: str
    payment_platform: Platform
    amount: AmountText
    timestamp: UtcTime
    agreement_payments: Listed[AgreementPayment]
    activity_payments: Listed[ActivityPayment]

    @property
    def key(self) -> str:
        """What it is told from others by."""
        return self.payment_id


class Account(ApiModel):
    """`providerAccounts`: where pay arrives."""

    platform: Platform
    receive: bool


class DriverProblem(ApiModel):
    """`payments/status`: what keeps the payment driver from working. The kinds are not a closed set."""

    kind: Name
    driver: Name
    network: Name | None = None
    address: Name | None = None
    needed_gas_est: AmountText | None = None
    needed_token_est: AmountText | None = None


class NetStatus(ApiModel):
    """`net/status`."""

    public_ip: str | None = None
    sessions: Number


class _OfferedThreads(ApiModel):
    threads: Number = Field(alias="golem.inf.cpu.threads")


class Offer(ApiModel):
    """A published offer, as far as its size goes."""

    offer_id: str
    properties: _OfferedThreads


class UsageVector(ApiModel):
    """Names of what a runtime counts, in the order of every usage vector and coefficient."""

    counters: list[str] = Field(alias="golem.com.usage.vector")


class _OfferedPrices(UsageVector):
    model: str = Field(alias="golem.com.pricing.model")
    coefficients: list[AmountText] = Field(alias="golem.com.pricing.model.linear.coeffs")


class PricedOffer(ApiModel):
    """A published offer, as far as its prices go."""

    offer_id: str
    properties: _OfferedPrices

    def coefficient(self, counter: str) -> Decimal | None:
        """GLM for one unit of `counter`; None where the runtime does not count it or is not priced so."""
        prices = self.properties
        # The last coefficient is the price of starting; it stands for no counter.
        by_name = dict(zip(prices.counters, prices.coefficients[:-1], strict=False))
        return by_name.get(counter) if prices.model == "linear" else None


class AgreementId(ApiModel):
    """An agreement in a list."""

    id: str


class _AgreedOffer(ApiModel):
    properties: UsageVector


class Agreement(ApiModel):
    """One agreement: what was offered when it was made."""

    offer: _AgreedOffer


class ActivityState(ApiModel):
    """The state, and the one it is changing to."""

    state: Annotated[list[str | None], Field(min_length=1)]

    @property
    def running(self) -> bool:
        """Not ended, as far as is known."""
        return self.state[0] not in ENDED


class ActivityUsage(ApiModel):
    """What an activity has used so far; null before its runtime has told."""

    current_usage: list[Number] | None = None


def token_of(platform: str) -> str:
    """`GLM` for `erc20-polygon-glm`, `TGLM` for a test network's platform."""
    return platform.rsplit("-", 1)[-1].upper()


def metric_samples(node: str, text: str) -> list[tuple[str, Mapping[str, str], Decimal]]:
    """Name, labels and value of each sample of a Prometheus text; `ParseError` where a line is none."""
    found: list[tuple[str, Mapping[str, str], Decimal]] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _SAMPLE.fullmatch(line.strip())
        try:
            value = Decimal(match["value"]) if match else None
        except ArithmeticError:
            value = None
        if match is None or value is None:
            raise ParseError(node, "the metrics hold a line that is no sample")
        found.append((match["name"], dict(_LABEL.findall(match["labels"] or "")), value))
    return found


def received_glm(node: str, text: str) -> dict[str, Decimal]:
    """Payment platform -> GLM received since yagna started, from the counters (nano-GLM) in yagna's metrics."""
    found: dict[str, Decimal] = {}
    for name, labels, value in metric_samples(node, text):
        if name == RECEIVED_METRIC and "platform" in labels:
            if not value.is_finite() or value < 0:
                raise ParseError(node, f"the metric {name} is no amount")
            found[labels["platform"]] = found.get(labels["platform"], Decimal(0)) + value * _NANO
    return found
