"""What is wrong with a series, and when: each kind of fault by the detector that is good at it. Pure, causal.

Every detector tells a strength: how much of what alerts there is, 1 where it just does. The score is strength to
1 + strength, so that 0.5 alerts by default whatever the kind, and a threshold is moved for all of them at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from orcha_pipeline.anomalies.series_bands import ALERTING, MEAN_OVER, Bands, Exceedance, bands
from orcha_pipeline.anomalies.series_expectation import DAYS, Floats
from orcha_pipeline.anomalies.series_falls import BELOW, HOURS, falls
from orcha_pipeline.anomalies.series_learnt import SPAN, Learnt, learnt
from orcha_pipeline.anomalies.series_runs import Bools, Runs, flatlines, outages

AUTO_THRESHOLD = 0.5
"""Score from which a reading is an anomaly, unless another threshold is asked for."""
QUIET_FOR = 24
"""Readings after an alert of the bands or a drop for which only a higher score of theirs is told."""
SUDDEN = 2.0
"""How many times the largest ordinary step it takes to make a spike; less is a new level."""
LARGEST = 1e100
"""Values beyond it are unknown: their sums are no longer finite."""


class SeriesKind(StrEnum):
    """What an anomaly is."""

    SPIKE = "spike"
    DROP = "drop"
    LEVEL = "level"
    FLATLINE = "flatline"
    OUTAGE = "outage"


@dataclass(frozen=True, slots=True)
class SeriesJudgement:
    """By reading, in the order given: score (n,) in [0, 1], is_anomaly (n,), kind and reason, empty where none."""

    score: Floats
    is_anomaly: Bools
    kind: list[str]
    reason: list[str]


Words = Callable[[int], tuple[SeriesKind, str]]


@dataclass(frozen=True, slots=True)
class _Found:
    """One detector's strength (n,), and what it has to say of a reading."""

    strength: Floats
    words: Words


def detect_series(seconds: Floats, values: Floats, threshold: float = AUTO_THRESHOLD) -> SeriesJudgement:
    """Judge a series of readings `values` (n,), NaN where unknown, at `seconds` (n,) since any epoch at 00:00 UTC.

    Readings may come in any order, at any step, with gaps and with times that are there twice; they are judged in the
    order of time, each by itself and those before it alone. Scores do not depend on `threshold`, which lies in (0, 1];
    an anomaly has a score of at least `threshold`. After an alert only something stronger alerts again for a while.
    Nothing is judged in the first readings, from which what is usual is learnt: 48 for outages, 200 for the others.
    """
    seconds, values = np.asarray(seconds, dtype=np.float64), np.asarray(values, dtype=np.float64)
    order = np.argsort(seconds, kind="stable")
    at, readings = seconds[order], values[order]
    readings = np.where(np.abs(readings) <= LARGEST, readings, np.nan)
    found = _detectors(at, readings)
    scores = np.vstack([each.strength / (1.0 + each.strength) for each in found])
    score = scores.max(axis=0, initial=0.0)
    unusual = score >= threshold
    kind, reason = [""] * len(values), [""] * len(values)
    for i in np.flatnonzero(unusual).tolist():
        # The first that alerts, not the strongest: a stuck value may be low as well, but it is low because it is stuck.
        first = int(np.argmax(scores[:, i] >= threshold))
        said, why = found[first].words(i)
        kind[order[i]], reason[order[i]] = str(said), why
    back = np.empty(len(values), dtype=np.int64)
    back[order] = np.arange(len(values))
    return SeriesJudgement(score[back], unusual[back], kind, reason)


def _detectors(seconds: Floats, values: Floats) -> list[_Found]:
    """All of them, the more telling first."""
    silence = outages(seconds, values)
    told = np.where(silence.within, np.nan, values)  # a zero that stands for silence is neither low nor stuck
    repeats, watched = flatlines(seconds, told), bands(seconds, told)
    fallen, foretold = falls(seconds, told, watched.residual), learnt(seconds, told)
    # A low value is a drop where both expectations say so: the plain one knows no week, the learnt one no first weeks.
    watched = replace(watched, expected=np.fmin(watched.expected, foretold.expected))
    amounts = np.vstack([fallen.amount, *(each.amount for each in watched.each())])
    strengths = np.vstack([np.nan_to_num(foretold.strength), amounts / ALERTING])
    strongest = only_stronger(strengths.max(axis=0, initial=0.0)) > 0
    words = (
        _words_of_errors(foretold),
        _words_of_a_fall(fallen),
        _words_of_a_value(watched, values),
        _words_of_a_mean(watched),
        _words_of_a_distance(watched, values),
        _words_of_distances(watched),
    )
    return [
        _Found(only_stronger(silence.strength), _words_of_an_outage(silence, values)),
        _Found(only_stronger(repeats.strength), _words_of_a_flatline(repeats, values)),
        *(_Found(np.where(strongest, row, 0.0), said) for row, said in zip(strengths, words, strict=True)),
    ]


