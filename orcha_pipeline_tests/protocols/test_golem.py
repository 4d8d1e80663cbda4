import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.controllers.base import ProcessUsage
from orcha_pipeline.errors import (
    AllocationError,
    ApiError,
    AuthenticationError,
    ParseError,
    SettingsError,
    UnsupportedError,
)
from orcha_pipeline.model import AppliedChange, HealthState, LeverMode, Provenance, Window
from orcha_pipeline.protocols import golem_documents, golem_files
from orcha_pipeline.protocols.golem import GolemAdapter
from orcha_pipeline_tests.protocols.answers import golem_routes, invoice, note, offer
from orcha_pipeline_tests.protocols.fakes import NOW, SECRET, FakeController, Script, no_waiting, settings

WINDOW = Window(NOW - timedelta(hours=1), NOW)
NOTES, INVOICES = "/payment-api/v1/debitNotes", "/payment-api/v1/invoices"
STATUS, NET = "/payment-api/v1/payments/status", "/net-api/v2/net/status"
AGREEMENTS, METRICS = "/market-api/v1/agreements", "/metrics-api/v1/expose"
RECEIVED = 'payment_amount_received{platform="erc20-polygon-glm"} 1500000000\n'
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


def text(content):
    return httpx.Response(200, headers={"content-type": "text/plain"}, text=content)


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
    monkeypatch.setattr(golem_documents, "PAGE", 3)
    times = ["11:01", "11:02", "11:05", "11:05", "11:05", "11:05", "11:05", "11:09"]
    notes = [note(f"t{i}", 0, f"2026-11-20T{at}:00Z", "1") for i, at in enumerate(times)]
    assert earned(notes).amounts.net == len(times)


def test_a_full_page_out_of_order_is_refused_for_the_rest_could_not_be_found(monkeypatch):
    monkeypatch.setattr(golem_documents, "PAGE", 2)
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


def test_the_history_of_the_hour_that_runs_ends_now():
    golem, _ = adapter()
    now = golem.clock.now()
    buckets = golem.earnings_history(Window(now - timedelta(hours=2), now + timedelta(hours=1)))
    assert buckets
    assert buckets[-1].window.end == now


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
    routes["/market-api/v1/agreements/one"] = routes["/market-api/v1/agreements/7f31"]
    usage = {reading.metric: reading.value for reading in adapter(routes)[0].resource_usage()}
    # The vector of this agreement begins with the seconds.
    assert usage == {
        "tasks_running": 1.0,
        "running_tasks_cpu_seconds": 412.5,
        "running_tasks_duration_seconds": 120.02,
    }


def test_without_a_task_one_question_is_enough():
    golem, script = adapter(golem_routes() | {"/market-api/v1/agreements": []})
    assert [(reading.metric, reading.value) for reading in golem.resource_usage()] == [("tasks_running", 0.0)]
    assert len(script.requests) == 1
    assert script.requests[0].url.params["state"] == "Approved"


@pytest.mark.parametrize("usage", [None, [], [120.02]])
def test_what_a_task_has_not_told_is_unknown_and_the_task_still_counts(usage):
    routes = golem_routes() | {"/activity-api/v1/activity/a/usage": {"currentUsage": usage, "timestamp": 1}}
    tasks, cpu, _ = adapter(routes)[0].resource_usage()
    assert tasks.value == 1.0
    assert (cpu.value, cpu.provenance) == (None, Provenance.UNKNOWN)


def test_the_hosts_own_figures_stand_beside_the_nodes():
    golem, _ = adapter(golem_routes() | {"/market-api/v1/agreements": []})
    golem.controller.usage = lambda: ProcessUsage(memory_bytes=5.0, source="cgroup")
    assert [reading.metric for reading in golem.resource_usage()] == ["tasks_running", "memory_bytes"]


def profile(tmp_path):
    (tmp_path / "hardware.json").write_text(json.dumps(PROFILE))
    return {"data_dir": str(tmp_path)}


