"""Real processes: what starts, dies, restarts and ends, and what is left afterwards (nothing)."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from orcha_pipeline import supervisor
from orcha_pipeline.errors import SupervisionError
from orcha_pipeline.liveness import AliveCheck
from orcha_pipeline.supervisor import RestartPolicy, Service, Supervisor, instance_lock, require_free_port

pytestmark = pytest.mark.integration

PATIENCE = 20.0
QUICK = RestartPolicy(first_delay=0.01, longest_delay=0.02)

# A family: the main process, a child that ignores SIGTERM, and one that left its session. Each writes its pid.
FAMILY = """
import os, signal, subprocess, sys, time
folder = sys.argv[1]
def note(name):
    with open(f"{folder}/{name}.tmp", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{folder}/{name}.tmp", f"{folder}/{name}.pid")
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note("stubborn")
    time.sleep(300)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    note("daemon")
    time.sleep(300)
note("main")
time.sleep(300)
"""
FAMILY_NAMES = ("main", "stubborn", "daemon")


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests with a process that never ends by itself."""
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 0.3)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Service]:
    def make(name: str, code: str, *arguments: str, ready: Callable[[], bool] = lambda: True, **options) -> Service:
        return Service(
            name=name,
            command=[sys.executable, "-c", textwrap.dedent(code), *arguments],
            env=dict(os.environ),
            cwd=tmp_path,
            log_path=tmp_path / "logs" / f"{name}.log",
            ready=ready,
            **options,
        )

    return make


