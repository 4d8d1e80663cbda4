"""What a storage node's console answers, as typed parts, and the arithmetic that Storj itself does with them.

Units as the console has them: bytes, byte-hours, cents (US) in estimates and prices, micro-USD in paystubs. Both
generations of `diskSpace` are known: the one up to v1.142 and the one since.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import ConfigDict, Field

from orcha_pipeline.model import Amounts
from orcha_pipeline.protocols.parsing import Amount, ApiModel, Listed, Number, UtcTime, Whole, whole_amounts

GB = 1_000_000_000
CENT = Decimal("0.01")
MICRO = Decimal("0.000001")
TERABYTE = Decimal(10**12)
MONTH_HOURS = Decimal(720)
"""What Storj counts as a month when it prices stored data."""
DISQUALIFIED = "disqualified"
"""In the text of the error that the console gives for the estimate of a satellite that has disqualified the node."""
UNTRUSTED = "untrusted"
"""In the text of the error for a satellite that the node no longer trusts."""

Score = Annotated[Number, Field(le=1.0)]
SatelliteId = Annotated[str, Field(min_length=1, max_length=100)]
Period = Annotated[str, Field(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")]


class Satellite(ApiModel):
    """One of the dashboard's satellites."""

    id: SatelliteId
    url: str
    disqualified: UtcTime | None
    suspended: UtcTime | None


class DiskSpace(ApiModel):
    """Bytes. Up to v1.142 there is no `allocated`: `available` is the allocation and `used` leaves out the trash."""

    used: Number
    available: Number
    trash: Number
    overused: Number
    allocated: Number | None = None

    @property
    def allocated_bytes(self) -> float:
        """The allocation that the node runs with."""
        return self.available if self.allocated is None else self.allocated

    @property
    def used_bytes(self) -> float:
        """Everything stored, trash included."""
        return self.used + self.trash if self.allocated is None else self.used

    @property
    def free_bytes(self) -> float:
        """What may still be stored."""
        return max(0.0, self.available - self.used_bytes) if self.allocated is None else self.available

    @property
    def missing_bytes(self) -> float:
        """By how much the disk itself is smaller than what is left of the allocation; older nodes do not tell: 0."""
        return max(0.0, self.allocated_bytes - self.used_bytes - self.free_bytes)


class MonthTraffic(ApiModel):
    """Bytes of the calendar month, all actions."""

    used: Number


class Dashboard(ApiModel):
    """`/api/sno/`."""

    satellites: Listed[Satellite]
    disk_space: DiskSpace
    bandwidth: MonthTraffic
    last_pinged: UtcTime
    started_at: UtcTime
    version: str
    up_to_date: bool
    quic_status: str = ""
    """Empty in nodes that are too old to tell."""


class Audits(ApiModel):
    """Reputation on one satellite, 0 to 1."""

    audit_score: Score
    suspension_score: Score
    online_score: Score
    satellite_name: str


class Egress(ApiModel):
    """Bytes sent."""

    repair: Whole
    audit: Whole
    usage: Whole


class Ingress(ApiModel):
    """Bytes received."""

    repair: Whole
    usage: Whole


class BandwidthDay(ApiModel):
    """The traffic of one UTC day so far."""

    egress: Egress
    ingress: Ingress
    interval_start: UtcTime


class StorageDay(ApiModel):
    """What a satellite counted as stored in one UTC day.

    `at_rest_total` is byte-hours; `at_rest_total_bytes` the mean level, which older nodes leave out. Newer ones fill
    days not counted yet with the last level.
    """

    at_rest_total: Amount
    at_rest_total_bytes: Amount | None = None
    interval_start: UtcTime


class Satellites(ApiModel):
    """`/api/sno/satellites`: all of them together."""

    audits: Listed[Audits]
    bandwidth_daily: Listed[BandwidthDay]

    def day(self, moment: datetime) -> BandwidthDay | None:
        """The traffic of the UTC day that `moment` lies in; None where the node has written none of it yet."""
        found = [row for row in self.bandwidth_daily if row.interval_start.date() == moment.date()]
        return found[-1] if found else None


