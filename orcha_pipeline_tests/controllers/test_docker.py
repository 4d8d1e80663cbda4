import json
import socket
import threading

import httpx
import pytest

from orcha_pipeline.controllers.base import Limits
from orcha_pipeline.controllers.cgroup import CgroupController
from orcha_pipeline.controllers.docker import DockerController
from orcha_pipeline.controllers.factory import make_controller
from orcha_pipeline.controllers.none import NoController
from orcha_pipeline.controllers.shaped import ShapedController
from orcha_pipeline.controllers.systemd import SystemdController
from orcha_pipeline.errors import AllocationError, SettingsError, UnsupportedError
from orcha_pipeline_tests.protocols.fakes import Script, no_waiting, settings

BASE = "/docker/v1.43/containers/storagenode"
CONFLICT = "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set"


class Engine:
    """One container behind the Engine API, as Docker answers."""

    def __init__(self) -> None:
        self.config = {"NanoCpus": 0, "Memory": 0, "MemorySwap": 0, "CpuQuota": 0, "CpuPeriod": 0, "CpuShares": 0}
        self.version = {"ApiVersion": "1.43", "MinAPIVersion": "1.24", "Version": "24.0.7"}
        self.state = {"Status": "running", "Running": True, "StartedAt": "2026-11-20T10:00:00Z", "ExitCode": 0}
        self.takes_updates = True
        self.script = Script(
            {
                "/docker/version": lambda _request: self.version,
                "/docker/v1.43/info": {"NCPU": 8, "MemTotal": 16 << 30},
                f"{BASE}/json": self._inspect,
                f"{BASE}/update": self._update,
                f"{BASE}/restart": self._restart,
            }
        )

    def _inspect(self, _request):
        return {"Id": "f00", "Name": "/storagenode", "HostConfig": self.config, "State": self.state}

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
        ({"CpuQuota": 50_000}, 0.5, None),
        ({"CpuQuota": -1, "CpuPeriod": 100_000}, None, None),
        ({"CpuQuota": -1, "NanoCpus": 1_500_000_000}, None, None),
    ],
)
def test_limits_are_read_and_zero_is_no_limit(config, threads, memory):
    engine = Engine()
    engine.config.update(config)
    limits = engine.controller().limits()
    assert (limits.cpu_threads, limits.memory_bytes) == (threads, memory)


def test_a_cpu_limit_is_set_on_the_running_container_and_read_back():
    engine = Engine()
    assert engine.controller().set_limits(Limits(cpu_threads=0.29)).cpu_threads == 0.29
    assert engine.config["NanoCpus"] == 290_000_000


def test_a_limit_that_docker_takes_but_does_not_show_is_an_error():
    engine = Engine()
    engine.takes_updates = False
    with pytest.raises(
        AllocationError, match="cpu_threads should be 1 threads and is without limit; the former limits"
    ):
        engine.controller().set_limits(Limits(cpu_threads=1))
    assert json.loads(engine.script.requests[-1].content) == {"NanoCpus": 8_000_000_000}


@pytest.mark.parametrize(
    ("status", "message"), [(404, "No such container: storagenode"), (409, CONFLICT), (500, "cgroup is read-only")]
)
def test_dockers_own_message_reaches_the_operator(status, message):
    engine = Engine()
    engine.script.routes[f"{BASE}/update"] = httpx.Response(status, json={"message": message})
    before = dict(engine.config)
    with pytest.raises(AllocationError, match=message) as error:
        engine.controller().set_limits(Limits(cpu_threads=1))
    assert engine.config == before
    assert error.value.node == "storj-1"
    assert "Docker at http://127.0.0.1:9999/docker" in str(error.value)


@pytest.mark.parametrize("threads", [0, -1, 0.001, float("nan"), float("-inf")])
def test_a_limit_that_is_none_is_not_even_asked_for(threads):
    engine = Engine()
    with pytest.raises(AllocationError, match=r"at least 0\.01 threads"):
        engine.controller().set_limits(Limits(cpu_threads=threads))
    assert engine.script.requests == []


def test_bandwidth_is_refused_with_what_to_set():
    engine = Engine()
    with pytest.raises(UnsupportedError, match=r"controller\.interface"):
        engine.controller().set_limits(Limits(cpu_threads=1, bandwidth_mbps=5))
    assert engine.script.requests == []


