"""Tables computed from the raw facts: hourly earnings and the features models learn from."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import duckdb

from orcha_pipeline.earnings import EarnedBucket, PriceAt, earned, reaching_back
from orcha_pipeline.model import HOUR, SLOT, EarningsObservation, Window
from orcha_pipeline.warehouse.facts import aware, earnings_observations, insert, naive, price_samples, scalar

PRICE_STALE_AFTER = timedelta(hours=2)
QUARTERS_MAY_CHANGE = timedelta(hours=4)
"""Longer than readings may lie apart for what was earned between them to be shared out."""
Tokens = Mapping[str, tuple[str | None, Decimal | None]]
"""Node -> (token that prices its native unit, tokens per native unit); None where nobody knows."""
LOOK_AROUND = timedelta(hours=26)
"""How far outside the hours asked for readings are looked at."""


def price_lookup(samples: Sequence[tuple[datetime, Decimal]], tokens_per_native: Decimal) -> PriceAt:
    """Price of a native unit in an hour: the last sample up to the hour's end, if it is not stale."""
    times = [moment for moment, _ in samples]

    def price_at(hour: datetime) -> Decimal | None:
        index = bisect_right(times, hour + HOUR) - 1
        if index < 0 or hour + HOUR - times[index] > PRICE_STALE_AFTER:
            return None
        return samples[index][1] * tokens_per_native

    return price_at


@dataclass(frozen=True, slots=True)
class _Observed:
    """What a node reported of `window` and around it."""

    window: Window
    observations: list[EarningsObservation]


def _around(window: Window) -> Window:
    return Window(window.start - LOOK_AROUND, window.end + LOOK_AROUND)


def _observed(connection: duckdb.DuckDBPyConnection, window: Window) -> dict[str, _Observed]:
    """Node -> what it reported of `window`; of one that was silent as it begins, from before its silence on."""
    found: dict[str, _Observed] = {}
    for node, observations in earnings_observations(connection, _around(window)).items():
        looked, told = window, observations
        while (reach := reaching_back(told, window)).start < looked.start:
            looked, told = reach, earnings_observations(connection, _around(reach), node=node)[node]
        found[node] = _Observed(looked, told)
    return found


def _earned_by_all(
    connection: duckdb.DuckDBPyConnection, observed: Mapping[str, _Observed], tokens: Tokens, *, step: timedelta
) -> list[EarnedBucket]:
    """What every node earned in the full steps of its window, and in stretches too coarse for hours."""
    if not observed:
        return []
    windows = [each.window for each in observed.values()]
    samples = price_samples(
        connection, _around(Window(min(each.start for each in windows), max(each.end for each in windows)))
    )
    rows: list[EarnedBucket] = []
    for node, each in observed.items():
        found = each.observations
        token, factor = tokens.get(node, (None, None))
        if found[0].unit == "USD":
            price_at: PriceAt = _dollar
        elif token is None or factor is None:
            price_at = _no_price
        else:
            price_at = price_lookup(samples.get(token, []), factor)
        rows += earned(node, found, each.window, price_at, step=step)
    return rows


def rebuild_earnings_hourly(
    connection: duckdb.DuckDBPyConnection, window: Window, tokens: Tokens
) -> list[EarnedBucket]:
    """Compute `earnings_hourly` anew for the full hours of `window`, and for a silence that reaches into it.

    What is earned in US dollars needs no price.
    """
    observed = _observed(connection, window)
    rows = _earned_by_all(connection, observed, tokens, step=HOUR)
    start, end = naive(window.start), naive(window.end)
    connection.execute("DELETE FROM earnings_hourly WHERE ended_at > ? AND started_at < ?", [start, end])
    for node, each in observed.items():
        if each.window.start < window.start:
            connection.execute(
                "DELETE FROM earnings_hourly WHERE node = ? AND ended_at > ? AND started_at < ?",
                [node, naive(each.window.start), end],
            )
    insert(
        connection,
        "earnings_hourly",
        [
            {
                "node": row.node,
                "started_at": row.window.start,
                "ended_at": row.window.end,
                "unit": row.unit,
                "gross": row.amounts.gross,
                "held": row.amounts.held,
                "net": row.amounts.net,
                "doubtful": row.amounts.doubtful,
                "usd_price": row.usd_price,
                "gross_usd": row.usd("gross"),
                "held_usd": row.usd("held"),
                "net_usd": row.usd("net"),
                "doubtful_usd": row.usd("doubtful"),
                "provenance": row.provenance.value,
            }
            for row in rows
        ],
    )
    return rows


def quarters_to_rebuild(connection: duckdb.DuckDBPyConnection, window: Window) -> Window:
    """The part of `window` whose quarters are not on record yet, or may still have changed with the last readings."""
    last = scalar(connection, "SELECT max(started_at) FROM rates_quarterly")
    if last is None:
        return window
    return Window(min(window.end, max(window.start, aware(last) - QUARTERS_MAY_CHANGE)), window.end)


