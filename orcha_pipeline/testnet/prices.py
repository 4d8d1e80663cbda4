"""CoinGecko's price API, as far as Orcha asks it: `simple/price` and a coin's `market_chart`."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from orcha_pipeline.testnet.answers import json_answer
from orcha_pipeline.testnet.economy import Economy
from orcha_pipeline.testnet.worlds import DAY, HOUR

COINS: Mapping[str, str] = {"storj": "STORJ", "golem": "GLM", "streamr": "DATA", "grass": "GRASS"}
_MAX_DAYS = 365


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
