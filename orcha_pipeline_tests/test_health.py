"""The health page over HTTP on a real port, beside a real warehouse."""

import json
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from orcha_pipeline import status
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.health import STUCK_SECONDS, HealthPage, health_json, serve
from orcha_pipeline.lookout import Lookout, Seen, look
from orcha_pipeline.status import as_json
from orcha_pipeline.supervisor import ServiceState
from orcha_pipeline_tests.ports import free_port
from orcha_pipeline_tests.rig import NOW, installation
from orcha_pipeline_tests.seen import a_sight

PATIENCE = 20.0
UP = ServiceState(name="daemon", is_up=True, restarts=2, why="was ended by SIGKILL", retry_in=None)
DOWN = ServiceState(name="mlflow", is_up=False, restarts=3, why="did not answer for 91 s", retry_in=8.4)
STARTING = ServiceState(name="webserver", is_up=False, restarts=1, why="ended with exit status 1", retry_in=None)


class Page:
    """A page served, with what it tells in the test's hands."""

    def __init__(self):
        self.look = a_sight
        self.services = [UP]
        self.idle = 0.1
        self.lookout = Lookout(self._look)
        self.port = free_port()
        page = HealthPage(self.lookout, services=lambda: self.services, idle_seconds=lambda: self.idle)
        self.app = page.app()

    def _look(self):
        return self.look()

    def get(self, path, **headers):
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=PATIENCE, trust_env=False)


@pytest.fixture
def page():
    made = Page()
    with serve(made.app, made.port):
        yield made
    made.lookout.close(wait=PATIENCE)


def test_where_all_is_well_health_is_200_and_what_status_tells(page):
    page.lookout.seen(wait=PATIENCE)
    answer = page.get("/health")
    told = answer.json()
    assert answer.status_code == 200
    assert (told["healthy"], told["problems"], told["starting"]) == (True, [], False)
    assert told.keys() > as_json(a_sight().vitals).keys()
    assert told["last_decided"] == {"box": "2026-03-05T12:00:00Z"}
    assert told["services"] == [
        {"name": "daemon", "up": True, "restarts": 2, "last_fault": "was ended by SIGKILL", "retry_in_seconds": None}
    ]
    assert 0 <= told["age_seconds"] < PATIENCE
    assert answer.headers["cache-control"] == "no-store"


def test_what_is_amiss_makes_it_503_and_is_told(page):
    page.services = [UP, DOWN, STARTING]
    page.look = lambda: a_sight(problems=("node a was never read",))
    page.lookout.seen(wait=PATIENCE)
    answer = page.get("/health")
    assert answer.status_code == 503
    assert answer.json()["problems"] == [
        "mlflow is down: it did not answer for 91 s; next try in 8 s",
        "webserver is starting",
        "node a was never read",
    ]


def test_a_look_that_hangs_holds_no_page_up(page):
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def hangs():
        begun.set()
        may_end.wait()
        ended.set()
        return a_sight()

    page.look = hangs
    try:
        for path, expected in (("/health", 503), ("/metrics", 200), ("/live", 200)):
            assert page.get(path).status_code == expected
            assert begun.is_set()
            assert not ended.is_set()
        assert "nothing is known yet" in page.get("/health").json()["problems"][0]
    finally:
        may_end.set()
    assert ended.wait(PATIENCE)
    page.lookout.seen(wait=PATIENCE)
    assert page.get("/health").status_code == 200


def test_live_tells_of_the_watch_alone(page):
    page.look = lambda: a_sight(problems=("node a was never read",))
    page.services = [DOWN]
    for idle, expected, starting in ((0.1, 200, False), (STUCK_SECONDS + 1, 503, False), (None, 200, True)):
        page.idle = idle
        answer = page.get("/live")
        assert answer.status_code == expected
        assert answer.json()["live"] is (expected == 200)
        assert answer.json()["starting"] is starting


def test_metrics_are_prometheus_text(page):
    page.lookout.seen(wait=PATIENCE)
    answer = page.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "orcha_healthy 1.0" in answer.text.splitlines()


def test_a_foreign_host_is_refused_and_so_is_writing(page):
    page.lookout.seen(wait=PATIENCE)
    assert page.get("/health", Host="evil.test").status_code == 400
    assert page.get("/health", Host=f"localhost:{page.port}").status_code == 200
    posted = httpx.post(f"http://127.0.0.1:{page.port}/health", timeout=PATIENCE, trust_env=False)
    assert posted.status_code == 405


def test_it_listens_on_loopback_alone_and_ends_with_its_context():
    made = Page()
    before = threading.active_count()
    with serve(made.app, made.port):
        assert made.get("/live").status_code == 200
        with socket.socket() as other, pytest.raises(OSError, match="refused"):
            other.connect(("127.0.0.2", made.port))
    with pytest.raises(httpx.ConnectError):
        made.get("/live")
    assert threading.active_count() <= before


def test_before_the_first_look_it_has_no_more_than_it_knows():
    told = health_json(Seen(sight=None, age=None, trouble="The warehouse is locked."), [UP], starting=True)
    assert told["version"] == 1
    assert (told["healthy"], told["starting"], told["age_seconds"]) == (False, True, None)
    assert told["problems"] == ["The warehouse is locked."]
    assert "last_decided" not in told
    json.dumps(told)


@pytest.mark.integration
def test_a_warehouse_that_another_process_holds_is_told_while_it_holds_it(page, tmp_path, monkeypatch):
    made = installation(tmp_path, FixedClock(NOW), ["a"])
    monkeypatch.setattr("orcha_pipeline.installation.Warehouse", _impatient(0.2))
    monkeypatch.setattr(status, "_of_dagster", lambda _installation: ((), None, ""))
    page.look = lambda: look(made)
    hold = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(made.settings.warehouse_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout.readline() == "held\n"
        deadline = time.monotonic() + PATIENCE
        while "has been in use" not in (told := page.get("/health")).json()["problems"][0]:
            assert time.monotonic() < deadline, told.text
        assert told.status_code == 503
        assert holder.poll() is None
        assert f"by process {holder.pid}" in told.json()["problems"][0]
        holder.kill()


def _impatient(seconds):
    from orcha_pipeline.warehouse.connection import Warehouse

    return lambda path: Warehouse(path, lock_timeout_seconds=seconds)
