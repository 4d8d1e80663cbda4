"""The feature table as plain arrays, for forecasting: pandas would cost more to load than the forecast takes."""

from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.model import Window
from orcha_pipeline.warehouse.facts import naive


def feature_columns(connection: duckdb.DuckDBPyConnection, window: Window) -> dict[str, NDArray[Any]]:
    """node, hour, share, yield_usd and net_native of the hours inside `window`, as arrays; NULLs are masked."""
    found = connection.execute(
        "SELECT node, hour, share, yield_usd, net_native FROM features_hourly WHERE hour >= ? AND hour < ? "
        "ORDER BY node, hour",
        [naive(window.start), naive(window.end)],
    ).fetchnumpy()
    return {name: np.ma.asarray(column) for name, column in found.items()}
