"""A backup of a running installation on live emulated nodes, taken up again in another place."""

import pytest

from orcha_pipeline.backup.archive import verify
from orcha_pipeline.backup.commands import back_up_now
from orcha_pipeline.backup.restore import restore
from orcha_pipeline.doctor import examine
from orcha_pipeline.model import Verdict
from orcha_pipeline.nodes_check import Status

pytestmark = pytest.mark.integration


def test_taken_up_elsewhere_the_nodes_stand_where_the_record_says_and_cycles_go_on(
    rig, make_rig, tmp_path_factory, monkeypatch
):
    monkeypatch.setenv("ORCHA_PLANNER__PRESET", "bold")
    monkeypatch.setenv("ORCHA_PLANNER__MIN_CONFIDENCE", "0")
    assert rig.run_cycle().success
    decision = rig.decision()
    assert decision.verdict is Verdict.REALLOCATE
    assert rig.run_apply(decision.decision_id).success
    shares = {node: state["share"] for node, state in rig.truth().items()}
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    made = back_up_now(None, elsewhere / "a.tar.gz")  # while the testnet serves, and its time runs
    tables = ("earnings", "decisions", "application_steps", "features_hourly")
    counted = {table: rig.rows(f"SELECT count(*) AS n FROM {table}") for table in tables}

    home = elsewhere / ".orcha"
    home.mkdir()
    restore(made.path, verify(made.path), home=home, config=None, now=made.manifest.made_at)
    second = make_rig(folder=elsewhere)
    assert second.installation.settings.home == home
    assert {table: second.rows(f"SELECT count(*) AS n FROM {table}") for table in tables} == counted
    assert {node: state["share"] for node, state in second.truth().items()} == shares
    found = {finding.part: finding for finding in examine(second.installation)}
    assert not [finding for finding in found.values() if finding.status is Status.BROKEN]
    assert found["nodes"].status is Status.OK, found["nodes"].text
    assert second.run_cycle().success
    assert second.decision().decision_id != decision.decision_id
    assert rig.truth().keys() == second.truth().keys()  # the first goes on beside it
