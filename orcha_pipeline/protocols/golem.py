"""Golem: yagna's REST API for what is read, the provider agent's settings for what is changed."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, ClassVar
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
    Balance,
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
from orcha_pipeline.protocols import golem_api as api
from orcha_pipeline.protocols.base import Adapter, AdapterOptions
from orcha_pipeline.protocols.golem_advice import document_advice, driver_advice, network_advice
from orcha_pipeline.protocols.golem_balances import Books, golem_balances
from orcha_pipeline.protocols.golem_command import ProviderCommand
from orcha_pipeline.protocols.golem_documents import LONG_LOOK_BACK, Accrual, GolemDocuments
from orcha_pipeline.protocols.golem_files import SMALLEST_GIB, AgentState, Profile, ProviderAgent, ProviderFiles
from orcha_pipeline.protocols.http import HttpStatusError, NodeHttp, seconds_ahead
from orcha_pipeline.protocols.levers import check_change, lever_range, wait_for
from orcha_pipeline.protocols.node_options import positive_demand, read_options, required_token
from orcha_pipeline.protocols.os_limits import os_usage
from orcha_pipeline.protocols.parsing import parse, whole_amounts
from orcha_pipeline.settings import NodeSettings

LEVER = "cpu_threads"
PRICES = {"cpu_price": api.CPU_COUNTER, "duration_price": api.DURATION_COUNTER}
"""Lever -> what it prices. A preset's coefficient is GLM a second; the levers are GLM an hour."""
LARGEST_PRICE = 10.0
"""GLM an hour; hundreds of times what providers ask, so that a slip of the decimal point is caught."""
PRICE_STEP = 0.0001
IDLE_HOURS = 24
_SECONDS = Decimal(3600)
_USAGE = {api.CPU_COUNTER: "running_tasks_cpu_seconds", api.DURATION_COUNTER: "running_tasks_duration_seconds"}
_RISKS = ("a running task keeps its terms to its end", "changed offers take minutes to spread")
_NO_AGENT = "options.data_dir is not set: name the provider agent's folder (~/.local/share/ya-provider)"


class GolemOptions(AdapterOptions):
    """`data_dir`: the provider agent's folder; `cli`: the command to change it by instead. Without both: read only."""

    data_dir: Path | None = None
    cli: tuple[str, ...] = ()
    settle_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    balance_days: Annotated[int, Field(ge=8, le=365)] = 30
    """How far back balances and advice look."""


