import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from orcha_pipeline import housekeeping
from orcha_pipeline.allocation.foresight import HISTORY_DAYS
from orcha_pipeline.allocation.gates import BUDGET_MONTH
from orcha_pipeline.allocation.situation import READINGS_COUNT_FOR
from orcha_pipeline.anomalies.known import HISTORY, PROMISES_READ
from orcha_pipeline.assets.earnings import LookBack
from orcha_pipeline.assets.forecast import HISTORY_READ
from orcha_pipeline.assets.forecast_errors import SCORED_FOR, TREND_DAYS
from orcha_pipeline.assets.housekeeping import build_housekeeping
from orcha_pipeline.assets.models import TRAINING_HISTORY
from orcha_pipeline.automation.housekeeping import build_housekeeping_job
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.dagster_api import prepare_instance
from orcha_pipeline.errors import OrchaError, SettingsError, WarehouseError
from orcha_pipeline.housekeeping import Tidied, housekeeping_now, keep_house
from orcha_pipeline.installation import Installation
from orcha_pipeline.model import HealthReading, HealthState, NodeReading
from orcha_pipeline.resources import NodesResource
from orcha_pipeline.settings import HousekeepingSettings, Settings
from orcha_pipeline.settings_file import load_settings
from orcha_pipeline.warehouse.compaction import Compaction
from orcha_pipeline.warehouse.decisions import LAST_SHARE_COUNTS_FOR
from orcha_pipeline.warehouse.derived import LOOK_AROUND
from orcha_pipeline.warehouse.facts import record_readings
from orcha_pipeline_tests.rig import FakeNode, installation, value_of

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
CONFIG = Path(__file__).parents[1] / "dagster.yaml"


@pytest.fixture
def house(tmp_path) -> Installation:
    """A node that was read every quarter of an hour of three days: long ago, some time ago, and lately."""
    clock = FixedClock(NOW)
    made = installation(tmp_path / "home", clock, ["a"])
    allocation = FakeNode("a", clock).allocation()
    with made.warehouse.write() as connection:
        record_readings(
            connection,
            [
                NodeReading(
                    node="a",
                    protocol="fake",
                    observed_at=NOW - timedelta(days=days, minutes=15 * quarter + 10),
                    health=HealthReading(state=HealthState.HEALTHY),
                    allocation=allocation,
                )
                for days in (200, 60, 2)
                for quarter in range(12)
            ],
        )
    return made


@pytest.fixture
def instance(house):
    folder = house.settings.home / "dagster"
    folder.mkdir()
    (folder / "dagster.yaml").write_text(CONFIG.read_text())
    prepare_instance(folder)
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance


def readings(house: Installation, days: int) -> int:
    moment = (NOW - timedelta(days=days)).date()
    return value_of(house.warehouse, f"SELECT count(*) FROM node_health WHERE observed_at::DATE = DATE '{moment}'")


def old_runs(instance: dg.DagsterInstance, monkeypatch, count: int) -> None:
    """Runs that lie longer back than they are kept: it is the clock that moves."""
    for _ in range(count):
        create_run_for_test(instance, status=dg.DagsterRunStatus.SUCCESS)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=30)

    monkeypatch.setattr(housekeeping, "datetime", Later)


def test_everything_is_tidied_and_told(house, instance, monkeypatch):
    old_runs(instance, monkeypatch, 15)
    found = keep_house(house, instance)
    assert found.problems == ()
    assert found.runs_deleted == 5  # the ten newest stay
    assert len(instance.get_runs()) == 10
    assert found.rows_deleted["node_health"] == readings(house, 2) == 12
    assert readings(house, 200) == 0
    assert found.rows_rolled_up["node_health"] == 12 - readings(house, 60) > 0
    assert found.warehouse is not None
    assert found.warehouse.outcome == "not worth it"
    assert found.bytes_after > 0
    told = found.told()
    assert "5 of Dagster's runs" in told
    assert "node_health 12" in told


def test_a_second_time_finds_nothing_to_do(house):
    keep_house(house, None)
    found = keep_house(house, None)
    assert not any(found.rows_deleted.values())
    assert not any(found.rows_rolled_up.values())


def test_the_settings_say_how_long(house):
    longer = HousekeepingSettings(raw_days=80, kept_days=365)
    settings = house.settings.model_copy(update={"housekeeping": longer})
    found = keep_house(Installation(settings=settings, clock=house.clock, simulated=False), None)
    assert not any(found.rows_deleted.values())
    assert readings(house, 60) == 12
    assert readings(house, 200) < 12


def test_a_part_that_fails_keeps_no_other_from_being_done_and_tells_no_secret(house, instance, monkeypatch):
    def fails(*_arguments, **_options):
        raise RuntimeError("token=s3cret")

    monkeypatch.setattr(housekeeping, "delete_old_runs", fails)
    monkeypatch.setattr(housekeeping, "sweep", fails)
    found = keep_house(house, instance)
    assert len(found.problems) == 2
    assert "RuntimeError" in found.problems[0]
    assert "s3cret" not in found.told()
    assert found.rows_deleted["node_health"] == 12
    assert found.rows_rolled_up["node_health"] > 0


def test_what_frees_room_comes_before_what_needs_some(house, instance, monkeypatch):
    order: list[str] = []
    for name in ("delete_old_runs", "sweep", "delete_old", "roll_up", "compact"):
        original = getattr(housekeeping, name)

        def noted(*arguments, name=name, original=original, **options):
            order.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(housekeeping, name, noted)
    keep_house(house, instance)
    assert order == ["delete_old_runs", "sweep", "delete_old", "roll_up", "compact"]


