"""Alerts come, stay and go as what cycles tell does."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from orcha_pipeline.anomalies.alerts.lifecycle import Change, escalations, judge
from orcha_pipeline.anomalies.anomaly import Severity
from orcha_pipeline.healing.telling import EVIDENCE
from orcha_pipeline_tests.anomalies.alerts.build import MINUTE, SLOT, an_alert, ids, told
from orcha_pipeline_tests.rig import NOW

HOUR = timedelta(hours=1)


def judged(known, now_told, now=NOW, after=2 * SLOT, new_id=None):
    found = judge(known, now_told, now=now, clears_after=lambda _kind: after, new_id=new_id or ids("new"))
    return [(transition.change, transition.alert) for transition in found]


def test_what_is_told_is_opened_once():
    ((change, alert),) = judged([], [told()])
    assert (change, alert.kind, alert.subject, alert.host, alert.severity) == (
        Change.OPEN,
        "node-unreachable",
        "a",
        "box",
        "critical",
    )
    assert (alert.raised_at, alert.last_seen_at, alert.resolved_at) == (NOW, NOW, None)
    ((change, again),) = judged([alert], [told(seen_at=NOW + SLOT)], NOW + SLOT)
    assert (change, again.alert_id, again.raised_at, again.last_seen_at) == (
        Change.SEEN,
        alert.alert_id,
        NOW,
        NOW + SLOT,
    )


def test_it_is_over_once_it_was_not_told_for_long_enough_and_not_before():
    alert = an_alert()
    assert judged([alert], [], NOW + SLOT) == []
    ((change, over),) = judged([alert], [], NOW + 2 * SLOT)
    assert (change, over.resolved_at, over.resolved_why) == (Change.RESOLVE, NOW + 2 * SLOT, "its cause is gone")
    ((change, new),) = judged([over], [told(seen_at=NOW + HOUR)], NOW + HOUR)
    assert (change, new.alert_id != over.alert_id) == (Change.OPEN, True)


def test_a_cycle_some_seconds_earlier_in_its_slot_than_the_last_one_ends_it_as_well():
    late = an_alert(last_seen_at=NOW + timedelta(seconds=40))
    ((change, _),) = judged([late], [], NOW + 2 * SLOT + timedelta(seconds=5))
    assert change is Change.RESOLVE


def test_what_comes_and_goes_within_that_time_is_one_alert():
    alert = an_alert()
    for number in range(1, 9):
        now = NOW + number * SLOT
        changed = judged([alert], [told(seen_at=now)] if number % 2 == 0 else [], now)
        assert [change for change, _ in changed] == ([Change.SEEN] if number % 2 == 0 else [])
        alert = changed[0][1] if changed else alert
    assert alert.alert_id == "alert-1"


def test_by_a_clock_that_was_ahead_and_is_set_right_it_ends_in_its_time():
    ahead = an_alert(last_seen_at=NOW + 720 * HOUR)
    ((_, seen),) = judged([ahead], [told()])
    assert seen.last_seen_at == NOW
    ((change, kept),) = judged([ahead], [])
    assert (change, kept.last_seen_at) == (Change.SEEN, NOW), "nobody knows when it was last told"
    assert judged([kept], [], NOW + SLOT) == []
    ((change, over),) = judged([kept], [], NOW + 2 * SLOT)
    assert (change, over.resolved_at) == (Change.RESOLVE, NOW + 2 * SLOT)


def test_what_others_wrote_into_it_stays_and_what_its_rule_no_longer_tells_goes():
    alert = an_alert(evidence={"remedy": "Look.", "score": 3.0, EVIDENCE: "Orcha restarted it."})
    ((_, seen),) = judged([alert], [told(evidence={"remedy": "Look again."}, seen_at=NOW + SLOT)], NOW + SLOT)
    assert seen.evidence == {"remedy": "Look again.", EVIDENCE: "Orcha restarted it."}


def test_after_days_away_what_is_told_again_is_still_the_same_alert():
    ((change, alert),) = judged([an_alert()], [told(seen_at=NOW + 48 * HOUR)], NOW + 48 * HOUR)
    assert (change, alert.alert_id) == (Change.SEEN, "alert-1")


def test_what_was_raised_beside_the_cycles_is_left_to_whoever_raised_it():
    assert judged([an_alert(kind="rollback_failed", last_seen_at=None)], [], NOW + 100 * HOUR) == []
    assert judged([an_alert()], [], NOW + 100 * HOUR, after=None) == []


def test_a_worse_one_must_be_acknowledged_anew_and_a_lesser_one_changes_nothing():
    alert = an_alert(
        severity="warning", acknowledged_at=NOW, acknowledged_by="ada", escalated_at=NOW, message="as it was"
    )
    ((change, worse),) = judged([alert], [told(message="worse now")])
    assert (change, worse.severity, worse.message) == (Change.WORSE, "critical", "worse now")
    assert (worse.acknowledged_at, worse.acknowledged_by, worse.escalated_at) == (None, None, None)
    ((change, lesser),) = judged([worse], [told(severity=Severity.INFO, message="nearly well", seen_at=NOW + SLOT)])
    assert (change, lesser.severity, lesser.message) == (Change.SEEN, "critical", "worse now")
    assert lesser.last_seen_at == NOW + SLOT


def test_acknowledged_it_stays_open_for_as_long_as_it_stands():
    alert = an_alert(acknowledged_at=NOW, acknowledged_by="ada")
    ((change, seen),) = judged([alert], [told(seen_at=NOW + 5 * HOUR)], NOW + 5 * HOUR)
    assert (change, seen.acknowledged_by, seen.is_open) == (Change.SEEN, "ada", True)


# --- one stands for another


def test_a_member_stands_under_its_cause_and_both_go_together():
    now_told = [told("host-unreachable", "box"), told(subject="a", cause=("host-unreachable", "box"))]
    opened = {alert.kind: alert for _, alert in judged([], now_told)}
    assert opened["node-unreachable"].group_id == opened["host-unreachable"].alert_id
    assert opened["host-unreachable"].group_id is None
    gone = judged(list(opened.values()), [], NOW + 2 * SLOT)
    assert {change for change, _ in gone} == {Change.RESOLVE}
    assert next(alert for _, alert in gone if alert.subject == "a").group_id is not None


def test_what_is_left_when_a_group_dissolves_stands_for_itself_and_is_told_of():
    group = an_alert("g", kind="host-unreachable", subject="box", scope="host", last_seen_at=NOW - SLOT)
    member = an_alert("m", group_id="g")
    ((change, kept),) = judged([group, member], [told(seen_at=NOW + MINUTE)])
    assert (change, kept.group_id) == (Change.SEEN, "g"), "a group that was told a slot ago still stands"
    now = NOW + SLOT
    changed = {alert.alert_id: (change, alert) for change, alert in judged([group, kept], [told(seen_at=now)], now)}
    assert changed["g"][0] is Change.RESOLVE
    change, released = changed["m"]
    assert (change, released.group_id, released.acknowledged_at) == (Change.RELEASED, None, None)


def test_who_acknowledged_the_group_knows_of_what_is_left_of_it():
    group = an_alert(
        "g", last_seen_at=NOW - 2 * SLOT, kind="host-unreachable", acknowledged_at=NOW, acknowledged_by="ada"
    )
    changed = {alert.alert_id: alert for _, alert in judged([group, an_alert("m", group_id="g")], [told()])}
    assert (changed["m"].group_id, changed["m"].acknowledged_by) == (None, "ada")


def test_what_follows_from_something_that_is_over_stands_under_it():
    cause = an_alert("c", resolved_at=NOW)
    now_told = [told("earnings-drop", cause=("node-unreachable", "a"), seen_at=NOW + SLOT)]
    ((_, alert),) = judged([cause], now_told, NOW + SLOT)
    assert alert.group_id == "c"
    later = NOW + 3 * HOUR
    ((change, alert),) = judged([alert], [told("earnings-drop", seen_at=later)], later)
    assert (change, alert.group_id) == (Change.RELEASED, None)


# --- what holds whatever cycles tell

_TOLD = st.lists(
    st.builds(
        lambda rule, subject, severity, cause: (rule, subject, severity, cause),
        st.sampled_from(["node-unreachable", "earnings-drop", "low-gas"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from(list(Severity)),
        st.sampled_from([None, ("host-unreachable", "box"), ("node-unreachable", "a")]),
    ),
    max_size=6,
    unique_by=lambda item: item[:2],
)
_STEPS = st.lists(st.tuples(_TOLD, st.integers(1, 4), st.sampled_from(["", "ack", "direct"])), max_size=12)


@settings(max_examples=150)
@given(steps=_STEPS)
def test_in_any_course_each_thing_told_has_one_open_alert_and_nothing_told_is_over(steps):
    known, now, new_id = [], NOW, ids()
    for items, slots, also in steps:
        now += slots * SLOT
        now_told = [
            told(rule, subject, severity=severity, seen_at=now, cause=None if (rule, subject) == cause else cause)
            for rule, subject, severity, cause in items
        ]
        if also == "direct" and not any(each.kind == "rollback_failed" and each.is_open for each in known):
            known.append(an_alert(new_id(), kind="rollback_failed", last_seen_at=None))
        before = {alert.alert_id: alert for alert in known}
        changed = judge(known, now_told, now=now, clears_after=lambda _kind: 2 * SLOT, new_id=new_id)
        known = list((before | {t.alert.alert_id: t.alert for t in changed}).values())
        opened = [(alert.kind, alert.subject) for alert in known if alert.is_open]
        assert len(opened) == len(set(opened)), "never two open of a kind and subject"
        assert {item.key for item in now_told} <= set(opened), "whatever stands is open"
        assert len({t.alert.alert_id for t in changed}) == len(changed), "a row changes once"
        assert all(alert.group_id is None or alert.group_id in {each.alert_id for each in known} for alert in known)
        for alert in known:
            was = before.get(alert.alert_id)
            if not alert.is_open and was is not None and was.is_open:
                assert now - was.last_seen_at >= 2 * SLOT, "nothing is over that was told of late"
                assert (alert.kind, alert.subject) not in {item.key for item in now_told}
            if was is not None and not was.is_open:
                assert alert == was, "what is over stays as it is"
            if was is not None and alert.is_open:
                assert Severity(alert.severity).rank >= Severity(was.severity).rank
        if also == "ack":
            known = [
                replace(each, acknowledged_at=now, acknowledged_by="ada") if each.is_open else each for each in known
            ]


# --- escalation


def test_what_nobody_acknowledges_is_escalated_once():
    alert = an_alert(announced_at=NOW, announced_severity="critical", last_seen_at=NOW + HOUR)
    assert escalations([alert], now=NOW + 59 * MINUTE, after=HOUR) == []
    ((found),) = escalations([alert], now=NOW + HOUR, after=HOUR)
    assert (found.change, found.alert.escalated_at) == (Change.ESCALATE, NOW + HOUR)
    assert escalations([found.alert], now=NOW + 9 * HOUR, after=HOUR) == []
    assert escalations([alert], now=NOW + HOUR, after=None) == []


def test_what_is_known_quiet_or_not_told_of_is_not_escalated():
    told = {"last_seen_at": NOW + 9 * HOUR}
    assert escalations([an_alert(announced_at=NOW, **told)], now=NOW + 9 * HOUR, after=HOUR) != []
    quiet = [
        an_alert(announced_at=NOW, severity="info", **told),
        an_alert(announced_at=NOW, acknowledged_at=NOW, **told),
        an_alert(announced_at=NOW, resolved_at=NOW, **told),
        an_alert(announced_at=NOW, group_id="g", **told),
        an_alert(announced_at=None, **told),
        an_alert(announced_at=NOW, last_seen_at=NOW + 9 * HOUR - SLOT),
    ]
    assert escalations(quiet, now=NOW + 9 * HOUR, after=HOUR) == []
