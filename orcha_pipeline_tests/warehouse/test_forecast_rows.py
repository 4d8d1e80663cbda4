from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from orcha_pipeline.model import HOUR, NET_NATIVE, YIELD_USD, YieldForecast
from orcha_pipeline.warehouse import forecast_rows as rows
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import record_forecasts
from orcha_pipeline.warehouse.facts import insert, naive

NOW = datetime(2026, 3, 5, 12, 5, tzinfo=UTC)
TOP = NOW.replace(minute=0)


@pytest.fixture
def connection(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    with warehouse.write() as connection:
        yield connection


def a_forecast(node="n", *, at=NOW, target=YIELD_USD):
    first = at.replace(minute=0)
    return YieldForecast(
        node=node,
        issued_at=at,
        hours=tuple(first + i * HOUR for i in range(24)),
        p10=tuple(0.1 * i for i in range(24)),
        p50=tuple(1.0 * i for i in range(24)),
        p90=tuple(10.0 * i for i in range(24)),
        model="lstm",
        version="7",
        target=target,
    )


def an_error(node="n", *, at=NOW, **changes):
    given = {
        "issued_at": at,
        "node": node,
        "target": YIELD_USD,
        "model": "lstm",
        "version": "7",
        "hours": 24,
        "abs_error": 2.0,
        "abs_truth": 10.0,
        "naive_abs_error": 3.0,
        "inside_band": 18,
        "scored_at": NOW,
    }
    return rows.ForecastErrorRow(**(given | changes))


def learn(connection, hour, *, node="n", usd=None, native=None):
    """Record what an hour brought; None is unknown."""
    connection.execute("DELETE FROM features_hourly WHERE node = ? AND hour = ?", [node, naive(hour)])
    row = {"node": node, "hour": hour, "yield_usd": usd, "net_native": native}
    insert(connection, "features_hourly", [row])


def node(connection, name, protocol):
    connection.execute("INSERT INTO nodes VALUES (?, ?, 'box', false, now()::TIMESTAMP)", [name, protocol])


# --- the migration


def test_forecasts_on_record_from_before_are_of_the_yield(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    with warehouse.write() as connection:
        # As the schema stood before.
        connection.execute("ALTER TABLE forecasts DROP COLUMN target")
        for table in ("forecast_errors", "alerts", "retraining_requests", "model_aliases"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("DELETE FROM schema_migrations WHERE name = '0003_forecasting.sql'")
        connection.execute(
            "INSERT INTO forecasts SELECT TIMESTAMP '2026-03-05 12:05', 'n', TIMESTAMP '2026-03-05 12:00', "
            "1, 2, 3, 'lstm', '6', ''"
        )
    assert warehouse.migrate()[0] == "0003_forecasting.sql"
    with warehouse.read() as connection:
        assert connection.execute("SELECT target, version FROM forecasts").fetchall() == [("yield_usd", "6")]


# --- what there is to score


def test_a_forecast_is_to_be_scored_as_soon_as_an_hour_of_it_is_known_and_again_when_another_is(connection):
    record_forecasts(connection, [a_forecast()])
    assert rows.to_score(connection, since=NOW - HOUR) == []
    learn(connection, TOP, usd=1.0)
    assert rows.to_score(connection, since=NOW - HOUR) == [a_forecast()]
    rows.record_forecast_errors(connection, [an_error(hours=1)])
    assert rows.to_score(connection, since=NOW - HOUR) == []
    learn(connection, TOP + HOUR, usd=None)
    assert rows.to_score(connection, since=NOW - HOUR) == []
    learn(connection, TOP + HOUR, usd=0.0)
    assert rows.to_score(connection, since=NOW - HOUR) == [a_forecast()]


def test_each_target_is_scored_by_its_own_facts(connection):
    record_forecasts(connection, [a_forecast(), a_forecast(target=NET_NATIVE)])
    learn(connection, TOP, native=3.0)
    assert [item.target for item in rows.to_score(connection, since=NOW - HOUR)] == [NET_NATIVE]
    learn(connection, TOP, usd=1.0, native=3.0)
    assert [item.target for item in rows.to_score(connection, since=NOW - HOUR)] == [NET_NATIVE, YIELD_USD]
    assert rows.known_hours(connection, since=TOP) == {("n", YIELD_USD): {TOP: 1.0}, ("n", NET_NATIVE): {TOP: 3.0}}


def test_what_another_node_earned_or_was_forecast_too_long_ago_scores_nothing(connection):
    record_forecasts(connection, [a_forecast()])
    learn(connection, TOP, node="m", usd=1.0)
    assert rows.to_score(connection, since=NOW - HOUR) == []
    learn(connection, TOP, usd=1.0)
    assert rows.to_score(connection, since=NOW + timedelta(minutes=1)) == []


def test_unknown_hours_are_absent_from_what_is_known(connection):
    learn(connection, TOP - HOUR, usd=1.0)
    learn(connection, TOP, usd=0.0)
    learn(connection, TOP + HOUR)
    learn(connection, TOP + 2 * HOUR, usd=float("nan"))
    assert rows.known_hours(connection, since=TOP) == {("n", YIELD_USD): {TOP: 0.0}}


# --- live errors


def test_a_score_is_replaced_when_more_is_known(connection):
    assert rows.record_forecast_errors(connection, [an_error(hours=3), an_error("m")]) == 2
    assert rows.record_forecast_errors(connection, [an_error(hours=4, naive_abs_error=None)]) == 1
    found = rows.forecast_errors(connection, since=NOW, nodes=["n"])
    assert found == [an_error(hours=4, naive_abs_error=None)]
    assert rows.record_forecast_errors(connection, []) == 0


def test_live_errors_are_read_by_node_time_and_target(connection):
    old, other = an_error(at=NOW - HOUR), an_error(target=NET_NATIVE)
    rows.record_forecast_errors(connection, [an_error(), old, other, an_error("m")])
    assert rows.forecast_errors(connection, since=NOW - HOUR, nodes=["n", "x"]) == [old, an_error()]
    assert rows.forecast_errors(connection, since=NOW, nodes=["n"], target=NET_NATIVE) == [other]
    assert rows.forecast_errors(connection, since=NOW, nodes=[]) == []


def test_the_summary_has_a_line_a_version_the_latest_first(connection):
    node(connection, "n", "storj")
    node(connection, "m", "storj")
    node(connection, "g", "golem")
    day = timedelta(days=1)
    rows.record_forecast_errors(
        connection,
        [
            an_error(at=NOW - day, version="6", abs_error=5.0, naive_abs_error=None),
            an_error(at=NOW - timedelta(minutes=4), abs_error=9.0),  # an earlier one of the same hour
            an_error(),
            an_error("m", abs_error=4.0, naive_abs_error=None),
            an_error("g", abs_error=9.0),
            an_error("n", abs_error=9.0, target=NET_NATIVE),
        ],
    )
    latest, old = rows.live_error_summary(connection, "storj", NOW - 2 * day)
    assert (latest.version, latest.model, latest.forecasts, latest.hours) == ("7", "lstm", 2, 48)
    assert latest.wape == pytest.approx(6.0 / 20.0)
    assert latest.naive_wape == pytest.approx(0.3)
    assert latest.coverage == pytest.approx(0.75)
    assert (latest.first_issued_at, latest.last_issued_at) == (NOW, NOW)
    assert (old.version, old.wape, old.naive_wape) == ("6", pytest.approx(0.5), None)
    assert [line.version for line in rows.live_error_summary(connection, "storj", NOW - HOUR)] == ["7"]
    assert rows.live_error_summary(connection, "streamr", NOW - day) == []


def test_a_version_that_met_only_zeros_has_no_wape(connection):
    node(connection, "n", "storj")
    rows.record_forecast_errors(connection, [an_error(abs_truth=0.0)])
    (line,) = rows.live_error_summary(connection, "storj", NOW)
    assert (line.wape, line.naive_wape, line.forecasts) == (None, None, 1)


# --- retraining


def test_a_protocol_is_retrained_once_a_day_at_most_taken_or_not(connection):
    first = rows.request_retraining(connection, protocol="storj", at=NOW, reason="drift")
    soon = NOW + rows.RETRAINING_COOLDOWN - timedelta(seconds=1)
    assert rows.request_retraining(connection, protocol="storj", at=soon, reason="drift") is None
    assert rows.request_retraining(connection, protocol="golem", at=NOW, reason="drift") is not None
    assert [request.request_id for request in rows.take_requests(connection, "storj", "run-1", NOW + HOUR)] == [first]
    assert rows.request_retraining(connection, protocol="storj", at=soon, reason="drift") is None
    later = NOW + rows.RETRAINING_COOLDOWN
    assert rows.request_retraining(connection, protocol="storj", at=later, reason="drift") not in (None, first)


def test_a_training_takes_the_open_requests_of_its_protocol_alone(connection):
    request = rows.request_retraining(connection, protocol="storj", at=NOW, reason="why")
    rows.request_retraining(connection, protocol="golem", at=NOW, reason="why")
    assert [item.protocol for item in rows.open_requests(connection)] == ["golem", "storj"]
    (taken,) = rows.take_requests(connection, "storj", "run-1", NOW + HOUR)
    assert (taken.request_id, taken.dagster_run_id, taken.taken_at) == (request, "run-1", NOW + HOUR)
    assert (taken.requested_at, taken.reason) == (NOW, "why")
    assert [item.protocol for item in rows.open_requests(connection)] == ["golem"]
    # What is taken stays the first run's.
    assert rows.take_requests(connection, "storj", "run-2", NOW + 2 * HOUR) == []
    kept = connection.execute("SELECT dagster_run_id FROM retraining_requests WHERE protocol = 'storj'").fetchall()
    assert kept == [("run-1",)]


def test_a_request_that_was_never_taken_gives_way_to_the_next(connection):
    rows.request_retraining(connection, protocol="storj", at=NOW, reason="old")
    rows.request_retraining(connection, protocol="storj", at=NOW + rows.RETRAINING_COOLDOWN, reason="new")
    assert [item.reason for item in rows.open_requests(connection)] == ["new"]
    taken = rows.take_requests(connection, "storj", "run-1", NOW + timedelta(days=2))
    assert [item.reason for item in taken] == ["old", "new"]
    assert rows.open_requests(connection) == []


# --- aliases


def test_every_move_of_an_alias_is_kept_in_order(connection):
    for version, why in (("1", "first training"), ("2", "better"), ("1", "rolled back")):
        rows.record_alias(
            connection, protocol="storj", version=version, alias="champion", at=NOW, who="operator", why=why
        )
    rows.record_alias(connection, protocol="golem", version="9", alias="champion", at=NOW, who="training", why="")
    moves = rows.alias_history(connection, "storj")
    assert [(move.version, move.why) for move in moves] == [
        ("1", "first training"),
        ("2", "better"),
        ("1", "rolled back"),
    ]
    assert (moves[0].alias, moves[0].who, moves[0].moved_at) == ("champion", "operator", NOW)
    assert rows.alias_history(connection, "grass") == []


def test_a_score_without_its_figures_is_refused(connection):
    with pytest.raises(duckdb.ConstraintException):
        rows.record_forecast_errors(connection, [an_error(abs_error=None)])