def test_a_warehouse_that_cannot_be_compacted_is_told(house, monkeypatch):
    def full(_warehouse) -> Compaction:
        raise WarehouseError("There is no room.")

    monkeypatch.setattr(housekeeping, "compact", full)
    found = keep_house(house, None)
    assert found.problems == ("There is no room.",)
    assert found.warehouse is None


def test_two_at_once_do_not_get_in_each_others_way(house):
    lock = house.settings.home / "locks" / "housekeeping.lock"
    lock.parent.mkdir(exist_ok=True)
    holder = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(OrchaError, match="tidying up here already"):
            keep_house(house, None)
        child.communicate("")
    assert readings(house, 200) == 12
    keep_house(house, None)
    assert readings(house, 200) == 0


def test_without_a_warehouse_none_is_made(tmp_path):
    settings = Settings.model_validate({"home": tmp_path / "none"})
    with pytest.raises(WarehouseError, match="no warehouse"):
        housekeeping_now(Installation(settings=settings, clock=FixedClock(NOW), simulated=False))
    assert not (tmp_path / "none").exists()


def test_a_warehouse_of_an_earlier_orcha_says_what_to_do(house):
    with house.warehouse.write() as connection:
        connection.execute("DROP TABLE rollups")
        connection.execute("DELETE FROM schema_migrations WHERE name = '0008_rollups.sql'")
    with pytest.raises(WarehouseError, match="orcha up"):
        housekeeping_now(house)


# --- as an asset


def run_job(house: Installation, instance: dg.DagsterInstance, monkeypatch) -> dg.ExecuteInProcessResult:
    monkeypatch.setattr(NodesResource, "installation", lambda _self: house)
    defs = dg.Definitions(
        assets=[build_housekeeping()], jobs=[build_housekeeping_job()], resources={"nodes": NodesResource()}
    )
    job = defs.resolve_job_def("nightly_housekeeping")
    return job.execute_in_process(instance=instance, raise_on_error=False)


def test_the_asset_tells_what_was_done(house, instance, monkeypatch):
    result = run_job(house, instance, monkeypatch)
    assert result.success
    (event,) = result.asset_materializations_for_node("housekeeping")
    told = {name: value.value for name, value in event.metadata.items()}
    assert told["rows deleted by table"]["node_health"] == 12
    assert told["rows deleted"] == sum(told["rows deleted by table"].values())
    assert told["rows rolled up"] == sum(told["rows rolled up by table"].values()) > 0
    assert told["MiB after"] > 0
    assert told["runs deleted"] == 0
    assert told["warehouse"] == "not worth it"


def test_a_part_that_failed_shows_as_a_failed_run_once_the_rest_is_done(house, instance, monkeypatch):
    def partly(_installation, _instance) -> Tidied:
        return Tidied(bytes_before=2, bytes_after=1, problems=("The roll-up could not be done.",))

    monkeypatch.setattr("orcha_pipeline.assets.housekeeping.keep_house", partly)
    result = run_job(house, instance, monkeypatch)
    assert not result.success
    failure = result.failure_data_for_node("housekeeping")
    assert "The roll-up could not be done." in failure.error.message


# --- as a command, and its settings


def test_the_command_tidies_up_and_tells_what_it_did(orcha, tmp_path, house):
    home = tmp_path / ".orcha"
    home.mkdir()
    house.settings.warehouse_path.rename(home / "warehouse.duckdb")
    code, out, err = orcha("housekeeping")
    assert (code, err) == (0, "")
    assert "rows were deleted (node_health" in out
    assert "MiB now" in out


def test_the_command_without_a_warehouse_says_how_to_get_one(orcha, tmp_path):
    code, out, err = orcha("housekeeping")
    assert (code, out) == (1, "")
    assert "orcha up" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("raw_days = 27", "housekeeping.raw_days is 27; it must be at least 28"),
        ("kept_days = 90", "housekeeping.kept_days is 90; it must be at least 91"),
        ("runs_days = 0", "housekeeping.runs_days is 0; it must be at least 1"),
        (
            "raw_days = 200",
            "housekeeping.kept_days is 180, less than its raw_days 200; raise the one or lower the other",
        ),
    ],
)
def test_days_too_few_for_what_is_computed_are_refused(tmp_path, text, problem):
    file = tmp_path / "orcha.toml"
    file.write_text(f"[housekeeping]\n{text}\n")
    with pytest.raises(SettingsError, match=re.escape(problem)):
        load_settings(file, {})


def test_the_least_days_reach_as_far_as_anything_reads():
    raw = timedelta(days=28)
    HousekeepingSettings(raw_days=raw.days, kept_days=91)
    cycle = timedelta(hours=LookBack().hours) + LOOK_AROUND
    reads_raw = [HISTORY, cycle, READINGS_COUNT_FOR + LAST_SHARE_COUNTS_FOR, SCORED_FOR, PROMISES_READ]
    assert max(reads_raw) <= raw
    reads_kept = [
        TRAINING_HISTORY,
        HISTORY_READ,
        timedelta(days=HISTORY_DAYS),
        BUDGET_MONTH,
        timedelta(days=TREND_DAYS),
    ]
    assert max(reads_kept) < timedelta(days=91)
