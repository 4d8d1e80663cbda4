"""`orcha anomalies`: what the detectors of Orcha say of any history."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from orcha_pipeline.errors import ModelError

anomalies_app = typer.Typer(help="What is unusual in any history of readings.", no_args_is_help=True)

AUTO = "auto"


@anomalies_app.callback()
def anomalies() -> None:
    """Judge histories of readings."""


@anomalies_app.command("detect")
def detect(
    *,
    history: Annotated[
        Path, typer.Option(help="CSV (also .gz) or Parquet: unique_id, ds (a time or an integer hour), y.")
    ],
    out: Annotated[
        Path, typer.Option(help="CSV or Parquet to write: the same rows with score, is_anomaly, kind and reason.")
    ],
    threshold: Annotated[
        str, typer.Option(help="Score in (0, 1] from which a reading is an anomaly; auto is the one Orcha uses.")
    ] = AUTO,
) -> None:
    """Judge every reading of any series by those before it: spikes, drops, levels, flatlines, outages."""
    from orcha_pipeline.anomalies.series_bands import WARM_UP
    from orcha_pipeline.anomalies.series_table import judge_table, write_judged
    from orcha_pipeline.output_place import check_place

    console = Console()
    score = threshold_of(threshold)
    check_place(out, ModelError)
    if out.exists() and history.exists() and out.samefile(history):
        raise ModelError(f"{out} is the history itself; name another file to write.")
    with Console(stderr=True).status(f"Judging {history}"):
        table = judge_table(history, score)
        write_judged(out, table)
    if few := table.short():
        console.print(
            Text(f"{few:,} series have no more than {WARM_UP} known readings: only missing ones are judged there.")
        )
    console.print(Text(f"Wrote {out}: {table.told()}"))


def threshold_of(told: str) -> float:
    """The threshold that `--threshold` names. Raises ModelError."""
    from orcha_pipeline.anomalies.series_kinds import AUTO_THRESHOLD

    if told.strip().lower() == AUTO:
        return AUTO_THRESHOLD
    try:
        score = float(told)
    except ValueError:
        score = float("nan")
    if not 0.0 < score <= 1.0:
        raise ModelError(f"--threshold {told} is neither auto nor a number above 0 and up to 1.")
    return score
