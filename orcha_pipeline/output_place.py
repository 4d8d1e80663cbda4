"""Whether a file that a command is to write can be: asked before anything is computed."""

from pathlib import Path

from orcha_pipeline.errors import OrchaError


def check_place(out: Path, error: type[OrchaError]) -> None:
    """Raise `error` where the result could not be written."""
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise error(f"{out} cannot be written: " + ("it is a folder." if out.is_dir() else "there is no such folder."))
