"""One dead host is one alert, and so is a price feed that is away."""

from orcha_pipeline.anomalies.alerts.grouping import grouped
from orcha_pipeline.anomalies.alerts.told import told_of
from orcha_pipeline.anomalies.anomaly import Scope, Severity
from orcha_pipeline.warehouse.anomaly_rows import AnomalyRow
from orcha_pipeline_tests.anomalies.alerts.build import MINUTE, told
from orcha_pipeline_tests.rig import NOW

NODES = {"box": ["a", "b"], "attic": ["c"]}
TOKENS = ["golem", "storj"]


def causes(items, **more):
    found = grouped(items, **{"nodes": NODES, "tokens": TOKENS} | more)
    return {item.key: item.cause for item in found}


def stale(token):
    return told("price-stale", token, scope=Scope.TOKEN, host=None, severity=Severity.WARNING)


def test_all_nodes_of_a_host_away_are_one_alert_that_names_them():
    found = grouped([told(subject="b"), told(subject="a"), told(subject="c", host="attic")], nodes=NODES, tokens=TOKENS)
    (group,) = [item for item in found if item.rule == "host-unreachable"]
    assert (group.subject, group.host, group.severity, group.scope) == ("box", "box", Severity.CRITICAL, Scope.HOST)
    assert group.message == "box: none of its 2 nodes answers (a, b). a: does not answer."
    assert group.evidence["members"] == ["a", "b"]
    assert {item.subject: item.cause for item in found if item.rule == "node-unreachable"} == {
        "a": ("host-unreachable", "box"),
        "b": ("host-unreachable", "box"),
        "c": None,
    }, "a host of one node is told of by that node"


def test_a_host_of_which_one_node_answers_is_not_dead():
    assert causes([told(subject="a"), told("earnings-drop", "b")]) == {
        ("node-unreachable", "a"): None,
        ("earnings-drop", "b"): None,
    }


def test_what_follows_from_a_node_being_away_stands_under_that_or_under_its_dead_host():
    assert causes([told(subject="a"), told("earnings-drop", "a")])["earnings-drop", "a"] == ("node-unreachable", "a")
    dead = causes([told(subject="a"), told(subject="b"), told("unusual-hour", "b")])
    assert dead["unusual-hour", "b"] == ("host-unreachable", "box")


FOUR = {"box": ["golem", "grass", "storj", "streamr"]}


def test_what_a_cloud_says_of_a_node_of_a_dead_host_stands_under_it_as_well():
    lost = [told(subject=name) for name in ("golem", "storj", "streamr")]
    found = grouped([*lost, told("node-error", "grass")], nodes=FOUR, tokens=TOKENS, elsewhere={"grass"})
    (group,) = [item for item in found if item.rule == "host-unreachable"]
    assert group.message == (
        "box: none of its 4 nodes answers (golem, storj, streamr, grass). golem: does not answer."
    ), "a node that is asked on the host speaks first"
    assert {item.cause for item in found if item is not group} == {("host-unreachable", "box")}
    assert ("host-unreachable", "box") in causes([*lost, told(subject="grass")], nodes=FOUR, elsewhere={"grass"})
    assert ("host-unreachable", "box") not in causes(lost, nodes=FOUR, elsewhere={"grass"}), "its cloud still sees it"
    here = [told(subject=name) for name in ("golem", "grass", "streamr")]
    found = causes([*here, told("node-error", "storj")], nodes=FOUR, elsewhere={"grass"})
    assert ("host-unreachable", "box") not in found, "a node that answers with an error is no sign of a dead host"


def test_a_cloud_that_is_away_is_no_dead_host():
    two = [told(subject="a"), told(subject="b")]
    assert set(causes(two, elsewhere={"a", "b"}).values()) == {None}
    assert ("host-unreachable", "box") in causes(two, elsewhere={"b"})


def test_what_does_not_follow_from_it_stands_for_itself():
    found = causes(
        [told(subject="a"), told(subject="b"), told("node-slashed", "a"), told("disk-filling", "box", scope=Scope.HOST)]
    )
    assert (found["node-slashed", "a"], found["disk-filling", "box"]) == (None, None)


def test_the_aftermath_of_an_outage_stands_under_it():
    late = [told("earnings-drop", "a")]
    assert causes(late, lasting={("node-unreachable", "a")})["earnings-drop", "a"] == ("node-unreachable", "a")
    assert causes(late, lasting={("host-unreachable", "box")})["earnings-drop", "a"] == ("host-unreachable", "box")
    assert causes(late, lasting={("node-unreachable", "b")})["earnings-drop", "a"] is None


def test_what_follows_from_an_error_stands_under_it_and_makes_it_as_grave():
    error = told("node-error", "a", severity=Severity.WARNING)
    drop = told("earnings-drop", "a", severity=Severity.CRITICAL)
    found = {item.key: item for item in grouped([error, drop], nodes=NODES, tokens=TOKENS)}
    assert found["earnings-drop", "a"].cause == ("node-error", "a")
    assert found["node-error", "a"].severity is Severity.CRITICAL
    assert causes([drop], lasting={("node-error", "a")})["earnings-drop", "a"] == ("node-error", "a")
    alone = {item.key: item for item in grouped([error, told("earnings-drop", "b")], nodes=NODES, tokens=TOKENS)}
    assert alone["earnings-drop", "b"].cause is None
    assert alone["node-error", "a"].severity is Severity.WARNING


def test_an_error_after_an_outage_is_news():
    error = [told("node-error", "a")]
    for over in (("node-unreachable", "a"), ("host-unreachable", "box")):
        assert causes(error, lasting={over})["node-error", "a"] is None
    assert causes([told(subject="a"), *error])["node-error", "a"] == ("node-unreachable", "a")


def test_all_prices_stale_are_one_alert_and_some_are_not():
    found = causes([stale("golem"), stale("storj")])
    assert found["price-stale", "golem"] == found["price-stale", "storj"] == ("prices-stale", "orcha")
    assert ("prices-stale", "orcha") in found
    assert causes([stale("golem")]) == {("price-stale", "golem"): None}
    assert causes([stale("golem")], tokens=["golem"]) == {("price-stale", "golem"): None}


def row(severity="warning", minutes=0, **changes):
    known = {
        "slot": NOW,
        "detected_at": NOW + minutes * MINUTE,
        "rule": "low-gas",
        "scope": "node",
        "subject": "a",
        "node": "a",
        "host": "box",
        "severity": severity,
        "score": 0.5,
        "evidence": "0.5 POL are left",
        "remedy": "Send POL.",
        "since": NOW,
    }
    return AnomalyRow(**known | changes)


def test_anomalies_are_told_with_evidence_remedy_and_where_to_read_on():
    (item,) = told_of([row()])
    assert (item.message, item.host, item.seen_at) == ("a: 0.5 POL are left.", "box", NOW)
    assert item.evidence == {
        "remedy": "Send POL.",
        "docs": "docs/alerts.md#low-gas",
        "score": 0.5,
        "since": "2026-03-05 12:05 UTC",
    }
    (item,) = told_of([row(evidence="does not answer; is the node running?")])
    assert item.message.endswith("is the node running?")


def test_of_one_rule_and_subject_the_gravest_of_the_latest_is_told():
    (item,) = told_of([row("critical"), row("warning")])
    assert item.severity is Severity.CRITICAL
    (item,) = told_of([row("critical"), row("warning", minutes=1)])
    assert item.severity is Severity.WARNING
    assert len(told_of([row(), row(subject="b")])) == 2