def presets(tmp_path, active=("vm",)):
    coefficients = {"golem.usage.cpu_sec": 6.9e-6, "golem.usage.duration_sec": 1.4e-6}
    made = [
        {
            "name": name,
            "exeunit-name": name,
            "pricing-model": "linear",
            "initial-price": 0.0,
            "usage-coeffs": coefficients,
            "x-unknown": [1],
        }
        for name in ("vm", "wasmtime")
    ]
    content = {"ver": "V1", "active": list(active), "presets": made}
    (tmp_path / "presets.json").write_text(json.dumps(content))
    return profile(tmp_path) if not (tmp_path / "hardware.json").exists() else {"data_dir": str(tmp_path)}


def test_the_lever_is_whole_threads_and_hot(tmp_path):
    lever = adapter(options=profile(tmp_path))[0].levers()[0]
    assert (lever.minimum, lever.maximum, lever.step, lever.mode) == (1, 7, 1, LeverMode.HOT)
    assert lever.writable
    assert not adapter()[0].levers()[0].writable


@pytest.mark.parametrize("content", ["{", "[]", '{"active":"a","profiles":{}}', '{"active":[],"profiles":{}}', "\xff"])
def test_a_profile_that_is_none_makes_the_lever_say_why(tmp_path, content):
    (tmp_path / "hardware.json").write_bytes(content.encode("latin-1"))
    lever = adapter(options={"data_dir": str(tmp_path)})[0].levers()[0]
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


