"""How MLflow loads a registered model: `mlflow.pyfunc.load_model("models:/orcha-storj@champion").predict(table)`.

The table is long: `unique_id` (a series as in the manifest, `<node>:<target>`), `ds` (full hours, UTC), `y` and, where
known, `share`. Each series is forecast from the hour after its last row on.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orcha_pipeline.forecasting.panel import HourlySeries
from orcha_pipeline.forecasting.served_model import ServedModel

if TYPE_CHECKING:
    import pandas as pd


class LongTableModel:
    """A served model that takes and gives long tables."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model

    def predict(self, table: "pd.DataFrame", params: dict[str, Any] | None = None) -> "pd.DataFrame":
        """p10, p50, p90 of the next 24 hours of every series of `table`: unique_id, ds, p10, p50, p90."""
        import pandas as pd

        del params
        histories = [_history(str(name), rows) for name, rows in table.groupby("unique_id", sort=True)]
        answers = self.model.forecast(histories)
        parts: list[pd.DataFrame] = []
        for history, answer in zip(histories, answers, strict=True):
            hours = np.arange(history.end, history.end + len(answer)).astype("datetime64[h]")
            quantiles = {name: answer[:, i] for i, name in enumerate(("p10", "p50", "p90"))}
            parts.append(pd.DataFrame({"unique_id": history.name, "ds": hours.astype("datetime64[us]"), **quantiles}))
        return pd.concat(parts, ignore_index=True)


def _load_pyfunc(path: str) -> LongTableModel:
    """What MLflow's pyfunc flavour calls with the folder it kept."""
    return LongTableModel(ServedModel.open(Path(path)))


def _history(name: str, rows: "pd.DataFrame") -> HourlySeries:
    hours = rows["ds"].to_numpy().astype("datetime64[h]").astype(np.int64)
    first = int(hours.min())
    grids: list[np.ndarray] = []
    for column in ("y", "share"):
        grid = np.full(int(hours.max()) - first + 1, np.nan)
        if column in rows:
            grid[hours - first] = rows[column].to_numpy(dtype=np.float64, na_value=np.nan)
        grids.append(grid)
    return HourlySeries(name, first, *grids)
