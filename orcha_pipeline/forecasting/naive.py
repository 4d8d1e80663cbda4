"""Forecasts that learn nothing: what stood at the same hour before. Every model must earn its place against them. Pure.

Days are counted back from each history's end, so no calendar is needed. Bands are made of the errors that the same
rule, with values of the same age, made in the last weeks of the history itself.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.forecasting.panel import QUANTILES, SEASON, Floats, Forecaster, HourlySeries, Tell, say_nothing

LOOKBACK_DAYS = 28
"""How old a value may be to be repeated, and how many days of past errors make a band."""
TABLE_DAYS = 2 * LOOKBACK_DAYS
"""Days of a history that are looked at: an error needs a value and one up to LOOKBACK_DAYS before it."""
AVERAGED_DAYS = 7
MIN_ERRORS = 24
"""Past errors below which their quantiles say nothing; the band is then as wide as the history allows."""
SEASONALITY_T = 1.645
"""M4's limit, that of 90 %, for the autocorrelation at one season."""


class _LearnsNothing(Forecaster):
    """Answers from the history alone, whatever the horizon."""

    def fit(self, panel: Sequence[HourlySeries], *, horizon: int, seed: int, tell: Tell = say_nothing) -> None:
        """Nothing to learn."""
        del panel, horizon, seed, tell


class SeasonalNaive(_LearnsNothing):
    """The latest known value of the same hour of a day before; hours beyond the first day repeat it.

    No answer where one of the hours is not known once in LOOKBACK_DAYS.
    """

    name: ClassVar[str] = "seasonal_naive"

    def forecast(self, histories: Sequence[HourlySeries], *, horizon: int) -> Floats:
        """p10, p50, p90: (n, horizon, 3)."""
        table = _days_back(histories)
        value, lag = _latest(table, horizon, every=1)
        return _repeated(histories, table, value, lag)


class SeasonalNaiveWeek(_LearnsNothing):
    """The latest known value of the same hour a week before, or two or more; by days where there is no such week."""

    name: ClassVar[str] = "seasonal_naive_168"

    def forecast(self, histories: Sequence[HourlySeries], *, horizon: int) -> Floats:
        """p10, p50, p90: (n, horizon, 3)."""
        table = _days_back(histories)
        value, lag = _latest(table, horizon, every=7)
        value_by_day, lag_by_day = _latest(table, horizon, every=1)
        by_week = np.isfinite(value)
        return _repeated(histories, table, np.where(by_week, value, value_by_day), np.where(by_week, lag, lag_by_day))