def wait_for(condition: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, f"waited in vain for {what}"
        time.sleep(0.02)


def family_born(folder: Path) -> bool:
    return all((folder / f"{name}.pid").exists() for name in FAMILY_NAMES)


def family(folder: Path) -> list[psutil.Process]:
    wait_for(lambda: family_born(folder), "the family")
    return [psutil.Process(int((folder / f"{name}.pid").read_text())) for name in FAMILY_NAMES]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    yield
    assert {p.pid for p in psutil.Process().children(recursive=True)} == before


def test_services_start_together_and_each_is_announced_when_it_is_ready(make, tmp_path):
    # Each is ready only when the other has been started: one after the other would never end.
    a = make("a", "open('a', 'w'); import time; time.sleep(300)", ready=(tmp_path / "b").exists)
    b = make("b", "open('b', 'w'); import time; time.sleep(300)", ready=(tmp_path / "a").exists)
    announced: list[str] = []
    with Supervisor() as running:
        running.start([a, b], on_ready=announced.append)
        assert running.names() == ("a", "b")
    assert sorted(announced) == ["a", "b"]


def test_a_service_gets_its_folder_environment_no_input_and_one_log_for_both_outputs(make, tmp_path):
    service = make(
        "told",
        """
        import os, sys, time
        print(os.getcwd(), os.environ["WORD"], repr(sys.stdin.read()), flush=True)
        print("to stderr", file=sys.stderr, flush=True)
        open("done", "w").close()
        time.sleep(300)
        """,
        ready=(tmp_path / "done").exists,
    )
    service = replace(service, env={"WORD": "given"})
    with Supervisor() as running:
        running.start([service])
    assert service.log_path.read_text() == f"{tmp_path} given ''\nto stderr\n"


def test_a_service_that_dies_at_the_start_is_told_with_its_last_words_and_ends_the_others(make, tmp_path, short_grace):
    other = make("other", FAMILY, str(tmp_path), ready=lambda: family_born(tmp_path))
    dying = make("dying", "print('no such table', flush=True); raise SystemExit(3)", ready=lambda: False)
    expected = r"(?s)dying ended with exit status 3\..*dying\.log.*no such table"
    with pytest.raises(SupervisionError, match=expected), Supervisor() as running:
        running.start([other])
        relatives = family(tmp_path)
        running.start([dying])
    assert gone(relatives)


def test_last_words_are_those_of_this_start_not_of_an_earlier_one(make):
    service = make("fresh", "raise SystemExit(1)", ready=lambda: False)
    service.log_path.parent.mkdir()
    service.log_path.write_text("from yesterday\n")
    with pytest.raises(SupervisionError, match="Its log is empty"), Supervisor() as running:
        running.start([service])
    assert service.log_path.read_text() == "from yesterday\n"


def test_a_service_that_is_not_ready_in_time_is_told(make):
    late = make("late", "import time; time.sleep(300)", ready=lambda: False, start_timeout=0.2)
    with pytest.raises(SupervisionError, match=r"late was not ready within 0\.2 s"), Supervisor() as running:
        running.start([late])


def test_a_command_that_does_not_exist_is_told(make):
    service = make("lost", "")
    service = replace(service, command=["/no/such/program"])
    service = replace(service, ready=lambda: False)
    with pytest.raises(SupervisionError, match="/no/such/program: No such file or directory"), Supervisor() as running:
        running.start([service])


def test_a_folder_that_does_not_exist_is_told(make, tmp_path):
    service = make("homeless", "")
    service = replace(service, cwd=tmp_path / "missing")
    with pytest.raises(SupervisionError, match="homeless cannot be started"), Supervisor() as running:
        running.start([service])


def test_a_dead_service_is_started_again_and_the_reason_told(make, tmp_path, short_grace):
    service = make("phoenix", FAMILY, str(tmp_path), ready=lambda: family_born(tmp_path))
    restarts: list[tuple[str, str]] = []
    with Supervisor(QUICK) as running:
        running.start([service])
        first = family(tmp_path)
        for name in FAMILY_NAMES:
            (tmp_path / f"{name}.pid").unlink()
        first[0].kill()
        running.watch(on_restart=lambda name, why: restarts.append((name, why)), until=lambda: family_born(tmp_path))
        # What the dead one left behind is gone before the new one starts.
        assert gone(first)
        second = family(tmp_path)
        assert {p.pid for p in first}.isdisjoint(p.pid for p in second)
    assert restarts == [("phoenix", "was ended by SIGKILL")]
    assert gone(second)


def test_a_service_that_keeps_dying_is_tried_again_and_told_and_the_others_go_on(make, tmp_path):
    doomed = make("doomed", "raise SystemExit(7)")
    steady = make("steady", "import time; time.sleep(300)")
    restarts: list[tuple[str, str]] = []
    with Supervisor(QUICK) as running:
        running.start([doomed, steady])
        running.watch(on_restart=lambda name, why: restarts.append((name, why)), until=lambda: len(restarts) >= 8)
        states = {state.name: state for state in running.states()}
    assert restarts == [("doomed", "ended with exit status 7")] * 8
    assert (states["doomed"].restarts, states["doomed"].why) == (8, "ended with exit status 7")
    assert (states["steady"].restarts, states["steady"].why, states["steady"].is_up) == (0, "", True)


def test_a_service_of_which_one_process_takes_too_much_memory_is_started_again(make, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "MEMORY_LOOK_SECONDS", 0.0)
    # The first time a child of its own grows, the second time nothing does.
    greedy = """
    import os, time
    first = not os.path.exists("grown")
    if first and os.fork() == 0:
        taken = b"x" * (200 << 20)
        open("grown", "w").close()
        time.sleep(300)
    time.sleep(300)
    """
    services = [make("greedy", greedy, memory_limit_mib=150.0), make("modest", "import time; time.sleep(300)")]
    told: list[tuple[str, str]] = []
    looks: list[int] = []

    def enough() -> bool:
        looks.append(len(told))
        return looks.count(1) > 20

    with Supervisor(QUICK) as running:
        running.start(services)
        wait_for((tmp_path / "grown").exists, "the child to grow")
        running.watch(on_restart=lambda name, why: told.append((name, why)), until=enough)
    ((name, why),) = told
    assert name == "greedy"
    taken = re.fullmatch(r"took (\d+) MiB of memory, of which 150 are allowed", why)
    assert taken is not None
    assert 200 <= int(taken[1]) < 300


def test_a_service_that_waits_for_its_next_try_is_told_as_down(make):
    service = make("doomed", "raise SystemExit(7)")
    with Supervisor(RestartPolicy(first_delay=60.0)) as running:
        running.start([service])
        assert running.idle_seconds() is None
        running.watch(until=lambda: not running.states()[0].is_up)
        (state,) = running.states()
        assert running.idle_seconds() < PATIENCE
    assert state.restarts == 0
    assert 50.0 < state.retry_in <= 60.0


def test_a_restart_that_the_system_refuses_is_tried_again(make, tmp_path):
    service = make("unlucky", "raise SystemExit(7)")
    with Supervisor(QUICK) as running:
        running.start([service])
        logs = service.log_path.parent
        for file in logs.iterdir():
            file.unlink()
        logs.rmdir()
        logs.write_text("in the way")
        running.watch(until=lambda: "cannot be started" in running.states()[0].why)
        logs.unlink()
        restarts: list[str] = []
        running.watch(on_restart=lambda name, why: restarts.append(why), until=lambda: bool(restarts))
    assert restarts[0].startswith("cannot be started: ")


def test_what_is_to_be_done_before_a_start_is_done_when_nothing_is_left_of_the_last_one(make, tmp_path, short_grace):
    left: list[bool] = []

    def before_start() -> None:
        if not left:
            left.append(False)
            return
        left.append(not gone(first))
        if len(left) == 2:
            raise SupervisionError("the disk is full")

    service = make("phoenix", FAMILY, str(tmp_path), ready=lambda: family_born(tmp_path), before_start=before_start)
    told: list[str] = []
    with Supervisor(QUICK) as running:
        running.start([service])
        first = family(tmp_path)
        for name in FAMILY_NAMES:
            (tmp_path / f"{name}.pid").unlink()
        first[0].kill()
        running.watch(on_restart=lambda _name, why: told.append(why), until=lambda: family_born(tmp_path))
    assert left == [False, False, False]
    assert told == ["the disk is full"]


def test_the_delay_doubles_up_to_its_longest_and_never_ends():
    policy = RestartPolicy(first_delay=1.0, longest_delay=30.0)
    assert [policy.delay(n) for n in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert policy.delay(100_000) == 30


@pytest.mark.parametrize(("steady", "delay"), [(0.0, 100.0), (60.0, 200.0)])
def test_the_delay_begins_anew_after_a_steady_time(make, tmp_path, steady, delay):
    service = make("phoenix", "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(300)")
    policy = RestartPolicy(first_delay=100.0, longest_delay=1000.0, steady=steady)

    def end_it(running: Supervisor) -> None:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "its pid")
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        (tmp_path / "pid").unlink()
        running.watch(until=lambda: running.states()[0].retry_in is not None)

    with Supervisor(policy) as running:
        running.start([service])
        end_it(running)
        assert 90.0 < running.states()[0].retry_in <= 100.0
        running._children[0].restart_at = 0.0  # as if the delay had passed
        running.watch(until=lambda: running.states()[0].is_up)
        end_it(running)
        assert delay - 10.0 < running.states()[0].retry_in <= delay


def test_services_end_in_reverse_order_each_by_its_own_signal(make, tmp_path):
    code = """
    import signal, sys, time
    name, number = sys.argv[1], int(sys.argv[2])
    def leave(*_):
        with open("order", "a") as file:
            file.write(name + "\\n")
        sys.exit()
    signal.signal(number, leave)
    open(name, "w").close()
    time.sleep(300)
    """
    by = {"first": signal.SIGTERM, "second": signal.SIGINT, "third": signal.SIGTERM}
    services = [
        make(name, code, name, str(int(number)), ready=(tmp_path / name).exists, stop_signal=number)
        for name, number in by.items()
    ]
    with Supervisor() as running:
        running.start(services)
    assert (tmp_path / "order").read_text().split() == ["third", "second", "first"]


def test_no_relative_outlives_the_stop_however_stubborn_or_far(make, tmp_path, short_grace):
    with Supervisor() as running:
        running.start([make("family", FAMILY, str(tmp_path), ready=lambda: family_born(tmp_path))])
        relatives = family(tmp_path)
        assert os.getsid(relatives[2].pid) != os.getsid(relatives[0].pid)
    assert gone(relatives)


def test_a_killed_guardian_takes_its_group_with_it(make, tmp_path):
    with Supervisor(QUICK) as running:
        running.start(
            [
                make(
                    "orphan",
                    "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(300)",
                    ready=lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "",
                )
            ]
        )
        service = psutil.Process(int((tmp_path / "pid").read_text()))
        service.parent().kill()
        restarted: list[str] = []
        running.watch(on_restart=lambda name, why: restarted.append(why), until=lambda: bool(restarted))
        assert restarted == ["was ended by SIGKILL"]
        wait_for(lambda: gone([service]), "the end of the killed guardian's service")


# --- services that hang


SERVER = """
import http.server, os, sys
class Here(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Here)
with open("port.tmp", "w") as file:
    file.write(f"{os.getpid()} {server.server_port}")
os.rename("port.tmp", "port")
server.serve_forever()
"""


def answers(folder: Path) -> bool:
    try:
        port = int((folder / "port").read_text().split()[1])
        return httpx.get(f"http://127.0.0.1:{port}", timeout=0.2, trust_env=False).is_success
    except (OSError, httpx.HTTPError):
        return False


@pytest.fixture
def server(make, tmp_path) -> Service:
    """A server that is asked often and taken to hang after half a second."""
    alive = AliveCheck(answers=lambda: answers(tmp_path), every=0.05, limit=0.5)
    return make("server", SERVER, ready=lambda: answers(tmp_path), alive=alive)


def server_pid(folder: Path) -> int:
    return int((folder / "port").read_text().split()[0])


def test_a_stopped_service_is_ended_and_started_again(server, make, tmp_path, short_grace):
    other = make("other", "import time; time.sleep(300)")
    restarts: list[tuple[str, str]] = []
    with Supervisor(QUICK) as running:
        running.start([server, other])
        first = psutil.Process(server_pid(tmp_path))
        first.suspend()
        running.watch(on_restart=lambda name, why: restarts.append((name, why)), until=lambda: bool(restarts))
        assert gone([first])
        running.watch(until=lambda: running.states()[0].is_up)
        assert server_pid(tmp_path) != first.pid
        assert running.states()[1].restarts == 0
    assert [(name, re.sub(r"\d+", "N", why)) for name, why in restarts] == [("server", "did not answer for N s")]


def test_a_check_that_hangs_holds_nobody_up(make, tmp_path, short_grace):
    for_ever = threading.Event()
    hanging = AliveCheck(answers=for_ever.wait, every=0.1, limit=60.0)
    deaf = make("deaf", "import time; time.sleep(300)", alive=hanging)
    dying = make("dying", "raise SystemExit(7)")
    restarts: list[str] = []
    with Supervisor(QUICK) as running:
        running.start([deaf, dying])
        asked = time.monotonic()
        running.watch(
            on_restart=lambda name, why: restarts.append(name),
            until=lambda: len(restarts) >= 3 and time.monotonic() > asked + 0.5,
        )
    for_ever.set()
    assert set(restarts) == {"dying"}


def test_a_service_whose_check_never_returns_is_ended_and_started_again(make, short_grace):
    for_ever = threading.Event()
    deaf = make("deaf", "import time; time.sleep(300)", alive=AliveCheck(answers=for_ever.wait, every=0.05, limit=0.3))
    restarts: list[str] = []
    with Supervisor(QUICK) as running:
        running.start([deaf])
        running.watch(on_restart=lambda name, why: restarts.append(why), until=lambda: bool(restarts))
    for_ever.set()
    assert re.fullmatch(r"did not answer for \d+ s", restarts[0])


def test_a_large_log_is_moved_aside_at_the_start(make, monkeypatch):
    monkeypatch.setattr(supervisor, "LOG_LIMIT_BYTES", 10)
    service = make("wordy", "import time; time.sleep(300)")
    service.log_path.parent.mkdir()
    service.log_path.write_text("more than ten bytes")
    with Supervisor() as running:
        running.start([service])
    assert service.log_path.read_text() == ""
    assert service.log_path.with_name("wordy.log.1").read_text() == "more than ten bytes"


def test_a_log_that_grows_too_large_is_emptied_while_its_service_writes_on(make, monkeypatch):
    monkeypatch.setattr(supervisor, "LOG_LIMIT_BYTES", 5_000)
    count = "import itertools, time\nfor i in itertools.count():\n    print(i, 'x' * 50, flush=True); time.sleep(0.002)"
    service = make("chatty", count)
    older = service.log_path.with_name("chatty.log.1")
    largest: list[int] = []

    def emptied_twice() -> bool:
        largest.append(service.log_path.stat().st_size)
        kept = older.read_text() if older.exists() else ""
        return bool(kept) and not kept.startswith("0 ") and largest[-1] > 0

    with Supervisor() as running:
        running.start([service])
        running.watch(until=emptied_twice)
        assert running.states()[0].restarts == 0
    assert max(largest) < 50_000
    assert older.stat().st_size > 5_000
    assert "\0" not in service.log_path.read_text()  # it goes on at the end of what there is now


def test_a_log_that_cannot_be_kept_is_emptied_all_the_same(make, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(supervisor.shutil, "copyfile", full)
    monkeypatch.setattr(supervisor, "LOG_LIMIT_BYTES", 10)
    service = make("wordy", "import time; time.sleep(300)")
    service.log_path.parent.mkdir()
    service.log_path.write_text("more than ten bytes")
    with Supervisor() as running:
        running.start([service])
    assert service.log_path.read_text() == ""
    assert not service.log_path.with_name("wordy.log.1").exists()


# --- a whole supervising process


PARENT = """
import os, signal, sys
from pathlib import Path
from orcha_pipeline import supervisor
from orcha_pipeline.supervisor import Service, Supervisor
folder = Path(sys.argv[1])
supervisor.GRACE_SECONDS = float(sys.argv[3])
signal.signal(signal.SIGINT, signal.default_int_handler)
born = lambda: all((folder / f"{n}.pid").exists() for n in ("main", "stubborn", "daemon"))
service = Service(name="family", command=[sys.executable, "-c", sys.argv[2], str(folder)], env=dict(os.environ),
                  cwd=folder, log_path=folder / "family.log", ready=born)
try:
    with Supervisor() as running:
        running.start([service])
        print("up", flush=True)
        running.watch()
except KeyboardInterrupt:
    print("ended in order", flush=True)
"""


WATCHED = """
import os, signal, sys, threading
from pathlib import Path
import httpx
from orcha_pipeline.liveness import AliveCheck
from orcha_pipeline.supervisor import Service, Supervisor
folder = Path(sys.argv[1])
def answers():
    try:
        port = (folder / "port").read_text().split()[1]
        return httpx.get(f"http://127.0.0.1:{port}", timeout=0.2, trust_env=False).is_success
    except (OSError, httpx.HTTPError):
        return False
service = Service(name="server", command=[sys.executable, "-c", sys.argv[2]], env=dict(os.environ), cwd=folder,
                  log_path=folder / "server.log", ready=answers,
                  alive=AliveCheck(answers=answers, every=0.05, limit=6.0))
turns = iter(range(10**9))
def turned():
    (folder / "turn").write_text(str(next(turns)))
    return False
with Supervisor() as running:
    running.start([service])
    running.watch(on_restart=lambda name, why: print(name, why, flush=True), until=turned)
"""


def test_a_tree_that_was_stopped_as_a_whole_goes_on_as_it_was(tmp_path):
    def turn() -> int:
        try:
            return int((tmp_path / "turn").read_text())
        except (OSError, ValueError):
            return 0

    with subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(tmp_path), SERVER], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        try:
            wait_for(turn, "the watch")
            tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            pid = server_pid(tmp_path)
            for each in reversed(tree):
                each.suspend()
            stopped_at = time.monotonic()
            wait_for(lambda: time.monotonic() > stopped_at + 7.0, "longer to pass than a silence may last")
            for each in reversed(tree):  # the watch first: it finds its service still silent
                each.resume()
            seen = turn()
            wait_for(lambda: turn() > seen + 10, "the watch to go on")
            assert server_pid(tmp_path) == pid
            assert psutil.pid_exists(pid), (process.stdout.readline(), process.poll())
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=supervisor.STOP_SECONDS + 2)
    assert output == "", (tmp_path / "server.log").read_text()


