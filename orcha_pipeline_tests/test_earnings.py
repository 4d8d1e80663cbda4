from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.earnings import EDGE_TOLERANCE, MAX_GAP, EarnedBucket, earned, reaching_back
from orcha_pipeline.model import (
    HOUR,
    Amounts,
    EarningsBucket,
    EarningsCounter,
    EarningsObservation,
    Provenance,
    Window,
    stand_in,
)

START = datetime(2026, 3, 1, tzinfo=UTC)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def counter(hours, net, *, stream="total", since=None, provenance=Provenance.MEASURED) -> EarningsCounter:
    amount = None if net is None else Decimal(str(net))
    return EarningsCounter(
        stream=stream,
        observed_at=at(hours),
        since=since,
        unit="GLM",
        amounts=Amounts(gross=amount, held=Decimal(0), net=amount, doubtful=Decimal(0)),
        provenance=provenance,
        source="test",
    )


def bucket(start, end, net, *, observed=None) -> EarningsBucket:
    return EarningsBucket(
        stream="notes",
        observed_at=at(end if observed is None else observed),
        window=Window(at(start), at(end)),
        unit="GLM",
        amounts=Amounts(gross=Decimal(str(net)), held=Decimal(0), net=Decimal(str(net)), doubtful=Decimal(0)),
        provenance=Provenance.MEASURED,
        source="test",
    )


def hours_of(observations: list[EarningsObservation], start=0, end=4, price=Decimal(2)) -> list[EarnedBucket]:
    return earned("node", observations, Window(at(start), at(end)), lambda _hour: price)


def nets(rows: list[EarnedBucket]) -> list[Decimal | None]:
    return [row.amounts.net for row in rows]


def test_a_counter_read_at_full_hours_gives_its_differences():
    rows = hours_of([counter(h, 10 + h) for h in range(5)])
    assert nets(rows) == [1, 1, 1, 1]
    assert {row.provenance for row in rows} == {Provenance.MEASURED}


def test_a_price_move_alone_earns_nothing():
    prices = iter([Decimal(1), Decimal(5), Decimal(9), Decimal(2)])
    rows = earned("node", [counter(h, 7) for h in range(5)], Window(at(0), at(4)), lambda _h: next(prices))
    assert [row.usd("net") for row in rows] == [0, 0, 0, 0]


def test_readings_seconds_after_the_hour_still_count_as_measured():
    rows = hours_of([counter(h + 5 / 3600, 10 + h) for h in range(5)], start=1)
    assert all(row.provenance is Provenance.MEASURED for row in rows)
    assert all(abs(row.amounts.net - 1) < Decimal("1e-12") for row in rows if row.amounts.net is not None)


def test_readings_between_hours_are_interpolated_and_said_to_be_our_estimate():
    rows = hours_of([counter(0.5, 0), counter(1.5, 2), counter(2.5, 4)], start=1, end=2)
    assert nets(rows) == [2]
    assert rows[0].provenance is Provenance.OUR_ESTIMATE


def test_a_gap_stays_unknown_by_the_hour_and_keeps_its_amount_as_one_coarse_bucket():
    rows = hours_of([counter(0, 0), counter(1, 1), counter(4, 10)])
    fine = [row for row in rows if row.window.hours == 1]
    coarse = [row for row in rows if row.window.hours > 1]
    assert nets(fine) == [1, None, None, None]
    assert [(row.window.start, row.window.end, row.amounts.net) for row in coarse] == [(at(1), at(4), Decimal(9))]


def known(rows: list[EarnedBucket]) -> list[tuple[float, float, Decimal]]:
    """(start, end, net) of each row that is known, in hours."""
    return [
        ((row.window.start - START) / HOUR, (row.window.end - START) / HOUR, row.amounts.net)
        for row in rows
        if row.amounts.net is not None
    ]


