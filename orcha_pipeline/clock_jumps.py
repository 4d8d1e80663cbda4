"""Whether the machine's clock was put forward or back lately, told by how far it runs ahead of the time since the boot.

What rests after a change (the hold, the rate limit, a cool-down) is counted on the wall clock. Put forward, it would
let a change pass too soon; so after a jump nothing is changed for as long as a host rests.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ValidationError

from orcha_pipeline.clock import Clock, SystemClock
from orcha_pipeline.disk import why_not_written
from orcha_pipeline.errors import OrchaError

FILE = "clock.json"
TOLERANCE = timedelta(minutes=1)
"""A clock is set right by less than this without anybody's notice."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class MachineTime:
    """Seconds of the wall clock, and those since the machine was started (asleep or not); `boot` names that start."""

    boot: str
    wall: float
    since_boot: float


class Noted(BaseModel):
    """What is kept from one look at the clock to the next. `jumped_at` is in seconds since the boot."""

    boot: str
    ahead: float
    jumped_at: float | None = None
    jumped_by: float = 0.0


def machine_time(clock: Clock) -> MachineTime | None:
    """The time of this machine; None where it is not what `clock` tells, or the system does not say when it started."""
    if not isinstance(clock, SystemClock) or not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    try:
        boot = BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return MachineTime(boot, clock.now().timestamp(), time.clock_gettime(time.CLOCK_BOOTTIME))


def noted(before: Noted | None, now: MachineTime) -> Noted:
    """What to keep of this look. After a new start of the machine nothing is known of the time in between."""
    ahead = now.wall - now.since_boot
    if before is None or before.boot != now.boot:
        return Noted(boot=now.boot, ahead=ahead)
    by = ahead - before.ahead
    if abs(by) > TOLERANCE.total_seconds():
        return Noted(boot=now.boot, ahead=ahead, jumped_at=now.since_boot, jumped_by=by)
    return before.model_copy(update={"ahead": ahead})


def why_wait(last: Noted, now: MachineTime, rest: timedelta) -> str:
    """That the clock was moved less than `rest` ago, in words; empty where it was not."""
    if last.jumped_at is None or now.since_boot - last.jumped_at >= rest.total_seconds():
        return ""
    where = "forward" if last.jumped_by > 0 else "back"
    ago = (now.since_boot - last.jumped_at) / 60
    return (
        f"{ago:.0f} min ago the clock of this machine was found put {where} by {abs(last.jumped_by) / 60:.0f} min: how "
        f"long a change is ago it cannot tell, so that nothing is changed for {rest / timedelta(minutes=1):.0f} min"
    )


def clock_jumped(home: Path, clock: Clock, rest: timedelta) -> str:
    """Look at the clock, and why nothing may be changed yet after a jump; empty where there was none within `rest`.

    Raises `OrchaError` where what was seen cannot be kept: the next look could not tell a jump.
    """
    now = machine_time(clock)
    if now is None:
        return ""
    last = noted(_read(home / FILE), now)
    _keep(home / FILE, last)
    return why_wait(last, now, rest)


def _keep(file: Path, last: Noted) -> None:
    written = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(last.model_dump_json(), encoding="utf-8")
        written.replace(file)
    except OSError as error:
        with suppress(OSError):
            written.unlink()
        raise OrchaError(why_not_written(file, error)) from error


def _read(file: Path) -> Noted | None:
    try:
        return Noted.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError):  # none yet, or one that a loss of power cut short
        return None
