"""A backtest's report: a row a model and one for what would have been served, in a table and in JSON. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from orcha_pipeline.forecasting.backtest import Backtest
from orcha_pipeline.forecasting.metrics import Scores, mean_over_series, owa, score_each, seasonal_yardstick
from orcha_pipeline.forecasting.panel import Floats
from orcha_pipeline.forecasting.promotion import SERVED
from orcha_pipeline.forecasting.rolling import histories_of
from orcha_pipeline.forecasting.selection import NAIVE

NAIVE2 = "naive2"
WIDE = 100
"""Columns of a terminal that has room for everything."""
WORSE = 1.02
"""What is served counts as worse than naive on a series from this ratio of WAPEs on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: means over series of each measure, every series counting the same.

    `owa` is against Naive2 of this run, None where that was not computed; `seconds` is for fits and forecasts together.
    """

    model: str
    scores: Scores
    seconds: float
    fallbacks: int
    owa: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The table and what is behind it, by series: measures of each model, weights of the blend that is served.

    `worse` holds the series on which what is served did worse than seasonal naive, with the ratio of their WAPEs.
    """

    rows: Sequence[Row]
    series: Mapping[str, Mapping[str, Scores]]
    weights: Mapping[str, Mapping[str, float]]
    worse: Mapping[str, float]
    dropped: Mapping[str, str]
    windows: int
    origins: int
    horizon: int
    selection: Mapping[str, Any] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """The series on which what is served can be compared with seasonal naive."""
        return sum(models[SERVED].wape is not None for models in self.series.values())

    def as_json(self) -> dict[str, Any]:
        """Everything, with None for what is not known."""
        return _plain(
            asdict(self) | {"compared": self.compared, "worse_share": len(self.worse) / max(1, self.compared)}
        )


def report_of(backtest: Backtest, *, with_naive2: bool = False) -> Report:
    """The report of a backtest. `with_naive2` adds the row `naive2` and OWA, which is what M4 is judged by."""
    windows = backtest.rolled.windows
    panel = backtest.panel
    forecasts = dict(backtest.rolled.forecasts)
    if with_naive2:
        forecasts[NAIVE2] = _naive2(backtest)
    forecasts[SERVED] = backtest.served
    yardsticks = np.array(
        [seasonal_yardstick(one.before(at).values) for one, at in zip(panel, backtest.anchors, strict=True)]
    )[windows.series]
    names = np.array([one.name for one in panel])[windows.series]
    each = {name: score_each(names, windows.truth, rows, yardsticks) for name, rows in forecasts.items()}
    means = {name: mean_over_series(scores.values()) for name, scores in each.items()}
    seconds = {name: backtest.fit_seconds[name] + s for name, s in backtest.predict_seconds.items()}
    seconds[SERVED] = backtest.served_seconds + sum(seconds.values())
    rows = [
        Row(
            model=name,
            scores=scores,
            seconds=seconds.get(name, 0.0),
            fallbacks=backtest.rolled.fallbacks.get(name, 0),
            owa=_owa(scores, means.get(NAIVE2)),
        )
        for name, scores in means.items()
    ]
    by_series = {str(name): {model: scores[name] for model, scores in each.items()} for name in each[SERVED]}
    return Report(
        rows=rows,
        series=by_series,
        weights={name: backtest.selection.weights_of(name) for name in by_series},
        worse=_worse(by_series),
        dropped=backtest.dropped,
        windows=len(windows),
        origins=len(np.unique(windows.times)),
        horizon=windows.horizon,
        selection=backtest.selection.as_json(),
    )


def table_of(report: Report, *, width: int = WIDE) -> Table:
    """The table for a terminal `width` columns wide; a narrow one is spared the pinball loss (JSON has it)."""
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("WAPE", lambda row: _told(row.scores.wape, ".4f")),
        ("MASE", lambda row: _told(row.scores.mase, ".4f")),
        ("sMAPE", lambda row: _told(row.scores.smape, ".4f")),
        ("pinball", lambda row: _told(row.scores.pinball, ".4g")),
        ("coverage", lambda row: _told(row.scores.coverage80, ".1%")),
        ("OWA", lambda row: _told(row.owa, ".4f")),
        ("seconds", lambda row: _told(row.seconds, ".1f")),
        ("fallbacks", lambda row: f"{row.fallbacks:,}"),
    ]
    unwanted = {"OWA"} if all(row.owa is None for row in report.rows) else set[str]()
    if width < WIDE:
        unwanted.add("pinball")
    columns = [column for column in columns if column[0] not in unwanted]
    title = f"{len(report.series):,} series, {report.origins:,} origins, {report.horizon} hours ahead"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.rows:
        cells = [told(row) for _, told in columns]
        table.add_row(row.model, *cells, style="bold" if row.model == SERVED else None)
    return table


def choices_of(report: Report, most: int = 12) -> Table:
    """What is served by series: its heaviest candidates, for the first `most` series."""
    title = "served, by series" + (f" (the first {most})" if len(report.series) > most else "")
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("series")
    table.add_column("WAPE", justify="right")
    table.add_column("naive's", justify="right")
    table.add_column("blend")
    for name in list(report.series)[:most]:
        heaviest = [f"{model} {share:.2f}" for model, share in report.weights[name].items() if share >= 0.05]
        wapes = [_told(report.series[name][model].wape, ".4f") for model in (SERVED, NAIVE)]
        table.add_row(name, *wapes, ", ".join(heaviest))
    return table


def sentences_of(report: Report) -> list[str]:
    """What the table does not show: where naive did better, and who was left out."""
    share = len(report.worse) / max(1, report.compared)
    worst = sorted(report.worse.items(), key=lambda pair: -pair[1])[:5]
    named = ": " + ", ".join(f"{name} ({100 * (ratio - 1):.1f} % worse)" for name, ratio in worst) if worst else ""
    more = ", ..." if len(report.worse) > len(worst) else ""
    first = (
        f"Served is more than 2 % worse than {NAIVE} on {len(report.worse):,} of {report.compared:,} series "
        f"({100 * share:.1f} %){named}{more}."
    )
    return [first, *(f"Left out: {name}: {why}." for name, why in report.dropped.items())]


def _naive2(backtest: Backtest) -> Floats:
    """Naive2 for every test window, (n, horizon, 3): it has no band, so all three quantiles are the same."""
    from orcha_pipeline.forecasting.naive import naive2

    windows = backtest.rolled.windows
    middle = [naive2(one.values, windows.horizon) for one in histories_of(backtest.panel, windows)]
    return np.repeat(np.stack(middle)[..., None], 3, axis=-1)


def _owa(scores: Scores, naive2: Scores | None) -> float | None:
    return None if naive2 is None else owa(scores.smape, scores.mase, naive2.smape, naive2.mase)


def _worse(series: Mapping[str, Mapping[str, Scores]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, models in series.items():
        served, naive = models[SERVED].wape, models[NAIVE].wape
        if served is not None and naive is not None and served > WORSE * naive + 1e-12:
            found[name] = served / naive if naive > 0 else float("inf")
    return found


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _plain(value: Any) -> Any:
    """As JSON has it: no NaN, no infinity, no tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
