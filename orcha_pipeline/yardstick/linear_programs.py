"""The linear programs of baselines and bounds, given to HiGHS as they are.

Earnings are cut into straight pieces (`response.piece_widths`); since their slopes never rise, a maximiser fills them
in order.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.allocation.response import piece_slopes, piece_widths
from orcha_pipeline.errors import PlanError
from orcha_pipeline.yardstick.world import Floats, Terms


def empty_solver() -> Any:
    """A silent HiGHS on one thread."""
    import highspy

    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)  # noqa: FBT003 (HiGHS's own call)
    solver.setOptionValue("threads", 1)
    return solver


def linear_program(
    *, gain: Floats, most: Floats, matrix: Any, row_least: Floats, row_most: Floats
) -> Any:  # highspy has no types
    """Maximise gain @ x over 0 <= x <= most and row_least <= matrix @ x <= row_most; `matrix` is sparse, by column."""
    import highspy

    program = highspy.HighsLp()
    program.num_row_, program.num_col_ = matrix.shape
    program.sense_ = highspy.ObjSense.kMaximize
    program.col_cost_, program.col_lower_, program.col_upper_ = gain, np.zeros(len(gain)), most
    program.row_lower_, program.row_upper_ = row_least, row_most
    columns = program.a_matrix_
    columns.format_ = highspy.MatrixFormat.kColwise
    columns.start_, columns.index_, columns.value_ = matrix.indptr, matrix.indices, matrix.data
    return program


def solution(solver: Any) -> tuple[Floats, float]:
    """Run, and give the best x and what it gains. Raises `PlanError` where there is none."""
    import highspy

    solver.run()
    status = solver.getModelStatus()
    if status != highspy.HighsModelStatus.kOptimal:
        raise PlanError(f"HiGHS found no best division: {solver.modelStatusToString(status)}")
    return np.array(solver.getSolution().col_value), float(solver.getInfo().objective_function_value)


class Division:
    """The best shares for yields that stay as they are: a program that is made once and asked again and again."""

    def __init__(self, terms: Terms, *, count: int, curvature: float) -> None:
        from scipy.sparse import csc_matrix

        self._terms = terms
        protocols = len(terms.protocols)
        widths, slopes = piece_widths(count), piece_slopes(count, curvature)
        self._owner = np.repeat(np.arange(protocols), count)
        self._slopes = np.tile(slopes, protocols)
        own_share = (self._owner == np.arange(protocols)[:, None]).astype(float)
        program = linear_program(
            gain=np.ones(len(self._owner)),
            most=np.tile(widths, protocols),
            matrix=csc_matrix(np.vstack([terms.demand[:, self._owner], own_share])),
            row_least=np.concatenate([np.full(len(terms.capacity), -np.inf), terms.least]),
            row_most=np.concatenate([terms.capacity, terms.most]),
        )
        self._solver = empty_solver()
        self._solver.passModel(program)

    def best(self, yields: Floats, kept: Mapping[int, float] | None = None) -> Floats:
        """Shares (P,) that earn most at `yields` (P,), where those in `kept` have to stay at what it says."""
        kept = kept or {}
        gain = yields[self._owner] * self._slopes / max(float(yields.max()), 1e-12)
        columns: NDArray[np.int32] = np.arange(len(gain), dtype=np.int32)
        self._solver.changeColsCost(len(gain), columns, gain)
        terms, first = self._terms, len(self._terms.capacity)
        for protocol, (least, most) in enumerate(zip(terms.least.tolist(), terms.most.tolist(), strict=True)):
            low, high = (kept[protocol],) * 2 if protocol in kept else (least, most)
            self._solver.changeRowBounds(first + protocol, low, high)
        # From nothing each time: where several divisions are equally good, the last answer must not choose.
        self._solver.clearSolver()
        filled, _ = solution(self._solver)
        shares = np.bincount(self._owner, weights=filled, minlength=len(terms.protocols))
        return np.array([kept.get(protocol, share) for protocol, share in enumerate(shares.tolist())])
