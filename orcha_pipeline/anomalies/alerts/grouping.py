"""Which alert stands for which: one for a dead host, one for a price feed that is away. Pure values."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from orcha_pipeline.anomalies import catalogue
from orcha_pipeline.anomalies.alerts.causes import HOST_UNREACHABLE, PRICES_STALE
from orcha_pipeline.anomalies.alerts.told import Key, Told
from orcha_pipeline.anomalies.anomaly import ORCHA, Scope, Severity

AFTERMATH = timedelta(hours=2)
"""So long after a node was last away or in error its fewer earnings follow from that: they are told of full hours."""
_AWAY = catalogue.NODE_UNREACHABLE.id
_WRONG = catalogue.NODE_ERROR.id
_STALE = catalogue.PRICE_STALE.id
SYMPTOMS = frozenset(
    rule.id
    for rule in (
        catalogue.NODE_ERROR,
        catalogue.EARNINGS_DROP,
        catalogue.EARNINGS_FLATLINE,
        catalogue.EARNINGS_ZERO,
        catalogue.UNUSUAL_HOUR,
        catalogue.USAGE_SPIKE,
        catalogue.SERIES_EARNINGS,
        catalogue.SERIES_YIELD,
        catalogue.SERIES_USAGE,
        catalogue.SERIES_LATENCY,
    )
)
"""What follows from a node being away or in error, or having been; an error only from being away, while it is."""


def grouped(
    told: Sequence[Told],
    *,
    nodes: Mapping[str, Collection[str]],
    tokens: Collection[str],
    elsewhere: Collection[str] = (),
    lasting: Collection[Key] = (),
) -> list[Told]:
    """`told` with the causes of each named, and with what stands for several of them.

    `nodes`: host -> all its nodes; `tokens`: all whose prices are asked for. `elsewhere`: nodes of which not the host
    is asked but a cloud. `lasting`: of which alerts are open, or were within `AFTERMATH`: what a node being away or in
    error leaves behind follows from these as well. A node in error is as grave as what follows from it.
    """
    away = {item.subject: item for item in told if item.rule == _AWAY}
    # What a cloud says of a node of a dead host is an error: it is not connected.
    agreeing = away | {item.subject: item for item in told if item.rule == _WRONG and item.subject in elsewhere}
    dead = {
        host: own
        for host, own in nodes.items()
        if len(own) > 1 and set(own) <= set(agreeing) and set(own) - set(elsewhere)
    }
    stale = {item.subject: item for item in told if item.rule == _STALE}
    no_feed = len(tokens) > 1 and set(tokens) <= set(stale)
    host_of = {node: host for host, own in nodes.items() for node in own}

    standing = {item.key for item in told if item.rule in (_AWAY, _WRONG)}
    standing |= {(HOST_UNREACHABLE.id, host) for host in dead}

    def cause_of(item: Told) -> Key | None:
        if item.rule == _STALE and no_feed:
            return PRICES_STALE.id, ORCHA
        if item.scope is not Scope.NODE or (item.rule != _AWAY and item.rule not in SYMPTOMS):
            return None
        host = HOST_UNREACHABLE.id, host_of.get(item.subject, "")
        causes: list[Key] = [host, (_AWAY, item.subject), (_WRONG, item.subject)]
        if item.key in causes:  # only what is worse than itself
            causes = causes[: causes.index(item.key)]
        # Once it answers again an error is news, whatever was before.
        left_behind = () if item.rule in (_AWAY, _WRONG) else lasting
        found = [key for key in causes if key in standing] or [key for key in causes if key in left_behind]
        return next(iter(found), None)

    members = _as_grave_as_what_follows([replace(item, cause=cause_of(item)) for item in told])
    groups = [
        _dead_host(host, [agreeing[node] for node in sorted(own, key=lambda node: (node in elsewhere, node))])
        for host, own in sorted(dead.items())
    ]
    if no_feed:
        groups.append(_no_feed([stale[token] for token in sorted(tokens)]))
    return [*members, *groups]


def _as_grave_as_what_follows(members: Sequence[Told]) -> list[Told]:
    """Those of a node in error, which is a warning; that it earns nothing meanwhile, say, is more."""
    severities: dict[Key | None, list[Severity]] = {}
    for item in members:
        severities.setdefault(item.cause, []).append(item.severity)
    return [
        replace(item, severity=max([item.severity, *severities.get(item.key, [])], key=lambda each: each.rank))
        if item.rule == _WRONG
        else item
        for item in members
    ]


def _dead_host(host: str, members: Sequence[Told]) -> Told:
    names = ", ".join(item.subject for item in members)
    return Told(
        rule=HOST_UNREACHABLE.id,
        scope=HOST_UNREACHABLE.scope,
        subject=host,
        host=host,
        severity=HOST_UNREACHABLE.severity,
        message=f"{host}: none of its {len(members)} nodes answers ({names}). {members[0].message}",
        evidence=_evidence(HOST_UNREACHABLE, members),
        seen_at=max(item.seen_at for item in members),
    )


def _no_feed(members: Sequence[Told]) -> Told:
    names = ", ".join(item.subject for item in members)
    return Told(
        rule=PRICES_STALE.id,
        scope=PRICES_STALE.scope,
        subject=ORCHA,
        host=None,
        severity=max((item.severity for item in members), key=lambda severity: severity.rank),
        message=f"No token has a price that can be believed ({names}). {members[0].message}",
        evidence=_evidence(PRICES_STALE, members),
        seen_at=max(item.seen_at for item in members),
    )


def _evidence(rule: catalogue.Rule, members: Sequence[Told]) -> dict[str, object]:
    return {"remedy": rule.remedy, "docs": rule.anchor, "members": [item.subject for item in members]}
