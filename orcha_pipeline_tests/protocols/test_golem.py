import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import AllocationError, ApiError, AuthenticationError, ParseError, SettingsError
from orcha_pipeline.model import HealthState, LeverMode, Provenance, Window
from orcha_pipeline.protocols import golem as module
from orcha_pipeline.protocols.golem import GolemAdapter
from orcha_pipeline_tests.protocols.answers import golem_routes, invoice, note, offer
from orcha_pipeline_tests.protocols.fakes import NOW, SECRET, FakeController, Script, no_waiting, settings

WINDOW = Window(NOW - timedelta(hours=1), NOW)
NOTES, INVOICES = "/payment-api/v1/debitNotes", "/payment-api/v1/invoices"
PROFILE = {
    "active": "default",
    "profiles": {"default": {"cpu_threads": 3, "mem_gib": 10.9, "storage_gib": 73.5}, "x": {}},
}


def adapter(routes=None, **changes):
    script = Script(golem_routes() if routes is None else routes)
    made = GolemAdapter(
        settings("golem", **changes), controller=FakeController(), clock=FixedClock(NOW), transport=script
    )
    return made, script


def listing(documents):
    """Serve a list as yagna does: later than `afterTimestamp`, ascending, at most `maxItems`."""

    def answer(request):
        after = datetime.fromisoformat(request.url.params["afterTimestamp"])
        later = [d for d in documents if datetime.fromisoformat(d["timestamp"]) > after]
        later.sort(key=lambda d: d["timestamp"])
        return later[: int(request.url.params["maxItems"])]

    return answer


def earned(notes, invoices=(), window=WINDOW, routes=None):
    routes = golem_routes() | {NOTES: listing(notes), INVOICES: listing(invoices)} | (routes or {})
    (bucket,) = adapter(routes)[0].earnings(window)
    return bucket


def test_the_key_is_a_bearer_and_notes_are_asked_from_an_hour_before_the_window():
    golem, script = adapter()
    golem.earnings(WINDOW)
    assert all(r.headers["authorization"] == f"Bearer {SECRET}" for r in script.requests)
    asked = next(r for r in script.requests if r.url.path == NOTES)
    assert asked.url.params["afterTimestamp"] == "2026-11-20T10:00:00Z"


def test_what_was_earned_is_the_growth_of_the_cumulative_notes():
    bucket = adapter()[0].earnings(WINDOW)[0]
    assert bucket.window == WINDOW
    assert bucket.unit == "GLM"
    assert bucket.provenance is Provenance.MEASURED
    assert bucket.amounts.net == Decimal("0.050000000000000000")  # the 19th decimal is below any unit
    assert bucket.amounts.doubtful == 0


def test_without_a_note_in_the_window_nothing_was_earned_and_that_is_measured():
    bucket = earned([note("a", 3, "2026-11-20T10:58:00Z", "0.1")])
    assert bucket.amounts.net == 0
    assert bucket.provenance is Provenance.MEASURED


def test_the_first_note_of_a_task_counts_from_zero():
    assert earned([note("a", 0, "2026-11-20T11:02:00Z", "0.01")]).amounts.net == Decimal("0.01")


def test_the_window_holds_its_start_and_not_its_end():
    notes = [note("a", 0, "2026-11-20T11:00:00Z", "1"), note("a", 1, "2026-11-20T12:00:00Z", "3")]
    assert earned(notes).amounts.net == 1


def test_a_predecessor_from_long_ago_is_fetched_by_its_id():
    notes = [note("a", 7, "2026-11-20T11:02:00Z", "0.9")]
    old = note("a", 6, "2026-11-19T01:02:00Z", "0.7")
    assert earned(notes, routes={f"{NOTES}/a-6": old}).amounts.net == Decimal("0.2")


def test_a_predecessor_that_is_gone_makes_the_window_unknown_not_zero():
    bucket = earned([note("a", 7, "2026-11-20T11:02:00Z", "0.9"), note("b", 0, "2026-11-20T11:02:00Z", "0.1")])
    assert bucket.amounts.net is None
    assert bucket.provenance is Provenance.UNKNOWN


def test_a_rejected_note_is_lost_but_what_a_later_accepted_one_covers_is_not():
    notes = [
        note("a", 0, "2026-11-20T11:02:00Z", "0.1"),
        note("a", 1, "2026-11-20T11:04:00Z", "0.2", status="REJECTED"),
    ]
    assert earned(notes).amounts.net == Decimal("0.1")
    assert earned([*notes, note("a", 2, "2026-11-20T11:06:00Z", "0.3")]).amounts.net == Decimal("0.3")
    # The same where the lost one lies before the window.
    before = Window(NOW - timedelta(minutes=55), NOW)
    assert earned([*notes, note("a", 2, "2026-11-20T11:06:00Z", "0.3")], window=before).amounts.net == Decimal("0.2")


