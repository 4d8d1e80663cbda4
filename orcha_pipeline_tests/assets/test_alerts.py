"""The alerts asset: what it writes, and what its page shows."""

from dataclasses import asdict

import dagster as dg
import pytest

from orcha_pipeline.assets.alerts import ALERTS, build_alerts
from orcha_pipeline.assets.healing import HEALING_PLAN
from orcha_pipeline.automation.jobs import CYCLE
from orcha_pipeline.definitions import build_defs
from orcha_pipeline.model import slot_of
from orcha_pipeline.resources import NodesResource, WarehouseResource
from orcha_pipeline.settings import Settings
from orcha_pipeline.warehouse.anomaly_rows import record_anomalies
from orcha_pipeline_tests.anomalies.alerts.build import SLOT, Rig, away
from orcha_pipeline_tests.rig import NOW


@pytest.fixture
def rig(tmp_path, monkeypatch):
    rig = Rig(tmp_path, channels=[{"name": "mail", "url": "json://127.0.0.1:9"}])
    monkeypatch.setattr(NodesResource, "installation", lambda _self: rig.installation)
    return rig


def run(rig):
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [build_alerts()],
            resources={"nodes": NodesResource(), "warehouse": WarehouseResource(database=str(rig.warehouse.path))},
            instance=instance,
        )
    (event,) = result.asset_materializations_for_node("alerts")
    return {name: getattr(found, "records", found.value) for name, found in event.metadata.items()}


def test_it_is_part_of_the_cycle_after_the_anomalies_and_only_self_healing_waits_for_it():
    defs = build_defs(Settings())
    assert ALERTS in defs.resolve_job_def(CYCLE).asset_layer.selected_asset_keys
    node = defs.resolve_asset_graph().get(ALERTS)
    assert (node.parent_keys, node.child_keys) == ({dg.AssetKey(["anomalies"])}, {HEALING_PLAN})


def test_its_page_shows_the_open_alerts(rig):
    rig.cycle(away("b"))
    (before,) = rig.alerts().values()
    with rig.warehouse.write() as connection:
        found = [away("a"), away("b")]
        record_anomalies(connection, slot_of(NOW), [asdict(each) for each in found])
    shown = run(rig)
    assert (shown["open alerts"], shown["messages queued"], shown["simulated"]) == (3, 1, False)
    records = {record.data["rule"] + " " + record.data["subject"]: record.data for record in shown["open"]}
    group = records["host-unreachable box"]["alert"]
    assert {name: record["stands under"] for name, record in records.items()} == {
        "host-unreachable box": "",
        "node-unreachable a": group,
        "node-unreachable b": group,
    }
    assert records["node-unreachable b"]["alert"] == before.alert_id
    rig.clock.set(NOW + 2 * SLOT)
    ended = {"open alerts": 0, "messages queued": 2, "simulated": False}
    assert run(rig) == ended, "that of the host, and that of the node which was told of before its host was"
