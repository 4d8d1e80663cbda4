import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orcha_pipeline.testnet.economy import STORJ_FILL_SECONDS
from orcha_pipeline.testnet.levers import memory_size
from orcha_pipeline_tests.testnet.conftest import Lab

HOUR = 3600


def set_golem(lab, threads, **presets):
    path = lab.testnet.state / "golem-1" / "hardware.json"
    hardware = json.loads(path.read_text())
    hardware["profiles"]["default"]["cpu_threads"] = threads
    path.write_text(json.dumps(hardware))


def set_storj(lab, size):
    path = lab.testnet.state / "storj-1" / "config.yaml"
    lines = path.read_text().splitlines()
    key = "storage.allocated-disk-space:"
    path.write_text("\n".join(f"{key} {size}" if line.startswith(key) else line for line in lines))


def restart(lab, name):
    node = lab.economy.nodes[name]
    lab.economy.stop_node(node)
    lab.economy.start_node(node)


def test_nodes_earn_the_worlds_yield_bent_by_the_response_to_their_share(lab):
    economy, world = lab.economy, lab.economy.world
    lab.pass_hours(24)
    for node in economy.nodes.values():
        terms = world.protocols[node.protocol]
        steps = range(economy.start, economy.now, 900)
        expected = sum(
            world.native_rate(node.protocol, at)
            * world.available(node.protocol, at)
            * economy.share(node) ** terms.curvature
            / 4
            for at in steps
        )
        assert node.native == pytest.approx(expected, rel=1e-9)
    assert 0.5 < sum(node.usd for node in economy.nodes.values()) < 6.0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 6 * HOUR - 1), max_size=12, unique=True), change=st.integers(1, 5 * HOUR))
def test_earnings_do_not_depend_on_how_finely_time_is_stepped(tmp_path_factory, cuts, change):
    def run(moments):
        lab = Lab(tmp_path_factory.mktemp("state"))
        begin = lab.economy.now
        for moment in sorted({*moments, change, 6 * HOUR}):
            lab.pass_seconds(begin + moment - lab.economy.now)
            if moment == change:
                set_storj(lab, "1.10 TB")
                restart(lab, "storj-1")
                lab.economy.limit_cpu(lab.economy.nodes["grass-1"], 1_500_000_000)
                lab.economy.shift("grass", 2.0)
                set_golem(lab, 2)
                lab.economy.watch()
        return lab

    whole, pieces = run([]), run(cuts)
    for name, node in whole.economy.nodes.items():
        other = pieces.economy.nodes[name]
        # Storj's data drains while it earns, which is integrated piece by piece; the others are exact.
        assert other.native == pytest.approx(node.native, rel=1e-6 if node.protocol == "storj" else 1e-10)
        assert other.effective == pytest.approx(node.effective, rel=1e-9)
    note_sets = [[(n["timestamp"], float(n["totalAmountDue"])) for n in _notes(lab)] for lab in (whole, pieces)]
    assert [at for at, _ in note_sets[0]] == [at for at, _ in note_sets[1]]
    assert [due for _, due in note_sets[0]] == pytest.approx([due for _, due in note_sets[1]], rel=1e-9)


def _notes(lab):
    return lab.json("/nodes/golem-1/payment-api/v1/debitNotes", headers={"Authorization": "Bearer testnet-app-key"})


def test_the_books_hold_what_the_economy_paid(lab):
    lab.pass_hours(40)
    nodes, testnet = lab.economy.nodes, lab.testnet.first
    days = testnet.storj_books.days.values()
    cents = sum(
        d.byte_hours / 720 * 149 / 1e12 + d.egress * 200 / 1e12 + (d.repair + d.audit) * 200 / 1e12 for d in days
    )
    assert cents / 100 == pytest.approx(nodes["storj-1"].native)
    assert testnet.golem_books.total(lab.economy.now) == pytest.approx(nodes["golem-1"].native)
    streamr = testnet.streamr_books
    wei = streamr.profits + streamr.cut + streamr.fees + sum(s.live(lab.economy.now) for s in streamr.stakes.values())
    assert wei / 1e18 == pytest.approx(nodes["streamr-1"].native)
    assert sum(testnet.grass_books.epochs.values()) == pytest.approx(nodes["grass-1"].native)


def test_a_restarting_node_earns_nothing_until_it_is_back(make_lab):
    lab = make_lab(restart_seconds={"streamr": 100})
    lab.pass_hours(1)
    node = lab.economy.nodes["streamr-1"]
    hourly = lab.economy.rate(node)
    restart(lab, "streamr-1")
    before = node.native
    lab.pass_seconds(100)
    assert node.native == before
    lab.pass_seconds(100)
    assert node.native - before == pytest.approx(hourly * 100 / HOUR)


