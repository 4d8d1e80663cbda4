"""The network itself: its loss, its start at the anchors, its training and its export."""

import numpy as np
import pytest

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting import lstm_windows, network
from orcha_pipeline.forecasting.panel import HourlySeries


def some_examples(hours=420, *, seed=0, held_back=0.2, horizon=24):
    random = np.random.default_rng(seed)
    turn = 2 * np.pi * np.arange(hours) / 24
    panel = [HourlySeries(name, 480_000, 5 + np.sin(turn) + random.normal(0, 0.2, hours)) for name in ("a", "b")]
    parts = lstm_windows.cuts(panel, horizon=horizon, held_back=held_back)
    return tuple(lstm_windows.examples(panel, part, horizon=horizon, log=False) for part in parts)


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.setattr(network, "MAX_EPOCHS", 2)


def loss_of(target, weight, quantiles):
    both = np.stack([target, weight], axis=-1).astype(np.float32)
    return float(network.masked_pinball(both, np.asarray(quantiles, dtype=np.float32)))


def test_the_loss_is_the_mean_quantile_loss():
    # Truth 1 above all three quantiles: each costs its own level.
    assert loss_of([[1.0]], [[1.0]], [[[0.0, 0.0, 0.0]]]) == pytest.approx((0.1 + 0.5 + 0.9) / 3)
    # Truth 1 below all three: what is left to 1.
    assert loss_of([[-1.0]], [[1.0]], [[[0.0, 0.0, 0.0]]]) == pytest.approx((0.9 + 0.5 + 0.1) / 3)


def test_an_unknown_target_adds_nothing_to_the_loss():
    quantiles = np.zeros((1, 2, 3))
    known = loss_of([[1.0, 0.0]], [[1.0, 0.0]], quantiles)
    assert loss_of([[1.0, 99.0]], [[1.0, 0.0]], quantiles) == known
    assert loss_of([[1.0, 99.0]], [[1.0, 1.0]], quantiles) > known


def test_an_untrained_network_lies_among_its_anchors_and_its_quantiles_do_not_cross():
    train, _ = some_examples()
    network._keras().utils.set_random_seed(0)
    model, _ = network.build(horizon=24)
    answer = network.predict(model, train.inputs)
    anchors = train.inputs["anchors"]
    assert (answer[..., 1] >= anchors.min(axis=2) - 1e-5).all()
    assert (answer[..., 1] <= anchors.max(axis=2) + 1e-5).all()
    assert (np.diff(answer, axis=2) > 0).all()


@pytest.mark.slow
def test_training_tells_its_epochs_keeps_the_best_and_repeats_itself(brief):
    train, validation = some_examples()
    told: list[str] = []
    one = network.fit(train, validation, seed=3, tell=told.append)
    assert len(told) == len(one.loss) == len(one.val_loss) == 2
    assert told[0].startswith("epoch 1 of at most 2: loss ")
    assert one.best_epoch == 1 + int(np.argmin(one.val_loss))
    # What is kept answers the validation windows as the best epoch did: the averaged weights, not the last ones.
    kept = float(network.masked_pinball(validation.target, network.predict(one.model, validation.inputs)))
    assert kept == pytest.approx(min(one.val_loss), rel=1e-4)
    other = network.fit(train, validation, seed=3)
    assert other.val_loss == one.val_loss
    np.testing.assert_array_equal(
        network.predict(one.model, validation.inputs), network.predict(other.model, validation.inputs)
    )
    assert network.fit(train, validation, seed=4).val_loss != one.val_loss


@pytest.mark.slow
def test_the_saved_network_answers_as_the_trained_one(brief, tmp_path):
    train, validation = some_examples()
    model = network.fit(train, validation, seed=3).model
    network.export(model, tmp_path)
    loaded = network.load(tmp_path / network.KERAS_FILE)
    np.testing.assert_array_equal(network.predict(model, validation.inputs), network.predict(loaded, validation.inputs))


def test_nothing_to_train_on_or_to_validate_with_is_refused():
    train, _ = some_examples()
    empty = lstm_windows.Examples({name: one[:0] for name, one in train.inputs.items()}, train.target[:0])
    for pair in ((train, empty), (empty, train)):
        with pytest.raises(ModelError, match="windows to train on and windows to validate with"):
            network.fit(*pair, seed=0)


@pytest.mark.parametrize(
    ("windows", "batch", "rounds"), [(200, 32, 6), (464, 32, 3), (1280, 32, 1), (2560, 64, 1), (14_000, 256, 1)]
)
def test_few_windows_are_seen_in_smaller_batches_and_more_often_an_epoch(windows, batch, rounds):
    assert network.batching(windows) == (batch, rounds)
    assert rounds * windows / batch >= 35
