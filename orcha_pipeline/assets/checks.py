"""Blocking checks on the way to the decision: fresh, complete, in range, capacity kept."""

import math
from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

from orcha_pipeline.allocation.situation import AHEAD, READINGS_COUNT_FOR
from orcha_pipeline.assets.allocation import ALLOCATION_PLAN, PLAN
from orcha_pipeline.assets.earnings import FEATURES
from orcha_pipeline.assets.forecast import FORECAST
from orcha_pipeline.model import RESOURCES, YieldForecast, hour_of
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.warehouse import decisions

FORECAST_HOURS = 24


def _result(problems: Sequence[str], fine: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not problems,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(problems) or fine,
    )


def forecast_problems(item: YieldForecast) -> list[str]:
    """What is wrong with a forecast as a basis for a decision; empty when nothing is."""
    if len(item.hours) != FORECAST_HOURS or item.hours[0] != hour_of(item.issued_at):
        return [f"{item.node}: {len(item.hours)} hours from {item.hours[0] if item.hours else 'nowhere'}"]
    problems: list[str] = []
    for hour, low, middle, high in zip(item.hours, item.p10, item.p50, item.p90, strict=True):
        if not all(math.isfinite(value) for value in (low, middle, high)) or not 0 <= low <= middle <= high:
            problems.append(f"{item.node}: p10 {low}, p50 {middle}, p90 {high} for {hour:%Y-%m-%d %H:%M}")
    return problems


def build_checks() -> list[dg.AssetChecksDefinition]:
    """The checks."""

    @dg.asset_check(asset=FEATURES, blocking=True, description="Every configured node was read, or marked, just now.")
    def readings_complete_and_fresh(nodes: NodesResource, warehouse: WarehouseResource) -> dg.AssetCheckResult:
        installation = nodes.installation()
        now = installation.clock.now()
        with warehouse.warehouse.read() as connection:
            states = decisions.node_states(connection, since=now - READINGS_COUNT_FOR, until=now + AHEAD)
        missing = sorted(set(installation.node_protocols()) - set(states))
        return _result(
            [
                f"{node} has no reading of the last {READINGS_COUNT_FOR / timedelta(minutes=1):.0f} min"
                for node in missing
            ],
            f"{len(states)} nodes read",
        )

    @dg.asset_check(asset=FORECAST, blocking=True, description="24 hours, finite, none negative, p10 <= p50 <= p90.")
    def forecast_in_range(nodes: NodesResource, warehouse: WarehouseResource) -> dg.AssetCheckResult:
        now = nodes.installation().clock.now()
        with warehouse.warehouse.read() as connection:
            issued = decisions.latest_forecasts(connection, since=now - READINGS_COUNT_FOR, until=now + AHEAD)
        problems = [problem for item in issued.values() for problem in forecast_problems(item)]
        return _result(problems, f"{len(issued)} forecasts in range")

    @dg.asset_check(
        asset=ALLOCATION_PLAN, blocking=True, description="No capacity exceeded, every share in its bounds."
    )
    def capacity_kept(context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource) -> dg.AssetCheckResult:
        with warehouse.warehouse.read() as connection:
            plans = decisions.plans_of_run(connection, context.run.run_id)
        problems: list[str] = []
        for host, text, _reason in plans:
            if not text:
                continue  # no plan: the decision will hold
            plan = PLAN.validate_json(text)
            capacity, use = plan.host.capacity.as_dict(), plan.use_planned.as_dict()
            before = plan.use_now.as_dict()
            problems += [
                f"{host}: {use[name]:.3f} of {capacity[name]:g} {name}"
                for name in RESOURCES
                # A host that is over its capacity today may be on its way down, but never further up.
                if use[name] > max(capacity[name], before[name]) * (1 + 1e-6)
            ]
            problems += [
                f"{host}: share {line.share_planned:.3f} of {line.node.name} is out of bounds"
                for line in plan.moved
                if line.share_planned is not None
                and not line.node.min_share - 1e-6 <= line.share_planned <= line.node.max_share + 1e-6
            ]
        return _result(problems, f"{len(plans)} plans within capacity")

    return [readings_complete_and_fresh, forecast_in_range, capacity_kept]
