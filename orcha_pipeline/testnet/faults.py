"""What can be made wrong with one door of the testnet on request, for how long, how often and for which addresses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

from orcha_pipeline.testnet.noise import uniform

KINDS = ("dead", "reset", "html", "truncated", "slow", "drip", "status", "auth", "skew", "apply_fails")
_KEYS = frozenset(
    {"node", "kind", "seconds", "status", "delay_seconds", "retry_after", "retry_after_as", "skew_seconds"}
    | {"probability", "paths", "seed"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something wrong with one door. `until`: testnet time at which it goes away; None: when it is taken away."""

    kind: str
    until: int | None = None
    status: int = 503
    delay_seconds: float = 5.0
    """`slow`: before the answer; `drip`: from the first piece of the body to the last."""
    retry_after: float | None = None
    retry_after_date: bool = False
    """Retry-After is told as an HTTP date instead of seconds."""
    skew_seconds: int = 0
    """How far the node's own clock is ahead (or, negative, behind)."""
    probability: float = 1.0
    paths: tuple[str, ...] = ()
    """Patterns of the addresses it strikes, below the door's own; none: all."""
    seed: int = 1


def read_fault(given: Mapping[str, Any], *, now: int, seed: int) -> Fault:
    """The fault that a request's JSON describes; `ValueError` tells what cannot be used, `KeyError` what is missing."""
    if unknown := sorted(set(given) - _KEYS):
        raise ValueError(f"no such key: {unknown[0]}; there are {', '.join(sorted(_KEYS))}")
    kind = given["kind"]
    if kind not in KINDS:
        raise ValueError(f"no such kind: {kind}; there are {', '.join(KINDS)}")
    seconds = number(given, "seconds", None)
    status = number(given, "status", 401 if kind == "auth" else 503, lowest=400, highest=599)
    retry_after = number(given, "retry_after", 30.0 if status == 429 else None)
    form = given.get("retry_after_as", "seconds")
    if form not in {"seconds", "date"}:
        raise ValueError(f"retry_after_as must be seconds or date, not {form}")
    fault = Fault(
        kind=kind,
        until=None if seconds is None else now + math.ceil(seconds),
        status=int(status or 0),
        delay_seconds=number(given, "delay_seconds", 5.0) or 0.0,
        retry_after=retry_after,
        retry_after_date=form == "date",
        skew_seconds=int(number(given, "skew_seconds", 0.0, lowest=-math.inf) or 0),
        probability=number(given, "probability", 1.0, highest=1.0) or 0.0,
        paths=_patterns(given.get("paths", [])),
        seed=int(number(given, "seed", float(seed)) or 0),
    )
    if kind == "skew" and not fault.skew_seconds:
        raise ValueError("skew needs skew_seconds, how far the node's clock is ahead (negative: behind)")
    if kind == "auth" and fault.status not in {401, 403}:
        raise ValueError("auth answers status 401 or 403")
    if kind == "apply_fails" and (fault.paths or fault.probability < 1.0):
        raise ValueError("apply_fails is of the node and not of an address: it takes neither paths nor probability")
    return fault


def number(
    given: Mapping[str, Any], key: str, default: float | None, *, lowest: float = 0.0, highest: float = math.inf
) -> float | None:
    """A finite number of the request; `default` where it is absent or null."""
    value = given.get(key)
    if value is None:
        return default
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not usable or not lowest <= value <= highest:
        limits = "that is not negative" if math.isinf(highest) else f"from {lowest:g} to {highest:g}"
        raise ValueError(f"{key} must be a number" if math.isinf(lowest) else f"{key} must be a number {limits}")
    return float(value)


def _patterns(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(
        isinstance(item, str) and item.startswith("/") for item in cast("list[object]", given)
    ):
        raise ValueError("paths must be a list of patterns that begin with /, such as /api/sno*")
    return tuple(cast("list[str]", given))


class Faults:
    """The faults in force: one a door.

    Whether an improbable one strikes depends on its seed and on the request's number since it was set, never on the
    wall clock.
    """

    def __init__(self) -> None:
        self._by_door: dict[str, Fault] = {}
        self._asked: dict[str, int] = {}
        self.stuck: set[str] = set()
        """Nodes whose levers silently do not take. Always the same object: the economies share it."""

    def __bool__(self) -> bool:
        return bool(self._by_door)

    def kinds(self) -> dict[str, str]:
        """Kind of fault by door."""
        return {door: fault.kind for door, fault in self._by_door.items()}

    def put(self, door: str, fault: Fault) -> None:
        """A new fault replaces the door's old one."""
        self._by_door[door], self._asked[door] = fault, 0
        self._stick()

    def clear(self, door: str | None = None) -> None:
        """Take a door's fault away, or all."""
        for name in [name for name in self._by_door if door in {None, name}]:
            del self._by_door[name]
        self._stick()

    def drop_old(self, now: int) -> None:
        """Take away those whose time is over."""
        for door in [d for d, fault in self._by_door.items() if fault.until is not None and now >= fault.until]:
            self.clear(door)

    def strikes(self, door: str, path: str) -> Fault | None:
        """The fault that this request meets, if any. `path` begins with a slash, without the query."""
        fault = self._by_door.get(door)
        if fault is None or fault.kind == "apply_fails":
            return None
        if fault.paths and not any(fnmatchcase(path, pattern) for pattern in fault.paths):
            return None
        self._asked[door] += 1
        if fault.probability < 1.0 and uniform(fault.seed, f"fault/{door}", self._asked[door]) >= fault.probability:
            return None
        return fault

    def _stick(self) -> None:
        self.stuck.clear()
        self.stuck |= {door for door, fault in self._by_door.items() if fault.kind == "apply_fails"}
