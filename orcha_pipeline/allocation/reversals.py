"""A change that lost more than it might: noticed once the host has rested, set back, and not made again for a while.

A change may lose what it was decided on as likely enough (the tenth percentile of its gain), and beside that a part of
what the old shares would have earned, for what is measured is uncertain as well. One that had to be made (a capacity,
a pin, a reversal) is never set back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orcha_pipeline.allocation.decided import changes_of
from orcha_pipeline.allocation.outcomes import Measured, measured, promised
from orcha_pipeline.allocation.reasons import number
from orcha_pipeline.model import HOUR
from orcha_pipeline.settings import Settings
from orcha_pipeline.warehouse import reversals
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import Connection, DecisionRow
from orcha_pipeline.warehouse.planning_rows import quarters_in_force
from orcha_pipeline.warehouse.reversals import ReversalRow

NOTICED_WITHIN = HOUR
"""A change whose hours are over for longer is not looked at any more: the plan has had its say since."""
SET_BACK_WITHIN = timedelta(hours=6)
"""So long it is tried to set a change back, where a rest, a pause or a sick node is in the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBack:
    """What is to become of a node of a host whose last change lost: its old `share`, or None where it was not moved."""

    share: float | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """That a node is not to have `more` (or else less) than `share`, since the change that gave it that lost."""

    share: float
    more: bool
    why: str


def notice(warehouse: Warehouse, settings: Settings, now: datetime) -> list[ReversalRow]:
    """Write down the changes in force that have lost more than they might; those that are new."""
    if not settings.apply.set_back:
        return []
    with warehouse.read() as connection:
        found = _lost(connection, settings, now)
    if not found:  # as nearly always: nobody waits for a writer
        return []
    with warehouse.write() as connection:
        found = _lost(connection, settings, now)  # as it stands now that nobody else writes
        for row in found:
            reversals.record(connection, row)
    return found


def _lost(connection: Connection, settings: Settings, now: datetime) -> list[ReversalRow]:
    """The changes in force that have lost more than they might, and of which that is not on record."""
    due = [
        each
        for each in reversals.in_force(connection, now=now)
        if not each.decision.forced
        and each.until - each.applied_at >= min(settings.planner.hold, (each.decision.hours or 0.0) * HOUR)
        and now - each.until <= NOTICED_WITHIN
    ]
    known = reversals.of(connection, [each.decision.decision_id for each in due])
    found: list[ReversalRow] = []
    for each in due:
        if each.decision.decision_id in known:
            continue
        came = measured(
            quarters_in_force(connection, each), each.decision, curvature=settings.planner.response_curvature
        )
        hours = (each.until - each.applied_at) / HOUR
        if lost := lost_beyond(came, each.decision, hours, percent=settings.apply.set_back_beyond_percent):
            row = ReversalRow(
                decision_id=each.decision.decision_id,
                host=each.decision.host,
                noticed_at=now,
                hours=hours,
                lost_usd=lost[0],
                bound_usd=lost[1],
            )
            found.append(row)
    return found


def lost_beyond(came: Measured, row: DecisionRow, hours: float, *, percent: float) -> tuple[float, float] | None:
    """USD that a change lost in its first `hours` and the bound, where it lost more; None where not, or unknown."""
    if came.gained_usd is None or came.unchanged_usd is None:
        return None
    likely = promised(row, row.gain_p10, hours) or 0.0
    bound = max(0.0, -likely) + percent / 100 * max(0.0, came.unchanged_usd)
    return (-came.gained_usd, bound) if -came.gained_usd > bound else None


def to_set_back(connection: Connection, now: datetime) -> dict[str, SetBack]:
    """What is to become of each node of the hosts whose last change lost."""
    lost = reversals.since(connection, now - SET_BACK_WITHIN)
    if not lost:  # as nearly always
        return {}
    standing = {each.decision.decision_id for each in reversals.in_force(connection, now=now)}
    found: dict[str, SetBack] = {}
    for reversal, row in lost:
        if reversal.decision_id not in standing:
            continue
        before = {change.node: change.share_from for change in changes_of(row)}
        why = f"{_told(reversal, row)}: it is set back"
        found |= {line.node: SetBack(share=before.get(line.node), why=why) for line in row.allocations}
    return found


def remembered(connection: Connection, now: datetime, *, remember_for: timedelta) -> dict[str, Remembered]:
    """What nodes are not to be given again: more than before, where a change that lost gave them more.

    Where it gave nobody more they are not to be given less.
    """
    found: dict[str, Remembered] = {}
    for reversal, row in reversals.since(connection, now - remember_for):
        changes = changes_of(row)
        grew = [change for change in changes if change.share_to > change.share_from]
        until = reversal.noticed_at + remember_for
        why = f"{_told(reversal, row)}: not again before {until:%Y-%m-%d %H:%M} UTC"
        for change in grew or changes:
            found[change.node] = Remembered(share=change.share_from, more=bool(grew), why=why)
    return found


def bounds_of(
    node: str,
    *,
    share: float | None,
    least: float,
    most: float,
    set_back: Mapping[str, SetBack],
    remembered: Mapping[str, Remembered],
) -> tuple[float, float, str]:
    """A node's bounds as lost changes narrow them, and why; "" where they do not. Never beyond `least` and `most`.

    What is remembered forces nothing: a node that stands beyond it by now may stay.
    """
    back = set_back.get(node)
    if back is not None and back.share is not None:
        pinned = min(most, max(least, back.share))
        return pinned, pinned, back.why
    known = remembered.get(node)
    if known is None or share is None:
        return least, most, ""
    if known.more:
        return least, max(least, min(most, max(known.share, share))), known.why
    return min(most, max(least, min(known.share, share))), most, known.why


def _told(reversal: ReversalRow, row: DecisionRow) -> str:
    moves: Sequence[str] = [
        f"{change.node} from {change.share_from:.2f} to {change.share_to:.2f}" for change in changes_of(row)
    ]
    return (
        f"the change of {row.decided_at:%H:%M} ({', '.join(moves)}) lost {number(reversal.lost_usd)} USD in "
        f"{reversal.hours:.3g} h, of {number(reversal.bound_usd)} that it might"
    )
