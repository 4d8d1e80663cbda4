"""The rate at which a network device sends, limited with the kernel's token bucket by the program `tc`."""

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from orcha_pipeline.controllers.base import Limits
from orcha_pipeline.controllers.checks import not_as_wanted, require_sane
from orcha_pipeline.controllers.commands import run_program
from orcha_pipeline.errors import AdapterError, AllocationError, SettingsError, UnsupportedError
from orcha_pipeline.protocols.parsing import Whole, parse

HANDLE = "7a5e"
"""Marks a token bucket as Orcha's: a hexadecimal number below those that the kernel gives out (8000 on)."""
KERNELS_OWN = "0"
"""Handle of what the kernel put there by itself (pfifo_fast, fq_codel, mq, noqueue, …)."""
LATENCY = "400ms"
"""How long a packet may wait for its turn before it is dropped."""
LEAST_BURST = 16 * 1024
"""Bytes."""
BURST_SECONDS = 0.02
"""The bucket holds this much of its rate: at least one tick of the slowest kernel clock (10 ms)."""
_BITS_PER_MEGABIT = 1_000_000
_CAP_NET_ADMIN = 12
_REMEDY = (
    "run Orcha as root, or as a service with AmbientCapabilities=CAP_NET_ADMIN, or setcap cap_net_admin+ep "
    "/usr/sbin/tc (which lets every user of this machine shape its network)"
)


