"""What a change earned against what the same hours would have earned at the old shares. Pure.

A node that moved earns yield x share ** curvature. Its yield is told by what it earned at the share it had, and so is
what the old share would have brought. A node that did not move earned the same either way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.allocation.decided import changes_of
from orcha_pipeline.model import HOUR, SLOT
from orcha_pipeline.warehouse.decisions import DecisionRow
from orcha_pipeline.warehouse.planning_rows import Quarters

Floats = NDArray[np.float64]

QUARTER_HOURS = SLOT / HOUR
QUARTERS_FOR_A_YIELD = 4
"""Known quarters of an hour behind a change from which the yield during the change is taken."""
LEAST_KNOWN = 0.5
"""Part of a moved node's quarters that must be known for an outcome to be told."""


@dataclass(frozen=True, slots=True)
class Measured:
    """USD over the hours that were looked at; None where too little is known, and `note` says of whom.

    `missing`: quarters of moved nodes that are unknown, and in no sum.
    """

    earned_usd: float | None
    unchanged_usd: float | None
    gained_usd: float | None
    note: str
    missing: int


def measured(found: Quarters, row: DecisionRow, *, curvature: float) -> Measured:
    """What came of an applied decision in these quarters; `curvature` is that of nodes of whom it tells none."""
    changes = changes_of(row)
    return measure(
        found.rates,
        found.shares,
        [line.node for line in row.allocations],
        before={change.node: change.share_from for change in changes},
        after={change.node: change.share_to for change in changes},
        curvatures={line.node: line.curvature or curvature for line in row.allocations},
    )


def promised(row: DecisionRow, usd: float | None, hours: float) -> float | None:
    """Of an amount promised over all hours of a decision, that of its first `hours`: the cost is due at once."""
    whole, cost = row.hours or 0.0, row.switching_cost_usd or 0.0
    if usd is None or not 0 <= hours < whole:
        return usd
    return (usd + cost) * hours / whole - cost


def measure(
    rates: Floats,
    shares: Floats,
    nodes: Sequence[str],
    *,
    before: Mapping[str, float],
    after: Mapping[str, float],
    curvatures: Mapping[str, float],
) -> Measured:
    """Compare T quarters of N `nodes`, (T, N) each, with the same at the shares they had before.

    `rates` are USD an hour, `shares` those they ran at, NaN where unknown: a share that was changed within its quarter
    is. A node has moved if it has another share in `after` than in `before`, and then needs a curvature.
    """
    moved = [node for node in nodes if node in after and after[node] != before.get(node)]
    count = len(rates)
    if moved and not count:
        return Measured(None, None, None, "the next change came within the same quarter of an hour", 0)
    earned, unchanged = 0.0, 0.0
    notes: list[str] = []
    missing, too_little = 0, False
    for column, node in enumerate(nodes):
        came = rates[:, column]
        stayed = _at_share(came, shares[:, column], before[node], curvatures[node]) if node in moved else came
        known = np.isfinite(came) & np.isfinite(stayed)
        left_out = count - int(known.sum())
        if node in moved:
            missing += left_out
            too_little |= count - left_out < LEAST_KNOWN * count
        if left_out:
            notes.append(f"{node}: {left_out} of {count} quarter-hours are unknown")
        earned += float(came[known].sum()) * QUARTER_HOURS
        unchanged += float(stayed[known].sum()) * QUARTER_HOURS
    told = "; ".join(notes)
    if too_little:
        return Measured(None, None, None, told, missing)
    return Measured(earned, unchanged, earned - unchanged, f"{told}: left out" if told else "", missing)


def _at_share(rates: Floats, shares: Floats, share: float, curvature: float) -> Floats:
    """(T,) What each quarter would have earned at `share`, USD an hour; NaN where that cannot be told.

    Where the share is unknown (it was changed, and the node may have been away) it is the mean yield of the quarters
    behind that counts: what was lost meanwhile is the change's doing.
    """
    tells = np.isfinite(rates) & np.isfinite(shares) & (shares > 0)
    found = np.full(len(rates), np.nan)
    found[tells] = rates[tells] * (share / shares[tells]) ** curvature
    places = np.flatnonzero(tells)
    for quarter in np.flatnonzero(np.isfinite(rates) & np.isnan(shares)):
        behind = places[places > quarter][:QUARTERS_FOR_A_YIELD]
        if len(behind):
            found[quarter] = found[behind].mean()
    return found
