"""Decisions with what followed them, as read from the warehouse: the last ones, or one by the beginning of its id."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from orcha_pipeline.errors import OrchaError
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import HOUR, Verdict
from orcha_pipeline.short_ids import one_begun
from orcha_pipeline.warehouse import decisions, healings, permissions, reversals
from orcha_pipeline.warehouse.decisions import (
    ApplicationRow,
    Connection,
    DecisionRow,
    OutcomeRow,
    StepRow,
    SwitchingRecord,
)
from orcha_pipeline.warehouse.healings import HealingRow
from orcha_pipeline.warehouse.permissions import ApprovalRow
from orcha_pipeline.warehouse.reversals import ReversalRow

RECORD = timedelta(days=30)
"""What the share of wrong switches is counted over."""
_UNITS = {"m": timedelta(minutes=1), "h": HOUR, "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One decision with what followed."""

    decision: DecisionRow
    application: ApplicationRow | None
    steps: tuple[StepRow, ...] = ()
    outcome: OutcomeRow | None
    approval: ApprovalRow | None = None
    reversal: ReversalRow | None = None
    simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLog:
    """Decisions of a stretch of time, the latest first. `held`: those to hold, left out unless `every`.

    `restarts`: what self-healing did to their hosts meanwhile, the latest first.
    """

    stories: tuple[Story, ...]
    hosts: tuple[str, ...]
    since: datetime
    until: datetime
    every: bool
    changed: int
    held: int
    record: SwitchingRecord
    restarts: tuple[HealingRow, ...] = ()

    @property
    def left_out(self) -> int:
        """Decisions that the limit left out."""
        return self.changed + (self.held if self.every else 0) - len(self.stories)


def span_of(text: str) -> timedelta:
    """A stretch of time as a person writes it: 90m, 24h, 7d, 2w. Raises `OrchaError`."""
    found = re.fullmatch(r"([1-9]\d{0,3}) ?([mhdw])", text.strip().lower())
    if not found:
        raise OrchaError(f"--since takes a number with m, h, d or w behind it, as in 24h or 7d; not {text!r}.")
    return int(found[1]) * _UNITS[found[2]]


def log(installation: Installation, *, host: str | None, since: timedelta, limit: int, every: bool) -> DecisionLog:
    """The decisions of the configured hosts, or of `host`, back to `since`; with `every`, those to hold too."""
    hosts = {one.name for one in installation.settings.hosts}
    told = _now_told(installation)
    with installation.warehouse.read() as connection:
        if host is not None:
            hosts = {_known_host(connection, host, hosts)}
        latest = [row.decided_at for row in decisions.latest_decisions(connection, hosts)]
        until = max([told, *latest] if told else latest or [datetime.now(UTC)])
        start, end = until - since, until + timedelta(microseconds=1)
        counts = decisions.count_decisions(connection, hosts=hosts, since=start, until=end)
        rows = decisions.decisions_between(
            connection,
            hosts=hosts,
            since=start,
            until=end,
            limit=limit,
            verdict=None if every else Verdict.REALLOCATE,
        )
        return DecisionLog(
            stories=_stories(connection, installation, rows),
            hosts=tuple(sorted(hosts)),
            since=start,
            until=until,
            every=every,
            changed=counts[Verdict.REALLOCATE],
            held=counts[Verdict.HOLD],
            record=decisions.switching_record(connection, hosts, until - RECORD),
            restarts=tuple(one for one in reversed(healings.healings_since(connection, start)) if one.host in hosts),
        )


def story(installation: Installation, beginning: str | None) -> Story | None:
    """The decision whose id begins so, with all steps; without one the latest of the configured hosts, if any.

    Raises `OrchaError` where no decision or more than one begins so.
    """
    with installation.warehouse.read() as connection:
        if beginning is None:
            latest = decisions.latest_decisions(connection, {host.name for host in installation.settings.hosts})
            row = max(latest, key=lambda one: one.decided_at, default=None)
        else:
            row = decision_begun(connection, beginning)
        if row is None:
            return None
        (found,) = _stories(connection, installation, [row])
        steps = decisions.steps_of(connection, found.application.application_id) if found.application else []
    return replace(found, steps=tuple(steps))


def _stories(connection: Connection, installation: Installation, rows: Sequence[DecisionRow]) -> tuple[Story, ...]:
    ids = [row.decision_id for row in rows]
    applications = decisions.applications_of(connection, ids)
    outcomes = decisions.outcomes_of(connection, ids)
    approvals = permissions.approvals_of(connection, ids)
    lost = reversals.of(connection, ids)
    simulated = decisions.simulated_hosts(connection)
    if installation.simulated:
        simulated |= {host.name for host in installation.settings.hosts}
    return tuple(
        Story(
            decision=row,
            application=applications.get(row.decision_id),
            outcome=outcomes.get(row.decision_id),
            approval=approvals.get(row.decision_id),
            reversal=lost.get(row.decision_id),
            simulated=row.host in simulated,
        )
        for row in rows
    )


def _now_told(installation: Installation) -> datetime | None:
    """The present moment; None where the testnet, whose clock it is, is away: what is on record can be told anyway."""
    try:
        return installation.clock.now()
    except OrchaError:
        return None


def _known_host(connection: Connection, host: str, configured: set[str]) -> str:
    known = configured | {row.host for row in decisions.latest_decisions(connection)}
    if host not in known:
        near = difflib.get_close_matches(host, known, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"known are: {', '.join(sorted(known))}."
        raise OrchaError(f"There is no host {host!r}; {remedy}")
    return host


def decision_begun(connection: Connection, beginning: str) -> DecisionRow:
    """The decision whose id begins so. Raises `OrchaError` where there is none, or more than one."""
    return one_begun(
        beginning,
        lambda start, limit: decisions.decisions_beginning_with(connection, start, limit=limit),
        what="a decision",
        listed_by="`orcha decisions --all --since 7d` lists them; `orcha explain` alone tells the latest.",
        id_of=lambda row: row.decision_id,
        told=lambda row: f"{row.host}, {row.decided_at:%Y-%m-%d %H:%M}",
    )
