"""Nodes as JSON. Its shape is a promise, kept in docs/nodes.md: keys are added, never renamed.

Times are ISO 8601 in UTC with a Z, amounts of money and tokens decimal strings, and what is unknown is null.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar, cast

from orcha_pipeline.model import (
    AllocationReading,
    Amounts,
    Balance,
    EarningsBucket,
    EarningsObservation,
    HealthReading,
    Lever,
    UsageReading,
    Window,
)
from orcha_pipeline.nodes_check import Finding, NodeCheck
from orcha_pipeline.nodes_read import ControllerView, NodeLook, Probe, Survey, state_of
from orcha_pipeline.settings import NodeSettings
from orcha_pipeline.warehouse.last_readings import LastReading

T = TypeVar("T")
VERSION = 1
"""Grows by one when a key changes its meaning or goes away."""


def as_text(tree: Mapping[str, Any]) -> str:
    """The JSON as it is printed: ASCII, so that nothing a node told steers the terminal."""
    return json.dumps(_finite(tree), indent=2, allow_nan=False)


def _finite(tree: Any) -> Any:
    """A number that is none is unknown."""
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in cast("dict[str, Any]", tree).items()}
    return [_finite(item) for item in cast("list[Any]", tree)] if isinstance(tree, list) else tree


def survey_json(survey: Survey) -> dict[str, Any]:
    """What `orcha nodes --json` prints."""
    return {
        "version": VERSION,
        "read_at": iso(survey.read_at),
        "simulated": survey.simulated,
        "nodes": [_look_json(look) for look in survey.nodes],
        "plug_in_problems": dict(survey.plug_in_problems),
        "warehouse_problem": survey.warehouse_problem or None,
    }


def _look_json(look: NodeLook) -> dict[str, Any]:
    reading = look.reading
    return {
        **_identity(look.settings),
        "mode": look.mode.value,
        "state": state_of(look),
        "reason": look.problem or (reading.health.reason if reading else ""),
        "error_kind": reading.health.error_kind if reading else "settings",
        "earnings": [
            {"stream": item.stream, "unit": item.unit, "provenance": item.provenance.value}
            for item in (reading.earnings if reading else ())
        ],
        "allocation": _allocation_json(reading.allocation) if reading and reading.allocation else None,
        "levers": [_lever_json(lever) for lever in (reading.levers if reading else ())],
        "recorded": None if look.recorded is None else _recorded_json(look.recorded),
    }


def findings_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """What a check came to, a finding each."""
    return [{"part": f.part, "status": f.status.value, "text": f.text} for f in findings]


def check_json(checks: Sequence[NodeCheck]) -> dict[str, Any]:
    """What `orcha nodes check --json` prints."""
    return {
        "version": VERSION,
        "broken": any(check.broken for check in checks),
        "nodes": [
            {
                **_identity(check.settings),
                "broken": check.broken,
                "findings": findings_json(check.findings),
            }
            for check in checks
        ],
    }


def reading_json(found: Probe) -> dict[str, Any]:
    """What `orcha nodes read NAME --json` prints. A part that could not be read is null and told in `errors`."""
    return {
        "version": VERSION,
        **_identity(found.settings),
        "observed_at": iso(found.observed_at),
        "window": _window_json(found.window),
        "native_unit": found.native_unit,
        "token": found.token,
        "tokens_per_native": _decimal(found.tokens_per_native),
        "health": None if found.health is None else _health_json(found.health),
        "earnings": _each(found.earnings, _earnings_json),
        "balances": _each(found.balances, _balance_json),
        "usage": _each(found.usage, _usage_json),
        "levers": _each(found.levers, _lever_json),
        "allocations": _each(found.allocations, _allocation_json),
        "advice": _each(found.advice, str),
        "controller": None if found.controller is None else _controller_json(found.controller, found),
        "errors": [{"part": p, "kind": f.kind, "message": f.message} for p, f in found.failures.items()],
    }


def _each(things: Sequence[T] | None, one: Callable[[T], Any]) -> list[Any] | None:
    return None if things is None else [one(thing) for thing in things]


def _identity(settings: NodeSettings) -> dict[str, Any]:
    return {
        "node": settings.name,
        "protocol": settings.protocol,
        "host": settings.host,
        "simulated": settings.simulated,
    }


def iso(moment: datetime | None) -> str | None:
    """A time in UTC as all of our JSON tells it; None where it is unknown."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _decimal(value: Decimal | None) -> str | None:
    return None if value is None else f"{value:f}"


