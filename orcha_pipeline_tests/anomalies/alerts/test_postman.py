"""Alerts reach a real mail server and a real webhook: each once, in time, whatever becomes of a channel."""

import logging
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
import tomlkit

from orcha_pipeline.anomalies.alerts.commands import acknowledge, resolve
from orcha_pipeline.anomalies.alerts.delivery import Courier, Outcome
from orcha_pipeline.anomalies.alerts.postman import GIVE_UP_AFTER, LONGEST_RETRY, Postman
from orcha_pipeline.anomalies.catalogue import LOW_GAS, SERIES_YIELD
from orcha_pipeline.errors import WarehouseError
from orcha_pipeline.settings_file import load_settings
from orcha_pipeline.warehouse import alert_rows, decisions, message_rows
from orcha_pipeline.warehouse.message_rows import FAILING_ATTEMPTS, waiting_messages
from orcha_pipeline_tests.anomalies.alerts.build import MINUTE, SLOT, Rig, away
from orcha_pipeline_tests.anomalies.alerts.servers import SECRET
from orcha_pipeline_tests.ports import free_port
from orcha_pipeline_tests.rig import NOW, decided_line, decision_to_apply

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
HOUR = timedelta(hours=1)
NIGHT = datetime(2026, 3, 5, 23, 0, tzinfo=UTC)
WAIT = 60.0


def poor(node="b"):
    return LOW_GAS.found(node, "0.2 POL are left", at=NOW, host="box")


class Spy:
    """Takes, or does not take, what is sent, without a process or a server."""

    def __init__(self, *outcomes):
        self.sent, self.outcomes = [], list(outcomes)

    def send(self, channel, *, title, body, severity):
        self.sent.append((channel.name, title, body))
        return self.outcomes.pop(0) if self.outcomes else Outcome(taken=True)

    def close(self):
        pass


def until(done, seconds=WAIT):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it has not come about in time"
        time.sleep(0.02)


def test_the_whole_life_of_an_alert_by_mail_and_webhook(tmp_path, mailbox, hook):
    rig = Rig(
        tmp_path,
        channels=[
            {"name": "mail", "url": mailbox.url},
            {"name": "hook", "url": hook.url, "min_severity": "critical"},
            {"name": "boss", "url": hook.url, "escalation": True},
        ],
    )
    postman = Postman(rig.installation, Courier())
    rig.cycle(away("a"), poor())
    postman.finish(wait=WAIT)
    assert sorted(mailbox.subjects) == [
        "[Orcha] critical: node-unreachable a (box)",
        "[Orcha] warning: low-gas b (box)",
    ]
    assert hook.titles == ["[Orcha] critical: node-unreachable a (box)"]
    for _ in range(4):
        rig.cycle(away("a"), poor(), after=SLOT)
    postman.finish(wait=WAIT)
    assert sorted(hook.titles[1:]) == [
        "[Orcha] still critical, not acknowledged: node-unreachable a (box)",
        "[Orcha] still warning, not acknowledged: low-gas b (box)",
    ]
    for _ in range(3):
        rig.cycle(poor(), after=SLOT)
    postman.finish(wait=WAIT)
    postman.finish(wait=WAIT)
    assert mailbox.subjects[2:] == ["[Orcha] resolved: node-unreachable a (box)"]
    assert hook.titles[3:] == ["[Orcha] resolved: node-unreachable a (box)"] * 2, "to both that were told of it"
    assert "It stood from 2026-03-05 12:05 UTC" in mailbox.text()
    assert rig.waiting() == []


def test_what_is_raised_between_cycles_is_told_without_one(tmp_path):
    rig, spy = Rig(tmp_path, channels=[{"name": "mail", "url": "json://x"}]), Spy()
    with rig.warehouse.write() as connection:
        told = {"kind": "rollback_failed", "severity": "critical", "scope": "node", "subject": "a", "message": "stuck"}
        alert_rows.raise_alert(connection, at=NOW, evidence={}, **told)
    postman = Postman(rig.installation, spy)
    postman.finish(wait=WAIT)
    postman.finish(wait=WAIT)
    assert [title for _, title, _ in spy.sent] == ["[Orcha] critical: rollback_failed a"]


