from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from orcha_pipeline.model import (
    HOUR,
    AllocationReading,
    Amounts,
    ApplicationStatus,
    Balance,
    BalanceKind,
    EarningsBucket,
    EarningsCounter,
    Gate,
    HealthReading,
    HealthState,
    NodeReading,
    PriceReading,
    Provenance,
    UsageReading,
    Verdict,
    Window,
    YieldForecast,
)
from orcha_pipeline.warehouse import decisions, facts
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.derived import (
    quarters_to_rebuild,
    rebuild_earnings_hourly,
    rebuild_features,
    rebuild_rates_quarterly,
)
from orcha_pipeline.warehouse.frames import frame as table_frame

START = datetime(2026, 3, 1, tzinfo=UTC)
WEI = Decimal("1e-18")


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    return warehouse


def reading(hours: float, total: Decimal | None, *, share=0.5, state=HealthState.HEALTHY) -> NodeReading:
    moment = START + timedelta(hours=hours)
    counter = EarningsCounter(
        stream="total",
        observed_at=moment,
        since=None,
        unit="GLM",
        amounts=Amounts(gross=total, held=Decimal(0), net=total, doubtful=Decimal(0)),
        provenance=Provenance.MEASURED,
        source="test",
    )
    return NodeReading(
        node="golem-1",
        protocol="golem",
        observed_at=moment,
        health=HealthReading(state=state, scores={"online": 0.99}),
        earnings=(counter,),
        usage=(UsageReading(metric="cpu_seconds_total", value=None, provenance=Provenance.UNKNOWN, source="test"),),
        allocation=AllocationReading(
            lever="cpu_threads", value=4.0, unit="threads", share=share, provenance=Provenance.MEASURED, source="test"
        ),
    )


def price(hours: float, usd: str | None) -> PriceReading:
    moment = START + timedelta(hours=hours)
    return PriceReading(
        token="golem",
        observed_at=moment,
        usd=None if usd is None else Decimal(usd),
        priced_at=moment,
        provenance=Provenance.MEASURED if usd else Provenance.UNKNOWN,
        source="test",
    )


def count(warehouse: Warehouse, table: str) -> int:
    with warehouse.read() as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return row[0]


def test_amounts_survive_to_the_last_wei_and_unknown_stays_unknown(warehouse):
    exact = Decimal("123456789012.000000000000000001")
    with warehouse.write() as connection:
        facts.record_readings(connection, [reading(0, exact), reading(1, None)])
    with warehouse.read() as connection:
        found = facts.earnings_observations(connection, Window(START, START + HOUR))["golem-1"]
    assert [item.amounts.net for item in found] == [exact, None]
    assert found[0].observed_at == START


def test_a_slot_read_again_is_replaced_and_another_slot_is_kept(warehouse):
    for total in (1, 2):
        with warehouse.write() as connection:
            facts.record_readings(connection, [reading(0.1, Decimal(total)), reading(0.3, Decimal(9))])
    assert count(warehouse, "earnings") == 2
    assert count(warehouse, "node_health") == 2
    with warehouse.read() as connection:
        found = facts.earnings_observations(connection, Window(START, START + HOUR))["golem-1"]
    assert [item.amounts.net for item in found] == [2, 9]


def test_balances_are_kept_apart_by_kind_and_account_and_unknown_stays_unknown(warehouse):
    def balance(kind: BalanceKind, account: str, amount: Decimal | None) -> Balance:
        return Balance(
            kind=kind,
            account=account,
            observed_at=START,
            since=None,
            unit="USD",
            amount=amount,
            provenance=Provenance.MEASURED if amount is not None else Provenance.UNKNOWN,
            source="test",
        )

    held = [balance(BalanceKind.HELD, "us1", Decimal("1.5")), balance(BalanceKind.HELD, "eu1", None)]
    with warehouse.write() as connection:
        for _ in range(2):  # a slot read again is replaced
            facts.record_readings(connection, [replace(reading(0, WEI), balances=tuple(held))])
    with warehouse.read() as connection:
        rows = connection.execute("SELECT kind, account, amount FROM balances ORDER BY account").fetchall()
    assert rows == [("held", "eu1", None), ("held", "us1", Decimal("1.5"))]


def test_prices_of_a_slot_are_replaced_and_an_unknown_price_is_no_sample(warehouse):
    for usd in ("0.20", "0.25"):
        with warehouse.write() as connection:
            facts.record_prices(connection, [price(0, usd), price(1, None)])
    assert count(warehouse, "prices") == 2
    with warehouse.read() as connection:
        assert facts.price_samples(connection, Window(START, START + HOUR)) == {"golem": [(START, Decimal("0.25"))]}


