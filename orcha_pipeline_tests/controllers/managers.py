"""A systemd of the test's own: in namespaces and control groups of its own, with one service."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from orcha_pipeline.controllers.cgroup import mounted
from orcha_pipeline.controllers.systemd import SystemdController

SYSTEMD = next((p for p in map(Path, ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")) if p.exists()), None)
UNIT = "orcha-node.service"
_TARGET = "[Unit]\nDescription=nothing\nDefaultDependencies=no\n"
_SERVICE = """[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/sh -c 'while :; do :; done'
CPUAccounting=yes
MemoryAccounting=yes
"""


@dataclass(frozen=True)
class Manager:
    """How to reach it: what to put before a command, and where its groups are mounted as seen from here."""

    enter: tuple[str, ...]
    mounts: Path

    def controller(self, unit: str = UNIT) -> SystemdController:
        return SystemdController(
            "n", unit=unit, systemctl=(*self.enter, "systemctl"), mounts=self.mounts, booted=Path("/")
        )


def why_none() -> str:
    missing = [name for name in ("systemctl", "unshare", "nsenter") if shutil.which(name) is None]
    if os.geteuid() != 0:
        return "needs root"
    if SYSTEMD is None or missing:
        return f"needs systemd{''.join(f', {name}' for name in missing)}"
    return ""


@contextmanager
def manager(folder: Path) -> Iterator[Manager]:
    """A running manager; nothing of it is left afterwards. Raises `RuntimeError` where it does not come up."""
    name = f"orcha-test-{uuid4().hex[:8]}"
    first, second = mounted()
    points = sorted({one.point for one in first.values()} | ({second.point} if second else set()))
    groups = [point / name for point in points]
    process: subprocess.Popen[bytes] | None = None
    try:
        for group in groups:
            group.mkdir()
            for file in ("cpuset.cpus", "cpuset.mems"):  # without them a group of version 1 takes no process
                if (group / file).exists():
                    (group / file).write_text((group.parent / file).read_text())
        mounts = folder / "mountinfo"
        lines = [f"1 0 0:1 / {one.point}/{name} rw - cgroup cgroup rw,{kind}" for kind, one in first.items()]
        lines += [f"1 0 0:1 / {second.point}/{name} rw - cgroup2 cgroup2 rw"] if second else []
        mounts.write_text("\n".join(lines))
        units = folder / "units"
        units.mkdir()
        for target in ("orcha", "sysinit", "basic", "shutdown"):
            (units / f"{target}.target").write_text(_TARGET)
        (units / UNIT).write_text(_SERVICE)
        files = " ".join(str(group / "cgroup.procs") for group in groups)
        # What it takes for the top of each hierarchy is its own group, so that it makes none beside it.
        binds = " && ".join(f"mount --bind {point}/{name} {point}" for point in points)
        start = (
            f"for f in {files}; do echo $$ > $f; done; exec unshare --pid --fork --kill-child --mount --cgroup "
            f"--net --uts --ipc sh -c 'mount --make-rprivate / && {binds} && mount -t tmpfs none /run "
            f"&& mount -t proc proc /proc "
            f"&& mkdir -p /run/systemd/system && cp -r {units} /run/units && "
            f"exec env container=orcha SYSTEMD_UNIT_PATH=/run/units {SYSTEMD} --system --unit=orcha.target'"
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(["sh", "-c", start], stdout=log, stderr=log, start_new_session=True)
        found = Manager(("nsenter", f"--target={_inner(process)}", "--mount", "--pid", "--cgroup"), mounts)
        _wait_until_up(found, process, folder / "log")
        yield found
    finally:
        if process is not None:
            for child in _children(process.pid):
                os.kill(child, signal.SIGKILL)  # the namespace's first process: all others go with it
            process.kill()
            process.wait()
        for group in groups:
            _remove(group)


def _inner(process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + 10
    while time.monotonic() < end and process.poll() is None:
        if found := _children(process.pid):
            return found[0]
        time.sleep(0.05)
    raise RuntimeError("no namespaces of the test's own")


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _wait_until_up(found: Manager, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        start = subprocess.run([*found.enter, "systemctl", "start", UNIT], capture_output=True, check=False, timeout=20)
        if start.returncode == 0:
            return
        time.sleep(0.2)
    raise RuntimeError(f"systemd does not come up: {log.read_text()[-300:]}")


def _remove(group: Path) -> None:
    for _ in range(100):
        for below in sorted(group.rglob("*"), reverse=True):
            if below.is_dir():
                try:
                    below.rmdir()
                except OSError:
                    break  # a killed process is still leaving
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
