"""Programs of the host that controllers run: without a shell, in plain English, never longer than they may."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from orcha_pipeline.errors import AllocationError, NodeConnectionError, UnsupportedError
from orcha_pipeline.protocols.http import remaining_seconds

TIMEOUT_SECONDS = 10.0
_MOST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program left behind."""

    code: int
    output: str
    told: str
    """Its last words on standard error, fit for a message."""


def run_program(
    node: str, command: Sequence[str], *, seconds: float = TIMEOUT_SECONDS, extra: Mapping[str, str] | None = None
) -> Finished:
    """Run `command` (program and arguments) for up to `seconds`, or what the node's time budget leaves.

    Raises `UnsupportedError` where the program is not there or not allowed, `AllocationError` where it takes too long;
    an exit code other than 0 is the caller's to judge. Of the command only the program's name is repeated. `extra`:
    environment variables beside Orcha's own.
    """
    program = command[0]
    patience = min(seconds, remaining_seconds())
    if patience <= 0:
        raise NodeConnectionError(node, f"no time is left to run {program}")
    try:
        # Files, for a pipe stays open as long as a daemon that the program leaves behind holds it.
        with TemporaryFile() as output, TemporaryFile() as told:
            done = subprocess.run(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=told,
                timeout=patience,
                check=False,
                env={**os.environ, **(extra or {}), "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
            )
            output.seek(0)
            told.seek(0)
            return Finished(done.returncode, output.read(_MOST_BYTES).decode(errors="replace"), _last_words(told))
    except subprocess.TimeoutExpired:
        raise AllocationError(node, f"{program} did not end within {patience:g} s") from None
    except FileNotFoundError:
        raise UnsupportedError(node, f"there is no program {program}") from None
    except OSError as error:
        raise UnsupportedError(node, f"{program} cannot be run: {error.strerror}") from None


def _last_words(told: IO[bytes]) -> str:
    text = told.read(_MOST_BYTES).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    text = " / ".join(lines[-3:])
    return "".join(c if c.isprintable() else " " for c in text)[:300]
