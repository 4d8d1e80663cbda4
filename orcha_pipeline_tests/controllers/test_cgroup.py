import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from orcha_pipeline.controllers import cgroup
from orcha_pipeline.controllers.base import Limits
from orcha_pipeline.controllers.cgroup import CgroupController, mounted
from orcha_pipeline.errors import AllocationError, SettingsError, UnsupportedError
from orcha_pipeline_tests.protocols.fakes import no_waiting

MIB = 1024**2
UNLIMITED = "9223372036854771712"
V1 = {
    "cpu": {
        "cpu.cfs_quota_us": "-1",
        "cpu.cfs_period_us": "100000",
        "cpu.stat": "nr_periods 9\nthrottled_time 2500000000",
    },
    "cpuacct": {"cpuacct.usage": "1500000000"},
    "memory": {
        "memory.limit_in_bytes": UNLIMITED,
        "memory.usage_in_bytes": str(100 * MIB),
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {40 * MIB}",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3",
    },
    "pids": {},
}
V2 = {
    "cpu.max": "max 100000",
    "cpu.stat": "usage_usec 1500000\nnr_throttled 7\nthrottled_usec 2500000",
    "memory.max": "max",
    "memory.current": str(100 * MIB),
    "memory.stat": f"anon 5\ninactive_file {40 * MIB}",
    "memory.events": "low 0\noom 4\noom_kill 3",
    "cgroup.procs": "",
}


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


class Tree:
    """Groups in ordinary files: the kernel's own checks are not there."""

    def __init__(self, root: Path, version: int, group: str = "/orcha/node") -> None:
        self.root, self.group = root, group
        self.mounts = root / "mountinfo"
        lines: list[str] = ["21 1 0:20 / / rw - ext4 /dev/vda rw"]
        if version == 1:
            for name, files in V1.items():
                write(self.path(name), {**files, "cgroup.procs": ""})
                lines.append(f"3 2 0:3 / {root}/{name} rw,relatime shared:9 - cgroup cgroup rw,{name}")
        if version == 2:
            write(self.path("two"), V2)
            lines.append(f"4 2 0:4 / {root}/two rw - cgroup2 cgroup2 rw,nsdelegate")
        self.mounts.write_text("\n".join(lines) + "\n")

    def path(self, hierarchy: str) -> Path:
        return self.root / hierarchy / self.group.lstrip("/")

    def controller(self, command: tuple[str, ...] = ()) -> CgroupController:
        return CgroupController("grass-1", group=self.group, restart_command=command, mounts=self.mounts)

    def add_process(self, identity: int) -> None:
        for file in self.root.rglob("cgroup.procs"):
            file.write_text(f"{identity}\n")


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return Tree(tmp_path, request.param)


def test_limits_are_written_read_back_and_taken_away(tree: Tree):
    controller = tree.controller()
    assert controller.limits() == Limits()
    wanted = Limits(cpu_threads=1.5, memory_bytes=512 * MIB)
    assert controller.set_limits(wanted) == wanted
    assert controller.set_limits(Limits(cpu_threads=0.29)) == Limits(cpu_threads=0.29, memory_bytes=512 * MIB)
    assert controller.set_limits(Limits(cpu_threads=math.inf)) == Limits(memory_bytes=512 * MIB)
    assert controller.set_limits(Limits(memory_bytes=math.inf)) == Limits()


def test_the_files_get_what_the_kernel_reads(tmp_path: Path):
    first, second = Tree(tmp_path / "a", 1), Tree(tmp_path / "b", 2)
    for one in (first, second):
        one.controller().set_limits(Limits(cpu_threads=0.5, memory_bytes=64 * MIB))
    assert (first.path("cpu") / "cpu.cfs_quota_us").read_text() == "50000"
    assert (first.path("memory") / "memory.limit_in_bytes").read_text() == str(64 * MIB)
    assert (second.path("two") / "cpu.max").read_text() == "50000 100000"
    assert (second.path("two") / "memory.max").read_text() == str(64 * MIB)


def test_the_groups_own_period_is_kept(tree: Tree):
    for file, text in (("cpu/orcha/node/cpu.cfs_period_us", "50000"), ("two/orcha/node/cpu.max", "max 50000")):
        if (tree.root / file).exists():
            (tree.root / file).write_text(text)
    controller = tree.controller()
    assert controller.set_limits(Limits(cpu_threads=2)).cpu_threads == 2
    assert any(
        "100000" in file.read_text()
        for file in tree.root.rglob("cpu.*")
        if file.name in ("cpu.max", "cpu.cfs_quota_us")
    )
    with pytest.raises(AllocationError, match=r"at least 0\.02 threads with a period of 50000"):
        controller.set_limits(Limits(cpu_threads=0.01))


