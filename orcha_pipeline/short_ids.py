"""A row by the beginning of its id, as it is typed."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from orcha_pipeline.errors import OrchaError

SHORTEST_ID = 4
FOUND_AT_MOST = 5
"""So many are told of where a beginning is not enough."""

Row = TypeVar("Row")


def one_begun(
    beginning: str,
    find: Callable[[str, int], Sequence[Row]],
    *,
    what: str,
    listed_by: str,
    id_of: Callable[[Row], str],
    told: Callable[[Row], str],
) -> Row:
    """The row whose id begins so, or is so; `find` gives up to a number of those that begin so.

    Raises `OrchaError` where there is none, or more than one: `what` is its noun with the article, `listed_by` the
    sentence that tells which command lists them, `told` what each is told by beside its id.
    """
    beginning = beginning.strip()
    article, noun = what.split(" ", 1)
    if len(beginning) < SHORTEST_ID:
        raise OrchaError(
            f"{beginning!r} is too short: give at least the first {SHORTEST_ID} characters of {article} {noun}'s id. "
            f"{listed_by}"
        )
    found = find(beginning, FOUND_AT_MOST)
    if not found:
        raise OrchaError(f"There is no {noun} whose id begins with {beginning!r}. {listed_by}")
    whole = [row for row in found if id_of(row) == beginning]
    if len(found) > 1 and not whole:
        ids = ", ".join(f"{id_of(row)} ({told(row)})" for row in found)
        raise OrchaError(f"More than one {noun} begins with {beginning!r}: {ids}. Give more of the id.")
    return (whole or found)[0]
