"""The operator's view of the nodes: what is read, what is found wrong, and how it is shown."""

import json
import math
import threading
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from rich.console import Console

from orcha_pipeline import nodes_check, nodes_read
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.controllers.none import WHY_NOT, NoController
from orcha_pipeline.errors import (
    AllocationError,
    ApiError,
    AuthenticationError,
    NodeConnectionError,
    OrchaError,
    SettingsError,
    SupervisionError,
    UnsupportedError,
)
from orcha_pipeline.model import (
    AllocationReading,
    Amounts,
    Balance,
    BalanceKind,
    EarningsBucket,
    HealthReading,
    HealthState,
    Lever,
    LeverMode,
    Provenance,
    UsageReading,
    Window,
)
from orcha_pipeline.nodes_check import Status, check_nodes, findings
from orcha_pipeline.nodes_json import as_text, check_json, reading_json, survey_json
from orcha_pipeline.nodes_read import named, now_of, open_for_viewing, probe, read_one, survey
from orcha_pipeline.nodes_view import check_table, reading_table, survey_table
from orcha_pipeline.warehouse import facts
from orcha_pipeline.warehouse.derived import rebuild_earnings_hourly
from orcha_pipeline_tests.protocols.fakes import FakeController
from orcha_pipeline_tests.rig import LEVER, NOW, FakeNode, installation

PRICED = frozenset({"golem", "storj"})
LONG_NAME = "a-node-whose-name-is-as-long-as-the-settings-allow-it-to-be-1234"[:63]


class Node(FakeNode):
    """A fake whose controller does something, and whose parts can be made to fail one by one."""

    def __init__(self, name="golem-1", clock=None, controller=None, **fails):
        super().__init__(name, clock or FixedClock(NOW))
        self.controller = controller or FakeController()
        self.part_fails = fails

    def _part(self, name):
        if name in self.part_fails:
            raise self.part_fails[name]

    def health(self):
        self._part("health")
        return replace(super().health(), latency_seconds=0.25, version="1.2.3", scores={"audit": 0.99})

    def earnings(self, window):
        self._part("earnings")
        bucket = EarningsBucket(
            stream="hours",
            observed_at=NOW,
            window=Window(NOW - timedelta(hours=1), NOW),
            unit="GLM",
            amounts=Amounts(gross=Decimal("0.100000000000000000")),
            provenance=Provenance.NODE_ESTIMATE,
            source="fake hours",
        )
        return [*super().earnings(window), bucket]

    def balances(self):
        self._part("balances")
        return [
            Balance(
                kind=BalanceKind.PENDING,
                account="erc20",
                observed_at=NOW,
                since=None,
                unit="GLM",
                amount=None,
                provenance=Provenance.UNKNOWN,
                source="fake",
            )
        ]

    def resource_usage(self):
        self._part("usage")
        return [UsageReading(metric="cpu_seconds_total", value=None, provenance=Provenance.UNKNOWN, source="fake")]

    def levers(self):
        self._part("levers")
        os_limit = Lever(
            name="memory_gib",
            unit="GiB",
            mode=LeverMode.OS_LIMIT,
            minimum=0.5,
            maximum=8.0,
            step=0.5,
            at_full_share=8.0,
            writable=False,
            why_not="the socket may not be written; add orcha to the group docker",
        )
        return [replace(LEVER, cooldown=timedelta(hours=24), restarts_per_month=4), os_limit]

    def allocations(self):
        self._part("allocations")
        return [super().allocation()]

    def advice(self):
        self._part("advice")
        return ["raise the stake: 12 DATA more would pay"]


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """An installation whose adapters are the given fakes."""

    def make(*fakes, clock=None):
        def adapter(settings, _clock):
            found = next(fake for fake in fakes if getattr(fake, "node", None) == settings.name)
            if isinstance(found, Unusable):
                raise found.error
            return found

        monkeypatch.setattr(nodes_read, "make_adapter", adapter)
        monkeypatch.setattr(nodes_check, "PriceClient", PriceSource)
        return installation(tmp_path, clock or FixedClock(NOW), [fake.node for fake in fakes])

    return make


