"""The LSTM as a forecaster: fitted by Keras, asked through onnxruntime, so that serving never loads TensorFlow."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import numpy as np

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import lstm_windows, network
from orcha_pipeline.forecasting.lstm_windows import CONTEXT, INPUTS, Cuts, Inputs, Single
from orcha_pipeline.forecasting.network import KERAS_FILE, ONNX_FILE
from orcha_pipeline.forecasting.panel import QUANTILES, Floats, Forecaster, HourlySeries, Tell, say_nothing

FORMAT = 1
WINDOWS_FILE = "windows.json"
TRAIN_WINDOWS = 14_000
VALIDATION_WINDOWS = 3_000
HELD_BACK = 0.1
"""The part of each series, its last, on which early stopping looks."""
LEAST_WINDOWS = 200
"""Fewer of them to train on teach nothing."""
AGREEMENT = 1e-5
"""How far the exported network may lie from Keras, in a window's own scale."""
CHECKED = 256
"""Windows on which it is looked whether they agree."""
CHUNK = 4096
"""Windows run at once at most."""
THREADS = 2


class Lstm(Forecaster):
    """One global LSTM over all series of a panel. `loss` and `val_loss` hold one value an epoch, from 1."""

    name: ClassVar[str] = "lstm"

    def __init__(self) -> None:
        self.loss: tuple[float, ...] = ()
        self.val_loss: tuple[float, ...] = ()
        self.best_epoch = 0
        self.fit_seconds = 0.0
        self._horizon = 0
        self._log = False
        self._learnt: dict[str, float | int | str] = {}
        self._files: dict[str, bytes] = {}
        self._session: Any = None

    def fit(self, panel: Sequence[HourlySeries], *, horizon: int, seed: int, tell: Tell = say_nothing) -> None:
        """Train on the panel's windows, stopped early by the last part of each series.

        Raises ModelError where there are too few windows, the training fails, or the export does not equal it.
        """
        every, held = lstm_windows.cuts(panel, horizon=horizon, held_back=HELD_BACK)
        _refuse_too_few(panel, every, held, horizon)
        random = np.random.default_rng(seed)
        log = lstm_windows.is_bursty(panel)
        train, validation = (
            lstm_windows.examples(panel, places.sample(most, random), horizon=horizon, log=log)
            for places, most in ((every, TRAIN_WINDOWS), (held, VALIDATION_WINDOWS))
        )
        tell(f"{len(train):,} windows of {len(panel):,} series to train on, {len(validation):,} to validate with")
        fitted = network.fit(train, validation, seed=seed, tell=tell)
        files = _exported(fitted.model)
        session = _open(files[ONNX_FILE], ONNX_FILE)
        checked = {name: values[:CHECKED] for name, values in validation.inputs.items()}
        _refuse_disagreement(_run(session, checked), network.predict(fitted.model, checked))
        self.loss, self.val_loss = fitted.loss, fitted.val_loss
        self.best_epoch, self.fit_seconds = fitted.best_epoch, fitted.fit_seconds
        self._horizon, self._log, self._files, self._session = horizon, log, files, session
        self._learnt = {
            **network.hyperparameters(),
            "context_hours": CONTEXT,
            "patch_hours": lstm_windows.PATCH,
            "held_back": HELD_BACK,
            "horizon_hours": horizon,
            "log_space": int(log),
            "seed": seed,
            "series": len(panel),
            "train_windows": len(train),
            "batch_size": network.batching(len(train))[0],
            "validation_windows": len(validation),
            "epochs": len(fitted.loss),
            "best_epoch": fitted.best_epoch,
        }

    def forecast(self, histories: Sequence[HourlySeries], *, horizon: int) -> Floats:
        """p10, p50, p90, (n, horizon, 3): NaN where under half of a history's last week is known.

        No value is negative where the history has none. Raises ModelError before a fit, beyond the fitted horizon, or
        where the network cannot be run.
        """
        if self._session is None:
            raise ModelError("the LSTM has not been fitted: fit or load it first")
        if horizon > self._horizon:
            raise ModelError(f"the LSTM was fitted for {self._horizon} hours and cannot forecast {horizon}")
        result = np.full((len(histories), horizon, len(QUANTILES)), np.nan)
        for start in range(0, len(histories), CHUNK):
            part = histories[start : start + CHUNK]
            result[start : start + CHUNK] = self._answers(part)[:, :horizon]
        return result

    def save(self, folder: Path) -> None:
        """Write `model.keras`, `model.onnx` and `windows.json`, what the windows need to be made again."""
        if self._session is None:
            raise ModelError("the LSTM has not been fitted: there is nothing to save")
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
        told = {
            **_shape(self._horizon),
            "log_space": self._log,
            "loss": self.loss,
            "val_loss": self.val_loss,
            "best_epoch": self.best_epoch,
            "fit_seconds": self.fit_seconds,
            "parameters": self._learnt,
        }
        (folder / WINDOWS_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What was saved in `folder`, without TensorFlow. Raises ModelError where a file is missing or damaged."""
        made = cls()
        try:
            told = json.loads((folder / WINDOWS_FILE).read_bytes())
            made._files = {name: (folder / name).read_bytes() for name in (KERAS_FILE, ONNX_FILE)}
            made._horizon, made._log = int(told["horizon"]), bool(told["log_space"])
            made.loss, made.val_loss = tuple(told["loss"]), tuple(told["val_loss"])
            made.best_epoch, made.fit_seconds = int(told["best_epoch"]), float(told["fit_seconds"])
            made._learnt = dict(told["parameters"])
        except (OSError, ValueError, KeyError, TypeError) as unusable:
            raise ModelError(
                f"the LSTM in {folder} is missing or damaged: {unusable}. Train the model again"
            ) from unusable
        if any(told.get(key) != value for key, value in _shape(made._horizon).items()):
            raise ModelError(f"the LSTM in {folder} is of another version of Orcha: train the model again")
        made._session = _open(made._files[ONNX_FILE], folder / ONNX_FILE)
        return made

    @property
    def parameters(self) -> Mapping[str, float | int | str]:
        """Hyperparameters, and what the fit came to: windows, epochs, whether in the log space."""
        return self._learnt or network.hyperparameters()

    def _answers(self, histories: Sequence[HourlySeries]) -> Floats:
        """(n, fitted horizon, 3) for at most CHUNK histories."""
        windows = lstm_windows.at_ends(histories, horizon=self._horizon, log=self._log)
        restored = windows.scaling.restore(_run(self._session, windows.inputs).astype(np.float64))
        never_negative = np.array([not (history.values < 0).any() for history in histories], dtype=np.bool_)
        answers = np.where(never_negative[:, None, None], np.maximum(restored, 0.0), restored)
        good = windows.usable & np.isfinite(answers).all(axis=(1, 2))
        return np.where(good[:, None, None], answers, np.nan)


def _shape(horizon: int) -> dict[str, Any]:
    """What must be as it was saved, for the windows to mean what the network learnt."""
    return {
        "format": FORMAT,
        "context": CONTEXT,
        "patch": lstm_windows.PATCH,
        "horizon": horizon,
        "quantiles": list(QUANTILES),
        "inputs": list(INPUTS),
    }


def _refuse_too_few(panel: Sequence[HourlySeries], train: Cuts, validation: Cuts, horizon: int) -> None:
    if len(train) >= LEAST_WINDOWS and len(validation):
        return
    hours = max((int(np.isfinite(series.values).sum()) for series in panel), default=0)
    raise ModelError(
        f"An LSTM needs {hours_needed(len(panel), horizon)} known hours of each of {len(panel)} series to forecast "
        f"{horizon} hours; the longest has {hours}, which makes {len(train)} windows to train on of {LEAST_WINDOWS} "
        f"needed and {len(validation)} to validate with."
    )


def hours_needed(series: int, horizon: int) -> int:
    """The fewest hours of each of so many gapless series of which an LSTM can be trained."""
    each = -(-LEAST_WINDOWS // max(1, series))
    hours = CONTEXT + horizon + each - 1
    while hours - lstm_windows.held_hours(hours, horizon, HELD_BACK) < CONTEXT + horizon + each - 1:
        hours += 1
    return hours


def _exported(model: Any) -> dict[str, bytes]:
    with TemporaryDirectory(prefix="orcha-lstm-") as scratch:
        network.export(model, Path(scratch))
        return {name: (Path(scratch) / name).read_bytes() for name in (KERAS_FILE, ONNX_FILE)}


def _refuse_disagreement(exported: Single, own: Single) -> None:
    apart = float(np.abs(exported - own).max())
    if not apart <= AGREEMENT:
        raise ModelError(f"the exported LSTM lies {apart:.1e} from Keras, more than {AGREEMENT:.0e}: it is not kept")


def _open(content: bytes, path: Path | str) -> Any:
    """A session for the ONNX file that was read from `path`. Raises ModelError where it cannot be used."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; the log would tell it a second time
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _unusable() as damaged:
        raise ModelError(f"{path} cannot be run: {damaged}. Train the model again") from damaged


def _run(session: Any, inputs: Inputs) -> Single:
    """Scaled quantiles (n, horizon, 3) by the exported network."""
    try:
        (answer,) = session.run(None, inputs)
    except _unusable() as failed:
        raise ModelError(f"the LSTM's exported network cannot be run: {failed}. Train the model again") from failed
    return answer


def _unusable() -> tuple[type[Exception], ...]:
    """What onnxruntime raises for a file or inputs it can do nothing with."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors  # pyright: ignore[reportAttributeAccessIssue]

    return (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.NoModel,
        errors.NoSuchFile,
        errors.NotImplemented,
        errors.RuntimeException,
        ValueError,  # a missing input, found before the run
    )
