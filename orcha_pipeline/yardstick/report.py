"""What a backtest of policies came to: a row a policy, as a table, as JSON and as a picture."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from orcha_pipeline.yardstick.bounds import Bound
from orcha_pipeline.yardstick.policies import BASELINES
from orcha_pipeline.yardstick.simulation import Outcome
from orcha_pipeline.yardstick.world import PlayedWorld


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One policy over the scored days. `gap_closed` is its part of the way from the best non-predictive one to `rules`.

    It is None for the non-predictive ones, and where none of them was played or that one reached the bound.
    """

    policy: str
    usd: float
    of_clairvoyant: float
    of_rules: float
    gap_closed: float | None
    changes_a_day: float
    switching_usd: float
    violations: int
    decision_p50_ms: float
    decision_p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The rows in the order they were asked for, and the bounds in USD over `days`."""

    world: str
    days: float
    clairvoyant_usd: float
    rules_usd: float
    rows: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for json."""
        return asdict(self)


def report_of(world: PlayedWorld, bounds: tuple[Bound, Bound], outcomes: Mapping[str, Outcome]) -> Report:
    """Hold every policy against the bounds, clairvoyant and rules."""
    clairvoyant, rules = (bound.usd for bound in bounds)
    days = (len(world.yields) - world.history) * world.terms.step_hours / 24
    plain = [outcome.usd for name, outcome in outcomes.items() if name in BASELINES]
    best = max(plain, default=None)
    return Report(
        world=world.name,
        days=days,
        clairvoyant_usd=clairvoyant,
        rules_usd=rules,
        rows=tuple(
            Row(
                policy=name,
                usd=outcome.usd,
                of_clairvoyant=_part(outcome.usd, clairvoyant),
                of_rules=_part(outcome.usd, rules),
                gap_closed=None
                if best is None or name in BASELINES or not best < rules
                else (outcome.usd - best) / (rules - best),
                changes_a_day=outcome.changes / days,
                switching_usd=outcome.switching_usd,
                violations=outcome.violations,
                decision_p50_ms=_quantile_ms(outcome, 0.5),
                decision_p99_ms=_quantile_ms(outcome, 0.99),
            )
            for name, outcome in outcomes.items()
        ),
    )


def _part(usd: float, bound: float) -> float:
    return usd / bound if bound > 0 else float(usd >= bound)


def _quantile_ms(outcome: Outcome, part: float) -> float:
    return 1000 * float(np.quantile(outcome.decision_seconds, part)) if len(outcome.decision_seconds) else 0.0


def table_of(report: Report) -> Table:
    """A row a policy; the best fraction of `rules` stands out."""
    table = Table(
        title=f"{report.world}: {report.days:g} days scored; at most {report.rules_usd:.2f} USD by hindsight under the "
        f"rules, {report.clairvoyant_usd:.2f} without them (clairvoyant)",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("policy", no_wrap=True)
    for column in ("USD", "of\nrules", "of clair-\nvoyant", "gap\nclosed", "moves\na day"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("moves'\ncost", "rules\nbroken", "ms p50\n/ p99"):
        table.add_column(column, justify="right", no_wrap=True)
    best = max((row.of_rules for row in report.rows), default=0.0)
    for row in report.rows:
        table.add_row(
            row.policy,
            f"{row.usd:.2f}",
            f"{row.of_rules:.4f}",
            f"{row.of_clairvoyant:.4f}",
            "" if row.gap_closed is None else f"{100 * row.gap_closed:.0f} %",
            f"{row.changes_a_day:.1f}",
            f"{row.switching_usd:.3f}",
            str(row.violations),
            f"{row.decision_p50_ms:.0f} / {row.decision_p99_ms:.0f}",
            style="bold" if row.of_rules == best else None,
        )
    return table


def plot(world: PlayedWorld, bounds: tuple[Bound, Bound], outcomes: Mapping[str, Outcome], out: Path) -> None:
    """Draw cumulative USD, what of it is missing to the bound `rules`, and each policy's shares, into a PNG."""
    from matplotlib.figure import Figure

    days = np.arange(len(world.yields) - world.history) * world.terms.step_hours / 24
    shown = [name for name, outcome in outcomes.items() if outcome.changes] or list(outcomes)
    figure = Figure(figsize=(11, 5.5 + 1.7 * len(shown)), layout="constrained")
    heights = [1.5, 2.0, *[1.0] * len(shown)]
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    bound = np.cumsum(bounds[1].by_step)
    axes[0].plot(days, bound, color="black", linestyle="--", linewidth=0.9, label="rules")
    axes[1].axhline(0.0, color="black", linestyle="--", linewidth=0.9)
    for name, outcome in outcomes.items():
        earned = np.cumsum(outcome.earned.sum(axis=1))
        axes[0].plot(days, earned, label=name)
        axes[1].plot(days, earned - bound)
    axes[0].set_title(f"{world.name}: cumulative USD, the same against hindsight under the rules, and the shares")
    axes[0].set_ylabel("USD")
    axes[0].legend(loc="upper left", fontsize="small", ncols=2)
    axes[1].set_ylabel("USD against rules")
    for axis, name in zip(axes[2:], shown, strict=True):
        for protocol, label in enumerate(world.terms.protocols):
            axis.step(days, outcomes[name].shares[:, protocol], where="post", linewidth=0.9, label=label)
        axis.set_ylim(0, 1.02)
        axis.set_ylabel(name)
    axes[2].legend(loc="upper right", fontsize="small", ncols=len(world.terms.protocols))
    axes[-1].set_xlabel("days scored")
    figure.savefig(out, dpi=110)
