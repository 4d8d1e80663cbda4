from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.timetable import DAYS, Bounds, Rule, Weekly, bounds_at

EVERY_DAY = frozenset(range(7))
EVENING = Weekly(time(18), time(23), EVERY_DAY, "Europe/Berlin")
NIGHT = Weekly(time(22), time(6), frozenset({4}), "UTC")  # from Friday to Saturday
ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia"]

# In whole quarters of an hour, so that windows and changes of the clock meet often.
times = st.builds(time, st.integers(0, 23), st.sampled_from([0, 15, 30, 45]))
weeklies = st.builds(Weekly, times, times, st.frozensets(st.integers(0, 6), min_size=1), st.sampled_from(ZONES))
moments = st.integers(0, 3 * 365 * 1440).map(
    lambda minute: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
)
clock_changes = st.sampled_from(
    [
        datetime(2025, 3, 30, 1, tzinfo=UTC),  # Berlin: 02:00 becomes 03:00
        datetime(2025, 10, 26, 1, tzinfo=UTC),  # Berlin: 03:00 becomes 02:00
        datetime(2025, 10, 4, 15, 30, tzinfo=UTC),  # Lord Howe: by half an hour
        datetime(2025, 4, 5, 15, tzinfo=UTC),
        datetime(2025, 3, 9, 5, 30, tzinfo=UTC),  # St. John's
        datetime(2025, 2, 23, 2, tzinfo=UTC),  # Casablanca
    ]
)
near_changes = st.builds(lambda at, minutes: at + timedelta(minutes=minutes), clock_changes, st.integers(-180, 180))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- when a window covers


@given(weekly=weeklies, moment=moments | near_changes)
@settings(max_examples=300)
def test_a_moment_is_covered_if_its_wall_time_lies_in_the_window_of_its_day_or_of_the_day_before(weekly, moment):
    local = moment.astimezone(ZoneInfo(weekly.zone)).replace(tzinfo=None)
    expected = False
    for back in (0, 1):
        day = local.date() - timedelta(days=back)
        begin = datetime.combine(day, weekly.start)
        end = datetime.combine(day + timedelta(days=weekly.end <= weekly.start), weekly.end)
        expected |= day.weekday() in weekly.days and begin <= local < end
    assert weekly.covers(moment) == expected


@pytest.mark.parametrize(
    ("moment", "covered"),
    [
        ("2026-01-09T21:59", False),
        ("2026-01-09T22:00", True),
        ("2026-01-10T05:59", True),
        ("2026-01-10T06:00", False),
        ("2026-01-10T22:00", False),  # Saturday
        ("2026-01-09T05:00", False),  # would be Thursday's
    ],
)
def test_a_window_past_midnight_belongs_to_the_day_it_begins(moment, covered):
    assert NIGHT.covers(utc(moment)) == covered


@pytest.mark.parametrize(("moment", "covered"), [("16:59", False), ("17:00", True), ("21:59", True), ("22:00", False)])
def test_the_clock_of_the_zone_decides_in_winter_and_in_summer(moment, covered):
    assert EVENING.covers(utc(f"2026-01-14T{moment}")) == covered
    assert EVENING.covers(utc(f"2026-07-14T{moment}") - timedelta(hours=1)) == covered


def test_the_same_time_twice_is_a_whole_day_from_then():
    weekly = Weekly(time(18), time(18), frozenset({0}), "UTC")
    covered = [utc("2026-01-05T00:00") + timedelta(hours=hour) for hour in range(72)]
    assert [moment for moment in covered if weekly.covers(moment)] == covered[18:42]


def test_an_hour_that_comes_twice_is_covered_twice_and_one_that_is_left_out_not_at_all():
    weekly = Weekly(time(2), time(3), EVERY_DAY, "Europe/Berlin")
    quarters = [timedelta(minutes=15 * quarter) for quarter in range(96)]
    assert sum(weekly.covers(utc("2025-10-26T00:00") + each) for each in quarters) == 8
    assert sum(weekly.covers(utc("2025-03-30T00:00") + each) for each in quarters) == 0
    assert not weekly.touches(utc("2025-03-30T00:00"), utc("2025-03-30T12:00"))


# --- when it touches a stretch of time


@given(weekly=weeklies, begin=moments | near_changes, minutes=st.integers(1, 180))
@settings(max_examples=300, deadline=None)
def test_a_stretch_is_touched_if_any_of_its_minutes_is_covered(weekly, begin, minutes):
    begin = begin.replace(second=0, microsecond=0)
    inside = [begin + timedelta(minutes=minute) for minute in range(minutes)]
    assert weekly.touches(begin, begin + timedelta(minutes=minutes)) == any(map(weekly.covers, inside))


def test_a_stretch_ends_before_its_end_and_an_empty_one_touches_nothing():
    assert not EVENING.touches(utc("2026-01-14T16:00"), utc("2026-01-14T17:00"))
    assert EVENING.touches(utc("2026-01-14T16:00"), utc("2026-01-14T17:00:00.000001"))
    assert EVENING.touches(utc("2026-01-14T16:00"), utc("2026-01-14T23:00"))
    assert not EVENING.touches(utc("2026-01-14T18:00"), utc("2026-01-14T18:00"))


