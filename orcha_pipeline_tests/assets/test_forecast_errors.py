from datetime import timedelta

import dagster as dg
import pytest

from orcha_pipeline.assets.forecast_errors import FORECAST_DRIFT, FORECAST_ERRORS, build_forecast_errors
from orcha_pipeline.automation.jobs import CYCLE
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.definitions import build_defs
from orcha_pipeline.model import HOUR, NET_NATIVE, YIELD_USD, YieldForecast
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.settings import Settings
from orcha_pipeline.warehouse import alert_rows, decisions, forecast_rows
from orcha_pipeline.warehouse.facts import insert
from orcha_pipeline_tests.rig import NOW, installation

TOP = NOW.replace(minute=0)
DAY = timedelta(hours=24)


class Rig:
    """An installation with two nodes that earn `truth` an hour, and what the asset made of it."""

    def __init__(self, home, monkeypatch, instance):
        self.clock = FixedClock(NOW)
        self.installation = installation(home, self.clock, ["a", "b"])
        self.store = self.installation.warehouse
        monkeypatch.setattr(NodesResource, "installation", lambda _self: self.installation)
        self.instance = instance

    def champion(self, version="7", **metrics):
        row = decisions.ModelRow(
            protocol="fake",
            version=version,
            kind="lstm",
            trained_at=NOW,
            mlflow_run_id="",
            dagster_run_id="",
            data_start=NOW,
            data_end=NOW,
            data_hash="",
            metrics=metrics or {"served pooled_wape": 0.2, "served pooled_wape_std": 0.02},
            path="models/fake",
            champion=True,
        )
        with self.store.write() as connection:
            decisions.record_model(connection, row)

    def earned(self, first, hours, value):
        """Each hour's yield from `first` on, of both nodes; native earnings are ten times that."""
        rows = [
            {
                "node": node,
                "hour": first + n * HOUR,
                "yield_usd": value,
                "net_native": None if value is None else 10 * value,
            }
            for node in ("a", "b")
            for n in range(hours)
        ]
        with self.store.write() as connection:
            insert(connection, "features_hourly", rows)

    def forecast(self, p50, *, first_issue, issues, version="7", target=YIELD_USD):
        """One forecast an hour of both nodes."""
        made = [
            YieldForecast(
                node=node,
                issued_at=first_issue + n * HOUR,
                hours=tuple((first_issue + n * HOUR).replace(minute=0) + i * HOUR for i in range(24)),
                p10=(0.9 * p50,) * 24,
                p50=(p50,) * 24,
                p90=(1.1 * p50,) * 24,
                model="lstm",
                version=version,
                target=target,
            )
            for node in ("a", "b")
            for n in range(issues)
        ]
        with self.store.write() as connection:
            decisions.record_forecasts(connection, made)

    def run(self, at=NOW):
        """Materialize the asset at that moment; its metadata."""
        self.clock.set(at)
        result = dg.materialize(
            [build_forecast_errors()],
            selection=dg.AssetSelection.assets(FORECAST_ERRORS),
            resources={"nodes": NodesResource(), "warehouse": WarehouseResource(database=str(self.store.path))},
            instance=self.instance,
        )
        (event,) = result.asset_materializations_for_node("forecast_errors")
        return {name: found.value for name, found in event.metadata.items()}

    def read(self, query):
        with self.store.read() as connection:
            return connection.execute(query).fetchall()

    def open_alerts(self):
        with self.store.read() as connection:
            return alert_rows.open_alerts(connection)

    def requests(self):
        return self.read("SELECT protocol, dagster_run_id FROM retraining_requests ORDER BY requested_at")


@pytest.fixture
def rig(tmp_path, monkeypatch):
    with dg.DagsterInstance.ephemeral() as instance:
        yield Rig(tmp_path, monkeypatch, instance)


def a_settled_day(rig, p50):
    """Yields of 1.0 known up to now; forecasts of `p50` issued 36..13 h ago."""
    rig.earned(TOP - 8 * DAY, 8 * 24, 1.0)
    rig.forecast(p50, first_issue=NOW - timedelta(hours=36), issues=24)


def test_it_is_part_of_the_cycle_beside_the_decision():
    defs = build_defs(Settings())
    keys = defs.resolve_job_def(CYCLE).asset_layer.selected_asset_keys
    assert FORECAST_ERRORS in keys
    upstream = defs.resolve_asset_graph().get(FORECAST_ERRORS).parent_keys
    assert upstream == {dg.AssetKey(["features"]), dg.AssetKey(["forecast"])}


def test_before_the_first_forecast_there_is_nothing_to_score(rig):
    assert rig.run()["dagster/row_count"] == 0
    assert rig.open_alerts() == []


def test_each_issued_forecast_gets_a_row_of_both_targets_that_grows_with_what_is_known(rig):
    rig.earned(TOP - 2 * DAY, 48, 1.0)
    rig.forecast(1.5, first_issue=NOW, issues=1)
    rig.forecast(10.5, first_issue=NOW, issues=1, target=NET_NATIVE)
    assert rig.run()["dagster/row_count"] == 0
    rig.earned(TOP, 3, 1.0)
    assert rig.run(NOW + 3 * HOUR)["dagster/row_count"] == 4
    read = (
        "SELECT target, hours, abs_error, abs_truth, naive_abs_error, inside_band FROM forecast_errors WHERE node='a'"
    )
    assert sorted(rig.read(read)) == [
        ("net_native", 3, pytest.approx(1.5), pytest.approx(30.0), pytest.approx(0.0), 3),
        ("yield_usd", 3, pytest.approx(1.5), pytest.approx(3.0), pytest.approx(0.0), 0),
    ]
    # The same cycle again finds nothing new; a day later the rows are replaced.
    assert rig.run(NOW + 3 * HOUR)["dagster/row_count"] == 0
    rig.earned(TOP + 3 * HOUR, 30, 1.0)
    assert rig.run(NOW + 33 * HOUR)["dagster/row_count"] == 4
    assert [row[1] for row in rig.read(read)] == [24, 24]
    assert rig.run(NOW + 34 * HOUR)["dagster/row_count"] == 0


