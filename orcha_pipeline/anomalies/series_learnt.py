"""What an hourly series' own past lets expect of its next hours, and whether three of them are too low. Pure, causal.

A ridge regression on logarithms is fitted anew each day on the four weeks before. It knows the last two hours, the mean
of the last day, and the same time of past days and weeks. A drop that began with the first of three readings shows in
their errors in a known way: the first in full, the others less what the regression took over from the low reading
before. The depth that explains the three best, in standard errors of it, is what is judged.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from orcha_pipeline.anomalies.series_expectation import Floats, sampling_step

HOUR = 3_600.0
DAY_HOURS, WEEK_HOURS = 24, 168
LEARN_FROM = 264
"""Hours after the first from which readings are foretold: their errors tell how large errors are."""
JUDGE_FROM = 360
"""Hours after the first from which readings are judged: two weeks to learn a week from, and a day."""
LEARN_OVER = 672
"""Hours before that a fit learns from; an error counts as an extreme of its own for as long."""
SPAN = 3
"""Readings whose errors are taken together."""
BELOW = 0.75
"""Share of the expectation below which it is a drop: the estimate of one to 70 % is off by some percent."""
LEAST_ERRORS = 3.3
EXTREMES = 0.22
MOST_EXTREME = 12.0
"""How many standard errors alert: the first, and the second's share of the most of the weeks before, the third at most.

Chosen on half of M4's series; `NOTHING` and `MOST_OF_ONE` on labelled ones."""
NOTHING = 0.8
"""Of the errors that alert, the part that is nothing yet: a bound's strength, too, grows from the bound."""
MOST_OF_ONE = 4.0
"""Standard errors that a reading counts for at most: one alone, however low, is not three."""

_SAME_STEP = 0.1
_FEWEST_ROWS = 80
_RIDGE = 10.0
_OUTLYING = 2.5
_NORMAL = 1.4826
_LEAST_VALUE = 1e-3
"""Of the first week's median: values below it have no logarithm worth the name."""
_ERRORS_OVER_DAYS = 21
_ERRORS_IN_COMMON = 6.0
"""Readings for which the error of all hours counts beside that of the same hour."""
_LARGEST_SQUARE = 9.0
_SMALLEST_ERROR = 1e-6
"""Of a logarithm: a smaller one is rounding."""
_NEW = 1.1
"""How much larger errors are than those of the past, since the weights fit the past."""
_LAGS = (DAY_HOURS, 2 * DAY_HOURS, WEEK_HOURS, 1, 2, DAY_HOURS + 1, WEEK_HOURS + 1)
_PRIOR = np.array([0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.4, 0.6, -0.2, -0.3, 0.0])
"""What weights are drawn to: the mean of past days and weeks, and half of what the last hour was away from its own."""
_LAST_HOUR, _HOUR_BEFORE = 3, 4


class Learnt(NamedTuple):
    """By reading, (n,) each, NaN where not judged: what was expected of it, and what is told of the last three.

    That is a strength, 1 where it alerts, the share of the expectation that they came to, and by how many standard
    errors they are low.
    """

    expected: Floats
    strength: Floats
    share: Floats
    errors: Floats


class _Fitted(NamedTuple):
    """By hour, (m,) each: error of the logarithm, the same with those of the first fit, and the expectation's variance.

    That is in squared errors. Last come its weights of the last reading, of the one before and of the last day's mean.
    """

    error: Floats
    known_errors: Floats
    variance: Floats
    last: Floats
    before: Floats
    level: Floats


