"""Beacon: a relay that is paid in US dollars for the traffic it carries.

An invented protocol, written as a model: its node answers JSON over HTTP, wants a key, keeps a running total, and
takes a new limit of its bandwidth without a restart.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from time import perf_counter
from typing import Annotated, ClassVar, TypeVar

import httpx
from pydantic import Field

from orcha_pipeline.clock import Clock
from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.errors import AllocationError, ApiError
from orcha_pipeline.model import (
    HOUR,
    AllocationReading,
    Amounts,
    AppliedChange,
    Balance,
    BalanceKind,
    EarningsBucket,
    EarningsCounter,
    EarningsObservation,
    HealthReading,
    HealthState,
    Lever,
    LeverMode,
    Provenance,
    UsageReading,
    Window,
)
from orcha_pipeline.protocols.base import Adapter, AdapterOptions
from orcha_pipeline.protocols.http import NodeHttp
from orcha_pipeline.protocols.levers import check_change, lever_range, wait_for
from orcha_pipeline.protocols.node_options import positive_demand, read_options, required_token
from orcha_pipeline.protocols.parsing import AmountText, ApiModel, Number, UtcTime, Whole, parse, whole_amounts
from orcha_pipeline.settings import NodeSettings

LEVER = "relay_mbps"
STEP_MBPS = 1.0
SETTLE_SECONDS = 10.0
LEAST_REPUTATION = 0.9
T = TypeVar("T")


class BeaconOptions(AdapterOptions):
    """`[nodes.options]`. `least_mbps`: what a relay must carry to stay in the network's list."""

    least_mbps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0


# What the node answers. A field that is missing or of another type is a `ParseError` naming it, never a 0.


class _Status(ApiModel):
    version: str
    peers: Whole
    reputation: Annotated[Number, Field(le=1)]


class _Ledger(ApiModel):
    """`total_usd` grows from `opened_at`; a new ledger is opened after each payment."""

    ledger: Annotated[str, Field(min_length=1, max_length=60)]
    opened_at: UtcTime
    total_usd: AmountText
    awaiting_payment_usd: AmountText


class _Hour(ApiModel):
    start: UtcTime
    earned_usd: AmountText


class _Hours(ApiModel):
    hours: list[_Hour]


class _Limits(ApiModel):
    relay_mbps: Number
    locked_by_operator: bool


class _Traffic(ApiModel):
    received_bytes: Whole
    sent_bytes: Whole


