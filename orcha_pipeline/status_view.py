"""`orcha status` on the terminal."""

from datetime import datetime, timedelta

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orcha_pipeline.status import Vitals


def status_view(vitals: Vitals) -> RenderableType:
    """Whether Orcha runs as it should and what it has to tell, then what there is to know, a line each."""
    simulated = " (simulated)" if vitals.simulated else ""
    head = Text(f"Orcha{simulated} ", style="bold")
    if vitals.healthy:
        head.append("runs as it should", style="green")
    else:
        head.append("does not run as it should", style="red")
    if alerts := _alerts(vitals):
        head.append(f"; it has alerts: {alerts}", style="red" if vitals.alerts.get("critical") else "yellow")
    grid = Table.grid(padding=(0, 2, 0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for problem in vitals.problems:
        grid.add_row(Text("✗ problem", style="red"), Text(problem))
    if vitals.pause:
        grid.add_row(Text("paused", style="yellow"), Text(f"{vitals.pause}. `orcha resume` lets changes go on."))
    for host, decision_id in sorted(vitals.awaiting.items()):
        grid.add_row(Text("waits", style="yellow"), Text(f"{host}: `orcha approve {decision_id[:8]}`"))
    for host, at in sorted(vitals.decided.items()):
        grid.add_row("decided", Text(f"{host}, {_ago(at, vitals.now)}"))
    if vitals.read:
        oldest = min(vitals.read, key=lambda node: vitals.read[node])
        told = f"{len(vitals.read)} nodes; the oldest reading is of {oldest}, {_ago(vitals.read[oldest], vitals.now)}"
        grid.add_row("read", Text(told))
    for name, found in vitals.uptime.items():
        if found.share is not None:
            part = f"{found.share:.1%} of {found.slots} quarter-hours brought a decision"
            grid.add_row(f"uptime {name}", Text(part))
    for each in vitals.clockwork:
        last = "no tick yet" if each.last_tick is None else f"last tick {_ago(each.last_tick, vitals.now)}"
        grid.add_row("clockwork", Text(f"{each.name} is {'on' if each.running else 'off'}, {last}"))
    if alerts:
        known = f"; {vitals.acknowledged} acknowledged" if vitals.acknowledged else ""
        grid.add_row("alerts", Text(f"{alerts}{known} (`orcha alerts`)"))
    grid.add_row("disk", Text(f"{vitals.free_gib:,.1f} GiB free"))
    return Group(head, grid)


def _alerts(vitals: Vitals) -> str:
    return ", ".join(f"{count} {severity}" for severity, count in sorted(vitals.alerts.items()))


def _ago(at: datetime, now: datetime) -> str:
    span = max(timedelta(0), now - at)
    minutes = span / timedelta(minutes=1)
    told = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h" if minutes < 2880 else f"{span.days} days"
    return f"{told} ago ({at:%Y-%m-%d %H:%M} UTC)"
