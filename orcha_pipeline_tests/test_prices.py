import json
import socket
import threading
from datetime import UTC, timedelta
from decimal import Decimal

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from orcha_pipeline import prices as policy
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AdapterError, ApiError, ParseError, SettingsError
from orcha_pipeline.model import PriceReading, Provenance, Window
from orcha_pipeline.prices import PriceClient
from orcha_pipeline.protocols.registry import tokens_of
from orcha_pipeline.settings import PriceSettings
from orcha_pipeline_tests.protocols.fakes import NOW, SECRET, Script
from orcha_pipeline_tests.protocols.fakes import settings as node_settings

GECKO = "/api/v3/simple/price"
LLAMA = "/prices/current/coingecko:storj,coingecko:golem,coingecko:streamr,coingecko:grass"
PRICES = {"storj": 0.2412, "golem": 0.2291, "streamr": 1.81e-05, "grass": 0.61}
PAPRIKA = {
    "storj": "/v1/tickers/storj-storj",
    "golem": "/v1/tickers/glm-golem",
    "streamr": "/v1/tickers/data-streamr-datacoin",
    "grass": "/v1/tickers/grass-grass",
}
TICKERS = {"storj": "STORJ", "golem": "GLM", "streamr": "DATA", "grass": "GRASS"}
MINUTE = timedelta(minutes=1)


def gecko(age=MINUTE, **changes):
    """CoinGecko's answer; a number is that token's price, None leaves it out, anything else is its entry."""
    at = int((NOW - age).timestamp())
    entries = {t: {"usd": usd, "usd_24h_change": None, "last_updated_at": at} for t, usd in PRICES.items()}
    for token, change in changes.items():
        entries[token] = entries[token] | {"usd": change} if isinstance(change, int | float) else change
    return {token: entry for token, entry in entries.items() if entry is not None}


def llama(age=MINUTE, **changes):
    at = int((NOW - age).timestamp())
    found = {}
    for token, usd in (PRICES | changes).items():
        coin = {"price": usd, "symbol": TICKERS[token], "timestamp": at, "confidence": 0.99}
        found[f"coingecko:{token}"] = usd if isinstance(usd, dict | None) else coin
    return {"coins": found}


def ticker(token, usd=None, age=MINUTE, **changes):
    at = (NOW - age).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    price = PRICES[token] if usd is None else usd
    return {"id": "x", "symbol": TICKERS[token], "last_updated": at, "quotes": {"USD": {"price": price}}} | changes


def paprika(**changes):
    return {path: changes.get(token, ticker(token)) for token, path in PAPRIKA.items()}


def market(**changes):
    """All three sources, well; keys are `gecko`, `llama`, and those of `paprika`."""
    return {GECKO: changes.pop("gecko", gecko()), LLAMA: changes.pop("llama", llama())} | paprika(**changes)


def client(routes=None, *, clock=None, **settings):
    script = Script(market() if routes is None else routes)
    made = PriceClient(PriceSettings.model_validate(settings), clock or FixedClock(NOW), script, pause=lambda: None)
    return made, script


def read(routes=None, previous=(), **settings):
    return {r.token: r for r in client(routes, **settings)[0].read(previous)}


def alone(answer=None, previous=(), **settings):
    """CoinGecko as the only source."""
    return read({GECKO: gecko() if answer is None else answer}, previous, sources=["coingecko"], **settings)


def known(usd, *, token="storj", priced=timedelta(minutes=30), seen=None, source="coingecko"):
    seen = priced if seen is None else seen
    return PriceReading(
        token=token,
        observed_at=NOW - seen,
        usd=None if usd is None else Decimal(usd),
        priced_at=NOW - priced,
        provenance=Provenance.UNKNOWN if usd is None else Provenance.MEASURED,
        source=source,
    )


# --- what is asked


def test_coingecko_is_asked_once_for_all_tokens():
    prices, script = client({GECKO: gecko()}, sources=["coingecko"], api_key=SECRET)
    found = {r.token: r for r in prices.read()}
    assert set(found) == set(prices.tokens) == {"storj", "golem", "streamr", "grass"}
    assert found["storj"].usd == Decimal("0.2412")
    assert found["streamr"].usd == Decimal("0.0000181")
    assert found["storj"].provenance is Provenance.MEASURED
    assert found["storj"].priced_at == NOW - MINUTE
    assert found["storj"].source == "coingecko"
    (request,) = script.requests
    assert dict(request.url.params) == {
        "ids": "storj,golem,streamr,grass",
        "vs_currencies": "usd",
        "include_last_updated_at": "true",
        "precision": "full",
    }
    assert request.headers["x-cg-demo-api-key"] == SECRET


