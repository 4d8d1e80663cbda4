import re
from collections.abc import Callable
from datetime import timedelta

import pytest

from orcha_pipeline.allocation.executor import ApplicationError, Change, Step, Surroundings, apply_changes, roll_back
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AllocationError, NodeConnectionError
from orcha_pipeline.model import (
    AllocationReading,
    ApplicationStatus,
    AppliedChange,
    HealthReading,
    HealthState,
    Lever,
    Provenance,
    Resources,
)
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.settings import NodeSettings
from orcha_pipeline_tests.allocation.build import NOW, a_lever

CAPACITY = Resources(cpu_threads=16)
DEMAND = Resources(cpu_threads=10)
START = {"storj": 60.0, "golem": 20.0, "streamr": 50.0, "grass": 20.0}  # 15 of 16 threads; the last is taken too
WANTED = {"storj": 30.0, "golem": 45.0, "streamr": 10.0, "grass": 65.0}
ORDER = ["storj", "streamr", "golem", "grass"]  # shrink before grow
OTHERS = Resources(cpu_threads=1)

Behaviour = Callable[["Machine", str, float], float | None]


class Machine:
    """Four nodes, what their levers stand at, and everything that ever happened to them."""

    def __init__(self):
        self.values = dict(START)
        self.calls: list[tuple[str, float]] = []
        self.peak = 0.0
        self.script: dict[int, Behaviour] = {}
        """Index of a call of `apply` -> what it does instead of working."""
        self.clock = FixedClock(NOW)
        self.journal = Journal(self)
        self.unreadable: dict[str, Exception] = {}
        self.lever = a_lever()
        self.waits: str | None = ""

    def put(self, node, value):
        self.values[node] = value
        self.peak = max(self.peak, 1 + sum(10 * v / 100 for v in self.values.values()))

    def apply(self, node, value):
        index = len(self.calls)
        self.calls.append((node, value))
        self.clock.set(self.clock.now() + timedelta(seconds=5))
        last = self.journal.rows[-1]
        assert (last.node, last.requested, last.status) == (node, value, "intended")  # written before it acts
        if index in self.script:
            return self.script[index](self, node, value)
        self.put(node, value)
        return value

    def run(self, wanted=None, **changes):
        known = {
            "application_id": "a-1",
            "adapters": {name: FakeAdapter(self, name) for name in START},
            "journal": self.journal,
            "clock": self.clock,
            "around": Surroundings(changes.pop("capacity", CAPACITY), dict.fromkeys(START, DEMAND), OTHERS),
        }
        return apply_changes(a_change(wanted or WANTED), **{**known, **changes})


def a_change(wanted):
    return [
        Change(
            node=name,
            lever="limit",
            value_from=START[name],
            value_to=value,
            share_from=START[name] / 100,
            share_to=value / 100,
        )
        for name, value in wanted.items()
    ]


class Journal:
    """Keeps every row as it was written; fails at the write whose index is `fails_at`."""

    def __init__(self, machine):
        self.rows: list[Step] = []
        self.fails_at: set[int] = set()
        self._writes = 0

    def step_intended(self, step):
        self._write(step)

    def step_finished(self, step):
        self._write(step)

    def _write(self, step):
        self._writes += 1
        if self._writes - 1 in self.fails_at:
            raise OSError("disk full")
        self.rows.append(step)


class FakeAdapter(Adapter):
    protocol, native_unit, token = "fake", "USD", None

    def __init__(self, machine, name):
        super().__init__(
            NodeSettings(
                name=name,
                protocol="fake",
                host="box",
                url="http://127.0.0.1",
                demand={"cpu_threads": 10, "memory_gib": 0, "disk_gb": 0, "bandwidth_mbps": 0},
            ),
            controller=None,
            clock=machine.clock,
        )
        self.machine = machine

    def health(self):
        return HealthReading(state=HealthState.HEALTHY)

    def earnings(self, window):
        return []

    def earnings_history(self, window):
        return []

    def resource_usage(self):
        return []

    def allocation(self):
        if self.node in self.machine.unreadable:
            raise self.machine.unreadable[self.node]
        value = self.machine.values[self.node]
        return AllocationReading(
            lever="limit",
            value=value,
            unit="unit",
            share=None if value is None else value / 100,
            provenance=Provenance.MEASURED,
            source="fake",
        )

    def levers(self) -> list[Lever]:
        return [self.machine.lever]

    def pending_change(self):
        return self.machine.waits

    def apply(self, lever, value):
        previous = self.machine.values[self.node]
        read_back = self.machine.apply(self.node, value)
        return AppliedChange(lever=lever, previous=previous, requested=value, read_back=read_back)

    def close(self):
        pass


# Ways in which a step fails. Each leaves the node between where it was and where it was to be.


