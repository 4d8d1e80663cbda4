from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.errors import ModelError
from orcha_pipeline.forecasting.features import (
    data_hash,
    known_hours,
    node_and_target,
    panel_of,
    series_name,
    to_datetime,
    to_hour,
)
from orcha_pipeline_tests.forecasting.synthetic import START, columns, features, panel

FIRST = to_hour(START)


def by_name(found):
    return {one.name: one for one in found}


def test_a_node_is_two_series_its_yield_and_its_native_earnings_with_its_shares():
    frame = features(hours=30)
    found = by_name(panel(frame))
    assert list(found) == ["storj-1:yield_usd", "storj-1:net_native"]
    np.testing.assert_array_equal(found["storj-1:yield_usd"].values, frame["yield_usd"])
    np.testing.assert_array_equal(found["storj-1:net_native"].values, frame["net_native"])
    for one in found.values():
        assert one.first_hour == FIRST
        np.testing.assert_array_equal(one.shares, frame["share"])


def test_a_missing_hour_and_a_null_are_unknown_and_never_zero():
    given_columns = columns(features(hours=30).drop(index=[4, 5]))
    masked = np.ma.masked_array(given_columns["yield_usd"], mask=[i == 10 for i in range(28)])
    found = by_name(panel_of({**given_columns, "yield_usd": masked}))
    values = found["storj-1:yield_usd"].values
    assert len(values) == 30
    assert np.flatnonzero(np.isnan(values)).tolist() == [4, 5, 12]
    assert known_hours(found["storj-1:yield_usd"]) == 27
    assert np.isnan(found["storj-1:yield_usd"].shares[4])


def test_an_infinite_hour_is_unknown():
    frame = features(hours=30)
    frame.loc[3, "yield_usd"] = np.inf
    assert np.isnan(by_name(panel(frame))["storj-1:yield_usd"].values[3])


def test_a_target_without_a_known_hour_is_no_series():
    names = [one.name for one in panel(features(hours=30).assign(yield_usd=np.nan))]
    assert names == ["storj-1:net_native"]


def test_only_the_nodes_asked_for_are_series():
    both = columns(features(hours=30), features(node="storj-2", hours=30))
    assert {one.name.split(":")[0] for one in panel_of(both, nodes=["storj-2", "unheard-of"])} == {"storj-2"}
    assert panel_of(both, nodes=[]) == []


def test_the_order_of_the_rows_does_not_matter():
    both = columns(features(hours=30), features(node="storj-2", hours=30))
    mixed = np.random.default_rng(0).permutation(60)
    shuffled = panel_of({name: values[mixed] for name, values in both.items()})
    assert data_hash(shuffled) == data_hash(panel_of(both))
    assert panel_of({name: values[:0] for name, values in both.items()}) == []


def test_an_hour_that_stands_twice_or_is_not_full_is_refused():
    frame = features(hours=30)
    with pytest.raises(ModelError, match="hour of storj-1 twice"):
        panel(frame, frame.iloc[:1])
    with pytest.raises(ModelError, match="not a full hour"):
        panel(frame.assign(hour=frame["hour"] + timedelta(minutes=5)))


@given(st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2090, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_an_hour_and_its_moment_are_the_same(moment):
    start = to_datetime(to_hour(moment))
    assert start <= moment < start + timedelta(hours=1)
    assert to_hour(start) == to_hour(moment)


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True), st.sampled_from(["yield_usd", "net_native"]))
def test_a_series_name_tells_node_and_target(node, target):
    assert node_and_target(series_name(node, target)) == (node, target)


def test_the_data_s_hash_changes_with_any_value_and_not_with_the_order():
    one, other = features(hours=50), features(node="storj-2", hours=50, seed=1)
    first = data_hash(panel(one, other))
    assert data_hash(panel(other, one)) == first
    for column in ("yield_usd", "net_native", "share"):
        changed = one.copy()
        changed.loc[7, column] += 1e-9
        assert data_hash(panel(changed, other)) != first
