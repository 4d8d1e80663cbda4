"""Every rule that can raise something: what it says, how much it matters, what to do, and what follows from it.

`docs/alerts.md` has a section for each, under its id. A rule that an alert is raised by without an anomaly (a drift, a
rollback that failed) stands here as well, so that there is one list of what may be told.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from orcha_pipeline.anomalies.anomaly import Anomaly, Scope, Severity

DOCUMENT = "docs/alerts.md"
CLEARS_AFTER = 2
"""Slots without a word after which an anomaly is over: one that comes and goes is not a new one each time."""


class Freeze(StrEnum):
    """Whether the planner leaves a node alone over it."""

    NO = "no"
    ELSEWHERE = "elsewhere"
    """What tells it (the node's state, its freeze, the clock) holds the planner by itself, for as long as it is so."""
    WHILE_TOLD = "while told"
    """In the slot in which it is told and in the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. `severity` is its usual one; `also` are those it may have besides."""

    id: str
    scope: Scope
    severity: Severity
    says: str
    remedy: str
    also: tuple[Severity, ...] = ()
    settings: tuple[str, ...] = ()
    """Keys of `orcha.toml` that hold its thresholds, with their table."""
    clears_after: int | None = CLEARS_AFTER
    """In slots; None: whoever raised it ends it."""
    freeze: Freeze = Freeze.NO
    masks: bool = False
    """Whether training leaves out the hours of the node that it is about."""

    @property
    def severities(self) -> frozenset[Severity]:
        """All that it may have."""
        return frozenset((self.severity, *self.also))

    @property
    def anchor(self) -> str:
        """Where it is told of."""
        return f"{DOCUMENT}#{self.id}"

    def found(
        self,
        subject: str,
        evidence: str,
        *,
        at: datetime,
        host: str | None = None,
        severity: Severity | None = None,
        score: float | None = None,
        remedy: str = "",
        since: datetime | None = None,
    ) -> Anomaly:
        """An anomaly of this rule about `subject`, detected `at`; `remedy` where it has a better one than usual."""
        return Anomaly(
            detected_at=at,
            rule=self.id,
            scope=self.scope,
            subject=subject,
            node=subject if self.scope is Scope.NODE else None,
            host=subject if self.scope is Scope.HOST else host,
            severity=severity or self.severity,
            score=score,
            evidence=evidence,
            remedy=remedy or self.remedy,
            since=since,
        )


INFO, WARNING, CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL

# --- what a node earns

EARNINGS_DROP = Rule(
    id="earnings-drop",
    scope=Scope.NODE,
    severity=WARNING,
    also=(INFO, CRITICAL),
    says="an hour earned much less than was expected of it",
    remedy="Look at the node's own log and dashboard for lost demand, failing jobs or a stopped service.",
    settings=("anomalies.earnings_drop_percent",),
)
EARNINGS_FLATLINE = Rule(
    id="earnings-flatline",
    scope=Scope.NODE,
    severity=WARNING,
    says="hour after hour brings exactly the same, as it never did before",
    remedy="Compare what the node's own dashboard says it earns: its API may repeat an old answer.",
    settings=("anomalies.flatline_hours",),
    # What is planned from is a repeated answer: no ground to change a share on, nor to learn from.
    freeze=Freeze.WHILE_TOLD,
    masks=True,
)
EARNINGS_ZERO = Rule(
    id="zero-while-peers-earn",
    scope=Scope.NODE,
    severity=CRITICAL,
    says="it earns nothing while other nodes of its protocol do",
    remedy="Compare its version, its address and its open ports with those of the nodes that earn.",
    settings=("anomalies.zero_hours",),
    # Not frozen: what it takes and does not use is better given to others.
    masks=True,
)
UNUSUAL_HOUR = Rule(
    id="unusual-hour",
    scope=Scope.NODE,
    severity=INFO,  # an ordinary hour is called so once in a fortnight, more often while little is known
    says="earnings, resource use and connection together are unlike the node's past",
    remedy="Compare the node's log and load in that hour with an ordinary one.",
)

# --- whether a node works

NODE_UNREACHABLE = Rule(
    id="node-unreachable",
    scope=Scope.NODE,
    severity=CRITICAL,
    says="it does not answer",
    remedy="Check that the node runs and that its address and firewall let Orcha reach it.",
    freeze=Freeze.ELSEWHERE,
    masks=True,
)
NODE_ERROR = Rule(
    id="node-error",
    scope=Scope.NODE,
    severity=WARNING,
    says="it answers, but not as it should",
    remedy="Read the node's log for the cause of this answer.",
    freeze=Freeze.ELSEWHERE,
    masks=True,
)
NODE_AT_RISK = Rule(
    id="node-at-risk",
    scope=Scope.NODE,
    severity=CRITICAL,
    says="its reputation or stake is in danger",
    remedy="Keep the node running untouched and mend the cause before the protocol suspends or slashes it.",
    freeze=Freeze.ELSEWHERE,
)
USAGE_SPIKE = Rule(
    id="usage-spike",
    scope=Scope.NODE,
    severity=WARNING,
    says="it uses much more of a resource than ever in the past week",
    remedy="Look at what the node does now; a limit in `orcha.toml` keeps it from starving the others of its host.",
    settings=("anomalies.usage_spike_factor",),
)
MEMORY_LEAK = Rule(
    id="memory-leak",
    scope=Scope.NODE,
    severity=WARNING,
    says="its memory has risen steadily for a day",
    remedy="Update the node, and restart it at a time of your own choice before the system ends it.",
    settings=("anomalies.memory_rise_percent",),
)
CLOCK_SKEW = Rule(
    id="clock-skew",
    scope=Scope.NODE,
    severity=WARNING,
    says="its clock and that of Orcha differ",
    remedy="Have both machines set their clocks by NTP (`timedatectl set-ntp true`).",
    settings=("anomalies.clock_skew_seconds",),
)

# --- what its protocol thinks of it, and owes it

SCORE_FALLING = Rule(
    id="score-falling",
    scope=Scope.NODE,
    severity=WARNING,
    also=(CRITICAL,),
    says="a score falls towards the value at which its protocol acts",
    remedy="Keep the node up and undisturbed, and look for failing disks, full links and restarts of the last days.",
    settings=("anomalies.score_days",),
    # A restart costs the very reputation that is running out, and nothing of it is at risk yet for its state to tell.
    freeze=Freeze.WHILE_TOLD,
)
NODE_FLAGGED = Rule(
    id="node-flagged",
    scope=Scope.NODE,
    severity=CRITICAL,
    says="its protocol accuses it: an open flag, or a suspension",
    remedy="Bring the node back to full service at once: while it is accused its work is watched and may be judged.",
    freeze=Freeze.WHILE_TOLD,
)
NODE_SLASHED = Rule(
    id="node-slashed",
    scope=Scope.NODE,
    severity=CRITICAL,
    says="its protocol has taken stake, or has disqualified it",
    remedy="Find out what it was punished for before anything else is changed; what was taken does not come back.",
    freeze=Freeze.WHILE_TOLD,
)
INVOICES_AGEING = Rule(
    id="invoices-ageing",
    scope=Scope.NODE,
    severity=WARNING,
    says="invoices are unpaid or not accepted for longer than is usual",
    remedy="Look at the oldest with `yagna payment invoice status`; block requestors that do not pay.",
    settings=("anomalies.invoice_days", "anomalies.doubtful_percent"),
)
LOW_GAS = Rule(
    id="low-gas",
    scope=Scope.NODE,
    severity=WARNING,
    also=(CRITICAL,),
    says="the wallet that pays for its transactions runs dry",
    remedy="Send POL to the node's wallet: without it nothing is withdrawn and no heartbeat is sent.",
    settings=("anomalies.low_gas_pol", "anomalies.gas_days"),
)
TOKEN_EXPIRING = Rule(
    id="token-expiring",
    scope=Scope.NODE,
    severity=WARNING,
    also=(CRITICAL,),
    says="the token that the node is read with expires soon",
    remedy="Sign in to the dashboard and put the new token into the variable that `token_env` names.",
    settings=("anomalies.token_days",),
)

# --- the machine

DISK_FILLING = Rule(
    id="disk-filling",
    scope=Scope.HOST,
    severity=WARNING,
    also=(CRITICAL,),
    says="the disk will be full before long",
    remedy="Make room, or move `home` to a larger disk; `orcha housekeeping` gives back what Orcha itself can.",
    settings=("anomalies.disk_days",),
)

# --- Orcha itself, and what it is told

PRICE_STALE = Rule(
    id="price-stale",
    scope=Scope.TOKEN,
    severity=WARNING,
    says="no source has given a price that can be believed for too long",
    remedy="Check that this machine reaches the price sources; `prices.pinned` sets a price by hand meanwhile.",
    settings=("prices.stale_after_minutes",),
)
ALLOCATION_FAILED = Rule(
    id="allocation-failed",
    scope=Scope.HOST,
    severity=WARNING,
    says="a change could not be made and was taken back",
    remedy="Read why with `orcha explain`; the node that refused is named there.",
)
CLOCK_JUMPED = Rule(
    id="clock-jumped",
    scope=Scope.ORCHA,
    severity=WARNING,
    says="the clock of the machine that Orcha runs on was put forward or back",
    remedy="Have the machine set its clock by NTP; changes go on by themselves after the rest.",
    freeze=Freeze.ELSEWHERE,
)
MISSED_CYCLES = Rule(
    id="missed-cycles",
    scope=Scope.ORCHA,
    severity=CRITICAL,
    also=(INFO,),
    says="no cycle has come for too long",
    remedy="See `orcha status`; start Orcha again with `orcha up` if it does not run.",
    settings=("anomalies.missed_cycles",),
)
FORECAST_DRIFT = Rule(
    id="forecast_drift",
    scope=Scope.PROTOCOL,
    severity=WARNING,
    says="forecasts have become worse than their backtest promised, or than seasonal naive",
    remedy="Nothing need be done: a retraining is asked for; `orcha models` shows what came of it.",
    clears_after=None,
)
ROLLBACK_FAILED = Rule(
    id="rollback_failed",
    scope=Scope.NODE,
    severity=CRITICAL,
    says="a change failed, and the node could not be set back",
    remedy="Set the node by hand as the alert says, then `orcha unfreeze NODE`.",
    clears_after=None,
    freeze=Freeze.ELSEWHERE,
)

# --- series that leave everything seen before

SERIES_EARNINGS = Rule(
    id="series-earnings",
    scope=Scope.NODE,
    severity=WARNING,
    also=(INFO,),
    says="what it earns in its own unit leaves everything seen before",
    remedy="Compare with the node's own dashboard; if that agrees, demand has changed and the forecasts follow.",
)
SERIES_YIELD = Rule(
    id="series-yield",
    scope=Scope.NODE,
    severity=INFO,
    says="what it would earn at full share leaves everything seen before",
    remedy="See whether the price, the demand or the share has moved with `orcha nodes`.",
)
SERIES_USAGE = Rule(
    id="series-usage",
    scope=Scope.NODE,
    severity=INFO,
    says="its use of a resource leaves everything seen before",
    remedy="Compare the node's log and load at that time with an ordinary hour.",
)
SERIES_LATENCY = Rule(
    id="series-latency",
    scope=Scope.NODE,
    severity=INFO,
    says="it answers far more slowly than ever before",
    remedy="Look at the load of its machine, its disk and the way to it.",
)
SERIES_PRICE = Rule(
    id="series-price",
    scope=Scope.TOKEN,
    severity=INFO,
    says="the price leaves everything seen before",
    remedy="Nothing need be done: a jump is believed only when sources agree or it lasts; compare with an exchange.",
)


def _by_id(rules: Iterable[Rule]) -> Mapping[str, Rule]:
    return {rule.id: rule for rule in rules}


RULES: Mapping[str, Rule] = _by_id(value for value in list(globals().values()) if isinstance(value, Rule))
"""Every rule by its id."""
FREEZING = frozenset(rule.id for rule in RULES.values() if rule.freeze is Freeze.WHILE_TOLD)
MASKING = frozenset(rule.id for rule in RULES.values() if rule.masks)
