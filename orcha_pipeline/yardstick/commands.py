"""What `orcha backtest allocation` does: read a world, play the policies, show what they came to."""

import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from orcha_pipeline.errors import PlanError
from orcha_pipeline.forecasting.quiet import only_progress
from orcha_pipeline.output_place import check_place
from orcha_pipeline.yardstick.bounds import clairvoyant, under_rules
from orcha_pipeline.yardstick.policies import chosen_policies, play
from orcha_pipeline.yardstick.report import plot, report_of, table_of
from orcha_pipeline.yardstick.world import load_world


def backtest_allocation(
    console: Console, *, world: Path, policies: str | None, out: Path | None, picture: Path | None
) -> None:
    """Print the table of policies; write it into `out` and draw it into `picture`, where given."""
    names = chosen_policies(policies)
    for place in (out, picture):
        if place is not None:
            check_place(place, PlanError)
    with only_progress(f"Reading {world}") as tell:
        played = load_world(world)
        tell("bounds: clairvoyant")
        highest = clairvoyant(played)
        tell("bounds: rules")
        bounds = highest, under_rules(played)
        outcomes = play(played, names, tell=tell)
    report = report_of(played, bounds, outcomes)
    console.print(table_of(report))
    if out is not None:
        out.write_text(json.dumps(report.as_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        console.print(Text(f"Wrote {out}."))
    if picture is not None:
        plot(played, bounds, outcomes, picture)
        console.print(Text(f"Wrote {picture}."))
