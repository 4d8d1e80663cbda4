"""Isolation Forest over one node's hours: earnings against the same hour of past days, resource use, connection.

A forest is grown on the node's own past together with the hour to be judged: an hour beyond all that was seen falls
into the outermost old leaf of a forest that does not know it, and a total loss would look no worse than a bad day.
Calibration follows from the same forest. An ordinary hour is as likely to take any rank among its past as each of the
past hours, so the threshold is the score that `FALSE_ALARMS` of the past exceeds; with a past too short for that rate
it is the highest score of the past, which an ordinary hour exceeds once in n + 1. Neighbouring hours are not quite
exchangeable: on clean seasonal histories of 6 and 14 days some 1.5 % of the hours fire. The worst hours of a past that
was itself bad hide new ones of their kind: a lasting fault is the rules' matter.
"""

from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import cast

import numpy as np
import pandas as pd

from orcha_pipeline.anomalies.rules_earnings import SAME_HOUR_DAYS

MIN_HISTORY_HOURS = 48
FALSE_ALARMS = 1 / 336
"""Share of ordinary hours that may fire: one in a fortnight."""
_TREES = 100
_MIN_SCALE = 0.02  # as a logarithm, 2 %: smaller wobbles of a very steady node are no deviation
_CLIP = 20.0
_SHARE_CHANGED = 0.01
_EARNINGS = ("yield_native", "net_native", "net_usd")
_COLUMNS = [*_EARNINGS, "share", "healthy_fraction"]

FEATURES = {
    "earnings": "fall of earnings against the same hour of past days",
    "use": "resource use against its last 24 hours at the same share",
    "health": "part of the hour in which it was healthy",
    "latency": "longer answer time than in its last 24 hours",
}
"""Column of the feature table -> what it is, for the evidence. All but `health` are in typical deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HourScore:
    """How unusual one hour of a node was: the higher the stranger, unusual above `threshold`."""

    hour: datetime
    score: float
    threshold: float
    features: dict[str, float]

    @property
    def unusual(self) -> bool:
        """Whether the hour stands out."""
        return self.score > self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestResult:
    """The latest hours judged, oldest first; `note` tells why there are none."""

    hours: tuple[HourScore, ...]
    note: str = ""


def score_latest(features: pd.DataFrame, *, hours: int = 1, seed: int = 7) -> ForestResult:
    """Judge the last `hours` rows of a node's feature table (from `node_features`) by the rows before them.

    Fewer than 48 past hours with known earnings and past days to compare them with give no judgement, and say so.
    The same table and seed give the same scores.
    """
    known = features[features["earnings"].notna()]
    cut = features.index[-hours] if len(features) >= hours else None
    history = known[known.index < cut] if cut is not None else known.iloc[:0]
    if len(history) < MIN_HISTORY_HOURS:
        return ForestResult(
            hours=(), note=f"not enough history: {len(history)} of {MIN_HISTORY_HOURS} comparable hours"
        )
    latest = known[known.index >= cut]
    if latest.empty:
        return ForestResult(hours=(), note="the earnings of the latest hours are unknown")

    from sklearn.ensemble import IsolationForest

    past = history.to_numpy(dtype=float)
    judged: list[HourScore] = []
    for hour, row in latest.iterrows():
        table = np.vstack([past, row.to_numpy(dtype=float)])
        # Trees of all hours: in a random part of them the judged one would often be missing.
        forest = IsolationForest(n_estimators=_TREES, max_samples=1.0, random_state=seed, n_jobs=1)  # pyright: ignore[reportArgumentType] -- untyped: its default is a text
        forest.fit(table)
        scores = -forest.score_samples(table)
        judged.append(
            HourScore(
                hour=cast("pd.Timestamp", hour).to_pydatetime(),
                score=float(scores[-1]),
                threshold=conformal_threshold(scores[:-1], FALSE_ALARMS),
                features={str(name): float(value) for name, value in row.items()},
            )
        )
    return ForestResult(hours=tuple(judged))


def conformal_threshold(scores: np.ndarray, false_alarms: float) -> float:
    """The score that a new ordinary hour exceeds with at most this probability, or the highest one for short pasts."""
    rank = min(len(scores), ceil((len(scores) + 1) * (1 - false_alarms)))
    return float(np.sort(scores)[rank - 1])


def node_features(
    hourly: pd.DataFrame, *, latency: pd.Series | None = None, usage: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The four features of one node by hour, of which each row looks only at itself and the past.

    `hourly` is the node's part of `features_hourly`, indexed by UTC hour; `latency` seconds by hour; `usage` one
    column a resource metric by hour (counters as increases). Earnings are the native yield where known (a change of
    price or share is then none of the node's), else net native, else net USD; unknown earnings stay NaN, other
    unknown values count as ordinary, since a hole in one reading should not outweigh what is known of the others.
    Good news (more earned, answered faster) counts as ordinary too.
    """
    if hourly.empty:
        return pd.DataFrame(columns=list(FEATURES), index=hourly.index, dtype=float)
    hours = pd.date_range(hourly.index.min(), hourly.index.max(), freq="h")
    frame = hourly[_COLUMNS].astype(float).reindex(hours)
    table = pd.DataFrame(index=hours)
    table["earnings"] = _against_same_hour(_first_known(frame)).clip(upper=0.0)
    # A change of share changes the use: what it was before is no measure of what it is since.
    stretch = (frame["share"].ffill().diff().abs() > _SHARE_CHANGED).cumsum()
    uses = [
        column.reindex(hours).groupby(stretch, group_keys=False).apply(_against_last_day)
        for _, column in (usage.items() if usage is not None else ())
    ]
    table["use"] = _strongest(uses, hours)
    table["health"] = frame["healthy_fraction"].fillna(1.0)
    slower = _against_last_day(latency.reindex(hours)).clip(lower=0.0) if latency is not None else None
    table["latency"] = slower.fillna(0.0) if slower is not None else 0.0
    return table.clip(-_CLIP, _CLIP)


