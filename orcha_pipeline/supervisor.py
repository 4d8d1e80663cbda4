"""Keeps a set of services running as children of this process: start, readiness, restart, and an end without orphans.

A service that dies is started again, and so is one that hangs (`liveness` tells) or takes too much memory. Each runs
under a `guardian`, which also cleans up when this process is killed. Also here: the lock that makes an installation
single, and the check that a port is free.
"""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import psutil

from orcha_pipeline.errors import SupervisionError
from orcha_pipeline.liveness import AliveCheck, AliveWatch, SeenTime

LOG_LIMIT_BYTES = 5_000_000
"""What a log larger than this holds is moved to NAME.1, in place of what an older one held."""
LOG_LINES_SHOWN = 15
POLL_SECONDS = 0.1
STOP_SECONDS = 10.0
"""All services have ended within this time."""
GRACE_SECONDS = 5.0
"""What a service's processes have between the stop signal and SIGKILL."""
MEMORY_LOOK_SECONDS = 30.0
"""Between two looks at the memory of a service's processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A command to keep running. `env` is its whole environment; `ready` tells, without raising, whether it serves.

    Without `alive` it is not asked whether it hangs. One of which a process takes more than `memory_limit_mib`
    (resident; None: no limit) is started again, before the system takes it from somebody else. `before_start` is
    called before each start, when nothing is left of the one before; a `SupervisionError` of it is a start that failed.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    log_path: Path
    ready: Callable[[], bool]
    start_timeout: float = 60.0
    alive: AliveCheck | None = None
    memory_limit_mib: float | None = None
    before_start: Callable[[], object] = lambda: None
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When a service that failed starts again: after `first_delay`, doubled each time up to `longest_delay` (seconds).

    It is never given up, for the others may do without it meanwhile. One that was up for `steady` seconds begins anew.
    """

    first_delay: float = 1.0
    longest_delay: float = 300.0
    steady: float = 300.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after the given number of failures in a row."""
        doublings = min(failures - 1, 32)  # of a failure a minute, for weeks, no float has room
        return min(self.longest_delay, self.first_delay * 2.0**doublings)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """How a service does. `why` is its last fault, empty before the first; `retry_in` seconds, None while it runs."""

    name: str
    is_up: bool
    restarts: int
    why: str
    retry_in: float | None


class Supervisor:
    """Context manager around running services; leaving it ends them all, the last started first.

    While entered from the main thread, SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, so that every way
    out passes through the end of the services.
    """

    def __init__(self, restarts: RestartPolicy | None = None) -> None:
        self._restarts = restarts or RestartPolicy()
        self._children: list[_Child] = []
        self._time = SeenTime()
        self._turned_at: float | None = None
        self._handlers: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._handlers[number] = signal.signal(number, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def names(self) -> tuple[str, ...]:
        """The services, in the order they were started."""
        return tuple(child.service.name for child in self._children)

    def states(self) -> tuple[ServiceState, ...]:
        """How each service does. May be asked from any thread."""
        return tuple(child.state(self._time.seconds) for child in self._children)

    def idle_seconds(self) -> float | None:
        """How long ago the watch last looked after a service; None while it has not begun. From any thread."""
        return None if self._turned_at is None else time.monotonic() - self._turned_at

    def start(self, services: Sequence[Service], on_ready: Callable[[str], None] | None = None) -> None:
        """Start all, then wait until each is ready; `on_ready` gets each name as it comes up.

        Raises `SupervisionError` with the last lines of the log if one dies or is late.
        """
        started = [_Child(service) for service in services]
        for child in started:
            self._children.append(child)
            child.spawn(self._time())
        waiting = started
        while waiting:
            for child in waiting:
                if fault := child.fault(self._time()):
                    raise SupervisionError(f"{child.service.name} {fault}.{child.last_lines()}")
                if child.is_ready and on_ready is not None:
                    on_ready(child.service.name)
            waiting = [child for child in waiting if not child.is_ready]
            if waiting:
                time.sleep(POLL_SECONDS)

    def watch(
        self,
        on_restart: Callable[[str, str], None] | None = None,
        until: Callable[[], bool] = lambda: False,
    ) -> None:
        """Restart what dies, hangs or takes too much memory, until `until()` holds.

        `on_restart` gets its name and why.
        """
        while not until():
            for child in self._children:
                self._look_after(child, on_restart)
                child.limit_log()
            time.sleep(POLL_SECONDS)

    def _look_after(self, child: "_Child", on_restart: Callable[[str, str], None] | None) -> None:
        now = self._time()
        self._turned_at = time.monotonic()
        if child.restart_at is None:
            if fault := child.fault(now):
                child.end()
                child.failed(fault, now, self._restarts)
        elif now >= child.restart_at:
            why = child.why
            try:
                child.spawn(now)
            except SupervisionError as error:  # a full disk, say, which may have room again later
                child.failed(str(error).removeprefix(f"{child.service.name} "), now, self._restarts)
                return
            child.restarts += 1
            if on_restart is not None:
                on_restart(child.service.name, why)

    def stop(self) -> None:
        """End all services and every process that came of them, within `STOP_SECONDS`."""
        begun = time.monotonic()
        children = [child for child in reversed(self._children) if child.is_running()]
        self._children.clear()
        # Each gets a moment before the next is told, so that clients end before what they talk to.
        head_start = min(2.0, 4.0 / max(1, len(children)))
        try:
            for child in children:
                child.ask_to_stop()
                child.wait(head_start)
            for child in children:
                child.wait(begun + STOP_SECONDS - 2.0 - time.monotonic())
        finally:  # also when an impatient second Ctrl-C comes
            for child in children:
                child.ask_to_stop()
            for child in children:
                child.kill_after(begun + STOP_SECONDS - 0.5 - time.monotonic())


_Handler = Callable[[int, FrameType | None], object] | int | None


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@dataclass(slots=True, eq=False)
class _Child:
    """A service with its process."""

    service: Service
    is_ready: bool = False
    restart_at: float | None = None
    why: str = ""
    restarts: int = 0
    _failures: int = 0
    _watch: AliveWatch | None = None
    _process: subprocess.Popen[bytes] | None = None
    _started_at: float = 0.0
    _weighed_at: float = 0.0
    _log_start: int = 0

    def spawn(self, now: float) -> None:
        service = self.service
        guardian = [sys.executable, "-P", "-m", "orcha_pipeline.guardian"]
        terms = [str(os.getpid()), str(GRACE_SECONDS), str(int(service.stop_signal))]
        service.before_start()
        self.restart_at, self.is_ready, self._watch = None, False, None
        self._started_at = self._weighed_at = now
        try:
            service.log_path.parent.mkdir(parents=True, exist_ok=True)
            self.limit_log()
            with service.log_path.open("ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    [*guardian, *terms, *service.command],
                    env=service.env,
                    cwd=service.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C in the terminal reaches this process alone, which then ends them
                )
        except OSError as error:
            raise SupervisionError(f"{service.name} cannot be started: {error}") from error

    def limit_log(self) -> None:
        """Empty the log where it is too large, and keep what it held: the service writes on at its end.

        A line that is written in that moment may be lost. Without room for what it held that is lost, but not the disk.
        """
        path = self.service.log_path
        older = path.with_name(f"{path.name}.1")
        with suppress(OSError):  # a log that cannot be written is told of where the service is started
            if path.stat().st_size <= LOG_LIMIT_BYTES:
                return
            older.unlink(missing_ok=True)
            try:
                shutil.copyfile(path, older)
            except OSError:
                older.unlink(missing_ok=True)
            os.truncate(path, 0)
            self._log_start = 0

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def state(self, now: float) -> ServiceState:
        restart_at = self.restart_at
        return ServiceState(
            name=self.service.name,
            is_up=self.is_ready and restart_at is None,
            restarts=self.restarts,
            why=self.why,
            retry_in=None if restart_at is None else max(0.0, restart_at - now),
        )

    def fault(self, now: float) -> str:
        """Why the service must be started again; empty while all is well."""
        if self._process is None:
            return "was not started"
        status = self._process.poll()
        if status is not None:
            return _ending(status)
        if not self.is_ready:
            return self._not_ready(now)
        if self._watch is not None and (silent := self._watch.silence(now)):
            return f"did not answer for {silent:.0f} s"
        return self._too_large(now)

    def _too_large(self, now: float) -> str:
        limit = self.service.memory_limit_mib
        if limit is None or self._process is None or now - self._weighed_at < MEMORY_LOOK_SECONDS:
            return ""
        self._weighed_at = now
        largest = max((_resident_mib(each) for each in _descendants(self._process.pid)), default=0.0)
        return f"took {largest:,.0f} MiB of memory, of which {limit:,.0f} are allowed" if largest > limit else ""

    def _not_ready(self, now: float) -> str:
        if self.service.ready():
            self.is_ready = True
            self._watch = None if self.service.alive is None else AliveWatch(self.service.alive, now)
        elif now - self._started_at > self.service.start_timeout:
            return f"was not ready within {self.service.start_timeout:g} s"
        return ""

    def failed(self, why: str, now: float, policy: RestartPolicy) -> None:
        """Keep why, and when to start again."""
        steady = self.is_ready and now - self._started_at >= policy.steady
        self._failures = 1 if steady else self._failures + 1
        self.why, self.restart_at = why, now + policy.delay(self._failures)

    def ask_to_stop(self) -> None:
        """The first time: end in good order. The second time: at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        if self._process is not None:
            try:
                self._process.wait(max(0.0, seconds))
            except subprocess.TimeoutExpired:
                return

    def kill_after(self, seconds: float) -> None:
        """Give the guardian that long to end its processes, then do it in its stead."""
        self.wait(seconds)
        if self._process is None:
            return
        if self._process.poll() is None:
            for process in [*_descendants(self._process.pid), self._process]:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            self._process.wait()
        if self._process.returncode < 0:  # a killed guardian could not clean up: end those of its session's group
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def end(self) -> None:
        self.ask_to_stop()
        self.kill_after(GRACE_SECONDS + 2.0)

    def last_lines(self) -> str:
        """The end of what this start wrote into the log, introduced by the log's path."""
        path = self.service.log_path
        with path.open("rb") as log:
            log.seek(max(self._log_start, path.stat().st_size - 20_000))
            lines = log.read().decode(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        if not lines:
            return f" Its log is empty: {path}"
        return "\n".join([f" Its last words ({path}):", *(f"  | {line}" for line in lines)])


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _resident_mib(process: psutil.Process) -> float:
    try:
        return process.memory_info().rss / 2**20
    except psutil.Error:  # it has ended meanwhile
        return 0.0


def _ending(status: int) -> str:
    number = -status if status < 0 else status - 128
    try:
        return f"was ended by {signal.Signals(number).name}" if number > 0 else f"ended with exit status {status}"
    except ValueError:
        return f"ended with exit status {status}"


@contextmanager
def instance_lock(home: Path, addresses: Sequence[str] = ()) -> Generator[None]:
    """Hold the installation in `home` (made if missing) for this process; `addresses` are told to a second one.

    Raises `SupervisionError` if another process holds it. The system frees the lock however this process ends.
    """
    path = home / "orcha.lock"
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise SupervisionError(
            f"{error.filename or path} cannot be used as Orcha's folder: {error.strerror}"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise SupervisionError(f"Orcha already runs here{_holder(file.read())}. Folder: {home}") from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "addresses": list(addresses)}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # the file stays: removing it would let two processes hold a lock each


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f" (pid {', '.join([str(holder['pid']), *holder['addresses']])})"
    except (ValueError, KeyError, TypeError):
        return ""  # it has only just taken the lock


def require_free_port(port: int, what: str, setting: str) -> None:
    """Raise `SupervisionError` unless `what` can listen on 127.0.0.1:`port`; `setting` is the key that changes it."""
    with socket.socket() as probe:
        # As servers do: connections that linger from the last run are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                why = f"is taken by {_listener(port)}"
            else:
                why = f"cannot be used ({error.strerror})"
            raise SupervisionError(
                f"Port {port}, where {what} is to listen, {why}. End that, or set {setting} to another port."
            ) from None


def _listener(port: int) -> str:
    """The process that listens on the port, as far as this user may see it."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,)
        if listens and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                return f"pid {connection.pid}"
    return "another process"
