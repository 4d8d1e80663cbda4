"""What DuckDB's errors about its file mean for the operator: what is wrong with the file, and what to do."""

import re
import shlex
from pathlib import Path

import duckdb

_OF_THE_FILE = (
    duckdb.IOException,
    duckdb.TransactionException,
    duckdb.FatalException,
)
_DAMAGED_FROM = re.compile(r"entry at byte position (\d+)")
_HELD_IN = re.compile(r"held in (.*?)\(PID (\d+)\)")
_RESTORE = "Restore the last backup with `orcha restore`"
_TROUBLES = (
    (
        ("No space left on device", "Disk quota exceeded", "File too large"),
        (
            "There is no room to write to the warehouse {path}: its disk is full, or a limit is reached. What was "
            "committed before is whole. Make room; the next cycle goes on by itself."
        ),
    ),
    (
        ("Permission denied", "Read-only file system", "Operation not permitted", "read-only mode"),
        (
            "The warehouse {path} may not be read or written: Orcha's user needs both rights on the file and on its "
            "folder. Give them back with `chmod u+rw` or `chown`, or mount its disk writable."
        ),
    ),
    (
        ("not a valid DuckDB database file", "Corrupt database file"),
        f"The warehouse {{path}} is damaged, or is no DuckDB file. {_RESTORE}.",
    ),
)
"""What the system or DuckDB says, and what that means."""


def is_taken(error: BaseException) -> bool:
    """Tell a file that is in use now from one that will never open."""
    text = str(error)
    return (
        (isinstance(error, duckdb.IOException) and "lock on file" in text)
        # The same process has it open with other options (a reader beside a writer) ...
        or (isinstance(error, duckdb.ConnectionException) and "different configuration" in text)
        # ... or is just opening or closing it in another thread.
        or (isinstance(error, duckdb.Error) and "Unique file handle conflict" in text)
    )


def told(path: Path, error: duckdb.Error, *, waited_seconds: float) -> str:
    """What is wrong with the warehouse at `path`, with the remedy; empty where `error` is not about its file."""
    text = str(error)
    if is_taken(error):
        holder = _HELD_IN.search(text)
        who = f" by process {holder.group(2)}" if holder else ""
        return (
            f"The warehouse {path} has been in use{who} for {waited_seconds:.0f} s. "
            "Close the program that has it open (a DuckDB shell, a notebook) and try again."
        )
    if "replaying WAL" in text:
        return _torn(path, text)
    if not isinstance(error, _OF_THE_FILE):
        return ""
    return next((told.format(path=path) for signs, told in _TROUBLES if any(sign in text for sign in signs)), "")


def _torn(path: Path, text: str) -> str:
    """The log of what was last committed is damaged, as by a loss of power. Cutting it is left to the operator."""
    log = path.with_name(f"{path.name}.wal")
    damaged = _DAMAGED_FROM.search(text)
    if not damaged:
        return f"The log {log} of the warehouse cannot be used: {text}. {_RESTORE}."
    at = damaged.group(1)
    return (
        f"The log {log} of the warehouse is damaged from byte {at} on, as after a loss of power. {_RESTORE}; or end "
        f"Orcha, copy the warehouse and its log elsewhere, and drop what was written from there on: "
        f"truncate -s {at} {shlex.quote(str(log))}"
    )
