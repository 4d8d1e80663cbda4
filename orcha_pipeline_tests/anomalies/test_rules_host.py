from datetime import UTC, datetime, timedelta

import pytest

from orcha_pipeline.anomalies.rules_host import disk_filling
from orcha_pipeline.disk import GIB

AT = datetime(2026, 2, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def used(first_gib, a_day, *, hours=168):
    return [(AT - (hours - hour) * HOUR, (first_gib + a_day * hour / 24) * GIB) for hour in range(hours + 1)]


def filling(samples, total_gib=100.0):
    return disk_filling("box", samples, total_gib * GIB, at=AT, days=7)


def test_a_disk_that_fills_up_is_told_with_the_days_left():
    anomaly = filling(used(60.0, 4.0))
    assert (anomaly.rule, anomaly.scope, anomaly.subject, anomaly.host) == ("disk-filling", "host", "box", "box")
    assert (anomaly.node, anomaly.severity) == (None, "warning")
    assert "12.0 GiB of 100 are free" in anomaly.evidence
    assert "4 GiB more are used each day: full in 3 days" in anomaly.evidence


def test_a_rush_of_the_last_day_counts_before_the_week():
    calm = used(60.0, 0.0, hours=168)[:-24]
    rush = [(AT - (24 - hour) * HOUR, (60 + 1.5 * hour) * GIB) for hour in range(25)]
    assert filling([*calm, *rush]).severity == "critical"


def test_hardly_any_room_is_critical_however_slowly_it_fills():
    assert filling([(AT, 99.5 * GIB)]).severity == "critical"


@pytest.mark.parametrize(
    "samples",
    [[], used(60.0, 1.0), used(90.0, -2.0), used(90.0, 0.0), used(80.0, 10.0, hours=6), [(AT, 90 * GIB)]],
    ids=["unknown", "slow", "emptied", "still", "too short", "one look"],
)
def test_a_disk_with_time_left_is_not_told(samples):
    assert filling(samples) is None


def test_a_file_that_comes_and_goes_is_no_course():
    samples = [(at, value + (8 * GIB if hour % 24 == 3 else 0)) for hour, (at, value) in enumerate(used(80.0, 0.1))]
    assert filling(samples) is None