@pytest.fixture
def parent(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    grace = str(getattr(request, "param", 0.3))
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), FAMILY, grace], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_parent_ends_everything_in_time(parent, tmp_path, number):
    relatives = family(tmp_path)
    parent.send_signal(number)
    output, _ = parent.communicate(timeout=supervisor.STOP_SECONDS + 2)
    assert output == "ended in order\n"
    assert gone(relatives)


@pytest.mark.parametrize("parent", [PATIENCE], indirect=True)
def test_a_second_ctrl_c_ends_everything_at_once(parent, tmp_path):
    relatives = family(tmp_path)
    parent.send_signal(signal.SIGINT)
    wait_for(lambda: gone(relatives[:1]), "the first to leave")
    assert not gone(relatives), "the stubborn one is still within its grace"
    parent.send_signal(signal.SIGINT)
    parent.wait(timeout=supervisor.STOP_SECONDS / 2)  # unhurried, it would take the whole grace
    assert gone(relatives)


def test_a_parent_killed_outright_takes_everything_with_it(parent, tmp_path):
    relatives = family(tmp_path)
    parent.kill()
    parent.wait()
    wait_for(lambda: gone(relatives), "the guardian to clean up")


# --- the port and the lock


def test_a_busy_port_names_the_port_its_holder_and_the_setting():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        name = psutil.Process().name()
        expected = (
            rf"Port {port}, where the MLflow server is to listen, is taken by {re.escape(name)} "
            rf"\(pid {os.getpid()}\)\. End that, or set services\.mlflow_port to another port\."
        )
        with pytest.raises(SupervisionError, match=expected):
            require_free_port(port, "the MLflow server", "services.mlflow_port")
    require_free_port(port, "the MLflow server", "services.mlflow_port")


