"""What a soak comes to: the course of each measure, how much it still grows, and a picture of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orcha_pipeline.model import SLOT
from orcha_pipeline_tests.bench.soak_cycles import Day, Sample

CURVES: Mapping[str, str] = {
    "rss_mib": "memory of the process, MiB",
    "handles": "open file handles",
    "threads": "threads",
    "warehouse_mib": "warehouse, MiB",
    "dagster_mib": "Dagster's databases, MiB",
    "home_mib": "data folder, MiB",
    "seconds": "seconds a cycle",
    "cpu_seconds": "processor seconds a cycle",
    "testnet_rss_mib": "memory of the testnet, MiB",
}
A_DAY = 86_400.0
SETTLED_AFTER = 1 / 3
"""Part of the soak that is not looked at for growth: what is loaded once is loaded by then."""


@dataclass(frozen=True, slots=True)
class Flatness:
    """How a measure goes on over the last two thirds: `slope` a day, `level` its median, `relative` their ratio."""

    slope: float
    level: float
    relative: float


def flatness(days: NDArray[np.float64], values: NDArray[np.float64]) -> Flatness:
    """Theil and Sen's slope of `values` (N,) over `days` (N,) since the begin; an outlier does not move it."""
    from scipy.stats import theilslopes

    late = days >= days[0] + SETTLED_AFTER * (days[-1] - days[0])
    fit: Any = theilslopes(values[late], days[late]) if late.sum() > 1 else None
    slope = float(fit.slope) if fit else 0.0
    level = float(np.median(values[late]))
    return Flatness(slope=slope, level=level, relative=slope / level if level else 0.0)


def flatness_of(samples: Sequence[Sample]) -> dict[str, Flatness]:
    """Each curve's; times a cycle apart for those through Dagster and those without."""
    found: dict[str, Flatness] = {}
    for name in CURVES:
        if "seconds" not in name:
            found[name] = _of(samples, name)
            continue
        for through in (True, False):
            chosen = [sample for sample in samples if sample.through_dagster is through]
            if chosen:
                found[f"{name}, {_way(through)}"] = _of(chosen, name)
    return found


def _of(samples: Sequence[Sample], name: str) -> Flatness:
    return flatness(_days(samples), np.array([getattr(sample, name) for sample in samples], dtype=np.float64))


def _days(samples: Sequence[Sample]) -> NDArray[np.float64]:
    return np.array([(sample.at - samples[0].at).total_seconds() / A_DAY for sample in samples])


def _way(through: bool) -> str:
    return "through Dagster" if through else "without Dagster"


def told_day(day: Day, samples: Sequence[Sample]) -> dict[str, Any]:
    """A day as JSON holds it: what is on record, and what its cycles took and left."""
    took: dict[str, Any] = {}
    for through in (True, False):
        chosen = [sample for sample in samples if sample.through_dagster is through]
        if chosen:
            took[_way(through)] = {
                "cycles": len(chosen),
                "seconds p50": _quantile(chosen, "seconds", 0.5),
                "seconds p99": _quantile(chosen, "seconds", 0.99),
                "cpu seconds p50": _quantile(chosen, "cpu_seconds", 0.5),
                "steps p50": _steps(chosen),
            }
    return {
        **asdict(day),
        "uptime": {"decided": day.uptime.decided, "slots": day.uptime.slots},
        "failed": dict(Counter(sample.error for sample in samples if sample.error)),
        "took": took,
        **{name: _quantile(samples, name, 0.5) for name in CURVES if "seconds" not in name},
    }


def _quantile(samples: Sequence[Sample], name: str, quantile: float) -> float:
    return round(float(np.quantile([getattr(sample, name) for sample in samples], quantile)), 3)


def _steps(samples: Sequence[Sample]) -> dict[str, float]:
    names = sorted({name for sample in samples for name in sample.steps})
    medians = {name: float(np.median([sample.steps.get(name, 0.0) for sample in samples])) for name in names}
    return {name: round(seconds, 3) for name, seconds in medians.items() if seconds >= 0.001}


def columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """The curves as lists of one number a cycle, beside `at` and `through_dagster`."""
    return {
        "at": [sample.at.isoformat() for sample in samples],
        "through_dagster": [sample.through_dagster for sample in samples],
        **{name: [round(float(getattr(sample, name)), 3) for sample in samples] for name in CURVES},
    }


def samples_of(curves: Mapping[str, Sequence[Any]]) -> list[Sample]:
    """What `columns` keeps of the samples, as samples again."""
    return [
        Sample(
            at=datetime.fromisoformat(at),
            through_dagster=curves["through_dagster"][number],
            apply_seconds=0.0,
            error="",
            steps={},
            **{name: curves[name][number] for name in CURVES},
        )
        for number, at in enumerate(curves["at"])
    ]


def draw(path: Path, samples: Sequence[Sample], outages: Sequence[tuple[datetime, datetime]]) -> None:
    """A PNG with one panel a curve over the days; outages are shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 12), layout="constrained")
    panels = figure.subplots(-(-len(CURVES) // 3), 3, sharex=True).ravel()
    begun = samples[0].at
    for panel, (name, told) in zip(panels, CURVES.items(), strict=False):
        for through, colour in ((False, "tab:blue"), (True, "tab:orange")):
            chosen = [sample for sample in samples if sample.through_dagster is through]
            if chosen:
                days = [(sample.at - begun).total_seconds() / A_DAY for sample in chosen]
                panel.plot(days, [getattr(s, name) for s in chosen], ".", ms=2, color=colour, label=_way(through))
        for start, end in outages:
            panel.axvspan((start - begun).total_seconds() / A_DAY, (end - begun).total_seconds() / A_DAY, alpha=0.06)
        panel.set_title(told, fontsize=10)
        panel.set_ylim(bottom=0)
    for panel in panels[-3:]:
        panel.set_xlabel("days")
    panels[0].legend(markerscale=5, fontsize=8)
    figure.suptitle(f"{len(samples):,} cycles, {len(samples) * SLOT.total_seconds() / A_DAY:.3g} days")
    figure.savefig(path, dpi=110)
