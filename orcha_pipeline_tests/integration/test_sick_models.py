"""The champion's files or MLflow are away or damaged: the champion before it answers, else seasonal naive."""

import shutil

import dagster as dg
import pytest

from orcha_pipeline.forecasting.artifact import hashes
from orcha_pipeline_tests.assets.test_model_assets import Rig
from orcha_pipeline_tests.rig import NOW

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with two versions of a model, the second of them champion."""
    home = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        rig = Rig(home, patch, instance)
        rig.train()
        rig.train()
        with rig.store.write() as connection:  # the second is no better: by hand, then
            connection.execute("UPDATE models SET champion = (version = '2')")
            connection.execute("INSERT INTO model_aliases VALUES ('fake', '2', 'champion', ?, 'ada', 'a test')", [NOW])
    return home


@pytest.fixture
def rig(trained, tmp_path, monkeypatch):
    home = tmp_path / "home"
    shutil.copytree(trained, home)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Rig(home, monkeypatch, instance, past=False)


def folder_of(rig, version):
    ((path,),) = rig.read(f"SELECT path FROM models WHERE version = '{version}'")
    return rig.home / path


def served(rig):
    """(version, note) by target of the forecast that is issued now."""
    return [(version, note) for _, _, version, note in rig.forecast()]


def damage(folder):
    """Turn a bit of every file that the model consists of."""
    for name in hashes(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)


def test_mlflow_is_not_asked_for_a_forecast(rig):
    assert served(rig) == [("2", "")] * 2
    shutil.rmtree(rig.home / "mlflow")  # its store, its artifacts, and so whatever its server could answer
    assert served(rig) == [("2", "")] * 2


@pytest.mark.parametrize("harm", [damage, shutil.rmtree], ids=["damaged", "missing"])
def test_while_the_champion_cannot_be_used_the_one_before_it_answers_and_then_seasonal_naive(rig, harm):
    harm(folder_of(rig, 2))
    for version, note in served(rig):
        assert version == "1"
        assert "the champion before it answers" in note
        assert str(folder_of(rig, 2)) in note
    harm(folder_of(rig, 1))
    for version, note in served(rig):
        assert version == "24h"
        assert "train the model again" in note
    rig.train()
    ((newest,),) = rig.read("SELECT max(CAST(version AS INTEGER)) FROM models")
    assert newest == 3


def test_what_answers_instead_is_marked_in_the_runs_metadata(rig):
    damage(folder_of(rig, 2))
    result = rig.forecast_run()
    (event,) = result.asset_materializations_for_node("forecast")
    records = event.metadata["forecasts"].records
    assert {record.data["model"].split()[-1] for record in records} == {"1"}
    assert all("the champion before it answers" in record.data["note"] for record in records)
