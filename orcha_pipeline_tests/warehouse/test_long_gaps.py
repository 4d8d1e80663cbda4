from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from orcha_pipeline.model import (
    HOUR,
    Amounts,
    EarningsBucket,
    EarningsCounter,
    HealthReading,
    HealthState,
    NodeReading,
    Provenance,
    Window,
)
from orcha_pipeline.warehouse import facts
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.consistency import breaches
from orcha_pipeline.warehouse.derived import rebuild_earnings_hourly

START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def warehouse(tmp_path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    return warehouse


def reading(hour, **totals):
    """A reading whose streams tell these totals."""
    observed = START + hour * HOUR
    earnings = tuple(
        EarningsCounter(
            stream=stream,
            observed_at=observed,
            since=None,
            unit="USD",
            amounts=Amounts(gross=Decimal(total), held=Decimal(0), net=Decimal(total), doubtful=Decimal(0)),
            provenance=Provenance.MEASURED,
            source="test",
        )
        for stream, total in totals.items()
    )
    health = HealthReading(state=HealthState.HEALTHY)
    return NodeReading(node="node", protocol="fake", observed_at=observed, health=health, earnings=earnings)


def record(warehouse, readings):
    with warehouse.write() as connection:
        facts.record_readings(connection, readings)


def rows_after_cycle(warehouse, now):
    """(start, end, net) of every known row, after the cycle at hour `now` has looked 48 hours back."""
    with warehouse.write() as connection:
        window = Window(START + (now - 48) * HOUR, START + now * HOUR)
        rebuild_earnings_hourly(connection, window, {})
        rows = connection.execute(
            "SELECT started_at, ended_at, net FROM earnings_hourly WHERE net IS NOT NULL ORDER BY ALL"
        ).fetchall()
    zero = START.replace(tzinfo=None)
    return [((start - zero) / HOUR, (end - zero) / HOUR, net) for start, end, net in rows]


def test_what_was_earned_in_days_of_silence_is_kept_however_often_it_is_computed_anew(warehouse):
    hours = [*range(3), *range(100, 150)]
    record(warehouse, [reading(hour, total=hour) for hour in hours])  # away for 98 hours, then read every hour
    for hour in (100, 101, 110, 130, 147, 149):  # each cycle computes the last 48 hours anew
        known = rows_after_cycle(warehouse, hour)
        assert [row for row in known if row[1] - row[0] > 1] == [(2, 100, 98)]
        assert sum(net for start, _, net in known if start >= 2) == hour - 2


def test_the_bucket_of_a_gap_and_of_its_broken_hours_is_the_same_in_every_cycle(warehouse):
    quarters = [*range(11), *range(450, 1000)]  # away from 2:30 to 112:30, then read every quarter of an hour
    record(warehouse, [reading(quarter / 4, total=quarter) for quarter in quarters])
    for hour in (113, 114, 130, 160, 161, 162, 200, 240):
        known = rows_after_cycle(warehouse, hour)
        assert [row for row in known if row[1] - row[0] > 1] == [(2, 113, 4 * 111)]
        assert sum(net for start, _, net in known if start >= 2) == 4 * (hour - 2)


def test_a_stream_that_was_away_for_days_blanks_no_more_than_that_and_no_hour_counts_twice(warehouse):
    record(warehouse, [reading(hour, a=hour, b=10 * hour) for hour in range(4)])
    record(warehouse, [reading(hour, a=hour) for hour in range(4, 120)])
    for hour in range(24, 120, 24):
        rows_after_cycle(warehouse, hour)
    record(warehouse, [reading(hour, a=hour, b=10 * hour) for hour in range(120, 200)])
    for hour in (120, 121, 140, 168, 190):
        known = rows_after_cycle(warehouse, hour)
        assert [row for row in known if row[1] - row[0] > 1] == [(3, 120, 117 * 11)]
        assert known[-1] == ((hour - 1, hour, 11) if hour > 120 else (3, 120, 117 * 11))
        with warehouse.read() as connection:
            assert breaches(connection, START + 200 * HOUR) == []


def test_a_stream_that_ended_long_ago_makes_no_hour_unknown(warehouse):
    record(warehouse, [reading(0, epoch=0), *(reading(hour, total=hour) for hour in range(200, 205))])
    assert [net for *_, net in rows_after_cycle(warehouse, 204)] == [1, 1, 1, 1]


def test_a_paystub_of_a_whole_month_leaves_the_hours_after_it_known(warehouse):
    month = Window(START - timedelta(days=28), START)
    paystub = EarningsBucket(
        stream="paystub",
        observed_at=START + HOUR,
        window=month,
        unit="USD",
        amounts=Amounts(gross=Decimal(7), held=Decimal(0), net=Decimal(7), doubtful=Decimal(0)),
        provenance=Provenance.MEASURED,
        source="test",
    )
    with warehouse.write() as connection:
        facts.record_earnings_history(connection, "node", [paystub])
    record(warehouse, [reading(hour, total=hour) for hour in range(4)])
    for _ in range(2):
        assert rows_after_cycle(warehouse, 3) == [(-28 * 24, 0, 7), (0, 1, 1), (1, 2, 1), (2, 3, 1)]