class BeaconAdapter(Adapter):
    """One relay."""

    protocol: ClassVar[str] = "beacon"
    native_unit: ClassVar[str] = "USD"
    token: ClassVar[str | None] = None
    options_type: ClassVar[type[AdapterOptions]] = BeaconOptions

    def __init__(
        self,
        settings: NodeSettings,
        *,
        controller: Controller,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect to nothing yet: whatever is wrong with the settings is a `SettingsError` here."""
        super().__init__(settings, controller=controller, clock=clock, transport=transport)
        self.options = read_options(settings, BeaconOptions)
        self._full = positive_demand(settings, "bandwidth_mbps")
        self._http = NodeHttp(
            settings.name,
            settings.url,
            # A SecretStr: NodeHttp keeps it out of every message, even where the node repeats it.
            headers={"X-Beacon-Key": required_token(settings, "the relay's key (beacon key show)")},
            timeout_seconds=settings.timeout_seconds,
            transport=transport,
        )

    def health(self) -> HealthReading:
        """A relay without peers earns nothing; one of low reputation must not be touched."""
        begun = perf_counter()
        status = self._get("/v1/status", _Status)
        latency = perf_counter() - begun
        state, reason = HealthState.HEALTHY, ""
        if status.reputation < LEAST_REPUTATION:
            state, reason = HealthState.AT_RISK, f"its reputation is {status.reputation:g}, below {LEAST_REPUTATION:g}"
        if status.peers == 0:
            state, reason = HealthState.ERROR, "it has no peers; is its port 7411 reachable from outside?"
        return HealthReading(
            state=state,
            reason=reason,
            error_kind=ApiError.kind if state is HealthState.ERROR else "",
            latency_seconds=latency,
            version=status.version,
            scores={"reputation": status.reputation},
        )

    def earnings(self, window: Window) -> Sequence[EarningsObservation]:
        """The running total as it stands now, a stream per ledger: Orcha takes the differences itself."""
        ledger = self._get("/v1/earnings", _Ledger)
        return [
            EarningsCounter(
                stream=ledger.ledger,
                observed_at=self.clock.now(),
                since=ledger.opened_at,
                unit=self.native_unit,
                amounts=self._amounts(ledger.total_usd),
                provenance=Provenance.MEASURED,
                source="beacon ledger",
            )
        ]

    def earnings_history(self, window: Window) -> Sequence[EarningsObservation]:
        """The full hours that the node still knows of."""
        asked = {"from": window.start.isoformat(), "to": window.end.isoformat()}
        now = self.clock.now()
        return [
            EarningsBucket(
                stream="hours",
                observed_at=now,
                window=Window(hour.start, hour.start + HOUR),
                unit=self.native_unit,
                amounts=self._amounts(hour.earned_usd),
                provenance=Provenance.MEASURED,
                source="beacon hours",
            )
            for hour in self._get("/v1/earnings/hours", _Hours, asked).hours
            if window.start <= hour.start and hour.start + HOUR <= min(window.end, now)
        ]

    def balances(self) -> Sequence[Balance]:
        """What is earned and waits for its payment."""
        ledger = self._get("/v1/earnings", _Ledger)
        return [
            Balance(
                kind=BalanceKind.PENDING,
                account=ledger.ledger,
                observed_at=self.clock.now(),
                since=None,
                unit=self.native_unit,
                amount=ledger.awaiting_payment_usd,
                provenance=Provenance.MEASURED,
                source="beacon ledger",
            )
        ]

    def resource_usage(self) -> Sequence[UsageReading]:
        """Bytes since the node's start."""
        traffic = self._get("/v1/traffic", _Traffic)
        counted = {
            "network_received_bytes_total": traffic.received_bytes,
            "network_sent_bytes_total": traffic.sent_bytes,
        }
        return [
            UsageReading(metric=metric, value=float(value), provenance=Provenance.MEASURED, source="beacon /v1/traffic")
            for metric, value in counted.items()
        ]

    def allocation(self) -> AllocationReading:
        """The limit as the node reports it itself."""
        limit = self._get("/v1/limits", _Limits).relay_mbps
        return AllocationReading(
            lever=LEVER,
            value=limit,
            unit="Mbps",
            share=limit / self._full,
            provenance=Provenance.MEASURED,
            source="beacon /v1/limits",
        )

    def levers(self) -> Sequence[Lever]:
        """One lever, which carries the share: the relay's bandwidth, changed while it runs."""
        bounds = lever_range(self.settings, full=self._full, step=STEP_MBPS, floor=self.options.least_mbps)
        locked = self._get("/v1/limits", _Limits).locked_by_operator
        why_not = bounds.problem or ("the limits are locked; allow it with: beacon limits unlock" if locked else "")
        return [
            Lever(
                name=LEVER,
                unit="Mbps",
                mode=LeverMode.HOT,
                minimum=bounds.minimum,
                maximum=bounds.maximum,
                step=STEP_MBPS,
                at_full_share=self._full,
                cooldown=timedelta(minutes=30),
                settle_seconds=SETTLE_SECONDS,
                writable=not why_not,
                why_not=why_not,
                risks=("peers measure the new speed for some minutes",),
            )
        ]

    def apply(self, lever: str, value: float) -> AppliedChange:
        """Set the limit, wait until the node shows it, and tell what was read back."""
        check_change(self.node, self.levers()[0], lever, value, floor=STEP_MBPS)
        previous = self._get("/v1/limits", _Limits).relay_mbps
        self._http.post_json("/v1/limits", {"relayMbps": value})

        def taken() -> float | None:
            found = self._get("/v1/limits", _Limits).relay_mbps
            return found if abs(found - value) < STEP_MBPS / 2 else None

        read_back = wait_for(taken, seconds=SETTLE_SECONDS)
        if read_back is None:
            raise AllocationError(self.node, f"it was set to {value:g} Mbps, but does not show it")
        return AppliedChange(lever=lever, previous=previous, requested=value, read_back=read_back)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self.controller.close()

    def _get(self, path: str, kind: type[T], params: Mapping[str, str | int] | None = None) -> T:
        return parse(self.node, path, kind, self._http.get_json(path, params))

    def _amounts(self, usd: Decimal) -> Amounts:
        """Nothing is held back, and no fee is taken off."""
        return whole_amounts(self.node, gross=usd, net=usd)
