"""The plan for each host, and the decision whether to carry it out."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dagster as dg
from pydantic import TypeAdapter

from orcha_pipeline.allocation.apply import CHANGES_REMEMBERED, clock_jumped
from orcha_pipeline.allocation.gates import Decision, decide, hold_without_plan
from orcha_pipeline.allocation.plan import Plan
from orcha_pipeline.allocation.reasons import number
from orcha_pipeline.allocation.recovery import recover
from orcha_pipeline.allocation.reversals import notice
from orcha_pipeline.allocation.situation import Situation, read_quarters, read_situation
from orcha_pipeline.assets.forecast import FORECAST
from orcha_pipeline.assets.ingest import OWNERS
from orcha_pipeline.assets.metadata import picture
from orcha_pipeline.errors import AdapterError, where
from orcha_pipeline.model import Lever, Mode, Verdict
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.http import time_budget
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.settings import Settings
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.decisions import DecidedAllocation, DecisionRow

if TYPE_CHECKING:
    from orcha_pipeline.allocation.plan_hosts import HostPlan

ALLOCATION_PLAN = dg.AssetKey(["allocation_plan"])
ALLOCATION_DECISION = dg.AssetKey(["allocation_decision"])
TO_APPLY = "decisions to apply"
"""Metadata of the decision that its sensor reads: ids of the decisions that say reallocate."""
TOLD_IN_FULL = 20
"""Hosts of which the page shows everything: of more, those that change and those of which there is no plan."""

PLAN = TypeAdapter(Plan)


def first_levers(adapters: Mapping[str, Adapter]) -> tuple[dict[str, Lever | None], dict[str, str]]:
    """Node -> the lever that carries its share, None where it has none; and node -> why it could not be read."""
    levers: dict[str, Lever | None] = {}
    failures: dict[str, str] = {}
    for name, adapter in adapters.items():
        levers[name] = None
        try:
            with time_budget(adapter.settings.timeout_seconds):
                levers[name] = next(iter(adapter.levers()), None)
        except AdapterError as error:
            failures[name] = error.message
        except Exception as error:  # noqa: BLE001 (a plug-in fails in any way; the other nodes must be planned)
            failures[name] = f"the adapter failed: {where(error)}"
    return levers, failures


def decision_row(decision: Decision, run_id: str, preset: str | None = None) -> DecisionRow:
    """A decision as the warehouse keeps it."""
    plan = decision.plan
    lines = plan.nodes if plan else ()
    return DecisionRow(
        decision_id=decision.decision_id,
        host=decision.host,
        decided_at=decision.decided_at,
        verdict=decision.verdict,
        gain_usd_per_hour=decision.gain_usd_per_hour,
        gain_percent=decision.gain_percent,
        switching_cost_usd=decision.switching_cost_usd,
        confidence=decision.confidence,
        gates=decision.gates,
        reason=decision.reason,
        dagster_run_id=run_id,
        hours=plan.promise_hours if plan else None,
        gain_p10=plan.gain_usd.p10 if plan else None,
        gain_p90=plan.gain_usd.p90 if plan else None,
        roi=plan.roi if plan else None,
        binding=plan.binding if plan else (),
        shadow_prices=dict(plan.shadow_prices) if plan else {},
        runner_up=plan.runner_up if plan else "",
        runner_up_usd_per_hour=plan.runner_up_usd_per_hour if plan else None,
        preset=preset,
        mode=decision.mode,
        expires_at=decision.expires_at,
        forced=plan.forced if plan else "",
        allocations=tuple(
            DecidedAllocation(
                node=line.node.name,
                yield_usd=line.near_yield_usd.p50 if line.near_yield_usd else None,
                yield_p10=line.near_yield_usd.p10 if line.near_yield_usd else None,
                yield_p90=line.near_yield_usd.p90 if line.near_yield_usd else None,
                switching_cost_usd=line.switching_cost_usd,
                curvature=line.curvature,
                curvature_deviation=line.response.deviation,
                changes_seen=line.response.changes,
                share_seen_least=line.response.least,
                share_seen_most=line.response.most,
                share_now=line.share_now,
                share_planned=line.share_planned,
                lever=line.lever.name if line.lever else None,
                value_now=line.value_now,
                value_planned=line.value_planned,
                reason=line.reason,
            )
            for line in lines
        ),
    )


def _oldest(moments: list[datetime], now: datetime) -> timedelta | None:
    return now - min(moments) if moments else None


def take_decision(
    settings: Settings,
    modes: Mapping[str, Mode],
    situation: Situation,
    changes: Sequence[datetime],
    *,
    host: str,
    plan: Plan | None,
    why: str,
    jumped: str = "",
) -> Decision:
    """Hold a plan against every gate; without a plan, hold.

    `modes` are those of the settings, by node; `changes` the times at which the host was lately changed; `jumped` is
    why the clock cannot be relied on.
    """
    now, decision_id = situation.now, str(uuid4())
    if plan is None:
        return hold_without_plan(decision_id=decision_id, host=host, now=now, reason=why)
    told = situation.of({line.node.name for line in plan.moved} or {line.node.name for line in plan.nodes})
    return decide(
        plan,
        decision_id=decision_id,
        now=now,
        settings=settings.planner,
        changes=changes,
        last_changed=situation.last_changed,
        health={node: state.state for node, state in situation.states.items()},
        readings_age=_oldest([state.observed_at for state in told.states.values()], now),
        forecast_age=_oldest([forecast.issued_at for forecast in told.forecasts.values()], now),
        modes=modes,
        approve_within=settings.apply.approve_within,
        paused=f"{situation.pause.told()}; `orcha resume` lets them go on" if situation.pause else "",
        clock_jumped=jumped,
        awaiting=_awaited(situation.awaiting.get(host)),
    )


def _awaited(row: DecisionRow | None) -> str:
    if row is None or row.expires_at is None:
        return ""
    return (
        f"decision {row.decision_id[:8]} of {row.decided_at:%H:%M} waits for `orcha approve {row.decision_id[:8]}` "
        f"until {row.expires_at:%H:%M} UTC"
    )


def build_allocation() -> list[dg.AssetsDefinition]:
    """Plan and decision."""

    @dg.asset(
        key=ALLOCATION_PLAN,
        deps=[FORECAST],
        group_name="decision",
        kinds={"cvxpy", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "plans"},
        pool="duckdb",
    )
    def allocation_plan(
        context: dg.AssetExecutionContext, nodes: NodesResource, warehouse: WarehouseResource
    ) -> dg.MaterializeResult[Any]:
        """The best division of each host to take now, a day looked ahead, less what changing to it costs."""
        from orcha_pipeline.allocation.plan_hosts import plan_hosts

        installation = nodes.installation()
        store = warehouse.warehouse
        lost = notice(store, installation.settings, installation.clock.now())
        for loss in lost:
            context.log.warning(
                "The change of %s by decision %s has lost %s USD, of %s that it might: it is set back",
                *(loss.host, loss.decision_id, number(loss.lost_usd), number(loss.bound_usd)),
            )
        situation = read_situation(store, installation.clock.now(), installation.settings.apply)
        with nodes.adapters() as adapters:
            recovered = recover(installation, store, adapters)
            levers, failures = first_levers(adapters)
        for node, failure in failures.items():
            context.log.warning("%s keeps its share: its levers could not be read: %s", node, failure)
        for each in recovered:
            context.log.warning("An application of %s had no end; %s: %s", each.host, each.status.value, each.reason)
        made = list(
            plan_hosts(
                installation.settings,
                situation,
                levers,
                lambda names: read_quarters(store, names, situation.now),
                recovered=recovered,
            )
        )
        with store.write() as connection:
            for each in made:
                decisions.record_plan(
                    connection,
                    plan_id=str(uuid4()),
                    host=each.host,
                    planned_at=situation.now,
                    plan=PLAN.dump_json(each.plan).decode() if each.plan else "",
                    reason=each.reason,
                    run_id=context.run.run_id,
                )
        for each in made:
            if each.plan is None:
                context.log.warning("No plan for %s: %s", each.host, each.reason)
        return dg.MaterializeResult(metadata={"simulated": installation.simulated, **_told_plans(made)})

    @dg.asset(
        key=ALLOCATION_DECISION,
        deps=[ALLOCATION_PLAN],
        group_name="decision",
        kinds={"python", "duckdb"},
        owners=OWNERS,
        metadata={"dagster/table_name": "decisions"},
        pool="duckdb",
    )
    def allocation_decision(
        context: dg.AssetExecutionContext, nodes: NodesResource, warehouse: WarehouseResource
    ) -> dg.MaterializeResult[Any]:
        """Reallocate or hold, for each host, with every gate and the reason."""
        installation = nodes.installation()
        store = warehouse.warehouse
        with store.read() as connection:
            plans = decisions.plans_of_run(connection, context.run.run_id)
        if not plans:
            raise dg.Failure("This run made no plan to decide on: materialize allocation_plan with it.")
        situation = read_situation(store, installation.clock.now(), installation.settings.apply)
        rows: list[DecisionRow] = []
        to_apply: list[str] = []
        settings, modes = installation.settings, installation.settings.modes
        jumped = clock_jumped(installation)
        with store.write() as connection:
            for host, text, reason in plans:
                decision = take_decision(
                    settings,
                    modes,
                    situation,
                    decisions.applied_at(connection, host, since=situation.now - CHANGES_REMEMBERED),
                    host=host,
                    plan=PLAN.validate_json(text) if text else None,
                    why=reason,
                    jumped=jumped,
                )
                rows.append(decision_row(decision, context.run.run_id, settings.planner.preset))
                decisions.record_decision(connection, rows[-1])
                if decision.verdict is Verdict.REALLOCATE and decision.mode is Mode.AUTO:
                    to_apply.append(decision.decision_id)
        return dg.MaterializeResult(
            metadata={
                "simulated": installation.simulated,
                **_told_decisions(rows),
                TO_APPLY: dg.MetadataValue.json(to_apply),
            }
        )

    return [allocation_plan, allocation_decision]


def _told_plans(made: "Sequence[HostPlan]") -> dict[str, Any]:
    """First of hosts without a plan, then of those that gain most."""
    from orcha_pipeline.allocation.chart import plan_png

    found: dict[str, Any] = {}
    for each in sorted(made, key=lambda each: -each.plan.gain_usd_per_hour if each.plan else -math.inf)[:TOLD_IN_FULL]:
        if each.plan is None:
            found[f"{each.host}: no plan"] = each.reason
            continue
        found[f"{each.host}: plan beside today"] = picture(plan_png(each.plan), "plan beside today")
        found[f"{each.host}: gain, USD per hour"] = each.plan.gain_usd_per_hour
        found[f"{each.host}: solved in, s"] = each.plan.solve_seconds
    if len(made) > TOLD_IN_FULL:
        found["hosts"] = len(made)
        found["gain, USD per hour"] = sum(each.plan.gain_usd_per_hour for each in made if each.plan)
    return found


def _told_decisions(rows: Sequence[DecisionRow]) -> dict[str, Any]:
    """First of hosts that change."""
    found: dict[str, Any] = {}
    for row in sorted(rows, key=lambda row: row.verdict is not Verdict.REALLOCATE)[:TOLD_IN_FULL]:
        found |= _told(row)
    if len(rows) > TOLD_IN_FULL:
        found["hosts"] = len(rows)
        found["hosts to change"] = sum(row.verdict is Verdict.REALLOCATE for row in rows)
    return found


def _told(row: DecisionRow) -> dict[str, Any]:
    gates = [
        dg.TableRecord(
            {"gate": gate.name, "verdict": "passed" if gate.passed else "stopped here", "explanation": gate.explanation}
        )
        for gate in row.gates
    ]
    lines = [
        dg.TableRecord(
            {
                "node": line.node,
                "yield, USD/h at full share": "unknown" if line.yield_usd is None else f"{line.yield_usd:.5f}",
                "share now": "unknown" if line.share_now is None else f"{line.share_now:.3f}",
                "share planned": "unknown" if line.share_planned is None else f"{line.share_planned:.3f}",
                "why": line.reason,
            }
        )
        for line in row.allocations
    ]
    found: dict[str, Any] = {
        f"{row.host}: verdict": row.verdict.value,
        f"{row.host}: why": row.reason,
        f"{row.host}: gates": dg.MetadataValue.table(gates),
    }
    if row.hours is not None and row.gain_usd_per_hour is not None:
        found[f"{row.host}: expected gain, USD per hour"] = row.gain_usd_per_hour
        found[f"{row.host}: promised for, hours"] = row.hours
    if row.runner_up:
        found[f"{row.host}: runner-up"] = row.runner_up
    if row.shadow_prices:
        found[f"{row.host}: a unit more would earn, USD a month"] = dg.MetadataValue.json(dict(row.shadow_prices))
    if lines:
        found[f"{row.host}: allocations"] = dg.MetadataValue.table(lines)
    return found
