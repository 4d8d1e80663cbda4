import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.anomalies.series_kinds import AUTO_THRESHOLD, QUIET_FOR, SeriesKind, detect_series, only_stronger
from orcha_pipeline_tests.anomalies.series import HOUR, daily, hours

AT = 700
"""Where faults begin: some four weeks in, at 4 o'clock."""


def found(values, seconds=None, threshold=AUTO_THRESHOLD):
    """Anomalies as row -> kind."""
    judged = detect_series(hours(len(values)) if seconds is None else seconds, values, threshold)
    return {int(i): judged.kind[i] for i in np.flatnonzero(judged.is_anomaly)}


def reason(values, row, seconds=None):
    return detect_series(hours(len(values)) if seconds is None else seconds, values).reason[row]


SEEDS = [0, 1, 2, 3, 5]
"""Of series that alert of nothing by themselves."""


def test_an_ordinary_series_alerts_once_in_20_weeks_at_most():
    told = [kind for seed in range(40) for kind in found(daily(seed=seed)).values()]

    assert len(told) <= 40 * 960 / (20 * 168)
    assert set(told) <= {SeriesKind.LEVEL}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_spike_is_found_at_once(seed):
    values = daily(seed=seed)
    values[AT] += 100

    assert found(values) == {AT: SeriesKind.SPIKE}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("left", [0.6, 0.3, 0.05])
def test_a_drop_by_more_than_30_percent_for_3_hours_is_found(seed, left):
    values = daily(seed=seed)
    values[AT : AT + 3] *= left

    told = found(values)

    assert told
    assert set(told) <= {AT, AT + 1, AT + 2}
    assert set(told.values()) == {SeriesKind.DROP}


def test_a_drop_by_less_is_none():
    values = daily(noise=0.01)
    values[AT : AT + 6] *= 0.8

    assert SeriesKind.DROP not in found(values).values()


def test_a_drop_tells_its_figures():
    values = daily(seed=1, noise=0.06)
    values[AT : AT + 3] *= [0.75, 0.6, 0.5]

    told = [detect_series(hours(len(values)), values).reason[row] for row in found(values)]

    assert any("the last 3 hours came to" in text and "% of what was expected" in text for text in told)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_value_that_repeats_itself_is_a_flatline(seed):
    values = daily(seed=seed)
    values[AT : AT + 10] = values[AT - 1]

    told = found(values)

    assert told[AT + 2] == SeriesKind.FLATLINE
    assert reason(values, AT + 2).endswith("repeated itself 3 times, more often than ever before")
    assert list(told.values()).count(SeriesKind.FLATLINE) == 1


def test_a_value_that_all_but_repeats_itself_is_a_flatline():
    values = daily()
    values[AT : AT + 10] = values[AT - 1] + 1e-6 * np.arange(10)

    assert found(values)[AT + 2] == SeriesKind.FLATLINE


def test_nights_that_are_always_flat_are_none():
    values = daily(1200)
    values[np.arange(1200) % 24 < 8] = 60.0

    assert SeriesKind.FLATLINE not in found(values).values()


def test_a_series_that_never_varied_alerts_of_nothing():
    assert found(np.full(1000, 45.0)) == {}


def test_a_series_that_hardly_ever_changes_alerts_of_no_flatline():
    values = np.repeat(np.random.default_rng(0).uniform(1, 2, 40), 25)

    assert SeriesKind.FLATLINE not in found(values).values()


@pytest.mark.parametrize("instead", [np.nan, 0.0])
def test_readings_that_are_missing_are_an_outage_at_the_second(instead):
    values = daily()
    values[AT : AT + 12] = instead

    told = found(values)

    assert told[AT + 1] == SeriesKind.OUTAGE
    assert list(told.values()).count(SeriesKind.OUTAGE) == 1


def test_rows_that_are_not_there_are_an_outage_at_the_next_one():
    values, seconds = daily(), hours(960)
    kept = np.ones(960, dtype=bool)
    kept[AT : AT + 5] = False

    assert found(values[kept], seconds[kept]) == {AT: SeriesKind.OUTAGE}
    assert reason(values[kept], AT, seconds[kept]) == "5 readings in a row are missing"


def test_a_reading_missing_alone_is_no_outage():
    values = daily()
    values[AT] = np.nan

    assert found(values) == {}


