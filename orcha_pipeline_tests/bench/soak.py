"""Weeks of cycles on a virtual clock, against a testnet with outages: whether anything grows, slows down or breaks.

`make bench-soak` plays them with the real assets, adapters over HTTP on loopback, a DuckDB file, Dagster with its
SQLite databases, and the executor in mode auto. Each day ends with all rules of `orcha doctor` and the uptime by slots.
The report is written anew each day, so that a soak that is ended early has told what it saw.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomlkit
from rich.console import Console
from rich.table import Table

from orcha_pipeline.dagster_api import prepare_instance
from orcha_pipeline.model import SLOT, hour_of
from orcha_pipeline.testnet.levers import node_name
from orcha_pipeline.testnet.worlds import PROTOCOLS
from orcha_pipeline_tests.bench import soak_real
from orcha_pipeline_tests.bench.planted_faults import judged, planted
from orcha_pipeline_tests.bench.soak_curves import columns, draw, flatness_of, samples_of, told_day
from orcha_pipeline_tests.bench.soak_cycles import LATE, Behind, Sample, Soak, soak
from orcha_pipeline_tests.bench.soak_world import Outage, draw_outages, testnet
from orcha_pipeline_tests.ports import free_port

PROJECT = Path(__file__).resolve().parents[2]
CYCLES_A_DAY = round(timedelta(days=1) / SLOT)
SERVICES = ("thegraph", "docker")
"""Those that fall away with the host."""


@contextmanager
def installed(folder: Path, port: int) -> Iterator[Path]:
    """An installation in `folder`, new or not, on the testnet at `port`, whose settings this process reads.

    Gives its home.
    """
    home = folder / ".orcha"
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PROJECT / "dagster.yaml", home / "dagster" / "dagster.yaml")
    prepare_instance(home / "dagster")
    config = folder / "orcha.toml"
    settings = {
        "home": ".orcha",
        "testnet": {"port": port},
        "apply": {"mode": "auto"},
        # The least and a week, so that a month shows what both come to.
        "housekeeping": {"raw_days": 28, "runs_days": 7},
    }
    config.write_text(tomlkit.dumps(settings), encoding="utf-8")
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("ORCHA_")]:
        del os.environ[name]
    os.environ["ORCHA_CONFIG"] = str(config)
    # As `orcha up` sets it.
    os.environ["DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS"] = "true"
    try:
        yield home
    finally:
        os.environ.clear()
        os.environ.update(before)


class Report:
    """What was seen so far; `path` is where it is kept, if anywhere.

    `about` tells, among others, after how many cycles a process began.
    """

    def __init__(self, path: Path | None, about: dict[str, Any], outages: list[Outage]) -> None:
        self.path = path
        self.about = about
        self.outages = outages
        self.days: list[dict[str, Any]] = []
        self.alerts: dict[str, Any] = {}
        self.cursors: dict[str, str | None] = {}
        self.idle: dict[str, list[str]] = {}
        self.samples: list[Sample] = []

    def go_on(self, content: Mapping[str, Any]) -> Behind:
        """Take up what an earlier process had told; tells what it leaves to play."""
        self.days, self.samples = list(content["days"]), samples_of(content["curves"])
        self.about = {**content["about"], "processes": [*content["about"]["processes"], len(self.samples)]}
        return Behind(
            began=self.samples[0].at - LATE,
            cycles=len(self.samples),
            cursors=content["cursors"],
            idle={node: [datetime.fromisoformat(at) for at in slots] for node, slots in content["idle"].items()},
        )

    def end_day(self, played: Soak) -> dict[str, Any]:
        """Look at the day that ends, and write the report anew."""
        first = self.days[-1]["cycles"] if self.days else 0
        self.days.append(told_day(played.end_day(), self.samples[first:]))
        self.alerts = _judge_alerts(played, self.outages)
        self.cursors = dict(played.cursors)
        self.idle = {node: [at.isoformat() for at in slots] for node, slots in played.idle.items()}
        if self.path is not None:
            self.path.write_text(json.dumps(self.content(), indent=1) + "\n", encoding="utf-8")
            begun = played.began
            spans = [(begun + each.begins, begun + each.begins + each.lasts) for each in self.outages]
            draw(self.path.with_suffix(".png"), self.samples, [span for span in spans if span[0] < self.samples[-1].at])
        return self.days[-1]

    def content(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        last = self.days[-1]
        return {
            "about": self.about,
            "cycles": last["cycles"],
            "failed": sum(sum(day["failed"].values()) for day in self.days),
            "housekeeping": [f"day {day['day']}: {why}" for day in self.days for why in day["housekeeping"]],
            "breaches": [f"day {day['day']}: {breach}" for day in self.days for breach in day["breaches"]],
            "uptime": last["uptime"],
            "alerts": self.alerts,
            "flatness a day": {name: asdict(found) for name, found in flatness_of(self.samples).items()},
            "outages": [
                {"begins_hours": each.begins.total_seconds() / 3600, "hours": each.lasts.total_seconds() / 3600}
                | {"doors": each.doors, "kind": each.kind}
                for each in self.outages
            ],
            "days": self.days,
            "cursors": self.cursors,
            "idle": self.idle,
            "curves": columns(self.samples),
        }


class Kept:
    """A copy of the installation as a day left it, with the report of then: what a soak that was ended goes on from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._report = folder / "soak.json"

    def restore(self, installation: Path) -> dict[str, Any] | None:
        """Put the copy where the installation is to be, and give its report; None where nothing is kept."""
        if not self._report.exists():
            return None
        shutil.rmtree(installation, ignore_errors=True)
        shutil.copytree(self._folder / "installation", installation)
        return json.loads(self._report.read_text(encoding="utf-8"))

    def keep(self, installation: Path, content: Mapping[str, Any]) -> None:
        """Take the place of what was kept, whole: one that is killed meanwhile leaves the old copy or none."""
        fresh = self._folder.with_name(f"{self._folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(installation, fresh / "installation")
        (fresh / "soak.json").write_text(json.dumps(content), encoding="utf-8")
        shutil.rmtree(self._folder, ignore_errors=True)
        fresh.rename(self._folder)


def _judge_alerts(played: Soak, outages: list[Outage]) -> dict[str, Any]:
    (host,) = played.installation.settings.hosts
    stale = timedelta(minutes=played.installation.settings.prices.stale_after_minutes)
    alerts, failed = played.alerts()
    nodes = [node_name(protocol) for protocol in PROTOCOLS]
    expected = planted(outages, began=played.began, cycles=played.cycles, host=host.name, nodes=nodes, stale=stale)
    return judged(alerts, expected, failed=failed, idle=played.idle)


def play(
    folder: Path,
    *,
    days: float,
    history_days: float,
    seed: int,
    dagster_every: int,
    squeeze: float = 1.0,
    json_path: Path | None = None,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """So many days of cycles in `folder`. Returns the report, which is kept at `json_path` day by day.

    Goes on from what is `kept`, if anything.
    """
    port, history = free_port(), timedelta(days=history_days)
    nodes = [node_name(protocol) for protocol in PROTOCOLS]
    outages = draw_outages(days, seed=seed, nodes=nodes, services=SERVICES, squeeze=squeeze)
    about = {
        "days": days,
        "seed": seed,
        "history_days": history_days,
        "dagster_every": dagster_every,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "processes": [0],
    }
    report = Report(json_path, about, outages)
    before = None if kept is None else kept.restore(folder)
    behind = None if before is None else report.go_on(before)
    cycles = round(days * CYCLES_A_DAY)
    start = hour_of(datetime.now(UTC) - history)
    with (
        installed(folder, port) as home,
        testnet(home / "testnet", port, start=start, seed=seed) as world,
        soak(
            world,
            home / "dagster",
            history=history,
            outages=list(outages),
            dagster_every=dagster_every,
            behind=behind,
        ) as played,
    ):
        began, taken = time.monotonic(), report.about.get("hours_taken", 0.0)
        for number in range(len(report.samples) + 1, cycles + 1):
            report.samples.append(played.play_cycle())
            if report.samples[-1].error:
                _say(f"{report.samples[-1].at:%Y-%m-%d %H:%M} the cycle failed: {report.samples[-1].error}")
            if number % CYCLES_A_DAY == 0 or number == cycles:
                told = report.end_day(played)
                report.about["hours_taken"] = round(taken + (time.monotonic() - began) / 3600, 3)
                _say(_told_line(told, report.about["hours_taken"]))
                if kept is not None:
                    kept.keep(folder, report.content())
    return report.content()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _told_line(day: dict[str, Any], hours: float) -> str:
    took = ", ".join(f"{v['seconds p50']:.2f}/{v['seconds p99']:.2f} s {way}" for way, v in day["took"].items())
    return (
        f"day {day['day']}: {took} (p50/p99); {day['rss_mib']:.0f} MiB, {day['handles']:.0f} handles, "
        f"{day['threads']:.0f} threads; warehouse {day['warehouse_mib']:.1f}, data folder {day['home_mib']:.1f} MiB; "
        f"{day['verdicts']}, applications {day['applications']}; breaches {list(day['breaches'])}; "
        f"housekeeping {list(day['housekeeping']) or 'well'}; "
        f"slots {day['uptime']['decided']} of {day['uptime']['slots']}; {hours:.2f} h"
    )


def show(console: Console, content: dict[str, Any]) -> None:
    """The report as a person reads it."""
    uptime = content["uptime"]
    console.print(
        f"{content['cycles']:,} cycles, {content['failed']} failed; {uptime['decided']:,} of {uptime['slots']:,} slots "
        f"decided; {len(content['breaches'])} breaches of doctor's rules",
        highlight=False,
    )
    alerts = content["alerts"]
    console.print(
        f"{alerts['told once and over']} of {alerts['planted']} planted faults were one alert each, over with the "
        f"fault; following from them {alerts['following']}; for nothing {alerts['for nothing']}",
        highlight=False,
        markup=False,
    )
    for breach in (*content["breaches"], *content["housekeeping"], *alerts["amiss"]):
        console.print(f"  {breach}", highlight=False, markup=False)
    table = Table(title="The last two thirds")
    for column in ("what", "level", "slope a day", "of the level"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, found in content["flatness a day"].items():
        table.add_row(name, f"{found['level']:.4g}", f"{found['slope']:+.4g}", f"{found['relative']:+.2%}")
    console.print(table)


def main() -> None:
    """Play, and print what came of it. Ends with 1 where a rule was broken, a slot missed or a cycle failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=30, help="virtual days (default: 30)")
    parser.add_argument("--history-days", type=float, default=7, help="days recorded before (default: 7)")
    parser.add_argument("--seed", type=int, default=1, help="of the world and of its outages (default: 1)")
    parser.add_argument(
        "--dagster-every", type=int, default=12, help="every so many cycles go through Dagster (default: 12)"
    )
    parser.add_argument("--squeeze", type=float, default=1, help="outages come and go so many times faster")
    parser.add_argument("--real", type=float, metavar="MINUTES", help="watch `orcha up` itself for so long instead")
    parser.add_argument("--home", type=Path, help="folder to play in, which is kept (default: a temporary one)")
    parser.add_argument(
        "--keep", type=Path, help="folder for a copy of each day's end, from which the next call with it goes on"
    )
    parser.add_argument("--json", type=Path, help="write the report here, and its picture beside it as .png")
    given = parser.parse_args()
    console = Console(width=max(100, Console().width))
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.home or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if given.real is not None:
            sys.exit(_real(folder, given.real, given.json, console))
        content = play(
            folder,
            days=given.days,
            history_days=given.history_days,
            seed=given.seed,
            dagster_every=given.dagster_every,
            squeeze=given.squeeze,
            json_path=given.json,
            kept=None if given.keep is None else Kept(given.keep),
        )
    show(console, content)
    uptime = content["uptime"]
    amiss = content["failed"] or content["breaches"] or content["housekeeping"]
    sys.exit(bool(amiss or uptime["decided"] != uptime["slots"]))


def _real(folder: Path, minutes: float, json_path: Path | None, console: Console) -> bool:
    """Watch the real processes; True where a rule was broken."""
    run = soak_real.RealRun(folder)
    run.watch(minutes)
    content = run.content()
    if json_path is not None:
        json_path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    soak_real.show(console, content, minutes)
    return bool(content["breaches"])


if __name__ == "__main__":
    main()
