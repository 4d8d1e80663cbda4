import json
import socket
import stat
from datetime import UTC, datetime, timedelta

import pytest

from orcha_pipeline.model import Verdict
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.connection import Warehouse


def test_help_lists_every_command(orcha):
    code, out, _ = orcha("--help")
    assert code == 0
    for command in (
        "up",
        "init",
        "decision",
        "decisions",
        "explain",
        "approve",
        "pause",
        "resume",
        "unfreeze",
        "doctor",
        "housekeeping",
        "status",
        "nodes",
        "prices",
        "testnet",
        "models",
        "forecast",
        "backtest",
    ):
        assert f" {command} " in out


def test_init_writes_settings_that_can_be_read_and_that_only_the_owner_reads(orcha, tmp_path):
    code, out, _ = orcha("init")
    assert code == 0
    assert "orcha.toml" in out
    assert stat.S_IMODE((tmp_path / "orcha.toml").stat().st_mode) == 0o600
    code, _, err = orcha("decision")  # reads the file, and gets as far as the warehouse
    assert (code, "There is no warehouse" in err) == (1, True)


def test_init_overwrites_nothing(orcha, tmp_path):
    (tmp_path / "orcha.toml").write_text("# mine\n")
    code, out, err = orcha("init")
    assert (code, out) == (1, "")
    assert "orcha.toml exists and is left as it is" in err
    assert (tmp_path / "orcha.toml").read_text() == "# mine\n"


def test_without_a_warehouse_decision_says_how_to_get_one(orcha, tmp_path):
    code, out, err = orcha("decision")
    assert (code, out) == (1, "")
    assert "There is no warehouse at" in err
    assert "orcha up" in err
    assert list(tmp_path.iterdir()) == []  # asking makes nothing


def test_before_the_first_decision_it_says_so(orcha, tmp_path):
    Warehouse(tmp_path / ".orcha" / "warehouse.duckdb").migrate()
    code, out, _ = orcha("decision")
    assert code == 0
    assert "No decision yet" in out


def test_the_last_decision_is_shown_and_on_the_testnet_marked_as_simulated(orcha, tmp_path):
    warehouse = Warehouse(tmp_path / ".orcha" / "warehouse.duckdb")
    warehouse.migrate()
    row = decisions.DecisionRow(
        decision_id="d-1",
        host="testnet",
        decided_at=datetime(2026, 3, 1, 12, 5, tzinfo=UTC),
        verdict=Verdict.HOLD,
        gain_usd_per_hour=None,
        gain_percent=None,
        switching_cost_usd=None,
        confidence=None,
        gates=(),
        reason="Holds: there is no plan.",
        dagster_run_id="run",
        allocations=(),
    )
    with warehouse.write() as connection:
        decisions.record_decision(connection, row)
    code, out, _ = orcha("decision")
    assert code == 0
    assert "testnet (simulated): HOLD" in out
    assert "Holds: there is no plan." in out


# --- decisions


