"""Whether the forecasts that were issued came true, and whether a model has drifted. Pure.

Drift is judged a protocol at a time, over the forecasts that its present champion issued in a day: their error beyond
what the backtest of that version promised, or above seasonal naive's in the same hours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from orcha_pipeline.model import YieldForecast, hour_of
from orcha_pipeline.warehouse.forecast_rows import ForecastErrorRow

DAY = timedelta(hours=24)
NAIVE_REACH = timedelta(days=7)
"""How far back seasonal naive looks for a known value of the same hour of the day."""
MIN_KNOWN_HOURS = 12
"""Known hours below which a forecast is not judged: its first hours alone are the easy ones."""
MIN_ISSUE_HOURS = 12
"""Issue hours of judged forecasts below which a version is not judged."""
JUDGED_FOR = timedelta(hours=48)
"""Forecasts issued longer ago than this tell nothing of today."""
SPREADS = 3.0
"""Width of the band in standard deviations of the backtest's WAPE over its origins: a day is about one origin."""
LEAST_TOLERANCE = 0.25
"""The band is at least this part of the backtest's WAPE wide: few origins can lie close together by chance."""
UNKNOWN_SPREAD_TOLERANCE = 0.5
"""The same where the spread is not known."""
LEVEL_WITH_NAIVE = 1.02
"""Up to this ratio to its error a forecast is as good as seasonal naive, not worse."""


# --- one forecast


def score(issued: YieldForecast, known: Mapping[datetime, float], *, scored_at: datetime) -> ForecastErrorRow | None:
    """Compare a forecast with what came: `known` maps hours to values, as far back as NAIVE_REACH before the issue.

    Hours that are not in `known` do not count; None where none of the forecast's is. Seasonal naive is the latest
    known value of the same hour of the day before the issue.
    """
    hours = error = truths = naive_error = inside = 0.0
    naive_answers = True
    for hour, low, middle, high in zip(issued.hours, issued.p10, issued.p50, issued.p90, strict=True):
        truth = known.get(hour)
        if truth is None:
            continue
        hours += 1
        error += abs(truth - middle)
        truths += abs(truth)
        inside += low <= truth <= high
        naive = _seasonal_naive(hour, known, origin=hour_of(issued.issued_at))
        if naive is None:
            naive_answers = False
        else:
            naive_error += abs(truth - naive)
    if not hours:
        return None
    return ForecastErrorRow(
        issued_at=issued.issued_at,
        node=issued.node,
        target=issued.target,
        model=issued.model,
        version=issued.version,
        hours=int(hours),
        abs_error=error,
        abs_truth=truths,
        # Summed over fewer hours than the model's error it could not be compared with it.
        naive_abs_error=naive_error if naive_answers else None,
        inside_band=int(inside),
        scored_at=scored_at,
    )


def _seasonal_naive(hour: datetime, known: Mapping[datetime, float], *, origin: datetime) -> float | None:
    """The latest known value of the same hour of the day before `origin`."""
    earlier = hour - DAY
    while earlier >= origin - NAIVE_REACH:
        if earlier < origin and earlier in known:
            return known[earlier]
        earlier -= DAY
    return None


# --- many forecasts


def once_an_hour(errors: Iterable[ForecastErrorRow]) -> list[ForecastErrorRow]:
    """Of each node's forecasts issued in the same hour the last: the others of that hour say nearly the same."""
    last: dict[tuple[str, str, datetime], ForecastErrorRow] = {}
    for error in sorted(errors, key=lambda error: error.issued_at):
        last[error.node, error.target, hour_of(error.issued_at)] = error
    return list(last.values())


@dataclass(frozen=True, slots=True)
class PooledError:
    """Forecasts of one protocol and target, taken together: every hour counts by what it earned.

    `compared` is the part of the forecasts that seasonal naive could answer too.
    """

    issue_hours: int
    hours: int
    abs_error: float
    abs_truth: float
    inside_band: int
    compared_issue_hours: int
    compared_error: float
    compared_truth: float
    naive_error: float

    @property
    def wape(self) -> float | None:
        """Sum of absolute errors over sum of absolute truths; None where nothing was earned or known."""
        return self.abs_error / self.abs_truth if self.abs_truth > 0 else None

    @property
    def naive_wape(self) -> float | None:
        """Seasonal naive's, over the forecasts it could answer."""
        return self.naive_error / self.compared_truth if self.compared_truth > 0 else None

    @property
    def coverage(self) -> float | None:
        """Part of the known hours whose truth lay in p10..p90."""
        return self.inside_band / self.hours if self.hours else None


def pool(errors: Sequence[ForecastErrorRow]) -> PooledError:
    """Sum up `errors`, which are of one unit."""
    compared = [(error, naive) for error in errors if (naive := error.naive_abs_error) is not None]
    return PooledError(
        issue_hours=len({hour_of(error.issued_at) for error in errors}),
        hours=sum(error.hours for error in errors),
        abs_error=sum(error.abs_error for error in errors),
        abs_truth=sum(error.abs_truth for error in errors),
        inside_band=sum(error.inside_band for error in errors),
        compared_issue_hours=len({hour_of(error.issued_at) for error, _ in compared}),
        compared_error=sum(error.abs_error for error, _ in compared),
        compared_truth=sum(error.abs_truth for error, _ in compared),
        naive_error=sum(naive for _, naive in compared),
    )


