"""Whether a running service still answers: asked in a thread of its own, counted in time that this process saw pass."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orcha_pipeline.errors import SupervisionError

LONGEST_TURN_SECONDS = 5.0
"""Between two looks at the clock no more is taken to have passed: the rest was sleep, or a stop of all processes."""


class SeenTime:
    """Seconds that this process saw pass since it was made; to be read from one thread, again and again.

    It stands still while the machine sleeps or the process is stopped, and no change of the wall clock moves it: what
    could not be watched is nobody's silence.
    """

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, *, longest_turn: float = LONGEST_TURN_SECONDS
    ) -> None:
        self._monotonic, self._longest_turn = monotonic, longest_turn
        self._last = monotonic()
        self.seconds = 0.0

    def __call__(self) -> float:
        """Look at the clock; `seconds` tells what the last look found."""
        now = self._monotonic()
        self.seconds += min(max(0.0, now - self._last), self._longest_turn)
        self._last = now
        return self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class AliveCheck:
    """How a service that runs is asked whether it answers, and when it is taken to hang.

    `answers` is asked every `every` seconds and may itself hang: True where the service answers, False (or an error)
    where it does not, None where that cannot be told, which is not counted. It hangs after `failures` failures
    in a row that last for `limit` seconds.
    """

    answers: Callable[[], bool | None]
    every: float = 10.0
    limit: float = 60.0
    failures: int = 3


class AliveWatch:
    """The answers of one service since it was ready. Times are seconds of one `SeenTime`."""

    def __init__(self, check: AliveCheck, now: float) -> None:
        self._check = check
        self._question: _Question | None = None
        self._asked_at = self._counted_until = now
        self._silent_seconds = 0.0
        self._failures = 0

    def silence(self, now: float) -> float:
        """Ask if it is time to; returns the seconds of its silence if the service hangs, else 0."""
        if self._question is None:
            if now - self._asked_at >= self._check.every:
                self._question, self._asked_at = _Question(self._check.answers), now
        elif self._question.done:
            self._count(self._question.answer, now)
            self._question = None
        pending = int((now - self._asked_at) // self._check.every) if self._question is not None else 0
        silent = self._silent_seconds + (now - self._counted_until if pending else 0.0)
        hangs = self._failures + pending >= self._check.failures and silent >= self._check.limit
        return silent if hangs else 0.0

    def _count(self, answer: bool | None, now: float) -> None:  # noqa: FBT001 (it is what was answered)
        if answer:
            self._silent_seconds, self._failures = 0.0, 0
        elif answer is not None:
            self._silent_seconds += now - self._counted_until
            self._failures += 1
        self._counted_until = now


class _Question:
    """One question under way. The thread dies with the process: nobody waits for an answer that never comes."""

    def __init__(self, answers: Callable[[], bool | None]) -> None:
        self._answers = answers
        self.answer: bool | None = False
        self.done = False
        threading.Thread(target=self._ask, name="alive check", daemon=True).start()

    def _ask(self) -> None:
        try:
            self.answer = self._answers()
        except Exception:  # noqa: BLE001 (whatever went wrong with the question, it was no answer)
            self.answer = False
        self.done = True


class Pulse:
    """An alive check from heartbeats that others keep: True once all of them have changed since it last was.

    `beats` gives name -> time of the last heartbeat (None before the first), or raises `SupervisionError` where they
    cannot be asked for. Only that they change counts, so that no clock has to agree with another.
    """

    def __init__(self, beats: Callable[[], Mapping[str, float | None]]) -> None:
        self._beats = beats
        self._last: Mapping[str, float | None] = {}

    def __call__(self) -> bool | None:
        """True, False, or None where the heartbeats cannot be asked for."""
        try:
            beats = self._beats()
        except SupervisionError:
            return None
        beat = bool(beats) and all(at is not None and at != self._last.get(name) for name, at in beats.items())
        if beat:
            self._last = dict(beats)
        return beat
