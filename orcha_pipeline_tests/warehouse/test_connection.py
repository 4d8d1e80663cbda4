import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from orcha_pipeline.errors import WarehouseError
from orcha_pipeline.warehouse.connection import Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "data" / "warehouse.duckdb")
    warehouse.migrate()
    return warehouse


def test_migrations_run_once_and_in_order(warehouse):
    assert warehouse.migrate() == []
    with warehouse.read() as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM schema_migrations").fetchall()]
    assert names == sorted(names)
    assert names[0] == "0001_initial.sql"


def test_a_warehouse_of_a_newer_orcha_is_refused_with_the_remedy(warehouse):
    with warehouse.write() as connection:
        connection.execute("INSERT INTO schema_migrations VALUES ('9999_future.sql', now()::TIMESTAMP)")
    with pytest.raises(WarehouseError, match="newer Orcha"):
        warehouse.migrate()


def test_reading_before_there_is_a_warehouse_says_how_to_make_one(tmp_path):
    with pytest.raises(WarehouseError, match="orcha up"), Warehouse(tmp_path / "none.duckdb").read():
        pass


def test_a_body_that_raises_rolls_back_and_lets_go_of_the_lock(warehouse):
    with pytest.raises(RuntimeError), warehouse.write() as connection:
        connection.execute("INSERT INTO nodes VALUES ('a', 'storj', 'h', true, now()::TIMESTAMP)")
        raise RuntimeError
    other = "import duckdb, sys; print(duckdb.connect(sys.argv[1]).execute('SELECT count(*) FROM nodes').fetchone()[0])"
    found = subprocess.run(
        [sys.executable, "-c", other, str(warehouse.path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "0"


def test_readers_and_writers_of_several_processes_wait_for_each_other(warehouse):
    work = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from orcha_pipeline.warehouse.connection import Warehouse
        warehouse = Warehouse(Path(sys.argv[1]))
        for i in range(25):
            if sys.argv[2] == "write":
                with warehouse.write() as c:
                    c.execute("INSERT INTO nodes VALUES (?, 'p', 'h', true, now()::TIMESTAMP)", [f"{sys.argv[3]}-{i}"])
            else:
                with warehouse.read() as c:
                    c.execute("SELECT count(*) FROM nodes").fetchone()
        """
    )
    roles = [("write", "a"), ("write", "b"), ("read", "c"), ("read", "d")]
    children = [
        subprocess.Popen([sys.executable, "-c", work, str(warehouse.path), *role], stderr=subprocess.PIPE, text=True)
        for role in roles
    ]
    errors = [child.communicate(timeout=120)[1] for child in children]
    assert errors == [""] * len(roles)
    with warehouse.read() as connection:
        assert connection.execute("SELECT count(*) FROM nodes").fetchone() == (50,)


def test_a_file_held_for_too_long_is_a_clear_error(warehouse):
    holder = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(warehouse.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        impatient = Warehouse(warehouse.path, lock_timeout_seconds=0.2)
        with pytest.raises(WarehouseError, match=f"by process {child.pid}"), impatient.write():
            pass
        child.communicate("")
