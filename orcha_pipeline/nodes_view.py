"""Nodes on the terminal."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orcha_pipeline.model import (
    AllocationReading,
    Balance,
    EarningsBucket,
    EarningsObservation,
    HealthReading,
    Mode,
    UsageReading,
)
from orcha_pipeline.nodes_check import Finding, NodeCheck, Status, lever_words, provenance_words, quantity
from orcha_pipeline.nodes_read import NodeLook, Probe, Survey, state_of
from orcha_pipeline.settings import NodeSettings

T = TypeVar("T")
UNKNOWN = "unknown"
NONE = "none"
_STYLES = {"healthy": "green", "at risk": "yellow", "restarting": "yellow"}
_MODES = {
    Mode.ADVISE: "mode advise: Orcha tells what would be best and changes nothing",
    Mode.CONFIRM: "mode confirm: Orcha changes it when you `orcha approve`",
}
_MARKS = {Status.OK: ("✓", "green"), Status.NOTE: ("·", "yellow"), Status.BROKEN: ("✗", "red")}


# --- words


def _plain(text: str) -> str:
    """Text that a node may have told, without characters that would steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _time(moment: datetime | None) -> str:
    return UNKNOWN if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _number(value: float | Decimal | None) -> str:
    if isinstance(value, Decimal):
        return f"{value.normalize() + 0:f}"  # +0: a negative zero is a zero
    if value is None:
        return UNKNOWN
    return f"{value:.0f}" if abs(value) >= 1e9 else f"{value:.10g}"


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1%}"


def _words(identifier: str) -> str:
    return identifier.replace("_", " ")


def _simulated(settings: NodeSettings) -> str:
    return " (simulated)" if settings.simulated else ""


# --- all nodes


def survey_table(survey: Survey, *, width: int) -> RenderableType:
    """All nodes, host by host: one line each, then what can and cannot be changed, and what is wrong."""
    hosts: dict[str, list[NodeLook]] = {}
    for look in survey.nodes:
        hosts.setdefault(look.settings.host, []).append(look)
    parts: list[RenderableType] = []
    for host, looks in hosts.items():
        simulated = " (simulated)" if all(look.settings.simulated for look in looks) else ""
        parts += [Text(f"Host {host}{simulated}", style="bold"), *_host_parts(looks, width)]
    notes = [f"Plug-in {name} cannot be used: {why}" for name, why in sorted(survey.plug_in_problems.items())]
    notes += [survey.warehouse_problem] if survey.warehouse_problem else []
    return Group(*parts, *(Text(_plain(note), style="yellow") for note in notes))


_COLUMNS = ("node", "protocol", "state", "share now", "earnings", "last recorded, UTC", "USD in last hour known")


def _host_parts(looks: Sequence[NodeLook], width: int) -> list[RenderableType]:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in _COLUMNS:
        right = name in ("share now", "USD in last hour known")
        table.add_column(name, no_wrap=name in ("node", "state"), justify="right" if right else "left")
    for look in looks:
        state, *others = _row(look)
        style = _STYLES.get(state, "red")
        table.add_row(look.settings.name, look.settings.protocol, Text(state, style=style), *others)
    longest = max(len(look.settings.name) for look in looks)
    if longest <= width // 4:
        return [Padding(table, (0, 0, 0, 2)), Padding(_details(looks), (1, 0, 1, 2))]
    # Beside names this long no table is readable: each gets a line of its own.
    blocks: list[RenderableType] = []
    for look in looks:
        state, *others = _row(look)
        pairs = zip(_COLUMNS[1:], (look.settings.protocol, state, *others), strict=True)
        blocks.append(Padding(Text(look.settings.name, style="bold", no_wrap=True, overflow="ignore"), (0, 0, 0, 2)))
        blocks += [Padding(Text(f"{name}: {value}"), (0, 0, 0, 4)) for name, value in pairs]
        blocks += [Padding(line, (0, 0, 0, 4)) for line in _lines(look)]
    return [*blocks, Text()]


def _row(look: NodeLook) -> tuple[str, str, str, str, str]:
    """State, share, provenance of the earnings, time and earnings on record."""
    reading, recorded = look.reading, look.recorded
    share = reading.allocation.share if reading and reading.allocation else None
    words = provenance_words(reading.earnings) if reading else []
    hour = recorded.hour if recorded else None
    return (
        _words(state_of(look)),
        _share(share),
        ", ".join(words) or UNKNOWN,
        _time(recorded.observed_at) if recorded else "never",
        UNKNOWN if hour is None or hour.usd is None else f"{hour.usd:.4f}",
    )


