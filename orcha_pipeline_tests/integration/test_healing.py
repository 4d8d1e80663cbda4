"""A node whose container stopped, from its first missed reading to the end of its alert, by Orcha's own jobs."""

import pytest

from orcha_pipeline.assets.healing import HEALING, HEALING_PLAN, TO_HEAL
from orcha_pipeline.automation.healing import HEAL_NODE
from orcha_pipeline_tests.integration.conftest import Rig
from orcha_pipeline_tests.integration.soundness import expect_sound

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

NODE = "storj-1"


def to_heal(rig: Rig) -> dict[str, str]:
    """What a cycle asks to be restarted, 15 minutes on."""
    rig.advance(minutes=15)
    result = rig.run_cycle()
    assert result.success
    (plan,) = result.asset_materializations_for_node(HEALING_PLAN.to_python_identifier())
    return plan.metadata[TO_HEAL].value


def restart(rig: Rig) -> tuple[str, str]:
    """Status and reason of one run of the job."""
    op = HEALING.to_python_identifier()
    result = rig.run(HEAL_NODE, run_config={"ops": {op: {"config": {"node": NODE}}}})
    assert result.success
    (done,) = result.asset_materializations_for_node(op)
    return done.metadata["status"].value, done.metadata["reason"].value


def alert_of(rig: Rig) -> dict:
    (row,) = rig.rows("SELECT * FROM alerts WHERE kind = 'node-unreachable' AND subject = ?", NODE)
    return row


def test_a_stopped_container_is_started_again_once_and_its_alert_ends(rig):
    assert rig.http.post(f"/docker/containers/{NODE}/stop").status_code == 204
    assert to_heal(rig) == {}
    assert "may come back by itself" in alert_of(rig)["evidence"]
    assert to_heal(rig) == {}
    (run_key,) = to_heal(rig).values()
    assert run_key.startswith(f"{NODE}:1:")
    assert restart(rig)[0] == "healed"
    assert rig.json(f"/docker/containers/{NODE}/json")["State"]["Running"]
    assert restart(rig) == ("nothing was done", "It answers again: healthy.")
    (row,) = rig.rows("SELECT * FROM healings")
    assert (row["node"], row["status"], row["alert_id"]) == (NODE, "healed", alert_of(rig)["alert_id"])
    for _ in range(2):
        assert to_heal(rig) == {}
    ended = alert_of(rig)
    assert ended["resolved_at"] is not None
    assert "Orcha restarted it at" in ended["evidence"]
    expect_sound(rig)
