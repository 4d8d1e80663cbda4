import subprocess
import sys

import numpy as np

from orcha_pipeline.forecasting.simulated_series import COUNT, HOURS, simulated_panel


def test_the_panel_is_whole_positive_and_each_series_its_own():
    panel = simulated_panel()
    values = np.stack([one.values for one in panel])
    assert values.shape == (COUNT, HOURS)
    assert np.isfinite(values).all()
    assert values.min() > 0
    assert len({one.name for one in panel}) == COUNT
    assert len(np.unique(values[:, 0])) == COUNT


def test_it_is_the_same_in_every_process():
    script = (
        "from orcha_pipeline.forecasting.simulated_series import simulated_panel; print(simulated_panel()[7].values[9])"
    )
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert float(printed.stdout) == simulated_panel()[7].values[9]


def test_days_weekends_and_levels_differ_from_series_to_series():
    logs = np.log(np.stack([one.values for one in simulated_panel()]))
    of_day = logs.reshape(COUNT, -1, 24).mean(axis=1)
    swings = np.ptp(of_day, axis=1)
    assert swings.min() < 0.2
    assert swings.max() > 1
    of_week = logs.reshape(COUNT, -1, 7, 24).mean(axis=(1, 3))
    weekend = of_week[:, 5:].mean(axis=1) - of_week[:, :5].mean(axis=1)
    assert weekend.min() < -0.1
    assert weekend.max() > 0.1
