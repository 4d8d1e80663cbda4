"""The nouns of Orcha as frozen values: hosts, nodes, readings, levers, plans, decisions.

No I/O and no import from the rest of the project. All times are timezone-aware UTC. Amounts of money and
tokens are `Decimal` in the unit named beside them; everything physical is `float` in the unit its name tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Literal

HOUR = timedelta(hours=1)
YIELD_USD = "yield_usd"
"""A target of forecasting: USD per hour at full share."""
NET_NATIVE = "net_native"
"""A target of forecasting: what a node earns an hour, in its own unit, at the share it has."""
CLOCK_AHEAD = "clock_ahead_seconds"
"""The score of a node that tells how far its clock is ahead of this machine's."""
SLOT = timedelta(minutes=15)
"""One cycle. Readings of the same slot replace each other, so that a cycle run twice writes once."""


class Provenance(StrEnum):
    """Where a number comes from. `unknown` means no number at all: it is never shown or summed as 0."""

    MEASURED = "measured"
    NODE_ESTIMATE = "node_estimate"
    OUR_ESTIMATE = "our_estimate"
    UNKNOWN = "unknown"


class HealthState(StrEnum):
    """`at_risk`: works, but its reputation or stake is in danger, so the planner must not touch it."""

    HEALTHY = "healthy"
    AT_RISK = "at_risk"
    RESTARTING = "restarting"
    UNREACHABLE = "unreachable"
    ERROR = "error"


class LeverMode(StrEnum):
    """How a change reaches the node: at once, by a restart, by a chain transaction, or by the operating system."""

    HOT = "hot"
    RESTART = "restart"
    TRANSACTION = "transaction"
    OS_LIMIT = "os_limit"


class Verdict(StrEnum):
    """What a decision comes to."""

    REALLOCATE = "reallocate"
    HOLD = "hold"


class Mode(StrEnum):
    """Who lets a node be changed: nobody, the operator each time, or Orcha itself. From the strictest on."""

    ADVISE = "advise"
    CONFIRM = "confirm"
    AUTO = "auto"

    @property
    def freedom(self) -> int:
        """How far it lets Orcha go: the less, the stricter."""
        return list(Mode).index(self)


class ApplicationStatus(StrEnum):
    """How the carrying out of a decision stands. `rollback_failed` needs the operator."""

    RUNNING = "running"
    APPLIED = "applied"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """An amount of each of the four resources nodes compete for."""

    cpu_threads: float = 0.0
    memory_gib: float = 0.0
    disk_gb: float = 0.0
    bandwidth_mbps: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Resource name -> amount, in the fixed order of the fields."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def scaled(self, factor: float) -> "Resources":
        """Each amount times `factor`."""
        return Resources(**{name: amount * factor for name, amount in self.as_dict().items()})


RESOURCES = tuple(f.name for f in fields(Resources))


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine with a capacity. `simulated` marks the testnet's."""

    name: str
    capacity: Resources
    simulated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One protocol's node on one host, with what it would use at share 1.0 and the bounds of its share."""

    name: str
    protocol: str
    host: str
    demand: Resources
    min_share: float
    max_share: float
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open stretch of time, `[start, end)`, UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None or self.end < self.start:
            raise ValueError(f"not a UTC window: {self.start} .. {self.end}")

    @property
    def hours(self) -> float:
        """Length in hours."""
        return (self.end - self.start) / HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """Native amounts of one unit, kept apart. `None` is unknown.

    `gross` is everything earned, `held` the part the network keeps back for now (Storj), `net` what is the
    operator's (gross less held and fees), `doubtful` the part of `net` that may never be paid (old invoices).
    """

    gross: Decimal | None = None
    held: Decimal | None = None
    net: Decimal | None = None
    doubtful: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EarningsCounter:
    """A running total as read at `observed_at`: it grew from zero at `since`.

    Earnings are differences of two readings of the same `stream`; a total that starts again (a new month, a new
    epoch, a daemon restart) is a new stream. The old stream may be read on (Storj's previous month), so that
    nothing earned before the turn is lost.
    """

    stream: str
    observed_at: datetime
    since: datetime | None
    unit: str
    amounts: Amounts
    provenance: Provenance
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EarningsBucket:
    """An amount earned inside `window`, as the node itself dates it. A coarse bucket keeps its length."""

    stream: str
    observed_at: datetime
    window: Window
    unit: str
    amounts: Amounts
    provenance: Provenance
    source: str


EarningsObservation = EarningsCounter | EarningsBucket
STAND_IN = " (stand-in)"


def stand_in(stream: str) -> str:
    """Name of a stream that measures the same money as the counter `stream`, read while that one cannot be.

    It may start from another number and fall back to nothing. Only its growth counts, and only in the gaps of
    `stream`: it is never added to it, what was earned across a gap remains the difference of `stream` itself, and
    its own absence makes nothing unknown.
    """
    return f"{stream}{STAND_IN}"


