import pytest
from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.errors import SettingsError
from orcha_pipeline.testnet.timekeeping import Timekeeper

NOON = 1_800_000_000


class Wall:
    """A wall clock that the test sets."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_at_a_speed_time_runs_so_much_faster_from_where_it_stood():
    wall = Wall()
    kept = Timekeeper(NOON - 86400, wall=wall)
    kept.play(60.0)
    wall.now += 10.5
    assert kept.now == NOON - 86400 + 630
    assert kept.moment(wall.now - 0.5) == NOON - 86400 + 600
    kept.move(NOON)
    wall.now += 1
    assert kept.now == NOON + 60


def test_a_fraction_of_the_walls_speed_is_slow_motion():
    wall = Wall()
    kept = Timekeeper(NOON, wall=wall)
    kept.play(0.25)
    wall.now += 7
    assert kept.now == NOON + 1


def test_time_at_a_speed_stands_still_while_the_testnet_is_down_and_the_walls_does_not():
    wall = Wall()
    for speed, later in ((100.0, 1000), (1.0, 10 + 3600)):
        kept = Timekeeper(NOON, wall=wall)
        kept.play(speed)
        wall.now += 10
        saved = kept.dump()
        wall.now += 3600
        resumed = Timekeeper(0, wall=wall)
        resumed.load(saved)
        assert resumed.now == NOON + later
        wall.now = NOON


def test_a_wall_clock_that_is_set_back_is_waited_for():
    wall = Wall()
    kept = Timekeeper(NOON, wall=wall)
    kept.run()
    wall.now += 100
    assert kept.now == NOON + 100
    wall.now -= 50
    assert kept.now == NOON + 100
    wall.now += 60
    assert kept.now == NOON + 110


@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["wall", "move", "run", "play", "reload"]), st.floats(-500, 5000)), max_size=30
    )
)
def test_time_never_goes_back_whatever_is_done_to_it(moves):
    wall = Wall()
    kept = Timekeeper(NOON, wall=wall)
    last = kept.now
    for what, amount in moves:
        if what == "wall":
            wall.now += amount
        elif what == "move":
            kept.move(last + int(amount))
        elif what == "run":
            kept.run()
        elif what == "play":
            kept.play(abs(amount) + 0.1)
        else:
            saved = kept.dump()
            kept = Timekeeper(0, wall=wall)
            kept.load(saved)
        assert kept.now >= last
        last = kept.now


def test_a_testnet_given_a_speed_plays_from_its_start_at_once(make_lab):
    lab = make_lab(speed=3600.0)
    assert lab.json("/testnet/clock") == {"now": "2026-10-20T00:00:00Z", "live": True, "speed": 3600.0}
    lab.wall_now += 24
    assert lab.json("/testnet/clock")["now"] == "2026-10-21T00:00:00Z"
    assert lab.truth("golem-1")["native_total"] > 0
    lab.testnet.save()
    later = make_lab()
    later.wall_now += 60
    assert later.json("/testnet/clock")["speed"] == 3600.0
    assert later.testnet.time.now >= lab.testnet.time.now


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_a_speed_that_is_none_is_refused(make_lab, speed):
    with pytest.raises(SettingsError, match="times faster"):
        make_lab(speed=speed)


def test_the_same_hours_are_earned_at_any_speed(make_lab, tmp_path):
    def total(name, speed, steps):
        lab = make_lab(state=tmp_path / name, speed=speed)
        for _ in range(steps):
            lab.wall_now += 10 * 3600 / speed / steps
            lab.json("/testnet/nodes")
        return lab.truth("golem-1")["native_total"]

    assert total("a", 3600.0, 10) == pytest.approx(total("b", 36.0, 4), rel=1e-9)
