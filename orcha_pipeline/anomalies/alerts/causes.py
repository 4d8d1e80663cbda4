"""What stands for several alerts at once, or is raised beside the cycles: the rules that no single anomaly tells."""

from orcha_pipeline.anomalies.anomaly import Scope, Severity
from orcha_pipeline.anomalies.catalogue import Rule

HOST_UNREACHABLE = Rule(
    id="host-unreachable",
    scope=Scope.HOST,
    severity=Severity.CRITICAL,
    says="none of its nodes answers",
    remedy="Check that the machine runs and that its network lets Orcha reach it; its nodes need no look of their own.",
)
PRICES_STALE = Rule(
    id="prices-stale",
    scope=Scope.ORCHA,
    severity=Severity.WARNING,
    says="no source has given a price of any token that can be believed for too long",
    remedy="Check that this machine reaches the price sources; `prices.pinned` sets a price by hand meanwhile.",
)
CHANNEL_FAILING = Rule(
    id="channel-failing",
    scope=Scope.ORCHA,
    severity=Severity.WARNING,
    says="messages about alerts do not get through it",
    remedy="Try it with `orcha alerts test`; what waits is sent once it works again.",
    clears_after=None,
)
RULES = {rule.id: rule for rule in (HOST_UNREACHABLE, PRICES_STALE, CHANNEL_FAILING)}
