"""Models, forecasts, plans, decisions, applications and anomalies: what Orcha concluded and did, as rows."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb

from orcha_pipeline.model import YIELD_USD, ApplicationStatus, Gate, HealthState, Verdict, YieldForecast
from orcha_pipeline.warehouse.facts import aware, insert, naive, scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A trained model version. `path` is the exported model's folder below the data folder."""

    protocol: str
    version: str
    kind: str
    trained_at: datetime
    mlflow_run_id: str
    dagster_run_id: str
    data_start: datetime
    data_end: datetime
    data_hash: str
    metrics: Mapping[str, float]
    path: str
    champion: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidedAllocation:
    """One node's line of a decision. Shares and values None: unknown."""

    node: str
    yield_usd: float | None
    share_now: float | None
    share_planned: float | None
    lever: str | None
    value_now: float | None
    value_planned: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """A decision as it is kept, with a line a node."""

    decision_id: str
    host: str
    decided_at: datetime
    verdict: Verdict
    gain_usd_per_hour: float | None
    gain_percent: float | None
    switching_cost_usd: float | None
    confidence: float | None
    gates: tuple[Gate, ...]
    reason: str
    dagster_run_id: str
    allocations: tuple[DecidedAllocation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationRow:
    """How the carrying out of a decision went."""

    application_id: str
    decision_id: str
    started_at: datetime
    ended_at: datetime | None
    status: ApplicationStatus
    reason: str
    dagster_run_id: str


Connection = duckdb.DuckDBPyConnection


def _rows(
    connection: Connection, query: str, parameters: Sequence[object] | Mapping[str, object] = ()
) -> list[dict[str, Any]]:
    result = connection.execute(query, dict(parameters) if isinstance(parameters, Mapping) else list(parameters))
    columns = [column[0] for column in result.description or []]
    return [
        {name: aware(value) if isinstance(value, datetime) else value for name, value in zip(columns, row, strict=True)}
        for row in result.fetchall()
    ]


def count_features(connection: Connection) -> int:
    """Node-hours on record."""
    return int(scalar(connection, "SELECT count(*) FROM features_hourly"))


def record_model(connection: Connection, model: ModelRow) -> None:
    """Add a model version; a new champion takes the title from the protocol's old one."""
    if model.champion:
        connection.execute("UPDATE models SET champion = false WHERE protocol = ?", [model.protocol])
    insert(connection, "models", [{**asdict(model), "metrics": json.dumps(dict(model.metrics), sort_keys=True)}])


def count_models(connection: Connection, dagster_run_id: str) -> int:
    """How many models a training run has brought so far."""
    return int(scalar(connection, "SELECT count(*) FROM models WHERE dagster_run_id = ?", [dagster_run_id]))


def champions(connection: Connection) -> dict[str, ModelRow]:
    """Protocol -> the model version that is served."""
    return {row.protocol: row for row in models(connection) if row.champion}


def models(connection: Connection) -> list[ModelRow]:
    """Every model version, by protocol and the latest first."""
    rows = _rows(connection, "SELECT * FROM models ORDER BY protocol, trained_at DESC, CAST(version AS INTEGER) DESC")
    for row in rows:
        row["metrics"] = json.loads(row["metrics"])
    return [ModelRow(**row) for row in rows]


def set_champion(connection: Connection, protocol: str, version: str) -> None:
    """Have this version served from the next forecast on."""
    connection.execute("UPDATE models SET champion = (version = ?) WHERE protocol = ?", [version, protocol])


def record_forecasts(connection: Connection, forecasts: Sequence[YieldForecast]) -> int:
    """Write forecasts, a row a node, target and hour; the same node's forecast of the same moment is replaced."""
    for item in forecasts:
        connection.execute(
            "DELETE FROM forecasts WHERE node = ? AND issued_at = ? AND target = ?",
            [item.node, naive(item.issued_at), item.target],
        )
    return insert(
        connection,
        "forecasts",
        [
            {
                "issued_at": item.issued_at,
                "node": item.node,
                "hour": hour,
                "p10": p10,
                "p50": p50,
                "p90": p90,
                "model": item.model,
                "version": item.version,
                "note": item.note,
                "target": item.target,
            }
            for item in forecasts
            for hour, p10, p50, p90 in zip(item.hours, item.p10, item.p50, item.p90, strict=True)
        ],
    )


def latest_forecasts(connection: Connection, *, since: datetime) -> dict[str, YieldForecast]:
    """Node -> the latest forecast of its yield issued at `since` or later."""
    rows = _rows(
        connection,
        "SELECT f.* FROM forecasts f JOIN (SELECT node, max(issued_at) AS issued_at FROM forecasts "
        "WHERE issued_at >= $since AND target = $target GROUP BY node) l USING (node, issued_at) "
        "WHERE f.target = $target ORDER BY node, hour",
        {"since": naive(since), "target": YIELD_USD},
    )
    by_node: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_node.setdefault(row["node"], []).append(row)
    return {
        node: YieldForecast(
            node=node,
            issued_at=found[0]["issued_at"],
            hours=tuple(row["hour"] for row in found),
            p10=tuple(row["p10"] for row in found),
            p50=tuple(row["p50"] for row in found),
            p90=tuple(row["p90"] for row in found),
            model=found[0]["model"],
            version=found[0]["version"],
            note=found[0]["note"],
        )
        for node, found in by_node.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """The last that was read of a node.

    The share may be older than the health: a node that fell silent keeps its limits, so its last known share is what
    counts against the host.
    """

    observed_at: datetime
    state: HealthState
    reason: str
    share: float | None
    share_observed_at: datetime | None

    @property
    def share_is_current(self) -> bool:
        """Whether the share was read together with the health."""
        return self.share is not None and self.share_observed_at == self.observed_at


LAST_SHARE_COUNTS_FOR = timedelta(days=7)


def node_states(connection: Connection, *, since: datetime) -> dict[str, NodeState]:
    """Node -> its health as last read at `since` or later, and its last known share."""
    rows = _rows(
        connection,
        "SELECT h.node, h.observed_at, h.state, h.reason, a.share, a.share_observed_at FROM node_health h LEFT JOIN ("
        "  SELECT node, arg_max(share, observed_at) AS share, max(observed_at) AS share_observed_at "
        "  FROM allocations_observed WHERE share IS NOT NULL AND observed_at >= ? GROUP BY node"
        ") a USING (node) WHERE h.observed_at >= ? "
        "QUALIFY row_number() OVER (PARTITION BY h.node ORDER BY h.observed_at DESC) = 1",
        [naive(since - LAST_SHARE_COUNTS_FOR), naive(since)],
    )
    states: dict[str, NodeState] = {}
    for row in rows:
        node = row.pop("node")
        row["state"] = HealthState(row["state"])
        states[node] = NodeState(**row)
    return states


def record_plan(
    connection: Connection, *, plan_id: str, host: str, planned_at: datetime, plan: str, reason: str, run_id: str
) -> None:
    """Keep a plan as JSON, or why there is none (`plan` empty)."""
    row = {
        "plan_id": plan_id,
        "host": host,
        "planned_at": planned_at,
        "plan": plan,
        "reason": reason,
        "dagster_run_id": run_id,
    }
    insert(connection, "plans", [row])


def plans_of_run(connection: Connection, run_id: str) -> list[tuple[str, str, str]]:
    """(host, plan as JSON or "", reason) of the plans a Dagster run made, the last one of each host."""
    return connection.execute(
        "SELECT host, plan, reason FROM plans WHERE dagster_run_id = ? "
        "QUALIFY row_number() OVER (PARTITION BY host ORDER BY planned_at DESC) = 1 ORDER BY host",
        [run_id],
    ).fetchall()


def record_decision(connection: Connection, decision: DecisionRow) -> None:
    """Add a decision and its lines."""
    kept = asdict(decision)
    lines = kept.pop("allocations")
    kept["verdict"] = decision.verdict.value
    kept["gates"] = json.dumps([asdict(gate) for gate in decision.gates])
    insert(connection, "decisions", [kept])
    insert(connection, "decision_allocations", [{"decision_id": decision.decision_id, **line} for line in lines])


def _decisions(connection: Connection, where: str, parameters: Sequence[object]) -> list[DecisionRow]:
    found: list[DecisionRow] = []
    for row in _rows(connection, f"SELECT * FROM decisions {where}", parameters):  # noqa: S608 (our own text)
        lines = _rows(
            connection,
            "SELECT * EXCLUDE (decision_id) FROM decision_allocations WHERE decision_id = ? ORDER BY node",
            [row["decision_id"]],
        )
        row["verdict"] = Verdict(row["verdict"])
        row["gates"] = tuple(Gate(**gate) for gate in json.loads(row["gates"]))
        row["allocations"] = tuple(DecidedAllocation(**line) for line in lines)
        found.append(DecisionRow(**row))
    return found


def latest_decisions(connection: Connection, hosts: Collection[str] | None = None) -> list[DecisionRow]:
    """The last decision of each host; of `hosts` alone, where given (others may be on record from earlier settings)."""
    return _decisions(
        connection,
        "WHERE list_contains(coalesce(?, [host]), host) "
        "QUALIFY row_number() OVER (PARTITION BY host ORDER BY decided_at DESC) = 1 ORDER BY host",
        [None if hosts is None else sorted(hosts)],
    )


def decision(connection: Connection, decision_id: str) -> DecisionRow | None:
    """One decision, or None."""
    found = _decisions(connection, "WHERE decision_id = ?", [decision_id])
    return found[0] if found else None


def unapplied(connection: Connection, hosts: Collection[str] | None = None) -> list[str]:
    """Ids of the last decisions of `hosts` (default: all) that say reallocate and are not carried out to an end."""
    ended = {a.decision_id for a in _applications(connection, "WHERE ended_at IS NOT NULL")}
    return [
        d.decision_id
        for d in latest_decisions(connection, hosts)
        if d.verdict is Verdict.REALLOCATE and d.decision_id not in ended
    ]


def _applications(connection: Connection, where: str, parameters: Sequence[object] = ()) -> list[ApplicationRow]:
    rows = _rows(connection, f"SELECT * FROM applications {where}", parameters)  # noqa: S608 (our own text)
    for row in rows:
        row["status"] = ApplicationStatus(row["status"])
    return [ApplicationRow(**row) for row in rows]


def latest_applications(connection: Connection, hosts: Collection[str] | None = None) -> list[ApplicationRow]:
    """How the last decisions of `hosts` (of all, by default) were carried out, where they were."""
    ids = [d.decision_id for d in latest_decisions(connection, hosts)]
    return _applications(connection, "WHERE decision_id IN (SELECT unnest(?)) ORDER BY started_at", [ids])


def begin_application(connection: Connection, application: ApplicationRow) -> bool:
    """Claim a decision. False if it was claimed before: a decision is applied once, whoever asks again."""
    if scalar(connection, "SELECT count(*) FROM applications WHERE decision_id = ?", [application.decision_id]):
        return False
    insert(connection, "applications", [{**asdict(application), "status": application.status.value}])
    return True


def end_application(
    connection: Connection, application_id: str, *, status: ApplicationStatus, reason: str, ended_at: datetime
) -> None:
    """Write how an application ended."""
    connection.execute(
        "UPDATE applications SET status = ?, reason = ?, ended_at = ? WHERE application_id = ?",
        [status.value, reason, naive(ended_at), application_id],
    )


def status_by_steps(connection: Connection, application_id: str) -> ApplicationStatus:
    """How an application that was broken off ended, as far as its steps tell."""
    rows = connection.execute(
        "SELECT node, bool_or(kind = 'rollback' AND status = 'done') FROM application_steps "
        "WHERE application_id = ? GROUP BY node",
        [application_id],
    ).fetchall()
    if not rows:
        return ApplicationStatus.DROPPED
    return ApplicationStatus.ROLLED_BACK if all(undone for _, undone in rows) else ApplicationStatus.ROLLBACK_FAILED


def applied_at(connection: Connection, host: str, *, since: datetime) -> list[datetime]:
    """When allocations of `host` were changed, at `since` or later; a change that was rolled back counts too."""
    rows = _rows(
        connection,
        "SELECT a.started_at FROM applications a JOIN decisions d USING (decision_id) "
        "WHERE d.host = ? AND a.started_at >= ? AND a.status <> 'dropped' ORDER BY a.started_at",
        [host, naive(since)],
    )
    return [row["started_at"] for row in rows]


def last_changes(connection: Connection) -> dict[str, datetime]:
    """Node -> when its lever was last moved."""
    rows = _rows(
        connection,
        "SELECT node, max(started_at) AS moved_at FROM application_steps WHERE status = 'done' GROUP BY node",
    )
    return {row["node"]: row["moved_at"] for row in rows}


def steps_since(connection: Connection, since: datetime) -> dict[str, int]:
    """Node -> how often its lever was moved since then. A failed move counts: it may have restarted the node."""
    query = "SELECT node, count(*) AS steps FROM application_steps WHERE started_at >= ? GROUP BY node"
    return {row["node"]: row["steps"] for row in _rows(connection, query, [naive(since)])}


def record_step(connection: Connection, step: Mapping[str, Any]) -> None:
    """Write one step of an application, or what came of it."""
    connection.execute(
        "DELETE FROM application_steps WHERE application_id = ? AND step = ?", [step["application_id"], step["step"]]
    )
    insert(connection, "application_steps", [step])


def record_anomalies(connection: Connection, slot: datetime, anomalies: Sequence[Mapping[str, Any]]) -> int:
    """Write what was found in a slot; what an earlier run found in the same slot is replaced."""
    connection.execute("DELETE FROM anomalies WHERE slot = ?", [naive(slot)])
    return insert(connection, "anomalies", [{"slot": slot, **anomaly} for anomaly in anomalies])