def test_nothing_is_written_where_nothing_is_to_be_done(tmp_path):
    rig = Rig(tmp_path, channels=[{"name": "mail", "url": "json://x"}])
    postman = Postman(rig.installation, Spy())
    rig.cycle(away("a"))
    postman.finish(wait=WAIT)
    before = rig.warehouse.path.stat().st_mtime_ns
    for _ in range(3):
        postman.finish(wait=WAIT)
    assert rig.warehouse.path.stat().st_mtime_ns == before


# --- quiet hours, digest, rate


def test_the_night_is_told_in_one_message_in_the_morning(tmp_path, mailbox):
    quiet = [{"from": "22:00", "until": "07:00"}]
    rig = Rig(tmp_path, channels=[{"name": "mail", "url": mailbox.url}], quiet_hours=quiet, escalate_after_minutes=0.0)
    postman = Postman(rig.installation, Courier())
    rig.clock.set(NIGHT)
    rig.cycle(poor("a"), poor("b"), SERIES_YIELD.found("a", "a new high", at=NOW, host="box"))
    for _ in range(3):
        rig.cycle(poor("b"), after=SLOT)
    postman.finish(wait=WAIT)
    assert mailbox.subjects == []
    rig.cycle(poor("b"), away("a"))
    postman.finish(wait=WAIT)
    assert mailbox.subjects == ["[Orcha] critical: node-unreachable a (box)"], "a critical one wakes the operator"
    rig.clock.set(datetime(2026, 3, 6, 7, 0, tzinfo=UTC))
    rig.cycle(poor("b"), away("a"))
    postman.finish(wait=WAIT)
    assert mailbox.subjects[1:] == ["[Orcha] digest: 3 alerts, 1 of them open"]
    text = mailbox.text()
    assert "low-gas b (box), since 2026-03-05 23:00 UTC, open" in text.replace("\r\n", " ")
    assert "low-gas a (box), since 2026-03-05 23:00 UTC, until 2026-03-05 23:30 UTC" in text.replace("\r\n", " ")
    assert "series-yield" in text
    assert rig.waiting() == []


@pytest.mark.parametrize("meanwhile", ["acknowledged", "over", ""])
def test_what_was_to_be_escalated_after_the_night_is_dropped_where_that_is_moot_by_then(tmp_path, meanwhile):
    channels = [{"name": "mail", "url": "json://x"}, {"name": "boss", "url": "json://x", "escalation": True}]
    rig, spy = Rig(tmp_path, channels=channels, quiet_hours=[{"from": "22:00", "until": "07:00"}]), Spy()
    postman = Postman(rig.installation, spy)
    rig.clock.set(NIGHT - 105 * MINUTE)
    for _ in range(5):
        rig.cycle(poor(), after=SLOT)
        postman.finish(wait=WAIT)
    assert [name for name, _ in rig.waiting()] == ["boss"]
    if meanwhile == "acknowledged":
        acknowledge(rig.installation, rig.alerts()["low-gas", "b"].alert_id, who="ada")
    for _ in range(3):
        rig.cycle(*([] if meanwhile == "over" else [poor()]), after=SLOT)
        postman.finish(wait=WAIT)
    rig.clock.set(datetime(2026, 3, 6, 7, 0, tzinfo=UTC))
    postman.finish(wait=WAIT)
    told = [body for name, _, body in spy.sent if name == "boss"]
    assert len(told) == (0 if meanwhile else 1)
    assert all("still open, not acknowledged" in body for body in told)
    assert [title for name, title, _ in spy.sent if name == "mail"][1:] == (
        ["[Orcha] digest: 1 alert, 0 of them open"] if meanwhile == "over" else []
    )


