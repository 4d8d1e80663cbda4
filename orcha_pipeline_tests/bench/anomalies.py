"""How good the series detectors are: on labelled series, by faults put into real ones, and how quick.

`make bench-anomalies` scores them on the groups of the Numenta Anomaly Benchmark that lie in ../shared/data, with the
default threshold and with one chosen on the other files, and on the other groups; beside an Isolation Forest on rolling
features, NAB's windowed Gaussian and no detector at all, all in the same run. Then it puts faults into M4's series and
into token turnover and counts what is found. Seconds are of processor time, the best of three.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from rich.console import Console
from rich.progress import track
from rich.table import Table

from orcha_pipeline.anomalies.series_kinds import AUTO_THRESHOLD, detect_series
from orcha_pipeline_tests.bench.injected_faults import (
    Caught,
    Fault,
    Faulty,
    Hourly,
    Summary,
    caught,
    faulty_copies,
    findings,
    m4_series,
    shallowest_of_its_own,
    summary,
    turnover_series,
)
from orcha_pipeline_tests.bench.nab_scoring import (
    Floats,
    NabFile,
    Swept,
    perfect,
    probation,
    read_files,
    standard,
    sweep,
    windowed_gaussian,
    worth_of,
)
from orcha_pipeline_tests.bench.tables import DATA

THRESHOLDS = 200
QUIET_GROUP = "artificialNoAnomaly"
FILE_ROWS = 4_000
DEPTHS = (0.3, 0.5, 0.7, 0.9, 1.0)

Detector = Callable[[NabFile], Floats]


def orcha(file: NabFile) -> Floats:
    """The scores of Orcha's detectors."""
    return detect_series(file.seconds, file.values).score


def gaussian(file: NabFile) -> Floats:
    """The scores of NAB's windowed Gaussian, in the 12 digits of its published ones."""
    return np.round(windowed_gaussian(file.values), 12)


def forest(file: NabFile) -> Floats:
    """An Isolation Forest on rolling features, grown on the rows on probation: how much worse a row is than all those.

    Scores of different forests do not compare, so that plain ones do worse with a threshold chosen elsewhere.
    """
    from sklearn.ensemble import IsolationForest

    table = rolling_features(file.values)
    first = probation(len(table))
    learnt = IsolationForest(n_estimators=100, random_state=7, n_jobs=1).fit(table[:first])
    score = -learnt.score_samples(table)
    return np.maximum(score - score[:first].max(), 0.0)