def test_usage_is_in_base_units_and_memory_without_cache_that_is_free_to_go(tree: Tree):
    usage = tree.controller().usage()
    assert usage.cpu_seconds_total == 1.5
    assert usage.throttled_seconds_total == 2.5
    assert usage.memory_bytes == 60 * MIB
    assert usage.out_of_memory_kills_total == 3
    assert usage.received_bytes_total is None
    assert usage.source.startswith("cgroup v")


def test_a_counter_that_is_not_there_is_unknown(tree: Tree):
    for file in tree.root.rglob("*"):
        if file.name in ("cpuacct.usage", "cpu.stat", "memory.oom_control", "memory.events"):
            file.unlink()
    usage = tree.controller().usage()
    assert (usage.cpu_seconds_total, usage.throttled_seconds_total, usage.out_of_memory_kills_total) == (None,) * 3


def test_what_was_found_is_told(tmp_path: Path):
    assert Tree(tmp_path / "a", 1).controller().describe() == "cgroup v1 /orcha/node"
    assert Tree(tmp_path / "b", 2).controller().describe() == "cgroup v2 /orcha/node"


def test_on_a_hybrid_host_each_controller_is_where_it_is(tmp_path: Path):
    tree = Tree(tmp_path, 1)
    write(tmp_path / "two/orcha/node", V2)
    lines = [line for line in tree.mounts.read_text().splitlines() if "rw,memory" not in line]
    lines.append(f"4 2 0:4 / {tmp_path}/two rw - cgroup2 cgroup2 rw")
    tree.mounts.write_text("\n".join(lines))
    controller = tree.controller()
    assert controller.describe() == "cgroup v1 and v2 /orcha/node"
    controller.set_limits(Limits(cpu_threads=1, memory_bytes=64 * MIB))
    assert (tree.path("cpu") / "cpu.cfs_quota_us").read_text() == "100000"
    assert (tree.path("two") / "memory.max").read_text() == str(64 * MIB)
    assert (tree.path("memory") / "memory.limit_in_bytes").read_text().strip() == UNLIMITED


def test_mounts_with_spaces_joined_controllers_and_a_root_of_their_own_are_understood(tmp_path: Path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "2 0 0:2 /docker/f00 /mnt/my\\040groups rw - cgroup2 none rw\n"
        "broken line\n"
    )
    first, second = mounted(mounts)
    assert first["cpu"].point == first["cpuacct"].point == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert second is not None
    assert (second.point, second.root) == (Path("/mnt/my groups"), "/docker/f00")


def test_a_group_inside_the_mounts_own_root_is_found_there_and_one_outside_is_told(tmp_path: Path):
    write(tmp_path / "two/node", V2)
    (tmp_path / "mountinfo").write_text(f"2 0 0:2 /lxc/a {tmp_path}/two rw - cgroup2 none rw\n")

    def controller(group: str) -> CgroupController:
        return CgroupController("n", group=group, mounts=tmp_path / "mountinfo")

    assert controller("/lxc/a/node").limits() == Limits()
    assert "outside of what is mounted" in controller("/node").why_cannot_limit("cpu_threads")


@pytest.mark.parametrize("group", ["/", ".", "//", "../x", "/a/../../etc", "a/..", "/a\n/b"])
def test_a_group_that_leads_elsewhere_or_holds_everything_is_a_settings_error(group: str):
    with pytest.raises(SettingsError, match=r"controller\.cgroup must name the group"):
        CgroupController("n", group=group)


def test_a_group_that_is_not_there_is_told(tree: Tree):
    tree.group = "/orcha/gone"
    controller = tree.controller()
    assert "there is no cgroup /orcha/gone under" in controller.why_cannot_limit("cpu_threads")
    for ask in (controller.limits, controller.usage):
        with pytest.raises(AllocationError, match="there is no cgroup /orcha/gone; does the node run"):
            ask()
    with pytest.raises(UnsupportedError, match="not writable, because there is no cgroup"):
        controller.set_limits(Limits(cpu_threads=1))


def test_a_controller_that_is_off_is_told_with_what_turns_it_on(tmp_path: Path):
    tree = Tree(tmp_path, 2)
    (tree.path("two") / "cpu.max").unlink()
    controller = tree.controller()
    why = controller.why_cannot_limit("cpu_threads")
    assert why == f"the cpu controller is off for /orcha/node: echo +cpu > {tmp_path}/two/orcha/cgroup.subtree_control"
    assert controller.why_cannot_limit("memory_bytes") == ""
    assert controller.limits() == Limits()


