import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orcha_pipeline.controllers.base import Limits
from orcha_pipeline.controllers.systemd import SystemdController, count, span_seconds
from orcha_pipeline.errors import AllocationError, SettingsError, UnsupportedError
from orcha_pipeline_tests.controllers import managers
from orcha_pipeline_tests.controllers.managers import UNIT, Manager
from orcha_pipeline_tests.controllers.test_cgroup import V2, write
from orcha_pipeline_tests.protocols.fakes import no_waiting

MIB = 1024**2
SHOWN = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "CPUQuotaPerSecUSec": "infinity",
    "MemoryMax": "infinity",
    "CPUUsageNSec": "2500000000",
    "MemoryCurrent": "104857600",
    "IPIngressBytes": "[no data]",
    "IPEgressBytes": "[no data]",
    "ControlGroup": "",
    "TimeoutStopUSec": "1min 30s",
}


class Systemctl:
    """A program that answers `show` from a file; `set-property` makes the next answer of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "systemctl"
        self.path.write_text(
            "#!/bin/sh\n"
            f'echo "$LC_ALL|$@" >> {folder}/asked\n'
            f"if [ -e {folder}/refusal ]; then cat {folder}/refusal >&2; exit 1; fi\n"
            f'case "$*" in *show*) cat {folder}/answer;;\n'
            f"*set-property*) [ ! -e {folder}/next ] || mv {folder}/next {folder}/answer;; esac\n"
        )
        self.path.chmod(0o755)
        self.shows()

    def shows(self, file: str = "answer", **changes: str) -> None:
        text = "".join(f"{name}={value}\n" for name, value in (SHOWN | changes).items())
        (self.folder / file).write_text(text)

    def refuse(self, words: str) -> None:
        (self.folder / "refusal").write_text(words)

    def asked(self, verb: str) -> list[str]:
        lines = (self.folder / "asked").read_text().splitlines()
        return [line.partition(verb)[2].strip() for line in lines if f" {verb} " in line]

    def controller(self, unit: str = UNIT, **more) -> SystemdController:
        return SystemdController("n", unit=unit, systemctl=(str(self.path),), booted=Path("/"), **more)


@pytest.fixture
def systemctl(tmp_path: Path) -> Systemctl:
    return Systemctl(tmp_path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("infinity", None),
        ("[not set]", None),
        ("18446744073709551615", None),
        ("", None),
        ("290ms", 0.29),
        ("1.500000s", 1.5),
        ("1s 500ms", 1.5),
        ("123.400ms", 0.1234),
        ("1min 30s", 90.0),
        ("1us", 1e-6),
        ("333333us", 0.333333),
        ("0", 0.0),
        ("1h 1min", 3660.0),
    ],
)
def test_spans_of_time_are_read_in_every_form(text: str, seconds: float | None):
    assert span_seconds(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("text", ["1", "1.5", "abc", "1parsec", "-1s", "1s x", "1 s"])
def test_what_is_no_span_is_an_error_and_not_no_limit(text: str):
    with pytest.raises(ValueError, match="not a span"):
        span_seconds(text)


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("104857600", 104857600), ("[no data]", None), ("infinity", None)]
)
def test_counters_are_read_and_unset_is_unknown(text: str, number: int | None):
    assert count(text) == number
    with pytest.raises(ValueError, match="not a number"):
        count("12 apples")


def test_both_limits_go_in_one_call_until_the_next_boot(systemctl: Systemctl):
    systemctl.shows("next", CPUQuotaPerSecUSec="1.500000s", MemoryMax=str(512 * MIB))
    wanted = Limits(cpu_threads=1.5, memory_bytes=512 * MIB)
    assert systemctl.controller().set_limits(wanted) == wanted
    assert systemctl.asked("set-property") == [f"--runtime -- {UNIT} CPUQuota=150% MemoryMax={512 * MIB}"]
    assert (systemctl.folder / "asked").read_text().startswith("C|--no-pager --no-ask-password show")


def test_limits_are_taken_away_as_systemd_wants_it(systemctl: Systemctl):
    systemctl.shows(CPUQuotaPerSecUSec="500ms", MemoryMax="1048576")
    systemctl.shows("next")
    controller = systemctl.controller()
    assert controller.limits() == Limits(cpu_threads=0.5, memory_bytes=MIB)
    assert controller.set_limits(Limits(cpu_threads=math.inf, memory_bytes=math.inf)) == Limits()
    assert systemctl.asked("set-property") == [f"--runtime -- {UNIT} CPUQuota= MemoryMax=infinity"]


def test_a_limit_that_systemd_does_not_report_is_undone(systemctl: Systemctl):
    systemctl.shows(CPUQuotaPerSecUSec="2s")
    with pytest.raises(AllocationError, match=r"systemd reports others: cpu_threads should be 0\.5 threads and is 2 "):
        systemctl.controller().set_limits(Limits(cpu_threads=0.5))
    assert systemctl.asked("set-property")[-1] == f"--runtime -- {UNIT} CPUQuota=200%"


def test_a_limit_that_the_kernel_does_not_enforce_is_no_success(
    systemctl: Systemctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A user's manager without the controller takes every limit and tells it back."""
    no_waiting(monkeypatch)
    write(tmp_path / "two/user.slice/n.service", V2)
    (tmp_path / "mounts").write_text(f"1 0 0:1 / {tmp_path}/two rw - cgroup2 none rw\n")
    systemctl.shows("next", CPUQuotaPerSecUSec="500ms", ControlGroup="/user.slice/n.service")
    with pytest.raises(AllocationError, match=r"the kernel does not enforce them: cpu_threads .* without limit"):
        systemctl.controller(mounts=tmp_path / "mounts").set_limits(Limits(cpu_threads=0.5))
    assert systemctl.asked("set-property")[-1] == f"--runtime -- {UNIT} CPUQuota="