class GolemAdapter(Adapter):
    """One provider. Earnings are what it has accrued: debit notes, and invoices of tasks too short for one.

    What was received (payments, and yagna's counter of them) is the same money later; it is told in the balances and
    never among the earnings, where the two would be added up.
    """

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
        self._documents = GolemDocuments(settings.name, self._http)
        folder, command = self.options.data_dir, self.options.cli
        self._agent: ProviderAgent | None = None
        if command:
            self._agent = ProviderCommand(settings.name, command, folder)
        elif folder is not None:
            self._agent = ProviderFiles(settings.name, folder)

    def health(self) -> HealthReading:
        """Yagna's own health check, and whether any offer is published: without one no task comes.

        An old market broadcast is an error, too: the node is cut off from the market, which touches no reputation.
        A node that Orcha has set to 0 threads publishes nothing and is healthy.
        """
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
        version = parse(self.node, where, api.Version, self._http.get_json(where)).current.version
        paused = ""
        if not problem and not self._offers():
            state = self._state()
            if state.paused:
                paused = f"at 0 threads: Orcha has deactivated the presets {', '.join(state.deactivated)}"
            else:
                problem = f"no offer is published: the provider gets no new tasks; {_why_no_offer(state)}"
        return HealthReading(
            state=HealthState.ERROR if problem else HealthState.HEALTHY,
            reason=problem or paused,
            error_kind=ApiError.kind if problem else "",
            latency_seconds=latency,
            version=version,
        )

    def earnings(self, window: Window) -> Sequence[EarningsObservation]:
        """One bucket: what was accrued in `window`. Without any note in it, that is 0 and measured.

        Where the documents cannot be read this fails; they stay in yagna, and are read later.
        """
        return [self._bucket(window, self._documents.accruals(window, self.clock.now()))]

    def earnings_history(self, window: Window) -> Sequence[EarningsObservation]:
        """A bucket per hour of `window`, from the hour of the first note on. Hours without a note earned nothing.

        The hour that runs ends now: what is still to come in it is for later readings.
        """
        now = self.clock.now()
        end = min(window.end, now)
        by_hour: dict[datetime, list[Accrual]] = defaultdict(list)
        for accrual in self._documents.accruals(window, now):
            if accrual.at < end:
                by_hour[hour_of(accrual.at)].append(accrual)
        found: list[EarningsObservation] = []
        hour = min(by_hour, default=end)
        while hour < end:
            span = Window(max(hour, window.start), min(hour + HOUR, end))
            found.append(self._bucket(span, by_hour[hour]))
            hour += HOUR
        return found

    def balances(self) -> Sequence[Balance]:
        """Accrued, pending, settled, doubtful and lost of each payment platform, over the last `balance_days`.

        Where the payments cannot be read, yagna's counter of what was received stands in for what is settled.
        """
        now = self.clock.now()
        since = now - timedelta(days=self.options.balance_days)
        where = "/payment-api/v1/providerAccounts"
        accounts = parse(self.node, where, list[api.Account], self._http.get_json(where))
        me = self._documents.me()
        payments: Sequence[api.Payment] | None = None
        problem = ""
        counted: Mapping[str, Decimal] = {}
        try:
            payments = self._documents.payments(me, since - LONG_LOOK_BACK)
        except (ApiError, ParseError) as error:
            problem = error.message
            counted = api.received_glm(self.node, self._http.get_text("/metrics-api/v1/expose"))
        books = Books(
            since=since,
            notes=self._documents.notes(me, since),
            invoices=self._documents.invoices(me, since),
            payments=payments,
            payments_problem=problem,
            counted=counted,
        )
        receiving = [account.platform for account in accounts if account.receive]
        return golem_balances(self.node, books, now=now, platforms=receiving)

    def resource_usage(self) -> Sequence[UsageReading]:
        """Tasks that run now, what they have used so far, and what the host counts of the node's processes."""
        tasks = self._running_tasks()
        source, running = "golem /activity-api/v1/activity", float(len(tasks))
        found = [UsageReading(metric="tasks_running", value=running, provenance=Provenance.MEASURED, source=source)]
        for counter, metric in _USAGE.items() if tasks else ():
            # A runtime that counts something else says nothing of this; neither does one that has not told yet.
            values = [task.get(counter) for task in tasks]
            known = [value for value in values if value is not None]
            whole = len(known) == len(values)
            found.append(
                UsageReading(
                    metric=metric,
                    value=sum(known) if whole else None,
                    provenance=Provenance.MEASURED if whole else Provenance.UNKNOWN,
                    source=source,
                )
            )
        return [*found, *os_usage(self.controller)]

    def allocation(self) -> AllocationReading:
        """The threads in the published offers: what requestors are really offered, after the agent's own limits.

        0 where no offer is published because no preset is active; unknown where one should be and is not.
        """
        return self._threads(self._offers())

    def allocations(self) -> Sequence[AllocationReading]:
        """The threads, and the prices in the published offers."""
        where = "/market-api/v1/offers"
        payload = self._http.get_json(where)
        priced = parse(self.node, where, list[api.PricedOffer], payload)
        threads = self._threads(parse(self.node, where, list[api.Offer], payload))
        return [threads, *(_price(lever, counter, priced) for lever, counter in PRICES.items())]

    def levers(self) -> Sequence[Lever]:
        """The hardware profile's threads, with memory and storage in step, and the prices of the active presets.

        The agent takes all of them up by itself. 0 threads deactivates the presets, where `min_share` is 0.
        """
        state = self._state()
        bounds = lever_range(self.settings, full=self._full, step=1.0, floor=0.0 if state.can_pause else 1.0)
        why_not = bounds.problem or state.no_profile
        if state.switched_off:
            why_not = why_not or _why_no_offer(state)
        threads = Lever(
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
            risks=_RISKS,
        )
        no_price = state.no_profile or state.no_presets or ("" if state.active else "no preset is active")
        return [threads, *(self._price_lever(name, no_price) for name in PRICES)]

    def clock_ahead_seconds(self) -> float | None:
        """By the date of its last answer."""
        return seconds_ahead(self._http.dated, self.clock)

    def advice(self) -> Sequence[str]:
        """Problems of the payment drivers and the network, unpaid invoices, running tasks, and lack of tasks."""
        now = self.clock.now()
        where = "/payment-api/v1/payments/status"
        found = driver_advice(parse(self.node, where, list[api.DriverProblem], self._http.get_json(where)))
        where = "/net-api/v2/net/status"
        found += network_advice(parse(self.node, where, api.NetStatus, self._http.get_json(where)))
        since = now - timedelta(days=self.options.balance_days)
        found += document_advice(self._documents.invoices(self._documents.me(), since), now)
        if running := len(self._running_tasks()):
            found.append(
                f"{running} task{'s run' if running > 1 else ' runs'} now: Orcha's changes leave running tasks alone, "
                "but stopping or restarting golemsp would abort them unpaid"
            )
        elif self._offers():
            day_ago = (now - timedelta(hours=IDLE_HOURS)).isoformat().replace("+00:00", "Z")
            if not self._agreements({"afterDate": day_ago}):
                found.append(
                    f"offers are published, but no task has come for {IDLE_HOURS} hours: the price is too high for "
                    "what is offered, or demand is low"
                )
        return found

    def pending_change(self) -> str | None:
        """By the agent's hardware profile against the published offers, where there are any."""
        if self._agent is None:
            return None
        offered, threads = self.allocation().value, self._agent.profile().threads
        if not offered or offered == threads:
            return ""
        return f"the hardware profile says {threads} threads, the offers {offered:g}"

    def apply(self, lever: str, value: float) -> AppliedChange:
        """Write the settings and wait until every published offer shows them, or none is published any more at 0."""
        agent = self._agent
        if agent is None:
            raise UnsupportedError(self.node, _NO_AGENT)
        levers = {each.name: each for each in self.levers()}
        counter = PRICES.get(lever)
        if counter is not None:
            check_change(self.node, levers[lever], lever, value, floor=0.0)
            if value > LARGEST_PRICE:
                raise AllocationError(self.node, f"{lever} takes at most {LARGEST_PRICE:g} GLM an hour, not {value:g}")
            previous = self._reading(lever).value
            agent.set_price(counter, Decimal(repr(value)) / _SECONDS)
        else:
            state = self._state()
            floor = 0.0 if state.can_pause else 1.0
            check_change(self.node, levers[LEVER], lever, value, floor=floor, whole=True)
            previous = self.allocation().value
            if value == 0:
                agent.pause()
            else:
                agent.set_profile(self._profile(int(value)))
                if state.deactivated:
                    agent.resume()

        def shown() -> float | None:
            seen = self._reading(lever).value
            return value if seen is not None and math.isclose(seen, value, rel_tol=1e-6, abs_tol=1e-9) else None

        if wait_for(shown, seconds=self.options.settle_seconds) is None:
            raise self._not_shown(levers[lever], value)
        return AppliedChange(lever=lever, previous=previous, requested=value, read_back=value)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self.controller.close()

    def _reading(self, lever: str) -> AllocationReading:
        if lever == LEVER:
            return self.allocation()
        return next(reading for reading in self.allocations() if reading.lever == lever)

    def _not_shown(self, lever: Lever, value: float) -> AllocationError:
        seen = self._reading(lever.name).value
        hints = {
            LEVER: "does YA_RT_CORES or the machine allow that many?",
            **dict.fromkeys(PRICES, "is the preset's pricing model linear?"),
        }
        return AllocationError(
            self.node,
            f"asked for {value:g} {lever.unit}, the offers show {'none' if seen is None else f'{seen:g}'} after "
            f"{self.options.settle_seconds:g} s; is ya-provider running, and {hints[lever.name]}",
        )

    def _state(self) -> AgentState:
        if self._agent is None:
            return AgentState(no_profile=_NO_AGENT, no_presets=_NO_AGENT, no_memory=_NO_AGENT)
        return self._agent.state()

    def _profile(self, threads: int) -> Profile:
        """Memory and storage in step with the threads, where the node demands any."""
        share = threads / self._full
        demand = self.settings.demand

        def part(gib: float) -> float | None:
            return max(SMALLEST_GIB, round(gib * share, 4)) if gib > 0 else None

        return Profile(
            threads=threads, memory_gib=part(demand.memory_gib), storage_gib=part(demand.disk_gb * 1e9 / 2**30)
        )

    def _price_lever(self, name: str, why_not: str) -> Lever:
        return Lever(
            name=name,
            unit="GLM/h",
            mode=LeverMode.HOT,
            minimum=0.0,
            maximum=LARGEST_PRICE,
            step=PRICE_STEP,
            at_full_share=LARGEST_PRICE,
            settle_seconds=self.options.settle_seconds,
            writable=not why_not,
            why_not=why_not,
            risks=(*_RISKS, "a price above the market's brings no tasks, one below it cheap ones"),
        )

    def _offers(self) -> list[api.Offer]:
        where = "/market-api/v1/offers"
        return parse(self.node, where, list[api.Offer], self._http.get_json(where))

    def _threads(self, offers: Sequence[api.Offer]) -> AllocationReading:
        offered = {offer.properties.threads for offer in offers}
        threads = offered.pop() if len(offered) == 1 else None
        source = "golem offers"
        if len(offers) == 0:
            state = self._state()
            if not state.no_presets and not state.active:
                threads, source = 0.0, "golem offers and the provider's presets: none is active"
            else:
                source = f"{source}; none is published"
        elif threads is None:
            source = f"{source}; they differ"
        return AllocationReading(
            lever=LEVER,
            value=threads,
            unit="threads",
            share=None if threads is None else threads / self._full,
            provenance=Provenance.UNKNOWN if threads is None else Provenance.MEASURED,
            source=source,
        )

    def _bucket(self, window: Window, accruals: Sequence[Accrual]) -> EarningsBucket:
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

    def _agreements(self, params: Mapping[str, str]) -> list[api.AgreementId]:
        where = "/market-api/v1/agreements"
        return parse(self.node, where, list[api.AgreementId], self._http.get_json(where, params))

    def _running_tasks(self) -> list[dict[str, float]]:
        """Counter -> use so far, of each running activity of an agreement in force; empty where it has not told.

        The list of all activities is not asked for: it grows for ever.
        """
        where = "/activity-api/v1/activity"
        found: list[dict[str, float]] = []
        for agreement in self._agreements({"state": "Approved"}):
            running = [
                activity
                for activity in parse(
                    self.node, where, list[str], self._http.get_json(where, {"agreementId": agreement.id})
                )
                if self._activity(activity, "state", api.ActivityState).running
            ]
            if running:
                path = f"/market-api/v1/agreements/{quote(agreement.id, safe='')}"
                agreed = parse(self.node, path, api.Agreement, self._http.get_json(path))
                counters = agreed.offer.properties.counters
                for activity in running:
                    used = self._activity(activity, "usage", api.ActivityUsage).current_usage
                    found.append(dict(zip(counters, used or (), strict=False)))
        return found

    def _activity(self, activity: str, part: str, kind: type[Any]) -> Any:
        path = f"/activity-api/v1/activity/{quote(activity, safe='')}/{part}"
        return parse(self.node, path, kind, self._http.get_json(path))


def _why_no_offer(state: AgentState) -> str:
    if state.no_presets:
        return "is ya-provider running, and is a preset active?"
    if state.active:
        return f"the presets {', '.join(state.active)} are active: is ya-provider running?"
    return "no preset is active, and Orcha has not deactivated one: ya-provider preset activate NAME"


def _price(lever: str, counter: str, offers: Sequence[api.PricedOffer]) -> AllocationReading:
    """What the published offers ask for an hour of what `counter` counts; unknown where they differ."""
    found = {offer.coefficient(counter) for offer in offers}
    coefficient = found.pop() if len(found) == 1 else None
    told = "; they differ" if found else "; none is published" if not offers else "; they have no such price"
    return AllocationReading(
        lever=lever,
        value=None if coefficient is None else float(coefficient * _SECONDS),
        unit="GLM/h",
        share=None,
        provenance=Provenance.UNKNOWN if coefficient is None else Provenance.MEASURED,
        source="golem offers" + ("" if coefficient is not None else told),
    )