class Prices(ApiModel):
    """Cents per TB, and per TB and month of 720 hours. Unlike everything else these keys begin with a capital."""

    model_config = ConfigDict(alias_generator=None)

    egress: Annotated[Amount, Field(validation_alias="EgressBandwidth")]
    audit: Annotated[Amount, Field(validation_alias="AuditBandwidth")]
    disk: Annotated[Amount, Field(validation_alias="DiskSpace")]

    def traffic(self, egress_bytes: int, repair_and_audit_bytes: int) -> Decimal:
        """Cents. Repair is paid at the price of audits, as the node itself reckons."""
        return (egress_bytes * self.egress + repair_and_audit_bytes * self.audit) / TERABYTE

    def storage(self, stored_bytes: Decimal, hours: Decimal) -> Decimal:
        """Cents for so many bytes kept for so long."""
        return stored_bytes * hours / MONTH_HOURS * self.disk / TERABYTE


class SatelliteMonth(ApiModel):
    """`/api/sno/satellite/{id}`: this calendar month (UTC) on one satellite."""

    storage_daily: Listed[StorageDay]
    bandwidth_daily: Listed[BandwidthDay]
    price_model: Prices
    node_joined_at: UtcTime

    def traffic_cents(self, month: datetime) -> Decimal:
        """What the traffic of the month that begins at `month` has earned so far."""
        days = [day.egress for day in self.bandwidth_daily if day.interval_start >= month]
        return self.price_model.traffic(sum(d.usage for d in days), sum(d.repair + d.audit for d in days))

    def stored_bytes(self) -> Decimal | None:
        """The last level that the satellite counted; None where it has counted none this month.

        A day without a count is passed over: satellites at times leave one out, and nothing was deleted for that.
        """
        rows = sorted(self.storage_daily, key=lambda row: row.interval_start)
        told = [row.at_rest_total_bytes for row in rows if row.at_rest_total_bytes is not None]
        # Without a level the newest day is of unknown length.
        levels = told or [row.at_rest_total / 24 for row in rows[:-1]]
        valid = [level for level in levels if level > 0]
        return valid[-1] if valid else (levels[-1] if levels else None)


class MonthPayout(ApiModel):
    """Cents and bytes. `payout` is net of what is held; `disk_space` is bytes kept for 720 hours."""

    egress_bandwidth: Whole
    egress_bandwidth_payout: Amount
    egress_repair_audit: Whole
    egress_repair_audit_payout: Amount
    disk_space: Amount
    disk_space_payout: Amount
    held_rate: Annotated[Amount, Field(le=100)]
    held: Amount
    payout: Amount

    def amounts(self, node: str) -> Amounts:
        """In US dollars, rounded by the node to 0.01 cent."""
        gross = self.egress_bandwidth_payout + self.egress_repair_audit_payout + self.disk_space_payout
        return whole_amounts(node, gross * CENT, self.payout * CENT, held=self.held * CENT)


class EstimatedPayout(ApiModel):
    """`/api/sno/estimated-payout?id=`."""

    current_month: MonthPayout
    previous_month: MonthPayout


class Paystub(ApiModel):
    """A settled month on one satellite, micro-USD."""

    satellite_id: SatelliteId
    period: Period
    comp_at_rest: Whole
    comp_get: Whole
    comp_get_repair: Whole
    comp_get_audit: Whole
    surge_percent: Amount
    held: Whole
    paid: Whole
    distributed: Whole

    def amounts(self, node: str) -> Amounts:
        """In US dollars."""
        earned = Decimal(self.comp_at_rest + self.comp_get + self.comp_get_repair + self.comp_get_audit)
        surge = self.surge_percent or Decimal(100)  # 0 stands for 100
        gross, held = earned * surge / 100 * MICRO, self.held * MICRO
        return whole_amounts(node, gross, gross - held, held=held)


class HeldHistory(ApiModel):
    """What one satellite has held back over the node's first nine months there, micro-USD."""

    satellite_id: Annotated[SatelliteId, Field(validation_alias="satelliteID")]
    satellite_name: str
    total_held: Whole
    total_disposed: Whole
    joined_at: UtcTime


class Payout(ApiModel):
    """`/api/heldamount/payout-history/{period}`: the receipt of a settled month, empty while nothing was sent."""

    receipt: str


class Notification(ApiModel):
    """`type`: 0 of any kind, 1 a failed audit, 2 disqualification, 3 suspension."""

    type: Whole
    title: str
    read_at: UtcTime | None
    created_at: UtcTime


class NotificationPage(ApiModel):
    """One page, newest first."""

    notifications: Listed[Notification]


class Notifications(ApiModel):
    """`/api/notifications/list`."""

    page: NotificationPage


class PublicHealth(ApiModel):
    """The answer of the node's public port. Its keys begin with a capital."""

    model_config = ConfigDict(alias_generator=None)

    all_healthy: Annotated[bool, Field(validation_alias="AllHealthy")]