def test_after_a_failure_of_dockers_own_the_former_limits_are_sent_again():
    engine = Engine()
    engine.config.update(NanoCpus=2_000_000_000, Memory=1 << 30, MemorySwap=1 << 30)
    failed = iter([httpx.Response(500, json={"message": "runc failed"}), httpx.Response(200, json={})])
    engine.script.routes[f"{BASE}/update"] = lambda _request: next(failed)
    with pytest.raises(AllocationError, match="runc failed; the former limits are back"):
        engine.controller().set_limits(Limits(cpu_threads=1, memory_bytes=1 << 29))
    back = json.loads(engine.script.requests[-1].content)
    assert back == {"NanoCpus": 2_000_000_000, "Memory": 1 << 30, "MemorySwap": 1 << 30}


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [("1.41", "1.12", "v1.41"), ("1.43", "1.24", "v1.43"), ("1.52", "1.24", "v1.43"), ("1.55", "1.44", "v1.44")],
)
def test_the_version_spoken_is_the_nearest_that_the_engine_offers(newest, oldest, spoken):
    engine = Engine()
    engine.version = {"ApiVersion": newest, "MinAPIVersion": oldest}
    engine.script.routes[f"/docker/{spoken}/containers/storagenode/json"] = engine._inspect
    controller = engine.controller()
    controller.limits()
    controller.limits()
    asked = [request.url.path for request in engine.script.requests]
    assert asked == ["/docker/version", *[f"/docker/{spoken}/containers/storagenode/json"] * 2]


@pytest.mark.parametrize(
    ("version", "told"),
    [({"ApiVersion": "1.24"}, "is too old"), ({"ApiVersion": "yes"}, "is it Docker"), ({}, "ApiVersion: is missing")],
)
def test_an_engine_that_cannot_be_spoken_to_is_told(version, told):
    engine = Engine()
    engine.version = version
    with pytest.raises(AllocationError, match=told):
        engine.controller().limits()


def test_a_proxy_that_forbids_a_call_is_told_and_not_taken_for_a_missing_token():
    engine = Engine()
    engine.script.routes[f"{BASE}/update"] = httpx.Response(403, content=b"<html>Forbidden</html>")
    with pytest.raises(AllocationError, match="a proxy before its socket must allow this call") as error:
        engine.controller().set_limits(Limits(cpu_threads=1))
    assert "token" not in str(error.value)


STATISTICS = {
    "cpu_stats": {
        "cpu_usage": {"total_usage": 2_500_000_000},
        "throttling_data": {"throttled_time": 1_500_000_000},
    },
    "memory_stats": {"usage": 1000, "stats": {"inactive_file": 100}},
    "networks": {"eth0": {"rx_bytes": 1, "tx_bytes": 2}, "eth1": {"rx_bytes": 10, "tx_bytes": 20}},
}


@pytest.mark.parametrize(
    ("changes", "memory", "received", "sent"),
    [
        ({}, 900, 11, 22),
        ({"networks": None}, 900, None, None),
        ({"memory_stats": {"usage": 1000, "stats": {"total_inactive_file": 300, "inactive_file": 1}}}, 700, 11, 22),
        ({"memory_stats": {"usage": 1000}}, 1000, 11, 22),
        ({"memory_stats": {"usage": 1000, "stats": {"inactive_file": 5000}}}, 1000, 11, 22),
    ],
)
def test_usage_is_in_base_units_and_unknown_where_docker_counts_nothing(changes, memory, received, sent):
    engine = Engine()
    engine.script.routes[f"{BASE}/stats"] = STATISTICS | changes
    usage = engine.controller().usage()
    assert (usage.cpu_seconds_total, usage.throttled_seconds_total) == (2.5, 1.5)
    assert (usage.memory_bytes, usage.received_bytes_total, usage.sent_bytes_total) == (memory, received, sent)
    assert usage.out_of_memory_kills_total is None
    (asked,) = [request for request in engine.script.requests if request.url.path.endswith("stats")]
    assert dict(asked.url.params) == {"stream": "false", "one-shot": "true"}


@pytest.mark.parametrize(
    "answer",
    [{}, {"cpu_stats": {}}, STATISTICS | {"memory_stats": {}}, STATISTICS | {"networks": {"e": {"rx_bytes": 1}}}],
)
def test_counters_of_another_shape_are_an_error_and_not_zero(answer):
    engine = Engine()
    engine.script.routes[f"{BASE}/stats"] = answer
    with pytest.raises(AllocationError):
        engine.controller().usage()


