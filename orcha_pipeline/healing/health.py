"""How a node is right now, and whether it comes back."""

from collections.abc import Callable

from orcha_pipeline.errors import AdapterError, NodeConnectionError, where
from orcha_pipeline.model import HealthReading, HealthState
from orcha_pipeline.protocols.base import Adapter
from orcha_pipeline.protocols.http import new_reading, patient, time_budget
from orcha_pipeline.protocols.reading import PROGRAM_ERROR

WORKS = frozenset({HealthState.HEALTHY, HealthState.AT_RISK})
"""Its reputation may well be at risk after it was away."""
POLL_SECONDS = 10.0
LOOKS = 3
"""In a row that must find it at work: a node may start, and end at once."""


def health_now(adapter: Adapter) -> HealthReading:
    """The node's health, asked now. Never raises for what the node does."""
    try:
        with time_budget(adapter.settings.timeout_seconds), new_reading(), patient():
            return adapter.health()
    except NodeConnectionError as error:
        return HealthReading(state=HealthState.UNREACHABLE, reason=error.message, error_kind=error.kind)
    except AdapterError as error:
        return HealthReading(state=HealthState.ERROR, reason=error.message, error_kind=error.kind)
    except Exception as error:  # noqa: BLE001 (a plug-in fails in any way)
        told = f"the adapter failed: {where(error)}"
        return HealthReading(state=HealthState.ERROR, reason=told, error_kind=PROGRAM_ERROR)


def wait_until_it_works(
    adapter: Adapter, *, seconds: float, sleep: Callable[[float], None], monotonic: Callable[[], float]
) -> HealthReading:
    """Look at the node until it is found at work `LOOKS` times in a row, or not after `seconds`; what was seen last."""
    end, well = monotonic() + seconds, 0
    while True:
        found = health_now(adapter)
        well = well + 1 if found.state in WORKS else 0
        if well == LOOKS or (not well and monotonic() >= end):
            return found
        sleep(POLL_SECONDS)


def in_words(found: HealthReading) -> str:
    """How it is, with the reason where there is one."""
    return found.state.value.replace("_", " ") + (f": {found.reason}" if found.reason else "")
