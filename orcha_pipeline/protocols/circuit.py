"""The circuit breaker of one node's address: a node that does not answer is not asked again and again."""

from threading import Lock
from time import monotonic

import pybreaker

from orcha_pipeline.errors import NodeConnectionError

FAILURES = 3
OPEN_SECONDS = 15.0


class Circuit:
    """Opens after `FAILURES` failures in a row; calls then fail at once until `OPEN_SECONDS` have passed.

    Then, or inside a new reading (see `http.new_reading`), the next call goes through: it closes the circuit, or
    opens it again. Outcomes are told to it after a call, so that no call waits for another one that hangs.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        # The time is kept here rather than by the breaker, which asks the wall clock: that may be set back.
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=FAILURES, reset_timeout=OPEN_SECONDS, throw_new_error_on_trip=False
        )
        self._lock = Lock()
        self._opened_at = 0.0
        self._opened_in: object = None
        self._why = ""

    def check(self, reading: object) -> None:
        """Raise `NodeConnectionError` while the circuit is open. `reading`: the reading the call belongs to."""
        with self._lock:
            if self._breaker.current_state != pybreaker.STATE_OPEN:
                return
            left = self._opened_at + OPEN_SECONDS - monotonic()
            if left > 0 and reading is self._opened_in:
                raise GivenUpError(
                    self.node,
                    f"not asked again for {left:.0f} s: the last calls all failed, the last one with {self._why}",
                )
            self._breaker.half_open()

    def failed(self, reading: object, why: str) -> bool:
        """A call did not get an answer, or one of a broken server. True if the circuit is open now."""

        def fail() -> None:
            raise _CallFailedError

        with self._lock:
            if self._breaker.current_state == pybreaker.STATE_OPEN:
                return True  # a call that began before it opened
            try:
                self._breaker.call(fail)
            except _CallFailedError:
                self._why = why
            if self._breaker.current_state != pybreaker.STATE_OPEN:
                return False
            self._opened_at, self._opened_in = monotonic(), reading
            return True

    def answered(self) -> None:
        """A call was answered, if only with a refusal: the node is there."""
        with self._lock:
            if self._breaker.current_state == pybreaker.STATE_OPEN:
                self._breaker.close()
            self._breaker.call(lambda: None)


class GivenUpError(NodeConnectionError):
    """The node does not answer, and is not to be asked again for now."""


class _CallFailedError(Exception):
    """What the breaker counts."""
