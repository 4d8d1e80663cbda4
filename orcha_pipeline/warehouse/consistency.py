"""What must hold between the warehouse's rows, as queries that find where it does not."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orcha_pipeline.earnings import EDGE_TOLERANCE
from orcha_pipeline.warehouse.decisions import Connection
from orcha_pipeline.warehouse.facts import naive

SHOWN = 3
"""Rows that are named of those that break a rule."""
_APPLY = "FROM application_steps s JOIN applications a USING (application_id) WHERE s.kind = 'apply'"
_NOT_UNDONE = (
    "NOT EXISTS (SELECT 1 FROM application_steps r WHERE r.application_id = s.application_id AND r.node = s.node "
    "AND r.kind = 'rollback' AND r.status = 'done')"
)
_MOVED = (
    "l.value_now <> l.value_planned AND l.lever IS NOT NULL AND l.share_now IS NOT NULL AND l.share_planned IS NOT NULL"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """`query` gives one column, a name for each row that breaks the rule; `told` says what that means."""

    name: str
    told: str
    query: str


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that does not hold: how often, and of what for example."""

    rule: Rule
    count: int
    examples: tuple[str, ...]


def _orphans(table: str, key: str, parent: str) -> Rule:
    return Rule(
        f"{table} without {parent}",
        f"rows of {table} belong to nothing in {parent}",
        f"SELECT DISTINCT {key} FROM {table} WHERE {key} NOT IN (SELECT {key} FROM {parent})",  # noqa: S608
    )


def _twice(table: str, *key: str) -> Rule:
    columns = ", ".join(key)
    name = " || ' ' || ".join(f"CAST({column} AS VARCHAR)" for column in key)
    return Rule(
        f"{table} twice",
        f"{table} holds the same {' and '.join(key)} more than once, so that it counts twice",
        f"SELECT {name} FROM {table} GROUP BY {columns} HAVING count(*) > 1",  # noqa: S608
    )