def test_a_flood_is_a_few_messages_and_one_that_tells_the_rest(tmp_path):
    names = [f"n{number}" for number in range(12)]
    rig, spy = Rig(tmp_path, nodes=names, channels=[{"name": "mail", "url": "json://x", "messages_per_hour": 3}]), Spy()
    rig.cycle(*(poor(name) for name in names))
    Postman(rig.installation, spy).finish(wait=WAIT)
    titles = [title for _, title, _ in spy.sent]
    assert len(titles) == 3
    assert titles[2] == "[Orcha] digest: 10 alerts, 10 of them open"
    assert rig.waiting() == []


# --- channels that fail


def test_a_channel_that_was_away_gets_each_message_once_in_order_when_it_is_back(tmp_path, hook):
    rig = Rig(tmp_path, channels=[{"name": "hook", "url": hook.url}], escalate_after_minutes=0.0)
    postman = Postman(rig.installation, Courier())
    hook.status = 500
    rig.cycle(away("a"))
    for _ in range(3):
        postman.finish(wait=WAIT)
    assert hook.asked == 1, "a failure is not tried again at once"
    rig.clock.set(NOW + MINUTE)
    rig.cycle(poor())
    postman.finish(wait=WAIT)
    assert hook.asked == 2
    hook.status = 200
    postman = Postman(rig.installation, Courier())  # Orcha was started anew meanwhile
    rig.clock.set(NOW + 5 * MINUTE)
    for _ in range(3):
        postman.finish(wait=WAIT)
    assert hook.titles == ["[Orcha] critical: node-unreachable a (box)", "[Orcha] warning: low-gas b (box)"]


def test_a_channel_that_hangs_holds_up_neither_a_cycle_nor_another_channel(tmp_path, mailbox, hook):
    hook.held = threading.Event()
    channels = [{"name": "hook", "url": hook.url}, {"name": "mail", "url": mailbox.url}]
    rig = Rig(tmp_path, channels=channels)
    with Postman(rig.installation, Courier(), look_seconds=0.1) as postman:
        rig.cycle(away("a"))
        postman.start()
        until(lambda: hook.asked == 1 and len(mailbox.mails) == 1)
        begun = time.monotonic()
        rig.cycle(away("a"), poor())
        assert time.monotonic() - begun < 10, "a cycle does not wait for it"
        until(lambda: len(mailbox.mails) == 2)
        assert (hook.asked, hook.posts) == (1, []), "nor does it get a second one meanwhile"
        hook.held.set()
        until(lambda: len(hook.posts) == 2)
    assert hook.titles == ["[Orcha] critical: node-unreachable a (box)", "[Orcha] warning: low-gas b (box)"]


def test_a_hanging_channel_does_not_keep_orcha_from_ending(tmp_path, hook):
    hook.held = threading.Event()
    rig = Rig(tmp_path, channels=[{"name": "hook", "url": hook.url}])
    postman = Postman(rig.installation, Courier(), look_seconds=0.1)
    rig.cycle(away("a"))
    postman.start()
    until(lambda: hook.asked == 1)
    begun = time.monotonic()
    postman.close()
    assert time.monotonic() - begun < 8
    assert len(rig.waiting()) == 1, "it is sent the next time"


def test_a_postman_that_was_killed_sends_again_what_nobody_noted_and_loses_nothing(tmp_path, hook):
    rig = Rig(tmp_path, channels=[{"name": "hook", "url": hook.url}])
    rig.cycle(away("a"))
    rig.cycle(away("a"), poor(), after=MINUTE)
    command = [sys.executable, "-m", "orcha_pipeline_tests.anomalies.alerts.killed_postman", str(tmp_path), hook.url]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert hook.titles == ["[Orcha] critical: node-unreachable a (box)"]
    postman = Postman(rig.installation, Courier())
    for _ in range(3):
        postman.finish(wait=WAIT)
    assert hook.titles == [
        "[Orcha] critical: node-unreachable a (box)",
        "[Orcha] critical: node-unreachable a (box)",
        "[Orcha] warning: low-gas b (box)",
    ], "at least once: what was under way when it was killed comes twice"


