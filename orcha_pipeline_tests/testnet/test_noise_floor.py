"""The oracle behind the noise floor: it is the world's own law, it knows no future, and hardly anybody beats it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.forecasting.features import HORIZON, TARGETS
from orcha_pipeline.model import NET_NATIVE, YIELD_USD
from orcha_pipeline.testnet import worlds
from orcha_pipeline.testnet.worlds import PROTOCOLS, WorldKind
from orcha_pipeline_tests.bench import noise_floor
from orcha_pipeline_tests.bench.noise_floor import (
    DRAWS,
    STEPS_AN_HOUR,
    Knows,
    Lattice,
    Law,
    Linear,
    MadeOutages,
    MadeShocks,
    Returning,
    SeededOutages,
    SeededShocks,
    covariance,
    wape,
)
from orcha_pipeline_tests.bench.testnet_forecast import Measured, Scene, verdict

DAYS = 24
FIRST = int(worlds.WEEK * 2900)
PERIODS = ((6.0, 0.4), (40.0, 0.9))
RNG = np.random.default_rng


def hourly(steps):
    return steps.reshape(-1, STEPS_AN_HOUR).mean(axis=1)


def origins(count, *, since=12 * 24, every=31):
    """In steps, so that a horizon lies behind each."""
    return range(since * STEPS_AN_HOUR, count - HORIZON * STEPS_AN_HOUR + 1, every * STEPS_AN_HOUR)


def floor_and_naive(law, values, at):
    """WAPE of the oracle and of the same hour a day before, at these origins."""
    hours = [origin // STEPS_AN_HOUR for origin in at]
    truth = np.array([values[hour : hour + HORIZON] for hour in hours])
    naive = np.array([values[hour - 24 : hour] for hour in hours])
    return wape(truth, np.array([law.forecast(origin, HORIZON) for origin in at])), wape(truth, naive)


def scrambled(law, origin):
    """The same law and past, with another future wherever the law keeps one."""
    parts = []
    for part in law.parts:
        if isinstance(part, Lattice):
            # The knot just ahead has weight before the origin already: it is part of the past.
            place = [(part.first + origin * 900) / 3600 / period for period, _ in part.periods]
            keep = [int(np.ceil(p)) - low + 1 for p, low in zip(place, part.low, strict=True)]
            knots = tuple(np.concatenate([k[:n], 1.7 - k[n:]]) for k, n in zip(part.knots, keep, strict=True))
            parts.append(replace(part, knots=knots))
        elif isinstance(part, SeededShocks):
            begin, length, size = part.jumps.T
            lasts = np.where(begin + length >= origin, length + 9.0, length)
            later = begin >= origin
            parts.append(replace(part, jumps=np.stack([begin, lasts, np.where(later, -size, size)], axis=1)))
        else:
            parts.append(replace(part, values=np.concatenate([part.values[:origin], 3.0 - part.values[origin:]])))
    paid = law.outages.paid.copy()
    paid[origin:] = ~paid[origin:]
    return Law(law.profile, parts, replace(law.outages, paid=paid))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", [None, *(kind for kind in WorldKind if kind is not WorldKind.REPLAY)])
def test_the_law_is_the_worlds_own(kind, protocol, target):
    scene = Scene.of(kind, seed=5, days=DAYS)
    law = scene.law(protocol, target, Knows.LATTICE)
    told = np.exp(law.profile + sum(part.values for part in law.parts)) * law.outages.paid
    series = scene.panel(protocol)[TARGETS.index(target)]
    assert hourly(told) == pytest.approx(series.values, rel=1e-9)
    assert series.end * 3600 == scene.first + DAYS * 86400


@pytest.mark.parametrize("target", TARGETS)
def test_the_law_of_replay_differs_by_what_prices_move_within_an_hour(target):
    scene = Scene.of(WorldKind.REPLAY, seed=5, days=DAYS)
    law = scene.law("golem", target, Knows.LATTICE)
    told = np.exp(law.profile + sum(part.values for part in law.parts)) * law.outages.paid
    assert hourly(told) == pytest.approx(scene.panel("golem")[TARGETS.index(target)].values, rel=0.01)


@pytest.mark.parametrize("knows", Knows)
@pytest.mark.parametrize("kind", [None, WorldKind.ADVERSARIAL, WorldKind.OUTAGE])
def test_nothing_at_or_after_the_origin_is_used(kind, knows):
    scene = Scene.of(kind, seed=3, days=DAYS)
    law = scene.law("golem", YIELD_USD, knows)
    for origin in origins(scene.count, every=53):
        other = scrambled(law, origin)
        told = [part.values[origin:] for part in law.parts]
        assert any(not np.allclose(a, p.values[origin:]) for a, p in zip(told, other.parts, strict=True))
        np.testing.assert_array_equal(law.forecast(origin, HORIZON), other.forecast(origin, HORIZON))


@pytest.mark.parametrize("knows", Knows)
def test_the_last_step_before_the_origin_is_used(knows):
    scene = Scene.of(None, seed=3, days=DAYS)
    law = scene.law("golem", NET_NATIVE, knows)
    origin = origins(scene.count)[0]
    before, after = law.forecast(origin, HORIZON), law.forecast(origin + 1, HORIZON)
    truth = np.exp(law.profile + sum(part.values for part in law.parts))[origin]
    assert abs(np.log(before[0] / truth)) < 0.1  # the first hour begins with a step that is all but known
    assert not np.array_equal(before, after)


def test_a_world_without_wander_or_shocks_has_no_floor(monkeypatch):
    calm = {
        name: replace(temper, wander=0.0, shocks_per_day=0.0, outages_per_month=0.0)
        for name, temper in worlds._TEMPERS.items()
    }
    monkeypatch.setattr(worlds, "_TEMPERS", calm)
    scene = Scene.of(None, seed=2, days=DAYS)
    values = scene.panel("golem")[TARGETS.index(NET_NATIVE)].values
    for knows in Knows:
        floor, naive = floor_and_naive(scene.law("golem", NET_NATIVE, knows), values, origins(scene.count))
        assert floor < 1e-9
        assert naive > 0.01  # the weekend comes as a surprise to it


@pytest.mark.parametrize("kind", [None, WorldKind.CONTENDED])
def test_nobody_who_repeats_yesterday_beats_the_oracle(kind):
    floors, naives = [], []
    for seed in range(6):
        scene = Scene.of(kind, seed=seed, days=DAYS)
        values = scene.panel("streamr")[TARGETS.index(YIELD_USD)].values
        for knows in Knows:
            floor, naive = floor_and_naive(scene.law("streamr", YIELD_USD, knows), values, origins(scene.count))
            assert floor < 1.05 * naive
            floors.append(floor)
            naives.append(naive)
    assert np.mean(floors) < 0.8 * np.mean(naives)


def test_knowing_the_lattice_is_worth_something():
    by_knowledge = {knows: [] for knows in Knows}
    for seed in range(6):
        scene = Scene.of(None, seed=seed, days=DAYS)
        values = scene.panel("golem")[TARGETS.index(NET_NATIVE)].values
        for knows in Knows:
            law = scene.law("golem", NET_NATIVE, knows)
            by_knowledge[knows].append(floor_and_naive(law, values, origins(scene.count))[0])
    assert np.mean(by_knowledge[Knows.LATTICE]) < 0.95 * np.mean(by_knowledge[Knows.COVARIANCE])


@pytest.mark.parametrize("knows", Knows)
@pytest.mark.parametrize("kind", [None, WorldKind.CONTENDED])
def test_as_much_of_the_truth_lies_in_a_band_as_the_law_says(kind, knows):
    inside = []
    for seed in range(8):
        scene = Scene.of(kind, seed=seed, days=DAYS)
        law = scene.law("golem", YIELD_USD, knows)
        steps = np.exp(law.profile + sum(part.values for part in law.parts))
        for origin in origins(scene.count, every=47):
            low, high = np.quantile(law.futures(origin, HORIZON), (0.1, 0.9), axis=0)
            truth = hourly(steps[origin : origin + HORIZON * STEPS_AN_HOUR])
            inside.append(np.mean((low <= truth) & (truth <= high)))
    assert 0.72 < np.mean(inside) < 0.88


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), origin=st.integers(200, 900))
def test_draws_of_the_lattice_go_on_from_where_the_noise_was(seed, origin):
    noise = Lattice.of(seed, "x", PERIODS, size=1.0, first=FIRST, count=1100)
    drawn = noise.futures(origin, 8, RNG(0))
    # A knot that had no weight before gains less than 3/24**2 in a step.
    assert np.abs(drawn[:, 0] - noise.values[origin]).max() < 0.03
    assert drawn.shape == (DRAWS, 8)


def test_the_covariance_is_that_of_the_noise():
    lags = np.array([0.0, 1.0, 4.0, 11.0, 30.0, 79.0, 100.0])
    told = covariance(PERIODS, lags)
    products = []
    for seed in range(400):
        # Every start is another place on the lattice.
        values = Lattice.of(seed, "x", PERIODS, size=1.0, first=FIRST + 3600 * 7 * seed, count=404).values
        products.append(values[0] * values[(lags * STEPS_AN_HOUR).astype(int)])
    error = np.std(products, axis=0) / np.sqrt(len(products))
    assert np.all(np.abs(np.mean(products, axis=0) - told) < 4 * error)
    assert told[-1] == 0.0  # two periods of 40 h apart no knot is shared


def test_the_linear_prediction_errs_as_much_as_it_says():
    errors, said = [], []
    for seed in range(60):
        values = Lattice.of(seed, "x", PERIODS, size=1.0, first=FIRST + 3600 * 7 * seed, count=700).values
        drawn = Linear(values, 1.0, PERIODS).futures(600, 96, RNG(seed))
        errors.append(np.mean((drawn.mean(axis=0) - values[600:696]) ** 2))
        said.append(np.mean(drawn.var(axis=0)))
    assert np.mean(errors) == pytest.approx(np.mean(said), rel=0.25)


def test_a_returning_walk_is_forecast_to_return():
    walk = Returning(np.full(10, 2.0), kept=0.9, deviation=0.5)
    drawn = walk.futures(10, 40, RNG(0))
    assert drawn.mean(axis=0) == pytest.approx(2.0 * 0.9 ** np.arange(1, 41), abs=1e-9)
    assert drawn[:, -1].std() == pytest.approx(0.5, rel=0.1)


def test_a_shock_in_force_survives_exponentially_and_others_come_as_often_as_they_do():
    shocks = SeededShocks(400, np.array([[90.0, 60.0, 1.0]]), an_hour=0.0, mean_steps=20.0, size=0.5)
    drawn = shocks.futures(100, 96, RNG(0))
    assert drawn.mean(axis=0)[:40] == pytest.approx(np.exp(-np.arange(40) / 20.0), abs=0.05)
    law = Law(np.zeros(400), [shocks])
    median = law.forecast(100, HORIZON)
    assert median[0] == pytest.approx(np.e)
    assert median[5] == 1.0  # over half of the draws have ended
    often = replace(shocks, an_hour=0.5).futures(200, 96, RNG(0))
    assert 0.05 < often[:, :4].mean() < 0.125  # an eighth, had all of them begun with the hour
    assert often[:, -4:].mean() == pytest.approx(0.5 * 20.0 / STEPS_AN_HOUR * 0.5, rel=0.1)


def test_a_shock_to_come_is_not_foreseen_and_one_that_is_over_is_forgotten():
    jumps = np.array([[100.0, 9.0, 1.0], [103.5, 9.0, 1.0], [80.0, 19.5, 1.0], [99.5, 9.0, 0.25]])
    drawn = SeededShocks(400, jumps, an_hour=0.0, mean_steps=20.0, size=0.5).futures(100, 96, RNG(0))
    assert set(np.unique(drawn)) == {0.0, 0.25}


def test_a_dearth_lasts_twice_as_long_as_the_bait_before_it():
    values = np.zeros(200)
    values[100:106], values[106:118] = 1.0, -0.25
    baits = MadeShocks(values, chance=0.0, mean_steps=4.0, size=1.0, bait=0.25)
    drawn = baits.futures(110, 20, RNG(0))
    assert np.all(drawn[:, :8] == -0.25)
    assert np.all(drawn[:, 8:] == 0.0)
    drawn = baits.futures(103, 40, RNG(0))
    up, down = (drawn == 1.0).sum(axis=1), (drawn == -0.25).sum(axis=1)
    whole = up + down < 38
    assert whole.mean() > 0.9
    assert np.all(down[whole] == 2 * (up[whole] + 3))


@pytest.mark.parametrize("bait", [0.0, 0.25])
def test_made_shocks_last_as_long_and_come_as_often_as_in_the_world(bait):
    shocks = MadeShocks(np.zeros(10), chance=0.02, mean_steps=6.0, size=1.0, bait=bait)
    drawn = shocks.futures(10, 96, RNG(0))
    kind = WorldKind.ADVERSARIAL if bait else WorldKind.CONTENDED
    manner = replace(
        noise_floor.world_kinds._MANNERS[kind], shocks_a_day=0.02 * 96, shock_hours=1.5, shock_size=1.0, bait=bait
    )
    # `around` moves the rate by a fifth: many worlds, so that this evens out.
    told = np.array(
        [
            noise_floor.world_kinds._shocks(manner, noise_floor.world_kinds._Draws(seed, "x"), 1.0, 96)
            for seed in range(600)
        ]
    )
    assert np.abs(drawn).mean() == pytest.approx(np.abs(told).mean(), rel=0.12)
    assert drawn.mean() == pytest.approx(told.mean(), abs=0.03)
    assert (drawn > 0).mean() == pytest.approx((told > 0).mean(), rel=0.15)


def test_an_outage_in_force_is_known_and_one_to_come_is_not():
    paid = np.ones(400, dtype=bool)
    paid[100:104] = paid[120:128] = False
    for outages in (SeededOutages(paid), MadeOutages(paid, mean_steps=6.0)):
        assert np.all(outages.over_after(120, RNG(0)) == 0)
        assert np.all(outages.over_after(104, RNG(0)) >= 0)
        assert outages.over_after(104, RNG(0)).mean() > 1.0
        law = Law(np.zeros(400), [], outages)
        assert law.forecast(102, HORIZON)[0] < 1.0
        assert np.all(law.forecast(119, HORIZON) == 1.0)


@pytest.mark.parametrize(
    ("floor", "limit", "served", "words"),
    [
        (0.10, 0.08, 0.12, "is within reach; 88.0% is served"),
        (0.10, 0.08, 0.16, "is within reach; 84.0% is served, which falls short"),
        (0.16, 0.14, 0.20, "is within reach only of who knows the lattice; 80.0% is served"),
        (0.20, 0.16, 0.25, "is beyond anybody's reach; 75.0% is served"),
    ],
)
def test_the_verdict_says_whether_the_floor_allows_it(floor, limit, served, words):
    row = Measured(
        protocol="storj",
        target=YIELD_USD,
        origins=1,
        floor=floor,
        limit=limit,
        served=served,
        seasonal_naive=None,
        linear=None,
        lightgbm=None,
        lstm=None,
        best="lstm",
        best_wape=served,
        accuracy=1.0 - served,
        of_floor=1.0,
        of_limit=1.0,
        coverage80=0.8,
        within_reach=floor < 0.15,
        refused={},
        train_seconds=0.0,
    )
    assert verdict(row).endswith(words)
