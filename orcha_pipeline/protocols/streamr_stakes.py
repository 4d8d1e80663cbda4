"""What the operator's stakes earn at the margin, and what that advises. Pure: moving stake is the operator's."""

from collections.abc import Sequence

from orcha_pipeline.protocols.streamr_api import Offer, PaidStream, PlacedStake
from orcha_pipeline.protocols.streamr_risks import printable

MINIMUM_STAKE = 5_000
"""DATA that a stake must have."""
_WEI = 10**18
_A_THOUSAND_A_DAY = 1_000 * 86_400
_WORTH_A_MOVE = 1.1
"""A stake is moved by transactions, and a new one is bound: a difference below a tenth is not worth it."""


def marginal_yield(sponsorship: PaidStream, own_wei: int) -> float:
    """DATA a day that 1 000 DATA more would earn, beside `own_wei` of its stake that are the operator's already.

    The payout P is divided by stake, so that x of it beside S of others earns P x / (S + x): each further unit
    P S / (S + x)^2.
    """
    total = sponsorship.total_staked_wei
    if not total:
        return 0.0
    others = max(0, total - own_wei)
    return _A_THOUSAND_A_DAY * sponsorship.total_payout_wei_per_sec * others / total**2


def yield_of_joining(sponsorship: PaidStream) -> float:
    """DATA a day for each 1 000 DATA of a new stake of the least size."""
    total = sponsorship.total_staked_wei + MINIMUM_STAKE * _WEI
    return _A_THOUSAND_A_DAY * sponsorship.total_payout_wei_per_sec / total


def _name(sponsorship: PaidStream) -> str:
    stream = f" (stream {printable(sponsorship.stream.id)})" if sponsorship.stream else ""
    return f"{printable(sponsorship.id)[:42]}{stream}"


def stake_advice(
    stakes: Sequence[PlacedStake], offers: Sequence[Offer], now: int, *, autostaker: bool | None
) -> list[str]:
    """What to move where, with figures before fees; `now` in unix seconds, `autostaker` None: not known whether on."""
    lines = [
        f"The stake of {stake.amount_wei / _WEI:.6g} DATA in {_name(stake.sponsorship)} earns nothing, for the "
        "sponsorship does not run or is out of funds. It can still be slashed: unstake it."
        for stake in stakes
        if not stake.sponsorship.pays_at(now)
    ]
    paid = [stake for stake in stakes if stake.sponsorship.pays_at(now)]
    if not paid:
        return lines
    yields = {s.sponsorship.id: marginal_yield(s.sponsorship, s.amount_wei) for s in paid}
    worst = min(paid, key=lambda s: yields[s.sponsorship.id]).sponsorship
    best = max(paid, key=lambda s: yields[s.sponsorship.id]).sponsorship
    low, high = yields[worst.id], yields[best.id]
    hands_off = {
        True: " The autostaker weighs this itself and undoes moves by hand: leave them to it, or switch it off first.",
        False: "",
        None: " Where the autostaker plugin runs it undoes moves by hand: switch it off first.",
    }[autostaker]
    if high > low * _WORTH_A_MOVE:
        lines.append(
            f"The next 1 000 DATA earn {high:.3g} DATA a day in {_name(best)} and {low:.3g} in {_name(worst)}: "
            f"stake moved from the second to the first earns more, until both pay the same.{hands_off}"
        )
    own = {stake.sponsorship.id for stake in stakes}
    open_ones = [
        offer
        for offer in offers
        if offer.id not in own
        and offer.pays_at(now + 86_400)
        and (offer.max_operators is None or offer.operator_count < offer.max_operators)
    ]
    joined = max(open_ones, key=yield_of_joining, default=None)
    if joined is not None and yield_of_joining(joined) > low * _WORTH_A_MOVE:
        lines.append(
            f"A new stake of {MINIMUM_STAKE} DATA in {_name(joined)}, which you are not in, would earn "
            f"{yield_of_joining(joined):.3g} DATA a day for each 1 000 DATA; the last 1 000 in {_name(worst)} earn "
            f"{low:.3g}.{hands_off}"
        )
    return lines
