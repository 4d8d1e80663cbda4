"""The real cycle, again and again on a virtual clock: Dagster's own jobs and sensors in this process.

Every so many cycles go through Dagster with its SQLite databases; in those between, its engine is left out. One process
runs what in operation is a process a cycle, so that whatever a library keeps is seen to pile up. The clock of this
process travels with the testnet's: partitions, runs and readings all are of the virtual time.
"""

import gc
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import time_machine
from dagster import DagsterEventType

from orcha_pipeline.automation.housekeeping import HOUSEKEEPING_JOB
from orcha_pipeline.automation.jobs import APPLY_ALLOCATION, CYCLE, RECORD_HISTORY
from orcha_pipeline.dagster_api import partition_key
from orcha_pipeline.definitions import build_defs
from orcha_pipeline.installation import Installation, open_installation
from orcha_pipeline.model import HOUR, SLOT, hour_of, slot_of
from orcha_pipeline.settings_file import load_settings
from orcha_pipeline.warehouse.alert_rows import AlertRow, alerts_since
from orcha_pipeline.warehouse.consistency import breaches
from orcha_pipeline.warehouse.decisions import records
from orcha_pipeline.warehouse.vital_signs import Uptime, uptime
from orcha_pipeline_tests.bench.soak_direct import DirectCycle, Played
from orcha_pipeline_tests.bench.soak_world import Outage, World

MIB = 2**20
APPLY_SENSORS = ("apply_decision", "apply_approved", "apply_again")
NIGHT = timedelta(hours=2, minutes=45)
"""When housekeeping is done: the slot after its schedule."""
DISK_EVERY = 4
"""Cycles between two walks over the data folder."""
LATE = timedelta(seconds=3)
"""How long after its slot's begin a cycle starts."""
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, slots=True)
class Sample:
    """What one cycle, with the applications that followed, took and left."""

    at: datetime
    through_dagster: bool
    seconds: float
    """Of the cycle alone; of the wall's, that other programs of the machine make longer."""
    cpu_seconds: float
    """Of the cycle alone: what this process used of the processors."""
    apply_seconds: float
    rss_mib: float
    handles: int
    threads: int
    warehouse_mib: float
    home_mib: float
    dagster_mib: float
    testnet_rss_mib: float
    error: str
    """Why the cycle failed; empty where it did not."""
    steps: Mapping[str, float]
    """Seconds by asset."""


@dataclass(frozen=True, slots=True)
class Day:
    """What is on record at the end of a day."""

    day: int
    cycles: int
    verdicts: Mapping[str, int]
    applications: Mapping[str, int]
    """By status."""
    breaches: tuple[str, ...]
    housekeeping: tuple[str, ...]
    """Why a night's was not done."""
    uptime: Uptime
    """Since the soak began."""


