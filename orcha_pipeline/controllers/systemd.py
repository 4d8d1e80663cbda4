"""Limits, usage and restarts of a service by `systemctl`, held against what the kernel really enforces."""

import logging
import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from orcha_pipeline.controllers.base import LimitName, Limits, ProcessUsage
from orcha_pipeline.controllers.cgroup import MOUNTS, Group
from orcha_pipeline.controllers.checks import former, not_as_wanted, require_sane
from orcha_pipeline.controllers.commands import TIMEOUT_SECONDS, Finished, run_program
from orcha_pipeline.errors import AdapterError, AllocationError, SettingsError, UnsupportedError
from orcha_pipeline.protocols.levers import wait_for

BOOTED = Path("/run/systemd/system")
"""There where systemd is the system's first process."""
START_SECONDS = 60.0
KERNEL_SECONDS = 5.0
"""How long systemd may take to write a new limit to the kernel; it answers before it does."""
_UNSET = {"", "infinity", "[not set]", "[no data]", "18446744073709551615"}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)(y|month|w|d|h|min|s|ms|us|μs|µs)")
_SECONDS = {
    "y": 31557600.0,
    "month": 2629800.0,
    "w": 604800.0,
    "d": 86400.0,
    "h": 3600.0,
    "min": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "μs": 1e-6,
    "µs": 1e-6,
}
_DENIED = ("access denied", "interactive authentication required", "permission denied", "not authorized")
_REMEDY = (
    "run Orcha as root, or let its user manage this unit by a polkit rule (see docs/controllers.md), or use "
    "controller.user_manager = true with a unit of its own user"
)
_log = logging.getLogger(__name__)


def span_seconds(text: str) -> float | None:
    """Seconds of a time as systemd prints it ("1s 500ms", "1.500000s", "290ms"); None where it is unset or endless.

    Raises `ValueError` for anything else.
    """
    if text in _UNSET:
        return None
    parts = text.split()
    matches = [_SPAN.fullmatch(part) for part in parts]
    if text == "0":
        return 0.0
    if not all(matches):
        raise ValueError(f"not a span of time: {text[:40]!r}")
    return sum(float(match[1]) * _SECONDS[match[2]] for match in matches if match)


def count(text: str) -> int | None:
    """A counter or a size as systemd prints it; None where it is unset. Raises `ValueError` for anything else."""
    if text in _UNSET:
        return None
    if re.fullmatch(r"[0-9]{1,20}", text) is None:
        raise ValueError(f"not a number: {text[:40]!r}")
    return int(text)


