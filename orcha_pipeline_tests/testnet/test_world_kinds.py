import csv
import functools
import statistics
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from typer.testing import CliRunner

from orcha_pipeline.cli import app
from orcha_pipeline.errors import SettingsError
from orcha_pipeline.testnet.levers import equal_shares
from orcha_pipeline.testnet.played import read_world
from orcha_pipeline.testnet.world_kinds import make_world, write_world
from orcha_pipeline.testnet.worlds import DAY, PROTOCOLS, WorldKind
from orcha_pipeline_tests.testnet.test_worlds import write_prices

SEEDS = (1, 2, 3)
STEPS_A_DAY = 96
SHARED = Path(__file__).parents[3] / "shared" / "worlds"
CUTS = (np.arange(13) / 12) ** 1.5


@functools.cache
def made(kind, seed, days=30):
    return make_world(WorldKind(kind), seed=seed, days=days)


def logs(world, protocol):
    return np.log(world.yields[protocol])


class Split:
    """Divides a world's host: what a fixed, the best and the equal division earn of one step's yields."""

    def __init__(self, folder):
        self.world = read_world(folder, seed=1, start=0)
        self.terms = [self.world.protocols[protocol] for protocol in PROTOCOLS]
        self.curvature = np.array([terms.curvature for terms in self.terms])
        self.equal = np.array([equal_shares(self.world)[protocol] for protocol in PROTOCOLS])
        rows = {name: [t.demand.as_dict()[name] for t in self.terms] for name in self.world.capacity.as_dict()}
        limits = self.world.capacity.as_dict()
        self.use = np.array([np.array(rows[name]) / limits[name] for name in rows])

    def earns(self, yields, shares):
        return float(np.sum(yields * shares**self.curvature))

    def best(self, yields):
        """The division that earns most, its concave response cut into straight pieces."""
        pieces = len(CUTS) - 1
        gains = np.concatenate(
            [y * np.diff(CUTS**c) / np.diff(CUTS) for y, c in zip(yields, self.curvature, strict=True)]
        )
        spread = np.kron(np.eye(4), np.ones(pieces))
        found = linprog(
            -gains,
            A_ub=np.vstack([self.use @ spread, -spread]),
            b_ub=np.concatenate([np.ones(4), [-terms.min_share for terms in self.terms]]),
            bounds=[(0, width) for _ in self.terms for width in np.diff(CUTS)],
        )
        assert found.success
        return spread @ found.x


