"""Whether a plan is carried out: the gates it must pass, and the decision they come to. Pure values in and out.

Gains and costs come from the plan, rules and thresholds from the settings, what happened so far from the caller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orcha_pipeline.allocation.plan import NodePlan, Plan, SharedUse
from orcha_pipeline.allocation.reasons import number
from orcha_pipeline.model import Gate, HealthState, Lever, Mode, Verdict
from orcha_pipeline.settings import PlannerSettings

MAX_READING_AGE = timedelta(minutes=30)
"""Two cycles: one may fail without stopping the next."""
MAX_FORECAST_AGE = timedelta(hours=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A plan with its gates and what they come to. `plan` is None, and so are the numbers, where none could be made."""

    decision_id: str
    host: str
    decided_at: datetime
    verdict: Verdict
    reason: str
    gates: tuple[Gate, ...]
    plan: Plan | None
    gain_usd_per_hour: float | None
    gain_percent: float | None
    switching_cost_usd: float | None
    confidence: float | None
    mode: Mode | None = None
    """The strictest of the nodes it moves; None where it moves none."""
    expires_at: datetime | None = None
    """Until when it waits for approval, in mode `confirm`."""


def decide(
    plan: Plan,
    *,
    decision_id: str,
    now: datetime,
    settings: PlannerSettings,
    changes: Sequence[datetime],
    last_changed: Mapping[str, datetime],
    health: Mapping[str, HealthState],
    readings_age: timedelta | None,
    forecast_age: timedelta | None,
    modes: Mapping[str, Mode],
    approve_within: timedelta,
    paused: str = "",
    clock_jumped: str = "",
    awaiting: str = "",
) -> Decision:
    """Hold the plan against every gate; it is carried out only if all pass, and as the `modes` of the nodes allow.

    `changes` are the times at which this host was changed, `last_changed` the same by node, `health` by node.
    `readings_age` is the age of the oldest reading the plan rests on, `forecast_age` that of the oldest forecast;
    None where there is none. Gates that speak of changed nodes are left out where the plan changes none. `paused`
    tells that all changes are stopped, `clock_jumped` that times cannot be told apart for now, `awaiting` which
    earlier decision waits for approval; all may be empty.
    """
    moved = plan.moved
    confidence = plan.confidence if moved else None
    mode = min((modes.get(line.node.name, Mode.ADVISE) for line in moved), key=lambda mode: mode.freedom, default=None)
    gates = [_changes_gate(moved), _stopped_gate("not_paused", paused, "changes are not paused")]
    if clock_jumped:
        gates.append(_stopped_gate("clock_steady", clock_jumped, ""))
    if awaiting:
        gates.append(_stopped_gate("nothing_awaits", awaiting, ""))
    if moved:
        gates += [
            _gain_percent_gate(plan, settings.min_gain_percent),
            _gain_gate(plan, settings.min_gain_usd_per_hour),
            _confidence_gate(plan, settings.min_confidence),
        ]
    gates += [_shared_gate(use) for use in plan.shared if moved]
    gates += [rate_gate(now, changes, settings.max_changes_per_hour), hold_gate(now, changes, settings.hold)]
    gates += [gate for line in moved if (gate := _cooldown_gate(line, now, last_changed))]
    gates += [
        _age_gate("readings_fresh", "the oldest reading", readings_age, MAX_READING_AGE),
        _age_gate("forecast_fresh", "the oldest forecast", forecast_age, MAX_FORECAST_AGE),
    ]
    if moved:
        gates += [_health_gate(moved, health), _writable_gate(moved)]
    verdict = Verdict.REALLOCATE if all(gate.passed for gate in gates) else Verdict.HOLD
    return Decision(
        decision_id=decision_id,
        host=plan.host.name,
        decided_at=now,
        verdict=verdict,
        reason=_told(plan, gates, confidence, mode),
        gates=tuple(gates),
        plan=plan,
        gain_usd_per_hour=plan.gain_usd_per_hour,
        gain_percent=plan.gain_percent,
        switching_cost_usd=plan.switching_cost_usd,
        confidence=confidence,
        mode=mode,
        expires_at=now + approve_within if mode is Mode.CONFIRM and verdict is Verdict.REALLOCATE else None,
    )


def hold_without_plan(*, decision_id: str, host: str, now: datetime, reason: str) -> Decision:
    """The decision where no plan could be made (`PlanError`): everything stays as it is."""
    gate = Gate(name="plan", value=None, threshold=None, passed=False, explanation=reason)
    return Decision(
        decision_id=decision_id,
        host=host,
        decided_at=now,
        verdict=Verdict.HOLD,
        reason=f"Holds: there is no plan. {reason}",
        gates=(gate,),
        plan=None,
        gain_usd_per_hour=None,
        gain_percent=None,
        switching_cost_usd=None,
        confidence=None,
    )