def only_stronger(strength: Floats) -> Floats:
    """The strength (n,), 0 within `QUIET_FOR` readings after an alert that was as strong."""
    told = strength.copy()
    last, highest = -QUIET_FOR - 1, 0.0
    for i in np.flatnonzero(strength > 0).tolist():
        quiet = i - last <= QUIET_FOR
        if quiet and strength[i] <= highest:
            told[i] = 0.0
        elif strength[i] >= 1.0:
            last, highest = i, float(strength[i])
    return told


def _words_of_an_outage(silence: Runs, values: Floats) -> Words:
    def words(i: int) -> tuple[SeriesKind, str]:
        what = "zero, in a series that never is" if values[i] == 0.0 else "missing"
        return SeriesKind.OUTAGE, f"{silence.length[i]:,.0f} readings in a row are {what}"

    return words


def _words_of_a_flatline(repeats: Runs, values: Floats) -> Words:
    return lambda i: (
        SeriesKind.FLATLINE,
        f"the value {_number(values[i])} repeated itself {repeats.length[i]:,.0f} times, more often than ever before",
    )


def _words_of_a_fall(fallen: Exceedance) -> Words:
    def words(i: int) -> tuple[SeriesKind, str]:
        now, before = 100 * fallen.values[i], 100 * fallen.bound[i]
        told = f"the last {HOURS} hours came to {now:.0f} % of what was expected of them"
        return SeriesKind.DROP, f"{told}; the least before was {before:.0f} %"

    return words


def _words_of_errors(foretold: Learnt) -> Words:
    def words(i: int) -> tuple[SeriesKind, str]:
        now, less = 100 * foretold.share[i], foretold.errors[i]
        told = f"the last {SPAN} hours came to {now:.0f} % of what was expected from the series' past"
        return SeriesKind.DROP, f"{told}, {less:.1f} standard errors less"

    return words


def _words_of_a_value(watched: Bands, values: Floats) -> Words:
    def words(i: int) -> tuple[SeriesKind, str]:
        told = f"{_number(values[i])} is {_beyond(watched.value, i)} value before, {_number(watched.value.bound[i])}"
        return _kind(watched, watched.value, values, i), told

    return words


def _words_of_a_mean(watched: Bands) -> Words:
    def words(i: int) -> tuple[SeriesKind, str]:
        now, before = _number(watched.mean.values[i]), _number(watched.mean.bound[i])
        told = f"the mean of {MEAN_OVER} readings, {now}, is {_beyond(watched.mean, i)} before, {before}"
        return SeriesKind.LEVEL, told

    return words


def _words_of_a_distance(watched: Bands, values: Floats) -> Words:
    def words(i: int) -> tuple[SeriesKind, str]:
        away, before = watched.seasonal.values[i], watched.seasonal.bound[i]
        told = (
            f"{_number(values[i])} is {_apart(away)} what the same time of the past {DAYS} days lets expect, "
            f"{_number(values[i] - away)}; the farthest before was {_apart(before)}"
        )
        return _kind(watched, watched.seasonal, values, i), told

    return words


def _words_of_distances(watched: Bands) -> Words:
    def words(i: int) -> tuple[SeriesKind, str]:
        away, before = watched.seasonal_mean.values[i], watched.seasonal_mean.bound[i]
        told = (
            f"the mean of {MEAN_OVER} readings is {_apart(away)} what the same time of the past {DAYS} days lets expect"
        )
        return SeriesKind.LEVEL, f"{told}; the farthest before was {_apart(before)}"

    return words


def _kind(watched: Bands, exceeded: Exceedance, values: Floats, i: int) -> SeriesKind:
    """A spike comes in one step that is far larger than usual; a drop leaves less than `BELOW` of the expectation."""
    if exceeded.values[i] < exceeded.bound[i]:
        below = watched.expected[i] > 0 and values[i] < BELOW * watched.expected[i]
        return SeriesKind.DROP if below else SeriesKind.LEVEL
    return SeriesKind.SPIKE if watched.steps[i] > SUDDEN else SeriesKind.LEVEL


def _beyond(each: Exceedance, i: int) -> str:
    return "above the highest" if each.values[i] > each.bound[i] else "below the lowest"


def _apart(distance: float) -> str:
    return f"{_number(abs(distance))} {'above' if distance > 0 else 'below'}"


def _number(value: float) -> str:
    return f"{value:,.6g}"