def test_what_was_earned_in_the_hours_that_a_gap_begins_and_ends_in_is_in_its_bucket():
    moments = [0, 0.5, 1, 1.5, 1.75, 5.25, 5.5, 6, 7]
    rows = hours_of([counter(moment, 4 * moment) for moment in moments], end=7)
    assert known(rows) == [(0, 1, 4), (1, 6, 20), (6, 7, 4)]
    assert next(row for row in rows if row.window.hours == 5).provenance is Provenance.MEASURED


def test_a_reading_cut_at_the_full_hour_makes_the_gaps_bucket_our_estimate():
    rows = hours_of([counter(moment, 4 * moment) for moment in [0, 0.75, 1.25, 5, 6]], end=6)
    assert known(rows) == [(0, 1, 4), (1, 5, 16), (5, 6, 4)]
    assert [row.provenance for row in rows if row.window.hours == 4] == [Provenance.OUR_ESTIMATE]


def test_the_hour_in_which_one_gap_ends_and_the_next_begins_belongs_to_the_first():
    rows = hours_of([counter(moment, 4 * moment) for moment in [0, 3.25, 3.75, 6]], end=6)
    assert known(rows) == [(0, 3.75, 15), (3.75, 6, 9)]


def test_what_other_streams_earned_in_a_gap_of_one_is_in_its_bucket():
    rows = hours_of([*(counter(h / 2, h, stream="a") for h in range(13)), *gappy("b", 10, (0, 1, 1.5, 5, 6))], end=6)
    assert known(rows) == [(0, 1, 12), (1, 5, 4 * 12), (5, 6, 12)]


def gappy(stream: str, rate: int, moments: Sequence[float]) -> list[EarningsCounter]:
    return [counter(moment, rate * moment, stream=stream) for moment in moments]


def test_what_follows_a_gap_waits_for_its_full_hour_and_an_unknown_reading_takes_nothing_away():
    begun = [counter(moment, 4 * moment) for moment in (0, 1, 4.25, 4.5)]
    assert known(hours_of(begun, end=4)) == [(0, 1, 4), (1, 4.25, 13)]
    assert known(hours_of([*begun, counter(5, 20)], end=5)) == [(0, 1, 4), (1, 5, 16)]
    assert known(hours_of([*begun, counter(4.75, None), counter(5, 20)], end=5)) == [(0, 1, 4), (1, 4.25, 13)]


def test_a_row_of_a_gap_is_the_same_whatever_hours_are_asked_for():
    seen = [counter(moment, 4 * moment) for moment in (0, 1, 1.5, 5.5, 6, 7)]
    assert [known(hours_of(seen, start, start + 1)) for start in range(1, 6)] == [[(1, 6, 20)]] * 5
    whole = Window(at(3), at(7))
    assert reaching_back(seen, whole) == Window(at(1), at(7))
    assert reaching_back(seen, Window(at(6), at(7))) == Window(at(6), at(7))


def test_a_settled_epoch_and_a_gap_are_told_apart():
    epoch = replace(bucket(-300, 5, 700), stream="settled")
    rows = hours_of([epoch, *(counter(moment, 4 * moment) for moment in (4, 5, 5.5, 8, 9))], start=4, end=9)
    assert known(rows) == [(-300, 5, 700), (5, 8, 12), (8, 9, 4)]


def test_a_month_that_turns_loses_nothing_when_the_old_total_is_still_told():
    old_totals = [100, 101, Decimal("102.4"), Decimal("102.4")]
    old = [counter(hour, total, stream="2026-02") for hour, total in enumerate(old_totals)]
    new = [counter(h, v, stream="2026-03", since=at(1.5)) for h, v in [(2, Decimal("0.6")), (3, Decimal("1.6"))]]
    assert nets(hours_of([*old, *new], end=3)) == [1, 2, 1]


