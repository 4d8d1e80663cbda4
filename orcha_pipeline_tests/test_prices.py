import gzip
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import duckdb
import httpx
import pytest
import stamina
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AdapterError, ParseError, SettingsError
from orcha_pipeline.model import Provenance, Window
from orcha_pipeline.prices import PriceClient, read_price_file
from orcha_pipeline.settings import PriceSettings
from orcha_pipeline_tests.protocols.answers import recorded_storj
from orcha_pipeline_tests.protocols.fakes import NOW, SECRET, Script

PATH = "/api/v3/simple/price"
FRESH = int(NOW.timestamp()) - 60


@pytest.fixture(autouse=True)
def retries_without_waiting():
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


def quotes(**changes):
    prices = {"storj": 0.2412, "golem": 0.2291, "streamr": 1.81e-05, "grass": 0.61}
    return {t: {"usd": usd, "usd_24h_change": None, "last_updated_at": FRESH} for t, usd in prices.items()} | changes


def client(answer=None, path=PATH, **settings):
    script = Script({path: quotes() if answer is None else answer})
    return PriceClient(PriceSettings.model_validate(settings), FixedClock(NOW), script), script


def read(answer=None, previous=None, **settings):
    return {r.token: r for r in client(answer, **settings)[0].read(previous or {})}


def test_all_tokens_are_priced_by_one_call():
    prices, script = client(api_key=SECRET)
    found = {r.token: r for r in prices.read({})}
    assert set(found) == set(prices.tokens) == {"storj", "golem", "streamr", "grass"}
    assert found["storj"].usd == Decimal("0.2412")
    assert found["streamr"].usd == Decimal("0.0000181")
    assert found["storj"].provenance is Provenance.MEASURED
    assert found["storj"].priced_at == NOW - timedelta(minutes=1)
    (request,) = script.requests
    assert dict(request.url.params) == {
        "ids": "storj,golem,streamr,grass",
        "vs_currencies": "usd",
        "include_last_updated_at": "true",
        "precision": "full",
    }
    assert request.headers["x-cg-demo-api-key"] == SECRET


@pytest.mark.parametrize(
    "quote",
    [
        None,
        [],
        {},
        {"usd": None, "last_updated_at": FRESH},
        {"usd": 0, "last_updated_at": FRESH},
        {"usd": -1, "last_updated_at": FRESH},
        {"usd": True, "last_updated_at": FRESH},
        {"usd": "abc", "last_updated_at": FRESH},
        {"usd": 0.2, "last_updated_at": None},
        {"usd": 0.2, "last_updated_at": 10**30},
    ],
)
def test_a_quote_that_is_none_is_unknown_and_spoils_no_other(quote):
    found = read(quotes(storj=quote))
    assert found["storj"].usd is None
    assert found["storj"].provenance is Provenance.UNKNOWN
    assert found["golem"].usd == Decimal("0.2291")


def test_a_token_left_out_of_the_answer_is_unknown():
    found = read({})
    assert {r.usd for r in found.values()} == {None}
    assert "missing from the answer" in found["grass"].source


@pytest.mark.parametrize(("age", "provenance"), [(60, Provenance.MEASURED), (61, Provenance.OUR_ESTIMATE)])
def test_a_stale_price_is_used_and_called_an_estimate(age, provenance):
    at = int((NOW - timedelta(minutes=age)).timestamp())
    reading = read(quotes(storj={"usd": 0.2, "last_updated_at": at}))["storj"]
    assert (reading.usd, reading.provenance) == (Decimal("0.2"), provenance)
    assert ("stale" in reading.source) == (age > 60)


@pytest.mark.parametrize(
    ("previous", "believed"), [("0.1608", True), ("0.1607", False), ("0.4824", True), ("0.4825", False)]
)
def test_a_jump_of_more_than_half_is_not_believed(previous, believed):
    reading = read(previous={"storj": Decimal(previous)})["storj"]
    assert (reading.usd is not None) == believed
    assert believed or f"a jump from {previous} to 0.2412" in reading.source


