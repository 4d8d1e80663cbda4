"""What the subgraph is asked and the shapes of its answers, and those of the node's `/info`.

Each question asks for what one purpose needs, so that a field that has changed spoils that purpose alone.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar, cast

from pydantic import BeforeValidator, Field

from orcha_pipeline.protocols.parsing import ApiModel, Listed, Number, Whole

MOST_ROWS = 1000
"""The Graph gives no more at once."""
_META = "_meta{ block{ number timestamp } }"
_META_WITHOUT_TIME = "_meta{ block{ number } }"
_PAY = "isRunning totalPayoutWeiPerSec totalStakedWei projectedInsolvency"
_ACCRUAL = f"amountWei earningsWei updateTimestamp sponsorship{{ {_PAY} }}"
_PLACED = f"amountWei earningsWei updateTimestamp joinTimestamp sponsorship{{ id stream{{ id }} {_PAY} }}"

EARNINGS = f"""{{ operator(id:"%s"){{ cumulativeProfitsWei cumulativeOperatorsCutWei operatorsCutFraction
 stakes(first:{MOST_ROWS}){{ {_ACCRUAL} }} }} {_META} }}"""
STANDING = f"""{{ operator(id:"%s"){{ slashingsCount latestHeartbeatTimestamp valueWithoutEarnings nodes
 stakes(first:{MOST_ROWS}){{ {_PLACED} }}
 slashingEvents(first:50,orderBy:date,orderDirection:desc){{ amount date }}
 flagsTargeted(where:{{result_in:["waiting","voting"]}}){{ id }} }} {_META} }}"""
STAKES = f"""{{ operator(id:"%s"){{ metadataJsonString stakes(first:{MOST_ROWS}){{ {_PLACED} }} }} }}"""
STAKE_COUNT = f"""{{ operator(id:"%s"){{ stakes(first:{MOST_ROWS}){{ id }} }} }}"""
DAYS = """{ operatorDailyBuckets(where:{operator:"%s"},orderBy:date,orderDirection:desc,first:%d)
{ date profitsWei operatorsCutWei } }"""
MARKET = f"""{{ sponsorships(where:{{isRunning:true}},first:100,orderBy:spotAPY,orderDirection:desc)
{{ id {_PAY} operatorCount maxOperators stream{{ id }} }} }}"""


def without_block_time(query: str) -> str:
    """The same question for an indexer that does not know when its blocks were made."""
    return query.replace(_META, _META_WITHOUT_TIME)


class Stream(ApiModel):
    """A stream that is paid for."""

    id: str


Paid = TypeVar("Paid", bound="Sponsorship")


class Sponsorship(ApiModel):
    """What a stream pays, and to how much stake."""

    is_running: bool = Field(strict=True)
    total_payout_wei_per_sec: Whole
    total_staked_wei: Whole
    projected_insolvency: Whole | None

    def pays_at(self, now: int) -> bool:
        """It runs and is not yet out of funds at `now` (unix seconds)."""
        return self.is_running and (self.projected_insolvency is None or now < self.projected_insolvency)


class PaidStream(Sponsorship):
    """A sponsorship by name. One without a stream is older than its stream's entry in the subgraph."""

    id: str
    stream: Stream | None = None


class Offer(PaidStream):
    """A sponsorship that this operator could join."""

    operator_count: Whole
    max_operators: Whole | None


class StakeIn(ApiModel, Generic[Paid]):
    """The operator's stake in one sponsorship."""

    amount_wei: Whole
    earnings_wei: Whole
    update_timestamp: Whole
    sponsorship: Paid

    def accrued_wei(self, now: int) -> int:
        """Earned in this sponsorship and not withdrawn, before fees, at `now` (unix seconds): the contract's sum."""
        s = self.sponsorship
        until = now if s.projected_insolvency is None else min(now, s.projected_insolvency)
        seconds = max(0, until - self.update_timestamp)
        if not s.is_running or not seconds or not s.total_staked_wei:
            return self.earnings_wei
        return self.earnings_wei + s.total_payout_wei_per_sec * self.amount_wei * seconds // s.total_staked_wei


class PlacedStake(StakeIn[PaidStream]):
    """A stake, where it lies, and since when the node has to serve its stream."""

    join_timestamp: Whole


class Block(ApiModel):
    """The newest block that the subgraph has read."""

    number: Whole
    timestamp: Whole | None = None


class Meta(ApiModel):
    """How far the subgraph has come."""

    block: Block