def test_a_stream_missing_from_the_last_reading_makes_the_hour_unknown_not_smaller():
    both = [counter(h, h, stream=s) for s in "ab" for h in range(3)]
    rows = hours_of([*both, counter(3, 3, stream="a")], end=3)
    assert nets(rows) == [2, 2, None]


def test_a_stream_that_no_longer_grows_has_ended():
    a = [counter(h, h, stream="a") for h in range(4)]
    b = [counter(0, 5, stream="b"), counter(1, 5, stream="b")]
    assert nets(hours_of([*a, *b], end=3)) == [1, 1, 1]


def test_an_epoch_that_follows_another_closes_it():
    old = [counter(h, h, stream="epoch 1") for h in range(2)]
    new = [counter(h, h - 1, stream="epoch 2", since=at(1)) for h in (2, 3)]
    assert nets(hours_of([*old, *new], end=3)) == [1, 1, 1]


STAND_IN = stand_in("total")


def test_a_stand_in_gives_a_gap_its_shape_and_the_stream_itself_its_sum():
    seen = [counter(0, 100), counter(1, 101), *(counter(h, h - 1, stream=STAND_IN) for h in (2, 3, 4)), counter(5, 109)]
    rows = hours_of(seen, end=5)
    # 8 in the gap, of which the stand-in saw 1 an hour in two hours; the other two hours share the rest.
    assert nets(rows) == [1, 3, 1, 1, 3]
    assert [row.provenance for row in rows] == [
        Provenance.MEASURED,
        Provenance.OUR_ESTIMATE,
        Provenance.MEASURED,
        Provenance.MEASURED,
        Provenance.OUR_ESTIMATE,
    ]


def test_a_stand_in_is_never_added_to_the_stream():
    both = [counter(h, 10 * h, stream=s) for s in ("total", STAND_IN) for h in range(5)]
    assert nets(hours_of(both)) == [10, 10, 10, 10]


def test_a_stand_in_that_is_absent_makes_nothing_unknown():
    readings = [counter(h, h) for h in range(5)]
    assert nets(hours_of([*readings, counter(1.5, 7, stream=STAND_IN)])) == [1, 1, 1, 1]


def test_a_stand_in_that_falls_back_earns_nothing_and_takes_nothing_away():
    seen = [(1.5, 50), (2, 1), (2.5, 1.5), (3, 2)]
    rows = hours_of([counter(1, 0), *(counter(h, v, stream=STAND_IN) for h, v in seen), counter(4, 3)], start=1)
    assert nets(rows) == [1, 1, 1]


def test_a_stand_in_that_saw_more_than_there_was_is_scaled_down():
    rows = hours_of([counter(0, 0), *(counter(h, 9 * h, stream=STAND_IN) for h in (1, 2, 3)), counter(4, 6)])
    assert nets(rows) == [0, 3, 3, 0]


def test_after_the_streams_last_reading_the_stand_in_is_all_that_is_known():
    rows = hours_of([counter(0, 0), counter(1, 1), *(counter(h, 5 + h, stream=STAND_IN) for h in (2, 3, 4))])
    assert nets(rows) == [1, None, 1, 1]


def test_a_gap_of_both_stays_unknown_by_the_hour_and_keeps_the_rest_as_coarse_buckets():
    seen = [counter(0, 0), counter(3, 5, stream=STAND_IN), counter(4, 6, stream=STAND_IN), counter(7, 13)]
    rows = hours_of(seen, end=7)
    assert nets([r for r in rows if r.window.hours == 1]) == [None, None, None, 1, None, None, None]
    assert [(r.window.hours, r.amounts.net) for r in rows if r.window.hours > 1] == [(3, 6), (3, 6)]


def test_a_stand_in_alone_is_read_as_the_stream():
    rows = hours_of([counter(h, v, stream=STAND_IN) for h, v in enumerate([3, 4, 5, 1, 2])])
    assert nets(rows) == [1, 1, None, 1]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 100)), min_size=3, max_size=40))
