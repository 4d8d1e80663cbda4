"""A decision as a table for the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orcha_pipeline.model import Verdict
from orcha_pipeline.warehouse.decisions import DecidedAllocation, DecisionRow

UNKNOWN = "unknown"


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1%}"


def _change(line: DecidedAllocation, verdict: Verdict) -> str:
    if line.value_now is None or line.value_planned is None or line.value_now == line.value_planned:
        return "stays"
    word = "" if verdict is Verdict.REALLOCATE else "advice: "
    return f"{word}{line.lever} {line.value_now:g} → {line.value_planned:g}"


def decision_table(decision: DecisionRow, *, protocols: dict[str, str], simulated: bool) -> RenderableType:
    """What was decided for one host, a line a node, and why."""
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
    return Group(table, Text(decision.reason, style="bold"), gates)