def test_notes_this_identity_has_to_pay_as_a_requestor_are_no_earnings():
    assert earned([note("a", 0, "2026-11-20T11:02:00Z", "5", issuerId="0xe5e9")]).amounts.net == 0


@pytest.mark.parametrize("status", ["REJECTED", "FAILED", "CANCELLED"])
def test_a_lost_invoice_takes_its_agreement_with_it(status):
    notes = [note("a", 0, "2026-11-20T11:02:00Z", "0.1"), note("b", 0, "2026-11-20T11:02:00Z", "0.2")]
    lost = invoice("agreement-a", "2026-11-20T11:30:00Z", "0.1", status)
    assert earned(notes, [lost]).amounts.net == Decimal("0.2")


def test_an_invoice_nobody_has_received_for_a_week_is_doubtful():
    window = Window(NOW - timedelta(days=9), NOW - timedelta(days=8))
    notes = [note("a", 0, "2026-11-11T20:00:00Z", "0.1"), note("b", 0, "2026-11-11T20:00:00Z", "0.2")]
    old = invoice("agreement-a", "2026-11-11T21:00:00Z", "0.1", "ISSUED")
    fresh = invoice("agreement-b", "2026-11-19T21:00:00Z", "0.2", "ISSUED")
    amounts = earned(notes, [old, fresh], window=window).amounts
    assert (amounts.net, amounts.doubtful) == (Decimal("0.3"), Decimal("0.1"))


def test_an_invoice_counts_where_its_task_was_too_short_for_any_note():
    short = invoice("agreement-s", "2026-11-20T11:30:00Z", "0.02")
    assert earned([], [short]).amounts.net == Decimal("0.02")
    noted = note("s", 0, "2026-11-19T23:00:00Z", "0.02", agreementId="agreement-s")
    assert earned([noted], [short]).amounts.net == 0


def test_pages_are_followed_and_equal_times_at_their_edge_are_not_lost(monkeypatch):
    monkeypatch.setattr(module, "PAGE", 3)
    times = ["11:01", "11:02", "11:05", "11:05", "11:05", "11:05", "11:05", "11:09"]
    notes = [note(f"t{i}", 0, f"2026-11-20T{at}:00Z", "1") for i, at in enumerate(times)]
    assert earned(notes).amounts.net == len(times)


def test_a_full_page_out_of_order_is_refused_for_the_rest_could_not_be_found(monkeypatch):
    monkeypatch.setattr(module, "PAGE", 2)
    notes = [note("a", 0, "2026-11-20T11:05:00Z", "1"), note("b", 0, "2026-11-20T11:01:00Z", "1")]
    with pytest.raises(ParseError, match="not in order of time"):
        adapter(golem_routes() | {NOTES: notes})[0].earnings(WINDOW)


def test_a_total_that_goes_down_is_an_error():
    notes = [note("a", 0, "2026-11-20T11:02:00Z", "0.5"), note("a", 1, "2026-11-20T11:04:00Z", "0.4")]
    with pytest.raises(ParseError, match="went down"):
        earned(notes)


def test_history_is_by_the_hour_from_the_first_note_on():
    notes = [
        note("a", 0, "2026-11-20T08:30:00Z", "1"),
        note("a", 1, "2026-11-20T08:50:00Z", "3"),
        note("a", 2, "2026-11-20T10:10:00Z", "7"),
    ]
    routes = golem_routes() | {NOTES: listing(notes), INVOICES: []}
    window = Window(NOW - timedelta(days=2), NOW - timedelta(minutes=30))
    buckets = adapter(routes)[0].earnings_history(window)
    assert [(b.window.start.hour, b.amounts.net) for b in buckets] == [(8, 3), (9, 0), (10, 4), (11, 0)]
    assert buckets[-1].window.end == window.end
    assert {b.provenance for b in buckets} == {Provenance.MEASURED}


def test_a_provider_that_has_never_worked_has_no_history():
    assert list(adapter(golem_routes() | {NOTES: [], INVOICES: []})[0].earnings_history(WINDOW)) == []


def test_health_tells_the_version_and_what_yagnas_own_check_says():
    health = adapter()[0].health()
    assert (health.state, health.version) == (HealthState.HEALTHY, "0.17.6")
    problem = {"detail": "Payments are blocked", "problems": ["Insufficient gas"]}
    sick = golem_routes() | {"/healthcheck": httpx.Response(500, json=problem)}
    health = adapter(sick)[0].health()
    assert health.state is HealthState.ERROR
    assert "Insufficient gas" in health.reason


