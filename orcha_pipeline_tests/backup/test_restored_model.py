"""The champion after a restore elsewhere: through MLflow, in serving, and for the doctor."""

from datetime import UTC, datetime

import numpy as np
import pytest

from orcha_pipeline.doctor import _models
from orcha_pipeline.forecasting import model_registry
from orcha_pipeline.forecasting.champion import check
from orcha_pipeline.forecasting.model_registry import log_training
from orcha_pipeline.forecasting.served_model import ServedModel, read_example
from orcha_pipeline.forecasting.serving import forecast
from orcha_pipeline.installation import Installation
from orcha_pipeline.nodes_check import Status
from orcha_pipeline.settings import Settings, mlflow_store
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline_tests.backup.build import backed_up
from orcha_pipeline_tests.backup.test_restore import put_back
from orcha_pipeline_tests.forecasting import synthetic
from orcha_pipeline_tests.forecasting.conftest import NOISE, TRAINED_AT, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
ISSUED = datetime(2026, 1, 29, 6, 10, tzinfo=UTC)


@pytest.fixture
def trained_home(tmp_path):
    """A data folder with storj's champion, trained and registered as the asset does it."""
    home = tmp_path / "installed" / ".orcha"
    warehouse = Warehouse(home / "warehouse.duckdb")
    warehouse.migrate()
    trained = train(home / "models" / "storj" / "run", synthetic.features(noise=NOISE))
    registered = log_training(trained, tracking_uri=mlflow_store(home), dagster_run_id="run")
    assert registered.champion
    row = decisions.ModelRow(
        protocol="storj",
        version=registered.version,
        kind="served",
        trained_at=TRAINED_AT,
        mlflow_run_id=registered.run_id,
        dagster_run_id="run",
        data_start=trained.manifest.data_start,
        data_end=trained.manifest.data_end,
        data_hash=trained.manifest.data_sha256,
        metrics={},
        path="models/storj/run",
        champion=True,
    )
    with warehouse.write() as connection:
        decisions.record_model(connection, row)
    return home


def served(home):
    """The forecast of a cycle."""
    with Warehouse(home / "warehouse.duckdb").read() as connection:
        champion = decisions.champions(connection)["storj"]
    panel = synthetic.panel(synthetic.features(noise=NOISE))
    (first, *_) = forecast(panel, issued_at=ISSUED, model_dir=home / champion.path, min_history_hours=48)
    return first


def through_mlflow(home):
    """Loads the champion as MLflow names it, and asks it what its training asked."""
    import mlflow.pyfunc
    import pandas as pd

    client = model_registry.open_client(mlflow_store(home))
    version = client.get_model_version_by_alias("orcha-storj", "champion")
    assert version.source.startswith(home.as_uri())
    run = client.get_run(version.run_id)
    assert {file.path for file in client.list_artifacts(run.info.run_id, "charts")} >= {"charts/forecast_fan.png"}
    loaded = mlflow.pyfunc.load_model(version.source)
    histories, logged = read_example(home / "models" / "storj" / "run")
    table = pd.concat(
        pd.DataFrame(
            {
                "unique_id": one.name,
                "ds": np.arange(one.first_hour, one.end).astype("datetime64[h]").astype("datetime64[us]"),
                "y": one.between(one.first_hour, one.end),
                "share": one.shares,
            }
        )
        for one in histories
    )
    answer = loaded.predict(table)
    for one, expected in zip(histories, logged, strict=True):
        own = answer[answer["unique_id"] == one.name]
        np.testing.assert_array_equal(own[["p10", "p50", "p90"]].to_numpy(), expected)


def test_the_champion_loads_and_forecasts_the_same_on_another_machine(tmp_path, trained_home):
    before = served(trained_home)
    assert before.version == "1"
    backed_up(trained_home, tmp_path / "a.tar.gz")
    trained_home.parent.rename(tmp_path / "out of reach")
    home = tmp_path / "elsewhere" / ".orcha"
    put_back(tmp_path / "a.tar.gz", home)

    assert served(home) == before
    assert ServedModel.open(home / "models" / "storj" / "run").reproduces()
    assert check(Warehouse(home / "warehouse.duckdb"), home=home, protocol="storj", version="1") > 0
    settings = Settings(home=home)
    (found,) = _models(Installation(settings=settings, clock=None, simulated=True))  # type: ignore[arg-type]
    assert (found.status, found.text) == (Status.OK, "the files of 1 champions are as they were written")
    through_mlflow(home)

    # A training afterwards goes to the new place.
    second = train(home / "models" / "storj" / "second", synthetic.features(noise=NOISE))
    registered = log_training(second, tracking_uri=mlflow_store(home), dagster_run_id="second")
    assert registered.version == "2"
    version = model_registry.open_client(mlflow_store(home)).get_model_version("orcha-storj", "2")
    assert version.source.startswith(home.as_uri())
    assert not (tmp_path / "installed").exists()