def test_without_groups_at_all_it_is_told(tmp_path: Path):
    (tmp_path / "none").write_text("21 1 0:20 / / rw - ext4 /dev/vda rw\n")
    for mounts, told in (
        (tmp_path / "none", "no cgroup hierarchy with the cpu"),
        (tmp_path / "gone", "cannot be read"),
    ):
        assert told in CgroupController("n", group="/a", mounts=mounts).why_cannot_limit("cpu_threads")


def test_unset_and_bandwidth_are_told_with_what_to_set():
    controller = CgroupController("n", group="")
    assert "controller.cgroup is not set" in controller.why_cannot_limit("cpu_threads")
    assert "controller.cgroup is not set" in controller.why_cannot_restart()
    with pytest.raises(UnsupportedError):
        controller.limits()
    assert "controller.interface" in CgroupController("n", group="/a").why_cannot_limit("bandwidth_mbps")
    assert "restart_command" in CgroupController("n", group="/a").why_cannot_restart()
    with pytest.raises(UnsupportedError, match="cannot be started anew"):
        controller.recreate({}, 1)


def test_a_file_that_this_user_may_not_write_is_told_with_the_remedy(tree: Tree, monkeypatch: pytest.MonkeyPatch):
    # Root may write everything, so the kernel's answer is played.
    monkeypatch.setattr(cgroup.os, "access", lambda path, mode: "cpu" not in Path(path).name)
    controller = tree.controller()
    assert "is not writable by this user: run Orcha as root" in controller.why_cannot_limit("cpu_threads")
    assert controller.why_cannot_limit("memory_bytes") == ""
    with pytest.raises(UnsupportedError, match=r"not writable, because .*Delegate=yes"):
        controller.set_limits(Limits(cpu_threads=1, memory_bytes=64 * MIB))
    assert controller.limits() == Limits()


def test_where_the_second_limit_is_refused_the_first_is_put_back(tree: Tree, monkeypatch: pytest.MonkeyPatch):
    controller = tree.controller()
    before = controller.set_limits(Limits(cpu_threads=2))
    real = Path.write_text

    def refuse(path: Path, text: str) -> int:
        if path.name in ("memory.max", "memory.limit_in_bytes"):
            raise OSError(16, "Device or resource busy")
        return real(path, text)

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(AllocationError, match=r"holds more than it could give back; nothing is changed"):
        controller.set_limits(Limits(cpu_threads=1, memory_bytes=64 * MIB))
    assert controller.limits() == before


def test_a_limit_that_the_kernel_takes_and_does_not_keep_is_undone(tree: Tree, monkeypatch: pytest.MonkeyPatch):
    controller = tree.controller()
    real = Path.write_text
    monkeypatch.setattr(Path, "write_text", lambda path, text: real(path, text.replace("150000", "120000")))
    with pytest.raises(
        AllocationError, match=r"cpu_threads should be 1\.5 threads and is 1\.2 threads; the former are back"
    ):
        controller.set_limits(Limits(cpu_threads=1.5))
    assert controller.limits() == Limits()


@pytest.mark.parametrize("text", ["", "abc", "1 x", "12345678901234567890123"])
def test_a_limit_that_is_no_number_is_an_error_and_not_no_limit(tree: Tree, text: str):
    for file in tree.root.rglob("*"):
        if file.name in ("memory.max", "memory.limit_in_bytes"):
            file.write_text(text)
    with pytest.raises(AllocationError, match="where a number should be"):
        tree.controller().limits()


def test_swap_goes_with_memory_in_the_order_that_the_kernel_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree = Tree(tmp_path, 1)
    both = tree.path("memory") / "memory.memsw.limit_in_bytes"
    memory = tree.path("memory") / "memory.limit_in_bytes"
    both.write_text(UNLIMITED)
    real = Path.write_text

    def strict(path: Path, text: str) -> int:
        after = {file: int(file.read_text()) for file in (both, memory)} | {path: int(text)}
        if path in (both, memory) and after[memory] > after[both]:
            raise OSError(22, "Invalid argument")
        return real(path, text)

    monkeypatch.setattr(Path, "write_text", strict)
    controller = tree.controller()
    controller.set_limits(Limits(memory_bytes=128 * MIB))
    real(both, str(192 * MIB))
    for size in (32, 256, 128):
        controller.set_limits(Limits(memory_bytes=size * MIB))
        assert int(both.read_text()) == (size + 64) * MIB
    assert controller.set_limits(Limits(memory_bytes=math.inf)) == Limits()


