"""The plan beside today as one picture: shares by node, and use of each resource against the host's capacity."""

from io import BytesIO
from typing import TYPE_CHECKING

from orcha_pipeline.allocation.plan import Plan
from orcha_pipeline.model import RESOURCES, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart by colour-blind readers too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_NOW, _PLANNED = "#B0B7BF", "#0072B2"
_LABELS = {"cpu_threads": "CPU", "memory_gib": "memory", "disk_gb": "disk", "bandwidth_mbps": "bandwidth"}


def plan_png(plan: Plan, verdict: Verdict | None = None) -> bytes:
    """A PNG with shares now and planned by node on the left, and the host's resources with who uses them on the right.

    A node of unknown share is hatched at the size it is counted with. Simulated hosts are named so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.4, 4.2), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    _draw_shares(left, plan)
    _draw_use(right, plan)
    gain = "" if plan.gain_percent is None else f" ({plan.gain_percent:+.1f} %)"
    title = f"{plan.host.name}, {plan.issued_at:%Y-%m-%d %H:%M} UTC: {plan.gain_usd_per_hour:+.4f} USD/h{gain}"
    if verdict is not None:
        title = f"{title}, {verdict.value}"
    figure.suptitle(f"{title}  [simulated]" if plan.host.simulated else title, fontsize=11)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_shares(axes: "Axes", plan: Plan) -> None:
    names = [line.node.name for line in plan.nodes]
    for offset, colour, label in ((-0.2, _NOW, "now"), (0.2, _PLANNED, "planned")):
        shares = [line.counted_now if label == "now" else line.counted_planned for line in plan.nodes]
        at = [index + offset for index in range(len(names))]
        bars = axes.bar(at, shares, width=0.38, color=colour, label=label)
        for bar, line in zip(bars, plan.nodes, strict=True):
            if line.share_now is None:
                bar.set(hatch="//", fill=False, edgecolor=colour)
        axes.bar_label(
            bars,
            ["?" if line.share_now is None else f"{share:.2f}" for line, share in zip(plan.nodes, shares, strict=True)],
            fontsize=8,
            padding=1,
        )
    axes.set_xticks(range(len(names)), names, rotation=20 if len(names) > 4 else 0, fontsize=8)
    axes.set_ylabel("share of the node's full demand")
    axes.set_ylim(0, 1.12 * max([1.0, *(max(line.counted_now, line.counted_planned) for line in plan.nodes)]))
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_use(axes: "Axes", plan: Plan) -> None:
    capacity = plan.host.capacity.as_dict()
    shown = [name for name in RESOURCES if capacity[name] > 0]
    totals = [0.0] * (2 * len(shown))
    at = [index + offset for index in range(len(shown)) for offset in (0.2, -0.2)]
    for number, line in enumerate(plan.nodes):
        demand = line.node.demand.as_dict()
        parts = [
            100 * demand[name] * share / capacity[name]
            for name in shown
            for share in (line.counted_now, line.counted_planned)
        ]
        axes.barh(
            at,
            parts,
            left=totals,
            height=0.36,
            color=_COLOURS[number % len(_COLOURS)],
            label=line.node.name,
            edgecolor="white",
            linewidth=0.5,
        )
        totals = [total + part for total, part in zip(totals, parts, strict=True)]
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for position, total, when in zip(at, totals, ("now", "planned") * len(shown), strict=True):
        axes.text(
            total + 1,
            position,
            f"{when} {total:.0f} %",
            va="center",
            fontsize=8,
            bbox=behind,
        )
    axes.axvline(100, color="black", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(shown)), [_LABELS[name] for name in shown])
    axes.set_xlim(0, 1.25 * max([100.0, *totals]))
    axes.set_xlabel("% of the host's capacity")
    if plan.nodes:
        axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
