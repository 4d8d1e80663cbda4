import json
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import httpx
import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.model import Window
from orcha_pipeline.prices import PriceClient
from orcha_pipeline.protocols.grass import GrassAdapter
from orcha_pipeline.settings import PriceSettings
from orcha_pipeline.testnet.grass import DEVICE, Device, GrassAccount, routes
from orcha_pipeline.testnet.prices import llama_routes, paprika_routes
from orcha_pipeline.testnet.worlds import TOKENS
from orcha_pipeline_tests.protocols.fakes import FakeController, settings
from orcha_pipeline_tests.testnet.conftest import START, Client

TOKEN = {"Authorization": "testnet-grass-token"}


class Through(httpx.BaseTransport):
    """Carries a client's requests to an application of the testnet."""

    def __init__(self, *apps):
        self.apps = apps

    def handle_request(self, request):
        for app in self.apps:
            answer = app.get(request.url.raw_path.decode(), headers=dict(request.headers))
            if answer.status_code != 404:
                break
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def grass(lab, path, **given):
    answer = lab.json(f"/grass{path}", headers=TOKEN, params={"input": json.dumps(given)} if given else None)
    return answer["result"]["data"]


def hourly_of(device):
    return 50 * device["ipScore"] / 100 * device["multiplier"]


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer testnet-grass-token"}, {"Authorization": "x"}])
def test_only_the_raw_token_is_accepted(lab, header):
    response = lab.get("/grass/retrieveUser", headers=header)
    assert response.status_code == 401
    assert response.json()["error"]["data"] == {"code": "UNAUTHORIZED", "httpStatus": 401}


def test_an_hour_of_uptime_is_worth_what_the_last_hour_paid_while_totals_stay_zero(lab):
    lab.pass_hours(6.3)
    before = lab.truth("grass-1")["native_total"]
    lab.pass_hours(1)
    (device,) = grass(lab, "/activeDevices")
    assert hourly_of(device) == pytest.approx(lab.truth("grass-1")["native_total"] - before, rel=1e-5)
    assert device["aggUptime"] == round(7.3 * 3600)
    assert grass(lab, "/retrieveUser")["totalPoints"] == 0
    (epoch,) = grass(lab, "/epochEarnings", limit=1, isLatestOnly=True)["data"]
    assert epoch["totalPoints"] == 0
    assert grass(lab, "/devices", limit=50)[0]["totalUptime"] == 0
    assert isinstance(grass(lab, "/activeIps")[0]["ipScore"], str)


def test_a_device_that_was_never_up_shows_what_it_would_be_paid(lab):
    (device,) = grass(lab, "/activeDevices")
    assert hourly_of(device) == pytest.approx(lab.truth("grass-1")["native_per_hour"], rel=1e-5)
    assert device["aggUptime"] == 0


def test_an_epoch_ends_with_a_new_count_and_is_settled_later(lab):
    # The first epoch ends two days after the start.
    lab.pass_hours(48)
    before = lab.truth("grass-1")["native_total"]
    (device,) = grass(lab, "/activeDevices")
    assert device["aggUptime"] == 0
    (_, ended) = grass(lab, "/epochEarnings", limit=2, isLatestOnly=False)["data"]
    assert (ended["totalPoints"], ended["totalUptime"]) == (0, 0)
    lab.pass_hours(6)
    (_, settled) = grass(lab, "/epochEarnings", limit=2, isLatestOnly=False)["data"]
    assert settled["totalPoints"] == pytest.approx(before)
    assert 0 < settled["totalUptime"] <= 48 * 3600
    (device,) = grass(lab, "/activeDevices")
    assert device["aggUptime"] == 6 * 3600


def test_a_stopped_device_is_not_active_but_known(lab):
    lab.pass_hours(2)
    lab.http.post("/docker/containers/grass-1/stop")
    assert grass(lab, "/activeDevices") == []
    assert grass(lab, "/activeIps") == []
    assert grass(lab, "/devices")[0]["totalUptime"] == 7200


