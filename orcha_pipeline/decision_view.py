"""Decisions on the terminal."""

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orcha_pipeline.installation import Installation
from orcha_pipeline.model import ApplicationStatus, Verdict
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import ApplicationRow, DecidedAllocation, DecisionRow

UNKNOWN = "unknown"


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1%}"


def _change(line: DecidedAllocation, verdict: Verdict) -> str:
    if line.value_now is None or line.value_planned is None or line.value_now == line.value_planned:
        return "stays"
    word = "" if verdict is Verdict.REALLOCATE else "advice: "
    return f"{word}{line.lever} {line.value_now:g} → {line.value_planned:g}"


def _outcome(decision: DecisionRow, application: ApplicationRow | None) -> Text:
    """What came of a decision that says reallocate: nothing to tell of one that holds."""
    if decision.verdict is not Verdict.REALLOCATE:
        return Text()
    if application is None:
        return Text("Not applied yet.")
    style = "green" if application.status is ApplicationStatus.APPLIED else "yellow"
    style = "bold red" if application.status is ApplicationStatus.ROLLBACK_FAILED else style
    told = f": {application.reason}" if application.reason else "."
    return Text(f"Application {application.status.value.replace('_', ' ')}{told}", style=style)


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
    return Group(table, Text(decision.reason, style="bold"), gates, _outcome(decision, application))


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
