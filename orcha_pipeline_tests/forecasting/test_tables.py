import csv
import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.tables import continued, read_table, write_forecasts

SHARED = Path("/work/shared/data")


@pytest.fixture
def table(tmp_path):
    def write(text, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def rows(values, name="a", first=1):
    return "".join(f"{name},{first + i},{value}\n" for i, value in enumerate(values))


def csv_of(*parts):
    return "unique_id,ds,y\n" + "".join(parts)


def test_integer_hours_keep_their_count_and_series_their_order(table):
    read = read_table(table(csv_of(rows(range(1, 61), "b", 5), rows(range(1, 71), "a", 1)), "table.csv.gz"))
    assert [(series.name, series.first_hour, len(series.values)) for series in read.panel] == [
        ("b", 5, 60),
        ("a", 1, 70),
    ]
    assert read.panel[0].values.tolist() == list(range(1, 61))
    assert read.notes == []
    assert not read.times


@pytest.mark.parametrize(
    "text",
    ["2026-11-20 10:00:00", "2026-11-20T10:00Z", "2026-11-20T12:00:00+02:00", "20261120T100000", " 2026-11-20 10 "],
)
def test_a_time_is_the_hour_since_1970_in_utc(table, text):
    (series,) = read_table(table(csv_of(f"a,{text},1\n"))).panel
    assert series.first_hour == int(datetime(2026, 11, 20, 10, tzinfo=UTC).timestamp()) // 3600


def test_columns_may_stand_in_any_order_beside_others_and_rows_too(table):
    read = read_table(table("y,extra,ds,unique_id\n2,x,8,a\n1,x,7,a\n"))
    assert read.panel[0].values.tolist() == [1.0, 2.0]


def test_hours_without_a_row_or_a_value_are_unknown_and_told_of(table):
    read = read_table(table(csv_of("a,2026-01-01 00:00:00,0\na,2026-01-01 01:00:00,\na,2026-01-01 03:00:00,4\n")))
    assert np.array_equal(read.panel[0].values, [0.0, np.nan, np.nan, 4.0], equal_nan=True)
    assert "a: 2 hours without a row or a value are unknown, not filled." in read.notes


def test_integer_hours_without_values_at_the_end_are_cut_off_and_times_are_kept(table):
    read = read_table(table(csv_of(rows([1, 2, "", "nan"]))))
    assert (read.panel[0].end, read.padded) == (3, (2,))
    assert any("2 hours without a value at the end are cut off" in note for note in read.notes)
    kept = read_table(table(csv_of("a,2026-01-01 00:00:00,1\na,2026-01-01 01:00:00,\n")))
    assert (len(kept.panel[0].values), kept.padded) == (2, (0,))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0.0] * 60, "every known hour is 0"),
        ([5.0] * 60, "constant"),
        ([-1.0, *range(60)], "below 0"),
        (range(1, 48), "fewer than 48 known hours"),
    ],
)
def test_what_follows_from_odd_values_is_told_once_and_not_an_error(table, values, says):
    read = read_table(table(csv_of(rows(values))))
    assert len(read.panel[0].values) == len(values)
    assert [note for note in read.notes if says in note] == read.notes
    assert read.notes


