"""`orcha up`: from nothing to a decision, then on watch until Ctrl-C."""

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from orcha_pipeline.allocation.recovery import recover
from orcha_pipeline.anomalies.alerts.delivery import Courier
from orcha_pipeline.anomalies.alerts.postman import Postman
from orcha_pipeline.dagster_api import ENDED, DagsterApi, code_server_answers, partition_key, prepare_instance
from orcha_pipeline.dagster_history import databases
from orcha_pipeline.decision_view import print_latest
from orcha_pipeline.errors import SupervisionError
from orcha_pipeline.health import HealthPage, serve
from orcha_pipeline.ingest import open_adapters
from orcha_pipeline.installation import Installation, SteppedClock
from orcha_pipeline.liveness import AliveCheck, Pulse
from orcha_pipeline.lookout import Lookout, look
from orcha_pipeline.lost_runs import end_lost_runs
from orcha_pipeline.model import HOUR, hour_of
from orcha_pipeline.permission_commands import pause_line
from orcha_pipeline.settings import MLFLOW_VIEW
from orcha_pipeline.settings_file import load_settings
from orcha_pipeline.sqlite_files import make_shrinkable
from orcha_pipeline.supervisor import Service, Supervisor, instance_lock, require_free_port
from orcha_pipeline.warehouse import decisions
from orcha_pipeline.warehouse.connection import Warehouse
from orcha_pipeline.warehouse.decisions import ModelRow

PROJECT = Path(__file__).resolve().parents[1]
"""The folder with dagster.yaml, workspace.yaml and mlflow/."""
POLL_SECONDS = 1.0
APPLY_TIMEOUT = timedelta(minutes=10)
HANG_SECONDS = 90.0
"""A service that answers nothing for so long hangs; a training that takes all cores is no hang."""
PULSE_SECONDS = 300.0
"""The daemon's heartbeats come every 30 s, later while it waits for a code server that is away."""


LAST_POST_SECONDS = 30.0
"""So long what is still to be told may take where Orcha leaves after a cycle."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the pages are."""

    dagster: str
    mlflow: str
    testnet: str
    health: str


def _addresses(installation: Installation) -> Addresses:
    services, testnet = installation.settings.services, installation.settings.testnet
    return Addresses(
        dagster=f"http://127.0.0.1:{services.dagster_port}",
        mlflow=f"http://127.0.0.1:{services.mlflow_port}",
        testnet=f"http://127.0.0.1:{testnet.port}",
        health=f"http://127.0.0.1:{services.health_port}",
    )


