import json
import os

import numpy as np
import pandas as pd
import pytest

from orcha_pipeline.forecasting.quiet import only_progress

CHEAP = "seasonal_naive,hour_mean"


@pytest.fixture(autouse=True)
def narrow(orcha, monkeypatch):
    """An ordinary terminal."""
    monkeypatch.setenv("COLUMNS", "120")


def table(*, names=("a", "b"), hours=500, start="2026-01-05", seed=0, integer_from=None):
    rng = np.random.default_rng(seed)
    hour = np.arange(hours)
    if integer_from is None:
        times = pd.date_range(start, periods=hours, freq="h").strftime("%Y-%m-%d %H:%M:%S")
    else:
        times = hour + integer_from
    parts = []
    for i, name in enumerate(names):
        values = 10.0 ** (i + 1) * (1 + 0.5 * np.sin(2 * np.pi * hour / 24)) * np.exp(0.1 * rng.standard_normal(hours))
        parts.append(pd.DataFrame({"unique_id": name, "ds": times, "y": values}))
    return pd.concat(parts)


@pytest.fixture
def history(tmp_path):
    table().to_csv(tmp_path / "history.csv", index=False)
    return "history.csv"


def test_forecast_writes_the_hours_after_each_series_end(orcha, tmp_path, history):
    code, out, _ = orcha("forecast", "--history", history, "--horizon", "6", "--out", "f.csv", "--models", CHEAP)
    assert code == 0
    assert "6 hours of 2 series" in out
    made = pd.read_csv(tmp_path / "f.csv", parse_dates=["ds"])
    for _, mine in made.groupby("unique_id"):
        expected = pd.date_range("2026-01-05", periods=506, freq="h")[500:]
        assert [moment.replace(tzinfo=None) for moment in mine["ds"]] == list(expected)
        assert (mine["p10"] <= mine["p50"]).all()
        assert (mine["p50"] <= mine["p90"]).all()
    assert made.groupby("unique_id")["p50"].mean()["b"] > 5 * made.groupby("unique_id")["p50"].mean()["a"]


def test_the_same_command_writes_the_same_forecast(orcha, tmp_path, history):
    for name in ("one.csv", "two.csv"):
        assert orcha("forecast", "--history", history, "--out", name, "--models", CHEAP)[0] == 0
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_backtest_prints_a_row_a_model_and_served_last(orcha, tmp_path, history):
    code, out, _ = orcha(
        "backtest", "forecast", "--history", history, "--horizon", "24", "--last", "96", "--step", "24",
        "--models", CHEAP, "--json", "all.json",
    )  # fmt: skip
    assert code == 0
    lines = [line.split()[0] for line in out.splitlines() if line.split()[:1]]
    assert lines.index("seasonal_naive") < lines.index("hour_mean") < lines.index("served")
    assert "Served is more than 2 % worse than seasonal_naive on" in out
    document = json.loads((tmp_path / "all.json").read_text())
    assert [row["model"] for row in document["rows"]] == ["seasonal_naive", "hour_mean", "served"]
    assert set(document["series"]) == {"a", "b"}
    assert document["origins"] == 4
    assert f"{document['rows'][-1]['scores']['wape']:.4f}" in out


def test_backtest_with_a_test_file_gives_owa_against_naive2(orcha, tmp_path):
    whole = table(hours=548, integer_from=1)
    whole[whole["ds"] <= 500].to_csv(tmp_path / "train.csv", index=False)
    whole[whole["ds"] > 500].to_csv(tmp_path / "test.csv", index=False)
    code, out, _ = orcha(
        "backtest", "forecast", "--history", "train.csv", "--test", "test.csv", "--horizon", "48", "--models", CHEAP,
        "--json", "all.json",
    )  # fmt: skip
    assert code == 0
    assert "OWA" in out
    rows = {row["model"]: row for row in json.loads((tmp_path / "all.json").read_text())["rows"]}
    assert rows["naive2"]["owa"] == pytest.approx(1.0)
    ratios = [rows["served"]["scores"][measure] / rows["naive2"]["scores"][measure] for measure in ("smape", "mase")]
    assert rows["served"]["owa"] == pytest.approx(sum(ratios) / 2)


