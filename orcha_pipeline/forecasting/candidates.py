"""The forecasters that may be served, by name. A forecaster's own module is imported only when it is asked for."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.panel import Forecaster

CANDIDATES: Mapping[str, str] = MappingProxyType(
    {
        "seasonal_naive": "naive:SeasonalNaive",
        "seasonal_naive_168": "naive:SeasonalNaiveWeek",
        "hour_mean": "naive:HourMean",
        "linear": "linear:Linear",
        "lightgbm": "gbm:LightGbm",
        "lightgbm_log1p": "gbm:LightGbmLog1p",
        "mstl": "classical:Mstl",
        "theta": "classical:Theta",
        "lstm": "lstm_forecaster:Lstm",
    }
)
"""`module:class` in this package, in the order in which tables show them."""


def forecaster_class(name: str) -> type[Forecaster]:
    """The class behind a candidate's name. Raises ModelError, listing the names, where there is none."""
    if name not in CANDIDATES:
        raise ModelError(f"There is no model called {name}. There are {', '.join(CANDIDATES)}.")
    module, _, attribute = CANDIDATES[name].partition(":")
    return getattr(import_module(f"orcha_pipeline.forecasting.{module}"), attribute)


def chosen_names(listed: str | None) -> tuple[str, ...]:
    """The candidates of a comma-separated list, each once; all of them without one. Raises ModelError on another."""
    if listed is None:
        return tuple(CANDIDATES)
    names = tuple(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
    if not names:
        raise ModelError(f"No model is named. There are {', '.join(CANDIDATES)}.")
    for name in names:
        if name not in CANDIDATES:
            raise ModelError(f"There is no model called {name}. There are {', '.join(CANDIDATES)}.")
    return names
