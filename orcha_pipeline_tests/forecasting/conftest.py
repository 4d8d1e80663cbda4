"""Models for the tests that need one: a quick one of the simplest forecasters, and one of all that are served."""

from datetime import UTC, datetime

import pytest

from orcha_pipeline.forecasting.training import train_protocol
from orcha_pipeline.settings import ForecastSettings
from orcha_pipeline_tests.forecasting import synthetic

TRAINED_AT = datetime(2026, 2, 2, 0, 30, tzinfo=UTC)
SIMPLE = ("seasonal_naive", "seasonal_naive_168", "hour_mean")
NOISE = 0.25


def train(folder, *frames, candidates=SIMPLE, **more):
    """A model of storj in `folder`."""
    return train_protocol(
        synthetic.panel(*frames),
        protocol="storj",
        settings=ForecastSettings(candidates=candidates, seed=more.pop("seed", 7)),
        out_dir=folder,
        trained_at=TRAINED_AT,
        dagster_run_id="dagster-1",
        **more,
    )


@pytest.fixture
def simple_model(tmp_path):
    """28 noisy days of one node, learnt in no time: the mean of an hour beats yesterday's value."""
    return train(tmp_path / "simple", synthetic.features(noise=NOISE))


@pytest.fixture(scope="session")
def full_model(tmp_path_factory):
    """The same by every candidate that is served, LSTM and LightGBM included."""
    frame = synthetic.features(noise=NOISE, outages=0.005)
    candidates = (*SIMPLE, "linear", "lightgbm", "lightgbm_log1p", "lstm")
    return train(tmp_path_factory.mktemp("models") / "storj", frame, candidates=candidates)
