"""Decisions on the terminal: the last ones, a list of them, and one told in full."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orcha_pipeline.allocation.reasons import number, quantity
from orcha_pipeline.decision_stories import RECORD, DecisionLog, Story
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import HOUR, RESOURCES, ApplicationStatus, Gate, Mode, Verdict
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import (
    ApplicationRow,
    DecidedAllocation,
    DecisionRow,
    SwitchingRecord,
)
from orcha_pipeline.warehouse.healings import HealingRow

UNKNOWN = "unknown"
NOT_TOLD = "not on record: an earlier version of Orcha decided this"
SHOWN_ID = 8
_TABLE_WIDTH = 140
_MULTIPLES = {"cpu_threads": (1,), "memory_gib": (1, 10), "disk_gb": (100, 1000), "bandwidth_mbps": (10, 100)}
"""Of a resource, how much more of it one might buy."""
_RESOURCE_WORDS = {"cpu_threads": "CPU", "memory_gib": "memory", "disk_gb": "disk", "bandwidth_mbps": "bandwidth"}
_WORTH_A_WORD = 0.5
"""USD a month: the smallest multiple that earns as much is told."""


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1%}"


def _change(line: DecidedAllocation, verdict: Verdict) -> str:
    if line.value_now is None or line.value_planned is None or line.value_now == line.value_planned:
        return "stays"
    word = "" if verdict is Verdict.REALLOCATE else "advice: "
    return f"{word}{line.lever} {line.value_now:g} → {line.value_planned:g}"


def _came_of(decision: DecisionRow, application: ApplicationRow | None) -> Text:
    """What came of a decision that says reallocate: nothing to tell of one that holds."""
    if decision.verdict is not Verdict.REALLOCATE:
        return Text()
    if application is None:
        return _not_applied(decision)
    style = "green" if application.status is ApplicationStatus.APPLIED else "yellow"
    style = "bold red" if application.status is ApplicationStatus.ROLLBACK_FAILED else style
    told = f": {application.reason}" if application.reason else "."
    return Text(f"Application {application.status.value.replace('_', ' ')}{told}", style=style)


def _not_applied(decision: DecisionRow) -> Text:
    if decision.mode is Mode.ADVISE:
        return Text("Advice: nothing is changed in mode advise (apply.mode, or mode of a node).")
    if decision.mode is Mode.CONFIRM and decision.expires_at is not None:
        return Text(
            f"Waits for `orcha approve {decision.decision_id[:SHOWN_ID]}` until "
            f"{decision.expires_at:%Y-%m-%d %H:%M} UTC, then it expires.",
            style="yellow",
        )
    return Text("Not applied yet.")


def decision_table(
    decision: DecisionRow, application: ApplicationRow | None, *, protocols: dict[str, str], simulated: bool
) -> RenderableType:
    """What was decided for one host, a line a node, why, and what came of it."""
    where = f"{decision.host}{' (simulated)' if simulated else ''}"
    table = Table(
        title=f"{where}: {decision.verdict.value.upper()} · {decision.decided_at:%Y-%m-%d %H:%M} UTC",
        title_justify="left",
        expand=False,
    )
    table.add_column("protocol")
    table.add_column("node")
    table.add_column("yield forecast\nUSD/h at full share", justify="right")
    table.add_column("share\nnow", justify="right")
    table.add_column("share\nplanned", justify="right")
    table.add_column("verdict")
    table.add_column("why", overflow="fold")
    for line in decision.allocations:
        table.add_row(
            protocols.get(line.node, ""),
            line.node,
            UNKNOWN if line.yield_usd is None else f"{line.yield_usd:.4f}",
            _share(line.share_now),
            _share(line.share_planned),
            _change(line, decision.verdict),
            Text(line.reason),  # told by nodes too: brackets in it are no markup
        )
    gates = Text()
    for gate in decision.gates:
        gates.append("  ✓ " if gate.passed else "  ✗ ", style="green" if gate.passed else "red")
        gates.append(f"{gate.name}: {gate.explanation}\n")
    return Group(table, Text(decision.reason, style="bold"), gates, _came_of(decision, application))


def print_latest(console: Console, warehouse: Warehouse, installation: Installation) -> None:
    """Print the last decision of every configured host; say so where there is none."""
    hosts = {host.name for host in installation.settings.hosts}
    with warehouse.read() as connection:
        latest = decisions.latest_decisions(connection, hosts)
        applications = {a.decision_id: a for a in decisions.latest_applications(connection, hosts)}
    if not latest:
        console.print("No decision yet. `orcha up` takes the first one.")
    for row in latest:
        console.print(
            decision_table(
                row,
                applications.get(row.decision_id),
                protocols=installation.node_protocols(),
                simulated=installation.simulated,
            )
        )


# --- words


def _plain(text: str) -> str:
    """Text that a node may have told, without characters that would steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _signed(amount: float) -> str:
    return f"{'-' if amount < 0 else '+'}{number(abs(amount))}"


