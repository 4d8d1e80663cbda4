"""What `orcha up` runs, and how each is asked whether it answers: against stand-ins that answer, err or are silent."""

import http.server
import json
import socket
import threading
from datetime import UTC, datetime

import pytest

from orcha_pipeline import up
from orcha_pipeline.clock import SystemClock
from orcha_pipeline.errors import SupervisionError
from orcha_pipeline.installation import Installation
from orcha_pipeline.settings import Settings
from orcha_pipeline.testnet.fleet import embedded_settings

NAMES = ["testnet", "code-server", "webserver", "daemon", "mlflow"]


class Standing(http.server.BaseHTTPRequestHandler):
    """Answers every path with the server's status; GraphQL with the daemon's heartbeats."""

    def do_GET(self):
        self.send_response(self.server.status)
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.server.status)
        self.end_headers()
        beat = {"daemonType": "SENSOR", "required": True, "lastHeartbeatTime": self.server.beat}
        self.wfile.write(json.dumps({"data": {"instance": {"daemonHealth": {"allDaemonStatuses": [beat]}}}}).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def standing():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Standing) as server:
        server.status, server.beat = 200, 100.0
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def services(tmp_path, monkeypatch, standing):
    monkeypatch.setattr(up, "prepare_instance", lambda _home: None)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # what is on this machine is not asked for there
    port, away = standing.server_port, _away()
    settings = Settings.model_validate(
        {
            "home": tmp_path,
            "services": {"dagster_port": port, "mlflow_port": port, "code_server_port": away},
            "testnet": {"port": port},
        }
    )
    installation = Installation(settings=embedded_settings(settings), clock=SystemClock(), simulated=True)
    return {service.name: service for service in up.services_of(installation, None, datetime.now(UTC))}


def _away():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_every_service_is_asked_whether_it_answers_and_is_given_time(services):
    assert list(services) == NAMES
    for service in services.values():
        assert service.alive.limit >= 60
        assert service.alive.failures >= 3


@pytest.mark.parametrize("name", ["testnet", "webserver", "mlflow"])
def test_a_service_with_pages_is_alive_while_they_are_good(services, standing, name):
    assert services[name].alive.answers() is True
    standing.status = 500
    assert services[name].alive.answers() is False


def test_the_daemon_is_alive_while_its_heart_beats_and_unknown_without_the_webserver(services, standing):
    alive = services["daemon"].alive.answers
    assert alive() is True
    assert alive() is False
    standing.beat = 130.0
    assert alive() is True
    standing.status = 500
    assert alive() is None


def test_a_code_server_that_is_away_is_not_alive(services):
    assert services["code-server"].alive.answers() is False


def test_a_taken_health_port_is_told_with_its_setting(standing, tmp_path):
    ports = {"dagster_port": _away(), "mlflow_port": _away(), "code_server_port": _away()}
    settings = Settings.model_validate({"home": tmp_path, "services": {**ports, "health_port": standing.server_port}})
    installation = Installation(settings=settings, clock=SystemClock(), simulated=False)
    with pytest.raises(SupervisionError, match=r"where the health page is to listen.*set services\.health_port"):
        up._check_ports(installation)
