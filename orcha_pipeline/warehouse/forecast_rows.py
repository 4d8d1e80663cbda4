"""How forecasts fared and what follows, as rows: live errors, retraining requests, moves of a model's alias.

Sums of errors are in the unit of their target: USD an hour at full share (YIELD_USD) or the node's own unit
(NET_NATIVE), which differs from protocol to protocol. So a sum never spans protocols or targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import duckdb

from orcha_pipeline.model import YIELD_USD, YieldForecast
from orcha_pipeline.warehouse.facts import aware, insert, naive, scalar

Connection = duckdb.DuckDBPyConnection

RETRAINING_COOLDOWN = timedelta(hours=24)
"""A retraining that does not help must not be asked for again and again."""

# What was forecast, as it came: a row a node, hour and target. Unknown hours have none.
_TRUTHS = (
    "truths AS ("
    "SELECT node, hour, 'yield_usd' AS target, yield_usd AS value FROM features_hourly WHERE isfinite(yield_usd) "
    "UNION ALL "
    "SELECT node, hour, 'net_native', net_native FROM features_hourly WHERE isfinite(net_native))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastErrorRow:
    """How one issued forecast has fared in those of its hours that are known: `hours` of them, at least one.

    Sums of absolute values over these hours, in the target's unit. `naive_abs_error` is seasonal naive's, None where
    it had no value for one of them. `inside_band` hours had their truth in p10..p90.
    """

    issued_at: datetime
    node: str
    target: str
    model: str
    version: str
    hours: int
    abs_error: float
    abs_truth: float
    naive_abs_error: float | None
    inside_band: int
    scored_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionError:
    """How a model version has fared live. `wape` and `naive_wape` None: undefined (all zero), or not known.

    `naive_wape` is over the forecasts that seasonal naive could answer. `coverage`: part of the known hours inside
    p10..p90.
    """

    version: str
    model: str
    forecasts: int
    hours: int
    wape: float | None
    naive_wape: float | None
    coverage: float
    first_issued_at: datetime
    last_issued_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingRequest:
    """A protocol's model should be trained anew. `dagster_run_id` None: no training has taken it yet."""

    request_id: str
    protocol: str
    requested_at: datetime
    reason: str
    taken_at: datetime | None
    dagster_run_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """Who pointed a protocol's alias to `version`, when and why."""

    protocol: str
    version: str
    alias: str
    moved_at: datetime
    who: str
    why: str


