"""Where token prices come from: CoinGecko, CoinPaprika, DefiLlama and Coinbase, each in its own shape.

A source asks as few questions as its API lets it and judges each token by itself: one that is missing or mangled
spoils no other. What is believed of the quotes is decided in `prices`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, InvalidOperation
from typing import Any, ClassVar, Protocol, cast
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel

from orcha_pipeline.errors import AdapterError
from orcha_pipeline.model import Window
from orcha_pipeline.protocols.http import NodeHttp
from orcha_pipeline.protocols.parsing import Amount, parse
from orcha_pipeline.settings import PriceSettings

TOKENS = {"STORJ": "storj", "GLM": "golem", "DATA": "streamr", "GRASS": "grass"}
"""Ticker -> the token's id, which is CoinGecko's."""
TIMEOUT_SECONDS = 10.0
LARGEST_PRICE = Decimal(10) ** 12
LEAST_CONFIDENCE = Decimal("0.5")
"""DefiLlama's own, 0 to 1; it gives 0.9 and more to what it is sure of."""
_TICKERS = {token: ticker for ticker, token in TOKENS.items()}
_EXACT = Context(prec=40)


@dataclass(frozen=True, slots=True)
class Quote:
    """USD for one token. `priced_at`: the source's own time; None where it tells none, so that it is of now."""

    usd: Decimal
    priced_at: datetime | None


