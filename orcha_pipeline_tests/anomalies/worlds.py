"""Seeded histories of a node that earns by the hour of the day, with noise, as the warehouse would hold them."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from orcha_pipeline.anomalies.known import Known, Place

NOW = datetime(2026, 2, 1, 12, 5, tzinfo=UTC)
"""The last complete hour is 11:00."""


def seasonal(days=14, *, seed=0, noise=0.08, node="storj-1", price=0.5) -> pd.DataFrame:
    """`features_hourly` of one node up to the last complete hour: 40 % swing over the day."""
    hours = pd.date_range(end=pd.Timestamp(NOW).floor("h") - pd.Timedelta(hours=1), periods=24 * days, freq="h")
    rng = np.random.default_rng(seed)
    native = 0.1 * (1 + 0.4 * np.sin(2 * np.pi * hours.hour / 24)) * np.exp(rng.normal(0, noise, len(hours)))
    share = 0.5
    return pd.DataFrame(
        {
            "node": node,
            "hour": hours,
            "share": share,
            "net_native": native * share**0.9,
            "net_usd": native * price * share**0.9,
            "yield_usd": native * price,
            "yield_native": native,
            "usd_price": price,
            "healthy_fraction": 1.0,
        }
    )


MONEY = ["net_native", "net_usd", "yield_usd", "yield_native"]


def dropped(frame: pd.DataFrame, part: float, hours=1) -> pd.DataFrame:
    """The same with `part` of the last hours' earnings missing."""
    frame = frame.copy()
    frame.loc[frame.index[-hours:], MONEY] *= 1 - part
    return frame


def readings(
    node="storj-1", state="healthy", *, at=NOW - timedelta(minutes=5), days=0, seed=0, **changes
) -> pd.DataFrame:
    """`node_health`: one reading at `at`, and one every 15 minutes of the `days` before, those all healthy."""
    count = days * 96 + 1
    rows = pd.DataFrame(
        {
            "node": node,
            "observed_at": pd.date_range(end=at, periods=count, freq="15min"),
            "state": "healthy",
            "reason": "",
            "error_kind": "",
            "latency_seconds": 0.1 * np.exp(np.random.default_rng(seed).normal(0, 0.2, count)),
            "version": "1",
            "scores": "{}",
        }
    )
    rows["slot"] = rows["observed_at"].dt.floor("15min")
    for column, value in {"state": state, **changes}.items():
        rows.loc[rows.index[-1], column] = value
    return rows


def no_forecasts() -> pd.DataFrame:
    return pd.DataFrame(columns=["issued_at", "node", "hour", "p10", "p50", "p90", "model", "version", "note"])


def a_forecast(p50, *, hour=NOW - timedelta(hours=1, minutes=5), issued=NOW - timedelta(hours=2), node="storj-1"):
    row = {"issued_at": issued, "node": node, "hour": hour, "p10": p50 * 0.8, "p50": p50, "p90": p50 * 1.2}
    return pd.DataFrame([{**row, "model": "lstm", "version": "1", "note": ""}])


def usage(days=14, *, seed=0, node="storj-1") -> pd.DataFrame:
    """`hourly_usage` of a gauge of memory and a counter of CPU seconds, read every 15 minutes."""
    times = pd.date_range(end=NOW - timedelta(minutes=5), periods=96 * days, freq="15min")
    rng = np.random.default_rng(seed)
    memory = 2e9 * np.exp(rng.normal(0, 0.05, len(times)))
    cpu = np.cumsum(900 * np.exp(rng.normal(0, 0.1, len(times))))
    frames = [
        pd.DataFrame({"node": node, "observed_at": times, "metric": metric, "value": values})
        for metric, values in (("memory_used_bytes", memory), ("cpu_seconds_total", cpu))
    ]
    return by_hour(pd.concat(frames, ignore_index=True))


def by_hour(readings: pd.DataFrame) -> pd.DataFrame:
    """Readings of resource use as the warehouse sums them up."""
    grouped = readings.assign(hour=readings["observed_at"].dt.floor("h")).groupby(["node", "metric", "hour"])
    named = {"mean": ("value", "mean"), "last": ("value", "last"), "read_at": ("observed_at", "max")}
    return grouped.agg(**named).reset_index()


def known(features, health=None, forecasts=None, *, now=NOW, nodes=None, **more) -> Known:
    """What `detect` is given; the nodes are those of the frames, all of one host."""
    health = readings() if health is None else health
    names = nodes or {*features["node"], *health["node"]}
    places = {name: Place(protocol=name.partition("-")[0], host="box") for name in names}
    forecasts = no_forecasts() if forecasts is None else forecasts
    return Known(now=now, nodes=places, features=features, health=health, forecasts=forecasts, **more)