def _usd(amount: float | None) -> str:
    return UNKNOWN if amount is None else f"{number(amount)} USD"


def _gained(amount: float | None) -> str:
    return UNKNOWN if amount is None else f"{_signed(amount)} USD"


def _hours(hours: float) -> str:
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.3g} h"


def _where(one: Story) -> str:
    return f"{one.decision.host}{' (simulated)' if one.simulated else ''}"


def _moves(line: DecidedAllocation) -> bool:
    return line.value_now is not None and line.value_planned is not None and line.value_now != line.value_planned


def _changes_in_words(row: DecisionRow) -> str:
    """What changes, or what would have."""
    moved = [line for line in row.allocations if _moves(line)]
    if not moved:
        return "nothing"
    word = "" if row.verdict is Verdict.REALLOCATE else "advice: "
    return word + ", ".join(f"{line.node} {_share(line.share_now)} → {_share(line.share_planned)}" for line in moved)


def _gain_in_words(row: DecisionRow) -> str:
    """Expected gain in USD an hour, and the interval it lies in four times in five."""
    if row.gain_usd_per_hour is None:
        return UNKNOWN
    told = _signed(row.gain_usd_per_hour)
    if row.hours and row.gain_p10 is not None and row.gain_p90 is not None:
        told += f" ({_signed(row.gain_p10 / row.hours)} to {_signed(row.gain_p90 / row.hours)})"
    return told


def _application_in_words(one: Story) -> str:
    if one.decision.verdict is not Verdict.REALLOCATE:
        return ""
    if one.application:
        return one.application.status.value.replace("_", " ")
    if one.decision.mode is Mode.CONFIRM and one.decision.expires_at is not None:
        return "approved" if one.approval else f"approve until {one.decision.expires_at:%m-%d %H:%M}"
    return "advice" if one.decision.mode is Mode.ADVISE else "not applied yet"


def _result_in_words(one: Story) -> Text:
    """What was gained of what was promised, in a few words."""
    outcome = one.outcome
    if outcome is not None:
        if outcome.gained_usd is None:
            return Text(UNKNOWN, style="yellow")
        told = f"{_signed(outcome.gained_usd)} of {_gained(outcome.promised_usd)}"
        return Text(told, style="red" if outcome.wrong else "green")
    return Text(f"due {due:%m-%d %H:%M}" if (due := _due(one)) else "")


def _due(one: Story) -> datetime | None:
    """When the hours of a change that is in force end."""
    applied = one.application
    if applied is None or applied.status is not ApplicationStatus.APPLIED or one.decision.hours is None:
        return None
    return applied.started_at + one.decision.hours * HOUR


def _record_in_words(record: SwitchingRecord) -> str:
    days = RECORD.days
    unknown = f" Of {record.unknown} more it is unknown." if record.unknown else ""
    if record.wrong_share is None:
        return f"No change of the last {days} days has been measured yet.{unknown}"
    wrong = round(record.wrong_share * record.measured)
    return (
        f"Wrong switches of the last {days} days: {wrong} of {record.measured} measured ({record.wrong_share:.0%}); "
        f"{_gained(record.gained_usd)} gained of {_gained(record.promised_usd)} promised.{unknown}"
    )


