"""Models, forecasts, plans, decisions and applications: what Orcha concluded and did, as rows."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import duckdb

from orcha_pipeline.model import HOUR, YIELD_USD, ApplicationStatus, Gate, HealthState, Mode, Verdict, YieldForecast
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
    """One node's line of a decision. Shares and values None: unknown.

    Earnings are taken as yield x share ** `curvature`, learnt from `changes_seen` changes between the shares seen; all
    from `yield_p10` on is None in decisions of earlier versions.
    """

    node: str
    yield_usd: float | None
    share_now: float | None
    share_planned: float | None
    lever: str | None
    value_now: float | None
    value_planned: float | None
    reason: str
    yield_p10: float | None = None
    yield_p90: float | None = None
    switching_cost_usd: float | None = None
    curvature: float | None = None
    curvature_deviation: float | None = None
    changes_seen: int | None = None
    share_seen_least: float | None = None
    share_seen_most: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """A decision as it is kept, with a line a node.

    The gain is promised over `hours`; `gain_p10` and `gain_p90` are USD over all of them, net of the cost. `roi` is the
    gain over the cost, None where there is no cost. `shadow_prices`: resource -> USD a month of one unit more. All from
    `hours` on has its default in decisions of earlier versions.
    """

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
    hours: float | None = None
    gain_p10: float | None = None
    gain_p90: float | None = None
    roi: float | None = None
    binding: tuple[str, ...] = ()
    shadow_prices: Mapping[str, float] = field(default_factory=dict[str, float])
    runner_up: str | None = None
    runner_up_usd_per_hour: float | None = None
    preset: str | None = None
    mode: Mode | None = None
    """The strictest of the nodes it moves; None where it moves none, or is of an earlier version."""
    expires_at: datetime | None = None
    """Until when it waits for approval, in mode `confirm`."""
    forced: str | None = None
    """Why it changes whatever that earns; empty where it need not."""

    @property
    def waits_for_approval(self) -> bool:
        """Whether nothing of it is carried out before `orcha approve`."""
        return self.mode is Mode.CONFIRM and self.verdict is Verdict.REALLOCATE


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One move of a lever: what was there, what was asked for and what was read back."""

    application_id: str
    step: int
    kind: str
    node: str
    lever: str
    previous: float | None
    requested: float
    read_back: float | None
    status: str
    error: str
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """What a change promised for `hours`, and what came. Amounts in USD; None is unknown, and `note` says why."""

    decision_id: str
    host: str
    applied_at: datetime
    measured_at: datetime
    hours: float
    promised_usd: float | None
    promised_p10: float | None
    promised_p90: float | None
    earned_usd: float | None
    unchanged_usd: float | None
    gained_usd: float | None
    wrong: bool | None
    note: str


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A decision applied at `applied_at` and in force until `until`: its hours were over, or the next change came."""

    decision: DecisionRow
    applied_at: datetime
    until: datetime
    cut_short: bool


@dataclass(frozen=True, slots=True)
class SwitchingRecord:
    """How changes paid: those that could be measured, how many could not, and the sums over those that could."""

    measured: int
    unknown: int
    wrong_share: float | None
    promised_usd: float
    gained_usd: float


Connection = duckdb.DuckDBPyConnection


def records(
    connection: Connection, query: str, parameters: Sequence[object] | Mapping[str, object] = ()
) -> list[dict[str, Any]]:
    """What a query gives, column -> value a row; times aware, in UTC."""
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
    rows = records(connection, "SELECT * FROM models ORDER BY protocol, trained_at DESC, CAST(version AS INTEGER) DESC")
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


def latest_forecasts(
    connection: Connection, *, since: datetime, until: datetime | None = None
) -> dict[str, YieldForecast]:
    """Node -> the latest forecast of its yield issued at `since` or later, by `until` where that is given."""
    rows = records(
        connection,
        "SELECT f.* FROM forecasts f JOIN (SELECT node, max(issued_at) AS issued_at FROM forecasts "
        "WHERE issued_at >= $since AND issued_at <= coalesce($until, issued_at) AND target = $target GROUP BY node) l "
        "USING (node, issued_at) "
        "WHERE f.target = $target ORDER BY node, hour",
        {"since": naive(since), "until": naive(until) if until else None, "target": YIELD_USD},
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


def node_states(connection: Connection, *, since: datetime, until: datetime | None = None) -> dict[str, NodeState]:
    """Node -> its health as last read at `since` or later, and its last known share; by `until` where that is given."""
    rows = records(
        connection,
        "SELECT h.node, h.observed_at, h.state, h.reason, a.share, a.share_observed_at FROM node_health h LEFT JOIN ("
        "  SELECT node, arg_max(share, observed_at) AS share, max(observed_at) AS share_observed_at "
        "  FROM allocations_observed WHERE share IS NOT NULL AND observed_at >= $shares_since "
        "  AND observed_at <= coalesce($until, observed_at) GROUP BY node"
        ") a USING (node) WHERE h.observed_at >= $since AND h.observed_at <= coalesce($until, h.observed_at) "
        "QUALIFY row_number() OVER (PARTITION BY h.node ORDER BY h.observed_at DESC) = 1",
        {
            "shares_since": naive(since - LAST_SHARE_COUNTS_FOR),
            "since": naive(since),
            "until": naive(until) if until else None,
        },
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
    kept["mode"] = decision.mode.value if decision.mode else None
    kept["gates"] = json.dumps([asdict(gate) for gate in decision.gates])
    kept["binding"] = json.dumps(list(decision.binding))
    kept["shadow_prices"] = json.dumps(dict(decision.shadow_prices), sort_keys=True)
    insert(connection, "decisions", [kept])
    insert(connection, "decision_allocations", [{"decision_id": decision.decision_id, **line} for line in lines])


def decisions_where(connection: Connection, rest: str, parameters: Sequence[object]) -> list[DecisionRow]:
    """Decisions with their lines; `rest` is what stands behind FROM decisions."""
    rows = records(connection, f"SELECT * FROM decisions {rest}", parameters)  # noqa: S608 (our own text)
    lines: dict[str, list[DecidedAllocation]] = {row["decision_id"]: [] for row in rows}
    for line in records(
        connection,
        "SELECT * FROM decision_allocations WHERE decision_id IN (SELECT unnest(?)) ORDER BY node",
        [list(lines)],
    ):
        lines[line.pop("decision_id")].append(DecidedAllocation(**line))
    for row in rows:
        row["verdict"] = Verdict(row["verdict"])
        row["mode"] = Mode(row["mode"]) if row.get("mode") else None
        row["gates"] = tuple(Gate(**gate) for gate in json.loads(row["gates"]))
        row["binding"] = tuple(json.loads(row["binding"] or "[]"))
        row["shadow_prices"] = json.loads(row["shadow_prices"] or "{}")
        row["allocations"] = tuple(lines[row["decision_id"]])
    return [DecisionRow(**row) for row in rows]


def latest_decisions(connection: Connection, hosts: Collection[str] | None = None) -> list[DecisionRow]:
    """The last decision of each host; of `hosts` alone, where given (others may be on record from earlier settings)."""
    return decisions_where(
        connection,
        "WHERE list_contains(coalesce(?, [host]), host) "
        "QUALIFY row_number() OVER (PARTITION BY host ORDER BY decided_at DESC) = 1 ORDER BY host",
        [None if hosts is None else sorted(hosts)],
    )


def decision(connection: Connection, decision_id: str) -> DecisionRow | None:
    """One decision, or None."""
    found = decisions_where(connection, "WHERE decision_id = ?", [decision_id])
    return found[0] if found else None


def decisions_between(
    connection: Connection,
    *,
    hosts: Collection[str] | None,
    since: datetime,
    until: datetime,
    limit: int,
    verdict: Verdict | None = None,
) -> list[DecisionRow]:
    """The last `limit` decisions in [since, until) of `hosts` (None: of all), of one verdict if given; latest first."""
    return decisions_where(
        connection,
        "WHERE list_contains(coalesce(?, [host]), host) AND decided_at >= ? AND decided_at < ? "
        "AND verdict = coalesce(?, verdict) ORDER BY decided_at DESC, host LIMIT ?",
        [
            None if hosts is None else sorted(hosts),
            naive(since),
            naive(until),
            verdict.value if verdict else None,
            limit,
        ],
    )


def count_decisions(
    connection: Connection, *, hosts: Collection[str] | None, since: datetime, until: datetime
) -> dict[Verdict, int]:
    """Verdict -> how many decisions in [since, until) of `hosts` (None: of all) came to it."""
    found = records(
        connection,
        "SELECT verdict, count(*) AS decisions FROM decisions WHERE list_contains(coalesce(?, [host]), host) "
        "AND decided_at >= ? AND decided_at < ? GROUP BY verdict",
        [None if hosts is None else sorted(hosts), naive(since), naive(until)],
    )
    return dict.fromkeys(Verdict, 0) | {Verdict(row["verdict"]): row["decisions"] for row in found}


def decisions_beginning_with(connection: Connection, beginning: str, *, limit: int) -> list[DecisionRow]:
    """Decisions whose id begins so, latest first."""
    return decisions_where(
        connection, "WHERE starts_with(decision_id, ?) ORDER BY decided_at DESC LIMIT ?", [beginning, limit]
    )


def simulated_hosts(connection: Connection) -> set[str]:
    """Hosts on record with a simulated node."""
    return {row["host"] for row in records(connection, "SELECT DISTINCT host FROM nodes WHERE simulated")}


def unapplied(connection: Connection, hosts: Collection[str] | None = None) -> list[str]:
    """Ids of the last decisions of `hosts` (default: all) to be carried out without asking, and not yet to an end."""
    ended = {a.decision_id for a in _applications(connection, "WHERE ended_at IS NOT NULL")}
    return [
        d.decision_id
        for d in latest_decisions(connection, hosts)
        if d.verdict is Verdict.REALLOCATE and d.mode in (None, Mode.AUTO) and d.decision_id not in ended
    ]


def unclaimed(connection: Connection) -> list[str]:
    """Those of `unapplied` that nobody has begun to carry out."""
    claimed = applications_of(connection, waiting := unapplied(connection))
    return [decision_id for decision_id in waiting if decision_id not in claimed]


def _applications(connection: Connection, where: str, parameters: Sequence[object] = ()) -> list[ApplicationRow]:
    rows = records(connection, f"SELECT * FROM applications {where}", parameters)  # noqa: S608 (our own text)
    for row in rows:
        row["status"] = ApplicationStatus(row["status"])
    return [ApplicationRow(**row) for row in rows]


def applications_without_end(connection: Connection, *, or_these: Collection[str] = ()) -> list[ApplicationRow]:
    """Applications on record as running, and those with one of these ids; by time."""
    return _applications(
        connection,
        "WHERE ended_at IS NULL OR application_id IN (SELECT unnest(?)) ORDER BY started_at",
        [list(or_these)],
    )


def latest_applications(connection: Connection, hosts: Collection[str] | None = None) -> list[ApplicationRow]:
    """How the last decisions of `hosts` (of all, by default) were carried out, where they were."""
    ids = [d.decision_id for d in latest_decisions(connection, hosts)]
    return _applications(connection, "WHERE decision_id IN (SELECT unnest(?)) ORDER BY started_at", [ids])


def applications_of(connection: Connection, ids: Collection[str]) -> dict[str, ApplicationRow]:
    """Decision -> how it was carried out, of these decisions, where they were."""
    rows = _applications(connection, "WHERE decision_id IN (SELECT unnest(?))", [list(ids)])
    return {row.decision_id: row for row in rows}


def steps_of(connection: Connection, application_id: str) -> list[StepRow]:
    """The steps of an application, in their order."""
    rows = records(
        connection, "SELECT * FROM application_steps WHERE application_id = ? ORDER BY step", [application_id]
    )
    return [StepRow(**row) for row in rows]


def last_steps(connection: Connection) -> dict[str, StepRow]:
    """Node -> the last move of it that was done."""
    rows = records(
        connection,
        "SELECT * FROM application_steps WHERE status = 'done' "
        "QUALIFY row_number() OVER (PARTITION BY node ORDER BY started_at DESC, step DESC) = 1",
    )
    return {row["node"]: StepRow(**row) for row in rows}


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
    rows = records(
        connection,
        "SELECT a.started_at FROM applications a JOIN decisions d USING (decision_id) "
        "WHERE d.host = ? AND a.started_at >= ? AND a.status <> 'dropped' ORDER BY a.started_at",
        [host, naive(since)],
    )
    return [row["started_at"] for row in rows]


def last_changes(connection: Connection) -> dict[str, datetime]:
    """Node -> when its lever was last moved."""
    rows = records(
        connection,
        "SELECT node, max(started_at) AS moved_at FROM application_steps WHERE status = 'done' GROUP BY node",
    )
    return {row["node"]: row["moved_at"] for row in rows}


def steps_since(connection: Connection, since: datetime) -> dict[str, int]:
    """Node -> how often its lever was moved since then. A failed move counts: it may have restarted the node."""
    query = "SELECT node, count(*) AS steps FROM application_steps WHERE started_at >= ? GROUP BY node"
    return {row["node"]: row["steps"] for row in records(connection, query, [naive(since)])}


def record_step(connection: Connection, step: Mapping[str, Any]) -> None:
    """Write one step of an application, or what came of it."""
    connection.execute(
        "DELETE FROM application_steps WHERE application_id = ? AND step = ?", [step["application_id"], step["step"]]
    )
    insert(connection, "application_steps", [step])


def unmeasured(connection: Connection, *, now: datetime) -> list[Unmeasured]:
    """Applied decisions whose hours are over by `now` and that have no outcome yet, by time.

    The next application of the host cuts them short. Those of earlier versions promised for no known time: never due.
    """
    found = records(
        connection,
        "WITH carried_out AS ("
        "  SELECT a.decision_id, a.started_at, a.status, d.host, d.hours, "
        "  lead(a.started_at) OVER (PARTITION BY d.host ORDER BY a.started_at) AS next_at "
        "  FROM applications a JOIN decisions d USING (decision_id) WHERE a.status <> 'dropped'"
        ") SELECT decision_id, started_at, hours, next_at FROM carried_out "
        "WHERE status = 'applied' AND hours IS NOT NULL AND decision_id NOT IN (SELECT decision_id FROM outcomes) "
        "ORDER BY started_at",
    )
    over: dict[str, tuple[datetime, datetime, bool]] = {}
    for row in found:
        applied, ends = row["started_at"], row["started_at"] + row["hours"] * HOUR
        until = min(ends, row["next_at"] or ends)
        if until <= now:
            over[row["decision_id"]] = (applied, until, until < ends)
    rows = {
        d.decision_id: d for d in decisions_where(connection, "WHERE decision_id IN (SELECT unnest(?))", [list(over)])
    }
    return [Unmeasured(rows[decision_id], *times) for decision_id, times in over.items()]


def record_outcome(connection: Connection, outcome: OutcomeRow) -> None:
    """Write what came of a decision; what was written of it before is replaced."""
    kept = asdict(outcome)
    for name in ("applied_at", "measured_at"):
        kept[name] = naive(kept[name])
    places = ", ".join(f"${name}" for name in kept)
    connection.execute(f"INSERT OR REPLACE INTO outcomes ({', '.join(kept)}) VALUES ({places})", kept)  # noqa: S608


def outcomes_of(connection: Connection, ids: Collection[str]) -> dict[str, OutcomeRow]:
    """Decision -> what came of it, of these decisions, where it was measured."""
    rows = records(connection, "SELECT * FROM outcomes WHERE decision_id IN (SELECT unnest(?))", [list(ids)])
    return {row["decision_id"]: OutcomeRow(**row) for row in rows}


def switching_record(connection: Connection, hosts: Collection[str] | None, since: datetime) -> SwitchingRecord:
    """How the changes of `hosts` (None: of all) paid that were applied at `since` or later."""
    (row,) = records(
        connection,
        "SELECT count(gained_usd) AS measured, count(*) - count(gained_usd) AS unknown, "
        "avg(CASE WHEN wrong THEN 1.0 ELSE 0.0 END) FILTER (WHERE gained_usd IS NOT NULL) AS wrong_share, "
        "coalesce(sum(promised_usd) FILTER (WHERE gained_usd IS NOT NULL), 0) AS promised_usd, "
        "coalesce(sum(gained_usd), 0) AS gained_usd "
        "FROM outcomes WHERE list_contains(coalesce(?, [host]), host) AND applied_at >= ?",
        [None if hosts is None else sorted(hosts), naive(since)],
    )
    return SwitchingRecord(**row)
