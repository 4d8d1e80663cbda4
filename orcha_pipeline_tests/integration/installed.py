"""One installation in a folder of its own, driven as an operator drives it: every command is a fresh process."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomlkit

from orcha_pipeline.dagster_api import partition_key, prepare_instance
from orcha_pipeline.warehouse.connection import Warehouse

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 300


class Installed:
    """`folder` holds orcha.toml and .orcha; `env` is what the processes get beside the bare necessities.

    `packages` is a folder of installed packages beside those of this environment.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], env: Mapping[str, str], *, packages: Path | None = None
    ) -> None:
        self.folder = folder
        self.home = folder / ".orcha"
        self.dagster_home = self.home / "dagster"
        self.write(settings)
        self.dagster_home.mkdir(parents=True)
        shutil.copyfile(PROJECT / "dagster.yaml", self.dagster_home / "dagster.yaml")
        prepare_instance(self.dagster_home)
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self.env = kept | {
            "DAGSTER_HOME": str(self.dagster_home),
            "PYTHONPATH": os.pathsep.join(str(path) for path in (packages, PROJECT) if path),
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "ORCHA_APPLY__MODE": "auto",  # without it real nodes are only advised on
            **env,
        }

    def write(self, settings: Mapping[str, Any]) -> None:
        """Make these the settings."""
        (self.folder / "orcha.toml").write_text(tomlkit.dumps(settings))

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.home / "warehouse.duckdb")

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def orcha(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return self.run(str(BIN / "orcha"), *arguments, env=env)

    def python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-c", code, *arguments)

    def job(
        self, name: str, *, config: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the jobs with Dagster's own command, recorded in this installation's instance."""
        command = [str(BIN / "dagster"), "job", "execute", "-m", "orcha_pipeline.definitions", "-j", name]
        command += ["--tags", json.dumps(dict(tags or {}))]
        if config is not None:
            file = self.folder / "run.yaml"
            file.write_text(json.dumps(config))  # JSON is YAML
            command += ["-c", str(file)]
        return self.run(*command)

    def cycle(self) -> subprocess.CompletedProcess[str]:
        return self.job("cycle", tags={"dagster/partition": partition_key(datetime.now(UTC))})

    def apply(self, decision_id: str) -> subprocess.CompletedProcess[str]:
        config = {"ops": {"allocation_application": {"config": {"decision_id": decision_id}}}}
        return self.job("apply_allocation", config=config)

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        with self.warehouse.read() as connection:
            found = connection.execute(query, list(parameters))
            columns = [column[0] for column in found.description or ()]
            return [dict(zip(columns, row, strict=True)) for row in found.fetchall()]


# What a process runs to record a past: each full hour until now is read as if it were the present. The emulated nodes
# are told the same time at their control addresses, and to follow the wall clock at the end.
RECORD_PAST = """
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx

from orcha_pipeline.clock import FixedClock
from orcha_pipeline.ingest import ingest_now, open_adapters
from orcha_pipeline.installation import open_installation
from orcha_pipeline.model import hour_of
from orcha_pipeline.prices import PriceClient

hours, controls = int(sys.argv[1]), sys.argv[2:]
now = datetime.now(UTC)
clock = FixedClock(now)
installation = replace(open_installation(), clock=clock)
installation.warehouse.migrate()
prices = PriceClient(installation.settings.prices, clock)


def tell(body):
    for url in controls:
        httpx.post(url, json=body, timeout=60, trust_env=False).raise_for_status()


with open_adapters(installation) as adapters:
    for back in range(hours, -1, -1):
        moment = hour_of(now) - timedelta(hours=back)
        tell({"advance_to": moment.isoformat()})
        clock.set(moment)
        report = ingest_now(installation, installation.warehouse, adapters, prices)
        assert not report.failures, report.failures
prices.close()
tell({"live": True})
"""
