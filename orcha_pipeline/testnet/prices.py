"""The price APIs of CoinGecko, CoinPaprika and DefiLlama, as far as Orcha asks them.

All three tell the world's price, each in its own shape. They keep their own time as the originals do: CoinGecko's and
DefiLlama's prices are of the last full minute, CoinPaprika's of the last full five.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from orcha_pipeline.testnet.answers import json_answer, rfc3339
from orcha_pipeline.testnet.economy import Economy
from orcha_pipeline.testnet.worlds import DAY, HOUR

COINS: Mapping[str, str] = {"storj": "STORJ", "golem": "GLM", "streamr": "DATA", "grass": "GRASS"}
PAPRIKA_IDS: Mapping[str, str] = {
    "storj-storj": "STORJ",
    "glm-golem": "GLM",
    "data-streamr-datacoin": "DATA",
    "grass-grass": "GRASS",
}
_MAX_DAYS = 365
_MAX_POINTS = 500
_PERIODS = {"1h": HOUR, "1d": DAY}


def _wanted(request: Request, name: str) -> list[str]:
    return [part.strip().lower() for part in request.query_params.get(name, "").split(",") if part.strip()]


def _truth(request: Request, name: str) -> bool:
    return request.query_params.get(name, "false").lower() == "true"


def _simple(economy: Economy, request: Request, token: str, currencies: list[str]) -> dict[str, Any]:
    """One coin's entry in `simple/price`."""
    now = economy.now
    entry: dict[str, Any] = {}
    if "usd" in currencies:
        price = economy.world.price(token, now)
        entry["usd"] = price
        if _truth(request, "include_24hr_change"):
            entry["usd_24h_change"] = (price / economy.world.price(token, now - DAY) - 1.0) * 100.0
    if _truth(request, "include_last_updated_at"):
        entry["last_updated_at"] = now - now % 60
    return entry


def _chart(economy: Economy, token: str, days: float) -> list[list[float]]:
    """`[ms, price]` pairs: as in the original fine for a day, hourly up to ninety, daily beyond."""
    pace = 300 if days <= 1 else HOUR if days <= 90 else DAY
    first = economy.now - int(days * DAY)
    first += -first % pace
    return [[at * 1000, economy.world.price(token, at)] for at in [*range(first, economy.now, pace), economy.now]]


def routes(economy: Economy) -> Router:
    """CoinGecko's addresses, relative to `/api/v3` of the original."""

    async def simple_price(request: Request) -> Response:
        ids, currencies = _wanted(request, "ids"), _wanted(request, "vs_currencies")
        for name, given in (("vs_currencies", currencies), ("ids", ids)):
            if not given:
                return json_answer({"error": f"Missing parameter {name}"}, 400)
        # An unknown id is left out, without an error.
        known = [coin for coin in ids if coin in COINS]
        return json_answer({coin: _simple(economy, request, COINS[coin], currencies) for coin in known})

    async def market_chart(request: Request) -> Response:
        token = COINS.get(request.path_params["id"])
        if token is None:
            return json_answer({"error": "coin not found"}, 404)
        if "usd" not in _wanted(request, "vs_currency"):
            return json_answer({"error": "invalid vs_currency"}, 400)
        try:
            days = float(request.query_params.get("days", ""))
        except ValueError:
            return json_answer({"error": "Missing parameter days"}, 400)
        if not 0 < days <= _MAX_DAYS:
            return json_answer({"error": f"days must be within 1..{_MAX_DAYS}"}, 400)
        return json_answer({"prices": _chart(economy, token, days), "market_caps": [], "total_volumes": []})

    async def ping(_request: Request) -> Response:
        return json_answer({"gecko_says": "(V3) To the Moon!"})

    return Router(
        [
            Route("/ping", ping, methods=["GET"]),
            Route("/simple/price", simple_price, methods=["GET"]),
            Route("/coins/{id}/market_chart", market_chart, methods=["GET"]),
        ],
        redirect_slashes=False,
    )


def paprika_routes(economy: Economy) -> Router:
    """CoinPaprika's addresses, relative to `/v1` of the original."""

    async def ticker(request: Request) -> Response:
        coin = request.path_params["id"]
        token = PAPRIKA_IDS.get(coin)
        if token is None:
            return json_answer({"error": "id not found"}, 404)
        quotes = [part.strip().upper() for part in request.query_params.get("quotes", "USD").split(",")]
        if quotes != ["USD"]:
            return json_answer({"error": "invalid parameters"}, 400)
        now = economy.now - economy.now % 300
        price = economy.world.price(token, economy.now)
        return json_answer(
            {
                "id": coin,
                "name": token.title(),
                "symbol": token,
                "rank": 400,
                "last_updated": rfc3339(now),
                "quotes": {
                    "USD": {
                        "price": price,
                        "volume_24h": None,
                        "percent_change_24h": round((price / economy.world.price(token, now - DAY) - 1.0) * 100.0, 2),
                    }
                },
            }
        )

    return Router([Route("/tickers/{id}", ticker, methods=["GET"])], redirect_slashes=False)


def _llama_coins(text: str) -> dict[str, str]:
    """Coin as asked for -> token, of those that are known; the others are left out without an error."""
    asked = [part.strip() for part in text.split(",")]
    known = {name: COINS.get(name.removeprefix("coingecko:")) for name in asked if name.startswith("coingecko:")}
    return {name: token for name, token in known.items() if token is not None}


def llama_routes(economy: Economy) -> Router:
    """DefiLlama's addresses, relative to `coins.llama.fi`."""

    async def current(request: Request) -> Response:
        now = economy.now - economy.now % 60
        coins = {
            name: {
                "price": economy.world.price(token, economy.now),
                "symbol": token,
                "timestamp": now,
                "confidence": 0.99,
            }
            for name, token in _llama_coins(request.path_params["coins"]).items()
        }
        return json_answer({"coins": coins})

    async def chart(request: Request) -> Response:
        given = request.query_params
        period = _PERIODS.get(given.get("period", "1d"))
        try:
            start, span = int(given.get("start", "")), int(given.get("span", "0"))
        except ValueError:
            return json_answer({"message": "start and span must be whole numbers"}, 400)
        coins = _llama_coins(request.path_params["coins"])
        if period is None or not 0 < span * max(1, len(coins)) <= _MAX_POINTS:
            return json_answer({"message": "unknown period, or too many points"}, 400)
        moments = [start + number * period for number in range(span)]
        return json_answer(
            {
                "coins": {
                    name: {
                        "symbol": token,
                        "confidence": 0.99,
                        "prices": [
                            {"timestamp": at, "price": economy.world.price(token, at)}
                            for at in moments
                            if at <= economy.now
                        ],
                    }
                    for name, token in coins.items()
                }
            }
        )

    return Router(
        [
            Route("/prices/current/{coins}", current, methods=["GET"]),
            Route("/chart/{coins}", chart, methods=["GET"]),
        ],
        redirect_slashes=False,
    )
