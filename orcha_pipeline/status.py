"""Whether Orcha runs as it should, told from what it left behind: for `orcha status`, the health page and metrics."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from orcha_pipeline.dagster_api import DagsterApi
from orcha_pipeline.disk import TOO_LITTLE_GIB, free_gib
from orcha_pipeline.errors import OrchaError, SupervisionError
from orcha_pipeline.installation import Installation
from orcha_pipeline.nodes_json import iso
from orcha_pipeline.warehouse import decisions, freezes, permissions, vital_signs
from orcha_pipeline.warehouse.alert_rows import open_alerts
from orcha_pipeline.warehouse.message_rows import backlogs
from orcha_pipeline.warehouse.vital_signs import Uptime

LATE_AFTER = timedelta(minutes=35)
"""Two cycles and a bit: a host without a decision for so long is late, and so is a node that was not read."""
WINDOWS = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
CYCLE_JOB = "cycle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clockwork:
    """A schedule or sensor of Dagster's: whether it is on, and how its last tick went; None before the first."""

    name: str
    running: bool
    last_tick: datetime | None
    last_result: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What there is to know at `now`. `problems` tell what is not as it should be; none: all is well."""

    now: datetime
    simulated: bool
    problems: tuple[str, ...]
    decided: Mapping[str, datetime]
    """By host, when it was last decided on."""
    read: Mapping[str, datetime]
    """By node, when it was last read."""
    uptime: Mapping[str, Uptime]
    """By window: 24h, 7d, 30d."""
    clockwork: tuple[Clockwork, ...]
    cycle_seconds: float | None = None
    """How long the last cycle took; None where that is not known."""
    pause: str
    frozen: Mapping[str, str] = field(default_factory=dict[str, str])
    awaiting: Mapping[str, str] = field(default_factory=dict[str, str])
    alerts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Open ones that stand for themselves, by severity."""
    acknowledged: int = 0
    """How many of them were acknowledged."""
    channels: Mapping[str, str] = field(default_factory=dict[str, str])
    """By channel of alerts that fails, since when and why."""
    free_gib: float

    @property
    def healthy(self) -> bool:
        """Whether nothing is amiss."""
        return not self.problems


def take_vitals(installation: Installation) -> Vitals:
    """Look at everything. Raises `OrchaError` where there is no warehouse to look at."""
    settings = installation.settings
    hosts, nodes = {host.name for host in settings.hosts}, {node.name for node in settings.nodes}
    problems: list[str] = []
    try:
        now = installation.clock.now()
    except OrchaError:  # the testnet, whose clock it is, is away
        now = datetime.now(UTC)
    with installation.warehouse.read() as connection:
        decided = vital_signs.last_decided(connection, hosts)
        read = vital_signs.last_read(connection, nodes)
        uptime = {
            name: vital_signs.uptime(connection, hosts, since=now - span, now=now) for name, span in WINDOWS.items()
        }
        pause = permissions.pause_in_force(connection)
        frozen = freezes.frozen(connection)
        awaiting = permissions.awaiting(connection, now)
        left = decisions.applications_without_end(connection)
        alerts = [alert for alert in open_alerts(connection) if alert.group_id is None]
        failing = backlogs(connection)
    clockwork, cycle_seconds, silence = _of_dagster(installation)
    problems += [silence] if silence else []
    problems += [f"{each.name} is switched off" for each in clockwork if not each.running]
    problems += [_late("host", host, decided.get(host), now, "decided on") for host in sorted(hosts)]
    problems += [_late("node", node, read.get(node), now, "read") for node in sorted(nodes)]
    problems += [f"{node} is frozen: please {row.reason}, then `orcha unfreeze {node}`" for node, row in frozen.items()]
    problems += [
        f"an application has no end since {row.started_at:%Y-%m-%d %H:%M} UTC"
        for row in left
        if now - row.started_at > LATE_AFTER
    ]
    channels = {name: found.told() for name, found in sorted(failing.items()) if found.is_lasting}
    problems += [f"alerts do not get through {name}: {why}: see `orcha alerts test`" for name, why in channels.items()]
    free = free_gib(settings.home)
    if free < TOO_LITTLE_GIB:
        problems.append(f"only {free:.2f} GiB are free for {settings.home}")
    return Vitals(
        now=now,
        simulated=installation.simulated,
        problems=tuple(filter(None, problems)),
        decided=decided,
        read=read,
        uptime=uptime,
        clockwork=clockwork,
        cycle_seconds=cycle_seconds,
        pause=pause.told() if pause else "",
        frozen={node: row.reason for node, row in frozen.items()},
        awaiting={host: row.decision_id for host, row in awaiting.items()},
        alerts=Counter(alert.severity for alert in alerts),
        acknowledged=sum(alert.acknowledged_at is not None for alert in alerts),
        channels=channels,
        free_gib=free,
    )


def _late(what: str, name: str, last: datetime | None, now: datetime, done: str) -> str:
    if last is None:
        return f"{what} {name} was never {done}"
    if now - last > LATE_AFTER:
        return f"{what} {name} was last {done} at {last:%Y-%m-%d %H:%M} UTC"
    return ""


def _of_dagster(installation: Installation) -> tuple[tuple[Clockwork, ...], float | None, str]:
    """Schedules and sensors, how long the last cycle took, and why they could not be asked for."""
    api = DagsterApi(f"http://127.0.0.1:{installation.settings.services.dagster_port}", timeout=5.0)
    try:
        clockwork = tuple(
            Clockwork(name=name, running=running, last_tick=at, last_result=result)
            for name, running, at, result in api.clockwork()
        )
        return clockwork, api.last_run_seconds(CYCLE_JOB), ""
    except SupervisionError:
        return (), None, "Orcha does not run here: Dagster does not answer (`orcha up` starts it)"
    finally:
        api.close()


def as_json(vitals: Vitals) -> dict[str, Any]:
    """What `orcha status --json` and the health page give; times ISO 8601 in UTC, what is unknown null."""
    return {
        "version": 1,
        "now": iso(vitals.now),
        "healthy": vitals.healthy,
        "problems": list(vitals.problems),
        "simulated": vitals.simulated,
        "paused": vitals.pause or None,
        "last_decided": {host: iso(at) for host, at in sorted(vitals.decided.items())},
        "last_read": {node: iso(at) for node, at in sorted(vitals.read.items())},
        "uptime": {
            name: {"share": found.share, "decided": found.decided, "slots": found.slots}
            for name, found in vitals.uptime.items()
        },
        "clockwork": [
            {
                "name": each.name,
                "running": each.running,
                "last_tick": iso(each.last_tick),
                "last_result": each.last_result,
            }
            for each in vitals.clockwork
        ],
        "frozen": dict(vitals.frozen),
        "awaiting_approval": dict(vitals.awaiting),
        "open_alerts": dict(vitals.alerts),
        "acknowledged_alerts": vitals.acknowledged,
        "failing_channels": dict(vitals.channels),
        "free_gib": round(vitals.free_gib, 2),
    }
