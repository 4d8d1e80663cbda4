"""Training and forecasting as Dagster runs: two targets served, requests taken, and failures that change nothing."""

from dataclasses import asdict, replace
from datetime import timedelta

import dagster as dg
import numpy as np
import pytest

from orcha_pipeline.anomalies.catalogue import NODE_UNREACHABLE
from orcha_pipeline.assets.forecast import build_forecast
from orcha_pipeline.assets.models import build_models, model_keys
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import training
from orcha_pipeline.forecasting.features import to_datetime
from orcha_pipeline.model import HOUR, NET_NATIVE, YIELD_USD, hour_of
from orcha_pipeline.resources import ModelRegistryResource, NodesResource, WarehouseResource
from orcha_pipeline.warehouse import anomaly_rows, decisions, forecast_rows
from orcha_pipeline.warehouse.facts import insert
from orcha_pipeline_tests.rig import NOW, installation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
HOURS = 28 * 24


class Rig:
    """An installation with one node and four noisy weeks of it, trained by the quickest candidates."""

    def __init__(self, home, monkeypatch, instance, *, past=True):
        self.installation = installation(home, FixedClock(NOW), ["a"])
        self.home, self.store, self.instance = home, self.installation.warehouse, instance
        self.only("hour_mean")
        monkeypatch.setattr(NodesResource, "installation", lambda _self: self.installation)
        self.resources = {
            "nodes": NodesResource(),
            "warehouse": WarehouseResource(database=str(self.store.path)),
            "model_registry": ModelRegistryResource(home=str(home)),
        }
        if not past:  # it is in this home already
            return
        rng = np.random.default_rng(1)
        profile = 1 + 0.5 * np.sin(2 * np.pi * np.arange(HOURS) / 24)
        values = profile * np.exp(0.25 * rng.standard_normal(HOURS))
        first = hour_of(NOW) - HOURS * HOUR
        with self.store.write() as connection:
            insert(
                connection,
                "features_hourly",
                [
                    {"node": "a", "hour": first + n * HOUR, "share": 0.5, "yield_usd": v, "net_native": 5 * v}
                    for n, v in enumerate(values.tolist())
                ],
            )

    def only(self, *candidates):
        """Train these from now on, and seasonal naive."""
        made = self.installation
        forecast = made.settings.forecast.model_copy(update={"candidates": candidates})
        self.installation = replace(made, settings=made.settings.model_copy(update={"forecast": forecast}))

    def train(self, **options):
        return dg.materialize(
            build_models(["fake"]),
            selection=dg.AssetSelection.assets(*model_keys(["fake"])),
            resources=self.resources,
            instance=self.instance,
            **options,
        )

    def forecast_run(self):
        return dg.materialize(
            [build_forecast(["fake"])],
            selection=dg.AssetSelection.assets("forecast"),
            resources=self.resources,
            instance=self.instance,
        )

    def forecast(self):
        self.forecast_run()
        return self.read("SELECT DISTINCT target, model, version, note FROM forecasts ORDER BY target")

    def read(self, query):
        with self.store.read() as connection:
            return connection.execute(query).fetchall()

    def champion(self):
        with self.store.read() as connection:
            found = decisions.champions(connection)
        return found["fake"].version if found else None


@pytest.fixture
def rig(tmp_path, monkeypatch):
    with dg.DagsterInstance.ephemeral() as instance:
        yield Rig(tmp_path, monkeypatch, instance)


def test_a_training_is_a_champion_with_its_reason_and_linked_to_mlflow(rig):
    result = rig.train()
    (event,) = result.asset_materializations_for_node("fake__earnings_model")
    told = {name: found.value for name, found in event.metadata.items()}
    assert (told["version"], told["champion"]) == ("1", True)
    assert "there was no champion" in told["why"]
    assert "/runs/" in told["MLflow run"]
    assert {record.data["model"] for record in event.metadata["candidates"].records} == {
        "served",
        "seasonal_naive",
        "hour_mean",
    }
    assert "data:image/png" in told["error by horizon"]
    assert "data:image/png" in told["fan against truth"]
    assert rig.champion() == "1"
    assert rig.read("SELECT version, alias, who FROM model_aliases") == [("1", "champion", "training")]


def test_the_champion_forecasts_both_targets(rig):
    before = rig.forecast()
    assert [row[1:] for row in before] == [("seasonal_naive", "24h", "no model has become champion yet")] * 2
    rig.train()
    after = rig.forecast()
    assert [row[0] for row in after] == [NET_NATIVE, YIELD_USD]
    assert {row[2:] for row in after} == {("1", "")}
    assert all("hour_mean" in row[1] for row in after)
    with rig.store.read() as connection:
        (planned,) = decisions.latest_forecasts(connection, since=NOW - timedelta(hours=1)).values()
    assert planned.target == YIELD_USD
    assert 0.2 < np.mean(planned.p50) < 3  # and not native earnings, five times that


def test_hours_with_something_wrong_are_unknown_to_the_training_and_stay_on_record(rig, monkeypatch):
    away = [hour_of(NOW) - hours * HOUR for hours in (30, 29, 28)]
    with rig.store.write() as connection:
        for hour in away:
            found = NODE_UNREACHABLE.found("a", "refused", at=hour)
            anomaly_rows.record_anomalies(connection, hour, [asdict(found)])
    seen = []

    def train(panel, **options):
        seen.extend(panel)
        return training_of(panel, **options)

    training_of = training.train_protocol
    monkeypatch.setattr(training, "train_protocol", train)
    result = rig.train()
    (event,) = result.asset_materializations_for_node("fake__earnings_model")
    assert event.metadata["hours left out for anomalies"].value == 6  # of two targets
    assert {one.name for one in seen} == {"a:yield_usd", "a:net_native"}
    for one in seen:
        unknown = {to_datetime(one.first_hour + int(place)) for place in np.flatnonzero(np.isnan(one.values))}
        assert unknown == set(away)
    assert rig.read("SELECT count(*) FROM features_hourly WHERE yield_usd IS NULL") == [(0,)]


def test_a_training_takes_the_requests_for_it(rig):
    with rig.store.write() as connection:
        forecast_rows.request_retraining(connection, protocol="fake", at=NOW, reason="drift")
    result = rig.train()
    assert rig.read("SELECT dagster_run_id FROM retraining_requests") == [(result.run_id,)]


@pytest.mark.parametrize("stage", ["fit", "register"])
def test_a_failed_training_never_touches_the_champion(rig, monkeypatch, stage):
    rig.train()
    served = rig.forecast()

    def fail(*args, **kwargs):
        raise ModelError("no space left on the disk")

    if stage == "fit":
        monkeypatch.setattr(training, "train_protocol", fail)
    else:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        def refuse(*args, **kwargs):
            raise MlflowException("no space left on the disk")

        monkeypatch.setattr(MlflowClient, "create_model_version", refuse)
    failed = rig.train(raise_on_error=False)
    assert not failed.success
    assert "no space left on the disk" in str(failed.all_events)
    assert rig.champion() == "1"
    assert rig.read("SELECT count(*) FROM models") == [(1,)]
    assert rig.forecast() == served


def test_a_training_that_is_no_better_does_not_displace_the_champion(rig):
    rig.train()
    rig.only("seasonal_naive")
    (event,) = rig.train().asset_materializations_for_node("fake__earnings_model")
    assert event.metadata["champion"].value is False
    assert "no better than seasonal naive" in event.metadata["why"].value
    assert rig.read("SELECT version, champion FROM models ORDER BY version") == [("1", True), ("2", False)]
    assert rig.champion() == "1"
