"""The `orcha` command in processes that are killed, with SIGKILL, before one of their changes to the disk.

    python -m orcha_pipeline_tests.backup.killed

Each line of its input is a list in JSON: a folder, the number of the change to be killed before (-1: none), and the
command's arguments. Changes are those below the folder that this one is in. It answers each line with the exit status.
The processes are forked, for to import everything takes longer than what they do.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from orcha_pipeline import cli
from orcha_pipeline.backup import commands

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "open")
WRITING = os.O_WRONLY | os.O_RDWR


def kill_before(number: int, folder: str) -> None:
    """End this process before its change of that number (from 0) to something below `folder`."""
    changes = 0

    def watch(event: str, given: tuple[Any, ...]) -> None:
        nonlocal changes
        if event not in CHANGES or (event == "open" and not int(given[2] or 0) & WRITING):
            return
        if not isinstance(given[0], int) and str(Path(os.fsdecode(given[0])).absolute()).startswith(folder):
            if changes == number:
                os.kill(os.getpid(), signal.SIGKILL)
            changes += 1

    sys.addaudithook(watch)


def run(folder: str, number: int, arguments: list[str]) -> int:
    """Run the command in a process of its own, in `folder`."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        if number >= 0:
            kill_before(number, str(Path(folder).parent))
        sys.argv = ["orcha", *arguments]
        try:
            cli.main()
        except SystemExit as ended:
            os._exit(ended.code if isinstance(ended.code, int) else 0)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Answer until the input ends."""
    assert commands.VERSION  # imported before anything is forked
    for line in sys.stdin:
        folder, number, arguments = json.loads(line)
        sys.stdout.write(f"{run(folder, number, arguments)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
