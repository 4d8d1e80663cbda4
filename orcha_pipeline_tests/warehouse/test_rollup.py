from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.model import (
    HOUR,
    SLOT,
    AllocationReading,
    Amounts,
    Balance,
    BalanceKind,
    EarningsBucket,
    EarningsCounter,
    EarningsObservation,
    HealthReading,
    HealthState,
    NodeReading,
    PriceReading,
    Provenance,
    UsageReading,
    Window,
    YieldForecast,
    stand_in,
)
from orcha_pipeline.warehouse import decisions, facts
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.consistency import breaches
from orcha_pipeline.warehouse.derived import rebuild_earnings_hourly, rebuild_features
from orcha_pipeline.warehouse.rollup import roll_up

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TOKENS = {"n": ("golem", Decimal(1))}
READINGS = 40
"""Ten hours of quarter-hours: the odd ones, the turns and the gaps lie among them."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Warehouse:
    warehouse = Warehouse(tmp_path_factory.mktemp("rollup") / "warehouse.duckdb")
    warehouse.migrate()
    return warehouse


@pytest.fixture
def warehouse(store) -> Warehouse:
    empty(store)
    return store


def empty(warehouse: Warehouse) -> None:
    with warehouse.write() as connection:
        for table in TABLES:
            connection.execute(f"DELETE FROM {table}")


TABLES = (
    "earnings",
    "resource_usage",
    "node_health",
    "allocations_observed",
    "balances",
    "prices",
    "forecasts",
    "rollups",
    "earnings_hourly",
    "features_hourly",
)


def rows_of(warehouse: Warehouse, table: str) -> list[tuple[Any, ...]]:
    with warehouse.read() as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()


def count(warehouse: Warehouse) -> Counter[str]:
    return Counter({table: len(rows_of(warehouse, table)) for table in TABLES})


def derived(warehouse: Warehouse, window: Window) -> tuple[list[Any], list[Any]]:
    """What is computed from the raw rows for the hours of `window`."""
    with warehouse.write() as connection:
        rebuild_earnings_hourly(connection, window, TOKENS)
        rebuild_features(connection, window, curvature=0.9)
    features = [
        tuple(round(value, 9) if isinstance(value, float) else value for value in row)
        for row in rows_of(warehouse, "features_hourly")
    ]
    return rows_of(warehouse, "earnings_hourly"), features


def amounts(total: Decimal | None) -> Amounts:
    return Amounts(gross=total, held=None if total is None else Decimal(0), net=total, doubtful=Decimal(0))


def reading(
    moment: datetime,
    earnings: tuple[EarningsObservation, ...] = (),
    *,
    share: float | None = 0.5,
    state: HealthState = HealthState.HEALTHY,
) -> NodeReading:
    measured = Provenance.MEASURED
    return NodeReading(
        node="n",
        protocol="golem",
        observed_at=moment,
        health=HealthReading(state=state, latency_seconds=moment.minute / 100),
        earnings=earnings,
        usage=(UsageReading(metric="cpu_seconds_total", value=float(moment.minute), provenance=measured, source="t"),),
        allocation=AllocationReading(
            lever="cpu", value=4.0, unit="threads", share=share, provenance=measured, source="t"
        ),
        balances=(
            Balance(
                kind=BalanceKind.ACCRUED,
                account="a",
                observed_at=moment,
                since=None,
                unit="GLM",
                amount=Decimal(moment.minute),
                provenance=measured,
                source="t",
            ),
        ),
    )


def counter(
    moment: datetime,
    total: Decimal | None,
    *,
    stream: str = "total",
    since: datetime | None = None,
    provenance: Provenance = Provenance.MEASURED,
) -> EarningsCounter:
    return EarningsCounter(
        stream=stream,
        observed_at=moment,
        since=since,
        unit="GLM",
        amounts=amounts(total),
        provenance=provenance,
        source="t",
    )


def bucket(
    start: datetime, end: datetime, net: Decimal | None, *, provenance: Provenance = Provenance.MEASURED
) -> EarningsBucket:
    return EarningsBucket(
        stream="notes",
        observed_at=end + timedelta(seconds=1),
        window=Window(start, end),
        unit="GLM",
        amounts=amounts(net),
        provenance=provenance,
        source="t",
    )


def price(moment: datetime, usd: str | None) -> PriceReading:
    known = None if usd is None else Decimal(usd)
    provenance = Provenance.UNKNOWN if usd is None else Provenance.MEASURED
    return PriceReading(
        token="golem", observed_at=moment, usd=known, priced_at=moment, provenance=provenance, source="t"
    )


def record(warehouse: Warehouse, readings: list[NodeReading], prices: list[PriceReading]) -> None:
    with warehouse.write() as connection:
        facts.record_readings(connection, readings)
        facts.record_prices(connection, prices)


def steady(hours: int = 48) -> list[NodeReading]:
    moments = [START + SLOT * i + timedelta(seconds=5) for i in range(hours * 4)]
    return [
        reading(moment, (counter(moment, Decimal(i)), bucket(moment - SLOT, moment, Decimal("0.1"))))
        for i, moment in enumerate(moments)
    ]


# --- what stays, of hours in which nothing changes


def test_a_steady_day_is_reduced_and_what_is_younger_is_not(warehouse):
    prices = [price(START + SLOT * i, "0.2") for i in range(4 * 48)]
    record(warehouse, steady(), prices)
    before = count(warehouse)
    fewer = roll_up(warehouse, until=START + DAY + HOUR)
    after = count(warehouse)
    assert fewer == {
        "earnings": 24 * (8 - 4),
        "node_health": 24 * 2,
        "allocations_observed": 24 * 2,
        "prices": 24 * 3,
        "balances": 24 * 3,
        "resource_usage": 24 * 3,
        "forecasts": 0,
    }
    assert {table: before[table] - after[table] for table in fewer} == fewer
    with warehouse.read() as connection:
        marks = connection.execute("SELECT DISTINCT rolled_up_until FROM rollups").fetchall()
        assert breaches(connection, START + 3 * DAY) == []
    assert marks == [((START + DAY).replace(tzinfo=None),)]


def test_reducing_again_changes_nothing(warehouse):
    record(warehouse, steady(), [])
    roll_up(warehouse, until=START + DAY)
    first = [rows_of(warehouse, table) for table in TABLES]
    assert not any(roll_up(warehouse, until=START + DAY).values())
    assert [rows_of(warehouse, table) for table in TABLES] == first
    with warehouse.write() as connection:
        connection.execute("DELETE FROM rollups")  # as if the mark were lost: what is reduced already stays
    assert not any(roll_up(warehouse, until=START + DAY).values())


def test_the_first_and_the_last_reading_of_an_hour_stay_and_what_lies_between_is_one_bucket(warehouse):
    record(warehouse, steady(), [])
    roll_up(warehouse, until=START + DAY)
    with warehouse.read() as connection:
        rows = connection.execute(
            "SELECT kind, observed_at, started_at, ended_at, net, provenance FROM earnings "
            "WHERE observed_at >= ? AND observed_at < ? ORDER BY kind, observed_at",
            [datetime(2026, 3, 1, 3), datetime(2026, 3, 1, 4)],  # noqa: DTZ001 (as the warehouse keeps it)
        ).fetchall()
    clock = [
        (kind, f"{seen:%H:%M:%S}", start and f"{start:%H:%M:%S}", end and f"{end:%H:%M:%S}", net, told)
        for kind, seen, start, end, net, told in rows
    ]
    assert clock == [
        ("bucket", "03:00:06", "02:45:05", "03:00:05", Decimal("0.1"), "measured"),
        ("bucket", "03:45:06", "03:00:05", "03:45:05", Decimal("0.3"), "measured"),
        ("counter", "03:00:05", None, None, Decimal(12), "measured"),
        ("counter", "03:45:05", None, None, Decimal(15), "measured"),
    ]


# --- what must not be lost


@pytest.mark.parametrize("change", ["provenance", "unknown", "gone", "new"])
def test_an_hour_in_which_something_changes_stays_whole(warehouse, change):
    def total(i: int, moment: datetime) -> tuple[EarningsCounter, ...]:
        odd = i == 9  # the second reading of the hour from 2 on
        provenance = Provenance.NODE_ESTIMATE if odd and change == "provenance" else Provenance.MEASURED
        told = counter(moment, None if odd and change == "unknown" else Decimal(i), provenance=provenance)
        other = counter(moment, Decimal(i), stream="other")
        return {"gone": (told,) if odd else (told, other), "new": (told, other) if odd else (told,)}.get(
            change, (told,)
        )

    moments = [START + SLOT * i for i in range(96 + 4)]
    record(warehouse, [reading(moment, total(i, moment)) for i, moment in enumerate(moments)], [])
    before = [row for row in rows_of(warehouse, "earnings") if row[2].hour == 2]
    assert roll_up(warehouse, until=START + DAY)["earnings"] > 0
    assert [row for row in rows_of(warehouse, "earnings") if row[2].hour == 2] == before


@pytest.mark.parametrize("silent_hours", [2, 30])
def test_the_hour_before_a_silence_stays_whole(warehouse, silent_hours):
    """Whether a stream had stopped to grow is told by its last two readings."""
    moments = [START + SLOT * i for i in range(12)]
    totals = [*range(11), 10]  # it rests between the last two
    later = [moments[-1] + timedelta(hours=silent_hours) + SLOT * i for i in range(1, 5)]
    told = [*zip(moments, totals, strict=True), *((moment, 20) for moment in later)]
    record(warehouse, [reading(moment, (counter(moment, Decimal(total)),)) for moment, total in told], [])
    window = Window(START, START + 3 * HOUR)
    before = derived(warehouse, window)
    assert roll_up(warehouse, until=START + 3 * DAY)["earnings"] > 0
    kept = [row[2].strftime("%H:%M") for row in rows_of(warehouse, "earnings") if row[2] < datetime(2026, 3, 1, 3)]  # noqa: DTZ001
    assert kept == ["00:00", "00:45", "01:00", "01:45", "02:00", "02:15", "02:30", "02:45"]
    assert derived(warehouse, window) == before


def test_measured_and_estimated_never_become_one(warehouse):
    moments = [START + SLOT * i for i in range(100)]
    readings = [
        reading(
            moment,
            (bucket(moment - SLOT, moment, Decimal(1), provenance=list(Provenance)[i % 3]),),
        )
        for i, moment in enumerate(moments)
    ]
    record(warehouse, readings, [])
    before = rows_of(warehouse, "earnings")
    roll_up(warehouse, until=START + DAY)
    assert rows_of(warehouse, "earnings") == before


def test_what_a_node_remembered_of_its_past_stays_as_it_is(warehouse):
    past = [bucket(START + HOUR * h, START + HOUR * (h + 1), Decimal(h)) for h in range(20)]
    with warehouse.write() as connection:
        facts.record_earnings_history(connection, "n", past)
    before = rows_of(warehouse, "earnings")
    roll_up(warehouse, until=START + DAY * 2)
    assert rows_of(warehouse, "earnings") == before


def test_the_last_known_price_of_an_hour_stays_not_the_failure_after_it(warehouse):
    told = ["1", "2", "3", None, None, None, None, None]  # at 0:05, 0:20, ...
    record(warehouse, [], [price(START + SLOT * i + timedelta(minutes=5), usd) for i, usd in enumerate(told)])
    roll_up(warehouse, until=START + DAY)
    kept = [(row[2].strftime("%H:%M"), row[3]) for row in rows_of(warehouse, "prices")]
    assert kept == [("00:35", Decimal(3)), ("01:50", None)]


def test_of_forecasts_the_last_issue_of_an_hour_stays_whole(warehouse):
    issues = [START + SLOT * i for i in range(1, 9)]
    hours = tuple(START + HOUR * h for h in range(24))
    values = tuple(float(h) for h in range(24))
    with warehouse.write() as connection:
        decisions.record_forecasts(
            connection,
            [
                YieldForecast(
                    node="n", issued_at=at, hours=hours, p10=values, p50=values, p90=values, model="m", version="1"
                )
                for at in issues
            ],
        )
    assert roll_up(warehouse, until=START + DAY)["forecasts"] == 24 * 6
    kept = Counter(row[0].strftime("%H:%M") for row in rows_of(warehouse, "forecasts"))
    assert kept == {"01:00": 24, "02:00": 24}


def test_a_day_that_fails_is_left_as_it_was_and_done_the_next_time(warehouse, monkeypatch):
    record(warehouse, steady(72), [])
    before = rows_of(warehouse, "earnings")
    original = facts.naive
    calls: list[datetime] = []

    def fails_on_the_second_day(moment):
        calls.append(moment)
        if moment == START + 2 * DAY:
            raise MemoryError
        return original(moment)

    monkeypatch.setattr("orcha_pipeline.warehouse.rollup.naive", fails_on_the_second_day)
    with pytest.raises(MemoryError):
        roll_up(warehouse, until=START + 3 * DAY)
    monkeypatch.undo()
    second_day = [row for row in before if row[2].day == 2]
    assert [row for row in rows_of(warehouse, "earnings") if row[2].day == 2] == second_day
    assert calls
    roll_up(warehouse, until=START + 3 * DAY)
    whole = rows_of(warehouse, "earnings")
    empty(warehouse)
    record(warehouse, steady(72), [])
    roll_up(warehouse, until=START + 3 * DAY)
    assert rows_of(warehouse, "earnings") == whole


# --- what is computed from it comes out the same


odd_readings = st.fixed_dictionaries(
    {
        "missed": st.sets(st.integers(0, READINGS - 1), max_size=12),
        "unknown": st.sets(st.integers(0, READINGS - 1), max_size=3),
        "estimated": st.sets(st.integers(0, READINGS - 1), max_size=3),
        "flat": st.sets(st.integers(0, READINGS - 1), max_size=30),
        "unhealthy": st.sets(st.integers(0, READINGS - 1), max_size=5),
        "moved": st.integers(0, READINGS),
        "seconds": st.lists(st.integers(0, 800), min_size=READINGS, max_size=READINGS),
        "late": st.booleans(),
        "other": st.tuples(st.integers(0, READINGS), st.integers(0, READINGS)).map(sorted),
        "turn": st.integers(0, READINGS),
        "stood_in": st.tuples(st.integers(0, READINGS), st.integers(0, 6)),
        "notes": st.booleans(),
        "gap_in_notes": st.sets(st.integers(0, READINGS - 1), max_size=2),
        "start": st.integers(-2, 8),
        "hours": st.integers(1, 14),
    }
)


def odd_history(odd: dict[str, Any]) -> list[NodeReading]:
    """Readings of a node with turning, joining and leaving streams, gaps, failures and estimates among them."""
    readings: list[NodeReading] = []
    total, previous = Decimal(0), START - SLOT
    seconds = odd["seconds"] if odd["late"] else [second % 10 for second in odd["seconds"]]
    for i in range(READINGS):
        moment = START + SLOT * i + timedelta(seconds=seconds[i])
        total += Decimal(0) if i in odd["flat"] else Decimal(i % 7) / 3
        if i in odd["missed"]:
            continue
        provenance = Provenance.NODE_ESTIMATE if i in odd["estimated"] else Provenance.MEASURED
        value = None if i in odd["unknown"] else round(total, 18)
        turned = i >= odd["turn"]
        since = START + SLOT * odd["turn"] - timedelta(minutes=3) if turned else None
        found: list[EarningsObservation] = [
            counter(moment, value, stream="second" if turned else "first", since=since, provenance=provenance)
        ]
        if odd["other"][0] <= i < odd["other"][1]:
            found.append(counter(moment, Decimal(i), stream="other"))
        if odd["stood_in"][0] <= i < sum(odd["stood_in"]):
            found = [counter(moment, Decimal(2 * i), stream=stand_in("first"))]
        if odd["notes"] and i not in odd["gap_in_notes"]:
            found.append(bucket(previous, moment, value and Decimal(i % 3), provenance=provenance))
        previous = moment
        state = HealthState.ERROR if i in odd["unhealthy"] else HealthState.HEALTHY
        readings.append(reading(moment, tuple(found), share=0.25 if i < odd["moved"] else 0.6, state=state))
    return readings


@settings(max_examples=20)
@given(odd=odd_readings)
def test_hourly_earnings_and_features_are_the_same_from_what_is_left(store, odd):
    empty(store)
    prices = [
        price(START + SLOT * i + timedelta(minutes=i % 15), None if i % 5 == 4 else str(i + 1)) for i in range(48)
    ]
    record(store, odd_history(odd), prices)
    begin = START + HOUR * odd["start"]
    window = Window(begin, begin + HOUR * odd["hours"])
    before = derived(store, window)
    roll_up(store, until=START + DAY)
    assert derived(store, window) == before


@pytest.mark.parametrize("both", [False, True], ids=["of one stream", "of both"])
def test_the_bucket_of_a_gap_and_of_its_broken_hours_is_the_same(warehouse, both):
    readings = []
    for i in range(4 * 20):
        moment, away = START + SLOT * i + timedelta(seconds=7), 18 < i < 42
        if not (away and both):
            told = counter(moment, Decimal(i)), counter(moment, Decimal(3 * i), stream="other")
            readings.append(reading(moment, told[1:] if away else told))
    record(warehouse, readings, [])
    window = Window(START, START + 19 * HOUR)
    before = derived(warehouse, window)
    (coarse,) = [row for row in before[0] if row[2] - row[1] > HOUR]
    assert round(coarse[6], 9) == 4 * 4 * 7
    assert roll_up(warehouse, until=START + DAY)["earnings"] > 0
    assert derived(warehouse, window) == before


def test_the_hours_around_the_day_that_was_reduced_last_are_the_same(warehouse):
    prices = [price(START + SLOT * i, str(i + 1)) for i in range(4 * 72)]
    record(warehouse, steady(72), prices)
    window = Window(START + DAY - 10 * HOUR, START + DAY + 10 * HOUR)
    before = derived(warehouse, window)
    assert all(row[6] is not None for row in before[0])
    roll_up(warehouse, until=START + DAY)
    assert derived(warehouse, window) == before