def test_the_paid_api_of_coingecko_takes_its_own_header_and_no_other_source_gets_the_key():
    paid, script = client(url="https://pro-api.coingecko.com/api/v3", api_key=SECRET)
    paid.read()
    for request in script.requests:
        ours = request.url.host == "pro-api.coingecko.com"
        assert request.headers.get("x-cg-pro-api-key") == (SECRET if ours else None)
        assert "x-cg-demo-api-key" not in request.headers


def test_by_default_three_sources_are_asked_and_the_price_is_their_median():
    prices, script = client(market(gecko=gecko(storj=0.24), llama=llama(storj=0.26), storj=ticker("storj", 0.25)))
    found = {r.token: r for r in prices.read()}
    assert found["storj"].usd == Decimal("0.25")
    assert found["storj"].source == "median of coingecko, coinpaprika, defillama"
    assert {r.url.host for r in script.requests} == {"api.coingecko.com", "api.coinpaprika.com", "coins.llama.fi"}
    assert len(script.requests) == 1 + 4 + 1


def test_the_median_of_two_is_between_them_and_as_old_as_the_older():
    found = read(market(gecko=gecko(age=4 * MINUTE, storj=0.24), llama=llama(storj=0.25), storj=httpx.Response(404)))
    assert found["storj"].usd == Decimal("0.245")
    assert found["storj"].priced_at == NOW - 4 * MINUTE
    assert found["storj"].source.startswith("median of coingecko, defillama; coinpaprika: https://")


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {"coingecko", "coinpaprika", "defillama"}),
        ({"url": "https://pro-api.coingecko.com/api/v3"}, {"coingecko", "coinpaprika", "defillama"}),
        ({"url": "http://127.0.0.1:8414/coingecko"}, {"coingecko"}),
        (
            {"url": "http://127.0.0.1:1/coingecko", "defillama_url": "http://127.0.0.1:1/defillama"},
            {"coingecko", "defillama"},
        ),
        ({"url": "http://127.0.0.1:1/coingecko", "sources": ["coinbase", "coinbase"]}, {"coinbase"}),
    ],
)
def test_where_coingeckos_address_is_moved_no_other_source_is_asked_unasked_for(given, asked):
    hosts = {"api.coinpaprika.com": "coinpaprika", "coins.llama.fi": "defillama", "api.coinbase.com": "coinbase"}
    prices, script = client({}, **given)
    prices.read()
    names = {hosts.get(r.url.host, "defillama" if "defillama" in r.url.path else "coingecko") for r in script.requests}
    assert names == asked == set(PriceSettings.model_validate(given).asked_sources)


