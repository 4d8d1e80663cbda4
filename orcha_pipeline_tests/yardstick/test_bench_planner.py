"""The planner's bench: the worlds it makes, the interval it tells, and its fleet."""

import numpy as np
import pytest

from orcha_pipeline.testnet.world_kinds import write_world
from orcha_pipeline.testnet.worlds import WorldKind
from orcha_pipeline.yardstick.world import load_world
from orcha_pipeline_tests.bench import planner


def test_its_worlds_are_those_that_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "DAYS", 6)
    made = planner.made(WorldKind.OUTAGE, 5)
    write_world(tmp_path / "world", kind=WorldKind.OUTAGE, seed=5, days=6)
    written = load_world(tmp_path / "world")
    assert made.history == written.history
    np.testing.assert_allclose(made.yields, written.yields, atol=1e-6)
    np.testing.assert_array_equal(made.available, written.available)
    for name in ("capacity", "demand", "least", "restart_hours", "cooldown"):
        np.testing.assert_array_equal(getattr(made.terms, name), getattr(written.terms, name))


def test_the_interval_holds_the_mean_and_narrows_with_more_worlds():
    rng = np.random.default_rng(1)
    few, many = (planner.interval(rng.normal(0.9, 0.05, count).tolist()) for count in (5, 100))
    for mean, low, high in (few, many):
        assert low < mean < high
    assert many[2] - many[1] < few[2] - few[1]
    assert planner.interval([0.9, 0.9, 0.9]) == pytest.approx((0.9, 0.9, 0.9))


def test_a_fleet_is_divided_as_highs_alone_divides_it():
    figures = planner.bench_fleet(20, 4, 2)
    assert figures["apart"] < 1e-9
    assert figures["seconds"] > 0


def test_the_bench_prints_a_row_a_policy(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(planner, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(planner, "DAYS", 4)
    out = tmp_path / "figures.json"
    monkeypatch.setattr(
        "sys.argv",
        [
            "bench",
            "--seeds",
            "2",
            "--kinds",
            "benign",
            "--policies",
            "static,myopic",
            "--hosts",
            "0",
            "--json",
            str(out),
        ],
    )
    planner.main()
    told = capsys.readouterr().out
    assert "benign: 2 worlds" in told
    assert "static" in told
    assert "myopic" in told
    assert out.is_file()


class InThisProcess:
    def __init__(self, _count):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, tasks):
        return map(function, tasks)
