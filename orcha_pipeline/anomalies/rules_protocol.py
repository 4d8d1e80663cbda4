"""Rules on how a node stands with its protocol: scores, penalties, money owed, gas, tokens. No model, no I/O.

What a protocol does not tell has no rule for it: Golem and Streamr give a node no score of its own, Golem's gas shows
as an error of the payment driver (`node-error`), and only Grass's token carries the time at which it expires.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from orcha_pipeline.anomalies.anomaly import Anomaly, Severity
from orcha_pipeline.anomalies.catalogue import (
    INVOICES_AGEING,
    LOW_GAS,
    NODE_FLAGGED,
    NODE_SLASHED,
    SCORE_FALLING,
    TOKEN_EXPIRING,
)
from orcha_pipeline.anomalies.trend import DAY, Heading, Samples, heading, in_days
from orcha_pipeline.model import BalanceKind

CLIFFS: Mapping[str, Mapping[str, Sequence[tuple[float, str]]]] = {
    "storj": {
        "audit": ((0.96, "a satellite disqualifies the node for good"),),
        "suspension": ((0.96, "a satellite suspends the node"),),
        "online": ((0.9, "the node counts as unhealthy"), (0.6, "a satellite suspends the node")),
    },
    "grass": {"ip_score": ((0.0, "nothing is paid"),)},
}
"""Protocol -> score -> values below which something happens, from the first one reached on."""
SOON = 1.0
"""Days: what is so near is critical."""
PENALTY_TOLD_FOR = DAY
DISQUALIFIED_TOLD_FOR = 7 * DAY
"""It is for good, and a node may earn on for years on the satellites that remain."""
FLAGS = {"open_flags": "open flag", "suspended_satellites": "suspension"}
EARNED = frozenset({BalanceKind.ACCRUED, BalanceKind.PENDING, BalanceKind.SETTLED, BalanceKind.DOUBTFUL})
"""Where what was earned in the time that balances tell of stands, apart from what is lost."""
GAS = "pol"
TOKEN = "token_seconds_left"  # noqa: S105 (the score's name)
DISQUALIFIED = "disqualified_satellites"
DISQUALIFIED_DAYS = "days_since_disqualified"
"""Since the last of them did so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """Money that stands somewhere, as last read; `oldest_at` is of the oldest document in it, where that is known."""

    kind: BalanceKind
    account: str
    amount: float
    unit: str
    oldest_at: datetime | None


def score_falling(
    node: str, protocol: str, scores: Mapping[str, Samples], *, at: datetime, days: float, host: str | None = None
) -> Anomaly | None:
    """`score-falling`: by its course a score is below a value at which its protocol acts within `days`.

    Of several scores the one that is there first is told; the score of the anomaly is 1 / (1 + days left).
    """
    found: list[tuple[Heading, str, float, str]] = []
    for name, cliffs in CLIFFS.get(protocol, {}).items():
        samples = scores.get(name, ())
        for limit, what in cliffs:
            reached = heading(samples, limit, falling=True)
            if reached is not None and reached.days <= days and (reached.value > limit or limit == cliffs[-1][0]):
                found.append((reached, name, limit, what))
                break
    if not found:
        return None
    reached, name, limit, what = min(found, key=lambda each: each[0].days)
    evidence = (
        f"its {name} score is {reached.value:.4g} and falls by {-reached.slope:.2g} a day: below {limit:g}, where "
        f"{what}, in {in_days(reached.days)}"
    )
    severity = Severity.CRITICAL if reached.days <= SOON else Severity.WARNING
    return SCORE_FALLING.found(node, evidence, at=at, host=host, severity=severity, score=1 / (1 + reached.days))


def flagged(node: str, scores: Mapping[str, float], *, at: datetime, host: str | None = None) -> Anomaly | None:
    """`node-flagged`: its protocol has open accusations against it, or has suspended it. The score is how many."""
    counts = {what: scores.get(name, 0.0) for name, what in FLAGS.items()}
    told = [f"{count:.0f} {what}{'s' if count > 1 else ''}" for what, count in counts.items() if count > 0]
    if not told:
        return None
    return NODE_FLAGGED.found(node, " and ".join(told), at=at, host=host, score=sum(counts.values()))


