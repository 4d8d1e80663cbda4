"""Grass: the dashboard's cloud API, read only, and the operating system's limits on the desktop client.

The API is private and may change: whatever does not fit is an error, never a 0. Earnings are points; what a point
is worth in GRASS is told only at an airdrop, so `grass_per_point` is the operator's own assumption.

While an epoch runs, the API tells no total that grows: only how long a device was up, and what an hour counts for just
now. The uptime may start again with a new connection, and a new score would revalue all of it, so points are not
differences of it: they are the time a device was connected inside the window, at the score it is read with.
"""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from time import perf_counter
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import httpx
from pydantic import Field

from orcha_pipeline.clock import Clock
from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.errors import ApiError, AuthenticationError, UnsupportedError
from orcha_pipeline.model import (
    AllocationReading,
    Amounts,
    AppliedChange,
    Balance,
    BalanceKind,
    EarningsBucket,
    EarningsObservation,
    HealthReading,
    HealthState,
    Lever,
    Provenance,
    UsageReading,
    Window,
)
from orcha_pipeline.protocols.base import Adapter, AdapterOptions
from orcha_pipeline.protocols.http import HTML_PAGE, HttpAuthenticationError, NodeHttp, seconds_ahead
from orcha_pipeline.protocols.node_options import positive_demand, read_options, required_token
from orcha_pipeline.protocols.node_tokens import expires_at
from orcha_pipeline.protocols.os_limits import apply_os_limit, os_allocation, os_levers, os_usage
from orcha_pipeline.protocols.parsing import AmountText, ApiModel, Listed, UtcTime, native, parse, whole_amounts
from orcha_pipeline.settings import NodeSettings

POINTS_PER_HOUR = 50
DASHBOARD = "https://app.grass.io"
LOW_SCORE = Decimal(50)
"""Of 100. A home line has 70 and more."""
NOT_COUNTING_AFTER = timedelta(hours=2)
"""Connected this long and still without any uptime, a device's points do not count."""
NEW_TOKEN = (
    f"get a new one: sign in at {DASHBOARD}, open the browser's developer tools, Application (or Storage), Local "
    "Storage, and copy accessToken into the variable that token_env names"
)
POINTS_NOTE = "points: GRASS is paid for them at an airdrop, if at all"
T = TypeVar("T")


class GrassOptions(AdapterOptions):
    """`device_id`: which of the account's devices this node is; without it, all of them.

    `grass_per_point`: GRASS for a point, as the operator expects it; without it points have no price.
    `share_limit`: the limit of the host that carries the node's share.
    """

    device_id: str | None = None
    grass_per_point: Annotated[Decimal, Field(gt=0, allow_inf_nan=False)] | None = None
    share_limit: Literal["cpu_threads", "bandwidth_mbps"] = "cpu_threads"


class _Result(ApiModel, Generic[T]):
    data: T


class _Envelope(ApiModel, Generic[T]):
    result: _Result[T]


class _KnownDevice(ApiModel):
    """A device of the account, connected or not."""

    device_id: str
    last_connected_at: UtcTime | None = None


class _Device(_KnownDevice):
    """A device that is connected."""

    ip_score: Annotated[AmountText, Field(le=100)]
    multiplier: AmountText
    agg_uptime: AmountText
    ip_address: str | None = None

    @property
    def points_per_hour(self) -> Decimal:
        """The dashboard's formula, as it stands now."""
        return POINTS_PER_HOUR * self.ip_score / 100 * self.multiplier

    def connected(self, window: Window) -> timedelta:
        """How long it has been connected inside `window`, as far as its present connection tells."""
        length = window.end - window.start
        at = self.last_connected_at
        if self.agg_uptime == 0 and at is not None and window.end - at > NOT_COUNTING_AFTER:
            return timedelta(0)  # connected, but its points do not count: see `health`
        if at is None:
            # The uptime is at least a bound: it grows no faster than time.
            return min(length, timedelta(seconds=float(min(self.agg_uptime, Decimal(length.total_seconds())))))
        return max(timedelta(0), window.end - max(window.start, at))


