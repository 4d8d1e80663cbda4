"""Long tables `unique_id, ds, y` judged: every row back in its place, with what the detector says of it."""

import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from orcha_pipeline.anomalies.series_bands import WARM_UP
from orcha_pipeline.anomalies.series_kinds import detect_series
from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.tables import LongRow, read_rows

COLUMNS = ("unique_id", "ds", "y", "score", "is_anomaly", "kind", "reason")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class JudgedTable:
    """The rows as they were read, and of each its score, whether it is an anomaly, its kind and the reason."""

    rows: list[LongRow]
    score: list[float]
    is_anomaly: list[bool]
    kind: list[str]
    reason: list[str]

    def told(self) -> str:
        """For a person: how many anomalies, of which kind, in how many series."""
        kinds = Counter(kind for kind in self.kind if kind)
        series = {row.name for row in self.rows}
        struck = {row.name for row, strange in zip(self.rows, self.is_anomaly, strict=True) if strange}
        listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        return f"{sum(kinds.values()):,} anomalies in {len(struck):,} of {len(series):,} series" + (
            f": {listed}." if listed else "."
        )

    def short(self) -> int:
        """How many series have too few known values to be judged by anything but missing readings."""
        known = Counter(row.name for row in self.rows if isfinite(row.value))
        return sum(known[name] <= WARM_UP for name in {row.name for row in self.rows})


def judge_table(path: Path, threshold: float) -> JudgedTable:
    """Judge every series of a long table by itself. Raises ModelError, which names the row that cannot be read."""
    rows = list(read_rows(path))
    by_name: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        by_name.setdefault(row.name, []).append(place)
    seconds = np.array([row.seconds for row in rows], dtype=np.float64)
    values = np.array([row.value for row in rows], dtype=np.float64)
    score, unusual = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.bool_)
    kind, reason = [""] * len(rows), [""] * len(rows)
    for places in by_name.values():
        own = np.array(places)
        judged = detect_series(seconds[own], values[own], threshold)
        score[own], unusual[own] = judged.score, judged.is_anomaly
        for i in np.flatnonzero(judged.is_anomaly).tolist():
            kind[places[i]], reason[places[i]] = judged.kind[i], judged.reason[i]
    return JudgedTable(rows, score.tolist(), unusual.tolist(), kind, reason)


def write_judged(path: Path, table: JudgedTable) -> None:
    """Write the rows in the order in which they were read, with `COLUMNS`: CSV, .csv.gz or .parquet, as the name says.

    `ds` and `y` of a CSV stand as they stood. Raises ModelError where the file cannot be written.
    """
    try:
        if path.suffix == ".parquet":
            _write_parquet(path, table)
            return
        with (
            gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as raw,
            io.TextIOWrapper(raw, encoding="utf-8", newline="") as text,
        ):
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(_csv_rows(table))
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror or error}") from None


def _csv_rows(table: JudgedTable) -> Iterator[Sequence[Any]]:
    judged = zip(table.rows, table.score, table.is_anomaly, table.kind, table.reason, strict=True)
    for row, *said in judged:
        yield [row.name, row.ds, "" if row.y is None else row.y, *said]


def _write_parquet(path: Path, table: JudgedTable) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [
        pa.array([row.name for row in table.rows], pa.string()),
        _times(pa, table.rows),
        pa.array(np.array([row.value for row in table.rows]), from_pandas=True),
        pa.array(table.score, pa.float64()),
        pa.array(table.is_anomaly, pa.bool_()),
        pa.array(table.kind, pa.string()),
        pa.array(table.reason, pa.string()),
    ]
    pq.write_table(pa.table(columns, names=list(COLUMNS)), path)


def _times(pa: Any, rows: Sequence[LongRow]) -> Any:
    if not rows[0].times:
        return pa.array([int(row.seconds // 3600) for row in rows], pa.int64())
    zone = "UTC" if any(row.zoned for row in rows) else None
    return pa.array([_EPOCH + timedelta(seconds=row.seconds) for row in rows], pa.timestamp("us", tz=zone))
