"""Past token prices from files: CSV (also .gz) and Parquet."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.model import PriceReading, Provenance
from orcha_pipeline.price_sources import TOKENS, from_text, known_tokens, token_of, usd_price


def read_price_file(path: Path) -> list[PriceReading]:
    """Hourly prices from a CSV (also .gz) or Parquet file with the columns `unique_id`, `ds` and `y`.

    `unique_id` is a ticker (STORJ, GLM, DATA, GRASS) or a token's id, `ds` the price's time (UTC where it has no
    zone), `y` US dollars. Each reading is stamped with the price's own time. `SettingsError` names file and line.
    """
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _csv_rows(path)
    found: list[PriceReading] = []
    seen: set[tuple[str, datetime]] = set()
    for where, unique_id, ds, y in rows:
        token = token_of(str(unique_id))
        if token not in TOKENS.values():
            raise SettingsError(f"{where}: unknown unique_id {str(unique_id)[:40]!r}; known are {known_tokens()}")
        at = from_text(ds)
        if at is None:
            raise SettingsError(f"{where}: ds {str(ds)[:40]!r} is no time; write it as 2026-11-20 10:00:00 (UTC)")
        usd = usd_price(y)
        if usd is None:
            raise SettingsError(
                f"{where}: y {str(y)[:40]!r} is no price; write US dollars above 0, or leave the row out"
            )
        if (token, at) in seen:
            raise SettingsError(f"{where}: {unique_id} has a second price for {at:%Y-%m-%d %H:%M}; remove one")
        seen.add((token, at))
        found.append(
            PriceReading(
                token=token,
                observed_at=at,
                usd=usd,
                priced_at=at,
                provenance=Provenance.MEASURED,
                source=f"file {path.name}",
            )
        )
    if not found:
        raise SettingsError(f"{path} holds no prices; it needs rows with unique_id, ds and y")
    return found


def _csv_rows(path: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    try:
        with (
            gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text,
        ):
            reader = csv.DictReader(text, strict=True)
            _require_columns(path, reader.fieldnames or ())
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row:  # what DictReader calls the fields beyond the header's
                    raise SettingsError(f"{where}: more fields than the header has; write decimals with a point")
                yield where, row["unique_id"], row["ds"], row["y"]
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, EOFError, zlib.error, csv.Error) as error:
        raise SettingsError(f"{path} is no CSV file in UTF-8 (or a broken .gz): {error}") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    import duckdb

    if not path.is_file():
        raise SettingsError(f"cannot read {path}: there is no such file")
    with duckdb.connect() as connection:
        try:
            table = connection.execute("SELECT * FROM read_parquet(?)", [str(path)])
            columns = [str(column[0]) for column in table.description or ()]
            _require_columns(path, columns)
            places = [columns.index(name) for name in ("unique_id", "ds", "y")]
            for number, row in enumerate(iter(table.fetchone, None), start=1):
                yield f"{path}, row {number}", *(row[place] for place in places)
        except duckdb.Error as error:
            raise SettingsError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from None


def _require_columns(path: Path, columns: Iterable[str]) -> None:
    missing = [name for name in ("unique_id", "ds", "y") if name not in columns]
    if missing:
        raise SettingsError(f"{path}, line 1: the column {missing[0]!r} is missing; it needs unique_id, ds and y")
