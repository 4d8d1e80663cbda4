import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.forecasting.selection import (
    MEDIAN,
    NAIVE,
    Evidence,
    Selection,
    blend,
    blend_all,
    select,
    serve,
)

HORIZON = 24


def evidence(errors, *, series=3, windows=30, horizon=HORIZON, seed=0, level=10.0, step=24, own=None):
    """Windows of random walks about `level`, each candidate off by its own standard deviation of noise."""
    rng = np.random.default_rng(seed)
    count = series * windows
    names = np.repeat([f"s{i}" for i in range(series)], windows)
    truth = level + 0.2 * rng.standard_normal((count, horizon)).cumsum(axis=1)
    forecasts = {}
    for name, error in errors.items():
        sizes = np.array([(own or {}).get((name, one), error) for one in names])[:, None]
        middle = truth + sizes * rng.standard_normal((count, horizon))
        forecasts[name] = np.stack([middle - 0.4 * sizes, middle, middle + 0.4 * sizes], axis=-1)
    return Evidence(names, np.tile(np.arange(windows) * step, series), truth, forecasts)


def end_of(known):
    return int(known.times.max()) + known.truth.shape[1]


def error(forecasts, known):
    return np.abs(forecasts[..., 1] - known.truth).sum() / np.abs(known.truth).sum()


def split(known, at):
    return known.take(known.times < at), known.take(known.times >= at)


def test_the_better_candidate_gets_the_greater_weight():
    selection = select(known := evidence({NAIVE: 3.0, "good": 0.5, "bad": 3.0}), now=end_of(known))
    for name in ("s0", "s1", "s2"):
        weights = selection.weights_of(name)
        assert next(iter(weights)) == "good"
        assert weights["good"] > 0.5


def test_two_candidates_with_independent_errors_are_better_blended_than_either():
    past, test = split(evidence({NAIVE: 3.0, "a": 1.0, "b": 1.0}, windows=60), 24 * 40)
    served, _ = serve(past, test)
    assert error(served, test) < 0.85 * min(error(rows, test) for rows in test.forecasts.values())


def test_a_series_that_is_unlike_the_others_gets_weights_of_its_own_once_it_has_windows_enough():
    unlike = {("a", "s0"): 3.0, ("b", "s0"): 0.3}
    errors = {NAIVE: 4.0, "a": 0.3, "b": 3.0}
    many = evidence(errors, windows=60, series=6, own=unlike)
    selection = select(many, now=end_of(many))
    assert selection.weights_of("s0")["b"] > 0.5 > selection.weights_of("s1")["b"]
    few = many.take(many.times < 24)
    pooled = np.array(select(few, now=24).default)
    own = np.array(select(few, now=24).weights["s0"])
    assert np.abs(own - pooled).sum() < np.abs(np.array(selection.weights["s0"]) - pooled).sum()


def test_naive_is_served_where_nothing_does_better_on_a_series():
    lost = {("a", "s0"): 9.0, ("b", "s0"): 9.0, (NAIVE, "s0"): 0.1}
    known = evidence({NAIVE: 3.0, "a": 0.3, "b": 0.3}, series=8, windows=4, own=lost)
    selection = select(known, now=end_of(known))
    assert selection.weights_of("s0")[NAIVE] == 1.0
    assert selection.weights_of("s1")[NAIVE] < 0.5


@pytest.mark.parametrize("learns", [True, False])
def test_what_learns_nothing_has_a_part_only_where_nothing_that_learns_is_left(learns):
    errors = {NAIVE: 1.0, "hour_mean": 1.0, **({"linear": 1.0, "lstm": 1.0} if learns else {})}
    selection = select(known := evidence(errors, windows=4), now=end_of(known))
    simple = selection.weights_of("s0")[NAIVE] + selection.weights_of("s0")["hour_mean"]
    assert simple == 0 if learns else simple > 0.3


def test_without_evidence_naive_is_served_with_its_own_band():
    known = evidence({NAIVE: 1.0, "a": 0.3})
    selection = select(known, now=0)
    served = blend_all(selection, ["s0"], {name: rows[:1] for name, rows in known.forecasts.items()})
    assert selection.weights == {}
    np.testing.assert_allclose(served, known.forecasts[NAIVE][:1])


