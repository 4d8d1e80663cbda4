"""Golem: the yagna daemon's REST API and the provider agent's hardware.json."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import Field, SecretStr

from orcha_pipeline.clock import Clock
from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.errors import AllocationError, ApiError, ParseError, UnsupportedError
from orcha_pipeline.model import (
    HOUR,
    AllocationReading,
    Amounts,
    AppliedChange,
    EarningsBucket,
    EarningsObservation,
    HealthReading,
    HealthState,
    Lever,
    LeverMode,
    Provenance,
    UsageReading,
    Window,
    hour_of,
)
from orcha_pipeline.protocols.base import Adapter, AdapterOptions
from orcha_pipeline.protocols.config_files import read_config, replace_config
from orcha_pipeline.protocols.http import HttpStatusError, NodeHttp
from orcha_pipeline.protocols.levers import check_change, lever_range, wait_for
from orcha_pipeline.protocols.node_options import positive_demand, read_options, required_token
from orcha_pipeline.protocols.parsing import AmountText, ApiModel, Number, UtcTime, parse, whole_amounts
from orcha_pipeline.settings import NodeSettings

LEVER = "cpu_threads"
LOOK_BACK = timedelta(hours=1)
"""How far before a window its first debit notes' predecessors are looked for: notes come every two minutes."""
LONG_LOOK_BACK = timedelta(hours=48)
"""How far an invoice without any debit note is checked for one before its whole amount counts."""
DOUBTFUL_AFTER = timedelta(days=7)
PAGE = 1000
LARGEST_PAGE = 64_000
LONGEST_CHAIN = 50
SMALLEST_GIB = 0.1
_LOST = frozenset({"REJECTED", "FAILED", "CANCELLED"})

Status = Literal["ISSUED", "RECEIVED", "ACCEPTED", "REJECTED", "FAILED", "SETTLED", "CANCELLED"]


class GolemOptions(AdapterOptions):
    """`data_dir`: the provider agent's folder (holds hardware.json); without it the profile is only read."""

    data_dir: Path | None = None
    settle_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0


class _Identity(ApiModel):
    identity: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]


class _DebitNote(ApiModel):
    """`total_amount_due` is cumulative over the activity."""

    debit_note_id: str
    issuer_id: str
    previous_debit_note_id: str | None = None
    timestamp: UtcTime
    agreement_id: str
    activity_id: str
    total_amount_due: AmountText
    status: Status

    @property
    def key(self) -> str:
        return self.debit_note_id


class _Invoice(ApiModel):
    invoice_id: str
    issuer_id: str
    timestamp: UtcTime
    agreement_id: str
    amount: AmountText
    status: Status

    @property
    def key(self) -> str:
        return self.invoice_id


class _OfferProperties(ApiModel):
    threads: Number = Field(alias="golem.inf.cpu.threads")


class _Offer(ApiModel):
    offer_id: str
    properties: _OfferProperties


class _Release(ApiModel):
    version: str


class _Version(ApiModel):
    current: _Release


class _Agreement(ApiModel):
    id: str


class _State(ApiModel):
    state: list[str | None]


@dataclass(frozen=True, slots=True)
class _Accrual:
    """Earned between a debit note's predecessor and itself, dated as the note. `amount` None: not to be known."""

    at: datetime
    amount: Decimal | None
    doubtful: bool


Document = TypeVar("Document", _DebitNote, _Invoice)