def test_seasonal_naive_is_read_from_days_before_where_yesterday_is_unknown(rig):
    rig.earned(TOP - 6 * DAY, 24, 2.0)
    rig.earned(TOP - DAY, 24, 1.0)
    rig.forecast(1.0, first_issue=NOW - DAY, issues=1)
    rig.run()
    assert rig.read("SELECT DISTINCT hours, naive_abs_error FROM forecast_errors") == [(24, pytest.approx(24.0))]


def test_a_champion_that_keeps_its_promise_raises_nothing(rig):
    rig.champion()
    a_settled_day(rig, 1.0)
    metadata = rig.run()
    assert rig.open_alerts() == []
    assert rig.requests() == []
    (line,) = metadata["live errors"].records
    assert line.data["state"] == "steady"
    assert line.data["live WAPE"] == "0.000"
    assert line.data["coverage of p10..p90"] == "1.000"
    assert line.data["WAPE of the last 7 days"].endswith("0.000, 0.000")
    assert line.data["WAPE of the last 7 days"].startswith("unknown")
    assert metadata["fake live WAPE"] == 0.0


def test_drift_raises_one_alert_and_asks_for_one_retraining(rig):
    rig.champion()
    a_settled_day(rig, 1.4)
    rig.run()
    (alert,) = rig.open_alerts()
    assert (alert.kind, alert.subject, alert.severity) == (FORECAST_DRIFT, "fake", "warning")
    assert "live WAPE 0.400 is beyond 0.260" in alert.message
    assert alert.evidence["live_wape"] == pytest.approx(0.4)
    assert rig.requests() == [("fake", None)]
    rig.run(NOW + timedelta(minutes=15))
    assert [found.alert_id for found in rig.open_alerts()] == [alert.alert_id]
    assert len(rig.requests()) == 1


def test_a_retraining_that_did_not_help_is_asked_for_again_only_a_day_later_and_the_alert_stays(rig):
    rig.champion()
    a_settled_day(rig, 1.4)
    rig.run()
    with rig.store.write() as connection:
        forecast_rows.take_requests(connection, "fake", "run-1", NOW)
    rig.earned(TOP, 24, 1.0)
    rig.forecast(1.4, first_issue=NOW - timedelta(hours=12), issues=24)
    rig.run(NOW + 23 * HOUR)
    assert rig.requests() == [("fake", "run-1")]
    rig.run(NOW + 24 * HOUR)
    assert rig.requests() == [("fake", "run-1"), ("fake", None)]
    assert len(rig.open_alerts()) == 1


def test_the_alert_is_resolved_when_the_drift_has_ended_and_not_while_too_little_is_known_of_the_next_champion(rig):
    rig.champion()
    a_settled_day(rig, 1.4)
    rig.run()
    rig.champion("8")
    rig.run(NOW + HOUR)
    assert len(rig.open_alerts()) == 1
    rig.earned(TOP, 36, 1.0)
    rig.forecast(1.0, first_issue=NOW, issues=24, version="8")
    metadata = rig.run(NOW + 36 * HOUR)
    assert rig.open_alerts() == []
    assert rig.read("SELECT count(*) FROM alerts WHERE resolved_at IS NOT NULL") == [(1,)]
    assert metadata["live errors"].records[0].data["version"] == "8"
    assert len(rig.requests()) == 1


def test_worse_than_yesterday_for_a_day_is_drift_where_no_backtest_figure_is_known(rig):
    rig.champion(**{"seasonal_naive wape": 0.9})
    a_settled_day(rig, 1.1)
    rig.run()
    (alert,) = rig.open_alerts()
    assert "worse than seasonal naive's 0.000" in alert.message


def test_forecasts_that_the_champion_did_not_make_are_scored_but_not_held_against_it(rig):
    rig.champion()
    rig.earned(TOP - 8 * DAY, 8 * 24, 1.0)
    rig.forecast(5.0, first_issue=NOW - timedelta(hours=36), issues=24, version="24h")
    metadata = rig.run()
    assert metadata["dagster/row_count"] == 48
    assert metadata["live errors"].records[0].data["state"] == "unknown"
    assert rig.open_alerts() == []


def test_a_protocol_without_a_champion_is_scored_and_not_judged(rig):
    a_settled_day(rig, 5.0)
    metadata = rig.run()
    assert metadata["dagster/row_count"] == 48
    assert "live errors" not in metadata
    assert rig.open_alerts() == []


def test_hours_that_are_unknown_raise_no_alert(rig):
    rig.champion()
    rig.earned(TOP - 8 * DAY, 8 * 24, None)
    rig.forecast(5.0, first_issue=NOW - timedelta(hours=36), issues=24)
    assert rig.run()["dagster/row_count"] == 0
    assert rig.open_alerts() == []
