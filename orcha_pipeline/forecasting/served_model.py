"""A protocol's model as it is served: the forecasters that were chosen, blended and calibrated as the selection says.

Loading it touches neither TensorFlow nor MLflow nor pandas, and loads no forecaster that has no part in an answer.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.artifact import (
    CANDIDATES_FOLDER,
    EXAMPLE_FILE,
    Manifest,
    read_manifest,
    read_version,
)
from orcha_pipeline.forecasting.candidates import forecaster_class
from orcha_pipeline.forecasting.panel import Floats, Forecaster, HourlySeries
from orcha_pipeline.forecasting.selection import MEDIAN, Selection, blend_all

TOLD_FROM = 0.05


class ServedModel:
    """One training's model: its manifest, and the folder with what its forecasters learnt."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self.manifest = manifest
        self.selection = Selection.from_json(manifest.selection)
        self._folder = folder
        self._forecasters: dict[str, Forecaster] = {}

    @classmethod
    def open(cls, folder: Path) -> "ServedModel":
        """The model in `folder`. Raises ModelError where a part is missing, damaged or of another version."""
        return cls(read_manifest(folder), folder)

    @property
    def version(self) -> str:
        """Its registered version, or "unregistered"."""
        return read_version(self._folder)

    def forecast(self, histories: Sequence[HourlySeries]) -> Floats:
        """p10, p50, p90 of the manifest's horizon from each history's end on: (n, horizon, 3), NaN rows as refused."""
        horizon = self.manifest.horizon_hours
        names = [one.name for one in histories]
        # The dearest, which come last among the candidates, begin: so neither thread waits long for the other.
        members = self._members(names)[::-1]
        # LightGBM, ONNX Runtime and numpy let go of the interpreter while they work.
        with ThreadPoolExecutor(max_workers=2) as threads:
            answers = threads.map(lambda name: self._forecaster(name).forecast(histories, horizon=horizon), members)
            return blend_all(self.selection, names, dict(zip(members, answers, strict=True)))

    def told(self, series: str) -> str:
        """Who answers for a series: "lightgbm 60 % + lstm 40 %"; parts below 5 % are left out."""
        heavy = {name: weight for name, weight in self.selection.weights_of(series).items() if weight >= TOLD_FROM}
        if len(heavy) == 1:
            return next(iter(heavy))
        return " + ".join(f"{name} {100 * weight:.0f} %" for name, weight in heavy.items())

    def reproduces(self) -> bool:
        """Whether it gives again, bit by bit, the forecasts that its training logged."""
        histories, logged = read_example(self._folder)
        return np.array_equal(self.forecast(histories), logged, equal_nan=True)

    def _members(self, series: Sequence[str]) -> list[str]:
        """The candidates that have a part in any of these series' blends; all of them where their median has one."""
        weighed = {name for one in series for name, weight in self.selection.weights_of(one).items() if weight > 0}
        candidates = [name for name in self.selection.candidates if name != MEDIAN]
        return candidates if MEDIAN in weighed or not weighed else [name for name in candidates if name in weighed]

    def _forecaster(self, name: str) -> Forecaster:
        if name not in self._forecasters:
            self._forecasters[name] = forecaster_class(name).load(self._folder / CANDIDATES_FOLDER / name)
        return self._forecasters[name]


def write_example(folder: Path, histories: Sequence[HourlySeries], forecasts: Floats) -> None:
    """Keep what a model was last asked in its training, and what it answered: (n, horizon, 3)."""
    arrays: dict[str, np.ndarray] = {
        "names": np.array([one.name for one in histories]),
        "first_hours": np.array([one.first_hour for one in histories], dtype=np.int64),
        "forecasts": forecasts,
    }
    for i, one in enumerate(histories):
        arrays[f"values_{i}"] = one.values
        if one.shares is not None:
            arrays[f"shares_{i}"] = one.shares
    with (folder / EXAMPLE_FILE).open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_example(folder: Path) -> tuple[list[HourlySeries], Floats]:
    """What `write_example` kept. Raises ModelError where it is missing or damaged."""
    try:
        with np.load(folder / EXAMPLE_FILE, allow_pickle=False) as kept:
            histories = [
                HourlySeries(
                    str(name),
                    int(first),
                    kept[f"values_{i}"],
                    kept.get(f"shares_{i}"),
                )
                for i, (name, first) in enumerate(zip(kept["names"], kept["first_hours"], strict=True))
            ]
            return histories, kept["forecasts"]
    except (OSError, KeyError, ValueError) as unusable:
        raise ModelError(f"{folder / EXAMPLE_FILE} cannot be read: train the model again") from unusable
