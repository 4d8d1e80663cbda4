import math

import numpy as np
import pytest

from orcha_pipeline.anomalies.series_kinds import AUTO_THRESHOLD, detect_series
from orcha_pipeline_tests.bench.nab_scoring import (
    NAB,
    NabFile,
    perfect,
    probation,
    read_files,
    scaled_sigmoid,
    standard,
    sweep,
    windowed_gaussian,
    worth_of,
)

needs_nab = pytest.mark.skipif(not NAB.is_dir(), reason="needs ../shared/data/nab")

PUBLISHED = {
    "artificialNoAnomaly/art_daily_no_noise.csv": 0.0,
    "artificialNoAnomaly/art_daily_perfect_square_wave.csv": 0.0,
    "artificialNoAnomaly/art_daily_small_noise.csv": 0.0,
    "artificialNoAnomaly/art_flatline.csv": 0.0,
    "artificialNoAnomaly/art_noisy.csv": 0.0,
    "artificialWithAnomaly/art_daily_flatmiddle.csv": -1.0,
    "artificialWithAnomaly/art_daily_jumpsdown.csv": -1.0,
    "artificialWithAnomaly/art_daily_jumpsup.csv": -1.0,
    "artificialWithAnomaly/art_daily_nojump.csv": -1.0,
    "artificialWithAnomaly/art_increase_spike_density.csv": -1.0,
    "artificialWithAnomaly/art_load_balancer_spikes.csv": -0.6924446095227346,
    "realAdExchange/exchange-2_cpc_results.csv": -1.0,
    "realAdExchange/exchange-2_cpm_results.csv": -2.0,
    "realAdExchange/exchange-3_cpc_results.csv": 2.5026632611866138,
    "realAdExchange/exchange-3_cpm_results.csv": 0.862098587352162,
    "realAdExchange/exchange-4_cpc_results.csv": 0.2922884634276035,
    "realAdExchange/exchange-4_cpm_results.csv": 1.274710362684976,
    "realTraffic/TravelTime_387.csv": -1.7959813307852819,
    "realTraffic/TravelTime_451.csv": -1.0,
    "realTraffic/occupancy_6005.csv": -1.0,
    "realTraffic/occupancy_t4013.csv": 1.725221520228401,
    "realTraffic/speed_6005.csv": -1.0,
    "realTraffic/speed_7578.csv": -4.0,
    "realTraffic/speed_t4013.csv": -2.0,
}
"""Raw scores of the windowed Gaussian at threshold 1.0, as numenta/NAB publishes them by file
(results/windowedGaussian/windowedGaussian_standard_scores.csv)."""
PUBLISHED_DIGITS = 12
"""The scores that NAB publishes by row, from which those were made, have so many."""


def a_file(rows=1000, windows=((400, 499),)):
    return NabFile("group", "file", 300.0 * np.arange(rows), np.zeros(rows), windows)


def alerts(*rows, count=1000):
    found = np.zeros(count, dtype=bool)
    found[list(rows)] = True
    return found


@pytest.mark.parametrize(
    ("position", "worth"),
    [
        (-1.0, 2 / (1 + math.exp(-5)) - 1),
        (-0.5, 0.84828),
        (0.0, 0.0),
        (1.0, -0.98661),
        (2.99, -1.0),
        (3.0, -1.0),
        (9.0, -1.0),
    ],
)
def test_the_sigmoid_has_the_values_that_nab_tells(position, worth):
    assert scaled_sigmoid(position) == pytest.approx(worth, abs=1e-5)


@pytest.mark.parametrize(("rows", "judged_from"), [(4032, 604), (1127, 169), (5000, 750), (22_695, 750)])
def test_the_first_15_percent_are_on_probation(rows, judged_from):
    assert probation(rows) == judged_from


def test_an_alert_at_a_windows_left_edge_earns_1():
    paid = worth_of(1000, [(400, 499)])

    assert paid.raw(alerts(400)) == pytest.approx(1.0)


def test_only_the_best_alert_of_a_window_counts():
    paid = worth_of(1000, [(400, 499)])

    assert paid.raw(alerts(450, 470, 499)) == pytest.approx(scaled_sigmoid(-0.5) / scaled_sigmoid(-1))


def test_a_window_without_an_alert_costs_1():
    assert worth_of(1000, [(400, 499), (600, 649)]).raw(alerts()) == -2.0


def test_an_alert_outside_costs_more_the_farther_it_is_behind_a_window():
    paid = worth_of(1000, [(400, 499)])
    costs = [paid.raw(alerts(400, row)) - 1.0 for row in (300, 500, 549, 598, 900)]

    assert costs[0] == pytest.approx(-0.11)
    assert costs[3] == pytest.approx(0.11 * scaled_sigmoid(1.0))  # a window's width behind, which is 99
    assert costs[4] == pytest.approx(-0.11)
    assert costs[1] > costs[2] > costs[3]


def test_alerts_on_probation_count_for_nothing():
    assert worth_of(1000, [(400, 499)]).raw(alerts(0, 100, 149, 400)) == pytest.approx(1.0)


def test_scores_lie_between_nothing_and_perfect():
    file = a_file(windows=((100, 200), (400, 499), (800, 849)))
    paid = worth_of(1000, file.windows)

    assert standard(paid.raw(alerts()), 3) == 0.0
    assert standard(paid.raw(perfect(a_file())), 3) < 100.0
    assert standard(worth_of(1000, a_file().windows).raw(perfect(a_file())), 1) == pytest.approx(100.0)


def test_a_threshold_is_chosen_on_the_other_files():
    first, second = a_file(), NabFile("other", "file", 300.0 * np.arange(1000), np.zeros(1000), ((400, 499),))
    scores = {
        first: np.where(alerts(400), 0.9, np.where(alerts(300), 0.6, 0.0)),
        second: np.where(alerts(400), 0.5, 0.0),
    }

    swept = sweep(scores, np.array([0.4, 0.7, 0.95]))

    assert swept.raw == pytest.approx(np.array([[0.89, 1.0, -1.0], [1.0, -1.0, -1.0]]))
    assert swept.chosen_without(lambda file: file.group) == [0, 1]
    assert swept.at([0, 1]) == pytest.approx(standard(0.89 - 1.0, 2))


@needs_nab
def test_the_rules_give_the_published_scores_of_nabs_own_detector():
    for file in read_files():
        scores = np.round(windowed_gaussian(file.values), PUBLISHED_DIGITS)
        raw = worth_of(len(file.values), file.windows).raw(scores >= 1.0)

        assert raw == pytest.approx(PUBLISHED[f"{file.group}/{file.name}"], abs=1e-9), file.name


@needs_nab
def test_the_default_threshold_reaches_70_without_a_false_alert():
    files = read_files()
    judged = {file: detect_series(file.seconds, file.values).score >= AUTO_THRESHOLD for file in files}
    raw = sum(worth_of(len(file.values), file.windows).raw(found) for file, found in judged.items())

    assert standard(raw, sum(len(file.windows) for file in files)) >= 70.0
    assert not any(found.any() for file, found in judged.items() if file.group == "artificialNoAnomaly")
