"""What `orcha status` tells, with a real warehouse and a stand-in for Dagster's webserver."""

import json
from datetime import timedelta

import httpx
import pytest
from rich.console import Console

from orcha_pipeline import status
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.dagster_api import DagsterApi
from orcha_pipeline.errors import SupervisionError
from orcha_pipeline.model import HOUR, Mode, Verdict
from orcha_pipeline.permission_commands import pause
from orcha_pipeline.status import as_json, take_vitals
from orcha_pipeline.status_view import status_view
from orcha_pipeline.warehouse import decisions, freezes, vital_signs
from orcha_pipeline.warehouse.alert_rows import write_alerts
from orcha_pipeline.warehouse.message_rows import FAILING_ATTEMPTS, queue_messages
from orcha_pipeline_tests.anomalies.alerts.build import a_message, an_alert
from orcha_pipeline_tests.rig import NOW, FakeNode, decision_to_apply, installation, read_now

MINUTE = timedelta(minutes=1)
TICK = (NOW - 5 * MINUTE).timestamp()


def answer(*, running="RUNNING", ticks=({"timestamp": TICK, "status": "SUCCESS"},)):
    state = {"status": running, "ticks": list(ticks)}
    return {
        "__typename": "Repository",
        "schedules": [{"name": "every_15_minutes", "scheduleState": state}],
        "sensors": [{"name": "apply_decision", "sensorState": state}],
    }


@pytest.fixture
def webserver(monkeypatch):
    """Dagster's answer to the question of its clockwork, None: nobody listens; and the runs of its cycle."""
    found = {"answer": answer(), "runs": [{"startTime": 100.0, "endTime": 104.5}]}

    def asked(request):
        if found["answer"] is None:
            raise httpx.ConnectError("refused")
        variables = json.loads(request.content)["variables"]
        if variables.get("job") == "cycle":
            return httpx.Response(200, json={"data": {"runsOrError": {"results": found["runs"]}}})
        assert variables["repository"]["repositoryLocationName"] == "orcha"
        return httpx.Response(200, json={"data": {"repositoryOrError": found["answer"]}})

    class Stand(DagsterApi):
        def __init__(self, url, *, timeout=60.0):
            super().__init__(url, timeout=timeout)
            self._client = httpx.Client(base_url=url, transport=httpx.MockTransport(asked))

    monkeypatch.setattr(status, "DagsterApi", Stand)
    return found


@pytest.fixture
def clock():
    return FixedClock(NOW)


@pytest.fixture
def installed(tmp_path, clock, webserver):
    made = installation(tmp_path, clock, ["a", "b"])
    read_now(made.warehouse, [FakeNode(name, clock) for name in ("a", "b")], NOW - 5 * MINUTE)
    decide(made, NOW - 5 * MINUTE)
    return made


def decide(made, at, *, host="box", **changes):
    row = decision_to_apply(f"{host}-{at:%d%H%M}", [], decided_at=at, host=host, **{"verdict": Verdict.HOLD, **changes})
    with made.warehouse.write() as connection:
        decisions.record_decision(connection, row)


# --- all of it


def test_where_all_is_well_it_says_so(installed):
    vitals = take_vitals(installed)
    assert vitals.healthy
    assert vitals.problems == ()
    assert [(each.name, each.running, each.last_result) for each in vitals.clockwork] == [
        ("every_15_minutes", True, "success"),
        ("apply_decision", True, "success"),
    ]
    assert vitals.clockwork[0].last_tick == NOW - 5 * MINUTE
    assert vitals.cycle_seconds == 4.5
    assert vitals.free_gib > 0


def test_before_the_first_cycle_has_ended_nobody_knows_how_long_it_takes(installed, webserver):
    webserver["runs"] = []
    vitals = take_vitals(installed)
    assert vitals.healthy
    assert vitals.cycle_seconds is None


def test_what_is_late_is_named_with_when_it_last_was(installed, clock):
    clock.set(NOW + 31 * MINUTE)
    problems = take_vitals(installed).problems
    assert "host box was last decided on at 2026-03-05 12:00 UTC" in problems
    assert "node a was last read at 2026-03-05 12:00 UTC" in problems


def test_before_the_first_cycle_nothing_was_decided_or_read(tmp_path, clock, webserver):
    vitals = take_vitals(installation(tmp_path, clock, ["a"]))
    assert vitals.problems == ("host box was never decided on", "node a was never read")
    assert all(found.share is None for found in vitals.uptime.values())


def test_a_dagster_that_does_not_answer_is_a_problem_and_the_rest_is_told(installed, webserver):
    webserver["answer"] = None
    vitals = take_vitals(installed)
    assert vitals.problems == ("Orcha does not run here: Dagster does not answer (`orcha up` starts it)",)
    assert (vitals.clockwork, vitals.cycle_seconds) == ((), None)
    assert vitals.decided == {"box": NOW - 5 * MINUTE}