def test_a_restart_runs_the_command_and_waits_for_new_processes_in_the_group(tree: Tree, tmp_path: Path):
    tree.add_process(100)
    script = tmp_path / "restart"
    procs = " ".join(str(file) for file in tree.root.rglob("cgroup.procs"))
    script.write_text(f'#!/bin/sh\nfor file in {procs}; do echo 101 > $file; done\necho $# "$1" > {tmp_path}/given\n')
    script.chmod(0o755)
    tree.controller((str(script), "a b; exit 1")).restart(5)
    assert (tmp_path / "given").read_text() == "1 a b; exit 1\n"


def test_a_restart_that_fails_or_changes_nothing_is_an_error(tree: Tree, monkeypatch: pytest.MonkeyPatch):
    no_waiting(monkeypatch)
    tree.add_process(100)
    with pytest.raises(AllocationError, match="exit code 3: no such node"):
        tree.controller(("sh", "-c", "echo no such node >&2; exit 3")).restart(1)
    with pytest.raises(AllocationError, match="no new process came into the cgroup /orcha/node"):
        tree.controller(("true",)).restart(1)
    with pytest.raises(UnsupportedError, match="there is no program /no/such/program"):
        tree.controller(("/no/such/program",)).restart(1)
    with pytest.raises(UnsupportedError, match="restart_command is not set"):
        tree.controller().restart(1)


def test_limits_that_went_with_the_group_are_set_again_after_a_restart(tree: Tree, tmp_path: Path):
    """As systemd does it: a unit's group is removed when the unit stops."""
    controller = tree.controller(
        (
            sys.executable,
            "-c",
            f"""
import shutil
for folder in {[str(tree.path(h)) for h in ("cpu", "memory", "two", "pids") if tree.path(h).exists()]!r}:
    shutil.rmtree(folder)
    shutil.copytree(folder + "-fresh", folder)
""",
        )
    )
    tree.add_process(100)
    for hierarchy in ("cpu", "memory", "two", "pids"):
        path = tree.path(hierarchy)
        if path.exists():
            fresh = path.with_name("node-fresh")
            write(fresh, {**(V2 if hierarchy == "two" else V1[hierarchy]), "cgroup.procs": "101"})
    wanted = Limits(cpu_threads=1.5, memory_bytes=64 * MIB)
    controller.set_limits(wanted)
    controller.restart(1)
    assert controller.limits() == wanted


# ---------------------------------------------------------------- the kernel's own groups


def real_group() -> Iterator[str]:
    first, second = mounted()
    name = f"orcha-test-{uuid4().hex[:8]}"
    points = {first[c].point for c in ("cpu", "cpuacct", "memory", "pids") if c in first} | (
        {second.point} if second else set()
    )
    made: list[Path] = []
    try:
        for point in points:
            try:
                (point / name).mkdir()
                made.append(point / name)
            except OSError as error:
                pytest.skip(f"no group can be made under {point}: {error.strerror}")
        yield f"/{name}"
    finally:
        for path in made:
            for line in (path / "cgroup.procs").read_text().split():
                os.kill(int(line), signal.SIGKILL)
            for _ in range(100):
                try:
                    path.rmdir()
                    break
                except OSError:  # the killed are still leaving
                    time.sleep(0.05)


@pytest.fixture
def group() -> Iterator[str]:
    yield from real_group()


def controller_of(group: str, *limits: str) -> CgroupController:
    controller = CgroupController("n", group=group)
    for limit in limits:
        if why_not := controller.why_cannot_limit(limit):
            pytest.skip(why_not)
    return controller


def inside(group: str, code: str) -> subprocess.Popen[bytes]:
    """A process that enters the group before it does anything."""
    first, second = mounted()
    points = {first[c].point for c in ("cpu", "cpuacct", "memory", "pids") if c in first} | (
        {second.point} if second else set()
    )
    files = [str(point / group.lstrip("/") / "cgroup.procs") for point in points]
    enter = f"import os\nfor file in {files!r}:\n    open(file, 'w').write(str(os.getpid()))\n"
    return subprocess.Popen([sys.executable, "-c", enter + code])


def test_a_busy_process_gets_the_cpu_it_was_granted_and_no_more(group: str):
    controller = controller_of(group, "cpu_threads")
    assert controller.set_limits(Limits(cpu_threads=0.2)).cpu_threads == 0.2
    process = inside(group, "while True: pass")
    try:
        while not (before := controller.usage()).cpu_seconds_total or process.pid not in controller._group.processes():
            assert process.poll() is None
            time.sleep(0.02)
        begin = time.monotonic()
        time.sleep(1.5)
        spent = controller.usage().cpu_seconds_total - before.cpu_seconds_total
        passed = time.monotonic() - begin
    finally:
        process.kill()
        process.wait()
    # A crowded machine may give less than the quota, never more; a period's worth may have begun before.
    assert 0 < spent <= 0.2 * passed + 0.1
    assert controller.usage().throttled_seconds_total > 0


