import gzip
from datetime import UTC, datetime
from decimal import Decimal

import duckdb
import pytest

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.model import Provenance
from orcha_pipeline.price_files import read_price_file
from orcha_pipeline_tests.protocols.answers import recorded_storj

CSV = "unique_id,ds,y\nSTORJ,2021-04-04 21:00:00,2.9066\nGLM,2023-03-01T00:00:00+01:00,1e-05\ngrass,2026-01-01,0.6\n"


def test_a_csv_of_prices_is_read_with_naive_times_as_utc(tmp_path):
    (tmp_path / "p.csv").write_text(CSV)
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(("\ufeff" + CSV).encode()))
    found = read_price_file(tmp_path / "p.csv")
    assert [(r.token, r.priced_at, r.usd) for r in found] == [
        ("storj", datetime(2021, 4, 4, 21, tzinfo=UTC), Decimal("2.9066")),
        ("golem", datetime(2023, 2, 28, 23, tzinfo=UTC), Decimal("0.00001")),
        ("grass", datetime(2026, 1, 1, tzinfo=UTC), Decimal("0.6")),
    ]
    assert all(r.observed_at == r.priced_at and r.provenance is Provenance.MEASURED for r in found)
    assert [(r.token, r.usd) for r in read_price_file(tmp_path / "p.csv.gz")] == [(r.token, r.usd) for r in found]


def test_parquet_is_read_alike(tmp_path):
    (tmp_path / "p.csv").write_text("unique_id,ds,y\nSTORJ,2021-04-04 21:00:00,2.9066\nDATA,2023-03-01 00:00:00,0.02\n")
    file = tmp_path / "p.parquet"
    duckdb.execute(f"COPY (SELECT * FROM '{tmp_path}/p.csv') TO '{file}'")
    assert [(r.token, r.usd) for r in read_price_file(file)] == [
        ("storj", Decimal("2.9066")),
        ("streamr", Decimal("0.02")),
    ]
    assert read_price_file(file)[0].priced_at == datetime(2021, 4, 4, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("BTC,2026-01-01,1", "unknown unique_id 'BTC'; known are STORJ"),
        ("STORJ,yesterday,1", "'yesterday' is no time"),
        ("STORJ,2026-01-01,0", "'0' is no price"),
        ("STORJ,2026-01-01,nan", "'nan' is no price"),
        ("STORJ,2026-01-01,1,2", "more fields than the header"),
        ("STORJ,2026-01-01", "is no price"),
        ("GRASS,2026-01-01,0.7", "second price"),
    ],
)
def test_a_bad_row_is_named_by_its_line_with_the_remedy(tmp_path, row, told):
    file = tmp_path / "p.csv"
    file.write_text(CSV + row + "\n")
    with pytest.raises(SettingsError, match=told) as error:
        read_price_file(file)
    assert f"{file}, line 5" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.csv", b"id,ds,y\n", "line 1: the column 'unique_id' is missing"),
        ("p.csv", b"", "line 1: the column"),
        ("p.csv", b"unique_id,ds,y\n", "holds no prices"),
        ("p.csv", b"\xff\xfe", "UTF-8"),
        ("p.csv.gz", b"not gzip", "cannot read|no CSV"),
        ("p.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:-12], "cannot read|no CSV"),
        ("p.parquet", b"PAR0", "no Parquet file"),
    ],
)
def test_a_file_that_is_none_is_a_settings_error(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=told):
        read_price_file(tmp_path / name)


@pytest.mark.parametrize("name", ["none.csv", "none.csv.gz", "none.parquet"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(SettingsError, match=f"cannot read .*{name}"):
        read_price_file(tmp_path / name)


def test_the_real_price_file_is_read_in_full():
    found = read_price_file(recorded_storj().parent / "token_prices_hourly.csv.gz")
    assert {r.token for r in found} == {"storj", "golem", "streamr"}
    assert len(found) == 54901
    assert all(r.usd > 0 for r in found)
