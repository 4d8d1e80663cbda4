"""A testnet in a process of its own with a recorded past, and Dagster's jobs run against it in this process."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from orcha_pipeline.assets.application import ALLOCATION_APPLICATION
from orcha_pipeline.automation.jobs import APPLY_ALLOCATION, CYCLE, RECORD_HISTORY
from orcha_pipeline.dagster_api import partition_key
from orcha_pipeline.definitions import build_defs
from orcha_pipeline.installation import Installation, open_installation
from orcha_pipeline.model import hour_of
from orcha_pipeline.settings_file import load_settings
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import DecisionRow
from orcha_pipeline_tests.ports import free_port

HISTORY = timedelta(days=4)
"""Enough for seasonal naive, too little for a model: nothing is trained here."""


class Rig:
    """One installation on one testnet. Its settings come from the environment, as the operator's would."""

    def __init__(self, folder: Path, base: str) -> None:
        self.folder = folder
        self.http = httpx.Client(base_url=base, trust_env=False, timeout=60.0)

    @property
    def installation(self) -> Installation:
        return open_installation()

    @property
    def warehouse(self) -> Warehouse:
        return self.installation.warehouse

    # ------------------------------------------------------------ the testnet

    def fault(self, node: str, kind: str, **more: Any) -> None:
        response = self.http.post("/testnet/faults", json={"node": node, "kind": kind, **more})
        assert response.status_code == 200, response.text

    def heal(self) -> None:
        assert self.http.delete("/testnet/faults").status_code == 200

    def advance(self, **span: float) -> None:
        """Let time pass at once; the testnet's clock then runs ahead of the wall's."""
        self.advance_to(self.installation.clock.now() + timedelta(**span))

    def advance_to(self, moment: datetime) -> None:
        """The same, until `moment`."""
        response = self.http.post("/testnet/clock", json={"advance_to": moment.isoformat()})
        assert response.status_code == 200, response.text

    def json(self, path: str, **headers: str) -> Any:
        response = self.http.get(path, headers=headers)
        assert response.status_code == 200, response.text
        return response.json()

    def truth(self) -> dict[str, dict[str, Any]]:
        return self.json("/testnet/nodes")

    def use(self, shares: Mapping[str, float]) -> dict[str, float]:
        """What the nodes take of each resource at these shares."""
        totals: dict[str, float] = {}
        for node in self.installation.settings.nodes:
            for name, amount in node.demand.to_model().as_dict().items():
                totals[name] = totals.get(name, 0.0) + amount * shares[node.name]
        return totals

    @property
    def capacity(self) -> dict[str, float]:
        return self.installation.settings.hosts[0].capacity.to_model().as_dict()

    # ------------------------------------------------------------ Dagster

    def run(self, job: str, **options: Any) -> dg.ExecuteInProcessResult:
        resolved = build_defs(load_settings()).resolve_job_def(job)
        with dg.DagsterInstance.ephemeral() as instance:
            return resolved.execute_in_process(instance=instance, raise_on_error=False, **options)

    def run_cycle(self, *only: dg.AssetKey) -> dg.ExecuteInProcessResult:
        """One cycle as the schedule would start it now, or these assets of it."""
        partition = partition_key(datetime.now(UTC))
        return self.run(CYCLE, partition_key=partition, asset_selection=list(only) or None)

    def run_apply(self, decision_id: str) -> dg.ExecuteInProcessResult:
        op = ALLOCATION_APPLICATION.to_python_identifier()
        return self.run(APPLY_ALLOCATION, run_config={"ops": {op: {"config": {"decision_id": decision_id}}}})

    def record_history(self, start: datetime) -> None:
        """The job that `orcha up` runs first: the testnet's past as a time-lapse, then its clock follows the wall's."""
        self.warehouse.migrate()
        now = hour_of(datetime.now(UTC))
        look_back = {"config": {"hours": (now - start) // timedelta(hours=1)}}
        result = self.run(
            RECORD_HISTORY,
            tags={
                "dagster/asset_partition_range_start": partition_key(start),
                "dagster/asset_partition_range_end": partition_key(now),
            },
            run_config={"ops": {"earnings_hourly": look_back, "features": look_back}},
        )
        assert result.success

    # ------------------------------------------------------------ the warehouse

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        with self.warehouse.read() as connection:
            found = connection.execute(query, list(parameters))
            columns = [column[0] for column in found.description]
            return [dict(zip(columns, row, strict=True)) for row in found.fetchall()]

    def decision(self) -> DecisionRow:
        """The latest decision of the one host."""
        with self.warehouse.read() as connection:
            (found,) = decisions.latest_decisions(connection)
        return found


@contextlib.contextmanager
def testnet_process(folder: Path, port: int, *more: str) -> Iterator[str]:
    """The testnet as `orcha up` starts it, on loopback; yields its address and is ended in order."""
    command = [sys.executable, "-m", "orcha_pipeline.testnet.server", "--state", str(folder / ".orcha" / "testnet")]
    command += ["--port", str(port), "--restart-seconds", "storj=1,streamr=1,golem=1,grass=1", *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(process, base)
        yield base
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            output, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        assert process.returncode == 0, output


def _wait_until_up(process: subprocess.Popen[str], base: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"{base}/testnet/health", trust_env=False)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"the testnet did not start (exit status {process.poll()})")


@contextlib.contextmanager
def _begun(folder: Path, port: int, *more: str) -> Iterator[Rig]:
    """A rig on a running testnet, the environment set so that the settings in force are the ones of `folder`."""
    with testnet_process(folder, port, *more) as base, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("ORCHA_CONFIG", raising=False)
        patch.setenv("ORCHA_HOME", str(folder / ".orcha"))
        patch.setenv("ORCHA_TESTNET__PORT", str(port))
        rig = Rig(folder, base)
        with rig.http:
            yield rig


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose testnet has a past and whose warehouse has recorded it. Made once; each test works on a copy."""
    folder = tmp_path_factory.mktemp("recorded")
    start = hour_of(datetime.now(UTC) - HISTORY)
    with _begun(folder, free_port(), "--start", start.isoformat()) as rig:
        rig.record_history(start)
    return folder


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Starts testnets; all are ended with the test."""
    with contextlib.ExitStack() as stack:

        def make(*more: str, folder: Path | None = None) -> Rig:
            return stack.enter_context(_begun(folder or tmp_path, free_port(), *more))

        yield make


@pytest.fixture
def rig(recorded: Path, tmp_path: Path, make_rig: Callable[..., Rig]) -> Rig:
    """A testnet with four days behind it, live, and the warehouse that recorded them: a copy of this test's own."""
    shutil.copytree(recorded / ".orcha", tmp_path / ".orcha")
    return make_rig()
