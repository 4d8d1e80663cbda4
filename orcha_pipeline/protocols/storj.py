"""Storj: a storage node's console API (no authentication) and its config.yaml."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import Annotated, ClassVar

import httpx
from pydantic import Field

from orcha_pipeline.clock import Clock
from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.errors import AdapterError, AllocationError, ApiError, UnsupportedError
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
from orcha_pipeline.protocols.config_files import read_config, replace_config
from orcha_pipeline.protocols.http import HttpStatusError, NodeHttp
from orcha_pipeline.protocols.levers import check_change, lever_range, wait_for
from orcha_pipeline.protocols.node_options import positive_demand, read_options
from orcha_pipeline.protocols.parsing import Amount, ApiModel, Listed, Number, UtcTime, Whole, parse, whole_amounts
from orcha_pipeline.settings import NodeSettings

LEVER = "allocated-disk-space"
CONFIG_KEY = "storage.allocated-disk-space"
STEP_GB = 10.0
FLOOR_GB = 500.0
"""`storage2.monitor.minimum-disk-space`: below it the node refuses to start."""
STOP_GRACE_SECONDS = 300
COOLDOWN = timedelta(hours=24)
"""A restart makes the node scan all it stores, for hours on a large disk."""
PING_OVERDUE = timedelta(hours=3)
PING_EXCUSED = timedelta(minutes=15)
"""A node just started has not been pinged yet."""
LOWEST_AUDIT = 0.98
LOWEST_SUSPENSION = 0.98
LOWEST_ONLINE = 0.92
_GB = 1_000_000_000
_CENT = Decimal("0.01")
_MICRO = Decimal("0.000001")

_ALLOCATION_LINE = re.compile(
    rf"^(?P<key>{re.escape(CONFIG_KEY)}[ \t]*:)[ \t]*[^#\r\n]*?(?P<remark>[ \t]+#[^\r\n]*)?(?P<end>[ \t]*\r?)$",
    re.MULTILINE,
)

Score = Annotated[Number, Field(le=1.0)]


class StorjOptions(AdapterOptions):
    """`config_file`: path of the node's config.yaml on this machine; without it the allocation is only read."""

    config_file: Path | None = None
    restart_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120.0


class _Satellite(ApiModel):
    id: Annotated[str, Field(min_length=1, max_length=100)]
    url: str
    disqualified: UtcTime | None
    suspended: UtcTime | None


class _DiskSpace(ApiModel):
    """Bytes. Up to v1.142 there is no `allocated`: `available` is the allocation and `used` leaves out the trash."""

    used: Number
    available: Number
    trash: Number
    overused: Number
    allocated: Number | None = None

    @property
    def allocated_bytes(self) -> float:
        return self.available if self.allocated is None else self.allocated

    @property
    def used_bytes(self) -> float:
        return self.used + self.trash if self.allocated is None else self.used

    @property
    def free_bytes(self) -> float:
        return max(0.0, self.available - self.used_bytes) if self.allocated is None else self.available


class _Bandwidth(ApiModel):
    used: Number


class _Dashboard(ApiModel):
    satellites: Listed[_Satellite]
    disk_space: _DiskSpace
    bandwidth: _Bandwidth
    last_pinged: UtcTime
    started_at: UtcTime
    version: str


class _Audits(ApiModel):
    audit_score: Score
    suspension_score: Score
    online_score: Score
    satellite_name: str


class _Satellites(ApiModel):
    audits: Listed[_Audits]


class _MonthPayout(ApiModel):
    """Cents. `payout` is net of what is held."""

    egress_bandwidth_payout: Amount
    egress_repair_audit_payout: Amount
    disk_space_payout: Amount
    held_rate: Annotated[Amount, Field(le=100)]
    payout: Amount

    def amounts(self, node: str) -> Amounts:
        """In US dollars."""
        gross = self.egress_bandwidth_payout + self.egress_repair_audit_payout + self.disk_space_payout
        held = gross * self.held_rate / 100
        return whole_amounts(node, gross * _CENT, self.payout * _CENT, held=held * _CENT)


class _EstimatedPayout(ApiModel):
    current_month: _MonthPayout
    previous_month: _MonthPayout