def _details(looks: Sequence[NodeLook]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for look in looks:
        for index, line in enumerate(_lines(look)):
            grid.add_row(look.settings.name if index == 0 else "", line)
    return grid


def _lines(look: NodeLook) -> list[Text]:
    """Why the node is not well, and a line a lever."""
    if look.reading is None:
        return [_marked(Status.BROKEN, look.problem)]
    health, allocation = look.reading.health, look.reading.allocation
    well = _words(state_of(look)) in _STYLES
    lines = [_marked(Status.NOTE if well else Status.BROKEN, health.reason)] if health.reason else []
    for lever in look.reading.levers:
        stands = allocation if allocation is not None and allocation.lever == lever.name else None
        lines.append(_marked(Status.OK if lever.writable else Status.NOTE, lever_words(lever, stands)))
    if look.mode is not Mode.AUTO:
        lines.append(_marked(Status.NOTE, _MODES[look.mode]))
    return lines or [_marked(Status.NOTE, "it has no lever: Orcha reads it and changes nothing")]


def _marked(status: Status, text: str) -> Text:
    mark, style = _MARKS[status]
    return Text.assemble((f"{mark} ", style), _plain(text))


# --- a check


def findings_grid(findings: Sequence[Finding]) -> RenderableType:
    """A line a finding: its mark, what it is about, and what was found."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.status]
        grid.add_row(Text(mark, style=style), finding.part, Text(_plain(finding.text)))
    return grid


def check_table(checks: Sequence[NodeCheck]) -> RenderableType:
    """Every finding, node by node, and the sum of it."""
    parts: list[RenderableType] = []
    for check in checks:
        settings = check.settings
        title = f"{settings.name}{_simulated(settings)}: {settings.protocol} on {settings.host}"
        parts += [Text(title, style="bold"), Padding(findings_grid(check.findings), (0, 0, 1, 2))]
    broken = [check.settings.name for check in checks if check.broken]
    told = f"Broken: {', '.join(broken)}. " if broken else "Nothing is broken. "
    return Group(*parts, Text(f"{told}Nothing was changed.", style="red" if broken else "green"))


# --- one full reading


def reading_table(found: Probe) -> RenderableType:
    """One node's full reading, part by part."""
    settings = found.settings
    title = (
        f"{settings.name}{_simulated(settings)}: {settings.protocol} on {settings.host}, {_time(found.observed_at)} UTC"
    )
    stand = {reading.lever: reading for reading in found.allocations or ()}
    levers = found.levers
    return Group(
        Text(title, style="bold"),
        *_lines_of("health", found, None if found.health is None else _health_lines(found.health)),
        *_lines_of("earnings", found, None if found.earnings is None else map(_earnings_line, found.earnings)),
        *_lines_of("balances", found, None if found.balances is None else map(_balance_line, found.balances)),
        *_table_of("usage", found, found.usage, ("metric", "value", "provenance", "source"), _usage_row),
        *_lines_of("levers", found, None if levers is None else [lever_words(v, stand.get(v.name)) for v in levers]),
        *_table_of("allocations", found, found.allocations, _ALLOCATIONS, _allocation_row),
        *_lines_of("advice", found, found.advice),
    )


_LONGEST_KEPT = 36
_ALLOCATIONS = ("lever", "value", "share", "provenance", "source")


def _heading(name: str) -> Text:
    return Text(f"\n{name}", style="bold")


def _lines_of(part: str, found: Probe, lines: Iterable[str] | None) -> list[RenderableType]:
    told = [f"not read: {found.failures[part].message}"] if lines is None else list(lines)
    return [_heading(part), *(Padding(Text(_plain(line)), (0, 0, 0, 2)) for line in told or [NONE])]


def _table_of(
    part: str, found: Probe, things: Sequence[T] | None, columns: Sequence[str], row: Callable[[T], list[str]]
) -> list[RenderableType]:
    if not things:
        return _lines_of(part, found, None if things is None else ())
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    rows = [[_plain(cell) for cell in row(thing)] for thing in things]
    for index, column in enumerate(columns):
        # A name in two pieces cannot be looked up; a very long one would leave the others no room.
        kept = index == 0 and max(len(cells[0]) for cells in rows) <= _LONGEST_KEPT
        table.add_column(column, overflow="fold", no_wrap=kept)
    for cells in rows:
        table.add_row(*map(Text, cells))
    return [_heading(part), Padding(table, (0, 0, 0, 2))]


def _health_lines(health: HealthReading) -> list[str]:
    facts = {
        "state": _words(health.state.value),
        "why": health.reason,
        "answered in": "" if health.latency_seconds is None else f"{health.latency_seconds:.2f} s",
        "version": health.version or "",
        "scores": ", ".join(f"{name} {value:g}" for name, value in health.scores.items()),
    }
    return [f"{name}: {value}" for name, value in facts.items() if value]


def _earnings_line(item: EarningsObservation) -> str:
    known = item.amounts
    amounts = {"gross": known.gross, "held": known.held, "net": known.net, "doubtful": known.doubtful}
    told = ", ".join(f"{name} {_number(amount)}" for name, amount in amounts.items())
    if isinstance(item, EarningsBucket):
        when = f"earned {_time(item.window.start)} to {_time(item.window.end)}"
    else:
        when = f"running total since {_time(item.since)}"
    return f"{item.stream}, {when}: {told} {item.unit} ({_words(item.provenance.value)}: {item.source})"


def _balance_line(item: Balance) -> str:
    since = "" if item.since is None else f" since {_time(item.since)}"
    note = f"; {item.note}" if item.note else ""
    amount = f"{_number(item.amount)} {item.unit}"
    return f"{item.kind.value}, {item.account}{since}: {amount} ({_words(item.provenance.value)}: {item.source}){note}"


def _usage_row(item: UsageReading) -> list[str]:
    return [item.metric, _number(item.value), _words(item.provenance.value), item.source]


def _allocation_row(item: AllocationReading) -> list[str]:
    share = _share(item.share) if item.share is not None else "carries none"
    value = UNKNOWN if item.value is None else quantity(item.value, item.unit)
    return [item.lever, value, share, _words(item.provenance.value), item.source]