def _rows(connection: Connection, query: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
    result = connection.execute(query, dict(parameters))
    columns = [column[0] for column in result.description or []]
    return [
        {name: aware(value) if isinstance(value, datetime) else value for name, value in zip(columns, row, strict=True)}
        for row in result.fetchall()
    ]


# --- live errors


def to_score(connection: Connection, *, since: datetime) -> list[YieldForecast]:
    """Forecasts issued at `since` or later of which more hours are known than when they were last scored."""
    rows = _rows(
        connection,
        # Counted first, for in most cycles there is little to score, and lists are costly to build.
        f"WITH {_TRUTHS}, due AS ("  # noqa: S608 (our own text)
        "  SELECT f.node, f.target, f.issued_at FROM forecasts f "
        "  JOIN truths t ON t.node = f.node AND t.hour = f.hour AND t.target = f.target "
        "  LEFT JOIN forecast_errors e ON e.node = f.node AND e.issued_at = f.issued_at AND e.target = f.target "
        "  WHERE f.issued_at >= $since AND t.hour >= date_trunc('hour', $since) "
        "  GROUP BY f.node, f.target, f.issued_at HAVING count(*) > coalesce(min(e.hours), 0)) "
        "SELECT f.node, f.target, f.issued_at, min(f.model) AS model, min(f.version) AS version, "
        "  list(f.hour ORDER BY f.hour) AS hours, list(f.p10 ORDER BY f.hour) AS p10, "
        "  list(f.p50 ORDER BY f.hour) AS p50, list(f.p90 ORDER BY f.hour) AS p90 "
        "FROM forecasts f JOIN due USING (node, target, issued_at) "
        "GROUP BY f.node, f.target, f.issued_at ORDER BY f.node, f.target, f.issued_at",
        {"since": naive(since)},
    )
    for row in rows:
        row["hours"] = tuple(aware(hour) for hour in row["hours"])
        row |= {name: tuple(row[name]) for name in ("p10", "p50", "p90")}
    return [YieldForecast(**row) for row in rows]


def known_hours(connection: Connection, *, since: datetime) -> dict[tuple[str, str], dict[datetime, float]]:
    """(node, target) -> hour -> what came, of the known hours from `since` on."""
    found: dict[tuple[str, str], dict[datetime, float]] = {}
    for node, target, hour, value in connection.execute(
        f"WITH {_TRUTHS} SELECT node, target, hour, value FROM truths WHERE hour >= $since",  # noqa: S608
        {"since": naive(since)},
    ).fetchall():
        found.setdefault((node, target), {})[aware(hour)] = value
    return found


def record_forecast_errors(connection: Connection, errors: Sequence[ForecastErrorRow]) -> int:
    """Write how forecasts fared; what a forecast was scored before is replaced. Returns the number of rows."""
    connection.execute("CREATE OR REPLACE TEMP TABLE incoming_errors AS SELECT * FROM forecast_errors LIMIT 0")
    insert(connection, "incoming_errors", [asdict(error) for error in errors])
    connection.execute("INSERT OR REPLACE INTO forecast_errors SELECT * FROM incoming_errors")
    connection.execute("DROP TABLE incoming_errors")
    return len(errors)


def forecast_errors(
    connection: Connection, *, since: datetime, nodes: Sequence[str], target: str = YIELD_USD
) -> list[ForecastErrorRow]:
    """How the forecasts of `nodes` issued at `since` or later have fared, in order of time."""
    rows = _rows(
        connection,
        "SELECT * FROM forecast_errors WHERE issued_at >= $since AND target = $target "
        "AND list_contains($nodes, node) ORDER BY issued_at, node",
        {"since": naive(since), "target": target, "nodes": list(nodes)},
    )
    return [ForecastErrorRow(**row) for row in rows]


def live_error_summary(
    connection: Connection, protocol: str, since: datetime, *, target: str = YIELD_USD
) -> list[VersionError]:
    """How each version has fared on the protocol's nodes, issued at `since` or later; the latest version first.

    Of the forecasts issued in one hour the last counts, as in the drift test.
    """
    rows = _rows(
        connection,
        "WITH counted AS (SELECT e.* FROM forecast_errors e JOIN nodes n USING (node) "
        "  WHERE n.protocol = $protocol AND e.target = $target AND e.issued_at >= $since "
        "  QUALIFY row_number() OVER (PARTITION BY e.node, e.version, date_trunc('hour', e.issued_at) "
        "    ORDER BY e.issued_at DESC) = 1) "
        "SELECT version, max(model) AS model, count(*) AS forecasts, CAST(sum(hours) AS BIGINT) AS hours, "
        "  CASE WHEN sum(abs_truth) > 0 THEN sum(abs_error) / sum(abs_truth) END AS wape, "
        "  CASE WHEN sum(abs_truth) FILTER (naive_abs_error IS NOT NULL) > 0 "
        "    THEN sum(naive_abs_error) / sum(abs_truth) FILTER (naive_abs_error IS NOT NULL) END AS naive_wape, "
        "  sum(inside_band) / sum(hours) AS coverage, "
        "  min(issued_at) AS first_issued_at, max(issued_at) AS last_issued_at "
        "FROM counted GROUP BY version ORDER BY last_issued_at DESC, version",
        {"protocol": protocol, "target": target, "since": naive(since)},
    )
    return [VersionError(**row) for row in rows]


# --- retraining


def request_retraining(connection: Connection, *, protocol: str, at: datetime, reason: str) -> str | None:
    """Ask for a new training and return the request's id; None within RETRAINING_COOLDOWN of the last request.

    A request that nobody took within that time is given up: its run was started and ended before it came to train.
    """
    if scalar(
        connection,
        "SELECT count(*) FROM retraining_requests WHERE protocol = ? AND requested_at > ?",
        [protocol, naive(at - RETRAINING_COOLDOWN)],
    ):
        return None
    request_id = str(uuid4())
    row = {
        "request_id": request_id,
        "protocol": protocol,
        "requested_at": at,
        "reason": reason,
        "taken_at": None,
        "dagster_run_id": None,
    }
    insert(connection, "retraining_requests", [row])
    return request_id


def open_requests(connection: Connection) -> list[RetrainingRequest]:
    """The latest request of each protocol, where no training has taken it."""
    rows = _rows(
        connection,
        "SELECT * FROM (SELECT * FROM retraining_requests "
        "  QUALIFY row_number() OVER (PARTITION BY protocol ORDER BY requested_at DESC) = 1) "
        "WHERE dagster_run_id IS NULL ORDER BY protocol",
        {},
    )
    return [RetrainingRequest(**row) for row in rows]


def take_requests(connection: Connection, protocol: str, run_id: str, now: datetime) -> list[RetrainingRequest]:
    """Mark all open requests of `protocol` as taken by the training `run_id`, whatever started it; returns them."""
    rows = _rows(
        connection,
        "UPDATE retraining_requests SET taken_at = $now, dagster_run_id = $run_id "
        "WHERE protocol = $protocol AND dagster_run_id IS NULL RETURNING *",
        {"now": naive(now), "run_id": run_id, "protocol": protocol},
    )
    return sorted((RetrainingRequest(**row) for row in rows), key=lambda request: request.requested_at)


# --- aliases


def record_alias(
    connection: Connection, *, protocol: str, version: str, alias: str, at: datetime, who: str, why: str
) -> None:
    """Add a move of `alias` to the history."""
    move = AliasMove(protocol=protocol, version=version, alias=alias, moved_at=at, who=who, why=why)
    insert(connection, "model_aliases", [asdict(move)])


def alias_history(connection: Connection, protocol: str) -> list[AliasMove]:
    """Every move of the protocol's aliases, in the order they were made (the testnet's clock may run ahead of ours)."""
    rows = _rows(
        connection,
        "SELECT * FROM model_aliases WHERE protocol = $protocol ORDER BY rowid",
        {"protocol": protocol},
    )
    return [AliasMove(**row) for row in rows]