def test_a_note_names_some_series_and_counts_the_others(table):
    (note,) = read_table(table(csv_of(*(rows([3] * 50, f"s{i}") for i in range(8))))).notes
    assert note.startswith("s0, s1, s2, s3, s4 and 3 more: constant")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the column 'unique_id' is missing"),
        (
            "unique_id,time,y\na,1,1\n",
            "'ds' is missing; it needs unique_id, ds and y, and has unique_id, time, y",
        ),
        ("unique_id,ds,y,y\na,1,1,1\n", "the column 'y' is there twice"),
        ("unique_id,ds,y\n", "holds no rows"),
        (csv_of("a,1,1\n", "a,2,ten\n"), "line 3: y 'ten' is no number"),
        (csv_of("a,1,1_0\n"), "line 2: y '1_0' is no number"),
        (csv_of("a,1,inf\n"), "line 2: y 'inf' is infinite"),
        (csv_of("a,1,1e999\n"), "line 2: y '1e999' is infinite"),
        (csv_of("a,1,1\n", "b,1,1\n", "a,1,2\n"), "line 4: 'a' has a second row for ds '1'; remove one"),
        (csv_of("a,2026-01-01 10:30:00,1\n"), "line 2: ds '2026-01-01 10:30:00' is not on a full hour"),
        (csv_of("a,yesterday,1\n"), "line 2: ds 'yesterday' is neither a time nor an integer hour"),
        (csv_of("a,1,1\n", "a,2026-01-01 10:00:00,1\n"), "line 3: ds '2026-01-01 10:00:00' mixes times and integer"),
        (csv_of("a,0001-01-01T00:00:00+10:00,1\n"), "outside of the years 1600 to 2999"),
        (csv_of("a,1,1\n", "a,9999999,1\n"), "spans 9,999,999 hours"),
        (csv_of(",1,1\n"), "line 2: unique_id is empty"),
        (csv_of("a,1,1,5\n"), "line 2: 4 fields where the header has 3; write decimals with a point"),
        (csv_of("a,1,\n"), "holds no known y"),
        ('unique_id,ds,y\n"a,1,1\n', "is no CSV file"),
    ],
)
def test_bad_input_is_named_with_its_place(table, text, says):
    with pytest.raises(ModelError) as caught:
        read_table(table(text))
    assert says in str(caught.value)
    assert "table.csv" in str(caught.value)


def test_a_file_that_is_not_there_or_not_what_it_is_called_is_named(tmp_path, table):
    for name in ("gone.csv", "gone.csv.gz", "gone.parquet"):
        with pytest.raises(ModelError, match=f"cannot read .*{name}"):
            read_table(tmp_path / name)
    for name, content in (("t.csv.gz", b"unique_id"), ("t.csv", b"\xff\xfe\x00"), ("t.parquet", b"unique_id,ds,y")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=name):
            read_table(tmp_path / name)
    whole = table(csv_of(rows(range(2000))), "cut.csv.gz")
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(ModelError, match="broken"):
        read_table(whole)
    with pytest.raises(ModelError, match="cannot read"):
        read_table(tmp_path)


def forecasts_of(n, horizon=3):
    return np.arange(n * horizon * 3, dtype=float).reshape(n, horizon, 3)


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
@pytest.mark.parametrize(
    ("ds", "first"),
    [("7", "8"), ("2026-01-01 23:00:00", "2026-01-02 00:00:00"), ("2026-01-01T23:00Z", "2026-01-02 00:00:00+00:00")],
)
def test_forecasts_are_written_with_ds_as_it_was_read(table, tmp_path, name, ds, first):
    read = read_table(table(csv_of(f"a,{ds},1\nb,{ds},1\n")))
    forecasts = forecasts_of(2)
    forecasts[1] = np.nan
    write_forecasts(tmp_path / name, read, forecasts, ["mstl", "none"])
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "rt") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == ["unique_id", "ds", "p10", "p50", "p90", "model"]
    assert list(written[0].values()) == ["a", first, "0.0", "1.0", "2.0", "mstl"]
    assert list(written[3].values()) == ["b", first, "", "", "", "none"]
    assert len(written) == 6


def test_parquet_is_read_and_written_like_csv(table, tmp_path):
    import duckdb
    import pyarrow.parquet as pq

    path = tmp_path / "[odd]*name.parquet"
    with duckdb.connect() as connection:
        for kind in ("TIMESTAMP", "TIMESTAMPTZ", "VARCHAR"):
            connection.execute(
                f"COPY (SELECT 'a' unique_id, CAST(t AS {kind}) ds, "
                "CASE WHEN i <> 2 THEN CAST(i AS DECIMAL(9, 1)) END y"
                " FROM (SELECT i, TIMESTAMP '2026-01-01' + INTERVAL (i) HOUR t FROM range(4) r(i)))"
                f" TO '{tmp_path}/t.parquet' (FORMAT parquet)"
            )
            (tmp_path / "t.parquet").rename(path)
            read = read_table(path)
            assert np.array_equal(read.panel[0].values, [0, 1, np.nan, 3], equal_nan=True)
            assert read.panel[0].first_hour == int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) // 3600
            write_forecasts(tmp_path / "out.parquet", read, forecasts_of(1), ["mstl"])
            out = pq.read_table(tmp_path / "out.parquet").to_pylist()
            expected = datetime(2026, 1, 1, 4, tzinfo=UTC if kind == "TIMESTAMPTZ" else None)
            assert out[0] == {"unique_id": "a", "ds": expected, "p10": 0, "p50": 1, "p90": 2, "model": "mstl"}
        connection.execute(f"COPY (SELECT 'a' unique_id, 3 ds, 'x' y) TO '{tmp_path}/t.parquet' (FORMAT parquet)")
    with pytest.raises(ModelError, match="row 1: y 'x' is no number"):
        read_table(tmp_path / "t.parquet")