class SystemdController:
    """One unit of the system's manager, or of the user's own."""

    def __init__(
        self,
        node: str,
        *,
        unit: str,
        user_manager: bool = False,
        systemctl: Sequence[str] = ("systemctl",),
        mounts: Path = MOUNTS,
        booted: Path = BOOTED,
    ) -> None:
        """`systemctl`: the program, with what goes before it. Raises `SettingsError` for what is no unit's name."""
        if unit and re.fullmatch(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,250}\.(service|scope|slice)", unit) is None:
            raise SettingsError(f"node {node!r}: controller.unit must be a unit's full name, such as streamr.service")
        self._node = node
        self._unit = unit
        self._user = user_manager
        self._command = (*systemctl, *(("--user",) if user_manager else ()), "--no-pager", "--no-ask-password")
        self._mounts = mounts
        self._booted = booted

    def describe(self) -> str:
        """What limits the node."""
        return f"systemd unit {self._unit}" + (" of the user's manager" if self._user else "")

    def why_cannot_limit(self, limit: LimitName) -> str:
        """Empty where the unit is known. Whether this user may change it, systemd tells only when it is tried."""
        if limit == "bandwidth_mbps":
            return (
                "systemd has no limit of bandwidth; set controller.interface to a network device that carries all "
                "that the node sends and nothing else"
            )
        return self.why_cannot_restart()

    def why_cannot_restart(self) -> str:
        """Empty where systemd runs and knows the unit."""
        if why_not := self._why_not_asked():
            return why_not
        try:
            self._show("LoadState")
        except AdapterError as error:
            return error.message
        return ""

    def why_cannot_recreate(self) -> str:
        """Never: a unit's variables stand in its files."""
        return "a unit's environment stands in its files: systemctl edit it, then restart the node"

    def limits(self) -> Limits:
        """The unit's limits as systemd holds them."""
        return self._limits(self._show("CPUQuotaPerSecUSec", "MemoryMax"))

    def set_limits(self, wanted: Limits) -> Limits:
        """Set both in one call, until the next boot; they stay over restarts of the unit.

        Read back from systemd, and from the kernel while the unit runs: a manager without the controller (a user's
        manager without delegation) takes a limit and enforces nothing.
        """
        if wanted.bandwidth_mbps is not None:
            raise UnsupportedError(self._node, self.why_cannot_limit("bandwidth_mbps"))
        require_sane(self._node, wanted)
        before = self.limits()
        self._set(wanted)
        wrong = self._not_in_force(wanted)
        if wrong:
            try:
                self._set(former(wanted, before))
            except AdapterError as error:
                wrong = f"{wrong}; the former limits could not be put back: {error.message}"
            raise AllocationError(self._node, f"{self._unit} took its limits, but {wrong}")
        return self.limits()

    def usage(self) -> ProcessUsage:
        """What the kernel counts of the unit's group, and what systemd counts where that cannot be read.

        Traffic is counted with `IPAccounting=yes` only.
        """
        shown = self._show("CPUUsageNSec", "MemoryCurrent", "IPIngressBytes", "IPEgressBytes", "ControlGroup")
        source = self.describe()
        group = self._group(shown["ControlGroup"])
        kernel = group.usage(source) if group else ProcessUsage(source=source)
        spent = self._counted("CPUUsageNSec", shown)
        held = self._counted("MemoryCurrent", shown)
        return ProcessUsage(
            cpu_seconds_total=kernel.cpu_seconds_total if spent is None else spent / 1e9,
            memory_bytes=held if kernel.memory_bytes is None else kernel.memory_bytes,
            received_bytes_total=self._counted("IPIngressBytes", shown),
            sent_bytes_total=self._counted("IPEgressBytes", shown),
            throttled_seconds_total=kernel.throttled_seconds_total,
            out_of_memory_kills_total=kernel.out_of_memory_kills_total,
            source=source,
        )

    def restart(self, grace_seconds: int) -> None:
        """Restart the unit, and return once systemd reports it active.

        The grace is the unit's own `TimeoutStopSec`; systemd takes none from outside.
        """
        stop = self._spanned("TimeoutStopUSec", self._show("TimeoutStopUSec"))
        if stop is not None and stop < grace_seconds:
            _log.warning(
                "node %s: %s is killed %g s after it was told to stop, before the %d s it may need: set TimeoutStopSec",
                self._node,
                self._unit,
                stop,
                grace_seconds,
            )
        patience = max(grace_seconds, stop or 0.0) + START_SECONDS
        self._done(self._run("restart", "--", self._unit, seconds=patience), f"{self._unit} does not restart")

        def active() -> bool | None:
            state = self._show("ActiveState")["ActiveState"]
            if state == "failed":
                raise AllocationError(self._node, f"{self._unit} failed; see systemctl status {self._unit}")
            return True if state == "active" else None

        if wait_for(active, seconds=START_SECONDS) is None:
            raise AllocationError(
                self._node,
                f"{self._unit} is not active {START_SECONDS:g} s after its restart; see systemctl status {self._unit}",
            )

    def environment(self) -> None:
        """Not told: a unit's variables may come from files that only its manager reads."""

    def recreate(self, environment: object, grace_seconds: int) -> None:
        """Raises `UnsupportedError`."""
        del environment, grace_seconds
        raise UnsupportedError(self._node, self.why_cannot_recreate())

    def close(self) -> None:
        """Nothing is open."""

    def _why_not_asked(self) -> str:
        if not self._unit:
            return "controller.unit is not set: name the node's service, such as streamr.service"
        if shutil.which(self._command[0]) is None:
            return f"there is no program {self._command[0]}: this system is not run by systemd"
        if not self._user and not self._booted.exists():
            return "this system was not started by systemd"
        return ""

    def _limits(self, shown: dict[str, str]) -> Limits:
        return Limits(
            cpu_threads=self._spanned("CPUQuotaPerSecUSec", shown), memory_bytes=self._counted("MemoryMax", shown)
        )

    def _set(self, wanted: Limits) -> None:
        changes: list[str] = []
        if wanted.cpu_threads is not None:
            # Older versions take whole per cent only; an empty value takes the limit away.
            per_cent = "" if math.isinf(wanted.cpu_threads) else f"{_decimal(wanted.cpu_threads * 100)}%"
            changes.append(f"CPUQuota={per_cent}")
        if wanted.memory_bytes is not None:
            size = "infinity" if math.isinf(wanted.memory_bytes) else str(round(wanted.memory_bytes))
            changes.append(f"MemoryMax={size}")
        if changes:
            done = self._run("set-property", "--runtime", "--", self._unit, *changes)
            self._done(done, f"{self._unit} does not take its limits")

    def _not_in_force(self, wanted: Limits) -> str:
        """Why the limits are not in force, empty where they are."""
        shown = self._show("CPUQuotaPerSecUSec", "MemoryMax", "ControlGroup")
        if wrong := not_as_wanted(wanted, self._limits(shown)):
            return f"systemd reports others: {wrong}"
        group = self._group(shown["ControlGroup"])
        if group is None:  # the unit does not run; the limits are for its next start
            return ""
        wait_for(lambda: None if not_as_wanted(wanted, group.limits()) else True, seconds=KERNEL_SECONDS)
        wrong = not_as_wanted(wanted, group.limits())
        return f"the kernel does not enforce them: {wrong}; is the controller delegated (Delegate=)?" if wrong else ""

    def _group(self, path: str) -> Group | None:
        """The unit's group, where it has one that can be found from here."""
        if path in ("", "/"):
            return None
        group = Group(self._node, path, self._mounts)
        return group if group.exists() else None

    def _show(self, *names: str) -> dict[str, str]:
        if why_not := self._why_not_asked():
            raise UnsupportedError(self._node, why_not)
        wanted = sorted({*names, "LoadState"})
        done = self._run("show", f"--property={','.join(wanted)}", "--", self._unit)
        self._done(done, f"systemd does not tell of {self._unit}")
        shown = dict(line.split("=", 1) for line in done.output.splitlines() if "=" in line)
        if shown.get("LoadState") == "not-found":
            raise AllocationError(self._node, f"systemd knows no unit {self._unit}; see systemctl list-units")
        if missing := [name for name in wanted if name not in shown]:
            raise AllocationError(self._node, f"systemd does not tell {missing[0]} of {self._unit}: it is too old")
        return shown

    def _run(self, *arguments: str, seconds: float = TIMEOUT_SECONDS) -> Finished:
        if why_not := self._why_not_asked():
            raise UnsupportedError(self._node, why_not)
        return run_program(self._node, [*self._command, *arguments], seconds=seconds, extra=self._session())

    def _session(self) -> dict[str, str]:
        """Where the user's manager listens; a service of another manager is not told."""
        runtime = f"/run/user/{os.getuid()}"
        return {"XDG_RUNTIME_DIR": runtime} if self._user and "XDG_RUNTIME_DIR" not in os.environ else {}

    def _done(self, done: Finished, what: str) -> None:
        if done.code == 0:
            return
        told = done.told or f"exit code {done.code}"
        if any(words in told.lower() for words in _DENIED):
            raise AllocationError(self._node, f"not writable, because systemd says {told!r}: {_REMEDY}")
        raise AllocationError(self._node, f"{what}: {told}")

    def _spanned(self, name: str, shown: dict[str, str]) -> float | None:
        try:
            return span_seconds(shown[name])
        except ValueError as error:
            raise AllocationError(self._node, f"systemd tells a {name} of {self._unit} that is {error}") from None

    def _counted(self, name: str, shown: dict[str, str]) -> int | None:
        try:
            return count(shown[name])
        except ValueError as error:
            raise AllocationError(self._node, f"systemd tells a {name} of {self._unit} that is {error}") from None


def _decimal(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