def response_in_words(line: DecidedAllocation) -> str:
    """How a node's earnings answer to its share, and how this is known."""
    if line.curvature is None:
        return f"response {NOT_TOLD}" if line.changes_seen is None else f"response {UNKNOWN}"
    give = "" if line.curvature_deviation is None else f" ± {line.curvature_deviation:.2f}"
    told = f"earns with share ^ {line.curvature:.2f}"
    if not line.changes_seen:
        return f"{told}: assumed ({line.curvature:.2f}{give}), for no change of its share has been seen yet"
    changes = f"{line.changes_seen} change{'' if line.changes_seen == 1 else 's'}"
    least, most = line.share_seen_least, line.share_seen_most
    if least is None or most is None:
        return f"{told}: learnt from {changes}: {line.curvature:.2f}{give}"
    told += f": learnt from {changes} between shares {least:.2f} and {most:.2f}: {line.curvature:.2f}{give}"
    planned = line.share_planned
    if planned is not None and not least - 0.005 <= planned <= most + 0.005:
        return f"{told}; the planned {planned:.2f} lies beyond what was seen, so that it is extrapolated"
    return f"{told}; beyond them it would be extrapolated"


def shadow_price_in_words(resource: str, usd: float) -> str:
    """What more of a resource would earn, for an amount that one might buy."""
    multiples = _MULTIPLES.get(resource, (1,))
    amount = next((one for one in multiples if one * usd >= _WORTH_A_WORD), multiples[-1])
    what = quantity(resource, amount) if resource in RESOURCES else "one unit"
    return f"{what} more would earn {_money(amount * usd)} USD a month"


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if abs(amount) >= 0.01 else number(amount)


# --- on the terminal


def log_view(found: DecisionLog, *, width: int) -> RenderableType:
    """A table of decisions, or a few lines each where the terminal is narrow; and how the changes of late paid."""
    what = "decisions" if found.every else "decisions to reallocate"
    simulated = " (simulated)" if any(one.simulated for one in found.stories) else ""
    where = ", ".join(found.hosts) if len(found.hosts) <= 3 else f"{len(found.hosts)} hosts"
    title = f"{where}{simulated}: {what} since {found.since:%Y-%m-%d %H:%M} UTC"
    parts: list[RenderableType] = [Text(title, style="bold")]
    if not found.stories:
        parts.append(Text("  none"))
    elif width >= _TABLE_WIDTH:
        parts.append(_log_table(found.stories))
    else:
        parts += [line for one in found.stories for line in _log_lines(one)]
    if found.left_out > 0:
        parts.append(Text(f"{found.left_out} earlier ones are left out: --limit {found.left_out + len(found.stories)}"))
    if found.held and not found.every:
        some = "1 decision to hold is" if found.held == 1 else f"{found.held} decisions to hold are"
        parts.append(Text(f"{some} not shown: --all shows them."))
    if found.restarts:
        parts += _section("Nodes that self-healing restarted", [Text(_restart_in_words(one)) for one in found.restarts])
        parts.append(Text())
    parts.append(Text(_record_in_words(found.record)))
    if found.stories:
        parts.append(Text("`orcha explain ID` tells one of them in full."))
    return Group(*parts)


def _restart_in_words(one: HealingRow) -> str:
    came_of_it = f"{one.status}: {one.reason}" if one.reason else f"{one.status}: what came of it is not known yet"
    return (
        f"{one.started_at:%m-%d %H:%M}  {one.node} ({one.host}), away since {one.away_since:%m-%d %H:%M}, restart "
        f"{one.restarts_before + 1} of {one.restarts_per_month} a month; {came_of_it}"
    )


def _log_table(stories: Iterable[Story]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=False)
    for column in ("time, UTC", "id", "host", "verdict"):
        table.add_column(column, no_wrap=True)
    table.add_column("what changes", overflow="fold")
    table.add_column("expected gain, USD/h\n(80 % interval)")
    table.add_column("confidence", justify="right")
    table.add_column("application")
    table.add_column("outcome:\ngained of promised")
    for one in stories:
        row = one.decision
        table.add_row(
            f"{row.decided_at:%m-%d %H:%M}",
            row.decision_id[:SHOWN_ID],
            _where(one),
            row.verdict.value,
            Text(_plain(_changes_in_words(row))),
            _gain_in_words(row),
            "" if row.confidence is None else f"{row.confidence:.0%}",
            _application_in_words(one),
            _result_in_words(one),
        )
    return table


def _log_lines(one: Story) -> list[RenderableType]:
    row = one.decision
    head = f"{row.decided_at:%m-%d %H:%M}  {row.decision_id[:SHOWN_ID]}  {_where(one)}  {row.verdict.value}"
    application = _application_in_words(one)
    told: list[Text] = []
    if row.gain_usd_per_hour is not None:
        sure = "" if row.confidence is None else f", {row.confidence:.0%} likely to pay"
        told.append(Text(f"expected {_gain_in_words(row)} USD/h{sure}"))
    if (result := _result_in_words(one)).plain:
        told.append(Text("outcome ") + result)
    details = [Text(_plain(_changes_in_words(row))), *([Text("; ").join(told)] if told else [])]
    return [
        Text(f"{head}  {application}".rstrip(), style="bold"),
        *(Padding(text, (0, 0, 0, 4)) for text in details),
    ]


