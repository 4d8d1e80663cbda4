"""What `orcha doctor` finds, and that it finds nothing where all is well."""

from contextlib import contextmanager

import pytest
from rich.console import Console

from orcha_pipeline import doctor
from orcha_pipeline.allocation.apply import carry_out
from orcha_pipeline.allocation.host_lock import host_lock
from orcha_pipeline.clock import FixedClock
from orcha_pipeline.errors import NodeConnectionError
from orcha_pipeline.forecasting.artifact import MANIFEST_FILE
from orcha_pipeline.model import HOUR, ApplicationStatus
from orcha_pipeline.nodes_check import Status
from orcha_pipeline.permission_commands import pause
from orcha_pipeline.warehouse import decisions, freezes
from orcha_pipeline.warehouse.decisions import ApplicationRow, ModelRow
from orcha_pipeline_tests.rig import NOW, FakeNode, decided_line, decision_to_apply, installation, read_now


@pytest.fixture
def clock():
    return FixedClock(NOW)


@pytest.fixture
def nodes(clock):
    return {"a": FakeNode("a", clock, value=60.0), "b": FakeNode("b", clock, value=20.0)}


@pytest.fixture
def installed(tmp_path, clock, nodes, monkeypatch):
    """A host whose nodes Orcha has moved."""
    made = installation(tmp_path, clock, list(nodes))

    @contextmanager
    def opened(_installation, wanted):
        yield {node.name: nodes[node.name] for node in wanted}, {}

    monkeypatch.setattr(doctor, "open_adapters_of", opened)
    monkeypatch.setattr(doctor, "free_gib", lambda _home: 100.0)
    read_now(made.warehouse, nodes.values(), NOW)
    row = decision_to_apply("d-1", [decided_line("a", 60.0, 30.0), decided_line("b", 20.0, 50.0)])
    with made.warehouse.write() as connection:
        decisions.record_decision(connection, row)
    outcome = carry_out(
        "d-1", application_id="a-1", run_id="run", installation=made, warehouse=made.warehouse, adapters=nodes
    )
    assert outcome.status is ApplicationStatus.APPLIED
    return made


def told(installed, *statuses):
    """Part -> text of the findings with one of these statuses."""
    return {finding.part: finding.text for finding in doctor.examine(installed) if finding.status in statuses}


def test_where_all_is_well_nothing_is_broken_and_each_part_says_so(installed):
    assert told(installed, Status.BROKEN) == {}
    found = told(installed, Status.OK)
    assert set(found) == {"warehouse", "applications", "nodes", "disk"}
    assert found["nodes"] == "all 2 that Orcha has moved stand where it left them"
    assert told(installed, Status.NOTE) == {"models": "none is trained yet: seasonal naive is served"}


def test_a_row_that_contradicts_another_is_named(installed):
    with installed.warehouse.write() as connection:
        connection.execute("DELETE FROM application_steps WHERE node = 'b'")
    assert (
        "not every change has a step that was done and read back (1: a-1)"
        in told(installed, Status.BROKEN)["warehouse"]
    )


def test_an_application_left_in_its_midst_is_told_of_but_not_one_under_way(installed):
    row = decision_to_apply("d-2", [], decided_at=NOW + HOUR / 4)
    begun = ApplicationRow(
        application_id="abcdefgh-2",
        decision_id="d-2",
        started_at=NOW,
        ended_at=None,
        status=ApplicationStatus.RUNNING,
        reason="",
        dagster_run_id="run",
    )
    with installed.warehouse.write() as connection:
        decisions.record_decision(connection, row)
        assert decisions.begin_application(connection, begun)
    assert told(installed, Status.BROKEN)["applications"].startswith("abcdefgh of box: were left in their midst")
    with host_lock(installed.settings.home, "box") as mine:
        assert mine
        assert "applications" not in told(installed, Status.BROKEN)


def test_a_frozen_node_and_a_pause_are_told_with_what_ends_them(installed):
    with installed.warehouse.write() as connection:
        freezes.freeze(connection, application_id="a-1", stuck={"a": "set limit of a to 60"}, at=NOW)
    pause(installed, who="ada", why="")
    assert told(installed, Status.BROKEN)["frozen"] == "a: please set limit of a to 60; then `orcha unfreeze a`"
    assert "by ada; `orcha resume` ends it" in told(installed, Status.NOTE)["pause"]


def test_a_node_that_someone_else_has_moved_is_told_of(installed, nodes):
    nodes["a"].value = 44.0
    assert "a stands at 44 unit, but was left at 30 on 2026-03-05 12:05 UTC" in told(installed, Status.NOTE)["nodes"]


def test_a_change_that_waits_in_a_nodes_settings_is_told_of(installed, nodes, monkeypatch):
    monkeypatch.setattr(
        nodes["a"], "pending_change", lambda: "config.yaml says 44 GB, which it takes at its next start"
    )
    text = told(installed, Status.NOTE)["nodes"]
    assert text == "a stands where it was left, but config.yaml says 44 GB, which it takes at its next start"


@pytest.mark.parametrize("error", [NodeConnectionError("a", "connection refused"), ZeroDivisionError("secret")])
def test_a_node_that_cannot_be_read_is_broken_and_its_bug_keeps_its_secret(installed, nodes, error):
    nodes["a"].fails = lambda: error
    if not isinstance(error, NodeConnectionError):

        def raises():
            raise error

        nodes["a"].fails = raises
    text = told(installed, Status.BROKEN)["nodes"]
    assert text.startswith("a cannot be read")
    assert "secret" not in text


def test_a_champion_whose_files_are_damaged_is_named(installed):
    folder = installed.settings.home / "models" / "storj"
    folder.mkdir(parents=True)
    (folder / MANIFEST_FILE).write_text("{")
    model = ModelRow(
        protocol="storj",
        version="3",
        kind="blend",
        trained_at=NOW,
        mlflow_run_id="",
        dagster_run_id="",
        data_start=NOW,
        data_end=NOW,
        data_hash="",
        metrics={},
        path="models/storj",
        champion=True,
    )
    with installed.warehouse.write() as connection:
        decisions.record_model(connection, model)
    assert "champion 3 of storj" in told(installed, Status.BROKEN)["models"]


@pytest.mark.parametrize(("free", "status"), [(4.0, Status.NOTE), (0.5, Status.BROKEN)])
def test_a_disk_that_fills_is_told_of_in_time(installed, monkeypatch, free, status):
    monkeypatch.setattr(doctor, "free_gib", lambda _home: free)
    assert f"{free:.1f} GiB are free" in told(installed, status)["disk"]


def test_the_screen_sums_up(installed, nodes):
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(doctor.doctor_view(doctor.examine(installed)))
    assert "Nothing is broken. Nothing was changed." in capture.get()
    nodes["a"].fails = lambda: NodeConnectionError("a", "connection refused")
    with console.capture() as capture:
        console.print(doctor.doctor_view(doctor.examine(installed)))
    assert "✗ nodes" in capture.get()
    assert "One thing is broken." in capture.get()