def test_a_stopped_node_earns_nothing_and_the_others_go_on(lab):
    node = lab.economy.nodes["grass-1"]
    lab.economy.stop_node(node)
    lab.pass_hours(3)
    assert node.native == 0.0
    assert lab.economy.nodes["golem-1"].native > 0.0


def test_storj_follows_its_allocation_slowly_and_earns_as_it_drains(lab):
    node = lab.economy.nodes["storj-1"]
    before = node.effective
    set_storj(lab, "1.20 TB")
    lab.pass_hours(1)
    assert node.effective == pytest.approx(before)
    restart(lab, "storj-1")
    target = lab.economy.share(node)
    assert target < before
    lab.pass_seconds(STORJ_FILL_SECONDS)
    assert node.effective == pytest.approx(target + (before - target) * math.exp(-1))


def test_storj_refuses_to_start_below_its_floor_and_stays_down(lab):
    set_storj(lab, "499.99 GB")
    restart(lab, "storj-1")
    node = lab.economy.nodes["storj-1"]
    lab.pass_hours(2)
    assert not node.running
    assert node.exit_code == 1
    assert "disk space requirement not met" in node.log
    assert node.native == 0.0
    set_storj(lab, "0.50 TB")
    lab.economy.start_node(node)
    assert node.running


def test_golem_takes_its_profile_after_the_watch_delay_and_clamps_it_to_the_host(lab):
    node = lab.economy.nodes["golem-1"]
    set_golem(lab, 8)
    lab.testnet.catch_up(lab.testnet.first)
    lab.pass_seconds(2)
    assert node.lever_value == 4
    lab.pass_seconds(1)
    assert node.lever_value == 8
    assert lab.economy.share(node) == 8 / 14
    set_golem(lab, 64)
    lab.pass_seconds(3)
    assert node.lever_value == 16


def test_a_task_keeps_what_it_was_given_to_its_end_and_the_next_one_gets_the_new_profile(lab):
    node = lab.economy.nodes["golem-1"]
    ends = lab.economy.books["golem"].busy_until(lab.economy.now)
    set_golem(lab, 8)
    lab.pass_seconds(10)
    assert lab.economy.share(node) == 8 / 14, "what is offered"
    assert lab.truth("golem-1")["effective_share"] == 4 / 14, "what the task works with"
    lab.pass_seconds(ends - lab.economy.now - 1)
    assert node.effective == 4 / 14
    lab.pass_seconds(2)
    assert node.effective == 8 / 14
    lab.economy.start_node(node)
    set_golem(lab, 4)
    lab.pass_seconds(10)
    assert node.effective == 8 / 14
    lab.economy.start_node(node)
    assert lab.economy.working(node) == 4 / 14, "a restart aborts the task"


def test_golem_keeps_its_profile_when_the_file_cannot_be_used(lab):
    path = lab.testnet.state / "golem-1" / "hardware.json"
    for content in ('{"active": "def', '{"active":"none","profiles":{}}', "[]"):
        path.write_text(content)
        lab.pass_seconds(10)
        assert lab.economy.nodes["golem-1"].lever_value == 4
    set_back = {"active": "default", "profiles": {"default": {"cpu_threads": 6.5, "mem_gib": 1, "storage_gib": 1}}}
    path.write_text(json.dumps(set_back))
    lab.pass_seconds(10)
    assert lab.economy.nodes["golem-1"].lever_value == 4


def test_a_crowded_host_slows_every_node_down(lab):
    crowded, fair = lab.economy, 1.0
    assert crowded.crowding() == fair
    rates = {name: crowded.rate(node) for name, node in crowded.nodes.items()}
    crowded.limit_cpu(crowded.nodes["grass-1"], 10_000_000_000)
    assert crowded.crowding() < 0.8
    lab.pass_seconds(1)
    assert crowded.rate(crowded.nodes["golem-1"]) < rates["golem-1"]


def test_initial_shares_fit_the_host_and_are_real_lever_values(lab):
    economy = lab.economy
    assert economy.crowding() == 1.0
    shares = {node.protocol: economy.share(node) for node in economy.nodes.values()}
    assert all(0.25 < share < 0.35 for share in shares.values())
    assert economy.nodes["golem-1"].lever_value == int(economy.nodes["golem-1"].lever_value)
    assert round(shares["streamr"] * 20, 9) == int(round(shares["streamr"] * 20, 9))
    assert economy.nodes["grass-1"].nano_cpus % 10_000_000 == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2.00 TB", 2e12),
        ("500GB", 5e11),
        ("1TiB", 1024**4),
        ("1.5tb", 1.5e12),
        ("42", 42.0),
        ("2 XB", None),
        ("", None),
    ],
)
def test_storj_sizes_are_read_as_the_node_reads_them(text, size):
    assert memory_size(text) == size