def _ahead(table: str, column: str, key: str) -> Rule:
    return Rule(
        f"{table} ahead of now",
        f"{column} of {table} lies in the future: the clock was set back",
        f"SELECT {key} || ' ' || CAST({column} AS VARCHAR) FROM {table} "  # noqa: S608
        f"WHERE {column} > CAST($now AS TIMESTAMP) + INTERVAL 1 HOUR",
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "applied in full",
        "an application counts as applied, but not every change has a step that was done and read back",
        "SELECT application_id FROM applications a WHERE status = 'applied' AND ("  # noqa: S608 (our own text)
        "  SELECT count(DISTINCT node) FROM application_steps s WHERE s.application_id = a.application_id "
        "  AND kind = 'apply' AND status = 'done' AND read_back IS NOT NULL"
        f") <> (SELECT count(*) FROM decision_allocations l WHERE l.decision_id = a.decision_id AND {_MOVED})",
    ),
    Rule(
        "rolled back in full",
        "an application counts as rolled back, but a node it moved was not set back",
        f"SELECT s.application_id || ' ' || s.node {_APPLY} AND a.status = 'rolled_back' AND {_NOT_UNDONE}",
    ),
    Rule(
        "stuck nodes are frozen",
        "a node could not be set back and is not frozen",
        f"SELECT s.application_id || ' ' || s.node {_APPLY} AND a.status = 'rollback_failed' AND {_NOT_UNDONE} "  # noqa: S608
        "AND NOT EXISTS (SELECT 1 FROM freezes f WHERE f.application_id = s.application_id AND f.node = s.node)",
    ),
    Rule(
        "dropped before the first step",
        "an application counts as dropped, but has steps",
        "SELECT DISTINCT application_id FROM applications JOIN application_steps USING (application_id) "
        "WHERE applications.status = 'dropped'",
    ),
    Rule(
        "steps have ended",
        "an application has ended, but a step of it has not",
        "SELECT s.application_id || ' ' || s.step FROM application_steps s JOIN applications a USING (application_id) "
        "WHERE a.ended_at IS NOT NULL AND s.status = 'intended'",
    ),
    Rule(
        "one application at a time",
        "two applications of a host ran at once",
        "SELECT a.application_id FROM applications a JOIN decisions d USING (decision_id) JOIN ("
        "  SELECT application_id, started_at, ended_at, host FROM applications JOIN decisions USING (decision_id) "
        "  WHERE status <> 'dropped') b ON b.host = d.host AND b.application_id <> a.application_id "
        "WHERE a.status <> 'dropped' AND a.started_at > b.started_at AND a.started_at < b.ended_at",
    ),
    Rule(
        "verdicts follow their gates",
        "a decision reallocates though a gate failed, or holds though all passed",
        "SELECT decision_id FROM ("
        "  SELECT decision_id, verdict, unnest(CAST(gates AS JSON[])) AS gate FROM decisions"
        ") GROUP BY decision_id, verdict "
        "HAVING bool_and(CAST(gate->>'passed' AS BOOLEAN)) <> (verdict = 'reallocate')",
    ),
    Rule(
        "approved before it was applied",
        "a decision that waits for approval was carried out without one",
        "SELECT decision_id FROM decisions JOIN applications USING (decision_id) WHERE mode = 'confirm' "
        "AND status <> 'dropped' AND decision_id NOT IN (SELECT decision_id FROM approvals)",
    ),
    Rule(
        "advice changes nothing",
        "a decision in mode advise was carried out",
        "SELECT decision_id FROM decisions JOIN applications USING (decision_id) "
        "WHERE mode = 'advise' AND status <> 'dropped'",
    ),
    Rule(
        "one champion a protocol",
        "a protocol has more than one champion",
        "SELECT protocol FROM models WHERE champion GROUP BY protocol HAVING count(*) > 1",
    ),
    Rule(
        "quantiles in order",
        "a forecast's p10, p50 and p90 are not in order",
        "SELECT DISTINCT node || ' ' || CAST(issued_at AS VARCHAR) FROM forecasts "
        "WHERE p10 > p50 + 1e-9 OR p50 > p90 + 1e-9",
    ),
    Rule(
        "shares are parts of 1",
        "a share lies outside 0 to 1",
        "SELECT node || ' ' || CAST(observed_at AS VARCHAR) FROM allocations_observed "
        "WHERE share < -1e-9 OR share > 1 + 1e-6",
    ),
    Rule(
        "unknown is no amount",
        "what is unknown has an amount all the same",
        "SELECT node || ' ' || CAST(started_at AS VARCHAR) FROM earnings_hourly "
        "WHERE provenance = 'unknown' AND coalesce(gross, net, held) IS NOT NULL",
    ),
    Rule(
        "hours do not overlap",
        "earnings of a node overlap in time, so that they count twice",
        "SELECT node || ' ' || CAST(started_at AS VARCHAR) FROM (SELECT node, started_at, unit, "  # noqa: S608 (our own text)
        "  max(ended_at) OVER (PARTITION BY node, unit ORDER BY started_at, ended_at "
        "  ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM earnings_hourly "
        # Inside a stretch too coarse for hours the hours are there, without an amount.
        "  WHERE coalesce(gross, held, net, doubtful) IS NOT NULL) "
        # A coarse stretch ends with a reading, and one this close to the full hour counts as read at it.
        f"WHERE started_at < before - INTERVAL {EDGE_TOLERANCE // timedelta(seconds=1)} SECOND",
    ),
    Rule(
        "one open alert of a kind",
        "two alerts of one kind and subject are open",
        "SELECT kind || ' ' || subject FROM alerts WHERE resolved_at IS NULL "
        "GROUP BY kind, subject HAVING count(*) > 1",
    ),
    Rule(
        "alerts stand under alerts",
        "an alert is kept quiet by one that is not on record, or by itself",
        "SELECT alert_id FROM alerts WHERE group_id = alert_id OR group_id NOT IN (SELECT alert_id FROM alerts)",
    ),
    Rule(
        "restarts have ended",
        "a node was restarted since it did not answer, and what came of it is not on record",
        "SELECT healing_id FROM healings WHERE (status = 'intended') <> (ended_at IS NULL) "
        "OR (ended_at IS NULL AND answers_by < CAST($now AS TIMESTAMP) - INTERVAL 1 HOUR)",
    ),
    Rule(
        "only in mode auto are nodes restarted",
        "a node was restarted since it did not answer, though its mode was not auto",
        "SELECT healing_id FROM healings WHERE mode <> 'auto'",
    ),
    Rule(
        "restarts keep to their budget",
        "a node was restarted more often than it may be in 30 days",
        "SELECT healing_id FROM healings WHERE restarts_before >= restarts_per_month",
    ),
    Rule(
        "nothing beside a restart",
        "a node was restarted while another of its host was, or while its host was changed",
        "SELECT healing_id FROM healings h WHERE EXISTS (SELECT 1 FROM healings o WHERE o.host = h.host "
        "  AND o.healing_id <> h.healing_id AND o.started_at <= h.started_at AND o.ended_at > h.started_at) "
        "OR EXISTS (SELECT 1 FROM applications a JOIN decisions d USING (decision_id) WHERE d.host = h.host "
        "  AND a.status <> 'dropped' AND a.started_at < h.ended_at AND a.ended_at > h.started_at)",
    ),
    _orphans("healings", "alert_id", "alerts"),
    _orphans("alert_messages", "alert_id", "alerts"),
    _orphans("applications", "decision_id", "decisions"),
    _orphans("application_steps", "application_id", "applications"),
    _orphans("decision_allocations", "decision_id", "decisions"),
    _orphans("approvals", "decision_id", "decisions"),
    _orphans("outcomes", "decision_id", "applications"),
    _orphans("reversals", "decision_id", "applications"),
    _orphans("freezes", "application_id", "applications"),
    _twice("node_health", "node", "slot"),
    _twice("allocations_observed", "node", "slot", "lever"),
    _twice("earnings", "node", "slot", "stream", "kind", "started_at"),
    _twice("forecasts", "node", "issued_at", "hour", "target"),
    _ahead("node_health", "observed_at", "node"),
    _ahead("decisions", "decided_at", "decision_id"),
)


def breaches(connection: Connection, now: datetime) -> list[Breach]:
    """The rules that do not hold. An application under way breaks none."""
    found: list[Breach] = []
    for rule in RULES:
        parameters: Any = {"now": naive(now)} if "$now" in rule.query else None
        rows = connection.execute(rule.query, parameters).fetchall()
        if rows:
            found.append(Breach(rule, len(rows), tuple(str(row[0]) for row in rows[:SHOWN])))
    return found
