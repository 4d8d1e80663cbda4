"""A decision carried out on emulated nodes, checked at the nodes' own APIs rather than through Orcha's adapters."""

import json

import pytest

from orcha_pipeline.allocation.decided import changes_of
from orcha_pipeline.assets.application import ALLOCATION_APPLICATION
from orcha_pipeline.model import ApplicationStatus, Verdict
from orcha_pipeline.testnet.golem import APP_KEY
from orcha_pipeline.testnet.streamr import OPERATOR
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.decisions import DecisionRow
from orcha_pipeline_tests.integration.conftest import Rig

pytestmark = pytest.mark.integration

NODES = ("golem-1", "grass-1", "storj-1", "streamr-1")


@pytest.fixture(autouse=True)
def nothing_but_earnings(monkeypatch):
    """What a change may cost a reputation, and how sure it must be, is not what these tests are about."""
    monkeypatch.setenv("ORCHA_PLANNER__PRESET", "bold")
    monkeypatch.setenv("ORCHA_PLANNER__MIN_CONFIDENCE", "0")


def levers_of(rig: Rig) -> dict[str, float]:
    """Node -> its lever's value as the node (or the engine that runs it) says itself, in the lever's unit."""
    offers = rig.json("/nodes/golem-1/market-api/v1/offers", authorization=f"Bearer {APP_KEY}")
    container = rig.json("/docker/containers/grass-1/json")
    config = json.loads((rig.folder / ".orcha" / "testnet" / "streamr-1" / "default.json").read_text())
    return {
        "storj-1": rig.json("/nodes/storj-1/api/sno/")["diskSpace"]["allocated"] / 1e9,
        "golem-1": offers[0]["properties"]["golem.inf.cpu.threads"],
        "grass-1": container["HostConfig"]["NanoCpus"] / 1e9,
        "streamr-1": config["plugins"]["autostaker"]["maxSponsorshipCount"],
    }


def stakes_of(rig: Rig) -> int:
    query = f'{{operator(id:"{OPERATOR}"){{stakes{{id}}}}}}'
    answer = rig.http.post("/thegraph", json={"query": query}).json()
    return len(answer["data"]["operator"]["stakes"])


def values(decision: DecisionRow, column: str) -> dict[str, float]:
    return {line.node: getattr(line, column) for line in decision.allocations}


def order_of(decision: DecisionRow) -> list[str]:
    """The changed nodes, those that shrink first."""
    changes = sorted(changes_of(decision), key=lambda change: change.share_to > change.share_from)
    return [change.node for change in changes]


def steps_of(rig: Rig, kind: str) -> list[dict]:
    return rig.rows("SELECT * FROM application_steps WHERE kind = ? ORDER BY step", kind)


def decided(rig: Rig) -> DecisionRow:
    """The first decision: an equal split is far from the best one."""
    assert rig.run_cycle().success
    decision = rig.decision()
    assert decision.verdict is Verdict.REALLOCATE, decision.reason
    assert len(changes_of(decision)) >= 3
    return decision


def expect_within_capacity(rig: Rig):
    for name, used in rig.use({node: state["share"] for node, state in rig.truth().items()}).items():
        assert used <= rig.capacity[name] * (1 + 1e-9), name


def test_a_decision_is_applied_once_and_the_nodes_show_it(rig):
    before = levers_of(rig)
    assert stakes_of(rig) == before["streamr-1"]
    decision = decided(rig)
    assert values(decision, "value_now") == pytest.approx(before)
    assert levers_of(rig) == before, "a cycle decides and moves nothing"

    assert rig.run_apply(decision.decision_id).success
    after = levers_of(rig)
    assert after == pytest.approx(values(decision, "value_planned"))
    assert {node for node in NODES if after[node] != before[node]} == set(order_of(decision))
    truth = rig.truth()
    assert {node: truth[node]["share"] for node in NODES} == pytest.approx(values(decision, "share_planned"), abs=1e-3)
    expect_within_capacity(rig)

    (application,) = rig.rows("SELECT * FROM applications")
    assert (application["decision_id"], application["status"]) == (decision.decision_id, "applied")
    assert application["ended_at"] >= application["started_at"]
    steps = steps_of(rig, "apply")
    assert [step["node"] for step in steps] == order_of(decision)
    assert steps_of(rig, "rollback") == []
    for step in steps:
        assert step["status"] == "done"
        assert step["previous"] == pytest.approx(before[step["node"]])
        assert step["requested"] == pytest.approx(after[step["node"]])
        assert step["read_back"] == pytest.approx(after[step["node"]])
        assert step["ended_at"] >= step["started_at"]

    again = rig.run_apply(decision.decision_id)
    assert again.success
    (told,) = again.asset_materializations_for_node(ALLOCATION_APPLICATION.to_python_identifier())
    assert told.metadata["status"].value == "dropped"
    assert "applied once" in told.metadata["reason"].value
    assert levers_of(rig) == after
    assert rig.rows("SELECT * FROM applications") == [application]
    assert len(rig.rows("SELECT * FROM application_steps")) == len(steps)

    assert before["streamr-1"] != after["streamr-1"]
    rig.advance(hours=2)  # the autostaker looks at its count once an hour
    assert stakes_of(rig) == after["streamr-1"], "what stands on the chain follows the node's new count"


def test_a_failure_at_the_last_node_sets_every_node_back(rig):
    before = levers_of(rig)
    decision = decided(rig)
    *earlier, last = order_of(decision)
    rig.fault(last, "apply_fails")
    result = rig.run_apply(decision.decision_id)
    assert not result.success
    failure = result.failure_data_for_node(ALLOCATION_APPLICATION.to_python_identifier())
    assert last in str(failure.error)

    assert levers_of(rig) == before
    expect_within_capacity(rig)
    applied, undone = steps_of(rig, "apply"), steps_of(rig, "rollback")
    assert [(step["node"], step["status"]) for step in applied] == [*((n, "done") for n in earlier), (last, "failed")]
    assert applied[-1]["error"]
    assert [(step["node"], step["status"]) for step in undone] == [(n, "done") for n in (last, *reversed(earlier))]
    for step in undone:
        assert step["read_back"] == pytest.approx(before[step["node"]])
    with rig.warehouse.read() as connection:
        (application,) = decisions.latest_applications(connection)
        waiting = decisions.unapplied(connection)
    assert application.decision_id == decision.decision_id
    assert application.status is ApplicationStatus.ROLLED_BACK
    assert application.reason.startswith(last)
    assert waiting == [], "a decision that was rolled back is not tried again"


def test_a_superseded_decision_is_dropped_with_a_row(rig):
    before = levers_of(rig)
    first, second = decided(rig), decided(rig)
    assert first.decision_id != second.decision_id
    assert rig.run_apply(first.decision_id).success
    (application,) = rig.rows("SELECT * FROM applications")
    assert (application["decision_id"], application["status"]) == (first.decision_id, "dropped")
    assert second.decision_id in application["reason"]
    assert rig.rows("SELECT * FROM application_steps") == []
    assert levers_of(rig) == before
    with rig.warehouse.read() as connection:
        assert decisions.unapplied(connection) == [second.decision_id]
