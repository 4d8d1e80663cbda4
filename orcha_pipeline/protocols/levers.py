"""What the adapters' levers have in common: bounds, checks before a change, waiting until a node shows it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from time import monotonic, sleep
from typing import TypeVar

from orcha_pipeline.errors import AllocationError, NodeConnectionError, UnsupportedError
from orcha_pipeline.model import Lever
from orcha_pipeline.protocols.http import HttpStatusError, patient, time_budget
from orcha_pipeline.settings import NodeSettings

T = TypeVar("T")
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class LeverRange:
    """Multiples of the step inside the operator's shares and above the protocol's floor; `problem` if there is none."""

    minimum: float
    maximum: float
    problem: str = ""


def lever_range(settings: NodeSettings, *, full: float, step: float, floor: float) -> LeverRange:
    """Bounds of a lever that is `full` at share 1.0. Never outside `min_share..max_share`, in exact arithmetic."""
    at_full, unit = Decimal(repr(full)), Decimal(repr(step))
    low = max(Decimal(repr(settings.min_share)) * at_full, Decimal(repr(floor)))
    high = Decimal(repr(settings.max_share)) * at_full
    minimum = (low / unit).to_integral_value(ROUND_CEILING) * unit
    maximum = (high / unit).to_integral_value(ROUND_FLOOR) * unit
    if minimum > maximum:
        return LeverRange(
            settings.min_share * full,
            settings.max_share * full,
            f"no multiple of {step:g} lies between {float(low):g} (min_share and the protocol's floor) "
            f"and {float(high):g} (max_share); raise demand or max_share",
        )
    return LeverRange(float(minimum), float(maximum))


def check_change(node: str, lever: Lever, name: str, value: float, *, floor: float, whole: bool = False) -> None:
    """Refuse what the lever cannot take, before anything is touched.

    Held against the protocol's own floor, not against the operator's shares: going back must restore whatever value
    was there before, and the planner keeps to the shares.
    """
    if name != lever.name:
        raise UnsupportedError(node, f"there is no lever {name!r}; this node has {lever.name!r}")
    if not lever.writable:
        raise UnsupportedError(node, f"{lever.name} cannot be changed: {lever.why_not}")
    if not math.isfinite(value) or value < floor or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise AllocationError(node, f"{lever.name} must be {kind} of at least {floor:g} {lever.unit}, not {value!r}")


def wait_for(check: Callable[[], T | None], *, seconds: float) -> T | None:
    """The first result of `check` that is not None, asked again until `seconds` have passed; else None.

    A node that does not answer meanwhile, or with a failure of its own (5xx), is waited for: it may be restarting.
    """
    end = monotonic() + seconds
    with time_budget(seconds), patient():
        while True:
            found = _patiently(check)
            if found is not None or monotonic() >= end:
                return found
            sleep(POLL_SECONDS)


def _patiently(check: Callable[[], T | None]) -> T | None:
    try:
        return check()
    except NodeConnectionError:
        return None
    except HttpStatusError as error:
        if error.status < 500:
            raise
        return None
