"""What `orcha forecast` and `orcha backtest forecast` do: read, compute, show. Raises ModelError for people."""

import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.backtest import backtest, forecast_ahead
from orcha_pipeline.forecasting.candidates import chosen_names
from orcha_pipeline.forecasting.promotion import SERVED
from orcha_pipeline.forecasting.quiet import only_progress
from orcha_pipeline.forecasting.report import choices_of, report_of, sentences_of, table_of
from orcha_pipeline.forecasting.tables import LongTable, continued, read_table, write_forecasts
from orcha_pipeline.output_place import check_place


def forecast(console: Console, *, history: Path, out: Path, horizon: int, models: str | None, seed: int) -> None:
    """Forecast every series of `history` from its end on, into `out`."""
    names = chosen_names(models)
    check_place(out, ModelError)
    with only_progress(f"Reading {history}") as tell:
        table = read_table(history)
        made = forecast_ahead(table.panel, horizon=horizon, models=names, seed=seed, tell=tell)
    write_forecasts(out, table, made.served, [SERVED] * len(table.panel))
    _print_notes(console, table)
    for name, why in made.dropped.items():
        console.print(Text(f"Left out: {name}: {why}."))
    console.print(Text(f"Wrote {out}: {horizon} hours of {len(table.panel):,} series."))


def backtest_forecast(
    console: Console,
    *,
    history: Path,
    test: Path | None,
    horizon: int,
    last: int | None,
    step: int,
    models: str | None,
    seed: int,
    out: Path | None,
) -> None:
    """Print the table of models, and write everything into `out`."""
    names = chosen_names(models)
    if (test is None) == (last is None):
        raise ModelError(
            "Say what to test on: either --last HOURS of the history, or --test FILE with what came after."
        )
    if last is not None and last < horizon:
        raise ModelError(f"--last {last} leaves no room for a forecast of {horizon} hours.")
    if out is not None:
        check_place(out, ModelError)
    with only_progress(f"Reading {history}") as tell:
        table = read_table(history)
        truth = None if test is None else continued(table, read_table(test))
        result = backtest(
            table.panel,
            horizon=horizon,
            last=last or 0,
            step=step,
            models=names,
            seed=seed,
            test_panel=truth,
            same_calendar=table.times,
            tell=tell,
        )
        report = report_of(result, with_naive2=test is not None)
    _print_notes(console, table)
    console.print(table_of(report, width=console.width))
    console.print(choices_of(report))
    for line in sentences_of(report):
        console.print(Text(line))
    if out is not None:
        out.write_text(json.dumps(report.as_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        console.print(Text(f"Wrote {out}."))


def _print_notes(console: Console, table: LongTable) -> None:
    for note in table.notes:
        console.print(Text(note))
