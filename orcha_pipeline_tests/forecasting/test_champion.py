from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import champion, model_registry
from orcha_pipeline.forecasting.artifact import MANIFEST_FILE, read_manifest, write
from orcha_pipeline.forecasting.champion import Place, before_last, check, promote, rollback
from orcha_pipeline.forecasting.model_registry import log_training
from orcha_pipeline.models_view import models_json, survey
from orcha_pipeline.warehouse import decisions, forecast_rows
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline_tests.forecasting.conftest import NOISE, train
from orcha_pipeline_tests.forecasting.synthetic import features

NOW = datetime(2026, 2, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("history", "present", "expected"),
    [
        ([], None, None),
        (["1"], "1", None),
        (["1", "2"], "2", "1"),
        (["1", "2", "3", "2"], "2", "1"),
        (["1", "3", "1", "4"], "4", "1"),
        (["1", "2"], None, "2"),
    ],
)
def test_a_rollback_leads_to_the_champion_before_and_the_next_one_further_back(history, present, expected):
    assert before_last(history, present) == expected


@given(st.lists(st.sampled_from("12345")))
def test_repeated_rollbacks_end_and_never_visit_a_version_twice(history):
    present, seen = (history[-1] if history else None), set()
    while present is not None:
        assert present not in seen
        seen.add(present)
        following = before_last(history, present)
        if following is not None:
            history = [*history, following]
        present = following


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three registered versions of storj, the third one champion; MLflow itself is tested elsewhere."""
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    moved = []
    monkeypatch.setattr(champion, "move_champion", lambda *args, **kwargs: moved.append((args, kwargs)))
    for version in ("1", "2", "3"):
        trained = train(tmp_path / "models" / version, features(hours=300, noise=NOISE))
        with warehouse.write() as connection:
            decisions.record_model(
                connection,
                decisions.ModelRow(
                    protocol="storj",
                    version=version,
                    kind="served",
                    trained_at=NOW + timedelta(days=int(version)),
                    mlflow_run_id="",
                    dagster_run_id="",
                    data_start=trained.manifest.data_start,
                    data_end=trained.manifest.data_end,
                    data_hash=trained.manifest.data_sha256,
                    metrics={"served wape": 0.2, "lstm wape": 0.25, "seasonal_naive wape": 0.3},
                    path=f"models/{version}",
                    champion=version != "2",
                ),
            )
            if version != "2":
                forecast_rows.record_alias(
                    connection,
                    protocol="storj",
                    version=version,
                    alias="champion",
                    at=NOW,
                    who="training",
                    why="better",
                )
    where = Place(warehouse=warehouse, home=tmp_path, tracking_uri="sqlite:///nowhere")
    return SimpleNamespace(where=where, moved=moved)


def ask(place, how, **more):
    return how(place.where, protocol="storj", who="ada", why="a hunch", **more)


def standing(place):
    with place.where.warehouse.read() as connection:
        return decisions.champions(connection)["storj"].version


def test_a_promotion_moves_both_records_and_keeps_who_and_why(place):
    move = ask(place, promote, version="2")
    assert (move.before, move.version) == ("3", "2")
    assert standing(place) == "2"
    assert place.moved == [(("storj", "2"), {"tracking_uri": "sqlite:///nowhere", "who": "ada", "why": "a hunch"})]
    with place.where.warehouse.read() as connection:
        last = forecast_rows.alias_history(connection, "storj")[-1]
    assert (last.version, last.who, last.why) == ("2", "ada", "a hunch")


def test_a_rollback_goes_back_one_champion_at_a_time(place):
    assert ask(place, rollback).version == "1"
    assert standing(place) == "1"
    with pytest.raises(ModelError, match="no other champion"):
        ask(place, rollback)


def test_a_version_that_is_not_there_or_champion_already_is_refused(place):
    with pytest.raises(ModelError, match=r"no version 9 of storj's model. There are 3, 2, 1"):
        ask(place, promote, version="9")
    with pytest.raises(ModelError, match="champion already"):
        ask(place, promote, version="3")
    assert place.moved == []


def test_a_version_whose_files_are_damaged_is_not_promoted(place):
    (place.where.home / "models" / "2" / MANIFEST_FILE).unlink()
    with pytest.raises(ModelError, match="is missing"):
        ask(place, promote, version="2")
    assert standing(place) == "3"
    assert place.moved == []


def test_a_protocol_without_models_is_said_to_have_none(place):
    with pytest.raises(ModelError, match="No model of golem"):
        promote(place.where, protocol="golem", version="1", who="", why="")


def test_a_version_is_checked_against_what_its_training_logged(place):
    ask_check = {"home": place.where.home, "protocol": "storj"}
    assert check(place.where.warehouse, **ask_check, version="1") == 2
    other = read_manifest(place.where.home / "models" / "1")
    other = other.model_copy(update={"selection": other.selection | {"default_margins": [[9, 9]] * 3, "margins": {}}})
    write(place.where.home / "models" / "1", other)
    with pytest.raises(ModelError, match="no longer gives the forecasts of its training"):
        check(place.where.warehouse, **ask_check, version="1")


def test_the_survey_shows_every_version_with_its_alias_measures_and_mover(place):
    ask(place, promote, version="2")
    three, two, one = survey(place.where.warehouse)
    assert [line.version for line in (three, two, one)] == ["3", "2", "1"]
    assert two.aliases == ("champion",)
    assert three.aliases == ("challenger",)
    assert (two.champion_by, two.champion_why) == ("ada", "a hunch")
    assert (two.wape, two.rivals) == (0.2, {"lstm": 0.25, "seasonal_naive": 0.3})
    assert two.live_wape is None
    assert '"live_wape": null' in models_json([two])
    assert survey(place.where.warehouse, protocol="golem") == []


@pytest.mark.slow
def test_mlflow_s_alias_follows_and_names_who_and_why(tmp_path):
    store = f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    trained = train(tmp_path / "model", features(noise=NOISE))
    for _ in range(2):
        log_training(trained, tracking_uri=store, dagster_run_id="")
    model_registry.move_champion("storj", "1", tracking_uri=store, who="ada", why="a hunch")
    client = model_registry.open_client(store)
    version = client.get_model_version_by_alias("orcha-storj", "champion")
    assert str(version.version) == "1"
    assert (version.tags["orcha.promoted_by"], version.tags["orcha.promoted_why"]) == ("ada", "a hunch")
    with pytest.raises(ModelError, match="version 9 of orcha-storj"):
        model_registry.move_champion("storj", "9", tracking_uri=store, who="", why="")
