"""One global LightGBM over all series: gradient-boosted trees on lags, means and the calendar, a row an hour ahead.

Each window is scaled by its own last days, so that one set of trees serves series of any size. Training imports
LightGBM; forecasting asks its shared library alone (see lightgbm_library).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.lightgbm_library import Booster
from orcha_pipeline.forecasting.panel import (
    QUANTILES,
    SEASON,
    WEEK,
    Floats,
    HourlySeries,
    Tell,
    say_nothing,
)
from orcha_pipeline.forecasting.scaled_windows import (
    CONTEXT,
    WEEKS,
    Scaling,
    WindowForecaster,
    drawn_origins,
    has_negative,
    is_answerable,
    known_mean,
    last_hours,
    lesson_of,
    scaling_of,
)

MIN_ROWS = 1_000
MAX_ROWS = 150_000
"""Training rows, one an origin and hour ahead. More of them cost time and gained nothing on held-back parts."""
RECENT_HOURS = (1, 2, 3, 4, 6, 8, 12, 18, 24)
TRAINING_THREADS = 1
"""LightGBM's threads wait for each other by spinning: where another process wants the cores, two of them took six times
as long as one. The trees come out the same."""
CARD_FILE = "gbm.json"

Single = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Settings:
    """How the trees are grown. The median is the mean of `median_boosters`, each of its own rows and features."""

    rounds: int = 100
    band_rounds: int = 70
    median_boosters: int = 2
    leaves: int = 15
    learning_rate: float = 0.13
    row_fraction: float = 0.5
    feature_fraction: float = 0.5
    max_bin: int = 63


SETTINGS = Settings()


@dataclass(frozen=True, slots=True)
class Rows:
    """What a booster learns from: (n, features), (n,) scaled targets, all known, and (n,) weights."""

    features: Single
    target: Floats
    weight: Floats
    names: tuple[str, ...]


class _GlobalTrees(WindowForecaster):
    """What the two variants share; they differ in whether a window is bent by log1p before it is scaled."""

    log: ClassVar[bool]

    def __init__(self) -> None:
        self._boosters: dict[str, Booster] = {}
        self._texts: dict[str, str] = {}
        self._rows = 0

    def fit(self, panel: Sequence[HourlySeries], *, horizon: int, seed: int, tell: Tell = say_nothing) -> None:
        """Learn medians and a band. Raises ModelError where fewer than MIN_ROWS hours can be learnt from."""
        with np.errstate(over="ignore", invalid="ignore"):
            rows = _training_rows(panel, horizon=horizon, log=self.log, rng=np.random.default_rng(seed))
        texts = _grow(rows, seed=seed, tell=tell)
        self._texts, self._horizon, self._rows = texts, horizon, len(rows.target)
        self._boosters = {name: Booster(text, source=f"{self.name} {name}") for name, text in texts.items()}

    def _forecast(self, histories: Sequence[HourlySeries], horizon: int) -> Floats:
        result = np.full((len(histories), horizon, len(QUANTILES)), np.nan)
        windows = np.stack([last_hours(history.values) for history in histories])
        may_be_negative = np.array([has_negative(history.values) for history in histories])
        answerable = is_answerable(windows)
        if self.log:
            answerable &= ~may_be_negative
        chosen = np.flatnonzero(answerable)
        if not chosen.size:
            return result
        origins = np.array([histories[row].end for row in chosen.tolist()], dtype=np.int64)
        shares = np.array([_last_share(histories[row].shares) for row in chosen.tolist()])
        scaling = scaling_of(windows[chosen], log=self.log)
        features, _ = _features(scaling.scale(windows[chosen]), origins, shares, scaling, horizon)
        for column, name in enumerate(("p10", "p50", "p90")):
            scaled = np.mean([b.predict(features) for key, b in self._boosters.items() if key.startswith(name)], axis=0)
            result[chosen, :, column] = scaling.restore(scaled.reshape(-1, horizon))
        result = np.sort(result, axis=2)
        result[~may_be_negative] = np.maximum(result[~may_be_negative], 0.0)
        result[~np.all(np.isfinite(result), axis=(1, 2))] = np.nan
        return result

    def save(self, folder: Path) -> None:
        """The boosters as LightGBM's own text, and a card that says what they are. Raises ModelError if not fitted."""
        self._require_fit(self._horizon)
        for name, text in self._texts.items():
            (folder / f"{name}.txt").write_bytes(text.encode())
        card = {
            "model": self.name,
            "horizon": self._horizon,
            "rows": self._rows,
            "boosters": {name: _digest(text) for name, text in self._texts.items()},
        }
        (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The forecaster saved in `folder`. Raises ModelError where a file is missing, damaged or another model's."""
        made = cls()
        try:
            card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
            model, digests = card["model"], dict(card["boosters"])
            made._horizon, made._rows = int(card["horizon"]), int(card["rows"])
            made._texts = {name: (folder / f"{name}.txt").read_bytes().decode() for name in digests}
        except (OSError, ValueError, KeyError, TypeError) as unusable:
            raise ModelError(f"{folder} holds no whole {cls.name} model ({unusable}): train it again") from unusable
        if model != cls.name:
            raise ModelError(f"{folder} holds a {model} model, not {cls.name}")
        for name, text in made._texts.items():
            if _digest(text) != digests[name]:
                raise ModelError(f"{folder / name}.txt is not what was saved: train the model again")
            made._boosters[name] = Booster(text, source=str(folder / f"{name}.txt"))
        return made

    @property
    def parameters(self) -> Mapping[str, float | int | str]:
        """The settings, and once fitted the rows learnt from and the trees grown."""
        fixed = {**asdict(SETTINGS), "context_hours": CONTEXT, "objective": "l1", "transform": self._transform()}
        if not self._boosters:
            return fixed
        trees = sum(booster.rounds for booster in self._boosters.values())
        features = next(iter(self._boosters.values())).features
        return {**fixed, "rows": self._rows, "trees": trees, "features": features}

    def _transform(self) -> str:
        return "log1p" if self.log else "difference"


class LightGbm(_GlobalTrees):
    """Of the difference to the last day's mean, in units of the last week's mean absolute deviation."""

    name: ClassVar[str] = "lightgbm"
    log: ClassVar[bool] = False


class LightGbmLog1p(_GlobalTrees):
    """The same of log1p: for non-negative bursty series. No answer for a series with a negative value."""

    name: ClassVar[str] = "lightgbm_log1p"
    log: ClassVar[bool] = True


def _deviation(values: Floats, axis: int) -> Floats:
    """Standard deviation of what is known along `axis`, NaN where nothing is."""
    return np.sqrt(known_mean((values - np.expand_dims(known_mean(values, axis), axis)) ** 2, axis))


def _last_share(shares: Floats | None) -> float:
    return float(shares[-1]) if shares is not None and len(shares) else float("nan")


def _features(
    scaled: Floats, origins: NDArray[np.int64], shares: Floats, scaling: Scaling, horizon: int
) -> tuple[Single, tuple[str, ...]]:
    """The rows of scaled windows (n, CONTEXT) at `origins` (n,), window by window: (n * horizon, features)."""
    by_hour = _hour_features(scaled, origins, horizon)
    by_window = _window_features(scaled, shares, scaling)
    rows = np.empty((len(scaled), horizon, len(by_hour) + len(by_window)), dtype=np.float32)
    for column, values in enumerate(by_hour.values()):
        rows[:, :, column] = values
    for column, values in enumerate(by_window.values(), start=len(by_hour)):
        rows[:, :, column] = values[:, None]
    return rows.reshape(len(scaled) * horizon, rows.shape[2]), (*by_hour, *by_window)


def _hour_features(scaled: Floats, origins: NDArray[np.int64], horizon: int) -> dict[str, Floats | NDArray[np.int64]]:
    """What differs between the hours ahead, (n, horizon) each: the calendar, the same hour of days and weeks past."""
    ahead = np.arange(horizon)
    hour = ahead % SEASON
    when = origins[:, None] + ahead
    days = scaled.reshape(len(scaled), -1, SEASON)
    weeks = scaled.reshape(len(scaled), WEEKS, WEEK)
    week_mean = known_mean(days[:, -7:], axis=1)
    # Yesterday with an hour on either side; the hour after its last is the first one ahead, unknown.
    yesterday = np.concatenate([days[:, -2, -1:], days[:, -1], np.full((len(scaled), 1), np.nan)], axis=1)
    around = np.stack([np.roll(week_mean, shift, axis=1) for shift in (-1, 0, 1)])
    recent_error = known_mean(scaled[:, -6:] - week_mean[:, -6:], axis=1)
    return {
        "step": np.broadcast_to(ahead, when.shape),
        "hour_of_day": when % SEASON,
        "weekday": (when // SEASON + 4) % 7,  # hour 0 is a Thursday's, and Sunday is 0
        **{f"days_ago_{day}": days[:, -day][:, hour] for day in range(1, 7)},
        **{f"weeks_ago_{week}": weeks[:, -week][:, ahead % WEEK] for week in range(1, WEEKS + 1)},
        "yesterday_hour_before": yesterday[:, hour],
        "yesterday_hour_after": yesterday[:, hour + 2],
        "hour_mean_7_days": week_mean[:, hour],
        "hour_mean_28_days": known_mean(days, axis=1)[:, hour],
        "hour_deviation_7_days": _deviation(days[:, -7:], axis=1)[:, hour],
        "hour_of_week_mean": known_mean(weeks, axis=1)[:, ahead % WEEK],
        "hour_mean_shifted_to_now": week_mean[:, hour] + recent_error[:, None],
        "hour_mean_smoothed": known_mean(around, axis=0)[:, hour],
    }


def _window_features(scaled: Floats, shares: Floats, scaling: Scaling) -> dict[str, Floats]:
    """What is the same for all the hours ahead, (n,) each: where the series stands and how it has moved."""
    days = scaled.reshape(len(scaled), -1, SEASON)
    off_the_mean = days[:, -1] - known_mean(days[:, -7:], axis=1)
    divisor = np.where(scaling.spread > 0, scaling.spread, 1.0)
    return {
        **{f"hours_ago_{hours}": scaled[:, -hours] for hours in RECENT_HOURS},
        **{f"mean_{hours}": known_mean(scaled[:, -hours:], axis=1) for hours in (6, SEASON, WEEK, CONTEXT)},
        **{f"deviation_{hours}": _deviation(scaled[:, -hours:], axis=1) for hours in (6, SEASON, WEEK)},
        **{f"mean_of_day_{day}": known_mean(days[:, -day], axis=1) for day in range(2, 8)},
        "least_of_day": np.fmin.reduce(days[:, -1], axis=1),
        "most_of_day": np.fmax.reduce(days[:, -1], axis=1),
        "off_the_mean_1": off_the_mean[:, -1],
        "off_the_mean_6": known_mean(off_the_mean[:, -6:], axis=1),
        "off_the_mean_24": known_mean(off_the_mean, axis=1),
        "level": np.sign(scaling.centre) * np.log1p(np.abs(scaling.centre) / divisor),
        "share": shares,
    }


def _training_rows(panel: Sequence[HourlySeries], *, horizon: int, log: bool, rng: np.random.Generator) -> Rows:
    """At most MAX_ROWS rows of origins drawn from the whole panel, less the hours that are unknown."""
    usable = [series for series in panel if not (log and has_negative(series.values))]
    if not usable:
        why = "every series has a negative value" if panel else "there is no series"
        raise ModelError(f"Nothing for LightGBM to learn from: {why}.")
    drawn = drawn_origins([len(series.values) for series in usable], horizon, MAX_ROWS // horizon, rng)
    parts = [
        _rows_of(series, places, horizon=horizon, log=log)
        for series, places in zip(usable, drawn, strict=True)
        if places.size
    ]
    found = [part for part in parts if part is not None]
    count = sum(len(part.target) for part in found)
    if count < MIN_ROWS:
        raise ModelError(
            f"Too little for LightGBM to learn from: {count:,} known hours ahead of a known past, where {MIN_ROWS:,} "
            f"are needed (about five days of a series that is not constant)."
        )
    return Rows(
        features=np.concatenate([part.features for part in found]),
        target=np.concatenate([part.target for part in found]),
        weight=np.concatenate([part.weight for part in found]),
        names=found[0].names,
    )


def _rows_of(series: HourlySeries, places: NDArray[np.int64], *, horizon: int, log: bool) -> Rows | None:
    """The rows at these places of a series, None where there is nothing to learn."""
    lesson = lesson_of(series, places, horizon=horizon, log=log)
    if lesson is None:
        return None
    before = lesson.origins - series.first_hour - 1
    shares = np.full(len(before), np.nan) if series.shares is None else series.shares[before]
    features, names = _features(lesson.windows, lesson.origins, shares, lesson.scaling, horizon)
    target, weight = lesson.targets.ravel(), np.repeat(lesson.weights, horizon)
    # A constant window says nothing of how a series moves.
    kept = np.isfinite(target) & np.isfinite(weight) & (weight > 0)
    return Rows(features=features[kept], target=target[kept], weight=weight[kept], names=names)


def _grow(rows: Rows, *, seed: int, tell: Tell) -> dict[str, str]:
    """Boosters by name, as LightGBM's text: several for the median, one for each end of the band."""
    import lightgbm

    common: dict[str, Any] = {
        "num_leaves": SETTINGS.leaves,
        "learning_rate": SETTINGS.learning_rate,
        "bagging_fraction": SETTINGS.row_fraction,
        "bagging_freq": 1,
        "feature_fraction": SETTINGS.feature_fraction,
        "max_bin": SETTINGS.max_bin,
        "min_data_in_leaf": min(200, len(rows.target) // 50),
        "num_threads": TRAINING_THREADS,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(
        rows.features, rows.target, weight=rows.weight, feature_name=list(rows.names), params=common
    )
    low, _, high = QUANTILES
    wanted: dict[str, tuple[dict[str, Any], int]] = {
        **{f"p50_{i + 1}": ({"objective": "l1"}, SETTINGS.rounds) for i in range(SETTINGS.median_boosters)},
        "p10": ({"objective": "quantile", "alpha": low}, SETTINGS.band_rounds),
        "p90": ({"objective": "quantile", "alpha": high}, SETTINGS.band_rounds),
    }
    texts: dict[str, str] = {}
    for number, (name, (objective, rounds)) in enumerate(wanted.items()):
        tell(f"{name}, {number + 1} of {len(wanted)}: {rounds} rounds on {len(rows.target):,} rows")
        # LightGBM derives its seeds from this one, which must fit 32 bits with a sign.
        settings = {**common, **objective, "seed": (seed * len(wanted) + number) % 2**31}
        texts[name] = lightgbm.train(settings, data, num_boost_round=rounds).model_to_string()
    return texts


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