def explanation(one: Story, *, protocols: Mapping[str, str]) -> RenderableType:
    """One decision in plain words, from what was decided to what came of it."""
    row = one.decision
    preset = f", preset {row.preset}" if row.preset else ""
    preset += f", mode {row.mode}" if row.mode else ""
    head = f"{_where(one)}: {row.verdict.value.upper()} · {row.decided_at:%Y-%m-%d %H:%M} UTC"
    parts: list[RenderableType] = [
        Text(head, style="bold"),
        Text(f"decision {row.decision_id}{preset}", style="dim"),
        Text(_plain(row.reason)),
        *_section("What is promised", [Text(text) for text in _promise(row)]),
        *_section("Gates", [_gate(gate) for gate in row.gates]),
    ]
    if row.allocations:
        parts += _section("Nodes", _node_lines(row, protocols))
        parts += _section("What is short on this host", [Text(text) for text in _scarcity(row)])
        parts += _section("The runner-up", [Text(_plain(_runner_up(row)))])
    parts += _section("What came of it", _aftermath(one))
    return Group(*parts)


def _section(title: str, lines: Sequence[RenderableType]) -> list[RenderableType]:
    return [Text(), Text(title, style="bold"), *(Padding(line, (0, 0, 0, 2)) for line in lines)]


def _promise(row: DecisionRow) -> list[str]:
    if row.gain_usd_per_hour is None:
        return ["Nothing: there is no plan, so that nothing changes."]
    if not any(_moves(line) for line in row.allocations):
        return ["Nothing: the plan leaves everything as it is."]
    percent = "" if row.gain_percent is None else f" ({row.gain_percent:+.1f} % of what is earned now)"
    told = f"{_signed(row.gain_usd_per_hour)} USD/h{percent}"
    if row.hours is not None:
        told += f" over {_hours(row.hours)}, in all {_gained(row.gain_usd_per_hour * row.hours)}"
    told += ", net of what the change costs"
    if row.gain_p10 is not None and row.gain_p90 is not None:
        told += f"; four times in five between {_gained(row.gain_p10)} and {_gained(row.gain_p90)}"
    lines = [f"{told}."]
    if row.confidence is not None:
        lines.append(f"It pays with {row.confidence:.0%} probability.")
    if row.switching_cost_usd:
        roi = "" if row.roi is None else f"; the gain is {number(row.roi)} times that (ROI)"
        lines.append(f"The change costs {_usd(row.switching_cost_usd)}{roi}.")
    elif row.switching_cost_usd is not None:
        lines.append("The change costs nothing.")
    if row.verdict is Verdict.HOLD:
        lines.append("It was not carried out: a gate stopped it, as told below.")
    return lines


def _gate(gate: Gate) -> Text:
    text = Text()
    text.append("✓ " if gate.passed else "✗ ", style="green" if gate.passed else "red")
    text.append(_plain(f"{gate.name}: {gate.explanation}"))
    text.append(" " + _plain(f"(value {_measure(gate.value)}, threshold {_measure(gate.threshold)})"), style="dim")
    return text


def _measure(value: float | str | None) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else f"{value:.4g}"


def _node_lines(row: DecisionRow, protocols: Mapping[str, str]) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for line in row.allocations:
        protocol = f" ({protocols[line.node]})" if line.node in protocols else ""
        moves = f", {_change(line, row.verdict)}"
        if line.share_planned is None or line.share_planned == line.share_now:
            shares = f"share {_share(line.share_now)}"
        else:
            shares = f"share {_share(line.share_now)} → {_share(line.share_planned)}"
        parts.append(Text(f"{line.node}{protocol}: {shares}{moves}"))
        details = [_yield(line), response_in_words(line)]
        if line.switching_cost_usd:
            details.append(f"costs {_usd(line.switching_cost_usd)} to move")
        if line.reason:
            details.append(_plain(line.reason))
        parts += [Padding(Text(text, style="dim"), (0, 0, 0, 4)) for text in details]
    return parts