def test_history_asked_for_twice_is_kept_once_and_leaves_live_readings_alone(warehouse):
    day = EarningsBucket(
        stream="daily",
        observed_at=START + timedelta(days=3),
        window=Window(START, START + timedelta(days=1)),
        unit="GLM",
        amounts=Amounts(gross=Decimal(24), held=Decimal(0), net=Decimal(24), doubtful=Decimal(0)),
        provenance=Provenance.MEASURED,
        source="test",
    )
    with warehouse.write() as connection:
        facts.record_readings(connection, [reading(0, Decimal(1))])
    for _ in range(2):
        with warehouse.write() as connection:
            facts.record_earnings_history(connection, "golem-1", [day])
    assert count(warehouse, "earnings") == 2


def test_features_value_native_differences_at_the_price_of_their_hour(warehouse):
    with warehouse.write() as connection:
        facts.record_readings(connection, [reading(h, Decimal(10 * h)) for h in range(4)])
        facts.record_prices(connection, [price(0.9, "0.20"), price(1.9, "0.40")])
        window = Window(START, START + 3 * HOUR)
        rebuild_earnings_hourly(connection, window, {"golem-1": ("golem", Decimal(1))})
        assert rebuild_features(connection, window, curvature=1.0) == 3
        assert rebuild_features(connection, window, curvature=1.0) == 3
        frame = table_frame(connection, "features_hourly", window)
    assert list(frame["net_usd"]) == pytest.approx([2.0, 4.0, 4.0])
    assert list(frame["yield_usd"]) == pytest.approx([4.0, 8.0, 8.0])
    assert str(frame["hour"].dt.tz) == "UTC"


def quarters(connection):
    return connection.execute("SELECT usd_per_hour, share FROM rates_quarterly ORDER BY started_at").fetchall()


def test_quarters_of_an_hour_tell_the_rate_and_the_share_it_was_earned_at(warehouse):
    told = [(0, 0.5), (1, 0.5), (4, 0.5), (5, 0.5), (9, 0.25), (11, 0.25)]
    with warehouse.write() as connection:
        facts.record_readings(
            connection,
            [
                reading(at / 4, Decimal(total), share=share)
                for at, (total, share) in zip((0, 1, 2, 3, 4, 5), told, strict=True)
            ],
        )
        facts.record_prices(connection, [price(0.9, "0.20"), price(1.9, "0.40")])
        window = Window(START, START + timedelta(minutes=75))
        for _ in range(2):  # a quarter computed again is replaced
            assert rebuild_rates_quarterly(connection, window, {"golem-1": ("golem", Decimal(1))}) == 5
        found = quarters(connection)
    assert [usd for usd, _ in found] == pytest.approx([4 * 0.2, 12 * 0.2, 4 * 0.2, 16 * 0.2, 8 * 0.4])
    assert [share for _, share in found] == [0.5, 0.5, 0.5, None, 0.25]


def test_quarters_on_record_are_left_alone_but_for_the_last(warehouse):
    window = Window(START, START + 30 * HOUR)
    with warehouse.write() as connection:
        assert quarters_to_rebuild(connection, window) == window
        facts.record_readings(connection, [reading(h, Decimal(h)) for h in range(25)])
        rebuild_rates_quarterly(connection, Window(START, START + 24 * HOUR), {})
        again = quarters_to_rebuild(connection, window)
        assert again == Window(START + 19.75 * HOUR, window.end)
        before = Window(START - 2 * HOUR, START - HOUR)
        assert quarters_to_rebuild(connection, before).hours == 0


def test_quarters_between_readings_an_hour_apart_share_what_was_earned(warehouse):
    with warehouse.write() as connection:
        facts.record_readings(connection, [reading(h, Decimal(8 * h), share=0.5) for h in (0, 1)])
        facts.record_prices(connection, [price(0, "0.5")])
        window = Window(START, START + 2 * HOUR)
        rebuild_rates_quarterly(connection, window, {"golem-1": ("golem", Decimal(1))})
        found = quarters(connection)
    assert found == [(4.0, 0.5)] * 4 + [(None, None)] * 4


def test_an_hour_without_price_or_share_has_no_yield(warehouse):
    silent = reading(1, Decimal(1))
    with warehouse.write() as connection:
        facts.record_readings(
            connection,
            [reading(h, Decimal(h), share=None) for h in (0, 1)] + [reading(h, Decimal(h)) for h in (8, 9, 10)],
        )
        facts.record_prices(connection, [price(0, "0.2")])
        window = Window(START, START + 10 * HOUR)
        rebuild_earnings_hourly(connection, window, {"golem-1": ("golem", Decimal(1))})
        rebuild_features(connection, window, curvature=0.9)
        frame = table_frame(connection, "features_hourly", window).set_index("hour")
    assert silent.earnings
    assert frame["yield_usd"].isna().all()
    assert frame.loc[START, "net_native"] == 1
    assert frame.loc[START + 9 * HOUR, "net_native"] == 1


