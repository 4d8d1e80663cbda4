"""What a storage node earns and where that money stands, from what its console answers. Pure.

Stored data and traffic are priced here, for the console's own cents stand still until a satellite's count of the
stored data arrives, and then jump by half a day's worth.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from orcha_pipeline.model import (
    Amounts,
    Balance,
    BalanceKind,
    EarningsBucket,
    EarningsCounter,
    Provenance,
    Window,
)
from orcha_pipeline.protocols.parsing import native, whole_amounts
from orcha_pipeline.protocols.storj_api import (
    CENT,
    MICRO,
    MONTH_HOURS,
    EstimatedPayout,
    HeldHistory,
    MonthPayout,
    Paystub,
    Satellite,
    SatelliteMonth,
)

UNIT = "USD"
NOT_YET_COUNTED = timedelta(days=3)
"""A satellite tells what it counted within two days and a half; what was never counted by then is not there."""
MONTH_READ_ON = timedelta(days=1)
"""How long the totals of the month before are told after its end, so that they are seen to grow no more."""
ALL = "all satellites"
COUNTED_LATE = "stored data is counted up to two and a half days late"


def month_of(moment: datetime) -> datetime:
    """The first instant of the calendar month."""
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(month: datetime) -> datetime:
    """The first instant of the month after the one that begins at `month`."""
    return (month + timedelta(days=32)).replace(day=1)


def hours(length: timedelta) -> Decimal:
    """Its length in hours, exact to the second."""
    return Decimal(length // timedelta(seconds=1)) / 3600


def held_rate(joined_at: datetime, moment: datetime) -> Decimal:
    """Percent held back at `moment`, by the calendar months since the satellite was joined."""
    months = (moment.year - joined_at.year) * 12 + moment.month - joined_at.month
    for limit, percent in ((3, 75), (6, 50), (9, 25)):
        if months < limit:
            return Decimal(percent)
    return Decimal(0)


def with_held(node: str, gross_cents: Decimal, percent: Decimal) -> Amounts:
    """US dollars: what was earned, what of it is held back, and the rest."""
    gross = gross_cents * CENT
    held = gross * percent / 100
    return whole_amounts(node, gross, gross - held, held=held)


def mean_stored_bytes(payout: MonthPayout, month: datetime, joined_at: datetime) -> Decimal | None:
    """The mean level of the settled month that begins at `month`; None where nothing was counted in it."""
    counted = hours(next_month(month) - max(month, joined_at))
    return payout.disk_space * MONTH_HOURS / counted if payout.disk_space > 0 and counted > 0 else None


def parts_of_months(start: datetime, end: datetime) -> Sequence[tuple[datetime, datetime]]:
    """The stretch cut at every turn of a month, for the held rate changes there."""
    parts: list[tuple[datetime, datetime]] = []
    while start < end:
        cut = min(end, next_month(month_of(start)))
        parts.append((start, cut))
        start = cut
    return parts


def month_is_young(window: Window, now: datetime) -> bool:
    """Whether the month before is to be told too: what came between its last reading and its end would be lost."""
    month = month_of(now)
    return window.start < month or now - month < MONTH_READ_ON


def traffic_totals(
    node: str, satellite: str, usage: SatelliteMonth, previous: MonthPayout | None, now: datetime
) -> list[EarningsCounter]:
    """What traffic has earned on a satellite this month and, where given, in the previous one: running totals."""
    month = month_of(now)
    totals = [(month, usage.traffic_cents(month))]
    if previous is not None:
        cents = usage.price_model.traffic(previous.egress_bandwidth, previous.egress_repair_audit)
        totals.insert(0, (month_of(month - timedelta(days=1)), cents))
    return [
        EarningsCounter(
            stream=f"{satellite}:{since:%Y-%m}:traffic",
            observed_at=now,
            since=since,
            unit=UNIT,
            amounts=with_held(node, cents, held_rate(usage.node_joined_at, since)),
            provenance=Provenance.OUR_ESTIMATE,
            source="storj bytes sent x price",
        )
        for since, cents in totals
    ]


def storage_earned(
    node: str, satellite: str, usage: SatelliteMonth, previous: MonthPayout | None, window: Window
) -> list[EarningsBucket]:
    """What stored data has earned on a satellite in `window`, at the level it was last counted at.

    Without a count this month it is last month's mean. Without that either the amount is unknown while the satellite
    is new; else nothing is there.
    """
    level, source = usage.stored_bytes(), "as last counted"
    if level is None and previous is not None:
        before = month_of(month_of(window.end) - timedelta(days=1))
        level, source = mean_stored_bytes(previous, before, usage.node_joined_at), "last month's mean"
    if level is None and window.end - usage.node_joined_at > NOT_YET_COUNTED:
        level, source = Decimal(0), "none was ever counted"

    def amounts(start: datetime, end: datetime) -> Amounts:
        if level is None:
            return Amounts()
        return with_held(
            node, usage.price_model.storage(level, hours(end - start)), held_rate(usage.node_joined_at, start)
        )

    return [
        EarningsBucket(
            stream=f"{satellite}:storage",
            observed_at=window.end,
            window=Window(start, end),
            unit=UNIT,
            amounts=amounts(start, end),
            provenance=Provenance.UNKNOWN if level is None else Provenance.OUR_ESTIMATE,
            source="storj has counted nothing yet" if level is None else f"storj stored bytes ({source}) x price",
        )
        for start, end in parts_of_months(window.start, window.end)
    ]


def paystub_buckets(node: str, stubs: Sequence[Paystub], window: Window, now: datetime) -> list[EarningsBucket]:
    """A bucket for each paystub whose month lies in `window`: of a month cut in two the hours may be known already."""
    months = [(stub, datetime.strptime(stub.period, "%Y-%m").replace(tzinfo=UTC)) for stub in stubs]
    return [
        EarningsBucket(
            stream=f"paystub:{stub.satellite_id}",
            observed_at=now,
            window=Window(month, next_month(month)),
            unit=UNIT,
            amounts=stub.amounts(node),
            provenance=Provenance.MEASURED,
            source=f"storj paystub {stub.period}",
        )
        for stub, month in months
        if window.start <= month and next_month(month) <= window.end
    ]


def accrued(
    node: str, satellite: Satellite, payout: EstimatedPayout, settled: Collection[str], now: datetime
) -> list[Balance]:
    """The node's own estimate of this month's net, and of last month's while that is not among the `settled`."""
    month = month_of(now)
    before = month_of(month - timedelta(days=1))
    found: list[Balance] = []
    for since, estimate in ((before, payout.previous_month), (month, payout.current_month)):
        amounts = estimate.amounts(node)
        if since == before and (f"{since:%Y-%m}" in settled or not amounts.gross):
            continue
        note = (
            f"net; gross {_dollars(amounts.gross)}, of which {_dollars(amounts.held)} "
            f"({estimate.held_rate:f} %) is held back; {COUNTED_LATE}"
        )
        found.append(
            Balance(
                kind=BalanceKind.ACCRUED,
                account=f"{satellite.url} {since:%Y-%m}",
                observed_at=now,
                since=since,
                unit=UNIT,
                amount=amounts.net,
                provenance=Provenance.NODE_ESTIMATE,
                source="storj estimated-payout",
                note=note,
            )
        )
    return found