class PriceSource:
    """Knows two tokens."""

    def __init__(self, *_settings_and_clock, **_tokens):
        self.tokens = tuple(sorted(PRICED))

    def close(self):
        pass


class Unusable:
    """Stands for a node whose adapter cannot be made."""

    def __init__(self, name, error):
        self.node, self.error = name, error


def shown(renderable, width=100):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def of(found, part):
    return [(finding.status, finding.text) for finding in found if finding.part == part]


# --- all nodes at a look


def test_one_node_that_cannot_be_used_and_one_that_is_dead_do_not_hide_the_third(nodes):
    dead = Node("dead-1", health=NodeConnectionError("dead-1", "refused; is the node running?"))
    unset = Unusable("unset-1", SettingsError("node 'unset-1': the variable KEY (token_env) is not set; export it"))
    broken = Unusable("plug-1", ZeroDivisionError("sekret-0123456789"))
    found = survey(nodes(dead, unset, Node("golem-1"), broken))
    assert [(look.settings.name, nodes_read.state_of(look)) for look in found.nodes] == [
        ("dead-1", "unreachable"),
        ("unset-1", "not_usable"),
        ("golem-1", "healthy"),
        ("plug-1", "not_usable"),
    ]
    text = shown(survey_table(found, width=100))
    for part in ("refused; is the node running?", "the variable KEY (token_env) is not set; export it"):
        assert part in text
    assert "ZeroDivisionError in test_nodes_view.py, line" in text
    assert "sekret" not in text


def test_the_list_tells_what_can_be_changed_and_why_not(nodes):
    text = shown(survey_table(survey(nodes(Node())), width=100))
    assert "✓ limit is 50 unit; can be 0 to 100 unit, at once, once in 24 h, 4 times in 30 days" in " ".join(
        text.split()
    )
    assert "memory_gib cannot be changed: the socket may not be written; add orcha to the group docker" in " ".join(
        text.split()
    )
    assert "50.0%" in text
    assert "measured, node estimate" in shown(survey_table(survey(nodes(Node())), width=160), width=160)


def test_the_last_record_is_shown_and_none_is_called_never(nodes):
    made = nodes(Node(), Node("golem-2"))
    hour = NOW.replace(minute=0)
    reading = survey(made).nodes[0].reading
    with made.warehouse.write() as connection:
        facts.record_readings(connection, [replace(reading, observed_at=hour)])
    recorded = {look.settings.name: look.recorded for look in survey(made).nodes}
    assert recorded["golem-2"] is None
    assert (recorded["golem-1"].state, recorded["golem-1"].share) == (HealthState.HEALTHY, 0.5)
    assert recorded["golem-1"].observed_at == hour
    assert recorded["golem-1"].hour is None
    text = shown(survey_table(survey(made), width=140))
    assert "2026-03-05 12:00" in text
    assert "never" in text


def test_the_last_hour_whose_earnings_are_known_is_shown_with_its_usd(nodes, tmp_path):
    made = nodes(Node())
    reading = survey(made).nodes[0].reading
    with made.warehouse.write() as connection:
        hour = NOW.replace(minute=0) - timedelta(hours=1)
        bucket = replace(reading.earnings[1], window=Window(hour, hour + timedelta(hours=1)), unit="USD")
        amounts = Amounts(gross=Decimal(2), held=Decimal(0), net=Decimal("1.5"), doubtful=Decimal(0))
        facts.record_readings(connection, [replace(reading, earnings=(replace(bucket, amounts=amounts),))])
        rebuild_earnings_hourly(connection, Window(hour, hour + timedelta(hours=1)), {"golem-1": (None, None)})
    (look,) = survey(made).nodes
    assert (look.recorded.hour.net, look.recorded.hour.usd, look.recorded.hour.unit) == (Decimal("1.5"), 1.5, "USD")
    assert "1.5000" in shown(survey_table(survey(made), width=140))
    told = survey_json(survey(made))["nodes"][0]["recorded"]["hour"]
    assert told["net"] == "1.500000000000000000"
    assert told["start"] == "2026-03-05T11:00:00Z"


