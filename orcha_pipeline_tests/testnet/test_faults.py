import json
import socket
import time
from datetime import timedelta
from email.utils import parsedate_to_datetime

import httpx
import pytest

from orcha_pipeline_tests.testnet.conftest import START
from orcha_pipeline_tests.testnet.wire import wired

KEY = {"Authorization": "Bearer testnet-app-key"}
TOKEN = {"Authorization": "testnet-grass-token"}
DASHBOARD = "/nodes/storj-1/api/sno/"
PAYOUT = "/nodes/storj-1/api/sno/estimated-payout"
INFO = "/nodes/streamr-1/info"


@pytest.fixture
def wire(lab):
    with wired(lab) as found:
        yield found


def ok(response):
    assert response.status_code == 200, response.text
    return response


# ---------------------------------------------------------------- each kind, through a real socket


def test_a_dead_door_closes_the_connection_without_a_word(wire):
    ok(wire.fault("storj-1", "dead"))
    with pytest.raises(httpx.RemoteProtocolError, match="without sending"):
        wire.client.get(DASHBOARD)
    ok(wire.client.get("/nodes/golem-1/me", headers=KEY))


def test_a_reset_comes_in_the_middle_of_the_body_that_was_announced(wire):
    whole = wire.client.get(DASHBOARD)
    ok(wire.fault("storj-1", "reset"))
    port = httpx.URL(wire.base).port
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(f"GET {DASHBOARD} HTTP/1.1\r\nHost: testnet\r\n\r\n".encode())
        received = b""
        with pytest.raises(ConnectionResetError):
            while True:
                received += plain.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert f"content-length: {len(whole.content)}".encode() in head
    assert body == whole.content[: len(whole.content) // 2]
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        wire.client.get(DASHBOARD)


def test_truncated_json_is_a_whole_answer_with_half_of_the_body(wire):
    whole = wire.client.get(DASHBOARD).content
    ok(wire.fault("storj-1", "truncated"))
    response = ok(wire.client.get(DASHBOARD))
    assert response.content == whole[: len(whole) // 2]


def test_html_comes_with_status_200(wire):
    ok(wire.fault("golem-1", "html"))
    response = ok(wire.client.get("/nodes/golem-1/me", headers=KEY))
    assert response.headers["content-type"].startswith("text/html")


def test_a_slow_node_answers_late_and_delays_nobody(wire):
    ok(wire.fault("storj-1", "slow", delay_seconds=0.3))
    begun = time.monotonic()
    ok(wire.client.get(INFO))
    with pytest.raises(httpx.ReadTimeout):
        wire.client.get(DASHBOARD, timeout=0.1)
    assert ok(wire.client.get(DASHBOARD)).json()["satellites"]
    assert time.monotonic() - begun >= 0.3


def test_a_dripping_body_comes_whole_but_outlasts_every_single_read(wire):
    whole = wire.client.get(DASHBOARD).content
    ok(wire.fault("storj-1", "drip", delay_seconds=0.4))
    begun, pieces = time.monotonic(), 0
    with wire.client.stream("GET", DASHBOARD, timeout=0.3) as response:
        body = b""
        for piece in response.iter_raw():
            body, pieces = body + piece, pieces + 1
    assert body == whole
    assert pieces > 5
    assert time.monotonic() - begun >= 0.4


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_any_error_status_is_answered_with_a_page(wire, status):
    ok(wire.fault("grass-1", "status", status=status))
    response = wire.client.get("/grass/activeDevices", headers=TOKEN)
    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/html")
    assert response.headers.get("retry-after") == ("30" if status == 429 else None)


def test_retry_after_is_told_in_seconds_or_as_a_date_after_that_of_the_answer(wire):
    ok(wire.fault("coingecko", "status", status=429, retry_after=7))
    assert wire.client.get("/coingecko/ping").headers["retry-after"] == "7"
    wire.lab.pass_hours(100)
    ok(wire.fault("coingecko", "status", status=503, retry_after=90, retry_after_as="date"))
    headers = wire.client.get("/coingecko/ping").headers
    moment, answered = (parsedate_to_datetime(headers[name]) for name in ("retry-after", "date"))
    assert (moment - answered).total_seconds() == 90
    assert answered == START + timedelta(hours=100)


def test_an_answer_is_dated_by_the_nodes_own_clock(wire):
    def dated(path):
        return parsedate_to_datetime(wire.client.get(path).headers["date"])

    assert dated("/nodes/storj-1/api/sno/") == START
    wire.lab.pass_hours(5)
    ok(wire.fault("storj-1", "skew", skew_seconds=-7200))
    assert dated("/nodes/storj-1/api/sno/") == START + timedelta(hours=3)
    assert dated("/coingecko/ping") == START + timedelta(hours=5)


@pytest.mark.parametrize(
    ("node", "path", "headers", "status", "says"),
    [
        ("golem-1", "/nodes/golem-1/me", KEY, 401, "Invalid application key"),
        ("golem-1", "/nodes/golem-1/me?authToken=testnet-app-key", {}, 401, "Invalid application key"),
        ("golem-1", "/nodes/golem-1/version/get", {}, 200, "0.17"),
        ("grass-1", "/grass/activeDevices", TOKEN, 401, '"code":-32001'),
        ("streamr-1", INFO, {}, 401, "Unauthorized"),
        ("streamr-1", INFO, {"Authorization": "bearer old"}, 403, "Forbidden"),
        ("storj-1", DASHBOARD, {}, 401, "401 Authorization Required"),
        ("docker", "/docker/_ping", {}, 401, "401 Authorization Required"),
        ("coingecko", "/coingecko/ping", {}, 401, '"error_code":10002'),
    ],
)
def test_expired_credentials_are_refused_in_the_services_own_words(wire, node, path, headers, status, says):
    ok(wire.fault(node, "auth"))
    response = wire.client.get(path, headers=headers)
    assert response.status_code == status
    assert says in response.text


def test_the_graphs_gateway_refuses_with_status_200(wire):
    ok(wire.fault("thegraph", "auth"))
    answer = ok(wire.client.post("/thegraph", json={"query": "{_meta{block{number}}}"})).json()
    assert answer == {"errors": [{"message": "auth error: API key not found"}]}


def test_a_skewed_node_tells_its_own_wrong_time_and_earns_the_same(wire):
    wire.lab.pass_hours(2)
    right = ok(wire.client.get(DASHBOARD)).json()
    ok(wire.fault("storj-1", "skew", skew_seconds=-3600))
    wrong = ok(wire.client.get(DASHBOARD)).json()
    assert right["lastQuicPingedAt"] == "2026-10-20T02:00:00Z"
    assert wrong["lastQuicPingedAt"] == "2026-10-20T01:00:00Z"
    assert wire.client.get("/testnet/clock").json()["now"] == "2026-10-20T02:00:00Z"
    ok(wire.fault("golem-1", "skew", skew_seconds=86400))
    notes = ok(wire.client.get("/nodes/golem-1/payment-api/v1/debitNotes", headers=KEY)).json()
    assert all(note["status"] == "ACCEPTED" for note in notes)
    wire.lab.pass_hours(1)
    for name in wire.lab.economy.nodes:
        assert wire.lab.truth(name)["native_total"] > 0
    wire.client.delete("/testnet/faults")
    assert ok(wire.client.get(DASHBOARD)).json()["lastQuicPingedAt"] == "2026-10-20T03:00:00Z"


# ---------------------------------------------------------------- how long, how often, which addresses


def outcomes(lab, count):
    return [lab.get(INFO).status_code for _ in range(count)]


def test_an_improbable_fault_strikes_as_often_as_it_says_and_the_same_for_the_same_seed(make_lab, tmp_path):
    def struck(name, **more):
        lab = make_lab(state=tmp_path / name)
        lab.http.post("/testnet/faults", json={"node": "streamr-1", "kind": "status", "probability": 0.3, **more})
        return outcomes(lab, 100)

    first = struck("a")
    assert first == struck("b")
    assert first != struck("c", seed=2)
    assert 15 <= first.count(503) <= 45


def test_a_fault_strikes_only_the_addresses_it_names(lab):
    body = {"node": "storj-1", "kind": "status", "paths": ["/api/sno/satellite*", "/api/heldamount/*"]}
    assert lab.http.post("/testnet/faults", json=body).status_code == 200
    assert lab.get(DASHBOARD).status_code == 200
    assert lab.get(PAYOUT).status_code == 200
    assert lab.get("/nodes/storj-1/api/sno/satellites").status_code == 503
    assert lab.get("/nodes/storj-1/api/heldamount/periods").status_code == 503


def test_addresses_of_docker_are_told_below_its_own(lab):
    assert lab.http.post(
        "/testnet/faults", json={"node": "docker", "kind": "html", "paths": ["/v1.43/containers/storj-1/*"]}
    ).is_success
    assert "html" in lab.get("/docker/v1.43/containers/storj-1/json").headers["content-type"]
    assert lab.json("/docker/v1.43/containers/grass-1/json")["Name"] == "/grass-1"


def test_every_kind_ends_with_its_time_on_the_testnets_clock(lab):
    lab.http.post("/testnet/faults", json={"node": "streamr-1", "kind": "auth", "seconds": 30})
    assert lab.get(INFO).status_code == 401
    lab.pass_seconds(29)
    assert lab.get(INFO).status_code == 401
    lab.pass_seconds(1)
    assert lab.get(INFO).status_code == 200
    assert lab.json("/testnet/faults") == {}


def test_a_lever_that_does_not_take_is_told_by_nothing_but_its_effect(lab):
    lab.http.post("/testnet/faults", json={"node": "golem-1", "kind": "apply_fails"})
    path = lab.testnet.state / "golem-1" / "hardware.json"
    path.write_text(path.read_text().replace('"cpu_threads": 4', '"cpu_threads": 11'))
    lab.pass_seconds(10)
    assert lab.truth("golem-1")["lever_value"] == 4
    assert lab.get("/nodes/golem-1/me", headers=KEY).status_code == 200
    lab.http.delete("/testnet/faults")
    path.write_text(path.read_text().replace('"cpu_threads": 11', '"cpu_threads": 12'))
    lab.pass_seconds(10)
    assert lab.truth("golem-1")["lever_value"] == 12


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"kind": "skew"}, "skew needs skew_seconds"),
        ({"kind": "auth", "status": 500}, "401 or 403"),
        ({"kind": "status", "status": 200}, "from 400 to 599"),
        ({"kind": "status", "status": True}, "status must be a number"),
        ({"kind": "slow", "delay_seconds": -1}, "delay_seconds must be a number that is not negative"),
        ({"kind": "dead", "probability": 1.5}, "probability must be a number from 0 to 1"),
        ({"kind": "dead", "paths": ["api"]}, "begin with /"),
        ({"kind": "dead", "paths": "/api"}, "list of patterns"),
        ({"kind": "dead", "probabilty": 0.5}, "no such key: probabilty"),
        ({"kind": "status", "retry_after_as": "hours"}, "seconds or date"),
        ({"kind": "apply_fails", "probability": 0.5}, "neither paths nor probability"),
    ],
)
def test_what_makes_no_fault_is_refused_with_the_reason(lab, body, complaint):
    response = lab.http.post("/testnet/faults", json={"node": "storj-1", **body})
    assert response.status_code == 400
    assert complaint in response.json()["error"]
    assert lab.json("/testnet/faults") == {}


def test_a_grass_device_is_faulted_by_its_account(lab):
    assert lab.http.post("/testnet/faults", json={"node": "grass-1", "kind": "html"}).is_success
    assert lab.json("/testnet/faults") == {"grass": "html"}
    lab.http.delete("/testnet/faults", params={"node": "grass-1"})
    assert json.loads(lab.get("/grass/activeDevices", headers=TOKEN).text)["result"]["data"]