def test_without_evidence_and_without_naive_all_weigh_the_same():
    selection = select(evidence({"a": 1.0, "b": 0.3}), now=0)
    assert selection.default == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_a_series_never_seen_is_served_with_the_pooled_weights():
    known = evidence({NAIVE: 3.0, "a": 0.5})
    selection = select(known, now=end_of(known))
    one = {name: rows[0] for name, rows in known.forecasts.items()}
    assert np.isfinite(blend(selection, "another", one)).all()
    assert selection.weights_of("another") == dict(
        sorted(zip(selection.candidates, selection.default, strict=True), key=lambda pair: -pair[1])
    )


def test_a_selection_comes_back_from_json_as_it_was():
    known = evidence({NAIVE: 3.0, "a": 0.5, "b": 0.7}, horizon=48)
    selection = select(known, now=end_of(known))
    assert Selection.from_json(json.loads(json.dumps(selection.as_json()))) == selection


def test_a_candidate_without_an_answer_leaves_its_weight_to_the_others():
    known = evidence({NAIVE: 3.0, "a": 0.5, "b": 0.5})
    selection = select(known, now=end_of(known))
    one = {name: rows[0].copy() for name, rows in known.forecasts.items()}
    missing = blend(selection, "s0", {NAIVE: one[NAIVE], "b": one["b"]})
    one["a"][5, 0] = np.nan
    np.testing.assert_allclose(blend(selection, "s0", one), missing)
    assert np.isfinite(missing).all()
    nothing = {name: np.full_like(rows, np.nan) for name, rows in one.items()}
    assert np.isnan(blend(selection, "s0", nothing)).all()


def test_nothing_is_served_below_zero_where_no_candidate_goes_there():
    known = evidence({NAIVE: 1.0, "a": 1.0}, level=100.0)
    selection = select(known, now=end_of(known))
    wide = replace(selection, default_margins=((50.0, 50.0),) * 3, margins={})
    low = {name: np.abs(rows[0]) * [0.1, 0.2, 0.3] for name, rows in known.forecasts.items()}
    assert blend(wide, "s0", low).min() == 0
    below = {name: rows - 1e6 for name, rows in low.items()}
    assert blend(wide, "s0", below).min() < -1e6


def test_unknown_hours_weigh_nothing():
    known = evidence({NAIVE: 3.0, "a": 0.5, "b": 0.7})
    hidden = known.truth.copy()
    hidden[::2, 3:9] = np.nan
    elsewhere = {name: rows.copy() for name, rows in known.forecasts.items()}
    for rows in elsewhere.values():
        rows[::2, 3:9] += 1e6
    one = select(replace(known, truth=hidden), now=end_of(known))
    other = select(replace(known, truth=hidden, forecasts=elsewhere), now=end_of(known))
    assert one.default == pytest.approx(other.default)
    all_unknown = replace(known, truth=np.where(known.series[:, None] == "s1", np.nan, known.truth))
    assert set(select(all_unknown, now=end_of(known)).weights) == {"s0", "s2"}


def test_what_is_served_at_an_origin_owes_nothing_to_what_comes_true_after_it():
    known = evidence({NAIVE: 3.0, "a": 0.5, "b": 0.7}, windows=20)
    past, test = split(known, 24 * 8)
    origin = 24 * 13
    served, _ = serve(past, test)
    # An hour is known once it lies before the origin: the windows that reach beyond it may not be looked at.
    changed = test.truth.copy()
    changed[test.times + HORIZON > origin] *= -7.0
    again, _ = serve(past, replace(test, truth=changed))
    np.testing.assert_array_equal(served[test.times <= origin], again[test.times <= origin])
    assert not np.array_equal(served[test.times > origin + 24], again[test.times > origin + 24])


def test_old_evidence_counts_less_than_new():
    rng = np.random.default_rng(0)
    known = evidence({NAIVE: 3.0, "a": 1.0, "b": 1.0}, windows=200)
    late = (known.times > 24 * 100)[:, None]
    noise = [rng.standard_normal(known.truth.shape) for _ in range(2)]
    forecasts = dict(known.forecasts)
    for name, own, early in (("a", noise[0], True), ("b", noise[1], False)):
        middle = known.truth + np.where(late == early, 2.0, 0.3) * own
        forecasts[name] = np.stack([middle - 1, middle, middle + 1], axis=-1)
    selection = select(replace(known, forecasts=forecasts), now=end_of(known))
    weights = dict(zip(selection.candidates, selection.default, strict=True))
    assert weights["b"] > 1.5 * weights["a"]


