"""Looking without waiting: what was seen last is told at once, whatever the look meets."""

import threading
from datetime import timedelta

import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import WarehouseError
from orcha_pipeline.lookout import FRESH_SECONDS, OLD_SECONDS, Lookout, look
from orcha_pipeline.model import Verdict
from orcha_pipeline.warehouse import decisions
from orcha_pipeline_tests.rig import NOW, decision_to_apply, installation
from orcha_pipeline_tests.seen import a_sight

PATIENCE = 20.0


class Looked:
    """A look whose end the test decides on, by a clock of the test's own."""

    def __init__(self):
        self.now = 1000.0
        self.found = a_sight()
        self.looks = 0
        self.under_way = False
        self.may_end = threading.Event()
        self.may_end.set()
        self.lookout = Lookout(self._look, monotonic=lambda: self.now)

    def _look(self):
        self.looks += 1
        self.under_way = True
        assert self.may_end.wait(PATIENCE)
        self.under_way = False
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def looked():
    made = Looked()
    yield made
    made.may_end.set()
    made.lookout.close(wait=PATIENCE)


def test_it_looks_when_asked_and_not_again_while_that_is_fresh(looked):
    assert looked.looks == 0
    first = looked.lookout.seen(wait=PATIENCE)
    assert (first.sight, first.age, first.trouble) == (looked.found, 0.0, "")
    looked.now += FRESH_SECONDS - 1
    for _ in range(5):
        assert looked.lookout.seen(wait=PATIENCE).age == FRESH_SECONDS - 1
    assert looked.looks == 1
    looked.now += 1
    assert looked.lookout.seen(wait=PATIENCE).age == 0.0
    assert looked.looks == 2


def test_while_a_look_takes_long_the_last_is_told_and_no_other_begins(looked):
    looked.lookout.seen(wait=PATIENCE)
    looked.may_end.clear()
    looked.now += 20
    seen = looked.lookout.seen()
    assert looked.under_way
    assert (seen.sight, seen.age, seen.trouble) == (looked.found, 20, "")
    looked.now += OLD_SECONDS
    seen = looked.lookout.seen(wait=0)
    assert seen.age == 80
    assert seen.trouble == "what is told here is 80 s old: to look again has taken 60 s so far"
    assert looked.looks == 2


def test_before_the_first_look_has_ended_nothing_is_known(looked):
    looked.may_end.clear()
    looked.lookout.seen(wait=0)
    looked.now += 7
    seen = looked.lookout.seen(wait=0)
    assert (seen.sight, seen.age) == (None, None)
    assert seen.problems == ("nothing is known yet: the first look has taken 7 s so far",)


def test_a_look_that_fails_is_told_beside_what_was_seen_last(looked):
    looked.lookout.seen(wait=PATIENCE)
    kept, looked.found = looked.found, WarehouseError("The warehouse has been in use by process 7 for 60 s.")
    looked.now += 30
    seen = looked.lookout.seen(wait=PATIENCE)
    assert (seen.sight, seen.age) == (kept, 30)
    assert seen.problems == ("The warehouse has been in use by process 7 for 60 s.",)
    looked.found = kept
    looked.now += 30
    assert looked.lookout.seen(wait=PATIENCE).problems == ()


def test_of_an_unforeseen_error_the_place_is_told_and_not_its_text(looked):
    looked.found = ValueError("token=s3cret")
    (problem,) = looked.lookout.seen(wait=PATIENCE).problems
    assert problem.startswith("what there is to know could not be read: ValueError in test_lookout.py, line ")
    assert "s3cret" not in problem


def test_a_real_look_counts_what_is_on_record(tmp_path):
    made = installation(tmp_path, FixedClock(NOW), ["a"])
    with made.warehouse.write() as connection:
        for minutes, verdict in ((0, Verdict.HOLD), (15, Verdict.HOLD), (30, Verdict.REALLOCATE)):
            at = NOW - timedelta(minutes=minutes)
            row = decision_to_apply(f"d-{minutes}", [], decided_at=at, host="box", verdict=verdict)
            decisions.record_decision(connection, row)
    sight = look(made)
    assert sight.tallies.decisions == {"hold": 2, "reallocate": 1}
    assert set(sight.tallies.applications.values()) == {0}
    assert sight.vitals.decided == {"box": NOW}
    assert sight.vitals.cycle_seconds is None  # nobody listens where Dagster would


def test_where_there_is_no_warehouse_that_is_told(tmp_path):
    made = installation(tmp_path, FixedClock(NOW), ["a"])
    made.settings.warehouse_path.unlink()
    lookout = Lookout(lambda: look(made))
    (problem,) = lookout.seen(wait=PATIENCE).problems
    assert problem.startswith("There is no warehouse at ")