def test_a_process_over_its_memory_limit_is_killed_and_counted(group: str):
    controller = controller_of(group, "memory_bytes")
    assert controller.set_limits(Limits(memory_bytes=32 * MIB)).memory_bytes == 32 * MIB
    process = inside(group, "kept = bytearray(512 << 20)\nfor i in range(0, len(kept), 4096): kept[i] = 1")
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert controller.usage().out_of_memory_kills_total >= 1


def test_all_limits_of_a_real_group_are_read_back_and_taken_away(group: str):
    controller = controller_of(group, "cpu_threads", "memory_bytes")
    assert controller.limits() == Limits()
    for size in (64, 16, 256):
        wanted = Limits(cpu_threads=size / 100, memory_bytes=size * MIB)
        assert controller.set_limits(wanted) == wanted
    assert controller.set_limits(Limits(cpu_threads=math.inf, memory_bytes=math.inf)) == Limits()


def test_memory_that_is_in_use_is_not_taken_and_both_limits_stay(group: str):
    controller = controller_of(group, "cpu_threads", "memory_bytes")
    if "v1" not in controller.describe():
        pytest.skip("version 2 kills where version 1 refuses")
    before = controller.set_limits(Limits(cpu_threads=1, memory_bytes=256 * MIB))
    process = inside(group, "kept = bytearray(b'x') * (100 << 20)\nimport time\nprint(flush=True)\ntime.sleep(60)")
    try:
        while controller.usage().memory_bytes < 100 * MIB:
            assert process.poll() is None
            time.sleep(0.02)
        with pytest.raises(AllocationError, match="holds more than it could give back; nothing is changed"):
            controller.set_limits(Limits(cpu_threads=0.5, memory_bytes=8 * MIB))
        assert controller.limits() == before
    finally:
        process.kill()
        process.wait()


def test_a_real_node_is_restarted_into_its_group(group: str, tmp_path: Path):
    controller_of(group, "cpu_threads")
    process = inside(group, "import time; time.sleep(60)")
    first, second = mounted()
    points = [m.point for m in ([first["cpu"]] if "cpu" in first else [second]) if m]
    script = tmp_path / "restart"
    files = " ".join(str(point / group.lstrip("/") / "cgroup.procs") for point in points)
    # The node outlives its command and keeps its output open, as a daemon that was not detached does.
    script.write_text(f"#!/bin/sh\nkill {process.pid}\nfor f in {files}; do echo $$ > $f; done\nsleep 60 &\n")
    script.chmod(0o755)
    controller = CgroupController("n", group=group, restart_command=(str(script),))
    while process.pid not in controller._group.processes():
        time.sleep(0.02)
    controller.restart(1)
    process.wait()
    assert controller._group.processes() - {process.pid}


def as_nobody(code: str) -> str:
    """What `code` prints as a user without rights; Orcha is imported before they are given up."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give up being it")
    script = (
        "import os, subprocess\nfrom orcha_pipeline.controllers.base import Limits\n"
        "from orcha_pipeline.controllers.cgroup import CgroupController\n"
        "from orcha_pipeline.controllers.tc import Interface\n"
        "from orcha_pipeline.errors import AdapterError\n"
        f"os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n{code}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_real_user_without_rights_is_told_and_one_who_was_handed_the_group_may(group: str):
    controller_of(group, "cpu_threads")
    ask = f"controller = CgroupController('n', group={group!r})\nprint(controller.why_cannot_limit('cpu_threads'))\n"
    told = as_nobody(
        ask
        + "try:\n    controller.set_limits(Limits(cpu_threads=0.5))\nexcept AdapterError as error:\n    print(error)"
    ).splitlines()
    assert "is not writable by this user: run Orcha as root" in told[0]
    assert told[1].startswith("n: not writable, because ")
    first, second = mounted()
    place = (first["cpu"].point if "cpu" in first else second.point) / group.lstrip("/")
    for file in place.iterdir():
        os.chown(file, 65534, 65534)
    told = as_nobody(ask + "print(controller.set_limits(Limits(cpu_threads=0.5)).cpu_threads)").splitlines()
    assert told == ["", "0.5"]


def test_a_real_user_without_rights_is_told_that_it_may_not_shape(tmp_path: Path):
    told = as_nobody("print(Interface('n', 'lo').why_cannot_limit())").strip()
    assert "CAP_NET_ADMIN" in told or "install iproute2" in told or "somebody else" in told
