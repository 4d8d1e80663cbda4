"""Grass: the dashboard's cloud API, read only, and the operating system's limits on the desktop client.

The API is private and may change: whatever does not fit is an error, never a 0. Earnings are points; what a point
is worth in GRASS is told only at an airdrop, so `grass_per_point` is the operator's own assumption.
"""

import json
from collections.abc import Sequence
from decimal import Decimal
from time import perf_counter
from typing import Annotated, ClassVar, Generic, TypeVar

import httpx
from pydantic import Field

from orcha_pipeline.clock import Clock
from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.errors import AllocationError, ApiError
from orcha_pipeline.model import (
    AllocationReading,
    Amounts,
    AppliedChange,
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
from orcha_pipeline.protocols.levers import check_change, lever_range
from orcha_pipeline.protocols.node_options import positive_demand, read_options, required_token
from orcha_pipeline.protocols.parsing import AmountText, ApiModel, UtcTime, parse, whole_amounts
from orcha_pipeline.settings import NodeSettings

LEVER = "cpu_threads"
STEP = 0.01
"""Docker's finest CPU limit, in threads."""
POINTS_PER_HOUR = 50
DASHBOARD = "https://app.grass.io"
T = TypeVar("T")


class GrassOptions(AdapterOptions):
    """`device_id`: which of the account's devices this node is; without it, all of them.

    `grass_per_point`: GRASS for a point, as the operator expects it; without it points have no price.
    """

    device_id: str | None = None
    grass_per_point: Annotated[Decimal, Field(gt=0, allow_inf_nan=False)] | None = None


class _Result(ApiModel, Generic[T]):
    data: T


class _Envelope(ApiModel, Generic[T]):
    result: _Result[T]


class _Device(ApiModel):
    device_id: str
    ip_score: Annotated[AmountText, Field(le=100)]
    multiplier: AmountText
    agg_uptime: AmountText

    def points(self) -> Decimal:
        """The dashboard's formula over this epoch's uptime (seconds)."""
        return self.agg_uptime / 3600 * POINTS_PER_HOUR * self.ip_score / 100 * self.multiplier


class _Epoch(ApiModel):
    epoch_name: Annotated[str, Field(min_length=1, max_length=100)]
    total_points: AmountText
    start_date: UtcTime
    end_date: UtcTime


class _Epochs(ApiModel):
    data: list[_Epoch]


class GrassAdapter(Adapter):
    """One device of an account, or all of them as one node."""

    protocol: ClassVar[str] = "grass"
    native_unit: ClassVar[str] = "GRASS_POINT"
    token: ClassVar[str | None] = "grass"  # noqa: S105 (the price's id)
    options_type: ClassVar[type[AdapterOptions]] = GrassOptions

    def __init__(
        self,
        settings: NodeSettings,
        *,
        controller: Controller,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(settings, controller=controller, clock=clock, transport=transport)
        self.options = read_options(settings, GrassOptions)
        self._full = positive_demand(settings, "cpu_threads")
        self._http = NodeHttp(
            settings.name,
            settings.url,
            headers={
                # The raw token: this API takes no "Bearer".
                "Authorization": required_token(settings, "the dashboard's accessToken"),
                "Origin": DASHBOARD,
                "Referer": f"{DASHBOARD}/",
                "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            },
            timeout_seconds=settings.timeout_seconds,
            transport=transport,
        )

    @property
    def tokens_per_native(self) -> Decimal | None:
        """GRASS for a point, if the operator has set it."""
        return self.options.grass_per_point

    def health(self) -> HealthReading:
        """Whether the device is connected and its address has a score; both earn nothing otherwise."""
        begun = perf_counter()
        devices = self._devices()
        latency = perf_counter() - begun
        problem = ""
        if not devices:
            problem = "the device is not connected to Grass; is its client running and signed in?"
        elif all(device.ip_score == 0 for device in devices):
            problem = "the IP score is 0, so it earns nothing; a VPN or data-centre address is not paid"
        return HealthReading(
            state=HealthState.ERROR if problem else HealthState.HEALTHY,
            reason=problem,
            error_kind=ApiError.kind if problem else "",
            latency_seconds=latency,
            scores={"ip_score": float(min(device.ip_score for device in devices))} if devices else {},
        )

    def earnings(self, window: Window) -> Sequence[EarningsObservation]:  # noqa: ARG002 (the total as it stands now)
        """This epoch's points, a stream per epoch.

        The account's own total where it is above 0: while an epoch runs it may read 0. Then, or for one device of
        several, our estimate from the uptime of the devices connected now, which moves when their score does. With
        no device connected there is nothing to estimate from: unknown.
        """
        epoch = self._epochs(latest_only=True)[0]
        settled = self.options.device_id is None and epoch.total_points > 0
        devices = [] if settled else self._devices()
        points: Decimal | None = None
        if settled:
            points, provenance, source = epoch.total_points, Provenance.NODE_ESTIMATE, "grass epochEarnings"
        elif devices:
            points = sum((device.points() for device in devices), Decimal(0))
            provenance, source = Provenance.OUR_ESTIMATE, "grass uptime x IP score x multiplier"
        else:
            provenance, source = Provenance.UNKNOWN, "grass: no device is connected"
        return [
            EarningsCounter(
                stream=epoch.epoch_name,
                observed_at=self.clock.now(),
                since=epoch.start_date,
                unit=self.native_unit,
                amounts=Amounts() if points is None else whole_amounts(self.node, points, points),
                provenance=provenance,
                source=source,
            )
        ]

    def earnings_history(self, window: Window) -> Sequence[EarningsObservation]:
        """A bucket per settled epoch inside `window`; none for one device of several, which the API does not tell."""
        if self.options.device_id is not None:
            return []
        now = self.clock.now()
        return [
            EarningsBucket(
                stream=f"settled:{epoch.epoch_name}",
                observed_at=now,
                window=Window(epoch.start_date, epoch.end_date),
                unit=self.native_unit,
                amounts=whole_amounts(self.node, epoch.total_points, epoch.total_points),
                provenance=Provenance.MEASURED,
                source="grass epochEarnings",
            )
            for epoch in self._epochs(latest_only=False)
            if epoch.total_points > 0 and window.start <= epoch.start_date < epoch.end_date <= min(window.end, now)
        ]

    def resource_usage(self) -> Sequence[UsageReading]:
        """Devices connected, and their uptime in this epoch."""
        devices = self._devices()
        values = {
            "devices_connected": float(len(devices)),
            "uptime_seconds_total": float(sum(device.agg_uptime for device in devices)) if devices else None,
        }
        return [
            UsageReading(
                metric=metric,
                value=value,
                provenance=Provenance.UNKNOWN if value is None else Provenance.MEASURED,
                source="grass activeDevices",
            )
            for metric, value in values.items()
        ]

    def allocation(self) -> AllocationReading:
        """The CPU limit in force. Without a limit the client may use all it would: its full demand."""
        threads = self.controller.limits().cpu_threads
        return AllocationReading(
            lever=LEVER,
            value=self._full if threads is None else threads,
            unit="threads",
            share=1.0 if threads is None else threads / self._full,
            provenance=Provenance.OUR_ESTIMATE if threads is None else Provenance.MEASURED,
            source="no CPU limit is set: counted as full demand" if threads is None else "CPU limit of the host",
        )

    def levers(self) -> Sequence[Lever]:
        """The CPU limit that the host's controller enforces."""
        bounds = lever_range(self.settings, full=self._full, step=STEP, floor=STEP)
        why_not = bounds.problem or self.controller.why_not_writable()
        return [
            Lever(
                name=LEVER,
                unit="threads",
                mode=LeverMode.OS_LIMIT,
                minimum=bounds.minimum,
                maximum=bounds.maximum,
                step=STEP,
                at_full_share=self._full,
                settle_seconds=5.0,
                writable=not why_not,
                why_not=why_not,
                risks=("throttling may lower the IP score, hours to days later",),
            )
        ]

    def apply(self, lever: str, value: float) -> AppliedChange:
        """Set the CPU limit (threads) and compare it with what the host reports."""
        check_change(self.node, self.levers()[0], lever, value, floor=STEP)
        previous = self.controller.limits().cpu_threads
        read_back = self.controller.set_cpu(value).cpu_threads
        if read_back is None or abs(read_back - value) > STEP / 2:
            seen = "no limit" if read_back is None else f"{read_back:g}"
            raise AllocationError(self.node, f"asked for a limit of {value:g} threads, the host reports {seen}")
        return AppliedChange(
            lever=lever,
            previous=self._full if previous is None else previous,
            requested=value,
            read_back=read_back,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self.controller.close()

    def _devices(self) -> list[_Device]:
        payload = self._http.get_json("/activeDevices")
        devices = parse(self.node, "/activeDevices", _Envelope[list[_Device]], payload).result.data
        wanted = self.options.device_id
        return [device for device in devices if wanted is None or device.device_id == wanted]

    def _epochs(self, *, latest_only: bool) -> list[_Epoch]:
        query = {"limit": 1 if latest_only else 50, "isLatestOnly": latest_only}
        payload = self._http.get_json("/epochEarnings", {"input": json.dumps(query, separators=(",", ":"))})
        epochs = parse(self.node, "/epochEarnings", _Envelope[_Epochs], payload).result.data.data
        if latest_only and not epochs:
            raise ApiError(self.node, "/epochEarnings lists no epoch")
        return epochs