def test_without_a_warehouse_the_list_works_and_makes_none(nodes):
    made = nodes(Node())
    made.settings.warehouse_path.unlink()
    found = survey(made)
    assert (found.nodes[0].recorded, found.warehouse_problem) == (None, "")
    assert not made.settings.warehouse_path.exists()


def test_a_warehouse_that_cannot_be_read_is_told_beside_the_list(nodes):
    made = nodes(Node())
    made.settings.warehouse_path.write_bytes(b"no database")
    found = survey(made)
    assert "is damaged, or is no DuckDB file" in found.warehouse_problem
    assert "golem-1" in shown(survey_table(found, width=100))
    made.settings.warehouse_path.unlink()
    import duckdb

    duckdb.connect(str(made.settings.warehouse_path)).close()  # a warehouse without any table
    assert "was made by an earlier Orcha" in survey(made).warehouse_problem


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["storj-behind-the-house", LONG_NAME])
def test_a_name_is_never_broken_over_lines(nodes, width, name):
    found = survey(nodes(Node(name), Node("golem-2")))
    text = shown(survey_table(found, width=width), width=width)
    assert name in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_a_state_is_never_cut_short_on_a_narrow_terminal(nodes):
    dead = Node("storj-attic", health=NodeConnectionError("storj-attic", "refused"))
    assert "unreachable" in shown(survey_table(survey(nodes(dead, Node("golem-attic"))), width=80), width=80)


def test_what_is_unknown_is_called_so_and_never_zero(nodes):
    node = Node("golem-1", health=ApiError("golem-1", "HTTP 500"), earnings=ApiError("golem-1", "HTTP 500"))
    node.allocation = lambda: (_ for _ in ()).throw(UnsupportedError("golem-1", "no"))
    (look,) = survey(nodes(node)).nodes
    row = next(line for line in shown(survey_table(survey(nodes(node)), width=120)).splitlines() if "error" in line)
    assert row.split()[:5] == ["golem-1", "fake", "error", "unknown", "unknown"]
    told = survey_json(survey(nodes(node)))["nodes"][0]
    assert (told["allocation"], told["earnings"], told["recorded"]) == (None, [], None)
    assert look.reading.allocation is None


def test_simulated_nodes_are_labelled(nodes):
    made = nodes(Node())
    settings = made.settings.model_copy(
        update={"nodes": tuple(node.model_copy(update={"simulated": True}) for node in made.settings.nodes)}
    )
    simulated = replace(made, settings=settings, simulated=True)
    assert "(simulated)" in shown(survey_table(survey(simulated), width=100))
    assert survey_json(survey(simulated))["simulated"] is True
    assert "(simulated)" in shown(check_table(check_nodes(simulated)))
    assert "(simulated)" not in shown(survey_table(survey(made), width=100))


def test_what_a_node_tells_cannot_steer_the_terminal(nodes):
    told = AllocationReading(
        lever="limit",
        value=1.0,
        unit="unit",
        share=0.1,
        provenance=Provenance.MEASURED,
        source="\x1b[31mred",
        note="going\x1b[2J up\r\n",
    )
    node = Node()
    node.allocations = lambda: [told]
    node.allocation = lambda: told
    made = nodes(node)
    for text in (
        shown(survey_table(survey(made), width=100)),
        shown(reading_table(read_one(made, "golem-1"))),
        as_text(reading_json(read_one(made, "golem-1"))),
    ):
        assert "\x1b" not in text


def test_plug_ins_that_cannot_be_used_are_told(nodes, monkeypatch):
    monkeypatch.setattr(nodes_read, "plug_in_problems", lambda: {"mesh": "no_such: ModuleNotFoundError: no [package]"})
    found = survey(nodes(Node()))
    assert "Plug-in mesh cannot be used: no_such: ModuleNotFoundError: no [package]" in shown(
        survey_table(found, width=100)
    )
    assert survey_json(found)["plug_in_problems"] == {"mesh": "no_such: ModuleNotFoundError: no [package]"}


