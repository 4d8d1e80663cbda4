"""Streamr: the operator's account in The Graph's subgraph, the node's `/info`, its JSON config, and the chain itself.

The node itself reports no earnings: they accrue on chain, at a rate the subgraph's numbers give exactly. Where the
subgraph fails the operator's contract is asked, if a server of Polygon is named.
"""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from time import perf_counter
from typing import Any, ClassVar, TypeVar

import httpx
from pydantic import SecretStr

from orcha_pipeline.clock import Clock
from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.errors import (
    AdapterError,
    ApiError,
    AuthenticationError,
    NodeConnectionError,
    ParseError,
)
from orcha_pipeline.model import (
    AllocationReading,
    AppliedChange,
    Balance,
    BalanceKind,
    EarningsBucket,
    EarningsCounter,
    EarningsObservation,
    HealthReading,
    HealthState,
    Lever,
    Provenance,
    UsageReading,
    Window,
    stand_in,
)
from orcha_pipeline.protocols import streamr_api as api
from orcha_pipeline.protocols.base import Adapter, AdapterOptions
from orcha_pipeline.protocols.http import HttpStatusError, NodeHttp, remaining_seconds, seconds_ahead, time_budget
from orcha_pipeline.protocols.node_options import node_token, read_options
from orcha_pipeline.protocols.os_limits import os_usage
from orcha_pipeline.protocols.parsing import ApiModel, parse, whole_amounts
from orcha_pipeline.protocols.streamr_chain import SECONDS_PER_BLOCK, ChainStanding, PolygonChain
from orcha_pipeline.protocols.streamr_config import NodeConfig
from orcha_pipeline.protocols.streamr_levers import StreamrLevers
from orcha_pipeline.protocols.streamr_options import StreamrOptions
from orcha_pipeline.protocols.streamr_risks import (
    WEI,
    risks_of_gas,
    risks_of_standing,
    risks_of_unclaimed,
    risks_of_work,
    unserved_streams,
)
from orcha_pipeline.protocols.streamr_stakes import stake_advice
from orcha_pipeline.settings import NodeSettings

STREAM = "operator"
STALE_AFTER = timedelta(minutes=10)
BLIND_AFTER = timedelta(hours=1)
"""A flag may be raised, reviewed and voted on within a subgraph's gap of this length."""
STAKES_SETTLE = timedelta(hours=3)
"""Two runs of the autostaker and one to spare."""
FEE = Decimal("0.05")
"""What the protocol keeps of all earnings when they are withdrawn."""

Data = TypeVar("Data", bound=ApiModel)


@dataclass(frozen=True, slots=True)
class _Lag:
    """How far the subgraph is behind the chain; None where nothing tells."""

    behind: timedelta | None

    @property
    def stale(self) -> bool:
        return self.behind is not None and self.behind > STALE_AFTER

    @property
    def told(self) -> str:
        return "" if self.behind is None else f"{self.behind // timedelta(minutes=1)} min behind the chain"