def test_each_source_has_a_moment_of_its_own_unless_it_is_on_this_machine(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(policy.time, "sleep", slept.append)
    PriceClient(PriceSettings(), FixedClock(NOW), Script(market())).read()
    assert len(slept) == 3
    assert len(set(slept)) > 1
    assert all(0 <= seconds <= 1 for seconds in slept)
    local = PriceSettings(url="http://127.0.0.1:8414/api/v3")
    PriceClient(local, FixedClock(NOW), Script({GECKO: gecko()})).read()
    assert len(slept) == 3


def test_sources_are_asked_at_the_same_time():
    others = threading.Semaphore(0)
    answered = market()

    def hang(_request):
        # Ends only once the two other sources have been asked in full.
        for _ in range(2):
            others.acquire()
        return answered[GECKO]

    def counted(path):
        def answer(_request):
            others.release()
            return answered[path]

        return answer

    routes = answered | {GECKO: hang, LLAMA: counted(LLAMA), PAPRIKA["grass"]: counted(PAPRIKA["grass"])}
    assert read(routes)["storj"].source == "median of coingecko, coinpaprika, defillama"


def test_a_source_that_never_answers_is_left_behind(monkeypatch):
    monkeypatch.setattr(policy, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(policy, "GRACE_SECONDS", 0.0)
    release = threading.Event()
    try:
        found = read(market() | {GECKO: lambda _request: release.wait() and {}})
    finally:
        release.set()
    for reading in found.values():
        assert reading.source == "median of coinpaprika, defillama; coingecko: no answer within 0.3 s"


def test_a_dead_source_over_a_real_socket_spoils_no_other():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings = PriceSettings(url=f"http://127.0.0.1:{port}")
    (reading, *_) = PriceClient(settings, FixedClock(NOW)).read()
    assert reading.usd is None
    assert reading.source.startswith("coingecko: connection: ")


# --- how often


def test_a_source_is_asked_no_more_than_once_a_minute():
    clock = FixedClock(NOW)
    prices, script = client(clock=clock)
    first = prices.read()
    clock.set(NOW + timedelta(seconds=59))
    assert prices.read() == first
    assert len(script.requests) == 6
    clock.set(NOW + timedelta(seconds=60))
    assert prices.read() != first
    assert len(script.requests) == 12


def test_what_another_process_has_just_read_is_given_again_unasked_even_if_it_failed():
    earlier = [known(usd, token=token, priced=timedelta(seconds=50)) for token, usd in PRICES.items()]
    earlier[0] = known(None, priced=timedelta(seconds=50), source="coingecko: HTTP 429")
    prices, script = client()
    assert prices.read(earlier) == earlier
    assert script.requests == []
    assert len(prices.read(earlier[:3])) == 4
    assert len(script.requests) == 6, "of one token nothing is known"


def test_a_reading_from_the_future_or_a_pinned_one_is_not_given_again():
    ahead = [known("0.2", token=t, priced=-MINUTE) for t in PRICES]
    pinned = [known("0.2", token=t, priced=timedelta(0), source="pinned in the settings") for t in PRICES]
    for earlier in (ahead, pinned):
        prices, script = client()
        prices.read(earlier)
        assert len(script.requests) == 6


def test_a_source_that_is_busy_is_left_alone_for_as_long_as_it_asks():
    clock = FixedClock(NOW)
    busy = httpx.Response(429, html="<h1>slow down</h1>", headers={"retry-after": "600"})
    prices, script = client(market(gecko=busy), clock=clock)
    asked = lambda: [r.url.path for r in script.requests].count(GECKO)  # noqa: E731
    assert "asks to wait 600 s" in prices.read()[0].source
    assert asked() == 1, "a busy source is not asked again at once"
    clock.set(NOW + timedelta(seconds=599))
    assert "coingecko: api: asked to be left alone until 12:10:00 UTC" in prices.read()[0].source
    assert asked() == 1
    with pytest.raises(ApiError, match="left alone"):
        prices.history("storj", Window(NOW - timedelta(hours=2), NOW))
    clock.set(NOW + timedelta(seconds=660))
    prices.read()
    assert asked() == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_source_in_trouble_is_asked_once_not_three_times(status):
    prices, script = client(market(gecko=httpx.Response(status)))
    prices.read()
    assert [r.url.path for r in script.requests].count(GECKO) == 1


# --- what is believed


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {"usd": None, "last_updated_at": 1},
        {"usd": 0, "last_updated_at": 1},
        {"usd": -1, "last_updated_at": 1},
        {"usd": True, "last_updated_at": 1},
        {"usd": "abc", "last_updated_at": 1},
        {"usd": 0.2, "last_updated_at": None},
        {"usd": 0.2, "last_updated_at": 10**30},
    ],
)
def test_a_quote_that_is_none_spoils_no_other_token_and_no_other_source(entry):
    quote = {**entry, "last_updated_at": int(NOW.timestamp())} if isinstance(entry, dict) and "usd" in entry else entry
    if isinstance(entry, dict) and entry.get("last_updated_at") != 1:
        quote = entry
    answer = gecko() | {"storj": quote}
    found = alone(answer)
    assert found["storj"].usd is None
    assert found["storj"].provenance is Provenance.UNKNOWN
    assert found["golem"].usd == Decimal("0.2291")
    found = read(market(gecko=answer))
    assert found["storj"].usd == Decimal("0.2412")
    assert found["storj"].source.startswith("median of coinpaprika, defillama; coingecko: ")


def test_a_token_left_out_of_the_answer_is_unknown():
    found = alone({})
    assert {r.usd for r in found.values()} == {None}
    assert "missing from the answer" in found["grass"].source