# --- which node


def test_a_typing_error_in_a_name_is_met_with_the_nearest_one(nodes):
    made = nodes(Node("storj-attic"), Node("golem-attic"))
    with pytest.raises(OrchaError, match=r"There is no node 'storj-atic'; did you mean storj-attic\?"):
        named(made, "storj-atic")
    with pytest.raises(OrchaError, match="`orcha nodes` lists them"):
        check_nodes(made, "zzz")


class AwayClock:
    def __init__(self, cause):
        self.cause = cause

    def now(self):
        raise SupervisionError("What answers is not the testnet.") from self.cause


def test_a_testnet_that_is_away_is_one_message_that_says_what_to_do(nodes):
    import httpx

    made = nodes(Node(), Node("golem-2"), clock=AwayClock(httpx.ConnectError("refused")))
    with pytest.raises(OrchaError) as told:
        survey(made)
    for part in ("orcha up", "orcha testnet serve --state", "orcha init"):
        assert part in str(told.value)
    with pytest.raises(SupervisionError, match="is not the testnet"):
        now_of(nodes(Node(), clock=AwayClock(None)))


def test_options_that_an_adapter_refuses_do_not_keep_the_settings_from_being_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHA_CONFIG", raising=False)
    (tmp_path / "orcha.toml").write_text(
        """
[[hosts]]
name = "box"
capacity = { cpu_threads = 8, memory_gib = 16, disk_gb = 4000, bandwidth_mbps = 100 }
[[nodes]]
name = "storj-1"
protocol = "storj"
host = "box"
url = "http://127.0.0.1:9"
demand = { cpu_threads = 1, memory_gib = 1, disk_gb = 1000, bandwidth_mbps = 10 }
options = { no_such_option = 1 }
"""
    )
    (look,) = survey(open_for_viewing()).nodes
    assert look.reading is None
    assert "no_such_option" in look.problem


# --- one node, part by part


def test_a_reading_has_every_part_with_units_and_provenance(nodes):
    told = json.loads(as_text(reading_json(read_one(nodes(Node()), "golem-1"))))
    assert told["observed_at"] == "2026-03-05T12:05:00Z"
    assert told["window"] == {"start": "2026-03-04T12:05:00Z", "end": "2026-03-05T12:05:00Z"}
    assert (told["native_unit"], told["token"], told["tokens_per_native"]) == ("GLM", "golem", "1")
    assert told["health"]["scores"] == {"audit": 0.99}
    counter, bucket = told["earnings"]
    assert (counter["kind"], counter["gross"], counter["start"], counter["unit"]) == ("counter", "1", None, "GLM")
    assert (bucket["kind"], bucket["gross"], bucket["net"]) == ("bucket", "0.100000000000000000", None)
    assert (bucket["start"], bucket["end"]) == ("2026-03-05T11:05:00Z", "2026-03-05T12:05:00Z")
    assert told["balances"][0] == {
        "kind": "pending",
        "account": "erc20",
        "observed_at": "2026-03-05T12:05:00Z",
        "since": None,
        "unit": "GLM",
        "amount": None,
        "provenance": "unknown",
        "source": "fake",
        "note": "",
    }
    assert told["usage"][0]["value"] is None
    assert [lever["name"] for lever in told["levers"]] == ["limit", "memory_gib"]
    assert told["levers"][0]["cooldown_seconds"] == 86400
    assert told["allocations"][0]["share"] == 0.5
    assert told["advice"] == ["raise the stake: 12 DATA more would pay"]
    assert told["controller"]["limits"] == {"cpu_threads": None, "memory_bytes": None, "bandwidth_mbps": None}
    assert told["errors"] == []


