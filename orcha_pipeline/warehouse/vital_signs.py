"""How Orcha itself has been doing, read from the warehouse: its cycles, its readings, the slots it decided in."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from orcha_pipeline.model import SLOT, slot_of
from orcha_pipeline.warehouse.decisions import Connection, records
from orcha_pipeline.warehouse.facts import naive, scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Uptime:
    """Of the quarter-hours from `since` on that are over, how many brought a decision for every host."""

    since: datetime
    decided: int
    slots: int

    @property
    def share(self) -> float | None:
        """Part of the slots with a decision; None before the first slot is over."""
        return self.decided / self.slots if self.slots else None


def last_decided(connection: Connection, hosts: Collection[str]) -> dict[str, datetime]:
    """Host -> when it was last decided on, of these hosts."""
    rows = records(
        connection,
        "SELECT host, max(decided_at) AS at FROM decisions WHERE list_contains(?, host) GROUP BY host",
        [sorted(hosts)],
    )
    return {row["host"]: row["at"] for row in rows}


def decided_since(connection: Connection, hosts: Collection[str], since: datetime) -> list[datetime]:
    """When these hosts were decided on, from `since` on, in order; the last time before it where there is none."""
    rows = records(
        connection,
        "SELECT DISTINCT decided_at FROM decisions WHERE list_contains($hosts, host) AND decided_at >= coalesce("
        "  (SELECT max(decided_at) FROM decisions WHERE list_contains($hosts, host) HAVING max(decided_at) < $since), "
        "  $since) ORDER BY decided_at",
        {"hosts": sorted(hosts), "since": naive(since)},
    )
    return [row["decided_at"] for row in rows]


def last_read(connection: Connection, nodes: Collection[str]) -> dict[str, datetime]:
    """Node -> when it was last read, well or not, of these nodes."""
    rows = records(
        connection,
        "SELECT node, max(observed_at) AS at FROM node_health WHERE list_contains(?, node) GROUP BY node",
        [sorted(nodes)],
    )
    return {row["node"]: row["at"] for row in rows}


def uptime(connection: Connection, hosts: Collection[str], *, since: datetime, now: datetime) -> Uptime:
    """The slots since `since`, or since the first decision of these hosts where that is later, up to `now`.

    A slot counts as decided where every one of the hosts got a decision in it; the slot that has begun does not count.
    """
    (row,) = records(
        connection, "SELECT min(decided_at) AS first FROM decisions WHERE list_contains(?, host)", [sorted(hosts)]
    )
    end = slot_of(now)
    if row["first"] is None:
        return Uptime(since=since, decided=0, slots=0)
    begin = max(slot_of(row["first"]), slot_of(since))
    decided = scalar(
        connection,
        "SELECT count(*) FROM (SELECT time_bucket(INTERVAL 15 MINUTE, decided_at) AS slot FROM decisions "
        "WHERE list_contains(?, host) AND decided_at >= ? AND decided_at < ? "
        "GROUP BY slot HAVING count(DISTINCT host) = ?)",
        [sorted(hosts), naive(begin), naive(end), len(set(hosts))],
    )
    return Uptime(since=begin, decided=int(decided), slots=max(0, (end - begin) // SLOT))