def test_a_provider_without_offers_is_in_error_and_its_allocation_unknown():
    golem, _ = adapter(golem_routes() | {"/market-api/v1/offers": []})
    assert "no offer is published" in golem.health().reason
    assert golem.allocation().value is None
    assert golem.allocation().provenance is Provenance.UNKNOWN


def test_a_refused_key_is_an_authentication_error_without_the_key():
    golem, _ = adapter(golem_routes() | {"/me": httpx.Response(401, text="Invalid application key")})
    with pytest.raises(AuthenticationError, match="Invalid application key") as error:
        golem.earnings(WINDOW)
    assert SECRET not in str(error.value)


def test_a_health_check_that_is_missing_is_an_error_of_the_api():
    with pytest.raises(ApiError, match="HTTP 404"):
        adapter({})[0].health()


def test_the_allocation_is_what_the_live_offers_show():
    allocation = adapter()[0].allocation()
    assert (allocation.value, allocation.share) == (5, 0.625)
    differing = adapter(golem_routes() | {"/market-api/v1/offers": [offer(5), offer(6)]})[0].allocation()
    assert differing.value is None
    assert "differ" in differing.source


def test_running_tasks_are_counted():
    routes = golem_routes() | {
        "/market-api/v1/agreements": [{"id": "one"}],
        "/activity-api/v1/activity": ["a", "b/../c"],
        "/activity-api/v1/activity/b/../c/state": {"state": ["Terminated", None]},
    }
    (running,) = adapter(routes)[0].resource_usage()
    assert (running.metric, running.value) == ("tasks_running", 1.0)


def profile(tmp_path):
    (tmp_path / "hardware.json").write_text(json.dumps(PROFILE))
    return {"data_dir": str(tmp_path)}


def test_the_lever_is_whole_threads_and_hot(tmp_path):
    (lever,) = adapter(options=profile(tmp_path))[0].levers()
    assert (lever.minimum, lever.maximum, lever.step, lever.mode) == (1, 7, 1, LeverMode.HOT)
    assert lever.writable
    assert not adapter()[0].levers()[0].writable


@pytest.mark.parametrize("content", ["{", "[]", '{"active":"a","profiles":{}}', '{"active":[],"profiles":{}}', "\xff"])
def test_a_profile_that_is_none_makes_the_lever_say_why(tmp_path, content):
    (tmp_path / "hardware.json").write_bytes(content.encode("latin-1"))
    (lever,) = adapter(options={"data_dir": str(tmp_path)})[0].levers()
    assert not lever.writable
    assert "hardware.json" in lever.why_not


def test_applying_writes_the_profile_in_step_and_waits_for_the_offers(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    routes = golem_routes()
    shown = iter([[offer(5)], [], [offer(5), offer(2)]])
    routes["/market-api/v1/offers"] = lambda _request: next(shown, [offer(2)])
    golem, _ = adapter(routes, options=profile(tmp_path))
    change = golem.apply("cpu_threads", 2)
    assert (change.previous, change.requested, change.read_back) == (5, 2, 2)
    content = json.loads((tmp_path / "hardware.json").read_text())
    assert content["profiles"]["default"] == {"cpu_threads": 2, "mem_gib": 4.0, "storage_gib": 931.3226}
    assert content["profiles"]["x"] == {}


def test_offers_that_never_show_the_change_are_an_error_that_tells_what_they_show(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    golem, _ = adapter(options=profile(tmp_path))
    with pytest.raises(AllocationError, match="asked for 7 threads, the offers show 5"):
        golem.apply("cpu_threads", 7)


@pytest.mark.parametrize("value", [0, 2.5, float("nan")])
def test_parts_of_a_thread_are_refused(tmp_path, value):
    golem, _ = adapter(options=profile(tmp_path))
    with pytest.raises(AllocationError, match="a whole number of at least 1 threads"):
        golem.apply("cpu_threads", value)
    assert json.loads((tmp_path / "hardware.json").read_text()) == PROFILE


def test_the_key_may_come_from_the_environment_and_must_come_from_somewhere(monkeypatch):
    monkeypatch.setenv("GOLEM_KEY", "from-the-environment")
    golem, script = adapter(token=None, token_env="GOLEM_KEY")
    golem.allocation()
    assert script.requests[0].headers["authorization"] == "Bearer from-the-environment"
    with pytest.raises(SettingsError, match="NOT_SET"):
        adapter(token=None, token_env="NOT_SET")
    with pytest.raises(SettingsError, match="golem needs yagna's app-key"):
        adapter(token=None)


def test_times_are_utc():
    assert earned([note("a", 0, "2026-11-20T12:30:00+01:00", "1")]).amounts.net == 1
    assert WINDOW.start == datetime(2026, 11, 20, 11, tzinfo=UTC)