def test_a_part_that_fails_is_null_and_told_and_the_others_are_there(nodes):
    failing = {
        "earnings": AuthenticationError("golem-1", "HTTP 401; set a valid key or token (token_env)"),
        "balances": UnsupportedError("golem-1", "this version has none"),
        "usage": RuntimeError("sekret-0123456789"),
    }
    found = read_one(nodes(Node(**failing)), "golem-1")
    told = reading_json(found)
    assert (told["earnings"], told["balances"], told["usage"]) == (None, None, None)
    assert told["health"]["state"] == "healthy"
    assert {error["part"]: error["kind"] for error in told["errors"]} == {
        "earnings": "authentication",
        "balances": "unsupported",
        "usage": "program",
    }
    assert set(found.faults) == {"earnings", "usage"}
    assert "sekret" not in as_text(told)
    text = shown(reading_table(found), width=160)
    assert text.count("not read") >= 3
    assert "HTTP 401; set a valid key or token (token_env)" in text


def test_no_number_that_is_none_reaches_the_json(nodes):
    node = Node()
    node.resource_usage = lambda: [
        UsageReading(metric="x", value=value, provenance=Provenance.MEASURED, source="fake")
        for value in (math.inf, math.nan, 1.5)
    ]
    told = json.loads(as_text(reading_json(read_one(nodes(node), "golem-1"))))
    assert [usage["value"] for usage in told["usage"]] == [None, None, 1.5]


def test_a_node_that_hangs_in_spite_of_its_budget_is_given_up(nodes):
    release = threading.Event()
    node = Node()
    node.settings = node.settings.model_copy(update={"timeout_seconds": 0.05})
    node.levers = release.wait
    try:
        found = probe(node, NOW)
    finally:
        release.set()
    assert found.health is not None
    assert found.earnings is not None
    assert {failure.kind for failure in found.failures.values()} == {"connection"}
    assert set(found.failures) == {"levers", "allocations", "usage", "controller", "limits", "balances", "advice"}


def test_a_full_reading_is_a_table_that_says_unknown(nodes):
    text = shown(reading_table(read_one(nodes(Node()), "golem-1")), width=160)
    for part in ("golem-1: fake on box, 2026-03-05 12:05 UTC", "0.1", "unknown", "node estimate", "raise the stake"):
        assert part in text


def test_names_of_metrics_and_whole_numbers_are_in_one_piece_on_a_narrow_terminal(nodes):
    metric = "network_received_bytes_per_second"
    source = "Docker container golem-1 at unix:///var/run/docker.sock"
    reading = UsageReading(metric=metric, value=30230230030.0, provenance=Provenance.OUR_ESTIMATE, source=source)
    node = Node()
    node.resource_usage = lambda: [reading]
    text = shown(reading_table(read_one(nodes(node), "golem-1")), width=80)
    (row,) = (line.split() for line in text.splitlines() if metric in line)
    assert row[1:4] == ["30230230030", "our", "estimate"]
    folded = "".join(line[line.index("Docker") :] if "Docker" in line else line.strip() for line in text.splitlines())
    assert "docker.sock" in folded.replace(" ", "")


def test_a_switch_is_on_or_off():
    switch = replace(LEVER, name="autostaker", unit="on", maximum=1.0, at_full_share=1.0)
    stands = AllocationReading(
        lever="autostaker", value=0.0, unit="on", share=None, provenance=Provenance.MEASURED, source="fake"
    )
    assert nodes_check.lever_words(switch, stands) == "autostaker is off; can be on or off, at once"


# --- a check


def test_a_node_in_order_has_no_broken_part_and_a_lever_that_is_not_writable_is_a_note(nodes):
    (check,) = check_nodes(nodes(Node()))
    assert not check.broken
    levers = of(check.findings, "lever")
    assert [status for status, _ in levers] == [Status.OK, Status.NOTE]
    assert "add orcha to the group docker" in levers[1][1]
    assert of(check.findings, "connection") == [(Status.OK, "answers in 0.25 s, version 1.2.3")]
    assert "Nothing is broken. Nothing was changed." in shown(check_table([check]))