class Earner(ApiModel):
    """An operator's earnings: withdrawn ones, after the fee, and those of running stakes."""

    cumulative_profits_wei: Whole
    cumulative_operators_cut_wei: Whole
    operators_cut_fraction: Annotated[Whole, Field(le=10**18)]
    stakes: list[StakeIn[Sponsorship]]


class Flag(ApiModel):
    """Another operator's claim that this one does not do its work."""

    id: str


class Slashing(ApiModel):
    """Stake that was taken away."""

    amount: Whole
    date: Whole


class Standing(ApiModel):
    """What endangers an operator's stake."""

    slashings_count: Whole
    latest_heartbeat_timestamp: Whole | None
    value_without_earnings: Whole
    nodes: list[str]
    stakes: list[PlacedStake]
    slashing_events: list[Slashing]
    flags_targeted: list[Flag]


class Staker(ApiModel):
    """An operator's stakes, and its description of itself."""

    metadata_json_string: str | None = None
    stakes: list[PlacedStake]


class StakeId(ApiModel):
    """A stake, to be counted."""

    id: str


class StakeCounter(ApiModel):
    """An operator's stakes, to be counted."""

    stakes: list[StakeId]


class Day(ApiModel):
    """What was withdrawn on one UTC day, after the fee."""

    date: Annotated[Whole, Field(le=10**10)]
    profits_wei: Whole
    operators_cut_wei: Whole


class EarnerData(ApiModel):
    """Answer to `EARNINGS`; None is an operator the subgraph does not know."""

    operator: Earner | None
    meta: Meta | None = Field(default=None, alias="_meta")


class StandingData(ApiModel):
    """Answer to `STANDING`."""

    operator: Standing | None
    meta: Meta | None = Field(default=None, alias="_meta")


class StakesData(ApiModel):
    """Answer to `STAKES`."""

    operator: Staker | None


class StakeCountData(ApiModel):
    """Answer to `STAKE_COUNT`."""

    operator: StakeCounter | None


class DaysData(ApiModel):
    """Answer to `DAYS`."""

    operator_daily_buckets: list[Day]


class MarketData(ApiModel):
    """Answer to `MARKET`."""

    sponsorships: Listed[Offer]


class Problem(ApiModel):
    """An error of GraphQL's."""

    message: str


class Graph(ApiModel):
    """Any answer of the subgraph; errors come with status 200."""

    data: Any = None
    errors: list[Problem] | None = None


# ---------------------------------------------------------------- /info


def hex_id(value: Any) -> str | None:
    """Hex digits of a node's id in either encoding, Buffer's JSON or an object keyed by index; None if neither."""
    if isinstance(value, str):
        return value.lower() if re.fullmatch(r"(?:[0-9a-fA-F]{2}){1,64}", value) else None
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, Any]", value)
    data: Any = [fields.get(str(place)) for place in range(len(fields))]
    if fields.get("type") == "Buffer":
        data = fields.get("data")
    items = cast("list[Any]", data) if isinstance(data, list) else []
    numbers = [item for item in items if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 256]
    return bytes(numbers).hex() if 0 < len(numbers) == len(items) <= 64 else None


def _tolerated(value: Any) -> int | None:
    """A count that the node's authors do not promise: unknown where it is anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15 else None


def _table(value: Any) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


Count = Annotated[int | None, BeforeValidator(_tolerated)]


class Peer(ApiModel):
    """The other end of a connection."""

    node_id: Annotated[str | None, BeforeValidator(hex_id)] = None


class Connection(ApiModel):
    """A connection that is open now. Its counters are forgotten when it closes."""

    remote_peer_descriptor: Annotated[Peer, BeforeValidator(_table)] = Peer()
    opened_at: Count = None
    """Milliseconds since 1970, by the node's clock."""
    bytes_sent: Number
    bytes_received: Number


class Transport(ApiModel):
    """What the node is connected to."""

    connections: list[Connection]


class ControlLayer(ApiModel):
    """How the node stands in the network."""

    transport: Transport
    neighbor_count: Count = None


class PartInfo(ApiModel):
    """How the node stands in one stream's network."""

    neighbor_count: Count = None


class StreamPart(ApiModel):
    """A partition of a stream that the node serves: `STREAM#PARTITION`."""

    id: str
    info: Annotated[PartInfo, BeforeValidator(_table)] = PartInfo()


class ContentLayer(ApiModel):
    """The node's work."""

    stream_parts: list[StreamPart]


class Info(ApiModel):
    """The node's `/info`, whose authors promise no shape: what need not be there is unknown where it is not."""

    control_layer: ControlLayer
    content_layer: ContentLayer
