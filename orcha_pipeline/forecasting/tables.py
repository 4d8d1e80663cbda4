"""Long tables `unique_id, ds, y`: hourly series from a file, and forecasts back into one (CSV, .csv.gz, Parquet).

`ds` is a time (ISO 8601, UTC where it has no zone) or an integer hour. What is wrong with a table is told with its
place; what can be lived with is told in notes.
"""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.panel import QUANTILES, Floats, HourlySeries

COLUMNS = ("unique_id", "ds", "y")
FORECAST_COLUMNS = ("unique_id", "ds", "p10", "p50", "p90", "model")
ENOUGH_HOURS = 48
"""Known hours below which a series is forecast by seasonal naive or less."""
LARGEST_VALUE = 1e100
"""Beyond it squares and sums are no longer finite."""
LARGEST_HOUR = 10**9
UNKNOWN = frozenset({"", "na", "null", "none"})
"""What stands for an unknown value beside nothing and NaN."""
FIRST_YEAR, LAST_YEAR = 1600, 2999
LONGEST_HOURS = 1_000_000
"""Over a century: a series that spans more has a wrong `ds` in it, and would fill the memory with unknown hours."""
SHOWN = 40
"""Characters of a wrong value that are repeated to the person."""
NAMED = 5
"""Series named in a note; the others are counted."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class LongTable:
    """What was read: the series in the order in which they first appear, and what a person should know of them.

    `times`: `ds` held times, so that hours are counted from 1970; else they are the table's own integers.
    `zoned`: those times were written with a zone. `padded`: by series, the unknown hours cut off its end.
    """

    panel: list[HourlySeries]
    notes: list[str]
    times: bool
    zoned: bool = False
    padded: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Row:
    place: str
    name: str
    hour: int
    value: float


def read_table(path: Path) -> LongTable:
    """The series of a long table. Raises ModelError, which names the row, on a table that cannot be one.

    Hours without a row, or with an empty `y`, are unknown. Integer hours that are unknown at a series' end are cut
    off: that is how a wide table of series of different lengths becomes a long one. Times are kept: an hour of the
    calendar has passed whether its value is known or not.
    """
    return _table(path, _rows(path))


@dataclass(frozen=True, slots=True)
class LongRow:
    """A row as it stands: what is given as `ds` and `y`, and what they mean: seconds since 1970 (or hour 0), a number.

    `times` and `zoned`: as in `LongTable`. An unknown value is NaN.
    """

    name: str
    ds: Any
    y: Any
    seconds: float
    value: float
    times: bool
    zoned: bool


def read_rows(path: Path) -> Iterator[LongRow]:
    """The rows of a long table, in order, of any sampling step. Raises ModelError as `read_table` does.

    What the rows of one series must have in common is not asked: two may tell of the same time.
    """
    times: bool | None = None
    for place, unique_id, ds, y in _rows(path):
        seconds, (this_times, zoned) = _seconds(place, ds)
        if times is not None and times != this_times:
            raise _mixed(place, ds)
        times = this_times
        yield LongRow(_name(place, unique_id), ds, y, seconds, _value(place, y), times, zoned)
    if times is None:
        raise _empty(path)


def _rows(path: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    return _parquet_rows(path) if path.suffix == ".parquet" else _csv_rows(path)


def _name(place: str, unique_id: Any) -> str:
    name = "" if unique_id is None else str(unique_id).strip()
    if not name:
        raise ModelError(f"{place}: unique_id is empty; name the series")
    return name


def _mixed(place: str, ds: Any) -> ModelError:
    return ModelError(f"{place}: ds {_shown(ds)} mixes times and integer hours; use one of them")


def _empty(path: Path) -> ModelError:
    return ModelError(f"{path} holds no rows; it needs rows with unique_id, ds and y")


def _table(path: Path, rows: Iterable[tuple[str, Any, Any, Any]]) -> LongTable:
    by_name: dict[str, dict[int, float]] = {}
    form: tuple[bool, bool] | None = None
    hours: dict[str, tuple[int, tuple[bool, bool]]] = {}  # the series of a table mostly share their hours
    for place, unique_id, ds, y in rows:
        name = _name(place, unique_id)
        found = hours.get(ds) if isinstance(ds, str) else None
        if found is None:
            found = _hour(place, ds)
            if isinstance(ds, str):
                hours[ds] = found
        hour, this_form = found
        if form is not None and form[0] != this_form[0]:
            raise _mixed(place, ds)
        form = (this_form[0], this_form[1] or (form is not None and form[1]))
        values = by_name.setdefault(name, {})
        if hour in values:
            raise ModelError(f"{place}: {_shown(name)} has a second row for ds {_shown(ds)}; remove one")
        values[hour] = _value(place, y)
    if form is None:
        raise _empty(path)
    return _long_table(path, by_name, times=form[0], zoned=form[1])


def _long_table(path: Path, by_name: dict[str, dict[int, float]], *, times: bool, zoned: bool) -> LongTable:
    panel: list[HourlySeries] = []
    padded: list[int] = []
    for name, values in by_name.items():
        hours = np.fromiter(values.keys(), dtype=np.int64, count=len(values))
        known = hours[np.isfinite(np.fromiter(values.values(), dtype=np.float64, count=len(values)))]
        first, last = int(hours.min()), int(hours.max())
        if last - first >= LONGEST_HOURS:
            raise ModelError(
                f"{path}: {_shown(name)} spans {last - first + 1:,} hours, more than {LONGEST_HOURS:,}; "
                f"check ds {ds_text(first, times=times, zoned=zoned)} and {ds_text(last, times=times, zoned=zoned)}"
            )
        end = last + 1 if times or not known.size else int(known.max()) + 1
        grid = np.full(last + 1 - first, np.nan)
        grid[hours - first] = list(values.values())
        panel.append(HourlySeries(name, first, grid[: end - first]))
        padded.append(last + 1 - end)
    if not any(np.isfinite(series.values).any() for series in panel):
        raise ModelError(f"{path} holds no known y; every one of its {len(panel):,} series is empty")
    return LongTable(panel, _notes(panel, padded), times=times, zoned=zoned, padded=tuple(padded))


def continued(history: LongTable, test: LongTable) -> list[HourlySeries]:
    """The series of `test`, each beginning where its history ends. Raises ModelError where the two do not fit.

    Integer hours may differ by unknown hours that were cut off the history's end: the table's padding, no time that
    passed. Series without a history are left out.
    """
    if history.times != test.times:
        raise ModelError("The history and the test table do not go together: one has times as ds, the other integers.")
    ends = {series.name: (series.end, pad) for series, pad in zip(history.panel, history.padded, strict=True)}
    found: list[HourlySeries] = []
    for series in test.panel:
        if series.name not in ends:
            continue
        end, pad = ends[series.name]
        if series.first_hour < end:
            raise ModelError(
                f"The test table's series {_shown(series.name)} begins at ds "
                f"{ds_text(series.first_hour, times=test.times, zoned=test.zoned)}, before its history ends "
                f"({ds_text(end - 1, times=history.times, zoned=history.zoned)}); keep the two apart."
            )
        cut_off = pad > 0 and series.first_hour <= end + pad
        found.append(replace(series, first_hour=end) if cut_off else series)
    if not found:
        raise ModelError("No series of the test table is in the history; compare their unique_id.")
    return found


def write_forecasts(path: Path, table: LongTable, forecasts: Floats, models: Sequence[str]) -> None:
    """Write p10, p50, p90 (n, horizon, 3) of the hours after each of the table's series' ends, by `models` (n,).

    `ds` is in the form in which it was read; an hour without a forecast is left empty. CSV, .csv.gz or .parquet, as
    the name says. Raises ModelError where the file cannot be written.
    """
    rows = _forecast_rows(table, forecasts, models)
    try:
        if path.suffix == ".parquet":
            _write_parquet(path, rows, times=table.times, zoned=table.zoned)
        else:
            with (
                gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as raw,
                io.TextIOWrapper(raw, encoding="utf-8", newline="") as text,
            ):
                writer = csv.writer(text, lineterminator="\n")
                writer.writerow(FORECAST_COLUMNS)
                for name, hour, band, model in rows:
                    when = ds_text(hour, times=table.times, zoned=table.zoned)
                    writer.writerow([name, when, *("" if math.isnan(value) else repr(value) for value in band), model])
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror or error}") from None


def ds_text(hour: int, *, times: bool, zoned: bool) -> str:
    """An hour as it stands in a table: an integer, or a time in UTC, with its zone where the table's have one."""
    if not times:
        return str(hour)
    moment = _moment(hour)
    return (moment if zoned else moment.replace(tzinfo=None)).isoformat(sep=" ")