def refuses(machine, node, value):
    raise AllocationError(node, "refused")


def acts_and_does_not_answer(machine, node, value):
    machine.put(node, value)
    raise NodeConnectionError(node, "timed out")


def stops_half_way(machine, node, value):
    middle = (machine.values[node] + value) / 2
    machine.put(node, middle)
    return middle


def does_nothing_and_says_so(machine, node, value):
    return machine.values[node]


def reads_back_nothing(machine, node, value):
    machine.put(node, value)


def reads_back_nonsense(machine, node, value):
    machine.put(node, value)
    return float("nan")


FAILURES = [
    refuses,
    acts_and_does_not_answer,
    stops_half_way,
    does_nothing_and_says_so,
    reads_back_nothing,
    reads_back_nonsense,
]


def breaks(machine, node, value):
    machine.put(node, value)
    raise RuntimeError("a bug")


def is_interrupted(machine, node, value):
    machine.put(node, value)
    raise KeyboardInterrupt


def assert_journal_complete(machine, steps):
    """Every step was written twice, intended first, in the order in which the steps acted."""
    rows = machine.journal.rows
    assert [row.status for row in rows[::2]] == ["intended"] * len(steps)
    assert rows[1::2] == list(steps)
    for intended, finished in zip(rows[::2], rows[1::2], strict=True):
        assert (intended.step, intended.kind, intended.node, intended.requested) == (
            finished.step,
            finished.kind,
            finished.node,
            finished.requested,
        )
        assert intended.ended_at is None
        assert finished.ended_at - finished.started_at == timedelta(seconds=5)
    assert [step.step for step in steps] == list(range(len(steps)))
    assert [(step.node, step.requested) for step in steps] == machine.calls


def test_all_changes_are_made_shrinking_before_growing_and_read_back():
    machine = Machine()
    outcome = machine.run()
    assert outcome.status is ApplicationStatus.APPLIED
    assert machine.values == WANTED
    assert [step.node for step in outcome.steps] == ORDER
    assert machine.peak <= CAPACITY.cpu_threads
    assert_journal_complete(machine, outcome.steps)
    first = outcome.steps[0]
    assert (first.kind, first.previous, first.requested, first.read_back) == ("apply", 60.0, 30.0, 30.0)
    assert outcome.ended_at - outcome.started_at == timedelta(seconds=20)


def test_growing_first_would_have_exceeded_the_capacity():
    machine = Machine()
    machine.put("grass", WANTED["grass"])
    assert machine.peak > CAPACITY.cpu_threads


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("index", range(4))
def test_a_step_that_fails_is_undone_with_all_before_it_last_first(index, failure):
    machine = Machine()
    machine.script = {index: failure}
    outcome = machine.run()
    assert outcome.status is ApplicationStatus.ROLLED_BACK
    assert machine.values == START
    assert machine.peak <= CAPACITY.cpu_threads
    touched = ORDER[: index + 1]
    assert [step.node for step in outcome.steps] == touched + touched[::-1]
    assert [step.kind for step in outcome.steps] == ["apply"] * (index + 1) + ["rollback"] * (index + 1)
    assert [step.status for step in outcome.steps] == ["done"] * index + ["failed"] + ["done"] * (index + 1)
    assert_journal_complete(machine, outcome.steps)
    assert ORDER[index] in outcome.reason.split(".")[0]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(("index", "back"), [(i, j) for i in range(4) for j in range(i + 1)])
def test_a_rollback_that_fails_tells_the_operator_what_to_do_and_exceeds_nothing(index, back, failure):
    machine = Machine()
    machine.script = {index: acts_and_does_not_answer, index + 1 + back: failure}
    outcome = machine.run()
    stuck = ORDER[: index + 1][::-1][back]
    if failure in (acts_and_does_not_answer, reads_back_nothing, reads_back_nonsense):
        # The node was set back and only its answer lost: reading it again tells.
        assert outcome.status is ApplicationStatus.ROLLED_BACK
        assert machine.values == START
        assert machine.peak <= CAPACITY.cpu_threads
        return
    assert outcome.status is ApplicationStatus.ROLLBACK_FAILED
    assert f"set limit of {stuck} to {START[stuck]:g} unit by hand" in outcome.reason
    assert machine.peak <= CAPACITY.cpu_threads
    # Whoever does not stand where it stood before is named; a step that was held back for the capacity has no call.
    for name, value in machine.values.items():
        assert value == START[name] or f"set limit of {name} to" in outcome.reason
    rollbacks = [step for step in outcome.steps if step.kind == "rollback"]
    assert len(rollbacks) == index + 1
    assert {step.node for step in rollbacks if step.status == "failed"} == {
        name for name, value in machine.values.items() if value != START[name]
    }
    assert len(machine.journal.rows) == 2 * len(outcome.steps)