def learnt(seconds: Floats, values: Floats) -> Learnt:
    """Judge hourly readings `values` (n,) at `seconds` (n,), ascending; NaN is unknown. Other steps are not judged."""
    nothing = Learnt(*(np.full(len(values), np.nan) for _ in Learnt._fields))
    if not abs(sampling_step(seconds) - HOUR) <= _SAME_STEP * HOUR:
        return nothing
    hour = _hours(seconds)
    known = np.flatnonzero(np.isfinite(values))
    # Of readings of one hour the first known one stands: a later one must not change what was told of it.
    at, first = np.unique(hour[known], return_index=True)
    rows = known[first]
    if not rows.size or at[-1] < JUDGE_FROM:
        return nothing
    hourly = np.full(at[-1] + 1, np.nan)
    hourly[at] = values[rows]
    usual = np.abs(hourly[:WEEK_HOURS][np.isfinite(hourly[:WEEK_HOURS])])
    least = _LEAST_VALUE * float(np.median(usual)) if usual.size else 0.0
    if not least > 0:
        return nothing
    logs = np.log(np.maximum(hourly, least))
    fitted = _fit(logs)
    depth, errors = _patches(fitted, _standard_errors(fitted))
    of_alerting = np.where(depth < np.log(BELOW), errors, 0.0) / (LEAST_ERRORS + EXTREMES * _most_before(errors))
    strength = (of_alerting - NOTHING) / (1.0 - NOTHING)
    judged = np.isfinite(errors) & (np.arange(len(errors)) >= JUDGE_FROM)
    told = (np.exp(logs - fitted.error), np.maximum(strength, 0.0), np.exp(depth), errors)
    for out, each in zip(nothing, told, strict=True):
        out[rows] = np.where(judged, each, np.nan)[at]
    return nothing


def _hours(seconds: Floats) -> NDArray[np.int64]:
    """Hours since the first reading (n,); of a longer gap two weeks are left, and the time of the week is kept."""
    since = np.round((seconds - seconds[0]) / HOUR).astype(np.int64)
    gaps = np.diff(since, prepend=0)
    return np.cumsum(np.where(gaps > 2 * WEEK_HOURS, 2 * WEEK_HOURS + gaps % WEEK_HOURS, gaps))


def _lagged(values: Floats, by: int) -> Floats:
    """The values (m,) of `by` rows before, which are fewer than there are."""
    out = np.full(len(values), np.nan)
    out[by:] = values[: len(values) - by]
    return out


def _mean_of_lags(values: Floats, lags: range) -> Floats:
    """The mean of the known ones of earlier values (m,), NaN where none is."""
    known = np.isfinite(values)
    total, count = np.zeros(len(values)), np.zeros(len(values))
    for by in (each for each in lags if each < len(values)):
        total[by:] += np.where(known, values, 0.0)[: len(values) - by]
        count[by:] += known[: len(values) - by]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _table(logs: Floats) -> tuple[Floats, Floats]:
    """What an expectation is made of, less the level: (m, 12) with the constant last; and the level (m,)."""
    days = _mean_of_lags(logs, range(DAY_HOURS, 7 * DAY_HOURS + 1, DAY_HOURS))
    weeks = _mean_of_lags(logs, range(WEEK_HOURS, 4 * WEEK_HOURS + 1, WEEK_HOURS))
    # A missing reading stands at what its time of the day and week made one expect, as one reading of 24 might.
    usual = np.where(np.isfinite(days + weeks), (days + weeks) / 2, np.fmax(days, weeks))
    whole = np.where(np.isfinite(logs), logs, usual)
    level = _mean_of_lags(whole, range(1, DAY_HOURS + 1))
    columns = [*(_lagged(whole, by) for by in _LAGS), days, weeks, _lagged(days, 1), _lagged(weeks, 1)]
    return np.column_stack([*(each - level for each in columns), np.ones(len(logs))]), level


def _fit(logs: Floats) -> _Fitted:
    """Foretell each day's logarithms (m,) by what was learnt before it."""
    table, level = _table(logs)
    away = logs - level
    usable = np.array(np.isfinite(table).all(axis=1), dtype=np.bool_)
    rows = np.where(usable[:, None], table, 0.0)
    whole = np.logical_and(usable, np.isfinite(away))
    target = np.where(whole, away, 0.0) - rows @ _PRIOR
    fitted = _Fitted(*(np.full(len(logs), np.nan) for _ in _Fitted._fields))
    fresh = True
    for start in range(LEARN_FROM, len(logs), DAY_HOURS):
        past, day = slice(max(0, start - LEARN_OVER), start), slice(start, start + DAY_HOURS)
        counted = whole[past].astype(np.float64)
        if counted.sum() < _FEWEST_ROWS or not whole[day].any():
            continue
        weights, inverse, missed = _ridge(rows[past], target[past], counted)
        if fresh:
            fitted.known_errors[past] = np.where(whole[past], missed, np.nan)
            fresh = False
        now = rows[day]
        fitted.error[day] = np.where(usable[day], target[day] - now @ weights, np.nan)
        fitted.variance[day] = ((now @ inverse) * now).sum(axis=1)
        weights = weights + _PRIOR
        fitted.last[day], fitted.before[day] = weights[_LAST_HOUR], weights[_HOUR_BEFORE]
        fitted.level[day] = 1.0 - weights[:-1].sum()
    fitted.error[~whole] = np.nan
    fitted.known_errors[:] = np.where(np.isfinite(fitted.error), fitted.error, fitted.known_errors)
    return fitted


