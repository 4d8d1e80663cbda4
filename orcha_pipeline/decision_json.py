"""Decisions as JSON. Its shape is a promise, kept in docs/decisions.md: keys are added, never renamed."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from orcha_pipeline.decision_stories import DecisionLog, Story
from orcha_pipeline.nodes_json import iso

VERSION = 1
"""Of the JSON. Grows by one when a key changes its meaning or goes away."""


def log_json(found: DecisionLog) -> dict[str, Any]:
    """What `orcha decisions --json` prints."""
    return {
        "version": VERSION,
        "hosts": list(found.hosts),
        "since": iso(found.since),
        "until": iso(found.until),
        "reallocations": found.changed,
        "holds": found.held,
        "decisions": [story_json(one) for one in found.stories],
        "restarts": [{name: _told(value) for name, value in asdict(one).items()} for one in found.restarts],
        "last_30_days": asdict(found.record),
    }


def explanation_json(one: Story | None) -> dict[str, Any]:
    """What `orcha explain --json` prints."""
    return {"version": VERSION, "decision": None if one is None else {**story_json(one), **_steps_json(one)}}


def story_json(one: Story) -> dict[str, Any]:
    """One decision with its application and outcome; times ISO 8601 in UTC, what is unknown null."""
    row = asdict(one.decision)
    nodes = row.pop("allocations")
    told = {name: _told(value) for name, value in row.items()}
    application, outcome = one.application, one.outcome
    return {
        **told,
        "simulated": one.simulated,
        "nodes": [{name: _told(value) for name, value in node.items()} for node in nodes],
        "application": None if application is None else {name: _told(v) for name, v in asdict(application).items()},
        "approval": None if one.approval is None else {name: _told(v) for name, v in asdict(one.approval).items()},
        "reversal": None if one.reversal is None else {name: _told(v) for name, v in asdict(one.reversal).items()},
        "outcome": None if outcome is None else {name: _told(v) for name, v in asdict(outcome).items()},
    }


def _steps_json(one: Story) -> dict[str, Any]:
    return {"steps": [{name: _told(value) for name, value in asdict(step).items()} for step in one.steps]}


def _told(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    return [*value] if isinstance(value, tuple) else value
