import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orcha_pipeline.controllers import tc
from orcha_pipeline.controllers.base import Limits, ProcessUsage
from orcha_pipeline.controllers.none import NoController
from orcha_pipeline.controllers.shaped import ShapedController
from orcha_pipeline.controllers.tc import HANDLE, Interface
from orcha_pipeline.errors import AllocationError, SettingsError, UnsupportedError
from orcha_pipeline_tests.protocols.fakes import FakeController

OWN = {
    "kind": "tbf",
    "handle": f"{HANDLE}:",
    "root": True,
    "options": {"rate": 1_000_000, "burst": 4096, "lat": 400000},
}
DEFAULT = {"kind": "mq", "handle": "0:", "root": True, "options": {}}
LINK = [{"ifname": "veth0", "stats64": {"rx": {"bytes": 700, "packets": 7}, "tx": {"bytes": 900}}}]


class Programs:
    """`tc` and `ip` that answer from files and remember what they were told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("tc", "ip"):
            (folder / name).write_text(
                "#!/bin/sh\n"
                f'echo "$@" >> {folder}/{name}.asked\n'
                f'case "$*" in *show*) cat {folder}/{name}.answer;; *) [ ! -e {folder}/{name}.refusal ] || '
                f"{{ cat {folder}/{name}.refusal >&2; exit 2; }}; [ ! -e {folder}/{name}.next ] || "
                f"cp {folder}/{name}.next {folder}/{name}.answer;; esac\n"
            )
            (folder / name).chmod(0o755)
        self.queues(DEFAULT)
        (folder / "ip.answer").write_text(json.dumps(LINK))

    def queues(self, *queues: Any) -> None:
        (self.folder / "tc.answer").write_text(json.dumps(queues))

    def after_a_change(self, *queues: Any) -> None:
        (self.folder / "tc.next").write_text(json.dumps(queues))

    def refuse(self, words: str) -> None:
        (self.folder / "tc.refusal").write_text(words)

    def asked(self) -> list[str]:
        file = self.folder / "tc.asked"
        return [line for line in file.read_text().splitlines() if "show" not in line] if file.exists() else []

    def interface(self) -> Interface:
        return Interface("n", "veth0", tc=str(self.folder / "tc"), ip=str(self.folder / "ip"))


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def test_a_rate_is_set_with_orchas_mark_and_read_back_in_bits(programs: Programs):
    programs.after_a_change(OWN)
    assert programs.interface().set_limit(8) == 8
    (told,) = programs.asked()
    assert told == f"qdisc replace dev veth0 root handle {HANDLE}: tbf rate 8000000bit burst 20000b latency 400ms"


def test_the_mark_is_one_that_the_kernel_never_gives_out():
    assert 0 < int(HANDLE, 16) < 0x8000


def test_no_limit_takes_orchas_queue_away_and_does_nothing_where_there_is_none(programs: Programs):
    assert programs.interface().set_limit(math.inf) is None
    assert programs.asked() == []
    programs.queues(OWN)
    programs.after_a_change(DEFAULT)
    assert programs.interface().set_limit(math.inf) is None
    assert programs.asked() == ["qdisc del dev veth0 root"]


@pytest.mark.parametrize(
    "queue",
    [
        {"kind": "htb", "handle": "1:", "root": True, "options": {"r2q": 10}},
        {"kind": "tbf", "handle": "8001:", "root": True, "options": {"rate": 125000}},
        {"kind": "fq_codel", "handle": "8002:", "root": True, "options": {}},
        {"kind": "htb", "handle": f"{HANDLE}:", "root": True, "options": {}},
    ],
)
def test_what_somebody_else_set_up_is_left_alone(programs: Programs, queue: dict[str, Any]):
    programs.queues(queue)
    interface = programs.interface()
    assert "set up by somebody else" in interface.why_cannot_limit()
    for mbps in (8.0, math.inf):
        with pytest.raises(
            UnsupportedError, match=r"not writable, because veth0 already has a .*tc qdisc del dev veth0"
        ):
            interface.set_limit(mbps)
    assert programs.asked() == []


def test_a_foreign_token_bucket_is_still_read(programs: Programs):
    programs.queues({"kind": "tbf", "handle": "8001:", "root": True, "options": {"rate": 125_000}})
    assert programs.interface().limit() == 1.0
    programs.queues(DEFAULT, {"kind": "tbf", "handle": "9:", "parent": "0:1", "options": {"rate": 125_000}})
    assert programs.interface().limit() is None


def test_a_rate_that_is_not_in_force_afterwards_is_undone(programs: Programs):
    programs.after_a_change(OWN)
    with pytest.raises(AllocationError, match=r"bandwidth_mbps should be 20 Mbps and is 8 Mbps"):
        programs.interface().set_limit(20)
    assert programs.asked()[-1] == "qdisc del dev veth0 root"


def test_a_user_who_may_not_is_told_what_to_grant(programs: Programs):
    programs.refuse("RTNETLINK answers: Operation not permitted")
    with pytest.raises(AllocationError, match=r"not writable, because tc says .*CAP_NET_ADMIN"):
        programs.interface().set_limit(8)


def test_the_right_is_looked_for_before(programs: Programs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tc, "_in_set", lambda name, number: False)
    assert "CAP_NET_ADMIN" in programs.interface().why_cannot_limit()
    monkeypatch.setattr(tc, "_in_set", lambda name, number: (name, number) == ("CapAmb", 12))
    assert programs.interface().why_cannot_limit() == ""


@pytest.mark.parametrize("mbps", [0, -1, 0.001, math.nan])
def test_a_rate_that_is_none_is_not_even_tried(programs: Programs, mbps: float):
    with pytest.raises(AllocationError, match=r"bandwidth_mbps must be at least 0\.01 Mbps"):
        programs.interface().set_limit(mbps)
    assert programs.asked() == []


@pytest.mark.parametrize("answer", ["qdisc tbf 8001: root", '{"kind": 1}', '[{"kind": "tbf"}]', "[[]]"])
def test_another_shape_is_an_error_and_not_no_limit(programs: Programs, answer: str):
    (programs.folder / "tc.answer").write_text(answer)
    with pytest.raises(AllocationError):
        programs.interface().limit()
    assert programs.interface().why_cannot_limit() != ""


def test_traffic_is_the_devices(programs: Programs):
    assert programs.interface().traffic() == (700, 900)


@pytest.mark.parametrize("device", ["", "-x", "a b", "a/b", "x" * 16, "..", "a\n"])
def test_what_is_no_device_is_a_settings_error(device: str):
    with pytest.raises(SettingsError, match="no name of a network device"):
        Interface("n", device)


def test_without_tc_it_says_what_to_install(tmp_path: Path):
    interface = Interface("n", "veth0", tc=str(tmp_path / "tc"))
    assert "install iproute2" in interface.why_cannot_limit()
    with pytest.raises(UnsupportedError, match="install iproute2"):
        interface.set_limit(8)


# ---------------------------------------------------------------- joined with a controller of processes


def shaped(programs: Programs, processes: Any) -> ShapedController:
    return ShapedController("n", processes, programs.interface())


def test_each_limit_goes_to_the_one_that_can(programs: Programs):
    processes = FakeController()
    controller = shaped(programs, processes)
    programs.after_a_change(OWN)
    limits = controller.set_limits(Limits(cpu_threads=2, bandwidth_mbps=8))
    assert limits == controller.limits() == Limits(cpu_threads=2, bandwidth_mbps=8)
    assert processes.in_force == Limits(cpu_threads=2)
    assert controller.set_limits(Limits(memory_bytes=1e9)) == Limits(cpu_threads=2, memory_bytes=1e9, bandwidth_mbps=8)
    assert "tc on veth0" in controller.describe()


def test_the_rate_is_put_back_where_the_processes_cannot_be_limited(programs: Programs):
    def fail(_wanted: Limits) -> Limits:
        raise AllocationError("n", "cgroup is read-only")

    processes = FakeController()
    processes.takes = fail
    programs.queues(OWN)
    with pytest.raises(AllocationError, match="cgroup is read-only; the rate of veth0 is as before"):
        shaped(programs, processes).set_limits(Limits(cpu_threads=2, bandwidth_mbps=8.0004))
    assert "rate 8000000bit" in programs.asked()[-1]


def test_a_rate_that_cannot_be_set_leaves_the_processes_alone(programs: Programs):
    processes = FakeController()
    programs.refuse("RTNETLINK answers: Operation not permitted")
    with pytest.raises(AllocationError, match="not writable"):
        shaped(programs, processes).set_limits(Limits(cpu_threads=2, bandwidth_mbps=8))
    assert processes.in_force == Limits()


def test_alone_a_device_limits_bandwidth_and_refuses_the_rest(programs: Programs):
    controller = shaped(programs, NoController("n"))
    assert "no controller is set" in controller.why_cannot_limit("cpu_threads")
    assert controller.limits() == Limits()
    assert controller.usage().sent_bytes_total == 900
    assert controller.usage().cpu_seconds_total is None
    for change in (lambda: controller.set_limits(Limits(cpu_threads=1)), lambda: controller.restart(1)):
        with pytest.raises(UnsupportedError, match="no controller is set"):
            change()


def test_the_processes_own_counters_of_traffic_come_first(programs: Programs):
    processes = FakeController()
    assert shaped(programs, processes).usage().sent_bytes_total == 900
    processes.usage = lambda: ProcessUsage(source="fake", sent_bytes_total=5, received_bytes_total=6)
    assert shaped(programs, processes).usage().sent_bytes_total == 5


# ---------------------------------------------------------------- the kernel's own, in a network of the test's own


class Namespace:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.enter = ("nsenter", f"--target={process.pid}", "--net")
        if os.geteuid() != 0:
            self.enter += ("--user", "--preserve-credentials")

    def run(self, *command: str) -> str:
        return subprocess.run([*self.enter, *command], check=True, capture_output=True, text=True).stdout

    def interface(self) -> Interface:
        return Interface("n", "left", prefix=self.enter)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Two devices joined by a cable, in a network that goes away with its one process."""
    missing = [name for name in ("tc", "ip", "unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    own = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    process = subprocess.Popen(
        [*own, "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    try:
        if not process.stdout.readline():
            pytest.skip(f"no network namespace: {process.stderr.read().decode().strip()}")
        found = Namespace(process)
        try:
            found.run("ip", "link", "add", "left", "type", "veth", "peer", "name", "right")
            for device, address in (("left", "10.9.0.1/24"), ("right", "10.9.0.2/24")):
                found.run("ip", "address", "add", address, "dev", device)
                found.run("ip", "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no devices can be made here: {error.stderr.strip()}")
        yield found
    finally:
        process.kill()
        process.communicate()


def test_a_real_device_is_limited_changed_and_freed(namespace: Namespace):
    interface = namespace.interface()
    assert interface.why_cannot_limit() == ""
    assert interface.limit() is None
    for mbps in (8.0, 0.1, 1000.0, 2.5):
        assert interface.set_limit(mbps) == pytest.approx(mbps, rel=1e-3)
    (queue,) = [q for q in json.loads(namespace.run("tc", "-j", "qdisc", "show", "dev", "left")) if q.get("root")]
    assert (queue["kind"], queue["handle"], queue["options"]["rate"]) == ("tbf", f"{HANDLE}:", 312_500)
    assert interface.set_limit(math.inf) is None
    assert "tbf" not in namespace.run("tc", "qdisc", "show", "dev", "left")


def test_a_real_foreign_queue_is_left_alone(namespace: Namespace):
    namespace.run("tc", "qdisc", "add", "dev", "left", "root", "handle", "1:", "htb")
    with pytest.raises(UnsupportedError, match="already has a htb"):
        namespace.interface().set_limit(8)
    assert "htb 1:" in namespace.run("tc", "qdisc", "show", "dev", "left")


def test_what_a_real_device_sends_is_held_back_and_counted(namespace: Namespace):
    """A burst of packets goes out as far as the bucket lets it; the rest waits or is dropped, none slips through."""
    interface = namespace.interface()
    interface.set_limit(0.1)
    before = interface.traffic()[1]
    # Locally the kernel would take a short cut, so the packets are sent from the device to its neighbour by raw frames.
    code = (
        "import socket\n"
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\ns.bind(('left', 0))\n"
        "for _ in range(400):\n    s.send(b'\\xff' * 6 + b'\\x02' * 6 + b'\\x88\\xb5' + bytes(1000))\n"
    )
    shown = "tc", "-s", "-j", "qdisc", "show", "dev", "left"
    subprocess.run(
        [*namespace.enter, shutil.which("python3") or "python3", "-c", code], check=False, capture_output=True
    )
    (queue,) = [q for q in json.loads(namespace.run(*shown)) if q.get("root")]
    sent = interface.traffic()[1] - before
    assert queue["overlimits"] > 0
    assert queue["drops"] > 0
    assert 0 < sent < 400 * 1000
    assert sent <= queue["bytes"] + 4096


def test_a_device_that_is_not_there_is_told(namespace: Namespace):
    interface = Interface("n", "gone", prefix=namespace.enter)
    assert "Cannot find device" in interface.why_cannot_limit()
    with pytest.raises(AllocationError, match="Cannot find device"):
        interface.limit()
    with pytest.raises(AllocationError, match="gone"):
        interface.traffic()
