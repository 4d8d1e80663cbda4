from datetime import UTC, datetime, timedelta

import pytest

from orcha_pipeline.anomalies.rules_orcha import allocation_failed, clock_jumped, missed_cycles, price_stale
from orcha_pipeline.model import ApplicationStatus

AT = datetime(2026, 2, 1, 12, 0, 40, tzinfo=UTC)
HOUR, SLOT = timedelta(hours=1), timedelta(minutes=15)


def test_a_price_is_stale_after_an_hour_without_a_source():
    anomaly = price_stale("golem", AT - 2 * HOUR, at=AT, after=HOUR)
    assert (anomaly.rule, anomaly.scope, anomaly.subject) == ("price-stale", "token", "golem")
    assert (anomaly.node, anomaly.host, anomaly.score) == (None, None, 2.0)
    assert "of 2026-02-01 10:00 UTC, 2.0 hours ago" in anomaly.evidence


@pytest.mark.parametrize("believed", [None, AT - HOUR, AT])
def test_a_fresh_price_and_one_that_never_was_are_not_told(believed):
    assert price_stale("golem", believed, at=AT, after=HOUR) is None


def failed(status, ago):
    return allocation_failed("box", status, "golem-1 refused", AT - ago, at=AT)


def test_a_change_that_was_taken_back_is_told_with_its_reason():
    anomaly = failed(ApplicationStatus.ROLLED_BACK, HOUR)
    assert (anomaly.rule, anomaly.scope, anomaly.subject) == ("allocation-failed", "host", "box")
    assert "golem-1 refused" in anomaly.evidence


@pytest.mark.parametrize(
    ("status", "ago"),
    [
        (ApplicationStatus.APPLIED, HOUR),
        (ApplicationStatus.ROLLBACK_FAILED, HOUR),
        (ApplicationStatus.ROLLED_BACK, 7 * HOUR),
    ],
)
def test_a_change_that_worked_or_is_long_ago_is_not_told(status, ago):
    assert failed(status, ago) is None


def test_a_clock_that_jumped_is_told_in_its_own_words():
    assert clock_jumped("put forward by 60 min", at=AT).evidence == "put forward by 60 min"
    assert clock_jumped("", at=AT) is None


def missed(*ago, most=2):
    return missed_cycles([AT - quarters * SLOT for quarters in ago], at=AT, most=most)


def test_cycles_that_did_not_come_are_told_when_one_comes_again():
    anomaly = missed(9, 8, 7, 6, 5)
    assert (anomaly.rule, anomaly.scope, anomaly.subject, anomaly.severity) == (
        "missed-cycles",
        "orcha",
        "orcha",
        "info",
    )
    assert anomaly.score == 4.0
    assert "between 2026-02-01 10:45 UTC and now: 4 cycles did not come" in anomaly.evidence


@pytest.mark.parametrize("ago", [(), (5,), (5, 4, 3), (4, 3, 2, 1), (20, 3, 2, 1, 0)])
def test_a_few_missed_or_an_old_gap_or_the_first_cycles_are_not_told(ago):
    assert missed(*ago) is None


def test_an_hourly_schedule_misses_nothing_between_its_hours():
    assert missed(20, 16, 12, 8, 4) is None
    assert missed(32, 28, 24, 20, 16).score == 3.0
