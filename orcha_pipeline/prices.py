"""Token prices in USD: CoinGecko's, pinned ones, and files of past prices."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

import httpx
from pydantic import BaseModel

from orcha_pipeline.clock import Clock
from orcha_pipeline.errors import AdapterError, SettingsError
from orcha_pipeline.model import PriceReading, Provenance, Window
from orcha_pipeline.protocols.http import NodeHttp
from orcha_pipeline.protocols.parsing import Amount, parse
from orcha_pipeline.settings import PriceSettings

TOKENS = {"STORJ": "storj", "GLM": "golem", "DATA": "streamr", "GRASS": "grass"}
"""Ticker -> the token's id, which is CoinGecko's."""
SOURCE = "coingecko"
TIMEOUT_SECONDS = 10.0
LARGEST_JUMP = Decimal("0.5")
SHORTEST_HISTORY_DAYS = 2
"""Of a single day CoinGecko gives a price every 5 minutes, of 2 to 90 days one an hour."""
LONGEST_HISTORY_DAYS = 90
LARGEST_PRICE = Decimal(10) ** 12
_EXACT = Context(prec=40)


class _Chart(BaseModel):
    prices: list[tuple[Amount, Amount]]


class PriceClient:
    """Reads prices of all tokens in one call. Pinned prices are never asked for."""

    def __init__(self, settings: PriceSettings, clock: Clock, transport: httpx.BaseTransport | None = None) -> None:
        """`transport` replaces the network. Raises `SettingsError` for a bad address or an unknown pinned token."""
        self.tokens: tuple[str, ...] = tuple(TOKENS.values())
        self._pinned = {_token_of(name): Decimal(repr(usd)) for name, usd in settings.pinned.items()}
        unknown = sorted(set(self._pinned) - set(self.tokens))
        if unknown:
            raise SettingsError(f"prices.pinned: unknown token {unknown[0]!r}; known are {_known()}")
        self._stale_after = timedelta(minutes=settings.stale_after_minutes)
        self._clock = clock
        headers = {"x-cg-demo-api-key": settings.api_key} if settings.api_key else None
        self._http = NodeHttp(
            "prices", settings.url, headers=headers, timeout_seconds=TIMEOUT_SECONDS, transport=transport
        )

    def read(self, previous: Mapping[str, Decimal]) -> list[PriceReading]:
        """A reading per token. `previous`: token -> the price last accepted, against which a jump is judged.

        A price that cannot be had or believed is None, its `source` says why. A stale one is our estimate.
        """
        asked = [token for token in self.tokens if token not in self._pinned]
        quotes: Mapping[str, Any] = {}
        failure = ""
        if asked:
            params = {"ids": ",".join(asked), "vs_currencies": "usd", "include_last_updated_at": "true"}
            try:
                payload = self._http.get_json("/simple/price", params | {"precision": "full"})
                quotes = parse("prices", "/simple/price", dict[str, Any], payload)
            except AdapterError as error:
                failure = f"{error.kind}: {error.message}"
        now = self._clock.now()
        return [
            self._pinned_reading(token, now)
            if token in self._pinned
            else self._unknown(token, now, failure)
            if failure
            else self._judged(token, now, quotes.get(token), previous.get(token))
            for token in self.tokens
        ]

    def history(self, token: str, window: Window) -> list[PriceReading]:
        """Past prices inside `window`, about one an hour, no older than 90 days. Raises `AdapterError`.

        Of a pinned token: the pinned price at the window's start and every hour after it.
        """
        if token in self._pinned:
            hours = range(int(window.hours) + 1)
            moments = [window.start + timedelta(hours=hour) for hour in hours]
            usd = self._pinned[token]
            return [
                replace(_past(token, at, usd, "pinned in the settings"), provenance=Provenance.OUR_ESTIMATE)
                for at in moments
                if at < window.end
            ]
        now = self._clock.now()
        days = min(LONGEST_HISTORY_DAYS, max(SHORTEST_HISTORY_DAYS, (now - window.start).days + 1))
        path = f"/coins/{token}/market_chart"
        chart = parse("prices", path, _Chart, self._http.get_json(path, {"vs_currency": "usd", "days": days}))
        found: list[PriceReading] = []
        for milliseconds, usd in chart.prices:
            at = _from_unix(milliseconds / 1000)
            price = _positive(usd)
            if at is not None and window.start <= at < window.end and price is not None:
                found.append(_past(token, at, price, f"{SOURCE} market_chart"))
        return found

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _pinned_reading(self, token: str, now: datetime) -> PriceReading:
        return PriceReading(
            token=token,
            observed_at=now,
            usd=self._pinned[token],
            priced_at=now,
            provenance=Provenance.OUR_ESTIMATE,
            source="pinned in the settings",
        )

    def _unknown(self, token: str, now: datetime, why: str, priced_at: datetime | None = None) -> PriceReading:
        return PriceReading(
            token=token,
            observed_at=now,
            usd=None,
            priced_at=priced_at,
            provenance=Provenance.UNKNOWN,
            source=f"{SOURCE}: {why}",
        )

    def _judged(self, token: str, now: datetime, quote: Any, previous: Decimal | None) -> PriceReading:
        if not isinstance(quote, dict):
            return self._unknown(token, now, "the token is missing from the answer")
        # Judged by hand rather than parsed as a whole: one token's bad quote must not spoil the others.
        fields = cast("dict[str, Any]", quote)
        usd, priced_at = _positive(fields.get("usd")), _from_unix(fields.get("last_updated_at"))
        if usd is None:
            return self._unknown(token, now, "no usable price in the answer", priced_at)
        if priced_at is None:
            return self._unknown(token, now, "the price has no time (last_updated_at)")
        if previous is not None and previous > 0 and abs(usd - previous) > LARGEST_JUMP * previous:
            why = f"a jump from {previous.normalize():f} to {usd.normalize():f} USD is not believed"
            return self._unknown(token, now, why, priced_at)
        stale = now - priced_at > self._stale_after
        return PriceReading(
            token=token,
            observed_at=now,
            usd=usd,
            priced_at=priced_at,
            provenance=Provenance.OUR_ESTIMATE if stale else Provenance.MEASURED,
            source=f"{SOURCE}, stale since {priced_at:%Y-%m-%d %H:%M} UTC" if stale else SOURCE,
        )


def read_price_file(path: Path) -> list[PriceReading]:
    """Hourly prices from a CSV (also .gz) or Parquet file with the columns `unique_id`, `ds` and `y`.

    `unique_id` is a ticker (STORJ, GLM, DATA, GRASS) or a token's id, `ds` the price's time (UTC where it has no
    zone), `y` US dollars. Each reading is stamped with the price's own time. `SettingsError` names file and line.
    """
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _csv_rows(path)
    found: list[PriceReading] = []
    seen: set[tuple[str, datetime]] = set()
    for where, unique_id, ds, y in rows:
        token = _token_of(str(unique_id))
        if token not in TOKENS.values():
            raise SettingsError(f"{where}: unknown unique_id {str(unique_id)[:40]!r}; known are {_known()}")
        at = _moment(ds)
        if at is None:
            raise SettingsError(f"{where}: ds {str(ds)[:40]!r} is no time; write it as 2026-11-20 10:00:00 (UTC)")
        usd = _positive(y)
        if usd is None:
            raise SettingsError(
                f"{where}: y {str(y)[:40]!r} is no price; write US dollars above 0, or leave the row out"
            )
        if (token, at) in seen:
            raise SettingsError(f"{where}: {unique_id} has a second price for {at:%Y-%m-%d %H:%M}; remove one")
        seen.add((token, at))
        found.append(_past(token, at, usd, f"file {path.name}"))
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


def _past(token: str, at: datetime, usd: Decimal, source: str) -> PriceReading:
    return PriceReading(
        token=token, observed_at=at, usd=usd, priced_at=at, provenance=Provenance.MEASURED, source=source
    )


def _known() -> str:
    return ", ".join(f"{ticker} ({token})" for ticker, token in TOKENS.items())


def _token_of(name: str) -> str:
    return TOKENS.get(name.upper(), name)


def _positive(value: Any) -> Decimal | None:
    """A price: finite, above 0, to 18 places; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    try:
        number = Decimal(
            value.strip() if isinstance(value, str) else repr(value) if isinstance(value, float) else value
        )
    except InvalidOperation:
        return None
    if not number.is_finite() or not Decimal("1e-18") <= number < LARGEST_PRICE:
        return None
    return number.quantize(Decimal("1e-18"), context=_EXACT)


def _from_unix(seconds: Any) -> datetime | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | Decimal):
        return None
    try:
        return datetime.fromtimestamp(float(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _moment(value: Any) -> datetime | None:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