@pytest.mark.parametrize("horizon", [1, 24])
@pytest.mark.parametrize("windows", [12, 40])
def test_the_band_of_what_is_served_covers_about_eighty_percent_however_narrow_the_raw_ones(horizon, windows):
    known = evidence({NAIVE: 3.0, "a": 1.0}, series=6, windows=windows + 15, horizon=horizon, step=48)
    for factor in (0.05, 1.0, 10.0):
        forecasts = {name: rows[..., 1:2] + factor * (rows - rows[..., 1:2]) for name, rows in known.forecasts.items()}
        past, test = split(replace(known, forecasts=forecasts), 48 * windows)
        served, _ = serve(past, test)
        inside = (test.truth >= served[..., 0]) & (test.truth <= served[..., 2])
        assert 0.72 < inside.mean() < 0.9


def test_a_series_noisier_than_its_own_band_says_gets_a_wider_one():
    known = evidence({NAIVE: 1.0, "a": 1.0}, windows=60)
    loud = known.series[:, None, None] == "s0"
    squeezed = {
        name: np.where(loud, rows[..., 1:2] + 0.2 * (rows - rows[..., 1:2]), rows)
        for name, rows in known.forecasts.items()
    }
    selection = select(replace(known, forecasts=squeezed), now=end_of(known))
    assert selection.margins["s0"][0][0] > 1.5 * selection.margins["s1"][0][0]


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 30), st.floats(1e-6, 1e6), st.integers(0, 1000),
    st.floats(0, 0.9),
)  # fmt: skip
def test_weights_are_convex_quantiles_never_cross_and_scale_does_not_matter(
    series, windows, horizon, scale, seed, unknown
):
    known = evidence({NAIVE: 2.0, "a": 1.0, "b": 0.5}, series=series, windows=windows, horizon=horizon, seed=seed)
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(known.truth.shape) < unknown, np.nan, known.truth)
    known = replace(known, truth=truth)
    scaled = replace(known, truth=scale * truth, forecasts={k: scale * v for k, v in known.forecasts.items()})
    one, other = select(known, now=end_of(known)), select(scaled, now=end_of(known))
    for selection in (one, other):
        for row in (selection.default, *selection.weights.values()):
            assert min(row) >= 0
            assert sum(row) == pytest.approx(1)
    assert one.default == pytest.approx(other.default, abs=1e-6)
    served = blend_all(one, known.series.tolist(), known.forecasts)
    assert np.isfinite(served).all()
    assert (np.diff(served, axis=-1) >= 0).all()
    low = np.min([rows[..., 1] for rows in known.forecasts.values()], axis=0)
    high = np.max([rows[..., 1] for rows in known.forecasts.values()], axis=0)
    assert (served[..., 1] >= low - 1e-9).all()
    assert (served[..., 1] <= high + 1e-9).all()


def test_series_of_zeros_and_constants_are_served_as_they_are():
    known = evidence({NAIVE: 1.0, "a": 1.0})
    flat = np.where(known.series[:, None] == "s0", 0.0, 5.0) * np.ones_like(known.truth)
    rows = np.repeat(flat[..., None], 3, axis=-1)
    known = replace(known, truth=flat, forecasts={NAIVE: rows, "a": rows})
    served, _ = serve(*split(known, 24 * 10))
    expected = np.repeat(split(known, 24 * 10)[1].truth[..., None], 3, axis=-1)
    np.testing.assert_allclose(served, expected, rtol=0.06, atol=1e-9)
    np.testing.assert_allclose(served[..., 1], expected[..., 1])


def test_the_median_of_all_is_a_candidate_of_its_own():
    known = evidence({NAIVE: 1.0, "a": 1.0, "b": 1.0})
    selection = Selection((NAIVE, "a", "b", MEDIAN), (0.0, 0.0, 0.0, 1.0), ((1.0, 1.0),) * 3)
    served = blend_all(selection, known.series.tolist(), known.forecasts)
    np.testing.assert_allclose(served, np.median(list(known.forecasts.values()), axis=0))
