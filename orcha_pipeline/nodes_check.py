"""What is wrong with the configured nodes, and how it is mended. Changes nothing."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orcha_pipeline.errors import AuthenticationError, NodeConnectionError, UnsupportedError
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import (
    HOUR,
    AllocationReading,
    EarningsObservation,
    HealthReading,
    HealthState,
    Lever,
    LeverMode,
    Provenance,
)
from orcha_pipeline.nodes_read import Failure, Probe, named, now_of, open_adapters_of, probe
from orcha_pipeline.prices import PriceClient
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.registry import tokens_of
from orcha_pipeline.settings import NodeSettings

WORKERS = 16


class Status(StrEnum):
    """`note`: works, or is not there by choice, but the operator may want to know."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check came to; `text` names the remedy where there is one."""

    part: str
    status: Status
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCheck:
    """All findings of one node."""

    settings: NodeSettings
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> bool:
        """Whether something must be mended."""
        return any(finding.status is Status.BROKEN for finding in self.findings)


def check_nodes(installation: Installation, name: str | None = None) -> list[NodeCheck]:
    """Check one node, or all side by side, without changing anything. Raises `OrchaError`."""
    nodes = installation.settings.nodes if name is None else (named(installation, name),)
    now = now_of(installation)
    priced = _priced_tokens(installation)

    def ask(adapter: Adapter) -> Probe:
        return probe(adapter, now)

    with open_adapters_of(installation, nodes) as (adapters, problems), ThreadPoolExecutor(WORKERS) as pool:
        probes = {p.settings.name: p for p in pool.map(ask, adapters.values())}
    return [
        NodeCheck(
            settings=node,
            findings=(Finding("settings", Status.BROKEN, problems[node.name]),)
            if node.name in problems
            else tuple(findings(probes[node.name], priced)),
        )
        for node in nodes
    ]


def _priced_tokens(installation: Installation) -> frozenset[str]:
    settings = installation.settings
    client = PriceClient(settings.prices, installation.clock, tokens=tokens_of(settings.nodes))
    client.close()
    return frozenset(client.tokens)


def findings(found: Probe, priced: frozenset[str]) -> list[Finding]:
    """What a probe tells. `priced`: the tokens that have a source of prices. Pure."""
    return [
        _connection(found),
        _credentials(found),
        *_health(found),
        *_earnings(found),
        _price(found, priced),
        *_read("usage", found, lambda readings: f"{_count(readings, 'metric')} read"),
        *_read("balances", found, lambda balances: f"{_count(balances, 'balance')} read" if balances else "none told"),
        *_levers(found),
        *_controller(found),
    ]


def _connection(found: Probe) -> Finding:
    failure = found.failures.get("health")
    if failure and failure.kind == NodeConnectionError.kind:
        return Finding("connection", Status.BROKEN, failure.message)
    if found.health is None:
        return Finding("connection", Status.OK, "something answers")
    if found.health.state is HealthState.UNREACHABLE:
        return Finding("connection", Status.BROKEN, found.health.reason)
    latency, version = found.health.latency_seconds, found.health.version
    told = "answers" if latency is None else f"answers in {latency:.2f} s"
    return Finding("connection", Status.OK, f"{told}, version {version}" if version else told)


def _credentials(found: Probe) -> Finding:
    refused = [f.message for f in found.failures.values() if f.kind == AuthenticationError.kind]
    if refused:
        return Finding("credentials", Status.BROKEN, refused[0])
    given = found.settings.token is not None or found.settings.token_env is not None
    if not given:
        return Finding("credentials", Status.OK, "none are set, and none were asked for")
    if found.health is None and found.earnings is None:
        return Finding("credentials", Status.NOTE, "not tested: nothing could be read with them")
    return Finding("credentials", Status.OK, "accepted")


def _health(found: Probe) -> list[Finding]:
    if found.health is None:
        return _failed("health", found)
    told = ", ".join([found.health.state.value.replace("_", " "), *_scores(found.health)])
    told = f"{told}: {found.health.reason}" if found.health.reason else told
    status = {HealthState.HEALTHY: Status.OK, HealthState.AT_RISK: Status.NOTE, HealthState.RESTARTING: Status.NOTE}
    return [Finding("health", status.get(found.health.state, Status.BROKEN), told)]


def _scores(health: HealthReading) -> list[str]:
    return [f"{name} {value:g}" for name, value in health.scores.items()]


def _failed(part: str, found: Probe) -> list[Finding]:
    failure = found.failures[part]
    if failure.kind == UnsupportedError.kind:
        return [Finding(part, Status.NOTE, failure.message)]
    first = _told_by(failure, found)
    told = failure.message if first == part else f"not read, as {first}: the same failure"
    return [Finding(part, Status.BROKEN, told)]


