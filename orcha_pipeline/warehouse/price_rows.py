"""Recorded prices as they were read, with their provenance and source."""

from datetime import datetime

import duckdb

from orcha_pipeline.model import PriceReading, Provenance
from orcha_pipeline.warehouse.facts import aware, naive


def recent_prices(connection: duckdb.DuckDBPyConnection, *, since: datetime, until: datetime) -> list[PriceReading]:
    """All price readings observed from `since` to `until`, unknown ones too, in order of time."""
    rows = connection.execute(
        "SELECT token, observed_at, usd, priced_at, provenance, source FROM prices "
        "WHERE observed_at >= ? AND observed_at <= ? ORDER BY observed_at, token",
        [naive(since), naive(until)],
    ).fetchall()
    return [
        PriceReading(
            token=token,
            observed_at=aware(observed),
            usd=usd,
            priced_at=None if priced is None else aware(priced),
            provenance=Provenance(provenance),
            source=source,
        )
        for token, observed, usd, priced, provenance, source in rows
    ]