def test_what_was_taken_is_not_sent_again_while_the_warehouse_cannot_be_written(tmp_path, monkeypatch, caplog):
    rig, spy = Rig(tmp_path, channels=[{"name": "mail", "url": "json://x"}]), Spy()
    rig.cycle(away("a"))
    postman = Postman(rig.installation, spy)
    whole = type(rig.warehouse).write

    def full(_self):
        raise WarehouseError("There is no room to write to the warehouse.")

    monkeypatch.setattr(type(rig.warehouse), "write", full)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            postman.finish(wait=WAIT)
    assert len(spy.sent) == 1
    assert caplog.text.count("There is no room to write") == 1, "a trouble is told once"
    monkeypatch.setattr(type(rig.warehouse), "write", whole)
    postman.finish(wait=WAIT)
    assert (len(spy.sent), rig.waiting()) == (1, [])
    monkeypatch.setattr(type(rig.warehouse), "write", full)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            postman.look()  # which would raise: it is noted by now, and nothing is left to be written
    assert len(spy.sent) == 1


def test_channels_that_take_a_message_at_the_same_moment_are_noted_one_after_the_other(tmp_path, monkeypatch, caplog):
    rig = Rig(tmp_path, channels=[{"name": "mail", "url": "json://x"}, {"name": "hook", "url": "json://x"}])
    both, mark_sent = threading.Barrier(2), message_rows.mark_sent
    noting, meanwhile = threading.Lock(), threading.Event()

    class Together(Spy):
        def send(self, channel, **message):
            both.wait(WAIT)
            return super().send(channel, **message)

    def slow(*arguments, **named):
        if not noting.acquire(blocking=False):
            meanwhile.set()
        else:
            meanwhile.wait(1.0)
            noting.release()
        mark_sent(*arguments, **named)

    monkeypatch.setattr(message_rows, "mark_sent", slow)
    rig.cycle(away("a"))
    with caplog.at_level(logging.WARNING):
        Postman(rig.installation, Together()).finish(wait=WAIT)
    assert (meanwhile.is_set(), rig.waiting(), caplog.text) == (False, [], "")


def test_that_a_channel_fails_is_told_through_the_others_and_its_return_too(tmp_path):
    channels = [{"name": "hook", "url": f"json://x/{SECRET}"}, {"name": "mail", "url": "json://x"}]
    rig = Rig(tmp_path, channels=channels, escalate_after_minutes=0.0)
    failing = [True]

    class Half(Spy):
        def send(self, channel, **message):
            if channel.name == "hook" and failing[0]:
                return Outcome(taken=False, why="it answered 500")
            return super().send(channel, **message)

    spy = Half()
    postman = Postman(rig.installation, spy)
    rig.cycle(away("a"))
    for _ in range(FAILING_ATTEMPTS):
        postman.finish(wait=WAIT)
        rig.clock.set(rig.clock.now() + LONGEST_RETRY)
    postman.finish(wait=WAIT)
    mailed = [(title, body) for name, title, body in spy.sent if name == "mail"]
    assert [title for title, _ in mailed][1:] == ["[Orcha] warning: channel-failing hook"]
    assert "do not get through hook (json): it answered 500." in mailed[1][1]
    failing[0] = False
    rig.clock.set(rig.clock.now() + LONGEST_RETRY)
    for _ in range(2):
        postman.finish(wait=WAIT)
    assert [title for name, title, _ in spy.sent if name == "mail"][2:] == ["[Orcha] resolved: channel-failing hook"]
    assert [title for name, title, _ in spy.sent if name == "hook"] == ["[Orcha] critical: node-unreachable a (box)"]


