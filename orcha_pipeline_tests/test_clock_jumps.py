"""What is kept of looks at the machine's clock, and for how long a jump is told."""

import resource
from contextlib import contextmanager
from datetime import timedelta

import pytest
import time_machine

from orcha_pipeline import clock_jumps
from orcha_pipeline.clock import FixedClock, SystemClock
from orcha_pipeline.clock_jumps import FILE, MachineTime, clock_jumped, machine_time, noted, why_wait
from orcha_pipeline.errors import OrchaError
from orcha_pipeline_tests.rig import NOW

REST = timedelta(hours=1)
HOUR = 3600.0
REAL = pytest.mark.skipif(
    machine_time(SystemClock()) is None, reason="this system does not tell the time since its boot"
)


def test_a_jump_is_told_for_as_long_as_a_host_rests():
    first = noted(None, MachineTime("boot", 1000.0, 10.0))
    assert why_wait(first, MachineTime("boot", 1000.0, 10.0), REST) == ""
    jumped = noted(first, MachineTime("boot", 1000.0 + 3 * HOUR, 10.0))
    assert "put forward by 180 min" in why_wait(jumped, MachineTime("boot", 0.0, 10.0 + HOUR - 1), REST)
    assert why_wait(jumped, MachineTime("boot", 0.0, 10.0 + HOUR), REST) == ""
    back = noted(jumped, MachineTime("boot", 1000.0 + HOUR, 10.0))
    assert "put back by 120 min" in why_wait(back, MachineTime("boot", 0.0, 10.0), REST)


def test_drift_and_a_new_start_are_no_jump():
    kept = noted(None, MachineTime("boot", 1000.0, 10.0))
    for look in range(1, 10):
        kept = noted(kept, MachineTime("boot", 1000.0 + 50.0 * look, 10.0))
        assert kept.jumped_at is None
    assert noted(kept, MachineTime("another", 9 * HOUR, 1.0)).jumped_at is None


@REAL
def test_the_real_clock_is_watched_over_calls_and_a_damaged_file_is_begun_anew(tmp_path):
    home = tmp_path / "home"
    assert clock_jumped(home, SystemClock(), REST) == ""
    with time_machine.travel(SystemClock().now() + 3 * REST):
        assert "put forward by 180 min" in clock_jumped(home, SystemClock(), REST)
        assert "put forward by 180 min" in clock_jumped(home, SystemClock(), REST)
        (home / FILE).write_text("{")
        assert clock_jumped(home, SystemClock(), REST) == ""
    assert [file.name for file in home.iterdir()] == [FILE]


@contextmanager
def no_room():
    """As on a full disk: not a byte can be written to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@REAL
def test_where_there_is_no_room_to_keep_a_look_that_is_told_and_a_jump_is_found_afterwards(tmp_path):
    assert clock_jumped(tmp_path, SystemClock(), REST) == ""
    with time_machine.travel(SystemClock().now() + 3 * REST):
        with no_room(), pytest.raises(OrchaError, match=r"no room to write .*clock\.json.*Make room"):
            clock_jumped(tmp_path, SystemClock(), REST)
        assert [file.name for file in tmp_path.iterdir()] == [FILE]
        assert "put forward by 180 min" in clock_jumped(tmp_path, SystemClock(), REST)


@REAL
def test_a_data_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OrchaError, match=r"clock\.json cannot be written: Not a directory.*chmod"):
        clock_jumped(tmp_path / "file" / "home", SystemClock(), REST)


def test_a_clock_that_is_not_the_machines_is_not_watched(tmp_path):
    assert clock_jumps.clock_jumped(tmp_path, FixedClock(NOW), REST) == ""
    assert list(tmp_path.iterdir()) == []
