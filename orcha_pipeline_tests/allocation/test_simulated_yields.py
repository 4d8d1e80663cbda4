"""The yields that are believed in beforehand: alike every time, and of every temper."""

import numpy as np

from orcha_pipeline.allocation.simulated_yields import COUNT, DAYS, STEPS_A_DAY, simulated_yields


def test_they_are_the_same_every_time_and_usable():
    yields = simulated_yields()
    again = simulated_yields.__wrapped__()
    np.testing.assert_array_equal(yields, again)
    assert yields.shape == (DAYS * STEPS_A_DAY, COUNT)
    assert np.isfinite(yields).all()
    assert (yields > 0).all()


def test_they_are_of_every_temper():
    logs = np.log(simulated_yields())
    steps, spreads = np.abs(np.diff(logs, axis=0)).mean(axis=0), logs.std(axis=0)
    for tempers in (steps, spreads):
        low, high = np.quantile(tempers, [0.1, 0.9])
        assert high > 2 * low
    daily = logs.reshape(DAYS, STEPS_A_DAY, COUNT).mean(axis=0).std(axis=0)
    assert daily.max() > 0.5
    assert daily.max() > 3 * daily.min()