def test_pinned_prices_win_and_are_not_asked_for():
    prices, script = client(pinned={"GLM": 0.3, "grass": 1.5})
    found = {r.token: r for r in prices.read({"golem": Decimal(100)})}
    assert (found["golem"].usd, found["grass"].usd) == (Decimal("0.3"), Decimal("1.5"))
    assert found["golem"].provenance is Provenance.OUR_ESTIMATE
    assert script.requests[0].url.params["ids"] == "storj,streamr"
    with pytest.raises(SettingsError, match=r"prices\.pinned: unknown token 'doge'"):
        client(pinned={"doge": 1})


def test_with_everything_pinned_nobody_is_asked():
    prices, script = client(pinned={"STORJ": 1, "GLM": 1, "DATA": 1, "GRASS": 1})
    assert {r.usd for r in prices.read({})} == {Decimal(1)}
    assert script.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(429, json={"status": {"error_code": 429}}, headers={"retry-after": "60"}),
        httpx.Response(403, html="error code: 1020"),
        httpx.Response(401, json={"error": f"{SECRET} is wrong"}),
        httpx.Response(200, html="<html>"),
        [1],
    ],
)
def test_a_source_that_fails_leaves_prices_unknown_with_the_reason(answer):
    found = read(answer, api_key=SECRET, pinned={"GRASS": 2})
    assert found["grass"].usd == 2
    for token in ("storj", "golem", "streamr"):
        assert found[token].usd is None
        assert found[token].source.startswith("coingecko: ")
        assert SECRET not in found[token].source


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    quote=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.fixed_dictionaries({"usd": inner, "last_updated_at": inner}) | st.lists(inner, max_size=2),
        max_leaves=4,
    )
)
def test_whatever_is_quoted_gives_a_price_above_zero_or_none(quote):
    body = httpx.Response(200, headers={"content-type": "application/json"}, content=json.dumps(quotes(storj=quote)))
    for reading in read(body).values():
        assert reading.usd is None or (reading.usd.is_finite() and reading.usd > 0)


def chart(answer, token="storj", window=None, **settings):
    prices, script = client(answer, path=f"/api/v3/coins/{token}/market_chart", **settings)
    return prices.history(token, window or Window(NOW - timedelta(days=3), NOW)), script


def test_history_is_what_the_chart_holds_inside_the_window():
    at = [NOW - timedelta(days=3, minutes=1), NOW - timedelta(days=3), NOW - timedelta(hours=1), NOW]
    found, script = chart({"prices": [[int(a.timestamp() * 1000), 0.25] for a in at], "market_caps": []})
    assert [r.priced_at for r in found] == at[1:3]
    assert [r.observed_at for r in found] == at[1:3]
    assert found[0].usd == Decimal("0.25")
    assert dict(script.requests[0].url.params) == {"vs_currency": "usd", "days": "4"}


@pytest.mark.parametrize(("days_back", "asked"), [(0, "2"), (28, "29"), (400, "90")])
def test_history_is_asked_for_in_the_range_that_is_hourly(days_back, asked):
    _, script = chart({"prices": []}, window=Window(NOW - timedelta(days=days_back), NOW))
    assert script.requests[0].url.params["days"] == asked


def test_a_chart_of_another_shape_is_a_parse_error():
    with pytest.raises(ParseError, match=r"\$\.prices\[0\]\[1\]"):
        chart({"prices": [[1795175301000, None]]})
    with pytest.raises(AdapterError):
        chart(httpx.Response(401))


def test_the_history_of_a_pinned_token_is_its_pinned_price():
    found, script = chart({}, pinned={"STORJ": 0.5}, window=Window(NOW - timedelta(hours=3), NOW))
    assert [(r.usd, NOW - r.observed_at) for r in found] == [(Decimal("0.5"), timedelta(hours=h)) for h in (3, 2, 1)]
    assert script.requests == []


