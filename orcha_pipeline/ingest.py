"""Reading the nodes, the prices and the machine, and writing what they say into the warehouse.

Three ways, one code: a live reading (the 15-minute cycle), the time-lapse (the testnet's clock is stepped hour by
hour and each hour is read as if it were now) and history (what real nodes still remember of their past).
"""

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from orcha_pipeline.clock import Clock
from orcha_pipeline.errors import AdapterError
from orcha_pipeline.host_metrics import read_host_metrics
from orcha_pipeline.installation import Installation, SteppedClock
from orcha_pipeline.model import HOUR, HealthState, NodeReading, PriceReading, Window, hour_of, slot_of
from orcha_pipeline.prices import JUDGED_FOR, PriceClient
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.reading import read_histories, read_nodes
from orcha_pipeline.protocols.registry import make_adapter_anyhow
from orcha_pipeline.warehouse import facts
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.price_rows import recent_prices

FIRST_WINDOW = HOUR
HOURS_A_WRITE = 24


@dataclass(slots=True)
class IngestReport:
    """What was written and what could not be read."""

    rows: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """(protocol, table) -> rows written."""
    price_rows: int = 0
    readings: int = 0
    failures: dict[str, str] = field(default_factory=dict[str, str])
    """Node -> why it could not be read, of the last reading."""

    def plus(self, other: "IngestReport") -> "IngestReport":
        """Both reports as one; of a node's failures the later one stands."""
        return IngestReport(
            rows=self.rows + other.rows,
            price_rows=self.price_rows + other.price_rows,
            readings=self.readings + other.readings,
            failures=self.failures | other.failures,
        )


@contextmanager
def open_adapters(installation: Installation, protocols: Sequence[str] | None = None) -> Generator[dict[str, Adapter]]:
    """Node -> adapter for the configured nodes (of `protocols`, if given); connections are closed at the end.

    A node whose settings cannot be used has an adapter that says so: it must not keep the others from being read.
    """
    adapters = {
        node.name: make_adapter_anyhow(node, installation.clock)
        for node in installation.settings.nodes
        if protocols is None or node.protocol in protocols
    }
    try:
        yield adapters
    finally:
        for adapter in adapters.values():
            adapter.close()


def _windows(adapters: Mapping[str, Adapter], last: Mapping[str, datetime], now: datetime) -> dict[str, Window]:
    starts = {
        node: max(last.get(node, now - FIRST_WINDOW), now - adapter.longest_window)
        for node, adapter in adapters.items()
    }
    return {node: Window(min(start, now), now) for node, start in starts.items()}


def _write(
    warehouse: Warehouse,
    installation: Installation,
    readings: Sequence[NodeReading],
    prices: Sequence[PriceReading],
    report: IngestReport,
) -> None:
    protocols = installation.node_protocols()
    with warehouse.write() as connection:
        for protocol in sorted({protocols[reading.node] for reading in readings}):
            written = facts.record_readings(connection, [r for r in readings if protocols[r.node] == protocol])
            for table, rows in written.items():
                report.rows[protocol, table] += rows
        report.price_rows += facts.record_prices(connection, prices)
    report.readings += len(readings)
    for reading in readings:
        if reading.health.state in (HealthState.UNREACHABLE, HealthState.ERROR):
            report.failures[reading.node] = reading.health.reason
        else:
            report.failures.pop(reading.node, None)


def ingest_now(
    installation: Installation,
    warehouse: Warehouse,
    adapters: Mapping[str, Adapter],
    prices: PriceClient,
) -> IngestReport:
    """Read every node, the prices and, where it is the only host, this machine, as of now.

    Where a node's money stands is read once an hour, and again where no amount came of it: it may take all documents
    of a month.
    """
    now = installation.clock.now()
    with warehouse.write() as connection:
        facts.record_nodes(connection, [n.to_model() for n in installation.settings.nodes], now)
        last = facts.last_observed(connection, slot_of(now))
        told = facts.balances_told(connection, since=hour_of(now), before_slot=slot_of(now))
        known = recent_prices(connection, since=now - JUDGED_FOR, until=now)
    report = IngestReport()
    due = adapters.keys() - told
    readings = read_nodes(list(adapters.values()), _windows(adapters, last, now), now, balances=due)
    _write(warehouse, installation, readings, prices.read(known), report)
    # The machine this runs on is real even where its nodes are the testnet's. Of several hosts nobody says which it is.
    hosts = {node.host for node in installation.settings.nodes}
    if len(hosts) == 1:
        usage = read_host_metrics(installation.settings.home)
        with warehouse.write() as connection:
            facts.record_host_usage(connection, hosts.pop(), now, usage)
    return report


def ingest_time_lapse(
    installation: Installation,
    clock: SteppedClock,
    warehouse: Warehouse,
    adapters: Mapping[str, Adapter],
    prices: PriceClient,
    *,
    window: Window,
    wall_clock: Clock,
    on_hour: Callable[[datetime], None] = lambda _hour: None,
) -> IngestReport:
    """Play the testnet's past: step its clock to each full hour of `window` and read it, then let it go live.

    A time-lapse that was cut short goes on from where the testnet's clock stands.
    """
    report = IngestReport()
    with warehouse.write() as connection:
        facts.record_nodes(connection, [n.to_model() for n in installation.settings.nodes], window.start)
        last = facts.last_observed(connection, slot_of(clock.now()))
        known = recent_prices(connection, since=clock.now() - JUDGED_FOR, until=clock.now())
    hour = max(hour_of(window.start), hour_of(clock.now()))
    kept_readings: list[NodeReading] = []
    kept_prices: list[PriceReading] = []
    while hour < window.end and hour <= wall_clock.now():
        clock.advance_to(max(hour, clock.now()))
        now = clock.now()
        readings = read_nodes(list(adapters.values()), _windows(adapters, last, now), now)
        last.update({r.node: r.observed_at for r in readings if r.earnings})
        known = [price for price in known if now - price.observed_at <= JUDGED_FOR]
        found = prices.read(known)
        known += found
        kept_readings += readings
        kept_prices += found
        if len(kept_readings) >= HOURS_A_WRITE * len(adapters):
            _write(warehouse, installation, kept_readings, kept_prices, report)
            kept_readings, kept_prices = [], []
        on_hour(hour)
        hour += HOUR
    _write(warehouse, installation, kept_readings, kept_prices, report)
    clock.go_live()
    return report


def ingest_history(
    installation: Installation,
    warehouse: Warehouse,
    adapters: Mapping[str, Adapter],
    prices: PriceClient,
    *,
    window: Window,
) -> IngestReport:
    """Record what the nodes still know of `window`, as finely as they honestly hold it."""
    report = IngestReport()
    protocols = installation.node_protocols()
    with warehouse.write() as connection:
        facts.record_nodes(connection, [n.to_model() for n in installation.settings.nodes], window.start)
    for node, found in zip(adapters, read_histories(list(adapters.values()), window), strict=True):
        if isinstance(found, AdapterError):
            report.failures[node] = found.message
            continue
        with warehouse.write() as connection:
            report.rows[protocols[node], "earnings"] += facts.record_earnings_history(connection, node, found)
    for token in prices.tokens:
        try:
            history = prices.history(token, window)
        except AdapterError as error:
            report.failures[f"prices of {token}"] = error.message
            continue
        with warehouse.write() as connection:
            report.price_rows += facts.record_prices(connection, history)
    return report