class PriceSource(Protocol):
    """One source. Methods raise `AdapterError` where it fails as a whole."""

    name: ClassVar[str]

    def quotes(self, tokens: Sequence[str]) -> Mapping[str, Quote | str]:
        """Token -> its quote, or why there is none."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class PriceHistory(PriceSource, Protocol):
    """A source that remembers."""

    def history(self, token: str, window: Window, now: datetime) -> list[tuple[datetime, Decimal]]:
        """(moment, USD) about every hour inside `window`, as far back as the source keeps hours."""
        ...


def open_sources(settings: PriceSettings, transport: httpx.BaseTransport | None = None) -> list[PriceSource]:
    """The sources that `settings` name, in their order. `transport` replaces the network."""

    def http(name: str, url: str, headers: Mapping[str, Any] | None = None) -> NodeHttp:
        # Asked once: the others cover for one that fails, and a source that is busy must not be asked at once again.
        return NodeHttp(name, url, headers=headers, timeout_seconds=TIMEOUT_SECONDS, transport=transport, attempts=1)

    makers: dict[str, Callable[[], PriceSource]] = {
        CoinGecko.name: lambda: CoinGecko(http(CoinGecko.name, settings.url, _gecko_key(settings))),
        CoinPaprika.name: lambda: CoinPaprika(http(CoinPaprika.name, settings.coinpaprika_url)),
        DefiLlama.name: lambda: DefiLlama(http(DefiLlama.name, settings.defillama_url)),
        Coinbase.name: lambda: Coinbase(http(Coinbase.name, settings.coinbase_url)),
    }
    return [makers[name]() for name in settings.asked_sources]


def _gecko_key(settings: PriceSettings) -> Mapping[str, Any]:
    if settings.api_key is None:
        return {}
    paid = urlsplit(settings.url).hostname == "pro-api.coingecko.com"
    return {"x-cg-pro-api-key" if paid else "x-cg-demo-api-key": settings.api_key}


class _GeckoChart(BaseModel):
    prices: list[tuple[Amount, Amount]]


class CoinGecko:
    """One call for all tokens. Unknown ids are left out of the answer."""

    name: ClassVar[str] = "coingecko"
    shortest_history_days = 2
    """Of a single day it gives a price every 5 minutes, of 2 to 90 days one an hour."""
    longest_history_days = 90

    def __init__(self, http: NodeHttp) -> None:
        self._http = http

    def quotes(self, tokens: Sequence[str]) -> Mapping[str, Quote | str]:
        """From `simple/price`."""
        params = {"ids": ",".join(tokens), "vs_currencies": "usd", "include_last_updated_at": "true"}
        payload = self._http.get_json("/simple/price", params | {"precision": "full"})
        found = parse(self.name, "/simple/price", dict[str, Any], payload)
        return {
            token: _quote(found.get(token), lambda f: (f.get("usd"), from_unix(f.get("last_updated_at"))))
            for token in tokens
        }

    def history(self, token: str, window: Window, now: datetime) -> list[tuple[datetime, Decimal]]:
        """From a coin's `market_chart`, no older than 90 days."""
        days = min(self.longest_history_days, max(self.shortest_history_days, (now - window.start).days + 1))
        path = f"/coins/{token}/market_chart"
        payload = self._http.get_json(path, {"vs_currency": "usd", "days": days})
        chart = parse(self.name, path, _GeckoChart, payload)
        return list(_inside(window, ((from_unix(at / 1000), usd) for at, usd in chart.prices)))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class CoinPaprika:
    """A call a token: its only batched answer holds every coin there is."""

    name: ClassVar[str] = "coinpaprika"
    ids: ClassVar[Mapping[str, str]] = {
        "storj": "storj-storj",
        "golem": "glm-golem",
        "streamr": "data-streamr-datacoin",
        "grass": "grass-grass",
    }

    def __init__(self, http: NodeHttp) -> None:
        self._http = http

    def quotes(self, tokens: Sequence[str]) -> Mapping[str, Quote | str]:
        """From `tickers/ID`."""
        return _one_by_one(tokens, self._quote)

    def _quote(self, token: str) -> Quote | str:
        if token not in self.ids:
            return "it is not known by which name this source has the token"
        payload = self._http.get_json(f"/tickers/{self.ids[token]}", {"quotes": "USD"})
        symbol: Any = _table(payload).get("symbol")
        if isinstance(symbol, str) and symbol.upper() != _TICKERS[token]:
            return f"the answer is about another coin, {symbol[:12]!r}"
        return _quote(
            payload,
            lambda f: (_table(_table(f.get("quotes")).get("USD")).get("price"), from_text(f.get("last_updated"))),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class _LlamaPoint(BaseModel):
    timestamp: Amount
    price: Amount


class _LlamaSeries(BaseModel):
    prices: list[_LlamaPoint]


class _LlamaChart(BaseModel):
    coins: dict[str, _LlamaSeries]


class DefiLlama:
    """One call for all tokens, by their CoinGecko ids; a token it does not know is left out."""

    name: ClassVar[str] = "defillama"
    points_a_call = 400

    def __init__(self, http: NodeHttp) -> None:
        self._http = http

    def quotes(self, tokens: Sequence[str]) -> Mapping[str, Quote | str]:
        """From `prices/current`."""
        payload = self._http.get_json(f"/prices/current/{','.join(f'coingecko:{token}' for token in tokens)}")
        coins = parse(self.name, "/prices/current", dict[str, Any], payload).get("coins")
        if not isinstance(coins, dict):
            coins = parse(self.name, "/prices/current: coins", dict[str, Any], coins)
        found = cast("dict[str, Any]", coins)
        return {token: self._quote(found.get(f"coingecko:{token}")) for token in tokens}

    def _quote(self, coin: Any) -> Quote | str:
        confidence = usd_price(_table(coin).get("confidence"))
        if confidence is not None and confidence < LEAST_CONFIDENCE:
            return f"it trusts its own price only by {confidence.normalize():f}"
        return _quote(coin, lambda f: (f.get("price"), from_unix(f.get("timestamp"))))

    def history(self, token: str, window: Window, now: datetime) -> list[tuple[datetime, Decimal]]:
        """From `chart`, hour by hour."""
        coin, found = f"coingecko:{token}", list[tuple[datetime, Decimal]]()
        start, end = window.start, min(window.end, now)
        while start < end:
            span = min(self.points_a_call, int((end - start) / timedelta(hours=1)) + 1)
            params = {"start": int(start.timestamp()), "span": span, "period": "1h"}
            path = f"/chart/{coin}"
            chart = parse(self.name, path, _LlamaChart, self._http.get_json(path, params))
            series = chart.coins.get(coin)
            points = series.prices if series else []
            part = Window(start, min(end, start + timedelta(hours=span)))
            found += _inside(part, ((from_unix(point.timestamp), point.price) for point in points))
            start = part.end
        return found

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class Coinbase:
    """A call a token. The spot price has no time of its own; what is not traded there is not found."""

    name: ClassVar[str] = "coinbase"

    def __init__(self, http: NodeHttp) -> None:
        self._http = http

    def quotes(self, tokens: Sequence[str]) -> Mapping[str, Quote | str]:
        """From `v2/prices/TICKER-USD/spot`."""
        return _one_by_one(tokens, self._quote)

    def _quote(self, token: str) -> Quote | str:
        ticker = _TICKERS.get(token)
        if ticker is None:
            return "it is not known by which name this source has the token"
        payload = self._http.get_json(f"/v2/prices/{ticker}-USD/spot")
        data = _table(_table(payload).get("data"))
        for key, expected in (("base", ticker), ("currency", "USD")):
            given = data.get(key, expected)
            if given != expected:
                return f"the answer is about another pair, {str(given)[:12]!r}"
        usd = usd_price(data.get("amount"))
        return "no usable price in the answer" if usd is None else Quote(usd, None)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _one_by_one(tokens: Sequence[str], ask: Callable[[str], Quote | str]) -> dict[str, Quote | str]:
    """A call a token. A failure that the next call would meet as well ends the round; raised if all failed."""
    found: dict[str, Quote | str] = {}
    failure: AdapterError | None = None
    for token in tokens:
        if failure is not None and _is_the_sources(failure):
            found[token] = failure.message
            continue
        try:
            found[token] = ask(token)
        except AdapterError as error:
            failure = error
            found[token] = error.message
    if failure is not None and _is_the_sources(failure) and not any(isinstance(q, Quote) for q in found.values()):
        raise failure
    return found


def _is_the_sources(error: AdapterError) -> bool:
    """Whether the source failed, rather than this token's question."""
    return getattr(error, "status", 500) != 404 and error.kind != "parse"


def _quote(fields: Any, read: Callable[[dict[str, Any]], tuple[Any, datetime | None]]) -> Quote | str:
    if not isinstance(fields, dict):
        return "the token is missing from the answer"
    value, priced_at = read(cast("dict[str, Any]", fields))
    usd = usd_price(value)
    if usd is None:
        return "no usable price in the answer"
    return "the price has no time" if priced_at is None else Quote(usd, priced_at)


def _table(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _inside(window: Window, points: Iterator[tuple[datetime | None, Decimal]]) -> Iterator[tuple[datetime, Decimal]]:
    for at, value in points:
        usd = usd_price(value)
        if at is not None and window.start <= at < window.end and usd is not None:
            yield at, usd


# --- values as sources and files write them


def known_tokens(tokens: Iterable[str] = ()) -> str:
    """The tokens built in, and `tokens` beside them, for messages."""
    built_in = [f"{ticker} ({token})" for ticker, token in TOKENS.items()]
    return ", ".join([*built_in, *(token for token in tokens if token not in _TICKERS)])


def token_of(name: str) -> str:
    """The id of a ticker; anything else as it is."""
    return TOKENS.get(name.upper(), name)


def usd_price(value: Any) -> Decimal | None:
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


def from_unix(seconds: Any) -> datetime | None:
    """A time from Unix seconds."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | Decimal):
        return None
    try:
        return datetime.fromtimestamp(float(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def from_text(value: Any) -> datetime | None:
    """A time in ISO 8601, UTC where it has no zone."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
