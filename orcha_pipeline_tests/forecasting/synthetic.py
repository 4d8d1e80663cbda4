"""Feature tables with a known truth: daily and weekly profile x log-AR level x jumps x noise, less the outages."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from orcha_pipeline.forecasting.features import COLUMNS, panel_of

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday


def features(
    *,
    node="storj-1",
    hours=672,
    seed=0,
    level=0.02,
    daily=0.5,
    weekly=0.15,
    drift=0.0,
    jumps=0.0,
    noise=0.1,
    outages=0.0,
    start=START,
):
    """One node's hourly features. `noise`, `drift` are log standard deviations an hour; rates are per hour."""
    rng = np.random.default_rng(seed)
    moments = [start + timedelta(hours=h) for h in range(hours)]
    of_day = np.array([m.hour for m in moments])
    of_week = np.array([m.weekday() for m in moments])
    shape = 1 + daily * np.sin(2 * np.pi * (of_day - 8) / 24) + weekly * (of_week >= 5)
    walk = np.zeros(hours)
    for h in range(1, hours):
        walk[h] = 0.98 * walk[h - 1] + drift * rng.standard_normal()
        if rng.random() < jumps:
            walk[h] += rng.choice([-0.7, 0.7])
    value = level * shape * np.exp(walk + noise * rng.standard_normal(hours) - noise**2 / 2)
    out = 0
    for h in range(hours):
        if rng.random() < outages:
            out = int(rng.integers(2, 9))
        if out:
            value[h], out = np.nan, out - 1
    share = np.repeat(rng.choice([0.25, 0.5, 0.75, 1.0], size=hours // 48 + 1), 48)[:hours]
    return pd.DataFrame(
        {
            "node": node,
            "hour": pd.DatetimeIndex(moments),
            "share": share,
            "net_usd": value * share,
            "net_native": value * share / 0.5,
            "yield_usd": value,
            "yield_native": value / 0.5,
            "usd_price": 0.5,
            "healthy_fraction": np.where(np.isfinite(value), 1.0, 0.0),
        }
    )


def columns(*frames):
    """Feature tables as the warehouse gives them to forecasting."""
    frame = pd.concat(frames)
    hours = frame["hour"].dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    return {name: hours if name == "hour" else frame[name].to_numpy() for name in COLUMNS}


def panel(*frames):
    """The series of feature tables."""
    return panel_of(columns(*frames))
