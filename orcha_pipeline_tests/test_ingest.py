from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import ApiError, NodeConnectionError
from orcha_pipeline.ingest import (
    HOURS_A_WRITE,
    IngestReport,
    ingest_history,
    ingest_now,
    ingest_time_lapse,
    open_adapters,
)
from orcha_pipeline.installation import SteppedClock
from orcha_pipeline.model import HOUR, Amounts, Balance, BalanceKind, EarningsBucket, Provenance, Window, hour_of
from orcha_pipeline_tests.rig import NOW, FakeNode, FakePrices, installation, value_of

START = hour_of(NOW) - timedelta(hours=50)
"""Where a testnet's past begins."""


class Rig:
    def __init__(self, home, clock):
        self.clock: Any = clock
        self.nodes = {name: FakeNode(name, clock) for name in ("a", "b")}
        self.installation = installation(home, clock, list(self.nodes))
        self.warehouse = self.installation.warehouse
        self.prices: Any = FakePrices(clock)

    def now(self, *names):
        adapters = {name: self.nodes[name] for name in names or self.nodes}
        return ingest_now(self.installation, self.warehouse, adapters, self.prices)

    def history(self):
        window = Window(START, hour_of(NOW))
        return ingest_history(self.installation, self.warehouse, self.nodes, self.prices, window=window)

    def time_lapse(self, wall=NOW, **changes):
        return ingest_time_lapse(
            self.installation,
            self.clock,
            self.warehouse,
            self.nodes,
            self.prices,
            window=Window(START, hour_of(NOW) + HOUR),
            wall_clock=FixedClock(wall),
            **changes,
        )

    def hours_on_record(self):
        with self.warehouse.read() as connection:
            rows = connection.execute("SELECT DISTINCT observed_at FROM earnings ORDER BY ALL").fetchall()
        return [(moment - START.replace(tzinfo=None)) / HOUR for (moment,) in rows]


class Stepped:
    """Steps like the testnet's clock: never back, never once it is live."""

    def __init__(self, moment: datetime, live_at: datetime):
        self.moment, self.live_at, self.live = moment, live_at, False

    def now(self):
        return self.moment

    def is_live(self):
        return self.live

    def advance_to(self, moment):
        assert not self.live
        assert moment >= self.moment
        self.moment = moment

    def go_live(self):
        self.live, self.moment = True, self.live_at


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path, FixedClock(NOW))


@pytest.fixture
def past(tmp_path):
    clock = Stepped(START + timedelta(minutes=7), NOW)
    assert isinstance(clock, SteppedClock)
    return Rig(tmp_path, clock)


# --- live


def test_a_node_is_asked_for_what_came_since_it_was_last_read(rig):
    rig.clock.set(NOW - timedelta(minutes=40))
    rig.now("a")
    rig.clock.set(NOW)
    rig.now()
    assert rig.nodes["a"].asked[-1] == Window(NOW - timedelta(minutes=40), NOW)
    assert rig.nodes["b"].asked[-1] == Window(NOW - HOUR, NOW)  # never read before


def test_a_node_away_for_longer_than_a_day_is_asked_for_its_last_day(rig):
    rig.clock.set(NOW - timedelta(days=3))
    rig.now("a")
    rig.clock.set(NOW)
    rig.now("a")
    assert rig.nodes["a"].asked[-1] == Window(NOW - timedelta(days=1), NOW)


def test_a_cycle_run_twice_in_its_slot_asks_for_the_same_and_writes_once(rig):
    rig.clock.set(NOW - timedelta(minutes=30))
    rig.now()
    rig.clock.set(NOW)
    rig.now()
    rig.clock.set(NOW + timedelta(minutes=3))
    rig.now()
    assert [window.start for window in rig.nodes["a"].asked[1:]] == [NOW - timedelta(minutes=30)] * 2
    assert value_of(rig.warehouse, "SELECT count(*) FROM earnings WHERE node = 'a'") == 2
    assert value_of(rig.warehouse, "SELECT count(*) FROM prices WHERE token = 'golem'") == 2
    latest = "SELECT arg_max(net, observed_at) FROM earnings WHERE node = 'a'"
    assert value_of(rig.warehouse, latest) == 3  # the slot's last reading stands


