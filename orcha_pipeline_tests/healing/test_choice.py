from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.allocation.gates import BUDGET_MONTH
from orcha_pipeline.healing.choice import (
    STEADY,
    UNREAD,
    Means,
    away_since,
    budget,
    wait_after,
    why_not,
    with_means,
)
from orcha_pipeline.model import HOUR, SLOT, HealthState, Mode
from orcha_pipeline.settings import HealingSettings
from orcha_pipeline_tests.healing.build import MINUTE, down
from orcha_pipeline_tests.rig import NOW

SETTINGS = HealingSettings()
AWAY, WELL, SICK = HealthState.UNREACHABLE, HealthState.HEALTHY, HealthState.ERROR


def reason(now=NOW, settings=SETTINGS, **changes):
    return why_not(down(**changes), now=now, settings=settings)


# --- since when it is away


def test_it_is_away_since_the_first_of_the_readings_that_did_not_find_it():
    readings = [(NOW - 3 * SLOT, WELL), (NOW - 2 * SLOT, AWAY), (NOW - SLOT, AWAY), (NOW, AWAY)]
    assert away_since(readings, NOW) == NOW - 2 * SLOT
    assert away_since(readings[:2], NOW) == NOW - 2 * SLOT


@pytest.mark.parametrize("state", [WELL, SICK, HealthState.RESTARTING, HealthState.AT_RISK])
def test_one_that_answers_in_whatever_state_is_not_away(state):
    assert away_since([(NOW - SLOT, AWAY), (NOW, state)], NOW) is None


def test_what_was_not_read_for_long_is_not_known_to_be_away():
    assert away_since([], NOW) is None
    assert away_since([(NOW - UNREAD - MINUTE, AWAY)], NOW) is None
    assert away_since([(NOW - 10 * HOUR, AWAY), (NOW, AWAY)], NOW) == NOW, "Orcha was away itself"


# --- the wait


def test_the_wait_doubles_with_each_restart_and_begins_anew_after_a_steady_day():
    restarts = [NOW]
    for wait in (60, 120, 240, 480):
        assert wait_after(restarts, HOUR) == wait * MINUTE
        restarts.append(restarts[-1] + wait * MINUTE)
    assert wait_after([NOW, NOW + HOUR + STEADY], HOUR) == HOUR
    assert wait_after([NOW, NOW + HOUR + STEADY - MINUTE], HOUR) == 2 * HOUR
    assert wait_after([NOW] * 3000, HOUR) == BUDGET_MONTH


@given(
    first=st.integers(1, 24 * 60),
    budget_of_lever=st.integers(0, 40),
    looks=st.lists(st.integers(1, 3000), min_size=1, max_size=300),
)
def test_however_long_a_node_is_away_its_restarts_keep_to_wait_and_budget(first, budget_of_lever, looks):
    settings = HealingSettings(first_wait_minutes=float(first), enabled=True)
    now, restarts = NOW, []
    for minutes in looks:
        now += minutes * MINUTE
        kept = tuple(at for at in restarts if at >= now - BUDGET_MONTH)
        if not why_not(down(restarts=kept, restarts_per_month=budget_of_lever), now=now, settings=settings):
            assert not kept or now - kept[-1] >= wait_after(kept, settings.first_wait) >= settings.first_wait
            restarts.append(now)
    for at in restarts:
        assert sum(at - BUDGET_MONTH < other <= at for other in restarts) <= budget_of_lever


# --- why not


def test_a_node_in_mode_auto_that_is_away_for_long_enough_is_restarted():
    assert reason() == ""
    assert reason(away_since=NOW - 30 * MINUTE) == ""
    assert "may come back by itself, and it is away for 29 min" in reason(away_since=NOW - 29 * MINUTE)


@pytest.mark.parametrize("mode", [Mode.ADVISE, Mode.CONFIRM])
@given(away=st.integers(0, 10**6), restarts=st.integers(0, 50), allowed=st.integers(0, 50))
def test_in_another_mode_it_never_is(mode, away, restarts, allowed):
    told = reason(
        mode=mode, away_since=NOW - away * MINUTE, restarts=[NOW - HOUR] * restarts, restarts_per_month=allowed
    )
    assert told == f"it is in mode {mode}, so that this is left to you: restart it, or set its mode to auto"


def test_what_forbids_it_is_the_reason():
    assert reason(against="the operator has frozen it") == "the operator has frozen it"
    assert reason(away_since=None, against="x") == "it was not found away when it was last read"


def test_one_that_was_restarted_just_now_waits():
    assert reason(restarts=[NOW - 59 * MINUTE]) == (
        "after the restart of 2026-03-05 11:06 UTC it is left alone until 2026-03-05 12:06 UTC"
    )
    assert reason(restarts=[NOW - 60 * MINUTE]) == ""
    assert "until" in reason(restarts=[NOW + HOUR]), "the clock went back"


@pytest.mark.parametrize(
    ("changes", "own", "used"), [(3, 4, (4, 4)), (3, None, (1, 10)), (0, 4, (1, 4)), (9, 30, (10, 30))]
)
def test_changes_are_restarts_where_the_lever_says_so(changes, own, used):
    found = down(restarts=[NOW - 5 * HOUR], changes=changes, restarts_per_month=own)
    assert budget(found, SETTINGS) == used
    told = why_not(found, now=NOW, settings=SETTINGS)
    assert told == ("4 of the 4 restarts that it may have in 30 days are used up" if used == (4, 4) else "")


def test_what_restarts_it_may_stand_against_it_and_takes_no_other_reason_away():
    assert with_means(down(), Means("there is no controller")).against == "there is no controller"
    assert with_means(down(against="paused"), Means("there is no controller")).against == "paused"
    assert with_means(down(), Means(restarts_per_month=4)).restarts_per_month == 4


def test_a_budget_of_none_means_never():
    settings = HealingSettings(enabled=True, restarts_per_month=0, after_minutes=0.0)
    assert "0 of the 0 restarts" in reason(settings=settings, away_since=NOW - timedelta(days=9))