@functools.cache
def fractions(kind, seed, folder):
    """What the equal and the best fixed division earn, as parts of the best one at every step."""
    out = folder / f"{kind}-{seed}"
    write_world(out, kind=WorldKind(kind), seed=seed, days=30)
    split, world = Split(out), made(kind, seed)
    pays = np.array([np.array(world.yields[p]) * np.array(world.available[p]) for p in PROTOCOLS]).T
    history, scored = pays[: 10 * STEPS_A_DAY], pays[10 * STEPS_A_DAY :: 17]
    fixed = split.best(history.mean(axis=0))
    best = sum(split.earns(step, split.best(step)) for step in scored)
    return (
        sum(split.earns(step, split.equal) for step in scored) / best,
        sum(split.earns(step, fixed) for step in scored) / best,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("worlds")


# ---------------------------------------------------------------- what the kinds are like


@pytest.mark.parametrize("seed", SEEDS)
def test_in_a_contended_world_no_fixed_division_is_good(folder, seed):
    equal, fixed = fractions("contended", seed, folder)
    assert 0.6 < equal < 0.8
    assert 0.55 < fixed < 0.93


@pytest.mark.parametrize("seed", SEEDS)
def test_in_a_benign_world_a_fixed_division_is_nearly_as_good_as_any(folder, seed):
    equal, fixed = fractions("benign", seed, folder)
    assert 0.86 < equal < 0.97
    assert fixed > 0.95


@pytest.mark.parametrize("kind", ["adversarial", "outage", "replay"])
def test_in_the_other_worlds_the_equal_division_leaves_much_behind(folder, kind):
    equal, _ = fractions(kind, 1, folder)
    assert 0.6 < equal < 0.85


@pytest.mark.parametrize("seed", SEEDS)
def test_demands_exceed_the_host_and_differ_a_little_from_seed_to_seed(seed):
    for kind, least in (("contended", 2.2), ("adversarial", 2.1), ("outage", 2.0), ("replay", 2.1), ("benign", 1.2)):
        world = made(kind, seed)
        cpu = sum(terms.demand.cpu_threads for terms in world.terms.values()) / 16.0
        assert least < cpu < least + 0.8
        assert world.terms != made(kind, seed + 1).terms
        assert all(terms.demand.disk_gb <= 8000.0 for terms in world.terms.values())
        storj = world.terms["storj"]
        assert (storj.min_share, storj.cooldown_hours) == (0.2, 24.0)
        # The lever's floor of 500 GB lies below the smallest share.
        assert storj.min_share * storj.demand.disk_gb > 500.0


@pytest.mark.parametrize("seed", SEEDS)
def test_who_pays_best_changes_within_hours_where_it_is_contended_and_hardly_where_it_is_benign(seed):
    def changes_a_day(kind):
        world = made(kind, seed)
        first = np.argmax([world.yields[p] for p in PROTOCOLS], axis=0)[::4]
        return np.count_nonzero(np.diff(first)) / 30

    assert changes_a_day("contended") > 2.5
    assert changes_a_day("adversarial") > changes_a_day("benign")


def test_yields_are_remembered_for_hours_and_have_days(folder):
    for kind, swing in (("contended", 0.35), ("benign", 0.15)):
        for protocol in ("golem", "streamr", "grass"):
            series = logs(made(kind, 2), protocol)
            steps = {lag: np.corrcoef(series[lag:], series[:-lag])[0, 1] for lag in (1, 16)}
            assert steps[1] > 0.9
            assert 0.3 < steps[16] < steps[1]
            hours = series.reshape(-1, 24, 4).mean(axis=(0, 2))
            assert np.ptp(hours) > swing


def test_storage_pays_steadily():
    for kind in WorldKind:
        storj, golem = (np.abs(np.diff(logs(made(kind, 1), p))) for p in ("storj", "golem"))
        assert np.median(storj) < 0.3 * np.median(golem)


def aftermath(kind):
    """How far below its height before a leap up a yield is three hours later, in the mean."""
    found = []
    for seed in range(1, 7):
        for protocol in ("golem", "streamr", "grass"):
            series = logs(made(kind, seed), protocol)
            leaps = np.flatnonzero(np.diff(series) > 0.7)
            found += [series[at + 12 : at + 16].mean() - series[at] for at in leaps if at + 16 < len(series)]
    return statistics.mean(found), len(found)


def test_an_adversarial_leap_is_a_bait():
    after, count = aftermath("adversarial")
    elsewhere, _ = aftermath("contended")
    assert count > 200
    assert after < 0.05
    assert after < elsewhere - 0.2


def spells(available):
    lengths, run = [], 0
    for up in (*available, True):
        if not up:
            run += 1
        elif run:
            lengths.append(run)
            run = 0
    return lengths


def test_outages_are_spells_of_hours_several_times_a_week():
    lost, lengths = [], []
    for seed in range(1, 7):
        world = made("outage", seed)
        for protocol in ("golem", "streamr", "grass"):
            lost.append(1 - statistics.mean(world.available[protocol]))
            lengths += spells(world.available[protocol])
    assert 0.03 < statistics.mean(lost) < 0.1
    assert len(lengths) / 6 / (30 / 7) > 3
    assert statistics.median(lengths) >= 6
    assert 2.0 < statistics.mean(lengths) / 4 < 5.0
    for kind in ("benign", "contended", "adversarial", "replay"):
        assert statistics.mean(map(statistics.mean, made(kind, 1).available.values())) > 0.975


# ---------------------------------------------------------------- replay


def test_a_replay_is_demand_times_the_recorded_price_of_its_hour(tmp_path):
    flat, steep = tmp_path / "flat.csv", tmp_path / "steep.csv"
    write_prices(flat)
    rows = flat.read_text().splitlines()
    header, body = rows[0], [row.split(",") for row in rows[1:]]
    flat.write_text("\n".join([header, *(f"{token},{at},1.0" for token, at, _ in body)]))
    seen: dict[str, int] = {}
    doubled = []
    for token, at, _ in body:
        seen[token] = seen.get(token, 0) + 1
        doubled.append(f"{token},{at},{4.0 if token == 'GLM' and seen[token] > 200 else 2.0}")
    steep.write_text("\n".join([header, *doubled]))
    plain, moved = (make_world(WorldKind.REPLAY, seed=1, days=21, prices=path) for path in (flat, steep))
    assert plain.first == moved.first == int(datetime(2025, 1, 6, tzinfo=UTC).timestamp())
    ratio = np.array(moved.yields["golem"]) / np.array(plain.yields["golem"])
    # The median is 4.0: from the 200th hour on the price is at it, before at a half.
    assert ratio[: 200 * 4] == pytest.approx(0.5)
    assert ratio[200 * 4 :] == pytest.approx(1.0)
    assert moved.yields["streamr"] == pytest.approx(plain.yields["streamr"])
    assert moved.yields["storj"] == plain.yields["storj"]


def test_a_replay_keeps_the_records_dates_and_chooses_its_monday_by_seed(tmp_path):
    path = write_prices(tmp_path / "p.csv", weeks=30)
    firsts = {make_world(WorldKind.REPLAY, seed=seed, days=14, prices=path).first for seed in range(8)}
    assert len(firsts) > 4
    assert all(datetime.fromtimestamp(first, UTC).weekday() == 0 and first % DAY == 0 for first in firsts)


def test_a_hole_in_the_record_keeps_the_price_before(tmp_path):
    whole, holed = write_prices(tmp_path / "whole.csv"), tmp_path / "holed.csv"
    rows = whole.read_text().splitlines()
    at = next(number for number, row in enumerate(rows) if row.startswith("GLM,2025-01-08 05:00"))
    holed.write_text("\n".join([*rows[:at], *rows[at + 1 :]]))
    one, other = (make_world(WorldKind.REPLAY, seed=1, days=21, prices=path).yields["golem"] for path in (whole, holed))
    ratios = np.array(other) / np.array(one)
    hour = 2 * STEPS_A_DAY + 5 * 4
    # Prices rise from hour to hour: the missing one's is lower, and so hardly moves the median.
    assert ratios[hour : hour + 4].max() < ratios[:hour].min()
    assert ratios[:hour] == pytest.approx(1.0, abs=1e-3)


def test_a_record_that_is_too_short_is_refused_with_the_remedy(tmp_path):
    path = write_prices(tmp_path / "p.csv", weeks=3)
    with pytest.raises(SettingsError, match=r"p\.csv: .* 21 days\. 30 days .* fewer days, or a longer record"):
        make_world(WorldKind.REPLAY, seed=1, days=30, prices=path)


def test_without_a_record_the_testnets_own_prices_are_replayed():
    world = make_world(WorldKind.REPLAY, seed=1, days=6)
    assert world.yields != make_world(WorldKind.REPLAY, seed=2, days=6).yields
    assert len(world.yields["grass"]) == 6 * STEPS_A_DAY


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("kind", list(WorldKind))
def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path, kind):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_world(tmp_path / name, kind=kind, seed=seed, days=4)
    a, b, c = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    assert set(a) == {"world.toml", "yields.csv"}
    assert a["yields.csv"] != c["yields.csv"]
    assert a["world.toml"] != c["world.toml"]


