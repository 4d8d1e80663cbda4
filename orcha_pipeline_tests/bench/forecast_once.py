"""One cold forecast, as `make bench-forecast` times it: a process that starts, forecasts every series and ends.

    python -m orcha_pipeline_tests.bench.forecast_once HOME           what a cycle does: warehouse, champion, forecast
    python -m orcha_pipeline_tests.bench.forecast_once HOME --keras   the LSTM alone, by Keras itself, for comparison

Prints JSON: how many series were forecast, how long after STARTED (Unix seconds, in the environment) the forecasts were
there, notes, and which heavy libraries were loaded meanwhile.
"""

import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

HEAVY = ("tensorflow", "keras", "mlflow", "lightgbm", "sklearn", "pandas", "dagster")
ISSUED_AT = datetime(2026, 2, 2, 0, 30, tzinfo=UTC)
HISTORY = timedelta(days=29)
WAREHOUSE, MODEL = "warehouse.duckdb", "model"


def read_panel(home: Path):
    """The series of the bench's warehouse, read as a cycle reads them."""
    from orcha_pipeline.forecasting.features import panel_of
    from orcha_pipeline.model import Window, hour_of
    from orcha_pipeline.warehouse.columns import feature_columns
    from orcha_pipeline.warehouse.connection import Warehouse

    with Warehouse(home / WAREHOUSE).read() as connection:
        return panel_of(feature_columns(connection, Window(hour_of(ISSUED_AT) - HISTORY, hour_of(ISSUED_AT))))


def as_served(home: Path) -> tuple[int, list[str]]:
    """Forecast as a cycle does: how many series, and the notes of those the champion had no answer for."""
    from orcha_pipeline.forecasting.serving import forecast

    issued = forecast(read_panel(home), issued_at=ISSUED_AT, model_dir=home / MODEL, min_history_hours=48)
    return len(issued), [one.note for one in issued if one.note]


def by_keras(home: Path) -> tuple[int, list[str]]:
    """The same series' LSTM forecasts from `model.keras`."""
    from orcha_pipeline.forecasting import lstm_windows, network
    from orcha_pipeline.forecasting.features import HORIZON, to_hour

    histories = [one.before(to_hour(ISSUED_AT)) for one in read_panel(home)]
    model = network.load(home / MODEL / "candidates" / "lstm" / "model.keras")
    kept = json.loads((home / MODEL / "candidates" / "lstm" / "windows.json").read_text(encoding="utf-8"))
    windows = lstm_windows.at_ends(histories, horizon=HORIZON, log=bool(kept["log_space"]))
    return len(network.predict(model, windows.inputs)), []


def main() -> None:
    """Forecast once and tell."""
    home = Path(sys.argv[1])
    count, notes = by_keras(home) if "--keras" in sys.argv else as_served(home)
    seconds = time.time() - float(os.environ.get("STARTED", "nan"))
    loaded = [module for module in HEAVY if module in sys.modules]
    json.dump({"series": count, "seconds": seconds, "notes": notes[:3], "loaded": loaded}, sys.stdout)


if __name__ == "__main__":
    main()
