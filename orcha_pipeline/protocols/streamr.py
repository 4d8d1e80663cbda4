"""Streamr: the operator's account in The Graph's subgraph, the node's `/info`, and its JSON config.

The node itself reports no earnings: they accrue on chain, at a rate the subgraph's numbers give exactly.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, ClassVar, TypeVar

import httpx
from pydantic import Field, SecretStr

from orcha_pipeline.clock import Clock
from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.errors import AdapterError, AllocationError, ApiError, UnsupportedError
from orcha_pipeline.model import (
    AllocationReading,
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
from orcha_pipeline.protocols.http import NodeHttp
from orcha_pipeline.protocols.levers import check_change, lever_range, wait_for
from orcha_pipeline.protocols.node_options import node_token, read_options
from orcha_pipeline.protocols.parsing import ApiModel, Number, Whole, parse, whole_amounts
from orcha_pipeline.settings import NodeSettings

LEVER = "max_sponsorship_count"
STOP_GRACE_SECONDS = 15
COOLDOWN = timedelta(hours=1)
"""The autostaker looks at its stakes once an hour."""
HEARTBEAT_OVERDUE = timedelta(hours=30)
"""A heartbeat goes on chain once a day."""
FEE = Decimal("0.05")
"""What the protocol keeps of all earnings when they are withdrawn."""
WEI = Decimal(10) ** 18

_OPERATOR = """{ operator(id:"%s"){ id cumulativeProfitsWei cumulativeOperatorsCutWei operatorsCutFraction
 slashingsCount latestHeartbeatTimestamp stakes(first:1000){ amountWei earningsWei updateTimestamp
 sponsorship{ isRunning totalPayoutWeiPerSec totalStakedWei projectedInsolvency } }
 flagsTargeted(where:{result_in:["waiting","voting"]}){id} } }"""
_DAYS = """{ operatorDailyBuckets(where:{operator:"%s"},orderBy:date,orderDirection:desc,first:%d)
{ date profitsWei operatorsCutWei } }"""
MOST_DAYS = 1000

Data = TypeVar("Data", bound=ApiModel)
Fraction = Annotated[Decimal, Field(ge=0, le=1, allow_inf_nan=False)]


class StreamrOptions(AdapterOptions):
    """Where the operator's account is read, whose it is, and how the node is changed.

    `self_delegation_share`: the operator's own part of what is delegated to him; the rest of the profit is others'.
    `config_file`: the node's JSON config on this machine; without it the sponsorship count is unknown.
    """

    subgraph_url: str
    operator: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]
    config_file: Path | None = None
    self_delegation_share: Fraction = Decimal(1)
    full_share_sponsorships: Annotated[int, Field(ge=1)] = 20
    restart_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 15.0


class _Sponsorship(ApiModel):
    is_running: bool = Field(strict=True)
    total_payout_wei_per_sec: Whole
    total_staked_wei: Whole
    projected_insolvency: Whole | None


class _Stake(ApiModel):
    amount_wei: Whole
    earnings_wei: Whole
    update_timestamp: Whole
    sponsorship: _Sponsorship

    def accrued_wei(self, now: int) -> int:
        """Earned in this sponsorship and not withdrawn, before fees, at `now` (unix seconds): the contract's sum."""
        s = self.sponsorship
        until = now if s.projected_insolvency is None else min(now, s.projected_insolvency)
        seconds = max(0, until - self.update_timestamp)
        if not s.is_running or not seconds or not s.total_staked_wei:
            return self.earnings_wei
        return self.earnings_wei + s.total_payout_wei_per_sec * self.amount_wei * seconds // s.total_staked_wei


class _Flag(ApiModel):
    id: str


class _Operator(ApiModel):
    cumulative_profits_wei: Whole
    cumulative_operators_cut_wei: Whole
    operators_cut_fraction: Annotated[Whole, Field(le=10**18)]
    slashings_count: Whole
    latest_heartbeat_timestamp: Whole | None
    stakes: list[_Stake]
    flags_targeted: list[_Flag]


class _OperatorData(ApiModel):
    operator: _Operator | None


class _Day(ApiModel):
    date: Annotated[Whole, Field(le=10**10)]
    profits_wei: Whole
    operators_cut_wei: Whole


class _DaysData(ApiModel):
    operator_daily_buckets: list[_Day]


class _Problem(ApiModel):
    message: str


class _Graph(ApiModel):
    data: Any = None
    errors: list[_Problem] | None = None


class _Connection(ApiModel):
    bytes_sent: Number
    bytes_received: Number


