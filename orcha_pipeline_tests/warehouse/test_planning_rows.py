"""Quarter-hours as the planner reads them."""

from datetime import UTC, datetime, timedelta

import numpy as np

from orcha_pipeline.model import SLOT
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.facts import insert
from orcha_pipeline.warehouse.planning_rows import quarters

START = datetime(2026, 3, 5, 12, tzinfo=UTC)


def row(node, quarter, rate, share):
    return {"node": node, "started_at": START + quarter * SLOT, "usd_per_hour": rate, "share": share}


def test_they_stand_on_a_grid_without_gaps_in_the_order_asked_for(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    with warehouse.write() as connection:
        insert(
            connection,
            "rates_quarterly",
            [
                row("a", 0, 0.1, 0.5),
                row("a", 3, None, 0.5),
                row("b", 1, 0.2, None),
                row("other", 1, 9.0, 1.0),
                row("b", -1, 9.0, 1.0),
                row("b", 4, 9.0, 1.0),
            ],
        )
    with warehouse.read() as connection:
        found = quarters(connection, ["b", "a"], start=START + timedelta(minutes=3), end=START + timedelta(minutes=61))
        none = quarters(connection, ["c"], start=START, end=START + SLOT)
    assert found.start == START
    unknown = np.nan
    np.testing.assert_array_equal(found.rates, [[unknown, 0.1], [0.2, unknown], [unknown] * 2, [unknown] * 2])
    np.testing.assert_array_equal(found.shares, [[unknown, 0.5], [unknown] * 2, [unknown] * 2, [unknown, 0.5]])
    np.testing.assert_array_equal(none.rates, [[unknown]])