def test_what_no_channel_takes_for_a_day_is_given_up(tmp_path):
    rig = Rig(tmp_path, channels=[{"name": "hook", "url": "json://x"}], escalate_after_minutes=0.0)
    spy = Spy(*[Outcome(taken=False, why="it answered 500")] * 2)
    postman = Postman(rig.installation, spy)
    rig.cycle(away("a"))
    postman.finish(wait=WAIT)
    assert len(rig.waiting()) == 1
    rig.clock.set(NOW + GIVE_UP_AFTER + MINUTE)
    postman.finish(wait=WAIT)
    assert (len(spy.sent), rig.waiting()) == (2, [])


def test_an_end_does_not_overtake_its_beginning_while_the_channel_fails(tmp_path):
    rig = Rig(tmp_path, channels=[{"name": "hook", "url": "json://x"}], escalate_after_minutes=0.0)
    attempts = 6
    spy = Spy(*[Outcome(taken=False, why="it answered 500")] * attempts)
    postman = Postman(rig.installation, spy)
    rig.cycle(away("a"))
    while len(spy.sent) < attempts:
        postman.finish(wait=WAIT)
        rig.clock.set(rig.clock.now() + MINUTE)
    rig.clock.set(NOW + 2 * SLOT)
    rig.cycle()
    for _ in range(40):
        postman.finish(wait=WAIT)
        rig.clock.set(rig.clock.now() + MINUTE)
    assert [title for _, title, _ in spy.sent[attempts:]] == [
        "[Orcha] critical: node-unreachable a (box)",
        "[Orcha] resolved: node-unreachable a (box)",
    ]


def test_what_waited_for_the_end_of_a_quiet_weekend_is_tried_for_a_day_as_well(tmp_path):
    quiet = [{"from": "00:00", "until": "24:00", "days": ["thu", "fri", "sat", "sun"]}]
    rig = Rig(tmp_path, channels=[{"name": "hook", "url": "json://x"}], quiet_hours=quiet, escalate_after_minutes=0.0)
    spy = Spy(Outcome(taken=False, why="it answered 500"))
    rig.cycle(poor())
    rig.clock.set(datetime(2026, 3, 9, 0, 0, tzinfo=UTC))
    postman = Postman(rig.installation, spy)
    postman.finish(wait=WAIT)
    assert (len(spy.sent), len(rig.waiting())) == (1, 1)
    rig.clock.set(rig.clock.now() + MINUTE)
    postman.finish(wait=WAIT)
    assert (len(spy.sent), rig.waiting()) == (2, [])


def test_what_waited_behind_one_that_was_given_up_goes_the_same_way(tmp_path):
    rig = Rig(tmp_path, channels=[{"name": "hook", "url": "json://x"}], escalate_after_minutes=0.0)
    spy = Spy(*[Outcome(taken=False, why="it answered 500")] * 2)
    postman = Postman(rig.installation, spy)
    rig.cycle(away("a"), poor())
    postman.finish(wait=WAIT)
    rig.clock.set(NOW + GIVE_UP_AFTER + MINUTE)
    postman.finish(wait=WAIT)
    assert (len(spy.sent), rig.waiting()) == (2, [])


def test_a_digest_that_failed_is_tried_again_as_soon_as_any_other(tmp_path):
    rig = Rig(tmp_path, channels=[{"name": "hook", "url": "json://x"}], escalate_after_minutes=0.0)
    spy = Spy(Outcome(taken=False, why="it answered 500"))
    rig.cycle(SERIES_YIELD.found("a", "a new high", at=NOW, host="box"))
    rig.clock.set(datetime(2026, 3, 6, 8, 0, tzinfo=UTC))
    rig.cycle(SERIES_YIELD.found("b", "a new high", at=NOW, host="box"))  # for the digest of the next day
    postman = Postman(rig.installation, spy)
    postman.finish(wait=WAIT)
    rig.clock.set(rig.clock.now() + MINUTE)
    postman.finish(wait=WAIT)
    assert [title for _, title, _ in spy.sent] == ["[Orcha] digest: 2 alerts, 1 of them open"] * 2
    assert rig.waiting() == []


