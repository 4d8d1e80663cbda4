import json
from itertools import pairwise

import pytest

from orcha_pipeline.testnet.worlds import TOKENS

TOKEN = {"Authorization": "testnet-grass-token"}


def grass(lab, path, **given):
    answer = lab.json(f"/grass{path}", headers=TOKEN, params={"input": json.dumps(given)} if given else None)
    return answer["result"]["data"]


def points_of(device):
    return device["aggUptime"] / 3600 * 50 * device["ipScore"] / 100 * device["multiplier"]


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer testnet-grass-token"}, {"Authorization": "x"}])
def test_only_the_raw_token_is_accepted(lab, header):
    response = lab.get("/grass/retrieveUser", headers=header)
    assert response.status_code == 401
    assert response.json()["error"]["data"] == {"code": "UNAUTHORIZED", "httpStatus": 401}


def test_points_follow_from_uptime_score_and_multiplier_while_totals_stay_zero(lab):
    lab.pass_hours(7)
    (device,) = grass(lab, "/activeDevices")
    assert points_of(device) == pytest.approx(lab.truth("grass-1")["native_total"], abs=0.02)
    assert grass(lab, "/retrieveUser")["totalPoints"] == 0
    (epoch,) = grass(lab, "/epochEarnings", limit=1, isLatestOnly=True)["data"]
    assert epoch["totalPoints"] == 0
    assert grass(lab, "/devices", limit=50)[0]["totalUptime"] == 0


def test_an_epoch_ends_with_a_new_count_and_is_settled_later(lab):
    # The first epoch ends two days after the start.
    lab.pass_hours(48)
    before = lab.truth("grass-1")["native_total"]
    (device,) = grass(lab, "/activeDevices")
    assert device["aggUptime"] == 0
    (_, ended) = grass(lab, "/epochEarnings", limit=2, isLatestOnly=False)["data"]
    assert ended["totalPoints"] == 0
    lab.pass_hours(6)
    (_, settled) = grass(lab, "/epochEarnings", limit=2, isLatestOnly=False)["data"]
    assert settled["totalPoints"] == pytest.approx(before)
    (device,) = grass(lab, "/activeDevices")
    assert points_of(device) == pytest.approx(lab.truth("grass-1")["native_total"] - before, abs=0.02)


def test_a_stopped_device_is_not_active_but_known(lab):
    lab.pass_hours(2)
    lab.http.post("/docker/containers/grass-1/stop")
    assert grass(lab, "/activeDevices") == []
    assert grass(lab, "/activeIps") == []
    assert grass(lab, "/devices")[0]["totalUptime"] > 0


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