def test_a_new_connection_starts_the_uptime_again_but_loses_no_points(make_lab):
    lab = make_lab(restart_seconds={"grass": 60})
    lab.pass_hours(2)
    before = lab.truth("grass-1")["native_total"]
    lab.http.post("/docker/containers/grass-1/restart")
    lab.pass_seconds(60 + 600)
    (device,) = grass(lab, "/activeDevices")
    assert device["aggUptime"] == 600
    assert lab.truth("grass-1")["native_total"] > before
    (connected,) = grass(lab, "/devices")
    assert connected["lastConnectedAt"] == device["lastConnectedAt"] == "2026-10-20T02:01:00.000Z"


def test_a_throttled_device_is_paid_less(lab):
    lab.pass_hours(1)
    (before,) = grass(lab, "/activeDevices")
    lab.http.post("/docker/containers/grass-1/update", json={"NanoCpus": 1_000_000_000})
    lab.pass_hours(1)
    (after,) = grass(lab, "/activeDevices")
    assert hourly_of(after) < hourly_of(before)
    assert after["ipScore"] == before["ipScore"]


def test_an_account_of_many_devices_adds_their_points_and_counts_an_address_once(make_lab, tmp_path):
    labs = [make_lab(state=tmp_path / str(i), seed=i + 1) for i in range(3)]
    for lab in labs:
        lab.pass_hours(54)
    books = [lab.economy.books["grass"] for lab in labs]
    first, *others = [(lab.economy, lab.economy.nodes["grass-1"], book) for lab, book in zip(labs, books, strict=True)]
    further = [Device(*other, device_id=f"device-{i}") for i, other in enumerate(others)]
    account = Client(routes(GrassAccount(*first, others=further)))

    def get(path):
        return account.get(path, headers=TOKEN).json()["result"]["data"]

    active = get("/activeDevices")
    assert [d["deviceId"] for d in active] == [DEVICE, "device-0", "device-1"]
    assert len({d["multiplier"] for d in active}) == 3
    assert [ip["ipAddress"] for ip in get("/activeIps")] == ["203.0.113.7"]
    settled = get('/epochEarnings?input={"limit":2,"isLatestOnly":false}')["data"][1]["totalPoints"]
    assert settled == pytest.approx(sum(book.epochs[min(book.epochs)] for book in books))
    labs[1].http.post("/docker/containers/grass-1/stop")
    assert len(get("/activeDevices")) == 2
    assert len(get("/devices")) == 3


def test_the_adapter_reads_hour_by_hour_what_the_world_paid(lab):
    clock = FixedClock(START)
    node = GrassAdapter(
        settings("grass", url="http://testnet/grass", token="testnet-grass-token", options={"device_id": DEVICE}),
        controller=FakeController(),
        clock=clock,
        transport=Through(lab),
    )
    read, truth = [], []
    for hour in range(1, 25):
        before = lab.truth("grass-1")["native_total"]
        lab.pass_hours(1)
        clock.set(START + timedelta(hours=hour))
        read += node.earnings(Window(START + timedelta(hours=hour - 1), clock.now()))
        truth.append(lab.truth("grass-1")["native_total"] - before)
    assert [float(r.amounts.net) for r in read if r.amounts.net is not None] == pytest.approx(
        [paid for r, paid in zip(read, truth, strict=True) if r.amounts.net is not None], rel=0.02
    )
    assert sum(r.amounts.net is not None for r in read) > 12


def test_bad_input_and_unknown_procedures_are_errors(lab):
    assert lab.get("/grass/epochEarnings", headers=TOKEN, params={"input": "{"}).status_code == 400
    assert lab.get("/grass/devices", headers=TOKEN, params={"input": "[]"}).status_code == 400
    assert lab.get("/grass/nothing", headers=TOKEN).status_code == 404


def test_simple_price_leaves_unknown_ids_out(lab):
    lab.pass_hours(3)
    answer = lab.json(
        "/coingecko/simple/price",
        params={
            "ids": "storj,golem,streamr,grass,dogecoin",
            "vs_currencies": "usd",
            "include_last_updated_at": "true",
            "include_24hr_change": "true",
        },
    )
    assert set(answer) == {"storj", "golem", "streamr", "grass"}
    for coin, protocol in (("storj", "storj"), ("golem", "golem"), ("streamr", "streamr"), ("grass", "grass")):
        assert answer[coin]["usd"] == lab.economy.world.price(TOKENS[protocol], lab.economy.now)
        assert answer[coin]["last_updated_at"] == lab.economy.now
        assert isinstance(answer[coin]["usd_24h_change"], float)
    assert lab.json("/coingecko/simple/price?ids=nope&vs_currencies=usd") == {}
    assert lab.json("/coingecko/simple/price?ids=golem&vs_currencies=eur") == {"golem": {}}


