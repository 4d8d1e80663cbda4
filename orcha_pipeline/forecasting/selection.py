"""What is served: for each series a blend of the candidates, learnt from forecasts whose truth is known. Pure.

Three steps, all of them on *evidence*, windows that lie wholly in the past:

- Pooled weights: the convex combination of the candidates that learn (and the median of all) with the least absolute
  error over all series, each scaled by its own mean size.
- A series' own weights: the same problem on its own windows, held near the pooled weights by a Kullback-Leibler
  penalty that fades with the number of windows. Where such weights, held back from the windows they are judged on,
  did worse than seasonal naive, naive is served.
- Conformal margins: the 80 % band is stretched about p50, below and above, by hours ahead and by series, until as much
  of the evidence lies within as should, forecast with weights that were not fitted to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.forecasting.conformal import GROUP_ENDS, Margins, group_of_hours, margins_of, pairs, stretched
from orcha_pipeline.forecasting.convex_weights import Problem, pooled, problems_of
from orcha_pipeline.forecasting.panel import Floats

NAIVE = "seasonal_naive"
SIMPLE = (NAIVE, "seasonal_naive_168", "hour_mean")
"""What learns nothing. It has a part in a blend only where nothing that learns is left: the little it seems to add, on
a fortnight of evidence, it loses afterwards."""
MEDIAN = "median"
"""Not a forecaster: the median of all candidates' quantiles, blended as if it were one."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Forecasts and what came true, n windows in any order.

    `series` (n,) names, `times` (n,) origins in hours on a clock all series share, `truth` (n, horizon) with NaN where
    unknown, `forecasts` (n, horizon, 3) by candidate: rows finite or NaN.
    """

    series: NDArray[np.str_]
    times: NDArray[np.int64]
    truth: Floats
    forecasts: Mapping[str, Floats]

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        """The windows where the mask (n,) is true, or at these places."""
        return replace(
            self,
            series=self.series[which],
            times=self.times[which],
            truth=self.truth[which],
            forecasts={name: rows[which] for name, rows in self.forecasts.items()},
        )

    def known_at(self, now: int) -> Self:
        """The windows of which every target hour lies before `now`."""
        return self.take(self.times + self.truth.shape[1] <= now)

    def and_then(self, later: "Evidence") -> "Evidence":
        """Both together. Each must hold the same candidates."""
        return Evidence(
            series=np.concatenate([self.series, later.series]),
            times=np.concatenate([self.times, later.times]),
            truth=np.concatenate([self.truth, later.truth]),
            forecasts={name: np.concatenate([rows, later.forecasts[name]]) for name, rows in self.forecasts.items()},
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """How much is believed: numbers of windows and hours, the same for every set of series."""

    own_pull: float = 0.2
    """Pull of a series' weights towards the pooled ones with one window of its own, in units of relative loss."""
    half_life_hours: float = 1440.0
    """Evidence this old counts half."""
    pooled_pull: float = 4.0
    """Pull of the pooled weights towards equal ones with one window in all, in units of relative loss."""
    tolerance: float = 10.0
    """How much worse than the best one, over all series, a candidate may be with one window in all and still have a
    part in a blend: with 200 of them 5 %."""
    margin_windows: float = 20.0
    """Windows of its own at which a series' band is as much its own as everyone's."""