def test_whatever_stands_in_the_sum_is_the_streams_own(steps):
    """Each quarter of an hour: is the stream read or its stand-in, was there a withdrawal, and how much was earned."""
    total = unclaimed = 0
    observations = [counter(0, 0)]
    for number, (from_stream, withdrawal, amount) in enumerate([*steps, (True, False, 1)], start=1):
        total += amount
        unclaimed = amount if withdrawal else unclaimed + amount
        told = counter(number / 4, total) if from_stream else counter(number / 4, unclaimed, stream=STAND_IN)
        observations.append(told)
    # Reading on until the full hour, so that no row is cut.
    observations += [counter(n / 4, total) for n in range(len(steps) + 2, (len(steps) + 5) // 4 * 4 + 5)]
    hours = int((observations[-1].observed_at - START) / HOUR)
    rows = earned("node", observations, Window(START, START + hours * HOUR), lambda _h: Decimal(1))
    known = [row.amounts.net for row in rows]
    assert all(amount is None or amount >= 0 for amount in known)
    assert abs(sum(amount or 0 for amount in known) - total) < Decimal("1e-20")


def test_an_estimate_between_measured_readings_taints_only_the_hours_beside_it():
    kinds = [Provenance.MEASURED] * 2 + [Provenance.OUR_ESTIMATE] + [Provenance.MEASURED] * 3
    rows = hours_of([counter(h, h, provenance=kind) for h, kind in enumerate(kinds)], end=5)
    assert [row.provenance for row in rows] == [
        Provenance.MEASURED,
        Provenance.OUR_ESTIMATE,
        Provenance.OUR_ESTIMATE,
        Provenance.MEASURED,
        Provenance.MEASURED,
    ]


def test_buckets_cut_by_the_hour_are_shared_out_and_coarse_ones_keep_their_length():
    rows = hours_of([bucket(-0.5, 0.5, 2), bucket(0.5, 1, 1), bucket(1, 4, 9)])
    fine = [row for row in rows if row.window.hours == 1]
    assert nets(fine) == [2, None, None, None]
    assert fine[0].provenance is Provenance.OUR_ESTIMATE
    assert [row.amounts.net for row in rows if row.window.hours > 1] == [9]


def test_buckets_read_twice_are_not_counted_twice():
    rows = hours_of([bucket(0, 1, 3), bucket(0, 1, 3, observed=1.2), bucket(0.5, 2, 3)], end=2)
    assert nets(rows)[0] == 3


def test_an_unknown_amount_is_unknown_in_every_sum():
    rows = hours_of([counter(0, 0), counter(1, None), counter(2, 3)], end=2)
    assert nets(rows) == [None, None]


def test_without_a_price_native_amounts_stay_and_dollars_are_unknown():
    rows = hours_of([counter(0, 0), counter(1, 1)], end=1, price=None)
    assert nets(rows) == [1]
    assert rows[0].usd("net") is None


@given(
    st.lists(st.integers(5, int(MAX_GAP.total_seconds() // 60)), min_size=2, max_size=60),
    st.data(),
)
def test_hours_add_up_to_the_counter_whenever_it_was_read(gaps, data):
    steps = [Decimal(data.draw(st.integers(0, 10**6))) for _ in gaps]
    moment, total, readings = START, Decimal(0), [counter(0, 0)]
    for gap, step in zip(gaps, steps, strict=True):
        moment, total = moment + timedelta(minutes=gap), total + step
        readings.append(counter((moment - START) / HOUR, total))
    full = (moment - START) // HOUR
    rows = earned("node", readings, Window(START, START + full * HOUR), lambda _h: Decimal(1))
    known = [row.amounts.net for row in rows]
    assert len(known) == full
    assert None not in known
    after = next(r for r in readings if r.observed_at >= START + full * HOUR)
    before = [r for r in readings if r.observed_at <= START + full * HOUR][-1]
    summed = sum(known, Decimal(0))
    assert before.amounts.net - Decimal("1e-9") <= summed <= after.amounts.net + Decimal("1e-9")


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(1, 100), st.integers(101, 600), st.sampled_from([15, 30, 60, 59, 61, 120])),
            st.sampled_from([("a", "b"), ("a", "b"), ("a",), ("b",)]),
            st.integers(0, 50),
        ),
        max_size=30,
    )
)
def test_whenever_counters_are_read_all_that_they_told_is_in_the_rows_once(reads):
    """Each read: minutes since the one before, what streams answer, and what each earned meanwhile."""
    minutes, totals, both = 0, {"a": 0, "b": 0}, [0]
    seen = [counter(0, 0, stream=stream) for stream in totals]
    until_full_hour = 60 - sum(gap for gap, *_ in reads) % 60
    for gap, answered, amount in [*reads, (until_full_hour, ("a", "b"), 7)]:
        minutes += gap
        for number, stream in enumerate(totals, start=1):
            totals[stream] += amount * number
            if stream in answered:
                seen.append(counter(minutes / 60, totals[stream], stream=stream))
        both += [minutes] if len(answered) == 2 else []
    rows = hours_of(seen, end=minutes // 60)
    told = known(rows)
    assert abs(sum(net for *_, net in told) - sum(totals.values())) < Decimal("1e-20")
    assert all(net >= 0 for *_, net in told)
    sliver = EDGE_TOLERANCE / HOUR
    assert all(later >= end - sliver for (_, end, _), (later, _, _) in pairwise(told))
    assert len([row for row in rows if row.window.hours == 1]) == minutes // 60
    away = [(start, end) for start, end in pairwise(both) if timedelta(minutes=end - start) > MAX_GAP]
    for hour in range(minutes // 60):
        if all(end <= 60 * hour or start >= 60 * (hour + 1) for start, end in away):
            assert (hour, hour + 1) in {(start, end) for start, end, _ in told}


# --- streams that come and go


def quarter_hours(stream: str, start: float, end: float) -> list[EarningsBucket]:
    """A bucket of 1 every quarter of an hour."""
    steps = [start + step * 0.25 for step in range(int((end - start) * 4))]
    return [
        EarningsBucket(
            stream=stream,
            observed_at=at(step + 0.25),
            window=Window(at(step), at(step + 0.25)),
            unit="GLM",
            amounts=Amounts(gross=Decimal(1), held=Decimal(0), net=Decimal(1), doubtful=Decimal(0)),
            provenance=Provenance.MEASURED,
            source="test",
        )
        for step in steps
    ]


def nets_of(observations) -> list[Decimal | None]:
    return [row.amounts.net for row in earned("n", observations, Window(at(0), at(6)), lambda _hour: None)]


def test_a_stream_that_leaves_or_joins_leaves_the_others_hours_known():
    stays = quarter_hours("a", 0, 6)
    assert nets_of(stays + quarter_hours("b", 0, 2)) == [8, 8, None, 4, 4, 4], "its last minutes"
    assert nets_of(stays + quarter_hours("b", 2, 6)) == [4, 4, 8, 8, 8, 8]


def test_a_counter_that_joins_late_makes_only_the_hour_of_its_first_reading_unknown():
    stays = quarter_hours("a", 0, 6)
    joins = [counter(2.25 + step * 0.25, 10 + step, stream="b") for step in range(16)]
    assert nets_of(stays + joins) == [4, 4, None, 8, 8, 8]


def test_a_stream_missing_from_a_few_readings_is_unknown_there_and_not_zero():
    stays = quarter_hours("a", 0, 6)
    misses = quarter_hours("b", 0, 2) + quarter_hours("b", 3, 6)
    assert nets_of(stays + misses) == [8, 8, None, 8, 8, 8]
    assert nets_of(quarter_hours("a", 0, 6) + quarter_hours("b", 0, 5)) == [8, 8, 8, 8, 8, None], "it may come back"