def test_a_second_outage_is_told_too():
    values = daily()
    values[AT : AT + 12] = np.nan
    values[AT + 100 : AT + 112] = np.nan

    assert found(values) == {AT + 1: SeriesKind.OUTAGE, AT + 101: SeriesKind.OUTAGE}


def test_gaps_that_are_usual_are_no_outage():
    seconds = np.cumsum(np.random.default_rng(0).choice([HOUR, 2 * HOUR, 4 * HOUR], 900))

    assert found(daily(900), seconds) == {}


def test_nights_of_zero_are_no_outage():
    values = daily(1200)
    values[np.arange(1200) % 24 < 6] = 0.0

    assert SeriesKind.OUTAGE not in found(values).values()


def test_a_lasting_rise_is_told_and_then_normal():
    values = daily(1500)
    values[AT:] += 120

    told = found(values)

    assert min(told) == AT
    assert max(told) < AT + 48


def test_the_order_of_rows_does_not_matter():
    values, seconds = daily(), hours(960)
    values[AT] += 100
    mixed = np.random.default_rng(3).permutation(960)

    straight, shuffled = detect_series(seconds, values), detect_series(seconds[mixed], values[mixed])

    assert np.array_equal(straight.score[mixed], shuffled.score)
    assert [straight.kind[i] for i in mixed] == shuffled.kind


def test_a_threshold_selects_by_the_score():
    values = daily()
    values[AT] += 100
    judged = [detect_series(hours(960), values, threshold) for threshold in (0.01, 0.5, 0.999)]

    assert all(np.array_equal(one.score, judged[0].score) for one in judged)
    assert [int(one.is_anomaly.sum()) for one in judged] == sorted(
        (int(one.is_anomaly.sum()) for one in judged), reverse=True
    )
    assert all(
        (one.score >= least).tolist() == one.is_anomaly.tolist()
        for one, least in zip(judged, (0.01, 0.5, 0.999), strict=True)
    )
    assert not judged[2].is_anomaly.any()


@pytest.mark.parametrize(
    "values",
    [
        [],
        [1.0],
        [np.nan] * 300,
        [np.inf, -np.inf] * 200,
        [1e308, -1e308] * 300,
        [0.0] * 500,
        [1e-300] * 250 + [1e-299] * 250,
    ],
    ids=["empty", "one", "unknown", "infinite", "huge", "zero", "tiny"],
)
def test_odd_series_are_judged_in_numbers(values):
    judged = detect_series(hours(len(values)), values)

    assert len(judged.score) == len(judged.kind) == len(values)
    assert np.isfinite(judged.score).all()
    assert ((judged.score >= 0) & (judged.score <= 1)).all()


def test_times_that_are_there_twice_are_judged():
    seconds, values = np.repeat(hours(480), 2), np.repeat(daily(480), 2)
    values[701] += 100

    assert 701 in found(values, seconds)


def test_only_something_stronger_is_told_for_a_while():
    strength = np.zeros(100)
    strength[[10, 12, 14, 11 + QUIET_FOR, 20 + QUIET_FOR, 60]] = 2.0, 1.5, 3.0, 3.0, 0.5, 1.0

    told = only_stronger(strength)

    assert np.flatnonzero(told).tolist() == [10, 14, 20 + QUIET_FOR, 60]


@settings(max_examples=30, deadline=None)
@given(
    faults=st.lists(
        st.tuples(st.integers(220, 395), st.integers(1, 12), st.sampled_from(["gone", "zero", "stuck", "low", "high"])),
        max_size=4,
    ),
    until=st.integers(0, 400),
    seed=st.integers(0, 20),
)
def test_no_reading_is_judged_by_later_ones(faults, until, seed):
    values, seconds = daily(400, seed=seed), hours(400)
    for first, length, fault in faults:
        part = slice(first, first + length)
        if fault == "gone":
            values[part] = np.nan
        elif fault == "stuck":
            values[part] = values[first - 1]
        else:
            values[part] *= {"zero": 0.0, "low": 0.5, "high": 3.0}[fault]

    whole, part = detect_series(seconds, values), detect_series(seconds[:until], values[:until])

    assert np.array_equal(whole.score[:until], part.score)
    assert whole.kind[:until] == part.kind
    assert whole.reason[:until] == part.reason


def test_a_zero_that_stands_for_silence_is_neither_low_nor_stuck():
    values = daily()
    values[AT : AT + 12] = 0.0

    assert found(values) == {AT + 1: SeriesKind.OUTAGE}
    assert reason(values, AT + 1) == "2 readings in a row are zero, in a series that never is"