def _answers(url: str, timeout: float = 2.0) -> Callable[[], bool]:
    def answers() -> bool:
        try:
            return httpx.get(url, timeout=timeout, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    return answers


def _alive(answers: Callable[[], bool]) -> AliveCheck:
    return AliveCheck(answers=answers, limit=HANG_SECONDS)


def _heartbeats(url: str) -> Callable[[], dict[str, float | None]]:
    def beats() -> dict[str, float | None]:
        api = DagsterApi(url, timeout=10.0)
        try:
            return api.heartbeats()
        finally:
            api.close()

    return beats


def _project_file(name: str) -> Path:
    path = PROJECT / name
    if not path.exists():
        raise SupervisionError(
            f"{path} is missing. Orcha runs from its own clone: get it back with `git checkout {name}`, "
            "or clone the project afresh."
        )
    return path


def _check_ports(installation: Installation) -> None:
    services = installation.settings.services
    require_free_port(services.dagster_port, "the Dagster webserver", "services.dagster_port")
    require_free_port(services.code_server_port, "the Dagster code server", "services.code_server_port")
    require_free_port(services.mlflow_port, "the MLflow server", "services.mlflow_port")
    require_free_port(services.health_port, "the health page", "services.health_port")
    if installation.simulated:
        require_free_port(installation.settings.testnet.port, "the testnet", "testnet.port")


def services_of(installation: Installation, config: Path | None, started_at: datetime) -> list[Service]:
    """The children of `orcha up`, in the order they are started."""
    settings = installation.settings
    home, where = settings.home.resolve(), _addresses(installation)
    binaries = Path(sys.executable).parent
    dagster_home, logs = home / "dagster", home / "logs"
    for folder in (dagster_home, logs, home / "mlflow"):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_project_file("dagster.yaml"), dagster_home / "dagster.yaml")
    prepare_instance(dagster_home)
    for file in databases(dagster_home):  # now, while no service has them open
        make_shrinkable(file)
    workspace = str(_project_file("workspace.yaml"))
    env = {
        **os.environ,
        "DAGSTER_HOME": str(dagster_home),
        "ORCHA_HOME": str(home),
        **({} if config is None else {"ORCHA_CONFIG": str(config.resolve())}),
        "ORCHA_CODE_SERVER_PORT": str(settings.services.code_server_port),
        "ORCHA_MLFLOW_PORT": str(settings.services.mlflow_port),
        "ORCHA_MLFLOW": str(binaries / "mlflow"),
        # Recording history touches thousands of partitions in one run: one planned event an asset, not one each.
        "DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS": "true",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
    }

    def service(
        name: str,
        command: list[str],
        ready: Callable[[], bool],
        alive: AliveCheck,
        start_timeout: float = 120.0,
        *,
        before_start: Callable[[], object] = lambda: None,
    ) -> Service:
        return Service(
            name=name,
            command=command,
            env=env,
            cwd=Path.cwd(),
            log_path=logs / f"{name}.log",
            ready=ready,
            alive=alive,
            memory_limit_mib=settings.services.memory_limit_mib,
            start_timeout=start_timeout,
            before_start=before_start,
        )

    dagster = [
        service(
            "code-server",
            [
                str(binaries / "dagster"),
                *("code-server", "start", "-m", "orcha_pipeline.definitions", "-a", "defs"),
                *("-h", "127.0.0.1", "-p", str(settings.services.code_server_port)),
            ],
            _port_open(settings.services.code_server_port),
            _alive(lambda: code_server_answers(settings.services.code_server_port)),
            before_start=lambda: end_lost_runs(dagster_home),
        ),
        service(
            "webserver",
            [
                str(binaries / "dagster-webserver"),
                *("-w", workspace, "-h", "127.0.0.1", "-p", str(settings.services.dagster_port)),
            ],
            _answers(f"{where.dagster}/server_info"),
            _alive(_answers(f"{where.dagster}/server_info", 10.0)),
        ),
        service(
            "daemon",
            [str(binaries / "dagster-daemon"), "run", "-w", workspace],
            lambda: True,
            AliveCheck(answers=Pulse(_heartbeats(where.dagster)), every=15.0, limit=PULSE_SECONDS),
        ),
    ]
    mlflow = service(
        "mlflow",
        ["sh", str(_project_file("mlflow/serve.sh"))],
        _answers(f"{where.mlflow}/health"),
        _alive(_answers(f"{where.mlflow}/health", 10.0)),
        180.0,
    )
    return [*([_testnet(installation, service, started_at)] if installation.simulated else []), *dagster, mlflow]


def _testnet(installation: Installation, service: Callable[..., Service], started_at: datetime) -> Service:
    settings = installation.settings
    start = hour_of(started_at - timedelta(days=settings.testnet.history_days))
    command = [sys.executable, "-m", "orcha_pipeline.testnet.server"]
    command += ["--state", str(settings.home.resolve() / "testnet"), "--port", str(settings.testnet.port)]
    command += ["--seed", str(settings.testnet.seed), "--start", start.isoformat()]
    command += ["--hosts", str(settings.testnet.hosts)]
    for flag, path in (("--world", settings.testnet.world), ("--prices", settings.testnet.prices)):
        if path is not None:
            command += [flag, str(path.resolve())]
    health = f"{_addresses(installation).testnet}/testnet/health"
    return service("testnet", command, _answers(health), _alive(_answers(health, 10.0)))


def _port_open(port: int) -> Callable[[], bool]:
    def ready() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return ready


