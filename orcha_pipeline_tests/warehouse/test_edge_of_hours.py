"""What is known after an outage whose end was read a little after the full hour."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from orcha_pipeline.model import Amounts, EarningsBucket, Provenance, Window
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.consistency import breaches
from orcha_pipeline.warehouse.derived import rebuild_earnings_hourly
from orcha_pipeline.warehouse.facts import record_earnings_history

BEGIN = datetime(2026, 3, 5, 20, tzinfo=UTC)
HOURS = Window(BEGIN, BEGIN + timedelta(hours=5))
TOKENS = {"a": ("golem", Decimal(1))}


def bucket(start, end, net):
    return EarningsBucket(
        stream="accrued",
        observed_at=end,
        window=Window(start, end),
        unit="GLM",
        amounts=Amounts(gross=Decimal(net), net=Decimal(net)),
        provenance=Provenance.MEASURED,
        source="test",
    )


@pytest.mark.parametrize("late", [timedelta(seconds=3), timedelta(seconds=119)])
def test_a_stretch_that_ends_a_little_after_the_hour_counts_nothing_twice_and_breaks_no_rule(tmp_path, late):
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    # An hour of quarters, two hours without a reading, then quarters again.
    marks = [0, 15, 30, 45, 60, *range(180, 301, 15)]
    moments = [BEGIN + timedelta(minutes=minute) + late for minute in marks]
    told = [bucket(start, end, 1) for start, end in pairwise(moments)]
    with warehouse.write() as connection:
        record_earnings_history(connection, "a", told)
        rows = rebuild_earnings_hourly(connection, HOURS, TOKENS)
        found = breaches(connection, HOURS.end)
    assert any(row.window.end - row.window.start > timedelta(hours=1) for row in rows)
    # What was earned before the first full hour and after the last belongs to none of these.
    assert sum((row.amounts.net for row in rows if row.amounts.net is not None), Decimal(0)) <= len(told)
    assert [breach.rule.name for breach in found] == []
