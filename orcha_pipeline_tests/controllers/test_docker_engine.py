"""The same tests against the testnet's Docker and, where one can run, a real one: what passes here is not made up."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orcha_pipeline.controllers import docker_recreate
from orcha_pipeline.controllers.base import Limits
from orcha_pipeline.controllers.docker_api import Engine, EngineError
from orcha_pipeline.controllers.docker_recreate import ASIDE, REPLACES
from orcha_pipeline.errors import AllocationError, UnsupportedError
from orcha_pipeline_tests.controllers import engines
from orcha_pipeline_tests.controllers.engines import BROKEN, AsgiTransport, Bench
from orcha_pipeline_tests.protocols.fakes import no_waiting
from orcha_pipeline_tests.testnet.conftest import Lab

MIB = 1024**2
STEPS = ("rename", "create", "update", "stop", "start", "remove")


@pytest.fixture(scope="session")
def real_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if why_not := engines.why_no_dockerd():
        pytest.skip(f"no Docker daemon of the test's own: {why_not}")
    with engines.dockerd(tmp_path_factory.mktemp("d")) as url:
        yield url


@pytest.fixture(params=["emulated", pytest.param("real", marks=[pytest.mark.slow, pytest.mark.integration])])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    if request.param == "emulated":
        no_waiting(monkeypatch)
        yield Bench("http://testnet/docker", "storj-1", AsgiTransport(Lab(tmp_path).http.app))
        return  # nothing is open
    monkeypatch.setattr(docker_recreate, "STEADY_SECONDS", 1.0)
    bench = Bench(request.getfixturevalue("real_engine"), "storj-1")
    engines.run_node(bench)
    yield bench
    for name in bench.names(""):
        bench.engine.remove(name)
    bench.close()


def configuration(container: dict[str, Any]) -> dict[str, Any]:
    """What must be the same in a container that replaces another."""
    config = {k: v for k, v in container["Config"].items() if k not in ("Env", "Labels", "Hostname")}
    host = {k: v for k, v in container["HostConfig"].items() if k not in ("Binds", "Mounts")}
    mounts = sorted((m["Destination"], m["Source"], m["RW"]) for m in container["Mounts"])
    return {"config": config, "host": host, "mounts": mounts, "image": container["Image"]}


def test_cpu_and_memory_are_limited_in_one_call_lowered_and_raised(bench: Bench):
    controller = bench.controller()
    for threads, memory in ((1.5, 512 * MIB), (0.29, 64 * MIB), (2.0, 1024 * MIB)):
        limits = controller.set_limits(Limits(cpu_threads=threads, memory_bytes=memory))
        assert (limits.cpu_threads, limits.memory_bytes) == (threads, memory)
    host = bench.inspect()["HostConfig"]
    assert (host["NanoCpus"], host["Memory"]) == (2_000_000_000, 1024 * MIB)
    assert host["MemorySwap"] >= host["Memory"]


def test_one_limit_leaves_the_other_as_it_is(bench: Bench):
    controller = bench.controller()
    controller.set_limits(Limits(cpu_threads=1, memory_bytes=512 * MIB))
    assert controller.set_limits(Limits(memory_bytes=256 * MIB)).cpu_threads == 1
    assert controller.set_limits(Limits(cpu_threads=0.5)).memory_bytes == 256 * MIB


def test_swap_that_the_operator_granted_is_kept_and_comes_back_with_the_limit(bench: Bench):
    bench.engine.update(bench.name, {"Memory": 256 * MIB, "MemorySwap": 256 * MIB})
    controller = bench.controller()
    for memory in (64 * MIB, 256 * MIB):
        controller.set_limits(Limits(memory_bytes=memory))
        assert bench.inspect()["HostConfig"]["MemorySwap"] == memory


def test_no_limit_is_all_of_the_host(bench: Bench):
    controller = bench.controller()
    controller.set_limits(Limits(cpu_threads=1, memory_bytes=512 * MIB))
    limits = controller.set_limits(Limits(cpu_threads=math.inf, memory_bytes=math.inf))
    assert (limits.cpu_threads, limits.memory_bytes) == bench.engine.host_size()


def test_a_quota_stays_a_quota_and_can_be_taken_away(bench: Bench):
    if bench.transport is not None:
        other = bench.engine.create("by-quota", {"Image": "grass-desktop:latest", "HostConfig": {"CpuQuota": 50_000}})
        bench.name = "by-quota"
        assert other
    else:
        bench.engine.remove(bench.name)
        engines.run_node(bench, HostConfig={"CpuQuota": 50_000})
    controller = bench.controller()
    assert controller.limits().cpu_threads == 0.5
    assert controller.set_limits(Limits(cpu_threads=0.25)).cpu_threads == 0.25
    assert controller.set_limits(Limits(cpu_threads=math.inf)).cpu_threads is None
    assert controller.set_limits(Limits(cpu_threads=1)).cpu_threads == 1
    assert bench.inspect()["HostConfig"]["NanoCpus"] == 0


def test_a_limit_taken_away_behind_orchas_back_is_seen_and_not_set_to_be_lost_again(bench: Bench):
    controller = bench.controller()
    controller.set_limits(Limits(cpu_threads=1))
    bench.engine.update(bench.name, {"CpuQuota": -1})
    assert controller.limits().cpu_threads is None
    assert controller.set_limits(Limits(cpu_threads=math.inf)).cpu_threads is None
    with pytest.raises(AllocationError, match="Docker would forget a new one"):
        controller.set_limits(Limits(cpu_threads=1))


def test_a_refused_limit_changes_nothing_and_comes_with_dockers_words(bench: Bench):
    controller = bench.controller()
    before = controller.set_limits(Limits(cpu_threads=1, memory_bytes=512 * MIB))
    with pytest.raises(EngineError, match=r"Range of CPUs is from 0\.01 to") as error:
        controller.set_limits(Limits(cpu_threads=4000, memory_bytes=64 * MIB))
    assert error.value.status == 400
    assert controller.limits() == before


def test_usage_counts_the_running_container_and_is_no_zero_of_one_that_is_stopped(bench: Bench):
    controller = bench.controller()
    usage = controller.usage()
    assert usage.memory_bytes is not None
    assert usage.memory_bytes > 0
    assert None not in (usage.cpu_seconds_total, usage.received_bytes_total, usage.sent_bytes_total)
    bench.engine.stop(bench.name, 0)
    bench.engine.stop(bench.name, 0)  # as often as one likes
    with pytest.raises(AllocationError, match="does not run"):
        controller.usage()


def test_a_restart_is_one(bench: Bench):
    before = bench.inspect()
    bench.engine.stop(bench.name, 0)
    bench.controller().restart(1)
    after = bench.inspect()
    assert after["Id"] == before["Id"]
    assert after["State"]["Running"]
    assert after["State"]["StartedAt"] >= before["State"]["StartedAt"]
    assert after["State"]["FinishedAt"] > "2001"


def test_a_container_anew_differs_in_its_variables_alone(bench: Bench):
    controller = bench.controller()
    controller.set_limits(Limits(cpu_threads=0.5, memory_bytes=512 * MIB))
    before = bench.inspect()
    controller.recreate({"STORAGE": "3TB", "NEW": "a=b"}, 1)
    after = bench.inspect()
    assert after["Id"] != before["Id"]
    assert after["State"]["Running"]
    assert controller.environment() == {**docker_recreate.environment_of(before), "STORAGE": "3TB", "NEW": "a=b"}
    assert configuration(after) == configuration(before)
    assert after["Config"]["Labels"][REPLACES] == before["Id"]
    assert bench.names() == [bench.name]
    # And the one that was made can itself be replaced.
    controller.recreate({"STORAGE": "2TB"}, 1)
    assert configuration(bench.inspect()) == configuration(before)


def test_a_container_that_does_not_stay_up_is_undone_and_told_without_values(bench: Bench):
    controller = bench.controller()
    before = bench.inspect()
    with pytest.raises(
        AllocationError, match=r"ended( with exit code 1)? soon after its start; the old .* is back as it was"
    ) as error:
        controller.recreate({"STORAGE": BROKEN, "KEY": "sekret-0123"}, 1)
    assert "sekret" not in str(error.value)
    after = bench.inspect()
    assert (after["Id"], after["State"]["Running"]) == (before["Id"], True)
    assert after["HostConfig"] == before["HostConfig"]
    assert bench.names() == [bench.name]


class Killed(BaseException):
    """As when the process is killed: nothing catches it."""


def trip(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException, *, done: bool) -> None:
    """The first call of `step` raises, before or after it was carried out."""
    real, armed = getattr(Engine, step), [True]

    def tripped(engine: Engine, *given: Any) -> Any:
        if not armed:
            return real(engine, *given)
        armed.clear()
        if done:
            real(engine, *given)
        raise error

    monkeypatch.setattr(Engine, step, tripped)


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_replacement_cut_short_at_any_step_is_set_right_by_the_next_call(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str, done: bool
):
    before = bench.inspect()
    with monkeypatch.context() as patch:
        trip(patch, step, Killed(), done=done)
        with pytest.raises(Killed):
            bench.controller().recreate({"STORAGE": "3TB"}, 1)
    controller = bench.controller()
    controller.restart(1)
    after = bench.inspect()
    assert bench.names() == [bench.name]
    assert after["State"]["Running"]
    assert configuration(after) == configuration(before)
    # From the start of the new one on it stands.
    new = step == "remove" or (step, done) == ("start", True)
    assert controller.environment().get("STORAGE") == (
        "3TB" if new else docker_recreate.environment_of(before).get("STORAGE")
    )


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("step", STEPS[:-1])
def test_a_step_that_fails_leaves_the_old_container_running(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str, done: bool
):
    before = bench.inspect()
    with monkeypatch.context() as patch:
        trip(patch, step, EngineError("storj-1", "no space left, said 3TB", status=500), done=done)
        with pytest.raises(AllocationError, match=r"no space left, said 3TB; the old container .* is back as it was"):
            bench.controller().recreate({"STORAGE": "3TB", "KEY": "no space right"}, 1)
    after = bench.inspect()
    assert bench.names() == [bench.name]
    assert (after["Id"], after["State"]["Running"]) == (before["Id"], True)
    assert after["HostConfig"] == before["HostConfig"]


def test_a_container_that_stands_aside_is_told_by_every_reading(bench: Bench):
    bench.engine.rename(bench.name, bench.name + ASIDE)
    controller = bench.controller()
    for ask in (controller.limits, controller.usage, controller.environment):
        with pytest.raises(AllocationError, match=f"stands aside as {bench.name}{ASIDE}"):
            ask()


def test_a_foreign_container_of_the_name_is_never_removed(bench: Bench):
    bench.engine.rename(bench.name, bench.name + ASIDE)
    image = bench.inspect(bench.name + ASIDE)["Config"]["Image"]
    foreign = bench.engine.create(bench.name, {"Image": image, "Cmd": ["sh"]})
    for change in (lambda: bench.controller().restart(1), lambda: bench.controller().recreate({"A": "b"}, 1)):
        with pytest.raises(AllocationError, match="was not made by Orcha"):
            change()
    assert bench.inspect()["Id"] == foreign


def test_a_container_that_vanishes_when_it_stops_is_not_replaced_but_can_be_restarted(bench: Bench):
    before = bench.inspect()
    body = {
        **before["Config"],
        "HostConfig": before["HostConfig"] | {"AutoRemove": True, "RestartPolicy": {"Name": "no"}},
    }
    bench.engine.remove(bench.name)
    bench.engine.create(bench.name, body)
    bench.engine.start(bench.name)
    with pytest.raises(UnsupportedError, match="run with --rm"):
        bench.controller().recreate({"A": "b"}, 1)
    bench.controller().restart(1)
    assert bench.inspect()["State"]["Running"]


def test_an_id_in_place_of_the_name_is_not_replaced(bench: Bench):
    bench.name = bench.inspect()["Id"][:12]
    with pytest.raises(UnsupportedError, match="not its container's name"):
        bench.controller().recreate({"A": "b"}, 1)


@pytest.mark.parametrize("variable", [{"": "x"}, {"A=B": "x"}, {"A": "x\0y"}])
def test_a_variable_that_cannot_be_is_refused_before_anything_is_touched(bench: Bench, variable: dict[str, str]):
    before = bench.inspect()["Id"]
    with pytest.raises(AllocationError, match="cannot be set as an environment variable"):
        bench.controller().recreate(variable, 1)
    assert bench.inspect()["Id"] == before
