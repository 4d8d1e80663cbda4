"""The adapter on the emulated node, subgraph and chain: two independent writers agree on every wei and every risk."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest
import stamina

from orcha_pipeline.controllers.base import Limits
from orcha_pipeline.earnings import earned
from orcha_pipeline.errors import AllocationError, AuthenticationError
from orcha_pipeline.model import HOUR, BalanceKind, HealthState, Provenance, Window
from orcha_pipeline.protocols.streamr import StreamrAdapter
from orcha_pipeline.testnet.streamr import OPERATOR
from orcha_pipeline_tests.protocols.fakes import FakeController, settings

NODE = "streamr-1"


class LabTransport(httpx.BaseTransport):
    """Requests go straight to the testnet's application; `broken` names addresses that answer 502."""

    def __init__(self, lab):
        self.lab = lab
        self.broken = set()

    def handle_request(self, request):
        if request.url.path in self.broken:
            return httpx.Response(502)
        answer = self.lab.http.request(
            request.method, request.url.path, content=request.content, headers=dict(request.headers)
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


class LabClock:
    def __init__(self, lab):
        self.lab = lab

    def now(self):
        return datetime.fromtimestamp(self.lab.economy.now, UTC)


@pytest.fixture
def rig(lab, monkeypatch):
    with stamina.set_testing(True, attempts=1):  # no waiting between tries
        yield Rig(lab, monkeypatch)


class Rig:
    def __init__(self, lab, monkeypatch):
        self.lab = lab
        self.transport = LabTransport(lab)
        self.books = lab.testnet.first.streamr_books
        self.controller = FakeController(self.restart)
        self.folder = lab.testnet.state / NODE
        # The testnet's clock stands still: waiting for a node lets its time pass instead.
        monkeypatch.setattr("orcha_pipeline.protocols.levers.sleep", lambda _seconds: lab.pass_seconds(1))

    def adapter(self, **options):
        base = "http://testnet"
        given = {
            "subgraph_url": f"{base}/thegraph",
            "operator": OPERATOR,
            "rpc_url": f"{base}/polygon",
            "fleet_nodes": 1,
            "config_file": str(self.folder / "default.json"),
        }
        token = options.pop("token", None)
        return StreamrAdapter(
            settings("streamr", url=f"{base}/nodes/{NODE}", options=given | options, token=token, max_share=1.0),
            controller=self.controller,
            clock=LabClock(self.lab),
            transport=self.transport,
        )

    def restart(self):
        self.lab.http.post(f"/docker/containers/{NODE}/restart")


def test_a_sound_operator_is_healthy_and_every_reading_is_there(rig):
    rig.lab.pass_hours(30)
    adapter = rig.adapter()
    found = adapter.health()
    assert (found.state, found.reason) == (HealthState.HEALTHY, "")
    assert found.scores == {"slashings": 0.0, "open_flags": 0.0, "pol": 2.0}
    usage = {u.metric: u for u in adapter.resource_usage()}
    assert usage["peers"].value == usage["connections"].value
    assert usage["sponsorships_staked"].value == usage["stream_parts"].value == 6
    sent = usage["network_sent_bytes_per_second"]
    assert sent.provenance is Provenance.OUR_ESTIMATE
    assert sent.value == pytest.approx(usage["network_received_bytes_per_second"].value * 1.5, rel=0.01)
    assert "earn" in "\n".join(adapter.advice())


def test_the_total_is_the_truth_to_the_last_digits_of_a_float_across_a_withdrawal(rig):
    adapter, before = rig.adapter(self_delegation_share="0.25"), Decimal(0)
    for hours in (22, 1, 1):
        rig.lab.pass_hours(hours)
        (found,) = adapter.earnings(Window(LabClock(rig.lab).now(), LabClock(rig.lab).now()))
        truth = rig.lab.truth(NODE)["native_total"]
        assert float(found.amounts.gross) == pytest.approx(truth, rel=1e-9)
        assert float(found.amounts.net) == pytest.approx(truth * 0.95 * (0.1 + 0.9 * 0.25), rel=1e-9)
        assert found.amounts.gross > before
        before = found.amounts.gross


def test_chain_and_subgraph_agree_on_what_accrues(rig):
    rig.lab.pass_seconds(4321 * 2)
    adapter = rig.adapter()
    by_subgraph = {b.kind: b.amount for b in adapter.balances()}
    rig.transport.broken = {"/thegraph"}
    (by_chain,) = adapter.balances()
    assert float(by_chain.amount) == pytest.approx(float(by_subgraph[BalanceKind.ACCRUED]), rel=1e-9)


def test_sources_that_change_give_the_hours_that_were_truly_earned(rig):
    """A day and more of quarter hours, the subgraph away twice, a withdrawal in its second absence at 23:00."""
    adapter, observations, truth = rig.adapter(), [], {}
    start = LabClock(rig.lab).now()
    for quarter in range(26 * 4 + 1):
        now = LabClock(rig.lab).now()
        away = 5 <= quarter / 4 < 8 or 21.5 <= quarter / 4 < 24.5
        rig.transport.broken = {"/thegraph"} if away else set()
        observations += adapter.earnings(Window(now, now))
        truth[now] = rig.lab.truth(NODE)["native_total"]
        rig.lab.pass_seconds(900)
    rows = earned("n", observations, Window(start, start + 26 * HOUR), lambda _hour: Decimal(1))
    assert [row.window.hours for row in rows] == [1.0] * 26
    assert {o.stream for o in observations} == {"operator", "operator (stand-in)"}
    for row in rows:
        true = truth[row.window.end] - truth[row.window.start]
        assert row.amounts.gross is not None
        assert float(row.amounts.gross) == pytest.approx(true, rel=0.35)
    summed = sum(row.amounts.gross for row in rows)
    assert float(summed) == pytest.approx(truth[start + 26 * HOUR], rel=1e-9)


@pytest.mark.parametrize(
    ("befalls", "told"),
    [
        (lambda rig: setattr(rig.books.circumstances, "open_flags", 1), "1 open flag"),
        (
            lambda rig: rig.books.slash(rig.lab.economy.now, 10**21),
            "slashed 1 time(s) in the last 30 days, by 1000",
        ),
        (lambda rig: setattr(rig.books.circumstances, "pol_wei", 10**17), "0.1000 POL, less than 0.5"),
        (lambda rig: setattr(rig.books.circumstances, "silent_since", rig.lab.economy.start), "no heartbeat on chain"),
        (lambda rig: rig.books.stop_indexing(rig.lab.economy.now - 7200), "120 min behind the chain"),
    ],
)
def test_what_endangers_the_stake_freezes_the_node(rig, befalls, told):
    rig.lab.pass_hours(30)
    befalls(rig)
    found = rig.adapter().health()
    assert found.state is HealthState.AT_RISK
    assert told in found.reason


def test_a_slashing_is_forgotten_after_a_month_and_its_count_is_not(rig):
    rig.books.slash(rig.lab.economy.now - 31 * 86400, 10**21)
    found = rig.adapter().health()
    assert found.state is HealthState.HEALTHY
    assert found.scores["slashings"] == 1


def test_earnings_by_an_index_that_stands_still_still_accrue_and_are_our_estimate(rig):
    rig.lab.pass_hours(3)
    rig.books.stop_indexing(rig.lab.economy.now)
    rig.lab.pass_hours(1)
    (found,) = rig.adapter().earnings(Window(LabClock(rig.lab).now(), LabClock(rig.lab).now()))
    assert found.provenance is Provenance.OUR_ESTIMATE
    assert float(found.amounts.gross) == pytest.approx(rig.lab.truth(NODE)["native_total"], rel=0.1)


def test_keys_are_asked_for_and_given(rig):
    rig.books.circumstances.keys = ["sesame-0123456789"]
    assert rig.adapter(token="sesame-0123456789").health().state is HealthState.HEALTHY
    with pytest.raises(AuthenticationError, match="Unauthorized"):
        rig.adapter().health()
    with pytest.raises(AuthenticationError, match="Forbidden") as error:
        rig.adapter(token="mistaken-0123456789").health()
    assert "mistaken" not in str(error.value)


def test_the_count_is_applied_by_a_restart_that_is_seen_in_the_connections(rig):
    rig.lab.pass_hours(3)
    change = rig.adapter().apply("max_sponsorship_count", 9)
    assert (change.previous, change.requested, change.read_back) == (6, 9, 9)
    rig.lab.pass_seconds(60)
    assert rig.lab.truth(NODE)["lever_value"] == 9
    # The node knows its schema strictly, so what was written is what it takes.
    assert rig.lab.truth(NODE)["log"] == ""


def test_a_restart_that_never_came_is_noticed_and_the_config_put_back(rig):
    rig.lab.pass_hours(3)
    before = (rig.folder / "default.json").read_text()
    rig.controller.on_restart = lambda: None
    with pytest.raises(AllocationError, match="still has the connections from before"):
        rig.adapter(restart_seconds=0.2).apply("max_sponsorship_count", 9)
    assert (rig.folder / "default.json").read_text() == before


def test_the_autostaker_is_taken_out_and_put_back_and_the_node_starts_with_either(rig):
    rig.lab.pass_hours(3)
    before = json.loads((rig.folder / "default.json").read_text())

    def staked():
        return {u.metric: u.value for u in rig.adapter().resource_usage()}["sponsorships_staked"]

    assert staked() == 6
    assert rig.adapter().apply("autostaker", 0).read_back == 0
    assert staked() == 6, "without the plug-in nobody moves the stakes"
    assert rig.lab.truth(NODE)["running"]
    assert rig.adapter().allocation().value is None
    assert rig.adapter().apply("autostaker", 1).read_back == 1
    assert rig.lab.truth(NODE)["running"]
    assert json.loads((rig.folder / "default.json").read_text()) == before


def test_every_lever_reads_back(rig):
    rig.controller.in_force = Limits(bandwidth_mbps=5.0)
    found = {r.lever: r.value for r in rig.adapter().allocations()}
    assert found["max_sponsorship_count"] == 6
    assert (found["autostaker"], found["bandwidth_mbps"]) == (1, 5.0)