RATE_WINDOW = timedelta(hours=1)
"""What `max_changes_per_hour` counts over."""
BUDGET_MONTH = timedelta(days=30)
"""What a lever's `restarts_per_month` counts over."""


def cooldown_left(now: datetime, last_changed: datetime, lever: Lever) -> timedelta:
    """How long a lever rests yet after a change."""
    return _left(now, last_changed, lever.cooldown)


def freeze_reason(
    *,
    now: datetime,
    health: HealthState | None,
    lever: Lever | None,
    last_changed: datetime | None,
    restarts: int = 0,
) -> str:
    """Why the planner must leave a node alone, by the rules its gates would hold it to; empty where it may move.

    `restarts`: how often Orcha has restarted the node within `BUDGET_MONTH`.
    """
    if health is None:
        return "nothing is known of its health"
    if health is not HealthState.HEALTHY:
        return f"it is {health.value.replace('_', ' ')}"
    if lever is not None and last_changed is not None and (rest := _left(now, last_changed, lever.cooldown)):
        return f"its cool-down lasts {_span(rest)} more"
    if lever is not None and lever.restarts_per_month is not None and restarts >= lever.restarts_per_month:
        return f"its {lever.restarts_per_month} restarts a month are used up"
    return ""


def _changes_gate(moved: Sequence[NodePlan]) -> Gate:
    return Gate(
        name="plan_differs",
        value=len(moved),
        threshold=1,
        passed=bool(moved),
        explanation=f"the plan changes {', '.join(line.node.name for line in moved)}"
        if moved
        else "the plan is what is there already: no share moves by a step of its lever and 0.01",
    )


def _stopped_gate(name: str, stopped: str, usual: str) -> Gate:
    return Gate(name=name, value=stopped or "no", threshold="no", passed=not stopped, explanation=stopped or usual)


def _gain_percent_gate(plan: Plan, threshold: float) -> Gate:
    gain = plan.gain_percent
    hold = _span(timedelta(hours=plan.promise_hours))
    passed, why = _need_not_pay(plan)
    if gain is None:
        enough = plan.gain_usd_per_hour > 0
        text = f"nothing is earned today, so that any gain counts; over {hold} it is {_usd(plan.gain_usd_per_hour)}/h"
    else:
        enough = gain > 0 and gain >= threshold
        text = (
            f"the gain over {hold}, net of what it costs, is {gain:+.1f} % of today's earnings; "
            f"{threshold:g} % are asked"
        )
    return Gate(name="gain_percent", value=gain, threshold=threshold, passed=enough or passed, explanation=text + why)


def _gain_gate(plan: Plan, threshold: float) -> Gate:
    gain = plan.gain_usd_per_hour
    passed, why = _need_not_pay(plan)
    text = f"the gain over {_span(timedelta(hours=plan.promise_hours))}, net of what it costs, is {_usd(gain)}/h"
    return Gate(
        name="gain_usd_per_hour",
        value=gain,
        threshold=threshold,
        passed=passed or (gain > 0 and gain >= threshold),
        explanation=f"{text}; {'at least' if threshold else 'more than'} {_usd(threshold)}/h is asked{why}",
    )


def _confidence_gate(plan: Plan, threshold: float) -> Gate:
    """Probability that the gain exceeds what the change costs, by the errors that the forecast makes."""
    passed, why = _need_not_pay(plan)
    confidence = plan.confidence
    return Gate(
        name="confidence",
        value=confidence,
        threshold=threshold,
        passed=passed or (confidence is not None and confidence >= threshold),
        explanation=f"by the forecast's own errors the change pays with {_percent(confidence)} probability; "
        f"{_percent(threshold)} are asked{why}",
    )


def _need_not_pay(plan: Plan) -> tuple[bool, str]:
    """Whether the gates that ask for a gain let a plan pass in any case, and why."""
    reason = plan.forced or plan.explores
    return bool(reason), f"; it need not pay, for {reason}" if reason else ""


def _shared_gate(use: SharedUse) -> Gate:
    """Other hosts may not have made room yet: this one takes no more than they leave."""
    total = use.others + use.planned
    return Gate(
        name=f"limit:{use.name}",
        value=total,
        threshold=use.limit,
        passed=total <= use.limit * (1 + 1e-6) or use.planned <= use.now * (1 + 1e-6),
        explanation=f"with what the other hosts take now, {number(total)} of the {number(use.limit)} that {use.name} "
        "allows would be taken",
    )


def rate_gate(now: datetime, changes: Sequence[datetime], threshold: int) -> Gate:
    """That the host was not changed too often in the last hour. `changes`: when it was."""
    # A change dated after now (the clock went back) counts: better one change too few.
    recent = sum(moment > now - RATE_WINDOW for moment in changes)
    return Gate(
        name="rate_limit",
        value=recent,
        threshold=threshold,
        passed=recent < threshold,
        explanation=f"changes of this host in the last 60 minutes: {recent}; allowed in an hour: {threshold}",
    )