class _Transport(ApiModel):
    connections: list[_Connection]


class _ControlLayer(ApiModel):
    transport: _Transport


class _StreamPart(ApiModel):
    id: str


class _ContentLayer(ApiModel):
    stream_parts: list[_StreamPart]


class _Info(ApiModel):
    control_layer: _ControlLayer
    content_layer: _ContentLayer


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
        self._address = self.options.operator.lower()  # the subgraph's ids are lower case

    def health(self) -> HealthReading:
        """The node answers and is connected; the operator is neither flagged nor silent on chain."""
        begun = perf_counter()
        info = self._info()
        latency = perf_counter() - begun
        operator = self._operator()
        scores = {"slashings": float(operator.slashings_count), "open_flags": float(len(operator.flags_targeted))}
        if not info.control_layer.transport.connections:
            return HealthReading(
                state=HealthState.ERROR,
                reason="it has no connection to any other node; is its websocket port reachable?",
                error_kind=ApiError.kind,
                latency_seconds=latency,
                scores=scores,
            )
        risks: list[str] = []
        if operator.flags_targeted:
            risks.append(f"{len(operator.flags_targeted)} open flag(s) on the operator: stake may be slashed")
        beat = operator.latest_heartbeat_timestamp
        if beat is not None and int(self.clock.now().timestamp()) - beat > HEARTBEAT_OVERDUE.total_seconds():
            risks.append("no heartbeat on chain for over 30 hours")
        return HealthReading(
            state=HealthState.AT_RISK if risks else HealthState.HEALTHY,
            reason="; ".join(risks),
            latency_seconds=latency,
            scores=scores,
        )

    def earnings(self, window: Window) -> Sequence[EarningsObservation]:  # noqa: ARG002 (the total as it stands now)
        """The operator's running total.

        Measured: it is the sum that the contract itself would pay out at this second. The subgraph's cumulative
        totals are what arrived after the protocol's fee; what has accrued since is before it. So that a withdrawal
        moves no total, gross takes the fee out of the first and net takes it off the second.
        """
        operator = self._operator()
        now = self.clock.now()
        accrued = Decimal(sum(stake.accrued_wei(int(now.timestamp())) for stake in operator.stakes)) / WEI
        cut = Decimal(operator.operators_cut_fraction) / WEI
        own = self.options.self_delegation_share
        gross, net = self._withdrawn(operator.cumulative_profits_wei, operator.cumulative_operators_cut_wei)
        gross, net = gross + accrued, net + accrued * (1 - FEE) * (cut + (1 - cut) * own)
        return [
            EarningsCounter(
                stream="operator",
                observed_at=now,
                since=None,
                unit=self.native_unit,
                amounts=whole_amounts(self.node, gross, net),
                provenance=Provenance.MEASURED,
                source="streamr subgraph",
            )
        ]

    def earnings_history(self, window: Window) -> Sequence[EarningsObservation]:
        """A bucket per full UTC day inside `window`: what was withdrawn that day, which is not when it was earned."""
        now = self.clock.now()
        wanted = min(MOST_DAYS, max(1, (now - window.start).days + 2))
        days = self._ask(_DAYS % (self._address, wanted), _DaysData).operator_daily_buckets
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

    def resource_usage(self) -> Sequence[UsageReading]:
        """Connections and traffic of `/info`, and how many sponsorships are staked on."""
        info = self._info()
        connections = info.control_layer.transport.connections
        values = {
            "connections": float(len(connections)),
            "stream_parts": float(len(info.content_layer.stream_parts)),
            # The node counts per connection and forgets one when it closes: these are no running totals.
            "open_connections_sent_bytes": sum(c.bytes_sent for c in connections),
            "open_connections_received_bytes": sum(c.bytes_received for c in connections),
        }
        readings = [
            UsageReading(metric=metric, value=value, provenance=Provenance.MEASURED, source="streamr /info")
            for metric, value in values.items()
        ]
        try:
            stakes, provenance = float(len(self._operator().stakes)), Provenance.MEASURED
        except AdapterError:
            # `health` and `earnings` report the subgraph's failure; the node's own figures stand without it.
            stakes, provenance = None, Provenance.UNKNOWN
        staked = UsageReading(
            metric="sponsorships_staked", value=stakes, provenance=provenance, source="streamr subgraph"
        )
        return [*readings, staked]

    def allocation(self) -> AllocationReading:
        """The count in the config file, while the node that obeys it answers."""
        self._info()
        count = None if self.options.config_file is None else self._configured(self.options.config_file)[1]
        return AllocationReading(
            lever=LEVER,
            value=None if count is None else float(count),
            unit="sponsorships",
            share=None if count is None else count / self.options.full_share_sponsorships,
            provenance=Provenance.UNKNOWN if count is None else Provenance.MEASURED,
            source="streamr config; options.config_file is not set" if count is None else "streamr config",
        )

    def levers(self) -> Sequence[Lever]:
        """How many sponsorships the autostaker stakes on: each is work, and takes effect by a restart."""
        full = float(self.options.full_share_sponsorships)
        bounds = lever_range(self.settings, full=full, step=1.0, floor=1.0)
        why_not = bounds.problem or self._why_not_writable()
        return [
            Lever(
                name=LEVER,
                unit="sponsorships",
                mode=LeverMode.RESTART,
                minimum=bounds.minimum,
                maximum=bounds.maximum,
                step=1.0,
                at_full_share=full,
                cooldown=COOLDOWN,
                restart_seconds=self.options.restart_seconds,
                settle_seconds=self.options.restart_seconds,
                writable=not why_not,
                why_not=why_not,
                risks=(
                    "leaving a sponsorship before its minimum time costs 5 000 DATA",
                    "a single node is open to inspection while it restarts",
                    "each change of stake costs gas",
                ),
            )
        ]

    def apply(self, lever: str, value: float) -> AppliedChange:
        """Write the count into the config, restart, wait until the node answers, and read the config back."""
        check_change(self.node, self.levers()[0], lever, value, floor=1.0, whole=True)
        file = self._config_file()
        text = read_config(self.node, file)
        content, previous = self._configured(file)
        content["plugins"]["autostaker"]["maxSponsorshipCount"] = int(value)
        replace_config(self.node, file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        try:
            self.controller.restart(STOP_GRACE_SECONDS)
        except AdapterError:
            # A change that waits in the file would come into force with some later, unrelated restart.
            replace_config(self.node, file, text)
            raise
        if wait_for(self._info, seconds=self.options.restart_seconds) is None:
            raise AllocationError(
                self.node, f"/info does not answer {self.options.restart_seconds:g} s after the restart; see its log"
            )
        read_back = self._configured(file)[1]
        if read_back != value:
            raise AllocationError(self.node, f"asked for {value:g} sponsorships, {file} holds {read_back}")
        return AppliedChange(lever=lever, previous=previous, requested=value, read_back=float(read_back))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._subgraph.close()
        self.controller.close()

    def _info(self) -> _Info:
        return parse(self.node, "/info", _Info, self._http.get_json("/info"))

    def _operator(self) -> _Operator:
        operator = self._ask(_OPERATOR % self._address, _OperatorData).operator
        if operator is None:
            raise ApiError(self.node, f"the subgraph knows no operator {self._address}; see options.operator")
        return operator

    def _ask(self, query: str, kind: type[Data]) -> Data:
        answer = parse(self.node, "subgraph", _Graph, self._subgraph.post_json("", {"query": query}))
        if answer.errors:
            raise ApiError(self.node, f"subgraph: {self._subgraph.cleaned(answer.errors[0].message)}")
        return parse(self.node, "subgraph data", kind, answer.data)

    def _withdrawn(self, profits_wei: int, cut_wei: int) -> tuple[Decimal, Decimal]:
        """Gross and net in DATA, from what arrived after the fee: the delegators' profit and the operator's cut."""
        profits, cut = profits_wei / WEI, cut_wei / WEI
        return (profits + cut) / (1 - FEE), cut + profits * self.options.self_delegation_share

    def _config_file(self) -> Path:
        if self.options.config_file is None:
            raise UnsupportedError(self.node, "options.config_file is not set: name the node's JSON config")
        return self.options.config_file

    def _why_not_writable(self) -> str:
        try:
            self._configured(self._config_file())
        except (AllocationError, UnsupportedError) as error:
            return error.message
        return self.controller.why_not_writable()

    def _configured(self, file: Path) -> tuple[Any, int]:
        """The config, and the count in it. Never shows the content: it holds the node's private key."""
        try:
            content: Any = json.loads(read_config(self.node, file))
            count: Any = content["plugins"]["autostaker"]["maxSponsorshipCount"]
        except (ValueError, LookupError, TypeError, RecursionError):
            count = content = None
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise AllocationError(
                self.node, f"{file} sets no plugins.autostaker.maxSponsorshipCount; enable the autostaker plugin there"
            )
        return content, count