def test_usage_is_the_kernels_where_it_can_be_read_and_systemds_else(systemctl: Systemctl, tmp_path: Path):
    usage = systemctl.controller().usage()
    assert (usage.cpu_seconds_total, usage.memory_bytes) == (2.5, 104857600)
    assert (usage.sent_bytes_total, usage.throttled_seconds_total) == (None, None)
    write(tmp_path / "two/n.service", V2)
    (tmp_path / "mounts").write_text(f"1 0 0:1 / {tmp_path}/two rw - cgroup2 none rw\n")
    systemctl.shows(ControlGroup="/n.service", CPUUsageNSec="[not set]", IPIngressBytes="7", IPEgressBytes="9")
    usage = systemctl.controller(mounts=tmp_path / "mounts").usage()
    assert (usage.cpu_seconds_total, usage.memory_bytes) == (1.5, 60 * MIB)
    assert (usage.received_bytes_total, usage.sent_bytes_total) == (7, 9)
    assert usage.out_of_memory_kills_total == 3


@pytest.mark.parametrize(
    "words",
    [
        "Failed to set unit properties on n.service: Access denied",
        "Failed to set unit properties: Interactive authentication required.",
    ],
)
def test_a_user_who_may_not_is_told_what_to_grant(systemctl: Systemctl, words: str):
    systemctl.refuse(words)
    controller = systemctl.controller()
    for change in (lambda: controller.set_limits(Limits(cpu_threads=1)), lambda: controller.restart(1)):
        with pytest.raises(AllocationError, match=r"not writable, because systemd says .*polkit rule"):
            change()


def test_a_unit_that_is_not_there_is_told(systemctl: Systemctl):
    systemctl.shows(LoadState="not-found")
    controller = systemctl.controller()
    assert f"knows no unit {UNIT}" in controller.why_cannot_limit("cpu_threads")
    with pytest.raises(AllocationError, match="knows no unit"):
        controller.limits()


def test_what_is_missing_is_told(systemctl: Systemctl, tmp_path: Path):
    assert "controller.unit is not set" in systemctl.controller("").why_cannot_restart()
    nowhere = SystemdController("n", unit=UNIT, systemctl=(str(tmp_path / "gone"),), booted=Path("/"))
    assert "not run by systemd" in nowhere.why_cannot_limit("memory_bytes")
    asleep = SystemdController("n", unit=UNIT, systemctl=(str(systemctl.path),), booted=tmp_path / "gone")
    assert "was not started by systemd" in asleep.why_cannot_restart()
    for ask in (nowhere.limits, asleep.usage, lambda: asleep.restart(1)):
        with pytest.raises(UnsupportedError):
            ask()
    assert "controller.interface" in systemctl.controller().why_cannot_limit("bandwidth_mbps")
    with pytest.raises(UnsupportedError, match="stands in its files"):
        systemctl.controller().recreate({}, 1)


@pytest.mark.parametrize("name", ["CPUQuotaPerSecUSec", "MemoryMax"])
@pytest.mark.parametrize("value", ["soon", "12 MB", "-1"])
def test_another_shape_is_an_error_and_not_no_limit(systemctl: Systemctl, name: str, value: str):
    systemctl.shows(**{name: value})
    with pytest.raises(AllocationError, match=name):
        systemctl.controller().limits()


