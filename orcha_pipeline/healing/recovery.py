"""What a process left behind that died while it restarted a node: told by how the node is, never done again."""

from collections.abc import Mapping
from dataclasses import replace

from orcha_pipeline.allocation.host_lock import host_lock
from orcha_pipeline.healing.health import WORKS, health_now, in_words
from orcha_pipeline.healing.telling import tell, told_of
from orcha_pipeline.installation import Installation
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.warehouse import healings
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.healings import HealingRow, HealingStatus

DIED = "The process that restarted it ended in its midst"


def end_left_behind(installation: Installation, warehouse: Warehouse, adapters: Mapping[str, Adapter]) -> int:
    """Bring every restart to an end that no process is at work on, if it can be told how it ended. Returns how many."""
    with warehouse.read() as connection:
        hosts = {row.host for row in healings.without_end(connection)}
    ended = 0
    for host in sorted(hosts):
        with host_lock(installation.settings.home, host) as mine:
            if mine:
                ended += end_host(host, installation, warehouse, adapters)
    return ended


def end_host(host: str, installation: Installation, warehouse: Warehouse, adapters: Mapping[str, Adapter]) -> int:
    """The same of one host, whose lock the caller holds. A node that may yet come back is given its time."""
    with warehouse.read() as connection:
        rows = [row for row in healings.without_end(connection) if row.host == host]
    ended = 0
    for row in rows:
        found = _found(row, installation, adapters)
        if found is not None:
            end(row, *found, installation, warehouse)
            ended += 1
    return ended


def _found(
    row: HealingRow, installation: Installation, adapters: Mapping[str, Adapter]
) -> tuple[HealingStatus, str] | None:
    """How it ended; None while that cannot be told."""
    adapter = adapters.get(row.node)
    if adapter is None:
        return HealingStatus.FAILED, f"{DIED}, and it cannot be asked any more."
    health = health_now(adapter)
    if health.state in WORKS:
        return HealingStatus.HEALED, f"{DIED}; it answers again ({in_words(health)})."
    if installation.clock.now() < row.answers_by:
        return None
    return HealingStatus.FAILED, f"{DIED}, and it does not work ({in_words(health)})."


def end(row: HealingRow, status: HealingStatus, reason: str, installation: Installation, warehouse: Warehouse) -> None:
    """Write what came of a restart, into its alert as well."""
    now = installation.clock.now()
    with warehouse.write() as connection:
        healings.end(connection, row.healing_id, status=status, reason=reason, at=now)
        tell(connection, row.alert_id, told_of([replace(row, reason=reason)]))