def held(node: str, history: HeldHistory, now: datetime, *, lost: bool) -> Balance:
    """What a satellite keeps back; `lost` where it has disqualified the node."""
    kept = history.total_held - history.total_disposed
    returned = "half is returned in the 16th month, the rest after a graceful exit; lost by leaving without one"
    return Balance(
        kind=BalanceKind.LOST if lost else BalanceKind.HELD,
        account=history.satellite_name,
        observed_at=now,
        since=history.joined_at,
        unit=UNIT,
        amount=native(node, kept * MICRO) if kept >= 0 else None,
        provenance=Provenance.MEASURED if kept >= 0 else Provenance.UNKNOWN,
        source="storj held-history",
        note="kept by a satellite that disqualified the node" if lost else returned,
    )


def paid(node: str, stubs: Sequence[Paystub], receipts: Sequence[str], now: datetime) -> list[Balance]:
    """What all paystubs say was sent, and what of it is still to be sent. `receipts` are the newest month's."""
    periods = [stub.period for stub in stubs]
    since = datetime.strptime(min(periods), "%Y-%m").replace(tzinfo=UTC)
    sent = sum(stub.distributed for stub in stubs)
    waiting = sum(stub.paid for stub in stubs) - sent
    # More than was owed cannot have been sent, so that then one of the two is not what it seems.
    known = waiting >= 0
    return [
        Balance(
            kind=BalanceKind.SETTLED,
            account=ALL,
            observed_at=now,
            since=since,
            unit=UNIT,
            amount=native(node, sent * MICRO),
            provenance=Provenance.MEASURED,
            source="storj paystubs",
            note=f"newest of {max(periods)}: {', '.join(receipts) or 'no receipt yet'}",
        ),
        Balance(
            kind=BalanceKind.UNDISTRIBUTED,
            account=ALL,
            observed_at=now,
            since=since,
            unit=UNIT,
            amount=native(node, waiting * MICRO) if known else None,
            provenance=Provenance.MEASURED if known else Provenance.UNKNOWN,
            source="storj paystubs",
            note="sent once the fee is a small part of it" if known else "the paystubs tell more sent than owed",
        ),
    ]


def _dollars(amount: Decimal | None) -> str:
    return "unknown" if amount is None else f"{amount.normalize():f}"