@pytest.mark.parametrize(
    ("age", "usd", "provenance"),
    [
        (5, "0.2412", Provenance.MEASURED),
        (6, "0.2412", Provenance.OUR_ESTIMATE),
        (60, "0.2412", Provenance.OUR_ESTIMATE),
        (61, None, Provenance.UNKNOWN),
        (-5, "0.2412", Provenance.MEASURED),
        (-6, None, Provenance.UNKNOWN),
    ],
)
def test_a_price_is_fresh_for_five_minutes_usable_for_an_hour_and_then_none(age, usd, provenance):
    reading = alone(gecko(age=age * MINUTE))["storj"]
    assert (reading.usd, reading.provenance) == (usd and Decimal(usd), provenance)
    assert ("stale" in reading.source) == (provenance is Provenance.OUR_ESTIMATE)
    assert reading.priced_at is None or reading.priced_at <= NOW


def test_a_fresh_quote_is_used_without_the_stale_ones():
    found = read(market(gecko=gecko(age=20 * MINUTE, storj=0.2), storj=ticker("storj", 0.21, age=20 * MINUTE)))
    assert (found["storj"].usd, found["storj"].source) == (Decimal("0.2412"), "defillama")
    assert found["storj"].provenance is Provenance.MEASURED


def test_of_stale_quotes_the_newest_are_used():
    stale = market(
        gecko=gecko(age=40 * MINUTE, storj=0.22), llama=llama(age=10 * MINUTE), storj=ticker("storj", age=12 * MINUTE)
    )
    reading = read(stale)["storj"]
    assert reading.source == "median of coinpaprika, defillama; stale, of 2026-11-20 11:48 UTC"
    assert (reading.usd, reading.provenance) == (Decimal("0.2412"), Provenance.OUR_ESTIMATE)


@pytest.mark.parametrize(
    ("previous", "believed"), [("0.1608", True), ("0.1607", False), ("0.4824", True), ("0.4825", False)]
)
def test_a_jump_of_more_than_half_by_a_single_source_is_not_believed(previous, believed):
    reading = alone(previous=[known(previous, priced=timedelta(minutes=90))])["storj"]
    assert (reading.usd is not None) == believed
    assert believed or reading.source == f"coingecko: a jump from {previous} to 0.2412 USD is not believed"


def test_a_jump_that_a_second_source_agrees_with_is_believed():
    previous = [known("0.1")]
    two = market(llama=llama(storj=0.25), storj=httpx.Response(500))
    assert read(two, previous)["storj"].usd == Decimal("0.2456")
    apart = market(llama=llama(storj=0.35), storj=httpx.Response(500))
    reading = read(apart, previous)["storj"]
    assert reading.usd == Decimal("0.1")
    assert reading.source.count("is not believed") == 2


def test_one_source_that_jumps_is_left_out_of_the_median():
    reading = read(market(gecko=gecko(storj=24.12)), [known("0.24")])["storj"]
    assert reading.usd == Decimal("0.2412")
    assert reading.source == (
        "median of coinpaprika, defillama; coingecko: a jump from 0.24 to 24.12 USD is not believed"
    )


def test_with_no_price_before_sources_that_contradict_each_other_are_not_believed():
    two = market(gecko=gecko(storj=24.12), storj=httpx.Response(500))
    reading = read(two)["storj"]
    assert reading.usd is None
    assert "coingecko: 24.12 USD is not believed, no other source agrees" in reading.source
    assert read(market(gecko=gecko(storj=24.12)))["storj"].usd == Decimal("0.2412"), "two against one"


@pytest.mark.parametrize(("age", "judged"), [(120, True), (121, False)])
def test_a_real_move_is_refused_for_two_hours_at_most(age, judged):
    reading = alone(previous=[known("0.1", priced=age * MINUTE, seen=MINUTE * 3)])["storj"]
    assert (reading.usd is None) == judged


def test_no_market_price_is_held_against_a_pinned_one():
    assert alone(previous=[known("0.1", source="pinned in the settings")])["storj"].usd == Decimal("0.2412")


# --- what stands in


@pytest.mark.parametrize(
    ("age", "usd", "provenance"),
    [
        (4, "0.25", Provenance.MEASURED),
        (6, "0.25", Provenance.OUR_ESTIMATE),
        (60, "0.25", Provenance.OUR_ESTIMATE),
        (61, None, Provenance.UNKNOWN),
    ],
)
def test_while_no_source_answers_the_last_price_stands_in_until_it_is_too_old(age, usd, provenance):
    reading = alone(httpx.Response(500), [known("0.25", priced=age * MINUTE)])["storj"]
    assert (reading.usd, reading.provenance) == (usd and Decimal(usd), provenance)
    assert "coingecko: api: " in reading.source
    if usd:
        assert reading.priced_at == NOW - age * MINUTE, "it does not grow younger by being kept"
        assert reading.source.startswith(f"kept of {NOW - age * MINUTE:%Y-%m-%d %H:%M} UTC, coingecko; ")


