"""What goes out to a channel now: nothing is lost or told twice, and no flood reaches it."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from orcha_pipeline.anomalies.alerts.parcels import RATE_WINDOW, parcels
from orcha_pipeline.anomalies.alerts.postman import FIRST_RETRY, LONGEST_RETRY, retry_after
from orcha_pipeline_tests.anomalies.alerts.build import MINUTE, a_message
from orcha_pipeline_tests.rig import NOW


def sent_now(waiting, sent=(), rate=20):
    found = parcels(waiting, sent=sent, now=NOW, messages_per_hour=rate)
    return [(parcel.is_digest, list(parcel.ids)) for parcel in found]


def messages(count, severity="warning", **changes):
    return [
        a_message(
            f"{severity}-{number}",
            alert_id=f"{severity}-{number}",
            severity=severity,
            queued_at=NOW - MINUTE + number * timedelta(seconds=1),
            **changes,
        )
        for number in range(count)
    ]


def test_what_is_due_goes_out_one_by_one_in_order_and_what_is_not_waits():
    assert sent_now([*messages(2), a_message("later", due_at=NOW + MINUTE)]) == [
        (False, ["warning-0"]),
        (False, ["warning-1"]),
    ]


def test_once_a_digest_is_due_all_that_wait_for_one_go_out_in_it():
    held = [a_message("night", in_digest=True), a_message("info", in_digest=True, due_at=NOW + 60 * MINUTE)]
    assert sent_now(held) == [(True, ["night", "info"])]
    assert sent_now(held[1:]) == []


def test_what_is_beyond_the_rate_goes_out_in_one_message_and_nothing_after_it_for_an_hour():
    assert sent_now(messages(5), rate=3) == [
        (False, ["warning-0"]),
        (False, ["warning-1"]),
        (True, ["warning-2", "warning-3", "warning-4"]),
    ]
    used_up = [(NOW - MINUTE, "warning")] * 3
    assert sent_now(messages(5), sent=used_up, rate=3) == []
    long_ago = [(NOW - RATE_WINDOW, "warning")] * 3
    assert len(sent_now(messages(3), sent=long_ago, rate=3)) == 3


def test_no_flood_of_others_holds_a_critical_message_back():
    used_up = [(NOW - MINUTE, "warning")] * 3
    assert sent_now([*messages(9), *messages(1, "critical")], sent=used_up, rate=3) == [(False, ["critical-0"])]


def test_while_what_failed_waits_to_be_tried_again_all_waits_behind_it():
    failed = a_message("raised", attempts=3, due_at=NOW + MINUTE)
    assert sent_now([failed, a_message("resolved", occasion="resolved")]) == []
    assert sent_now([replace(failed, due_at=NOW), a_message("resolved", occasion="resolved")]) == [
        (False, ["raised"]),
        (False, ["resolved"]),
    ]


def test_the_end_of_what_was_critical_is_counted_with_the_others_unless_it_waits_with_its_beginning():
    ends = [replace(each, occasion="resolved", alert_id=f"other-{each.message_id}") for each in messages(4, "critical")]
    raised = a_message("raised", severity="critical")
    assert sent_now([*ends, raised], sent=[(NOW - MINUTE, "warning")] * 3, rate=3) == [(False, ["raised"])]
    end = replace(ends[0], message_id="its end", alert_id=raised.alert_id, queued_at=NOW)
    assert sent_now([raised, end], sent=[(NOW - MINUTE, "critical")] * 3, rate=3) == [], "no end before its beginning"
    assert sent_now([raised, end]) == [(False, ["raised"]), (False, ["its end"])]


def test_what_a_clock_that_was_ahead_has_sent_and_put_off_holds_nothing_up():
    ahead = NOW + timedelta(days=30)
    assert len(sent_now(messages(2), sent=[(ahead, "warning")] * 3, rate=3)) == 2
    assert sent_now([a_message("failed", attempts=1, queued_at=NOW, due_at=ahead)]) == [(False, ["failed"])]
    assert sent_now([a_message("queued", queued_at=ahead, due_at=ahead)]) == [(False, ["queued"])]


def test_a_flood_of_critical_ones_is_one_message_as_well():
    assert sent_now(messages(4, "critical"), rate=1) == [(True, [f"critical-{number}" for number in range(4)])]


_WAITING = st.lists(
    st.tuples(st.sampled_from(["info", "warning", "critical"]), st.integers(-9, 9), st.booleans()), max_size=30
)
_SENT = st.lists(st.tuples(st.integers(0, 90), st.sampled_from(["warning", "critical"])), max_size=20)


@given(items=_WAITING, sent=_SENT, rate=st.integers(1, 6))
def test_no_message_goes_out_twice_nor_more_than_the_rate_allows(items, sent, rate):
    waiting = [
        a_message(str(number), severity=severity, due_at=NOW + due * MINUTE, in_digest=in_digest)
        for number, (severity, due, in_digest) in enumerate(items)
    ]
    before = [(NOW - minutes * MINUTE, severity) for minutes, severity in sent]
    found = parcels(waiting, sent=before, now=NOW, messages_per_hour=rate)
    ids = [message_id for parcel in found for message_id in parcel.ids]
    assert len(ids) == len(set(ids))
    recent = [severity for at, severity in before if at > NOW - RATE_WINDOW]
    grave = recent.count("critical")
    assert len(found) <= max(0, rate - (len(recent) - grave)) + max(0, rate - grave)
    due = {message.message_id for message in waiting if message.due_at <= NOW}
    assert all(set(parcel.ids) & due for parcel in found), "nothing goes out of which nothing is due"
    if not recent:
        assert due <= set(ids), "with the hour free, all that is due goes out"


def test_retries_come_ever_later_up_to_half_an_hour():
    waits = [retry_after(attempts) for attempts in range(1, 12)]
    assert waits[0] == FIRST_RETRY
    assert waits == sorted(waits)
    assert waits[-1] == retry_after(10_000) == LONGEST_RETRY
