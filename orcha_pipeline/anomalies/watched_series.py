"""What the series detector says of the last hour of a node's or a token's series. Pure.

A series alerts once, at the hour in which it leaves what was seen before; only that hour's verdict is asked for here.
Silence is told where it is the only sign: a node that does not answer, or a price that nobody tells, has its own rule.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np

from orcha_pipeline.anomalies.anomaly import Anomaly, Severity
from orcha_pipeline.anomalies.catalogue import (
    SERIES_EARNINGS,
    SERIES_LATENCY,
    SERIES_PRICE,
    SERIES_USAGE,
    SERIES_YIELD,
    Rule,
)
from orcha_pipeline.anomalies.series_kinds import SeriesKind, detect_series

LOSSES = frozenset({SeriesKind.DROP, SeriesKind.FLATLINE, SeriesKind.OUTAGE})
TOLD: Mapping[Rule, frozenset[SeriesKind]] = {
    SERIES_EARNINGS: frozenset(SeriesKind),
    SERIES_YIELD: frozenset(SeriesKind) - {SeriesKind.OUTAGE},
    SERIES_USAGE: frozenset({SeriesKind.SPIKE, SeriesKind.DROP, SeriesKind.LEVEL}),
    SERIES_LATENCY: frozenset({SeriesKind.SPIKE, SeriesKind.LEVEL}),
    SERIES_PRICE: frozenset({SeriesKind.SPIKE, SeriesKind.DROP, SeriesKind.LEVEL}),
}
"""What of a series is told at all: that a node answers faster, or prices are missing, is no news here."""
HOUR_SECONDS = 3600.0

Hourly = Sequence[float | None]
"""By the hour, without a gap, the last complete hour last; None is unknown."""


def series_anomaly(
    rule: Rule,
    subject: str,
    series: Mapping[str, Hourly],
    *,
    end: datetime,
    at: datetime,
    host: str | None = None,
) -> Anomaly | None:
    """What is unusual in the last hour, which ended at `end`, of one of these series, by name; the strangest is told.

    The score is the detector's, in [0, 1].
    """
    found: tuple[float, SeriesKind, str] | None = None
    for name, values in series.items():
        judged = _last(values, end)
        if judged is None or judged[1] not in TOLD[rule] or (found is not None and judged[0] <= found[0]):
            continue
        found = judged[0], judged[1], f"{judged[1].value} of {name}: {judged[2]}"
    if found is None:
        return None
    score, kind, evidence = found
    severity = Severity.WARNING if rule is SERIES_EARNINGS and kind in LOSSES else Severity.INFO
    return rule.found(subject, evidence, at=at, host=host, severity=severity, score=score)


def _last(values: Hourly, end: datetime) -> tuple[float, SeriesKind, str] | None:
    """Score, kind and reason of the last hour, where it is unusual."""
    if not values:
        return None
    readings = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    seconds = end.timestamp() - HOUR_SECONDS * np.arange(len(readings), 0, -1, dtype=np.float64)
    judged = detect_series(seconds, readings)
    if not judged.is_anomaly[-1]:
        return None
    return float(judged.score[-1]), SeriesKind(judged.kind[-1]), judged.reason[-1]
