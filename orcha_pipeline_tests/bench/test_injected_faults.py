import numpy as np
import pytest

from orcha_pipeline_tests.bench.injected_faults import (
    HOUR,
    LENGTHS,
    Fault,
    Faulty,
    Hourly,
    caught,
    findings,
    shallowest_of_its_own,
    summary,
    with_fault,
)


def a_series(count=960):
    shape = 100 + 50 * np.sin(2 * np.pi * np.arange(count) / 24)
    return Hourly("made", "a", HOUR * np.arange(count), shape + np.random.default_rng(0).normal(0, 1, count))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_is_put_into_the_second_half_and_nowhere_else(fault, seed):
    clean = a_series()
    faulty = with_fault(clean, fault, np.random.default_rng(seed))
    series = dict(zip(faulty.series.seconds.tolist(), faulty.series.values.tolist(), strict=True))

    changed = [
        at
        for at, value in zip(clean.seconds.tolist(), clean.values.tolist(), strict=True)
        if at not in series or series[at] != value
    ]

    assert faulty.first >= clean.seconds[480]
    assert changed == np.arange(faulty.first, faulty.last + HOUR, HOUR).tolist()
    assert len(changed) == 1 if fault is Fault.SPIKE else LENGTHS[fault][0] <= len(changed) <= LENGTHS[fault][1]


def kinds(at, count=960):
    return [at.get(row, "") for row in range(count)]


def a_drop():
    return Faulty(Fault.DROP, a_series(), 600 * HOUR, 604 * HOUR, 0.5)


@pytest.mark.parametrize(("row", "readings"), [(599, None), (600, 1), (606, 7), (607, None)])
def test_a_fault_is_found_within_two_readings_of_its_end(row, readings):
    found = caught(a_drop(), kinds({row: "drop"}))

    assert found.readings == readings
    assert found.false_own == found.false_any == (readings is None)


def test_another_kind_does_not_find_it():
    found = caught(a_drop(), kinds({601: "level", 700: "spike"}))

    assert (found.readings, found.false_own, found.false_any) == (None, 0, 1)


def test_alerts_less_than_a_day_apart_are_one_finding():
    rows = np.zeros(200, dtype=bool)
    rows[[10, 20, 40, 100]] = True

    assert findings(rows) == 2
    assert findings(np.zeros(5, dtype=bool)) == 0


def test_rows_that_are_gone_are_found_at_the_first_reading_after_them():
    series = a_series()
    gone = (series.seconds >= 600 * HOUR) & (series.seconds <= 604 * HOUR)
    faulty = Faulty(
        Fault.OUTAGE, Hourly("made", "a", series.seconds[~gone], series.values[~gone]), 600 * HOUR, 604 * HOUR, 0
    )

    assert caught(faulty, kinds({600: "outage"}, 955)).readings == 1


def test_recall_and_precision_are_counted():
    results = [
        caught(a_drop(), kinds({600: "drop"})),
        caught(a_drop(), kinds({602: "drop", 700: "drop", 800: "level"})),
        caught(a_drop(), kinds({})),
        caught(a_drop(), kinds({100: "drop"})),
    ]

    told = summary("made", "drop", results)

    assert (told.copies, told.recall, told.precision, told.precision_of_all) == (4, 0.5, 0.5, 0.4)
    assert (told.readings_median, told.readings_most) == (2.0, 3)


def test_a_series_own_drops_are_measured():
    series = a_series()
    values = np.array(series.values)
    values[300:303] *= 0.4
    own = Hourly("made", "a", series.seconds, values)

    assert shallowest_of_its_own(own, 600 * HOUR) == pytest.approx(0.4, abs=0.05)
    assert shallowest_of_its_own(series, 600 * HOUR) > 0.9
    assert shallowest_of_its_own(own, 300 * HOUR) > 0.9
