import stat
import sys
from datetime import UTC, datetime

import pytest

from orcha_pipeline import cli
from orcha_pipeline.model import Verdict
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.connection import Warehouse


@pytest.fixture
def orcha(tmp_path, monkeypatch, capfd):
    """Runs the command in an empty folder; gives exit code, output and error output with their lines joined."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHA_CONFIG", raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["orcha", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return ended.value.code or 0, out, err

    return run


def test_help_lists_every_command(orcha):
    code, out, _ = orcha("--help")
    assert code == 0
    for command in ("up", "init", "decision", "prices", "testnet"):
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