def test_no_value_of_a_variable_is_ever_repeated():
    engine = Engine()
    secret = "sekret-0123456789"
    container = {
        "Id": "f" * 64,
        "Name": "/storagenode",
        "Image": "sha256:1",
        "HostConfig": engine.config,
        "State": engine.state,
        "Config": {"Env": [f"KEY={secret}"], "Image": "x"},
    }
    engine.script.routes |= {
        f"{BASE}/json": container,
        "/docker/v1.43/images/x/json": {"Id": "sha256:1"},
        f"{BASE}/rename": httpx.Response(
            500, json={"message": f"invalid environment variable: {secret}, {secret}-new"}
        ),
        f"/docker/v1.43/containers/{'f' * 64}/json": container,
        f"/docker/v1.43/containers/{'f' * 64}/start": httpx.Response(304),
    }
    with pytest.raises(AllocationError, match=r"variable: \*\*\*") as error:
        engine.controller().recreate({"KEY": f"{secret}-new"}, 1)
    assert secret not in str(error.value)


def test_a_restart_passes_the_grace_allows_more_time_than_it_and_waits_until_the_container_runs(monkeypatch):
    no_waiting(monkeypatch)
    engine = Engine()
    states = iter([False, False, True])
    engine.script.routes[f"{BASE}/json"] = lambda _request: {
        "HostConfig": engine.config,
        "State": engine.state | {"Running": next(states)},
    }
    engine.controller().restart(300)
    (restart,) = [request for request in engine.script.requests if request.url.path.endswith("/restart")]
    assert (restart.method, dict(restart.url.params)) == ("POST", {"t": "300"})
    assert restart.extensions["timeout"]["read"] > 300
    assert next(states, None) is None


def test_a_container_that_does_not_come_up_is_an_error_with_its_status(monkeypatch):
    no_waiting(monkeypatch)
    engine = Engine()
    engine.state.update(Running=False, Status="exited")
    with pytest.raises(AllocationError, match=r"is 'exited' 60 s after its restart \(exit code 0\)"):
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
    assert "controller.container" in Engine().controller(container="").why_cannot_restart()
    missing = DockerController("n", url=f"unix://{tmp_path}/docker.sock", container="x")
    assert f"no Docker socket at {tmp_path}" in missing.why_cannot_restart()
    for call in (missing.limits, lambda: missing.set_limits(Limits(cpu_threads=1)), lambda: missing.restart(1)):
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
    version = json.dumps({"ApiVersion": "1.41", "MinAPIVersion": "1.12"})
    container = json.dumps(
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
                for body in (version, container):
                    asked.append(connection.recv(65536))
                    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                    connection.sendall((head + body).encode())

        thread = threading.Thread(target=serve)
        thread.start()
        controller = DockerController("n", url=f"unix://{path}", container="my/node")
        assert controller.limits().cpu_threads == 2
        controller.close()
        thread.join()
    assert asked[0].startswith(b"GET /version HTTP/1.1\r\n")
    assert asked[1].startswith(b"GET /v1.41/containers/my%2Fnode/json HTTP/1.1\r\n")


def test_a_socket_this_user_may_not_open_is_told_with_the_remedy(tmp_path, monkeypatch):
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        monkeypatch.setattr("orcha_pipeline.controllers.docker_api.os.access", lambda _path, _mode: False)
        controller = DockerController("n", url=f"unix://{path}", container="x")
        assert "usermod -aG docker" in controller.why_cannot_restart()
        with pytest.raises(UnsupportedError, match="may not use"):
            controller.limits()
        controller.close()


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"kind": "docker", "container": "x"}, DockerController),
        ({"kind": "systemd", "unit": "x.service"}, SystemdController),
        ({"kind": "cgroup", "cgroup": "/x"}, CgroupController),
        ({}, NoController),
        ({"interface": "veth0"}, ShapedController),
        ({"kind": "cgroup", "cgroup": "/x", "interface": "veth0"}, ShapedController),
    ],
)
def test_settings_choose_the_controller(given, kind):
    controller = make_controller(settings("grass", controller=given))
    assert type(controller) is kind
    assert controller.describe()
    controller.close()


def test_without_a_controller_everything_is_refused_with_the_remedy():
    none = NoController("storj-1")
    assert 'kind = "docker"' in none.why_cannot_restart()
    assert 'kind = "docker"' in none.why_cannot_limit("cpu_threads")
    assert "controller.interface" in none.why_cannot_limit("bandwidth_mbps")
    for call in (none.limits, lambda: none.set_limits(Limits(cpu_threads=1)), lambda: none.restart(1)):
        with pytest.raises(UnsupportedError, match="no controller is set"):
            call()
    none.close()
