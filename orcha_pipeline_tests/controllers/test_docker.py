import json
import socket
import threading

import httpx
import pytest

from orcha_pipeline.controllers.docker import DockerController
from orcha_pipeline.controllers.none import NoController
from orcha_pipeline.errors import AllocationError, SettingsError, UnsupportedError
from orcha_pipeline_tests.protocols.fakes import Script, no_waiting

BASE = "/docker/v1.43/containers/storagenode"
CONFLICT = "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set"


class Engine:
    """One container behind the Engine API, as Docker answers."""

    def __init__(self) -> None:
        self.config = {"NanoCpus": 0, "Memory": 0, "CpuQuota": 0, "CpuPeriod": 0, "CpuShares": 0}
        self.state = {"Status": "running", "Running": True, "StartedAt": "2026-11-20T10:00:00Z", "ExitCode": 0}
        self.takes_updates = True
        self.script = Script(
            {f"{BASE}/json": self._inspect, f"{BASE}/update": self._update, f"{BASE}/restart": self._restart}
        )

    def _inspect(self, _request):
        return {"Id": "f00", "HostConfig": self.config, "State": self.state}

    def _update(self, request):
        if self.takes_updates:
            self.config.update(json.loads(request.content))
        return {"Warnings": None}

    def _restart(self, _request):
        return httpx.Response(204)

    def controller(self, container="storagenode"):
        return DockerController(
            "storj-1", url="http://127.0.0.1:9999/docker", container=container, transport=self.script
        )


@pytest.mark.parametrize(
    ("config", "threads", "memory"),
    [
        ({}, None, None),
        ({"NanoCpus": 1_500_000_000, "Memory": 268435456}, 1.5, 268435456),
        ({"CpuQuota": 50_000, "CpuPeriod": 100_000}, 0.5, None),
        ({"CpuQuota": -1, "CpuPeriod": 100_000}, None, None),
    ],
)
def test_limits_are_read_and_zero_is_no_limit(config, threads, memory):
    engine = Engine()
    engine.config.update(config)
    limits = engine.controller().limits()
    assert (limits.cpu_threads, limits.memory_bytes) == (threads, memory)


def test_a_cpu_limit_is_set_on_the_running_container_and_read_back():
    engine = Engine()
    assert engine.controller().set_cpu(0.29).cpu_threads == 0.29
    assert engine.config["NanoCpus"] == 290_000_000


def test_a_limit_that_docker_takes_but_does_not_show_is_an_error():
    engine = Engine()
    engine.takes_updates = False
    with pytest.raises(AllocationError, match="but reports no limit"):
        engine.controller().set_cpu(1)


@pytest.mark.parametrize(
    ("status", "message"), [(404, "No such container: storagenode"), (409, CONFLICT), (500, "cgroup is read-only")]
)
def test_dockers_own_message_reaches_the_operator(status, message):
    engine = Engine()
    engine.script.routes[f"{BASE}/update"] = httpx.Response(status, json={"message": message})
    with pytest.raises(AllocationError, match=message) as error:
        engine.controller().set_cpu(1)
    assert error.value.node == "storj-1"
    assert "Docker at http://127.0.0.1:9999/docker" in str(error.value)


@pytest.mark.parametrize("threads", [0, -1, 0.001, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_not_even_asked_for(threads):
    engine = Engine()
    with pytest.raises(AllocationError, match=r"at least 0\.01 threads"):
        engine.controller().set_cpu(threads)
    assert engine.script.requests == []


def test_a_restart_passes_the_grace_allows_more_time_than_it_and_waits_until_the_container_runs(monkeypatch):
    no_waiting(monkeypatch)
    engine = Engine()
    states = iter([False, False, True])
    engine.script.routes[f"{BASE}/json"] = lambda _request: {
        "HostConfig": engine.config,
        "State": engine.state | {"Running": next(states)},
    }
    engine.controller().restart(300)
    restart = engine.script.requests[0]
    assert (restart.method, dict(restart.url.params)) == ("POST", {"t": "300"})
    assert restart.extensions["timeout"]["read"] > 300
    assert next(states, None) is None


def test_a_container_that_does_not_come_up_is_an_error_with_its_status(monkeypatch):
    no_waiting(monkeypatch)
    engine = Engine()
    engine.state.update(Running=False, Status="exited")
    with pytest.raises(AllocationError, match="is 'exited' 60 s after its restart"):
        engine.controller().restart(10)


@pytest.mark.parametrize(
    "answer", [{"HostConfig": {}}, [], {"HostConfig": {"NanoCpus": "x", "Memory": 0}, "State": {}}]
)
def test_an_answer_of_another_shape_is_an_error_and_not_no_limit(answer):
    engine = Engine()
    engine.script.routes[f"{BASE}/json"] = answer
    with pytest.raises(AllocationError, match=r"\$"):
        engine.controller().limits()


def test_without_a_container_or_socket_it_says_what_to_set(tmp_path):
    assert "controller.container" in Engine().controller(container="").why_not_writable()
    missing = DockerController("n", url=f"unix://{tmp_path}/docker.sock", container="x")
    assert f"no Docker socket at {tmp_path}" in missing.why_not_writable()
    for call in (missing.limits, lambda: missing.set_cpu(1), lambda: missing.restart(1)):
        with pytest.raises(UnsupportedError):
            call()
    missing.close()


def test_a_docker_that_is_down_is_an_allocation_error():
    def refuse(request):
        raise httpx.ConnectError("[Errno 13] Permission denied", request=request)

    engine = Engine()
    engine.script.routes[f"{BASE}/json"] = refuse
    with pytest.raises(AllocationError, match="Permission denied"):
        engine.controller().limits()


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:2375", "http://user:pw@host", ""])
def test_an_address_docker_cannot_have_is_a_settings_error(url):
    with pytest.raises(SettingsError, match=r"controller\.url must be"):
        DockerController("n", url=url, container="x")


def test_a_real_unix_socket_is_spoken_to(tmp_path):
    body = json.dumps(
        {"HostConfig": {"NanoCpus": 2_000_000_000, "Memory": 0}, "State": {"Running": True, "Status": "running"}}
    )
    path = tmp_path / "docker.sock"
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(65536))
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall((head + body).encode())

        thread = threading.Thread(target=serve)
        thread.start()
        controller = DockerController("n", url=f"unix://{path}", container="my/node")
        assert controller.limits().cpu_threads == 2
        controller.close()
        thread.join()
    assert asked[0].startswith(b"GET /v1.43/containers/my%2Fnode/json HTTP/1.1\r\n")


def test_without_a_controller_everything_is_refused_with_the_remedy():
    none = NoController("storj-1")
    assert 'kind = "docker"' in none.why_not_writable()
    for call in (none.limits, lambda: none.set_cpu(1), lambda: none.restart(1)):
        with pytest.raises(UnsupportedError, match="no controller is set"):
            call()
    none.close()
