"""Recorded token prices of years past: played by the testnet, and loaded by the command line."""

import csv
import gzip
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orcha_pipeline.model import hour_of
from orcha_pipeline.prices import TOKENS
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline_tests.integration.conftest import Rig

PROJECT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("ORCHA_SHARED_DATA") or PROJECT.parent / "shared" / "data")
PRICES = DATA / "token_prices_hourly.csv.gz"
HOUR = timedelta(hours=1)
WEEK = timedelta(weeks=1)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not PRICES.is_file(), reason=f"there is no {PRICES}; set ORCHA_SHARED_DATA to the data folder"),
]


@pytest.fixture(scope="module")
def recorded_prices() -> dict[str, dict[datetime, float]]:
    """Ticker -> hour (UTC, naive) -> USD, as the file has them."""
    found: dict[str, dict[datetime, float]] = {}
    with gzip.open(PRICES, "rt", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["unique_id"], {})[datetime.fromisoformat(row["ds"])] = float(row["y"])
    return found


def earned_hours(rig: Rig, node: str) -> list[dict]:
    found = rig.rows(
        "SELECT * FROM earnings_hourly WHERE node = ? AND net IS NOT NULL AND usd_price IS NOT NULL ORDER BY ended_at",
        node,
    )
    assert all(row["ended_at"] - row["started_at"] == HOUR for row in found)
    return found


def test_hourly_earnings_are_valued_at_prices_that_are_in_the_file(make_rig, recorded_prices):
    start = hour_of(datetime.now(UTC) - timedelta(days=3))
    rig = make_rig("--start", start.isoformat(), "--prices", str(PRICES))
    rig.record_history(start)

    moves: dict[str, set[timedelta]] = {}
    for node, ticker in (("golem-1", "GLM"), ("streamr-1", "DATA")):
        series, rows = recorded_prices[ticker], earned_hours(rig, node)
        assert len(rows) >= 24
        for row in rows:
            assert row["net_usd"] == pytest.approx(float(row["net"] * row["usd_price"]), rel=1e-9, abs=1e-15)
        # The testnet moves the record by whole weeks. An hour is valued at the price at its end.
        last = rows[-1]["ended_at"]
        weeks = range((last - min(series)) // WEEK + 1)
        moves[node] = {
            move
            for move in (week * WEEK for week in weeks)
            if all(series.get(row["ended_at"] - move) == float(row["usd_price"]) for row in rows[-24:])
        }
        assert len(moves[node]) == 1, f"{node}: the prices of the last 24 hours stand nowhere in the file"
        assert len({row["usd_price"] for row in rows[-24:]}) > 1
    assert moves["golem-1"] == moves["streamr-1"], "the tokens' prices are of the same hours"


def test_the_command_loads_every_price_of_the_file(tmp_path, recorded_prices):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ORCHA_")}
    began = time.monotonic()
    found = subprocess.run(
        [str(Path(sys.executable).with_name("orcha")), "prices", "import", str(PRICES)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environ | {"ORCHA_HOME": str(tmp_path / "home")},
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    expected = {TOKENS[ticker]: len(series) for ticker, series in recorded_prices.items()}
    total = sum(expected.values())
    print(f"{total:,} prices loaded in {time.monotonic() - began:.1f} s")  # noqa: T201 (told, not asserted)
    assert f"Loaded {total:,} prices" in " ".join(found.stdout.split())
    with Warehouse(tmp_path / "home" / "warehouse.duckdb").read() as connection:
        rows = connection.execute("SELECT token, count(*), count(usd) FROM prices GROUP BY token").fetchall()
        last = connection.execute("SELECT token, arg_max(usd, observed_at) FROM prices GROUP BY token").fetchall()
    assert {token: (count, known) for token, count, known in rows} == {t: (n, n) for t, n in expected.items()}
    assert {token: float(usd) for token, usd in last} == {
        TOKENS[ticker]: series[max(series)] for ticker, series in recorded_prices.items()
    }