def _first_known(frame: pd.DataFrame) -> pd.Series:
    """Earnings in the first terms in which most hours are known."""
    for column in _EARNINGS:
        if frame[column].notna().mean() > 0.5:
            return frame[column]
    return frame[_EARNINGS[-1]]


def _against_same_hour(values: pd.Series) -> pd.Series:
    same_hour = pd.concat([values.shift(24 * day) for day in range(1, SAME_HOUR_DAYS + 1)], axis=1)
    return _in_typical(values, same_hour.median(axis=1), min_hours=12)


def _against_last_day(values: pd.Series) -> pd.Series:
    return _in_typical(values, values.shift(1).rolling(24, min_periods=6).median(), min_hours=6)


def _in_typical(values: pd.Series, usual: pd.Series, *, min_hours: int) -> pd.Series:
    """Logarithm of a value to the usual one, in typical distances of the past week: half is as far as double.

    A hundredth of the mean level keeps the logarithm finite at 0; a series that never rose above 0 has no deviation.
    """
    week = 24 * SAME_HOUR_DAYS
    floor = 0.01 * values.shift(1).abs().rolling(week, min_periods=min_hours).mean()
    floor = floor.where(floor > 0)
    distance = pd.Series(np.log((values.clip(lower=0) + floor) / (usual.clip(lower=0) + floor)), index=values.index)
    typical = distance.abs().shift(1).rolling(week, min_periods=min_hours).median()
    return distance / (1.4826 * typical).clip(lower=_MIN_SCALE)


def _strongest(columns: list[pd.Series], hours: pd.Index) -> pd.Series:
    """The deviation furthest from 0 among the metrics, with its sign."""
    if not columns:
        return pd.Series(0.0, index=hours)
    table = pd.concat(columns, axis=1).fillna(0.0).to_numpy()
    furthest = np.abs(table).argmax(axis=1)
    return pd.Series(table[np.arange(len(table)), furthest], index=hours)
