from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.facts import insert
from orcha_pipeline.warehouse.retention import OLD_DERIVED, OLD_FACTS, PLANS, delete_old

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
BEFORE, PLANS_BEFORE = NOW - timedelta(days=90), NOW - timedelta(days=28)
TIMES = [NOW - timedelta(days=days, hours=3) for days in (0, 20, 40, 80, 89, 100, 200, 201)]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    return warehouse


def fill(warehouse: Warehouse, table: str, times: list[datetime], **values: object) -> None:
    """A row a time in `table`; what is not given gets a value of its type."""
    with warehouse.write() as connection:
        columns = connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ?", [table]
        ).fetchall()
        samples = {"VARCHAR": "x", "DOUBLE": 1.0, "INTEGER": 1, "BOOLEAN": True}
        rows = [
            {name: moment if kind == "TIMESTAMP" else samples.get(kind, 1) for name, kind in columns}
            | ({"plan_id": str(number)} if table == "plans" else {})
            | values
            for number, moment in enumerate(times)
        ]
        insert(connection, table, rows)


def ages(warehouse: Warehouse, table: str, column: str) -> list[int]:
    with warehouse.read() as connection:
        rows = connection.execute(f"SELECT {column} FROM {table} ORDER BY {column} DESC").fetchall()
    return [(NOW - moment.replace(tzinfo=UTC)).days for (moment,) in rows]


def test_what_is_too_old_is_deleted_and_told(warehouse):
    for table in (*OLD_DERIVED, *OLD_FACTS, *PLANS):
        fill(warehouse, table, TIMES)
    deleted = delete_old(warehouse, plans_before=PLANS_BEFORE, before=BEFORE)
    assert deleted == {**dict.fromkeys((*OLD_DERIVED, *OLD_FACTS), 3), "plans": 6}
    for table, column in {**OLD_DERIVED, **dict.fromkeys(OLD_FACTS, "slot")}.items():
        assert ages(warehouse, table, column) == [0, 20, 40, 80, 89]
    assert ages(warehouse, "plans", "planned_at") == [0, 20]
    assert not any(delete_old(warehouse, plans_before=PLANS_BEFORE, before=BEFORE).values())


@pytest.mark.parametrize(("table", "subject"), OLD_FACTS.items())
def test_the_last_that_was_read_of_a_node_stays_however_old(warehouse, table, subject):
    fill(warehouse, table, TIMES, **{subject: "alive"})
    fill(warehouse, table, TIMES[-3:], **{subject: "silent"})
    delete_old(warehouse, plans_before=PLANS_BEFORE, before=BEFORE)
    assert ages(warehouse, table, "slot") == [0, 20, 40, 80, 89, 100]


def test_the_last_price_that_was_known_stays_though_the_token_was_asked_for_in_vain_since(warehouse):
    fill(warehouse, "prices", TIMES[-2:], token="lost")
    fill(warehouse, "prices", TIMES[:-2], token="lost", usd=None)
    delete_old(warehouse, plans_before=PLANS_BEFORE, before=BEFORE)
    assert ages(warehouse, "prices", "slot") == [0, 20, 40, 80, 89, 200]


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("decisions", "decided_at"),
        ("applications", "started_at"),
        ("outcomes", "applied_at"),
        ("earnings_hourly", "started_at"),
        ("alerts", "raised_at"),
        ("models", "trained_at"),
        ("pauses", "paused_at"),
    ],
)
def test_the_books_are_kept_for_good(warehouse, table, column):
    fill(warehouse, table, TIMES[-1:])
    delete_old(warehouse, plans_before=NOW, before=NOW)
    assert ages(warehouse, table, column) == [201]