def test_a_missing_parameter_is_a_bad_request(lab):
    response = lab.get("/coingecko/simple/price?ids=golem")
    assert response.status_code == 400
    assert response.json() == {"error": "Missing parameter vs_currencies"}


def test_market_chart_is_hourly_and_agrees_with_the_spot_price(lab):
    lab.pass_seconds(48 * 3600 + 600)
    chart = lab.json("/coingecko/coins/golem/market_chart?vs_currency=usd&days=2")["prices"]
    assert len(chart) == 49
    assert {b[0] - a[0] for a, b in pairwise(chart[:-1])} == {3_600_000}
    spot = lab.json("/coingecko/simple/price?ids=golem&vs_currencies=usd")["golem"]["usd"]
    assert chart[-1] == [lab.economy.now * 1000, spot]
    assert lab.get("/coingecko/coins/nope/market_chart?vs_currency=usd&days=2").status_code == 404
    assert lab.get("/coingecko/coins/golem/market_chart?vs_currency=usd&days=soon").status_code == 400
    assert lab.get("/coingecko/coins/golem/market_chart?vs_currency=usd&days=1e9").status_code == 400


def test_all_three_sources_agree_and_the_price_client_reads_them(lab):
    lab.pass_hours(3.05)
    apps = Client(paprika_routes(lab.economy)), Client(llama_routes(lab.economy))
    base = {"coinpaprika_url": "http://testnet", "defillama_url": "http://testnet", "url": "http://testnet/coingecko"}
    now = datetime.fromtimestamp(lab.economy.now, START.tzinfo)
    client = PriceClient(PriceSettings.model_validate(base), FixedClock(now), Through(*apps, lab), pause=lambda: None)
    for reading, protocol in zip(client.read(), ("storj", "golem", "streamr", "grass"), strict=True):
        assert reading.source == "median of coingecko, coinpaprika, defillama"
        assert float(reading.usd) == lab.economy.world.price(TOKENS[protocol], lab.economy.now)


def test_coinpaprika_knows_its_own_ids_only(lab):
    paprika = Client(paprika_routes(lab.economy))
    lab.pass_seconds(299)
    answer = paprika.get("/tickers/glm-golem?quotes=USD").json()
    assert (answer["symbol"], answer["last_updated"]) == ("GLM", "2026-10-20T00:00:00Z")
    assert answer["quotes"]["USD"]["price"] == lab.economy.world.price("GLM", lab.economy.now)
    assert paprika.get("/tickers/golem").status_code == 404
    assert paprika.get("/tickers/glm-golem?quotes=EUR").status_code == 400


def test_defillama_leaves_unknown_coins_out_and_charts_no_future(lab):
    llama = Client(llama_routes(lab.economy))
    lab.pass_hours(5)
    coins = llama.get("/prices/current/coingecko:golem,coingecko:nope,ethereum:0x00").json()["coins"]
    assert list(coins) == ["coingecko:golem"]
    assert coins["coingecko:golem"]["timestamp"] == lab.economy.now
    start = int(START.timestamp())
    chart = llama.get(f"/chart/coingecko:golem?start={start}&span=24&period=1h").json()["coins"]["coingecko:golem"]
    assert [p["timestamp"] - start for p in chart["prices"]] == [3600 * hour for hour in range(6)]
    assert Decimal(str(chart["prices"][3]["price"])) == Decimal(str(lab.economy.world.price("GLM", start + 3 * 3600)))
    for query in ("", f"start={start}&span=501&period=1h", f"start={start}&span=2&period=5m", "start=x&span=2"):
        assert llama.get(f"/chart/coingecko:golem?{query}").status_code == 400