@pytest.mark.parametrize(
    ("part", "error", "finding"),
    [
        ("health", NodeConnectionError("golem-1", "refused; is it running?"), "connection"),
        ("health", AuthenticationError("golem-1", "HTTP 401; set a valid key"), "credentials"),
        ("earnings", AuthenticationError("golem-1", "HTTP 403; set a valid key"), "credentials"),
        ("health", ApiError("golem-1", "HTTP 500"), "health"),
        ("earnings", ApiError("golem-1", "HTTP 500"), "earnings"),
        ("usage", ApiError("golem-1", "HTTP 500"), "usage"),
        ("balances", ApiError("golem-1", "HTTP 500"), "balances"),
        ("levers", ApiError("golem-1", "HTTP 500"), "levers"),
        ("allocations", ApiError("golem-1", "the file cannot be read"), "allocations"),
        ("usage", RuntimeError("bug"), "usage"),
    ],
)
def test_each_part_that_fails_is_broken_and_told_whole(nodes, part, error, finding):
    (check,) = check_nodes(nodes(Node(**{part: error})))
    assert check.broken
    broken = of(check.findings, finding)
    assert broken[0][0] is Status.BROKEN
    assert getattr(error, "message", "RuntimeError in test_nodes_view.py") in broken[0][1]
    assert "Broken: golem-1." in shown(check_table([check]))


def test_what_the_node_does_not_have_is_a_note(nodes):
    (check,) = check_nodes(nodes(Node(balances=UnsupportedError("golem-1", "this version tells no balances"))))
    assert not check.broken
    assert of(check.findings, "balances") == [(Status.NOTE, "this version tells no balances")]


def test_the_same_failure_is_told_once(nodes):
    error = NodeConnectionError("golem-1", "refused")
    (check,) = check_nodes(nodes(Node(health=error, earnings=error, usage=error)))
    texts = [finding.text for finding in check.findings]
    assert texts.count("refused") == 1
    assert of(check.findings, "earnings") == [(Status.BROKEN, "not read, as connection: the same failure")]
    refused = AuthenticationError("golem-1", "HTTP 401")
    (check,) = check_nodes(nodes(Node(earnings=refused, usage=refused)))
    assert of(check.findings, "credentials") == [(Status.BROKEN, "HTTP 401")]
    assert of(check.findings, "usage") == [(Status.BROKEN, "not read, as credentials: the same failure")]
    failing = ApiError("golem-1", "HTTP 500")
    (check,) = check_nodes(nodes(Node(earnings=failing, usage=failing)))
    assert of(check.findings, "earnings") == [(Status.BROKEN, "HTTP 500")]
    assert of(check.findings, "usage") == [(Status.BROKEN, "not read, as earnings: the same failure")]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (HealthState.HEALTHY, Status.OK),
        (HealthState.AT_RISK, Status.NOTE),
        (HealthState.RESTARTING, Status.NOTE),
        (HealthState.ERROR, Status.BROKEN),
    ],
)
def test_the_state_the_node_tells_decides_whether_it_is_broken(nodes, state, status):
    found = replace(probe(Node(), NOW), health=HealthReading(state=state, reason="because"))
    ((told, text),) = of(findings(found, PRICED), "health")
    assert told is status
    assert "because" in text


def test_a_controller_tells_what_it_cannot_do_once_a_reason(nodes):
    controller = FakeController(why_not="no socket; start Docker", why_not_recreate="it was run with --rm")
    (check,) = check_nodes(nodes(Node(controller=controller)))
    assert not check.broken
    assert of(check.findings, "controller") == [
        (Status.OK, "a fake"),
        (
            Status.NOTE,
            "cannot limit cpu_threads, limit memory_bytes, limit bandwidth_mbps, restart: no socket; start Docker",
        ),
        (Status.NOTE, "cannot recreate: it was run with --rm"),
    ]


def test_a_node_without_a_controller_is_in_order_and_told_how_to_get_one(nodes):
    (check,) = check_nodes(nodes(Node(controller=NoController("golem-1"))))
    assert not check.broken
    assert of(check.findings, "controller")[0] == (Status.NOTE, "no controller")
    assert any(WHY_NOT in text for _, text in of(check.findings, "controller"))


