"""An anomaly: something that looks wrong, with its evidence and what to do about it. Pure values."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from orcha_pipeline.model import slot_of


class Scope(StrEnum):
    """What kind of thing an anomaly is about."""

    NODE = "node"
    HOST = "host"
    TOKEN = "token"  # noqa: S105 (the scope's name)
    PROTOCOL = "protocol"
    ORCHA = "orcha"


class Severity(StrEnum):
    """How much it matters, from the least on: `info` asks for nothing, `critical` for the operator at once."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """The higher, the more it matters."""
        return list(Severity).index(self)


ORCHA = "orcha"
"""The subject of what is about Orcha itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """Something that looks wrong, as a row of the table `anomalies`. It stands while each cycle tells it again.

    `subject` names what it is about: a node, a host, a token, a protocol, or Orcha itself. `node` and `host` are None
    where they do not apply. `since` is when what it tells of began, where that is before it was detected. `score` is
    the rule's own measure, the larger the worse; None where it has none.
    """

    detected_at: datetime
    rule: str
    scope: Scope
    subject: str
    node: str | None
    host: str | None
    severity: Severity
    score: float | None
    evidence: str
    remedy: str
    since: datetime | None = None
    slot: datetime = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slot", slot_of(self.detected_at))
