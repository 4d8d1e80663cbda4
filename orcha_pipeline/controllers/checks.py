"""What every controller checks: that the limits wanted can be set at all, and that those in force are those wanted."""

import math

from orcha_pipeline.controllers.base import LIMITS, LimitName, Limits
from orcha_pipeline.errors import AllocationError

LEAST: dict[LimitName, float] = {"cpu_threads": 0.01, "memory_bytes": 6 * 1024**2, "bandwidth_mbps": 0.01}
"""Below these a process stands still: the smallest CPU quota of the kernel, and the smallest memory Docker allows."""
_UNITS: dict[LimitName, str] = {"cpu_threads": "threads", "memory_bytes": "bytes", "bandwidth_mbps": "Mbps"}
_TOLERANCE = {"cpu_threads": 0.001, "memory_bytes": 64 * 1024.0, "bandwidth_mbps": 0.001}
"""How far the host rounds: quotas to a thousandth of a thread, memory to whole pages, rates to bytes a second."""


def given(limits: Limits) -> dict[LimitName, float]:
    """The limits that are not None."""
    values: dict[LimitName, float | None] = {name: getattr(limits, name) for name in LIMITS}
    return {name: value for name, value in values.items() if value is not None}


def require_sane(node: str, wanted: Limits) -> None:
    """Raise `AllocationError` for a limit that is no number, or too small to live with. Infinite is no limit."""
    for name, value in given(wanted).items():
        if math.isnan(value) or value < LEAST[name]:
            raise AllocationError(node, f"{name} must be at least {LEAST[name]:g} {_UNITS[name]}, not {value!r}")


def not_as_wanted(wanted: Limits, seen: Limits) -> str:
    """Empty where all wanted limits are in force; else which are not, in words."""
    told: list[str] = []
    for name, value in given(wanted).items():
        found: float | None = getattr(seen, name)
        if math.isinf(value):
            same = found is None
        else:
            same = found is not None and abs(found - value) <= max(_TOLERANCE[name], 1e-3 * value)
        if not same:
            told.append(f"{name} should be {_shown(name, value)} and is {_shown(name, found)}")
    return "; ".join(told)


def former(wanted: Limits, before: Limits) -> Limits:
    """What undoes `wanted`: the limits it names as they were before, where there was none infinite."""
    values = {name: getattr(before, name) for name in given(wanted)}
    return Limits(**{name: math.inf if value is None else value for name, value in values.items()})


def _shown(name: LimitName, value: float | None) -> str:
    return "without limit" if value is None or math.isinf(value) else f"{value:g} {_UNITS[name]}"