def test_forecasts_that_cannot_be_written_are_told_of(table, tmp_path):
    read = read_table(table(csv_of(rows([1]))))
    for name in ("no/folder.csv", "no/folder.parquet"):
        with pytest.raises(ModelError, match="cannot write"):
            write_forecasts(tmp_path / name, read, forecasts_of(1), ["mstl"])


def test_a_test_table_continues_its_history_over_padding_alone(table):
    history = read_table(table(csv_of(rows([1, 2, "", ""], "a"), rows([1, 2, 3, 4], "b"), rows([1], "c")), "h.csv"))
    test = read_table(table(csv_of(rows([9], "a", 5), rows([8], "b", 5), rows([7], "c", 9), rows([1], "d")), "t.csv"))
    found = {series.name: (series.first_hour, series.values.tolist()) for series in continued(history, test)}
    assert found == {"a": (3, [9.0]), "b": (5, [8.0]), "c": (9, [7.0])}  # nothing says that c's hours are padding


def test_a_test_table_that_does_not_continue_its_history_is_refused(table):
    history = read_table(table(csv_of(rows([1, 2, 3])), "h.csv"))
    for text, says in (
        (csv_of(rows([1], first=3)), "'a' begins at ds 3, before its history ends"),
        (csv_of(rows([1], "z")), "No series of the test table is in the history"),
        (csv_of("a,2026-01-01,1\n"), "one has times"),
    ):
        with pytest.raises(ModelError, match=says):
            continued(history, read_table(table(text, "t.csv")))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the evaluation data is not here")
def test_m4s_test_hours_continue_its_training_hours():
    history = read_table(SHARED / "m4_hourly_train.csv.gz")
    test = continued(history, read_table(SHARED / "m4_hourly_test.csv.gz"))
    assert len(test) == 207
    assert [series.end for series in history.panel] == [series.first_hour for series in test]
    # What follows is like the day before, hour for hour: the two fit together at this hour and not four hours off.
    pairs = [(old.values, new.values[:24]) for old, new in zip(history.panel, test, strict=True)]
    closer = [np.abs(new - old[-24:]).mean() < np.abs(new - old[-28:-4]).mean() for old, new in pairs]
    assert np.mean(closer) > 0.8


cells = st.one_of(
    st.integers(-50, 50).map(str),
    st.floats().map(repr),
    st.datetimes().map(str),
    st.datetimes().map(lambda moment: moment.replace(minute=0, second=0, microsecond=0).isoformat()),
    st.integers(0, 300).map(lambda hour: (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour)).isoformat()),
    st.sampled_from(["", "nan", "NaT", "a", "b", '"', "unique_id", "1e309", "-0", "\x00", "٣", "²", "9" * 5000]),
    st.text(max_size=8),
)
records = st.tuples(st.sampled_from("ab") | cells, cells, cells).map(list)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(cells, min_size=3, max_size=3) | st.lists(cells, max_size=4), max_size=8), st.text(max_size=20)
)
def test_whatever_a_table_holds_the_result_is_series_or_a_message(tmp_path, lines, tail):
    path = tmp_path / "any.csv"
    path.write_bytes(("unique_id,ds,y\n" + "\n".join(map(",".join, lines)) + tail).encode("utf-8", "surrogatepass"))
    read, message = None, ""
    try:
        read = read_table(path)
    except ModelError as error:
        message = str(error)
    if read is None:
        assert "any.csv" in message
        return
    assert read.panel
    for series in read.panel:
        assert series.name
        assert not np.isinf(series.values).any()
    write_forecasts(tmp_path / "out.csv", read, forecasts_of(len(read.panel)), ["m"] * len(read.panel))


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80), st.sampled_from(["any.csv", "any.csv.gz", "any.parquet"]))
def test_whatever_a_file_is_the_result_is_series_or_a_message(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="any"):
        read_table(tmp_path / name)