@settings(max_examples=12, deadline=None)
@given(kind=st.sampled_from(list(WorldKind)), seed=st.integers(0, 10**6), days=st.integers(3, 9))
def test_every_world_reads_back_as_it_was_made(tmp_path_factory, kind, seed, days):
    out = tmp_path_factory.mktemp("w") / "world"
    write_world(out, kind=kind, seed=seed, days=days)
    world = make_world(kind, seed=seed, days=days)
    read = read_world(out, seed=1, start=world.first)
    assert read.name == f"{kind}-{seed}"
    assert read.protocols == world.terms
    for step in range(0, min(days, 7) * STEPS_A_DAY, 13):
        at = world.first + step * 900
        for protocol in PROTOCOLS:
            assert read.usd_yield(protocol, at) == pytest.approx(world.yields[protocol][step], abs=6e-7)
            assert read.available(protocol, at) == world.available[protocol][step]
    assert all(0 < value < 20 for series in world.yields.values() for value in series)


def test_the_format_is_that_of_the_shared_worlds(folder):
    theirs = SHARED / "contended-11"
    if not theirs.exists():
        pytest.skip("the shared worlds are not on this machine")
    ours = folder / "format"
    write_world(ours, kind=WorldKind.CONTENDED, seed=11, days=30)

    def shape(table):
        return {key: shape(value) if isinstance(value, dict) else None for key, value in table.items()}

    def rows(path):
        with (path / "yields.csv").open() as file:
            return list(csv.reader(file))

    one, other = (tomllib.loads((path / "world.toml").read_text()) for path in (ours, theirs))
    assert shape(one) == shape(other)
    for key in ("name", "step_minutes", "history_days", "capacity"):
        assert one[key] == other[key]
    assert [row[:2] for row in rows(ours)] == [row[:2] for row in rows(theirs)]
    assert all(len(row[2].partition(".")[2]) == 6 and row[3] in {"0", "1"} for row in rows(ours)[1:])


def test_a_folder_that_is_there_is_never_written_over(tmp_path):
    (tmp_path / "w").mkdir()
    with pytest.raises(SettingsError, match="is there already"):
        write_world(tmp_path / "w", kind=WorldKind.BENIGN, seed=1, days=5)
    assert list((tmp_path / "w").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"days": 2}, "3 to 3660 days, not 2"),
        ({"prices": Path("p.csv")}, "takes no prices"),
        ({"kind": WorldKind.REPLAY, "prices": Path("none.csv")}, r"none\.csv does not exist"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_written(tmp_path, options, complaint):
    with pytest.raises(SettingsError, match=complaint):
        write_world(tmp_path / "w", **{"kind": WorldKind.BENIGN, "seed": 1, "days": 5, **options})
    assert not (tmp_path / "w").exists()


def test_the_command_writes_a_world_and_says_what_is_wrong(tmp_path):
    run = CliRunner().invoke
    out = tmp_path / "w"
    given = ["testnet", "world", "new", "--kind", "outage", "--seed", "3", "--days", "6", "--out", str(out)]
    result = run(app, given)
    assert result.exit_code == 0, result.output
    assert "outage" in result.output
    assert tomllib.loads((out / "world.toml").read_text())["history_days"] == 2
    again = run(app, given)
    assert isinstance(again.exception, SettingsError)
    unknown = run(app, [*given[:4], "calm", *given[5:]])
    assert unknown.exit_code == 2