def test_a_price_kept_over_and_over_ages_from_when_it_was_priced():
    clock = FixedClock(NOW)
    prices, _ = client({}, clock=clock, sources=["coingecko"])
    rows = [known("0.25", priced=timedelta(0))]
    seen = []
    for minutes in range(15, 91, 15):
        clock.set(NOW + minutes * MINUTE)
        rows += prices.read(rows)
        seen.append(next(r for r in rows[::-1] if r.token == "storj"))
    assert [r.usd for r in seen] == [Decimal("0.25")] * 4 + [None] * 2
    assert {r.source.split(";")[0] for r in seen[:4]} == {"kept of 2026-11-20 12:00 UTC, coingecko"}


def test_the_last_price_stands_in_for_older_quotes_but_not_for_newer_ones():
    for age, expected in ((40, "0.25"), (20, "0.2412")):
        found = alone(gecko(age=age * MINUTE), [known("0.25", priced=30 * MINUTE)])
        assert found["storj"].usd == Decimal(expected)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(429, json={"status": {"error_code": 429}}, headers={"retry-after": "60"}),
        httpx.Response(403, html="error code: 1020"),
        httpx.Response(401, json={"error": f"{SECRET} is wrong"}),
        httpx.Response(200, html="<html>"),
        httpx.Response(200, content=b'{"storj": {"usd": 0.2'),
        [1],
    ],
)
def test_a_source_that_fails_leaves_prices_unknown_with_the_reason(answer):
    found = alone(answer, api_key=SECRET, pinned={"GRASS": 2})
    assert found["grass"].usd == 2
    for token in ("storj", "golem", "streamr"):
        assert found[token].usd is None
        assert found[token].source.startswith("coingecko: ")
        assert SECRET not in found[token].source
    others = read(market(gecko=answer), api_key=SECRET)
    for token, usd in PRICES.items():
        assert others[token].usd == Decimal(str(usd))
        assert others[token].source.startswith("median of coinpaprika, defillama; coingecko: ")


def test_a_fault_of_our_own_in_one_source_is_told_and_spoils_no_other(monkeypatch, caplog):
    monkeypatch.setattr("orcha_pipeline.price_sources.DefiLlama.quotes", lambda *_: 1 / 0)
    reading = read()["storj"]
    assert reading.source == "median of coingecko, coinpaprika; defillama: it failed: ZeroDivisionError (see the log)"
    assert "Traceback" in caplog.text


# --- tokens of plug-ins


def test_the_token_of_a_plug_in_is_asked_for_by_its_id_and_may_be_pinned():
    routes = market(gecko=gecko() | {"helium": {"usd": 3.5, "last_updated_at": int(NOW.timestamp())}})
    script = Script(routes)

    def of_plug_in(**settings):
        made = PriceClient(
            PriceSettings.model_validate(settings), FixedClock(NOW), script, tokens=["helium"], pause=lambda: None
        )
        return {reading.token: reading for reading in made.read()}

    found = of_plug_in(sources=["coingecko", "coinpaprika"])
    assert found["helium"].usd == Decimal("3.5")
    assert "median" not in found["helium"].source, "CoinPaprika has another name for it and is not asked"
    assert found["storj"].usd is not None
    assert of_plug_in(sources=["coingecko"], pinned={"helium": 2})["helium"].usd == 2


def test_the_tokens_to_price_are_those_of_the_configured_protocols():
    nodes = [node_settings("golem"), node_settings("storj"), node_settings("golem"), node_settings("unheard-of")]
    assert tokens_of(nodes) == ("golem",)


# --- pinned


def test_pinned_prices_win_and_are_not_asked_for():
    prices, script = client({GECKO: gecko()}, sources=["coingecko"], pinned={"GLM": 0.3, "grass": 1.5})
    found = {r.token: r for r in prices.read([known("100", token="golem")])}
    assert (found["golem"].usd, found["grass"].usd) == (Decimal("0.3"), Decimal("1.5"))
    assert found["golem"].provenance is Provenance.OUR_ESTIMATE
    assert script.requests[0].url.params["ids"] == "storj,streamr"
    with pytest.raises(SettingsError, match=r"prices\.pinned: unknown token 'doge'"):
        client(pinned={"doge": 1})