class _Address(ApiModel):
    ip_score: Annotated[AmountText, Field(le=100)]


class _User(ApiModel):
    user_id: str
    wallet_address: str | None = ""


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
    asked_elsewhere: ClassVar[bool] = True

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
        positive_demand(settings, self.options.share_limit)
        self._token = required_token(settings, "the dashboard's accessToken")
        self._http = NodeHttp(
            settings.name,
            settings.url,
            headers={
                # The raw token: this API takes no "Bearer".
                "Authorization": self._token,
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
            problem = self._why_absent()
        elif all(device.ip_score == 0 for device in devices):
            problem = "the IP score is 0, so it earns nothing; a VPN or data-centre address is not paid"
        return HealthReading(
            state=HealthState.ERROR if problem else HealthState.HEALTHY,
            reason=problem or "; ".join(self._doubts(devices)),
            error_kind=ApiError.kind if problem else "",
            latency_seconds=latency,
            scores=self._scores(devices),
        )

    def _scores(self, devices: Sequence[_Device]) -> dict[str, float]:
        scores = {"ip_score": float(min(device.ip_score for device in devices))} if devices else {}
        ends = expires_at(self._token)
        return scores if ends is None else scores | {"token_seconds_left": (ends - self.clock.now()).total_seconds()}

    def _why_absent(self) -> str:
        """Why no device of ours is connected, from the list of all devices."""
        known, wanted = self._known_devices(), self.options.device_id
        ours = [device for device in known if wanted is None or device.device_id == wanted]
        if not ours:
            others = ", ".join(sorted(device.device_id for device in known)[:5]) or "none"
            return f"the account has no device {wanted or ''}; it has: {others}; correct device_id"
        seen = max((d.last_connected_at for d in ours if d.last_connected_at), default=None)
        since = f", last seen {seen:%Y-%m-%d %H:%M} UTC" if seen else ""
        return f"the device is not connected to Grass{since}; is its client running and signed in?"

    def _doubts(self, devices: Sequence[_Device]) -> list[str]:
        """What is not right with connected devices, though they may earn."""
        found: list[str] = []
        low = min(device.ip_score for device in devices)
        if low < LOW_SCORE:
            found.append(f"the IP score is {low.normalize():f} of 100, and points with it")
        now = self.clock.now()
        for device in devices:
            at = device.last_connected_at
            if at is not None and now - at > NOT_COUNTING_AFTER and device.agg_uptime == 0:
                found.append(
                    f"connected since {at:%Y-%m-%d %H:%M} UTC without any uptime: its points do not count; "
                    "restart its client"
                )
        return found

    def earnings(self, window: Window) -> Sequence[EarningsObservation]:
        """Our estimate: the hours connected inside `window`, at the present score.

        What was earned before a new connection inside the window is not known, and not in it. With no device
        connected, all of the window is unknown. The account's own total of the epoch may read 0 while the epoch
        runs and jump when it is settled, which no hour earned: it stands in the balances and the history.
        """
        now = self.clock.now()
        devices = self._devices()
        points = sum((d.points_per_hour * _hours(d.connected(window)) for d in devices), Decimal(0))
        return [
            EarningsBucket(
                stream="connected",
                observed_at=now,
                window=window,
                unit=self.native_unit,
                amounts=whole_amounts(self.node, points, points) if devices else Amounts(),
                provenance=Provenance.OUR_ESTIMATE if devices else Provenance.UNKNOWN,
                source="grass hours connected x IP score x multiplier" if devices else "grass: no device is connected",
            )
        ]

    def earnings_history(self, window: Window) -> Sequence[EarningsObservation]:
        """A bucket per settled epoch inside `window`; none for one device of several, which the API does not tell."""
        if not self._is_whole_account():
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
            for epoch in self._epochs()
            if epoch.total_points > 0 and window.start <= epoch.start_date < epoch.end_date <= min(window.end, now)
        ]

    def balances(self) -> Sequence[Balance]:
        """Points of this epoch and of those before it. Of one device of several, only this epoch's."""
        now = self.clock.now()
        epochs = self._epochs()
        running = next((epoch for epoch in epochs if epoch.start_date <= now < epoch.end_date), None)
        whole = self._is_whole_account()

        def balance(kind: BalanceKind, account: str, amount: Decimal | None, since: datetime, **told: Any) -> Balance:
            known = None if amount is None else native(self.node, amount)
            return Balance(
                kind=kind, account=account, observed_at=now, since=since, unit=self.native_unit, amount=known, **told
            )

        found: list[Balance] = []
        if running is not None:
            devices = self._devices()
            told: dict[str, Any] = {"provenance": Provenance.UNKNOWN, "source": "grass: no device is connected"}
            amount = None
            if whole and running.total_points > 0:
                amount = running.total_points
                told = {"provenance": Provenance.NODE_ESTIMATE, "source": "grass epochEarnings"}
            elif devices:
                amount = sum((d.points_per_hour * d.agg_uptime / 3600 for d in devices), Decimal(0))
                told = {
                    "provenance": Provenance.OUR_ESTIMATE,
                    "source": "grass uptime x IP score x multiplier",
                    "note": "uptime before the last connection may be missing",
                }
            found.append(balance(BalanceKind.ACCRUED, running.epoch_name, amount, running.start_date, **told))
        ended = [epoch for epoch in epochs if epoch.end_date <= now] if whole else []
        settled = [epoch for epoch in ended if epoch.total_points > 0]
        if settled:
            found.append(
                balance(
                    BalanceKind.SETTLED,
                    "epochs",
                    sum((epoch.total_points for epoch in settled), Decimal(0)),
                    min(epoch.start_date for epoch in settled),
                    provenance=Provenance.MEASURED,
                    source="grass epochEarnings",
                    note=f"{len(settled)} epochs; {POINTS_NOTE}",
                )
            )
        last = max(ended, key=lambda epoch: epoch.end_date, default=None)
        if last is not None and last.total_points == 0:
            found.append(
                balance(
                    BalanceKind.PENDING,
                    last.epoch_name,
                    None,
                    last.start_date,
                    provenance=Provenance.UNKNOWN,
                    source="grass epochEarnings",
                    note="the epoch has ended and is not settled yet",
                )
            )
        return found

    def resource_usage(self) -> Sequence[UsageReading]:
        """Devices connected, their uptime in this epoch and since when; what the host counts of the client."""
        devices = self._devices()
        connected = [d.last_connected_at for d in devices if d.last_connected_at]
        values = {
            "devices_connected": float(len(devices)),
            "uptime_seconds_total": float(sum(device.agg_uptime for device in devices)) if devices else None,
            "connected_seconds": max(0.0, (self.clock.now() - max(connected)).total_seconds()) if connected else None,
        }
        told = [
            UsageReading(
                metric=metric,
                value=value,
                provenance=Provenance.UNKNOWN if value is None else Provenance.MEASURED,
                source="grass activeDevices",
            )
            for metric, value in values.items()
        ]
        return [*told, *os_usage(self.controller)]

    def allocation(self) -> AllocationReading:
        """The limit that carries the share. Without a limit the client may use all it would: its full demand."""
        return self.allocations()[0]

    def allocations(self) -> Sequence[AllocationReading]:
        """Every limit as the host reports it."""
        limits = self.controller.limits()
        return [
            os_allocation(self.settings, limits, lever, carries_share=index == 0)
            for index, lever in enumerate(self.levers())
        ]

    def levers(self) -> Sequence[Lever]:
        """The limits that the host's controller enforces; the one that `share_limit` names carries the share."""
        return os_levers(
            self.settings,
            self.controller,
            first=self.options.share_limit,
            risks=("throttling may lower the IP score, hours to days later",),
        )

    def pending_change(self) -> str:
        """Nothing: a limit of the host is in force once it is set."""
        return ""

    def apply(self, lever: str, value: float) -> AppliedChange:
        """Set a limit and compare it with what the host reports."""
        found = next((known for known in self.levers() if known.name == lever), None)
        if found is None:
            raise UnsupportedError(self.node, f"there is no lever {lever!r}")
        return apply_os_limit(self.node, self.controller, found, value)

    def clock_ahead_seconds(self) -> float | None:
        """By the date of its last answer."""
        return seconds_ahead(self._http.dated, self.clock)

    def advice(self) -> Sequence[str]:
        """What keeps the points down, or keeps them from being worth something."""
        devices, everywhere = self._devices(), self._active_devices()
        found: list[str] = []
        for address, count in Counter(d.ip_address for d in everywhere if d.ip_address).items():
            ours = any(device.ip_address == address for device in devices)
            if count > 1 and ours:
                found.append(
                    f"{count} devices are connected from one address: an address is paid once, so keep one device on it"
                )
        found += [
            f"an address of the account has an IP score of {score.normalize():f} of 100, and points grow with it: a "
            "home line without VPN scores best, and throttling may lower it"
            for score in self._address_scores()
            if score < LOW_SCORE
        ]
        if self.options.device_id is None:
            found += self._of_all_devices(everywhere)
        user = parse(self.node, "/retrieveUser", _Envelope[_User], self._get("/retrieveUser")).result.data
        if user.wallet_address is None:
            found.append(f"no wallet is linked to the account: link one at {DASHBOARD} to be able to claim an airdrop")
        if self.options.grass_per_point is None:
            found.append(
                "what a point is worth is unknown, so the planner cannot weigh this node: set grass_per_point to what "
                "you expect"
            )
        return found

    def _of_all_devices(self, connected: Sequence[_Device]) -> list[str]:
        """Advice for a node that stands for all devices of the account."""
        found: list[str] = []
        if len(connected) > 1:
            found.append(
                f"this node stands for all {len(connected)} devices of the account, its limits act on one machine: "
                "set device_id, and make a node of each device"
            )
        away = sorted({d.device_id for d in self._known_devices()} - {d.device_id for d in connected})
        if away:
            found.append(f"devices of the account that are not connected earn nothing: {', '.join(away[:5])}")
        return found

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self.controller.close()

    def _get(self, path: str, query: dict[str, Any] | None = None) -> Any:
        params = None if query is None else {"input": json.dumps(query, separators=(",", ":"))}
        try:
            return self._http.get_json(path, params)
        except HttpAuthenticationError as error:
            if error.status == 403 and error.detail == HTML_PAGE:
                # Cloudflare's, which never saw the token.
                raise ApiError(
                    self.node,
                    f"{path}: HTTP 403 with an HTML page: Cloudflare turns this machine's address away; wait, or read "
                    "from a home line without VPN",
                ) from None
            raise AuthenticationError(
                self.node, f"{path}: HTTP {error.status}: the token is wrong or has expired; {NEW_TOKEN}"
            ) from None

    def _active_devices(self) -> list[_Device]:
        """All devices of the account that are connected."""
        payload = self._get("/activeDevices")
        return parse(self.node, "/activeDevices", _Envelope[list[_Device]], payload).result.data

    def _devices(self) -> list[_Device]:
        """Those of this node."""
        wanted = self.options.device_id
        return [device for device in self._active_devices() if wanted is None or device.device_id == wanted]

    def _known_devices(self) -> list[_KnownDevice]:
        payload = self._get("/devices", {"limit": 50})
        return parse(self.node, "/devices", _Envelope[Listed[_KnownDevice]], payload).result.data

    def _is_whole_account(self) -> bool:
        """Whether the account's totals are this node's: it stands for all devices, or there is no other one."""
        wanted = self.options.device_id
        return wanted is None or {device.device_id for device in self._known_devices()} == {wanted}

    def _address_scores(self) -> list[Decimal]:
        payload = self._get("/activeIps")
        addresses = parse(self.node, "/activeIps", _Envelope[Listed[_Address]], payload).result.data
        return [address.ip_score for address in addresses]

    def _epochs(self) -> list[_Epoch]:
        payload = self._get("/epochEarnings", {"limit": 50, "isLatestOnly": False})
        return parse(self.node, "/epochEarnings", _Envelope[_Epochs], payload).result.data.data


def _hours(span: timedelta) -> Decimal:
    return Decimal(span // timedelta(microseconds=1)) / Decimal(3_600_000_000)