RULES = Rules()
FOLDS = 4
"""Parts of the evidence, in order of time, each of which is held back once."""
LEAST_WEIGHT = 0.01
"""Below it a candidate has no part in a blend, so that serving need not ask it."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is served, as numbers that fit into JSON.

    `weights` by series and `default` (for a series never seen) run along `candidates` and add up to one; `margins` by
    series and `default_margins` are (below, above) a group of hours ahead: factors on the blend's own half widths.
    """

    candidates: tuple[str, ...]
    default: tuple[float, ...]
    default_margins: Margins
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    margins: Mapping[str, Margins] = field(default_factory=dict)

    def weights_of(self, name: str) -> dict[str, float]:
        """What a series' blend is made of, by candidate, heaviest first."""
        pairs = zip(self.candidates, self.weights.get(name, self.default), strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

    def as_json(self) -> dict[str, Any]:
        """For a file: `from_json` gives the same selection back."""
        return {
            "candidates": list(self.candidates),
            "default": list(self.default),
            "default_margins": [list(pair) for pair in self.default_margins],
            "weights": {name: list(row) for name, row in self.weights.items()},
            "margins": {name: [list(pair) for pair in rows] for name, rows in self.margins.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The selection `as_json` told of."""
        return cls(
            candidates=tuple(document["candidates"]),
            default=tuple(document["default"]),
            default_margins=pairs(document["default_margins"]),
            weights={name: tuple(row) for name, row in document["weights"].items()},
            margins={name: pairs(rows) for name, rows in document["margins"].items()},
        )


def blend(selection: Selection, name: str, forecasts: Mapping[str, Floats]) -> Floats:
    """What is served for one series: (horizon, 3) from each candidate's (horizon, 3). See `blend_all`."""
    return blend_all(selection, [name], {each: rows[None] for each, rows in forecasts.items()})[0]


def blend_all(selection: Selection, names: Sequence[str], forecasts: Mapping[str, Floats]) -> Floats:
    """What is served: (n, horizon, 3) from each candidate's (n, horizon, 3) for the series `names` (n,).

    A candidate that is missing, or has no answer in a row, leaves its weight to the others; where none is left the row
    is NaN. Quantiles never cross, and nothing falls below zero where no candidate does.
    """
    if not len(names):
        return next(iter(forecasts.values()))
    stacked = _stack(selection.candidates, forecasts)
    weights = np.array([selection.weights.get(name, selection.default) for name in names])
    raw = _weighted(stacked, weights.reshape(len(names), len(selection.candidates)))
    margins = np.array([selection.margins.get(name, selection.default_margins) for name in names])
    hours = group_of_hours(raw.shape[1], len(selection.default_margins))
    served = stretched(raw, margins.reshape(len(names), -1, 2)[:, hours])
    low = np.nanmin(np.where(np.isnan(stacked), np.inf, stacked), axis=(0, 2, 3), initial=np.inf)
    return np.where((low >= 0)[:, None, None], np.maximum(served, 0.0), served)


def select(evidence: Evidence, *, now: int, rules: Rules = RULES) -> Selection:
    """Weights and margins from the evidence that is known at `now`.

    Where there is none, seasonal naive with its own band (equal weights, if it is no candidate).
    """
    known = _usable(evidence.known_at(now))
    candidates = (*evidence.forecasts, MEDIAN)
    horizon = evidence.truth.shape[1]
    equal = np.full(len(candidates), 1 / len(candidates))
    if not len(known.series):
        first = np.array([float(name == NAIVE) for name in candidates]) if NAIVE in candidates else equal
        return Selection(
            candidates, _row(first), ((1.0, 1.0),) * (1 + int(group_of_hours(horizon, len(GROUP_ENDS) + 1)[-1]))
        )
    names, index = np.unique(known.series, return_inverse=True)
    stacked = _stack(candidates, known.forecasts)
    trust = 0.5 ** ((now - horizon - known.times) / rules.half_life_hours)
    problems = problems_of(stacked[..., 1], known.truth, index, trust)
    apart = _apart(known.times, horizon)
    windows = apart * float(trust.sum())
    default = _pooled_weights(problems, candidates, rules.pooled_pull / windows, rules.tolerance / windows)
    held_back = _held_back(stacked[..., 1], known, index=index, trust=trust, default=default, rules=rules)
    own = _own_weights(problems, default, index, trust, rules)
    raw = _weighted(stacked, held_back)
    if NAIVE in candidates:
        naive = stacked[candidates.index(NAIVE)]
        for i in _lost_to(naive, raw, known.truth, index, trust):
            own[i] = np.array([float(name == NAIVE) for name in candidates])
            raw[index == i] = naive[index == i]
    default_margins, margins = margins_of(
        raw, known.truth, index, trust, shared_windows=rules.margin_windows, apart=apart
    )
    return Selection(
        candidates=candidates,
        default=_row(_pruned(default)),
        default_margins=default_margins,
        weights={str(name): _row(_pruned(own[i])) for i, name in enumerate(names)},
        margins={str(name): margin for name, margin in zip(names, margins, strict=True)},
    )


def _apart(times: NDArray[np.int64], horizon: int) -> float:
    """What part of windows that begin at `times` would be left if none overlapped another: those err together."""
    distinct = np.unique(times)
    return min(1.0, (1 + (distinct[-1] - distinct[0]) / horizon) / len(distinct))


def _pooled_weights(problems: Mapping[int, Problem], candidates: Sequence[str], pull: float, within: float) -> Floats:
    """Weights for all series, of the candidates whose own loss is within a factor 1 + `within` of the best one's.

    The others are left out first: what a clearly worse candidate seems to add is mostly chance. So are the simple ones
    where one that learns is left.
    """
    everyone = pooled(list(problems.values()))
    losses = np.array([everyone.loss(alone) for alone in np.eye(len(candidates))])
    best = min(loss for name, loss in zip(candidates, losses.tolist(), strict=True) if name != MEDIAN)
    trimmed = (losses <= (1 + within) * best).astype(np.float64)
    learns = np.array([name not in (*SIMPLE, MEDIAN) for name in candidates])
    if trimmed[learns].any():
        trimmed[[name in SIMPLE for name in candidates]] = 0.0
    return everyone.descend(trimmed / trimmed.sum(), pull)


def _own_weights(
    problems: Mapping[int, Problem], default: Floats, index: NDArray[np.intp], trust: Floats, rules: Rules
) -> dict[int, Floats]:
    """Each series' weights, held near the default by the fewer windows the more."""
    windows = np.bincount(index, weights=trust)
    return {i: one.descend(default, rules.own_pull / max(float(windows[i]), 1e-9)) for i, one in problems.items()}


def _lost_to(naive: Floats, raw: Floats, truth: Floats, index: NDArray[np.intp], trust: Floats) -> list[int]:
    """The series on which blends that were not fitted to a window did worse on it, all in all, than seasonal naive."""
    errors = [np.nansum(np.abs(rows[..., 1] - truth), axis=1) for rows in (naive, raw)]
    by_naive, by_blend = (np.bincount(index, weights=trust * error) for error in errors)
    return np.flatnonzero(by_blend > by_naive).tolist()


def _held_back(
    medians: Floats, known: Evidence, *, index: NDArray[np.intp], trust: Floats, default: Floats, rules: Rules
) -> Floats:
    """For each window the weights (n, c) that its series would get from windows of other times, in FOLDS parts.

    A band is to be judged by errors of a blend that was not fitted to them.
    """
    times = np.unique(known.times)
    rows = np.tile(default, (len(index), 1))
    for part in np.array_split(times, min(FOLDS, len(times))):
        held = np.isin(known.times, part)
        rest = ~held
        if not rest.any():
            continue
        problems = problems_of(medians[:, rest], known.truth[rest], index[rest], trust[rest])
        own = _own_weights(problems, default, index[rest], trust[rest], rules)
        for row in np.flatnonzero(held).tolist():
            rows[row] = own.get(int(index[row]), default)
    return rows


def serve(past: Evidence, test: Evidence, *, rules: Rules = RULES) -> tuple[Floats, Selection]:
    """What would have been served for each test window, (n, horizon, 3), and the selection at the last origin.

    At each origin the selection is made anew from `past` and from the test windows that have wholly come true. There
    must be a test window.
    """
    everything = past.and_then(test)
    served = np.full((*test.truth.shape, 3), np.nan)
    times = np.unique(test.times).tolist()
    selections = [select(everything, now=now, rules=rules) for now in times]
    for now, selection in zip(times, selections, strict=True):
        at = test.times == now
        forecasts = {name: rows[at] for name, rows in test.forecasts.items()}
        served[at] = blend_all(selection, test.series[at].tolist(), forecasts)
    return served, selections[-1]


def _stack(candidates: Sequence[str], forecasts: Mapping[str, Floats]) -> Floats:
    """(c, n, horizon, 3) in the order of `candidates`, a row wholly NaN where one has no answer for every hour.

    Their median is made here.
    """
    shape = next(iter(forecasts.values())).shape
    rows = [forecasts.get(name, np.full(shape, np.nan)) for name in candidates if name != MEDIAN]
    stacked = np.stack(rows)
    stacked = np.where(np.all(np.isfinite(stacked), axis=(2, 3), keepdims=True), stacked, np.nan)
    if MEDIAN not in candidates:
        return stacked
    at = list(candidates).index(MEDIAN)
    return np.insert(stacked, at, _nanmedian(stacked), axis=0)


def _nanmedian(stacked: Floats) -> Floats:
    """The median along the first axis of what is known, NaN where nothing is; says nothing about it."""
    count = np.isfinite(stacked).sum(axis=0)
    ordered = np.sort(stacked, axis=0)  # NaN last
    last = np.maximum(count - 1, 0)
    low = np.take_along_axis(ordered, (last // 2)[None], axis=0)[0]
    high = np.take_along_axis(ordered, ((last + 1) // 2)[None], axis=0)[0]
    return (low + high) / 2


def _weighted(stacked: Floats, weights: Floats) -> Floats:
    """The weighted mean (n, horizon, 3) of candidates (c, n, horizon, 3) by weights (n, c), over those that answer."""
    answers = np.isfinite(stacked).all(axis=(2, 3))
    shares = weights.T * answers
    # A row whose whole weight lies on candidates without an answer goes to those with one, evenly.
    shares = np.where(shares.sum(axis=0) > 0, shares, answers.astype(float))
    total = shares.sum(axis=0)
    shares = shares / np.where(total > 0, total, np.nan)
    return np.einsum("cn,cnhq->nhq", shares, np.where(np.isfinite(stacked), stacked, 0.0))


def _usable(evidence: Evidence) -> Evidence:
    """The windows with an hour that is known in windows that every candidate has an answer for, by series."""
    missing = sum(np.count_nonzero(~np.isfinite(rows), axis=(1, 2)) for rows in evidence.forecasts.values())
    known = np.count_nonzero(np.isfinite(evidence.truth), axis=1)
    found = evidence.take(np.flatnonzero(np.where(missing == 0, known, 0)))
    return found.take(np.argsort(found.series, kind="stable"))


def _pruned(weights: Floats) -> Floats:
    kept = np.where(weights >= LEAST_WEIGHT, weights, 0.0)
    return kept / kept.sum()


def _row(weights: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in weights)