def test_a_test_file_that_counts_on_behind_the_historys_padding_follows_its_last_known_hour(orcha, tmp_path):
    whole = table(names=("a",), hours=524, integer_from=1)
    padding = pd.DataFrame({"unique_id": "a", "ds": np.arange(501, 762), "y": np.nan})
    pd.concat([whole[whole["ds"] <= 500], padding]).to_csv(tmp_path / "train.csv", index=False)
    late = whole[whole["ds"] > 500]
    late.assign(ds=late["ds"] + 261).to_csv(tmp_path / "test.csv", index=False)
    common = ("backtest", "forecast", "--models", CHEAP, "--json", "all.json")
    assert orcha(*common, "--history", "train.csv", "--test", "test.csv")[0] == 0
    padded = json.loads((tmp_path / "all.json").read_text())["rows"]
    whole.to_csv(tmp_path / "whole.csv", index=False)
    assert orcha(*common, "--history", "whole.csv", "--last", "24")[0] == 0
    plain = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert padded[-1]["scores"] == plain[-1]["scores"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--last", "96", "--models", "prophet"], "There is no model called prophet"),
        (["--models", CHEAP], "either --last HOURS of the history, or --test FILE"),
        (["--last", "96", "--test", "history.csv"], "either --last HOURS of the history, or --test FILE"),
        (["--last", "12"], "--last 12 leaves no room for a forecast of 24 hours"),
        (["--last", "96", "--json", "nowhere/all.json"], "nowhere/all.json cannot be written"),
        (["--test", "another.csv", "--models", CHEAP], "another.csv"),
        (["--last", "500", "--models", CHEAP], "nothing to learn from"),
    ],
)
def test_what_cannot_be_backtested_is_told_in_a_sentence(orcha, history, arguments, told):
    code, out, err = orcha("backtest", "forecast", "--history", history, *arguments)
    assert code == 1
    assert told in " ".join(err.split())
    assert "served" not in out


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows.drop(columns="y"),
        lambda rows: pd.concat([rows, rows.head(1)]),
        lambda rows: rows.assign(y="text"),
        lambda rows: rows.assign(ds="yesterday"),
        lambda rows: rows.head(0),
    ],
    ids=["no y", "a duplicate", "text", "no time", "empty"],
)
def test_bad_tables_end_both_commands_with_a_message(orcha, tmp_path, spoil):
    spoil(table()).to_csv(tmp_path / "bad.csv", index=False)
    for command in (
        ("forecast", "--out", "f.csv"),
        ("backtest", "forecast", "--last", "96"),
    ):
        code, _, err = orcha(*command, "--history", "bad.csv", "--models", CHEAP)
        assert code == 1
        assert "bad.csv" in err
    assert not (tmp_path / "f.csv").exists()


@pytest.mark.parametrize(
    "values",
    [np.zeros(500), np.full(500, 7.0), -np.arange(500.0), np.r_[np.full(20, np.nan), np.ones(480)], np.ones(30)],
    ids=["all zero", "constant", "negative", "begins unknown", "too short to validate on"],
)
def test_odd_series_are_forecast_all_the_same(orcha, tmp_path, values):
    rows = table(names=("a",), hours=len(values))
    pd.concat([rows.assign(y=values), table(names=("b",))]).to_csv(tmp_path / "odd.csv", index=False)
    code, _, err = orcha("forecast", "--history", "odd.csv", "--out", "f.csv", "--models", CHEAP)
    assert (code, err.count("✗")) == (0, 0)
    made = pd.read_csv(tmp_path / "f.csv")
    assert len(made) == 48
    assert np.isfinite(made[["p10", "p50", "p90"]].to_numpy()).all()


def test_what_libraries_write_to_the_error_output_does_not_reach_the_terminal(capfd):
    with only_progress("working") as tell:
        os.write(2, b"E0000 Unable to register cuFFT factory")
        tell("half way [of it]")
    os.write(2, b"afterwards")
    assert capfd.readouterr().err.replace("\n", " ").split(" ", 3)[-1].endswith("afterwards")


def test_the_error_output_is_itself_again_after_an_error(capfd):
    with pytest.raises(ValueError, match="inside"), only_progress("working"):
        raise ValueError("inside")
    os.write(2, b"afterwards")
    assert "afterwards" in capfd.readouterr().err


def test_where_there_is_no_terminal_progress_is_told_in_lines(capfd):
    with only_progress("working") as tell:
        tell("half way [of it]")
        tell("a moment later")
    told = capfd.readouterr().err
    assert "half way [of it]" in told
    assert "a moment later" not in told


@pytest.mark.slow
def test_nothing_of_tensorflow_reaches_the_terminal(orcha, history):
    code, _, err = orcha("backtest", "forecast", "--history", history, "--last", "48", "--models", "lstm")
    assert code == 0
    for noise in ("tensorflow", "cuda", "oneDNN", "absl", "WARNING", "E0000"):
        assert noise not in err
