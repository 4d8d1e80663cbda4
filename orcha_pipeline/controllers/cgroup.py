"""Limits and counters of a control group, read and written in the kernel's own files, of version 1 and 2."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orcha_pipeline.controllers.base import LimitName, Limits, ProcessUsage
from orcha_pipeline.controllers.checks import former, given, not_as_wanted, require_sane
from orcha_pipeline.controllers.commands import run_program
from orcha_pipeline.errors import AdapterError, AllocationError, SettingsError, UnsupportedError
from orcha_pipeline.protocols.levers import wait_for

MOUNTS = Path("/proc/self/mountinfo")
START_SECONDS = 60.0
"""How long a restarted node may take to have processes in its group, and its command longer than the grace."""
LEAST_QUOTA = 1000
"""Microseconds of CPU time in a period; the kernel's own bound."""
NO_MEMORY_LIMIT_V1 = (1 << 63) - 4096
"""Version 1 has a number for "no limit": the largest of whole pages."""
_MICRO, _NANO = 1_000_000, 1_000_000_000
_REMEDY = (
    "run Orcha as root, or hand the group to its user (systemd: Delegate=yes in the unit; by hand: chown of the "
    "group's files); see docs/controllers.md"
)


@dataclass(frozen=True, slots=True)
class Mounted:
    """Where a hierarchy of groups is. `root`: the group that is seen at `point`."""

    version: int
    point: Path
    root: str


@dataclass(frozen=True, slots=True)
class Place:
    """A group's directory in the hierarchy that has one controller."""

    version: int
    path: Path


@dataclass(frozen=True, slots=True)
class _Write:
    file: Path
    text: str


def mounted(mounts: Path = MOUNTS) -> tuple[dict[str, Mounted], Mounted | None]:
    """Controllers of version 1 by name, and the hierarchy of version 2: both on a hybrid host. `mounts`: mountinfo."""
    first: dict[str, Mounted] = {}
    second: Mounted | None = None
    for line in mounts.read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind:
            continue
        point, root = Path(_unescaped(fields[4])), _unescaped(fields[3])
        if kind[0] == "cgroup2":
            second = second or Mounted(2, point, root)
        elif kind[0] == "cgroup":
            for name in kind[-1].split(","):
                first.setdefault(name, Mounted(1, point, root))
    return first, second


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def group_name(node: str, group: str) -> str:
    """`group` as `/a/b`; `SettingsError` where it would lead elsewhere, or is the root, which holds everything."""
    parts = PurePosixPath("/", group).parts[1:]
    if not parts or ".." in parts or not group.isprintable():
        raise SettingsError(
            f"node {node!r}: controller.cgroup must name the group of the node's processes as in /proc/PID/cgroup, "
            "such as /system.slice/storagenode.service"
        )
    return "/" + "/".join(parts)