def _moment(hour: int) -> datetime:
    return _EPOCH + hour * _HOUR


def _forecast_rows(
    table: LongTable, forecasts: Floats, models: Sequence[str]
) -> Iterator[tuple[str, int, list[float], str]]:
    for series, quantiles, model in zip(table.panel, forecasts, models, strict=True):
        for step, band in enumerate(quantiles.tolist()):
            yield series.name, series.end + step, band, model


def _write_parquet(path: Path, rows: Iterable[tuple[str, int, list[float], str]], *, times: bool, zoned: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, hours, bands, models = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    values = np.array(bands, dtype=np.float64).reshape(len(names), len(QUANTILES))
    when = (
        pa.array([_moment(hour) for hour in hours], pa.timestamp("us", tz="UTC" if zoned else None))
        if times
        else pa.array(hours, pa.int64())
    )
    columns = [pa.array(names, pa.string()), when, *(pa.array(each, from_pandas=True) for each in values.T)]
    table = pa.table([*columns, pa.array(models, pa.string())], names=list(FORECAST_COLUMNS))
    pq.write_table(table, path)


def _csv_rows(path: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    try:
        with (
            gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text,
        ):
            reader = csv.reader(text, strict=True)
            header = [name.strip() for name in next(reader, [])]
            columns = _places(path, header)
            for row in reader:
                if not row:
                    continue
                place = f"{path}, line {reader.line_num}"
                if len(row) != len(header):
                    raise ModelError(
                        f"{place}: {len(row)} fields where the header has {len(header)}; write decimals with a point"
                    )
                unique_id, ds, y = (row[column] for column in columns)
                yield place, unique_id, ds, y
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, EOFError, zlib.error, csv.Error) as error:
        raise ModelError(f"{path} is no CSV file in UTF-8 (or a broken .gz): {error}") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    import duckdb

    if not path.is_file():
        raise ModelError(f"cannot read {path}: there is no such file")
    with duckdb.connect() as connection:
        try:
            connection.execute("SET TimeZone = 'UTC'")
            # The path is handed over as it is: a name with * or [ in it is no pattern here.
            table = connection.execute("SELECT * FROM read_parquet([?])", [_escaped(path)])
            columns = _places(path, [str(column[0]) for column in table.description or ()])
            for number, row in enumerate(iter(table.fetchone, None), start=1):
                unique_id, ds, y = (row[column] for column in columns)
                yield f"{path}, row {number}", unique_id, ds, y
        except duckdb.Error as error:
            raise ModelError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from None


def _escaped(path: Path) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))


