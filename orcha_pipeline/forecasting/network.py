"""The LSTM in Keras: build, fit, predict, export. TensorFlow is loaded by its functions, when one is called."""

import math
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.lstm_windows import (
    ANCHORS,
    HOUR_FEATURES,
    ORIGIN_FEATURES,
    STEP_FEATURES,
    STEPS,
    Examples,
    Inputs,
    Single,
)
from orcha_pipeline.forecasting.panel import QUANTILES, Tell, say_nothing

KERAS_FILE = "model.keras"
ONNX_FILE = "model.onnx"

MEMBERS = 2
UNITS = 64
DENSE = (96, 48)
DROPOUT = 0.1
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-3
BATCH = 256
LEAST_BATCH = 32
BATCHES = 40
"""An epoch has about this many batches or more: of fewer windows they are smaller, and an epoch sees a window again."""
MAX_EPOCHS = 8
PATIENCE = 2
MIN_GAIN = 2e-4
"""Less than this off the validation loss (some 0.2) in PATIENCE epochs is not worth their time."""
AVERAGED = 0.98
"""Of the averaged weights, what a batch keeps: what is measured and kept is the mean of about the last 50 batches."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network with the weights of its best epoch. `loss` and `val_loss` hold one value an epoch, from 1."""

    model: Any
    loss: tuple[float, ...]
    val_loss: tuple[float, ...]
    best_epoch: int
    fit_seconds: float


def fit(train: Examples, validation: Examples, *, seed: int, tell: Tell = say_nothing) -> Fitted:
    """Train on `train`, stop when `validation` no longer improves, keep the best epoch's weights.

    The same examples and seed give the same weights on the same machine. Raises ModelError where there is nothing to
    train on or to validate with, or the loss is no number.
    """
    if not len(train) or not len(validation):
        raise ModelError("an LSTM needs windows to train on and windows to validate with")
    keras = _keras()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model, members = build(horizon=train.target.shape[1])
    batch, rounds = batching(len(train))
    members.compile(
        optimizer=_optimizer(batches=math.ceil(rounds * len(train) / batch)),
        loss=_each_pinball,
        metrics=[keras.metrics.MeanMetricWrapper(_mean_pinball, name="mean")],
        jit_compile=False,
    )
    stop = keras.callbacks.EarlyStopping(
        monitor="val_mean", mode="min", patience=PATIENCE, min_delta=MIN_GAIN, restore_best_weights=True
    )
    progress = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: tell(
            f"epoch {epoch + 1} of at most {MAX_EPOCHS}: loss {logs['mean']:.4f}, validation {logs['val_mean']:.4f}"
        )
    )
    began = time.perf_counter()
    history = members.fit(
        {name: np.tile(values, (rounds, *[1] * (values.ndim - 1))) for name, values in train.inputs.items()},
        np.tile(train.target, (rounds, 1, 1)),
        validation_data=(validation.inputs, validation.target),
        epochs=MAX_EPOCHS,
        batch_size=batch,
        validation_batch_size=BATCH,
        # The averaged weights stand in the network while an epoch's end is looked at: they are the ones kept.
        callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True), stop, progress],
        verbose=0,
    ).history
    val_loss = tuple(float(value) for value in history["val_mean"])
    if not np.isfinite(val_loss).all():
        raise ModelError("the LSTM's loss became infinite: look for absurd values in the series")
    return Fitted(
        model=model,
        loss=tuple(float(value) for value in history["mean"]),
        val_loss=val_loss,
        best_epoch=int(stop.best_epoch) + 1,
        fit_seconds=time.perf_counter() - began,
    )


def batching(windows: int) -> tuple[int, int]:
    """How many windows a batch has, and how often an epoch sees each of `windows`."""
    batch = LEAST_BATCH
    while batch < BATCH and batch * 2 * BATCHES <= windows:
        batch *= 2
    return batch, max(1, round(BATCHES * batch / windows))


