"""LightGBM's own library asked directly: a saved booster predicts without the Python package.

`import lightgbm` pulls in scikit-learn and pandas and takes seconds; the shared library beside it loads in
milliseconds. The numbers are the package's own: the same code makes them.
"""

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Self
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.panel import Floats

THREADS = 1
"""A served blend asks two forecasters at a time, so that two cores are busy as it is."""
FIRST_LINE = "tree\n"
LAST_TREE = "\nend of trees\n"
"""What a whole model's text begins with, and what stands after its trees."""

# Of LightGBM's c_api.h.
_FLOAT32 = 0
_ROW_MAJOR = 1
_NORMAL_PREDICTION = 0
_ALL_ROUNDS = -1


class Booster:
    """A trained booster of one output, made from its text. Read only, so it may be asked from several threads."""

    def __init__(self, text: str, *, source: str) -> None:
        """`text` as LightGBM's `model_to_string` writes it; `source` names it in errors.

        Raises ModelError where the text is no whole model or LightGBM is not installed.
        """
        # The library says so on stderr, too, or believes half a file: looked at before it is asked.
        if not text.startswith(FIRST_LINE) or LAST_TREE not in text:
            raise ModelError(f"{source} is not a whole LightGBM model: train the model again")
        self._source = source
        self._handle = ctypes.c_void_p()
        rounds = ctypes.c_int()
        encoded = ctypes.c_char_p(text.encode())
        self._ask(_library().LGBM_BoosterLoadModelFromString(encoded, ctypes.byref(rounds), ctypes.byref(self._handle)))
        finalize(self, _library().LGBM_BoosterFree, self._handle)
        self.rounds = rounds.value
        features = ctypes.c_int()
        self._ask(_library().LGBM_BoosterGetNumFeature(self._handle, ctypes.byref(features)))
        self.features = features.value

    @classmethod
    def read(cls, path: Path) -> Self:
        """The booster whose text stands in `path`. Raises ModelError where it is missing or damaged."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as unusable:
            raise ModelError(f"{path} cannot be read ({unusable}): train the model again") from unusable
        return cls(text, source=str(path))

    def predict(self, rows: NDArray[np.float32]) -> Floats:
        """One number a row of (n, features), NaN where unknown: (n,). Raises ModelError on another shape."""
        if rows.ndim != 2 or rows.shape[1] != self.features:
            raise ModelError(f"{self._source} was trained on {self.features} features, not on {rows.shape[1:]}")
        result = np.empty(len(rows))
        if not len(rows):
            return result
        matrix = np.ascontiguousarray(rows, dtype=np.float32)
        made = ctypes.c_int64()
        self._ask(
            _library().LGBM_BoosterPredictForMat(
                self._handle,
                matrix.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_int(_FLOAT32),
                ctypes.c_int32(matrix.shape[0]),
                ctypes.c_int32(matrix.shape[1]),
                ctypes.c_int(_ROW_MAJOR),
                ctypes.c_int(_NORMAL_PREDICTION),
                ctypes.c_int(0),
                ctypes.c_int(_ALL_ROUNDS),
                ctypes.c_char_p(f"num_threads={THREADS}".encode()),
                ctypes.byref(made),
                result.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
            )
        )
        return result

    def _ask(self, status: int) -> None:
        if status != 0:
            reason = _library().LGBM_GetLastError().decode(errors="replace")
            raise ModelError(f"LightGBM cannot use {self._source}: {reason}")


@cache
def _library() -> ctypes.CDLL:
    """The shared library, loaded once a process. Raises ModelError where there is none."""
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as unusable:
        raise ModelError(f"LightGBM's library {path} cannot be loaded: {unusable}") from unusable
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    return library


def library_path() -> Path:
    """Where the installed package keeps its shared library. Raises ModelError where it is not installed."""
    found = find_spec("lightgbm")  # looks for the package without importing it
    for folder in _folders(found.submodule_search_locations if found else None):
        path = folder / _file_name()
        if path.is_file():
            return path
    raise ModelError("LightGBM is not installed, or its library is missing: install the package lightgbm again")


def _folders(package: Sequence[str] | None) -> list[Path]:
    return [Path(place) / folder for place in package or () for folder in ("lib", "bin", ".")]


def _file_name() -> str:
    names = {"win32": "lib_lightgbm.dll", "darwin": "lib_lightgbm.dylib"}
    return names.get(sys.platform, "lib_lightgbm.so")