def slashed(node: str, scores: Mapping[str, Samples], *, at: datetime, host: str | None = None) -> Anomaly | None:
    """`node-slashed`: stake was taken, as found within a day, or a satellite has disqualified it within a week.

    Where nothing tells when it was disqualified, it counts for as long as that is new here. The score is how often.
    """
    told: list[str] = []
    count = 0.0
    samples = scores.get("slashings", ())
    # However long nobody read it: what was taken since the reading before is found by the first that follows.
    grown = [
        (since, value - before)
        for (since, before), (moment, value) in pairwise(samples)
        if moment > at - PENALTY_TOLD_FOR and value > before
    ]
    if grown:
        more, since = sum(part for _, part in grown), grown[0][0]
        told.append(
            f"slashed {more:.0f} time{'s' if more > 1 else ''} since {since:%Y-%m-%d %H:%M} UTC, "
            f"{samples[-1][1]:.0f} in all"
        )
        count += more
    if (lost := _disqualified(scores, at)) > 0:
        told.append(f"disqualified by {lost:.0f} satellite{'s' if lost > 1 else ''}")
        count += lost
    return NODE_SLASHED.found(node, " and ".join(told), at=at, host=host, score=count) if told else None


def _disqualified(scores: Mapping[str, Samples], at: datetime) -> float:
    """How many satellites have disqualified it, where that is no old story."""
    samples, days = scores.get(DISQUALIFIED, ()), scores.get(DISQUALIFIED_DAYS, ())
    if not samples:
        return 0.0
    count, since = samples[-1][1], at - DISQUALIFIED_TOLD_FOR
    if days:
        return count if days[-1][1] < DISQUALIFIED_TOLD_FOR / DAY else 0.0
    before = [value for moment, value in samples if moment <= since]
    return count if not before or count > before[-1] else 0.0


def invoices_ageing(
    node: str, owed: Sequence[Owed], *, at: datetime, days: float, percent: float, host: str | None = None
) -> Anomaly | None:
    """`invoices-ageing`: accepted invoices wait for their payment for more than `days`, or much is doubtful by age.

    Some requestors never pay: what is doubtful is told where it is more than `percent` of what was earned on its
    account. The score is the age of the oldest in days, where it is known.
    """
    told: list[str] = []
    ages: list[float] = []
    earned: dict[str, float] = defaultdict(float)
    for each in owed:
        earned[each.account] += each.amount if each.kind in EARNED else 0.0
    for each in owed:
        age = None if each.oldest_at is None else (at - each.oldest_at) / DAY
        amount = f"{each.amount:.6g} {each.unit} ({each.account})"
        old = f", the oldest for {age:.0f} days" if age is not None else ""
        if each.amount <= 0:
            continue
        if each.kind is BalanceKind.DOUBTFUL and each.amount > percent / 100 * earned[each.account]:
            part = f"{100 * each.amount / earned[each.account]:.0f} % of what was earned lately"
            told.append(f"{amount}, {part}, may never be paid: not accepted for a week{old}")
        elif each.kind is BalanceKind.PENDING and age is not None and age > days:
            told.append(f"{amount} are accepted and not paid{old}")
        else:
            continue
        ages += [] if age is None else [age]
    if not told:
        return None
    return INVOICES_AGEING.found(node, "; ".join(told), at=at, host=host, score=max(ages, default=None))


def low_gas(
    node: str, samples: Samples, *, at: datetime, least: float, days: float, host: str | None = None
) -> Anomaly | None:
    """`low-gas`: less than `least` POL, or none left within `days` by the course of the last week.

    `samples` are of the wallet that has least. The score is the part of `least` that is missing.
    """
    if not samples:
        return None
    value = samples[-1][1]
    ends = heading(samples, 0.0, falling=True)
    soon = ends is not None and ends.days <= days
    if value >= least and not soon:
        return None
    evidence = f"{value:.4g} POL are left in the wallet; {least:g} are called enough"
    if ends is not None and soon:
        evidence += f", and at {-ends.slope:.2g} a day they last {in_days(ends.days)}"
    urgent = value <= 0 or (ends is not None and ends.days <= SOON)
    return LOW_GAS.found(
        node,
        evidence,
        at=at,
        host=host,
        severity=Severity.CRITICAL if urgent else Severity.WARNING,
        score=max(0.0, 1 - value / least) if least > 0 else None,
    )


def token_expiring(
    node: str, scores: Mapping[str, float], *, at: datetime, days: float, host: str | None = None
) -> Anomaly | None:
    """`token-expiring`: the token that the node is read with has less than `days` left."""
    left = scores.get(TOKEN)
    if left is None or left > days * DAY.total_seconds():
        return None
    ends = at + timedelta(seconds=left)
    evidence = f"its token expires at {ends:%Y-%m-%d %H:%M} UTC, in {in_days(max(0.0, left) / DAY.total_seconds())}"
    severity = Severity.CRITICAL if left <= SOON * DAY.total_seconds() else Severity.WARNING
    return TOKEN_EXPIRING.found(node, evidence, at=at, host=host, severity=severity)