def _told_by(failure: Failure, found: Probe) -> str:
    """The finding that tells this failure's message first."""
    if failure.kind == AuthenticationError.kind and failure.message == _credentials(found).text:
        return "credentials"
    if failure.kind == NodeConnectionError.kind and failure.message == _connection(found).text:
        return "connection"
    return next(part for part, other in found.failures.items() if other.message == failure.message)


def _read(part: str, found: Probe, told: Callable[[Any], str]) -> list[Finding]:
    value = getattr(found, part)
    return _failed(part, found) if value is None else [Finding(part, Status.OK, told(value))]


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _earnings(found: Probe) -> list[Finding]:
    if found.earnings is None:
        return _failed("earnings", found)
    if not found.earnings:
        return [Finding("earnings", Status.NOTE, "the node tells of no earnings in the last 24 hours")]
    kinds = ", ".join(provenance_words(found.earnings))
    unknown = sorted({item.source for item in found.earnings if item.provenance is Provenance.UNKNOWN})
    told = f"{_count(found.earnings, 'amount')} in {found.native_unit}: {kinds}"
    return [Finding("earnings", Status.NOTE if unknown else Status.OK, "; ".join([told, *unknown]))]


def provenance_words(observations: Sequence[EarningsObservation]) -> list[str]:
    """The provenances among these, the surest first, in words."""
    present = {item.provenance for item in observations}
    return [provenance.value.replace("_", " ") for provenance in Provenance if provenance in present]


def _price(found: Probe, priced: frozenset[str]) -> Finding:
    unit, token = found.native_unit, found.token
    if unit == "USD":
        return Finding("price", Status.OK, "earnings are in US dollars")
    if token is None or found.tokens_per_native is None:
        asked = "; its option that tells what a unit is worth is not set" if token is not None else ""
        return Finding("price", Status.NOTE, f"a {unit} has no price, so its earnings in USD stay unknown{asked}")
    if token not in priced:
        known = ", ".join(sorted(priced))
        return Finding(
            "price",
            Status.NOTE,
            f"no source knows the price of the token {token!r} (known are {known}), so its USD stay unknown",
        )
    return Finding("price", Status.OK, f"valued as {token}")


_MODES = {
    LeverMode.HOT: "at once",
    LeverMode.RESTART: "by a restart",
    LeverMode.TRANSACTION: "by a chain transaction",
    LeverMode.OS_LIMIT: "by a limit of the host",
}


def quantity(value: float, unit: str) -> str:
    """An amount with its unit; a switch (unit `on`, 0 or 1) is on or off."""
    if unit == "on":
        return "on" if value else "off"
    return f"{value:g} {unit}"


def lever_words(lever: Lever, now: AllocationReading | None) -> str:
    """What a lever can do and where it stands, or why it cannot be moved."""
    stands = lever.name
    if now is not None and now.value is not None:
        stands = f"{lever.name} is {quantity(now.value, lever.unit)}{f' ({now.note})' if now.note else ''};"
    if not lever.writable:
        return f"{stands} cannot be changed: {lever.why_not}"
    span = "on or off" if lever.unit == "on" else f"{lever.minimum:g} to {lever.maximum:g} {lever.unit}"
    how = [f"can be {span}, {_MODES[lever.mode]}"]
    if lever.cooldown:
        how.append(f"once in {lever.cooldown / HOUR:g} h")
    if lever.restarts_per_month is not None:
        how.append(f"{lever.restarts_per_month} times in 30 days")
    return f"{stands} {', '.join(how)}"


def _levers(found: Probe) -> list[Finding]:
    told = _failed("allocations", found) if found.allocations is None else []
    if found.levers is None:
        return [*told, *_failed("levers", found)]
    if not found.levers:
        return [*told, Finding("levers", Status.NOTE, "the node has no lever: Orcha reads it and changes nothing")]
    stand = {reading.lever: reading for reading in found.allocations or ()}
    return [
        *told,
        *(
            Finding("lever", Status.OK if lever.writable else Status.NOTE, lever_words(lever, stand.get(lever.name)))
            for lever in found.levers
        ),
    ]


def _controller(found: Probe) -> list[Finding]:
    if found.controller is None:
        return _failed("controller", found)
    told: list[Finding] = []
    failure = found.failures.get("limits")
    if failure is not None and failure.kind != UnsupportedError.kind:
        told = _failed("limits", found)
    else:
        told = [Finding("controller", Status.NOTE if failure else Status.OK, found.controller.description)]
    actions: dict[str, list[str]] = {}
    for action, why in found.controller.cannot.items():
        actions.setdefault(why, []).append(action)
    return told + [Finding("controller", Status.NOTE, f"cannot {', '.join(a)}: {why}") for why, a in actions.items()]