@dataclass(frozen=True, slots=True)
class _Flow:
    """The steps from nothing to the first decision, each shown as it goes."""

    installation: Installation
    warehouse: Warehouse
    api: DagsterApi
    console: Console

    @property
    def hosts(self) -> set[str]:
        """The configured hosts: others may be on record from earlier settings."""
        return {host.name for host in self.installation.settings.hosts}

    def follow(self, run_id: str, what: str, *, total: int | None, done: Callable[[], int]) -> None:
        """Show a run's progress until it ends. Raises `SupervisionError` if it failed."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=total)
            while (status := self.api.run_status(run_id)) not in ENDED:
                progress.update(task, completed=done())
                time.sleep(POLL_SECONDS)
        if status != "SUCCESS":
            raise SupervisionError(
                f"{what}: the run ended as {status.lower()}. {self.api.why_failed(run_id)}\n"
                f"Everything about it: {self.run_page(run_id)}"
            )

    def run_page(self, run_id: str) -> str:
        """The run's page in the Dagster UI."""
        return f"{_addresses(self.installation).dagster}/runs/{run_id}"

    def timed(self, what: str, action: Callable[[], str]) -> None:
        """Do one step and print its line: what it came to, and the seconds it took."""
        started = time.monotonic()
        result = action()
        seconds = time.monotonic() - started
        self.console.print(f"[green]✓[/] {what}: {escape(result)} [dim]({seconds:.0f} s)[/]", highlight=False)

    def record_history(self) -> str:
        """Record what there is of the past, once."""
        clock, settings = self.installation.clock, self.installation.settings
        end = hour_of(datetime.now(UTC))
        stepped = isinstance(clock, SteppedClock) and not clock.is_live()
        start = hour_of(clock.now()) if stepped else end - timedelta(days=settings.testnet.history_days)
        hours = (end - start) // HOUR + 1
        look_back = {"hours": (end - start) // HOUR}
        run_id = self.api.launch(
            "record_history",
            tags={
                "dagster/asset_partition_range_start": partition_key(start),
                "dagster/asset_partition_range_end": partition_key(end),
            },
            ops={"earnings_hourly": look_back, "features": look_back},
        )

        def passed() -> int:
            # The testnet's own clock tells how far its past has been played.
            return min(hours, (clock.now() - start) // HOUR)

        self.follow(run_id, "Recording history, hours", total=hours if stepped else None, done=passed)
        with self.warehouse.read() as connection:
            rows = decisions.count_features(connection)
        how = "time-lapse of" if stepped else "what the nodes remember of"
        return f"{how} {hours / 24:.0f} days, {rows:,} node-hours"

    def train(self) -> str:
        """Train a model a protocol, once."""
        protocols = sorted(set(self.installation.node_protocols().values()))
        run_id = self.api.launch("train_models")

        def trained_so_far() -> int:
            with self.warehouse.read() as connection:
                return decisions.count_models(connection, run_id)

        self.follow(run_id, "Training, models", total=len(protocols), done=trained_so_far)
        with self.warehouse.read() as connection:
            trained = [row for row in decisions.models(connection) if row.dagster_run_id == run_id]
        told = ", ".join(_model_told(row) for row in trained)
        return told or "none yet, for no hour of any node is known; nodes without history are left as they are"

    def recovery(self) -> str:
        """Bring applications to an end that an earlier run of Orcha left in their midst."""
        with open_adapters(self.installation) as adapters:
            found = recover(self.installation, self.warehouse, adapters)
        return "; ".join(f"{each.host}: {each.status.value.replace('_', ' ')} ({each.reason})" for each in found)

    def cycle(self) -> str:
        """Run one cycle now, outside the schedule."""
        # The hour a run is for is the wall clock's, as the schedule's is; a testnet's own clock may be ahead of it.
        run_id = self.api.launch("cycle", tags={"dagster/partition": partition_key(datetime.now(UTC))})
        self.follow(run_id, "Cycle", total=None, done=lambda: 0)
        with self.warehouse.read() as connection:
            latest = decisions.latest_decisions(connection, self.hosts)
        return ", ".join(f"{d.host}: {d.verdict.value}" for d in latest)

    def application(self) -> str:
        """Wait until the latest decisions that say reallocate have been carried out."""
        deadline = time.monotonic() + APPLY_TIMEOUT.total_seconds()
        with self.console.status("Applying the decision"):
            while time.monotonic() < deadline:
                with self.warehouse.read() as connection:
                    waiting = decisions.unapplied(connection, self.hosts)
                    applied = decisions.latest_applications(connection, self.hosts)
                if not waiting:
                    return ", ".join(f"{a.status.value}{f' ({a.reason})' if a.reason else ''}" for a in applied)
                time.sleep(POLL_SECONDS)
        raise SupervisionError(
            f"The decision was not carried out within {APPLY_TIMEOUT.total_seconds() / 60:.0f} minutes. "
            f"Look at the runs of apply_allocation: {_addresses(self.installation).dagster}/runs"
        )


def up(installation: Installation, console: Console, *, config: Path | None, once: bool) -> None:
    """Start everything, reach a decision, print it; then watch over the services until interrupted.

    With `once`, end after the first full cycle. Raises the `OrchaError` family; leaves no process behind.
    """
    settings, started_at = installation.settings, datetime.now(UTC)
    where = _addresses(installation)
    if installation.simulated:
        console.print("[yellow]No node is configured: running on the testnet. Everything shown is simulated.[/]")
    with ExitStack() as stack:
        stack.enter_context(instance_lock(settings.home, addresses=(where.dagster, where.mlflow)))
        _check_ports(installation)
        warehouse = installation.warehouse
        made = warehouse.migrate()
        console.print(f"[green]✓[/] Warehouse: {settings.warehouse_path}{' (new)' if made else ''}")
        lookout = Lookout(lambda: look(installation))
        stack.callback(lookout.close)
        postman = stack.enter_context(
            Postman(installation, Courier(), read_settings=lambda: load_settings(config).alerts)
        )
        supervisor = stack.enter_context(Supervisor())
        page = HealthPage(lookout, services=supervisor.states, idle_seconds=supervisor.idle_seconds)
        stack.enter_context(serve(page.app(), settings.services.health_port))
        with console.status("Starting the services") as status:
            supervisor.start(
                services_of(installation, config, started_at),
                on_ready=lambda name: status.update(f"Starting the services ({name} is up)"),
            )
        console.print(f"[green]✓[/] Services: {', '.join(supervisor.names())}")
        api = DagsterApi(where.dagster)
        stack.callback(api.close)
        _wait_until_loaded(api, console, settings.home / "logs")
        flow = _Flow(installation, warehouse, api, console)
        with warehouse.read() as connection:
            has_history = decisions.count_features(connection) > 0
            left_behind = decisions.applications_without_end(connection)
            missing = set(installation.node_protocols().values()) - {
                row.protocol for row in decisions.models(connection)
            }
        if left_behind:
            flow.timed("Recovery", flow.recovery)
        if not has_history:
            flow.timed("History", flow.record_history)
        postman.start()  # not before: meanwhile the testnet's clock runs through its past
        if missing:
            flow.timed("Models", flow.train)
        flow.timed("Cycle", flow.cycle)
        with warehouse.read() as connection:
            to_apply = decisions.unapplied(connection, flow.hosts)
        if to_apply:
            flow.timed("Application", flow.application)
        if told := pause_line(installation):
            console.print(f"[bold yellow]{escape(told)}[/]")
        print_latest(console, warehouse, installation)
        console.print(f"Dagster: [link]{where.dagster}[/]")
        console.print(f"MLflow: [link]{where.mlflow}/#/experiments?{MLFLOW_VIEW}[/]", soft_wrap=True)
        console.print(f"Health: [link]{where.health}/health[/]")
        if once:
            postman.finish(wait=LAST_POST_SECONDS)
            return
        console.print(f"A cycle runs at [bold]{settings.cycle_cron}[/] (UTC). Ctrl-C ends everything.")
        supervisor.watch(on_restart=lambda name, why: console.print(f"[yellow]{name} was restarted: {escape(why)}[/]"))


def _wait_until_loaded(api: DagsterApi, console: Console, logs: Path) -> None:
    deadline = time.monotonic() + 120
    with console.status("Loading the project into Dagster"):
        while time.monotonic() < deadline:
            error = api.load_error()
            if error is None:
                return
            if error:
                raise SupervisionError(f"Dagster cannot load the project: {error}")
            time.sleep(POLL_SECONDS)
    raise SupervisionError(f"Dagster did not load the project within 120 s. See {logs / 'code-server.log'}.")


def _model_told(row: ModelRow) -> str:
    """A new model version with its error in the backtest, beside seasonal naive's."""
    served, naive = (row.metrics.get(f"{name} wape") for name in ("served", "seasonal_naive"))
    measured = "not measured yet" if served is None or naive is None else f"WAPE {served:.2f}, naive {naive:.2f}"
    return f"{row.protocol} v{row.version} ({measured}{'' if row.champion else ', not champion'})"
