from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.errors import ApiError, NodeConnectionError
from orcha_pipeline.model import Lever, LeverMode
from orcha_pipeline.protocols.http import HttpStatusError
from orcha_pipeline.protocols.levers import lever_range, wait_for
from orcha_pipeline_tests.protocols.fakes import no_waiting, settings

SHARES = st.integers(0, 1000).map(lambda n: n / 1000)


@given(
    low=SHARES, high=SHARES, full=st.integers(1, 10**7).map(lambda n: n / 100), step=st.sampled_from([0.01, 1.0, 10.0])
)
def test_a_range_never_leaves_the_operators_shares_nor_the_floor(low, high, full, step):
    low, high = min(low, high), max(low, high)
    bounds = lever_range(settings("storj", min_share=low, max_share=high), full=full, step=step, floor=step)
    if bounds.problem:
        return
    exact = Decimal(repr(full))
    assert Decimal(repr(low)) * exact <= Decimal(repr(bounds.minimum))
    assert Decimal(repr(bounds.maximum)) <= Decimal(repr(high)) * exact
    assert step <= bounds.minimum <= bounds.maximum
    for bound in (bounds.minimum, bounds.maximum):
        assert Decimal(repr(bound)) % Decimal(repr(step)) == 0


def test_a_level_between_two_steps_is_a_problem_told_and_not_a_range():
    bounds = lever_range(settings("golem", min_share=0.55, max_share=0.6), full=3, step=1, floor=1)
    assert "no multiple of 1 lies between 1.65" in bounds.problem
    assert bounds.maximum <= 2.1


def test_a_lever_takes_the_value_below_the_share_asked_for():
    lever = Lever(name="x", unit="GB", mode=LeverMode.HOT, minimum=500, maximum=3600, step=10, at_full_share=4000)
    assert [lever.value_for(share) for share in (0.0, 0.5, 0.50249, 1.0)] == [500, 2000, 2000, 3600]


def test_waiting_outlasts_a_restart_and_ends_in_time(monkeypatch):
    no_waiting(monkeypatch)
    failures = iter([NodeConnectionError("n", "refused"), HttpStatusError("n", "", status=503, detail="")])

    def check():
        failure = next(failures, None)
        if failure:
            raise failure
        return "up"

    assert wait_for(check, seconds=10) == "up"
    assert wait_for(lambda: None, seconds=10) is None


def test_waiting_does_not_hide_a_refusal():
    def check():
        raise HttpStatusError("n", "no such node", status=404, detail="")

    with pytest.raises(ApiError, match="no such node"):
        wait_for(check, seconds=10)