def _yield(line: DecidedAllocation) -> str:
    if line.yield_usd is None:
        return f"yield {UNKNOWN}"
    told = f"yield {number(line.yield_usd)} USD/h at full share"
    if line.yield_p10 is None or line.yield_p90 is None:
        return told
    return f"{told}, four times in five between {number(line.yield_p10)} and {number(line.yield_p90)}"


def _scarcity(row: DecisionRow) -> list[str]:
    if row.hours is None and not row.binding and not row.shadow_prices:
        return [NOT_TOLD]
    worth = {name: usd for name, usd in row.shadow_prices.items() if usd > 0}
    names = sorted({*row.binding, *worth}, key=lambda name: -worth.get(name, 0.0))
    if not names:
        return ["Nothing: more of any resource would earn no more."]
    return [
        f"{_RESOURCE_WORDS.get(name, f'the shared limit {name}')}: "
        + (shadow_price_in_words(name, worth[name]) if name in worth else "used up, yet more would earn no more")
        for name in names
    ]


def _runner_up(row: DecisionRow) -> str:
    if not row.runner_up:
        return NOT_TOLD if row.hours is None else "None: no other plan was worth comparing."
    gain = row.runner_up_usd_per_hour
    return row.runner_up if gain is None else f"{row.runner_up} ({_signed(gain)} USD/h)"


def _aftermath(one: Story) -> list[RenderableType]:
    if one.decision.verdict is not Verdict.REALLOCATE:
        return [Text("Nothing was changed.")]
    approval = one.approval
    told = f"Approved by {approval.approved_by} at {approval.approved_at:%Y-%m-%d %H:%M} UTC." if approval else ""
    lines: list[RenderableType] = [Text(_plain(told))] if told else []
    if one.application is not None or not told:
        lines.append(_came_of(one.decision, one.application))
    for step in one.steps:
        text = Text()
        text.append(
            _plain(
                f"{step.step}. {step.started_at:%H:%M:%S} {step.kind} {step.node} {step.lever} "
                f"{_value(step.previous)} → {step.requested:g}, read back {_value(step.read_back)}: {step.status}"
                f"{f' ({step.error})' if step.error else ''}"
            ),
            style="red" if step.status == "failed" else "",
        )
        lines.append(Padding(text, (0, 0, 0, 2)))
    if (lost := one.reversal) is not None:
        told = f"In {_hours(lost.hours)} it had lost {_usd(lost.lost_usd)}, of {_usd(lost.bound_usd)} that it might"
        lines.append(Text(f"{told}: it is set back, and the like of it is not made for a while.", style="red"))
    lines += [Text(text, style="red" if one.outcome and one.outcome.wrong else "") for text in _result(one)]
    return lines


def _value(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:g}"


def _result(one: Story) -> list[str]:
    """The outcome against the promise."""
    outcome = one.outcome
    if outcome is None:
        if due := _due(one):
            return [f"What it gains is measured when its hours are over, at {due:%Y-%m-%d %H:%M} UTC."]
        return [f"What it gained is {NOT_TOLD}."] if _applied(one) else []
    over = f"Over {_hours(outcome.hours)}"
    interval = ""
    if outcome.promised_p10 is not None and outcome.promised_p90 is not None:
        interval = f" ({_gained(outcome.promised_p10)} to {_gained(outcome.promised_p90)})"
    promised = f"{_gained(outcome.promised_usd)}{interval} was promised"
    if outcome.gained_usd is None:
        lines = [f"{over} it is unknown what it gained; {promised}."]
    else:
        verdict = (
            "It paid" if outcome.gained_usd > 0 else "It was a wrong switch" if outcome.wrong else "It made no odds"
        )
        lines = [
            f"{verdict}: {over.lower()} it gained {_gained(outcome.gained_usd)} where {promised}.",
            f"{_usd(outcome.earned_usd)} was earned; the old shares would have earned {_usd(outcome.unchanged_usd)}.",
        ]
        if outcome.promised_p10 is not None and outcome.promised_p90 is not None:
            inside = outcome.promised_p10 <= outcome.gained_usd <= outcome.promised_p90
            lines.append(f"That lies {'inside' if inside else 'outside'} the interval.")
    return [*lines, *([f"Note: {_plain(outcome.note)}."] if outcome.note else [])]


def _applied(one: Story) -> bool:
    return one.application is not None and one.application.status is ApplicationStatus.APPLIED
