"""Rows of the CSV files that worlds and prices are kept in. What is wrong is a `SettingsError` with file and line."""

import csv
import gzip
import io
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from orcha_pipeline.errors import SettingsError


def csv_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row, after checking the header."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8")
    except FileNotFoundError as error:
        raise SettingsError(f"{path} does not exist. Name the file or folder that is there.") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}. Give a UTF-8 CSV file, plain or .gz.") from error
    reader = csv.reader(io.StringIO(text))
    header = next(reader, None)
    if header != list(columns):
        raise SettingsError(f"{path}:1: the header is {header!r}. Write {','.join(columns)}.")
    for row in reader:
        if len(row) != len(columns):
            raise SettingsError(f"{path}:{reader.line_num}: {len(row)} fields. Write {','.join(columns)}.")
        yield reader.line_num, row


def moment_of(path: Path, line: int, text: str) -> int:
    """A time as Unix seconds; one without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(f"{path}:{line}: {text!r} is not a time. Write 2025-01-06T00:00:00Z.") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def number_of(path: Path, line: int, text: str, *, minimum: float) -> float:
    """A finite number from `minimum` on."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < minimum:
        raise SettingsError(
            f"{path}:{line}: {text!r} is not a usable number. Write a finite number that is not below 0."
        )
    return value
