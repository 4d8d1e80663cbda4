"""`orcha doctor`: whether what is on record is consistent, the nodes stand where it says, and nothing is in the way."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from orcha_pipeline.allocation.host_lock import host_lock
from orcha_pipeline.disk import LITTLE_GIB, TOO_LITTLE_GIB, free_gib
from orcha_pipeline.errors import ModelError, OrchaError, where
from orcha_pipeline.forecasting.artifact import read_manifest
from orcha_pipeline.installation import Installation
from orcha_pipeline.nodes_check import Finding, Status
from orcha_pipeline.nodes_read import open_adapters_of
from orcha_pipeline.nodes_view import findings_grid
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.http import new_reading, time_budget
from orcha_pipeline.warehouse import decisions, freezes, permissions
from orcha_pipeline.warehouse.consistency import RULES, breaches
from orcha_pipeline.warehouse.decisions import StepRow


def examine(installation: Installation) -> list[Finding]:
    """Everything that was looked at. Changes nothing. Raises `OrchaError` where there is no warehouse to look at."""
    now = installation.clock.now()
    return [
        *_records(installation, now),
        *_applications(installation),
        *_permissions(installation),
        *_models(installation),
        *_nodes(installation),
        _disk(installation.settings.home),
    ]


def _records(installation: Installation, now: datetime) -> list[Finding]:
    with installation.warehouse.read() as connection:
        found = breaches(connection, now)
    broken = [
        Finding("warehouse", Status.BROKEN, f"{each.rule.told} ({each.count}: {', '.join(each.examples)})")
        for each in found
    ]
    held = f"{len(RULES) - len(found)} of {len(RULES)} rules hold between its rows"
    return [Finding("warehouse", Status.OK, held), *broken]


def _applications(installation: Installation) -> list[Finding]:
    """Those that nobody is at work on and that have no end."""
    with installation.warehouse.read() as connection:
        rows = decisions.applications_without_end(connection)
        hosts = {
            row.application_id: found.host
            for row in rows
            if (found := decisions.decision(connection, row.decision_id)) is not None
        }
    left: list[str] = []
    for application_id, host in hosts.items():
        with host_lock(installation.settings.home, host) as mine:
            if mine:
                left.append(f"{application_id[:8]} of {host}")
    if not left:
        return [Finding("applications", Status.OK, "none was left in its midst")]
    told = "were left in their midst; the next cycle, or start of `orcha up`, finishes them or sets them back"
    return [Finding("applications", Status.BROKEN, f"{', '.join(left)}: {told}")]


def _permissions(installation: Installation) -> list[Finding]:
    with installation.warehouse.read() as connection:
        frozen, pause = freezes.frozen(connection), permissions.pause_in_force(connection)
    found = [
        Finding("frozen", Status.BROKEN, f"{node}: please {row.reason}; then `orcha unfreeze {node}`")
        for node, row in frozen.items()
    ]
    if pause:
        found.append(Finding("pause", Status.NOTE, f"{pause.told()}; `orcha resume` ends it"))
    return found


def _models(installation: Installation) -> list[Finding]:
    """Whether the champions' files are there and as they were written."""
    with installation.warehouse.read() as connection:
        champions = decisions.champions(connection)
    found: list[Finding] = []
    for protocol, row in champions.items():
        try:
            read_manifest(installation.settings.home / row.path)
        except ModelError as error:
            found.append(Finding("models", Status.BROKEN, f"champion {row.version} of {protocol}: {error}"))
    if found or not champions:
        return found or [Finding("models", Status.NOTE, "none is trained yet: seasonal naive is served")]
    return [Finding("models", Status.OK, f"the files of {len(champions)} champions are as they were written")]


def _nodes(installation: Installation) -> list[Finding]:
    """Whether each node stands where Orcha last left it."""
    with installation.warehouse.read() as connection:
        left_at = decisions.last_steps(connection)
    nodes = [node for node in installation.settings.nodes if node.name in left_at]
    found: list[Finding] = []
    with open_adapters_of(installation, nodes) as (adapters, problems):
        for name, problem in problems.items():
            found.append(Finding("nodes", Status.BROKEN, f"{name} cannot be read: {problem}"))
        found += [told for name, adapter in adapters.items() if (told := _stands(name, adapter, left_at[name]))]
    if found or not nodes:
        return found or [Finding("nodes", Status.NOTE, "Orcha has moved none yet")]
    return [Finding("nodes", Status.OK, f"all {len(nodes)} that Orcha has moved stand where it left them")]


def _stands(name: str, adapter: Adapter, step: StepRow) -> Finding | None:
    try:
        with time_budget(adapter.settings.timeout_seconds), new_reading():
            reading = adapter.allocation()
            lever = next((lever for lever in adapter.levers() if lever.name == step.lever), None)
            waits = adapter.pending_change()
    except OrchaError as error:
        return Finding("nodes", Status.BROKEN, f"{name} cannot be read: {error}")
    except Exception as error:  # noqa: BLE001 (a plug-in fails in any way)
        return Finding("nodes", Status.BROKEN, f"{name} cannot be read: the adapter failed: {where(error)}")
    if reading.value is None or step.read_back is None or lever is None:
        return Finding("nodes", Status.NOTE, f"{name} does not tell where its {step.lever} stands")
    if abs(reading.value - step.read_back) <= lever.step / 2:
        return Finding("nodes", Status.NOTE, f"{name} stands where it was left, but {waits}") if waits else None
    told = f"{name} stands at {reading.value:g} {lever.unit}, but was left at {step.read_back:g}"
    return Finding(
        "nodes", Status.NOTE, f"{told} on {step.started_at:%Y-%m-%d %H:%M} UTC: it was changed by someone else"
    )


def _disk(home: Path) -> Finding:
    free = free_gib(home)
    status = Status.BROKEN if free < TOO_LITTLE_GIB else Status.NOTE if free < LITTLE_GIB else Status.OK
    remedy = "" if status is Status.OK else ": make room, or move `home` to a larger disk"
    return Finding("disk", status, f"{free:,.1f} GiB are free for {home}{remedy}")


def doctor_view(findings: Sequence[Finding]) -> RenderableType:
    """Every finding, and the sum of it."""
    broken = sum(finding.status is Status.BROKEN for finding in findings)
    told = f"{broken} things are broken." if broken > 1 else "One thing is broken." if broken else "Nothing is broken."
    return Group(findings_grid(findings), Text(f"{told} Nothing was changed.", style="red" if broken else "green"))
