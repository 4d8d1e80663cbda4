"""From the hourly feature table to the panels forecasters read. Pure, and without pandas: it runs every 15 minutes.

Two targets a node: its *yield* (`yield_usd`, USD per hour at full share), which the planner needs, and what it earns in
its own token (`net_native`, an hour), which no price can move. Both are series of one panel: every forecaster scales
each window by itself, so that dollars and tokens never meet.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.panel import Floats, HourlySeries
from orcha_pipeline.model import NET_NATIVE, YIELD_USD, hour_of

HORIZON = 24
TARGETS = (YIELD_USD, NET_NATIVE)
COLUMNS = ("node", "hour", "share", *TARGETS)
"""What is read of `features_hourly`."""

Columns = Mapping[str, NDArray[Any]]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def series_name(node: str, target: str) -> str:
    """A node's series in a panel."""
    return f"{node}:{target}"


def node_and_target(series: str) -> tuple[str, str]:
    """The opposite of `series_name`."""
    node, _, target = series.rpartition(":")
    return node, target


def to_hour(moment: datetime) -> int:
    """The full hour an aware `moment` lies in, counted from 1970."""
    return (hour_of(moment) - EPOCH) // timedelta(hours=1)


def to_datetime(hour: int) -> datetime:
    """An hour counted from 1970 as an aware datetime."""
    return EPOCH + timedelta(hours=hour)


def panel_of(columns: Columns, *, nodes: Collection[str] | None = None) -> list[HourlySeries]:
    """Each node's series on a gapless hourly grid, by node and target; targets without a known hour are left out.

    `columns` holds COLUMNS as arrays of one length, as DuckDB's `fetchnumpy` gives them: `hour` is UTC, an hour that is
    masked, NaN or infinite is unknown. `nodes` restricts it to these. Raises ModelError for an hour that is not full or
    stands twice.
    """
    exact = np.asarray(columns["hour"]).astype("datetime64[us]")
    hours = exact.astype("datetime64[h]")
    if (hours != exact).any():
        raise ModelError("features_hourly has an hour that is not a full hour: build the features again")
    count = hours.astype(np.int64)
    values = {name: _floats(columns[name]) for name in ("share", *TARGETS)}
    places = _rows_by_node(np.asarray(columns["node"]))
    panel: list[HourlySeries] = []
    for node in sorted(places if nodes is None else places.keys() & set(nodes)):
        mine = places[node]
        first = int(count[mine].min())
        place = count[mine] - first
        length = int(place.max()) + 1
        if (np.bincount(place, minlength=length) > 1).any():
            raise ModelError(f"features_hourly has an hour of {node} twice: build the features again")
        grids = {name: _placed(column[mine], place, length) for name, column in values.items()}
        shares = grids["share"]
        panel += [
            HourlySeries(series_name(node, target), first, grids[target], shares)
            for target in TARGETS
            if np.isfinite(grids[target]).any()
        ]
    return panel


def masked(panel: Sequence[HourlySeries], hours: Mapping[str, Collection[datetime]]) -> list[HourlySeries]:
    """The same series with these hours of their nodes unknown: what came then is no example of what is to come."""
    found: list[HourlySeries] = []
    for one in panel:
        node, _ = node_and_target(one.name)
        places = np.array([to_hour(hour) - one.first_hour for hour in hours.get(node, ())], dtype=np.int64)
        places = places[(places >= 0) & (places < len(one.values))]
        values = one.values.copy()
        values[places] = np.nan
        found.append(replace(one, values=values))
    return found


def _rows_by_node(names: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    """Each node's rows. Those of one node stand together as a rule, so that runs are looked for and not values."""
    starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]])) if len(names) else np.empty(0, np.int64)
    runs: dict[str, list[NDArray[np.int64]]] = {}
    for start, end in zip(starts.tolist(), np.append(starts[1:], len(names)).tolist(), strict=False):
        runs.setdefault(str(names[start]), []).append(np.arange(start, end))
    return {node: np.concatenate(own) for node, own in runs.items()}


def data_hash(panel: Sequence[HourlySeries]) -> str:
    """sha256 of everything a model can see of `panel`: two trainings on the same data have the same."""
    digest = hashlib.sha256()
    for one in sorted(panel, key=lambda series: series.name):
        digest.update(f"{one.name}\n{one.first_hour}\n{len(one.values)}\n".encode())
        for values in (one.values, np.empty(0) if one.shares is None else one.shares):
            digest.update(np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes())
    return digest.hexdigest()


def known_hours(series: HourlySeries) -> int:
    """How many of its hours are known."""
    return int(np.isfinite(series.values).sum())


def _floats(column: NDArray[Any]) -> Floats:
    if isinstance(column, np.ma.MaskedArray):
        return np.ma.filled(column.astype(np.float64), np.nan)
    return np.asarray(column, dtype=np.float64)


def _placed(values: Floats, place: NDArray[np.int64], length: int) -> Floats:
    grid = np.full(length, np.nan)
    grid[place] = np.where(np.isfinite(values), values, np.nan)
    return grid