def test_a_property_that_is_not_told_is_an_error(systemctl: Systemctl):
    (systemctl.folder / "answer").write_text("LoadState=loaded\n")
    with pytest.raises(AllocationError, match="does not tell CPUQuotaPerSecUSec"):
        systemctl.controller().limits()


@pytest.mark.parametrize("unit", ["node", "-H.service", "a b.service", "*.service", "a/b.service", "x.socket"])
def test_what_is_no_unit_is_a_settings_error(unit: str):
    with pytest.raises(SettingsError, match="must be a unit's full name"):
        SystemdController("n", unit=unit)


def test_the_users_own_manager_is_asked_where_that_is_set(systemctl: Systemctl):
    controller = systemctl.controller(user_manager=True)
    controller.limits()
    assert "C|--user --no-pager" in (systemctl.folder / "asked").read_text()
    assert "user's manager" in controller.describe()


def test_a_restart_waits_until_the_unit_is_active_and_warns_of_too_short_a_grace(
    systemctl: Systemctl, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        systemctl.controller().restart(300)
    assert systemctl.asked("restart") == [f"-- {UNIT}"]
    assert "set TimeoutStopSec" in caplog.text


def test_a_unit_that_fails_or_does_not_come_up_is_an_error(systemctl: Systemctl, monkeypatch: pytest.MonkeyPatch):
    no_waiting(monkeypatch)
    for state, told in (("failed", f"systemctl status {UNIT}"), ("activating", "is not active 60 s after")):
        systemctl.shows(ActiveState=state)
        with pytest.raises(AllocationError, match=told):
            systemctl.controller().restart(1)


def test_a_systemctl_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setattr("orcha_pipeline.controllers.commands.TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr("orcha_pipeline.controllers.systemd.TIMEOUT_SECONDS", 0.1)
    controller = SystemdController("n", unit=UNIT, systemctl=(str(tmp_path / "systemctl"),), booted=Path("/"))
    monkeypatch.setattr(SystemdController._run, "__kwdefaults__", {"seconds": 0.1})
    with pytest.raises(AllocationError, match=r"did not end within 0\.1 s"):
        controller.limits()


# ---------------------------------------------------------------- a real one


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    if why_not := managers.why_none():
        pytest.skip(f"no systemd of the test's own: {why_not}")
    running = managers.manager(tmp_path_factory.mktemp("systemd"))
    try:
        found = running.__enter__()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"no systemd of the test's own: {error}")
    try:
        yield found
    finally:
        running.__exit__(None, None, None)


@pytest.mark.slow
@pytest.mark.integration
def test_a_real_unit_is_limited_in_systemd_and_in_the_kernel_and_freed(manager: Manager):
    controller = manager.controller()
    assert controller.why_cannot_limit("cpu_threads") == ""
    assert controller.limits() == Limits()
    group = controller._group(controller._show("ControlGroup")["ControlGroup"])
    assert group is not None
    for threads, memory in ((1.5, 256 * MIB), (0.29, 64 * MIB), (0.125, 128 * MIB)):
        wanted = Limits(cpu_threads=threads, memory_bytes=memory)
        assert controller.set_limits(wanted) == wanted
        assert group.limits() == wanted
    assert controller.set_limits(Limits(cpu_threads=math.inf)) == Limits(memory_bytes=128 * MIB)
    assert controller.set_limits(Limits(memory_bytes=math.inf)) == Limits()


@pytest.mark.slow
@pytest.mark.integration
def test_a_real_unit_gets_the_cpu_it_was_granted_also_after_a_restart(manager: Manager):
    controller = manager.controller()
    controller.set_limits(Limits(cpu_threads=0.2))
    controller.restart(5)
    assert controller.limits() == Limits(cpu_threads=0.2)
    group = controller._group(controller._show("ControlGroup")["ControlGroup"])
    assert group is not None
    assert group.limits().cpu_threads == 0.2
    before, begin = controller.usage(), time.monotonic()
    time.sleep(1.5)
    after, passed = controller.usage(), time.monotonic() - begin
    if before.cpu_seconds_total is not None:
        assert 0 < after.cpu_seconds_total - before.cpu_seconds_total <= 0.2 * passed + 0.1
    assert after.throttled_seconds_total > before.throttled_seconds_total
    assert after.memory_bytes > 0


@pytest.mark.slow
@pytest.mark.integration
def test_a_real_unit_that_is_not_there_is_told(manager: Manager):
    controller = manager.controller("orcha-gone.service")
    assert "knows no unit orcha-gone.service" in controller.why_cannot_restart()
    with pytest.raises(AllocationError, match=r"orcha-gone\.service"):
        controller.set_limits(Limits(cpu_threads=1))