def _ridge(rows: Floats, target: Floats, counted: Floats) -> tuple[Floats, Floats, Floats]:
    """Weights (p,) beside the prior ones, the inverse (p, p), errors (r,); fitted twice, for outliers to count less."""
    count, size = counted.sum(), rows.shape[1]
    share = counted
    weights, inverse, missed = np.zeros(size), np.eye(size), target
    for _ in range(2):
        weighted = (rows * share[:, None]).T
        gram = weighted @ rows
        gram.flat[:: size + 1] += _RIDGE * np.trace(gram) / size / count
        inverse = np.asarray(np.linalg.inv(gram), dtype=np.float64)
        weights = inverse @ (weighted @ target)
        missed = target - rows @ weights
        usual = _NORMAL * float(np.median(np.abs(missed[counted > 0]))) + 1e-9
        share = counted / np.maximum(1.0, np.abs(missed) / (_OUTLYING * usual))
    return weights, inverse, missed


def _standard_errors(fitted: _Fitted) -> Floats:
    """How large each hour's error is to be (m,): those of the same time of past days, and the fit's own uncertainty."""
    known = np.isfinite(fitted.known_errors)
    squares = np.where(known, fitted.known_errors, 0.0) ** 2
    plain = _mean_so_far(squares, known)
    squares = np.where(np.isfinite(plain), np.minimum(squares, _LARGEST_SQUARE * plain), squares)
    total, count = _ERRORS_IN_COMMON * _mean_so_far(squares, known), np.full(len(squares), _ERRORS_IN_COMMON)
    for day in range(DAY_HOURS, _ERRORS_OVER_DAYS * DAY_HOURS + 1, DAY_HOURS):
        for by in (each for each in (day - 1, day, day + 1) if each < len(squares)):
            total[by:] += squares[: len(squares) - by]
            count[by:] += known[: len(squares) - by]
    return _NEW * np.sqrt(total / count * (1.0 + fitted.variance)) + _SMALLEST_ERROR


def _mean_so_far(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """The mean of all known values before each (m,), NaN without any."""
    out = np.full(len(values), np.nan)
    count = np.cumsum(known)[:-1]
    np.divide(np.cumsum(values)[:-1], count, out=out[1:], where=count > 0)
    return out


def _patches(fitted: _Fitted, spread: Floats) -> tuple[Floats, Floats]:
    """The depth, in logarithms, of a drop that began `SPAN` readings ago, and how many standard errors it is low by.

    Both (m,), NaN where the reading or more than one of the others is unknown.
    """
    told, certain, weight, count = (np.zeros(len(spread)) for _ in range(4))
    for since in range(SPAN):
        shown = 1.0 - since / DAY_HOURS * fitted.level - (since > 0) * fitted.last - (since > 1) * fitted.before
        ago = SPAN - 1 - since
        missed, share = _lagged(fitted.error / spread, ago), _lagged(shown / spread, ago)
        known = np.isfinite(missed)
        told += np.where(known, share * missed, 0.0)
        certain += np.where(known, share * np.clip(missed, -MOST_OF_ONE, MOST_OF_ONE), 0.0)
        weight += np.where(known, share**2, 0.0)
        count += known
    enough = np.isfinite(fitted.error) & (count >= SPAN - 1) & (weight > 0)
    weight = np.where(enough, weight, np.nan)
    return told / weight, -certain / np.sqrt(weight)


def _most_before(errors: Floats) -> Floats:
    """The most of `LEARN_OVER` hours before each (m,), between 0 and `MOST_EXTREME`."""
    seen = np.clip(np.nan_to_num(errors), 0.0, MOST_EXTREME)
    return sliding_window_view(np.concatenate([np.zeros(LEARN_OVER), seen[:-1]]), LEARN_OVER).max(axis=1)
