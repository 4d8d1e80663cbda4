"""What cycles find becomes alerts and messages in the warehouse, each thing once."""

from dataclasses import replace
from datetime import timedelta

import pytest

from orcha_pipeline.anomalies.catalogue import LOW_GAS, PRICE_STALE
from orcha_pipeline.healing.downed import down_nodes
from orcha_pipeline.model import PriceReading, Provenance
from orcha_pipeline.settings import HealingSettings
from orcha_pipeline.warehouse import alert_rows, freezes
from orcha_pipeline.warehouse.facts import record_nodes, record_prices
from orcha_pipeline_tests.anomalies.alerts.build import MINUTE, SLOT, Rig, away, dropped, in_error
from orcha_pipeline_tests.rig import NOW, node_settings

HOUR = timedelta(hours=1)
MAIL = {"channels": [{"name": "mail", "url": "json://127.0.0.1:9"}], "escalate_after_minutes": 120.0}


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path, **MAIL)


def test_a_fault_is_raised_once_told_once_and_resolved_once_it_is_over(rig):
    for _ in range(4):
        rig.cycle(away("a"), after=SLOT)
    assert rig.open() == ["node-unreachable a"]
    rig.cycle(after=SLOT)
    assert rig.open() == ["node-unreachable a"]
    rig.cycle(after=SLOT)
    assert rig.open() == []
    alert = rig.alerts()["node-unreachable", "a"]
    assert (alert.raised_at, alert.resolved_at) == (NOW + SLOT, NOW + 6 * SLOT)
    assert [title for _, title in rig.waiting()] == [
        "[Orcha] critical: node-unreachable a (box)",
        "[Orcha] resolved: node-unreachable a (box)",
    ]


def test_a_dead_host_is_one_alert_with_its_aftermath_and_one_end(rig):
    rig.cycle(away("a"), away("b"))
    rig.cycle(away("a"), away("b"), dropped("a"), dropped("b"), after=HOUR)
    assert rig.open() == ["host-unreachable box"]
    assert len(rig.alerts()) == 5
    for number in range(1, 6):  # the hour in which it was away is told of for a while
        rig.cycle(*([dropped("a")] if number < 4 else []), after=SLOT)
    assert rig.open() == []
    assert [title for _, title in rig.waiting()] == [
        "[Orcha] critical: host-unreachable box",
        "[Orcha] resolved: host-unreachable box",
    ]


def test_a_dead_host_with_one_node_of_each_protocol_is_one_alert_and_no_node_of_it_is_restarted(tmp_path):
    nodes = {name: name for name in ("golem", "grass", "storj", "streamr")}
    rig = Rig(tmp_path, nodes=nodes, **MAIL)
    rig.cycle(away("golem"), away("storj"), away("streamr"), in_error("grass"))
    assert rig.open() == ["host-unreachable box"]
    assert [title for _, title in rig.waiting()] == ["[Orcha] critical: host-unreachable box"]
    healed = rig.installation.settings.model_copy(update={"healing": HealingSettings(enabled=True)})
    with rig.warehouse.read() as connection:
        found = down_nodes(connection, replace(rig.installation, settings=healed), rig.clock.now())
    assert {down.node for down in found} == {"golem", "storj", "streamr"}
    assert {down.against for down in found} == {
        "none of the nodes of box answers, which no restart of a single one mends"
    }


def test_a_cloud_that_does_not_answer_is_no_dead_host(tmp_path):
    rig = Rig(tmp_path, nodes={"one": "grass", "two": "grass"}, **MAIL)
    rig.cycle(away("one"), away("two"))
    assert rig.open() == ["node-unreachable one", "node-unreachable two"]


def test_an_error_right_after_an_outage_is_told_of(rig):
    rig.cycle(away("a"))
    rig.cycle(in_error("a"), after=SLOT)
    assert [title for _, title in rig.waiting()][1:] == ["[Orcha] warning: node-error a (box)"]


def test_a_node_that_was_told_of_before_its_host_was_found_dead_has_an_end_that_is_told(rig):
    rig.cycle(away("a"))
    rig.cycle(away("a"), away("b"), after=SLOT)
    for _ in range(3):
        rig.cycle(after=SLOT)
    assert sorted(title for _, title in rig.waiting()) == [
        "[Orcha] critical: host-unreachable box",
        "[Orcha] critical: node-unreachable a (box)",
        "[Orcha] resolved: host-unreachable box",
        "[Orcha] resolved: node-unreachable a (box)",
    ]


