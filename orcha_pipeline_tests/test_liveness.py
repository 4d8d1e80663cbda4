"""When a service is taken to hang: what counts as silence, and as time."""

import time

import pytest

from orcha_pipeline.errors import SupervisionError
from orcha_pipeline.liveness import AliveCheck, AliveWatch, Pulse, SeenTime


class Watched:
    """A watch over a service whose answers the test gives, and whose time it lets pass a second at a time."""

    def __init__(self, *, every=10.0, limit=60.0, failures=3):
        self.answer = True
        self.asked = 0
        self.now = 0.0
        self.watch = AliveWatch(AliveCheck(answers=self._answers, every=every, limit=limit, failures=failures), 0.0)

    def _answers(self):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def silence_after(self, seconds):
        """The first silence told within `seconds`, 0 where none is."""
        for _ in range(seconds):
            self.now += 1.0
            silent = self.watch.silence(self.now)
            question = self.watch._question
            deadline = time.monotonic() + 20
            while question is not None and not question.done:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            if silent:
                return silent
        return 0.0


def test_a_service_that_answers_never_hangs_and_is_asked_as_often_as_said():
    watched = Watched()
    assert watched.silence_after(600) == 0
    assert watched.asked == 60


def test_a_silent_service_hangs_when_its_silence_has_lasted():
    watched = Watched()
    watched.silence_after(100)
    watched.answer = False
    assert watched.silence_after(55) == 0
    assert 60 <= watched.silence_after(20) <= 75


def test_one_answer_between_failures_forgives_them():
    watched = Watched()
    for _ in range(10):
        watched.answer = False
        assert watched.silence_after(45) == 0
        watched.answer = True
        assert watched.silence_after(15) == 0


def test_a_few_failures_are_not_enough_however_long_they_take():
    watched = Watched(every=60.0, limit=60.0, failures=3)
    watched.answer = False
    assert watched.silence_after(175) == 0
    assert watched.silence_after(20) >= 180


def test_what_cannot_be_told_is_no_silence():
    watched = Watched()
    watched.answer = None
    assert watched.silence_after(1000) == 0
    watched.answer = False
    assert watched.silence_after(50) == 0
    assert watched.silence_after(30) > 0


def test_a_check_that_raises_is_a_failure():
    watched = Watched()
    watched.answer = ValueError("not an answer")
    assert watched.silence_after(90) > 0


def test_time_stands_still_while_nobody_looks():
    clock = [100.0]
    seen = SeenTime(lambda: clock[0], longest_turn=5.0)
    told = []
    for later in (0.1, 1.0, 3600.0, 0.1, -50.0, 1.0):
        clock[0] += later
        told.append(seen())
    assert told == pytest.approx([0.1, 1.1, 6.1, 6.2, 6.2, 7.2])
    assert seen.seconds == told[-1]


def test_a_pulse_is_felt_once_all_heartbeats_have_changed():
    beats = {"scheduler": 1.0, "sensor": 1.0}
    pulse = Pulse(lambda: dict(beats))
    assert pulse() is True
    assert pulse() is False
    beats["scheduler"] = 31.0
    assert pulse() is False
    beats["sensor"] = 0.5  # the wall clock was set back: a change all the same
    assert pulse() is True
    assert pulse() is False


def test_a_pulse_is_not_felt_before_the_first_heartbeat_nor_where_nobody_beats():
    assert Pulse(lambda: {"scheduler": None})() is False
    assert Pulse(dict)() is False


def test_a_pulse_cannot_be_told_where_the_witness_is_away():
    def away():
        raise SupervisionError("The webserver does not answer.")

    assert Pulse(away)() is None