class GolemAdapter(Adapter):
    """One provider. Earnings are what it has accrued: debit notes, and invoices of tasks too short for one."""

    protocol: ClassVar[str] = "golem"
    native_unit: ClassVar[str] = "GLM"
    token: ClassVar[str | None] = "golem"  # noqa: S105 (the price's id)
    options_type: ClassVar[type[AdapterOptions]] = GolemOptions

    def __init__(
        self,
        settings: NodeSettings,
        *,
        controller: Controller,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(settings, controller=controller, clock=clock, transport=transport)
        self.options = read_options(settings, GolemOptions)
        self._full = positive_demand(settings, "cpu_threads")
        key = required_token(settings, "yagna's app-key (yagna app-key list)")
        self._http = NodeHttp(
            settings.name,
            settings.url,
            headers={"Authorization": SecretStr(f"Bearer {key.get_secret_value()}")},
            timeout_seconds=settings.timeout_seconds,
            transport=transport,
        )

    def health(self) -> HealthReading:
        """Yagna's own health check, and whether any offer is published: without one no task comes."""
        begun = perf_counter()
        problem = ""
        try:
            self._http.get_json("/healthcheck")
        except HttpStatusError as error:
            # 500 is the check's own way to say what is wrong; the daemon itself answers.
            if error.status != 500:
                raise
            problem = error.detail or "yagna's health check fails without a reason"
        latency = perf_counter() - begun
        where = "/version/get"
        version = parse(self.node, where, _Version, self._http.get_json(where)).current.version
        if not problem and not self._offers():
            problem = "no offer is published: the provider gets no new tasks"
        return HealthReading(
            state=HealthState.ERROR if problem else HealthState.HEALTHY,
            reason=problem,
            error_kind=ApiError.kind if problem else "",
            latency_seconds=latency,
            version=version,
        )

    def earnings(self, window: Window) -> Sequence[EarningsObservation]:
        """One bucket: what was accrued in `window`. Without any note in it, that is 0 and measured."""
        return [self._bucket(window, self._accruals(window))]

    def earnings_history(self, window: Window) -> Sequence[EarningsObservation]:
        """A bucket per hour of `window`, from the hour of the first note on. Hours without a note earned nothing."""
        by_hour: dict[datetime, list[_Accrual]] = defaultdict(list)
        for accrual in self._accruals(window):
            by_hour[hour_of(accrual.at)].append(accrual)
        found: list[EarningsObservation] = []
        hour = min(by_hour, default=window.end)
        while hour < window.end:
            span = Window(max(hour, window.start), min(hour + HOUR, window.end))
            found.append(self._bucket(span, by_hour[hour]))
            hour += HOUR
        return found

    def resource_usage(self) -> Sequence[UsageReading]:
        """Tasks that run now: those of the agreements in force, for the list of all tasks grows for ever."""
        where, agreements = "/activity-api/v1/activity", "/market-api/v1/agreements"
        approved = self._http.get_json(agreements, {"state": "Approved"})
        in_force = parse(self.node, agreements, list[_Agreement], approved)
        running = 0
        for agreement in in_force:
            found = self._http.get_json(where, {"agreementId": agreement.id})
            for activity in parse(self.node, where, list[str], found):
                path = f"{where}/{quote(activity, safe='')}/state"
                state = parse(self.node, path, _State, self._http.get_json(path)).state
                running += bool(state) and state[0] not in ("Terminated", "Unresponsive")
        return [
            UsageReading(
                metric="tasks_running", value=float(running), provenance=Provenance.MEASURED, source=f"golem {where}"
            )
        ]

    def allocation(self) -> AllocationReading:
        """The threads in the published offers: what requestors are really offered, after the agent's own limits."""
        offered = {offer.properties.threads for offer in self._offers()}
        threads = offered.pop() if len(offered) == 1 else None
        told = "" if threads is not None else "; none is published" if not offered else "; they differ"
        return AllocationReading(
            lever=LEVER,
            value=threads,
            unit="threads",
            share=None if threads is None else threads / self._full,
            provenance=Provenance.UNKNOWN if threads is None else Provenance.MEASURED,
            source=f"golem offers{told}",
        )

    def levers(self) -> Sequence[Lever]:
        """The active hardware profile: threads, with memory and storage in step. The agent reloads it by itself."""
        bounds = lever_range(self.settings, full=self._full, step=1.0, floor=1.0)
        why_not = bounds.problem or self._why_not_writable()
        return [
            Lever(
                name=LEVER,
                unit="threads",
                mode=LeverMode.HOT,
                minimum=bounds.minimum,
                maximum=bounds.maximum,
                step=1.0,
                at_full_share=self._full,
                settle_seconds=self.options.settle_seconds,
                writable=not why_not,
                why_not=why_not,
                risks=("a running task keeps its resources to its end", "changed offers take minutes to spread"),
            )
        ]

    def apply(self, lever: str, value: float) -> AppliedChange:
        """Write the profile and wait until every published offer shows the threads asked for."""
        check_change(self.node, self.levers()[0], lever, value, floor=1.0, whole=True)
        previous = self.allocation().value
        file = self._profile_file()
        replace_config(self.node, file, self._with_threads(file, int(value)))

        def offered() -> float | None:
            return value if self.allocation().value == value else None

        if wait_for(offered, seconds=self.options.settle_seconds) is None:
            seen = self.allocation().value
            raise AllocationError(
                self.node,
                f"asked for {value:g} threads, the offers show {'none' if seen is None else f'{seen:g}'} after "
                f"{self.options.settle_seconds:g} s; is ya-provider running, and does YA_RT_CORES or the machine "
                "allow that many?",
            )
        return AppliedChange(lever=lever, previous=previous, requested=value, read_back=value)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self.controller.close()

    def _offers(self) -> list[_Offer]:
        where = "/market-api/v1/offers"
        return parse(self.node, where, list[_Offer], self._http.get_json(where))

    def _bucket(self, window: Window, accruals: Sequence[_Accrual]) -> EarningsBucket:
        amounts = [a.amount for a in accruals if a.amount is not None]
        known = len(amounts) == len(accruals)
        doubtful = sum((a.amount for a in accruals if a.doubtful and a.amount is not None), Decimal(0))
        total = sum(amounts, Decimal(0))
        return EarningsBucket(
            stream="accrued",
            observed_at=self.clock.now(),
            window=window,
            unit=self.native_unit,
            amounts=whole_amounts(self.node, total, total, doubtful=doubtful) if known else Amounts(),
            provenance=Provenance.MEASURED if known else Provenance.UNKNOWN,
            source="golem debit notes" if known else "golem debit notes; the one before the window's first is gone",
        )

    def _accruals(self, window: Window) -> list[_Accrual]:
        """What debit notes and invoices of `window` say was earned there, lost documents left out."""
        me = parse(self.node, "/me", _Identity, self._http.get_json("/me")).identity.lower()
        notes = [n for n in self._documents("debitNotes", _DebitNote, window.start - LOOK_BACK) if _own(n, me)]
        invoices = [i for i in self._documents("invoices", _Invoice, window.start - LOOK_BACK) if _own(i, me)]
        lost = {i.agreement_id for i in invoices if i.status in _LOST}
        overdue = self.clock.now() - DOUBTFUL_AFTER
        doubtful = {i.agreement_id for i in invoices if i.status == "ISSUED" and i.timestamp < overdue}
        known = {note.debit_note_id: note for note in notes}
        chains: dict[str, list[_DebitNote]] = defaultdict(list)
        for note in notes:
            if note.status not in _LOST and note.agreement_id not in lost and note.timestamp < window.end:
                chains[note.activity_id].append(note)
        found: list[_Accrual] = []
        for chain in chains.values():
            before = [n for n in chain if n.timestamp < window.start]
            inside = [n for n in chain if n.timestamp >= window.start]
            base = before[-1].total_amount_due if before else self._total_before(inside[0], known)
            for note in inside:
                grown = None if base is None else note.total_amount_due - base
                if grown is not None and grown < 0:
                    raise ParseError(self.node, f"debit notes: the total of activity {note.activity_id} went down")
                found.append(_Accrual(note.timestamp, grown, note.agreement_id in doubtful))
                base = note.total_amount_due
        unnoted = [
            i for i in invoices if window.start <= i.timestamp < window.end and i.status not in _LOST and i.amount > 0
        ]
        noted = {note.agreement_id for note in notes}
        if any(i.agreement_id not in noted for i in unnoted):
            earlier = self._documents("debitNotes", _DebitNote, window.start - LONG_LOOK_BACK)
            noted |= {note.agreement_id for note in earlier}
        found += [
            _Accrual(i.timestamp, i.amount, i.agreement_id in doubtful) for i in unnoted if i.agreement_id not in noted
        ]
        return found

    def _total_before(self, note: _DebitNote, known: dict[str, _DebitNote]) -> Decimal | None:
        """The activity's total at the last note before `note` that is not lost; None where it cannot be known."""
        previous = note.previous_debit_note_id
        for _ in range(LONGEST_CHAIN):
            if previous is None:
                return Decimal(0)
            earlier = known.get(previous)
            if earlier is None:
                path = f"/payment-api/v1/debitNotes/{quote(previous, safe='')}"
                try:
                    earlier = parse(self.node, path, _DebitNote, self._http.get_json(path))
                except HttpStatusError as error:
                    if error.status != 404:
                        raise
                    return None
            if earlier.status not in _LOST:
                return earlier.total_amount_due
            previous = earlier.previous_debit_note_id
        return None

    def _documents(self, kind: str, model: type[Document], after: datetime) -> list[Document]:
        """All of `kind` later than `after`, by time. Pages overlap, so that equal times at their edge lose nothing."""
        path = f"/payment-api/v1/{kind}"
        found: dict[str, Document] = {}
        size = PAGE
        while True:
            params = {"afterTimestamp": after.isoformat().replace("+00:00", "Z"), "maxItems": size}
            page = parse(self.node, path, list[model], self._http.get_json(path, params))
            new = {item.key: item for item in page if item.key not in found}
            found |= new
            if len(page) < size:
                return sorted(found.values(), key=lambda item: item.timestamp)
            if any(later.timestamp < earlier.timestamp for earlier, later in pairwise(page)):
                raise ParseError(
                    self.node, f"{path}: the list is not in order of time, so its pages cannot be followed"
                )
            if not new:
                size *= 2
            if size > LARGEST_PAGE:
                raise ApiError(self.node, f"{path}: the list does not end")
            after = page[-1].timestamp - timedelta(microseconds=1)

    def _profile_file(self) -> Path:
        if self.options.data_dir is None:
            raise UnsupportedError(
                self.node, "options.data_dir is not set: name the provider agent's folder (~/.local/share/ya-provider)"
            )
        return self.options.data_dir / "hardware.json"

    def _why_not_writable(self) -> str:
        try:
            self._with_threads(self._profile_file(), 1)
        except (AllocationError, UnsupportedError) as error:
            return error.message
        return ""

    def _with_threads(self, file: Path, threads: int) -> str:
        """hardware.json with other resources in the active profile, everything else as it was."""
        try:
            content: Any = json.loads(read_config(self.node, file))
            profile: Any = content["profiles"][content["active"]]
            profile["cpu_threads"] = threads
        except (ValueError, LookupError, TypeError, RecursionError):
            raise AllocationError(self.node, f"{file} holds no active hardware profile; is it ya-provider's?") from None
        share = threads / self._full
        demand = self.settings.demand
        for name, amount in (("mem_gib", demand.memory_gib), ("storage_gib", demand.disk_gb * 1e9 / 2**30)):
            if amount > 0:
                profile[name] = max(SMALLEST_GIB, round(amount * share, 4))
        return json.dumps(content, indent=2) + "\n"


def _own(document: _DebitNote | _Invoice, identity: str) -> bool:
    """Issued by this provider: the lists also hold what it has to pay as a requestor."""
    return document.issuer_id.lower() == identity