def test_with_everything_pinned_nobody_is_asked():
    prices, script = client(pinned={"STORJ": 1, "GLM": 1, "DATA": 1, "GRASS": 1})
    assert {r.usd for r in prices.read()} == {Decimal(1)}
    assert script.requests == []


# --- the other sources' shapes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"symbol": "STX"}, "about another coin, 'STX'"),
        ({"quotes": None}, "no usable price"),
        ({"quotes": {"USD": []}}, "no usable price"),
        ({"quotes": {"USD": {"price": "NaN"}}}, "no usable price"),
        ({"last_updated": None}, "the price has no time"),
        ({"last_updated": "yesterday"}, "the price has no time"),
    ],
)
def test_coinpaprika_of_another_shape_has_failed_for_that_token_alone(change, told):
    found = read(paprika(storj=ticker("storj", **change)), sources=["coinpaprika"])
    assert found["storj"].usd is None
    assert told in found["storj"].source
    assert found["golem"].usd == Decimal("0.2291")


def test_coinpaprika_without_one_coin_has_the_others_and_its_numbers_may_be_strings():
    found = read(paprika(storj=httpx.Response(404), golem=ticker("golem", "0.23")), sources=["coinpaprika"])
    assert "HTTP 404" in found["storj"].source
    assert found["golem"].usd == Decimal("0.23")


def test_coinpaprika_that_is_busy_is_not_asked_for_the_next_coin():
    prices, script = client(paprika(golem=httpx.Response(429)), sources=["coinpaprika"])
    found = {r.token: r for r in prices.read()}
    assert found["storj"].usd == Decimal("0.2412")
    assert {t for t, r in found.items() if r.usd is None} == {"golem", "streamr", "grass"}
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    ("coin", "told"),
    [
        (None, "missing from the answer"),
        ({"price": 0, "timestamp": 1795175900}, "no usable price"),
        ({"price": 0.2, "timestamp": "soon"}, "the price has no time"),
        ({"price": 0.2, "timestamp": 1795175900, "confidence": 0.3}, "trusts its own price only by 0.3"),
    ],
)
def test_defillama_of_another_shape_has_failed_for_that_token_alone(coin, told):
    found = read({LLAMA: llama(storj=coin)}, sources=["defillama"])
    assert found["storj"].usd is None
    assert told in found["storj"].source
    assert found["golem"].usd == Decimal("0.2291")


@pytest.mark.parametrize("answer", [{}, {"coins": None}, {"coins": []}, []])
def test_defillama_without_coins_has_failed(answer):
    found = read({LLAMA: answer}, sources=["defillama"])
    assert {r.usd for r in found.values()} == {None}
    assert all(r.source.startswith("defillama: parse: ") for r in found.values())


def test_coinbase_tells_a_price_of_now_of_what_is_traded_there():
    spot = {"data": {"amount": "0.2412", "base": "STORJ", "currency": "USD"}}
    wrong = {"data": {"amount": "0.2412", "base": "GLM", "currency": "EUR"}}
    routes = {"/v2/prices/STORJ-USD/spot": spot, "/v2/prices/GLM-USD/spot": wrong}
    found = read(routes, sources=["coinbase"])
    assert (found["storj"].usd, found["storj"].priced_at) == (Decimal("0.2412"), NOW)
    assert "another pair, 'EUR'" in found["golem"].source
    assert "HTTP 404" in found["grass"].source


STRANGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.fixed_dictionaries({"usd": inner, "last_updated_at": inner})
        | st.fixed_dictionaries({"price": inner, "timestamp": inner, "confidence": inner})
        | st.fixed_dictionaries({"symbol": inner, "quotes": inner, "last_updated": inner, "USD": inner})
        | st.lists(inner, max_size=2)
    ),
    max_leaves=6,
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_quoted_gives_a_price_above_zero_or_none(data):
    source = data.draw(st.sampled_from(["coingecko", "coinpaprika", "defillama"]))
    strange, whole = data.draw(STRANGE), data.draw(st.booleans())
    changed = {
        "coingecko": {GECKO: strange if whole else gecko() | {"storj": strange}},
        "coinpaprika": {PAPRIKA["storj"]: strange},
        "defillama": {LLAMA: strange if whole else {"coins": llama()["coins"] | {"coingecko:storj": strange}}},
    }[source]
    kind = {"content-type": "application/json"}
    bodies = {path: httpx.Response(200, headers=kind, content=json.dumps(answer)) for path, answer in changed.items()}
    found = read(market() | bodies)
    for token, reading in found.items():
        assert reading.usd is not None, "two sources are well"
        assert reading.usd == Decimal(str(PRICES[token])) or token == "storj"
        assert reading.usd.is_finite()
        assert reading.usd > 0
    for reading in read(bodies, sources=[source]).values():
        assert reading.usd is None or (reading.usd.is_finite() and reading.usd > 0)


# --- history

CHART = "/api/v3/coins/storj/market_chart"
LLAMA_CHART = "/chart/coingecko:storj"


def chart(answer, window=None, **settings):
    prices, script = client(answer, **({"sources": ["coingecko"]} | settings))
    return prices.history("storj", window or Window(NOW - timedelta(days=3), NOW)), script


def test_history_is_what_the_chart_holds_inside_the_window():
    at = [NOW - timedelta(days=3, minutes=1), NOW - timedelta(days=3), NOW - timedelta(hours=1), NOW]
    found, script = chart({CHART: {"prices": [[int(a.timestamp() * 1000), 0.25] for a in at], "market_caps": []}})
    assert [r.priced_at for r in found] == at[1:3]
    assert [r.observed_at for r in found] == at[1:3]
    assert found[0].usd == Decimal("0.25")
    assert found[0].source == "coingecko market_chart"
    assert dict(script.requests[0].url.params) == {"vs_currency": "usd", "days": "4"}


@pytest.mark.parametrize(("days_back", "asked"), [(0, "2"), (28, "29"), (400, "90")])
def test_history_is_asked_for_in_the_range_that_is_hourly(days_back, asked):
    _, script = chart({CHART: {"prices": []}}, window=Window(NOW - timedelta(days=days_back), NOW))
    assert script.requests[0].url.params["days"] == asked


def test_a_chart_of_another_shape_is_a_parse_error():
    with pytest.raises(ParseError, match=r"\$\.prices\[0\]\[1\]"):
        chart({CHART: {"prices": [[1795175301000, None]]}})
    with pytest.raises(AdapterError):
        chart({CHART: httpx.Response(401)})


def llama_chart(request: httpx.Request):
    start, span = int(request.url.params["start"]), int(request.url.params["span"])
    points = [{"timestamp": start + 3600 * i, "price": 0.25} for i in range(span)]
    return {"coins": {"coingecko:storj": {"symbol": "STORJ", "confidence": 0.99, "prices": points}}}


@pytest.mark.parametrize("first", [httpx.Response(429), {"prices": []}, {"prices": [[1, None]]}])
def test_defillama_fills_in_for_a_history_that_coingecko_does_not_give(first):
    window = Window(NOW - timedelta(days=20), NOW)
    found, script = chart(
        {CHART: first, LLAMA_CHART: llama_chart}, window=window, sources=["coingecko", "coinpaprika", "defillama"]
    )
    assert [r.priced_at for r in found] == [window.start + timedelta(hours=h) for h in range(480)]
    assert {r.source for r in found} == {"defillama chart"}
    asked = [dict(r.url.params) for r in script.requests if r.url.path == LLAMA_CHART]
    assert [(a["span"], a["period"]) for a in asked] == [("400", "1h"), ("81", "1h")]


def test_a_history_that_nobody_gives_says_why_for_each_source():
    with pytest.raises(ApiError, match=r"coingecko: .*HTTP 500.*defillama: .*\$\.coins"):
        chart({CHART: httpx.Response(500), LLAMA_CHART: {"x": 1}}, sources=["coingecko", "defillama"])
    assert chart({}, sources=["coinbase"])[0] == []


def test_the_history_of_a_pinned_token_is_its_pinned_price():
    found, script = chart({}, pinned={"STORJ": 0.5}, window=Window(NOW - timedelta(hours=3), NOW))
    assert [(r.usd, NOW - r.observed_at) for r in found] == [(Decimal("0.5"), timedelta(hours=h)) for h in (3, 2, 1)]
    assert script.requests == []