def test_a_schedule_that_is_switched_off_is_a_problem(installed, webserver):
    webserver["answer"] = answer(running="STOPPED", ticks=())
    vitals = take_vitals(installed)
    assert vitals.problems == ("every_15_minutes is switched off", "apply_decision is switched off")
    assert vitals.clockwork[0].last_tick is None


def test_frozen_nodes_pauses_requests_and_a_full_disk_are_told(installed, monkeypatch):
    with installed.warehouse.write() as connection:
        freezes.freeze(connection, application_id="a-1", stuck={"a": "set limit of a to 60"}, at=NOW)
    decide(installed, NOW - 4 * MINUTE, verdict=Verdict.REALLOCATE, mode=Mode.CONFIRM, expires_at=NOW + HOUR)
    pause(installed, who="ada", why="")
    monkeypatch.setattr(status, "free_gib", lambda _folder: 0.5)
    vitals = take_vitals(installed)
    assert vitals.problems[0] == "a is frozen: please set limit of a to 60, then `orcha unfreeze a`"
    assert vitals.problems[1].startswith("only 0.50 GiB are free")
    assert vitals.alerts == {"critical": 1}
    assert list(vitals.awaiting) == ["box"]
    assert "by ada" in vitals.pause  # the operator's own will, and no problem
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(status_view(vitals))
    text = capture.get()
    for told in (
        "Orcha does not run as it should; it has alerts: 1 critical",
        "orcha unfreeze a",
        "orcha resume",
        "orcha approve",
        "1 critical",
        "every_15_minutes",
    ):
        assert told in text


def test_acknowledged_alerts_and_channels_that_fail_are_told_and_members_of_a_group_are_not_counted(installed):
    failed = a_message(attempts=FAILING_ATTEMPTS, last_error="it answered 500")
    with installed.warehouse.write() as connection:
        rows = [
            an_alert("g"),
            an_alert("m", subject="b", group_id="g"),
            an_alert("k", subject="c", acknowledged_at=NOW),
        ]
        write_alerts(connection, rows)
        queue_messages(connection, [failed, a_message("2", channel="phone", attempts=1, last_error="it answered 500")])
    vitals = take_vitals(installed)
    assert (vitals.alerts, vitals.acknowledged) == ({"critical": 2}, 1)
    why = "it answered 500; 1 message waits since 2026-03-05 12:05 UTC"
    assert vitals.problems == (f"alerts do not get through mail: {why}: see `orcha alerts test`",)
    told = as_json(vitals)
    assert (told["open_alerts"], told["acknowledged_alerts"]) == ({"critical": 2}, 1)
    assert list(told["failing_channels"]) == ["mail"]
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(status_view(vitals))
    assert "2 critical; 1 acknowledged (`orcha alerts`)" in capture.get()


def test_json_tells_times_in_utc_and_null_where_nothing_is_known(installed):
    told = as_json(take_vitals(installed))
    json.dumps(told)
    assert told["healthy"] is True
    assert told["last_decided"] == {"box": "2026-03-05T12:00:00Z"}
    assert told["uptime"]["24h"] == {"share": None, "decided": 0, "slots": 0}  # the first slot is not over yet
    assert told["paused"] is None


def test_a_question_that_dagster_refuses_is_told(webserver):
    webserver["answer"] = {"__typename": "RepositoryNotFoundError", "message": "no repository"}
    api = status.DagsterApi("http://127.0.0.1:1")
    with pytest.raises(SupervisionError, match="no repository"):
        api.clockwork()
    api.close()


# --- uptime


@pytest.mark.parametrize(
    ("minutes", "decided", "slots"),
    [
        ([0, 15, 30, 45], 4, 4),
        ([0, 45], 2, 4),  # two cycles were missed
        ([0, 5, 14, 30], 2, 4),  # a slot counts once
        ([0, 60], 1, 4),  # the slot that has begun does not count yet
    ],
)
def test_the_share_of_quarter_hours_with_a_decision(tmp_path, clock, minutes, decided, slots):
    made = installation(tmp_path, clock, ["a"])
    start = NOW.replace(minute=0)
    for after in minutes:
        decide(made, start + after * MINUTE)
    with made.warehouse.read() as connection:
        found = vital_signs.uptime(connection, {"box"}, since=start - 24 * HOUR, now=start + 62 * MINUTE)
        later = vital_signs.uptime(connection, {"box"}, since=start + 31 * MINUTE, now=start + 62 * MINUTE)
    assert (found.decided, found.slots, found.since) == (decided, slots, start)
    assert later.slots == 2


def test_a_slot_counts_only_where_every_host_was_decided_on(tmp_path, clock):
    made = installation(tmp_path, clock, ["a"])
    start = NOW.replace(minute=0)
    for after, hosts in ((0, ("box", "attic")), (15, ("box",)), (30, ("box", "attic", "gone"))):
        for host in hosts:
            decide(made, start + after * MINUTE, host=host)
    with made.warehouse.read() as connection:
        found = vital_signs.uptime(connection, {"box", "attic"}, since=start, now=start + 45 * MINUTE)
    assert (found.decided, found.slots) == (2, 3)
    assert found.share == pytest.approx(2 / 3)