def test_no_node_grows_back_into_what_another_could_not_give_back():
    machine = Machine()
    # `grass` fails to grow, and cannot be set back from where it stands: the first shrinks must stay.
    machine.script = {3: acts_and_does_not_answer, 4: refuses}
    outcome = machine.run()
    assert outcome.status is ApplicationStatus.ROLLBACK_FAILED
    assert machine.values["golem"] == START["golem"]
    assert machine.values["grass"] == WANTED["grass"]
    left = [step for step in outcome.steps if "exceed the host's cpu_threads" in step.error]
    assert left
    assert machine.peak <= CAPACITY.cpu_threads
    for step in left:
        assert f"set limit of {step.node} to {START[step.node]:g} unit by hand" in outcome.reason


@pytest.mark.parametrize("index", range(4))
def test_a_bug_of_an_adapter_is_rolled_back_and_told_without_its_text(index):
    machine = Machine()
    machine.script = {index: breaks}
    outcome = machine.run()
    assert outcome.status is ApplicationStatus.ROLLED_BACK
    assert re.search(r"the adapter failed: RuntimeError in test_executor.py, line \d+.*Set back", outcome.reason)
    assert "a bug" not in outcome.reason, "the text of an error nobody wrote for people may repeat a secret"
    assert machine.values == START
    assert_journal_complete(machine, outcome.steps)


def test_an_interrupt_is_rolled_back_and_passed_on():
    machine = Machine()
    machine.script = {2: is_interrupted}
    with pytest.raises(KeyboardInterrupt):
        machine.run()
    assert machine.values == START


def test_an_error_nobody_expected_in_a_rollback_does_not_keep_the_others_from_being_set_back():
    def breaks_before_it_acts(machine, node, value):
        raise RuntimeError("a bug")

    machine = Machine()
    machine.script = {1: acts_and_does_not_answer, 2: breaks_before_it_acts}
    outcome = machine.run()
    assert outcome.status is ApplicationStatus.ROLLBACK_FAILED
    assert "it failed: the adapter failed: RuntimeError in" in outcome.reason
    assert machine.values == {**START, "streamr": WANTED["streamr"]}


def test_a_node_that_cannot_be_read_after_a_failed_rollback_counts_as_not_set_back():
    def acts_and_goes_silent(machine, node, value):
        machine.put(node, value)
        machine.unreadable = {node: RuntimeError("gone")}
        raise NodeConnectionError(node, "timed out")

    machine = Machine()
    machine.script = {0: refuses, 1: acts_and_goes_silent}
    outcome = machine.run()
    assert outcome.status is ApplicationStatus.ROLLBACK_FAILED
    assert "set limit of storj to 60 unit by hand (it failed: timed out)" in outcome.reason


@pytest.mark.parametrize("write", range(8))
def test_a_journal_that_fails_once_leaves_no_node_changed(write):
    machine = Machine()
    machine.journal.fails_at = {write}
    with pytest.raises(ApplicationError, match="OSError: disk full") as caught:
        machine.run()
    assert machine.values == START
    expected = ApplicationStatus.DROPPED if write == 0 else ApplicationStatus.ROLLED_BACK
    assert caught.value.outcome.status is expected
    last = {step.step: step for step in machine.journal.rows}
    assert list(last.values()) == list(caught.value.outcome.steps)  # what was written late is written all the same
    assert all(step.status != "intended" for step in last.values())
    moved = {step.node for step in last.values() if step.kind == "apply"}
    assert moved == {step.node for step in last.values() if step.kind == "rollback" and step.status == "done"}


def test_a_journal_that_stays_broken_does_not_keep_the_nodes_from_being_set_back():
    machine = Machine()
    machine.journal.fails_at = set(range(5, 100))
    with pytest.raises(ApplicationError, match="Not all steps could be written: OSError: disk full"):
        # The fake insists on rows before acts, which a broken journal cannot give.
        machine.apply = lambda node, value: (machine.calls.append((node, value)), machine.put(node, value), value)[2]
        machine.run()
    assert machine.values == START
    assert len(machine.calls) == 6


# --- dropped: nothing is touched


def assert_dropped(machine, outcome, reason):
    assert outcome.status is ApplicationStatus.DROPPED
    assert reason in outcome.reason
    assert outcome.steps == ()
    assert machine.calls == []
    assert machine.journal.rows == []


@pytest.mark.parametrize("node", ORDER)
def test_a_lever_that_moved_since_the_decision_drops_it(node):
    machine = Machine()
    machine.values[node] += 0.6  # more than half a step
    assert_dropped(machine, machine.run(), f"{node}: limit stands at {machine.values[node]:g} unit")


def test_a_lever_within_half_a_step_is_where_it_was_and_is_set_back_to_its_own_value():
    machine = Machine()
    machine.values["storj"] = 60.4
    machine.script = {1: refuses}
    machine.run()
    assert machine.values["storj"] == 60.4


