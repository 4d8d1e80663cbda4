"""How long forecasting takes: a cold process for 4 and for 1,000 series, and the training of one protocol.

`make bench-forecast` trains every candidate on 90 days of the hourly history of 4 nodes (a daily and weekly profile,
a wandering level, noise), writes warehouses of 2 and of 500 nodes, two series each, and times processes from their
start to their forecasts: as a cycle serves them, and by Keras itself. The ratio is of two medians of the same run,
whose processes took turns.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orcha_pipeline_tests.bench.forecast_once import ISSUED_AT, MODEL, WAREHOUSE

NODES, DAYS = 4, 90


def frame_of(node: str, hours: int, seed: int):
    """One node's hours up to the moment of the forecast."""
    from datetime import timedelta

    from orcha_pipeline.model import hour_of
    from orcha_pipeline_tests.forecasting.synthetic import features

    start = hour_of(ISSUED_AT) - timedelta(hours=hours)
    return features(node=node, hours=hours, seed=seed, noise=0.2, drift=0.03, outages=0.002, start=start)


def train(folder: Path) -> None:
    """In a process of its own, whose time and memory are then known: a protocol's full training."""
    from orcha_pipeline.forecasting.training import train_protocol
    from orcha_pipeline.settings import ForecastSettings
    from orcha_pipeline_tests.forecasting.synthetic import panel

    series = panel(*(frame_of(f"node-{i}", 24 * DAYS, i) for i in range(NODES)))
    began = time.perf_counter()
    trained = train_protocol(
        series, protocol="storj", settings=ForecastSettings(), out_dir=folder, trained_at=ISSUED_AT
    )
    candidates = {
        name: {"wape": one.scores.get("wape"), "seconds": one.scores.get("fit_seconds"), "left out": one.refused}
        for name, one in trained.manifest.candidates.items()
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    json.dump(
        {"seconds": time.perf_counter() - began, "peak_mib": peak, "candidates": candidates, "series": len(series)},
        sys.stdout,
    )


def write_warehouse(home: Path, nodes: int) -> None:
    """A warehouse with five weeks of hourly features of `nodes` nodes."""
    import pandas as pd

    from orcha_pipeline.warehouse.connection import Warehouse

    rows = pd.concat([frame_of(f"node-{i}", 35 * 24, i) for i in range(nodes)])
    rows["hour"] = rows["hour"].dt.tz_localize(None)
    warehouse = Warehouse(home / WAREHOUSE)
    warehouse.migrate()
    with warehouse.write() as connection:
        connection.register("rows", rows)
        connection.execute("INSERT INTO features_hourly BY NAME SELECT * FROM rows")


def told_by(command: Sequence[str]) -> dict:
    """What a process prints as JSON; it is told when it was started."""
    environment = {**os.environ, "STARTED": str(time.time())}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout[done.stdout.index("{") :])


def cold(home: Path, runs: int) -> dict:
    """Both ways to forecast, `runs` times each in turn, after one round that fills the disk cache."""
    once = [sys.executable, "-m", "orcha_pipeline_tests.bench.forecast_once", str(home)]
    served: list[float] = []
    keras: list[float] = []
    for run in range(runs + 1):
        told = told_by(once)
        beside = told_by([*once, "--keras"])
        if run:
            served.append(told["seconds"])
            keras.append(beside["seconds"])
    return {
        **told,
        "seconds": statistics.median(served),
        "worst": max(served),
        "keras_seconds": statistics.median(keras),
        "times_faster": statistics.median(keras) / statistics.median(served),
        "runs": served,
    }


def main() -> None:
    """Measure, print a table and, if asked, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--train-into", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.train_into:
        train(chosen.train_into)
        return
    console = Console()
    figures: dict = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    with tempfile.TemporaryDirectory() as scratch, console.status("Training one protocol") as status:
        model = Path(scratch) / "trained"
        again = [sys.executable, "-m", "orcha_pipeline_tests.bench.forecast", "--train-into", str(model)]
        figures["training"] = told_by(again)
        figures["cold"] = []
        for nodes in (2, 500):
            home = Path(scratch) / str(nodes)
            home.mkdir()
            (home / MODEL).symlink_to(model)
            write_warehouse(home, nodes)
            status.update(f"Forecasting {2 * nodes} series in cold processes")
            figures["cold"].append(cold(home, chosen.runs))
    training = figures["training"]
    console.print(
        f"Training {training['series']} series of {DAYS} days, every candidate: {training['seconds']:.0f} s, "
        f"at most {training['peak_mib']:.0f} MiB ({figures['machine']})"
    )
    table = Table("series", "cold process", "worst", "by Keras", "times faster", "heavy libraries loaded")
    for one in figures["cold"]:
        table.add_row(
            f"{one['series']:,}",
            f"{one['seconds']:.2f} s",
            f"{one['worst']:.2f} s",
            f"{one['keras_seconds']:.2f} s",
            f"{one['times_faster']:.1f}",
            ", ".join(one["loaded"]) or "none",
        )
    console.print(table)
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