def test_a_controller_that_cannot_be_asked_is_broken(nodes):
    controller = FakeController()

    def refuse():
        raise AllocationError("golem-1", "permission denied; add orcha to the group docker")

    controller.limits = refuse
    (check,) = check_nodes(nodes(Node(controller=controller)))
    assert of(check.findings, "limits") == [(Status.BROKEN, "permission denied; add orcha to the group docker")]


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"native_unit": "USD", "token": None}, Status.OK, "US dollars"),
        ({"tokens_per_native": None}, Status.NOTE, "stay unknown; its option"),
        ({"token": None, "tokens_per_native": None}, Status.NOTE, "has no price"),
        ({"token": "beacon"}, Status.NOTE, "'beacon' (known are golem, storj)"),
        ({}, Status.OK, "valued as golem"),
    ],
)
def test_what_has_no_price_is_a_note(changes, status, words):
    ((told, text),) = of(findings(replace(probe(Node(), NOW), **changes), PRICED), "price")
    assert told is status
    assert words in text


def test_credentials_that_are_set_are_accepted_only_where_something_was_read(nodes):
    found = probe(Node(), NOW)
    assert of(findings(found, PRICED), "credentials") == [(Status.OK, "none are set, and none were asked for")]
    given = replace(found, settings=found.settings.model_copy(update={"token_env": "KEY"}))
    assert of(findings(given, PRICED), "credentials") == [(Status.OK, "accepted")]
    failures = {"health": nodes_read.Failure("connection", "refused"), "earnings": nodes_read.Failure("api", "no")}
    silent = replace(given, health=None, earnings=None, failures=failures)
    assert of(findings(silent, PRICED), "credentials")[0][0] is Status.NOTE


def test_a_node_without_levers_or_earnings_is_told(nodes):
    found = replace(probe(Node(), NOW), levers=(), earnings=())
    assert of(findings(found, PRICED), "levers")[0][0] is Status.NOTE
    assert of(findings(found, PRICED), "earnings") == [
        (Status.NOTE, "the node tells of no earnings in the last 24 hours")
    ]


def test_the_check_as_json_says_what_is_broken(nodes):
    made = nodes(Node(), Unusable("unset-1", SettingsError("node 'unset-1': token_env is not set")))
    told = check_json(check_nodes(made))
    assert told["broken"] is True
    assert [node["broken"] for node in told["nodes"]] == [False, True]
    assert told["nodes"][1]["findings"] == [{"part": "settings", "status": "broken", "text": "token_env is not set"}]
    with pytest.raises(SettingsError, match="node 'unset-1': token_env is not set"):
        read_one(made, "unset-1")


def test_a_check_changes_nothing_and_closes_what_it_opened(nodes):
    node = Node()
    check_nodes(nodes(node))
    assert node.applied == []
    assert node.closed
    assert node.controller.in_force == type(node.controller.in_force)()
    assert (node.controller.restarts, node.controller.recreations) == ([], [])


def test_findings_are_told_in_one_order():
    parts = ("connection", "credentials", "health", "earnings", "price", "usage", "balances", "lever", "lever")
    assert tuple(f.part for f in findings(probe(Node(), NOW), PRICED)) == (*parts, "controller", "controller")


# --- the promise of the JSON


def keys_of(tree):
    if isinstance(tree, dict):
        return set(tree) | {key for value in tree.values() for key in keys_of(value)}
    return {key for item in tree for key in keys_of(item)} if isinstance(tree, list) else set()


def test_every_key_of_the_json_is_documented(nodes):
    from pathlib import Path

    made = nodes(Node())
    reading = survey(made).nodes[0].reading
    with made.warehouse.write() as connection:
        facts.record_readings(connection, [reading])
    told = [survey_json(survey(made)), check_json(check_nodes(made)), reading_json(read_one(made, "golem-1"))]
    keys = keys_of(told) - {"audit"} - {f"limit {name}" for name in ("cpu_threads", "memory_bytes", "bandwidth_mbps")}
    keys -= {"restart", "recreate"}
    text = (Path(__file__).parents[1] / "docs" / "nodes.md").read_text()
    assert {key for key in keys if f"`{key}`" not in text} == set()