class StreamrAdapter(Adapter):
    """One operator's node. Earnings are the operator's: what was withdrawn, and what has accrued since."""

    protocol: ClassVar[str] = "streamr"
    native_unit: ClassVar[str] = "DATA"
    token: ClassVar[str | None] = "streamr"  # noqa: S105 (the price's id)
    options_type: ClassVar[type[AdapterOptions]] = StreamrOptions

    def __init__(
        self,
        settings: NodeSettings,
        *,
        controller: Controller,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(settings, controller=controller, clock=clock, transport=transport)
        self.options = read_options(settings, StreamrOptions)
        key = node_token(settings)
        self._http = NodeHttp(
            settings.name,
            settings.url,
            headers={"Authorization": SecretStr(f"bearer {key.get_secret_value()}")} if key else None,
            timeout_seconds=settings.timeout_seconds,
            transport=transport,
        )
        self._subgraph = NodeHttp(
            settings.name, self.options.subgraph_url, timeout_seconds=settings.timeout_seconds, transport=transport
        )
        self._chain = (
            PolygonChain(
                settings.name, self.options.rpc_url, timeout_seconds=settings.timeout_seconds, transport=transport
            )
            if self.options.rpc_url
            else None
        )
        self._address = self.options.operator.lower()  # the subgraph's ids are lower case
        self._levers = StreamrLevers(settings, self.options, controller, self._info)

    @property
    def _now(self) -> int:
        return int(self.clock.now().timestamp())

    # ------------------------------------------------------------ health

    def health(self) -> HealthReading:
        """The node answers and is connected; neither stake nor gas nor heartbeat of the operator is in danger.

        What the subgraph or the chain cannot tell is in the reason; without the subgraph nobody knows of flags, so
        that the node is in error then.
        """
        begun = perf_counter()
        info = self._info()
        latency = perf_counter() - begun
        scores: dict[str, float] = {}
        risks, remarks = risks_of_work(info), list[str]()
        failure: AdapterError | None = None
        standing: api.Standing | None = None
        meta: api.Meta | None = None
        try:
            with self._leaving_time():
                data = self._ask(api.STANDING, api.StandingData)
            standing, meta = self._known(data.operator), data.meta
            scores |= {
                "slashings": float(standing.slashings_count),
                "open_flags": float(len(standing.flags_targeted)),
            }
            risks += risks_of_standing(standing, self._now)
            if self.options.fleet_nodes == 1:
                risks += unserved_streams(standing, info, self._now)
        except AdapterError as error:
            failure = error
        chain: ChainStanding | None = None
        if self._chain is not None:
            wallets = self.options.gas_wallets or (standing.nodes if standing else None) or None
            try:
                chain = self._chain.standing(self._address, wallets)
                risks += risks_of_gas(chain, self.options.minimum_pol)
                if chain.gas_wei:
                    scores["pol"] = float(min(chain.gas_wei.values()) / WEI)
            except AdapterError as error:
                remarks.append(f"gas is unknown: {error.message}")
        risks += risks_of_unclaimed(standing, chain, self._now)
        lag = self._lag(meta, chain.number if chain else None)
        if lag.stale and lag.behind is not None:
            scores["subgraph_behind_seconds"] = lag.behind.total_seconds()
            told = f"the subgraph is {lag.told}"
            if lag.behind > BLIND_AFTER:
                risks.append(f"{told}: a flag or a slashing would not show")
            else:
                remarks.append(told)
        if failure is not None:
            remarks.insert(0, f"flags and slashing are unknown: {failure.message}")
        state, kind = (HealthState.AT_RISK if risks else HealthState.HEALTHY), ""
        if not info.control_layer.transport.connections:
            risks.insert(0, "it has no connection to any other node; is its websocket port reachable?")
            state, kind = HealthState.ERROR, ApiError.kind
        elif failure is not None:
            state, kind = HealthState.ERROR, failure.kind
        return HealthReading(
            state=state,
            reason="; ".join([*risks, *remarks]),
            error_kind=kind,
            latency_seconds=latency,
            scores=scores,
        )

    def _lag(self, meta: api.Meta | None, chain_block: int | None) -> _Lag:
        """By blocks where the chain was asked, for they need no clock; else by the time of the newest block."""
        if meta is None:
            return _Lag(None)
        if chain_block is not None:
            return _Lag(timedelta(seconds=max(0, chain_block - meta.block.number) * SECONDS_PER_BLOCK))
        if meta.block.timestamp is not None:
            return _Lag(timedelta(seconds=max(0, self._now - meta.block.timestamp)))
        return _Lag(None)

    # ------------------------------------------------------------ earnings

    def earnings(self, window: Window) -> Sequence[EarningsObservation]:  # noqa: ARG002 (the total as it stands now)
        """The operator's running total; while the subgraph fails, what has accrued by the operator's contract.

        The two are different sums, for a withdrawal empties the second: it is a stand-in for the first, which fills
        the gap in it and is never added to it.
        """
        try:
            with self._leaving_time():
                return [self._running_total()]
        except AdapterError as error:
            if self._chain is None:
                raise
            try:
                return [self._accrued_on_chain(self._chain)]
            except AdapterError as second:
                raise _both(self.node, error, second) from None

    def _running_total(self) -> EarningsCounter:
        """Withdrawn and accrued: the sum that the contract itself would pay out at this second.

        The subgraph's cumulative totals are what arrived after the protocol's fee; what has accrued since is before
        it. So that a withdrawal moves no total, gross takes the fee out of the first and net takes it off the second.
        """
        data = self._ask(api.EARNINGS, api.EarnerData)
        operator = self._known(data.operator)
        now = self.clock.now()
        accrued = Decimal(sum(stake.accrued_wei(int(now.timestamp())) for stake in operator.stakes)) / WEI
        gross, net = self._withdrawn(operator.cumulative_profits_wei, operator.cumulative_operators_cut_wei)
        lag = self._lag(data.meta, self._block_number() if _timeless(data.meta) else None)
        return EarningsCounter(
            stream=STREAM,
            observed_at=now,
            since=None,
            unit=self.native_unit,
            amounts=whole_amounts(
                self.node, gross + accrued, net + self._own_part(accrued, operator.operators_cut_fraction)
            ),
            # Stakes that have changed since the newest indexed block accrue otherwise than it says.
            provenance=Provenance.OUR_ESTIMATE if lag.stale else Provenance.MEASURED,
            source=f"streamr subgraph, {lag.told}" if lag.stale else "streamr subgraph",
        )

    def _accrued_on_chain(self, chain: PolygonChain) -> EarningsCounter:
        found = chain.earnings(self._address)
        accrued = found.unclaimed.total_wei / WEI
        return EarningsCounter(
            stream=stand_in(STREAM),
            observed_at=self.clock.now(),
            since=None,
            unit=self.native_unit,
            amounts=whole_amounts(self.node, accrued, self._own_part(accrued, found.cut_fraction)),
            provenance=Provenance.MEASURED,
            source="streamr operator contract",
        )

    def earnings_history(self, window: Window) -> Sequence[EarningsObservation]:
        """A bucket per full UTC day inside `window`: what was withdrawn that day, which is not when it was earned."""
        now = self.clock.now()
        wanted = min(api.MOST_ROWS, max(1, (now - window.start).days + 2))
        days = self._query(api.DAYS % (self._address, wanted), api.DaysData).operator_daily_buckets
        found: list[EarningsObservation] = []
        for day in days:
            start = datetime.fromtimestamp(day.date, UTC)
            end = start + timedelta(days=1)
            if start >= window.start and end <= min(window.end, now):
                gross, net = self._withdrawn(day.profits_wei, day.operators_cut_wei)
                found.append(
                    EarningsBucket(
                        stream="withdrawn",
                        observed_at=now,
                        window=Window(start, end),
                        unit=self.native_unit,
                        amounts=whole_amounts(self.node, gross, net),
                        provenance=Provenance.MEASURED,
                        source="streamr operatorDailyBuckets",
                    )
                )
        return found

    def balances(self) -> Sequence[Balance]:
        """The operator's part of what accrues in the sponsorships, and of all that was ever withdrawn."""
        counted: list[tuple[BalanceKind, str, Decimal, str, str]] = []
        at_stake = "sponsorships"
        try:
            with self._leaving_time():
                operator = self._known(self._ask(api.EARNINGS, api.EarnerData).operator)
        except AdapterError:
            if self._chain is None:
                raise
            found = self._chain.earnings(self._address)
            accrued, cut, source = found.unclaimed.total_wei / WEI, found.cut_fraction, "streamr operator contract"
        else:
            accrued = Decimal(sum(stake.accrued_wei(self._now) for stake in operator.stakes)) / WEI
            cut, source = operator.operators_cut_fraction, "streamr subgraph"
            _, net = self._withdrawn(operator.cumulative_profits_wei, operator.cumulative_operators_cut_wei)
            told = "in the operator's contract, staked or free"
            counted.append((BalanceKind.SETTLED, "operator contract", net, source, told))
        unpaid = "your part after the fee; paid out when the node withdraws"
        counted.append((BalanceKind.ACCRUED, at_stake, self._own_part(accrued, cut), source, unpaid))
        return [
            Balance(
                kind=kind,
                account=account,
                observed_at=self.clock.now(),
                since=None,
                unit=self.native_unit,
                amount=whole_amounts(self.node, amount, amount).net,
                provenance=Provenance.MEASURED,
                source=source,
                note=note,
            )
            for kind, account, amount, source, note in counted
        ]

    def _own_part(self, accrued: Decimal, cut_fraction: int) -> Decimal:
        """What the operator gets of accrued DATA: after the fee, his cut and his share of the rest."""
        cut = cut_fraction / WEI
        return accrued * (1 - FEE) * (cut + (1 - cut) * self.options.self_delegation_share)

    def _withdrawn(self, profits_wei: int, cut_wei: int) -> tuple[Decimal, Decimal]:
        """Gross and net in DATA, from what arrived after the fee: the delegators' profit and the operator's cut."""
        profits, cut = profits_wei / WEI, cut_wei / WEI
        return (profits + cut) / (1 - FEE), cut + profits * self.options.self_delegation_share

    # ------------------------------------------------------------ usage

    def resource_usage(self) -> Sequence[UsageReading]:
        """Connections and traffic of `/info`, how many sponsorships are staked on, and what the host counts.

        The node counts per connection and forgets one when it closes: the sums over open connections are no running
        totals. Bytes over a connection's age are its mean rate since it was opened.
        """
        info = self._info()
        connections = info.control_layer.transport.connections
        peers = {connection.remote_peer_descriptor.node_id for connection in connections}
        values = {
            "connections": float(len(connections)),
            "peers": None if None in peers else float(len(peers)),
            "stream_parts": float(len(info.content_layer.stream_parts)),
            "open_connections_sent_bytes": sum(c.bytes_sent for c in connections),
            "open_connections_received_bytes": sum(c.bytes_received for c in connections),
        }
        readings = [_usage(metric, value, Provenance.MEASURED, "streamr /info") for metric, value in values.items()]
        sent, received = self._rates(connections)
        source = "streamr /info: mean rate since each connection was opened"
        readings += [
            _usage("network_sent_bytes_per_second", sent, Provenance.OUR_ESTIMATE, source),
            _usage("network_received_bytes_per_second", received, Provenance.OUR_ESTIMATE, source),
        ]
        try:
            stakes = float(len(self._known(self._query_operator(api.STAKE_COUNT, api.StakeCountData).operator).stakes))
        except AdapterError:
            # `health` and `earnings` report the subgraph's failure; the node's own figures stand without it.
            stakes = None
        readings.append(_usage("sponsorships_staked", stakes, Provenance.MEASURED, "streamr subgraph"))
        return [*readings, *os_usage(self.controller)]

    def _rates(self, connections: Sequence[api.Connection]) -> tuple[float | None, float | None]:
        """Bytes a second, sent and received; None where an age is not known or the node's clock is ahead of ours."""
        now = self.clock.now().timestamp()
        sent = received = 0.0
        for connection in connections:
            if connection.opened_at is None or connection.opened_at / 1000 > now:
                return None, None
            age = max(1.0, now - connection.opened_at / 1000)
            sent += connection.bytes_sent / age
            received += connection.bytes_received / age
        return sent, received

    # ------------------------------------------------------------ levers

    def allocation(self) -> AllocationReading:
        """The count in the config file, while the node that obeys it answers."""
        self._info()
        return self._levers.count()

    def allocations(self) -> Sequence[AllocationReading]:
        """The count, whether the autostaker runs, and the limits of the host."""
        self._info()
        return self._levers.readings()

    def levers(self) -> Sequence[Lever]:
        """How many sponsorships the autostaker stakes on, which carries the share; the autostaker; the host's limits.

        Each sponsorship is work. The first two take effect by a restart.
        """
        return self._levers.levers()

    def apply(self, lever: str, value: float) -> AppliedChange:
        """Change the config, restart, wait until the restarted node answers, and read the config back.

        A limit of the host takes effect at once instead. That the node read this file and no other cannot be seen
        in the node; its stakes show it, hours later (`advice`).
        """
        return self._levers.apply(lever, value)

    # ------------------------------------------------------------ advice

    def clock_ahead_seconds(self) -> float | None:
        """By the date of its last answer."""
        return seconds_ahead(self._http.dated, self.clock)

    def advice(self) -> Sequence[str]:
        """Where stake would earn more, and what endangers it that only the operator can mend."""
        config, _ = self._levers.usable_config()
        autostaker = None if config is None else config.autostaker is not None
        staker = self._known(self._query_operator(api.STAKES, api.StakesData).operator)
        lines: list[str] = []
        try:
            offers = self._query(api.MARKET, api.MarketData).sponsorships
        except AdapterError as error:
            offers = []
            lines.append(f"Sponsorships you are not in could not be compared: {error.message}.")
        told = stake_advice(staker.stakes, offers, self._now, autostaker=autostaker)
        lines = [*told, *lines]
        if config is not None:
            lines += self._advice_on_config(config, len(staker.stakes))
        if (self.options.fleet_nodes or 1) == 1 and _redundancy(staker.metadata_json_string) == 1:
            lines.append(
                "Redundancy is 1: while the node that serves a stream restarts nobody stands in, and an inspection "
                "then costs stake. A second node and redundancyFactor 2 in the operator's metadata outlast a restart."
            )
        if self._chain is None:
            lines.append(
                "Set options.rpc_url: Orcha then watches the wallets' POL and reads earnings on while the subgraph "
                "fails."
            )
        return lines

    def _advice_on_config(self, config: NodeConfig, stakes: int) -> list[str]:
        lines: list[str] = []
        changed, count = config.changed_at, config.count
        if count is not None and stakes > count and self.clock.now() - changed > STAKES_SETTLE:
            lines.append(
                f"{stakes} stakes stand, though maxSponsorshipCount is {count} since {changed:%Y-%m-%d %H:%M} UTC: "
                f"either their minimum time holds them, or the node reads another config than {config.file}."
            )
        if not config.asks_for_key:
            lines.append(
                "The node's HTTP API listens on every interface and asks for no key: set apiAuthentication.keys in "
                "its config (and token_env here), or let a firewall keep its port from others."
            )
        return lines

    # ------------------------------------------------------------ asking

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._subgraph.close()
        if self._chain is not None:
            self._chain.close()
        self.controller.close()

    def _leaving_time(self) -> AbstractContextManager[None]:
        """For the subgraph's turn, where the chain has one after it: one that hangs must not use up both."""
        if self._chain is None:
            return nullcontext()
        return time_budget(min(remaining_seconds(), self.settings.timeout_seconds) / 2)

    def _info(self) -> api.Info:
        try:
            payload = self._http.get_json("/info")
        except HttpStatusError as error:
            if error.status != 404:
                raise
            raise ApiError(
                self.node,
                f'{error.message}; is this the port of the node\'s httpServer, and is "info": {{}} among the plugins '
                "of its config?",
            ) from None
        return parse(self.node, "/info", api.Info, payload)

    def _known(self, operator: Data | None) -> Data:
        if operator is None:
            raise ApiError(self.node, f"the subgraph knows no operator {self._address}; see options.operator")
        return operator

    def _query_operator(self, query: str, kind: type[Data]) -> Data:
        return self._query(query % self._address, kind)

    def _ask(self, query: str, kind: type[Data]) -> Data:
        """`_query_operator`, once more without the block's time where the indexer does not know it."""
        try:
            return self._query_operator(query, kind)
        except _GraphError as error:
            if not error.about_block_time:
                raise
        return self._query_operator(api.without_block_time(query), kind)

    def _query(self, query: str, kind: type[Data]) -> Data:
        answer = parse(self.node, "subgraph", api.Graph, self._subgraph.post_json("", {"query": query}, asks=True))
        if answer.errors:
            message = answer.errors[0].message
            raise _GraphError(
                self.node,
                f"subgraph: {self._subgraph.cleaned(message)}",
                about_block_time="`timestamp`" in message and "Block" in message,
            )
        return parse(self.node, "subgraph data", kind, answer.data)

    def _block_number(self) -> int | None:
        """The chain's; None without a chain, or where it does not tell."""
        if self._chain is None:
            return None
        try:
            return self._chain.block_number()
        except AdapterError:
            # Earnings stand without it; `health` reports the chain's failure.
            return None


class _GraphError(ApiError):
    """Errors that The Graph answers, with status 200."""

    def __init__(self, node: str, message: str, *, about_block_time: bool = False) -> None:
        super().__init__(node, message)
        self.about_block_time = about_block_time


def _both(node: str, first: AdapterError, second: AdapterError) -> AdapterError:
    """One error, of the first one's kind."""
    kinds = (NodeConnectionError, AuthenticationError, ParseError)
    kind = next((kind for kind in kinds if isinstance(first, kind)), ApiError)
    return kind(node, f"{first.message}; and {second.message}")


def _timeless(meta: api.Meta | None) -> bool:
    return meta is not None and meta.block.timestamp is None


def _usage(metric: str, value: float | None, provenance: Provenance, source: str) -> UsageReading:
    known = Provenance.UNKNOWN if value is None else provenance
    return UsageReading(metric=metric, value=value, provenance=known, source=source)


def _redundancy(metadata: str | None) -> int | None:
    """`redundancyFactor` of the operator's description: 1 where it says nothing, None where it cannot be read."""
    if not metadata:
        return 1
    try:
        content: Any = json.loads(metadata)
        factor: Any = content.get("redundancyFactor", 1)
    except (ValueError, AttributeError, RecursionError):
        return None
    return factor if isinstance(factor, int) and not isinstance(factor, bool) else None