class _Paystub(ApiModel):
    """Micro-USD."""

    satellite_id: str
    period: Annotated[str, Field(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")]
    comp_at_rest: Whole
    comp_get: Whole
    comp_get_repair: Whole
    comp_get_audit: Whole
    surge_percent: Amount
    held: Whole


class StorjAdapter(Adapter):
    """One storage node. Earnings are US dollars: STORJ tokens are bought for them at payout."""

    protocol: ClassVar[str] = "storj"
    native_unit: ClassVar[str] = "USD"
    token: ClassVar[str | None] = None
    options_type: ClassVar[type[AdapterOptions]] = StorjOptions

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
        self._http = NodeHttp(
            settings.name, settings.url, timeout_seconds=settings.timeout_seconds, transport=transport
        )

    def health(self) -> HealthReading:
        """Scores are the worst over all satellites."""
        begun = perf_counter()
        dashboard = self._dashboard()
        latency = perf_counter() - begun
        where = "/api/sno/satellites"
        audits = parse(self.node, where, _Satellites, self._http.get_json(where)).audits
        risks = [*_satellite_risks(dashboard.satellites), *_score_risks(audits)]
        now = self.clock.now()
        if now - dashboard.started_at > PING_EXCUSED and now - dashboard.last_pinged > PING_OVERDUE:
            risks.append(f"no satellite has reached it since {dashboard.last_pinged:%Y-%m-%d %H:%M} UTC")
        return HealthReading(
            state=HealthState.AT_RISK if risks else HealthState.HEALTHY,
            reason="; ".join(risks),
            latency_seconds=latency,
            version=dashboard.version,
            scores={
                "audit": min(a.audit_score for a in audits),
                "suspension": min(a.suspension_score for a in audits),
                "online": min(a.online_score for a in audits),
            }
            if audits
            else {},
        )

    def earnings(self, window: Window) -> Sequence[EarningsObservation]:  # noqa: ARG002 (totals as they stand now)
        """The running totals of this month and the last, a stream per satellite and month.

        The node rounds each payout to 0.01 cent. Last month is read on, so that what was earned between the last
        reading before the turn of the month and the turn itself is not lost.
        """
        satellites = [s for s in self._dashboard().satellites if s.disqualified is None]
        return [counter for satellite in satellites for counter in self._month_totals(satellite)]

    def earnings_history(self, window: Window) -> Sequence[EarningsObservation]:
        """Paystubs: a bucket per satellite and settled month that touches `window`."""
        path = f"/api/heldamount/paystubs/{window.start:%Y-%m}/{window.end:%Y-%m}"
        payload = self._http.get_json(path)
        stubs = parse(self.node, path, list[_Paystub], [] if payload is None else payload)
        now = self.clock.now()
        found: list[EarningsObservation] = []
        for stub in stubs:
            month = datetime.strptime(stub.period, "%Y-%m").replace(tzinfo=UTC)
            whole = Window(month, _next_month(month))
            if whole.start >= window.end or whole.end <= window.start:
                continue
            earned = Decimal(stub.comp_at_rest + stub.comp_get + stub.comp_get_repair + stub.comp_get_audit)
            surge = stub.surge_percent or Decimal(100)  # 0 stands for 100
            gross, held = earned * surge / 100 * _MICRO, stub.held * _MICRO
            found.append(
                EarningsBucket(
                    stream=f"paystub:{stub.satellite_id}",
                    observed_at=now,
                    window=whole,
                    unit=self.native_unit,
                    amounts=whole_amounts(self.node, gross, gross - held, held=held),
                    provenance=Provenance.MEASURED,
                    source=f"storj paystub {stub.period}",
                )
            )
        return found

    def resource_usage(self) -> Sequence[UsageReading]:
        """Disk in bytes, and the traffic of this calendar month."""
        dashboard = self._dashboard()
        disk = dashboard.disk_space
        values = {
            "disk_used_bytes": disk.used_bytes,
            "disk_free_bytes": disk.free_bytes,
            "disk_trash_bytes": disk.trash,
            "disk_overused_bytes": disk.overused,
            "network_month_bytes_total": dashboard.bandwidth.used,
        }
        return [
            UsageReading(metric=metric, value=value, provenance=Provenance.MEASURED, source="storj /api/sno/")
            for metric, value in values.items()
        ]

    def allocation(self) -> AllocationReading:
        """The configured allocation that the running node reports, in GB (1e9 bytes)."""
        allocated = self._dashboard().disk_space.allocated_bytes / _GB
        return AllocationReading(
            lever=LEVER,
            value=allocated,
            unit="GB",
            share=allocated / self._full,
            provenance=Provenance.MEASURED,
            source="storj /api/sno/ diskSpace",
        )

    def levers(self) -> Sequence[Lever]:
        """The allocation in config.yaml. It takes effect by a restart."""
        bounds = lever_range(self.settings, full=self._full, step=STEP_GB, floor=FLOOR_GB)
        why_not = bounds.problem or self._why_not_writable()
        return [
            Lever(
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
                writable=not why_not,
                why_not=why_not,
                risks=(
                    "each restart is time offline, which lowers the online score",
                    "after a restart the node scans its disk, for hours where much is stored",
                    "below what is stored nothing is freed: the node only takes no new data",
                ),
            )
        ]

    def apply(self, lever: str, value: float) -> AppliedChange:
        """Write the allocation (GB) into config.yaml, restart, and read it back from the node that has restarted."""
        check_change(self.node, self.levers()[0], lever, value, floor=FLOOR_GB)
        file = self._config_file()
        before = self._dashboard()
        text = read_config(self.node, file)
        replace_config(self.node, file, self._with_allocation(text, value))
        try:
            self.controller.restart(STOP_GRACE_SECONDS)
        except AdapterError:
            # A change that waits in the file would come into force with some later, unrelated restart.
            replace_config(self.node, file, text)
            raise

        def restarted() -> _Dashboard | None:
            now = self._dashboard()
            return now if now.started_at > before.started_at else None

        after = wait_for(restarted, seconds=self.options.restart_seconds)
        if after is None:
            raise AllocationError(
                self.node,
                f"{self.options.restart_seconds:g} s after the restart the console shows no newer start than "
                f"{before.started_at:%Y-%m-%d %H:%M:%S} UTC; look at the node's log",
            )
        read_back = after.disk_space.allocated_bytes / _GB
        if abs(read_back - value) > 0.01:
            raise AllocationError(
                self.node,
                f"asked for {value:g} GB, the restarted node reports {read_back:g} GB; a STORAGE variable, a flag "
                "or the size of the disk overrides config.yaml",
            )
        previous = before.disk_space.allocated_bytes / _GB
        return AppliedChange(lever=lever, previous=previous, requested=value, read_back=read_back)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self.controller.close()

    def _dashboard(self) -> _Dashboard:
        return parse(self.node, "/api/sno/", _Dashboard, self._http.get_json("/api/sno/"))

    def _month_totals(self, satellite: _Satellite) -> list[EarningsCounter]:
        where = "/api/sno/estimated-payout"
        for _ in range(2):
            asked = self.clock.now()
            try:
                payload = self._http.get_json(where, {"id": satellite.id})
            except HttpStatusError as error:
                if error.status == 500 and "disqualified" in error.detail:
                    return []  # between the two calls: `health` tells it from the next reading on
                raise
            now = self.clock.now()
            # An answer given across the turn of the month could be of either month.
            if f"{asked:%Y-%m}" == f"{now:%Y-%m}":
                break
        else:
            raise ApiError(self.node, f"{where}: the month turned while it was read; the next reading will tell")
        payout = parse(self.node, f"{where}?id={satellite.id}", _EstimatedPayout, payload)
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        before = (month - timedelta(days=1)).replace(day=1)
        return [
            EarningsCounter(
                stream=f"{satellite.id}:{since:%Y-%m}",
                observed_at=now,
                since=since,
                unit=self.native_unit,
                amounts=total.amounts(self.node),
                provenance=Provenance.NODE_ESTIMATE,
                source="storj estimated-payout",
            )
            for since, total in ((before, payout.previous_month), (month, payout.current_month))
        ]

    def _config_file(self) -> Path:
        if self.options.config_file is None:
            raise UnsupportedError(self.node, "options.config_file is not set: name the node's config.yaml")
        return self.options.config_file

    def _why_not_writable(self) -> str:
        try:
            text = read_config(self.node, self._config_file())
            self._with_allocation(text, FLOOR_GB)
        except (AllocationError, UnsupportedError) as error:
            return error.message
        if re.search(r"^storage2\.monitor\.dedicated-disk\s*:\s*true\b", text, re.MULTILINE):
            return "the node has a dedicated disk (storage2.monitor.dedicated-disk), which ignores the allocation"
        return self.controller.why_not_writable()

    def _with_allocation(self, text: str, gigabytes: float) -> str:
        """config.yaml with another allocation: only that key's line changes, a remark behind it stays."""
        amount = f"{gigabytes:.3f}".rstrip("0").rstrip(".") + "GB"
        changed, found = _ALLOCATION_LINE.subn(
            lambda line: f"{line['key']} {amount}{line['remark'] or ''}{line['end']}", text
        )
        if found > 1:
            raise AllocationError(self.node, f"{self.options.config_file} holds {CONFIG_KEY} twice; remove one")
        if found:
            return changed
        if re.search(r"^storage\s*:", text, re.MULTILINE):
            raise AllocationError(
                self.node, f"{self.options.config_file} nests its keys; write {CONFIG_KEY} on a line of its own"
            )
        newline = "\r\n" if "\r\n" in text else "\n"
        gap = "" if not text or text.endswith("\n") else newline
        return f"{text}{gap}{CONFIG_KEY}: {amount}{newline}"


def _next_month(first: datetime) -> datetime:
    return (first + timedelta(days=32)).replace(day=1)


def _satellite_risks(satellites: Sequence[_Satellite]) -> list[str]:
    risks = [f"disqualified on {s.url} since {s.disqualified:%Y-%m-%d}" for s in satellites if s.disqualified]
    return risks + [f"suspended on {s.url} since {s.suspended:%Y-%m-%d}" for s in satellites if s.suspended]


def _score_risks(audits: Sequence[_Audits]) -> list[str]:
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