def _optimizer(*, batches: int) -> Any:
    """AdamW for at most MAX_EPOCHS epochs of `batches`, with the running mean of the weights beside them."""
    optimizers = _keras().optimizers
    return optimizers.AdamW(
        optimizers.schedules.CosineDecay(
            LEARNING_RATE / 10,
            MAX_EPOCHS * batches,
            alpha=0.02,
            warmup_target=LEARNING_RATE,
            warmup_steps=max(1, batches // 2),
        ),
        weight_decay=WEIGHT_DECAY,
        clipnorm=1.0,
        use_ema=True,
        ema_momentum=AVERAGED,
    )


def predict(model: Any, inputs: Inputs) -> Single:
    """Scaled quantiles (n, horizon, 3) by Keras itself."""
    return np.asarray(model.predict(inputs, batch_size=BATCH, verbose=0))


def export(model: Any, folder: Path) -> None:
    """Write `model.keras` and its ONNX twin, the batch dimension free, into `folder`."""
    model.save(folder / KERAS_FILE)
    # Keras exports only what has been called as itself; in training its layers were, under another model.
    model([np.zeros((1, *one.shape[1:]), dtype=np.float32) for one in model.inputs])
    with warnings.catch_warnings():
        # tf2onnx 1.17 still asks numpy for `np.object`.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*np.object.*")
        model.export(folder / ONNX_FILE, format="onnx", verbose=False)


def load(path: Path) -> Any:
    """The network of a `model.keras`, for prediction."""
    return _keras().models.load_model(path, compile=False)


def build(*, horizon: int) -> tuple[Any, Any]:
    """The untrained network, and the same with its members' answers side by side, by which they are trained.

    It answers the mean of MEMBERS networks that differ in their first weights: (n, horizon, 3). The second one shares
    their weights and answers (n, horizon, MEMBERS, 3). Standard layers only, so that both files load without code of
    ours.
    """
    keras = _keras()
    layers = keras.layers
    inputs = [
        keras.Input((STEPS, STEP_FEATURES), name="steps"),
        keras.Input((horizon, HOUR_FEATURES), name="hours"),
        keras.Input((horizon, ANCHORS), name="anchors"),
        keras.Input((ORIGIN_FEATURES,), name="origin"),
    ]
    answers = [_member(*inputs) for _ in range(MEMBERS)]
    beside = layers.Concatenate(axis=2)([layers.Reshape((horizon, 1, 3))(answer) for answer in answers])
    return (
        keras.Model(inputs, layers.Average(name="quantiles")(answers), name="orcha_lstm"),
        keras.Model(inputs, beside, name="orcha_lstm_members"),
    )


def _member(steps: Any, hours: Any, anchors: Any, origin: Any) -> Any:
    """One LSTM over the week, and one dense head that answers each hour to come by itself: (n, horizon, 3).

    The median of an hour is a learned blend of its anchors (yesterday, last week, ...) plus a correction; p10 and p90
    stand a softplus below and above it, so that they cannot cross.
    """
    layers = _keras().layers
    state = layers.Dropout(DROPOUT)(layers.Concatenate()([layers.LSTM(UNITS)(steps), origin]))
    # What is said of the whole week is the same for each hour: its part of the first layer is computed once.
    week = layers.Reshape((1, DENSE[0]))(layers.Dense(DENSE[0])(state))
    own = layers.Dense(DENSE[0], use_bias=False)(layers.Concatenate()([hours, anchors]))
    hidden = layers.Dropout(DROPOUT)(layers.ReLU()(layers.Add()([own, week])))
    hidden = layers.Dense(DENSE[1], activation="relu")(hidden)
    blend = layers.Multiply()([layers.Dense(ANCHORS, activation="softmax")(hidden), anchors])
    # A sum, as a layer that learns nothing.
    blended = layers.Dense(1, kernel_initializer="ones", use_bias=False, trainable=False)(blend)
    # Starts at 0: what the network adds to its anchors, it has to learn.
    correction = layers.Dense(1, kernel_initializer="zeros")(hidden)
    middle = layers.Add()([blended, correction])
    below, above = (layers.Dense(1, activation="softplus")(hidden) for _ in range(2))
    return layers.Concatenate()([layers.Subtract()([middle, below]), middle, layers.Add()([middle, above])])


def hyperparameters() -> Mapping[str, float | int | str]:
    """What shapes a training besides its data and seed."""
    return {
        "members": MEMBERS,
        "units": UNITS,
        "dense": "/".join(map(str, DENSE)),
        "dropout": DROPOUT,
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "batch_size": BATCH,
        "max_epochs": MAX_EPOCHS,
        "patience": PATIENCE,
        "min_gain": MIN_GAIN,
        "averaged": AVERAGED,
    }


def masked_pinball(target_and_weight: Any, quantiles: Any) -> Any:
    """Mean weighted quantile loss: target and weight are (n, horizon, 2), quantiles (n, horizon, 3)."""
    ops = _keras().ops
    levels = ops.convert_to_tensor(QUANTILES, dtype="float32")
    miss = target_and_weight[..., :1] - quantiles
    loss = ops.mean(ops.maximum(levels * miss, (levels - 1.0) * miss), axis=-1)
    return ops.mean(target_and_weight[..., 1] * loss)


def _each_pinball(target_and_weight: Any, answers: Any) -> Any:
    """The mean of the members' own losses: each learns as if it were alone, and so they stay different."""
    return masked_pinball(target_and_weight[:, :, None], answers)


def _mean_pinball(target_and_weight: Any, answers: Any) -> Any:
    """The loss of the members' mean, which is what the network answers."""
    return masked_pinball(target_and_weight, _keras().ops.mean(answers, axis=2))


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