def test_a_channel_that_is_no_longer_configured_keeps_nothing_waiting(tmp_path):
    rig = Rig(tmp_path, channels=[{"name": "hook", "url": "json://x"}])
    rig.cycle(away("a"))
    other, spy = Rig(tmp_path, channels=[]), Spy()
    Postman(other.installation, spy).finish(wait=WAIT)
    assert (spy.sent, other.waiting()) == ([], [])


def test_a_channel_that_is_renamed_meanwhile_loses_nothing(tmp_path, caplog):
    def settings(name):
        return {"channels": [{"name": name, "url": "json://x"}], "escalate_after_minutes": 0.0}

    file, spy = tmp_path / "orcha.toml", Spy()

    def write(name):
        file.write_text(tomlkit.dumps({"alerts": settings(name)}))

    old, new = Rig(tmp_path, **settings("mail")), Rig(tmp_path, **settings("post"))
    write("mail")
    postman = Postman(old.installation, spy, read_settings=lambda: load_settings(file).alerts)
    postman.finish(wait=WAIT)
    file.write_text("[alerts]\nchanels = []\n")
    new.cycle(away("a"))  # which has read what is about to be written
    with new.warehouse.write() as connection:
        told = {"kind": "rollback_failed", "severity": "critical", "scope": "node", "subject": "b", "message": "stuck"}
        alert_rows.raise_alert(connection, at=NOW, evidence={}, **told)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            postman.finish(wait=WAIT)
    assert [(name, title) for name, title, _ in spy.sent] == [("mail", "[Orcha] critical: rollback_failed b")]
    assert [name for name, _ in new.waiting()] == ["post"], "what cannot be read drops nothing"
    assert caplog.text.count("alerts are sent by the settings as they were") == 1
    write("post")
    postman.finish(wait=WAIT)
    assert spy.sent[1][:2] == ("post", "[Orcha] critical: node-unreachable a (box)")
    write("other")
    new.cycle(away("a"), poor(), after=SLOT)
    postman.finish(wait=WAIT)
    assert (len(spy.sent), new.waiting()) == (2, []), "what waits for a channel that is gone is dropped"


def test_that_a_channel_fails_is_over_once_it_is_no_longer_configured(tmp_path):
    hook, mail = {"name": "hook", "url": "json://x"}, {"name": "mail", "url": "json://x"}
    rig = Rig(tmp_path, channels=[hook], escalate_after_minutes=0.0)
    rig.cycle(away("a"))
    Postman(rig.installation, Spy(Outcome(taken=False, why="it is not set", hopeless=True))).finish(wait=WAIT)
    assert rig.open() == ["channel-failing hook", "node-unreachable a"]
    other = Rig(tmp_path, channels=[mail], escalate_after_minutes=0.0)
    Postman(other.installation, Spy()).finish(wait=WAIT)
    assert other.open() == ["node-unreachable a"]
    assert other.alerts()["channel-failing", "hook"].resolved_why == "the channel is no longer configured"


def test_that_a_channel_fails_is_told_anew_where_it_was_resolved_by_hand(tmp_path):
    rig = Rig(tmp_path, channels=[{"name": "hook", "url": "json://x"}], escalate_after_minutes=0.0)
    fails = Outcome(taken=False, why="it is not set", hopeless=True)
    postman = Postman(rig.installation, Spy(fails, fails))
    rig.cycle(away("a"))
    postman.finish(wait=WAIT)
    resolve(rig.installation, rig.alerts()["channel-failing", "hook"].alert_id, who="ada")
    assert rig.open() == ["node-unreachable a"]
    rig.clock.set(NOW + MINUTE)
    postman.finish(wait=WAIT)
    assert rig.open() == ["channel-failing hook", "node-unreachable a"]