def test_a_port_taken_on_all_addresses_is_busy_too():
    with socket.create_server(("0.0.0.0", 0)) as server, pytest.raises(SupervisionError, match="is taken by"):
        require_free_port(server.getsockname()[1], "the testnet", "testnet.port")


def test_a_second_instance_is_refused_with_the_first_ones_pid_and_addresses(tmp_path):
    code = (
        "import sys; from pathlib import Path; from orcha_pipeline.supervisor import instance_lock\n"
        "with instance_lock(Path(sys.argv[1]), addresses=['http://127.0.0.1:3000']):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    home = tmp_path / "deep" / "home"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        expected = re.escape(f"Orcha already runs here (pid {first.pid}, http://127.0.0.1:3000). Folder: {home}")
        with pytest.raises(SupervisionError, match=expected), instance_lock(home):
            pass
        first.kill()
    with instance_lock(home):
        pass


def test_the_lock_is_free_again_after_use_and_after_an_error(tmp_path):
    with pytest.raises(KeyError), instance_lock(tmp_path):
        raise KeyError
    with instance_lock(tmp_path), pytest.raises(SupervisionError, match="already runs here"), instance_lock(tmp_path):
        pass
    with instance_lock(tmp_path):
        pass


def test_a_home_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SupervisionError, match=r"file.*cannot be used as Orcha's folder"),
        instance_lock(tmp_path / "file" / "home"),
    ):
        pass