class Group:
    """One group's limits and counters. `what` names it in messages."""

    def __init__(self, node: str, group: str, mounts: Path = MOUNTS) -> None:
        self._node = node
        self._mounts = mounts
        self.name = group_name(node, group)

    def version(self) -> str:
        """What was found, in words."""
        found = {place.version for name in ("cpu", "memory") if isinstance(place := self._look(name), Place)}
        kinds = {frozenset({1}): "cgroup v1", frozenset({2}): "cgroup v2", frozenset({1, 2}): "cgroup v1 and v2"}
        return kinds.get(frozenset(found), "cgroup")

    def why_not_writable(self, controller: str) -> str:
        """Empty when the controller's limit can be written; else the reason and the remedy."""
        place = self._look(controller)
        if isinstance(place, str):
            return place
        file = place.path / _limit_file(controller, place.version)
        if not os.access(file, os.W_OK):
            return f"{file} is not writable by this user: {_REMEDY}"
        return ""

    def limits(self) -> Limits:
        """The limits in force; a controller that the host lacks, or has off for this group, limits nothing."""
        if not self.exists():
            raise AllocationError(self._node, f"there is no cgroup {self.name}; does the node run?")
        cpu, memory = self._look("cpu"), self._look("memory")
        return Limits(
            cpu_threads=self._threads(cpu) if isinstance(cpu, Place) else None,
            memory_bytes=self._memory(memory) if isinstance(memory, Place) else None,
        )

    def set_limits(self, wanted: Limits) -> None:
        """Write what is given, all or nothing."""
        writes: list[_Write] = []
        if wanted.cpu_threads is not None:
            writes.append(self._cpu_write(self._need("cpu"), wanted.cpu_threads))
        if wanted.memory_bytes is not None:
            writes += self._memory_writes(self._need("memory"), wanted.memory_bytes)
        done: list[_Write] = []
        for write in writes:
            try:
                old = self._read(write.file)
                write.file.write_text(write.text)
            except OSError as error:
                why = _why_refused(write, error)
                raise AllocationError(self._node, f"{why}; {self._undone(done)}") from None
            done.append(_Write(write.file, old))

    def usage(self, source: str) -> ProcessUsage:
        """What the kernel counts of the group since it was made. Memory is without cache that it would give back."""
        if not self.exists():
            raise AllocationError(self._node, f"there is no cgroup {self.name}; does the node run?")
        cpu, memory, account = self._look("cpu"), self._look("memory"), self._look("cpuacct")
        seconds = throttled = held = kills = None
        if isinstance(account, Place) and account.version == 1:
            seconds = _scaled(self._number(account.path / "cpuacct.usage"), _NANO)
        elif isinstance(cpu, Place) and cpu.version == 2:
            seconds = _scaled(self._table(cpu.path / "cpu.stat").get("usage_usec"), _MICRO)
        if isinstance(cpu, Place):
            counted = self._table(cpu.path / "cpu.stat")
            throttled = (
                _scaled(counted.get("throttled_time"), _NANO)
                if cpu.version == 1
                else _scaled(counted.get("throttled_usec"), _MICRO)
            )
        if isinstance(memory, Place):
            old = memory.version == 1
            used = self._number(memory.path / ("memory.usage_in_bytes" if old else "memory.current"))
            cache = self._table(memory.path / "memory.stat").get("total_inactive_file" if old else "inactive_file", 0)
            held = None if used is None else max(0, used - cache)
            events = self._table(memory.path / ("memory.oom_control" if old else "memory.events"))
            kills = events.get("oom_kill")
        return ProcessUsage(
            cpu_seconds_total=seconds,
            memory_bytes=held,
            throttled_seconds_total=throttled,
            out_of_memory_kills_total=kills,
            source=source,
        )

    def processes(self) -> frozenset[int]:
        """Ids of the processes in the group itself, not in groups below it."""
        found: set[int] = set()
        for place in self._places():
            try:
                found |= {int(line) for line in (place.path / "cgroup.procs").read_text().split()}
            except OSError:
                # Gone since it was looked for, or a group of version 2 that holds threads only.
                continue
        return frozenset(found)

    def exists(self) -> bool:
        """Whether any hierarchy has the group."""
        return bool(self._places())

    def _places(self) -> list[Place]:
        looked = (self._look(name) for name in ("cpu", "memory", "cpuacct", "pids"))
        return [place for place in looked if isinstance(place, Place)]

    def _look(self, controller: str) -> Place | str:
        """The group's directory where the controller is, or why there is none."""
        try:
            first, second = mounted(self._mounts)
        except OSError as error:
            return f"{self._mounts} cannot be read ({error.strerror}): are there control groups on this system?"
        hierarchy = first.get(controller, second)
        if hierarchy is None:
            return f"no cgroup hierarchy with the {controller} controller is mounted"
        name = self.name
        if hierarchy.root != "/":
            if not name.startswith(f"{hierarchy.root}/"):
                return f"the cgroup {name} is outside of what is mounted at {hierarchy.point}"
            name = name.removeprefix(hierarchy.root)
        path = hierarchy.point / name.lstrip("/")
        if not path.is_dir():
            return f"there is no cgroup {self.name} under {hierarchy.point}; does the node run?"
        if hierarchy.version == 2 and controller in ("cpu", "memory"):
            file = path / _limit_file(controller, 2)
            if not file.exists():
                above = path.parent / "cgroup.subtree_control"
                return f"the {controller} controller is off for {self.name}: echo +{controller} > {above}"
        return Place(hierarchy.version, path)

    def _need(self, controller: str) -> Place:
        place = self._look(controller)
        if isinstance(place, str):
            raise UnsupportedError(self._node, f"not writable, because {place}")
        return place

    def _quota(self, place: Place) -> tuple[int | None, int]:
        """Microseconds of CPU time in each period, None without limit, and the period."""
        if place.version == 2:
            quota, _, period = self._read(place.path / "cpu.max").partition(" ")
            return None if quota == "max" else self._whole(quota), max(1, self._whole(period))
        quota = self._whole(self._read(place.path / "cpu.cfs_quota_us"))
        period = self._whole(self._read(place.path / "cpu.cfs_period_us"))
        return None if quota < 0 else quota, max(1, period)

    def _threads(self, place: Place) -> float | None:
        quota, period = self._quota(place)
        return None if quota is None else quota / period

    def _cpu_write(self, place: Place, threads: float) -> _Write:
        """The new quota, of the period that the group has."""
        _, period = self._quota(place)
        quota = None if math.isinf(threads) else round(threads * period)
        if quota is not None and quota < LEAST_QUOTA:
            raise AllocationError(
                self._node,
                f"a CPU limit must be at least {LEAST_QUOTA / period:g} threads with a period of {period} microseconds",
            )
        if place.version == 2:
            return _Write(place.path / "cpu.max", f"{'max' if quota is None else quota} {period}")
        return _Write(place.path / "cpu.cfs_quota_us", "-1" if quota is None else str(quota))

    def _memory(self, place: Place) -> float | None:
        text = self._read(place.path / _limit_file("memory", place.version))
        return None if text == "max" or (size := self._whole(text)) >= NO_MEMORY_LIMIT_V1 >> 1 else size

    def _memory_writes(self, place: Place, wanted: float) -> list[_Write]:
        file = place.path / _limit_file("memory", place.version)
        none = "max" if place.version == 2 else str(NO_MEMORY_LIMIT_V1)
        text = none if math.isinf(wanted) else str(round(wanted))
        both = place.path / "memory.memsw.limit_in_bytes"
        if place.version == 2 or not both.exists():
            return [_Write(file, text)]
        # Memory and swap together may never be less than memory: the one that grows goes first.
        now = self._memory(place)
        together = self._whole(self._read(both))
        swap = together - now if now is not None and together < NO_MEMORY_LIMIT_V1 >> 1 else None
        with_swap = none if swap is None or math.isinf(wanted) else str(round(wanted) + max(0, round(swap)))
        writes = [_Write(both, with_swap), _Write(file, text)]
        return writes if now is not None and wanted > now else writes[::-1]

    def _undone(self, done: Sequence[_Write]) -> str:
        for write in reversed(done):
            try:
                write.file.write_text(write.text)
            except OSError as error:
                return f"{write.file} could not be put back to {write.text}: {error.strerror}"
        return "nothing is changed"

    def _read(self, file: Path) -> str:
        try:
            return file.read_text().strip()
        except OSError as error:
            raise AllocationError(self._node, f"{file} cannot be read: {error.strerror}") from None

    def _whole(self, text: str) -> int:
        if re.fullmatch(r"-?[0-9]{1,20}", text) is None:
            raise AllocationError(self._node, f"the cgroup {self.name} tells {text[:40]!r} where a number should be")
        return int(text)

    def _number(self, file: Path) -> int | None:
        return self._whole(self._read(file)) if file.exists() else None

    def _table(self, file: Path) -> dict[str, int]:
        if not file.exists():
            return {}
        pairs = (line.split() for line in self._read(file).splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _limit_file(controller: str, version: int) -> str:
    files = {
        ("cpu", 1): "cpu.cfs_quota_us",
        ("cpu", 2): "cpu.max",
        ("memory", 1): "memory.limit_in_bytes",
        ("memory", 2): "memory.max",
    }
    return files[controller, version]


def _scaled(value: int | None, unit: int) -> float | None:
    return None if value is None else value / unit


def _why_refused(write: _Write, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"not writable, because {write.file}: {error.strerror}; {_REMEDY}"
    if "memory" in write.file.name and error.errno in (16, 22):  # EBUSY, EINVAL
        return f"the kernel does not take {write.text} in {write.file}: the group holds more than it could give back"
    return f"the kernel does not take {write.text} in {write.file}: {error.strerror}"


class CgroupController:
    """One group, and a command that restarts its node."""

    def __init__(self, node: str, *, group: str, restart_command: Sequence[str] = (), mounts: Path = MOUNTS) -> None:
        """`group`: as in `/proc/PID/cgroup`. Raises `SettingsError` for one that leads elsewhere."""
        self._node = node
        self._group = Group(node, group, mounts) if group else None
        self._command = tuple(restart_command)

    def describe(self) -> str:
        """What limits the node, and which version of groups was found."""
        return f"{self._group.version()} {self._group.name}" if self._group else "no cgroup"

    def why_cannot_limit(self, limit: LimitName) -> str:
        """Empty when this user may write the group's file."""
        if self._group is None:
            return "controller.cgroup is not set: name the group of the node's processes, as in /proc/PID/cgroup"
        if limit == "bandwidth_mbps":
            return (
                "control groups do not limit bandwidth; set controller.interface to a network device that carries all "
                "that the node sends and nothing else"
            )
        return self._group.why_not_writable("cpu" if limit == "cpu_threads" else "memory")

    def why_cannot_restart(self) -> str:
        """Empty when there is a command for it."""
        if self._group is None:
            return "controller.cgroup is not set: name the group of the node's processes, as in /proc/PID/cgroup"
        return "" if self._command else "controller.restart_command is not set: give the command that restarts the node"

    def why_cannot_recreate(self) -> str:
        """Never: a group knows nothing of how its processes were started."""
        return "a cgroup's processes cannot be started anew by Orcha; change the node's variables where it is started"

    def limits(self) -> Limits:
        """The limits in force."""
        return self._required().limits()

    def set_limits(self, wanted: Limits) -> Limits:
        """Write the limits, read them back, and undo them where they are not those wanted."""
        for name in given(wanted):
            if why_not := self.why_cannot_limit(name):
                raise UnsupportedError(self._node, f"not writable, because {why_not}")
        group = self._required()
        require_sane(self._node, wanted)
        before = group.limits()
        group.set_limits(wanted)
        after = group.limits()
        if wrong := not_as_wanted(wanted, after):
            group.set_limits(former(wanted, before))
            raise AllocationError(
                self._node, f"the kernel took the limits of {group.name} but has others: {wrong}; the former are back"
            )
        return after

    def usage(self) -> ProcessUsage:
        """What the kernel counts; groups count no traffic."""
        return self._required().usage(self.describe())

    def restart(self, grace_seconds: int) -> None:
        """Run the command, and return once new processes are in the group, under the limits they had before.

        The command stops the node itself, within the grace; the group may vanish meanwhile and be made again.
        """
        if why_not := self.why_cannot_restart():
            raise UnsupportedError(self._node, why_not)
        group = self._required()
        before, limits = group.processes(), group.limits() if group.exists() else Limits()
        done = run_program(self._node, self._command, seconds=grace_seconds + START_SECONDS)
        if done.code != 0:
            raise AllocationError(
                self._node, f"the restart command ended with exit code {done.code}: {done.told or 'it says nothing'}"
            )
        if wait_for(lambda: group.processes() - before or None, seconds=START_SECONDS) is None:
            raise AllocationError(
                self._node,
                f"the restart command ended well, but no new process came into the cgroup {group.name} within "
                f"{START_SECONDS:g} s: it must start the node inside that group",
            )
        if given(limits) and not_as_wanted(limits, group.limits()):
            try:
                self.set_limits(limits)
            except AdapterError as error:
                raise AllocationError(
                    self._node, f"the node is restarted but lost its limits with its group: {error.message}"
                ) from None

    def environment(self) -> None:
        """Not told by a group."""

    def recreate(self, environment: object, grace_seconds: int) -> None:
        """Raises `UnsupportedError`."""
        del environment, grace_seconds
        raise UnsupportedError(self._node, self.why_cannot_recreate())

    def close(self) -> None:
        """Nothing is open."""

    def _required(self) -> Group:
        if self._group is None:
            raise UnsupportedError(self._node, self.why_cannot_limit("cpu_threads"))
        return self._group
