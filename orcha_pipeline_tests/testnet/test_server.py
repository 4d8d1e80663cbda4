import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from orcha_pipeline.errors import SettingsError, SupervisionError
from orcha_pipeline.testnet import server
from orcha_pipeline.testnet.clock import TestnetClock
from orcha_pipeline.testnet.simulation import STATE_FILE
from orcha_pipeline_tests.ports import free_port
from orcha_pipeline_tests.testnet.conftest import START

KEY = {"Authorization": "Bearer testnet-app-key"}
DASHBOARD = "/nodes/storj-1/api/sno/"


def fault(lab, node, kind, **more):
    response = lab.http.post("/testnet/faults", json={"node": node, "kind": kind, **more})
    assert response.status_code == 200, response.text


# ---------------------------------------------------------------- clock


def test_every_answer_says_that_it_is_simulated(lab):
    for path in ("/testnet/health", DASHBOARD, "/nodes/golem-1/me", "/docker/_ping", "/coingecko/ping", "/nowhere"):
        assert lab.get(path).headers["x-orcha-simulated"] == "testnet"


def test_a_new_testnet_stands_still_until_it_is_moved(lab):
    assert lab.json("/testnet/clock") == {"now": "2026-10-20T00:00:00Z", "live": False}
    lab.wall_now += 500
    assert lab.json("/testnet/clock")["now"] == "2026-10-20T00:00:00Z"
    moved = lab.http.post("/testnet/clock", json={"advance_to": "2026-10-20T03:00:00+01:00"})
    assert moved.json() == {"now": "2026-10-20T02:00:00Z", "live": False}


def test_time_does_not_go_back(lab):
    lab.pass_hours(2)
    response = lab.http.post("/testnet/clock", json={"advance_to": "2026-10-20T01:00:00Z"})
    assert response.status_code == 409
    assert "does not go back" in response.json()["error"]
    same = lab.http.post("/testnet/clock", json={"advance_to": "2026-10-20T02:00:00Z"})
    assert same.status_code == 200


def test_a_live_clock_catches_up_and_follows_the_wall(lab):
    lab.wall_now += 7200
    assert lab.http.post("/testnet/clock", json={"live": True}).json() == {"now": "2026-10-20T02:00:00Z", "live": True}
    earned = lab.truth("golem-1")["native_total"]
    assert earned > 0
    lab.wall_now += 61.7
    assert lab.json("/testnet/clock")["now"] == "2026-10-20T02:01:01Z"
    assert lab.truth("golem-1")["native_total"] > earned


def test_a_live_clock_that_is_advanced_runs_on_ahead_of_the_wall_clock(lab):
    lab.pass_hours(1)
    assert lab.http.post("/testnet/clock", json={"live": True}).json() == {"now": "2026-10-20T01:00:00Z", "live": True}
    lab.wall_now += 60
    lab.http.post("/testnet/clock", json={"advance_to": "2026-10-20T05:00:00Z"})
    lab.wall_now += 60
    assert lab.json("/testnet/clock")["now"] == "2026-10-20T05:01:00Z"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"advance_to": "soon"}', b'{"advance_to": "2026-10-21T00:00:00"}']
)
def test_a_clock_order_that_cannot_be_read_is_refused(lab, body):
    response = lab.http.post("/testnet/clock", content=body)
    assert response.status_code == 400
    assert response.json()["error"]


# ---------------------------------------------------------------- faults


def test_html_and_status_faults_answer_in_place_of_the_node_alone(lab):
    fault(lab, "storj-1", "html")
    fault(lab, "golem-1", "status", status=429)
    response = lab.get(DASHBOARD)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    limited = lab.get("/nodes/golem-1/me", headers=KEY)
    assert limited.status_code == 429
    assert limited.headers["retry-after"] == "30"
    assert lab.get("/nodes/streamr-1/info").status_code == 200
    assert lab.json("/testnet/faults") == {"storj-1": "html", "golem-1": "status"}
    lab.http.delete("/testnet/faults", params={"node": "storj-1"})
    assert lab.json(DASHBOARD)
    assert lab.get("/nodes/golem-1/me", headers=KEY).status_code == 429
    lab.http.delete("/testnet/faults")
    assert lab.get("/nodes/golem-1/me", headers=KEY).status_code == 200


