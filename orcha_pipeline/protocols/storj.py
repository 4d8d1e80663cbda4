"""Storj: a storage node's console API (no authentication), and its allocation in config.yaml or its container."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Annotated, ClassVar, TypeVar

import httpx
from pydantic import Field

from orcha_pipeline.clock import Clock
from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.errors import (
    AdapterError,
    AllocationError,
    ApiError,
    NodeConnectionError,
    ParseError,
    UnsupportedError,
)
from orcha_pipeline.model import (
    AllocationReading,
    AppliedChange,
    Balance,
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
from orcha_pipeline.protocols.config_files import read_config, replace_config
from orcha_pipeline.protocols.http import HttpStatusError, NodeHttp, new_reading, patient, seconds_ahead
from orcha_pipeline.protocols.levers import check_change, lever_range, wait_for
from orcha_pipeline.protocols.node_options import positive_demand, read_options
from orcha_pipeline.protocols.os_limits import os_usage
from orcha_pipeline.protocols.parsing import parse
from orcha_pipeline.protocols.storj_api import (
    DISQUALIFIED,
    GB,
    UNTRUSTED,
    Audits,
    BandwidthDay,
    Dashboard,
    EstimatedPayout,
    HeldHistory,
    Notifications,
    Payout,
    Paystub,
    PublicHealth,
    Satellite,
    SatelliteMonth,
    Satellites,
)
from orcha_pipeline.protocols.storj_config import (
    ALLOCATION,
    FLOOR_GB,
    ConfigError,
    allocation_written,
    dedicated,
    floor_gb,
    ruling_variable,
    size_gb,
    size_text,
    with_allocation,
)
from orcha_pipeline.protocols.storj_money import (
    accrued,
    held,
    held_rate,
    month_is_young,
    month_of,
    paid,
    paystub_buckets,
    storage_earned,
    traffic_totals,
)
from orcha_pipeline.settings import NodeSettings

LEVER = "allocated-disk-space"
STEP_GB = 10.0
STOP_GRACE_SECONDS = 300
COOLDOWN = timedelta(hours=24)
"""A restart makes the node scan all it stores, for hours on a large disk."""
PING_OVERDUE = timedelta(hours=3)
PING_EXCUSED = timedelta(minutes=15)
"""A node just started has not been pinged yet."""
LOWEST_AUDIT = 0.98
LOWEST_SUSPENSION = 0.98
LOWEST_ONLINE = 0.92
NOTICE_COUNTS = timedelta(days=7)
"""Operators rarely mark notices as read: an old one must not hold a node for ever."""
DISQUALIFIED_COUNTS = timedelta(days=7)
"""It is for good: for longer it must not hold what the node earns on the satellites that remain."""
NOTICES_A_PAGE = 20
NEARLY_FULL = 0.05
"""Of the allocation free. Below it, more room would be filled."""
FIRST_PAYSTUB = datetime(2019, 1, 1, tzinfo=UTC)
"""Storj pays nodes of this kind since then."""
_NOTICES = {1: "a failed audit", 2: "disqualification", 3: "suspension"}
_SATELLITES = "/api/sno/satellites"

T = TypeVar("T")


class StorjOptions(AdapterOptions):
    """`config_file`: path of the node's config.yaml on this machine. `health_url`: the node's public port."""

    config_file: Path | None = None
    restart_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120.0
    restarts_per_month: Annotated[int, Field(ge=0)] = 4
    health_url: str | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the allocation is set: a variable of the container, or config.yaml. `why_not`: nowhere that can be written.

    `variable` is None for the file; `text` is the file's.
    """

    variable: str | None = None
    text: str = ""
    why_not: str = ""
    floor_gb: float = FLOOR_GB