CSV = "unique_id,ds,y\nSTORJ,2021-04-04 21:00:00,2.9066\nGLM,2023-03-01T00:00:00+01:00,1e-05\ngrass,2026-01-01,0.6\n"


def test_a_csv_of_prices_is_read_with_naive_times_as_utc(tmp_path):
    (tmp_path / "p.csv").write_text(CSV)
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(("\ufeff" + CSV).encode()))
    found = read_price_file(tmp_path / "p.csv")
    assert [(r.token, r.priced_at, r.usd) for r in found] == [
        ("storj", datetime(2021, 4, 4, 21, tzinfo=UTC), Decimal("2.9066")),
        ("golem", datetime(2023, 2, 28, 23, tzinfo=UTC), Decimal("0.00001")),
        ("grass", datetime(2026, 1, 1, tzinfo=UTC), Decimal("0.6")),
    ]
    assert all(r.observed_at == r.priced_at and r.provenance is Provenance.MEASURED for r in found)
    assert [(r.token, r.usd) for r in read_price_file(tmp_path / "p.csv.gz")] == [(r.token, r.usd) for r in found]


def test_parquet_is_read_alike(tmp_path):
    (tmp_path / "p.csv").write_text("unique_id,ds,y\nSTORJ,2021-04-04 21:00:00,2.9066\nDATA,2023-03-01 00:00:00,0.02\n")
    file = tmp_path / "p.parquet"
    duckdb.execute(f"COPY (SELECT * FROM '{tmp_path}/p.csv') TO '{file}'")
    assert [(r.token, r.usd) for r in read_price_file(file)] == [
        ("storj", Decimal("2.9066")),
        ("streamr", Decimal("0.02")),
    ]
    assert read_price_file(file)[0].priced_at == datetime(2021, 4, 4, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("BTC,2026-01-01,1", "unknown unique_id 'BTC'; known are STORJ"),
        ("STORJ,yesterday,1", "'yesterday' is no time"),
        ("STORJ,2026-01-01,0", "'0' is no price"),
        ("STORJ,2026-01-01,nan", "'nan' is no price"),
        ("STORJ,2026-01-01,1,2", "more fields than the header"),
        ("STORJ,2026-01-01", "is no price"),
        ("GRASS,2026-01-01,0.7", "second price"),
    ],
)
def test_a_bad_row_is_named_by_its_line_with_the_remedy(tmp_path, row, told):
    file = tmp_path / "p.csv"
    file.write_text(CSV + row + "\n")
    with pytest.raises(SettingsError, match=told) as error:
        read_price_file(file)
    assert f"{file}, line 5" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.csv", b"id,ds,y\n", "line 1: the column 'unique_id' is missing"),
        ("p.csv", b"", "line 1: the column"),
        ("p.csv", b"unique_id,ds,y\n", "holds no prices"),
        ("p.csv", b"\xff\xfe", "UTF-8"),
        ("p.csv.gz", b"not gzip", "cannot read|no CSV"),
        ("p.csv.gz", gzip.compress(CSV.encode())[:-12], "cannot read|no CSV"),
        ("p.parquet", b"PAR0", "no Parquet file"),
    ],
)
def test_a_file_that_is_none_is_a_settings_error(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=told):
        read_price_file(tmp_path / name)


@pytest.mark.parametrize("name", ["none.csv", "none.csv.gz", "none.parquet"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(SettingsError, match=f"cannot read .*{name}"):
        read_price_file(tmp_path / name)


def test_the_real_price_file_is_read_in_full():
    found = read_price_file(recorded_storj().parent / "token_prices_hourly.csv.gz")
    assert {r.token for r in found} == {"storj", "golem", "streamr"}
    assert len(found) == 54901
    assert all(r.usd > 0 for r in found)
