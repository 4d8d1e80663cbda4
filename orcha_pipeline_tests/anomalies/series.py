"""Series to judge, made by a seed."""

import numpy as np

HOUR = 3600.0


def hours(count, *, step=HOUR):
    return step * np.arange(count, dtype=np.float64)


def daily(count=960, *, seed=0, noise=0.03, step=HOUR):
    """A day's shape between 50 and 150, with noise."""
    shape = 100 + 50 * np.sin(2 * np.pi * hours(count, step=step) / 86_400)
    return shape * np.random.default_rng(seed).normal(1.0, noise, count)
