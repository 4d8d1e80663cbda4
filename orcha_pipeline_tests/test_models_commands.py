import json
from datetime import UTC, datetime

import pytest

from orcha_pipeline.warehouse import decisions, forecast_rows
from orcha_pipeline.warehouse.connection import Warehouse

AT = datetime(2026, 2, 2, 3, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    made = Warehouse(tmp_path / ".orcha" / "warehouse.duckdb")
    made.path.parent.mkdir()
    made.migrate()
    return made


def add(store, version, *, champion):
    row = decisions.ModelRow(
        protocol="storj",
        version=version,
        kind="served",
        trained_at=AT,
        mlflow_run_id="",
        dagster_run_id="",
        data_start=AT,
        data_end=AT,
        data_hash="abc",
        metrics={"served wape": 0.21, "served coverage80": 0.79, "lstm wape": 0.24, "seasonal_naive wape": 0.31},
        path=f"models/storj/{version}",
        champion=champion,
    )
    with store.write() as connection:
        decisions.record_model(connection, row)
        if champion:
            forecast_rows.record_alias(
                connection, protocol="storj", version=version, alias="champion", at=AT, who="training", why="WAPE 0.21"
            )


def test_every_version_is_listed_with_alias_measures_and_reason(orcha, store):
    add(store, "1", champion=True)
    add(store, "2", champion=False)
    code, out, _ = orcha("models")
    assert code == 0
    one, two = (next(line for line in out.splitlines() if f" {version} " in line) for version in "12")
    for figure in ("champion", "0.210", "0.310", "0.240", "79%", " - "):
        assert figure in one, figure
    assert "challenger" in two
    assert "storj: version 1 is champion by training: WAPE 0.21" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "(simulated)" in out


def test_the_list_is_json_if_asked_and_of_one_protocol_if_named(orcha, store):
    add(store, "1", champion=True)
    _, out, _ = orcha("models", "list", "storj", "--json")
    (line,) = json.loads(out)
    assert (line["protocol"], line["aliases"], line["live_wape"]) == ("storj", ["champion", "challenger"], None)
    _, out, _ = orcha("models", "list", "golem")
    assert "No model of golem has been trained yet." in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("promote", "storj", "9", "--why", "x"), "There is no version 9 of storj's model. There are 2, 1."),
        (("promote", "storj", "1", "--why", "x"), "champion already"),
        (("promote", "storj", "2", "--why", "x"), "manifest.json is missing"),
        (("promote", "golem", "2", "--why", "x"), "No model of golem has been trained yet."),
        (("rollback", "storj", "--why", "x"), "has had no other champion"),
        (("check", "storj", "2"), "manifest.json is missing"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence_and_moves_nothing(orcha, store, arguments, words):
    add(store, "1", champion=True)
    add(store, "2", champion=False)
    code, _, err = orcha("models", *arguments)
    assert code == 1
    assert words in err
    with store.read() as connection:
        assert decisions.champions(connection)["storj"].version == "1"


def test_a_move_needs_a_reason(orcha, store):
    code, _, err = orcha("models", "promote", "storj", "2")
    assert code == 2
    assert "--why" in err
