"""The disk fills up while Orcha reads, trains or changes nodes: it is told, nothing is lost, and it goes on after."""

import shutil
from collections.abc import Iterator

import dagster as dg
import pytest

from orcha_pipeline.allocation import apply
from orcha_pipeline.allocation.apply import carry_out
from orcha_pipeline.allocation.executor import ApplicationError, Step
from orcha_pipeline.allocation.journal import WarehouseJournal
from orcha_pipeline.allocation.recovery import recover
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import WarehouseError
from orcha_pipeline.forecasting import model_registry, training
from orcha_pipeline.model import ApplicationStatus
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.consistency import breaches
from orcha_pipeline_tests.assets import test_model_assets
from orcha_pipeline_tests.integration.conftest import Rig
from orcha_pipeline_tests.integration.killed_application import NODES, StandingNode, moves_in
from orcha_pipeline_tests.integration.limited_disk import LimitedDisk, limited_disk
from orcha_pipeline_tests.integration.soundness import counts, expect_sound
from orcha_pipeline_tests.integration.test_warehouse_faults import failures
from orcha_pipeline_tests.rig import NOW, decided_line, decision_to_apply, installation, read_now

pytestmark = pytest.mark.integration

NO_ROOM = "There is no room to write to the warehouse"
BEFORE, AFTER = {"a": 60.0, "b": 20.0, "idle": 50.0}, {"a": 30.0, "b": 50.0, "idle": 50.0}
FULL = 130.0


@pytest.fixture
def disk(tmp_path) -> Iterator[LimitedDisk]:
    with limited_disk(tmp_path / "disk", mib=48) as mounted:
        yield mounted


def test_a_cycle_on_a_full_disk_fails_with_the_remedy_and_the_next_one_works(rig: Rig, disk, monkeypatch):
    for item in (rig.folder / ".orcha").iterdir():
        if item.is_file():
            shutil.copy(item, disk.folder)
    (disk.folder / "testnet").symlink_to(rig.folder / ".orcha" / "testnet")  # the nodes' disk is another
    monkeypatch.setenv("ORCHA_HOME", str(disk.folder))
    before = counts(rig)
    disk.fill()
    result = rig.run_cycle()
    assert not result.success
    assert NO_ROOM in failures(result)
    assert counts(rig) == before
    disk.make_room()
    assert rig.run_cycle().success
    expect_sound(rig, printed=failures(result))


class Host:
    """A host whose record is on a disk that fills up, and whose nodes are not."""

    def __init__(self, home, nodes) -> None:
        home.mkdir()
        nodes.mkdir()
        self.nodes_at, self.clock = nodes, FixedClock(NOW)
        self.nodes = {name: StandingNode(nodes, name, self.clock) for name in NODES}
        for name, node in self.nodes.items():
            node.stand_at(BEFORE[name])
        self.installation = installation(home, self.clock, NODES, cpu_threads=FULL / 10)
        self.warehouse = self.installation.warehouse
        read_now(self.warehouse, self.nodes.values(), NOW)
        lines = [decided_line(name, BEFORE[name], AFTER[name]) for name in NODES]
        with self.warehouse.write() as connection:
            decisions.record_decision(connection, decision_to_apply("d-1", lines))

    def apply(self) -> None:
        carry_out(
            "d-1",
            application_id="a-1",
            run_id="run-1",
            installation=self.installation,
            warehouse=self.warehouse,
            adapters=self.nodes,
        )

    def expect_sound(self) -> ApplicationStatus:
        """One end is on record, the nodes stand as it says, and never took more than there is."""
        with self.warehouse.read() as connection:
            (row,) = decisions.latest_applications(connection)
            assert decisions.applications_without_end(connection) == []
            assert breaches(connection, self.clock.now()) == []
        stands = {name: node.value for name, node in self.nodes.items()}
        assert stands == (AFTER if row.status is ApplicationStatus.APPLIED else BEFORE)
        stood: dict[str, float] = {}
        for node, value in moves_in(self.nodes_at):
            stood[node] = value
            assert sum(stood.values()) <= FULL
        return row.status


def test_the_disk_fills_up_at_any_step_of_an_application(tmp_path, disk, monkeypatch):
    ended = []
    for full_at in range(5):  # two steps, each written twice; at last it does not fill up
        host = Host(disk.folder / str(full_at), tmp_path / str(full_at))
        written = 0

        class Journal(WarehouseJournal):
            def _write(self, step: Step) -> None:
                nonlocal written
                if written == full_at:  # noqa: B023 (used before the next turn of the loop)
                    disk.fill()
                written += 1
                super()._write(step)

        monkeypatch.setattr(apply, "WarehouseJournal", Journal)
        if full_at < 4:
            with pytest.raises((WarehouseError, ApplicationError), match=NO_ROOM):
                host.apply()
        else:
            host.apply()
        disk.make_room()
        recover(host.installation, host.warehouse, host.nodes)
        ended.append(host.expect_sound())
    assert ended[-1] is ApplicationStatus.APPLIED
    assert set(ended[:-1]) <= {ApplicationStatus.ROLLED_BACK, ApplicationStatus.DROPPED}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
@pytest.mark.parametrize("stage", [(training, "train_protocol"), (model_registry, "log_training")])
def test_a_training_on_a_full_disk_fails_with_the_remedy_and_the_champion_goes_on(disk, monkeypatch, stage):
    with dg.DagsterInstance.ephemeral() as instance:
        rig = test_model_assets.Rig(disk.folder, monkeypatch, instance)
        before = rig.train()
        served = rig.forecast()
        module, name = stage
        original = getattr(module, name)

        def on_a_full_disk(*given, **more):
            disk.fill()
            return original(*given, **more)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, on_a_full_disk)
            failed = rig.train(raise_on_error=False)
        assert not failed.success
        told = failures(failed)
        assert "No space left on device" in told or "database or disk is full" in told
        assert "The champion stays as it is." in told
        assert [folder.name for folder in (disk.folder / "models" / "fake").iterdir()] == [before.run_id]
        assert rig.champion() == "1"
        disk.make_room()
        assert rig.forecast() == served
        rig.train()
        assert rig.read("SELECT max(version) FROM models") == [("2",)]