class HourMean(_LearnsNothing):
    """The mean of the same hour of the last AVERAGED_DAYS days on which it is known, of fewer where there are not more.

    No answer where one of the hours is not known once in TABLE_DAYS.
    """

    name: ClassVar[str] = "hour_mean"

    def forecast(self, histories: Sequence[HourlySeries], *, horizon: int) -> Floats:
        """p10, p50, p90: (n, horizon, 3)."""
        table = _days_back(histories)
        table = _known_first(table)
        means = _means(table)
        middle = means[:, 0, np.arange(horizon) % SEASON]
        low, high = _widest(histories, horizon)
        for day in range(-(-horizon // SEASON)):
            # A day further ahead is a day further from what is averaged.
            apart = min(day + 1, means.shape[1] - LOOKBACK_DAYS)
            errors = table[:, :LOOKBACK_DAYS] - means[:, apart : apart + LOOKBACK_DAYS]
            hours = np.arange(horizon) // SEASON == day
            _narrow(low, high, middle, errors, np.broadcast_to(hours, middle.shape))
        return _in_order(histories, low, middle, high)

    @property
    def parameters(self) -> Mapping[str, float | int | str]:
        """How many days are averaged."""
        return {"days": AVERAGED_DAYS}


def last_resort(history: HourlySeries, horizon: int) -> Floats:
    """For where seasonal naive has no answer: (horizon, 3), all NaN only if no hour of `history` is known.

    p50 is the latest known value of the same hour, however old, or the median of all that is known; the band reaches
    from 0 to twice the largest known value (from twice the smallest, where that is negative).
    """
    values = _known_or_nan(history.values)
    known = values[np.isfinite(values)]
    if not known.size:
        return np.full((horizon, 3), np.nan)
    days = -(-len(values) // SEASON)
    padded = np.concatenate([np.full(days * SEASON - len(values), np.nan), values])
    by_day, _ = _latest_known(padded.reshape(1, days, SEASON)[:, ::-1])
    middle = np.where(np.isnan(by_day), np.median(known), by_day)[:, np.arange(horizon) % SEASON]
    low, high = _widest([history], horizon)
    return _in_order([history], low, middle, high)[0]


def naive2(history: Floats, horizon: int) -> Floats:
    """M4's benchmark: the last value, seasonally adjusted where a test finds a season of 24 hours. (horizon,).

    `history` is (t,); unknown hours in it are drawn straight between their neighbours, those at its ends left out, but
    the forecast still starts at its end. The adjustment is the classical multiplicative one, or the additive one where
    a value is not positive (M4 has none such). NaN where nothing is known.
    """
    known = np.flatnonzero(np.isfinite(history))
    if not known.size:
        return np.full(horizon, np.nan)
    grid = np.arange(known[0], known[-1] + 1)
    values = np.interp(grid, known, history[known])
    if not _is_seasonal(values):
        return np.full(horizon, values[-1])
    multiplicative = bool((values > 0).all())
    seasonal = _seasonal_indices(values, multiplicative=multiplicative)
    last = seasonal[(len(values) - 1) % SEASON]
    coming = seasonal[(len(history) - known[0] + np.arange(horizon)) % SEASON]
    return values[-1] / last * coming if multiplicative else values[-1] - last + coming


def _days_back(histories: Sequence[HourlySeries]) -> Floats:
    """(n, TABLE_DAYS, 24): [i, d, j] is d + 1 days before the j-th hour to come of history i. NaN where unknown."""
    table = np.full((len(histories), TABLE_DAYS * SEASON), np.nan)
    for row, history in zip(table, histories, strict=True):
        values = history.values[-TABLE_DAYS * SEASON :]
        row[len(row) - len(values) :] = values
    return _known_or_nan(table).reshape(len(histories), TABLE_DAYS, SEASON)[:, ::-1]


def _known_or_nan(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, np.nan)


def _latest(table: Floats, horizon: int, *, every: int) -> tuple[Floats, NDArray[np.int64]]:
    """The value of each coming hour a multiple of `every` days before it, and how many days: (n, horizon) each.

    The smallest multiple at which it is known, no further back than LOOKBACK_DAYS; NaN and 0 where there is none.
    """
    value = np.full((len(table), horizon), np.nan)
    lag = np.zeros((len(table), horizon), dtype=np.int64)
    for day in range(-(-horizon // SEASON)):
        first = (day // every + 1) * every - day - 1  # the place in the table of the least multiple beyond `day`
        hours = slice(day * SEASON, min((day + 1) * SEASON, horizon))
        found, place = _latest_known(table[:, first:LOOKBACK_DAYS:every, : hours.stop - hours.start])
        value[:, hours] = found
        lag[:, hours] = np.where(np.isfinite(found), first + every * place + 1 + day, 0)
    return value, lag


def _latest_known(table: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Of (n, days, hours), the latest day first: the first known value of each hour and its place, (n, hours) each."""
    if not table.shape[1]:
        return np.full((len(table), table.shape[2]), np.nan), np.zeros((len(table), table.shape[2]), dtype=np.int64)
    place = np.isfinite(table).argmax(axis=1)
    return np.take_along_axis(table, place[:, None], axis=1)[:, 0], place


def _repeated(histories: Sequence[HourlySeries], table: Floats, value: Floats, lag: NDArray[np.int64]) -> Floats:
    """`value` (n, horizon) with the band of what repeating values `lag` days old got wrong: (n, horizon, 3)."""
    low, high = _widest(histories, value.shape[1])
    for days in np.unique(lag[lag > 0]).tolist():
        errors = table[:, : max(0, min(LOOKBACK_DAYS, TABLE_DAYS - days))]
        errors = errors - table[:, days : days + LOOKBACK_DAYS]
        _narrow(low, high, value, errors, lag == days)
    return _in_order(histories, low, value, high)


def _narrow(low: Floats, high: Floats, middle: Floats, errors: Floats, where: NDArray[np.bool_]) -> None:
    """Set the bands `low` and `high` (n, horizon) where `where` is true, in rows with enough `errors` (n, d, 24)."""
    rows = np.flatnonzero(np.any(where, axis=1))
    flat = np.sort(errors[rows].reshape(len(rows), errors.shape[1] * errors.shape[2]), axis=1)  # NaN last
    count = np.isfinite(flat).sum(axis=1)
    enough = count >= MIN_ERRORS
    rows, flat, most = rows[enough], flat[enough], count[enough] - 1
    if not rows.size:
        return
    at = np.arange(len(rows))
    # The nearest error outwards: with few of them the band is rather too wide.
    below = flat[at, np.floor(QUANTILES[0] * most).astype(np.int64)]
    above = flat[at, np.ceil(QUANTILES[2] * most).astype(np.int64)]
    low[rows] = np.where(where[rows], middle[rows] + below[:, None], low[rows])
    high[rows] = np.where(where[rows], middle[rows] + above[:, None], high[rows])


def _known_first(table: Floats) -> Floats:
    """Each hour's known days first, still the latest first: "the last 7 known days" are then neighbours."""
    unknown = np.isnan(table)
    rows = np.flatnonzero((unknown[:, :-1] & ~unknown[:, 1:]).any(axis=(1, 2)))
    if not rows.size:
        return table
    table = table.copy()
    table[rows] = np.take_along_axis(table[rows], np.argsort(unknown[rows], axis=1, kind="stable"), axis=1)
    return table


def _means(table: Floats) -> Floats:
    """The mean of the known among each AVERAGED_DAYS days on end of (n, days, 24): (n, days - 6, 24)."""
    known = np.isfinite(table)
    values = np.where(known, table, 0.0)
    count = np.zeros((len(table), table.shape[1] - AVERAGED_DAYS + 1, table.shape[2]))
    total = np.zeros_like(count)
    for day in range(AVERAGED_DAYS):
        count += known[:, day : day + count.shape[1]]
        total += values[:, day : day + count.shape[1]]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _extremes(histories: Sequence[HourlySeries]) -> tuple[Floats, Floats]:
    """The smallest and the largest of 0 and each history's known values, (n,) each."""
    values = [_known_or_nan(history.values) for history in histories]
    low = np.array([np.fmin.reduce(each, initial=0.0) for each in values])
    high = np.array([np.fmax.reduce(each, initial=0.0) for each in values])
    return low, high


def _widest(histories: Sequence[HourlySeries], horizon: int) -> tuple[Floats, Floats]:
    """The band of who knows no better, (n, horizon) each: from 0 to twice the largest known value.

    From twice the smallest, where that is negative.
    """
    low, high = _extremes(histories)
    return np.repeat(2 * low[:, None], horizon, axis=1), np.repeat(2 * high[:, None], horizon, axis=1)


def _in_order(histories: Sequence[HourlySeries], low: Floats, middle: Floats, high: Floats) -> Floats:
    """(n, horizon, 3): in order, not below 0 where the history never was, a row NaN where an hour of p50 is."""
    band = np.stack([np.minimum(low, middle), middle, np.maximum(high, middle)], axis=-1)
    floor = np.where(_extremes(histories)[0] < 0, -np.inf, 0.0)
    band = np.maximum(band, floor[:, None, None])
    answered = np.isfinite(middle).all(axis=1, keepdims=True)
    return np.where(np.reshape(answered, (-1, 1, 1)), band, np.nan)


def _is_seasonal(values: Floats) -> bool:
    """M4's test: is the autocorrelation at 24 hours beyond its 90 % limit? Never of less than three days."""
    if len(values) < 3 * SEASON:
        return False
    centred = values - values.mean()
    power = float(centred @ centred)
    if power <= 1e-18 * len(values) * float(np.abs(values).max()) ** 2:  # constant but for rounding
        return False
    correlation = np.array([float(centred[lag:] @ centred[:-lag]) / power for lag in range(1, SEASON + 1)])
    limit = SEASONALITY_T / np.sqrt(len(values)) * np.sqrt(1 + 2 * float(np.square(correlation[:-1]).sum()))
    return bool(abs(correlation[-1]) > limit)


def _seasonal_indices(values: Floats, *, multiplicative: bool) -> Floats:
    """Classical decomposition: the index of each hour of the day, (24,), the first that of the first value."""
    weights = np.full(SEASON + 1, 1 / SEASON)
    weights[[0, -1]] /= 2
    half = SEASON // 2
    trend = np.convolve(values, weights, mode="valid")
    middle = values[half:-half]
    detrended = middle / trend if multiplicative else middle - trend
    hours = (half + np.arange(len(middle))) % SEASON
    indices = np.bincount(hours, detrended, SEASON) / np.bincount(hours, minlength=SEASON)
    return indices / indices.mean() if multiplicative else indices - indices.mean()