def _window_json(window: Window) -> dict[str, Any]:
    return {"start": iso(window.start), "end": iso(window.end)}


def _amounts(amounts: Amounts) -> Mapping[str, Decimal | None]:
    return {name: getattr(amounts, name) for name in ("gross", "held", "net", "doubtful")}


def _health_json(health: HealthReading) -> dict[str, Any]:
    return {
        "state": health.state.value,
        "reason": health.reason,
        "error_kind": health.error_kind,
        "latency_seconds": health.latency_seconds,
        "version": health.version,
        "scores": dict(health.scores),
    }


def _earnings_json(item: EarningsObservation) -> dict[str, Any]:
    bucket = isinstance(item, EarningsBucket)
    return {
        "kind": "bucket" if bucket else "counter",
        "stream": item.stream,
        "observed_at": iso(item.observed_at),
        "start": iso(item.window.start if bucket else item.since),
        "end": iso(item.window.end if bucket else item.observed_at),
        "unit": item.unit,
        **{name: _decimal(amount) for name, amount in _amounts(item.amounts).items()},
        "provenance": item.provenance.value,
        "source": item.source,
    }


def _balance_json(item: Balance) -> dict[str, Any]:
    return {
        "kind": item.kind.value,
        "account": item.account,
        "observed_at": iso(item.observed_at),
        "since": iso(item.since),
        "unit": item.unit,
        "amount": _decimal(item.amount),
        "provenance": item.provenance.value,
        "source": item.source,
        "note": item.note,
    }


def _usage_json(item: UsageReading) -> dict[str, Any]:
    return {"metric": item.metric, "value": item.value, "provenance": item.provenance.value, "source": item.source}


def _lever_json(lever: Lever) -> dict[str, Any]:
    return {
        "name": lever.name,
        "unit": lever.unit,
        "mode": lever.mode.value,
        "minimum": lever.minimum,
        "maximum": lever.maximum,
        "step": lever.step,
        "at_full_share": lever.at_full_share,
        "cooldown_seconds": lever.cooldown.total_seconds(),
        "restart_seconds": lever.restart_seconds,
        "settle_seconds": lever.settle_seconds,
        "restarts_per_month": lever.restarts_per_month,
        "writable": lever.writable,
        "why_not": lever.why_not,
        "risks": list(lever.risks),
    }


def _allocation_json(item: AllocationReading) -> dict[str, Any]:
    return {
        "lever": item.lever,
        "value": item.value,
        "unit": item.unit,
        "share": item.share,
        "provenance": item.provenance.value,
        "source": item.source,
        "note": item.note,
    }


def _controller_json(view: ControllerView, found: Probe) -> dict[str, Any]:
    limits = found.limits
    return {
        "description": view.description,
        "cannot": dict(view.cannot),
        "limits": None
        if limits is None
        else {
            "cpu_threads": limits.cpu_threads,
            "memory_bytes": limits.memory_bytes,
            "bandwidth_mbps": limits.bandwidth_mbps,
        },
    }


def _recorded_json(recorded: LastReading) -> dict[str, Any]:
    hour = recorded.hour
    return {
        "observed_at": iso(recorded.observed_at),
        "state": recorded.state.value,
        "share": recorded.share,
        "hour": None
        if hour is None
        else {
            **_window_json(hour.window),
            "unit": hour.unit,
            "net": _decimal(hour.net),
            "net_usd": hour.usd,
            "provenance": hour.provenance.value,
        },
    }