def test_no_secret_gets_into_a_row_a_log_or_an_error(tmp_path, hook, mailbox, caplog, capfd):
    hook.status, mailbox.refuses = 403, f"550 {SECRET}"
    dead = f"json://127.0.0.1:{free_port()}/{SECRET}"
    urls = {"hook": hook.url, "mail": mailbox.url, "dead": dead, "odd": f"nothing://{SECRET}"}
    rig = Rig(tmp_path, channels=[{"name": name, "url": url} for name, url in urls.items()])
    postman = Postman(rig.installation, Courier())
    with caplog.at_level(logging.DEBUG):
        rig.cycle(away("a"))
        for _ in range(FAILING_ATTEMPTS + 1):
            postman.finish(wait=WAIT)
            rig.clock.set(rig.clock.now() + LONGEST_RETRY)
    with rig.warehouse.read() as connection:
        assert {alert.kind for alert in alert_rows.open_alerts(connection)} == {"node-unreachable", "channel-failing"}
        found = waiting_messages(connection)
        kept = str(connection.execute("SELECT * FROM alerts").fetchall()) + str(found)
    assert {message.last_error for message in found} >= {"it answered 403", "it answered 550"}
    logged = "".join(record.getMessage() for record in caplog.records if record.name != "mail.log")  # the server's own
    said = kept + logged + "".join(capfd.readouterr()) + repr(rig.installation)
    assert SECRET not in said
    assert SECRET[:12] not in said


# --- cycles that do not come


class Ticks:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_cycles_that_do_not_come_are_told_of_and_their_return_too(tmp_path):
    rig, spy, ticks = Rig(tmp_path, channels=[{"name": "mail", "url": "json://x"}]), Spy(), Ticks()

    def decided(name):
        line = decided_line("a", 50.0, 50.0)
        with rig.warehouse.write() as connection:
            decisions.record_decision(connection, decision_to_apply(name, [line], decided_at=rig.clock.now()))

    def pass_by(span):
        rig.clock.set(rig.clock.now() + span)
        ticks.now += span.total_seconds()
        postman.finish(wait=WAIT)

    postman = Postman(rig.installation, spy, monotonic=ticks)
    for number in range(4):
        decided(f"d{number}")
        pass_by(SLOT)
    for _ in range(5):
        pass_by(5 * MINUTE)
    assert spy.sent == [], "two missed cycles are borne"
    for _ in range(4):
        pass_by(5 * MINUTE)
    ((_, title, body),) = spy.sent
    assert title == "[Orcha] critical: missed-cycles orcha"
    assert "No cycle has brought a decision since 2026-03-05 12:50 UTC." in body
    decided("back")
    pass_by(MINUTE)
    assert [title for _, title, _ in spy.sent][1:] == ["[Orcha] resolved: missed-cycles orcha"]


def test_a_machine_that_slept_is_given_time_for_its_next_cycle(tmp_path):
    rig, spy, ticks = Rig(tmp_path, channels=[{"name": "mail", "url": "json://x"}]), Spy(), Ticks()
    with rig.warehouse.write() as connection:
        line = decided_line("a", 50.0, 50.0)
        decisions.record_decision(connection, decision_to_apply("d", [line], decided_at=NOW))
    postman = Postman(rig.installation, spy, monotonic=ticks)
    ticks.now = 8 * 3600.0
    rig.clock.set(NOW + 16 * HOUR)
    for _ in range(4):
        postman.finish(wait=WAIT)
        ticks.now += 60.0
    assert spy.sent == []
    ticks.now += 120.0
    postman.finish(wait=WAIT)
    assert [title for _, title, _ in spy.sent] == ["[Orcha] critical: missed-cycles orcha"]
