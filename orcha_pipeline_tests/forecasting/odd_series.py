"""Series and panels that every forecaster that learns on scaled windows must take in its stride."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from orcha_pipeline.forecasting.panel import HourlySeries
from orcha_pipeline.forecasting.scaled_windows import CONTEXT


def series(name, values, **more):
    return HourlySeries(name, 480_000, np.asarray(values, dtype=float), **more)


UNANSWERABLE = (
    pytest.param([], id="empty"),
    pytest.param(np.arange(47), id="short of two days"),
    pytest.param(np.full(400, np.nan), id="unknown"),
    pytest.param(np.concatenate([np.arange(400), np.full(CONTEXT, np.nan)]), id="long ago"),
    pytest.param(np.full(400, np.inf), id="infinite"),
)
UNLEARNABLE = (
    pytest.param([], id="none"),
    pytest.param([series("short", np.arange(80.0))], id="short"),
    pytest.param([series("unknown", np.full(900, np.nan))], id="unknown"),
    pytest.param([series("constant", np.full(900, 2.0))], id="constant"),
    pytest.param([series("zero", np.zeros(900))], id="zero"),
)
ANY_VALUES = arrays(
    float,
    st.integers(0, 300),
    elements=st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(-10, 10), st.just(0.0)),
)


def assert_sound(answer, values):
    """One history's answer is wholly finite, in order and not below zero without cause, or wholly unknown."""
    assert np.isfinite(answer).all() or np.isnan(answer).all()
    if np.isfinite(answer).all():
        assert (np.diff(answer, axis=1) >= 0).all()
        if not (values[np.isfinite(values)] < 0).any():
            assert answer.min() >= 0
