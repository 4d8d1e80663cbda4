"""Hours of cycles on a virtual clock, with outages of everything. `make bench-soak` plays weeks."""

import json
import subprocess
import sys

import pytest

from orcha_pipeline_tests.bench.soak_world import NODES, draw_outages

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

CYCLES = 16


def test_every_slot_is_decided_no_rule_is_broken_and_no_handle_stays_open_and_each_fault_is_one_alert(tmp_path):
    # In a process of its own, whose handles are the soak's alone; then in another, which goes on from there.
    report = tmp_path / "soak.json"
    command = [sys.executable, "-m", "orcha_pipeline_tests.bench.soak", "--json", str(report)]
    command += ["--home", str(tmp_path / "played"), "--keep", str(tmp_path / "kept")]
    command += ["--history-days", "2", "--dagster-every", "8", "--squeeze", "12"]
    for cycles in (CYCLES // 2, CYCLES):
        whole = [*command, "--days", str(cycles / 96)]
        ended = subprocess.run(whole, capture_output=True, text=True, timeout=600, check=False)
        assert ended.returncode == 0, ended.stderr
    found = json.loads(report.read_text())
    assert found["about"]["processes"] == [0, CYCLES // 2]
    assert found["failed"] == 0
    assert found["breaches"] == []
    assert found["uptime"] == {"decided": CYCLES, "slots": CYCLES}
    assert {outage["kind"] for outage in found["outages"]} >= {"dead", "apply_fails"}
    assert any(outage["begins_hours"] < CYCLES / 4 for outage in found["outages"] if len(outage["doors"]) > 1)
    alerts = found["alerts"]
    assert alerts["planted by rule"].keys() >= {"host-unreachable", "node-unreachable", "node-error"}
    assert alerts["amiss"] == []
    # What an hour earns may lie below the expectation by chance: that is told as information.
    assert [told for told in alerts["for nothing"] if not told.endswith("(info)")] == []
    curves = found["curves"]
    assert len(curves["handles"]) == CYCLES
    # The first cycle through Dagster and the first without load what then stays.
    assert max(curves["handles"][2:]) <= max(curves["handles"][:2])
    assert max(curves["threads"][8:]) <= max(curves["threads"][:8])
    assert sum(curves["through_dagster"]) == CYCLES // 8


def test_the_outages_are_the_same_for_the_same_seed_and_strike_everything():
    services = ("thegraph", "docker")
    outages = draw_outages(30, seed=1, nodes=NODES, services=services)
    assert outages == draw_outages(30, seed=1, nodes=NODES, services=services)
    assert outages != draw_outages(30, seed=2, nodes=NODES, services=services)
    assert {door for outage in outages for door in outage.doors} == {*NODES, *services, "coingecko"}
    assert sum(len(outage.doors) > 1 for outage in outages) == 6
    assert [outage.begins for outage in outages] == sorted(outage.begins for outage in outages)
