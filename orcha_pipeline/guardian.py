"""Runs one command and answers for every process that comes of it: none outlives this one or its parent.

`python -P -m orcha_pipeline.guardian PARENT_PID GRACE_SECONDS STOP_SIGNAL COMMAND...`

The guardian adopts whatever the command's processes leave behind (it is their subreaper), also those that went into a
session of their own. On SIGTERM, when the command ends, or when the parent is gone, even by kill -9, it sends the stop
signal to all of them and after the grace SIGKILL; a second SIGTERM cuts the grace short. It ends with the command's
exit status, 128 + N if signal N ended it.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

import psutil

PARENT_POLL_SECONDS = 0.25
KILL_SECONDS = 2.0
"""How long killed processes are waited for: one that hangs in the kernel must not hang the guardian."""
_PR_SET_CHILD_SUBREAPER = 36
_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_RESET = (*_STOP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ)
"""Signals the command must find as a fresh shell would leave them: Python ignores some, and so may our own parent."""


def main(arguments: Sequence[str]) -> int:
    """Run the command that the module's text describes; returns the exit status."""
    parent, grace, stop_signal, *command = arguments
    # Blocked, signals wait until they are asked for: no handler can come between two steps.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOP, signal.SIGCHLD})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setsigmask=(), setsigdef=_RESET)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201 (standard error is the service's log)
        return 127
    ended: dict[int, int] = {}
    asked = False
    while child not in ended and not asked and os.getppid() == int(parent):
        asked = _received_within(PARENT_POLL_SECONDS)
        ended |= _reaped()
    ended |= _end_all(signal.Signals(int(stop_signal)), float(grace))
    status = ended.get(child, -signal.SIGKILL)
    return status if status >= 0 else 128 - status


def _received_within(seconds: float) -> bool:
    """Wait for a signal; True if it asks to stop."""
    received = signal.sigtimedwait({*_STOP, signal.SIGCHLD}, seconds)
    # Stopped and continued past its time, CPython returns a number that nobody sent.
    return received is not None and received.si_signo in _STOP


def _reaped() -> dict[int, int]:
    """Exit statuses of the processes that ended since: negative for a signal."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def _signal_all(number: signal.Signals) -> None:
    for process in psutil.Process().children(recursive=True):
        try:
            process.send_signal(number)
        except psutil.Error:
            continue  # it ended by itself, or changed its user: the loop around looks again


def _end_all(stop_signal: signal.Signals, grace: float) -> dict[int, int]:
    ended = _reaped()
    _signal_all(stop_signal)
    kill_at = time.monotonic() + grace
    while psutil.Process().children() and time.monotonic() < kill_at + KILL_SECONDS:
        if time.monotonic() >= kill_at:
            _signal_all(signal.SIGKILL)  # again and again: a process may have been born since the last time
        if _received_within(0.05):
            kill_at = min(kill_at, time.monotonic())
        ended |= _reaped()
    return ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