def test_a_truncated_answer_is_half_of_the_right_one(lab):
    whole = lab.get(DASHBOARD).content
    fault(lab, "storj-1", "truncated")
    response = lab.get(DASHBOARD)
    assert response.status_code == 200
    assert response.content == whole[: len(whole) // 2]
    with pytest.raises(json.JSONDecodeError):
        response.json()


def test_a_slow_node_answers_rightly_after_its_delay(lab, monkeypatch):
    slept = []

    async def nap(seconds):
        slept.append(seconds)

    monkeypatch.setattr("orcha_pipeline.testnet.door.asyncio.sleep", nap)
    fault(lab, "storj-1", "slow", delay_seconds=12)
    assert lab.json(DASHBOARD)["satellites"]
    assert slept == [12]


def test_a_dead_door_is_no_lost_earnings(lab):
    fault(lab, "golem-1", "dead")
    assert lab.get("/nodes/golem-1/me", headers=KEY).status_code == 503
    lab.pass_hours(1)
    assert lab.truth("golem-1")["native_total"] > 0


def test_a_fault_ends_when_its_time_on_the_testnets_clock_is_over(lab):
    fault(lab, "storj-1", "html", seconds=60)
    lab.pass_seconds(59)
    assert lab.get(DASHBOARD).headers["content-type"].startswith("text/html")
    lab.pass_seconds(1)
    assert lab.json(DASHBOARD)


def test_services_can_be_faulted_too(lab):
    fault(lab, "coingecko", "status", status=500)
    fault(lab, "thegraph", "html")
    fault(lab, "docker", "dead")
    assert lab.get("/coingecko/ping").status_code == 500
    assert lab.http.post("/thegraph", json={}).headers["content-type"].startswith("text/html")
    assert lab.get("/docker/_ping").status_code == 503


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"node": "storj-2", "kind": "dead"}, 404),
        ({"node": "storj-1", "kind": "sad"}, 400),
        ({"kind": "dead"}, 400),
        ({"node": "storj-1", "kind": "dead", "seconds": "long"}, 400),
    ],
)
def test_a_fault_that_cannot_be_is_refused(lab, body, status):
    assert lab.http.post("/testnet/faults", json=body).status_code == status
    assert lab.json("/testnet/faults") == {}


def test_a_shift_is_told_in_the_true_state_and_survives_a_restart(make_lab):
    lab = make_lab()
    before = lab.truth("golem-1")["usd_yield_full_share"]
    lab.http.post("/testnet/shift", json={"protocol": "golem", "factor": 5})
    assert lab.truth("golem-1")["usd_yield_full_share"] == pytest.approx(5 * before)
    assert make_lab().truth("golem-1")["usd_yield_full_share"] == pytest.approx(5 * before)
    assert lab.http.post("/testnet/shift", json={"protocol": "bitcoin", "factor": 5}).status_code == 400


# ---------------------------------------------------------------- state


def everything(lab):
    grass = {"Authorization": "testnet-grass-token"}
    answers = [
        lab.json("/testnet/nodes"),
        lab.json(DASHBOARD),
        lab.json("/nodes/storj-1/api/sno/estimated-payout"),
        lab.json("/nodes/golem-1/payment-api/v1/debitNotes", headers=KEY),
        lab.json("/nodes/golem-1/market-api/v1/offers", headers=KEY),
        lab.http.post("/thegraph", json={"query": '{operator(id:"0x' + "ab" * 20 + '"){stakes{earningsWei}}}'}).json(),
        lab.json("/grass/activeDevices", headers=grass),
        lab.json("/docker/containers/grass-1/json"),
    ]
    # A container tells the folder it sees.
    return json.loads(json.dumps(answers).replace(str(lab.testnet.state), "STATE"))


def test_a_restarted_testnet_goes_on_as_if_it_had_never_ended(make_lab, tmp_path):
    through, broken = make_lab(state=tmp_path / "a"), make_lab(state=tmp_path / "b")
    for lab in (through, broken):
        lab.pass_hours(30.4)
        lab.http.post("/docker/containers/grass-1/update", json={"NanoCpus": 5_000_000_000})
        lab.pass_seconds(100)
    broken.testnet.save()
    resumed = make_lab(state=tmp_path / "b")
    for lab in (through, resumed):
        lab.pass_hours(20)
    a, b = everything(through), everything(resumed)
    # The offer's id holds the file's own mark, which differs between two folders.
    a[4][0]["offerId"] = b[4][0]["offerId"]
    assert a == b