class StorjAdapter(Adapter):
    """One storage node. Earnings are US dollars: STORJ tokens are bought for them at payout."""

    protocol: ClassVar[str] = "storj"
    native_unit: ClassVar[str] = "USD"
    token: ClassVar[str | None] = None
    options_type: ClassVar[type[AdapterOptions]] = StorjOptions
    longest_window: ClassVar[timedelta] = timedelta(days=31)  # what is stored earns on while nobody reads it

    def __init__(
        self,
        settings: NodeSettings,
        *,
        controller: Controller,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(settings, controller=controller, clock=clock, transport=transport)
        self.options = read_options(settings, StorjOptions)
        self._full = positive_demand(settings, "disk_gb")
        self._http = self._connection(settings.url)
        self._public = self._connection(self.options.health_url, attempts=1) if self.options.health_url else None

    # ------------------------------------------------------------ health

    def health(self) -> HealthReading:
        """Scores are the worst over all satellites that have not disqualified it, and how many have penalized it.

        What is no danger to the reputation is told but risks nothing.
        """
        begun = perf_counter()
        dashboard = self._dashboard()
        latency = perf_counter() - begun
        now = self.clock.now()
        remaining, new, old = _by_penalty(dashboard.satellites, now)
        gone = {satellite.url for satellite in (*new, *old)}
        audits = [each for each in self._ask(_SATELLITES, Satellites).audits if each.satellite_name not in gone]
        risks = [*_disqualified_by(new), *_suspended_by(remaining), *_score_risks(audits)]
        if now - dashboard.started_at > PING_EXCUSED and now - dashboard.last_pinged > PING_OVERDUE:
            risks.append(f"no satellite has reached it since {dashboard.last_pinged:%Y-%m-%d %H:%M} UTC")
        warnings = [*_disqualified_by(old), *_warnings(dashboard)]
        try:
            risks += self._notices(now)
            # Of a node that any satellite has disqualified that port never says again that all is well.
            self._ask_public_port(warnings if gone else risks, warnings)
        except AdapterError as error:
            if not risks:
                raise
            warnings.append(error.message)  # what is known of a danger must not be lost over it
        return HealthReading(
            state=HealthState.AT_RISK if risks else HealthState.HEALTHY,
            reason="; ".join([*risks, *warnings]),
            latency_seconds=latency,
            version=dashboard.version,
            scores=_penalties(dashboard.satellites, now) | _scores(audits),
        )

    def _notices(self, now: datetime) -> list[str]:
        """Unread notices of what endangers the reputation, from the last week."""
        where = "/api/notifications/list"
        found = self._ask(where, Notifications, {"limit": NOTICES_A_PAGE, "page": 1}).page.notifications
        return [
            f"unread notice of {_NOTICES[notice.type]} since {notice.created_at:%Y-%m-%d}: "
            f"{self._http.cleaned(notice.title)[:80]}"
            for notice in found
            if notice.type in _NOTICES and notice.read_at is None and now - notice.created_at <= NOTICE_COUNTS
        ]

    def _ask_public_port(self, found: list[str], warnings: list[str]) -> None:
        """Add to `found` what the node's public port says of its satellites, where `health_url` asks for it."""
        if self._public is None:
            return
        try:
            # A 503 there is an answer: it counts for no failure, and the next call must not be held back for it.
            with patient():
                text = self._public.get_text()
        except HttpStatusError as error:
            if error.status != 503:
                raise
            found.append("the node's public port reports that a satellite is not healthy (503)")
        except NodeConnectionError as error:
            # From inside the operator's network the public address may lead nowhere; `lastPinged` tells of the rest.
            warnings.append(f"health_url: {error.message}")
        else:
            try:
                answer: object = json.loads(text)
            except (ValueError, RecursionError):
                raise ParseError(self.node, "health_url: expected JSON; is this the node's public port?") from None
            if not parse(self.node, "health_url", PublicHealth, answer).all_healthy:
                found.append("the node's public port reports that a satellite is not healthy")

    # ------------------------------------------------------------ earnings

    def earnings(self, window: Window) -> Sequence[EarningsObservation]:
        """Traffic as a running total, stored data as what `window` was worth, both for each satellite.

        Traffic is counted by the node itself, to the byte; a stream a satellite and calendar month. Stored data is
        counted by the satellites, one to two and a half days late. Until then each stretch of time is worth the last
        level they counted: a later count changes what is told from then on, never what was told, so that no hour
        is corrected below zero, and the sum stays within two and a half days of what the level changed by.

        The console's own month-to-date cents stand still until a count arrives and jump by half a day's worth then;
        they are told as `balances`.
        """
        for look in (nullcontext(), new_reading()):
            with look:
                now = self.clock.now()
                active = [s for s in self._dashboard().satellites if s.disqualified is None]
                found = [item for satellite in active for item in self._earned(satellite, window, now)]
                # What was answered across the turn of a month could be of either month.
                if month_of(self.clock.now()) == month_of(now):
                    return found
        raise ApiError(self.node, "the month turned while its earnings were read; the next reading will tell")

    def _earned(self, satellite: Satellite, window: Window, now: datetime) -> list[EarningsObservation]:
        """One satellite's part; nothing where it disqualified or left the node between the two calls."""
        try:
            usage = self._ask(f"/api/sno/satellite/{satellite.id}", SatelliteMonth)
            turned = month_is_young(window, now)
            needed = turned or usage.stored_bytes() is None
            previous = self._estimate(satellite).previous_month if needed else None
        except HttpStatusError as error:
            if _is_gone(error):
                return []
            raise
        return [
            *traffic_totals(self.node, satellite.id, usage, previous if turned else None, now),
            *storage_earned(self.node, satellite.id, usage, previous, Window(min(window.start, now), now)),
        ]

    def earnings_history(self, window: Window) -> Sequence[EarningsObservation]:
        """Paystubs: a bucket per satellite and settled month that lies in `window`."""
        stubs = self._paystubs(window.start, window.end)
        return paystub_buckets(self.node, stubs, window, self.clock.now())

    # ------------------------------------------------------------ balances

    def balances(self) -> Sequence[Balance]:
        """Accrued by satellite and month (net, as the node reckons), held by satellite, settled, not yet distributed.

        What a satellite holds back is lost where it disqualified the node.
        """
        satellites = self._dashboard().satellites
        now = self.clock.now()
        stubs = self._paystubs(FIRST_PAYSTUB, now)
        found: list[Balance] = []
        for satellite in satellites:
            if satellite.disqualified is None:
                try:
                    estimate = self._estimate(satellite)
                except HttpStatusError as error:
                    if _is_gone(error):
                        continue
                    raise
                settled = {stub.period for stub in stubs if stub.satellite_id == satellite.id}
                found += accrued(self.node, satellite, estimate, settled, now)
        disqualified = {s.id for s in satellites if s.disqualified}
        histories = self._ask_list("/api/heldamount/held-history", HeldHistory)
        found += [held(self.node, h, now, lost=h.satellite_id in disqualified) for h in histories]
        if stubs:
            newest = max(stub.period for stub in stubs)
            payouts = self._ask_list(f"/api/heldamount/payout-history/{newest}", Payout)
            receipts = sorted({self._http.cleaned(payout.receipt) for payout in payouts if payout.receipt})
            found += paid(self.node, stubs, receipts, now)
        return found

    # ------------------------------------------------------------ use and allocation

    def resource_usage(self) -> Sequence[UsageReading]:
        """Disk in bytes, the traffic of this calendar month and of this UTC day, and what the host counts."""
        dashboard = self._dashboard()
        disk = dashboard.disk_space
        day = self._ask(_SATELLITES, Satellites).day(self.clock.now())
        source, traffic = "storj /api/sno/", f"storj {_SATELLITES}"
        values: list[tuple[str, float | None, str]] = [
            ("disk_used_bytes", disk.used_bytes, source),
            ("disk_free_bytes", disk.free_bytes, source),
            ("disk_trash_bytes", disk.trash, source),
            ("disk_overused_bytes", disk.overused, source),
            ("network_month_bytes_total", dashboard.bandwidth.used, source),
            ("network_day_sent_bytes_total", _sent(day), traffic),
            ("network_day_received_bytes_total", _received(day), traffic),
        ]
        readings = [
            UsageReading(
                metric=metric,
                value=value,
                provenance=Provenance.UNKNOWN if value is None else Provenance.MEASURED,
                source=told,
            )
            for metric, value, told in values
        ]
        return [*readings, *os_usage(self.controller)]

    def allocation(self) -> AllocationReading:
        """The configured allocation that the running node reports, in GB (1e9 bytes)."""
        disk = self._dashboard().disk_space
        allocated = disk.allocated_bytes / GB
        notes: list[str] = []
        if disk.overused > 0:
            notes.append(
                f"holds {disk.overused / GB:.0f} GB more than allocated; it takes no new data and shrinks only as "
                "customers delete"
            )
        if disk.missing_bytes >= GB:
            notes.append(
                f"the disk is too small: of {allocated:g} GB allocated only {allocated - disk.missing_bytes / GB:.0f} "
                "GB can be used"
            )
        return AllocationReading(
            lever=LEVER,
            value=allocated,
            unit="GB",
            share=allocated / self._full,
            provenance=Provenance.MEASURED,
            source="storj /api/sno/ diskSpace",
            note="; ".join(notes),
        )

    def levers(self) -> Sequence[Lever]:
        """The allocation in config.yaml or in the container's variables. It takes effect by a restart."""
        return [self._lever(self._place())]

    def _lever(self, place: _Place) -> Lever:
        bounds = lever_range(self.settings, full=self._full, step=STEP_GB, floor=place.floor_gb)
        why_not = bounds.problem or place.why_not
        return Lever(
            name=LEVER,
            unit="GB",
            mode=LeverMode.RESTART,
            minimum=bounds.minimum,
            maximum=bounds.maximum,
            step=STEP_GB,
            at_full_share=self._full,
            cooldown=COOLDOWN,
            restart_seconds=self.options.restart_seconds,
            settle_seconds=self.options.restart_seconds,
            restarts_per_month=self.options.restarts_per_month,
            writable=not why_not,
            why_not=why_not,
            risks=(
                "each restart is time offline, which lowers the online score",
                "after a restart the node scans its disk, for hours where much is stored",
                "below what is stored nothing is freed: the node only takes no new data",
            ),
        )

    def clock_ahead_seconds(self) -> float | None:
        """By the date of its last answer."""
        return seconds_ahead(self._http.dated, self.clock)

    def advice(self) -> Sequence[str]:
        """What only the operator can do: more room, a better place, an update."""
        dashboard = self._dashboard()
        disk = dashboard.disk_space
        told: list[str] = []
        if disk.missing_bytes >= GB:
            told.append(
                f"The disk has {disk.missing_bytes / GB:.0f} GB less room than is allocated: allocate less, or free "
                "some. Storj asks to keep at least 10 % of the disk free."
            )
        elif disk.free_bytes < NEARLY_FULL * disk.allocated_bytes and not disk.overused:
            told.append(
                f"Only {disk.free_bytes / GB:.0f} GB of {disk.allocated_bytes / GB:.0f} GB are free: a larger "
                "allocation would be filled, if at least 10 % of the disk stay free. A second node behind the same "
                "public network (/24) only shares what this one is sent."
            )
        place = self._place()
        written = allocation_written(place.text)
        if place.variable and written:
            told.append(
                f"The container's variable {place.variable} sets the allocation; {ALLOCATION}: {written} in "
                f"{self.options.config_file} has no effect."
            )
        told += [text[0].upper() + text[1:] + "." for text in _warnings(dashboard)]
        return [*told, *self._doubts_of_held_rates(dashboard.satellites)]

    def _doubts_of_held_rates(self, satellites: Sequence[Satellite]) -> list[str]:
        """Where the node holds back another part than the satellite's age asks for, on which `earnings` rest."""
        told: list[str] = []
        now = self.clock.now()
        for satellite in satellites:
            if satellite.disqualified:
                continue
            joined_at = self._ask(f"/api/sno/satellite/{satellite.id}", SatelliteMonth).node_joined_at
            rate, rule = self._estimate(satellite).current_month.held_rate, held_rate(joined_at, now)
            if rate != rule:
                told.append(
                    f"{satellite.url} holds back {rate:f} %, but {rule:f} % is due for a node that joined on "
                    f"{joined_at:%Y-%m-%d}: the net earnings shown are reckoned with the latter."
                )
        return told

    # ------------------------------------------------------------ apply

    def pending_change(self) -> str | None:
        """By config.yaml against what the running node reports; a container's variables are those it started with."""
        place = self._place()
        if place.variable is not None:
            return ""
        written = allocation_written(place.text)
        told = None if written is None else size_gb(written)
        if told is None:
            return None
        runs = self.allocation().value
        if runs is not None and abs(runs - told) <= 0.01:
            return ""
        return f"{self.options.config_file} says {told:g} GB, which it takes at its next start"

    def apply(self, lever: str, value: float) -> AppliedChange:
        """Set the allocation (GB), restart, and read it back from the node that has restarted.

        config.yaml is put back where the restart fails; a container that does not start gives way to the old one.
        A node that does not answer is changed as well: going back must help one that the change before has stopped.
        """
        place = self._place()
        check_change(self.node, self._lever(place), lever, value, floor=place.floor_gb)
        try:
            before = self._dashboard()
        except NodeConnectionError:
            before = None
        self._set(place, value)

        def restarted() -> Dashboard | None:
            now = self._dashboard()
            return now if before is None or now.started_at > before.started_at else None

        after = wait_for(restarted, seconds=self.options.restart_seconds)
        if after is None:
            told = "does not answer"
            if before is not None:
                told = f"shows no newer start than {before.started_at:%Y-%m-%d %H:%M:%S} UTC"
            raise AllocationError(
                self.node,
                f"{self.options.restart_seconds:g} s after the restart the console {told}; look at the node's log",
            )
        read_back = after.disk_space.allocated_bytes / GB
        if abs(read_back - value) > 0.01:
            raise AllocationError(
                self.node,
                f"asked for {value:g} GB, the restarted node reports {read_back:g} GB; a STORAGE variable, a flag "
                "or the size of the disk overrides it",
            )
        previous = None if before is None else before.disk_space.allocated_bytes / GB
        return AppliedChange(lever=lever, previous=previous, requested=value, read_back=read_back)

    def _set(self, place: _Place, gigabytes: float) -> None:
        """Put the value in its place and restart. The place was found writable."""
        if place.variable is not None:
            self.controller.recreate({place.variable: size_text(gigabytes)}, STOP_GRACE_SECONDS)
            return
        file = self._config_file()
        replace_config(self.node, file, with_allocation(place.text, gigabytes))
        try:
            self.controller.restart(STOP_GRACE_SECONDS)
        except AdapterError:
            # A change that waits in the file would come into force with some later, unrelated restart.
            replace_config(self.node, file, place.text)
            raise

    def _place(self) -> _Place:
        """Where the allocation is set, and whether it can be changed there. Touches nothing."""
        try:
            environment = self.controller.environment() or {}
            variable = ruling_variable(environment)
            if variable is None or self.options.config_file is not None:
                text = read_config(self.node, self._config_file())
            else:
                text = ""
            floor = floor_gb(text, environment)
            ignored = dedicated(text, environment)
            if variable is None:
                with_allocation(text, floor)
        except ConfigError as error:
            return _Place(why_not=f"{self.options.config_file or 'the container'} {error}")
        except AdapterError as error:
            return _Place(why_not=error.message)
        why_not = self.controller.why_cannot_restart() if variable is None else self.controller.why_cannot_recreate()
        if why_not and variable is not None:
            why_not = f"the container's variable {variable} sets the allocation, and {why_not}"
        if ignored:
            why_not = f"the node has a dedicated disk ({ignored}), which ignores the allocation"
        return _Place(variable, text, why_not, floor)

    def _config_file(self) -> Path:
        if self.options.config_file is None:
            raise UnsupportedError(self.node, "options.config_file is not set: name the node's config.yaml")
        return self.options.config_file

    # ------------------------------------------------------------ asking

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        if self._public is not None:
            self._public.close()
        self.controller.close()

    def _connection(self, url: str, *, attempts: int = 3) -> NodeHttp:
        return NodeHttp(
            self.settings.name,
            url,
            timeout_seconds=self.settings.timeout_seconds,
            transport=self._transport,
            attempts=attempts,
        )

    def _ask(self, path: str, kind: type[T], params: Mapping[str, str | int] | None = None) -> T:
        return parse(self.node, path, kind, self._http.get_json(path, params))

    def _ask_list(self, path: str, kind: type[T]) -> list[T]:
        """A list; Go writes null for an empty one."""
        payload = self._http.get_json(path)
        return parse(self.node, path, list[kind], [] if payload is None else payload)

    def _dashboard(self) -> Dashboard:
        return self._ask("/api/sno/", Dashboard)

    def _estimate(self, satellite: Satellite) -> EstimatedPayout:
        return self._ask("/api/sno/estimated-payout", EstimatedPayout, {"id": satellite.id})

    def _paystubs(self, start: datetime, end: datetime) -> list[Paystub]:
        return self._ask_list(f"/api/heldamount/paystubs/{start:%Y-%m}/{end:%Y-%m}", Paystub)


def _is_gone(error: HttpStatusError) -> bool:
    """Whether a satellite that the dashboard listed a moment ago has disqualified the node, or is trusted no longer."""
    return (error.status == 500 and DISQUALIFIED in error.detail) or (error.status == 404 and UNTRUSTED in error.detail)


def _sent(day: BandwidthDay | None) -> float | None:
    return None if day is None else float(day.egress.usage + day.egress.repair + day.egress.audit)


def _received(day: BandwidthDay | None) -> float | None:
    return None if day is None else float(day.ingress.usage + day.ingress.repair)


def _warnings(dashboard: Dashboard) -> list[str]:
    """What lowers the income but not the reputation: to leave the node's allocation alone would mend neither."""
    told: list[str] = []
    if not dashboard.up_to_date:
        told.append(f"version {dashboard.version} is too old for the satellites, which send it no new data; update it")
    if dashboard.quic_status == "Misconfigured":
        told.append("QUIC is misconfigured: the node's port is not reachable by UDP, which costs some downloads")
    return told


def _penalties(satellites: Sequence[Satellite], now: datetime) -> dict[str, float]:
    """How many satellites have disqualified it, and when the last did; how many of the others have suspended it."""
    if not satellites:
        return {}
    ages = [(now - s.disqualified) / timedelta(days=1) for s in satellites if s.disqualified is not None]
    found = {
        "disqualified_satellites": float(len(ages)),
        "suspended_satellites": float(sum(s.suspended is not None and s.disqualified is None for s in satellites)),
    }
    return found | ({"days_since_disqualified": round(min(ages), 3)} if ages else {})


def _scores(audits: Sequence[Audits]) -> dict[str, float]:
    if not audits:
        return {}
    return {
        "audit": min(a.audit_score for a in audits),
        "suspension": min(a.suspension_score for a in audits),
        "online": min(a.online_score for a in audits),
    }


def _by_penalty(
    satellites: Sequence[Satellite], now: datetime
) -> tuple[list[Satellite], list[Satellite], list[Satellite]]:
    """Those that have not disqualified the node, those that did so lately, those that did so long ago."""
    remaining, new, old = list[Satellite](), list[Satellite](), list[Satellite]()
    for each in satellites:
        if each.disqualified is None:
            remaining.append(each)
        else:
            (new if now - each.disqualified <= DISQUALIFIED_COUNTS else old).append(each)
    return remaining, new, old


def _disqualified_by(satellites: Sequence[Satellite]) -> list[str]:
    return [f"disqualified on {s.url} since {s.disqualified:%Y-%m-%d}" for s in satellites]


def _suspended_by(satellites: Sequence[Satellite]) -> list[str]:
    return [f"suspended on {s.url} since {s.suspended:%Y-%m-%d}" for s in satellites if s.suspended]


def _score_risks(audits: Sequence[Audits]) -> list[str]:
    return [
        f"{name} score {value:.4f} on {audit.satellite_name} (below {lowest})"
        for audit in audits
        for name, value, lowest in (
            ("audit", audit.audit_score, LOWEST_AUDIT),
            ("suspension", audit.suspension_score, LOWEST_SUSPENSION),
            ("online", audit.online_score, LOWEST_ONLINE),
        )
        if value < lowest
    ]