def daily_wapes(errors: Sequence[ForecastErrorRow], *, now: datetime, days: int) -> list[float | None]:
    """WAPE of the forecasts issued in each of the `days` days before `now`, the oldest first; None: not known."""
    counted = once_an_hour(errors)
    starts = [now - n * DAY for n in range(days, 0, -1)]
    return [pool([e for e in counted if start <= e.issued_at < start + DAY]).wape for start in starts]


# --- drift


@dataclass(frozen=True, slots=True)
class BacktestBand:
    """What WAPE the backtest of a version promised, and its standard deviation over the origins if that is known."""

    wape: float
    spread: float | None

    @property
    def limit(self) -> float:
        """The live WAPE above which the version has drifted."""
        if self.spread is None:
            return self.wape * (1 + UNKNOWN_SPREAD_TOLERANCE)
        return self.wape + max(SPREADS * self.spread, LEAST_TOLERANCE * self.wape)

    def __str__(self) -> str:
        spread = "its spread unknown" if self.spread is None else f"spread {self.spread:.3f}"
        return f"{self.limit:.3f} (backtest {self.wape:.3f}, {spread})"


def backtest_band(metrics: Mapping[str, float]) -> BacktestBand | None:
    """The band of a version with these backtest figures; None where they have no pooled WAPE of the yield."""
    wape = metrics.get("served pooled_wape")
    return None if wape is None else BacktestBand(wape, metrics.get("served pooled_wape_std"))


class DriftState(StrEnum):
    """`unknown`: too little has come true to tell."""

    UNKNOWN = "unknown"
    STEADY = "steady"
    DRIFTED = "drifted"


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    """Whether a version has drifted, why, and on which figures."""

    state: DriftState
    reason: str
    version: str
    pooled: PooledError
    band: BacktestBand | None

    def evidence(self) -> dict[str, float | int | str | None]:
        """The figures behind it, for an alert."""
        return {
            "version": self.version,
            "live_wape": self.pooled.wape,
            "naive_wape": self.pooled.naive_wape,
            "coverage": self.pooled.coverage,
            "issue_hours": self.pooled.issue_hours,
            "known_hours": self.pooled.hours,
            "backtest_wape": None if self.band is None else self.band.wape,
            "backtest_wape_std": None if self.band is None else self.band.spread,
            "limit": None if self.band is None else self.band.limit,
        }


def drift(
    errors: Sequence[ForecastErrorRow], *, version: str, band: BacktestBand | None, now: datetime
) -> DriftVerdict:
    """Judge the champion `version` of a protocol on `errors`: its nodes' live errors, all of one target.

    Counted are its forecasts of the day that ends with the last one enough of which is known, the last of each
    hour. Without a `band` only seasonal naive is compared with.
    """
    judged = [
        error
        for error in once_an_hour(e for e in errors if e.version == version)
        if error.hours >= MIN_KNOWN_HOURS and error.issued_at > now - JUDGED_FOR
    ]
    if judged:
        last = max(hour_of(error.issued_at) for error in judged)
        judged = [error for error in judged if hour_of(error.issued_at) > last - DAY]
    pooled = pool(judged)
    if pooled.issue_hours < MIN_ISSUE_HOURS:
        reason = (
            f"version {version}: forecasts of {pooled.issue_hours} issue hours are known well enough to judge, "
            f"{MIN_ISSUE_HOURS} are needed"
        )
        return DriftVerdict(DriftState.UNKNOWN, reason, version, pooled, band)
    tests = [test for test in (_against_band(pooled, band), _against_naive(pooled)) if test is not None]
    failed = [test for test in tests if test.failed]
    figures = "; ".join(test.told for test in failed or tests) or "there is nothing to compare them with"
    reason = f"version {version}, forecasts of {pooled.issue_hours} issue hours: {figures}"
    if not tests:
        return DriftVerdict(DriftState.UNKNOWN, reason, version, pooled, band)
    return DriftVerdict(DriftState.DRIFTED if failed else DriftState.STEADY, reason, version, pooled, band)


@dataclass(frozen=True, slots=True)
class _Test:
    failed: bool
    told: str


def _against_band(pooled: PooledError, band: BacktestBand | None) -> _Test | None:
    """None where there is no band, or no WAPE because nothing was earned."""
    if band is None or pooled.wape is None:
        return None
    failed = pooled.wape > band.limit
    return _Test(failed, f"live WAPE {pooled.wape:.3f} is {'beyond' if failed else 'within'} {band}")


def _against_naive(pooled: PooledError) -> _Test | None:
    """None where seasonal naive could not answer often enough.

    By absolute errors, so that it tells also where nothing was earned and no WAPE is defined.
    """
    if pooled.compared_issue_hours < MIN_ISSUE_HOURS:
        return None
    failed = pooled.compared_error > pooled.naive_error * LEVEL_WITH_NAIVE
    beside = (
        f"absolute error {pooled.compared_error:.4g}"
        if pooled.naive_wape is None
        else f"WAPE {pooled.compared_error / pooled.compared_truth:.3f}"
    )
    naive = f"{pooled.naive_error:.4g}" if pooled.naive_wape is None else f"{pooled.naive_wape:.3f}"
    verdict = "worse than" if failed else "no worse than"
    return _Test(failed, f"{beside} is {verdict} seasonal naive's {naive} in the same hours")
