"""The machine's clock is put forward or back, or to summer time: nothing changes too soon, no hour is lost."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._utils.schedules import cron_string_iterator

from orcha_pipeline import clock_jumps
from orcha_pipeline.allocation.apply import carry_out
from orcha_pipeline.allocation.situation import read_situation
from orcha_pipeline.assets.partitions import hourly
from orcha_pipeline.automation.schedules import build_schedules
from orcha_pipeline.clock import Clock, FixedClock
from orcha_pipeline.clock_jumps import MachineTime
from orcha_pipeline.dagster_api import partition_key
from orcha_pipeline.ingest import ingest_now
from orcha_pipeline.model import HOUR, SLOT, ApplicationStatus, HealthState, Window, hour_of
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.consistency import breaches
from orcha_pipeline.warehouse.derived import rebuild_earnings_hourly
from orcha_pipeline.warehouse.facts import naive
from orcha_pipeline_tests.rig import (
    NOW,
    FakeNode,
    FakePrices,
    decided_line,
    decision_to_apply,
    installation,
    read_now,
)

JUMP = timedelta(hours=3)
HOLD = timedelta(minutes=60)


@dataclass
class Machine:
    """A machine whose clock can be put forward and back, with a host of two nodes."""

    home: Path
    clock: FixedClock
    since_boot: float = 1000.0
    boot: str = "one"
    applied: int = 0

    def __post_init__(self) -> None:
        self.nodes = {name: FakeNode(name, self.clock) for name in ("a", "b")}
        self.installation = installation(self.home, self.clock, list(self.nodes))
        self.warehouse = self.installation.warehouse

    def time(self, clock: Clock) -> MachineTime:
        return MachineTime(self.boot, clock.now().timestamp(), self.since_boot)

    def passes(self, span: timedelta) -> None:
        self.clock.set(self.clock.now() + span)
        self.since_boot += span.total_seconds()

    def jumps(self, span: timedelta) -> None:
        self.clock.set(self.clock.now() + span)

    def tries_a_change(self) -> str:
        """Decide on a change and carry it out; why it was not, or nothing."""
        self.applied += 1
        read_now(self.warehouse, self.nodes.values(), self.clock.now())
        stands = self.nodes["a"].value
        lines = [decided_line("a", stands, stands - 1.0), decided_line("b", 50.0, 50.0)]
        decision = decision_to_apply(f"d-{self.applied}", lines, decided_at=self.clock.now())
        with self.warehouse.write() as connection:
            decisions.record_decision(connection, decision)
        outcome = carry_out(
            decision.decision_id,
            application_id=f"a-{self.applied}",
            run_id="run",
            installation=self.installation,
            warehouse=self.warehouse,
            adapters=self.nodes,
        )
        return "" if outcome.status is ApplicationStatus.APPLIED else outcome.reason


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    made = Machine(tmp_path, FixedClock(NOW))
    monkeypatch.setattr(clock_jumps, "machine_time", made.time)
    return made


def test_a_clock_put_forward_lets_no_change_pass_before_the_host_has_rested(machine):
    assert machine.tries_a_change() == ""
    machine.passes(SLOT)
    machine.jumps(JUMP)
    assert "put forward by 180 min" in machine.tries_a_change()
    for _ in range(3):
        machine.passes(SLOT)
        assert "put forward by 180 min" in machine.tries_a_change()
    machine.passes(SLOT)
    assert machine.tries_a_change() == ""
    with machine.warehouse.read() as connection:
        assert breaches(connection, machine.clock.now()) == []


def test_a_clock_put_back_freezes_a_host_no_longer_than_the_jump_and_its_usual_rest(machine):
    assert machine.tries_a_change() == ""
    machine.passes(SLOT)
    machine.jumps(-JUMP)
    waited = timedelta()
    while why := machine.tries_a_change():
        assert any(words in why for words in ("put back by 180 min", "rests 60 min", "has superseded it"))
        machine.passes(SLOT)
        waited += SLOT
    assert HOLD - SLOT <= waited <= JUMP + HOLD


def test_slow_drift_and_a_new_start_of_the_machine_are_no_jump(machine):
    assert machine.tries_a_change() == ""
    for _ in range(3):
        machine.passes(SLOT)
        machine.jumps(timedelta(seconds=40))
        assert "rests 60 min" in machine.tries_a_change()
    machine.passes(SLOT)
    assert machine.tries_a_change() == ""
    machine.boot, machine.since_boot = "another", 5.0
    machine.jumps(HOLD)
    assert machine.tries_a_change() == ""


def test_what_was_read_after_the_clock_went_back_counts_and_not_what_is_dated_after_it(machine):
    read_now(machine.warehouse, machine.nodes.values(), NOW)
    machine.jumps(-JUMP)
    machine.nodes["a"].value = 10.0
    read_now(machine.warehouse, machine.nodes.values(), machine.clock.now(), state=HealthState.UNREACHABLE)
    states = read_situation(machine.warehouse, machine.clock.now(), machine.installation.settings.apply).states
    assert {state.state for state in states.values()} == {HealthState.UNREACHABLE}
    assert (states["a"].share, states["a"].share_is_current) == (0.1, True)


@pytest.mark.parametrize(("jump", "hours"), [(JUMP, 10), (-JUMP, 4)], ids=["forward", "back"])
def test_every_hour_is_there_once_and_what_was_earned_adds_up(machine, jump, hours):
    start = hour_of(NOW) - 4 * HOUR
    machine.clock.set(start)
    prices: Any = FakePrices(machine.clock)
    tokens = {name: ("golem", Decimal(1)) for name in machine.nodes}

    def read_for(span: timedelta) -> None:
        until = machine.clock.now() + span
        while machine.clock.now() < until:
            ingest_now(machine.installation, machine.warehouse, machine.nodes, prices)
            with machine.warehouse.write() as connection:
                rebuild_earnings_hourly(connection, Window(start, hour_of(machine.clock.now())), tokens)
            machine.passes(SLOT)

    read_for(4 * HOUR)
    machine.jumps(jump)
    read_for(3 * HOUR + SLOT)
    with machine.warehouse.read() as connection:
        assert breaches(connection, machine.clock.now()) == []
        rows = connection.execute("SELECT started_at, ended_at, net FROM earnings_hourly WHERE node = 'a'").fetchall()
    full = [(began, ended) for began, ended, _ in rows if ended - began == HOUR]
    assert sorted(began for began, _ in full) == [naive(start + number * HOUR) for number in range(hours)]
    known = [amount for *_, amount in rows if amount is not None]
    assert min(known) >= 0
    # The node's total grows by one a reading.
    read = len(machine.nodes["a"].asked)
    assert sum(known) == read - 1


def test_a_day_with_a_change_to_summer_time_has_a_cycle_every_quarter_and_24_partitions(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        (schedule, _) = build_schedules(cycle_cron="*/15 * * * *")
        for day in (datetime(2025, 3, 30, tzinfo=UTC), datetime(2025, 10, 26, tzinfo=UTC)):
            ticks = []
            for tick in cron_string_iterator(day.timestamp(), str(schedule.cron_schedule), schedule.execution_timezone):
                if tick >= day + timedelta(days=1):
                    break
                ticks.append(tick)
            assert len(ticks) == 96
            keys = list(dict.fromkeys(partition_key(tick.astimezone(UTC)) for tick in ticks))
            assert len(keys) == 24
            assert list(hourly.get_partition_keys_in_range(dg.PartitionKeyRange(keys[0], keys[-1]))) == keys
    finally:
        monkeypatch.undo()
        time.tzset()