def test_a_forecast_comes_back_as_it_was_written_and_an_old_one_is_not_the_latest(warehouse):
    def forecast(hours: int) -> YieldForecast:
        issued = START + hours * HOUR
        return YieldForecast(
            node="golem-1",
            issued_at=issued,
            hours=tuple(issued + i * HOUR for i in range(24)),
            p10=(0.1,) * 24,
            p50=(0.2,) * 24,
            p90=(0.3,) * 24,
            model="lstm",
            version="3",
            note="",
        )

    with warehouse.write() as connection:
        for hours in (0, 1, 1):
            decisions.record_forecasts(connection, [forecast(hours)])
        assert decisions.latest_forecasts(connection, since=START) == {"golem-1": forecast(1)}
        assert decisions.latest_forecasts(connection, since=START + 2 * HOUR) == {}
    assert count(warehouse, "forecasts") == 48


def decision_row(decision_id: str, verdict: Verdict, hours: float) -> decisions.DecisionRow:
    return decisions.DecisionRow(
        decision_id=decision_id,
        host="home",
        decided_at=START + timedelta(hours=hours),
        verdict=verdict,
        gain_usd_per_hour=0.01,
        gain_percent=None,
        switching_cost_usd=0.0,
        confidence=0.8,
        gates=(Gate(name="hold", value=2.0, threshold=1.0, passed=True, explanation="rested long enough"),),
        reason="golem pays more",
        dagster_run_id="run",
        allocations=(
            decisions.DecidedAllocation(
                node="golem-1",
                yield_usd=0.1,
                share_now=0.5,
                share_planned=0.75,
                lever="cpu_threads",
                value_now=4.0,
                value_planned=6.0,
                reason="pays most",
            ),
        ),
    )


def test_a_decision_can_be_claimed_once_only(warehouse):
    row = decision_row("d1", Verdict.REALLOCATE, 0)
    claim = decisions.ApplicationRow(
        application_id="a1",
        decision_id="d1",
        started_at=START,
        ended_at=None,
        status=ApplicationStatus.RUNNING,
        reason="",
        dagster_run_id="run",
    )
    with warehouse.write() as connection:
        decisions.record_decision(connection, row)
        assert decisions.latest_decisions(connection) == [row]
        assert decisions.unapplied(connection) == ["d1"]
        assert decisions.begin_application(connection, claim)
        assert not decisions.begin_application(connection, claim)
        decisions.end_application(connection, "a1", status=ApplicationStatus.APPLIED, reason="", ended_at=START + HOUR)
        assert decisions.unapplied(connection) == []
        assert decisions.applied_at(connection, "home", since=START) == [START]
        assert decisions.applied_at(connection, "home", since=START + HOUR) == []


def test_only_the_latest_decision_waits_to_be_applied(warehouse):
    with warehouse.write() as connection:
        decisions.record_decision(connection, decision_row("d1", Verdict.REALLOCATE, 0))
        decisions.record_decision(connection, decision_row("d2", Verdict.HOLD, 1))
        assert decisions.unapplied(connection) == []


def bucket(start: datetime, end: datetime, observed_at: datetime) -> EarningsBucket:
    return EarningsBucket(
        stream="accrued",
        observed_at=observed_at,
        window=Window(start, end),
        unit="GLM",
        amounts=Amounts(),
        provenance=Provenance.UNKNOWN,
        source="test",
    )


def test_the_next_window_begins_where_the_last_bucket_ended_not_when_it_was_read(warehouse: Warehouse):
    read_at, answered_at = START + HOUR, START + HOUR + timedelta(seconds=4)
    told = replace(reading(1, None), earnings=(bucket(START, read_at, answered_at),))
    with warehouse.write() as connection:
        facts.record_readings(connection, [told])
        assert facts.last_observed(connection, START + 2 * HOUR) == {"golem-1": read_at}


def test_a_past_read_just_now_does_not_stand_for_what_came_since_the_last_live_reading(warehouse: Warehouse):
    now = START + timedelta(hours=9, minutes=20)
    with warehouse.write() as connection:
        facts.record_readings(connection, [reading(7, None)])
        past = [bucket(START + hour * HOUR, START + (hour + 1) * HOUR, now) for hour in range(3)]
        facts.record_earnings_history(connection, "golem-1", past)
        assert facts.last_observed(connection, START + 9 * HOUR) == {"golem-1": START + 7 * HOUR}