class _Counted(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Options(_Counted):
    rate: Whole | None = None
    """Bytes a second, unlike everywhere else in tc."""


class _Queue(_Counted):
    kind: str
    handle: str
    root: bool = False
    options: _Options = _Options()


class _Sum(_Counted):
    bytes: Whole


class _Both(_Counted):
    rx: _Sum
    tx: _Sum


class _Device(_Counted):
    stats64: _Both


class Interface:
    """One network device. Only what it sends is limited; nothing limits what it receives."""

    def __init__(self, node: str, device: str, *, prefix: Sequence[str] = (), tc: str = "tc", ip: str = "ip") -> None:
        """`prefix` goes before each command (tests: into a network namespace). Raises `SettingsError`."""
        if not (0 < len(device) < 16) or not device.isprintable() or set(device) & set("/ ") or device[0] in "-.":
            raise SettingsError(f"node {node!r}: controller.interface {device!r} is no name of a network device")
        self._node = node
        self._prefix = tuple(prefix)
        self._tc, self._ip = tc, ip
        self.device = device

    def describe(self) -> str:
        """What is limited; that it is more than the node where the device leads to everywhere."""
        wide = " (the default route: everything this host sends is limited)" if self._carries_default_route() else ""
        return f"tc on {self.device}{wide}"

    def why_cannot_limit(self) -> str:
        """Empty when the device is there, nobody else shapes it, and this user seems to be allowed to."""
        if self._found(self._tc) is None:
            return "there is no program tc: install iproute2"
        try:
            root = self._root()
        except AdapterError as error:
            return error.message
        return self._why_foreign(root) or ("" if self._may() else f"this needs CAP_NET_ADMIN: {_REMEDY}")

    def limit(self) -> float | None:
        """Mbps that the device may send, whoever limited it by a token bucket; None where none does."""
        root = self._root()
        if root is None or root.kind != "tbf" or root.options.rate is None:
            return None
        return root.options.rate * 8 / _BITS_PER_MEGABIT

    def set_limit(self, mbps: float) -> float | None:
        """Limit, or with infinite stop limiting; what is in force afterwards. What others set up is left alone."""
        require_sane(self._node, Limits(bandwidth_mbps=mbps))
        if self._found(self._tc) is None:
            raise UnsupportedError(self._node, "there is no program tc: install iproute2")
        root = self._root()
        if why := self._why_foreign(root):
            raise UnsupportedError(self._node, f"not writable, because {why}")
        before = self.limit() if root and _is_own(root) else None
        self._write(mbps, shaped=before is not None)
        after = self.limit()
        if wrong := not_as_wanted(Limits(bandwidth_mbps=mbps), Limits(bandwidth_mbps=after)):
            self._write(math.inf if before is None else before, shaped=True)
            raise AllocationError(self._node, f"{self.device} does not have the rate it was given: {wrong}")
        return after

    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent since the device came up."""
        command = (self._ip, "-j", "-s", "link", "show", "dev", self.device)
        devices = self._shown("device", list[_Device], command)
        if len(devices) != 1:
            raise AllocationError(self._node, f"ip tells of {len(devices)} devices named {self.device}")
        return devices[0].stats64.rx.bytes, devices[0].stats64.tx.bytes

    def _write(self, mbps: float, *, shaped: bool) -> None:
        if math.isinf(mbps):
            if not shaped:
                return
            arguments = ["del", "dev", self.device, "root"]
        else:
            rate = round(mbps * _BITS_PER_MEGABIT / 8) * 8
            burst = max(LEAST_BURST, round(rate / 8 * BURST_SECONDS))
            arguments = ["replace", "dev", self.device, "root", "handle", f"{HANDLE}:", "tbf"]
            arguments += ["rate", f"{rate}bit", "burst", f"{burst}b", "latency", LATENCY]
        done = run_program(self._node, [*self._prefix, self._tc, "qdisc", *arguments])
        if done.code == 0:
            return
        if "not permitted" in done.told:
            raise AllocationError(self._node, f"not writable, because tc says {done.told!r}: {_REMEDY}")
        raise AllocationError(self._node, f"tc could not limit {self.device}: {done.told or f'exit code {done.code}'}")

    def _root(self) -> _Queue | None:
        command = (self._tc, "-s", "-j", "qdisc", "show", "dev", self.device)
        return next((queue for queue in self._shown("qdisc", list[_Queue], command) if queue.root), None)

    def _why_foreign(self, root: _Queue | None) -> str:
        if root is None or _handle(root) == KERNELS_OWN or _is_own(root):
            return ""
        return (
            f"{self.device} already has a {root.kind} ({root.handle}) that was set up by somebody else, which Orcha "
            f"leaves alone; if nobody needs it: tc qdisc del dev {self.device} root"
        )

    def _shown(self, where: str, kind: type[list[Any]], command: Sequence[str]) -> Any:
        done = run_program(self._node, [*self._prefix, *command])
        if done.code != 0:
            raise AllocationError(self._node, f"{self.device}: {command[0]} says {done.told!r}")
        try:
            payload: Any = json.loads(done.output or "[]")
        except ValueError:
            raise AllocationError(
                self._node, f"{command[0]} -j does not print JSON: iproute2 4.17 or newer is needed"
            ) from None
        try:
            return parse(self._node, f"{command[0]} on {self.device}: {where}", kind, payload)
        except AdapterError as error:
            raise AllocationError(self._node, error.message) from None

    def _found(self, program: str) -> str | None:
        return program if self._prefix else shutil.which(program)

    def _may(self) -> bool:
        if self._prefix:
            return True
        if os.geteuid() == 0 and _has_capability(_CAP_NET_ADMIN):
            return True
        program = self._found(self._tc)
        try:
            granted = program is not None and os.getxattr(program, "security.capability") != b""
        except OSError:
            granted = False
        return granted or _has_ambient(_CAP_NET_ADMIN)

    def _carries_default_route(self) -> bool:
        try:
            lines = Path("/proc/net/route").read_text(encoding="utf-8").splitlines()[1:]
        except OSError:
            return False
        routes = (line.split() for line in lines)
        return not self._prefix and any(r[:2] == [self.device, "00000000"] for r in routes)


def _handle(queue: _Queue) -> str:
    return queue.handle.rstrip(":")


def _is_own(queue: _Queue) -> bool:
    return queue.kind == "tbf" and _handle(queue) == HANDLE


def _has_capability(number: int) -> bool:
    return _in_set("CapEff", number)


def _has_ambient(number: int) -> bool:
    return _in_set("CapAmb", number)


def _in_set(name: str, number: int) -> bool:
    """Whether this process has the capability in the set; a program it runs as another user gets the ambient ones."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
