"""All anomalies of one cycle: the rules and the Isolation Forest over what the warehouse knows of every node."""

import json
from datetime import datetime, timedelta
from typing import Any, cast

import pandas as pd

from orcha_pipeline.anomalies.isolation_forest import FEATURES, HourScore, node_features, score_latest
from orcha_pipeline.anomalies.rules import (
    SAME_HOUR_DAYS,
    Anomaly,
    HourEarned,
    earnings_drop,
    health_anomaly,
    same_hour_median,
)
from orcha_pipeline.model import HOUR, HealthReading, HealthState, utc

HISTORY = timedelta(days=28)
"""How much of the past the forest learns from."""
LATEST = timedelta(hours=3)
"""An hour that ended longer ago than this is history: it was judged when it was new."""


def detect(
    features: pd.DataFrame,
    health: pd.DataFrame,
    forecasts: pd.DataFrame,
    *,
    now: datetime,
    usage: pd.DataFrame | None = None,
    seed: int = 7,
) -> list[Anomaly]:
    """What looks wrong with each node at `now`, by node and rule.

    The frames have the columns of `features_hourly`, `node_health`, `forecasts` and `resource_usage` and may hold
    any nodes and times; times without a zone are UTC. Each node's last complete hour is judged, if it is not older
    than `LATEST`, against the forecast last issued for it, or the same hour of the past 7 days where there is none,
    and by the forest; its health by the latest reading. Nothing later than `now` is looked at.
    """
    now = utc(now)
    hourly = _with_times(features, "hour")
    hourly = hourly[(hourly["hour"] + HOUR <= now) & (hourly["hour"] > now - HISTORY)]
    readings = _with_times(health, "observed_at")
    readings = readings[readings["observed_at"] <= now]
    issued = _with_times(forecasts, "hour", "issued_at")
    issued = issued[issued["issued_at"] <= now]
    used = None
    if usage is not None:
        used = _with_times(usage, "observed_at")
        used = used[used["observed_at"] <= now]
    found: list[Anomaly] = []
    for node in sorted({*hourly["node"], *readings["node"]}):
        own = readings[readings["node"] == node].sort_values("observed_at")
        if not own.empty and (anomaly := _health(node, own.iloc[-1], now)):
            found.append(anomaly)
        past = hourly[hourly["node"] == node].drop_duplicates("hour", keep="last").set_index("hour").sort_index()
        if past.empty or past.index[-1] + HOUR <= now - LATEST:
            continue
        earned = _earned(node, past, issued[issued["node"] == node])
        if earned and (anomaly := earnings_drop(earned, detected_at=now)):
            found.append(anomaly)
        table = node_features(past, latency=_latency(own), usage=_hourly_use(used, node))
        found += [_unusual(node, hour, now) for hour in score_latest(table, seed=seed).hours if hour.unusual]
    return found


def _with_times(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    return frame.assign(**{column: pd.to_datetime(frame[column], utc=True) for column in columns})


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _health(node: str, row: "pd.Series[Any]", now: datetime) -> Anomaly | None:
    reading = HealthReading(
        state=HealthState(row["state"]),
        reason=row["reason"],
        error_kind=row["error_kind"],
        latency_seconds=_number(row["latency_seconds"]),
        scores=json.loads(row["scores"]),
    )
    return health_anomaly(node, reading, detected_at=now)


def _earned(node: str, past: pd.DataFrame, forecasts: pd.DataFrame) -> HourEarned | None:
    """The last hour beside its expectation, in the first terms in which both are known.

    Yields come first: they are what the node earned as if at full share, so that a changed share is no drop.
    """
    hour = cast("pd.Timestamp", past.index[-1])
    when = hour.to_pydatetime()
    native = next(
        (pair for column in ("yield_native", "net_native") if (pair := _against_past(past, column, hour))), None
    )
    ratio = native[0] / native[1] if native and native[1] > 0 else None
    promised = forecasts[(forecasts["hour"] == hour) & (forecasts["issued_at"] < hour + HOUR)]
    yielded = _number(past["yield_usd"].iloc[-1])
    if yielded is not None and not promised.empty:
        last = promised.sort_values("issued_at").iloc[-1]
        return HourEarned(
            node=node,
            hour=when,
            earned=yielded,
            expected=_number(last["p50"]),
            unit="USD at full share",
            source=f"forecast of {last['issued_at']:%Y-%m-%d %H:%M}",
            native_ratio=ratio,
        )
    for pair, unit in ((native, "native units"), (_against_past(past, "net_usd", hour), "USD")):
        if pair:
            source = f"median of the same hour in the past {SAME_HOUR_DAYS} days"
            return HourEarned(node=node, hour=when, earned=pair[0], expected=pair[1], unit=unit, source=source)
    return None


def _against_past(past: pd.DataFrame, column: str, hour: pd.Timestamp) -> tuple[float, float] | None:
    """The value of an hour and the median of the same hour in the past days, where both are known."""
    values = past[column]
    earlier = [_number(values.get(hour - timedelta(days=day))) for day in range(1, SAME_HOUR_DAYS + 1)]
    value, expected = _number(values.loc[hour]), same_hour_median(earlier)
    return None if value is None or expected is None else (value, expected)


def _latency(readings: pd.DataFrame) -> pd.Series | None:
    if readings.empty:
        return None
    hours = readings["observed_at"].dt.floor("h")
    return readings["latency_seconds"].astype(float).groupby(hours).mean()


def _hourly_use(usage: pd.DataFrame | None, node: str) -> pd.DataFrame | None:
    """One column a metric by hour: the mean of a gauge, the increase of a counter (`…_total`)."""
    if usage is None or (own := usage[usage["node"] == node]).empty:
        return None
    values = own.assign(hour=own["observed_at"].dt.floor("h"), value=own["value"].astype(float))
    table = values.pivot_table(index="hour", columns="metric", values="value", aggfunc=["mean", "last"])
    columns = {
        str(metric): table["last"][metric].diff().where(lambda rise: rise >= 0)  # a counter that fell has started again
        if str(metric).endswith("_total")
        else table["mean"][metric]
        for metric in table["mean"].columns
    }
    return pd.DataFrame(columns)


def _unusual(node: str, hour: HourScore, now: datetime) -> Anomaly:
    """What the forest found strange, told by the features furthest from the ordinary."""
    away = {name: 10 * (1 - value) if name == "health" else abs(value) for name, value in hour.features.items()}
    order = [name for name in sorted(away, key=lambda name: away[name], reverse=True) if away[name] >= 1]
    told = [f"{FEATURES[name]}: {_deviation(name, hour.features[name])}" for name in order[:3]]
    return Anomaly(
        detected_at=now,
        node=node,
        rule="unusual-hour",
        severity="warning",
        score=hour.score,
        evidence=f"the hour from {hour.hour:%Y-%m-%d %H:%M} UTC is unlike its past (score {hour.score:.3f}, unusual "
        f"above {hour.threshold:.3f}); {'; '.join(told) or 'no single value stands out'}",
        remedy="Compare the node's log and load in that hour with an ordinary one.",
    )


def _deviation(name: str, value: float) -> str:
    return f"{100 * value:.0f} %" if name == "health" else f"{value:+.1f} typical deviations"