def test_balances_are_read_once_an_hour_and_until_an_amount_came(rig, monkeypatch):
    asked: list[tuple[str, int]] = []

    def tells(node, amount):
        def balances():
            minute = round((rig.clock.now() - hour_of(NOW)) / timedelta(minutes=1))
            asked.append((node, minute))
            known = amount(minute)
            held = Balance(
                kind=BalanceKind.PENDING,
                account="main",
                observed_at=rig.clock.now(),
                since=None,
                unit="STORJ",
                amount=known,
                provenance=Provenance.UNKNOWN if known is None else Provenance.MEASURED,
                source="test",
            )
            return [held]

        monkeypatch.setattr(rig.nodes[node], "balances", balances)

    tells("a", lambda _minute: Decimal(1))
    tells("b", lambda minute: None if minute < 30 else Decimal(2))
    for minute in (0, 3, 15, 30, 45, 60):
        rig.clock.set(hour_of(NOW) + timedelta(minutes=minute))
        rig.now()
    # A slot that is read again has its own reading replaced, and so has to ask again.
    assert [minute for node, minute in asked if node == "a"] == [0, 3, 60]
    assert [minute for node, minute in asked if node == "b"] == [0, 3, 15, 30, 60]


def test_a_node_that_does_not_answer_is_marked_and_spoils_no_other(rig):
    rig.nodes["a"].fails = lambda: NodeConnectionError("a", "connection refused")
    report = rig.now()
    assert report.failures == {"a": "connection refused"}
    assert report.rows["fake", "earnings"] == 1
    assert report.readings == 2
    assert value_of(rig.warehouse, "SELECT state FROM node_health WHERE node = 'a'") == "unreachable"
    assert value_of(rig.warehouse, "SELECT count(*) FROM earnings WHERE node = 'a'") == 0


def test_the_machine_itself_is_measured_under_its_hosts_name(rig):
    rig.now()
    assert value_of(rig.warehouse, "SELECT count(*) FROM resource_usage WHERE node = 'host:box'") > 0


def test_a_price_is_held_against_the_last_one_only_while_that_is_recent(rig):
    rig.now()
    rig.clock.set(NOW + HOUR)
    rig.now()
    rig.clock.set(NOW + 4 * HOUR)
    rig.now()
    assert rig.prices.known == [{}, dict.fromkeys(FakePrices.tokens, Decimal("0.25")), {}]


# --- time-lapse


def test_the_past_is_read_hour_by_hour_and_then_the_clock_follows_the_wall(past):
    report = past.time_lapse()
    assert past.hours_on_record() == [7 / 60, *range(1, 51)]
    assert report.readings == 2 * 51
    assert report.rows["fake", "earnings"] == 2 * 51
    assert report.price_rows == 2 * 51
    windows = past.nodes["b"].asked
    assert all(later.start == earlier.end for earlier, later in pairwise(windows))
    assert past.clock.is_live()


def test_no_hour_that_has_not_come_yet_is_played(past):
    past.time_lapse(wall=START + timedelta(hours=3, minutes=59))
    assert past.hours_on_record() == [7 / 60, 1, 2, 3]


def test_a_day_of_readings_is_written_at_once(past):
    seen: list[int] = []
    past.time_lapse(on_hour=lambda _hour: seen.append(value_of(past.warehouse, "SELECT count(*) FROM node_health")))
    a_day = 2 * HOURS_A_WRITE
    assert seen == [0] * 23 + [a_day] * 24 + [2 * a_day] * 4
    assert value_of(past.warehouse, "SELECT count(*) FROM node_health") == 2 * 51


def test_a_time_lapse_cut_short_goes_on_where_the_clock_stands(past):
    def cut(hour):
        if hour == START + 30 * HOUR:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        past.time_lapse(on_hour=cut)
    assert not past.clock.is_live()
    assert past.hours_on_record()[-1] == 23
    past.time_lapse()
    # What was read and not written yet is a gap, and the next reading is asked to tell of all of it.
    assert past.hours_on_record() == [7 / 60, *range(1, 24), *range(30, 51)]
    resumed = next(window for window in past.nodes["a"].asked[31:])
    assert resumed == Window(START + 23 * HOUR, START + 30 * HOUR)
    assert past.clock.is_live()


