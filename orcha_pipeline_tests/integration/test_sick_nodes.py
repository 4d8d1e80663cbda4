"""Sick nodes and a dead price feed: the others are read, nothing is invented, and the cycle still decides."""

from decimal import Decimal

import pytest

from orcha_pipeline.allocation.decided import changes_of
from orcha_pipeline.assets.earnings import EARNINGS_HOURLY
from orcha_pipeline.assets.ingest import fact_keys
from orcha_pipeline.model import HOUR, HealthState, hour_of
from orcha_pipeline.warehouse.facts import naive
from orcha_pipeline_tests.integration.conftest import Rig

pytestmark = pytest.mark.integration

NODES = {"storj-1", "golem-1", "streamr-1", "grass-1"}


def health_after(rig: Rig, began) -> dict[str, tuple[str, str]]:
    """Node -> (state, error kind) as read since `began`; each node exactly once."""
    found = rig.rows("SELECT node, state, error_kind FROM node_health WHERE observed_at >= ?", naive(began))
    assert len(found) == len(NODES)
    return {row["node"]: (row["state"], row["error_kind"]) for row in found}


def nodes_with_rows(rig: Rig, table: str, began) -> set[str]:
    found = rig.rows(f"SELECT DISTINCT node FROM {table} WHERE observed_at >= ?", naive(began))
    return {row["node"] for row in found if not row["node"].startswith("host:")}


def hourly_totals(rig: Rig) -> dict[str, Decimal]:
    found = rig.rows("SELECT node, sum(net) AS net FROM earnings_hourly GROUP BY node")
    return {row["node"]: row["net"] for row in found}


def expect_untouched(rig: Rig, sick: set[str], words: dict[str, str]):
    """The latest decision leaves the sick nodes their share, and says why."""
    decision = rig.decision()
    lines = {line.node: line for line in decision.allocations}
    assert set(lines) == NODES
    assert not sick & {change.node for change in changes_of(decision)}
    for node in sick:
        assert lines[node].share_now == pytest.approx(rig.truth()[node]["share"], abs=0.01)
        assert lines[node].share_planned == lines[node].share_now
        assert words[node] in lines[node].reason


def test_dead_html_and_slow_nodes_are_marked_and_delay_nobody(rig):
    began = rig.installation.clock.now()
    before = hourly_totals(rig)
    rig.fault("storj-1", "dead")
    rig.fault("golem-1", "html")
    rig.fault("streamr-1", "slow", delay_seconds=15)  # of a budget of 10 s for everything
    result = rig.run_cycle()
    assert result.success

    health = health_after(rig, began)
    assert health["storj-1"] == (HealthState.UNREACHABLE, "connection")
    assert health["golem-1"] == (HealthState.ERROR, "parse")
    assert health["streamr-1"] == (HealthState.UNREACHABLE, "connection")
    assert health["grass-1"] == (HealthState.HEALTHY, "")
    # Streamr's earnings stand on the chain: they are read although the node itself is silent.
    assert nodes_with_rows(rig, "earnings", began) == {"grass-1", "streamr-1"}
    told = rig.rows("SELECT stream, net FROM earnings WHERE node = 'streamr-1' AND observed_at >= ?", naive(began))
    assert all(row["net"] is None or row["net"] > 0 for row in told)
    # What is not known of the sick nodes' last hour is not there, rather than 0.
    after = hourly_totals(rig)
    assert (after["storj-1"], after["golem-1"]) == (before["storj-1"], before["golem-1"])
    expect_untouched(
        rig,
        {"storj-1", "golem-1", "streamr-1"},
        {"storj-1": "unreachable", "golem-1": "error", "streamr-1": "unreachable"},
    )


def test_half_a_json_answer_is_an_error_of_that_node_alone(rig):
    began = rig.installation.clock.now()
    rig.fault("storj-1", "truncated")
    rig.fault("grass-1", "truncated")
    assert rig.run_cycle().success

    health = health_after(rig, began)
    assert health["storj-1"] == health["grass-1"] == (HealthState.ERROR, "parse")
    assert health["golem-1"] == health["streamr-1"] == (HealthState.HEALTHY, "")
    assert nodes_with_rows(rig, "earnings", began) == {"golem-1", "streamr-1"}
    assert nodes_with_rows(rig, "resource_usage", began) >= {"golem-1", "streamr-1"}
    expect_untouched(rig, {"storj-1", "grass-1"}, {"storj-1": "error", "grass-1": "error"})


def test_what_a_silent_node_earned_meanwhile_is_neither_lost_nor_invented(rig):
    facts = [*fact_keys(["storj"]), EARNINGS_HOURLY]
    start = hour_of(rig.installation.clock.now()) + HOUR
    rig.advance_to(start)
    earned = -rig.truth()["storj-1"]["native_total"]
    assert rig.run_cycle(*facts).success
    rig.fault("storj-1", "dead")
    rig.advance(minutes=40)
    assert rig.run_cycle(*facts).success
    silent = "SELECT net FROM earnings_hourly WHERE node = 'storj-1' AND ended_at > ?"
    assert rig.rows(silent, naive(start)) == []

    rig.advance_to(start + HOUR)
    earned += rig.truth()["storj-1"]["native_total"]
    rig.heal()
    rig.advance(minutes=25)
    assert rig.run_cycle(*facts).success
    (hour,) = rig.rows(
        "SELECT started_at, ended_at, gross FROM earnings_hourly WHERE node = 'storj-1' AND ended_at > ?", naive(start)
    )
    assert (hour["started_at"], hour["ended_at"]) == (naive(start), naive(start + HOUR))
    # The hour is told from totals read just after its start and 25 minutes after its end.
    assert float(hour["gross"]) == pytest.approx(earned, rel=0.2)
    assert hour["gross"] > 0


def test_without_prices_usd_is_unknown_and_the_cycle_still_decides(rig):
    rig.advance(hours=2)  # a price read shortly before would stand in
    began = rig.installation.clock.now()
    rig.fault("coingecko", "dead")
    assert rig.run_cycle().success
    prices = rig.rows("SELECT token, usd, provenance, source FROM prices WHERE observed_at >= ?", naive(began))
    assert {row["token"] for row in prices} == {"storj", "golem", "streamr", "grass"}
    for row in prices:
        assert (row["usd"], row["provenance"]) == (None, "unknown")
        assert "connection" in row["source"]
    assert rig.decision().decided_at >= began
    assert health_after(rig, began) == dict.fromkeys(NODES, (HealthState.HEALTHY, ""))
