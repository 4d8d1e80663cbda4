"""The Keras LSTM: build, fit, predict, export. The only file that loads TensorFlow, and only when one is called."""

import os
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.artifact import KERAS_FILE, ONNX_FILE
from orcha_pipeline.forecasting.features import CHANNELS, HORIZON, QUANTILES, Windows

UNITS = (128, 64)
DENSE = 32
DROPOUT = 0.25
LEARNING_RATE = 2e-3
BATCH = 64
PATIENCE = 4
MIN_GAIN = 5e-4
"""Less than this off the validation loss (some 0.2) in PATIENCE epochs is not worth their time."""


@dataclass(frozen=True, slots=True)
class FittedLstm:
    """A trained network with the weights of its best epoch. `loss` and `val_loss` hold one value an epoch, from 1."""

    model: Any
    loss: tuple[float, ...]
    val_loss: tuple[float, ...]
    best_epoch: int
    fit_seconds: float


def fit(train: Windows, validation: Windows, *, max_epochs: int, seed: int) -> FittedLstm:
    """Train on `train`, stop when `validation` no longer improves, keep the best epoch's weights.

    The same windows, epochs and seed give the same weights on the same machine.
    """
    if not len(train) or not len(validation):
        raise ModelError("an LSTM needs windows to train on and windows to validate with")
    keras = _keras()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = build(context_hours=train.context.shape[1])
    model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE, clipnorm=1.0), loss=masked_pinball, jit_compile=False)
    stop = keras.callbacks.EarlyStopping(patience=PATIENCE, min_delta=MIN_GAIN, restore_best_weights=True)
    began = time.perf_counter()
    history = model.fit(
        train.inputs(),
        np.stack(train.scaled_target(), axis=-1),
        validation_data=(validation.inputs(), np.stack(validation.scaled_target(), axis=-1)),
        epochs=max_epochs,
        batch_size=BATCH,
        callbacks=[stop],
        verbose=0,
    ).history
    val_loss = tuple(float(value) for value in history["val_loss"])
    if not np.isfinite(val_loss).all():
        raise ModelError("the LSTM's loss became infinite: look for absurd yields in features_hourly")
    return FittedLstm(
        model=model,
        loss=tuple(float(value) for value in history["loss"]),
        val_loss=val_loss,
        best_epoch=int(stop.best_epoch) + 1,
        fit_seconds=time.perf_counter() - began,
    )


def predict(model: Any, windows: Windows) -> NDArray[np.float32]:
    """Scaled quantiles (n, HORIZON, 3) by Keras itself."""
    return np.asarray(model.predict(windows.inputs(), batch_size=256, verbose=0))


def export(model: Any, folder: Path) -> None:
    """Write `model.keras` and its ONNX twin, the batch dimension free, into `folder`."""
    model.save(folder / KERAS_FILE)
    with warnings.catch_warnings():
        # tf2onnx 1.17 still asks numpy for `np.object`.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*np.object.*")
        model.export(folder / ONNX_FILE, format="onnx", verbose=False)


def load(path: Path) -> Any:
    """The network of a `model.keras`, for prediction."""
    return _keras().models.load_model(path, compile=False)


def build(*, context_hours: int) -> Any:
    """The untrained network: two LSTM layers and a dense one over the context, quantiles as an offset to the naive.

    The median is a learned blend of yesterday's value and the mean of that hour of the day, shifted by a learned
    part of how the last hours differ from theirs, plus a correction; p10 and p90 stand a softplus below and above
    it, so that they cannot cross. Standard layers only, so that both files load without code of ours.
    """
    keras = _keras()
    layers = keras.layers
    context = keras.Input((context_hours, len(CHANNELS)), name="context")
    naive, profile = keras.Input((HORIZON,), name="naive"), keras.Input((HORIZON,), name="profile")
    recent = keras.Input((1,), name="recent")
    state = layers.LSTM(UNITS[0], return_sequences=True)(context)
    state = layers.Dropout(DROPOUT)(state)
    state = layers.LSTM(UNITS[1])(state)
    state = layers.Dropout(DROPOUT)(state)
    dense = layers.Dense(DENSE, activation="relu")(layers.Concatenate()([state, naive, profile, recent]))
    blend, keep = (layers.Dense(HORIZON, activation="sigmoid", name=name)(dense) for name in ("blend", "keep"))
    below, above = (layers.Dense(HORIZON, activation="softplus", name=name)(dense) for name in ("below", "above"))
    # Starts at 0: what the network adds to its anchors, it has to learn.
    correction = layers.Dense(HORIZON, kernel_initializer="zeros", name="correction")(dense)
    towards_profile = layers.Multiply()([blend, layers.Subtract()([profile, naive])])
    kept_shift = layers.Multiply()([keep, recent])
    middle = layers.Add()([naive, towards_profile, kept_shift, correction])
    bands = [layers.Subtract()([middle, below]), middle, layers.Add()([middle, above])]
    quantiles = layers.Concatenate(name="quantiles")([layers.Reshape((HORIZON, 1))(band) for band in bands])
    return keras.Model([context, naive, profile, recent], quantiles, name="orcha_lstm")


def hyperparameters() -> dict[str, float | int | str]:
    """What shapes a training besides its data, seed and number of epochs."""
    return {
        "units": "/".join(map(str, UNITS)),
        "dense": DENSE,
        "dropout": DROPOUT,
        "learning_rate": LEARNING_RATE,
        "batch_size": BATCH,
        "patience": PATIENCE,
        "min_gain": MIN_GAIN,
    }


def masked_pinball(target_and_weight: Any, quantiles: Any) -> Any:
    """Mean quantile loss over the known hours: target and weight are (n, HORIZON, 2), quantiles (n, HORIZON, 3)."""
    ops = _keras().ops
    levels = ops.convert_to_tensor(QUANTILES, dtype="float32")
    weight = target_and_weight[..., 1]
    miss = target_and_weight[..., :1] - quantiles
    loss = ops.mean(ops.maximum(levels * miss, (levels - 1.0) * miss), axis=-1)
    return ops.sum(weight * loss) / ops.maximum(ops.sum(weight), 1.0)


@cache
def _keras() -> Any:
    # Read once, at the first import: without them TensorFlow fills stderr and Keras may pick another backend.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras
    import tensorflow as tf

    # A GPU would be no faster at this size, and not reproducible.
    tf.config.set_visible_devices([], "GPU")
    tf.config.experimental.enable_op_determinism()
    return keras
