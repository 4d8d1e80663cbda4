import json

import numpy as np
import pytest
from rich.console import Console

from orcha_pipeline.forecasting.backtest import Backtest, backtest
from orcha_pipeline.forecasting.panel import HourlySeries
from orcha_pipeline.forecasting.report import choices_of, report_of, sentences_of, table_of
from orcha_pipeline.forecasting.rolling import Rolled, windows_at
from orcha_pipeline.forecasting.selection import Selection

FIRST = 480_000


def made(served, *, naive=1.0, truths=(10.0, 1000.0), fallbacks=0):
    """A backtest of two series by hand: seasonal naive is off by `naive` x 10 %, served by `served` x 10 %."""
    panel = [HourlySeries(f"s{i}", FIRST, np.full(120, truth)) for i, truth in enumerate(truths)]
    for one in panel:
        one.values[::2] *= 1.5
        one.values[48:72] *= 1.1
        one.values[96:] = one.values[96:].mean()
    windows = windows_at(panel, [FIRST + 96] * len(panel), [0], 24)

    def off(by):
        sizes = np.array([by] if np.isscalar(by) else by).reshape(-1, 1, 1)
        middle = windows.truth[..., None] * (1 + 0.1 * sizes)
        return middle + np.abs(windows.truth[..., None]) * np.array([-0.15, 0.0, 0.15])

    return Backtest(
        panel=panel,
        anchors=[FIRST + 96] * len(panel),
        rolled=Rolled(windows, {"seasonal_naive": off(naive)}, {"seasonal_naive": fallbacks}, {"seasonal_naive": 1.0}),
        served=off(served),
        served_seconds=0.5,
        selection=Selection(("seasonal_naive", "median"), (0.75, 0.25), ((1.0, 1.0),) * 3),
        validation=Rolled(windows, {}, {}, {}),
        fit_seconds={"seasonal_naive": 2.0},
        predict_seconds={"seasonal_naive": 3.0},
        dropped={"mstl": "too slow [by far]"},
    )


def told(*things, width=200):
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as captured:
        for thing in things:
            console.print(thing)
    return captured.get()


def row(report, model):
    return next(one for one in report.rows if one.model == model)


def test_measures_are_means_over_series_whatever_their_size():
    report = report_of(made((0.5, 1.5)))
    assert row(report, "served").scores.wape == pytest.approx(0.1)
    assert row(report, "seasonal_naive").scores.wape == pytest.approx(0.1)
    assert row(report, "served").scores.coverage80 == pytest.approx(1.0)
    assert [one.model for one in report.rows][-1] == "served"


def test_seconds_add_fits_and_forecasts_and_served_adds_all():
    report = report_of(made(1.0))
    assert row(report, "seasonal_naive").seconds == 5.0
    assert row(report, "served").seconds == 5.5


def test_mase_is_scaled_by_what_lies_before_the_test_part():
    report = report_of(made(1.0))
    values = made(1.0).panel[0].values
    yardstick = np.abs(values[24:96] - values[:72]).mean()
    expected = 0.1 * values[96] / yardstick
    assert report.series["s0"]["served"].mase == pytest.approx(expected)


def test_series_on_which_served_is_worse_than_naive_are_named():
    report = report_of(made((1.03, 1.01)))
    assert report.worse == {"s0": pytest.approx(1.03)}
    assert report.compared == 2
    assert "on 1 of 2 series (50.0 %): s0 (3.0 % worse)." in sentences_of(report)[0]
    assert "on 0 of 2 series (0.0 %)." in sentences_of(report_of(made(1.0)))[0]


def test_where_naive_is_perfect_any_error_is_worse():
    report = report_of(made((0.1, 0.0), naive=0.0))
    assert report.worse == {"s0": float("inf")}
    assert report.as_json()["worse"] == {"s0": None}


def test_a_series_of_zeros_has_no_wape_and_stands_in_nobodys_way():
    report = report_of(made(1.0, truths=(0.0, 10.0)))
    assert row(report, "served").scores.wape == pytest.approx(0.1)
    assert report.compared == 1
    assert "-" in told(choices_of(report))


def test_owa_is_given_against_naive2_of_the_run_only_where_it_is_asked_for():
    without, given = report_of(made(1.0)), report_of(made(1.0), with_naive2=True)
    assert {one.owa for one in without.rows} == {None}
    assert row(given, "naive2").owa == pytest.approx(1.0)
    served, naive2 = row(given, "served"), row(given, "naive2").scores
    expected = 0.5 * (served.scores.smape / naive2.smape + served.scores.mase / naive2.mase)
    assert served.owa == pytest.approx(expected)
    assert "OWA" in told(table_of(given))
    assert "OWA" not in told(table_of(without))


def test_who_was_left_out_is_told_as_it_was_said():
    assert sentences_of(report_of(made(1.0)))[1:] == ["Left out: mstl: too slow [by far]."]


def test_the_table_has_the_measures_seconds_and_fallbacks_of_every_model():
    text = told(table_of(report_of(made(1.0, fallbacks=1234))))
    for heading in ("WAPE", "MASE", "sMAPE", "coverage", "seconds", "fallbacks"):
        assert heading in text
    assert "1,234" in text
    assert "0.1000" in text
    assert "100.0%" in text


def test_the_table_fits_eighty_columns():
    lines = told(table_of(report_of(made(1.0), with_naive2=True), width=80), width=80).splitlines()
    assert any("seasonal_naive" in line for line in lines)
    assert not any("…" in line for line in lines)
    assert all(len(line.rstrip()) <= 80 for line in lines)


def test_json_holds_everything_by_series_and_nothing_that_is_not_json():
    report = report_of(made(1.0, truths=(0.0, 10.0)), with_naive2=True)
    document = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert document["series"]["s1"]["served"]["wape"] == pytest.approx(0.1)
    assert document["series"]["s0"]["served"]["wape"] is None
    assert document["weights"]["s0"] == {"seasonal_naive": 0.75, "median": 0.25}
    assert Selection.from_json(document["selection"]).default == (0.75, 0.25)
    assert document["dropped"] == {"mstl": "too slow [by far]"}
    assert {one["model"] for one in document["rows"]} == {"seasonal_naive", "naive2", "served"}


def test_choices_say_what_the_blend_of_each_series_is_made_of():
    text = told(choices_of(report_of(made(1.0))))
    assert "seasonal_naive 0.75, median 0.25" in text
    assert "the first 1" in told(choices_of(report_of(made(1.0)), most=1))


def test_a_real_backtest_is_reported_whole():
    rng = np.random.default_rng(0)
    panel = [HourlySeries(name, FIRST, rng.lognormal(size=400)) for name in ("a", "b")]
    report = report_of(backtest(panel, horizon=24, last=72, step=24, models=["hour_mean"]), with_naive2=True)
    assert [one.model for one in report.rows] == ["seasonal_naive", "hour_mean", "naive2", "served"]
    assert (report.windows, report.origins, set(report.series)) == (6, 3, {"a", "b"})
    assert json.dumps(report.as_json(), allow_nan=False)
