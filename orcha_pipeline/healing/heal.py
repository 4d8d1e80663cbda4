"""One restart of a node that does not answer: on record before it acts, looked at afterwards, never done twice."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

from orcha_pipeline.allocation.host_lock import host_lock
from orcha_pipeline.controllers.base import Controller
from orcha_pipeline.controllers.docker_api import EngineError
from orcha_pipeline.errors import AdapterError, OrchaError, where
from orcha_pipeline.healing.choice import budget, why_not, with_means
from orcha_pipeline.healing.downed import down_nodes, means_of
from orcha_pipeline.healing.health import WORKS, health_now, in_words, wait_until_it_works
from orcha_pipeline.healing.recovery import end, end_host
from orcha_pipeline.healing.telling import as_sentence
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import HealthState
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.warehouse import healings
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.healings import HealingRow, HealingStatus

STOP_GRACE_SECONDS = 300
"""What hangs may yet write to its disk; the longest that any protocol asks for."""
LONGEST_RESTART = timedelta(seconds=STOP_GRACE_SECONDS + 180)


@dataclass(frozen=True, slots=True)
class Healing:
    """What came of it. `status` None: nothing was done, for the reason told."""

    status: HealingStatus | None
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """How time passes while a node is waited for."""

    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic


def heal(
    name: str,
    *,
    run_id: str,
    installation: Installation,
    warehouse: Warehouse,
    adapters: Mapping[str, Adapter],
    waiting: Waiting | None = None,
) -> Healing:
    """Restart a node, if all that it was chosen for still holds, and wait until it works.

    Raises `OrchaError` for a node that is not configured.
    """
    node = next((each for each in installation.settings.nodes if each.name == name), None)
    if node is None or name not in adapters:
        raise OrchaError(f"There is no node {name!r} to restart: `orcha nodes` lists those there are.")
    with host_lock(installation.settings.home, node.host) as mine:
        if not mine:
            return Healing(None, f"Another process is changing {node.host}.")
        end_host(node.host, installation, warehouse, adapters)
        begun = _begun(name, adapters[name], run_id, installation, warehouse)
        if isinstance(begun, str):
            return Healing(None, as_sentence(begun))
        return _restarted(begun, adapters[name], installation, warehouse, waiting or Waiting())


def _begun(
    name: str, adapter: Adapter, run_id: str, installation: Installation, warehouse: Warehouse
) -> HealingRow | str:
    """The restart, on record by now; or what stands against it."""
    means, health = means_of(adapter), health_now(adapter)
    if health.state is not HealthState.UNREACHABLE:
        return f"it answers again: {in_words(health)}"
    if out_of_reach := _why_out_of_reach(adapter.controller):
        return out_of_reach
    now, settings = installation.clock.now(), installation.settings.healing
    with warehouse.write() as connection:
        found = next((down for down in down_nodes(connection, installation, now) if down.node == name), None)
        if found is None or found.away_since is None:
            return "no alert tells any more that it does not answer"
        down = with_means(found, means)
        if against := why_not(down, now=now, settings=settings):
            return against
        used, most = budget(down, settings)
        row = HealingRow(
            healing_id=str(uuid4()),
            node=name,
            host=down.host,
            alert_id=down.alert_id,
            mode=down.mode,
            away_since=found.away_since,
            restarts_before=used,
            restarts_per_month=most,
            started_at=now,
            answers_by=now + LONGEST_RESTART + settings.verify_for,
            dagster_run_id=run_id,
        )
        healings.begin(connection, row)
    return row


def _why_out_of_reach(controller: Controller) -> str:
    """That nothing could be restarted just now: what never gets there must not use up the node's budget."""
    try:
        controller.limits()
    except EngineError as error:
        return f"what restarts it is out of reach: {error.message}" if error.passing else ""
    except Exception:  # noqa: BLE001 (whatever else is wrong, the restart itself tells of it)
        return ""
    return ""


def _restarted(
    row: HealingRow, adapter: Adapter, installation: Installation, warehouse: Warehouse, waiting: Waiting
) -> Healing:
    try:
        status, reason = _try(adapter, installation.settings.healing.verify_for, waiting)
    except BaseException as interrupt:  # it may have been restarted by then, and must not be a second time
        told = f"Interrupted ({type(interrupt).__name__}) while it was restarted."
        end(row, HealingStatus.FAILED, told, installation, warehouse)
        raise
    end(row, status, reason, installation, warehouse)
    return Healing(status, reason)


def _try(adapter: Adapter, verify_for: timedelta, waiting: Waiting) -> tuple[HealingStatus, str]:
    refused, began = "", waiting.monotonic()
    try:
        adapter.controller.restart(STOP_GRACE_SECONDS)
    except AdapterError as error:
        refused = error.message
    except Exception as error:  # noqa: BLE001 (a controller fails in any way, and that must be on record)
        refused = f"the controller failed: {where(error)}"
    # What was refused may have been done all the same, and its answer lost.
    seconds = 0.0 if refused else verify_for.total_seconds()
    found = wait_until_it_works(adapter, seconds=seconds, sleep=waiting.sleep, monotonic=waiting.monotonic)
    if found.state in WORKS:
        took = f"{waiting.monotonic() - began:.0f} s"
        return HealingStatus.HEALED, f"It answers again, {took} after the restart began ({in_words(found)})."
    if refused:
        return HealingStatus.FAILED, f"It could not be restarted: {refused}."
    minutes = f"{verify_for / timedelta(minutes=1):g} min"
    return HealingStatus.FAILED, f"{minutes} after the restart it does not work ({in_words(found)})."