def _places(path: Path, columns: Sequence[str]) -> list[int]:
    """Where the three columns stand."""
    for name in COLUMNS:
        if columns.count(name) != 1:
            fault = "is missing" if name not in columns else "is there twice"
            there = ", ".join(column[:SHOWN] for column in columns[:20]) or "no columns"
            raise ModelError(f"{path}: the column {name!r} {fault}; it needs unique_id, ds and y, and has {there}")
    return [columns.index(name) for name in COLUMNS]


def _hour(place: str, ds: Any) -> tuple[int, tuple[bool, bool]]:
    """The hour `ds` tells, whether it was a time, and whether that had a zone."""
    since, form = _since(place, ds)
    hour, rest = divmod(since, _HOUR)
    if rest:
        raise ModelError(f"{place}: ds {_shown(ds)} is not on a full hour; the series must be hourly")
    return hour, form


def _seconds(place: str, ds: Any) -> tuple[float, tuple[bool, bool]]:
    since, form = _since(place, ds)
    return since.total_seconds(), form


def _since(place: str, ds: Any) -> tuple[timedelta, tuple[bool, bool]]:
    """The time that `ds` tells, from 1970 or hour 0 on, whether it was a time, and whether that had a zone."""
    number = _integer(ds)
    if number is not None:
        if abs(number) > LARGEST_HOUR:
            raise ModelError(f"{place}: ds {_shown(ds)} is no hour; write an integer hour, or a time")
        return number * _HOUR, (False, False)
    moment = _time(ds)
    if moment is None:
        raise ModelError(f"{place}: ds {_shown(ds)} is neither a time nor an integer hour; write 2026-11-20 10:00:00")
    zoned = moment.tzinfo is not None
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ModelError(f"{place}: ds {_shown(ds)} lies outside of the years {FIRST_YEAR} to {LAST_YEAR}")
    return (moment.astimezone(UTC) if zoned else moment.replace(tzinfo=UTC)) - _EPOCH, (True, zoned)