def test_a_profile_that_the_provider_has_missed_is_told_and_written_once_more(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    routes = golem_routes()
    threads = [3]
    routes["/market-api/v1/offers"] = lambda _request: [offer(threads[0])]
    options = profile(tmp_path)
    golem, _ = adapter(routes, options=options)
    assert golem.pending_change() == ""
    file = tmp_path / "hardware.json"
    file.write_text(file.read_text().replace('"cpu_threads": 3', '"cpu_threads": 5'))
    assert golem.pending_change() == "the hardware profile says 5 threads, the offers 3"
    before, written = file.read_text(), file.stat().st_ino

    def watching(_request):
        threads[0] = 5 if file.stat().st_ino != written else 3
        return [offer(threads[0])]

    routes["/market-api/v1/offers"] = watching
    assert golem.apply("cpu_threads", 5).read_back == 5
    assert json.loads(file.read_text()) == json.loads(before)


def own(tmp_path):
    content = json.loads((tmp_path / "hardware.json").read_text())
    return content["profiles"][content["active"]]


def test_set_back_it_has_the_operators_own_memory_and_storage_again(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    options = presets(tmp_path)
    before = own(tmp_path)
    golem, _ = adapter(provider(tmp_path), options=options, min_share=0.0)
    golem.apply("cpu_threads", 2)
    assert own(tmp_path)["mem_gib"] == 4.0
    # Another process, which knows nothing of this one, sets it back.
    adapter(provider(tmp_path), options=options)[0].apply("cpu_threads", 3)
    assert own(tmp_path) == before
    golem.apply("cpu_threads", 4)
    golem.apply("cpu_threads", 5)
    golem.apply("cpu_threads", 4)
    assert own(tmp_path) == before | {"cpu_threads": 4, "mem_gib": 8.0, "storage_gib": 1862.6451}


def test_a_pause_that_is_set_back_leaves_memory_and_storage_as_they_were(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    options = presets(tmp_path)
    golem, _ = adapter(provider(tmp_path), options=options, min_share=0.0)
    golem.apply("cpu_threads", 0)
    golem.apply("cpu_threads", 3)
    assert json.loads((tmp_path / "hardware.json").read_text()) == PROFILE


@pytest.mark.parametrize("spoilt", ["{", "[]", '{"threads": "x"}'])
def test_where_nothing_is_remembered_memory_and_storage_go_in_step(tmp_path, monkeypatch, spoilt):
    no_waiting(monkeypatch)
    options = presets(tmp_path)
    golem, _ = adapter(provider(tmp_path), options=options)
    golem.apply("cpu_threads", 2)
    (tmp_path / "orcha-last-profile.json").write_text(spoilt)
    golem.apply("cpu_threads", 3)
    assert own(tmp_path)["mem_gib"] == 6.0


def test_offers_that_never_show_the_change_are_an_error_that_tells_what_they_show(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    golem, _ = adapter(options=profile(tmp_path))
    with pytest.raises(AllocationError, match="asked for 7 threads, the offers show 5"):
        golem.apply("cpu_threads", 7)


@pytest.mark.parametrize("value", [-1, 2.5, float("nan")])
def test_parts_of_a_thread_are_refused(tmp_path, value):
    golem, _ = adapter(options=presets(tmp_path))
    with pytest.raises(AllocationError, match="a whole number of at least 0 threads"):
        golem.apply("cpu_threads", value)
    assert json.loads((tmp_path / "hardware.json").read_text()) == PROFILE


def test_zero_threads_are_refused_where_the_presets_are_out_of_reach(tmp_path):
    golem, _ = adapter(options=profile(tmp_path), min_share=0.0)
    assert golem.levers()[0].minimum == 1
    with pytest.raises(AllocationError, match="a whole number of at least 1 threads"):
        golem.apply("cpu_threads", 0)


def test_the_threads_go_down_to_zero_only_where_the_operator_allows_no_share(tmp_path):
    options = presets(tmp_path)
    assert adapter(options=options, min_share=0.0)[0].levers()[0].minimum == 0
    assert adapter(options=options, min_share=0.05)[0].levers()[0].minimum == 1


def provider(tmp_path, published=lambda threads, active: [offer(threads) for _ in active]):
    """Routes whose offers are what an agent with these files would publish."""

    def offers(_request):
        hardware = json.loads((tmp_path / "hardware.json").read_text())
        active = json.loads((tmp_path / "presets.json").read_text())["active"]
        return published(hardware["profiles"][hardware["active"]]["cpu_threads"], active)

    return golem_routes() | {"/market-api/v1/offers": offers}


@pytest.mark.parametrize("active", [["vm", "wasmtime"], ["wasmtime"]])
def test_zero_threads_deactivate_the_presets_and_more_activate_the_same_again(tmp_path, monkeypatch, active):
    no_waiting(monkeypatch)
    options = presets(tmp_path, active=active)
    golem, _ = adapter(provider(tmp_path), options=options, min_share=0.0)
    before = json.loads((tmp_path / "presets.json").read_text())
    assert golem.apply("cpu_threads", 0) == AppliedChange(lever="cpu_threads", previous=3, requested=0, read_back=0)
    assert json.loads((tmp_path / "presets.json").read_text()) == before | {"active": []}
    assert json.loads((tmp_path / "hardware.json").read_text()) == PROFILE
    health, allocation = golem.health(), golem.allocation()
    assert (health.state, allocation.value, allocation.share) == (HealthState.HEALTHY, 0, 0)
    assert f"Orcha has deactivated the presets {', '.join(active)}" in health.reason
    # Another process, which knows nothing of this one, brings it back.
    other, _ = adapter(provider(tmp_path), options=options, min_share=0.0)
    assert other.levers()[0].writable
    assert other.apply("cpu_threads", 5).previous == 0
    assert json.loads((tmp_path / "presets.json").read_text()) == before
    assert not (tmp_path / "orcha-active-presets.json").exists()


def test_what_is_deactivated_is_remembered_before_anything_is_deactivated(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    options = presets(tmp_path)
    written = []
    replace = golem_files.replace_config
    monkeypatch.setattr(golem_files, "replace_config", lambda n, p, t: (written.append(p.name), replace(n, p, t)))
    adapter(provider(tmp_path), options=options, min_share=0.0)[0].apply("cpu_threads", 0)
    assert written == ["orcha-active-presets.json", "presets.json"]


def test_presets_that_somebody_else_deactivated_are_left_alone(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    golem, _ = adapter(provider(tmp_path), options=presets(tmp_path, active=[]), min_share=0.0)
    lever = golem.levers()[0]
    assert not lever.writable
    assert "Orcha has not deactivated one" in lever.why_not
    assert golem.allocation().value == 0
    assert golem.health().state is HealthState.ERROR
    with pytest.raises(UnsupportedError, match="no preset is active"):
        golem.apply("cpu_threads", 3)


def test_a_preset_activated_by_hand_meanwhile_stays_the_only_one(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    options = presets(tmp_path, active=["vm", "wasmtime"])
    golem, _ = adapter(provider(tmp_path), options=options, min_share=0.0)
    golem.apply("cpu_threads", 0)
    presets(tmp_path, active=["wasmtime"])
    golem.apply("cpu_threads", 4)
    assert json.loads((tmp_path / "presets.json").read_text())["active"] == ["wasmtime"]
    # What was remembered is of the past now.
    presets(tmp_path, active=[])
    assert not golem.levers()[0].writable


def test_a_remembered_preset_that_is_gone_is_not_activated(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    options = presets(tmp_path, active=["vm"])
    golem, _ = adapter(provider(tmp_path), options=options, min_share=0.0)
    golem.apply("cpu_threads", 0)
    content = json.loads((tmp_path / "presets.json").read_text())
    (tmp_path / "presets.json").write_text(json.dumps(content | {"presets": []}))
    with pytest.raises(AllocationError, match="no preset is active, nor known to have been"):
        golem.apply("cpu_threads", 4)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"deactivated": 5}', "\xff"])
def test_a_broken_memory_of_presets_is_none(tmp_path, content):
    options = presets(tmp_path, active=[])
    (tmp_path / "orcha-active-presets.json").write_bytes(content.encode("latin-1"))
    assert not adapter(options=options)[0].levers()[0].writable


def test_offers_still_shown_while_presets_go_are_the_allocation(tmp_path):
    golem, _ = adapter(options=presets(tmp_path, active=[]))
    assert golem.allocation().value == 5


def test_missing_offers_of_active_presets_are_unknown_and_an_error_not_zero(tmp_path):
    golem, _ = adapter(golem_routes() | {"/market-api/v1/offers": []}, options=presets(tmp_path))
    assert golem.allocation().value is None
    assert "the presets vm are active: is ya-provider running?" in golem.health().reason


def test_a_folder_that_may_not_be_written_is_told_beforehand(tmp_path, monkeypatch):
    options = presets(tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    lever = adapter(options=options)[0].levers()[0]
    assert not lever.writable
    assert "may not write" in lever.why_not


def test_prices_are_levers_in_glm_an_hour_that_carry_no_share(tmp_path):
    golem, _ = adapter(options=presets(tmp_path))
    threads, cpu, duration = golem.levers()
    assert [lever.name for lever in (threads, cpu, duration)] == ["cpu_threads", "cpu_price", "duration_price"]
    assert {lever.mode for lever in (threads, cpu, duration)} == {LeverMode.HOT}
    assert cpu.writable
    readings = golem.allocations()
    assert [reading.lever for reading in readings] == ["cpu_threads", "cpu_price", "duration_price"]
    assert [reading.share for reading in readings[1:]] == [None, None]
    assert [reading.value for reading in readings[1:]] == pytest.approx([0.0000277 * 3600, 0.0000013 * 3600])


def test_prices_are_found_by_the_order_of_the_offers_vector():
    turned = offer(5, 0.00001, 0.00002)
    turned["properties"]["golem.com.usage.vector"].reverse()
    _, cpu, duration = adapter(golem_routes() | {"/market-api/v1/offers": [turned]})[0].allocations()
    assert (cpu.value, duration.value) == pytest.approx((0.072, 0.036))


def test_prices_that_differ_or_are_not_published_are_unknown():
    differing = [offer(5, 0.1, 0.2), offer(5, 0.3, 0.2)]
    _, cpu, duration = adapter(golem_routes() | {"/market-api/v1/offers": differing})[0].allocations()
    assert (cpu.value, duration.value) == (None, pytest.approx(720))
    assert "differ" in cpu.source
    for reading in adapter(golem_routes() | {"/market-api/v1/offers": []})[0].allocations():
        assert (reading.value, reading.provenance) == (None, Provenance.UNKNOWN)


def test_a_price_is_written_into_the_active_presets_and_read_back_from_the_offers(tmp_path, monkeypatch):
    no_waiting(monkeypatch)

    def offers(_request):
        content = json.loads((tmp_path / "presets.json").read_text())
        active = [preset for preset in content["presets"] if preset["name"] in content["active"]]
        return [offer(5, *preset["usage-coeffs"].values()) for preset in active]

    golem, _ = adapter(golem_routes() | {"/market-api/v1/offers": offers}, options=presets(tmp_path))
    change = golem.apply("cpu_price", 0.036)
    assert (change.previous, change.read_back) == (pytest.approx(0.02484), 0.036)
    vm, wasmtime = json.loads((tmp_path / "presets.json").read_text())["presets"]
    assert vm["usage-coeffs"] == {"golem.usage.cpu_sec": 1e-05, "golem.usage.duration_sec": 1.4e-06}
    assert vm["x-unknown"] == wasmtime["x-unknown"] == [1]
    assert wasmtime["usage-coeffs"]["golem.usage.cpu_sec"] == 6.9e-06  # not active
    assert golem.apply("duration_price", 0.0).read_back == 0.0


def test_prices_out_of_reason_and_prices_that_do_not_show_are_refused(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    golem, _ = adapter(options=presets(tmp_path))
    with pytest.raises(AllocationError, match="at most 10 GLM an hour"):
        golem.apply("cpu_price", 25)
    with pytest.raises(AllocationError, match="at least 0 GLM/h"):
        golem.apply("cpu_price", -0.1)
    with pytest.raises(AllocationError, match=r"asked for 0.5 GLM/h, the offers show 0.09972"):
        golem.apply("cpu_price", 0.5)
    with pytest.raises(UnsupportedError, match="there is no lever 'gpu_price'"):
        golem.apply("gpu_price", 0.5)


def test_presets_of_the_oldest_format_have_no_price_to_change(tmp_path):
    old = {"active": ["vm"], "presets": [{"name": "vm", "usage-coeffs": {"cpu": 1e-6}, "pricing-model": "linear"}]}
    options = presets(tmp_path)
    (tmp_path / "presets.json").write_text(json.dumps(old))
    with pytest.raises(AllocationError, match="no active preset has a linear price"):
        adapter(options=options)[0].apply("cpu_price", 0.5)


@pytest.mark.parametrize("content", ["{", "[]", '{"active":"vm","presets":[]}', '{"active":["vm"],"presets":[1]}'])
def test_presets_that_are_none_take_the_prices_and_the_way_to_zero_but_not_the_threads(tmp_path, content):
    options = presets(tmp_path)
    (tmp_path / "presets.json").write_text(content)
    threads, cpu, _ = adapter(options=options, min_share=0.0)[0].levers()
    assert (threads.writable, threads.minimum) == (True, 1)
    assert not cpu.writable
    assert "presets.json" in cpu.why_not


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


def test_what_the_test_networks_pay_is_no_earning():
    test_token = note("t", 0, "2026-11-20T11:02:00Z", "5", paymentPlatform="erc20-holesky-tglm")
    assert earned([test_token, note("a", 0, "2026-11-20T11:02:00Z", "0.1")]).amounts.net == Decimal("0.1")


def test_an_invoice_received_but_not_accepted_for_a_week_is_doubtful_too():
    window = Window(NOW - timedelta(days=9), NOW - timedelta(days=8))
    old = invoice("agreement-a", "2026-11-11T21:00:00Z", "0.1", "RECEIVED")
    amounts = earned([note("a", 0, "2026-11-11T20:00:00Z", "0.1")], [old], window=window).amounts
    assert amounts.doubtful == Decimal("0.1")


def test_earnings_fail_where_documents_cannot_be_read_and_are_never_made_up_from_what_was_received():
    routes = golem_routes() | {NOTES: httpx.Response(500, json={"message": None}), METRICS: text(RECEIVED)}
    golem, script = adapter(routes)
    with pytest.raises(ApiError, match="HTTP 500"):
        golem.earnings(WINDOW)
    assert METRICS not in {request.url.path for request in script.requests}


def test_the_market_out_of_reach_is_an_error_that_freezes_nobody():
    body = {"type": "/healthcheck/market-bcast-timeout", "detail": "Last received market broadcast is too old"}
    answer = httpx.Response(500, headers={"content-type": "application/problem+json"}, json=body)
    health = adapter(golem_routes() | {"/healthcheck": answer})[0].health()
    assert (health.state, health.error_kind) == (HealthState.ERROR, "api")
    assert "market broadcast is too old" in health.reason


def told(routes, words):
    (found,) = [line for line in adapter(golem_routes() | routes)[0].advice() if words in line]
    return found


def test_each_problem_of_the_payment_driver_is_told_with_what_to_do():
    assert "about 0.002 more" in told({}, "short of gas")
    kinds = ["InsufficientToken", "InvalidChainId", "CantSign", "TxStuck", "RpcError", "Something"]
    status = [{"kind": kind, "driver": "erc20", "network": "polygon"} for kind in kinds]
    lines = adapter(golem_routes() | {STATUS: status})[0].advice()
    assert len([line for line in lines if "erc20 polygon" in line]) == len(kinds)
    assert told({STATUS: status}, "reports Something")
    with pytest.raises(ParseError, match="kind"):
        adapter(golem_routes() | {STATUS: [{"kind": "{0}", "driver": "erc20"}]})[0].advice()


def test_running_tasks_and_missing_tasks_are_told():
    assert "1 task runs now" in told({}, "would abort")
    idle = {AGREEMENTS: []}
    assert "no task has come for 24 hours" in told(idle, "no task")
    golem, script = adapter(golem_routes() | idle)
    golem.advice()
    asked = [r.url.params for r in script.requests if r.url.path == AGREEMENTS]
    assert asked[1]["afterDate"] == "2026-11-19T12:00:00Z"
    busy = {AGREEMENTS: lambda request: [{"id": "x"}] if "afterDate" in request.url.params else []}
    assert not [line for line in adapter(golem_routes() | busy)[0].advice() if "task" in line]


def test_a_node_that_cannot_be_reached_by_requestors_is_told():
    assert "connected to no other node" in told({NET: {"publicIp": None, "sessions": 0}}, "yagna")
    assert "works through a relay" in told({NET: {"publicIp": None, "sessions": 3}}, "yagna")


def test_unpaid_invoices_and_who_left_them_are_told():
    due = {"paymentDueDate": "2026-11-20T11:00:00Z"}
    documents = [
        invoice("a", "2026-11-19T11:00:00Z", "0.5", "ACCEPTED", **due),
        invoice("b", "2026-11-19T11:00:00Z", "0.25", "ACCEPTED", **due, recipientId="0xbad"),
        invoice("c", "2026-11-20T11:00:00Z", "7", "ACCEPTED"),
        invoice("d", "2026-11-10T11:00:00Z", "0.125", "RECEIVED", recipientId="0xbad"),
        invoice("e", "2026-11-20T11:00:00Z", "3", "ISSUED"),
        invoice("f", "2026-11-20T11:00:00Z", "0.0625", "REJECTED", recipientId="0xbad"),
        invoice("g", "2026-11-10T11:00:00Z", "9", "ISSUED", paymentPlatform="erc20-holesky-tglm"),
    ]
    routes = {INVOICES: listing(documents)}
    assert told(routes, "due date").startswith("2 invoices (0.75 GLM)")
    assert told(routes, "not accepted").startswith("1 invoice (0.125 GLM)")
    assert told(routes, "requestor").startswith("requestor 0xbad has left 3 invoices (0.4375 GLM) unpaid")
    assert told(routes, "test networks").startswith("1 invoice")
