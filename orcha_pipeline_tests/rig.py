"""An installation with fake nodes and prices, for the tests of what lies between the adapters and the warehouse."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from orcha_pipeline.clock import Clock
from orcha_pipeline.errors import AdapterError
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import (
    AllocationReading,
    Amounts,
    AppliedChange,
    EarningsCounter,
    EarningsObservation,
    HealthReading,
    HealthState,
    Lever,
    LeverMode,
    NodeReading,
    PriceReading,
    Provenance,
    Verdict,
    Window,
)
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.settings import NodeSettings, Settings
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import DecidedAllocation, DecisionRow
from orcha_pipeline.warehouse.facts import record_readings

NOW = datetime(2026, 3, 5, 12, 5, tzinfo=UTC)
LEVER = Lever(name="limit", unit="unit", mode=LeverMode.HOT, minimum=0.0, maximum=100.0, step=1.0, at_full_share=100.0)


def node_settings(name: str, **changes: Any) -> NodeSettings:
    given = {
        "name": name,
        "protocol": "fake",
        "host": "box",
        "url": "http://127.0.0.1",
        "demand": {"cpu_threads": 10, "memory_gib": 0, "disk_gb": 0, "bandwidth_mbps": 0},
    }
    return NodeSettings.model_validate(given | changes)


def installation(
    home: Path, clock: Clock, nodes: Sequence[str], *, cpu_threads: float = 16, mode: str = "auto"
) -> Installation:
    """Nodes that want 10 threads each, on one host."""
    capacity = {"cpu_threads": cpu_threads, "memory_gib": 64, "disk_gb": 100, "bandwidth_mbps": 100}
    settings = Settings.model_validate(
        {
            "home": home,
            "hosts": [{"name": "box", "capacity": capacity}],
            "nodes": [node_settings(name) for name in nodes],
            "apply": {"mode": mode},
        }
    )
    made = Installation(settings=settings, clock=clock, simulated=False)
    made.warehouse.migrate()
    return made


def value_of(warehouse: Warehouse, query: str) -> Any:
    """The one value that `query` gives."""
    with warehouse.read() as connection:
        return connection.execute(query).fetchall()[0][0]


class FakeNode(Adapter):
    """A node whose total is the hour of the day it is read at, and whose lever stands at `value`."""

    protocol, native_unit, token = "fake", "GLM", "golem"

    def __init__(self, name: str, clock: Clock, *, value: float = 50.0) -> None:
        super().__init__(node_settings(name), controller=None, clock=clock)  # type: ignore[arg-type]
        self.value = value
        self.fails: Callable[[], AdapterError | None] = lambda: None
        self.fails_to_apply: Callable[[], BaseException | None] = lambda: None
        self.before_apply: Callable[[], None] = lambda: None
        self.past: Sequence[EarningsObservation] | AdapterError = ()
        self.asked: list[Window] = []
        self.applied: list[float] = []
        self.closed = False

    def _answer(self) -> None:
        if error := self.fails():
            raise error

    def health(self) -> HealthReading:
        self._answer()
        return HealthReading(state=HealthState.HEALTHY)

    def earnings(self, window: Window) -> Sequence[EarningsObservation]:
        self._answer()
        self.asked.append(window)
        total = Decimal(len(self.asked))
        return [
            EarningsCounter(
                stream="total",
                observed_at=window.end,
                since=None,
                unit=self.native_unit,
                amounts=Amounts(gross=total, held=Decimal(0), net=total, doubtful=Decimal(0)),
                provenance=Provenance.MEASURED,
                source="fake",
            )
        ]

    def earnings_history(self, window: Window) -> Sequence[EarningsObservation]:
        self.asked.append(window)
        if isinstance(self.past, AdapterError):
            raise self.past
        return self.past

    def resource_usage(self) -> Sequence[Any]:
        return []

    def allocation(self) -> AllocationReading:
        self._answer()
        return AllocationReading(
            lever=LEVER.name,
            value=self.value,
            unit=LEVER.unit,
            share=LEVER.share_for(self.value),
            provenance=Provenance.MEASURED,
            source="fake",
        )

    def levers(self) -> Sequence[Lever]:
        self._answer()
        return [LEVER]

    def pending_change(self) -> str | None:
        return ""

    def apply(self, lever: str, value: float) -> AppliedChange:
        self.before_apply()
        if error := self.fails_to_apply():
            raise error
        previous, self.value = self.value, value
        self.applied.append(value)
        return AppliedChange(lever=lever, previous=previous, requested=value, read_back=value)

    def close(self) -> None:
        self.closed = True


def read_now(
    warehouse: Warehouse, nodes: Iterable[FakeNode], now: datetime, *, state: HealthState = HealthState.HEALTHY
) -> None:
    """Put on record that these nodes were read just now."""
    readings = [
        NodeReading(
            node=node.node,
            protocol=node.protocol,
            observed_at=now,
            health=HealthReading(state=state),
            allocation=node.allocation(),
        )
        for node in nodes
    ]
    with warehouse.write() as connection:
        record_readings(connection, readings)


def decided_line(
    node: str,
    now: float | None,
    planned: float | None,
    *,
    share: float | Literal["same"] | None = "same",
    lever: str | None = "limit",
) -> DecidedAllocation:
    """A node's line of a decision: its lever stands at `now` and is to stand at `planned`."""
    return DecidedAllocation(
        node=node,
        yield_usd=0.1,
        share_now=(None if now is None else now / 100) if share == "same" else share,
        share_planned=None if planned is None else planned / 100,
        lever=lever,
        value_now=now,
        value_planned=planned,
        reason="",
    )


def decision_to_apply(
    decision_id: str, lines: Sequence[DecidedAllocation], *, decided_at: datetime = NOW, **changes: Any
) -> DecisionRow:
    """A decision of the host `box` that says reallocate."""
    known: dict[str, Any] = {
        "decision_id": decision_id,
        "host": "box",
        "decided_at": decided_at,
        "verdict": Verdict.REALLOCATE,
        "gain_usd_per_hour": 1.0,
        "gain_percent": None,
        "switching_cost_usd": 0.0,
        "confidence": 0.9,
        "gates": (),
        "reason": "test",
        "dagster_run_id": "run",
        "allocations": tuple(lines),
    }
    return DecisionRow(**{**known, **changes})


class FakePrices:
    """Prices of two tokens; `usd` tells that of the call with the given number."""

    tokens = ("golem", "storj")

    def __init__(self, clock: Clock, usd: Callable[[int], Decimal | None] = lambda _call: Decimal("0.25")) -> None:
        self.clock = clock
        self.usd = usd
        self.known: list[dict[str, Decimal]] = []
        """What each call was told of earlier prices."""
        self.no_history_of: Mapping[str, AdapterError] = {}

    def _price(self, token: str, at: datetime, usd: Decimal | None) -> PriceReading:
        provenance = Provenance.UNKNOWN if usd is None else Provenance.MEASURED
        return PriceReading(token=token, observed_at=at, usd=usd, priced_at=at, provenance=provenance, source="fake")

    def read(self, previous: Iterable[PriceReading] = ()) -> list[PriceReading]:
        self.known.append({price.token: price.usd for price in previous if price.usd is not None})
        return [self._price(token, self.clock.now(), self.usd(len(self.known) - 1)) for token in self.tokens]

    def history(self, token: str, window: Window) -> list[PriceReading]:
        if token in self.no_history_of:
            raise self.no_history_of[token]
        return [self._price(token, window.start, Decimal(1))]