def _integer(ds: Any) -> int | None:
    if isinstance(ds, bool):
        return None
    if isinstance(ds, int):
        return ds
    if isinstance(ds, float | Decimal):
        return int(ds) if math.isfinite(ds) and ds == int(ds) else None
    text = str(ds).strip()
    # Eight digits are a day (20261120), which is no hour that anybody counted to.
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 8 else None


def _time(ds: Any) -> datetime | None:
    if isinstance(ds, datetime):
        return ds
    if isinstance(ds, date):
        return datetime(ds.year, ds.month, ds.day)  # noqa: DTZ001  (a day has no zone: UTC like every such time)
    try:
        return datetime.fromisoformat(str(ds).strip())
    except ValueError:
        return None


def _value(place: str, y: Any) -> float:
    """The value, NaN where it is empty: unknown is not zero."""
    if y is None or y == "":
        return math.nan
    value = None if isinstance(y, bool) else _number(str(y))
    if value is None and str(y).strip().lower() in UNKNOWN:
        return math.nan
    if value is None:
        raise ModelError(f"{place}: y {_shown(y)} is no number; leave it empty where it is unknown")
    if math.isnan(value):
        return value
    if not abs(value) <= LARGEST_VALUE:
        raise ModelError(f"{place}: y {_shown(y)} is infinite or too large; leave it empty where it is unknown")
    return value


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)  # Python's 1_000 is nobody's thousand
    except ValueError:
        return None


def _shown(value: Any) -> str:
    return repr(str(value)[:SHOWN])


def _notes(panel: Sequence[HourlySeries], padded: Sequence[int]) -> list[str]:
    """What a person should know: each kind of finding once, with the series it is true of."""
    names = [series.name for series in panel]
    known = np.array([int(np.isfinite(series.values).sum()) for series in panel])
    gaps = np.array([len(series.values) for series in panel]) - known
    least, largest = _extremes(panel)
    some = known > 0
    constant = some & (known > 1) & (least == largest)
    cut = f"{sum(padded):,} hours without a value at the end are cut off; forecasts start after the last known hour"
    few = f"fewer than {ENOUGH_HOURS} known hours; forecasts repeat what is known, with a wide band"
    findings = (
        (np.array(padded) > 0, cut),
        ((gaps > 0) & some, f"{int(gaps[some].sum()):,} hours without a row or a value are unknown, not filled"),
        (~some, "no hour is known, so there is no forecast"),
        (some & (known < ENOUGH_HOURS), few),
        (constant & (largest == 0), "every known hour is 0; so is the forecast, and WAPE and MASE are undefined"),
        (constant & (largest != 0), "constant; the forecast is that value, and MASE is undefined"),
        (some & (least < 0), "there are values below 0, so forecasts may fall below 0 too"),
    )
    return [f"{_listed(names, where)}: {text}." for where, text in findings if where.any()]


def _extremes(panel: Sequence[HourlySeries]) -> tuple[Floats, Floats]:
    low = np.array([np.fmin.reduce(series.values, initial=np.inf) for series in panel])
    high = np.array([np.fmax.reduce(series.values, initial=-np.inf) for series in panel])
    return low, high


def _listed(names: Sequence[str], where: NDArray[np.bool_]) -> str:
    found = [names[i][:SHOWN] for i in np.flatnonzero(where).tolist()]
    more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more