def test_a_node_that_came_back_is_no_failure_and_one_that_stays_away_is(past):
    def away(first, last):
        def fails():
            hour = (past.clock.now() - START) / HOUR
            return NodeConnectionError("x", f"away at {hour:.0f}") if first <= hour <= last else None

        return fails

    past.nodes["a"].fails = away(3, 30)
    past.nodes["b"].fails = away(40, 99)
    assert past.time_lapse().failures == {"b": "away at 50"}


def test_after_an_outage_the_time_lapse_asks_for_the_gap_and_for_no_more_than_a_day(past):
    past.nodes["a"].fails = lambda: (
        NodeConnectionError("a", "away") if START + 2 * HOUR < past.clock.now() < START + 10 * HOUR else None
    )
    past.nodes["b"].fails = lambda: (
        NodeConnectionError("b", "away") if START + 2 * HOUR < past.clock.now() < START + 40 * HOUR else None
    )
    past.time_lapse()
    assert Window(START + 2 * HOUR, START + 10 * HOUR) in past.nodes["a"].asked
    assert Window(START + 16 * HOUR, START + 40 * HOUR) in past.nodes["b"].asked


def test_an_old_price_is_not_held_against_new_ones_for_ever(past):
    past.prices.usd = lambda call: Decimal(1) if call == 0 else None
    past.time_lapse(wall=START + 5 * HOUR)
    # The first hour is read 7 minutes late, so the price of it is 1:53 old at 2:00 and too old at 3:00.
    assert [bool(known) for known in past.prices.known] == [False, True, True, False, False, False]


# --- history


def test_history_keeps_what_each_node_remembers_and_tells_what_failed(rig):
    day = Window(START, START + 24 * HOUR)
    bucket = EarningsBucket(
        stream="days",
        observed_at=NOW,
        window=day,
        unit="GLM",
        amounts=Amounts(net=Decimal(7)),
        provenance=Provenance.MEASURED,
        source="fake",
    )
    rig.nodes["a"].past = [bucket]
    rig.nodes["b"].past = ApiError("b", "HTTP 500")
    rig.prices.no_history_of = {"golem": ApiError("prices", "HTTP 429")}
    for _ in range(2):  # asking again replaces
        report = rig.history()
        assert report.failures == {"b": "HTTP 500", "prices of golem": "HTTP 429"}
        assert report.rows["fake", "earnings"] == 1
        assert report.price_rows == 1
        assert value_of(rig.warehouse, "SELECT count(*) FROM earnings") == 1
        assert value_of(rig.warehouse, "SELECT string_agg(token) FROM prices") == "storj"
    assert value_of(rig.warehouse, "SELECT gross FROM earnings") is None
    assert rig.nodes["a"].asked == [Window(START, hour_of(NOW))] * 2


# --- the rest


def test_of_two_reports_rows_add_up_and_the_later_failure_stands():
    first, second = IngestReport(price_rows=1, readings=2), IngestReport(price_rows=3, readings=4)
    first.rows["storj", "earnings"], second.rows["storj", "earnings"] = 5, 6
    first.failures, second.failures = {"a": "old", "b": "only here"}, {"a": "new"}
    both = first.plus(second)
    assert (both.rows["storj", "earnings"], both.price_rows, both.readings) == (11, 4, 6)
    assert both.failures == {"a": "new", "b": "only here"}


def test_adapters_are_closed_whatever_happens(rig, monkeypatch):
    made: list[FakeNode] = []

    def make(settings, clock):
        made.append(FakeNode(settings.name, clock))
        return made[-1]

    monkeypatch.setattr("orcha_pipeline.ingest.make_adapter_anyhow", make)
    with pytest.raises(RuntimeError), open_adapters(rig.installation, ["fake"]) as adapters:
        assert sorted(adapters) == ["a", "b"]
        raise RuntimeError
    assert [node.closed for node in made] == [True, True]
    with open_adapters(rig.installation, ["storj"]) as adapters:
        assert adapters == {}