def test_when_some_come_back_the_others_are_told_of(rig):
    rig.cycle(away("a"), away("b"))
    rig.cycle(away("b"), after=SLOT)
    assert rig.open() == ["host-unreachable box"], "one that answers for a moment dissolves nothing"
    rig.cycle(away("b"), after=SLOT)
    assert rig.open() == ["node-unreachable b"]
    assert [title for _, title in rig.waiting()][1:] == [
        "[Orcha] resolved: host-unreachable box",
        "[Orcha] critical: node-unreachable b (box)",
    ]


def test_a_fault_that_outlasts_its_excuse_is_told_of(rig):
    rig.cycle(away("a"), dropped("a"))
    assert rig.open() == ["node-unreachable a"]
    for _ in range(12):
        rig.cycle(dropped("a"), after=SLOT)
    assert rig.open() == ["earnings-drop a"]


def test_what_others_raise_and_end_is_told_too(rig):
    with rig.warehouse.write() as connection:
        record_nodes(connection, [node_settings("a").to_model()], NOW)
        freezes.freeze(connection, application_id="x", stuck={"a": "set its limit to 50 by hand"}, at=NOW)
    rig.cycle()
    assert rig.waiting() == [("mail", "[Orcha] critical: rollback_failed a (box)")]
    for _ in range(7):
        rig.cycle(after=SLOT)
    assert rig.open() == ["rollback_failed a"], "no cycle ends what it did not raise"
    with rig.warehouse.write() as connection:
        freezes.lift(connection, "a", at=rig.clock.now(), by="ada")
    rig.cycle()
    assert rig.waiting()[-1] == ("mail", "[Orcha] resolved: rollback_failed a (box)")


def test_what_nobody_acknowledges_is_told_again(rig):
    rig.cycle(away("a"))
    for _ in range(8):
        rig.cycle(away("a"), after=SLOT)
    assert [title for _, title in rig.waiting()][1:] == [
        "[Orcha] still critical, not acknowledged: node-unreachable a (box)"
    ]


def test_a_feed_that_is_away_is_one_alert(rig):
    with rig.warehouse.write() as connection:
        known = {"usd": 1, "priced_at": NOW, "provenance": Provenance.MEASURED, "source": "x"}
        record_prices(connection, [PriceReading(token=name, observed_at=NOW, **known) for name in ("golem", "storj")])
        record_prices(connection, [PriceReading(token="grass", observed_at=NOW, **known | {"usd": None})])
        record_prices(connection, [PriceReading(token="old", observed_at=NOW - 9 * HOUR, **known)])
    stale = [PRICE_STALE.found(token, "its last price is old", at=NOW) for token in ("golem", "storj")]
    rig.cycle(*stale)
    assert rig.open() == ["prices-stale orcha"], "grass never had a price, and nobody asks for old"
    rig.cycle(stale[0], after=SLOT)
    rig.cycle(stale[0], after=SLOT)
    assert rig.open() == ["price-stale golem"]


def test_a_round_tells_what_it_changed_and_what_is_open(rig):
    done = rig.cycle(away("a"), LOW_GAS.found("b", "0.2 POL are left", at=NOW, host="box"))
    assert {str(t.change) for t in done.transitions} == {"open"}
    assert sorted(alert.kind for alert in done.open) == ["low-gas", "node-unreachable"]
    assert done.messages == 2
    again = rig.cycle(away("a"), after=MINUTE)
    assert ({str(t.change) for t in again.transitions}, again.messages) == ({"seen"}, 0)


def test_a_cycle_keeps_what_the_operator_did_meanwhile(rig):
    rig.cycle(away("a"))
    (alert,) = rig.alerts().values()
    with rig.warehouse.write() as connection:
        connection.execute("UPDATE alerts SET acknowledged_at = now(), acknowledged_by = 'ada'")
    rig.cycle(away("a"), after=SLOT)
    found = rig.alerts()["node-unreachable", "a"]
    assert (found.alert_id, found.acknowledged_by, found.last_seen_at) == (alert.alert_id, "ada", NOW + SLOT)
    with rig.warehouse.read() as connection:
        assert len(alert_rows.open_alerts(connection)) == 1
