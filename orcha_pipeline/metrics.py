"""The state of an installation as Prometheus metrics. What is not known has no sample."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orcha_pipeline.disk import GIB
from orcha_pipeline.lookout import Seen, Sight
from orcha_pipeline.supervisor import ServiceState

SEVERITIES = ("info", "warning", "critical")


def metrics_text(seen: Seen, services: Sequence[ServiceState], *, now: datetime) -> bytes:
    """Prometheus' text format. `now`: the wall clock, by which the ages of ticks are told."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Installation(seen, services, now))
    return generate_latest(registry)


class _Installation(Collector):
    def __init__(self, seen: Seen, services: Sequence[ServiceState], now: datetime) -> None:
        self._seen, self._services, self._now = seen, services, now

    def collect(self) -> Iterator[Metric]:
        yield from _of_services(self._services, self._seen)
        if self._seen.sight is not None and self._seen.age is not None:
            yield _gauge("orcha_vitals_age_seconds", "Age of all that is not about services.", self._seen.age)
            yield from _of_sight(self._seen.sight, self._seen.age, self._now)


def _of_services(services: Sequence[ServiceState], seen: Seen) -> Iterator[Metric]:
    problems = len(seen.problems) + sum(not each.is_up for each in services)
    yield _gauge("orcha_healthy", "Whether nothing is amiss: 1, else 0.", not problems)
    yield _gauge("orcha_problems", "How many things are not as they should be.", problems)
    yield _gauges(
        "orcha_service_up",
        "Whether a service of orcha up runs and is ready: 1, else 0.",
        "service",
        {each.name: each.is_up for each in services},
    )
    yield _counters(
        "orcha_service_restarts",
        "How often a service was started again since orcha up began.",
        "service",
        {each.name: each.restarts for each in services},
    )


def _of_sight(sight: Sight, age: float, now: datetime) -> Iterator[Metric]:
    vitals = sight.vitals

    def since(moments: Mapping[str, datetime]) -> dict[str, float]:
        return {name: (vitals.now - at).total_seconds() + age for name, at in moments.items()}

    yield _gauge("orcha_simulated", "Whether the nodes are the testnet's: 1, else 0.", vitals.simulated)
    yield _gauge("orcha_paused", "Whether changes are paused: 1, else 0.", bool(vitals.pause))
    yield _gauge("orcha_free_bytes", "Bytes free on the disk of the data folder.", vitals.free_gib * GIB)
    yield _gauge("orcha_frozen_nodes", "Nodes that could not be set back and are left alone.", len(vitals.frozen))
    yield _gauge("orcha_awaiting_approvals", "Decisions that wait for orcha approve.", len(vitals.awaiting))
    yield _gauges(
        "orcha_uptime_ratio",
        "Part of the quarter-hours of a window that brought a decision for every host.",
        "window",
        {name: found.share for name, found in vitals.uptime.items() if found.share is not None},
    )
    yield _gauges("orcha_decision_age_seconds", "Time since a host was last decided on.", "host", since(vitals.decided))
    yield _gauges("orcha_reading_age_seconds", "Time since a node was last read.", "node", since(vitals.read))
    yield _gauges(
        "orcha_open_alerts",
        "Alerts that are not resolved; those that another stands for do not count.",
        "severity",
        dict.fromkeys(SEVERITIES, 0) | dict(vitals.alerts),
    )
    yield _gauge("orcha_acknowledged_alerts", "Open alerts that somebody acknowledged.", vitals.acknowledged)
    yield _gauge("orcha_failing_channels", "Channels that take no messages about alerts.", len(vitals.channels))
    yield _gauges(
        "orcha_clockwork_running",
        "Whether a schedule or sensor is switched on: 1, else 0.",
        "name",
        {each.name: each.running for each in vitals.clockwork},
    )
    yield _gauges(
        "orcha_clockwork_tick_age_seconds",
        "Time since the last tick of a schedule or sensor.",
        "name",
        {each.name: (now - each.last_tick).total_seconds() for each in vitals.clockwork if each.last_tick},
    )
    if vitals.cycle_seconds is not None:
        yield _gauge("orcha_cycle_duration_seconds", "How long the last cycle took.", vitals.cycle_seconds)
    yield _counters("orcha_decisions", "Decisions on record.", "verdict", sight.tallies.decisions)
    yield _counters("orcha_applications", "Applications on record.", "status", sight.tallies.applications)


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(name, told, value=float(value))


def _gauges(name: str, told: str, label: str, values: Mapping[str, float]) -> Metric:
    return _filled(GaugeMetricFamily(name, told, labels=[label]), values.items())


def _counters(name: str, told: str, label: str, values: Mapping[str, int]) -> Metric:
    return _filled(CounterMetricFamily(name, told, labels=[label]), values.items())


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, samples: Iterable[tuple[str, float]]
) -> GaugeMetricFamily | CounterMetricFamily:
    for label, value in samples:
        family.add_metric([label], float(value))
    return family
