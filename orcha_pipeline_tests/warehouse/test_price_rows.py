from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from orcha_pipeline.model import PriceReading, Provenance
from orcha_pipeline.warehouse import facts
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.price_rows import recent_prices

START = datetime(2026, 3, 5, 12, 5, tzinfo=UTC)
QUARTER = timedelta(minutes=15)


def test_prices_are_read_back_as_they_were_written_unknown_ones_too(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.migrate()
    known = PriceReading(
        token="golem",
        observed_at=START,
        usd=Decimal("0.229"),
        priced_at=START - timedelta(minutes=7),
        provenance=Provenance.OUR_ESTIMATE,
        source="coingecko; stale",
    )
    unknown = replace(
        known, observed_at=START + QUARTER, usd=None, priced_at=None, provenance=Provenance.UNKNOWN, source="HTTP 429"
    )
    later = replace(known, observed_at=START + 2 * QUARTER)
    with warehouse.write() as connection:
        facts.record_prices(connection, [later, unknown, known])
        assert recent_prices(connection, since=START, until=START + QUARTER) == [known, unknown]
        assert recent_prices(connection, since=START + timedelta(seconds=1), until=START + QUARTER) == [unknown]