def test_a_live_testnet_catches_up_with_the_time_it_was_down(make_lab):
    lab = make_lab()
    lab.http.post("/testnet/clock", json={"live": True})
    lab.testnet.save()
    later = make_lab()
    later.wall_now += 4 * 3600
    assert later.json("/testnet/clock") == {"now": "2026-10-20T04:00:00Z", "live": True}
    assert later.truth("streamr-1")["native_total"] > 0


def test_a_file_edited_while_the_testnet_was_down_is_seen(make_lab):
    lab = make_lab()
    lab.testnet.save()
    path = lab.testnet.state / "golem-1" / "hardware.json"
    path.write_text(path.read_text().replace('"cpu_threads": 4', '"cpu_threads": 11'))
    resumed = make_lab()
    resumed.pass_seconds(5)
    assert resumed.truth("golem-1")["lever_value"] == 11


def test_state_of_other_settings_is_refused_with_the_remedy(make_lab):
    make_lab().testnet.save()
    with pytest.raises(SettingsError, match=r"made with seed 1, and 2 is asked for\. Set it back, or move"):
        make_lab(seed=2)


def test_state_of_another_version_is_refused_with_the_remedy(make_lab):
    lab = make_lab()
    path = lab.testnet.state / STATE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    with pytest.raises(SettingsError, match=r"another version of Orcha\. Move the folder"):
        make_lab()


def test_damaged_state_is_refused_with_the_remedy(make_lab):
    lab = make_lab()
    (lab.testnet.state / STATE_FILE).write_text('{"format":')
    with pytest.raises(SettingsError, match=r"cannot be read: .* Move the folder"):
        make_lab()


# ---------------------------------------------------------------- process


def begin(state, port, *more):
    command = [sys.executable, "-W", "error", "-m", "orcha_pipeline.testnet.server"]
    command += ["--state", str(state), "--port", str(port), "--restart-seconds", "storj=2,streamr=1", *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    with httpx.Client(trust_env=False) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                client.get(f"http://127.0.0.1:{port}/testnet/health")
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return process
    process.kill()
    pytest.fail(f"the testnet did not start: {process.communicate()}")


def end(process):
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=15)
    assert process.returncode == 0, err
    assert (out, err) == ("", "")


@pytest.mark.integration
def test_a_real_process_serves_cuts_connections_and_resumes(tmp_path):
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    process = begin(tmp_path, port, "--start", START.isoformat())
    try:
        with TestnetClock(base) as clock, httpx.Client(base_url=base, trust_env=False) as client:
            assert clock.now() == START
            assert not clock.is_live()
            assert clock.advance_to(START + timedelta(hours=25)) == START + timedelta(hours=25)
            with pytest.raises(SupervisionError, match="does not go back"):
                clock.advance_to(START)
            payout = client.get("/nodes/storj-1/api/sno/estimated-payout").json()["currentMonth"]["payout"]
            assert payout > 0
            assert client.post("/docker/v1.43/containers/storj-1/restart?t=300").status_code == 204
            with pytest.raises(httpx.RemoteProtocolError):
                client.get(DASHBOARD)
            clock.advance_to(START + timedelta(hours=25, seconds=2))
            assert client.get(DASHBOARD).status_code == 200
            client.post("/testnet/faults", json={"node": "golem-1", "kind": "dead"})
            with pytest.raises(httpx.RemoteProtocolError):
                client.get("/nodes/golem-1/me", headers=KEY)
            with pytest.raises(SupervisionError, match="cannot listen"):
                server.serve(state=tmp_path / "other", port=port)
    finally:
        end(process)
    assert json.loads((tmp_path / STATE_FILE).read_text())["time"]["live"] is False
    process = begin(tmp_path, port)
    try:
        with TestnetClock(base) as clock:
            assert clock.now() == START + timedelta(hours=25, seconds=2)
            before = datetime.now(UTC)
            live = clock.go_live()
            assert before - timedelta(seconds=1) <= live <= datetime.now(UTC)
            assert clock.is_live()
    finally:
        end(process)
    with TestnetClock(base) as clock, pytest.raises(SupervisionError, match="does not answer"):
        clock.now()
    assert not list(tmp_path.glob(".testnet-*"))


def test_the_command_line_tells_what_is_wrong_without_a_traceback(tmp_path, capsys):
    status = server.main(["--state", str(tmp_path), "--port", str(free_port()), "--world", str(tmp_path / "none")])
    assert status == 1
    assert "world.toml cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        server.main(["--state", str(tmp_path), "--port", "1", "--restart-seconds", "helium=2"])
    assert "PROTOCOL=SECONDS" in capsys.readouterr().err