class BalanceKind(StrEnum):
    """Where money that was earned stands. Amounts of different kinds are never added up.

    `accrued`: earned, not yet invoiced or paid. `pending`: accepted by the payer, not yet paid. `settled`: paid out.
    `doubtful`: may never be paid. `lost`: will not be paid. `held`: kept back by the network, lost on an abrupt exit.
    `undistributed`: the operator's, but not yet sent.
    """

    ACCRUED = "accrued"
    PENDING = "pending"
    SETTLED = "settled"
    DOUBTFUL = "doubtful"
    LOST = "lost"
    HELD = "held"
    UNDISTRIBUTED = "undistributed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """An amount that stands somewhere at `observed_at`; None is unknown.

    `account` tells balances of one kind apart (a satellite, a payment platform). `since`: what happened before it is
    not counted.
    """

    kind: BalanceKind
    account: str
    observed_at: datetime
    since: datetime | None
    unit: str
    amount: Decimal | None
    provenance: Provenance
    source: str
    note: str = ""
    oldest_at: datetime | None = None
    """Of the oldest document in it; None where nothing tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReading:
    """Use of one resource. `metric` is a base-unit name such as `disk_used_bytes` or `cpu_seconds_total`."""

    metric: str
    value: float | None
    provenance: Provenance
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReading:
    """Whether the node works, why not, and its scores (name -> value) where the protocol has them.

    Scores are its reputation, and what else tells how it stands: penalties, gas, what is left of a token.
    """

    state: HealthState
    reason: str = ""
    error_kind: str = ""
    latency_seconds: float | None = None
    version: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    """Something an adapter can really change. `at_full_share` is the lever's value at share 1.0.

    Values are in `unit`; the lever takes multiples of `step` from `minimum` to `maximum`. `settle_seconds` is how
    long a change may take to show in the read-back, `restart_seconds` how long the node earns nothing for it.
    """

    name: str
    unit: str
    mode: LeverMode
    minimum: float
    maximum: float
    step: float
    at_full_share: float
    cooldown: timedelta = timedelta(0)
    restart_seconds: float = 0.0
    settle_seconds: float = 30.0
    restarts_per_month: int | None = None
    """How often in 30 days it may be moved, where each move restarts the node. None: no such budget."""
    safe_direction: Literal["both", "up", "down"] = "both"
    """Where a move the other way could not be taken back, the one in which it is moved."""
    writable: bool = True
    why_not: str = ""
    risks: tuple[str, ...] = ()

    def value_for(self, share: float) -> float:
        """The lever value nearest below `share` that the lever can take: rounding down never exceeds capacity."""
        wanted = share * self.at_full_share
        steps = int((wanted - self.minimum) / self.step + 1e-9)
        value = self.minimum + max(0, steps) * self.step
        return round(min(self.maximum, value), 9)

    def share_for(self, value: float) -> float:
        """The share that a lever value stands for."""
        return value / self.at_full_share


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationReading:
    """Where a lever stands now as the node or the host reports it, and the share this stands for.

    `share` is None for a lever that carries no share. `note` tells of a transition that is under way.
    """

    lever: str
    value: float | None
    unit: str
    share: float | None
    provenance: Provenance
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedChange:
    """What an adapter did: the previous value, what was asked and what it read back afterwards."""

    lever: str
    previous: float | None
    requested: float
    read_back: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReading:
    """Everything read from one node in one go. What failed is in `health` (and `error`); the rest still counts."""

    node: str
    protocol: str
    observed_at: datetime
    health: HealthReading
    earnings: tuple[EarningsObservation, ...] = ()
    usage: tuple[UsageReading, ...] = ()
    allocation: AllocationReading | None = None
    levers: tuple[Lever, ...] = ()
    balances: tuple[Balance, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceReading:
    """USD for one token. `usd` None: no usable source; `priced_at` is the source's own time."""

    token: str
    observed_at: datetime
    usd: Decimal | None
    priced_at: datetime | None
    provenance: Provenance
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class YieldForecast:
    """A node's target for each of the coming hours, three quantiles; `hours` is 24 long.

    The target is YIELD_USD, which plans are made from, or NET_NATIVE.
    """

    node: str
    issued_at: datetime
    hours: tuple[datetime, ...]
    p10: tuple[float, ...]
    p50: tuple[float, ...]
    p90: tuple[float, ...]
    model: str
    version: str
    note: str = ""
    target: str = YIELD_USD


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """A node's share of its host, and the lever value that stands for it."""

    node: str
    share: float
    lever: str | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One condition of a decision: its value, the threshold it was held against, and whether it passed."""

    name: str
    value: float | str | None
    threshold: float | str | None
    passed: bool
    explanation: str


def utc(moment: datetime) -> datetime:
    """`moment` in UTC; a naive time is refused, for its zone would be a guess."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone")
    return moment.astimezone(UTC)


def hour_of(moment: datetime) -> datetime:
    """The full hour `moment` lies in, UTC."""
    return utc(moment).replace(minute=0, second=0, microsecond=0)


def slot_of(moment: datetime) -> datetime:
    """The quarter of an hour `moment` lies in, UTC."""
    moment = utc(moment)
    return moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0)
