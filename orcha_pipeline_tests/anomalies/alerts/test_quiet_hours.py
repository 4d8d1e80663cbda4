"""When messages go out: by the clock of the operator's zone, through summer time, past midnight."""

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.anomalies.alerts.quiet_hours import LONGEST, due, next_digest, quiet_until
from orcha_pipeline.anomalies.anomaly import Severity
from orcha_pipeline.settings import AlertSettings
from orcha_pipeline.timetable import Weekly
from orcha_pipeline_tests.rig import NOW

NIGHT = {"from": "22:00", "until": "07:00", "timezone": "Europe/Berlin"}
AT_NIGHT = datetime(2026, 3, 5, 23, 30, tzinfo=UTC)
MORNING = datetime(2026, 3, 6, 6, 0, tzinfo=UTC)


def settings(**changes):
    return AlertSettings.model_validate({"quiet_hours": [NIGHT]} | changes)


def test_by_day_a_warning_goes_out_at_once_and_by_night_in_the_morning():
    found = due(Severity.WARNING, NOW, settings())
    assert (found.at, found.in_digest) == (NOW, False)
    found = due(Severity.WARNING, AT_NIGHT, settings())
    assert (found.at, found.in_digest) == (MORNING, True)


def test_a_critical_one_wakes_the_operator_unless_he_said_otherwise():
    found = due(Severity.CRITICAL, AT_NIGHT, settings())
    assert (found.at, found.in_digest) == (AT_NIGHT, False)
    found = due(Severity.CRITICAL, AT_NIGHT, settings(wake_for_critical=False))
    assert (found.at, found.in_digest) == (MORNING, True)


def test_info_waits_for_the_digest_which_waits_for_the_end_of_the_quiet_hours():
    found = due(Severity.INFO, NOW, settings(digest_at="08:00", digest_timezone="Europe/Berlin"))
    assert (found.at, found.in_digest) == (datetime(2026, 3, 6, 7, 0, tzinfo=UTC), True)
    found = due(Severity.INFO, NOW, settings(digest_at="05:00", digest_timezone="Europe/Berlin"))
    assert (found.at, found.in_digest) == (MORNING, True)


def test_windows_that_follow_one_another_are_one_quiet_stretch():
    weekend = {"from": "00:00", "until": "24:00", "days": ["sat", "sun"], "timezone": "Europe/Berlin"}
    friday_night = datetime(2026, 3, 6, 22, 0, tzinfo=UTC)
    found = due(Severity.WARNING, friday_night, settings(quiet_hours=[NIGHT, weekend]))
    assert found.at == datetime(2026, 3, 9, 6, 0, tzinfo=UTC), "Monday at seven in Berlin"


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        # The night of the change: 28 to 29 March 2026 has no 02:00 to 03:00, that of 25 October has it twice.
        (datetime(2026, 3, 28, 22, 0, tzinfo=UTC), datetime(2026, 3, 29, 5, 0, tzinfo=UTC)),
        (datetime(2026, 10, 24, 21, 0, tzinfo=UTC), datetime(2026, 10, 25, 6, 0, tzinfo=UTC)),
    ],
)
def test_it_is_seven_on_the_clock_through_summer_time(begin, end):
    assert due(Severity.WARNING, begin, settings()).at == end


def test_what_is_always_quiet_comes_to_an_end_all_the_same():
    always = Weekly(time(), time(), frozenset(range(7)), "UTC")
    assert quiet_until(NOW, [always]) - NOW >= LONGEST


@given(
    moment=st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)),  # noqa: DTZ001 (it is made UTC below)
    start=st.times().map(lambda at: at.replace(second=0, microsecond=0)),
    end=st.times().map(lambda at: at.replace(second=0, microsecond=0)),
    days=st.sets(st.integers(0, 6), min_size=1, max_size=5),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]),
)
def test_the_end_is_free_and_everything_before_it_is_quiet(moment, start, end, days, zone):
    window, now = Weekly(start, end, frozenset(days), zone), moment.replace(tzinfo=UTC)
    found = quiet_until(now, [window])
    assert not window.covers(found)
    if found > now:
        last = found - timedelta(minutes=1)
        assert window.covers(max(now, last))


def test_the_next_digest_is_the_next_time_the_clock_shows_it():
    assert next_digest(NOW, time(8), "UTC") == datetime(2026, 3, 6, 8, 0, tzinfo=UTC)
    assert next_digest(NOW, time(13), "UTC") == datetime(2026, 3, 5, 13, 0, tzinfo=UTC)
    assert next_digest(NOW.replace(hour=13, minute=0), time(13), "UTC").day == 6
    spring = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)
    assert next_digest(spring, time(8), "Europe/Berlin") == datetime(2026, 3, 29, 6, 0, tzinfo=UTC)