@pytest.mark.parametrize("node", ORDER)
def test_a_node_that_cannot_be_read_drops_the_decision(node):
    machine = Machine()
    machine.unreadable = {node: NodeConnectionError(node, "connection refused")}
    assert_dropped(machine, machine.run(), f"{node} could not be read before the first step: connection refused")


def test_a_node_whose_adapter_breaks_while_it_is_read_drops_the_decision():
    machine = Machine()
    machine.unreadable = {"golem": RuntimeError("a bug")}
    told = "golem could not be read before the first step: the adapter failed: RuntimeError in test_executor.py"
    assert_dropped(machine, machine.run(), told)


@pytest.mark.parametrize(
    ("lever", "reason"),
    [
        (a_lever(name="renamed"), "has no lever limit any more"),
        (a_lever(writable=False, why_not="the config is read-only"), "the config is read-only"),
        (a_lever(maximum=40.0), "limit takes 0 to 40 unit now, not 45"),
    ],
)
def test_a_lever_that_is_not_what_it_was_drops_the_decision(lever, reason):
    machine = Machine()
    machine.lever = lever
    assert_dropped(machine, machine.run(), reason)


def test_a_lever_that_tells_no_value_drops_the_decision():
    machine = Machine()
    machine.values["golem"] = None
    assert_dropped(machine, machine.run(), "golem does not tell where its limit stands")


def test_a_node_that_is_gone_drops_the_decision():
    machine = Machine()
    adapters = {name: FakeAdapter(machine, name) for name in START if name != "grass"}
    assert_dropped(machine, machine.run(adapters=adapters), "grass is not configured any more")


def test_changes_that_exceed_the_capacity_drop_the_decision():
    machine = Machine()
    outcome = machine.run({**WANTED, "grass": 70.0})
    assert_dropped(machine, outcome, "Moving grass would exceed the host's cpu_threads (16.5 of 16)")


def test_no_changes_are_dropped_and_a_node_changed_twice_too():
    machine = Machine()
    outcome = apply_changes(
        [],
        application_id="a",
        adapters={},
        journal=machine.journal,
        clock=machine.clock,
        around=Surroundings(CAPACITY, {}, OTHERS),
    )
    assert_dropped(machine, outcome, "nothing to change")
    twice = apply_changes(
        a_change(WANTED) * 2,
        application_id="a",
        adapters={},
        journal=machine.journal,
        clock=machine.clock,
        around=Surroundings(CAPACITY, {}, OTHERS),
    )
    assert_dropped(machine, twice, "changed twice")


def test_a_host_above_its_capacity_may_shrink_and_come_back_but_never_rises():
    machine = Machine()
    small = Resources(cpu_threads=12)
    machine.script = {1: refuses}
    outcome = machine.run({"storj": 30.0, "streamr": 45.0}, capacity=small)
    assert outcome.status is ApplicationStatus.ROLLED_BACK
    assert machine.values == START
    outcome = machine.run({"storj": 30.0, "streamr": 45.0}, capacity=small)
    assert outcome.status is ApplicationStatus.APPLIED
    assert machine.peak <= 16


@pytest.mark.parametrize(
    ("waits", "moves"),
    [("", []), (None, [("storj", 60.0)]), ("config.yaml says 30, which it takes at its next start", [("storj", 60.0)])],
)
def test_what_broke_off_is_made_back_where_it_stands_too_unless_nothing_waits_in_its_settings(waits, moves):
    machine = Machine()
    machine.waits = waits
    begun = Step(
        application_id="a-1",
        step=0,
        kind="apply",
        node="storj",
        lever="limit",
        previous=60.0,
        requested=30.0,
        read_back=None,
        status="intended",
        error="",
        started_at=NOW,
        ended_at=None,
    )
    outcome = roll_back(
        [begun],
        a_change(WANTED),
        why="It ended in its midst.",
        application_id="a-1",
        adapters={name: FakeAdapter(machine, name) for name in START},
        journal=machine.journal,
        clock=machine.clock,
        around=Surroundings(CAPACITY, dict.fromkeys(START, DEMAND), OTHERS),
    )
    assert outcome.status is ApplicationStatus.ROLLED_BACK
    assert machine.calls == moves


def test_a_node_whose_settings_could_not_be_set_back_is_stuck_though_it_still_stands_where_it_stood():
    machine = Machine()
    machine.script = {0: refuses, 1: refuses}
    machine.waits = "config.yaml says 30, which it takes at its next start"
    outcome = machine.run()
    assert outcome.status is ApplicationStatus.ROLLBACK_FAILED
    assert outcome.stuck == {"storj": "set limit of storj to 60 unit by hand"}
