"""What endangers an operator's stake, as sentences for the operator. Pure; times are unix seconds."""

from datetime import timedelta
from decimal import Decimal

from orcha_pipeline.protocols.streamr_api import Info, Standing
from orcha_pipeline.protocols.streamr_chain import ChainStanding

WEI = Decimal(10) ** 18
HEARTBEAT_OVERDUE = timedelta(hours=26)
"""A heartbeat goes on chain once a day."""
SLASHING_REMEMBERED = timedelta(days=30)
PICKED_UP_WITHIN = timedelta(minutes=15)
"""How long a node may take to serve a stream after the stake on it."""
UNCLAIMED_LIMIT = Decimal("0.05")
"""Of the operator's value: of unclaimed earnings beyond it, whoever withdraws them keeps a part."""
NEAR_THE_LIMIT = Decimal("0.9")
_LONGEST_NAME = 100


def printable(text: str) -> str:
    """A name that others gave, fit for a message."""
    return "".join(c if c.isprintable() else " " for c in text[:_LONGEST_NAME])


def risks_of_work(info: Info) -> list[str]:
    """A node without neighbours gets no data, and fails an inspection."""
    risks: list[str] = []
    if info.control_layer.neighbor_count == 0:
        risks.append("it has no neighbour in the network")
    alone = [part for part in info.content_layer.stream_parts if part.info.neighbor_count == 0]
    if alone:
        risks.append(f"{len(alone)} stream part(s) have no neighbour, such as {printable(alone[0].id)}")
    return risks


def risks_of_standing(standing: Standing, now: int) -> list[str]:
    """Flags, slashings and heartbeats."""
    risks: list[str] = []
    if standing.flags_targeted:
        risks.append(f"{len(standing.flags_targeted)} open flag(s) on the operator: stake may be slashed")
    lately = [e.amount for e in standing.slashing_events if e.date >= now - SLASHING_REMEMBERED.total_seconds()]
    if lately:
        lost = sum(lately) / WEI
        risks.append(
            f"slashed {len(lately)} time(s) in the last 30 days, by {float(lost):.6g} DATA: see the node's log"
        )
    beat = standing.latest_heartbeat_timestamp
    if beat is None:
        risks.append("no heartbeat has ever come on chain: is the operator plugin on, and its wallet paired?")
    elif now - beat > HEARTBEAT_OVERDUE.total_seconds():
        hours = (now - beat) // 3600
        risks.append(f"no heartbeat on chain for {hours} hours: is the node's wallet paired, and has it POL?")
    return risks


def unserved_streams(standing: Standing, info: Info, now: int) -> list[str]:
    """Staked streams that an operator's only node does not serve."""
    served = {part.id.rpartition("#")[0].lower() for part in info.content_layer.stream_parts}
    due = now - PICKED_UP_WITHIN.total_seconds()
    missing = [
        stake.sponsorship.stream.id
        for stake in standing.stakes
        if stake.join_timestamp <= due
        and stake.sponsorship.pays_at(now)
        and stake.sponsorship.stream is not None
        and stake.sponsorship.stream.id.lower() not in served
    ]
    if not missing:
        return []
    return [f"{len(missing)} staked stream(s) are not served, such as {printable(missing[0])}"]


def risks_of_gas(chain: ChainStanding, minimum_pol: Decimal) -> list[str]:
    """Without POL nothing is withdrawn and no heartbeat sent."""
    if not chain.gas_wei:
        return ["the operator's contract names no node wallet: pair the node's address with the operator"]
    wallet, least = min(chain.gas_wei.items(), key=lambda item: item[1])
    if least / WEI >= minimum_pol:
        return []
    told = f"wallet {wallet} has {least / WEI:.4f} POL, less than {minimum_pol}"
    return [f"{told}: without gas nothing is withdrawn, and others may take a part of what accrues"]


def risks_of_unclaimed(standing: Standing | None, chain: ChainStanding | None, now: int) -> list[str]:
    """Earnings near the limit beyond which anyone may withdraw them: the contract's, or by the subgraph's figures."""
    if chain is not None:
        unclaimed, limit = Decimal(chain.unclaimed.total_wei), Decimal(chain.unclaimed.limit_wei)
    elif standing is not None:
        unclaimed = Decimal(sum(stake.accrued_wei(now) for stake in standing.stakes))
        limit = standing.value_without_earnings * UNCLAIMED_LIMIT
    else:
        return []
    if not unclaimed or unclaimed < limit * NEAR_THE_LIMIT:
        return []
    told = f"{float(unclaimed / WEI):.6g} DATA are not withdrawn; beyond {float(limit / WEI):.6g}"
    return [f"{told} anyone may withdraw them and keep a part: does the node still withdraw?"]
