"""Rules on a node itself: whether it answers, what it uses, whether its clock is right. No model, no I/O."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from orcha_pipeline.anomalies.anomaly import Anomaly
from orcha_pipeline.anomalies.catalogue import (
    CLOCK_SKEW,
    MEMORY_LEAK,
    NODE_AT_RISK,
    NODE_ERROR,
    NODE_UNREACHABLE,
    USAGE_SPIKE,
)
from orcha_pipeline.model import CLOCK_AHEAD, HOUR, HealthReading, HealthState

MIN_PAST_HOURS = 48
"""Known hours of use before which nothing is called unusual."""
PAST_HOURS = 168
LEAK_HOURS = 24
LEAK_RISING = 0.9
"""Part of the pairs of hours, three apart, that must have risen: memory that is given back falls in between."""
LEAK_KNOWN = 20
"""Known hours of the last day without which nothing is told."""
SPIKING = (
    "cpu_seconds_total",
    "memory_bytes",
    "memory_used_bytes",
    "network_received_bytes_total",
    "network_sent_bytes_total",
    "network_received_bytes_per_second",
    "network_sent_bytes_per_second",
)
"""What a node takes from the others of its host; disks fill, and tasks come and go, as they should."""
MEMORY = ("memory_bytes", "memory_used_bytes")

Uses = Sequence[float | None]
"""Use by the hour, without a gap, the last complete hour last: the mean of a gauge, the increase of a counter."""


def health_anomaly(node: str, health: HealthReading, *, at: datetime, host: str | None = None) -> Anomaly | None:
    """`node-unreachable`, `node-error` or `node-at-risk`, by the latest health of the node; None where it is well."""
    why = health.reason or "no reason given"
    match health.state:
        case HealthState.UNREACHABLE:
            return NODE_UNREACHABLE.found(node, f"does not answer: {why}", at=at, host=host)
        case HealthState.ERROR:
            remedy = _ERROR_REMEDIES.get(health.error_kind, "")
            return NODE_ERROR.found(node, f"answers, but not as it should: {why}", at=at, host=host, remedy=remedy)
        case HealthState.AT_RISK:
            told = {name: value for name, value in sorted(health.scores.items()) if name != CLOCK_AHEAD}
            scores = ", ".join(f"{name} {value:.4g}" for name, value in told.items())
            evidence = f"its reputation or stake is in danger: {why}{f' ({scores})' if scores else ''}"
            return NODE_AT_RISK.found(node, evidence, at=at, host=host)
        case HealthState.HEALTHY | HealthState.RESTARTING:
            return None


_ERROR_REMEDIES = {
    "authentication": "Renew the node's key or token in orcha.toml or its environment variable.",
    "parse": "Check that the address is the node's API; if it is, the node may be newer than Orcha knows.",
    "api": "Read the node's log: it answered with an error of its own.",
}


def clock_skew(
    node: str, scores: Mapping[str, float], *, at: datetime, seconds: float, host: str | None = None
) -> Anomaly | None:
    """`clock-skew`: the node's answers are dated more than `seconds` off. The score is by how much."""
    ahead = scores.get(CLOCK_AHEAD)
    if ahead is None or abs(ahead) <= seconds:
        return None
    where = "ahead of" if ahead > 0 else "behind"
    told = timedelta(seconds=round(abs(ahead)))
    evidence = f"its clock is {told} (h:mm:ss) {where} that of the machine that Orcha runs on"
    return CLOCK_SKEW.found(node, evidence, at=at, host=host, score=abs(ahead))


def usage_spike(
    node: str,
    uses: Mapping[str, Uses],
    shares: Sequence[float | None],
    *,
    at: datetime,
    factor: float,
    host: str | None = None,
) -> Anomaly | None:
    """`usage-spike`: the last hour used `factor` times the most of the past week, or more, at its share.

    `shares` are by the same hours as `uses`: what was used at a smaller share counts as much more as the share is
    larger now. The worst resource is told, and its ratio is the score.
    """
    worst: tuple[float, str] | None = None
    for metric in SPIKING:
        values = uses.get(metric)
        if not values or values[-1] is None:
            continue
        past = [
            value * _grown(share, shares[-1])
            for value, share in zip(values[-PAST_HOURS - 1 : -1], shares[-PAST_HOURS - 1 : -1], strict=True)
            if value is not None
        ]
        if len(past) < MIN_PAST_HOURS or max(past) <= 0:
            continue
        ratio = values[-1] / max(past)
        if ratio >= factor and (worst is None or ratio > worst[0]):
            worst = ratio, f"{metric}: {values[-1]:.4g} in the last hour, {ratio:.1f} times the most of the past week"
    if worst is None:
        return None
    return USAGE_SPIKE.found(node, worst[1], at=at, host=host, score=worst[0])


def _grown(share: float | None, now: float | None) -> float:
    """By how much more is to be expected at the share it has now."""
    return max(1.0, now / share) if share and now else 1.0


def memory_leak(
    node: str,
    uses: Mapping[str, Uses],
    shares: Sequence[float | None],
    *,
    at: datetime,
    percent: float,
    host: str | None = None,
) -> Anomaly | None:
    """`memory-leak`: memory rose by `percent` or more in a day, and all the time. The score is the rise as a part.

    A day in which the share was changed tells nothing.
    """
    known_shares = [share for share in shares[-LEAK_HOURS:] if share is not None]
    if known_shares and max(known_shares) - min(known_shares) > 0.01:
        return None
    for metric in MEMORY:
        day = list(uses.get(metric) or ())[-LEAK_HOURS:]
        known = [value for value in day if value is not None]
        if len(known) < LEAK_KNOWN or known[0] <= 0:
            continue
        pairs = [(a, b) for a, b in zip(day, day[3:], strict=False) if a is not None and b is not None]
        rising = sum(b > a for a, b in pairs) / max(1, len(pairs))
        rise = known[-1] / known[0] - 1
        if rise >= percent / 100 and rising >= LEAK_RISING:
            evidence = (
                f"{metric} rose steadily from {known[0]:.4g} to {known[-1]:.4g} in {len(day)} hours, by "
                f"{100 * rise:.0f} %: {(known[-1] - known[0]) / len(day):.3g} bytes an hour"
            )
            return MEMORY_LEAK.found(node, evidence, at=at, host=host, score=rise, since=at - len(day) * HOUR)
    return None
