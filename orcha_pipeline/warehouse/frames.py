"""Tables as pandas frames, for the models."""

from typing import Literal

import duckdb
import pandas as pd

from orcha_pipeline.model import Window
from orcha_pipeline.warehouse.facts import naive

Table = Literal["features_hourly", "node_health", "forecasts", "resource_usage"]
_TIME_COLUMN: dict[Table, str] = {
    "features_hourly": "hour",
    "node_health": "observed_at",
    "forecasts": "issued_at",
    "resource_usage": "observed_at",
}


def frame(connection: duckdb.DuckDBPyConnection, table: Table, window: Window) -> pd.DataFrame:
    """The rows of `table` whose time lies inside `window`, by node and time; that time is in UTC with its zone."""
    column = _TIME_COLUMN[table]
    found = connection.execute(
        f"SELECT * FROM {table} WHERE {column} >= ? AND {column} < ? ORDER BY node, {column}",  # noqa: S608
        [naive(window.start), naive(window.end)],
    ).df()
    times: pd.Series[pd.Timestamp] = found[column]
    found[column] = times.dt.tz_localize("UTC")
    return found