def hold_gate(now: datetime, changes: Sequence[datetime], hold: timedelta) -> Gate:
    """That the host has rested for `hold` since the last of its `changes`."""
    if not changes:
        return Gate(
            name="hold",
            value=None,
            threshold=_minutes(hold),
            passed=True,
            explanation="the host has not been changed before",
        )
    left = _left(now, max(changes), hold)
    ago = now - max(changes)
    return Gate(
        name="hold",
        value=_minutes(ago),
        threshold=_minutes(hold),
        passed=not left,
        explanation=f"the host was changed {_span(ago)} ago and rests {_span(hold)}"
        + (f": {_span(left)} more" if left else ""),
    )


def _cooldown_gate(line: NodePlan, now: datetime, last_changed: Mapping[str, datetime]) -> Gate | None:
    name, last = line.node.name, last_changed.get(line.node.name)
    if line.lever is None or not line.lever.cooldown:
        return None
    cooldown = line.lever.cooldown
    left = _left(now, last, cooldown) if last else timedelta(0)
    ago = f"was changed {_span(now - last)} ago" if last else "has not been changed before"
    return Gate(
        name=f"cooldown:{name}",
        value=_minutes(now - last) if last else None,
        threshold=_minutes(cooldown),
        passed=not left,
        explanation=f"{name} {ago}; its {line.lever.name} rests {_span(cooldown)} after a change",
    )


def _age_gate(name: str, what: str, age: timedelta | None, threshold: timedelta) -> Gate:
    return Gate(
        name=name,
        value=None if age is None else _minutes(age),
        threshold=_minutes(threshold),
        passed=age is not None and age <= threshold,
        explanation=f"{what} is {_span(age)} old; at most {_span(threshold)} is allowed"
        if age is not None
        else f"there is none: {what} is unknown",
    )


def _health_gate(moved: Sequence[NodePlan], health: Mapping[str, HealthState]) -> Gate:
    sick = {
        line.node.name: health[line.node.name].value if line.node.name in health else "of unknown health"
        for line in moved
        if health.get(line.node.name) is not HealthState.HEALTHY
    }
    told = ", ".join(f"{name} is {state.replace('_', ' ')}" for name, state in sick.items())
    return Gate(
        name="health",
        value=told or HealthState.HEALTHY.value,
        threshold=HealthState.HEALTHY.value,
        passed=not sick,
        explanation=f"{told}: only healthy nodes are changed" if sick else "every node to be changed is healthy",
    )


def _writable_gate(moved: Sequence[NodePlan]) -> Gate:
    stuck = [line for line in moved if line.lever is None or not line.lever.writable]
    told = "; ".join(f"{line.node.name}: {(line.lever and line.lever.why_not) or 'not writable'}" for line in stuck)
    return Gate(
        name="writable",
        value=told or "all",
        threshold="all",
        passed=not stuck,
        explanation=told or "every lever to be moved can be moved from here",
    )


_BEGINNINGS = {Mode.AUTO: "Moves", Mode.CONFIRM: "Asks to move", Mode.ADVISE: "Advises to move"}


def _told(plan: Plan, gates: Sequence[Gate], confidence: float | None, mode: Mode | None) -> str:
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        more = len(failed) - 1
        others = f" ({more} more {'gate fails' if more == 1 else 'gates fail'})" if more else ""
        return f"Holds: {failed[0].explanation}{others}."
    moves = ", ".join(
        f"{line.node.name} from share {line.share_now:.2f} to {line.share_planned:.2f}" for line in plan.moved
    )
    percent = "" if plan.gain_percent is None else f" ({plan.gain_percent:+.1f} %)"
    promise = (
        f"{_usd(plan.gain_usd_per_hour)}/h{percent} over {_span(timedelta(hours=plan.promise_hours))} after "
        f"{_usd(plan.switching_cost_usd)} of costs, {_percent(confidence)} likely to pay"
    )
    must = f" It must change: {plan.forced}." if plan.forced else ""
    must += f" {plan.explores[0].upper()}{plan.explores[1:]}." if plan.explores else ""
    return f"{_BEGINNINGS[mode or Mode.AUTO]} {moves}: {promise}.{must}"


def _left(now: datetime, last: datetime, rest: timedelta) -> timedelta:
    """What is left of `rest` after `last`; the whole of it where `last` lies in the future (the clock went back)."""
    return max(timedelta(0), rest - max(timedelta(0), now - last))


def _minutes(span: timedelta) -> float:
    return round(span / timedelta(minutes=1), 2)


def _span(span: timedelta) -> str:
    minutes = span / timedelta(minutes=1)
    return f"{minutes:.0f} min" if abs(minutes) < 120 else f"{minutes / 60:.3g} h"


def _percent(part: float | None) -> str:
    return "an unknown" if part is None else f"{100 * part:.0f} %"


def _usd(amount: float) -> str:
    return f"{number(amount)} USD"
