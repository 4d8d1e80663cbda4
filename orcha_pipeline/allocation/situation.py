"""What is known at the moment of planning, read from the warehouse."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from orcha_pipeline.allocation.foresight import HISTORY_DAYS
from orcha_pipeline.allocation.gates import BUDGET_MONTH, freeze_reason
from orcha_pipeline.allocation.reversals import Remembered, SetBack, remembered, to_set_back
from orcha_pipeline.anomalies.catalogue import FREEZING, RULES
from orcha_pipeline.model import SLOT, Lever, YieldForecast, slot_of
from orcha_pipeline.settings import ApplySettings
from orcha_pipeline.warehouse import anomaly_rows, decisions, freezes, healings, permissions, planning_rows
from orcha_pipeline.warehouse.anomaly_rows import AnomalyRow
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import DecisionRow, NodeState
from orcha_pipeline.warehouse.freezes import FreezeRow
from orcha_pipeline.warehouse.permissions import PauseRow
from orcha_pipeline.warehouse.planning_rows import Quarters

T = TypeVar("T")

READINGS_COUNT_FOR = timedelta(minutes=20)
FORECAST_COUNTS_FOR = timedelta(hours=2)
AHEAD = timedelta(minutes=1)
"""What is dated further ahead than the clocks of two processes may differ is of before the clock went back."""


@dataclass(frozen=True, slots=True)
class Situation:
    """Health, shares and forecasts that are recent enough to plan on, and what was changed when; all by node."""

    now: datetime
    states: Mapping[str, NodeState]
    forecasts: Mapping[str, YieldForecast]
    last_changed: Mapping[str, datetime]
    steps_this_month: Mapping[str, int]
    held_usd: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the networks keep back."""
    unanswered: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    """When a request to change a node lately expired that nobody answered."""
    awaiting: Mapping[str, DecisionRow] = field(default_factory=dict[str, DecisionRow])
    """By host: a decision that waits for approval."""
    pause: PauseRow | None = None
    stuck: Mapping[str, FreezeRow] = field(default_factory=dict[str, FreezeRow])
    """Nodes of which a change could not be taken back."""
    wrong: Mapping[str, AnomalyRow] = field(default_factory=dict[str, AnomalyRow])
    """Nodes of which something was found in this slot or in the last that forbids to change them."""
    set_back: Mapping[str, SetBack] = field(default_factory=dict[str, SetBack])
    """Nodes of hosts whose last change lost more than it might."""
    remembered: Mapping[str, Remembered] = field(default_factory=dict[str, Remembered])
    """What nodes are not to be given again, since it lost."""

    def of(self, nodes: Collection[str]) -> "Situation":
        """What it tells of these nodes alone."""

        def kept(values: Mapping[str, T]) -> dict[str, T]:
            return {node: values[node] for node in nodes if node in values}

        return Situation(
            now=self.now,
            states=kept(self.states),
            forecasts=kept(self.forecasts),
            last_changed=kept(self.last_changed),
            steps_this_month=kept(self.steps_this_month),
            held_usd=kept(self.held_usd),
            unanswered=kept(self.unanswered),
            stuck=kept(self.stuck),
            wrong=kept(self.wrong),
            set_back=kept(self.set_back),
            remembered=kept(self.remembered),
            pause=self.pause,
        )


def read_situation(warehouse: Warehouse, now: datetime, apply: ApplySettings) -> Situation:
    """The situation of all nodes; `apply` tells for how long what happened is remembered."""
    with warehouse.read() as connection:
        return Situation(
            now=now,
            states=decisions.node_states(connection, since=now - READINGS_COUNT_FOR, until=now + AHEAD),
            forecasts=decisions.latest_forecasts(connection, since=now - FORECAST_COUNTS_FOR, until=now + AHEAD),
            last_changed=_later(decisions.last_changes(connection), healings.last_restarts(connection)),
            # A restart by self-healing costs a node the same.
            steps_this_month=Counter(decisions.steps_since(connection, now - BUDGET_MONTH))
            + Counter(healings.restarts_since(connection, now - BUDGET_MONTH)),
            held_usd=planning_rows.held_usd(connection, since=now - BUDGET_MONTH),
            unanswered=permissions.unanswered(connection, since=now - apply.ask_again_after, now=now),
            awaiting=permissions.awaiting(connection, now),
            pause=permissions.pause_in_force(connection),
            stuck=freezes.frozen(connection),
            wrong={
                row.node: row
                for row in anomaly_rows.of_nodes(connection, FREEZING, since=slot_of(now) - SLOT, until=now + AHEAD)
                if row.node is not None
            },
            set_back=to_set_back(connection, now) if apply.set_back else {},
            remembered=remembered(connection, now, remember_for=apply.remember_for) if apply.set_back else {},
        )


def _later(*moments: Mapping[str, datetime]) -> dict[str, datetime]:
    """Node -> the latest of its moments."""
    found: dict[str, datetime] = {}
    for each in moments:
        found |= {node: max(at, found.get(node, at)) for node, at in each.items()}
    return found


def read_quarters(warehouse: Warehouse, nodes: Sequence[str], now: datetime) -> Quarters:
    """The quarter-hours of these nodes that a plan learns from."""
    with warehouse.read() as connection:
        return planning_rows.quarters(connection, nodes, start=now - timedelta(days=HISTORY_DAYS), end=now)


def why_frozen(node: str, lever: Lever | None, situation: Situation) -> str:
    """Why a node must keep what it has; empty when it may be changed."""
    state = situation.states.get(node)
    if node in situation.stuck:
        return f"it could not be set back: {situation.stuck[node].reason}, then `orcha unfreeze {node}`"
    if state is None:
        return "it was not read in this cycle"
    frozen = freeze_reason(
        now=situation.now,
        health=state.state,
        lever=lever,
        last_changed=situation.last_changed.get(node),
        restarts=situation.steps_this_month.get(node, 0),
    )
    if frozen:
        return f"{frozen}: {state.reason}" if state.reason else frozen
    if node in situation.wrong:
        return f"{RULES[situation.wrong[node].rule].says}: {situation.wrong[node].evidence}"
    return "" if state.share_is_current else "its present allocation could not be read"
