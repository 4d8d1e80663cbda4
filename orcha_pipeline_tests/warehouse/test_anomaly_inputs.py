"""What anomalies are looked for in, as read from the tables."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from orcha_pipeline.model import (
    HOUR,
    ApplicationStatus,
    Balance,
    BalanceKind,
    HealthReading,
    HealthState,
    NodeReading,
    PriceReading,
    Provenance,
    UsageReading,
    Window,
)
from orcha_pipeline.warehouse import anomaly_inputs, facts
from orcha_pipeline.warehouse.connection import Warehouse

NOON = datetime(2026, 3, 5, 12, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
DAY = Window(NOON - 24 * HOUR, NOON + HOUR)


@pytest.fixture
def connection(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    with warehouse.write() as connection:
        yield connection


def read(connection, at, *, usage=None, balances=()):
    reading = NodeReading(
        node="a",
        protocol="golem",
        observed_at=at,
        health=HealthReading(state=HealthState.HEALTHY),
        usage=tuple(
            UsageReading(metric=metric, value=value, provenance=Provenance.MEASURED, source="test")
            for metric, value in (usage or {}).items()
        ),
        balances=balances,
    )
    facts.record_readings(connection, [reading])


def test_use_is_told_by_the_hour_with_its_mean_and_its_last_value(connection):
    for quarter, value in enumerate([1.0, 2.0, None, 6.0, 9.0]):
        read(connection, NOON + quarter * QUARTER, usage={"memory_bytes": value})
    found = anomaly_inputs.hourly_usage(connection, Window(NOON, NOON + 2 * HOUR))
    row = {"node": "a", "metric": "memory_bytes"}
    assert found.to_dict("records") == [
        {**row, "hour": NOON, "mean": 3.0, "last": 6.0, "read_at": NOON + 3 * QUARTER},
        {**row, "hour": NOON + HOUR, "mean": 9.0, "last": 9.0, "read_at": NOON + HOUR},
    ]


def price(token, at, usd, priced=None):
    return PriceReading(
        token=token,
        observed_at=at,
        usd=None if usd is None else Decimal(usd),
        priced_at=priced,
        provenance=Provenance.MEASURED,
        source="test",
    )


def test_prices_are_those_of_tokens_that_are_still_asked_for(connection):
    facts.record_prices(connection, [price("golem", NOON - HOUR, "0.25", NOON - 2 * HOUR)])
    facts.record_prices(connection, [price("storj", NOON - HOUR, "0.5")])
    facts.record_prices(connection, [price("golem", NOON, None)])
    found = anomaly_inputs.believed_prices(connection, Window(NOON - 24 * HOUR, NOON + QUARTER))
    (row,) = found.to_dict("records")
    assert (row["token"], row["usd"]) == ("golem", 0.25)
    assert (row["observed_at"], row["priced_at"]) == (NOON - HOUR, NOON - 2 * HOUR)


def test_the_last_price_that_was_believed_is_told_however_long_ago_that_was(connection):
    facts.record_prices(connection, [price("golem", NOON - 60 * 24 * HOUR, "0.20")])
    facts.record_prices(connection, [price("golem", NOON - 40 * 24 * HOUR, "0.25")])
    facts.record_prices(connection, [price("storj", NOON - 40 * 24 * HOUR, "0.5")])
    facts.record_prices(connection, [price("storj", NOON, "0.6")])
    facts.record_prices(connection, [price("golem", NOON, None)])
    found = anomaly_inputs.believed_prices(connection, Window(NOON - 28 * 24 * HOUR, NOON + QUARTER))
    assert found[["token", "usd"]].to_numpy().tolist() == [["golem", 0.25], ["storj", 0.6]]


def balance(kind, amount, at, oldest=None):
    return Balance(
        kind=kind,
        account="polygon",
        observed_at=at,
        since=None,
        unit="GLM",
        amount=amount,
        provenance=Provenance.MEASURED,
        source="test",
        oldest_at=oldest,
    )


def test_money_is_told_as_it_last_stood_with_the_age_of_its_oldest_document(connection):
    read(connection, NOON - QUARTER, balances=(balance(BalanceKind.PENDING, Decimal(9), NOON - QUARTER),))
    pending = balance(BalanceKind.PENDING, Decimal("1.5"), NOON, NOON - 72 * HOUR)
    read(connection, NOON, balances=(pending, balance(BalanceKind.DOUBTFUL, None, NOON)))
    (found,) = anomaly_inputs.standings(connection, ["a"], since=NOON - HOUR, until=NOON)
    assert (found.kind, found.amount, found.oldest_at) == (BalanceKind.PENDING, 1.5, NOON - 72 * HOUR)
    assert anomaly_inputs.standings(connection, ["b"], since=NOON - HOUR, until=NOON) == []


def test_the_last_change_of_a_host_is_the_one_that_was_not_dropped(connection):
    for number, (begun, status) in enumerate([(3, "applied"), (2, "rolled_back"), (1, "dropped"), (0, "running")]):
        at = NOON.replace(tzinfo=None) - begun * HOUR
        ended = None if status == "running" else at
        connection.execute(
            "INSERT INTO decisions (decision_id, host, decided_at, verdict, gates, reason, dagster_run_id) "
            "VALUES (?, 'box', ?, 'reallocate', '[]', '', '')",
            [str(number), at],
        )
        connection.execute(
            "INSERT INTO applications VALUES (?, ?, ?, ?, ?, 'why', 'run')",
            [str(number), str(number), at, ended, status],
        )
    (found,) = anomaly_inputs.last_changes(connection, ["box"], since=DAY.start)
    assert (found.host, found.status, found.reason) == ("box", ApplicationStatus.ROLLED_BACK, "why")
    assert found.ended_at == NOON - 2 * HOUR
    times = anomaly_inputs.decided_at(connection, ["box"], since=NOON - 2 * HOUR)
    assert times == [NOON - 2 * HOUR, NOON - HOUR, NOON]
