"""How good and how quick the planner is: worlds of every kind, and a fleet in one program.

`make bench-planner` plays every policy in worlds that the seeds make, 30 days each and 10 of them history, and prints
what each earned as a fraction of hindsight under the rules, the mean over seeds with its 95 % interval (bootstrap).
Then it divides a fleet of hosts in one program as the planner does, beside the same linear program given to HiGHS
without CVXPY; both are medians of the same run and took turns. Last it plans hosts in full, as a cycle does: learnt
from 28 days of quarter-hours, looked ahead, on the levers' steps and told, by one process and by one a core.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from orcha_pipeline.allocation.foresight import HISTORY_DAYS
from orcha_pipeline.allocation.outlook import DAY
from orcha_pipeline.allocation.plan_hosts import plan_hosts
from orcha_pipeline.allocation.programs import PIECES, Site, best_shares
from orcha_pipeline.allocation.response import piece_slopes, piece_widths
from orcha_pipeline.allocation.situation import Situation
from orcha_pipeline.model import HealthState
from orcha_pipeline.settings import Settings
from orcha_pipeline.testnet.world_folder import WorldFolder, WorldTerms
from orcha_pipeline.testnet.world_kinds import make_world
from orcha_pipeline.testnet.worlds import WorldKind, seeded_world
from orcha_pipeline.warehouse.decisions import NodeState
from orcha_pipeline.warehouse.planning_rows import Quarters
from orcha_pipeline.yardstick.bounds import clairvoyant, under_rules
from orcha_pipeline.yardstick.linear_programs import empty_solver, linear_program, solution
from orcha_pipeline.yardstick.policies import BASELINES, POLICIES, chosen_policies, play
from orcha_pipeline.yardstick.report import report_of
from orcha_pipeline.yardstick.world import PlayedWorld, load_world, world_of
from orcha_pipeline_tests.allocation.build import NOW, a_forecast, a_lever

DAYS = 30
RESAMPLED = 10_000
AGREEMENT = 1e-4


def made(kind: WorldKind, seed: int) -> PlayedWorld:
    """The world of a kind and seed, as `orcha testnet world new` writes it."""
    world = make_world(kind, seed=seed, days=DAYS)
    terms = WorldTerms(
        name=world.name,
        step_minutes=15,
        history_days=world.history_days,
        capacity=seeded_world(seed).capacity,
        protocols=world.terms,
    )
    return world_of(
        WorldFolder(terms=terms, first=world.first, usd=world.yields, available=world.available), Path(world.name)
    )


def measured(task: tuple[str, str, int, tuple[str, ...], Path | None]) -> tuple[str, dict[str, Any], float]:
    """Kind, report and seconds of one world: a folder, or a kind and seed; what is kept of an earlier run is read."""
    os.environ["OMP_NUM_THREADS"] = "1"
    folder, kind, seed, names, keep = task
    kept = keep / f"{Path(folder).name or f'{kind}-{seed}'}.json" if keep else None
    if kept and kept.exists():
        return kind, *json.loads(kept.read_text(encoding="utf-8"))
    began = time.perf_counter()
    world = load_world(Path(folder)) if folder else made(WorldKind(kind), seed)
    report = report_of(world, (clairvoyant(world), under_rules(world)), play(world, names)).as_json()
    seconds = time.perf_counter() - began
    if kept:
        kept.write_text(json.dumps([report, seconds]), encoding="utf-8")
    return kind, report, seconds


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the 95 % interval of the mean by bootstrap."""
    drawn = np.random.default_rng(0).choice(values, (RESAMPLED, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.mean(values)), float(low), float(high)


def best_plain(report: dict[str, Any]) -> float:
    """What the best policy that does not look ahead earned, of `rules`; 0 where none was played."""
    return max((row["of_rules"] for row in report["rows"] if row["policy"] in BASELINES), default=0.0)


def table_of(kind: str, reports: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
    """A row a policy over the worlds of a kind."""
    table = Table(title=f"{kind}: {len(reports)} worlds of {DAYS} days, fractions of hindsight under the rules")
    for column in (
        "policy",
        "of rules",
        "95 %",
        "worst against best plain",
        "gap closed",
        "moves a day",
        "ms p50 / p99",
    ):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name in names:
        rows = [next(row for row in report["rows"] if row["policy"] == name) for report in reports]
        plain = [best_plain(report) for report in reports]
        mean, low, high = interval([row["of_rules"] for row in rows])
        closed = [row["gap_closed"] for row in rows if row["gap_closed"] is not None]
        broken = sum(row["violations"] for row in rows)
        table.add_row(
            name + (f" ({broken} rules broken)" if broken else ""),
            f"{mean:.4f}",
            f"{low:.4f} to {high:.4f}",
            f"{min(row['of_rules'] - best for row, best in zip(rows, plain, strict=True)):+.4f}",
            f"{100 * statistics.mean(closed):.0f} %" if closed else "",
            f"{statistics.mean(row['changes_a_day'] for row in rows):.1f}",
            f"{statistics.median(row['decision_p50_ms'] for row in rows):.0f} / "
            f"{max(row['decision_p99_ms'] for row in rows):.0f}",
        )
    return table


# --- a fleet --------------------------------------------------------------------------------------------------------


def fleet(hosts: int, nodes: int, seed: int) -> tuple[Site, np.ndarray, np.ndarray]:
    """Hosts with nodes of random demands, what a full share of each is worth in the coming hour, and its curvature."""
    rng = np.random.default_rng(seed)
    capacity = rng.uniform(0.5, 2.0, (hosts, 1)) * np.array([16.0, 64.0, 8000.0, 500.0])
    site = Site(
        capacity=capacity,
        demand=capacity[:, :, None] * rng.uniform(0.2, 1.0, (hosts, 4, nodes)),
        least=np.full((hosts, nodes), 0.05),
        most=np.ones((hosts, nodes)),
    )
    return site, rng.lognormal(-3.0, 0.5, (hosts, nodes)), rng.uniform(0.6, 1.0, (hosts, nodes))


def by_highs(site: Site, worth: np.ndarray, curvature: np.ndarray) -> tuple[np.ndarray, float]:
    """Shares (hosts, nodes) by the same program without CVXPY, and the seconds from its arrays to its answer."""
    from scipy.sparse import coo_matrix

    hosts, nodes = worth.shape
    resources = site.capacity.shape[1]
    gain = (worth[..., None] * piece_slopes(PIECES, curvature)).ravel()
    most = np.tile(piece_widths(PIECES), hosts * nodes)
    column = np.arange(len(gain)).reshape(hosts, nodes, PIECES)
    row = np.arange(hosts * resources).reshape(hosts, resources)
    own = hosts * resources + np.arange(hosts * nodes).reshape(hosts, nodes)
    shape = (hosts, resources, nodes, PIECES)
    unit = site.capacity
    entries = [
        (
            np.broadcast_to(row[:, :, None, None], shape),
            np.broadcast_to(column[:, None], shape),
            np.broadcast_to((site.demand / unit[:, :, None])[..., None], shape),
        ),
        (np.broadcast_to(own[..., None], column.shape), column, np.ones(column.shape)),
    ]
    rows, columns, values = (np.concatenate([each[part].ravel() for each in entries]) for part in range(3))
    began = time.perf_counter()
    solver = empty_solver()
    solver.setOptionValue("presolve", "off")  # as the planner asks it
    solver.passModel(
        linear_program(
            gain=gain / worth.max(),
            most=most,
            matrix=coo_matrix((values, (rows, columns)), shape=(hosts * (resources + nodes), len(gain))).tocsc(),
            row_least=np.concatenate([np.full(hosts * resources, -np.inf), site.least.ravel()]),
            row_most=np.concatenate([np.ones(hosts * resources), site.most.ravel()]),
        )
    )
    filled, _ = solution(solver)
    return filled.reshape(hosts, nodes, PIECES).sum(axis=2), time.perf_counter() - began


def bench_fleet(hosts: int, nodes: int, runs: int) -> dict[str, float]:
    """Medians of both, the first run of a process apart: CVXPY compiles its program then."""
    site, worth, curvature = fleet(hosts, nodes, 0)
    nowhere = np.full(worth.shape, np.nan)
    began = time.perf_counter()
    best_shares(site, worth, curvature, kept=nowhere)
    first = time.perf_counter() - began
    ours: list[float] = []
    theirs: list[float] = []
    apart = 0.0
    for run in range(1, runs + 1):
        site, worth, curvature = fleet(hosts, nodes, run)
        began = time.perf_counter()
        best = best_shares(site, worth, curvature, kept=nowhere)
        ours.append(time.perf_counter() - began)
        shares, seconds = by_highs(site, worth, curvature)
        theirs.append(seconds)
        usd = float((worth * shares**curvature).sum())
        apart = max(apart, abs(best.usd - usd) / usd)
        assert site.fits(best.shares - 1e-9)
    if apart > AGREEMENT:
        raise SystemExit(f"the fleet's USD lie {apart:.1e} from HiGHS's, more than {AGREEMENT:.0e}")
    return {
        "hosts": hosts,
        "nodes_a_host": nodes,
        "first_seconds": first,
        "seconds": statistics.median(ours),
        "highs_seconds": statistics.median(theirs),
        "apart": apart,
    }


# --- a cycle --------------------------------------------------------------------------------------------------------


def bench_cycle(hosts: int) -> dict[str, float]:
    """Seconds to plan so many hosts of four nodes by one process and by one a core, after a first host alone."""
    rng = np.random.default_rng(0)
    demand = {"cpu_threads": 10.0, "memory_gib": 1.0, "disk_gb": 10.0, "bandwidth_mbps": 10.0}
    capacity = {"cpu_threads": 11.0, "memory_gib": 64.0, "disk_gb": 1000.0, "bandwidth_mbps": 100.0}

    def fleet_of(count: int) -> Settings:
        return Settings.model_validate(
            {
                "hosts": [{"name": f"h{host}", "capacity": capacity} for host in range(count)],
                "nodes": [
                    {
                        "name": f"n{host}-{node}",
                        "protocol": "storj",
                        "host": f"h{host}",
                        "url": "http://127.0.0.1:1",
                        "demand": demand,
                    }
                    for host in range(count)
                    for node in range(4)
                ],
            }
        )

    def quarters_of(names: Sequence[str]) -> Quarters:
        wander = np.cumsum(rng.normal(0, 0.01, (HISTORY_DAYS * DAY, len(names))), axis=0)
        shares = np.full(wander.shape, 0.25)
        return Quarters(
            NOW - timedelta(days=HISTORY_DAYS), np.exp(rng.normal(-3, 0.5, len(names)) + wander) * 0.25**0.9, shares
        )

    def seconds(count: int, processes: int | None) -> float:
        settings = fleet_of(count)
        names = [node.name for node in settings.nodes]
        seen = NodeState(observed_at=NOW, state=HealthState.HEALTHY, reason="", share=0.25, share_observed_at=NOW)
        forecasts = {name: a_forecast(name, float(rng.lognormal(-3, 0.5)), spread=0.3, start=NOW) for name in names}
        situation = Situation(NOW, dict.fromkeys(names, seen), forecasts, {}, {})
        # One node a host rests for a day after a change, as a Storj node does.
        levers = {name: a_lever(cooldown=timedelta(hours=24 if name.endswith("-0") else 0)) for name in names}
        began = time.perf_counter()
        made = list(plan_hosts(settings, situation, levers, quarters_of, processes=processes))
        took = time.perf_counter() - began
        assert len(made) == count
        assert all(each.plan for each in made)
        return took

    seconds(1, 1)
    return {"hosts": hosts, "seconds_by_one": seconds(hosts, 1), "seconds": seconds(hosts, None)}


def main() -> None:
    """Worlds, then a fleet; print tables and, if asked, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="worlds of each kind")
    parser.add_argument("--first-seed", type=int, default=1001)
    parser.add_argument("--kinds", type=WorldKind, choices=list(WorldKind), nargs="*", default=list(WorldKind))
    parser.add_argument("--worlds", type=Path, help="the world folders in here instead")
    parser.add_argument("--policies", help=f"only these, by commas, of {', '.join(POLICIES)}")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="worlds at once")
    parser.add_argument("--keep", type=Path, help="a folder for each world's figures, from which a later run goes on")
    parser.add_argument("--hosts", type=int, default=1000, help="of the fleet; 0 leaves it out")
    parser.add_argument("--runs", type=int, default=5, help="of the fleet's program")
    parser.add_argument("--cycle-hosts", type=int, default=100, help="planned in full; 0 leaves it out")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    names = chosen_policies(given.policies)
    console = Console(width=max(120, Console().width))
    if given.worlds:
        folders = sorted(path for path in given.worlds.iterdir() if (path / "world.toml").is_file())
        tasks = [(str(folder), folder.name.split("-")[0], 0, names, given.keep) for folder in folders]
    else:
        seeds = range(given.first_seed, given.first_seed + given.seeds)
        tasks = [("", str(kind), seed, names, given.keep) for seed in seeds for kind in given.kinds]
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    reports: dict[str, list[dict[str, Any]]] = {}
    seconds: list[float] = []
    with Progress(console=Console(stderr=True)) as progress, ProcessPoolExecutor(given.processes) as pool:
        doing = progress.add_task("Worlds", total=len(tasks))
        for kind, report, took in pool.map(measured, tasks):
            reports.setdefault(kind, []).append(report)
            seconds.append(took)
            progress.advance(doing)
    for kind, found in reports.items():
        console.print(table_of(kind, found, names))
    if seconds:
        console.print(
            f"{statistics.median(seconds):.0f} s a world, all policies and both bounds, {given.processes} at once"
        )
    one = bench_fleet(given.hosts, 4, given.runs) if given.hosts else None
    if one:
        console.print(
            f"{given.hosts:,} hosts x 4 protocols: {one['seconds']:.2f} s ({one['first_seconds']:.2f} the first time), "
            f"HiGHS alone {one['highs_seconds']:.2f} s: {one['seconds'] / one['highs_seconds']:.2f} times as long, "
            f"USD {one['apart']:.0e} apart",
            highlight=False,
        )
    cycle = bench_cycle(given.cycle_hosts) if given.cycle_hosts else None
    if cycle:
        console.print(
            f"{given.cycle_hosts:,} hosts x 4 nodes planned in full: {cycle['seconds_by_one']:.1f} s by one process, "
            f"{1000 * cycle['seconds_by_one'] / given.cycle_hosts:.0f} ms a host; {cycle['seconds']:.1f} s by "
            f"{os.cpu_count()}",
            highlight=False,
        )
    if given.json:
        machine = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
        content = {**machine, "worlds": reports, "fleet": one, "cycle": cycle}
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
