"""What DuckDB's errors mean, in an operator's words; those that are not about the file are left as they are."""

import threading
from pathlib import Path

import duckdb
import pytest

from orcha_pipeline.errors import WarehouseError
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.troubles import told

FILE = Path("/data/my orcha/warehouse.duckdb")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (duckdb.IOException('Could not write file "x": No space left on device'), "There is no room to write"),
        (duckdb.TransactionException("Failed to commit: x: Disk quota exceeded"), "There is no room to write"),
        (duckdb.IOException('Cannot open file "x": Permission denied'), "chmod u+rw"),
        (duckdb.IOException("Corrupt database file: computed checksum 1"), "`orcha restore`"),
        (duckdb.Error("Failure while replaying WAL: entry at byte position 51 computed"), "truncate -s 51 '/data/my"),
        (duckdb.Error("Failure while replaying WAL: the iteration does not match"), "`orcha restore`"),
        (duckdb.IOException("Could not set lock on file: held in python (PID 7)"), "by process 7 for 60 s"),
    ],
)
def test_a_trouble_with_the_file_is_told_with_its_remedy(error, words):
    text = told(FILE, error, waited_seconds=60.0)
    assert words in text
    assert str(FILE) in text


def test_what_is_not_about_the_file_is_not_told_as_if_it_were():
    conversion = duckdb.ConversionException("Could not convert string 'No space left on device' to INT32")
    assert told(FILE, conversion, waited_seconds=60.0) == ""


def test_an_error_of_the_body_is_raised_as_it_is(tmp_path):
    warehouse = Warehouse(tmp_path / "w.duckdb")
    warehouse.migrate()
    with pytest.raises(duckdb.CatalogException), warehouse.write() as connection:
        connection.execute("SELECT * FROM nowhere")


def test_a_file_that_is_no_warehouse_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "w.duckdb").write_bytes(b"not a database" * 100)
    with pytest.raises(WarehouseError, match="`orcha restore`"), Warehouse(tmp_path / "w.duckdb").read():
        pass


def test_threads_of_one_process_that_read_and_write_wait_for_one_another(tmp_path):
    """DuckDB says that its own process just opens or closes the file: that is no reason to fail either."""
    warehouse = Warehouse(tmp_path / "w.duckdb")
    warehouse.migrate()
    failed: list[Exception] = []

    def often(opened):
        try:
            for _ in range(40):
                with opened() as connection:
                    connection.execute("SELECT count(*) FROM alerts").fetchall()
        except Exception as error:  # noqa: BLE001 (a thread's failure is the test's)
            failed.append(error)

    threads = [threading.Thread(target=often, args=(opened,)) for opened in (warehouse.read,) * 2 + (warehouse.write,)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
