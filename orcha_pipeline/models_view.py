"""`orcha models`: every version with its measures, on the terminal and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from rich.table import Table

from orcha_pipeline.warehouse import decisions, forecast_rows
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import ModelRow

EVER = datetime(1970, 1, 1, tzinfo=UTC)
UNKNOWN = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """One version. WAPE and coverage are the backtest's, of the yield; `live_wape` of all it has issued."""

    protocol: str
    version: str
    aliases: tuple[str, ...]
    trained_at: datetime
    wape: float | None
    coverage80: float | None
    rivals: dict[str, float]
    live_wape: float | None
    live_naive_wape: float | None
    live_forecasts: int
    champion_since: datetime | None
    champion_by: str
    champion_why: str
    data_sha256: str
    path: str


def survey(warehouse: Warehouse, *, protocol: str | None = None) -> list[ModelLine]:
    """Every version on record, by protocol and the latest first; of one protocol alone if it is given."""
    with warehouse.read() as connection:
        rows = [row for row in decisions.models(connection) if protocol in (None, row.protocol)]
        names = sorted({row.protocol for row in rows})
        live = {
            (name, one.version): one
            for name in names
            for one in forecast_rows.live_error_summary(connection, name, EVER)
        }
        moves = {
            (move.protocol, move.version): move
            for name in names
            for move in forecast_rows.alias_history(connection, name)
        }
    latest = {row.protocol: row.version for row in reversed(rows)}
    lines: list[ModelLine] = []
    for row in rows:
        move = moves.get((row.protocol, row.version))
        found = live.get((row.protocol, row.version))
        lines.append(
            ModelLine(
                protocol=row.protocol,
                version=row.version,
                aliases=tuple(
                    alias
                    for alias, there in (
                        ("champion", row.champion),
                        ("challenger", latest[row.protocol] == row.version),
                    )
                    if there
                ),
                trained_at=row.trained_at,
                wape=row.metrics.get("served wape"),
                coverage80=row.metrics.get("served coverage80"),
                rivals=_rivals(row),
                champion_since=move.moved_at if move else None,
                champion_by=move.who if move else "",
                champion_why=move.why if move else "",
                data_sha256=row.data_hash,
                path=row.path,
                live_wape=found.wape if found else None,
                live_naive_wape=found.naive_wape if found else None,
                live_forecasts=found.forecasts if found else 0,
            )
        )
    return lines


def models_table(lines: Sequence[ModelLine], *, simulated: bool) -> Table:
    """A row a version, narrow enough for 80 columns."""
    title = f"Models{' (simulated)' if simulated else ''}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, collapse_padding=True)
    for column in ("protocol", "no.", "alias", "trained (UTC)"):
        table.add_column(column, no_wrap=True)
    for column in ("WAPE", "naive", "LSTM", "80 %\nband", "live\nWAPE", "live\nnaive"):
        table.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(
            line.protocol,
            line.version,
            ", ".join(line.aliases[:1]),
            f"{line.trained_at:%Y-%m-%d %H:%M}",
            _figure(line.wape),
            _figure(line.rivals.get("seasonal_naive")),
            _figure(line.rivals.get("lstm")),
            UNKNOWN if line.coverage80 is None else f"{line.coverage80:.0%}",
            _figure(line.live_wape),
            _figure(line.live_naive_wape),
        )
    return table


def champions_told(lines: Sequence[ModelLine]) -> list[str]:
    """Who made each champion what it is, and why: a line a protocol."""
    return [
        f"{line.protocol}: version {line.version} is champion by {line.champion_by}: {line.champion_why}"
        for line in lines
        if "champion" in line.aliases and line.champion_by
    ]


def models_json(lines: Sequence[ModelLine]) -> str:
    """The same as a JSON array; times are ISO 8601 in UTC, what is unknown is null."""
    return json.dumps([asdict(line) for line in lines], indent=2, default=lambda value: value.isoformat())


def _rivals(row: ModelRow) -> dict[str, float]:
    return {
        name.removesuffix(" wape"): value
        for name, value in row.metrics.items()
        if name.endswith(" wape") and name != "served wape"
    }


def _figure(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"