def test_a_short_window_within_a_long_stretch_is_found():
    weekly = Weekly(time(4, 10), time(4, 20), frozenset({6}), "Australia/Lord_Howe")
    assert weekly.touches(utc("2025-09-29T00:00"), utc("2025-10-06T00:00"))
    assert not weekly.touches(utc("2025-09-29T00:00"), utc("2025-10-04T00:00"))


@pytest.mark.parametrize(
    ("weekly", "text"),
    [
        (EVENING, "18:00 to 23:00 (Europe/Berlin)"),
        (NIGHT, "fri 22:00 to 06:00 (UTC)"),
        (Weekly(time(), time(), frozenset({6, 5}), "UTC"), "sat, sun all day (UTC)"),
    ],
)
def test_a_window_is_told_in_words(weekly, text):
    assert str(weekly) == text


def test_days_are_numbered_as_python_does():
    assert DAYS[utc("2026-01-05T00:00").weekday()] == "mon"


# --- bounds


AT = utc("2026-01-14T20:00")
ALWAYS = Weekly(time(), time(), EVERY_DAY, "UTC")
shares = st.floats(0, 1)
rules = st.builds(
    Rule, when=weeklies | st.just(ALWAYS), least=st.none() | shares, most=st.none() | shares, pin=st.none() | shares
)


def bounds(*of: Rule, pin: float | None = None, moment: datetime = AT) -> Bounds:
    return bounds_at(moment, least=0.05, most=0.9, pin=pin, rules=of)


@given(least=shares, most=shares, pin=st.none() | shares, of=st.lists(rules, max_size=4), moment=moments)
@settings(max_examples=300)
def test_bounds_are_never_empty_and_give_a_reason_if_anything_but_the_own_ones_holds(least, most, pin, of, moment):
    found = bounds_at(moment, least=least, most=most, pin=pin, rules=of)
    assert 0 <= found.least <= found.most <= 1
    active = [rule for rule in of if rule.when.covers(moment)]
    speaks = pin is not None or any(bound is not None for r in active for bound in (r.least, r.most, r.pin))
    assert bool(found.why) == speaks
    if not speaks:
        assert found == Bounds(min(least, most), most, "")
    highs = [rule.most for rule in active if rule.most is not None]
    if highs and pin is None and all(rule.pin is None for rule in active):
        assert found.most == min(highs)


def test_the_own_bounds_hold_without_a_reason_while_nothing_else_does():
    assert bounds() == Bounds(0.05, 0.9, "")
    assert bounds(Rule(when=EVENING, most=0.5), moment=utc("2026-01-14T22:30")) == Bounds(0.05, 0.9, "")


def test_a_rule_wins_over_the_own_bounds():
    assert bounds(Rule(when=EVENING, most=0.5)) == Bounds(0.05, 0.5, "18:00 to 23:00 (Europe/Berlin): at most 0.50")
    both = bounds(Rule(when=EVENING, least=0.2, most=0.5))
    assert both == Bounds(0.2, 0.5, "18:00 to 23:00 (Europe/Berlin): at least 0.20 and at most 0.50")


def test_of_several_rules_the_narrowest_holds():
    found = bounds(Rule(when=EVENING, least=0.1, most=0.8), Rule(when=ALWAYS, least=0.3), Rule(when=ALWAYS, most=0.9))
    assert found == Bounds(0.3, 0.8, "all day (UTC): at least 0.30; 18:00 to 23:00 (Europe/Berlin): at most 0.80")


def test_where_rules_exclude_each_other_the_smaller_most_holds_and_that_is_told():
    found = bounds(Rule(when=EVENING, most=0.3), Rule(when=ALWAYS, least=0.6))
    assert (found.least, found.most) == (0.3, 0.3)
    assert found.why.endswith("; at least 0.60 and at most 0.30 exclude each other: 0.30 holds")


def test_a_pin_wins_over_bounds_and_that_of_a_rule_over_the_own():
    assert bounds(Rule(when=EVENING, most=0.3), pin=0.4) == Bounds(0.4, 0.4, "pinned at 0.40 by the operator")
    found = bounds(Rule(when=EVENING, pin=0.2), Rule(when=ALWAYS, least=0.5), pin=0.4)
    assert found == Bounds(0.2, 0.2, "18:00 to 23:00 (Europe/Berlin): pinned at 0.20 by the operator")


def test_of_several_pins_the_least_holds_and_that_is_told():
    found = bounds(Rule(when=EVENING, pin=0.7), Rule(when=ALWAYS, pin=0.2))
    assert (found.least, found.most) == (0.2, 0.2)
    assert found.why == (
        "all day (UTC): pinned at 0.20 by the operator; 18:00 to 23:00 (Europe/Berlin): the pin at 0.70 does not hold"
    )
