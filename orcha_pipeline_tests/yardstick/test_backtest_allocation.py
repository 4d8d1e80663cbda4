"""`orcha backtest allocation` as a user runs it, and the independent judge's figures for ten worlds."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from orcha_pipeline.cli import app
from orcha_pipeline.errors import PlanError, SettingsError
from orcha_pipeline.testnet.world_kinds import write_world
from orcha_pipeline.testnet.worlds import WorldKind
from orcha_pipeline.yardstick.bounds import clairvoyant, under_rules
from orcha_pipeline.yardstick.policies import POLICIES, chosen_policies, play
from orcha_pipeline.yardstick.report import report_of
from orcha_pipeline.yardstick.world import load_world

SHARED = Path(__file__).parents[3] / "shared" / "worlds"
BASELINES = ("equal", "static", "myopic", "hysteresis-5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("worlds") / "contended"
    write_world(made, kind=WorldKind.CONTENDED, seed=4, days=6)
    return made


def run(*arguments):
    return CliRunner().invoke(app, ["backtest", "allocation", *map(str, arguments)])


def test_every_policy_gets_a_row_and_the_figures_are_written(folder, tmp_path):
    out, picture = tmp_path / "figures.json", tmp_path / "shares.png"
    result = run("--world", folder, "--json", out, "--plot", picture)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert [row["policy"] for row in report["rows"]] == list(POLICIES)
    assert report["days"] == 4
    for row in report["rows"]:
        assert row["policy"] in result.output
        assert 0 < row["of_clairvoyant"] <= 1.0
        assert row["usd"] == pytest.approx(row["of_rules"] * report["rules_usd"])
        assert row["violations"] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_row_is_what_was_played(folder):
    world = load_world(folder)
    bounds = clairvoyant(world), under_rules(world)
    outcomes = play(world, ["static", "myopic"])
    first, second = report_of(world, bounds, outcomes).rows
    assert first.changes_a_day == outcomes["static"].changes / 4
    assert second.usd == outcomes["myopic"].earned.sum()
    assert second.switching_usd > 0
    assert first.gap_closed is second.gap_closed is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--policies", "static,wise"), "wise is no policy. There are equal, static"),
        (("--policies", ","), "no policy is named"),
        (("--json", "/nowhere/at/all.json"), "there is no such folder"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_computed(folder, arguments, told):
    result = run("--world", folder, *arguments)
    assert result.exit_code != 0
    assert told in str(result.exception or result.output)


def test_policies_are_chosen_once_each():
    assert chosen_policies(" myopic, static,myopic") == ("myopic", "static")
    assert chosen_policies(None) == POLICIES
    with pytest.raises(PlanError):
        chosen_policies("")


def changed(folder, tmp_path, was, becomes):
    copy = tmp_path / "world"
    copy.mkdir()
    (copy / "yields.csv").write_bytes((folder / "yields.csv").read_bytes())
    text = (folder / "world.toml").read_text()
    assert re.search(was, text)
    (copy / "world.toml").write_text(re.sub(was, becomes, text))
    return copy


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        (r"history_days = \d+", "history_days = 9", "history_days is 9, of 6 days"),
        (r"history_days = \d+", "", "history_days is 0"),
        (r"min_share = 0.05", "min_share = 0.95", "min_share of all protocols together exceeds the capacity"),
        (r"curvature = [\d.]+", "curvature = 1.5", "0 < curvature <= 1"),
    ],
)
def test_a_world_that_cannot_be_played_is_refused(folder, tmp_path, was, becomes, told):
    with pytest.raises(SettingsError, match=re.escape(told)):
        load_world(changed(folder, tmp_path, was, becomes))


def test_a_world_may_have_protocols_of_its_own(folder, tmp_path):
    copy = changed(folder, tmp_path, r"protocols\.grass", "protocols.helium")
    rows = (copy / "yields.csv").read_text().replace(",grass,", ",helium,")
    (copy / "yields.csv").write_text(rows)
    assert load_world(copy).terms.protocols == ("storj", "golem", "streamr", "helium")


def judged():
    """World -> as judged: USD of the clairvoyant, `rules` as a part of it, the policies as parts of `rules`."""
    if not (SHARED / "README.md").is_file():
        return {}
    rows = [line.split("|")[1:] for line in (SHARED / "README.md").read_text().splitlines() if line.startswith("| ")]
    return {
        row[0].strip(): [float(cell.split("(")[0]) for cell in row[1:7]] for row in rows if re.search(r"-\d+ $", row[0])
    }


@pytest.mark.slow
@pytest.mark.skipif(not judged(), reason="needs ../shared/worlds")
@pytest.mark.parametrize("name", judged())
def test_an_independent_judge_measured_the_same(name):
    world = load_world(SHARED / name)
    highest, rules = clairvoyant(world).usd, under_rules(world).usd
    played = [outcome.usd / rules for outcome in play(world, BASELINES).values()]
    told = judged()[name]
    assert highest == pytest.approx(told[0], rel=3e-4)
    np.testing.assert_allclose([rules / highest, *played], told[1:], atol=0.001)
