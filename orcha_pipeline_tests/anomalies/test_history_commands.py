import csv
import gzip
import io

import duckdb
import numpy as np
import pytest

from orcha_pipeline.anomalies.history_commands import threshold_of
from orcha_pipeline.anomalies.series_kinds import AUTO_THRESHOLD, detect_series
from orcha_pipeline.cli import main
from orcha_pipeline.errors import ModelError
from orcha_pipeline_tests.anomalies.series import daily, hours

SPIKE = 700


def a_table(path, *, rows=960, names=("a", "b")):
    """A CSV of two series by turns; the first has a spike."""
    series = {name: daily(rows, seed=seed) for seed, name in enumerate(names)}
    series[names[0]][SPIKE] += 100
    lines = ["unique_id,ds,y", *(f"{name},{hour},{series[name][hour]!r}" for hour in range(rows) for name in names)]
    path.write_text("\n".join(lines).replace("np.float64(", "").replace(")", "") + "\n", encoding="utf-8")
    return series


@pytest.fixture
def run(monkeypatch, capsys):
    def orcha(*arguments):
        monkeypatch.setattr("sys.argv", ["orcha", "anomalies", "detect", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return ended.value.code or 0, " ".join((told.out + told.err).split())

    return orcha


def read(path):
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_every_row_comes_back_in_its_place_with_what_is_said_of_it(tmp_path, run):
    series = a_table(tmp_path / "in.csv")

    code, told = run("--history", tmp_path / "in.csv", "--out", tmp_path / "out.csv")

    assert code == 0
    assert "1 anomalies in 1 of 2 series: 1 spike." in told
    given, rows = read(tmp_path / "in.csv"), read(tmp_path / "out.csv")
    assert [(row["unique_id"], row["ds"], row["y"]) for row in rows] == [tuple(row.values()) for row in given]
    for name, values in series.items():
        own = [row for row in rows if row["unique_id"] == name]
        judged = detect_series(hours(len(values)), values)
        assert [float(row["score"]) for row in own] == judged.score.tolist()
        assert [row["is_anomaly"] == "True" for row in own] == judged.is_anomaly.tolist()
        assert [(row["kind"], row["reason"]) for row in own] == list(zip(judged.kind, judged.reason, strict=True))


def test_a_file_cut_short_says_the_same_of_what_is_left(tmp_path, run):
    a_table(tmp_path / "in.csv")
    lines = (tmp_path / "in.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "part.csv").write_text("".join(lines[:1450]), encoding="utf-8")

    for name in ("in", "part"):
        run("--history", tmp_path / f"{name}.csv", "--out", tmp_path / f"{name}-out.csv")

    assert read(tmp_path / "in-out.csv")[:1449] == read(tmp_path / "part-out.csv")


def test_a_threshold_moves_what_is_an_anomaly_and_no_score(tmp_path, run):
    a_table(tmp_path / "in.csv")
    for threshold in ("auto", "0.9"):
        run("--history", tmp_path / "in.csv", "--out", tmp_path / f"{threshold}.csv", "--threshold", threshold)

    auto, high = read(tmp_path / "auto.csv"), read(tmp_path / "0.9.csv")

    assert [row["score"] for row in auto] == [row["score"] for row in high]
    assert [row["is_anomaly"] for row in high] == [str(float(row["score"]) >= 0.9) for row in high]


@pytest.mark.parametrize("zone", ["", "+00:00"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_times_of_any_step_are_read_and_written(tmp_path, run, suffix, zone):
    times = np.datetime64("2026-01-01T00:00:00") + np.timedelta64(450, "s") * np.arange(600)
    values = daily(600, step=450.0)
    values[400] += 100
    lines = "".join(f"a,{time}{zone},{value:.6f}\n" for time, value in zip(times, values, strict=True))
    (tmp_path / "in.csv").write_text(f"unique_id,ds,y\n{lines}", encoding="utf-8")
    out = tmp_path / f"out{suffix}"

    code, _ = run("--history", tmp_path / "in.csv", "--out", out)

    assert code == 0
    if suffix != ".parquet":
        assert [row["ds"] for row in read(out) if row["is_anomaly"] == "True"] == [f"{times[400]}{zone}"]
        return
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.execute(
            f"SELECT unique_id, strftime(ds, '%Y-%m-%dT%H:%M:%S'), kind FROM '{out}' WHERE is_anomaly"
        ).fetchall()
        kind_of_ds = connection.execute(f"SELECT typeof(ds) FROM '{out}' LIMIT 1").fetchall()
    assert rows == [("a", str(times[400]), "spike")]
    assert kind_of_ds == [("TIMESTAMP WITH TIME ZONE" if zone else "TIMESTAMP",)]


def test_parquet_is_read(tmp_path, run):
    a_table(tmp_path / "in.csv")
    with duckdb.connect() as connection:
        connection.execute(f"COPY (FROM '{tmp_path / 'in.csv'}') TO '{tmp_path / 'in.parquet'}'")

    code, told = run("--history", tmp_path / "in.parquet", "--out", tmp_path / "out.csv")

    assert (code, "1 spike" in told) == (0, True)


def test_unknown_values_stay_empty(tmp_path, run):
    (tmp_path / "in.csv").write_text("unique_id,ds,y\na,0,1\na,1,\na,2,3\n", encoding="utf-8")

    code, told = run("--history", tmp_path / "in.csv", "--out", tmp_path / "out.csv")

    assert code == 0
    assert [row["y"] for row in read(tmp_path / "out.csv")] == ["1", "", "3"]
    assert "1 series have no more than 200 known readings" in told


def test_rows_of_one_time_are_all_judged(tmp_path, run):
    (tmp_path / "in.csv").write_text("unique_id,ds,y\na,0,1\na,0,2\na,1,3\n", encoding="utf-8")

    assert run("--history", tmp_path / "in.csv", "--out", tmp_path / "out.csv")[0] == 0
    assert len(read(tmp_path / "out.csv")) == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("unique_id,ds\na,1\n", "the column 'y' is missing"),
        ("unique_id,ds,y\na,yesterday,1\n", "line 2: ds 'yesterday' is neither a time nor an integer hour"),
        ("unique_id,ds,y\na,1,2\na,2026-01-01,2\n", "line 3: ds '2026-01-01' mixes times and integer hours"),
        ("unique_id,ds,y\na,1,much\n", "line 2: y 'much' is no number"),
        ("unique_id,ds,y\na,1,1e300\n", "y '1e300' is infinite or too large"),
        ("unique_id,ds,y\n,1,1\n", "line 2: unique_id is empty"),
        ("unique_id,ds,y\n", "holds no rows"),
        ("", "the column 'unique_id' is missing"),
        ("unique_id,ds,y\na,1,2,3\n", "line 2: 4 fields where the header has 3"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_its_place(tmp_path, run, content, told):
    (tmp_path / "in.csv").write_text(content, encoding="utf-8")

    code, said = run("--history", tmp_path / "in.csv", "--out", tmp_path / "out.csv")

    assert code == 1
    assert told in said
    assert "Traceback" not in said
    assert not (tmp_path / "out.csv").exists()


def test_a_history_that_is_not_there_is_told(tmp_path, run):
    code, told = run("--history", tmp_path / "none.csv", "--out", tmp_path / "out.csv")

    assert code == 1
    assert "No such file" in told


def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(tmp_path, run):
    code, told = run("--history", tmp_path / "none.csv", "--out", tmp_path / "missing" / "out.csv")

    assert code == 1
    assert "there is no such folder" in told


def test_the_history_is_not_overwritten(tmp_path, run):
    a_table(tmp_path / "in.csv")
    before = (tmp_path / "in.csv").read_bytes()

    code, told = run("--history", tmp_path / "in.csv", "--out", tmp_path / "in.csv")

    assert code == 1
    assert "is the history itself" in told
    assert (tmp_path / "in.csv").read_bytes() == before


@pytest.mark.parametrize("told", ["0", "1.5", "-1", "nan", "high", ""])
def test_a_threshold_that_is_none_is_refused(told):
    with pytest.raises(ModelError, match="neither auto nor a number above 0 and up to 1"):
        threshold_of(told)


def test_a_threshold_is_a_number_or_auto():
    assert threshold_of("auto") == AUTO_THRESHOLD
    assert threshold_of("1") == 1.0
