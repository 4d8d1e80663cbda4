"""A terminal that only Orcha writes to, while libraries (TensorFlow, LightGBM) write what they like."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status
from rich.text import Text

from orcha_pipeline.forecasting.panel import Tell

EVERY_SECONDS = 10.0
"""How often progress is printed where there is no terminal to redraw a line on."""


@contextmanager
def only_progress(title: str) -> Iterator[Tell]:
    """Show progress on the error output and hide what else is written there meanwhile, by native code too.

    Errors raised inside come out as ever, after the error output is itself again.
    """
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as terminal:
            console = Console(file=terminal)
            with console.status(title) as status:
                yield _redrawn(status) if console.is_terminal else _now_and_then(console)
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _redrawn(status: Status) -> Tell:
    return lambda line: status.update(Text(line))


def _now_and_then(console: Console) -> Tell:
    last = float("-inf")

    def tell(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY_SECONDS:
            last = time.monotonic()
            console.print(line, markup=False, highlight=False)

    return tell