def a_decision(decision_id, *, minutes=0, host="testnet", verdict=Verdict.REALLOCATE):
    return decisions.DecisionRow(
        decision_id=decision_id,
        host=host,
        decided_at=datetime(2026, 3, 1, 12, 5, tzinfo=UTC) + timedelta(minutes=minutes),
        verdict=verdict,
        gain_usd_per_hour=0.01,
        gain_percent=None,
        switching_cost_usd=0.0,
        confidence=None,
        gates=(),
        reason=f"Reason of {decision_id}.",
        dagster_run_id="run",
        allocations=(),
        hours=8.0,
        shadow_prices={"cpu_threads": 0.5},
    )


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Three decisions of a testnet that does not run."""
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ORCHA_TESTNET__PORT", str(taken.getsockname()[1]))
        warehouse = Warehouse(tmp_path / ".orcha" / "warehouse.duckdb")
        warehouse.migrate()
        with warehouse.write() as connection:
            decisions.record_decision(connection, a_decision("abcd-1"))
            decisions.record_decision(connection, a_decision("abcd-2", minutes=15, verdict=Verdict.HOLD))
            decisions.record_decision(connection, a_decision("gone-3", minutes=-60, host="attic"))
        yield


NODE = """
[[hosts]]
name = "attic"
capacity = {cpu_threads = 8, memory_gib = 16, disk_gb = 1000, bandwidth_mbps = 100}
[[nodes]]
name = "golem-1"
protocol = "golem"
host = "attic"
url = "http://127.0.0.1:1"
demand = {cpu_threads = 8, memory_gib = 8, disk_gb = 10, bandwidth_mbps = 1}
"""


def test_a_pause_is_told_on_every_screen_until_it_is_ended(orcha, tmp_path):
    (tmp_path / "orcha.toml").write_text(NODE)
    warehouse = Warehouse(tmp_path / ".orcha" / "warehouse.duckdb")
    warehouse.migrate()
    with warehouse.write() as connection:
        decisions.record_decision(connection, a_decision("abcd-1", host="attic"))
    assert orcha("pause", "--why", "moving house", "--who", "ada")[0] == 0
    for command in ("decision", "decisions", "explain", "nodes"):
        code, out, _ = orcha(command)
        assert code == 0
        assert "by ada: moving house. `orcha resume` lets them go on." in " ".join(out.split())
    assert "go on" in orcha("resume")[1]
    assert "paused" not in orcha("decision")[1]


def test_status_ends_with_1_where_orcha_does_not_run(orcha, tmp_path):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        (tmp_path / "orcha.toml").write_text(f"{NODE}\n[services]\ndagster_port = {taken.getsockname()[1]}\n")
        Warehouse(tmp_path / ".orcha" / "warehouse.duckdb").migrate()
        code, out, _ = orcha("status")
        assert code == 1
        assert "Orcha does not run here: Dagster does not answer (`orcha up` starts it)" in " ".join(out.split())
        code, out, _ = orcha("status", "--json")
        assert (code, json.loads(out)["healthy"]) == (1, False)


def test_doctor_ends_with_1_where_something_is_broken(orcha, tmp_path):
    (tmp_path / "orcha.toml").write_text(NODE)
    warehouse = Warehouse(tmp_path / ".orcha" / "warehouse.duckdb")
    warehouse.migrate()
    code, out, _ = orcha("doctor")
    assert (code, "Nothing is broken." in out) == (0, True)
    with warehouse.write() as connection:
        connection.execute("INSERT INTO approvals VALUES ('gone', TIMESTAMP '2026-03-05', 'ada')")
    code, out, _ = orcha("doctor", "--json")
    found = json.loads(out)["findings"]
    assert (code, found[1]["status"]) == (1, "broken")
    assert "rows of approvals belong to nothing in decisions (1: gone)" in found[1]["text"]


def test_a_warehouse_of_an_earlier_version_is_one_message(orcha, tmp_path):
    warehouse = Warehouse(tmp_path / ".orcha" / "warehouse.duckdb")
    warehouse.migrate()
    with warehouse.write() as connection:
        connection.execute("DROP TABLE pauses")
        connection.execute("DELETE FROM schema_migrations WHERE name = '0006_modes.sql'")
        connection.execute("ALTER TABLE decisions DROP COLUMN verdict")
    code, out, err = orcha("decisions")
    assert (code, out) == (1, "")
    assert "was made by an earlier Orcha. `orcha up` brings it up to date." in " ".join(err.split())


def test_what_cannot_be_approved_is_one_message(orcha, tmp_path):
    (tmp_path / "orcha.toml").write_text(NODE)
    Warehouse(tmp_path / ".orcha" / "warehouse.duckdb").migrate()
    code, out, err = orcha("approve")
    assert (code, out) == (1, "")
    assert "No decision waits for approval" in err
    assert "no decision whose id begins with 'abcd'" in orcha("approve", "abcd")[2]


def test_decisions_are_listed_without_a_running_testnet(orcha, recorded):
    code, out, err = orcha("decisions")
    assert (code, err) == (0, "")
    assert "testnet (simulated): decisions to reallocate since 2026-02-28 12:20 UTC" in out
    assert "abcd-1" in out
    assert "abcd-2" not in out
    assert "1 decision to hold is not shown: --all shows them." in out
    assert "abcd-2" in orcha("decisions", "--all")[1]
    assert "abcd-1" not in orcha("decisions", "--all", "--limit", "1")[1]
    assert "abcd-1" not in orcha("decisions", "--since", "10m")[1]
    assert "gone-3" in orcha("decisions", "--host", "attic")[1]


def test_json_of_the_decisions_stands_alone_on_the_output(orcha, recorded):
    code, out, err = orcha("decisions", "--all", "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert (told["version"], told["reallocations"], told["holds"]) == (1, 1, 1)
    assert [one["decision_id"] for one in told["decisions"]] == ["abcd-2", "abcd-1"]
    first = told["decisions"][0]
    assert (first["decided_at"], first["verdict"], first["simulated"]) == ("2026-03-01T12:20:00Z", "hold", True)
    assert (first["gain_percent"], first["application"], first["outcome"]) == (None, None, None)
    assert first["shadow_prices"] == {"cpu_threads": 0.5}
    assert told["last_30_days"]["wrong_share"] is None


def test_a_decision_is_explained_by_the_beginning_of_its_id_the_latest_without_one(orcha, recorded):
    assert "Reason of abcd-2." in orcha("explain")[1]
    assert "Reason of abcd-1." in orcha("explain", "abcd-1")[1]
    code, out, err = orcha("explain", "gone")
    assert (code, err) == (0, "")
    assert "attic: REALLOCATE" in out
    told = json.loads(orcha("explain", "gone", "--json")[1])["decision"]
    assert (told["decision_id"], told["simulated"], told["steps"]) == ("gone-3", False, [])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["explain", "abc"], "'abc' is too short: give at least the first 4 characters"),
        (["explain", "abcd"], "More than one decision begins with 'abcd': abcd-2 (testnet, 2026-03-01 12:20), abcd-1"),
        (["explain", "zzzz"], "There is no decision whose id begins with 'zzzz'. `orcha decisions --all"),
        (["decisions", "--since", "ever"], "--since takes a number with m, h, d or w behind it"),
        (["decisions", "--host", "testnt"], "There is no host 'testnt'; did you mean testnet?"),
        (["decisions", "--host", "zz"], "There is no host 'zz'; known are: attic, testnet."),
    ],
)
def test_a_mistake_is_met_with_the_remedy(orcha, recorded, arguments, told):
    code, out, err = orcha(*arguments)
    assert (code, out) == (1, "")
    assert told in err


@pytest.mark.parametrize("command", ["decisions", "explain"])
def test_without_a_warehouse_or_a_decision_they_say_so(orcha, tmp_path, command):
    code, out, err = orcha(command)
    assert (code, out) == (1, "")
    assert "There is no warehouse at" in err
    Warehouse(tmp_path / ".orcha" / "warehouse.duckdb").migrate()
    code, out, _ = orcha(command)
    assert code == 0
    assert "none" in out or "No decision yet" in out
    assert json.loads(orcha(command, "--json")[1])["version"] == 1


@pytest.mark.parametrize("command", [["decision"], ["up", "--once"]])
def test_a_wrong_setting_is_told_with_its_place(orcha, tmp_path, command):
    (tmp_path / "orcha.toml").write_text("[planner]\nhold_minuts = 30\n")
    code, _, err = orcha(*command)
    assert code == 1
    assert f"{tmp_path}/orcha.toml:2:1: " in err
    assert "hold_minutes" in err


def test_a_file_named_by_config_must_exist(orcha):
    code, _, err = orcha("decision", "--config", "nowhere.toml")
    assert code == 1
    assert "nowhere.toml: there is no such settings file" in err


def test_prices_are_imported_and_a_bad_row_is_told_with_its_line(orcha, tmp_path):
    file = tmp_path / "prices.csv"
    file.write_text("unique_id,ds,y\nGLM,2026-03-01 10:00:00,0.25\nGLM,2026-03-01 11:00:00,0.26\n")
    code, out, _ = orcha("prices", "import", "prices.csv")
    assert code == 0
    assert "Loaded 2 prices of golem, 2026-03-01 10:00 to 2026-03-01 11:00 UTC." in out
    file.write_text("unique_id,ds,y\nGLM,2026-03-01 10:00:00,free\n")
    code, _, err = orcha("prices", "import", "prices.csv")
    assert code == 1
    assert "prices.csv, line 2: y 'free' is no price" in err


NODES = """
[[hosts]]
name = "attic"
capacity = { cpu_threads = 8, memory_gib = 16, disk_gb = 4000, bandwidth_mbps = 100 }
[[nodes]]
name = "storj-attic"
protocol = "storj"
host = "attic"
url = "http://127.0.0.1:9"
timeout_seconds = 0.5
demand = { cpu_threads = 1, memory_gib = 1, disk_gb = 1000, bandwidth_mbps = 10 }
[[nodes]]
name = "golem-attic"
protocol = "golem"
host = "attic"
url = "http://127.0.0.1:9"
token_env = "NO_SUCH_VARIABLE"
demand = { cpu_threads = 1, memory_gib = 1, disk_gb = 1000, bandwidth_mbps = 10 }
"""


@pytest.fixture
def two_nodes(tmp_path):
    """One that does not answer, and one whose key is not set."""
    (tmp_path / "orcha.toml").write_text(NODES)


@pytest.mark.parametrize("command", [["nodes"], ["nodes", "list"]])
def test_nodes_are_listed_with_dead_ones_and_without_a_warehouse(orcha, two_nodes, tmp_path, command):
    code, out, err = orcha(*command)
    assert (code, err) == (0, "")
    assert "storj-attic  storj     unreachable" in out
    assert "golem-attic  golem     not usable" in out
    assert "NO_SUCH_VARIABLE (token_env) is not set" in out
    assert [path.name for path in tmp_path.iterdir()] == ["orcha.toml"]


def test_json_of_the_nodes_stands_alone_on_the_output(orcha, two_nodes):
    code, out, err = orcha("nodes", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert {node["node"]: node["state"] for node in told["nodes"]} == {
        "storj-attic": "unreachable",
        "golem-attic": "not_usable",
    }
    assert json.loads(orcha("nodes", "list", "--json")[1])["nodes"][1] == told["nodes"][1]


def test_a_check_of_broken_nodes_ends_with_1_and_says_what_to_do(orcha, two_nodes):
    code, out, err = orcha("nodes", "check")
    assert (code, err) == (1, "")
    assert "is the node running?" in out
    assert "NO_SUCH_VARIABLE (token_env) is not set" in out
    assert "Broken: storj-attic, golem-attic. Nothing was changed." in out
    code, out, _ = orcha("nodes", "check", "golem-attic", "--json")
    assert code == 1
    assert [node["node"] for node in json.loads(out)["nodes"]] == ["golem-attic"]


def test_a_reading_of_a_dead_node_tells_what_failed_and_ends_with_1(orcha, two_nodes):
    code, out, err = orcha("nodes", "read", "storj-attic", "--json")
    assert (code, err) == (1, "")
    told = json.loads(out)
    assert told["health"] is None
    assert {error["kind"] for error in told["errors"]} <= {"connection", "unsupported"}
    assert "health" in {error["part"] for error in told["errors"]}
    assert orcha("nodes", "read", "storj-attic")[0] == 1


@pytest.mark.parametrize("command", ["check", "read"])
def test_a_misspelt_node_is_met_with_the_nearest_name(orcha, two_nodes, command):
    code, out, err = orcha("nodes", command, "storj-atic")
    assert (code, out) == (1, "")
    assert "There is no node 'storj-atic'; did you mean storj-attic?" in err


def test_a_node_that_cannot_be_used_cannot_be_read(orcha, two_nodes):
    code, out, err = orcha("nodes", "read", "golem-attic")
    assert (code, out) == (1, "")
    assert "node 'golem-attic': the environment variable NO_SUCH_VARIABLE (token_env) is not set" in err


@pytest.mark.parametrize("command", [["nodes"], ["nodes", "check"], ["nodes", "read", "storj-1"]])
def test_a_testnet_that_does_not_run_is_one_message_that_says_how_to_start_it(orcha, command, monkeypatch):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ORCHA_TESTNET__PORT", str(taken.getsockname()[1]))
        code, out, err = orcha(*command)
    assert (code, out) == (1, "")
    assert "it is not running" in err
    assert "orcha testnet serve" in err


def test_a_testnet_that_cannot_listen_does_not_say_that_it_answers(orcha, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, out, err = orcha("testnet", "serve", "--state", str(tmp_path / "state"), "--port", port)
    assert (code, out) == (1, "")
    assert f"cannot listen on 127.0.0.1:{port}" in err
    assert "--port" in err


def test_options_of_nodes_belong_behind_the_sub_command(orcha, two_nodes):
    code, _, err = orcha("nodes", "--json", "check")
    assert code == 2
    assert "behind `check`" in err
