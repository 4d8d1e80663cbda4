"""A small network made by hand and one really trained, for the tests that need a model."""

from datetime import UTC, datetime

import pytest

from orcha_pipeline.forecasting import artifact, features
from orcha_pipeline.forecasting.training import train_protocol
from orcha_pipeline.settings import ForecastSettings, Settings
from orcha_pipeline_tests.forecasting import synthetic

TRAINED_AT = datetime(2026, 2, 2, 0, 30, tzinfo=UTC)


@pytest.fixture
def settings():
    return Settings(forecast=ForecastSettings(context_hours=72, max_epochs=12))


@pytest.fixture
def hand_made_model(tmp_path):
    """A folder whose network answers yesterday's value, one scaled unit below and above it."""
    return write_hand_made_model(tmp_path / "hand-made", offsets=(-1.0, 0.0, 1.0))


def write_hand_made_model(folder, *, offsets, **changes):
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    shapes = {"context": [None, 72, 8], "naive": [None, 24], "profile": [None, 24], "recent": [None, 1]}
    graph = helper.make_graph(
        [helper.make_node("Unsqueeze", ["naive", "last"], ["tall"]), helper.make_node("Add", ["tall", "by"], ["out"])],
        "hand-made",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, 24, 3])],
        [
            numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
            numpy_helper.from_array(np.array(offsets, dtype=np.float32), "by"),
        ],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(network, folder / artifact.ONNX_FILE)
    (folder / artifact.KERAS_FILE).write_bytes(b"not read by serving")
    manifest = artifact.Manifest(
        **{
            "kind": "lstm",
            "protocol": "storj",
            "trained_at": TRAINED_AT,
            "context_hours": 72,
            "horizon_hours": features.HORIZON,
            "channels": features.CHANNELS,
            "inputs": features.INPUTS,
            "scaling": features.SCALING,
            "quantiles": features.QUANTILES,
            "widening": (0.0, 0.0),
            "nodes": ("storj-1",),
            "data_start": synthetic.START,
            "data_end": TRAINED_AT,
            "tested_from": synthetic.START,
            "data_sha256": "0" * 64,
            "code_version": "0.0.0",
            "params": {"units": "128/64", "seed": 7},
            "metrics": {"lstm": {"wape": 0.2, "mase": 0.8}, "seasonal_naive": {"wape": 0.3, "mase": 1.0}},
            "fit_seconds": 1.5,
            "onnx_sha256": artifact.sha256_of(folder / artifact.ONNX_FILE),
        }
        | changes
    )
    artifact.write(folder, manifest)
    return folder


NOISE = 0.25


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """28 days of one node with a daily and weekly profile under 25 % noise, trained for real."""
    return train_protocol(
        synthetic.features(noise=NOISE, outages=0.005),
        protocol="storj",
        settings=Settings(forecast=ForecastSettings(context_hours=72, max_epochs=12)),
        out_dir=tmp_path_factory.mktemp("models") / "storj",
        trained_at=TRAINED_AT,
    )