def rebuild_rates_quarterly(connection: duckdb.DuckDBPyConnection, window: Window, tokens: Tokens) -> int:
    """Compute `rates_quarterly` anew for the full quarters of an hour in `window`. Returns the number of rows.

    A quarter in which the share was changed has an unknown share: part of it ran at the old one, or at none.
    """
    observed = {
        node: _Observed(window, found) for node, found in earnings_observations(connection, _around(window)).items()
    }
    rows = [
        {
            "node": row.node,
            "started_at": row.window.start,
            "usd_per_hour": None if (usd := row.usd("net")) is None else usd * (HOUR / SLOT),
            "share": None,
        }
        for row in _earned_by_all(connection, observed, tokens, step=SLOT)
        if row.window.end - row.window.start == SLOT
    ]
    start, end = naive(window.start), naive(window.end)
    connection.execute("DELETE FROM rates_quarterly WHERE started_at >= ? AND started_at < ?", [start, end])
    insert(connection, "rates_quarterly", rows)
    # The readings on either side, which need not be at the quarter's ends: hours apart they tell less, but not nothing.
    connection.execute(
        """
        WITH known AS (
            SELECT node, observed_at, share FROM allocations_observed
            WHERE share IS NOT NULL AND observed_at >= $start - INTERVAL 35 DAY
        )
        UPDATE rates_quarterly AS r SET share = s.share
        FROM (
            SELECT q.node, q.started_at,
                CASE WHEN b.share IS NULL OR abs(a.share - b.share) < 1e-6 THEN a.share END AS share
            FROM (SELECT * FROM rates_quarterly WHERE started_at >= $start AND started_at < $end) q
            ASOF JOIN (SELECT * FROM known) a
                ON q.node = a.node AND q.started_at + INTERVAL 13 MINUTE <= a.observed_at
            ASOF LEFT JOIN (SELECT * FROM known) b
                ON q.node = b.node AND q.started_at + INTERVAL 2 MINUTE >= b.observed_at
            WHERE a.observed_at <= q.started_at + INTERVAL 77 MINUTE
        ) s
        WHERE r.node = s.node AND r.started_at = s.started_at
        """,
        {"start": start, "end": end},
    )
    return len(rows)


def _no_price(_hour: datetime) -> Decimal | None:
    return None


def _dollar(_hour: datetime) -> Decimal | None:
    return Decimal(1)


def rebuild_features(connection: duckdb.DuckDBPyConnection, window: Window, *, curvature: float) -> int:
    """Compute `features_hourly` anew for the hours of `window`. Returns the number of rows.

    The yield is what the hour's net earnings would have been at full share, were earnings share ** curvature.
    An hour whose share, earnings or price is unknown has an unknown yield.
    """
    start, end = naive(window.start), naive(window.end)
    connection.execute("DELETE FROM features_hourly WHERE hour >= ? AND hour < ?", [start, end])
    # A reading at the full hour tells of the hour that ends there and of the one that begins.
    connection.execute(
        """
        INSERT INTO features_hourly
        WITH hours AS (
            SELECT node, started_at AS hour, net, net_usd, usd_price FROM earnings_hourly
            WHERE ended_at - started_at = INTERVAL 1 HOUR AND started_at >= $start AND started_at < $end
        ),
        shares AS (
            SELECT h.node, h.hour, avg(a.share) AS share
            FROM hours h JOIN allocations_observed a ON a.node = h.node
                AND a.observed_at >= h.hour AND a.observed_at <= h.hour + INTERVAL 62 MINUTE
            GROUP BY ALL
        ),
        healths AS (
            SELECT h.node, h.hour,
                avg(CASE WHEN n.state IN ('healthy', 'at_risk') THEN 1.0 ELSE 0.0 END) AS healthy_fraction
            FROM hours h JOIN node_health n ON n.node = h.node
                AND n.observed_at >= h.hour AND n.observed_at <= h.hour + INTERVAL 62 MINUTE
            GROUP BY ALL
        )
        SELECT h.node, h.hour, s.share, CAST(h.net AS DOUBLE), h.net_usd,
            CASE WHEN s.share > 0 THEN h.net_usd / pow(s.share, $curvature) END,
            CASE WHEN s.share > 0 THEN CAST(h.net AS DOUBLE) / pow(s.share, $curvature) END,
            CAST(h.usd_price AS DOUBLE), e.healthy_fraction
        FROM hours h
        LEFT JOIN shares s USING (node, hour)
        LEFT JOIN healths e USING (node, hour)
        """,
        {"start": start, "end": end, "curvature": curvature},
    )
    return int(scalar(connection, "SELECT count(*) FROM features_hourly WHERE hour >= ? AND hour < ?", [start, end]))