def rolling_features(values: Floats) -> Floats:
    """Value, last step, and mean, spread, least and most of the last 12 and 48 values: (n, 10)."""
    columns = [values, np.diff(values, prepend=values[:1])]
    for over in (12, 48):
        windows = sliding_window_view(np.concatenate([np.full(over - 1, values[0]), values]), over)
        columns += [windows.mean(axis=1), windows.std(axis=1), windows.min(axis=1), windows.max(axis=1)]
    return np.column_stack(columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class NabRow:
    """A detector's standard scores; `quiet`: false alerts a series and week in the group without anomalies."""

    detector: str
    by_file: float
    by_group: float
    best: float
    chosen: float
    default: float | None
    quiet: float
    quiet_by_group: float
    groups: dict[str, float]
    held_from: float | None
    held_to: float | None


def nab_row(name: str, detector: Detector, files: list[NabFile], default: float | None = None) -> NabRow:
    """Score a detector with thresholds chosen on other files, on other groups, and on all of them."""
    scores = {file: detector(file) for file in files}
    swept = sweep(scores, _thresholds(scores))
    without_group = swept.chosen_without(lambda file: file.group)
    best = swept.best(np.ones(len(files), dtype=np.bool_))
    windows = sum(len(file.windows) for file in files)
    curve = np.array([standard(float(total), windows) for total in swept.raw.sum(axis=0)])
    good = np.flatnonzero(curve >= 70.0)
    by_file = swept.chosen_without(lambda file: f"{file.group}/{file.name}")
    used = [default] * len(files) if default is not None else [float(swept.thresholds[i]) for i in by_file]
    return NabRow(
        detector=name,
        by_file=swept.at(by_file),
        by_group=swept.at(without_group),
        best=float(curve[best]),
        chosen=float(swept.thresholds[best]),
        default=None if default is None else at_default(scores, default),
        quiet=quiet_alerts(scores, used),
        quiet_by_group=quiet_alerts(scores, [float(swept.thresholds[i]) for i in without_group]),
        groups=_by_group(swept, without_group),
        held_from=float(swept.thresholds[good[0]]) if good.size else None,
        held_to=float(swept.thresholds[good[-1]]) if good.size else None,
    )


def _thresholds(scores: dict[NabFile, Floats]) -> Floats:
    """Scores that are there, spread over the upper half of them by rank, since most are of ordinary rows."""
    there = np.unique(np.concatenate(list(scores.values())))
    there = there[there > 0]
    ranks = len(there) - np.geomspace(1, len(there), THRESHOLDS).astype(np.int64)
    return np.unique(np.concatenate([there[ranks], [there[-1] + 1.0]]))


def at_default(scores: dict[NabFile, Floats], threshold: float) -> float:
    """The standard score with one threshold."""
    raw = sum(worth_of(len(file.values), file.windows).raw(score >= threshold) for file, score in scores.items())
    return standard(raw, sum(len(file.windows) for file in scores))


def quiet_alerts(scores: dict[NabFile, Floats], thresholds: list[float]) -> float:
    """Alerts a series and week where nothing is wrong, the probation included."""
    quiet = [(file, s, t) for (file, s), t in zip(scores.items(), thresholds, strict=True) if file.group == QUIET_GROUP]
    if not quiet:
        return float("nan")
    return sum(float((score >= least).sum()) for _, score, least in quiet) / sum(file.weeks for file, _, _ in quiet)


def _by_group(swept: Swept, chosen: list[int]) -> dict[str, float]:
    found: dict[str, float] = {}
    for group in dict.fromkeys(file.group for file in swept.files):
        rows = [i for i, file in enumerate(swept.files) if file.group == group]
        windows = sum(len(swept.files[i].windows) for i in rows)
        if windows:
            found[group] = standard(sum(float(swept.raw[i, chosen[i]]) for i in rows), windows)
    return found


def null_and_perfect(files: list[NabFile]) -> tuple[float, float]:
    """What no alert at all and an alert at each window's edge come to: 0 and 100, if the rules are right."""
    paid = [(file, worth_of(len(file.values), file.windows)) for file in files]
    windows = sum(len(file.windows) for file in files)
    none = sum(worth.raw(np.zeros(len(file.values), dtype=np.bool_)) for file, worth in paid)
    return standard(none, windows), standard(sum(worth.raw(perfect(file)) for file, worth in paid), windows)


def slowest(files: list[NabFile]) -> float:
    """Seconds of processor time for 4,000 rows, of the slowest file: the best of three."""
    worst = 0.0
    for file in files:
        took = min(_seconds(file) for _ in range(3))
        worst = max(worst, took * FILE_ROWS / max(len(file.values), FILE_ROWS))
    return worst


def _seconds(file: NabFile) -> float:
    began = time.process_time()
    detect_series(file.seconds, file.values)
    return time.process_time() - began


@dataclass(frozen=True, slots=True)
class Natural:
    """What is told of series into which nothing was put: findings of a kind, a series and week, in the judged part."""

    source: str
    series: int
    a_week: dict[str, float]


def natural(source: str, series: list[Hourly]) -> Natural:
    """Findings that a source's series give by themselves."""
    found: dict[str, float] = {}
    weeks = sum(float(one.seconds[-1] - one.seconds[0]) for one in series) / (7 * 86_400)
    for one in series:
        kinds = np.array(detect_series(one.seconds, one.values).kind)
        for kind in np.unique(kinds[kinds != ""]):
            found[str(kind)] = found.get(str(kind), 0.0) + findings(kinds == kind)
    return Natural(source, len(series), {kind: count / weeks for kind, count in sorted(found.items())})


def injected(source: str, series: list[Hourly], seed: int) -> tuple[list[Summary], list[Summary]]:
    """A summary a kind of fault, and for drops one a depth, those that the series shows by itself apart."""
    clean = {one.name: one for one in series}
    results: list[Caught] = [
        caught(faulty, detect_series(faulty.series.seconds, faulty.series.values).kind)
        for faulty in track(list(faulty_copies(series, seed)), description=source, transient=True)
    ]
    of_kind = {fault: [one for one in results if one.faulty.fault is fault] for fault in Fault}
    drops = of_kind[Fault.DROP]
    new = [one for one in drops if _is_new(one.faulty, clean)]
    depths = [
        summary(source, f"drop of {least:.0%} to {most:.0%}", kept)
        for least, most in pairwise(DEPTHS)
        if (kept := [one for one in drops if least <= one.faulty.size < most])
    ]
    if new:
        depths.append(summary(source, "drop deeper than any of its own", new))
    return [summary(source, fault, every) for fault, every in of_kind.items() if every], depths


def _is_new(faulty: Faulty, clean: dict[str, Hourly]) -> bool:
    return 1.0 - faulty.size < shallowest_of_its_own(clean[faulty.series.name], faulty.first)


def nab_table(rows: list[NabRow]) -> Table:
    """A row a detector."""
    table = Table(title="NAB, standard profile: threshold chosen on the other files, on the other groups")
    groups = list(rows[0].groups)
    for column in ("detector", "other files", "other groups", "default", "best", ">= 70 from", "to", "false/week"):
        table.add_column(column, justify="left" if column == "detector" else "right")
    for group in groups:
        table.add_column(group, justify="right")
    for row in rows:
        held = ("-", "-") if row.held_from is None else (f"{row.held_from:.3f}", f"{row.held_to:.3f}")
        default = "-" if row.default is None else f"{row.default:.1f}"
        table.add_row(
            row.detector,
            f"{row.by_file:.1f}",
            f"{row.by_group:.1f}",
            default,
            f"{row.best:.1f} at {row.chosen:.3f}",
            *held,
            f"{row.quiet:.2f}",
            *(f"{row.groups[group]:.1f}" for group in groups),
        )
    return table


def fault_table(summaries: list[Summary]) -> Table:
    """A row a source and kind of fault."""
    table = Table(title="Faults put into real series, one a copy")
    for column in ("series", "fault", "copies", "recall", "precision", "among all kinds", "readings, median", "most"):
        table.add_column(column, justify="left" if column in {"series", "fault"} else "right")
    for one in summaries:
        table.add_row(
            one.source,
            one.fault,
            f"{one.copies:,}",
            f"{one.recall:.3f}",
            f"{one.precision:.3f}",
            f"{one.precision_of_all:.3f}",
            f"{one.readings_median:.0f}",
            f"{one.readings_most}",
        )
    return table


def main() -> None:
    """Measure, print the tables and, if asked, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the faults")
    parser.add_argument(
        "--nab", type=Path, help="a folder of groups with a windows.json, instead of ../shared/data/nab"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"The evaluation data is not at {DATA}.")
    console = Console(width=max(150, Console().width))
    files = read_files(given.nab) if given.nab else read_files()
    rows = [
        nab_row("Orcha", orcha, files, AUTO_THRESHOLD),
        nab_row("windowed Gaussian", gaussian, files),
        nab_row("Isolation Forest on rolling features", forest, files),
    ]
    none, all_right = null_and_perfect(files)
    seconds = slowest(files)
    console.print(nab_table(rows))
    console.print(
        f"No alert at all {none:.1f}, a perfect detector {all_right:.1f}; {len(files)} files.", highlight=False
    )
    console.print(
        f"Slowest file: {seconds * 1000:.0f} ms of processor time for {FILE_ROWS:,} readings.", highlight=False
    )
    summaries: list[Summary] = []
    depths: list[Summary] = []
    quiet: list[Natural] = []
    for source, series in (("M4", m4_series()), ("turnover", turnover_series())):
        kinds, deep = injected(source, series, given.seed)
        summaries += kinds
        depths += deep
        quiet.append(natural(source, series))
    console.print(fault_table(summaries + depths))
    for one in quiet:
        told = ", ".join(f"{rate:.2f} {kind}" for kind, rate in one.a_week.items())
        console.print(f"{one.source} as it is, {one.series} series: {told} a series and week.", highlight=False)
    if given.json:
        machine = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
        content = {
            **machine,
            "pandas": pd.__version__,
            "nab": [asdict(row) for row in rows],
            "null": none,
            "perfect": all_right,
            "seconds_of_4000": seconds,
            "faults": [asdict(one) for one in summaries + depths],
            "natural": [asdict(one) for one in quiet],
        }
        given.json.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