@dataclass(slots=True)
class Soak:
    """One installation, `instance` its Dagster, `began` the slot of its first cycle."""

    world: World
    instance: dg.DagsterInstance
    began: datetime
    outages: list[Outage]
    repository: dg.RepositoryDefinition
    direct: DirectCycle
    dagster_every: int
    travelled: Any
    process: psutil.Process = field(default_factory=psutil.Process)
    cycles: int = 0
    nights: list[Played] = field(default_factory=list[Played])
    """What became of housekeeping."""
    cursors: dict[str, str | None] = field(default_factory=dict[str, str | None])
    idle: dict[str, list[datetime]] = field(default_factory=dict[str, list[datetime]])
    """Node -> slots at whose begin it earned nothing, without a fault of ours."""
    _disk: tuple[float, float] = (0.0, 0.0)

    @property
    def installation(self) -> Installation:
        """Read anew, as every run does."""
        return open_installation()

    def play_cycle(self) -> Sample:
        """Let time pass until the next slot, run the cycle, and carry out what its sensors ask for."""
        moment = self.began + self.cycles * SLOT + LATE
        self.world.advance_to(moment)
        self.travelled.move_to(moment)
        for node in self.world.earning_nothing():
            self.idle.setdefault(node, []).append(slot_of(moment))
        while self.outages and self.began + self.outages[0].begins <= moment:
            self._begin(self.outages.pop(0), moment)
        through_dagster = self.cycles % self.dagster_every == 0
        began, used = time.perf_counter(), time.process_time()
        played = self._run(CYCLE, partition_key=partition_key(moment)) if through_dagster else self.direct.play(moment)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - used
        self._apply(played, moment)
        apply_seconds = time.perf_counter() - began - seconds
        if slot_of(moment) == hour_of(moment).replace(hour=0) + NIGHT:
            self.nights.append(self._run(HOUSEKEEPING_JOB))
        self.cycles += 1
        return self._sample(moment, through_dagster, seconds, cpu_seconds, apply_seconds, played)

    def _begin(self, outage: Outage, moment: datetime) -> None:
        """From the first cycle on that meets it, which a soak that goes on has behind it."""
        met_at = self.began - (-outage.begins // SLOT) * SLOT + LATE
        already = max(moment - met_at, timedelta(0))
        if already < outage.lasts:
            self.world.begin(outage, already=already)

    def end_day(self) -> Day:
        """Look at everything of the day that ends, and hold all rules of `orcha doctor` against it."""
        installation = self.installation
        with installation.warehouse.read() as connection:
            now = installation.clock.now()
            hosts = [host.name for host in installation.settings.hosts]
            since = (now - timedelta(days=1)).replace(tzinfo=None)
            verdicts = connection.execute(
                "SELECT verdict, count(*) FROM decisions WHERE decided_at > ? GROUP BY verdict", [since]
            ).fetchall()
            applications = connection.execute(
                "SELECT status, count(*) FROM applications WHERE started_at > ? GROUP BY status", [since]
            ).fetchall()
            found = breaches(connection, now)
            slots = uptime(connection, hosts, since=self.began, now=slot_of(now) + SLOT)
        return Day(
            day=round(self.cycles * SLOT / timedelta(days=1)),
            cycles=self.cycles,
            verdicts=dict(verdicts),
            applications=dict(applications),
            housekeeping=tuple(night.error for night in self._nights() if not night.success),
            breaches=tuple(f"{each.rule.told}: {', '.join(each.examples)}" for each in found),
            uptime=slots,
        )

    def alerts(self) -> tuple[list[AlertRow], list[datetime]]:
        """All that were raised, and when applications failed or were set back."""
        with self.installation.warehouse.read() as connection:
            failed = records(
                connection,
                "SELECT ended_at FROM applications WHERE status IN ('rolled_back', 'rollback_failed')",
            )
            return alerts_since(connection, self.began), [row["ended_at"] for row in failed]

    def _nights(self) -> list[Played]:
        """Those since the last time they were asked for."""
        nights, self.nights = self.nights, []
        return nights

    def _run(self, job: str, *, run_config: Mapping[str, Any] | None = None, **options: Any) -> Played:
        result = self.repository.get_job(job).execute_in_process(
            instance=self.instance, raise_on_error=False, run_config={**dict(run_config or {}), **QUIET}, **options
        )
        self._date_run(result.run_id)
        return Played(success=result.success, error=_why_failed(result), steps=_step_seconds(result))

    def _date_run(self, run_id: str) -> None:
        """SQLite dates a run by the machine's clock, which does not travel; housekeeping goes by that date."""
        runs = self.installation.settings.home / "dagster" / "history" / "runs.db"
        with closing(sqlite3.connect(runs)) as connection, connection:
            made = datetime.now(UTC).replace(tzinfo=None).isoformat(" ")
            connection.execute("UPDATE runs SET create_timestamp = ? WHERE run_id = ?", [made, run_id])

    def _apply(self, played: Played, moment: datetime) -> None:
        """What the daemon does with the sensors' requests; without Dagster, what its sensor would ask for."""
        for decision_id in played.to_apply:
            self.direct.apply(decision_id, moment)
        for name in APPLY_SENSORS:
            sensor = self.repository.get_sensor_def(name)
            with dg.build_sensor_context(
                instance=self.instance,
                cursor=self.cursors.get(name),
                repository_def=self.repository,
            ) as context:
                asked = sensor.evaluate_tick(context)
            self.cursors[name] = asked.cursor
            for request in asked.run_requests or []:
                self._run(APPLY_ALLOCATION, run_config=request.run_config, tags=dict(request.tags))

    def _sample(
        self,
        moment: datetime,
        through_dagster: bool,
        seconds: float,
        cpu_seconds: float,
        apply_seconds: float,
        played: Played,
    ) -> Sample:
        home = self.installation.settings.home
        if self.cycles % DISK_EVERY == 1:
            self._disk = mib_of(home), mib_of(home / "dagster")
            gc.collect()
        return Sample(
            at=moment,
            through_dagster=through_dagster,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            apply_seconds=apply_seconds,
            rss_mib=self.process.memory_info().rss / MIB,
            handles=self.process.num_fds(),
            threads=self.process.num_threads(),
            warehouse_mib=self.installation.settings.warehouse_path.stat().st_size / MIB,
            home_mib=self._disk[0],
            dagster_mib=self._disk[1],
            testnet_rss_mib=self.world.process.memory_info().rss / MIB,
            error=played.error,
            steps=played.steps,
        )


def mib_of(folder: Path) -> float:
    """What the files below `folder` take, MiB."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MIB


def _step_seconds(result: Any) -> dict[str, float]:
    found: Counter[str] = Counter()
    for event in result.all_node_events:
        if event.event_type is DagsterEventType.STEP_SUCCESS:
            found[event.step_key] += event.event_specific_data.duration_ms / 1000.0
    return dict(found)


def _why_failed(result: Any) -> str:
    if result.success:
        return ""
    failed = [event for event in result.all_events if event.is_failure]
    return "; ".join(f"{event.step_key}: {event.message}" for event in failed)


@dataclass(frozen=True, slots=True)
class Behind:
    """What a soak that goes on has behind it."""

    began: datetime
    cycles: int
    cursors: Mapping[str, str | None]
    idle: Mapping[str, Sequence[datetime]]


@contextmanager
def soak(
    world: World,
    dagster_home: Path,
    *,
    history: timedelta,
    outages: list[Outage],
    dagster_every: int,
    behind: Behind | None = None,
) -> Iterator[Soak]:
    """The installation of this environment with its past recorded, ready for its first cycle, or for its next."""
    definitions = build_defs(load_settings())
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        repository = definitions.get_repository_def()
        open_installation().warehouse.migrate()
        if behind is None:
            now = hour_of(datetime.now(UTC))
            _record_history(repository, instance, now - history, now)
            behind = Behind(began=slot_of(datetime.now(UTC)) + SLOT, cycles=0, cursors={}, idle={})
        with time_machine.travel(behind.began + behind.cycles * SLOT, tick=True) as travelled:
            yield Soak(
                world=world,
                instance=instance,
                began=behind.began,
                cycles=behind.cycles,
                cursors=dict(behind.cursors),
                idle={node: list(slots) for node, slots in behind.idle.items()},
                outages=outages,
                repository=repository,
                direct=DirectCycle(definitions, repository, CYCLE),
                dagster_every=dagster_every,
                travelled=travelled,
            )


def _record_history(
    repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, start: datetime, end: datetime
) -> None:
    """What `orcha up` does first."""
    look_back = {"config": {"hours": (end - start) // HOUR}}
    result = repository.get_job(RECORD_HISTORY).execute_in_process(
        instance=instance,
        raise_on_error=True,
        tags={
            "dagster/asset_partition_range_start": partition_key(start),
            "dagster/asset_partition_range_end": partition_key(end),
        },
        run_config={**QUIET, "ops": {"earnings_hourly": look_back, "features": look_back}},
    )
    assert result.success
