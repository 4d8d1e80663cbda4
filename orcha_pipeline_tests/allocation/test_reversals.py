"""A change that lost more than it might is noticed, set back and remembered."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.allocation import reversals
from orcha_pipeline.allocation.apply import carry_out
from orcha_pipeline.allocation.outcomes import Measured
from orcha_pipeline.allocation.reversals import Remembered, SetBack, bounds_of, lost_beyond, notice
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.model import HOUR, SLOT, ApplicationStatus, HealthState, slot_of
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse import reversals as rows
from orcha_pipeline.warehouse.facts import insert
from orcha_pipeline_tests.allocation.build import a_lever
from orcha_pipeline_tests.allocation.test_plan_hosts import host, node, one, plans, read, settings_of, share, why
from orcha_pipeline_tests.rig import NOW, FakeNode, decided_line, decision_to_apply, installation, read_now

SHARE = st.floats(0, 1)


def came(gained, unchanged=1.0):
    return Measured(None if unchanged is None else 0.0, unchanged, gained, "", 0)


def promising(p10, *, hours=2.0, cost=0.0):
    return decision_to_apply("d", [], hours=hours, gain_p10=p10, switching_cost_usd=cost)


# --- how much it may lose


@pytest.mark.parametrize(
    ("p10", "cost", "hours", "gained", "bound"),
    [
        (0.5, 0.0, 2.0, -0.11, 0.1),
        (0.5, 0.0, 2.0, -0.09, None),
        (-0.4, 0.0, 2.0, -0.51, 0.5),
        (-0.4, 0.0, 1.0, -0.31, 0.3),
        (-0.4, 0.0, 1.0, -0.29, None),
        # The cost is due at once: of -0.4 all of 0.2, and half of the rest.
        (-0.4, 0.2, 1.0, -0.41, 0.4),
        (-0.4, 0.2, 1.0, -0.39, None),
        (None, 0.0, 1.0, -0.11, 0.1),
    ],
)
def test_it_may_lose_what_was_likely_and_a_part_of_what_the_old_shares_would_have_earned(
    p10, cost, hours, gained, bound
):
    found = lost_beyond(came(gained), promising(p10, cost=cost), hours, percent=10)
    assert found == (None if bound is None else (-gained, pytest.approx(bound)))


def test_what_is_unknown_has_not_lost():
    assert lost_beyond(came(None, None), promising(0.5), 1.0, percent=0) is None


# --- noticed


class Rig:
    def __init__(self, home):
        self.clock = FixedClock(NOW)
        self.installation = installation(home, self.clock, ["a", "b", "c"])
        self.store = self.installation.warehouse
        self.nodes = {
            name: FakeNode(name, self.clock, value=value) for name, value in zip("abc", (80, 40, 40), strict=True)
        }

    def decide(self, name, a, b, **changes):
        lines = [
            decided_line("a", self.nodes["a"].value, a),
            decided_line("b", self.nodes["b"].value, b),
            decided_line("c", 40.0, 40.0),
        ]
        given = {"hours": 2.0, "gain_p10": 0.1, "decided_at": self.clock.now(), **changes}
        with self.store.write() as connection:
            decisions.record_decision(connection, decision_to_apply(name, lines, **given))

    def apply(self, name):
        read_now(self.store, self.nodes.values(), self.clock.now())
        return carry_out(
            name,
            application_id=f"of-{name}",
            run_id="run",
            installation=self.installation,
            warehouse=self.store,
            adapters=self.nodes,
        )

    def change(self, name="d-1", a=40.0, b=80.0, **changes):
        self.decide(name, a, b, **changes)
        assert self.apply(name).status is ApplicationStatus.APPLIED

    def earned(self, quarters, *, first=0, **usd):
        """USD an hour of nodes in each quarter since the change, at the shares they have."""
        with self.store.write() as connection:
            insert(
                connection,
                "rates_quarterly",
                [
                    {
                        "node": name,
                        "started_at": slot_of(NOW) + number * SLOT,
                        "usd_per_hour": usd.get(name, 0.1),
                        "share": self.nodes[name].value / 100,
                    }
                    for name in self.nodes
                    for number in range(first, first + quarters)
                ],
            )

    def notice(self, at, **settings):
        self.clock.set(at)
        made = self.installation.settings
        made = made.model_copy(update={"apply": made.apply.model_copy(update=settings)})
        return notice(self.store, made, at)

    def to_set_back(self, at):
        with self.store.read() as connection:
            return reversals.to_set_back(connection, at)

    def remembered(self, at, hours=24):
        with self.store.read() as connection:
            return reversals.remembered(connection, at, remember_for=timedelta(hours=hours))


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


def lose(rig, quarters=8):
    """Halving `a`, which earns a lot, and doubling `b`, which earns little."""
    rig.change()
    rig.earned(quarters, a=1.0, b=0.01)


def test_a_change_that_lost_is_noticed_once_the_host_has_rested(rig):
    lose(rig)
    assert rig.notice(NOW + timedelta(minutes=55)) == []
    (found,) = rig.notice(NOW + HOUR)
    assert (found.decision_id, found.host, found.hours) == ("d-1", "box", 1.0)
    # `a` would have earned 1.0 x 2 ** 0.9, `b` 0.01 / 2 ** 0.9, `c` what it did.
    assert found.lost_usd == pytest.approx((2**0.9 - 1) - (0.01 - 0.01 / 2**0.9))
    assert found.bound_usd == pytest.approx(0.1 * (2**0.9 + 0.01 / 2**0.9 + 0.1))
    assert rig.notice(NOW + HOUR + SLOT) == []
    with rig.store.read() as connection:
        assert rows.of(connection, ["d-1", "other"]) == {"d-1": found}


@pytest.mark.parametrize(
    ("a", "b", "settings"),
    [(0.1, 1.0, {}), (1.0, 0.01, {"set_back": False}), (1.0, 0.01, {"set_back_beyond_percent": 60.0})],
)
def test_one_that_paid_or_lost_within_its_bound_is_not(rig, a, b, settings):
    rig.change()
    rig.earned(8, a=a, b=b)
    assert rig.notice(NOW + HOUR, **settings) == []


def test_where_nothing_was_lost_nobody_waits_for_a_writer(rig, monkeypatch):
    rig.change()
    rig.earned(8, a=0.1, b=1.0)
    monkeypatch.setattr(rig.store, "write", lambda: pytest.fail("opened for writing"))
    assert rig.notice(NOW + HOUR) == []


def test_one_that_had_to_be_made_is_not(rig):
    rig.change(forced="the host was over its capacity")
    rig.earned(8, a=1.0, b=0.01)
    assert rig.notice(NOW + HOUR) == []


def test_one_of_which_too_little_is_known_is_not(rig):
    rig.change()
    rig.earned(1, a=1.0, b=0.01)
    assert rig.notice(NOW + 2 * HOUR) == []


def test_one_whose_hours_are_long_over_is_not(rig):
    lose(rig, 40)
    assert rig.notice(NOW + 2 * HOUR + timedelta(minutes=61)) == []
    assert len(rig.notice(NOW + 2 * HOUR + timedelta(minutes=59))) == 1


def test_only_the_last_change_of_a_host_counts(rig):
    lose(rig)
    rig.clock.set(NOW + HOUR)
    rig.change("d-2", a=80.0, b=40.0)
    rig.earned(4, first=8, a=1.0)
    assert rig.notice(NOW + 3 * HOUR) == []


# --- set back, and remembered


def test_its_nodes_are_to_have_their_old_shares_and_the_others_stay(rig):
    lose(rig)
    assert rig.to_set_back(NOW + HOUR) == {}
    rig.notice(NOW + HOUR)
    found = rig.to_set_back(NOW + HOUR)
    assert {name: each.share for name, each in found.items()} == {"a": 0.8, "b": 0.4, "c": None}
    assert "the change of 12:05 (a from 0.80 to 0.40, b from 0.40 to 0.80) lost" in found["a"].why
    assert rig.to_set_back(NOW + 7 * HOUR + SLOT) == {}


def test_what_was_set_back_is_not_set_back_again_but_remembered(rig):
    lose(rig)
    rig.notice(NOW + HOUR)
    rig.change("d-2", a=80.0, b=40.0, forced="it lost")
    assert rig.to_set_back(NOW + HOUR) == {}
    rig.earned(12, first=8, a=0.0, b=0.0)
    assert rig.notice(NOW + 3 * HOUR) == []
    found = rig.remembered(NOW + 24 * HOUR)
    assert {name: (each.share, each.more) for name, each in found.items()} == {"b": (0.4, True)}
    assert "not again before 2026-03-06 13:05 UTC" in found["b"].why
    assert rig.remembered(NOW + 26 * HOUR) == {}


def test_where_nobody_was_given_more_nobody_is_given_less_again(rig):
    rig.change(a=20.0, b=40.0)
    rig.earned(8, a=1.0)
    rig.notice(NOW + HOUR)
    assert {name: (each.share, each.more) for name, each in rig.remembered(NOW + HOUR).items()} == {"a": (0.8, False)}


def test_while_its_rest_or_a_pause_is_in_the_way_it_is_tried_again(rig):
    lose(rig)
    rig.notice(NOW + HOUR)
    rig.nodes["a"].fails_to_apply = lambda: RuntimeError("stuck")
    rig.decide("d-2", 80.0, 40.0, forced="it lost")
    assert rig.apply("d-2").status is not ApplicationStatus.APPLIED
    assert rig.to_set_back(NOW + HOUR)["a"].share == 0.8


@given(st.tuples(SHARE, SHARE).map(sorted), SHARE, SHARE, st.booleans())
def test_what_is_remembered_narrows_the_bounds_and_forces_nothing(bounds, now, limit, more):
    least, most = bounds
    told = {"a": Remembered(share=limit, more=more, why="it lost")}
    low, high, reason = bounds_of("a", share=now, least=least, most=most, set_back={}, remembered=told)
    assert least <= low <= high <= most
    assert reason == "it lost"
    if least <= now <= most:
        assert low <= now <= high
        assert high <= max(now, limit) or not more
        assert low >= min(now, limit) or more
    assert bounds_of("b", share=now, least=least, most=most, set_back={}, remembered=told) == (least, most, "")


# --- in the plan


def back(**shares):
    return {name: SetBack(share=each, why="the change of 11:00 lost: it is set back") for name, each in shares.items()}


def test_a_plan_sets_a_change_back_though_the_forecast_would_not():
    settings = settings_of([host()], [node("a"), node("b"), node("c", min_share=0.0)])
    known = {"shares": {"a": 0.2, "b": 0.6, "c": 0.2}, "usd": {"a": 0.01, "b": 0.10, "c": 0.05}}
    plan = one(settings, **known, set_back=back(a=0.6, b=0.2, c=None))
    assert [share(plan, name) for name in "abc"] == pytest.approx([0.6, 0.2, 0.2])
    assert "the change of 11:00 lost" in plan.forced
    assert why(plan, "c") == "c keeps its share: the change of 11:00 lost: it is set back"


def test_what_cannot_be_set_back_is_planned_for_as_always():
    settings = settings_of([host()], [node("a"), node("b")])
    known = {"shares": {"a": 0.2, "b": 0.6}, "usd": {"a": 0.01, "b": 0.10}, "set_back": back(a=0.6, b=0.2)}
    sick = one(
        settings,
        **{**known, "shares": {"a": read(0.2, HealthState.UNREACHABLE), "b": read(0.6, HealthState.UNREACHABLE)}},
    )
    assert not sick.moved
    assert not sick.forced
    resting = a_lever(cooldown=timedelta(hours=24))
    levers = {"a": a_lever(), "b": resting}
    # `a` cannot be given more while `b` rests: there is no room for it.
    (made,) = plans(settings, **known, levers=levers, last_changed={"b": NOW_OF_PLANS - HOUR}).values()
    assert made.plan is not None
    assert not made.plan.forced
    assert share(made.plan, "b") == 0.6


def test_an_operators_bounds_go_before_what_is_set_back():
    settings = settings_of([host()], [node("a", max_share=0.5), node("b")])
    plan = one(settings, shares={"a": 0.2, "b": 0.3}, usd={"a": 0.1, "b": 0.1}, set_back=back(a=0.6, b=0.3))
    assert share(plan, "a") == 0.5


def test_a_remembered_change_is_not_made_again():
    settings = settings_of([host()], [node("a"), node("b")])
    known = {"shares": {"a": 0.6, "b": 0.2}, "usd": {"a": 0.01, "b": 0.10}}
    assert share(one(settings, **known), "b") > 0.6
    plan = one(settings, **known, remembered={"b": Remembered(share=0.2, more=True, why="it lost at 11:00")})
    assert share(plan, "b") == 0.2
    assert "within its bounds (it lost at 11:00)" in why(plan, "b")


NOW_OF_PLANS = read(0.5).observed_at
